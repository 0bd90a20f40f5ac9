"""What predict.py is asked for, and the file that every `ckpt` names, checked before torch is imported."""

from pathlib import Path

EXPORTED = (".onnx", ".pt2")


def checkpoint_argument(ckpt: str | Path | None, exported: bool = False) -> Path:
    """Where the checkpoint is.

    Args:
        exported: whether it may be what export.py made.

    Raises:
        ValueError: none given, a folder, nothing there, or an exported file where it has to be a checkpoint.
    """
    if ckpt is None or ckpt == "":
        raise ValueError("ckpt: nothing is given; give a run's, ckpt=outputs/MODEL/DATE/checkpoints/best.ckpt")
    path = Path(str(ckpt))
    if path.suffix.lower() in EXPORTED and not exported:
        raise ValueError(f"ckpt={path}: is an exported file already; give the checkpoint that it was made from")
    if path.is_dir():
        inside = next(
            (found for found in (path / "checkpoints/best.ckpt", path / "best.ckpt") if found.is_file()), None
        )
        raise ValueError(f"ckpt={path}: is a folder; give the file, ckpt={inside or 'RUN/checkpoints/best.ckpt'}")
    if not path.is_file():
        made = (
            "; make it with python export.py ckpt=RUN/checkpoints/best.ckpt" if path.suffix.lower() == ".onnx" else ""
        )
        raise ValueError(f"ckpt={path}: no such checkpoint{made or '; a run keeps its own in checkpoints/best.ckpt'}")
    return path


def check_predict_arguments(*, batch_size: int, explain: bool, explain_most: int, **_) -> None:
    """Settings of predict.py that are of the wrong type or size.

    Raises:
        ValueError: names the setting.
    """
    for name, value in (("batch_size", batch_size), ("explain_most", explain_most)):
        if type(value) is not int or value < 1:
            raise ValueError(f"{name}={value}: use a whole number of 1 or more")
    if not isinstance(explain, bool):
        raise ValueError(f"explain={explain}: use true or false")
