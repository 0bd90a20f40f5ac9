"""Write an ONNX file for onnxruntime and predict.py: N images, S pixels a side, K classes."""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from common.errors import UserError
from inference.backends import ModelDescription, OnnxBackend, checksum_entry
from inference.export.file_format import Computes, FileFormat, TrainedModel
from inference.export.preprocessing import Preprocessing, example_images, quiet

IMAGES, NORMALIZED = "images", "normalized"  # inputs: (N, H, W, 3) uint8 of any size; (N, 3, S, S) float
LOGITS, PROBABILITIES = "logits", "probabilities"  # outputs, (N, K)
# The lowest opset that torch's exporter writes by itself (the first whose Resize has antialiasing); most runtimes read it
OPSET, IR_VERSION = 18, 8
GRAPHS = {}  # of preprocessing, by everything they depend on: the networks of a sweep mostly share one


class OnnxFile(FileFormat):
    """Write one ONNX file with the description of the network in its metadata.

    Args:
        resize: how the file resizes images: `pillow`, exactly as training does, or `native`, with ONNX's operator Resize,
            which takes less time; its results are checked like those of int8.

    Raises:
        UserError: another `resize`.
    """

    name, suffix = "onnx", ".onnx"
    inside = ""  # name of the file, in a format that writes a folder
    packages, extra = ("onnx", "onnxscript", "onnxruntime"), "onnx"

    def __init__(self, resize: str = "pillow"):
        if resize not in ("pillow", "native"):
            raise UserError(f"format.resize={resize}: use pillow or native")
        self.native = resize == "native"
        self.exact = type(self).exact and not self.native
        self.resizes_exactly = not self.native
        if self.native and type(self).exact:  # else pillow would not make it exact
            self.exact_instead = "format.resize=pillow"
        self.versions = ""  # of the written file

    def write(self, model: TrainedModel, path: Path) -> None:
        """Write the network's graph, with preprocessing around it if that is asked for."""
        if self.native and not model.preprocessing:
            raise UserError("format.resize=native has no effect with preprocessing=false; leave out one of them")
        if self.native and model.description.fit != "squash":
            fit = f"datamodule.fit={model.description.fit}"
            raise UserError(f"format.resize=native cannot be used for a network with {fit}; use format.resize=pillow")
        graph = self.make_graph(model)
        if model.preprocessing:
            model.progress.set(f"format={self.name}: converting the preprocessing to ONNX")
            graph = add_preprocessing(graph, model.description, self.native)
        save_onnx(graph, path, model.metadata)
        self.versions = (
            f"; ONNX IR version {graph.ir_version}, opset {max(each.version for each in graph.opset_import)}"
        )

    def describe(self, preprocessing: bool) -> str:
        """Return the file's input and output, and the versions that a runtime has to support."""
        return super().describe(preprocessing) + self.versions

    def make_graph(self, model: TrainedModel):
        """Return the graph of the network only."""
        model.progress.set(f"format={self.name}: converting the network to ONNX")
        return network_graph(model.network, model.description.image_size)

    def open(self, path: Path, model: TrainedModel) -> Computes:
        """Open the file as predict.py does."""
        return OnnxBackend(path / self.inside, "cpu")

    def open_on_one_thread(self, path: Path, model: TrainedModel) -> Computes:
        """Open the file in onnxruntime on one core."""
        return OnnxBackend(path / self.inside, "cpu", threads=1)


def network_graph(network: nn.Module, image_size: int, further: Sequence[str] = ()):
    """Return the network as an ONNX model from normalized images to logits and its `further` outputs, if any."""
    example = torch.zeros(2, 3, image_size, image_size)
    return _onnx(network, example, {0: torch.export.Dim("batch")}, NORMALIZED, LOGITS, *further)


def output_graphs(network: nn.Module, image_size: int, names: Sequence[str]) -> Iterator:
    """Yield, for each output of a network with several, the ONNX model from one normalized image to that output.

    All of them cost one export, which takes seconds; each model has only what its output needs.
    """
    import onnx

    whole = _onnx(network, torch.zeros(1, 3, image_size, image_size), {}, NORMALIZED, *names)
    extractor = onnx.utils.Extractor(whole)
    for name in names:
        yield extractor.extract_model([NORMALIZED], [name])


def preprocessing_graph(description: ModelDescription, native: bool = False):
    """Return the ONNX model that resizes and normalizes images; the first call takes seconds."""
    about = description
    key = (about.image_size, about.fit, about.interpolation, *about.mean, *about.std, native)
    if key not in GRAPHS:
        sizes = dict(enumerate(torch.export.Dim(name) for name in ("batch", "height", "width")))
        GRAPHS[key] = _onnx(Preprocessing(description, native), example_images(), sizes, IMAGES, "resized")
    return copy.deepcopy(GRAPHS[key])


def add_preprocessing(core, description: ModelDescription, native: bool = False):
    """Add resizing and normalization before a model of `network_graph`, and a softmax after it."""
    import onnx
    from onnx import compose, helper
    from onnxscript.optimizer import remove_unused_nodes

    before = preprocessing_graph(description, native)
    core = compose.add_prefix(core, "network/", rename_inputs=False, rename_outputs=False)
    further = [output for output in core.graph.output if output.name != LOGITS]
    before.ir_version = core.ir_version
    model = compose.merge_models(before, core, io_map=[("resized", NORMALIZED)])
    model.graph.node.append(helper.make_node("Softmax", [LOGITS], [PROBABILITIES], axis=-1))
    shape = ["batch", len(description.classes)]
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(PROBABILITIES, onnx.TensorProto.FLOAT, shape))
    model.graph.output.extend(further)
    remove_unused_nodes(model)  # left by the exporter; onnxruntime would warn about them
    onnx.checker.check_model(model)
    return model


def save_onnx(model, path: Path, metadata: dict[str, str]) -> None:
    """Write an ONNX model with its metadata to one file, without what hinders older runtimes or names local folders."""
    import onnx

    domains = {""}
    for node in _nodes(model.graph):  # the exporter attaches stack traces, which name local folders
        del node.metadata_props[:]
        node.doc_string = ""
        domains.add(node.domain)
    used = [each for each in model.opset_import if each.domain in domains]  # the quantizer lists all that it knows
    del model.opset_import[:]
    model.opset_import.extend(used)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    content = model.SerializeToString()
    path.write_bytes(content + checksum_entry(content))


def _onnx(module: nn.Module, example: Tensor, sizes: dict, input_name: str, *output_names: str):
    with quiet():
        program = torch.onnx.export(
            module.eval(),
            (example,),
            input_names=[input_name],
            output_names=list(output_names),
            dynamic_shapes=(sizes,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
        )
    model = program.model_proto
    model.ir_version = IR_VERSION
    return model


def _nodes(graph) -> Iterator:
    """Yield the nodes of a graph and of the graphs within them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)
