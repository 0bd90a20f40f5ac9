"""Export formats that are quick, and one that fails; `format_folder` makes the folder for --config-dir that names them."""

from pathlib import Path

import numpy as np

from inference.export.file_format import FileFormat


class First(FileFormat):
    """A file of seven bytes that always predicts the first class."""

    name, suffix, exact = "first", "_first.txt", False

    def write(self, model, path):
        path.write_bytes(b"1234567")

    def open(self, path, model):
        k = len(model.description.classes)
        return lambda pixels: np.tile(np.eye(k)[0], (len(pixels), 1))

    def open_on_one_thread(self, path, model):
        return self.open(path, model)


class Fails(First):
    """A format that knows no operator."""

    name = "fails"

    def write(self, model, path):
        raise KeyError("no operator Conv")


class Missing(First):
    """A format whose package nobody has."""

    name, packages, extra = "missing", ("no_such_package",), "onnx"


def format_folder(place: Path) -> str:
    """Write first.yaml, fails.yaml and missing.yaml; return the flag that names their folder."""
    (place / "format").mkdir(parents=True)
    for kind in (First, Fails, Missing):
        text = f"_target_: {__name__}.{kind.__name__}\n"
        (place / "format" / f"{kind.name}.yaml").write_text(text)
    return f"--config-dir={place}"
