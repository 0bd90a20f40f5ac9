"""The one place where files of tensors are opened: never running what is in them, whole, and of a size that can be."""

import re
import zipfile
from pathlib import Path

import torch

LARGEST = 4 * 2**30  # bytes
LARGEST_PICKLE = 64 * 2**20  # bytes of what is not tensors; a run's has some KiB


def load_tensors(path: Path, *, archives_only: bool = True, mmap: bool = False):
    """The plain values and tensors of a file, on the processor.

    Every record is read against its checksum, which torch leaves out: 2 to 6 ms for 5 MB and 60 to 95 ms for 100 MB, beside
    1 to 8 ms and 90 to 110 ms that torch takes for loading (n = 3 each, one core, shared). With `mmap` it is not.

    Args:
        archives_only: no file of the time before torch 1.6, which has no checksums.

    Raises:
        ValueError: says what is wrong, without the name of the file.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise ValueError(f"{size / 2**30:.1f} GiB, and {LARGEST / 2**30:g} GiB is the most")
    if zipfile.is_zipfile(path):
        _check_archive(path, size, check_sums=not mmap)
    elif archives_only:
        raise ValueError("no archive of torch, or cut off")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # what is in the file decides which one it is
        text = str(error) or type(error).__name__
        if named := re.search(r"GLOBAL (\S+)", text):
            raise ValueError(f"it names {named.group(1)}, and a file of weights names no code") from error
        told = re.search(r"WeightsUnpickler error: (.+)", text)
        reason = (told.group(1) if told else text.splitlines()[0])[:200]
        raise ValueError(f"torch.load with weights_only=True says: {reason}") from error


def _check_archive(path: Path, size: int, *, check_sums: bool) -> None:
    """torch stores records as they are: packed ones, or more bytes than the file has, would only fill the memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            broken = archive.testzip() if check_sums and sum(r.file_size for r in records) <= size else None
    except Exception as error:  # zipfile raises what it likes on a damaged file
        raise ValueError(f"damaged: {error}") from error
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{record.filename[:100]!r} is packed, which torch does not do")
        if record.filename.endswith("data.pkl") and record.file_size > LARGEST_PICKLE:
            raise ValueError(f"{record.file_size / 2**20:.0f} MiB that are no tensors")
    if sum(record.file_size for record in records) > size:
        raise ValueError("damaged: it says that it holds more than the file has bytes")
    if broken is not None:
        raise ValueError(f"damaged: {broken[:100]!r} is not what was written (checksum)")
