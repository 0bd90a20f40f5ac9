"""Write an ONNX file in 8 bits: static, weights per channel, ranges of the activations measured on training images."""

import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from inference.export.file_format import TrainedModel
from inference.export.onnx_file import NORMALIZED, OnnxFile


class Int8(OnnxFile):
    """Write an ONNX file in whole numbers, whose probabilities are not quite those of the checkpoint."""

    name, suffix = "int8", "_int8.onnx"
    calibrates, exact = True, False

    def make_graph(self, model: TrainedModel):
        """Return the quantized graph of the network."""
        return quantize(super().make_graph(model), model.calibration_batches())


def quantize(model, batches: Iterable[np.ndarray]):
    """Return the ONNX model of a network with quantize and dequantize pairs (QDQ) around its layers.

    Jacob et al. 2018, arXiv:1712.05877.

    Args:
        model: normalized images -> logits.
        batches: normalized images (N, 3, S, S) float32, whose smallest and largest activations set the ranges.
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

    level = logging.getLogger().level
    with tempfile.TemporaryDirectory() as folder:
        original, prepared, quantized = (Path(folder, f"{n}.onnx") for n in ("original", "prepared", "quantized"))
        onnx.save(model, original)
        logging.getLogger().setLevel(logging.ERROR)  # its advice on preprocessing goes to the root logger
        try:
            quant_pre_process(original, prepared, skip_symbolic_shape=True)
            quantization.quantize_static(
                prepared,
                quantized,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,  # 7 bits of a weight: with 8, processors without VNNI overflow and give other results
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
        finally:
            logging.getLogger().setLevel(level)
        return onnx.load(quantized)
