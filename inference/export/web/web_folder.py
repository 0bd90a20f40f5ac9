"""Write a folder with a web page that labels images in the browser: no server computes, and no image leaves the device.

N images, K classes, h x w positions of the last feature map.
"""

import hashlib
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np

from common.atomic_io import write_json
from common.errors import UserError
from inference.backends import OnnxBackend
from inference.explain.overlay import OPACITY, viridis
from inference.export import onnx_file
from inference.export.file_format import TrainedModel
from inference.export.onnx_file import IMAGES, OnnxFile
from inference.export.verify import VerificationImages, decoded, spread
from inference.export.web import PAGE
from inference.export.web.class_maps import CLASS_MAPS, WithClassMaps, check_class_maps, find_class_weights
from inference.export.web.onnxruntime_web import VERSION, find_runtime

MODEL = "model.onnx"
DESCRIPTION = "model.json"  # what the page knows about the network
N_MAPS = 8  # images on which its maps are compared with Grad-CAM


class WebFolder(OnnxFile):
    """Write the ONNX file with its preprocessing, onnxruntime-web, which runs it in a browser, and the page.

    Args:
        cache: folder that keeps what npm fetched.
        runtime: onnxruntime-web as a tarball of `npm pack` or a folder; None: npm fetches it once.
    """

    name, suffix, is_folder, inside = "web", "_web", True, MODEL

    def __init__(self, cache: str, runtime: str | None = None):
        super().__init__()
        self.runtime, self.cache = runtime, Path(cache)
        self.found = None  # the weights of the classes of what was written

    def write(self, model: TrainedModel, path: Path) -> None:
        """Write the page, what runs the network, the network, and its description."""
        if not model.preprocessing:
            raise UserError(
                "preprocessing=false: the page of format=web needs preprocessing in the file; use preprocessing=true"
            )
        model.progress.set(f"format={self.name}: reading onnxruntime-web, or fetching it by npm")
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
            "found_range": described.range is not None
            and not described.value_range.of_all,  # as in Predictor._note_scaled
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "runtime": VERSION,
            "fit": described.fit,
            "maps": self._describe_maps(),
        }
        write_json(path / DESCRIPTION, about)

    def make_graph(self, model: TrainedModel):
        """Return the graph of the network, which also gives its class maps if they need no gradients."""
        size = model.description.image_size
        model.progress.set(f"format={self.name}: computing the gradients of the classes, for Grad-CAM")
        self.found = find_class_weights(model.network, size, model.normalized(_pixels(model)))
        if self.found is None:
            return super().make_graph(model)
        model.progress.set(f"format={self.name}: converting the network to ONNX")
        return onnx_file.network_graph(WithClassMaps(model.network, self.found), size, (CLASS_MAPS,))

    def _describe_maps(self) -> dict | None:
        """Return how the maps are colored, as in inference/explain/overlay.py; None: the network gives no maps."""
        if self.found is None:
            return None
        colors = viridis().round().astype(np.uint8)
        return {"output": CLASS_MAPS, "opacity": OPACITY, "colors": ["#" + bytes(color).hex() for color in colors]}

    def check(self, path: Path, model: TrainedModel) -> None:
        """Compare the class maps with Grad-CAM on images of the run."""
        if self.found is None:
            return
        model.progress.set(f"format={self.name}: comparing the maps of Grad-CAM")
        pixels = _pixels(model)
        session = OnnxBackend(path / MODEL, "cpu").session
        written = np.concatenate([session.run([CLASS_MAPS], {IMAGES: image[None]})[0] for image in pixels])
        check_class_maps(model.network, self.found.layer, model.normalized(pixels), written, f"format={self.name}")

    def describe(self, preprocessing: bool) -> str:
        """Return what the folder is for."""
        page = "a page for any static host, which labels images in the browser"
        if self.found is None:
            return (
                f"{page}; without Grad-CAM, because the layers after the last feature map with several positions are not "
                "linear: predict.py explain=true has it"
            )
        return f"{page} and shows where the network looks (Grad-CAM)"


def _pixels(model: TrainedModel) -> np.ndarray:
    """Return some of the images that the folder is compared on, resized for the network, (N, S, S, 3) uint8."""
    chosen = VerificationImages(spread(model.compared.images, N_MAPS), model.compared.description)
    images = [model.description.pixels(image) for image, _ in decoded(chosen, model.description)]
    return np.stack(images[:N_MAPS])
