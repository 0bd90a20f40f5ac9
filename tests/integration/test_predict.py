import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import predict as script
from common.atomic_io import read_csv
from reports.report import write_report
from tests.support.fake_checkpoints import DECISION, make_checkpoint, make_odd_images
from tests.support.helpers import PROJECT, make_images


@pytest.fixture
def predict(in_process):
    """Runs `python predict.py ...` in this process; returns status, output, errors."""
    return lambda *arguments: in_process(script, *arguments, "device=cpu")


@pytest.fixture
def checkpoint(tmp_path):
    return make_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")


@pytest.fixture
def files(tmp_path):
    return make_odd_images(tmp_path / "images", 9)


ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}


def lines(path, without=()) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in without} for row in read_csv(path)]


def test_the_test_split_gets_the_run_s_own_predictions_to_the_last_digit(train, predict, two_colors, tmp_path):
    ran = train()
    own = lines(ran.folder / "predictions.csv")
    best = f"ckpt={ran.folder}/checkpoints/best.ckpt"
    listed = ",".join(f"{two_colors}/{row['path']}" for row in own)
    decision = torch.load(ran.folder / "checkpoints" / "best.ckpt", weights_only=True)["decision"]
    for images in (f"{two_colors}/test", f"[{listed}]", f"{ran.folder}/predictions.csv"):
        status, out, err = predict(best, f"images={images}", "batch_size=8", f"out={tmp_path}/out.csv")
        assert (status, err) == (0, ""), err
        rows = lines(tmp_path / "out.csv")
        for mine, its in zip(rows, own, strict=True):
            assert mine["path"].endswith(its["path"])
            same = ["fingerprint", "predicted", "p_blue", "p_red"] + (["label"] if "predictions.csv" in images else [])
            assert [mine[name] for name in same] == [its[name] for name in same]
            margin = float(mine["p_red"]) - decision["threshold"]
            assert mine["decided"] == ("red" if margin >= 0 else "blue") or abs(margin) <= 5e-7  # six digits
            assert mine["error"] == ""
    accuracy = ran.record["test"]["accuracy"]
    assert f"({accuracy['correct']} of {accuracy['n']}, 95% interval" in out
    _, out, _ = predict(best, f"images={ran.folder}/splits.csv", f"out={tmp_path}/all.csv")
    assert (
        all(f"Accuracy {split}: " in out for split in ("train", "val", "test"))
        and len(lines(tmp_path / "all.csv")) == 50
    )


def test_a_look_at_the_test_images_of_the_run_is_counted(train, predict, two_colors, tmp_path):
    ran, other = train("trainer.max_epochs=1"), train("trainer.max_epochs=1", "stages=[fit]")
    best, table = f"ckpt={ran.folder}/checkpoints/best.ckpt", f"out={tmp_path}/out.csv"
    assert ran.record["test"]["test_evaluations"] == 1
    for count, images in enumerate((ran.folder, ran.folder / "predictions.csv", ran.folder / "splits.csv"), start=2):
        _, out, _ = predict(best, f"images={images}", table)
        assert (
            ran.record["test"]["test_evaluations"] == count
            and f"opened for the {count}. time" in out
            and "Accuracy test: " in out
        )
    for images in (ran.folder / "predictions_val.csv", two_colors / "test", other.folder / "splits.csv"):
        assert "opened for" not in predict(best, f"images={images}", table)[1]
    assert ran.record["test"]["test_evaluations"] == 4 and other.record["test"] is None

    best = f"ckpt={other.folder}/checkpoints/best.ckpt"
    assert "12 images" in predict(best, f"images={other.folder}", table)[1]  # validation: test is closed
    _, out, _ = predict(best, f"images={other.folder}/splits.csv", table)
    assert other.record["test"] == {"test_evaluations": 1} and "opened for" not in out
    assert "12 images" in predict(best, f"images={other.folder}", table)[1]
    written = write_report([str(ran.folder), str(other.folder)])
    assert len(read_csv(written.page.with_name("table.csv"))) == 2


def test_what_is_written_and_shown(predict, checkpoint, files, tmp_path):
    status, out, err = predict(f"ckpt={checkpoint}", f"images={tmp_path}/images", f"out={tmp_path}/new/place")
    assert (status, err) == (0, "")
    table = tmp_path / "new" / "place" / "predictions.csv"
    assert out.rstrip().endswith(f"Predictions: {table}") and "9 images: ants " in out and "... and 4 more" in out
    assert [row["path"] for row in lines(table)] == [str(file) for file in files]
    assert {row["label"] for row in lines(table)} == {""} and "Accuracy" not in out
    for row in lines(table):
        assert row["abstained"] == str(max(float(row["p_ants"]), float(row["p_bees"])) < DECISION["confidence"]).lower()
    assert list(table.parent.iterdir()) == [table]


def test_without_out_each_command_has_a_folder_of_its_own(predict, checkpoint, files, tmp_path, monkeypatch):
    from engine import cli

    monkeypatch.setattr(cli, "OUTPUTS", tmp_path / "outputs")
    for count in (1, 2):
        cli.new_run_dir.cache_clear()  # as in a new process
        assert predict(f"ckpt={checkpoint}", f"images={files[0]}")[0] == 0
        assert len(list((tmp_path / "outputs" / "predictions").glob("*/predictions.csv"))) == count
    cli.new_run_dir.cache_clear()


