"""Make the page of `export.py format=web` for a checkpoint, or take the cached one, and serve it."""

import hashlib
import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from common.errors import UserError
from common.progress import Progress
from common.text import clean
from common.untrusted.json_files import read_json
from datamodules.decode import DECODER
from inference.arguments import checkpoint_argument
from inference.demo import server
from inference.export.export import LARGEST_JSON, MANIFEST, export
from inference.export.web import PAGE
from inference.export.web.onnxruntime_web import PACKAGE
from inference.export.web.web_folder import WebFolder

MADE_AGAIN = "export it again: python export.py ckpt=FILE format=web out=DIR"


def run(config: DictConfig) -> None:
    """Serve the page until it is stopped with Ctrl-C.

    Raises:
        UserError: no checkpoint, a wrong setting, no such address, or the page cannot be made.
    """
    ckpt = str(config.ckpt or "")
    server.check_address(config.host, config.port)
    if Path(ckpt, MANIFEST).is_file():
        folder = Path(ckpt)
    else:
        folder = find_or_make(
            checkpoint_argument(ckpt), config.format.runtime, str(config.format.cache), config.register
        )
    server.serve(folder, web_files(folder), config.host, config.port)


def find_or_make(checkpoint: Path, runtime: str | None, cache: str, register: Sequence[str] = ()) -> Path:
    """Return the verified folder of a checkpoint; make it unless the cache has one for this checkpoint, page and version."""
    folder = Path(cache, "web", _fingerprint(checkpoint))
    try:
        web_files(folder)
        return folder
    except UserError:  # there is none, or it is incomplete
        pass
    parent = next(each for each in folder.absolute().parents if each.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"format.cache={cache}: cannot be written; use format.cache=DIR")
    with Progress("reading the checkpoint") as progress:
        made = export(
            str(checkpoint),
            format=WebFolder(cache, runtime),
            out=str(folder),
            register=register,
            progress=progress,
        )
    print(f"compared with the checkpoint on {made.verification.describe()}")
    return made.path


def _fingerprint(checkpoint: Path) -> str:
    """Return a name for the parts of a page: checkpoint, this version, Pillow's, the page's files and the network's runtime."""
    parts = [
        _sha256(checkpoint),
        importlib.metadata.version("justenough"),
        DECODER,  # with the version of Pillow, whose resizing is in the network's file
        PACKAGE,
        *map(_sha256, sorted(PAGE.iterdir())),
    ]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:24]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def web_files(folder: Path) -> list[str]:
    """Return the names of the files of an exported web folder; nothing else is served.

    Raises:
        UserError: it is not an export of format=web, a file is missing or lies elsewhere, or the network has changed.
    """
    try:
        manifest = read_json(folder / MANIFEST, LARGEST_JSON)
    except OSError as error:
        raise UserError(f"ckpt={folder}: {MANIFEST} cannot be read ({error.strerror}); {MADE_AGAIN}") from error
    if manifest.get("format") != "web":
        of_format = clean(str(manifest.get("format")), 40)
        raise UserError(f"ckpt={folder}: contains an export of format={of_format}, which is not a page; {MADE_AGAIN}")
    names = manifest.get("files")
    for name in names if isinstance(names, list) else [""]:
        file = folder / str(name)
        if not isinstance(name, str) or not file.is_file() or file.resolve().parent != folder.resolve():
            raise UserError(f"ckpt={folder}: its file {clean(str(name), 40)} is missing; {MADE_AGAIN}")
    if not {"index.html", "model.json", "model.onnx"} <= set(names):
        raise UserError(f"ckpt={folder}: {MANIFEST} lists no page; {MADE_AGAIN}")
    if read_json(folder / "model.json", LARGEST_JSON).get("sha256") != _sha256(folder / "model.onnx"):
        raise UserError(f"ckpt={folder}: model.onnx is not the network that export.py verified; {MADE_AGAIN}")
    return names
