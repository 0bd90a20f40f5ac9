import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import export as export_script
import predict as script
import train as train_script
from common.run_folder import RunFolder
from common.run_record import RunRecord, write_record
from engine import cli
from tests.support.fake_checkpoints import DECISION, make_checkpoint, make_odd_images
from tests.support.fake_runs import change_record
from tests.support.helpers import PROJECT, SIMPLE_CNN, make_images, read_csv


@pytest.fixture
def predict(in_process):
    """Run `python predict.py ...` in this process; return status, output, errors."""
    return lambda *arguments: in_process(script, *arguments, "device=cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("run") / "checkpoints" / "best.ckpt")


@pytest.fixture
def files(tmp_path):
    return make_odd_images(tmp_path / "images", 9)


def test_the_test_split_gets_the_run_s_own_predictions_to_the_last_digit(finished_run, predict, two_colors, tmp_path):
    run = RunFolder(tmp_path / "run")
    shutil.copytree(finished_run.folder, run.path)
    best, own = f"ckpt={run.best_checkpoint}", read_csv(run.predictions("test"))
    listed = ",".join(f"{two_colors}/{row['path']}" for row in own)
    threshold = torch.load(run.best_checkpoint, weights_only=True)["decision"]["threshold"]
    for images in (f"{two_colors}/test", f"[{listed}]", run.predictions("test")):
        status, out, err = predict(best, f"images={images}", "batch_size=8", f"out={tmp_path}/out.csv")
        assert (status, err) == (0, ""), err
        columns = ["fingerprint", "predicted", "p_blue", "p_red"] + (
            ["label"] if images == run.predictions("test") else []
        )
        for mine, expected in zip(read_csv(tmp_path / "out.csv"), own, strict=True):
            assert mine["path"].endswith(expected["path"])
            assert [mine[name] for name in columns] == [expected[name] for name in columns]
            margin = float(mine["p_red"]) - threshold
            assert mine["decided"] == ("red" if margin >= 0 else "blue") or abs(margin) <= 5e-7  # six digits
            assert mine["error"] == ""
    accuracy = finished_run.record.test.accuracy
    assert f"({accuracy.correct} of {accuracy.n}, 95% interval" in out
    _, out, _ = predict(best, f"images={run.splits}", f"out={tmp_path}/all.csv")
    assert all(f"{split} accuracy: " in out for split in ("Train", "Val", "Test"))
    assert len(read_csv(tmp_path / "all.csv")) == 50


def never_tested(run: RunFolder) -> None:
    """Leave what a run without the stage test leaves."""
    record = RunRecord.read(run)
    record.test = None
    write_record(record)
    run.predictions("test").unlink()


def evaluations(run: RunFolder) -> int | None:
    test = RunRecord.read(run).test
    return test and test.test_evaluations


@pytest.fixture
def runs(finished_run, tmp_path):
    """Two runs on the same images: A, and C with another checkpoint."""
    return [RunFolder(shutil.copytree(finished_run.folder, tmp_path / name)) for name in "AC"]


@pytest.mark.thorough
@pytest.mark.parametrize("tested", [True, False], ids=["tested before", "never tested"])
def test_the_test_images_of_the_model_s_run_are_counted_whoever_lists_them(runs, predict, two_colors, tmp_path, tested):
    a, c = runs
    if not tested:
        never_tested(c)
    best, table, count = f"ckpt={c.best_checkpoint}", f"out={tmp_path}/out.csv", int(tested)
    own = [row for row in a.read_splits() if row["split"] == "test"]
    lines = [f"{two_colors / row['path']},{row['label']}" for row in own]
    (tmp_path / "without split.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    for images in (a.splits, a.predictions("test"), f"{tmp_path}/without split.csv", a.path):
        status, out, err = predict(best, f"images={images}", table)
        count += 1
        assert (status, err) == (0, "") and "ccuracy: " in out, images
        assert (evaluations(a), evaluations(c)) == (1, count), images
        assert (f"the test images were evaluated {count} times with this model" in out) == (count > 1)
    for images in (two_colors / "test", a.predictions("val")):  # no labels, no test images
        assert "were evaluated" not in predict(best, f"images={images}", table)[1]
    assert evaluations(c) == count


def test_a_copy_of_the_test_images_is_recognized_by_its_pixels(runs, predict, two_colors, tmp_path):
    _, c = runs
    copied = shutil.copytree(two_colors / "test", tmp_path / "copied")
    (copied / "red" / "000.png").rename(copied / "x.png")
    (copied / "list.csv").write_text("path,label\nx.png,red\n")
    _, out, _ = predict(f"ckpt={c.best_checkpoint}", f"images={copied}/list.csv", f"out={tmp_path}/out.csv")
    assert "the test images were evaluated 2 times with this model" in out and evaluations(c) == 2


def test_other_images_are_not_counted_and_change_nothing(runs, predict, tmp_path):
    other = make_images(tmp_path / "other", {"test/red": 3, "test/blue": 3}, seed=9)
    lines = [f"test/{color}/{n:03}.png,{color},test" for color in ("red", "blue") for n in range(3)]
    (other / "splits.csv").write_text("\n".join(["path,label,split", *lines]) + "\n")
    for run in runs:
        before = run.record.read_bytes()
        _, out, _ = predict(f"ckpt={run.best_checkpoint}", f"images={other}/splits.csv", f"out={tmp_path}/out.csv")
        assert "Test accuracy: " in out and "were evaluated" not in out
        assert run.record.read_bytes() == before


def test_images_that_were_moved_are_found_below_root_and_damaged_tables_are_named(runs, predict, two_colors, tmp_path):
    a, c = runs
    never_tested(c)
    change_record(c.path, data={"root": str(tmp_path / "gone")})
    table = f"out={tmp_path}/out.csv"
    assert predict(f"ckpt={c.best_checkpoint}", f"images={c.splits}", f"root={two_colors}", table)[0] == 0
    assert evaluations(c) == 1
    a.predictions("test").write_text("path,fingerprint\nx")
    before = a.record.read_bytes()
    status, out, err = predict(f"ckpt={a.best_checkpoint}", f"images={a.splits}", table)
    assert status == 0 and "it is unknown whether these are test images of the model" in out + err
    assert a.record.read_bytes() == before


def test_a_fold_s_model_is_counted_on_the_test_images(train, predict, tmp_path):
    fold = train(*SIMPLE_CNN, "datamodule.folds=3", "datamodule.fold=0", "trainer.max_epochs=1")
    run = RunFolder(fold.folder)
    assert predict(f"ckpt={run.best_checkpoint}", f"images={run.splits}", f"out={tmp_path}/out.csv")[0] == 0
    assert evaluations(run) == 1


def test_test_evaluations_are_counted_where_an_accuracy_on_test_is_shown(finished_run, predict, tmp_path):
    run, table = RunFolder(tmp_path / "run"), f"out={tmp_path}/out.csv"
    shutil.copytree(finished_run.folder, run.path)
    best = f"ckpt={run.best_checkpoint}"
    _, out, _ = predict(best, f"images={run.path}", table)
    assert "the test images were evaluated 2 times with this model; only the first result is unbiased" in out
    assert "Test accuracy: " in out
    assert "evaluated" not in predict(best, f"images={run.predictions('val')}", table)[1]
    assert RunRecord.read(run).test.test_evaluations == 2

    never_tested(run)
    assert "12 images" in predict(best, f"images={run.path}", table)[1]  # validation images
    assert RunRecord.read(run).test is None
    assert "evaluated" not in predict(best, f"images={run.splits}", table)[1]  # the first time
    assert RunRecord.read(run).test.test_evaluations == 1
    assert "12 images" in predict(best, f"images={run.path}", table)[1]


def test_test_images_that_were_replaced_since_are_named(finished_run, predict, two_colors, tmp_path):
    run, root = RunFolder(tmp_path / "run"), shutil.copytree(two_colors, tmp_path / "images")
    shutil.copytree(finished_run.folder, run.path)
    arguments = f"ckpt={run.best_checkpoint}", f"images={run.path}", f"root={root}", f"out={tmp_path}/out.csv"
    assert "different pixels" not in predict(*arguments)[1]
    replaced = sorted((root / "test" / "blue").iterdir())[0]
    shutil.copyfile(next((root / "train" / "red").iterdir()), replaced)
    text = f"1 of its 14 test images have different pixels than when the run was tested, such as test/blue/{replaced.name}:"
    assert text in predict(*arguments)[1]


def test_what_is_written_and_shown(predict, checkpoint, files, tmp_path):
    status, out, err = predict(f"ckpt={checkpoint}", f"images={tmp_path}/images", f"out={tmp_path}/new/place")
    assert (status, err) == (0, "")
    table = tmp_path / "new" / "place" / "predictions.csv"
    rows = read_csv(table)
    assert out.rstrip().endswith(f"Predictions: {table}") and "9 images, predicted: " in out and "... and 4 more" in out
    assert [row["path"] for row in rows] == [str(file) for file in files]
    assert {row["label"] for row in rows} == {""} and "ccuracy: " not in out
    for row in rows:
        assert row["abstained"] == str(max(float(row["p_ants"]), float(row["p_bees"])) < DECISION.confidence).lower()
    assert list(table.parent.iterdir()) == [table]


def test_without_out_each_command_has_a_folder_of_its_own(predict, checkpoint, files, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "OUTPUTS", tmp_path / "outputs")
    for count in (1, 2):
        cli.new_run_dir.cache_clear()  # as in a new process
        assert predict(f"ckpt={checkpoint}", f"images={files[0]}")[0] == 0
        assert len(list((tmp_path / "outputs" / "predictions").glob("*/predictions.csv"))) == count
    assert predict(f"ckpt={checkpoint}", "images=/nowhere")[0] == 1
    assert len(list((tmp_path / "outputs" / "predictions").iterdir())) == 2  # an error leaves no folder
    cli.new_run_dir.cache_clear()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_no_part_of_a_table(predict, checkpoint, files, tmp_path, monkeypatch, number):
    def stopped(*_):
        assert len(list((tmp_path / "new" / "place").iterdir())) == 1  # the table so far
        signal.raise_signal(number)

    monkeypatch.setattr("inference.predict.prediction_row", stopped)
    status, _, err = predict(f"ckpt={checkpoint}", f"images={tmp_path}/images", f"out={tmp_path}/new/place")
    assert (status, err) == (128 + number, f"stopped by {number.name}\n")
    assert not (tmp_path / "new").exists()


def test_unreadable_files_are_rows_and_are_counted_in_the_error(predict, checkpoint, files, tmp_path):
    (tmp_path / "images" / "letter.jpg").write_text("Dear reader")
    (tmp_path / "images" / "cut.png").write_bytes(files[1].read_bytes()[:200])
    status, out, err = predict(f"ckpt={checkpoint}", f"images={tmp_path}/images", f"out={tmp_path}/out.csv")
    rows = {Path(row["path"]).name: row for row in read_csv(tmp_path / "out.csv")}
    assert status == 1 and len(rows) == 11
    assert "not a known image format" in rows["letter.jpg"]["error"] and rows["cut.png"]["error"]
    assert rows["letter.jpg"]["predicted"] == rows["letter.jpg"]["p_ants"] == rows["letter.jpg"]["abstained"] == ""
    assert err.startswith("ERROR: 2 of 11 images could not be read (the first: ") and len(err.splitlines()) == 1
    assert "not read: 2" in out and f"Predictions: {tmp_path}/out.csv" in out
    status, _, err = predict(f"ckpt={checkpoint}", f"images={tmp_path}/images/letter.jpg", f"out={tmp_path}/one.csv")
    assert status == 1 and "1 of 1 images could not be read" in err and "letter.jpg: not a readable image" in err


def test_errors_are_one_line(predict, checkpoint, files, tmp_path):
    (tmp_path / "file").write_text("")
    images, ckpt = f"images={files[0]}", f"ckpt={checkpoint}"
    for arguments, words in (
        ([images], "ckpt is not set"),
        ([ckpt], "images is not set"),
        ([ckpt, images, "batch_size=0"], "batch_size=0: use a whole number of 1 or more"),
        ([ckpt, images, f"out={tmp_path}/file/x"], "cannot be written"),
        ([ckpt, images, "ouput=x"], "did you mean out"),
        (
            [ckpt, images, f"out={tmp_path}/a.tsv"],
            f"predictions are written as .csv; use out={tmp_path}/a.csv, or out=DIR",
        ),
    ):
        status, _, err = predict(*arguments)
        assert status == 1 and err.startswith("ERROR: ") and words in err and len(err.splitlines()) == 1, err
    assert not list(tmp_path.glob("**/predictions.csv"))


def test_errors_come_without_torch():
    code = (
        "import sys, predict\nsys.argv[1:] = ['images=/nowhere', 'ckpt=README.md']\ntry:\n"
        "    predict.cli.run_cli(predict.main)\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'lightning', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and "no such file or folder" in done.stderr


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(checkpoint, tmp_path):
    peaks = []
    for count in (500, 8000):
        root = make_images(tmp_path / str(count), {"red": count}, size=32)
        code = (
            "import resource, predict\npredict.cli.run_cli(predict.main)\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        arguments = [f"ckpt={checkpoint}", f"images={root}", f"out={tmp_path}/{count}.csv", "device=cpu"]
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.splitlines()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 20, peaks  # MiB


@pytest.mark.thorough
def test_a_network_of_16_bit_images_sees_them_as_in_training(in_process, predict, train, tmp_path):
    """By the checkpoint, by the ONNX file, after a resume and as arrays: the fingerprints and probabilities of the run."""
    pytest.importorskip("onnxscript")
    generator = np.random.default_rng(0)
    for split, n in (("train", 8), ("val", 4), ("test", 4)):
        for name, brightest in (("dim", 900), ("bright", 4000)):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(n):
                values = generator.integers(0, brightest, (24, 24)).astype(np.uint16)
                Image.fromarray(values).save(tmp_path / "data" / split / name / f"{number}.png")
    ran = train(*SIMPLE_CNN, f"datamodule.root={tmp_path}/data", "trainer.max_epochs=1")
    assert ran.status == 0, ran.err
    assert "32 by one range for all" in ran.out and not any(f.kind == "few levels" for f in ran.record.data.audit)
    assert ran.record.data.range[1] > 3900
    run = RunFolder(ran.folder)
    own = read_csv(run.predictions("test"))
    status, _, err = in_process(export_script, f"ckpt={run.best_checkpoint}", f"out={tmp_path}/a.onnx")
    assert status == 0, err
    for ckpt in (run.best_checkpoint, tmp_path / "a.onnx"):
        predict(f"ckpt={ckpt}", f"images={tmp_path}/data/test", f"out={tmp_path}/out.csv")
        for mine, expected in zip(read_csv(tmp_path / "out.csv"), own, strict=True):
            assert mine["fingerprint"] == expected["fingerprint"]
            assert float(mine["p_dim"]) == pytest.approx(float(expected["p_dim"]), abs=2e-6)
    with Image.open(tmp_path / "data" / own[0]["path"]) as image:
        (found,) = script.Predictor.from_checkpoint(run.best_checkpoint).predict(np.asarray(image))
    assert found.probabilities["dim"] == pytest.approx(float(own[0]["p_dim"]), abs=2e-6)
    again = (f"ckpt_path={run.best_checkpoint}", "stages=[test]", f"hydra.run.dir={tmp_path}/again")
    status, _, err = in_process(train_script, *again, "datamodule.range=[0,100]")
    assert status == 1 and "was trained with the range 0 to 3" in err
    assert "more than 8 bits per channel, the values" in run.model_card.read_text(encoding="utf-8")


def test_a_threshold_of_one_s_own_is_that_of_the_column_decided(finished_run, predict, two_colors, tmp_path):
    table, best = tmp_path / "out.csv", RunFolder(finished_run.folder).best_checkpoint
    arguments = (f"ckpt={best}", f"images={two_colors / 'val'}", f"out={table}")
    for threshold, count in (("0", 1.0), ("1", 0.0)):
        status, _, err = predict(*arguments, f"threshold={threshold}")
        positive = RunRecord.read(RunFolder(finished_run.folder)).decision.positive_class
        rows = read_csv(table)
        assert (status, err) == (0, "") and sum(row["decided"] == positive for row in rows) == count * len(rows)
    table.unlink()
    status, _, err = predict(*arguments, "threshold=two")
    assert status == 1 and err.startswith("ERROR: threshold=two: use a probability from 0 to 1") and not table.exists()
