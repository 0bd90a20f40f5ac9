"""deploy=FORMAT: the network as a file, what it costs, and what is known early; with a format that costs a known accuracy."""

import re
from types import SimpleNamespace

import pytest

import predict
from common.errors import UserError
from common.run_record import RunRecord, write_record
from engine.run import deploy
from evaluation.intervals import wilson
from tests.support.fake_format import allow_any_agreement, format_folder
from tests.support.helpers import SIMPLE_CNN, read_csv

QUICK = (*SIMPLE_CNN, "trainer.max_epochs=1")


@pytest.fixture
def formats(tmp_path, monkeypatch):
    allow_any_agreement(monkeypatch)
    return format_folder(tmp_path / "conf")


def test_a_run_ends_with_the_costs_of_its_file(train, formats):
    ran = train(formats, *QUICK, "deploy=first")
    assert ran.status == 0, ran.err
    record, found = ran.record, ran.record.deployed
    assert (found.format, found.file, found.bytes, found.error) == ("first", "checkpoints/best_first.txt", 7, None)
    assert (ran.folder / found.file).read_bytes() == b"1234567"
    for metrics, checkpoint, n, images in (
        (found.val, record.val, 12, "12 validation images"), (found.test, record.test, 14, "14 test images")
    ):  # fmt: skip
        assert (metrics.n, metrics.accuracy.n, metrics.images) == (n, n, images)
        assert metrics.accuracy.value == 0.5 and metrics.cost.value == pytest.approx(checkpoint.accuracy.value - 0.5)
        assert (metrics.accuracy.low, metrics.accuracy.high) == pytest.approx(wilson(n / 2, n))
        assert metrics.cost.low <= metrics.cost.value <= metrics.cost.high
        assert metrics.changed == sum(
            row["predicted"] != "blue"
            for row in read_csv(ran.folder / {12: "predictions_val.csv", 14: "predictions.csv"}[n])
        )
    assert found.latency.threads == 1 and found.latency.latency_p50_ms <= found.latency.latency_p95_ms
    assert (
        "as first: 0.00684 KiB, " in ran.out
        and "as first: accuracy 0.500 (0.253 to 0.747) on 12 validation images" in ran.out
    )
    assert "as first: accuracy 0.500 " in (ran.folder / "MODEL_CARD.md").read_text()
    assert "deploy" not in record.run.settings  # a run that differs only in this is the same training


