"""What a checkpoint or an exported file says of itself, checked as a stranger's word. Imports no torch."""

import math
from reprlib import Repr

MOST_CLASSES = 100_000
LARGEST_IMAGE = 4096  # pixels a side
LONGEST_NAME = 1000  # characters
LARGEST_SETTING = 65_536  # of a number that describes a network: widths, groups, blocks
MOST_SETTINGS = 32  # of a network, and numbers of a list
NEXT = "which no run writes; take best.ckpt or last.ckpt of a run"

_short = Repr()
_short.maxlevel, _short.maxstring, _short.maxother = 2, 60, 60
brief = _short.repr  # of values that may go on without end


def check_description(classes, image_size, mean, std, source: str) -> None:
    """Classes, size of an image and how it is normalized.

    Raises:
        ValueError: names `source`, the value and what is allowed.
    """
    if not isinstance(classes, (list, tuple)) or len(classes) < 2 or not all(_is_name(name) for name in classes):
        raise _odd(source, "classes", classes, f"two names or more, of up to {LONGEST_NAME:,} characters")
    if len(classes) > MOST_CLASSES:
        raise ValueError(f"{source}: has {len(classes):,} classes, and {MOST_CLASSES:,} are the most")
    if len(set(classes)) < len(classes):
        raise _odd(source, "classes", classes, "no name twice")
    if type(image_size) is not int or not 1 <= image_size <= LARGEST_IMAGE:
        raise _odd(source, "image_size", image_size, f"1 to {LARGEST_IMAGE} pixels")
    for name, values, above in (("mean", mean, -math.inf), ("std", std, 0.0)):
        three = isinstance(values, (list, tuple)) and len(values) == 3
        if not three or not all(_is_number(value) and value > above for value in values):
            raise _odd(source, name, values, f"three numbers{' above 0' if above == 0 else ''}")


def check_network(network, source: str) -> None:
    """The name of a network and its arguments: short texts, small numbers, and one level of lists and mappings of them.

    Raises:
        ValueError: as above.
    """
    if not isinstance(network, dict) or not isinstance(network.get("network"), str):
        raise _odd(source, "network", network, "a network of this project and its settings")
    for key, value in network.items():
        if not _is_name(key) or len(network) > MOST_SETTINGS or not _is_setting(value, depth=2):
            allowed = f"short texts and numbers up to {LARGEST_SETTING:,}"
            raise _odd(source, f"network.{brief(key).strip(chr(39))}", value, allowed)


def check_decision(decision, classes: list[str], source: str) -> None:
    """What follows from probabilities, as of evaluation.decision; None where nothing does.

    Raises:
        ValueError: as above.
    """
    if decision is None:
        return
    if not isinstance(decision, dict) or not all(_is_name(k) and _is_plain(v) for k, v in decision.items()):
        raise _odd(source, "decision", decision, "names with numbers and short texts")
    wanted = {"temperature": (0, math.inf), "target_accuracy": (0, 1)}
    wanted |= {"confidence": (0, 2)} if decision.get("confidence") is not None else {}
    if "threshold" in decision or len(classes) == 2:
        wanted["threshold"] = (0, math.inf)  # above 1: no image is called positive
        if len(classes) != 2 or decision.get("positive_class") not in classes:
            raise _odd(source, "decision.positive_class", decision.get("positive_class"), "one of two classes")
        if not isinstance(decision.get("threshold_criterion"), str):
            raise _odd(source, "decision.criterion", decision.get("threshold_criterion"), "a name")
    for key, (low, high) in wanted.items():
        value = decision.get(key)
        if not _is_number(value) or not low <= value <= high or (key == "temperature" and value == 0):
            raise _odd(source, f"decision.{key}", value, f"a number from {low} to {high}")


def _is_name(value) -> bool:
    """A text that a file can hold: half letters that come from no file name cannot be written."""
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_NAME:
        return False
    try:
        value.encode("utf-8", errors="surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30


def _is_plain(value) -> bool:
    return value is None or isinstance(value, bool) or _is_name(value) or _is_number(value)


def _is_setting(value, depth: int) -> bool:
    if not isinstance(value, (list, tuple, dict)):
        return _is_plain(value) and not (_is_number(value) and abs(value) > LARGEST_SETTING)
    items, keys = (list(value.values()), list(value)) if isinstance(value, dict) else (value, [])
    nested = depth > 0 and len(items) <= MOST_SETTINGS and all(map(_is_name, keys))
    return nested and all(_is_setting(item, depth - 1) for item in items)


def _odd(source: str, key: str, value, allowed: str) -> ValueError:
    return ValueError(f"{source}: its {key} is {brief(value)} ({allowed}), {NEXT}")
