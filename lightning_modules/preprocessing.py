"""Find out what a network's weights were trained with: image size, interpolation, mean and std. Reads no weights.

The engine passes the result to the data module and to the classifier, whose checkpoints store it.
"""

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from common.errors import UserError
from common.text import did_you_mean, finite_number, override_value
from common.untrusted.description import IMAGENET_MEAN, IMAGENET_STD, Interpolation, check_preprocessing
from lightning_modules import pretrained_weights
from lightning_modules.checkpoint import read_checkpoint
from lightning_modules.network_errors import network_errors
from lightning_modules.networks.registry import network_arguments, pretrained_name, timm_name
from lightning_modules.networks.torchvision_models import TORCHVISION_WEIGHTS

log = logging.getLogger(__name__)

NORMALIZATIONS = ("auto", "imagenet", "dataset")
INTERPOLATIONS = ("auto", *get_args(Interpolation))
NUMBERS = "mean and std as shares of 1, one for each channel or one for all: [[0.5,0.5,0.5],[0.5,0.5,0.5]] or [0.5,0.5]"
SAME = 1e-6  # relative difference up to which two numbers are the same
NEAREST = {"lanczos": "bicubic", "hamming": "bilinear", "box": "bilinear", "nearest": "bilinear"}  # others of Pillow
UNKNOWN_SIZE = 256  # pixels, for weights whose description lacks only the size; the default of conf/model


@dataclass(frozen=True)
class Preprocessing:
    """Describe how images become the input of a network."""

    image_size: int  # height and width in pixels
    interpolation: Interpolation
    mean: list[float] | None  # of each channel, as shares of 1; None: of the training images, which are not read yet
    std: list[float] | None
    source: str  # where the values are from, for the screen and the record

    def describe(self) -> str:
        """Return `224 x 224 pixels, bicubic, mean 0.5, std 0.5 (as X was trained)`."""
        values = ["mean and std of the training images"]
        if self.mean is not None:
            values = [f"{name} {_shown(each)}" for name, each in (("mean", self.mean), ("std", self.std))]
        size = f"{self.image_size} x {self.image_size} pixels"
        return f"{', '.join([size, self.interpolation, *values])} ({self.source})"


def decide_preprocessing(model: dict, ckpt_path: str | None = None) -> Preprocessing:
    """Return what a model's settings `image_size`, `normalization` and `interpolation` ask for; each is a value or auto.

    Args:
        model: the node of the configuration.
        ckpt_path: checkpoint that training resumes from or that is evaluated; its own preprocessing is kept.

    Raises:
        UserError: a value is not allowed, is unknown (auto), or differs from the checkpoint's.
    """
    size, interpolation = model.get("image_size"), model.get("interpolation", "auto")
    given = parse_normalization(model.get("normalization", "auto"))
    if not isinstance(interpolation, str) or interpolation not in INTERPOLATIONS:
        raise UserError(
            f"model.interpolation={override_value(interpolation)}: {did_you_mean(str(interpolation), INTERPOLATIONS)}"
        )
    if type(size) is not int and size != "auto":
        raise UserError(
            f"model.image_size={override_value(size)}: use a whole number of pixels, or auto for the size of the weights"
        )
    if ckpt_path is not None:
        kept = of_checkpoint(ckpt_path)
        _check_kept(kept, interpolation, given, of_weights(model) if given == "dataset" else None, ckpt_path)
        return replace(kept, image_size=kept.image_size if size == "auto" else size)
    trained = of_weights(model)
    if size == "auto":
        if trained is None:
            raise UserError(
                f"model.image_size=auto: the size of these weights (model.weights={override_value(model.get('weights'))}) is "
                "unknown; give a number of pixels, e.g. model.image_size=256"
            )
        size = trained.image_size
    why = "for random weights" if model.get("weights") is None else "since no others are known for these weights"
    default = trained or Preprocessing(size, "bilinear", list(IMAGENET_MEAN), list(IMAGENET_STD), f"ImageNet's, {why}")
    mean, std = {
        "auto": (default.mean, default.std), "imagenet": (list(IMAGENET_MEAN), list(IMAGENET_STD)), "dataset": (None, None),
    }.get(given, given) if isinstance(given, str) else given  # fmt: skip
    chosen = [f"model.normalization={override_value(model['normalization'])}"] if given != "auto" else []
    chosen += [f"model.interpolation={interpolation}"] if interpolation != "auto" else []
    if given == "auto" or (trained is not None and interpolation == "auto"):
        chosen.append(f"otherwise {default.source}" if chosen else default.source)
    interpolation = default.interpolation if interpolation == "auto" else interpolation
    return Preprocessing(size, interpolation, mean, std, "; ".join(chosen))


def parse_normalization(value) -> str | tuple[list[float], list[float]]:
    """Return a word of NORMALIZATIONS, or mean and std of three channels; raise UserError for anything else."""
    key = f"model.normalization={override_value(value)}"
    if isinstance(value, str) and value in NORMALIZATIONS:
        return value
    if isinstance(value, str):
        raise UserError(f"{key}: {did_you_mean(value, NORMALIZATIONS)}, or {NUMBERS}")
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise UserError(f"{key}: use one of {', '.join(NORMALIZATIONS)}, or {NUMBERS}")
    return _channels("mean", value[0], key), _channels("std", value[1], key)


