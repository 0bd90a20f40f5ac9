"""How checkpoints become files: whole or not at all, the one before kept, and held in memory where the disk is full."""

import io
import logging
import os
import shutil
import tempfile
from pathlib import Path

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor

from common.atomic_io import write_bytes
from common.errors import DISK_ERRORS
from common.untrusted.description import brief
from lightning_modules.checkpoint import read_checkpoint

log = logging.getLogger(__name__)

LAST, PREVIOUS = "last.ckpt", "last-before.ckpt"
# key, its type, and the type of what is in it
TRAINING = (
    ("global_step", int, object), ("pytorch-lightning_version", str, object), ("loops", dict, dict), ("callbacks", dict, dict),
    ("optimizer_states", list, dict), ("lr_schedulers", list, dict), ("train_sums", list, Tensor),
)  # fmt: skip
NEVER_EMPTY = ("loops", "callbacks", "optimizer_states", "train_sums", "pytorch-lightning_version")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints for Lightning. One that cannot be written is held, and tried again with the next."""

    def __init__(self):
        self.held: dict[Path, bytes] = {}

    def save_checkpoint(self, checkpoint, path, storage_options=None) -> None:
        path, buffer = Path(path), io.BytesIO()
        torch.save(checkpoint, buffer)
        self.held[path] = buffer.getvalue()
        self.write_held()

    def write_held(self) -> None:
        """Tries to write what is held."""
        for path, content in list(self.held.items()):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.name == LAST and path.is_file():
                    _keep(path, path.with_name(PREVIOUS))
                write_bytes(path, content)
            except OSError as error:
                if error.errno not in DISK_ERRORS:
                    raise
                log.warning(
                    "%s cannot be written (%s): training goes on, it is held in memory and tried again",
                    path,
                    error.strerror,
                )
            else:
                del self.held[path]

    def place_of(self, path: Path) -> Path:
        """Where a checkpoint lies; one that is held still goes into the system's folder for temporary files.

        Raises:
            OSError: there is no space there either.
        """
        self.write_held()
        if path not in self.held:
            return path
        place = Path(tempfile.mkdtemp(prefix="justenough-")) / path.name
        write_bytes(place, self.held.pop(path))
        log.warning("%s cannot be written: it is %s", path, place)
        return place


def _keep(path: Path, other: Path) -> None:
    """A second name for a file, so that there is always one of the first name."""
    between = other.with_name(f".{other.name}")
    between.unlink(missing_ok=True)
    try:
        os.link(path, between)
    except OSError:  # a file system without links
        shutil.copyfile(path, between)
    between.replace(other)


def intact_checkpoint(path: Path) -> Path:
    """`path`, or where it is a damaged last.ckpt the one before it.

    Raises:
        ValueError: neither can be read.
    """
    try:
        _check_training(read_checkpoint(path), path)
    except ValueError as error:
        before = path.with_name(PREVIOUS)
        if path.name != LAST or not before.is_file():
            raise
        _check_training(read_checkpoint(before), before)
        log.warning("%s; going on from the one before it: %s", error, before)
        return before
    return path


def _check_training(state: dict, path: Path) -> None:
    """The parts that Lightning goes on from, by their types; what is wrong within them it finds itself."""
    for key, kind, of in TRAINING:
        part = state.get(key)
        inner = list(part.values() if isinstance(part, dict) else part if isinstance(part, list) else ())
        known = type(part) is kind and all(isinstance(each, of) and (of is Tensor or each) for each in inner)
        if not known or (key in NEVER_EMPTY and not part):
            raise ValueError(
                f"{path}: its {key} is {'missing' if part is None else brief(part)}, so its training cannot be taken up; "
                "take another checkpoint, or start anew from its weights: model.weights=FILE"
            )
