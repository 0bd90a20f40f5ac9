"""Measure what a network costs: parameters, multiply-accumulates (MACs) in two independent ways, time and memory."""

import copy
import warnings
from collections.abc import Callable

import torch
from torch import nn
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils.flop_counter import FlopCounterMode

from common.errors import UserError
from common.table import Table
from lightning_modules.latency import time_passes
from lightning_modules.networks.meta import on_meta

COUNTED = (  # layers; classes derived from them cost the same
    nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm, nn.LayerNorm,
    nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd,
)  # fmt: skip


def count_parameters(network: nn.Module, trainable: bool = False) -> int:
    """Count all parameters, or with `trainable` only those that training changes."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad or not trainable)


def count_macs_thop(network: nn.Module, image_size: int) -> int:
    """Count the MACs of one image with thop, as the study's table does.

    thop counts convolutions and linear layers without their bias, 4 operations per value of an affine batch norm (2
    otherwise), and the additions of average pooling. It leaves buffers in the modules that it profiles, and hooks if the
    forward pass fails, so it gets a deep copy that is thrown away.
    """
    return int(_by_shapes(lambda module, image: profile_thop(module, image)[0], network, image_size))


def profile_thop(network: nn.Module, inputs: torch.Tensor) -> tuple[float, float, dict]:
    """Return thop's MACs, its parameters, and both for each module by name, including the modules inside it.

    thop recognizes a layer by its exact class and counts nothing for derived classes, such as timm's Conv2dSame and
    BatchNormAct2d. Here these cost what their base class costs, so networks of different libraries can be compared.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its import compares versions the old way
        import thop
        from thop.profile import register_hooks
    derived = {}
    for kind in {type(module) for module in network.modules()} - set(register_hooks):
        base = next((each for each in kind.__mro__ if each in register_hooks), None)
        if base is not None and issubclass(base, COUNTED):
            derived[kind] = register_hooks[base]
    return thop.profile(network, inputs=(inputs,), custom_ops=derived, verbose=False, ret_layer_info=True)


@torch.no_grad()
def count_macs(network: nn.Module, image_size: int) -> int:
    """Count the MACs of one image with torch's FlopCounterMode: convolutions, linear layers, matrix products and attention.

    It counts FLOPs, two per MAC.
    """

    def count(module: nn.Module, image: torch.Tensor) -> int:
        with FlopCounterMode(display=False) as counter:
            module(image)
        return counter.get_total_flops() // 2

    return _by_shapes(count, network, image_size)


def describe_difference(macs: int, macs_thop: int) -> str:
    """Return one sentence on why the two counts differ."""
    if macs == macs_thop:
        return "thop and FlopCounterMode agree: nothing but convolutions and linear layers costs anything here."
    if macs_thop > macs:
        return (
            f"thop counts {macs_thop - macs:,} more than FlopCounterMode: batch norms and average pooling, which "
            "FlopCounterMode does not count."
        )
    return (
        f"thop counts {macs - macs_thop:,} fewer than FlopCounterMode: it does not see attention and functional matrix "
        "products."
    )


@torch.inference_mode()
def measure_latencies(network: nn.Module, image_size: int, batch_size: int, device: torch.device) -> list[dict]:
    """Measure a forward pass in eval mode, of one image and of a batch; return the fields of the record's Latency of each."""
    network = _copy(network).to(device, memory_format=torch.channels_last)
    threads, found = torch.get_num_threads() if device.type == "cpu" else None, []
    for size in sorted({1, batch_size}):
        images = _image(image_size, size).to(device, memory_format=torch.channels_last)

        def one_pass(images: torch.Tensor = images) -> None:
            network(images)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        found.append({"batch_size": size, "device": device.type, **time_passes(one_pass, threads)})
    return found


@torch.no_grad()
def peak_memory_mib(network: nn.Module, image_size: int) -> float:
    """Measure the peak memory in MiB of the weights, one image and the activations of its forward pass."""
    network, image, tracker = _copy(network), _image(image_size), MemTracker()
    network.requires_grad_(True)  # the tracker hooks the gradient of every weight
    tracker.track_external(network, image)
    with tracker:
        network(image)
    peak = tracker.get_tracker_snapshot("peak")
    return round(sum(device["Total"] for device in peak.values()) / 2**20, 3)


def measure_cost(network: nn.Module, image_size: int) -> dict:
    """Measure the cost fields of a run's record except the latencies."""
    macs, macs_thop = count_macs(network, image_size), count_macs_thop(network, image_size)
    return {
        "parameters": count_parameters(network),
        "parameters_trainable": count_parameters(network, trainable=True),
        "macs": macs,
        "macs_thop": macs_thop,
        "macs_difference": describe_difference(macs, macs_thop),
        "peak_memory_mib": peak_memory_mib(network, image_size),
    }


@torch.no_grad()
def summary(network: nn.Module, image_size: int) -> str:
    """Return a table of all layers for one image: type, output shape, parameters and MACs as `count_macs` counts them.

    The line of a module has the sums over the layers inside it, so the last line, the whole network, equals the record.
    """
    shapes: dict[nn.Module, torch.Size | None] = {}

    def count(module: nn.Module, image: torch.Tensor) -> tuple[nn.Module, FlopCounterMode]:
        for each in module.modules():
            each.register_forward_hook(lambda each, _, output: shapes.update({each: getattr(output, "shape", None)}))
        with FlopCounterMode(display=False) as counter:
            module(image)
        return module, counter

    network, counter = _by_shapes(count, network, image_size)
    whole = type(network).__name__
    (_, first), *inner = network.named_modules()
    lines = []
    for name, module in (*inner, ("", first)):
        shape = shapes.get(module)
        macs = sum(counter.flop_counts.get(f"{whole}.{name}" if name else "Global", {}).values()) // 2
        shown = "x".join(map(str, shape[1:])) if shape else "-"
        lines.append([name or "total", type(module).__name__, shown, f"{count_parameters(module):,}", f"{macs:,}"])
    table = Table.of(["layer", "type", "output", "parameters", "MACs"], lines, texts=3)
    return "\n".join(table.as_text()) + "\n"


def _by_shapes(count: Callable[[nn.Module, torch.Tensor], object], network: nn.Module, image_size: int):
    """Count on a copy on the meta device, or on one with numbers if the user's own network needs them to run."""
    try:
        return count(on_meta(network), _image(image_size, device="meta"))
    except (RuntimeError, TypeError, ValueError):
        return count(_copy(network), _image(image_size))


def _copy(network: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(network).cpu().float().eval()
    except TypeError as error:  # something in it cannot be pickled
        raise UserError(
            f"model.network={type(network).__module__}.{type(network).__qualname__}: cannot be copied, which measuring its "
            f"cost requires ({error}); keep open files and the like out of it, or skip the cost: stages=[fit,test]"
        ) from error


def _image(image_size: int, batch_size: int = 1, device: str = "cpu") -> torch.Tensor:
    return torch.zeros(batch_size, 3, image_size, image_size, device=device)