@pytest.mark.slow
def test_the_file_is_that_of_export_py_which_predict_py_reads(train, two_colors, in_process, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    ran = train(*QUICK, "deploy=onnx")
    found = ran.record.deployed
    assert found.val.largest_difference < 1e-5 and found.val.changed == found.test.changed == 0
    assert found.val.accuracy == ran.record.val.accuracy and found.test.accuracy == ran.record.test.accuracy
    file = ran.folder / found.file
    assert file.stat().st_size == found.bytes
    status, _, err = in_process(predict, f"ckpt={file}", f"images={two_colors / 'test'}", f"out={tmp_path / 'out.csv'}")
    assert (status, err) == (0, "")
    rows = read_csv(tmp_path / "out.csv")
    right = sum(row["predicted"] == row["path"].split("/")[-2] for row in rows)
    assert (right, len(rows)) == (found.test.accuracy.correct, found.test.accuracy.n)


@pytest.mark.parametrize(("arguments", "message"), [
    (["deploy=web"], "deploy=web: the page computes with the same file as deploy=onnx; use that"),
    (["deploy=onxx"], "deploy=onxx: no such format; did you mean onnx"),
    pytest.param(["deploy=''"], "deploy=: no such format; allowed: ", marks=pytest.mark.thorough),
    pytest.param(["deploy=3"], "deploy=3: no such format; allowed: ", marks=pytest.mark.thorough),
    pytest.param(["deploy=[onnx,onnx_int8]"], "deploy=['onnx', 'onnx_int8']: no such format", marks=pytest.mark.thorough),
    (["deploy=missing"], 'deploy=missing: no_such_package is not installed; install it with pip install -e ".[onnx]"'),
    (["deploy=first", "stages=[cost]"], "deploy=first: stages=[cost] trains and evaluates no network"),
    (["-m", "deploy=first,fails"], "deploy=first,fails: applies to the whole sweep and cannot be swept; give one"),
    (["-m", "deploy=first", "stages=cost"], "deploy=first: stages=[cost] trains and evaluates no network"),
    pytest.param(["-m", "deploy=first", "stages=null"], "stages=null: null is not a stage", marks=pytest.mark.thorough),
    pytest.param(["-m", "deploy=web"], "deploy=web: the page", marks=pytest.mark.thorough),
])  # fmt: skip
def test_what_cannot_be_is_known_before_anything_is_trained(train, formats, tmp_path, arguments, message):
    key = "hydra.sweep.dir" if "-m" in arguments else "hydra.run.dir"
    ran = train(formats, *QUICK, *arguments, f"{key}={tmp_path / 'out'}")
    assert ran.status == 1 and ran.err.startswith(f"ERROR: {message}") and len(ran.err.splitlines()) == 1, ran.err
    assert not (tmp_path / "out").exists() and "epoch" not in ran.out


def test_a_stage_by_itself_trains_too(monkeypatch):
    """A sweep with stages=fit was refused: as a list, this text is f, i and t."""
    monkeypatch.setattr(deploy, "make_format", lambda name: SimpleNamespace(packages=(), extra=""))
    deploy.check_deploy("first", "fit")
    with pytest.raises(UserError, match=r"deploy=first: stages=\[cost\] trains and evaluates no network"):
        deploy.check_deploy("first", "cost")


@pytest.mark.thorough
def test_a_format_that_fails_costs_no_run_which_is_measured_later_in_another_one(train, formats):
    ran = train(formats, *QUICK, "deploy=fails", "datamodule.select_on=test")
    found = ran.record.deployed
    assert ran.status == 0 and ran.record.status == "finished" and ran.record.test is not None
    assert found.file is None and "no operator Conv" in found.error
    assert re.search(r"WARNING: deploy=fails: not exported: .*no operator Conv", ran.out + ran.err)
    assert any("no operator Conv" in each for each in ran.record.run.warnings)
    assert "as fails: no file: " in ran.out

    again = (f"hydra.run.dir={ran.folder}", f"ckpt_path={ran.folder / 'checkpoints' / 'best.ckpt'}", "stages=[test]")
    evaluated = train(formats, *again, "deploy=first", to=ran.folder, small=False)
    assert evaluated.status == 0, evaluated.err
    found = evaluated.record.deployed
    assert (found.format, found.error, found.bytes) == ("first", None, 7)
    # Without validation images: accuracy on test, the comparison on training images
    assert found.val is None and found.test.accuracy.value == 0.5
    assert found.other.images == "24 training images" and found.other.accuracy is None


def test_the_reason_why_there_is_no_file_is_whole_with_its_advice_and_of_a_library_shortened(monkeypatch):
    def reason(error):
        monkeypatch.setattr(deploy, "_deploy", lambda *arguments: (_ for _ in ()).throw(error))
        return deploy.deploy(SimpleNamespace(), "first", None).error

    assert reason(UserError(f"{'long ' * 100}; allow it")) == f"{'long ' * 100}; allow it"
    assert len(shortened := reason(RuntimeError("long " * 100))) == 300 and shortened.endswith("…")


@pytest.mark.thorough
def test_a_sweep_that_has_finished_is_exported_without_training(train, formats, tmp_path):
    sweep = tmp_path / "sweep"
    arguments = (formats, "-m", *QUICK, "seed=1,2", f"hydra.sweep.dir={sweep}")
    assert train(*arguments).status == 0
    trained = {path: path.stat().st_mtime_ns for path in sweep.rglob("metrics.csv")}
    assert len(trained) == 2 and "exported" not in (sweep / "report.md").read_text()

    ran = train(*arguments, "deploy=first")
    assert ran.status == 0, ran.err
    assert {path: path.stat().st_mtime_ns for path in sweep.rglob("metrics.csv")} == trained
    assert "Exporting 2 runs in turn as first" in ran.out
    records = [RunRecord.read(path) for path in sorted(sweep.rglob("result.json"))]
    assert [each.deployed.val.accuracy.value for each in records] == [0.5, 0.5]
    assert all(each.deployed.test is None for each in records)  # evaluated on test already
    assert "Exported files" in (sweep / "report.html").read_text()
    (row,) = read_csv(sweep / "table.csv")
    assert (row["exported_as"], float(row["exported_accuracy"]), float(row["exported_bytes"])) == ("first", 0.5, 7)

    records[0].deployed = None  # only the one that has no file is exported again
    write_record(records[0])
    ran = train(*arguments, "deploy=first")
    assert "Exporting 1 run in turn as first" in ran.out
