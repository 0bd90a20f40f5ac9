"""Initial weights of a network: `auto`, `imagenet`, `null` or the path of a state dict."""

import logging
import threading
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor, nn

from common.untrusted.tensors import load_tensors
from lightning_modules.networks.surgery import HEADS
from lightning_modules.networks.torchvision_models import TORCHVISION_WEIGHTS

log = logging.getLogger(__name__)

REACHABLE_WITHIN_S = 8.0  # `auto` has to be done after 10 s at most
WAYS_OUT = (
    "Three ways out: model.weights=null starts from random weights; model.weights=FILE takes a state dict that you "
    "have; or put the file of {url} into {folder} and run again"
)


def load_initial_weights(network: nn.Module, policy: str | None, *, backbone: str | None, download_to: Path) -> str:
    """Fills `network` as the policy says and returns what it now starts from, in words for the record.

    Args:
        policy: `auto`, `imagenet`, None or the path of a state dict.
        backbone: torchvision's name of the whole backbone; None where there are no ready weights.
        download_to: folder for downloaded files.

    Raises:
        ValueError: `imagenet` cannot be had, or the file fits nothing.
    """
    if policy is None:
        return "random"
    if policy not in ("auto", "imagenet"):
        return _from_file(network, Path(policy))
    if backbone is None:
        if policy == "imagenet":
            raise ValueError("model.weights=imagenet: there are no ready weights for this network; use null or a path")
        return "random"
    try:
        state = _imagenet(backbone, download_to)
    except OSError as error:
        weights = TORCHVISION_WEIGHTS[backbone]
        out = WAYS_OUT.format(url=weights.url, folder=download_to)
        if policy == "imagenet":
            raise ValueError(
                f"model.weights=imagenet: the weights of {backbone} cannot be had: {error}. {out}"
            ) from error
        log.warning(
            "RANDOM WEIGHTS: the ImageNet weights of %s cannot be had here (%s). Expect a lower accuracy and "
            "slower learning. %s.",
            backbone,
            error,
            out,
        )
        return "random (auto: imagenet could not be had)"
    _fit_in(network, state, source=f"imagenet ({backbone})")
    return f"imagenet ({TORCHVISION_WEIGHTS[backbone]})"


def _imagenet(backbone: str, download_to: Path) -> dict[str, Tensor]:
    """torchvision's weights, from torch's own cache, the project's, or its download."""
    url = TORCHVISION_WEIGHTS[backbone].url
    folders = [Path(torch.hub.get_dir()) / "checkpoints", download_to]
    folder = next((f for f in folders if (f / Path(url).name).is_file()), None)
    if folder is None:
        _reach(url)
        folder = download_to
    return torch.hub.load_state_dict_from_url(
        url, model_dir=str(folder), map_location="cpu", check_hash=True, weights_only=True, progress=False
    )


def _reach(url: str) -> None:
    """Raises OSError unless the server answers in time. In a thread, since a name look-up has no time limit."""
    answer: list[OSError] = []

    def ask():
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACHABLE_WITHIN_S).close()
        except OSError as error:
            answer.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACHABLE_WITHIN_S)
    if thread.is_alive():
        raise OSError(f"no answer from {urllib.request.urlparse(url).hostname} within {REACHABLE_WITHIN_S:.0f} s")
    if answer:
        reason = answer[0].reason if isinstance(answer[0], urllib.error.URLError) else answer[0]
        raise OSError(f"{urllib.request.urlparse(url).hostname}: {reason}")


def _from_file(network: nn.Module, path: Path) -> str:
    try:
        state = load_tensors(path, archives_only=False)
    except (ValueError, OSError) as error:
        raise ValueError(f"model.weights={path}: not a file of weights ({error})") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"model.weights={path}: holds no state dict (names with tensors)")
    _fit_in(network, state, source=str(path))
    return f"file {path.name}"


def _fit_in(network: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Loads what fits by name and shape, and says what was loaded and what was not.

    Raises:
        ValueError: nothing fits, or a tensor of the trunk has another shape.
    """
    own = network.state_dict()
    renamed = _rename(state, network)
    fitting = {name: tensor for name, tensor in renamed.items() if name in own and tensor.shape == own[name].shape}
    weighty = sum(name.endswith("weight") for name in fitting)
    if not weighty:
        raise ValueError(
            f"model.weights={source}: fits nothing in this network. It has names such as "
            f"{', '.join(list(state)[:3])}; the network needs {', '.join(list(own)[:3])}"
        )
    for name in own:
        if name in renamed and renamed[name].shape != own[name].shape and name.split(".")[0] not in HEADS:
            raise ValueError(
                f"model.weights={source}: is of another network: {name} has the shape {tuple(renamed[name].shape)} there and "
                f"{tuple(own[name].shape)} here; choose the model that it was saved from, or other weights"
            )
    network.load_state_dict(fitting, strict=False)
    if odd := sum(int((~torch.isfinite(own[name])).sum()) for name in fitting):
        log.warning("model.weights=%s: %s numbers in it are NaN or infinite", source, f"{odd:,}")
    fresh = _parts(set(own) - set(fitting))
    unused = _parts(name for name in renamed if name not in fitting)
    level = logging.WARNING if "trunk." in fresh else logging.INFO
    log.log(
        level,
        "weights: %d of %d tensors from %s; fresh: %s; in the file but not used: %s",
        len(fitting),
        len(own),
        source,
        fresh,
        unused,
    )


def _rename(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Translates a file's names into the network's: a wrapper's prefix off, the trunk's names of its backbone in."""
    translate = network.weight_names() if hasattr(network, "weight_names") else {}
    own = set(network.state_dict())

    def without(prefix: str) -> dict[str, Tensor]:
        stripped = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        return {translate.get(name, name): tensor for name, tensor in stripped.items()}

    candidates = [without(prefix) for prefix in ("", "module.", "network.", "model.", "backbone.")]
    return max(candidates, key=lambda names: len(own & set(names)))


def _parts(names) -> str:
    """`trunk.stage2 (3), head (4)`: tensors counted by part, in words."""
    counts = Counter(
        ".".join(name.split(".")[:2]) if name.startswith("trunk.") else name.split(".")[0] for name in names
    )
    return ", ".join(f"{part} ({count})" for part, count in sorted(counts.items())) or "nothing"
