"""Write a LiteRT file in 8-bit integers, with activation ranges measured on training images."""

import importlib.util
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from common.atomic_io import write_json
from common.errors import UserError
from common.progress import quiet_native
from common.targets import import_extra
from inference.export import microcontroller
from inference.export.file_format import Computes, TrainedModel
from inference.export.litert_file import GOLDEN, MODEL, LitertFile, convert, open_litert
from inference.export.litert_golden import read_golden

IMAGE_RANGE = {"min": 0.0, "max": 255.0}  # of the input, so one step of it is one value of a byte


class LitertInt8(LitertFile):
    """Write a LiteRT file in integers, whose probabilities are not quite those of the checkpoint.

    If tflite-micro is installed, the file is also run as on a microcontroller; it is written even if it does not run there.

    Args:
        golden_images: as of LitertFile.
        ram_kib: RAM of a microcontroller in KiB, to say whether the file fits; None: not checked.

    Raises:
        UserError: a wrong setting, or `ram_kib` without tflite-micro.
    """

    name, suffix = "litert_int8", "_litert_int8"
    packages = (*LitertFile.packages, "ai_edge_quantizer")
    calibrates, exact, exact_instead = True, False, "format=litert"

    def __init__(self, golden_images: str = "run", ram_kib: float | None = None):
        super().__init__(golden_images)
        if ram_kib is not None:
            if isinstance(ram_kib, bool) or not isinstance(ram_kib, (int, float)) or not ram_kib > 0:
                raise UserError(f"format.ram_kib={ram_kib}: use a number of KiB above 0, e.g. 256, or null")
            import_extra(microcontroller.PACKAGE, f"format.ram_kib={ram_kib:g}", self.extra)
        self.ram_kib = ram_kib
        self._floats: bytes | None = None  # the file that is quantized
        self.on_microcontroller = ""  # how the file runs there, for the screen

    def write(self, model: TrainedModel, path: Path) -> None:
        """Write the folder, and run the file as on a microcontroller."""
        super().write(model, path)
        self.on_microcontroller = self.run_as_microcontroller(model, path)

    def run_as_microcontroller(self, model: TrainedModel, path: Path) -> str:
        """Run the file on the golden images in tflite-micro, write microcontroller.json, and return a line for the screen."""
        from lightning_modules.activation_memory import INT8_BYTES, peak_activations  # late: torch

        if importlib.util.find_spec(microcontroller.PACKAGE) is None:
            install = f'pip install -e ".[{self.extra}]"'
            return f"not run as on a microcontroller: {install} installs tflite-micro, on Linux with x86-64"
        computed = INT8_BYTES * peak_activations(model.network, model.description.image_size)
        try:
            found = microcontroller.run_as_microcontroller(path / MODEL, *read_golden(path / GOLDEN), computed)
        except UserError as error:
            return f"does not run in tflite-micro: {error}"
        write_json(path / "microcontroller.json", asdict(found))
        return found.describe(self.ram_kib)

    def describe(self, preprocessing: bool) -> str:
        """Return the file's input and output, and how it runs on a microcontroller."""
        return f"{super().describe(preprocessing)}\n{self.on_microcontroller}"

    def convert(self, model: TrainedModel) -> bytes:
        """Return the content of the file; only the softmax is computed in floats."""
        self._floats = convert(self.name, model, floats_in=True)
        model.progress.set(f"format={self.name}: calibrating and quantizing")
        return with_bytes_in(quantize(self._floats, model.calibration_images()))

    def open_unrounded(self, model: TrainedModel) -> Computes | None:
        """Open the file that was quantized, which takes the bytes as floats."""
        return open_litert(self._floats) if self._floats else None


def quantize(floats: bytes, images: Iterable[np.ndarray]) -> bytes:
    """Quantize a file of `convert` to 8 bits, weights per channel, except for its softmax and output.

    Jacob et al. 2018, arXiv:1712.05877.

    Args:
        floats: the file, which takes floats.
        images: (1, S, S, 3) uint8; their smallest and largest activations set the ranges.
    """
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe
    from ai_edge_quantizer.qtyping import TFLOperationName

    from inference.export.preprocessing import quiet  # late: torch

    with quiet_native(), quiet(), tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "floats.tflite")
        file.write_bytes(floats)
        interpreter = Interpreter(model_content=floats)
        ((signature, names),) = interpreter.get_signature_list().items()
        quantizing = quantizer.Quantizer(str(file), recipe.static_wi8_ai8())
        for kept in (TFLOperationName.SOFTMAX, TFLOperationName.OUTPUT):
            quantizing.update_quantization_recipe(regex=".*", operation_name=kept, algorithm_key="no_quantize")
        ranges: dict[str, dict] = {}
        # One at a time: over several the quantizer takes a moving average, which cuts off values above it
        for image in images:
            batch = {names["inputs"][0]: image.astype(np.float32)}
            for name, found in quantizing.calibrate({signature: [batch]}, num_threads=1).items():
                widest = ranges.setdefault(name, found)
                widest["min"] = np.minimum(widest["min"], found["min"])
                widest["max"] = np.maximum(widest["max"], found["max"])
        given = ranges[interpreter.get_input_details()[0]["name"]]
        for end, value in IMAGE_RANGE.items():
            given[end] = np.full_like(given[end], value)
        return bytes(quantizing.quantize(ranges).quantized_model)


def with_bytes_in(content: bytes) -> bytes:
    """Return a quantized file that takes uint8 instead of int8: an added operator maps 0 to 255 to -128 to 127."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    (graph,) = model.subgraphs
    inner = int(graph.inputs[0])
    tensor = schema.TensorT()
    tensor.name, tensor.type, tensor.shape = b"image", schema.TensorType.UINT8, graph.tensors[inner].shape
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale, tensor.quantization.zeroPoint = [1.0], [0]
    tensor.buffer = len(model.buffers)
    model.buffers.append(schema.BufferT())
    graph.tensors.append(tensor)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.QUANTIZE
    model.operatorCodes.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.inputs, operator.outputs = [len(graph.tensors) - 1], [inner]
    operator.builtinOptionsType = schema.BuiltinOptions.QuantizeOptions
    operator.builtinOptions = schema.QuantizeOptionsT()
    graph.operators.insert(0, operator)
    graph.inputs = [len(graph.tensors) - 1]
    for signature in model.signatureDefs or []:
        for each in signature.inputs:
            each.tensorIndex = len(graph.tensors) - 1
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
