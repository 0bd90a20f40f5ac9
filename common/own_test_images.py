"""Recognize the test images of a run when they are evaluated again."""

import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from common.errors import UserError
from common.predictions_csv import predictions_file, read_predicted_images
from common.run_folder import PROJECT, RunFolder
from common.run_record import DataInfo, RunRecord


class OwnTestImages:
    """Recognize the test images of a run: by their pixels if it was evaluated on them, else by their files.

    Args:
        run: folder of the run; one string is kept in memory for each test image.
        root: another folder that the relative paths of splits.csv may start from, besides the recorded one; None: none.

    Attributes:
        data: the data in the run's record.
        unknown: why images cannot be recognized; empty if they can.
    """

    def __init__(self, run: RunFolder, root: str | Path | None = None):
        self.run, self.root = run, root
        self.fingerprints: set[str] = set()
        self.files: set[str] = set()
        self.data, self.unknown = DataInfo(), ""
        try:
            self.data = RunRecord.read(run).data or self.data
            if predictions_file(run, "test"):
                self.fingerprints = {row["fingerprint"] for row in read_predicted_images(run, "test")}
            elif run.splits.is_file():
                folders = self._folders()
                test = (row["path"] for _, row in run.iterate_splits() if row["split"] == "test")
                self.files = {os.path.realpath(folder / path) for path in test for folder in folders}
        except (UserError, OSError) as error:
            self.unknown = str(error)

    def include(self, fingerprint: str, file: Path) -> bool:
        """Return whether an image is a test image: if pixels are known, any copy of one; else only the file itself."""
        return fingerprint in self.fingerprints or (bool(self.files) and os.path.realpath(file) in self.files)

    def chose_the_network(self, file: Path) -> bool:
        """Return whether an image is a file of the run's train or validation split, on which its accuracy is too high."""
        return hash(os.path.realpath(file)) in self._learned

    @cached_property
    def _learned(self) -> set[int]:
        """Hashes of the files of train and val, since the names of a million images would take much memory."""
        folders = [os.path.realpath(folder) for folder in self._folders()]
        try:
            paths = [row["path"] for _, row in self.run.iterate_splits() if row["split"] in ("train", "val")]
        except (UserError, OSError):
            return set()
        return {hash(os.path.normpath(Path(folder, path))) for path in paths for folder in folders}

    def _folders(self) -> list[Path]:
        return [Path(folder) for folder in (self.root, images_folder(self.data)) if folder is not None]

    def include_any(self, images: Iterable[tuple[str, Path]]) -> bool:
        """Return whether any of these images, given as fingerprint and file, is a test image."""
        return any(self.include(fingerprint, file) for fingerprint, file in images)


def images_folder(data: DataInfo) -> Path | None:
    """Return the folder that the relative paths in a run's tables start from; None if it is not recorded or is gone."""
    if not data.root:
        return None
    return next((folder for folder in (Path(data.root), PROJECT / data.root) if folder.is_dir()), None)
