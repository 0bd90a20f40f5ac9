"""Back up a run's folder before a command: restore it if the command does nothing, keep it if another run replaces it."""

import logging
import os
import shutil
import stat
from pathlib import Path

from common.atomic_io import tolerate_disk_errors, write_json
from common.errors import UserError
from common.run_folder import FIGURES, RunFolder
from common.run_record import keep_test_evaluations, read_test_evaluations
from common.untrusted.json_files import read_json

log = logging.getLogger(__name__)

LARGEST_COPY = 8 * 2**20  # bytes; larger files are always written under a new name, so a link to them is enough
PRESENT = ".checkpoints.json"  # file of a backup that lists the checkpoints of that moment, to recognize new ones
LARGEST_PRESENT = 2**20  # bytes


class FolderBackup:
    """Keep the content of a run's folder until the command has trained or measured something.

    The backup is inside the folder, so that the next command can restore it after a kill (`recover`).

    Args:
        whole: whether everything in it belongs to the run, as in a sweep; otherwise only files that a run is known to write.
        kept_in: folder for a run that another run replaces.
    """

    def __init__(self, folder: RunFolder, *, whole: bool, kept_in: Path):
        self.folder, self.whole, self.kept_in = folder, whole, kept_in
        self.holds_training = False  # a finished or begun training that would be lost
        self._place = self._kept_as = None
        self._present: set[str] | None = None  # names of the entries; None: nothing has changed yet
        self._checkpoints: dict[str, tuple] = {}

    def recover(self) -> None:
        """Restore the backup of a command that was killed, or keep it if that command had written a checkpoint."""
        shutil.rmtree(self._building, ignore_errors=True)
        for place in (self.folder.before_resume, self.folder.before_restart):
            if not place.is_dir() or place.is_symlink():
                continue
            self._place = place
            try:
                present = read_json(place / PRESENT, LARGEST_PRESENT)
            except UserError:  # unknown: keep the latest training
                present = {}
            if any(present.get(name) != [*version] for name, version in self._versions().items()):
                self.discard()
            else:
                log.info("%s: the last command was killed before it had done anything; restored", self.folder.path)
                self._present = {path.name for path in place.iterdir()} | {self.folder.checkpoints.name}
                self.restore()

    def begin(self, *, restarts: bool, extends: bool = False, kept_as: str = "") -> None:
        """Back up the folder; without checkpoints where a run resumes, since it keeps them.

        Args:
            restarts: another run starts here; back up checkpoints, too, and empty the folder.
            extends: a finished run is trained longer; back up checkpoints, too, and keep the earlier state as for a restart.
            kept_as: name under which the earlier run is kept.
        """
        self._kept_as = kept_as
        entries = self.folder.entries(self.whole)
        self._present = {path.name for path in entries}
        self._checkpoints = self._versions()
        if not restarts and not extends:
            entries = [path for path in entries if path != self.folder.checkpoints]
        if entries:
            try:
                self._building.mkdir()
                for path in entries:
                    _copy(path, self._building / path.name)
                write_json(self._building / PRESENT, self._checkpoints)
                self._place = self.folder.before_restart if restarts or extends else self.folder.before_resume
                self._building.rename(self._place)
            except (OSError, UserError) as error:
                self._place = None
                shutil.rmtree(self._building, ignore_errors=True)
                if isinstance(error, OSError):
                    error.filename = error.filename or str(self.folder.path)
                raise
        if restarts:
            for path in entries:
                _remove(path)
            self._checkpoints = {}

    @property
    def has_new_checkpoint(self) -> bool:
        """Whether a checkpoint was written since `begin`."""
        return self._present is not None and self._versions() != self._checkpoints

    def restore(self) -> None:
        """Restore the folder as it was."""
        if self._present is None:
            return
        counted = read_test_evaluations(self.folder)  # another folder's command may have counted meanwhile
        held = {path.name for path in self._place.iterdir()} if self._place else set()
        for path in self.folder.entries(self.whole):
            if path.name in held or path.name not in self._present:
                _remove(path)
        if self._place:
            for path in self._place.iterdir():
                if path.name != PRESENT:
                    path.rename(self.folder.path / path.name)
            shutil.rmtree(self._place)
        self._place = self._present = None
        keep_test_evaluations(self.folder, counted)

    def discard(self) -> None:
        """Remove the backup, or move a replaced run to `kept_in`."""
        if self._place is None:
            return
        if self._place == self.folder.before_restart:
            remove_outdated(self.folder)
            with tolerate_disk_errors(self.kept_in):  # then it stays where it is
                (self._place / PRESENT).unlink(missing_ok=True)
                kept = self._free_place()
                kept.parent.mkdir(parents=True, exist_ok=True)
                self._place.rename(kept)
                log.info("%s: the earlier run is kept in %s", self.folder.path.name, kept)
        else:
            shutil.rmtree(self._place, ignore_errors=True)
        self._place = None

    @property
    def _building(self) -> Path:
        return self.folder.before_resume.with_name(".before-copying")

    def _free_place(self) -> Path:
        """Return a place that holds no run with checkpoints; a run without them can be overwritten."""
        name = self._kept_as or "killed"
        for count in range(1, 10_000):
            place = self.kept_in / (name if count == 1 else f"{name}-{count}")
            if place.is_dir() and not any(RunFolder(place).checkpoints.glob("*.ckpt")):
                shutil.rmtree(place)
            if not place.exists():
                break
        return place

    def _versions(self) -> dict[str, tuple[int, int]]:
        return {path.name: _version(path) for path in self.folder.checkpoints.glob("*.ckpt")}


def remove_outdated(folder: RunFolder) -> None:
    """Remove predictions, card and figures of the previous network once a new one has a checkpoint; the backup has them."""
    if not folder.before_restart.is_dir():
        return
    of_network = (
        "predictions*.csv",
        "predictions*.parquet",
        folder.model_card.name,
        *(f"{name}.png" for name in FIGURES if name != "contact_sheet"),  # it shows the images
    )
    for kept in (path for name in of_network for path in folder.before_restart.glob(name)):
        path = folder.path / kept.name
        if path.is_file() and _version(path) == _version(kept):
            path.unlink()


def _version(path: Path) -> tuple[int, int]:
    """Return what changes when a file is written again; a copy has the same."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _copy(path: Path, to: Path) -> None:
    """Copy a file or a folder; links stay links."""
    if path.is_dir() and not path.is_symlink():
        shutil.copytree(path, to, symlinks=True, copy_function=_copy_file)
    else:
        _copy_file(path, to)


def _copy_file(path: str | Path, to: str | Path) -> None:
    path = Path(path)
    found = path.stat(follow_symlinks=False)
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
        raise UserError(
            f"{path}: not a file but a pipe, a socket or a device; remove it, or use another hydra.run.dir=DIR"
        )
    if path.suffix == ".ckpt" or found.st_size > LARGEST_COPY:
        try:
            os.link(path, to, follow_symlinks=False)
            return
        except (OSError, NotImplementedError):  # a file system without links
            pass
    shutil.copy2(path, to, follow_symlinks=False)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
