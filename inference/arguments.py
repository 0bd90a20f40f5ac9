"""Check the settings of predict.py, export.py and demo.py before torch is imported."""

import os
from pathlib import Path

from common.errors import UserError
from common.run_folder import EXPORTED, RunFolder
from common.text import quote_override, typed_override

EXAMPLE = RunFolder(Path("RUN")).best_checkpoint


def is_read_by_predict(path: Path) -> bool:
    """Return whether predict.py can read an exported file of this name instead of a checkpoint."""
    return path.suffix.lower() == ".onnx"


def checkpoint_argument(ckpt: str | Path | None, exported: bool = False) -> Path:
    """Return the path of the file that `ckpt` names.

    Args:
        exported: whether a file of export.py is also allowed.

    Raises:
        UserError: nothing is given, a folder, no such file, or an exported file where a checkpoint is needed.
    """
    if ckpt is None or ckpt == "":
        raise UserError("ckpt is not set; give the checkpoint of a run: ckpt=outputs/MODEL/DATE/checkpoints/best.ckpt")
    path = Path(str(ckpt))
    if path.suffix.lower() in EXPORTED and not is_read_by_predict(path):
        reads = "a checkpoint or an .onnx file" if exported else "a checkpoint"
        raise UserError(f"ckpt={path}: is an exported file for other programs; give {reads}, e.g. ckpt={EXAMPLE}")
    if is_read_by_predict(path) and not exported:
        raise UserError(f"ckpt={path}: is an exported file already; give the checkpoint it was made from")
    if path.is_dir():
        best = RunFolder(path).best_checkpoint
        of_jobs = sorted(path.glob("*/checkpoints/best.ckpt")) + sorted(path.glob("retrained/*/checkpoints/best.ckpt"))
        inside = next(filter(Path.is_file, (best, path / best.name, *of_jobs)), EXAMPLE)
        raise UserError(f"ckpt={path}: is a folder; give the file, {typed_override('ckpt', inside)}")
    if not path.is_file():
        made = f"make it with python export.py ckpt={EXAMPLE}"
        next_step = made if is_read_by_predict(path) else f"a run keeps its own in {EXAMPLE}"
        raise UserError(f"ckpt={path}: no such checkpoint; {next_step}")
    return path


def check_predict_arguments(batch_size: int, explain: bool, explain_most: int, threshold: float | None = None) -> None:
    """Raise UserError if a setting of predict.py has a wrong type or size."""
    for name, value in (("batch_size", batch_size), ("explain_most", explain_most)):
        if type(value) is not int or value < 1:
            raise UserError(f"{quote_override(name, value)}: use a whole number of 1 or more")
    if not isinstance(explain, bool):
        raise UserError(f"{quote_override('explain', explain)}: use true or false")
    check_threshold(threshold)


def check_threshold(threshold: float | None) -> None:
    """Check the setting `threshold`; raise UserError if it is not a probability."""
    if threshold is not None and (type(threshold) not in (int, float) or not 0 <= threshold <= 1):
        raise UserError(f"{quote_override('threshold', threshold)}: use a probability from 0 to 1")


def check_export_arguments(
    ckpt: str | None,
    *,
    suffix: str,
    preprocessing: bool,
    out: str | None,
    largest_difference: float,
    least_agreement: float = 0.9,
    is_folder: bool = False,
) -> Path:
    """Check the settings of export.py and return the path of the file to write, which ends in the format's suffix.

    For a format that writes a folder, `out` is that folder.

    Raises:
        UserError: one of a wrong type or size, no checkpoint, or a place that cannot be written.
    """
    checkpoint = checkpoint_argument(ckpt)
    if not isinstance(preprocessing, bool):
        raise UserError(f"preprocessing={preprocessing}: use true or false")
    is_number = isinstance(largest_difference, (int, float)) and not isinstance(largest_difference, bool)
    if not is_number or not largest_difference >= 0:
        raise UserError(f"largest_difference={largest_difference}: use a number of 0 or more, e.g. 1e-4")
    if isinstance(least_agreement, bool) or not isinstance(least_agreement, (int, float)) or not least_agreement <= 1:
        raise UserError(f"least_agreement={least_agreement}: use a number of 1 or less, e.g. 0.9")
    usable = "out=DIR" if is_folder else "out=FILE or out=DIR"
    if isinstance(out, (list, dict)):
        raise UserError(f"out={out}: is not one path; use {usable}")
    path = checkpoint.with_name(checkpoint.stem + ("" if preprocessing else "_network") + suffix)
    if out is not None:
        place = Path(str(out))
        if is_folder:
            path = place if place.name not in ("", "..") else place.resolve()
        else:
            path = place if place.suffix.lower() == path.suffix else place / path.name
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        reason = "no permission" if parent.is_dir() else f"{parent} is a file"
        raise UserError(f"out={path}: cannot be written ({reason}); use {usable}")
    return path
