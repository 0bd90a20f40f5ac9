"""Checkpoints as files: whole or absent, with the previous last.ckpt kept next to the new one."""

import contextlib
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
from common.errors import UserError
from common.run_folder import RunFolder
from common.untrusted.description import brief
from common.untrusted.tensors import load_tensors
from engine.run.folder_backup import remove_outdated
from lightning_modules.checkpoint import as_safetensors, read_checkpoint

log = logging.getLogger(__name__)

# key -> its type, and the type of its items
TRAINING = (
    ("global_step", int, object), ("pytorch-lightning_version", str, object), ("loops", dict, dict), ("callbacks", dict, dict),
    ("optimizer_states", list, dict), ("lr_schedulers", list, dict), ("train_sums", list, Tensor),
)  # fmt: skip
WRITTEN_BY = {"optimizer_states": "the optimizer: its state_dict", "lr_schedulers": "the scheduler: its state_dict"}
PLAIN = (int, float, str, bool, type(None))
NEVER_EMPTY = ("loops", "callbacks", "optimizer_states", "train_sums", "pytorch-lightning_version")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints for Lightning, whole or not at all; keep the previous last.ckpt; read checkpoints as untrusted."""

    _has_checked = False  # states of the user's own components are checked once, at the first checkpoint

    def save_checkpoint(self, checkpoint, path, storage_options=None) -> None:
        path = Path(path)
        if not self._has_checked:
            _check_states(checkpoint)
            self._has_checked = True
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = RunFolder(path.parent.parent)
        if path == folder.last_checkpoint and path.is_file():
            _duplicate(path, folder.previous_checkpoint)
        write_checkpoint(path, checkpoint)
        remove_outdated(folder)

    def load_checkpoint(self, path, *arguments, **settings) -> dict:
        """Read a checkpoint, ignoring files outside its folder that its callbacks claim to have written.

        ModelCheckpoint removes files by these names where the path starts with its own folder, even FOLDER/../mine.
        """
        checkpoint = super().load_checkpoint(path, *arguments, **settings)
        for state in checkpoint.get("callbacks", {}).values():
            kept = state.get("best_k_models")
            if isinstance(kept, dict) and any(".." in Path(str(name)).parts for name in kept):
                log.warning("%s: the files in its best_k_models are in other folders and are ignored", path)
                state["best_k_models"] = {}
            for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
                if ".." in Path(str(state.get(name, ""))).parts:
                    state[name] = ""
        return checkpoint


def write_checkpoint(path: Path, checkpoint: dict) -> None:
    """Write a checkpoint, whole or not at all; next to best.ckpt, write the same weights as best.safetensors."""
    buffer, folder = io.BytesIO(), RunFolder(path.parent.parent)
    torch.save(checkpoint, buffer)
    write_bytes(path, buffer.getvalue())
    if path == folder.best_checkpoint:
        # It is of an earlier epoch: if writing fails, no file is better than a wrong one
        folder.best_weights.unlink(missing_ok=True)
        write_bytes(folder.best_weights, as_safetensors(checkpoint))


def _check_states(checkpoint: dict) -> None:
    """Check that the states in a checkpoint can be read again, which a user's own components may fail to ensure.

    Raises:
        UserError: a state cannot be read; names the callback or the part.
    """
    of_callbacks = checkpoint.get("callbacks", {})
    states = {f"the callback {name}: its state_dict": state for name, state in of_callbacks.items()}
    others = {key: part for key, part in checkpoint.items() if key not in ("callbacks", "state_dict")}
    states |= {
        WRITTEN_BY.get(key, f"a callback: its on_save_checkpoint, at {brief(key)},"): part
        for key, part in others.items()
    }
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory() as place:  # a full disk shows later
        file = Path(place, "state")
        for name, state in states.items():
            if _is_plain(state):  # nearly always; torch.save and load of an optimizer's take a twentieth of a short job
                continue
            try:
                torch.save(state, file)
                load_tensors(file)
            except OSError:
                raise
            except Exception as error:  # its type depends on what is in the state
                raise UserError(
                    f"{name} gives {brief(state)}, which a checkpoint cannot hold; use plain numbers, texts, lists, dicts and "
                    "tensors"
                ) from error


def _is_plain(state: object) -> bool:
    """Return whether a state has only numbers, texts and tensors, in lists and dicts, which every checkpoint can hold."""
    if type(state) is dict:
        return all(type(key) in PLAIN and _is_plain(value) for key, value in state.items())
    return all(map(_is_plain, state)) if type(state) in (list, tuple) else type(state) in (*PLAIN, Tensor)


def _duplicate(path: Path, other: Path) -> None:
    """Give a file a second name; the first name always belongs to a whole file."""
    between = other.with_name(f".{other.name}")
    between.unlink(missing_ok=True)
    try:
        os.link(path, between)
    except OSError:  # a file system without links
        shutil.copyfile(path, between)
    between.replace(other)


def intact_checkpoint(path: Path) -> Path:
    """Return `path`, or the previous checkpoint if `path` is a damaged last.ckpt.

    Raises:
        UserError: neither can be read.
    """
    try:
        _check_training(read_checkpoint(path), path)
    except UserError as error:
        folder = RunFolder(path.parent.parent)
        previous = folder.previous_checkpoint
        if path != folder.last_checkpoint or not previous.is_file():
            raise
        _check_training(read_checkpoint(previous), previous)
        log.warning("%s; resuming from the previous one: %s", error, previous)
        return previous
    return path


def check_best(path: Path) -> None:
    """Check that best.ckpt next to the resumed checkpoint is whole, since the training may end with it.

    Raises:
        UserError: it is damaged.
    """
    best = RunFolder(path.parent.parent).best_checkpoint
    if path.parent == best.parent and best.is_file():
        try:
            read_checkpoint(best)
        except UserError as error:
            raise UserError(
                f"ckpt_path={path}: {best} next to it is damaged; copy it again, or remove it: the best of the remaining "
                "epochs replaces it"
            ) from error


def _check_training(state: dict, path: Path) -> None:
    """Check the types of the parts that Lightning resumes from; Lightning itself finds errors within them."""
    for key, kind, of in TRAINING:
        part = state.get(key)
        items = list(part.values() if isinstance(part, dict) else part if isinstance(part, list) else ())
        known = type(part) is kind and all(isinstance(each, of) and (of is Tensor or each) for each in items)
        if not known or (key in NEVER_EMPTY and not part):
            raise UserError(
                f"{path}: its {key} is {'missing' if part is None else brief(part)}, so its training cannot be resumed; "
                "use another checkpoint, or start from its weights: model.weights=FILE"
            )
