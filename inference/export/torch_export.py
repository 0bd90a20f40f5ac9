"""Write a program of torch.export, a .pt2 file, which runs in torch without this project."""

import io
import json
from pathlib import Path

import torch

from inference.export.file_format import Computes, FileFormat, TrainedModel
from inference.export.preprocessing import PreprocessedNetwork, example_images, quiet

METADATA = "justenough.json"  # a text in the file


class TorchExport(FileFormat):
    """Write a program for batches and images of any size."""

    name, suffix = "torch_export", ".pt2"

    def write(self, model: TrainedModel, path: Path) -> None:
        """Export the network, with preprocessing if that is asked for, and remove what names local folders."""
        batch, *sides = (torch.export.Dim(name) for name in ("batch", "height", "width"))
        if model.preprocessing:
            module = PreprocessedNetwork(model.network, model.description)
            example, sizes = example_images(), (batch, *sides)
        else:
            side = model.description.image_size
            module, example, sizes = model.network, torch.zeros(2, 3, side, side), (batch,)
        with quiet():
            shapes = (dict(enumerate(sizes)),)
            program = torch.export.export(module.eval(), (example,), dynamic_shapes=shapes)
            for module in program.graph_module.modules():
                for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
                    node.meta.pop("stack_trace", None)
            written = io.BytesIO()  # into a file on a full disk torch raises a RuntimeError that does not say so
            torch.export.save(program, written, extra_files={METADATA: json.dumps(model.metadata)})
        path.write_bytes(written.getbuffer())

    def open(self, path: Path, model: TrainedModel) -> Computes:
        """Load what was just written."""
        return model.as_function(torch.export.load(path).module())
