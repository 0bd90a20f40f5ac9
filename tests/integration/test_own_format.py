"""A format of the user's own in `python export.py --config-dir=DIR format=NAME`, and what is wrong with one."""

import errno
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import export as script
from common.errors import UserError
from inference.export.export import export
from inference.export.file_format import FileFormat
from inference.export.onnx_file import OnnxFile
from inference.export.torch_export import TorchExport
from lightning_modules.checkpoint import load_network
from lightning_modules.network_errors import register_by_name
from tests.support.fake_checkpoints import make_checkpoint
from tests.support.helpers import content

MINE = '''
import copy
import json

import numpy as np
import torch

from common.errors import UserError
from inference.export.file_format import FileFormat


class NumpyWeights(FileFormat):
    """A NumPy file of the weights by name, for a runtime of one's own, with the description of the network as JSON."""

    name, suffix = "npz", ".npz"

    def write(self, model, path):
        if model.preprocessing:
            raise UserError("preprocessing=true: format=npz holds the network only; use preprocessing=false")
        weights = {name: tensor.numpy() for name, tensor in model.network.state_dict().items()}
        np.savez(path, description=json.dumps(model.metadata), **weights)

    def open(self, path, model):
        network = copy.deepcopy(model.network)
        with np.load(path, allow_pickle=False) as file:
            network.load_state_dict({name: torch.from_numpy(file[name]) for name in network.state_dict()})
        return model.as_function(network)
'''


class Wrong(FileFormat):
    """A format whose parts the tests replace."""

    name, suffix = "wrong", ".txt"

    def write(self, model, path):
        path.write_text("file")

    def open(self, path, model):
        return model.as_function(model.network)


class WithoutOpen(FileFormat):
    name, suffix = "half", ".txt"

    def write(self, model, path):
        path.write_text("file")


class Refuses(Wrong):
    def write(self, model, path):
        path.write_text("half of the fi")
        raise KeyError("layer\n7")


class Unwritten(Wrong):
    def write(self, model, path):
        pass


class FolderForFile(Wrong):
    def write(self, model, path):
        path.mkdir()


class Unopened(Wrong):
    def open(self, path, model):
        return None


class OfOtherShape(Wrong):
    def open(self, path, model):
        return lambda pixels: np.zeros(2)


class OfOtherWeights(Wrong):
    def open(self, path, model):
        return lambda pixels: 0.9 * model.as_function(model.network)(pixels)


class Folder(Wrong):
    """A format of two files, one of them in a folder."""

    name, suffix, is_folder = "folder", "_folder", True

    def write(self, model, path):
        (path / "inner").mkdir()
        (path / "inner" / "file.txt").write_text("file")
        (path / "readme.txt").write_text(f"{len(list(path.iterdir()))}")


class OtherFolder(Folder):
    name = "other"


class FolderOfOtherWeights(Folder):
    open = OfOtherWeights.open


class FileForFolder(Folder):
    def write(self, model, path):
        path.rmdir()
        path.write_text("file")


class EmptyFolder(Folder):
    def write(self, model, path):
        (path / "empty").touch()


class Nameless(Wrong):
    name = ""


class NeedsPackage(Wrong):
    packages = ("no_such_package",)


@pytest.fixture
def checkpoint(tmp_path):
    return make_checkpoint(tmp_path / "run" / "best.ckpt")


