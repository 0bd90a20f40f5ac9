"""Open untrusted files of tensors, if they are complete and of a sensible size, without executing anything in them."""

import hashlib
import re
import warnings
import zipfile
from pathlib import Path

from common.errors import UserError

LARGEST = 4 * 2**30  # bytes
LARGEST_PICKLE = 64 * 2**20  # bytes of everything but tensors; a run's has some KiB
CHECKSUM = "data_sha256"  # key in a safetensors file's header: checksum of everything after the header
LARGEST_HEADER = 16 * 2**20  # bytes of a safetensors file's names, shapes and description; a network's has some KiB
NUMBERS = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"}  # allowed in safetensors


def is_safetensors(path: Path) -> bool:
    """Return whether to read a file as safetensors, by its suffix or its first bytes, since caches have no suffixes."""
    with path.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    return path.suffix.lower() == ".safetensors" or (start[8:] == b"{" and 0 < length < path.stat().st_size)


def read_safetensors(path: Path, *, tensors: bool = True) -> tuple[dict, dict[str, str]]:
    """Return the tensors of a safetensors file, on the CPU, and the texts in its header.

    The library checks that names, shapes and offsets fit the file exactly, so nothing is larger than the file.

    Args:
        tensors: whether to read the tensors; if not, the mapping is empty.

    Raises:
        UserError: states the reason, without the name of the file.
    """
    from safetensors import SafetensorError, safe_open  # late: tables and records are read without it

    size = path.stat().st_size
    if size > LARGEST:
        raise UserError(f"{size / 2**30:.1f} GiB; at most {LARGEST / 2**30:g} GiB can be read")
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if LARGEST_HEADER < header <= size:
        raise UserError(f"a header of {header / 2**20:,.0f} MiB; at most {LARGEST_HEADER / 2**20:g} MiB can be read")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            texts, names = file.metadata() or {}, file.keys()
            written = texts.pop(CHECKSUM, None)  # older files and those of other programs have none
            if tensors and written and hashlib.sha256(path.read_bytes()[8 + header :]).hexdigest() != written:
                raise UserError(f"damaged: its weights do not match {CHECKSUM} in its header")
            for name in names:
                if (dtype := file.get_slice(name).get_dtype()) not in NUMBERS:
                    raise UserError(
                        f"{name[:100]!r} holds {dtype}; the types of weights are {', '.join(sorted(NUMBERS))}"
                    )
            return ({name: file.get_tensor(name) for name in names} if tensors else {}), texts
    except SafetensorError as error:
        raise UserError(f"not a safetensors file, or cut off: {' '.join(str(error).split())[:200]}") from error


def load_tensors(path: Path, *, archives_only: bool = True, mmap: bool = False):
    """Load the plain values and tensors of a torch or safetensors file onto the CPU.

    Every record is checked against its checksum, which torch does not do. That takes 2 to 6 ms for 5 MB and 60 to 95 ms for
    100 MB, in addition to torch's 1 to 8 ms and 90 to 110 ms (n = 3 each, one core, shared). With `mmap` there is no check.

    Args:
        archives_only: refuse files from before torch 1.6, which have no checksums.
        mmap: load tensors only when they are used.

    Raises:
        UserError: states the reason, without the name of the file.
    """
    import torch  # late: tables and records are read without it

    if is_safetensors(path):
        return read_safetensors(path)[0]
    size = path.stat().st_size
    if size > LARGEST:
        raise UserError(f"{size / 2**30:.1f} GiB; at most {LARGEST / 2**30:g} GiB can be read")
    if zipfile.is_zipfile(path):
        _check_archive(path, size, check_sums=not mmap)
    elif archives_only:
        raise UserError("not a torch archive, or cut off")
    try:
        with warnings.catch_warnings():  # torch asks to file an issue about pickles that others than torch wrote
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # its type depends on what is in the file
        text = str(error) or type(error).__name__
        if named := re.search(r"GLOBAL (\S+)", text):
            raise UserError(f"it refers to code ({named.group(1)}), which a weights file must not do") from error
        if not zipfile.is_zipfile(path):  # torch takes any other file for a pickle and stumbles over its bytes
            raise UserError("neither a torch archive nor safetensors, or cut off") from error
        found = re.search(r"WeightsUnpickler error:\s+(.+)", text)
        reason = (found.group(1) if found else text.splitlines()[0])[:200]
        raise UserError(f"torch.load with weights_only=True: {reason}") from error


def _check_archive(path: Path, size: int, *, check_sums: bool) -> None:
    """Refuse compressed records, and records larger than the file: torch writes neither, and both would fill the memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            broken = archive.testzip() if check_sums and sum(r.file_size for r in records) <= size else None
    except Exception as error:  # zipfile raises many types on a damaged file
        raise UserError(f"damaged: {error}") from error
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED:
            raise UserError(f"{record.filename[:100]!r} is compressed, which torch does not do")
        if record.filename.endswith("data.pkl") and record.file_size > LARGEST_PICKLE:
            raise UserError(
                f"{record.file_size / 2**20:.0f} MiB that are not tensors; at most {LARGEST_PICKLE / 2**20:g} MiB"
            )
    if sum(record.file_size for record in records) > size:
        raise UserError("damaged: its records are larger than the file")
    if broken is not None:
        raise UserError(f"damaged: {broken[:100]!r} does not match its checksum")
