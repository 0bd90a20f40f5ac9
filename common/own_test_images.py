"""The test images of a run, recognized wherever they are evaluated again."""

import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from common.errors import UserError
from common.predictions_csv import has_predictions, read_predicted_images
from common.run_folder import PROJECT, RunFolder
from common.run_record import DataInfo, RunRecord


class OwnTestImages:
    """Recognize the test images of a run: by their pixels where it was evaluated on them, else by their files.

    Args:
        run: of which a string is kept for each test image.
        root: folder of the relative paths of splits.csv, besides the one in the record; None: only that one.

    Attributes:
        data: the data in the run's record.
        unknown: why no image can be recognized; empty where they can.
    """

    def __init__(self, run: RunFolder, root: str | Path | None = None):
        self.run, self.root = run, root
        self.fingerprints: set[str] = set()
        self.files: set[str] = set()
        self.data, self.unknown = DataInfo(), ""
        try:
            self.data = RunRecord.read(run).data or self.data
            if has_predictions(run, "test"):
                self.fingerprints = {row["fingerprint"] for row in read_predicted_images(run, "test")}
            elif run.splits.is_file():
                folders = self._folders()
                test = (row["path"] for _, row in run.iterate_splits() if row["split"] == "test")
                self.files = {os.path.realpath(folder / path) for path in test for folder in folders}
        except (UserError, OSError) as error:
            self.unknown = str(error)

    def include(self, fingerprint: str, file: Path) -> bool:
        """Return whether an image is one of them: any copy of one where pixels are known, else only the file itself."""
        return fingerprint in self.fingerprints or (bool(self.files) and os.path.realpath(file) in self.files)

    def chose_the_network(self, file: Path) -> bool:
        """Return whether an image is a file of the train or validation split of the run, which its accuracy flatters."""
        return hash(os.path.realpath(file)) in self._learned

    @cached_property
    def _learned(self) -> set[int]:
        """Hashes of the files of train and val: of a million images the names would be large."""
        folders = [os.path.realpath(folder) for folder in self._folders()]
        try:
            paths = [row["path"] for _, row in self.run.iterate_splits() if row["split"] in ("train", "val")]
        except (UserError, OSError):
            return set()
        return {hash(os.path.normpath(Path(folder, path))) for path in paths for folder in folders}

    def _folders(self) -> list[Path]:
        return [Path(folder) for folder in (self.root, images_folder(self.data)) if folder is not None]

    def include_any(self, images: Iterable[tuple[str, Path]]) -> bool:
        """Return whether one of these images, fingerprint and file, is one of them."""
        return any(self.include(fingerprint, file) for fingerprint, file in images)


def images_folder(data: DataInfo) -> Path | None:
    """Return the folder of the relative paths in a run's tables; None where none is recorded or it is gone."""
    if not data.root:
        return None
    return next((folder for folder in (Path(data.root), PROJECT / data.root) if folder.is_dir()), None)