@pytest.fixture
def of_mine(tmp_path, in_process, monkeypatch, checkpoint):
    """Run `python export.py` with a format `mine` that names a class, and return status, output and errors."""
    (tmp_path / "conf" / "format").mkdir(parents=True)
    (tmp_path / "my_format.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)

    def run(target: str, *arguments: str):
        (tmp_path / "conf" / "format" / "mine.yaml").write_text(f"_target_: {target}\n")
        return in_process(script, f"--config-dir={tmp_path}/conf", f"ckpt={checkpoint}", "format=mine", *arguments)

    return run


def test_one_class_and_one_file_are_a_format(of_mine, checkpoint):
    status, out, err = of_mine("my_format.NumpyWeights", "preprocessing=false")
    made = checkpoint.with_name("best_network.npz")
    assert (status, err) == (0, "") and f"{made}: " in out
    assert re.search(r"16 synthetic images: probabilities differ by at most \d\.\de-0[78], 0 of 16 predictions", out), (
        out
    )
    assert "predict.py" not in out  # which does not read it
    network = load_network(checkpoint).network
    with np.load(made) as file:
        metadata = json.loads(str(file["description"]))
        assert all(np.array_equal(file[name], tensor.numpy()) for name, tensor in network.state_dict().items())
    assert json.loads(metadata["classes"]) == ["ants", "bees"] and json.loads(metadata["format"]) == "npz"

    made.unlink()
    status, _, err = of_mine("my_format.NumpyWeights")
    assert (
        status == 1 and err == "ERROR: preprocessing=true: format=npz holds the network only; use preprocessing=false\n"
    )
    status, _, err = of_mine("my_format.NumpyWeights", "format=mien")
    assert status == 1 and "format=mien: no such choice; did you mean mine or int8? Allowed: int8, " in err
    assert sorted(checkpoint.parent.iterdir()) == [checkpoint]


@pytest.mark.parametrize(("target", "words"), [
    (f"{__name__}.WithoutOpen", r"its constructor raised TypeError: Can't instantiate abstract class .*open"),
    ("my_format.Nothing", r"format\._target_=my_format\.Nothing: "),
    ("no_such_module.Format", r"format\._target_=no_such_module\.Format: cannot be imported .*install its package"),
    ("collections.Counter", r"format: collections\.Counter is not a subclass of inference\.export\.file_format\.FileFormat"),
])  # fmt: skip
def test_a_class_that_is_no_format_is_one_line(of_mine, checkpoint, target, words):
    status, _, err = of_mine(target)
    start = "ERROR: " + ("" if words.startswith("format") else rf"format=mine \({target}\): ")
    assert status == 1 and len(err.splitlines()) == 1
    assert re.match(start + words, err), err
    assert sorted(checkpoint.parent.iterdir()) == [checkpoint]


@pytest.mark.parametrize(("kind", "words"), [
    (Refuses, r"format=wrong \(.*Refuses\): write raised KeyError: 'layer\\n7'; nothing was written"),
    (Unwritten, r"format=wrong \(.*Unwritten\): its method write wrote nothing"),
    (Unopened, r"format=wrong \(.*Unopened\): what open returned raised TypeError: 'NoneType' object is not callable"),
    (OfOtherShape, r"format=wrong \(.*OfOtherShape\): the function returned by open gives \(2,\), but \(1, 2\) is expected"),
    (OfOtherWeights, r"format=wrong \(.*OfOtherWeights\): .*above largest_difference=0\.0001; nothing was written"),
    (FolderOfOtherWeights, r"format=folder \(.*\): .*above largest_difference=0\.0001; nothing was written"),
    (FolderForFile, r"format=wrong \(.*\): its method write made a folder; set is_folder = True"),
    (FileForFolder, r"format=folder \(.*\): its method write wrote nothing; it must write to the folder"),
    (EmptyFolder, r"format=folder \(.*\): its method write wrote nothing"),
    (Nameless, r"format: .*Nameless\.name is ''"),
    (NeedsPackage, r"format=wrong: no_such_package is not installed; install it with pip install no_such_package"),
])  # fmt: skip
def test_a_format_that_fails_is_named_and_leaves_nothing(checkpoint, tmp_path, kind, words):
    with pytest.raises(UserError, match=words):
        export(str(checkpoint), format=kind(), preprocessing=False, out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists() and sorted(checkpoint.parent.iterdir()) == [checkpoint]


class Branches(torch.nn.Module):
    """Does what an image decides, which no exporter of torch can write down."""

    def __init__(self, *, num_classes: int):
        super().__init__()
        self.head = torch.nn.Linear(3, num_classes)

    def forward(self, images):
        means = images.mean((2, 3))
        return self.head(2 * means if means.max().item() > 9 else means)


@pytest.mark.parametrize("kind", [OnnxFile, TorchExport])
def test_a_network_that_cannot_be_converted_is_answered_with_the_reason(tmp_path, kind):
    name = f"{Branches.__module__}.{Branches.__qualname__}"
    register_by_name([name], "register")
    path = make_checkpoint(tmp_path / "best.ckpt", network={"network": name})
    with pytest.raises(UserError, match=r": write raised GuardOnDataDependentSymNode: .*data-dependent expression"):
        export(str(path), format=kind(), preprocessing=False)
    assert list(tmp_path.iterdir()) == [path]


def test_the_python_api_takes_an_object(checkpoint, tmp_path):
    made = export(str(checkpoint), format=Wrong(), preprocessing=False, out=str(tmp_path / "out" / "name.txt"))
    assert made.path.read_text() == "file" and made.verification.largest_difference < 1e-5 and made.calibrated_on == 0


def export_folder(checkpoint, kind=Folder, out=None):
    return export(str(checkpoint), format=kind(), preprocessing=False, out=out and str(out))


def test_a_format_may_write_a_folder(checkpoint, tmp_path):
    made = export_folder(checkpoint)
    assert made.path == checkpoint.with_name("best_network_folder") and made.path.stat().st_mode & 0o777 == 0o755
    assert sorted(content(made.path)) == ["export.json", "inner/file.txt", "readme.txt"]
    manifest = json.loads((made.path / "export.json").read_text())
    assert manifest["format"] == "folder" and manifest["files"] == ["inner/file.txt", "readme.txt"]
    assert manifest["compared"]["images"] == "16 synthetic images"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert export_folder(checkpoint, out=empty).path == empty and len(content(empty)) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "run"]


def test_an_older_export_is_replaced_and_nothing_else(checkpoint, tmp_path):
    place = tmp_path / "site"
    export_folder(checkpoint, out=place)
    (place / "readme.txt").write_text("old")
    export_folder(checkpoint, out=place)
    assert (place / "readme.txt").read_text() == "1"
    for prepare, kind, words in (
        (lambda: None, OtherFolder, "contains an export of format=folder; give another folder, out=DIR, or remove it"),
        (
            lambda: (place / "CNAME").write_text("mine"),
            Folder,
            "contains files that are not an export of format=folder (CNAME)",
        ),
        (
            lambda: (place / "export.json").write_text("[]"),
            Folder,
            "contains files that are not an export of format=folder (CNAME, ",
        ),
        (
            lambda: (place / "export.json").write_text("[" * 100_000),
            Folder,
            "contains files that are not an export of format=folder (CNAME, export.json and ",
        ),
        (
            lambda: (shutil.rmtree(place), place.write_text("mine")),
            Folder,
            "is a file, but format=folder writes a folder",
        ),
    ):
        prepare()
        before = content(tmp_path)
        with pytest.raises(UserError, match=re.escape(f"out={place}: {words}")):
            export_folder(checkpoint, kind, place)
        assert content(tmp_path) == before


def test_an_older_export_stays_where_the_new_one_cannot_be_moved(checkpoint, tmp_path, monkeypatch):
    place = tmp_path / "site"
    export_folder(checkpoint, out=place)
    before, rename = content(tmp_path), Path.rename

    def fail(self, target):
        if self.name == "new":
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(UserError, match=r"site: cannot be written \(No space left on device\); use out=DIR"):
        export_folder(checkpoint, out=place)
    assert content(tmp_path) == before and sorted(path.name for path in tmp_path.iterdir()) == ["run", "site"]


def test_a_full_disk_leaves_no_empty_folder(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("inference.export.export.write_bytes", full)
    checkpoint = make_checkpoint(tmp_path / "best.ckpt")
    with pytest.raises(
        UserError, match=r"out=.*cannot be written \(No space left on device\); use out=FILE or out=DIR"
    ):
        export(str(checkpoint), format=Wrong(), preprocessing=False, out=f"{tmp_path}/new/place")
    assert [path.name for path in tmp_path.iterdir()] == ["best.ckpt"]
