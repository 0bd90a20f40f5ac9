"""Turn a trained network into a graph of ONNX or of torch.export. N images, S pixels a side, K classes."""

import contextlib
import copy
import io
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from datamodules.normalize import normalize
from inference.backends import ModelDescription
from inference.export.pillow_resize import resize_tensor

IMAGES, NORMALIZED = "images", "normalized"  # inputs: (N, H, W, 3) uint8 of any size; (N, 3, S, S) float
LOGITS, PROBABILITIES = "logits", "probabilities"  # outputs, (N, K)


class Preprocessing(nn.Module):
    """Resize and normalize images (N, H, W, 3) uint8 of one size to (N, 3, S, S), as training does."""

    def __init__(self, description: ModelDescription):
        super().__init__()
        self.description = description

    def forward(self, images: Tensor) -> Tensor:
        pixels = resize_tensor(images, self.description.image_size, self.description.fit).permute(0, 3, 1, 2)
        return normalize(pixels, self.description.mean, self.description.std)


class PreprocessedNetwork(nn.Module):
    """Compute probabilities (N, K) of images (N, H, W, 3) uint8."""

    def __init__(self, network: nn.Module, description: ModelDescription):
        super().__init__()
        self.preprocessing = Preprocessing(description)
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.preprocessing(images)).softmax(1)


def network_graph(network: nn.Module, image_size: int):
    """Return the network as an ONNX model from normalized images to logits."""
    example = torch.zeros(2, 3, image_size, image_size)
    return _onnx(plain(network), example, {0: torch.export.Dim("batch")}, NORMALIZED, LOGITS)


def add_preprocessing(core, description: ModelDescription):
    """Return an ONNX model with resizing and normalization before that of `network_graph` and a softmax after it."""
    import onnx
    from onnx import compose, helper
    from onnxscript.optimizer import remove_unused_nodes

    sizes = dict(enumerate(torch.export.Dim(name) for name in ("batch", "height", "width")))
    before = _onnx(Preprocessing(description), example_images(), sizes, IMAGES, "resized")
    core = compose.add_prefix(core, "network/", rename_inputs=False, rename_outputs=False)
    before.ir_version = core.ir_version
    model = compose.merge_models(before, core, io_map=[("resized", NORMALIZED)])
    model.graph.node.append(helper.make_node("Softmax", [LOGITS], [PROBABILITIES], axis=-1))
    shape = ["batch", len(description.classes)]
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(PROBABILITIES, onnx.TensorProto.FLOAT, shape))
    logging.getLogger("onnx_ir").setLevel(logging.WARNING)  # it logs what it removes
    remove_unused_nodes(model)  # onnxruntime would warn of what the exporter leaves over
    onnx.checker.check_model(model)
    return model


def save_onnx(model, path: Path, metadata: dict[str, str]) -> None:
    """Write an ONNX model with its metadata to one file."""
    import onnx

    _strip(model.graph)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)


def save_program(
    network: nn.Module, description: ModelDescription, path: Path, extra_files: dict[str, str], preprocessing: bool
) -> None:
    """Write a .pt2 file of torch.export, with the texts of `extra_files` inside."""
    side = description.image_size
    if preprocessing:
        module, example = PreprocessedNetwork(plain(network), description), example_images()
        sizes = dict(enumerate(torch.export.Dim(name) for name in ("batch", "height", "width")))
    else:
        module, example, sizes = plain(network), torch.zeros(2, 3, side, side), {0: torch.export.Dim("batch")}
    with quiet():
        program = torch.export.export(module.eval(), (example,), dynamic_shapes=(sizes,))
        for module in program.graph_module.modules():
            for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
                node.meta.pop("stack_trace", None)
        torch.export.save(program, path, extra_files=extra_files)


def example_images() -> Tensor:
    """Return images (2, 7, 1031, 3) uint8: smaller than any network's on one side and larger on the other."""
    return torch.zeros(2, 7, 1031, 3, dtype=torch.uint8)


def plain(network: nn.Module) -> nn.Module:
    """Return a copy on the CPU, in eval mode and in contiguous memory format."""
    return copy.deepcopy(network).cpu().float().to(memory_format=torch.contiguous_format).eval()


@contextlib.contextmanager
def quiet():
    """Silence torch's exporters, which warn of their own internals."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _onnx(module: nn.Module, example: Tensor, sizes: dict, input_name: str, output_name: str):
    with quiet():
        program = torch.onnx.export(
            module.eval(),
            (example,),
            input_names=[input_name],
            output_names=[output_name],
            dynamic_shapes=(sizes,),
            dynamo=True,
            verbose=False,
        )
    return program.model_proto


def _strip(graph) -> None:
    """Remove what the exporter notes at each node: its stack traces name local folders."""
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip(attribute.g)