def _channels(name: str, values, key: str) -> list[float]:
    """Return the three numbers of a mean or a std."""
    values = list(values) if isinstance(values, (list, tuple)) else [values]
    odd = next((v for v in values if finite_number(v) is None), None)
    if odd is not None or any(v is None for v in values):
        raise UserError(f"{key}: its {name} has {odd!r}, which is not a finite number; use {NUMBERS}")
    if len(values) not in (1, 3):
        raise UserError(
            f"{key}: its {name} has {len(values)} numbers; use one for each of the 3 channels, or one for all"
        )
    if max(values) > 1:
        raise UserError(
            f"{key}: its {name} has {max(values):g}, as if for pixels from 0 to 255; use values from 0 to 1 (divide by 255)"
        )
    if min(values) < 0 or (name == "std" and min(values) == 0):
        allowed = "above 0 and up to 1" if name == "std" else "from 0 to 1"
        raise UserError(f"{key}: its {name} has {min(values):g}; use numbers {allowed}")
    return [float(v) for v in values] * (3 if len(values) == 1 else 1)


def of_weights(model: dict) -> Preprocessing | None:
    """Return what the weights that a model asks for were trained with, available or not; None if it is not known.

    For weights that do not describe themselves, assume the values of the default weights of their network.

    Raises:
        UserError: there is no such network, or the description has values that no run and no library writes.
    """
    policy = model.get("weights")
    if policy is None:
        return None
    described = pretrained_weights.describe_weights(policy)
    if described is not None:
        return _of_description(described, f"as model.weights={policy} was trained")
    with network_errors():
        default = _of_architecture(network_arguments(model))
    if default is None:
        return None
    if policy in ("auto", "imagenet"):
        return replace(default, source=f"as {default.source} was trained")
    return replace(
        default, source=f"assumed: as {default.source}, since model.weights={policy} does not describe itself"
    )


def of_checkpoint(ckpt_path: str) -> Preprocessing:
    """Return what a checkpoint of this project was trained with; errors as of `read_checkpoint`."""
    described = read_checkpoint(Path(ckpt_path))["hyper_parameters"]
    return _of_description(described, f"as ckpt_path={ckpt_path} was trained")


def _check_kept(
    kept: Preprocessing, interpolation: str, given: str | tuple, trained: Preprocessing | None, ckpt_path: str
) -> None:
    """Refuse settings, typed or in a configuration, that differ from the checkpoint's."""
    if interpolation not in ("auto", kept.interpolation):
        raise UserError(
            f"ckpt_path={ckpt_path}: was trained with model.interpolation={kept.interpolation}, but this command has "
            f"{interpolation}; remove model.interpolation"
        )
    imagenet = (list(IMAGENET_MEAN), list(IMAGENET_STD))
    mean_and_std = (kept.mean, kept.std)
    if given == "dataset":  # its values are known only from the checkpoint
        words = [imagenet, *([(trained.mean, trained.std)] if trained else [])]
        other = any(_same(mean_and_std, word) for word in words)
    else:
        other = given != "auto" and not _same(mean_and_std, imagenet if given == "imagenet" else given)
    if other:
        shown = f"mean {_shown(kept.mean)} and std {_shown(kept.std)}"
        raise UserError(
            f"ckpt_path={ckpt_path}: was trained with {shown}, which is not model.normalization={override_value(given)}; "
            "remove model.normalization"
        )


def _of_architecture(arguments: dict) -> Preprocessing | None:
    """Return the preprocessing of a network's default weights in torchvision or timm, with their name as `source`."""
    name = pretrained_name(arguments)
    if name is not None:
        weights = TORCHVISION_WEIGHTS[name]
        made = weights.transforms()
        described = {
            "mean": made.mean, "std": made.std, "image_size": made.crop_size[0], "interpolation": made.interpolation.value,
        }  # fmt: skip
        return _of_description(described, str(weights))
    name = timm_name(arguments)
    if not isinstance(name, str):
        return None
    try:
        from timm.models import get_pretrained_cfg

        found = get_pretrained_cfg(name)
    except (ImportError, RuntimeError):  # not installed, or no such tag; building the network will report it
        return None
    if found is None:
        return None
    full_name = f"{found.architecture}.{found.tag}" if found.tag else name
    return _of_description(found.to_dict(), f"timm's {full_name}")


def _of_description(described: dict, source: str) -> Preprocessing:
    """Return the preprocessing in a description of weights from a checkpoint, torchvision or timm (`pretrained_cfg`).

    Raises:
        UserError: it has values that cannot be used.
    """
    usual = {"interpolation": "bilinear", "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "input_size": [UNKNOWN_SIZE]}
    values = usual | {name: value for name, value in described.items() if value is not None}
    size, asked, mean, std = values.get("image_size"), values["interpolation"], values["mean"], values["std"]
    if size is None:
        size = values["input_size"]
        size = size[-1] if isinstance(size, (list, tuple)) and size else size
    interpolation = NEAREST.get(asked, asked) if isinstance(asked, str) else asked
    check_preprocessing(size, mean, std, interpolation, source.removeprefix("as ").removesuffix(" was trained"))
    if interpolation != asked:
        source = f"{source} (with {asked})"
    return Preprocessing(size, interpolation, [float(v) for v in mean], [float(v) for v in std], source)


def _same(left: tuple, right: tuple) -> bool:
    pairs = [pair for ours, theirs in zip(left, right, strict=True) for pair in zip(ours, theirs, strict=True)]
    return all(math.isclose(ours, theirs, rel_tol=SAME) for ours, theirs in pairs)


def _shown(values: list[float]) -> str:
    """Return `0.5`, or `0.485 0.456 0.406`."""
    return " ".join(f"{value:.4g}" for value in (values[:1] if len(set(values)) == 1 else values))
