"""Write a folder with a web page that labels images in the browser: no server computes, and no image leaves the device."""

import hashlib
import shutil
from dataclasses import asdict
from pathlib import Path

from common.atomic_io import write_json
from common.errors import UserError
from inference.export.file_format import Computes, TrainedModel
from inference.export.onnx_file import OnnxFile
from inference.export.web.onnxruntime_web import VERSION, find_runtime

PAGE = Path(__file__).parent / "page"  # index.html and what it loads; the same for every network
MODEL = "model.onnx"
DESCRIPTION = "model.json"  # what the page knows of the network


class WebFolder(OnnxFile):
    """Write the ONNX file with its preprocessing, onnxruntime-web, which runs it in a browser, and the page.

    Args:
        runtime: onnxruntime-web as a tarball of `npm pack` or a folder; None: npm fetches it once.
        cache: folder that keeps what npm fetched.
    """

    name, suffix, is_folder = "web", "_web", True

    def __init__(self, cache: str, runtime: str | None = None):
        super().__init__()
        self.runtime, self.cache = runtime, Path(cache)

    def write(self, model: TrainedModel, path: Path) -> None:
        """Write the page, what runs the network, the network, and its description."""
        if not model.preprocessing:
            raise UserError("preprocessing=false: the page of format=web gives whole images; use preprocessing=true")
        for name, content in find_runtime(self.runtime, self.cache).items():  # first: it may be missing
            (path / name).write_bytes(content)
        for file in PAGE.iterdir():
            shutil.copyfile(file, path / file.name)
        super().write(model, path / MODEL)
        content = (path / MODEL).read_bytes()
        described = model.description
        about = {
            "classes": described.classes,
            "image_size": described.image_size,
            "decision": asdict(described.decision) if described.decision else None,
            "deep": described.range is not None,  # trained on images of more than 8 bits, which no browser shows
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "runtime": VERSION,
        }
        write_json(path / DESCRIPTION, about)

    def open(self, path: Path, model: TrainedModel) -> Computes:
        """Open the network of the folder as predict.py does."""
        return super().open(path / MODEL, model)

    def open_on_one_thread(self, path: Path, model: TrainedModel) -> Computes:
        """Open the network of the folder as onnxruntime runs it on one core outside of a browser."""
        return super().open_on_one_thread(path / MODEL, model)

    def describe(self, preprocessing: bool) -> str:
        """Return what the folder is for."""
        return "a page for any static host, which labels images in the browser"
