"""Find onnxruntime-web, which runs ONNX files in a browser: given by the user, cached, or fetched once by npm."""

import hashlib
import logging
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from common.atomic_io import atomic_folder
from common.errors import UserError

log = logging.getLogger(__name__)

VERSION = "1.30.0"
PACKAGE = f"onnxruntime-web@{VERSION}"
TARBALL = f"onnxruntime-web-{VERSION}.tgz"  # as `npm pack` names it
LONGEST_WAIT = 900  # seconds for npm
BY_HAND = f"on a machine with npm: npm pack {PACKAGE}; then here: format.runtime={TARBALL}"


class RuntimeFile(NamedTuple):
    """A file of the package that the page needs."""

    member: str  # in the package
    name: str  # in the exported folder; .js, because not all servers know .mjs
    sha256: str


FILES = (
    RuntimeFile(
        "dist/ort.wasm.bundle.min.mjs", "ort.js", "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90"
    ),
    RuntimeFile(
        "dist/ort-wasm-simd-threaded.wasm",
        "ort.wasm",
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    ),
)


def find_runtime(given: str | None, cache: Path) -> dict[str, bytes]:
    """Return the files of onnxruntime-web by their names in the exported folder.

    Args:
        given: the tarball of `npm pack`, or a folder with the unpacked package; None: the cache, else npm.
        cache: folder that keeps what npm fetched.

    Raises:
        UserError: it is missing or another version, or npm is not installed or fails.
    """
    if given is not None:
        return _read(Path(str(given)), f"format.runtime={given}")
    kept = cache / f"onnxruntime-web-{VERSION}"
    if not kept.is_dir():
        _fetch(kept)
    return _read(kept, f"{kept} (fetched by npm; remove it to fetch it again)")


def _fetch(place: Path) -> None:
    """Let npm fetch the package, and keep the files that the page needs."""
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"format=web: needs the npm package {PACKAGE}, and npm is not installed; install it, or fetch the package "
            f"{BY_HAND}"
        )
    log.info("fetching %s by npm (33 MB, once; kept in %s)", PACKAGE, place)
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", PACKAGE, "--pack-destination", folder, "--loglevel=error"]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=LONGEST_WAIT, check=False
            )
            reason = _last_words(done.stderr) if done.returncode else ""
        except subprocess.TimeoutExpired:
            reason = f"no answer within {LONGEST_WAIT // 60} minutes"
        if reason or not Path(folder, TARBALL).is_file():
            raise UserError(
                f"format=web: npm could not fetch {PACKAGE} ({reason or 'it left no file'}); once there is a network run "
                f"the same command again, or fetch it {BY_HAND}"
            )
        found = _read(Path(folder, TARBALL), f"format=web: what npm fetched as {PACKAGE}")
        try:
            with atomic_folder(place) as building:
                for file in FILES:
                    target = building / file.member
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(found[file.name])
        except OSError as error:
            raise UserError(
                f"format.cache={place.parent}: cannot be written ({error.strerror}); use format.cache=DIR"
            ) from error


def _last_words(stderr: str) -> str:
    """Return the lines in which npm names its error."""
    lines = [line.removeprefix("npm error ").removeprefix("npm ERR! ") for line in stderr.splitlines() if line.strip()]
    return "; ".join(line for line in lines if "complete log" not in line)[:200] or "without a reason"


def _read(place: Path, named: str) -> dict[str, bytes]:
    """Return the files of a tarball or folder by their names in the exported folder, checked by their hashes."""
    if not place.exists():
        raise UserError(f"{named}: no such file or folder; give {TARBALL} of npm pack {PACKAGE}, or its folder")
    found = {}
    try:
        for file in FILES:
            if place.is_dir():
                path = next(p for p in (place / file.member, place / "package" / file.member) if p.is_file())
                found[file.name] = path.read_bytes()
            else:
                with tarfile.open(place, "r:gz") as tarball:
                    found[file.name] = tarball.extractfile(f"package/{file.member}").read()
    except (OSError, tarfile.TarError, EOFError, KeyError, AttributeError, StopIteration) as error:
        raise UserError(
            f"{named}: is not the npm package {PACKAGE} (it has no complete {file.member}); give {TARBALL}"
        ) from error
    for file in FILES:
        if hashlib.sha256(found[file.name]).hexdigest() != file.sha256:
            raise UserError(f"{named}: {file.member} is not from {PACKAGE} (its sha256 differs); give {TARBALL}")
    return found
