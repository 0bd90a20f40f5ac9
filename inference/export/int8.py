"""Write an ONNX file in 8 bits: static quantization, weights per channel, activation ranges measured on training images."""

import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from common.errors import UserError
from inference.backends import OnnxBackend
from inference.export.file_format import Computes, TrainedModel
from inference.export.onnx_file import NORMALIZED, OnnxFile, add_preprocessing, save_onnx


class Int8(OnnxFile):
    """Write an ONNX file in integers, whose probabilities are not quite those of the checkpoint.

    Args:
        resize: as of OnnxFile.
        reduce_range: weights in 7 bits. With 8 bits, x86 processors without VNNI overflow and give other results; ARM and x86
            with VNNI do not, and lose less accuracy with 8 bits.
    """

    name, suffix = "onnx_int8", "_int8.onnx"
    calibrates, exact = True, False

    def __init__(self, resize: str = "pillow", reduce_range: bool = True):
        super().__init__(resize)
        if not isinstance(reduce_range, bool):
            raise UserError(f"format.reduce_range={reduce_range}: use true or false")
        self.reduce_range = reduce_range
        self._floats = None  # the graph that is quantized

    def make_graph(self, model: TrainedModel):
        """Return the quantized graph of the network."""
        self._floats = super().make_graph(model)
        model.progress.set(f"format={self.name}: calibrating and quantizing")
        return quantize(self._floats, model.calibration_batches(), self.reduce_range)

    def open_unrounded(self, model: TrainedModel) -> Computes | None:
        """Open the file with the network in floats; None with ONNX's own Resize, which is not exact."""
        if self.native or self._floats is None:
            return None
        graph = self._floats
        if model.preprocessing:
            graph = add_preprocessing(graph, model.description)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "floats.onnx")
            save_onnx(graph, file, model.metadata)
            return OnnxBackend(file, "cpu")


def quantize(model, batches: Iterable[np.ndarray], reduce_range: bool = True):
    """Return the ONNX model of a network with quantize and dequantize pairs (QDQ) around its layers.

    Jacob et al. 2018, arXiv:1712.05877.

    Args:
        model: normalized images -> logits.
        batches: normalized images (N, 3, S, S) float32; their smallest and largest activations set the ranges.
        reduce_range: weights in 7 bits instead of 8.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.batches = iter(batches)

        def get_next(self) -> dict | None:
            batch = next(self.batches, None)
            return None if batch is None else {NORMALIZED: batch}

    def is_error(record: logging.LogRecord) -> bool:  # unlike advice on preprocessing, and counts of what is done
        return record.levelno >= logging.ERROR

    with tempfile.TemporaryDirectory() as folder:
        original, prepared, quantized = (Path(folder, f"{n}.onnx") for n in ("original", "prepared", "quantized"))
        onnx.save(model, original)
        logging.getLogger().addFilter(is_error)  # onnxruntime uses the root logger; that of Progress stays as it is
        try:
            quant_pre_process(original, prepared, skip_symbolic_shape=True)
            quantization.quantize_static(
                prepared,
                quantized,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                reduce_range=reduce_range,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
        finally:
            logging.getLogger().removeFilter(is_error)
        return onnx.load(quantized)
