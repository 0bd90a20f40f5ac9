"""Check the description of a network inside an untrusted checkpoint or exported file."""

import math
from reprlib import Repr
from typing import Literal, get_args

import msgspec

from common.errors import UserError
from common.run_record import Decision

MOST_CLASSES = 100_000
LARGEST_IMAGE = 4096  # pixels per side
LONGEST_NAME = 1000  # characters
LARGEST_SETTING = 65_536  # largest number in the description of a network: widths, groups, blocks
MOST_SETTINGS = 32  # settings of a network, and items of a list in them
# Fields of a decision; with a threshold above 1 no image is predicted positive
RANGES = {
    "temperature": (0, math.inf), "target_accuracy": (0, 1), "confidence": (0, 2), "delta": (0, 1),
    "design_effect": (0, math.inf), "threshold": (0, math.inf),
}  # fmt: skip
POSITIVE = {"temperature", "target_accuracy", "delta", "design_effect"}  # those that must not be 0
Fit = Literal["squash", "crop", "pad"]  # how an image becomes a square: datamodules.decode.place
Interpolation = Literal["bilinear", "bicubic"]  # how it is resized: datamodules.decode.resize
# Mean and standard deviation of ImageNet's images that torchvision's weights expect
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHECKPOINT_SCHEMA = 2  # version of hyper_parameters; 0.1.0 wrote none
NEXT = "which no run writes; use best.ckpt or last.ckpt of a run"

_short = Repr()
_short.maxlevel, _short.maxstring, _short.maxother = 2, 60, 60
brief = _short.repr  # for values of any length


def check_schema(described: dict, source: str) -> None:
    """Refuse a checkpoint of another version.

    Args:
        described: hyper_parameters of the checkpoint.

    Raises:
        UserError: names `source` and the version that reads it.
    """
    if (schema := described.get("schema")) is None:
        raise UserError(
            f"{source}: written by version 0.1.0 and readable only there; this version uses other weight names"
        )
    if type(schema) is not int or schema != CHECKPOINT_SCHEMA:
        raise UserError(f"{source}: has schema {brief(schema)}; this version reads schema {CHECKPOINT_SCHEMA}")


def check_description(classes, image_size, mean, std, fit, value_range, interpolation, source: str) -> None:
    """Check the class names, the fit and the range, and call `check_preprocessing`.

    Raises:
        UserError: names `source`, the value and what is allowed.
    """
    if not isinstance(classes, (list, tuple)) or len(classes) < 2 or not all(_is_name(name) for name in classes):
        raise _odd(source, "classes", classes, f"two or more names of up to {LONGEST_NAME:,} characters")
    if len(classes) > MOST_CLASSES:
        raise UserError(f"{source}: has {len(classes):,} classes; at most {MOST_CLASSES:,} are possible")
    if len(set(classes)) < len(classes):
        raise _odd(source, "classes", classes, "no name twice")
    check_preprocessing(image_size, mean, std, interpolation, source)
    if not isinstance(fit, str) or fit not in get_args(Fit):
        raise _odd(source, "fit", fit, f"one of {', '.join(get_args(Fit))}")
    if value_range is not None and not _is_range(value_range):
        allowed = "two numbers within 1e30, the lower first, and whether they are for all images"
        raise _odd(source, "range", value_range, allowed)


def check_preprocessing(image_size, mean, std, interpolation, source: str) -> None:
    """Check the image size in pixels, the normalization of each channel and the interpolation, like `check_description`."""
    if type(image_size) is not int or not 1 <= image_size <= LARGEST_IMAGE:
        raise _odd(source, "image_size", image_size, f"1 to {LARGEST_IMAGE} pixels")
    for name, values, above in (("mean", mean, -math.inf), ("std", std, 0.0)):
        three = isinstance(values, (list, tuple)) and len(values) == 3
        if not three or not all(_is_number(value) and value > above for value in values):
            raise _odd(source, name, values, f"three numbers{' above 0' if above == 0 else ''}")
    if not isinstance(interpolation, str) or interpolation not in get_args(Interpolation):
        raise _odd(source, "interpolation", interpolation, f"one of {', '.join(get_args(Interpolation))}")


def check_network(network, source: str) -> None:
    """Check the name of a network and its arguments: short texts, small numbers, and nested lists and mappings of these.

    Raises:
        UserError: names `source`, the value and what is allowed.
    """
    if not isinstance(network, dict) or not isinstance(network.get("network"), str):
        raise _odd(source, "network", network, "a network of this project and its settings")
    for key, value in network.items():
        if not _is_name(key) or len(network) > MOST_SETTINGS or not _is_setting(value, depth=2):
            allowed = f"short texts and numbers up to {LARGEST_SETTING:,}"
            raise _odd(source, f"network.{brief(key).strip(chr(39))}", value, allowed)


def check_decision(decision, classes: list[str], source: str) -> Decision | None:
    """Return the checked decision of a checkpoint or an exported file from its plain values; None if there is none.

    Raises:
        UserError: names `source`, the value and what is allowed.
    """
    if decision is None:
        return None
    try:
        checked = msgspec.convert(decision, Decision)
    except (msgspec.ValidationError, RecursionError) as error:
        raise _odd(source, "decision", decision, str(error)) from error
    if checked.threshold is not None and checked.threshold_criterion is None:
        raise _odd(source, "decision.threshold_criterion", None, "a name")
    two = len(classes) == 2
    if (checked.positive_class not in classes) if two else (checked.positive_class or checked.threshold) is not None:
        raise _odd(source, "decision.positive_class", checked.positive_class, "one of two classes")
    for key, (low, high) in RANGES.items():
        value = getattr(checked, key)
        if value is not None and not (_is_number(value) and low <= value <= high and (value or key not in POSITIVE)):
            raise _odd(source, f"decision.{key}", value, f"a number from {low} to {high}")
    return checked


def _is_range(value) -> bool:
    if not isinstance(value, (list, tuple)) or len(value) != 3 or not isinstance(value[2], bool):
        return False
    return _is_number(value[0]) and _is_number(value[1]) and value[0] <= value[1]


def _is_name(value) -> bool:
    """Return whether a value is a text that a file can hold: no lone surrogates, except those that stand for bytes of names."""
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_NAME:
        return False
    try:
        value.encode("utf-8", errors="surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30


def _is_setting(value, depth: int) -> bool:
    if not isinstance(value, (list, tuple, dict)):
        is_small = _is_number(value) and abs(value) <= LARGEST_SETTING
        return value is None or isinstance(value, bool) or _is_name(value) or is_small
    items, keys = (list(value.values()), list(value)) if isinstance(value, dict) else (value, [])
    nested = depth > 0 and len(items) <= MOST_SETTINGS and all(map(_is_name, keys))
    return nested and all(_is_setting(item, depth - 1) for item in items)


def _odd(source: str, key: str, value, allowed: str) -> UserError:
    return UserError(f"{source}: its {key} is {brief(value)} ({allowed}), {NEXT}")