def test_unreadable_files_are_lines_and_the_last_line_counts_them(predict, checkpoint, files, tmp_path):
    (tmp_path / "images" / "letter.jpg").write_text("Dear reader")
    (tmp_path / "images" / "cut.png").write_bytes(files[1].read_bytes()[:200])
    status, out, err = predict(f"ckpt={checkpoint}", f"images={tmp_path}/images", f"out={tmp_path}/out.csv")
    rows = {Path(row["path"]).name: row for row in lines(tmp_path / "out.csv")}
    assert status == 1 and len(rows) == 11
    assert "no known image format" in rows["letter.jpg"]["error"] and rows["cut.png"]["error"]
    assert rows["letter.jpg"]["predicted"] == rows["letter.jpg"]["p_ants"] == rows["letter.jpg"]["abstained"] == ""
    assert err.startswith("ERROR: 2 of 11 images could not be read (the first: ") and len(err.splitlines()) == 1
    assert "not read: 2" in out and f"Predictions: {tmp_path}/out.csv" in out
    status, _, err = predict(f"ckpt={checkpoint}", f"images={tmp_path}/images/letter.jpg", f"out={tmp_path}/one.csv")
    assert status == 1 and "1 of 1 images could not be read" in err and "letter.jpg: not a readable image" in err


def test_errors_are_one_line(predict, checkpoint, files, tmp_path):
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    torch.save({"state_dict": {}, "hyper_parameters": {}}, tmp_path / "other.ckpt")
    foreign = torch.load(checkpoint, weights_only=True)
    foreign["hyper_parameters"]["network"] = {"network": "evil.module"}
    torch.save(foreign, tmp_path / "foreign.ckpt")
    foreign["hyper_parameters"]["network"] = {"network": "torchvision", "name": "resnet18"}
    torch.save(foreign, tmp_path / "other_network.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(checkpoint.read_bytes()[:2000])
    (tmp_path / "made.pt2").write_text("")
    images, ckpt = f"images={files[0]}", f"ckpt={checkpoint}"
    for arguments, words in (
        ([images], "ckpt: nothing is given"),
        (["ckpt=", images], "ckpt: nothing is given"),
        ([ckpt], "images: nothing is given"),
        ([ckpt, "images="], "images: nothing is given"),
        ([ckpt, "images=3"], "images=3: no such file or folder"),
        ([f"ckpt={tmp_path}/run", images], f"is a folder; give the file, ckpt={tmp_path}/run/checkpoints/best.ckpt"),
        ([f"ckpt={tmp_path}/empty", images], "is a folder; give the file, ckpt=RUN/checkpoints/best.ckpt"),
        ([f"ckpt={tmp_path}/other_network.ckpt", images], "do not fit the network that it names"),
        ([f"ckpt={tmp_path}/cut.ckpt", images], "cut.ckpt: not a checkpoint, or a damaged one"),
        ([ckpt, images, "batch_size=0"], "batch_size=0: use a whole number of 1 or more"),
        ([ckpt, images, "explain=maybe"], "explain=maybe: use true or false"),
        ([ckpt, images, "explain=true", "explain_most=few"], "explain_most=few: use a whole number"),
        (["ckpt=nowhere.ckpt", images], "nowhere.ckpt: no such checkpoint"),
        (["ckpt=nowhere.onnx", images], "nowhere.onnx: no such checkpoint; make it with python export.py"),
        ([f"ckpt={tmp_path}/made.pt2", images], "a program of torch.export"),
        ([f"ckpt={tmp_path}/text.ckpt", images], "text.ckpt: not a checkpoint"),
        ([f"ckpt={tmp_path}/other.ckpt", images], "not a checkpoint of this project"),
        ([f"ckpt={tmp_path}/foreign.ckpt", images], "not one of this project's networks"),
        ([ckpt, f"images={tmp_path}/empty"], "no images in it or below"),
        ([ckpt, f"images={tmp_path}/*.tif"], "fits no file"),
        ([ckpt, "images=/nowhere"], "images=/nowhere: no such file or folder"),
        ([ckpt, images, f"out={tmp_path}/file/x"], "cannot be written"),
        ([ckpt, images, "batch_size=0"], "batch_size=0: use a whole number of 1 or more"),
        ([ckpt, images, "batch_size=many"], "batch_size=many: use a whole number"),
        ([ckpt, images, "root=/tmp"], "root=/tmp is of the relative paths of a table"),
        ([ckpt, images, "ouput=x"], "did you mean out"),
    ):
        status, _, err = predict(*arguments)
        assert status == 1 and err.startswith("ERROR: ") and words in err and len(err.splitlines()) == 1, err
    assert not list(tmp_path.glob("**/predictions.csv"))


def test_help_and_errors_come_without_torch():
    code = (
        "import sys; sys.argv[1:] = ['images=/nowhere', 'ckpt=README.md']\nimport predict\ntry:\n"
        "    predict.command_line.start(predict.main)\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'lightning', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PROJECT, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and "no such file or folder" in done.stderr


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(checkpoint, tmp_path):
    peaks = []
    for count in (500, 8000):
        root = make_images(tmp_path / str(count), {"red": count}, size=32)
        code = (
            "import resource, sys; sys.argv[1:] = sys.argv[1:]\nimport predict\n"
            "predict.command_line.start(predict.main)\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        arguments = [f"ckpt={checkpoint}", f"images={root}", f"out={tmp_path}/{count}.csv", "device=cpu"]
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.splitlines()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 20, peaks  # MiB
