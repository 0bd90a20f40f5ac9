"""python export.py, and its files in python predict.py; with that inference/export/graphs.py and int8.py.

Each file is made once: torch's exporter takes seconds.
"""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

import export as script
import predict as predict_script
from common.atomic_io import read_csv, write_csv
from datamodules.decode import open_image
from tests.support.fake_checkpoints import DECISION, make_checkpoint, make_odd_images, odd_copies
from tests.support.helpers import PROJECT, SHARED

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture
def export(in_process):
    """Runs `python export.py ...` in this process; returns status, output, errors."""
    return lambda *arguments: in_process(script, *arguments)


@pytest.fixture
def predict(in_process):
    return lambda *arguments: in_process(predict_script, *arguments, "device=cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder as train.py leaves it: a checkpoint, splits.csv, and a record that says where the images are."""
    folder = tmp_path_factory.mktemp("run")
    files = make_odd_images(folder / "images", 28)
    rows = [
        {"path": file.name, "label": "ants" if n % 2 else "bees", "split": ("train", "val")[n % 3 == 0]}
        for n, file in enumerate(files)
    ]
    write_csv(folder / "splits.csv", list(rows[0]), rows)
    (folder / "result.json").write_text(
        json.dumps({"schema": 1, "status": "finished", "run": {}, "data": {"root": str(folder / "images")}})
    )
    make_checkpoint(folder / "checkpoints" / "best.ckpt")
    return folder


@pytest.fixture(scope="module")
def made(run):
    """The exported files of the run, by name; made when first asked for."""
    from inference.export.export import export

    def make(format: str, preprocessing: bool = True):
        if (format, preprocessing) not in kept:
            kept[format, preprocessing] = export(
                str(run / "checkpoints" / "best.ckpt"), format=format, preprocessing=preprocessing, out=None, images=None,
                root=None, largest_difference=1e-4,
            )  # fmt: skip
        return kept[format, preprocessing]

    kept = {}
    return make


def table(path) -> tuple[list[dict], np.ndarray]:
    rows = read_csv(path)
    return rows, np.array([[float(row["p_ants"]), float(row["p_bees"])] for row in rows])


@pytest.mark.slow
def test_predict_gives_the_same_table_from_an_onnx_file(made, run, predict, tmp_path):
    for name, ckpt in (("ckpt", run / "checkpoints" / "best.ckpt"), ("onnx", made("onnx").path)):
        status, _, err = predict(f"ckpt={ckpt}", f"images={run}/images", f"out={tmp_path}/{name}.csv")
        assert (status, err) == (0, "")
    (rows, p), (theirs, q) = table(tmp_path / "ckpt.csv"), table(tmp_path / "onnx.csv")
    assert np.abs(p - q).max() <= 1e-5 and p.std() > 0.05
    same = ["path", "fingerprint", "label", "predicted", "decided", "abstained", "error"]
    assert [[row[name] for name in same] for row in rows] == [[row[name] for name in same] for row in theirs]


def test_the_file_resizes_as_pillow_does_and_takes_batches_of_any_size(made, run):
    from datamodules.decode import resize
    from inference.backends import CheckpointBackend

    before = CheckpointBackend(run / "checkpoints" / "best.ckpt", "cpu")
    session = onnxruntime.InferenceSession(made("onnx").path)
    assert [(i.name, i.type) for i in session.get_inputs()] == [("images", "tensor(uint8)")]
    assert [o.name for o in session.get_outputs()] == ["probabilities"]
    for file in sorted((run / "images").iterdir()):
        image = open_image(file)
        expected = before(np.array(resize(image, 48))[None])
        got = session.run(None, {"images": np.asarray(image)[None]})[0]
        assert np.abs(got - expected).max() <= 1e-5, file
    for shape in ((1, 1, 1, 3), (3, 48, 48, 3), (7, 500, 20, 3)):
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        one_by_one = np.concatenate([session.run(None, {"images": p[None]})[0] for p in images])
        np.testing.assert_allclose(session.run(None, {"images": images})[0], one_by_one, atol=1e-6)


def test_the_network_alone_gives_logits_of_normalized_images(made, run, predict, tmp_path):
    path = made("onnx", preprocessing=False).path
    assert path.name == "best_network.onnx"
    session = onnxruntime.InferenceSession(path)
    assert [(i.name, i.shape[1:]) for i in session.get_inputs()] == [("normalized", [3, 48, 48])]
    assert [o.name for o in session.get_outputs()] == ["logits"]
    for name, ckpt in (("ckpt", run / "checkpoints" / "best.ckpt"), ("onnx", path)):
        predict(f"ckpt={ckpt}", f"images={run}/images", f"out={tmp_path}/{name}.csv")
    assert np.abs(table(tmp_path / "ckpt.csv")[1] - table(tmp_path / "onnx.csv")[1]).max() <= 1e-5


def test_the_file_says_what_it_is(made):
    texts = onnxruntime.InferenceSession(made("onnx").path).get_modelmeta().custom_metadata_map
    told = {name: json.loads(text) for name, text in texts.items()}
    assert told["classes"] == ["ants", "bees"] and told["image_size"] == 48 and told["decision"] == DECISION
    assert told["mean"] == [0.485, 0.456, 0.406] and told["std"] == [0.229, 0.224, 0.225]
    assert told["format"] == "onnx" and told["version"]
    assert str(PROJECT).encode() not in made("onnx").path.read_bytes()  # torch's exporter notes stack traces


def test_the_proof_is_on_the_run_s_validation_images(made):
    proof = made("onnx").proof
    assert proof.n == proof.labeled == 10 and proof.words == "10 validation images"
    assert 0 < proof.largest_difference <= 1e-5 and proof.changed == 0 and proof.right_before == proof.right_after


def test_predicting_with_an_onnx_file_needs_no_torch(made, run, tmp_path):
    code = (
        "import builtins, sys\nload = builtins.__import__\n"
        "def without_torch(name, *rest):\n    assert name.split('.')[0] != 'torch', name\n    return load(name, *rest)\n"
        "builtins.__import__ = without_torch\nimport predict\npredict.command_line.start(predict.main)"
    )
    arguments = [f"ckpt={made('onnx').path}", f"images={run}/images", f"out={tmp_path}/out.csv"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0 and len(read_csv(tmp_path / "out.csv")) == 28, done.stderr


@pytest.mark.slow
def test_int8_is_calibrated_on_train_and_measured_on_val(made, run, predict, tmp_path):
    found = made("int8")
    assert found.path.name == "best_int8.onnx" and found.calibrated_on == 18
    assert found.proof.n == 10 and 1e-5 < found.proof.largest_difference < 0.2
    assert "before, " in found.proof.accuracies() and "of 10, 95% interval" in found.proof.accuracies()
    status, _, _ = predict(f"ckpt={found.path}", f"images={run}/images", f"out={tmp_path}/int8.csv")
    assert status == 0 and len(read_csv(tmp_path / "int8.csv")) == 28
    assert found.path.stat().st_size < 0.5 * made("onnx").path.stat().st_size


@pytest.mark.slow
def test_torch_export_answers_without_this_project(made, run):
    found = made("torch_export")
    assert found.path.name == "best.pt2" and found.proof.largest_difference <= 1e-5
    code = (
        "import json, sys, torch\nextra = {'justenough.json': ''}\n"
        "module = torch.export.load(sys.argv[1], extra_files=extra).module()\n"
        "print(module(torch.zeros(2, 31, 77, 3, dtype=torch.uint8)).sum().item(), 'datamodules' in sys.modules)\n"
        "print(json.loads(json.loads(extra['justenough.json'])['classes']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(found.path)], cwd=run, capture_output=True, text=True, check=True
    )
    total, ours = done.stdout.splitlines()[0].split()
    assert str(PROJECT).encode() not in found.path.read_bytes()
    assert float(total) == pytest.approx(2) and ours == "False" and done.stdout.splitlines()[1] == "['ants', 'bees']"


def test_the_command_says_what_it_made(export, run, tmp_path):
    alone = tmp_path / "alone.ckpt"
    shutil.copy(run / "checkpoints" / "best.ckpt", alone)
    status, out, err = export(f"ckpt={alone}", "preprocessing=false", f"out={tmp_path}/new/net.onnx")
    assert (status, err) == (0, "")
    assert "no splits.csv of its run beside it" in out and "compared with the checkpoint on 16 made-up images: " in out
    assert f"{tmp_path}/new/net.onnx: " in out and "normalized images (N, 3, S, S) in, logits out" in out
    assert "python predict.py ckpt=" in out and [path.name for path in (tmp_path / "new").iterdir()] == ["net.onnx"]
    status, _, err = export(f"ckpt={alone}", "format=int8")
    assert status == 1 and "format=int8 needs training images" in err and "images=DIR" in err


def test_too_large_a_difference_writes_nothing(export, run, tmp_path):
    status, _, err = export(
        f"ckpt={run}/checkpoints/best.ckpt", "preprocessing=false", f"out={tmp_path}", "largest_difference=0"
    )
    assert status == 1 and "above largest_difference=0; nothing was written" in err and not list(tmp_path.iterdir())


def test_errors_are_one_line(export, run, tmp_path, monkeypatch):
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    ckpt = f"ckpt={run}/checkpoints/best.ckpt"
    for arguments, words in (
        ([], "ckpt: nothing is given"),
        (["ckpt=nowhere.ckpt"], "nowhere.ckpt: no such checkpoint"),
        ([f"ckpt={run}"], f"ckpt={run}: is a folder; give the file, ckpt={run}/checkpoints/best.ckpt"),
        ([f"ckpt={tmp_path}/text.ckpt"], "text.ckpt: not a checkpoint"),
        ([f"ckpt={tmp_path}/a.onnx"], "is an exported file already"),
        ([ckpt, "format=onx"], "format=onx: no such format; did you mean onnx?"),
        ([ckpt, "format=executorch"], "no such format"),
        ([ckpt, "preprocessing=maybe"], "preprocessing=maybe: use true or false"),
        ([ckpt, "largest_difference=small"], "largest_difference=small"),
        ([ckpt, "images=/nowhere"], "images=/nowhere: no such file or folder"),
        ([ckpt, f"out={tmp_path}/file/x"], f"cannot be written ({tmp_path}/file is a file); use out=FILE or out=DIR"),
        ([ckpt, f"images={tmp_path}/empty"], "no images in it or below"),
    ):
        status, _, err = export(*arguments)
        assert status == 1 and err.startswith("ERROR: ") and words in err and len(err.splitlines()) == 1, err
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    status, _, err = export(ckpt)
    assert status == 1 and "onnxscript is not installed; install it with pip install -e '.[onnx]'" in err


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="needs ../shared: real images and weights")
def test_two_hundred_real_images_of_odd_sizes_and_modes(train, export, predict, tmp_path):
    weights = SHARED / "weights" / "shufflenet_v2_x0_5_trunk.pth"
    photos = SHARED / "data" / "ants_bees"
    ran = train(f"model.weights={weights}", "trainer.max_epochs=1", "stages=[fit]", "model.image_size=256", root=photos)
    best = ran.folder / "checkpoints" / "best.ckpt"
    assert ran.status == 0 and export(f"ckpt={best}")[0] == 0
    files = odd_copies(sorted(photos.rglob("*.jpg")), tmp_path / "odd", 200)
    for name, ckpt in (("ckpt", best), ("onnx", best.with_suffix(".onnx"))):
        assert predict(f"ckpt={ckpt}", f"images={tmp_path}/odd", f"out={tmp_path}/{name}.csv")[0] == 0
    tables = [
        np.array([float(row["p_ants"]) for row in read_csv(tmp_path / f"{name}.csv")]) for name in ("ckpt", "onnx")
    ]
    assert len(tables[0]) == len(files) == 200 and tables[0].std() > 0.01
    assert np.abs(tables[0] - tables[1]).max() <= 1e-5
    session = onnxruntime.InferenceSession(best.with_suffix(".onnx"))
    answers = [session.run(None, {"images": np.asarray(open_image(file))[None]})[0][0, 0] for file in files]
    assert np.abs(tables[0] - answers).max() <= 1e-5  # resized in the graph


def test_a_file_whose_answers_do_not_fit_its_classes(made, tmp_path):
    import onnx

    from inference.backends import open_backend

    model = onnx.load(made("onnx").path)
    for entry in model.metadata_props:
        entry.value = '["ants", "bees", "wasps"]' if entry.key == "classes" else entry.value
        entry.value = "null" if entry.key == "decision" else entry.value
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"other\.onnx: not an ONNX file of export\.py.*for 3 classes.*make it anew"):
        open_backend(tmp_path / "other.onnx")
