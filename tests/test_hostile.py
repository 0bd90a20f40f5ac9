"""Checkpoints and pictures of a stranger: nothing in them runs, fills the memory or is waited for; each is named."""

import ast
import os
import pickle
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from callbacks.checkpoints import Best
from callbacks.predicting.picture_classifier import Classifier
from datamodules.decode import UnreadablePictureError, open_picture
from datamodules.folders import folder_catalog
from datamodules.pixels import open_store
from lightning_modules.checkpoint import epochs_done, load_classifier, load_network, read_checkpoint
from tests.helpers import PROJECT, make_pictures
from tests.made_up_checkpoint import make_checkpoint


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.fixture
def canary(tmp_path):
    """A file that hostile input tries to make; it is not there in the end, nor is the input's proof that it can be made."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


@pytest.fixture
def base(tmp_path):
    return make_checkpoint(tmp_path / "base" / "best.ckpt", image_size=16)


def changed(base: Path, path: Path, place: str, value) -> Path:
    """The checkpoint with another value at a dotted place; `state_dict.NAME` keeps the dots of its names."""
    state = torch.load(base, weights_only=True)
    node = state
    *above, last = place.split(".", 1) if place.startswith("state_dict.") else place.split(".")
    for key in above:
        node = node[key]
    node[last] = value
    torch.save(state, path)
    return path


def refused(path: Path, *words: str) -> None:
    """By everything that opens a checkpoint, with its name and these words."""
    for load in (load_network, load_classifier, Classifier.from_checkpoint):
        with pytest.raises(ValueError, match="evil") as caught:
            load(path)
        assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    "place", ["state_dict", "hyper_parameters", "hyper_parameters.classes", "decision", "callbacks"]
)
@pytest.mark.parametrize(
    ("function", "named"), [(os.system, "system"), (eval, "eval"), (exec, "exec"), (Path, "pathlib")]
)
def test_what_would_run_when_it_is_unpickled_is_named_and_does_not(base, tmp_path, canary, place, function, named):
    code = f"touch {canary}" if function is os.system else f"open({str(canary)!r}, 'w')"
    refused(changed(base, tmp_path / "evil.ckpt", place, Payload(function, code)), named, "names no code")
    with pytest.raises(ValueError, match=f"evil.*{named}"):
        epochs_done(tmp_path / "evil.ckpt")


def test_files_that_are_no_archives(base, tmp_path, canary):
    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps(Payload(os.system, f"touch {canary}")))
    refused(tmp_path / "evil.ckpt", "no archive of torch")
    torch.save(Payload(os.system, f"touch {canary}"), tmp_path / "evil.ckpt", _use_new_zipfile_serialization=False)
    refused(tmp_path / "evil.ckpt", "no archive of torch")
    from lightning_modules.weights import _from_file

    with pytest.raises(ValueError, match=r"evil\.ckpt: not a file of weights .*system"):
        _from_file(torch.nn.Linear(2, 2), tmp_path / "evil.ckpt")


@pytest.mark.parametrize(("place", "value", "words"), [
    ("hyper_parameters.classes", [f"c{index}" for index in range(100_001)], ["100,001 classes"]),
    ("hyper_parameters.classes", ["a", "\ud800"], ["its classes", "names"]),
    ("hyper_parameters.image_size", 2**40, ["its image_size is 1099511627776", "1 to 4096"]),
    ("hyper_parameters.network.image_size", 4096, ["fit the network"]),
    ("hyper_parameters.network", {"network": "os.system"}, ["network"]),
    ("hyper_parameters.network", {"network": "torchvision", "name": "../../evil"}, ["network", "resnet18"]),
    ("hyper_parameters.network", {"network": "timm", "name": "hf-hub:evil/model"}, ["network", "hf-hub:evil/model"]),
    ("hyper_parameters.network", {"network": "timm", "name": "local-dir:/tmp"}, ["network", "local-dir"]),
    ("hyper_parameters.network", {"network": "truncated", "backbone": "vgg16", "keep": 3,
     "head": {"widths": [10**12], "dropout": [0.1, 0.1]}}, ["network.head", "65,536"]),
    ("hyper_parameters.network", {"network": "simple_cnn", "image_size": 16, "dropout": [[[[1]]]]}, ["network.dropout"]),
    ("state_dict.network.features.block1.0.weight", torch.zeros(1).expand(32, 3, 3, 3), ["of fewer numbers"]),
    ("state_dict.network.features.block1.0.weight", torch.zeros(32, 3, 5, 5), ["fit the network", "(32, 3, 5, 5)"]),
    ("state_dict.network.features.block1.0.weight", torch.zeros(32, 3, 3, 3).to_sparse(), ["not a checkpoint"]),
    ("state_dict.network.features.block1.0.weight", torch.zeros(32, 3, 3, 3, dtype=torch.complex64), ["fit the network"]),
    ("decision", {"temperature": 1.0, "wanted_accuracy": 0.9, "deep": [[]]}, ["its decision"]),
    ("callbacks", Payload(bytearray, 2**60), ["evil"]),
])  # fmt: skip
def test_absurd_sizes_are_named_before_memory_is_taken(base, tmp_path, place, value, words):
    refused(changed(base, tmp_path / "evil.ckpt", place, value), *words)


def rewritten(base: Path, path: Path, change, method=zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(base) as old, zipfile.ZipFile(path, "w", method) as new:
        for record in old.infolist():
            new.writestr(record.filename, change(record.filename, old.read(record)))
    return path


def test_archives_that_unfold_in_memory(base, tmp_path):
    big = rewritten(
        base,
        tmp_path / "evil.ckpt",
        lambda name, data: b"\0" * 2**26 if "data/0" in name else data,
        zipfile.ZIP_DEFLATED,
    )
    assert big.stat().st_size < 2**20
    refused(big, "is packed")
    refused(
        rewritten(base, tmp_path / "evil.ckpt", lambda name, data: data[:16] if "data/0" in name else data),
        "record size",
    )
    same = rewritten(base, tmp_path / "evil.ckpt", lambda _, data: data)
    read_checkpoint(same)


def test_a_billion_references_to_one_list(base, tmp_path):
    value = [1]
    for _ in range(60):
        value = [value, value]
    for place in (
        "hyper_parameters.classes",
        "hyper_parameters.mean",
        "hyper_parameters.network.x",
        "decision",
        "epoch",
    ):
        path = changed(base, tmp_path / "evil.ckpt", place, value)
        with pytest.raises(ValueError, match="evil") as caught:
            epochs_done(path) if place == "epoch" else read_checkpoint(path)
        assert len(str(caught.value)) < 1000


def test_last_ckpt_names_no_file_outside_of_its_folder(tmp_path):
    best = Best(monitor="val/accuracy")
    best.dirpath = str(tmp_path)
    strategy = SimpleNamespace(broadcast=lambda value: value)
    best.setup(SimpleNamespace(ckpt_path=None, is_global_zero=True, strategy=strategy), None, "validate")
    outside = f"{tmp_path}/../mine.txt"  # Lightning would remove it after the next better epoch
    names = dict.fromkeys(("best_model_path", "kth_best_model_path", "last_model_path"), outside)
    score = torch.tensor(0.1)
    best.load_state_dict(
        {"best_model_score": score, "dirpath": str(tmp_path), "best_k_models": {outside: score}, **names}
    )
    assert (best.best_model_path, best.kth_best_model_path, best.best_k_models) == ("", "", {})


def test_what_is_no_file_is_not_waited_for(tmp_path):
    root = make_pictures(tmp_path / "root", {"a": 2, "b": 2}, size=8)
    os.mkfifo(root / "a" / "pipe.png")
    (root / "a" / "zero.png").symlink_to("/dev/zero")
    (root / "a" / "folder.png").mkdir()
    (root / "b" / "gone.png").symlink_to(tmp_path / "gone")
    catalog = folder_catalog(root)
    assert len(catalog) == 7
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(UnreadablePictureError, match=rf"{name}.*no file but a folder, pipe or device"):
            open_picture(root / "a" / name)


def test_links_that_lead_round_are_followed_once(tmp_path, caplog):
    root = make_pictures(tmp_path / "root", {"a": 2, "b": 2}, size=8)
    for name in ("x", "y", "z"):
        (root / "a" / name).symlink_to(root / "a")
    (root / "b" / "elsewhere").symlink_to(make_pictures(tmp_path / "other", {"c": 3}, size=8))
    assert len(folder_catalog(root)) == 7
    assert sum("was read already" in message for message in caplog.messages) == 3


def test_the_cache_removes_its_own_stores_alone(tmp_path):
    root = make_pictures(tmp_path / "root", {"a": 1}, size=8)
    (tmp_path / "home" / "holiday").mkdir(parents=True)
    (tmp_path / "home" / "holiday" / "photo.png").write_bytes(b"mine")
    (tmp_path / "home" / "0123456789abcdef01234567").symlink_to(tmp_path / "home" / "holiday")
    store = open_store([root / "a" / "000.png"], 8, tmp_path / "home", limit_gib=0)
    assert len(store) == 1 and (tmp_path / "home" / "holiday" / "photo.png").read_bytes() == b"mine"


NOWHERE = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.load_all", "yaml.unsafe_load",
    "yaml.full_load", "hydra.utils.call", "hydra.utils.get_object", "hydra.utils.get_method", "hydra.utils.get_class",
}  # fmt: skip
IN_ONE_FILE = {
    "hydra.utils.instantiate": ("callbacks/build.py",),
    "importlib.import_module": (
        "callbacks/build.py",
        "callbacks/predicting/backends.py",
    ),  # of names that are no constants
    "torch.load": ("lightning_modules/plain_load.py",),
    "torch.export.load": ("callbacks/exporting/making.py",),  # what it has just written
}
KEYWORDS = {"torch.load": ("weights_only", "True"), "np.load": ("allow_pickle", "False")}


def test_the_source_opens_no_file_as_code():
    found = set()
    for path in sorted(p for place in ("*.py", "*/*.py", "*/*/*.py") for p in PROJECT.glob(place)):
        name = path.relative_to(PROJECT).as_posix()
        if name.startswith(("tests/", "benchmarks/", "outputs/")):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                modules = [*(alias.name for alias in node.names), getattr(node, "module", "") or ""]
                assert not {m.split(".")[0] for m in modules} & {"pickle", "shelve", "marshal", "joblib", "dill"}, name
            if isinstance(node, ast.Call):
                called, keywords = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
                found.add(called)
                assert called not in NOWHERE and keywords.get("shell") != "True", f"{name}: {called}"
                constant = called == "importlib.import_module" and isinstance(node.args[0], ast.Constant)
                assert constant or name in IN_ONE_FILE.get(called, (name,)), f"{name}: {called}"
                if called in KEYWORDS:
                    assert KEYWORDS[called] in keywords.items(), f"{name}: {called}"
    assert found >= IN_ONE_FILE.keys() | KEYWORDS.keys()  # otherwise this test looks for names that are no more
