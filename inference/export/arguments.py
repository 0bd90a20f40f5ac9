"""What export.py is asked for, checked before torch is imported."""

import os
from pathlib import Path

from common.text import did_you_mean
from inference.arguments import checkpoint_argument

SUFFIXES = {"onnx": ".onnx", "int8": "_int8.onnx", "torch_export": ".pt2"}


def check_export_arguments(
    ckpt: str | None, *, format: str, preprocessing: bool, out: str | None, largest_difference: float, **_
) -> Path:
    """Where the file goes, once the settings are found to be such.

    Raises:
        ValueError: names the setting.
    """
    path = checkpoint_argument(ckpt)
    if format not in SUFFIXES:
        raise ValueError(f"format={format}: no such format; {did_you_mean(str(format), SUFFIXES)}")
    if not isinstance(preprocessing, bool):
        raise ValueError(f"preprocessing={preprocessing}: use true or false")
    if not isinstance(largest_difference, (int, float)) or not largest_difference >= 0:
        raise ValueError(f"largest_difference={largest_difference}: use a number of 0 or more, e.g. 1e-4")
    name = path.stem + ("" if preprocessing else "_network") + SUFFIXES[format]
    place = path.parent / name
    if out is not None:
        place = Path(str(out))
        place = place if place.suffix.lower() == path.with_name(name).suffix else place / name
    there = next(folder for folder in place.absolute().parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        reason = "no permission" if there.is_dir() else f"{there} is a file"
        raise ValueError(f"out={place}: cannot be written ({reason}); use out=FILE or out=DIR")
    return place
