"""Draw what a network computes: feature maps of one image, and the channel order after channel shuffle."""

import contextlib
from functools import cache
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import nn

from callbacks.image_logger import save_figure
from callbacks.prediction_writer import evaluated_split
from common.image_grid import Titled, encode_png, rows_of_images
from lightning_modules.networks.surgery import evaluating, shuffle_order

SHOWN = 8  # channels per layer


class FeatureMaps(L.Callback):
    """Draw feature_maps.png for a test image, or a val image without a test, and channel_shuffle.png if the network has one.

    The maps are those after the first and the last depthwise and pointwise convolution; in a network without depthwise
    convolutions, after its first and last convolution.
    """

    def __init__(self, *, enabled: bool = True):
        self.enabled = enabled

    def on_validation_end(self, trainer, pl_module) -> None:
        split = evaluated_split(trainer)  # val too, since not every run has a pass over test, which draws again
        if split is None or not trainer.is_global_zero:
            return
        data = trainer.datamodule
        row = int(data.catalog.rows(split)[0])
        pixels = data.pixel_cache[row]  # (H, W, 3)
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]  # (1, 3, H, W)
        batch = data.on_after_batch_transfer({"pixels": image.to(pl_module.device)}, 0)
        about = f"One {split} image, and what convolutions respond to in it: bright is a strong response"
        rows = [(about, [(pixels, Path(data.catalog.paths[row]).name)])]
        for title, maps in capture(pl_module.network, batch["pixels"]).items():
            count, height, width = maps.shape
            shown = f"{height} x {width}, the {min(SHOWN, count)} of {count} channels that vary most"
            rows.append((f"{title}\n{shown}", most_varied(maps)))
        save_figure(trainer, "feature_maps", encode_png(rows_of_images(rows)))
        order = shuffle_order(pl_module.network)
        if order is not None:
            save_figure(trainer, "channel_shuffle", _draw_order(tuple(order[0]), order[1]))

    on_test_end = on_validation_end


@cache
def _draw_order(order: tuple[int, ...], groups: int) -> bytes:
    """Draw the channel order, once for all jobs of a sweep."""
    from evaluation.figures import channel_order, figure_pixels  # late: nothing is drawn before the first step

    return encode_png(figure_pixels(channel_order(list(order), groups)))


def most_varied(maps: np.ndarray) -> list[Titled]:
    """Return the channels of (C, H, W) that vary most, each scaled from its 1st to its 99th percentile."""
    spread = maps.reshape(len(maps), -1).std(axis=1)
    shown = []
    for channel in sorted(np.argsort(-spread, kind="stable")[:SHOWN]):
        low, high = np.percentile(maps[channel], (1, 99))
        bright = np.clip((maps[channel] - low) / max(high - low, 1e-12), 0, 1)
        shown.append((bright, f"channel {channel}"))
    return shown


def chosen_layers(network: nn.Module) -> dict[str, nn.Conv2d]:
    """Return the convolutions to draw, by row title."""
    convolutions = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
    depthwise = [name for name, layer in convolutions.items() if layer.groups == layer.in_channels > 1]
    pointwise = [name for name, layer in convolutions.items() if layer.kernel_size == (1, 1)]
    kinds = {"depthwise": depthwise, "pointwise": pointwise} if depthwise else {"": list(convolutions)}
    chosen = {}
    for kind, names in ((kind, names) for kind, names in kinds.items() if names):
        for place, name in (("first", names[0]), ("last", names[-1])):
            chosen[f"{place} {kind} convolution".replace("  ", " ") + f"\n{name}"] = convolutions[name]
    return chosen


@torch.no_grad()
def capture(network: nn.Module, image: torch.Tensor) -> dict[str, np.ndarray]:
    """Return the output of each chosen layer, floats (C, H', W') by title, for an image (1, 3, H, W)."""
    captured = {}
    with contextlib.ExitStack() as hooks, evaluating(network):
        for title, layer in chosen_layers(network).items():

            def keep(_module, _inputs, output, title=title):
                captured[title] = output[0].float().cpu().numpy()

            hooks.enter_context(layer.register_forward_hook(keep))
        network(image)
    return captured
