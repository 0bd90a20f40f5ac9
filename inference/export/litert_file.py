"""Write a LiteRT (TensorFlow Lite) file for phones, in a folder with what an app developer needs to check it.

S pixels a side, K classes.
"""

import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.progress import quiet_native
from common.text import clean
from inference.export.file_format import Computes, FileFormat, TrainedModel
from inference.export.litert_golden import copy_examples, write_golden
from inference.export.litert_metadata import with_metadata
from inference.export.verify import SYNTHETIC

MODEL, LABELS, METADATA = "model.tflite", "labels.txt", "metadata.json"
GOLDEN, EXAMPLES = "golden", "examples"  # folders
LONGEST = 200  # characters of a converter's reason


class LitertFile(FileFormat):
    """Write a folder with a file that takes one image (1, S, S, 3) uint8 and gives its probabilities (1, K).

    Args:
        golden_images: images in the folder to check other devices with: `run`, some of those that the file is compared on,
            or `synthetic`, made-up ones, if the run's must not leave this machine.

    Raises:
        UserError: another `golden_images`.
    """

    name, suffix, is_folder = "litert", "_litert", True
    packages, extra = ("litert_torch", "ai_edge_litert"), "litert"
    resizes = False

    def __init__(self, golden_images: str = "run"):
        if golden_images not in ("run", "synthetic"):
            raise UserError(f"format.golden_images={golden_images}: use run or synthetic")
        self.golden_images = golden_images
        self.golden, self.kib = "", 0.0  # which images were written, and how large the file is

    def write(self, model: TrainedModel, path: Path) -> None:
        """Convert the network with normalization and softmax, and pack its labels and description into the file."""
        if not model.preprocessing:
            raise UserError(
                f"preprocessing=false: format={self.name} has normalization and softmax in the file; use preprocessing=true, "
                "or format=onnx for the network only"
            )
        model.progress.set(f"format={self.name}: converting the network to LiteRT")
        file = path / MODEL
        file.write_bytes(with_metadata(self.convert(model), "image classifier", LABELS))
        labels = "".join(f"{clean(name)}\n" for name in model.description.classes)
        (path / LABELS).write_text(labels, encoding="utf-8")
        described = {name: json.loads(text) for name, text in model.metadata.items()}
        pack(file, {LABELS: labels, METADATA: json.dumps(described, ensure_ascii=False, indent=1)})
        fast, plain = self.open(path, model), open_litert(file.read_bytes(), plain=True)
        model.progress.set(f"format={self.name}: computing the test images in {GOLDEN}/")
        made_up = self.golden_images == "synthetic"
        self.golden = write_golden(path / GOLDEN, model, fast, plain, self.exact, made_up)
        self.kib = file.stat().st_size / 1024
        copy_examples(path / EXAMPLES)

    def convert(self, model: TrainedModel) -> bytes:
        """Return the content of the file, without labels and description."""
        return convert(self.name, model)

    def open(self, path: Path, model: TrainedModel) -> Computes:
        """Open the file in LiteRT's interpreter."""
        return open_litert((path / MODEL).read_bytes())

    def open_on_one_thread(self, path: Path, model: TrainedModel) -> Computes:
        """Open the file as a phone runs it on one core."""
        return open_litert((path / MODEL).read_bytes(), threads=1)

    def describe(self, preprocessing: bool) -> str:
        """Return the file's input and output, and which images lie beside it, for the screen."""
        golden = f"{GOLDEN}/ holds {self.golden}"
        if self.golden_images == "run" and self.golden != SYNTHETIC:
            golden += " (format.golden_images=synthetic: made-up ones in their place)"
        taken = "one image (1, S, S, 3) uint8 of the network's own size in, probabilities (1, K) out"
        return f"of it {MODEL} {self.kib:,.0f} KiB: {taken}; {golden}"


def convert(name: str, model: TrainedModel, floats_in: bool = False) -> bytes:
    """Return a LiteRT file in floats: one image (1, S, S, 3) uint8 in, probabilities (1, K) out.

    Args:
        name: of the format.
        floats_in: take the bytes as floats, as a quantizer needs.

    Raises:
        UserError: the network has an operator that cannot be converted.
    """
    import litert_torch
    import torch

    from inference.export.preprocessing import FixedSizeNetwork, quiet

    side, dtype = model.description.image_size, torch.float32 if floats_in else torch.uint8
    module = FixedSizeNetwork(model.network, model.description).eval()
    with quiet(), quiet_native(), tempfile.TemporaryDirectory() as folder:
        try:
            converted = litert_torch.convert(module, (torch.zeros(1, side, side, 3, dtype=dtype),))
        except Exception as error:  # errors of torch, jax and the converter have no common class
            lines = str(error).strip().splitlines() or ["no reason is given"]
            reason = clean(f"{type(error).__name__}: {lines[0]}", LONGEST)  # below follow its graph and traceback
            raise UserError(
                f"format={name}: this network cannot be converted to LiteRT ({reason}); nothing was written. format=onnx, "
                "which runs on phones with onnxruntime, and format=torch_export support other operators"
            ) from error
        file = Path(folder, MODEL)
        converted.export(str(file))
        return file.read_bytes()


def open_litert(content: bytes, threads: int | None = None, plain: bool = False) -> Computes:
    """Return a function that runs the content of a file image by image.

    Args:
        threads: None: as LiteRT chooses.
        plain: use the reference kernels instead of the fast ones.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kernels = OpResolverType.BUILTIN_REF if plain else OpResolverType.AUTO
    with quiet_native():
        interpreter = Interpreter(model_content=content, num_threads=threads, experimental_op_resolver_type=kernels)
        interpreter.allocate_tensors()
    (given,), (taken,) = interpreter.get_input_details(), interpreter.get_output_details()

    def compute(pixels: np.ndarray) -> np.ndarray:
        found = []
        for image in pixels:
            interpreter.set_tensor(given["index"], image[None].astype(given["dtype"]))
            interpreter.invoke()
            found.append(interpreter.get_tensor(taken["index"])[0])
        return np.stack(found)

    return compute


def pack(file: Path, texts: dict[str, str]) -> None:
    """Append texts to a file as a zip archive, which is how TensorFlow Lite keeps a model's files."""
    with zipfile.ZipFile(file, "a") as archive:
        for name, text in texts.items():
            archive.writestr(zipfile.ZipInfo(name), text)  # of 1980: the same network gives the same bytes
