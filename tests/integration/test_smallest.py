"""python smallest.py on small images: all stages, the same command again, what is left on disk, what is refused."""

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

import predict
import smallest
from common.run_folder import RunFolder
from common.run_record import RunRecord
from common.smallest_record import SmallestRecord
from tests.support.commands import run_script
from tests.support.fake_format import allow_any_agreement, format_folder
from tests.support.helpers import PROJECT, needs_ray, ray_jobs

CUTS = "candidates.cuts={shufflenet_v2_x0_5: [maxpool, stage2.1, stage3.3]}"


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Squares that are brighter on one side, in noise that makes some of them hard; train 48, val 24, test 24."""
    generator, root = np.random.default_rng(0), tmp_path_factory.mktemp("sides")
    for split, n in (("train", 24), ("val", 12), ("test", 12)):
        for name in ("left", "right"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(n):
                pixels = generator.normal(100, 40, (32, 32, 3))
                pixels[:, slice(0, 16) if name == "left" else slice(16, 32)] += generator.uniform(5, 60)
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index:03}.png")
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Weights of a whole backbone whose batch norms have seen images."""
    from torchvision.models import shufflenet_v2_x0_5

    torch.manual_seed(0)
    network = shufflenet_v2_x0_5()
    with torch.no_grad():
        for _ in range(10):
            network(torch.randn(16, 3, 32, 32))
    path = tmp_path_factory.mktemp("weights") / "shufflenet.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def command(images, weights, tmp_path_factory) -> list[str]:
    place = tmp_path_factory.mktemp("smallest")
    return [
        f"datamodule.root={images}", f"hydra.run.dir={place / 'found'}", "name=found", f"datamodule.cache={place / 'cache'}",
        "candidates.backbones=[shufflenet_v2_x0_5]", f"candidates.weights.shufflenet_v2_x0_5={weights}",
        "candidates.image_sizes=[32]", CUTS, "trainer=cpu", "trainer.max_epochs=2", "datamodule.batch_size=8",
        "race.min_epochs=1", "race.candidates=2", "good_enough=0.3", "finals.folds_below=0", "seeds=[1,2]",
        "budget.minutes=null",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def found(command) -> tuple[Path, str]:
    with patch("engine.run.evaluate._draw_calibration"):
        status, out, err = run_script(smallest, *command)
    assert status == 0, err or out
    return Path(command[1].partition("=")[2]), out


def test_all_stages_end_in_an_answer_a_page_and_a_network_that_predicts(found, images):
    folder, out = found
    record = SmallestRecord.read(folder)
    assert record.status == "finished" and record.data["majority_val"] == record.data["majority_test"] == 0.5
    assert record.data["rarest_val"] == 12
    runs = [RunRecord.read(RunFolder(file.parent)) for file in (folder / "runs").glob("*/result.json")]
    assert len(runs) > 2 and out.count(": finished, val accuracy ") == sum(each.status == "finished" for each in runs)
    assert [each.keep for each in record.candidates] == ["maxpool", "stage2.1", "stage3.3"]
    assert all(each.probe and each.probe.n == 24 for each in record.candidates)
    assert record.answer.chosen is not None and record.answer.sentences[0].split(":")[0] in out
    assert (folder / "report.html").is_file() and "How it was chosen" in (folder / "MODEL_CARD.md").read_text()
    exported, shown = (Path(shlex.split(each)[2].partition("=")[2]) for each in record.answer.commands[1:])
    assert exported.read_bytes() == (folder / "best.ckpt").read_bytes() and exported == shown
    assert RunFolder.of_checkpoint(exported).splits.is_file()  # whose images verify an export, as that of the demo
    card = (folder / "MODEL_CARD.md").read_text()
    assert card.startswith("# Model card: shufflenet\\_v2\\_x0\\_5")
    assert f'from_checkpoint("{folder / "best.ckpt"}")' in card
    of_the_run = card.partition("## How it was chosen")[0]
    assert "initial weights: file" in of_the_run and "runs/" not in of_the_run and "another run" not in of_the_run
    assert all(each in card for each in record.answer.commands)
    assert record.machine["load_1min"] >= 0 and record.seconds["latency"] > 0
    assert record.seconds["start"] > 0 and "start and reading of images" in (folder / "report.html").read_text()
    status, printed, err = run_script(
        predict, f"ckpt={folder / 'best.ckpt'}", f"images={images / 'test'}", f"out={folder / 'labels.csv'}"
    )
    assert status == 0, err
    assert "24" in printed


def test_test_images_are_opened_once_for_the_chosen_one_and_the_reference_only(found):
    folder, _ = found
    record = SmallestRecord.read(folder)
    opened = {record.answer.chosen, record.answer.reference}
    for index, each in enumerate(record.candidates):
        runs = [RunRecord.read(RunFolder(folder / name)) for name in (each.trained.runs if each.trained else [])]
        counts = [run.test.test_evaluations if run.test else 0 for run in runs]
        assert counts == [1 if index in opened else 0] * len(runs)
        assert bool(each.trained and each.trained.test) == (index in opened)
    assert len(list((folder / "test").glob("*/result.json"))) == 2 * len(opened)


def test_the_same_command_again_trains_nothing_and_gives_the_same_answer(found, command):
    folder, _ = found
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("metrics.csv")}

    def answer() -> dict:
        record = SmallestRecord.read(folder)
        found = asdict(record.answer) | {stage: record.seconds[stage] for stage in ("start", "screen", "race", "proof")}
        found["earlier_s"] = record.earlier_s
        # A latency of a busy machine, as that of the tests may be, is measured again
        found["sentences"] = [re.sub(r"[\d.]+ ms on this machine \([^)]*\)", "", each) for each in found["sentences"]]
        return found

    first = answer()
    status, out, err = run_script(smallest, *command)
    assert status == 0, err
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("metrics.csv")} == before
    assert answer() == first  # what it took, too: this command has found nothing
    assert "epoch" not in out


def test_a_run_of_the_race_is_an_ordinary_run(found):
    folder, _ = found
    (first, *_) = sorted((folder / "runs").glob("*-seed1"))
    record = RunRecord.read(RunFolder(first))
    assert record.run.seed == 1 and record.val.accuracy.n == 24
    assert RunFolder(first).best_checkpoint.is_file() and RunFolder(first).log.is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["limits.macs=10"], "limits: none of 3 candidates is within the limits"),
        pytest.param(
            ["datamodule.folds=100"],
            "datamodule.folds=100: use 2 or more, up to the 72 images",
            marks=pytest.mark.thorough,
        ),
        pytest.param(["storage=here"], "storage=here: not a URL of a database", marks=pytest.mark.thorough),
        (["datamodule.root=nowhere"], "nowhere"),
        (
            ["hydra/launcher=joblib", "hydra.launcher.n_jobs=0"],
            "hydra.launcher.n_jobs=0: use how many jobs run at a time",
        ),
    ],
)
def test_a_refused_command_gives_one_line_and_leaves_nothing(command, tmp_path, arguments, message):
    typed = [each for each in command if each.partition("=")[0] not in {a.partition("=")[0] for a in arguments}]
    typed = [each for each in typed if not each.startswith("hydra.run.dir")]
    status, _, err = run_script(smallest, *typed, *arguments, f"hydra.run.dir={tmp_path / 'refused'}")
    assert status == 1
    assert message in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "refused").exists()


def test_too_few_test_images_for_an_answer_are_refused_before_anything_is_trained(images, command, tmp_path):
    for path in images.glob("*/*/*"):
        if path.parent.parent.name != "test" or path.stem in ("000", "001"):
            copied = tmp_path / "few" / path.relative_to(images)
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.hardlink_to(path)
    status, _, err = run_script(smallest, f"datamodule.root={tmp_path / 'few'}", *command[2:],
                                f"hydra.run.dir={tmp_path / 'refused'}")  # fmt: skip
    assert status == 1 and "4 images to prove the answer (test) cannot show" in err
    assert not (tmp_path / "refused").exists()


@pytest.mark.thorough
def test_a_missing_checkpoint_of_the_chosen_run_is_named(found, command, tmp_path):
    folder, _ = found
    shutil.copytree(folder, tmp_path / "copy")
    for checkpoint in (tmp_path / "copy" / "runs").rglob("best.ckpt"):
        checkpoint.unlink()
    typed = [each for each in command if not each.startswith("hydra.run.dir")]
    status, _, err = run_script(smallest, *typed, f"hydra.run.dir={tmp_path / 'copy'}")
    assert status == 1 and "checkpoints/best.ckpt: missing" in err and len(err.strip().splitlines()) == 1, err


@pytest.mark.thorough
def test_a_damaged_checkpoint_of_the_chosen_run_is_not_handed_out(found, command, tmp_path):
    copy = Path(shutil.copytree(found[0], tmp_path / "copy"))
    for checkpoint in (copy / "runs").rglob("best.ckpt"):
        checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    typed = [each for each in command if not each.startswith("hydra.run.dir")]
    status, _, err = run_script(smallest, *typed, f"hydra.run.dir={copy}")
    assert status == 1 and "checkpoints/best.ckpt: " in err and len(err.strip().splitlines()) == 1, err
    assert "or cut off), so best.ckpt cannot be made from it; delete the folders of its run in runs and test" in err
    assert (copy / "best.ckpt").read_bytes() == (found[0] / "best.ckpt").read_bytes()


@pytest.mark.thorough
def test_all_runs_that_were_deleted_after_the_answer_are_trained_again(found, command, tmp_path):
    copy = Path(shutil.copytree(found[0], tmp_path / "copy"))
    for name in ("runs", "test"):
        shutil.rmtree(copy / name)
    typed = [each for each in command if not each.startswith("hydra.run.dir")]
    status, _, err = run_script(smallest, *typed, f"hydra.run.dir={copy}")
    assert status == 0, err
    before, after = SmallestRecord.read(found[0]), SmallestRecord.read(copy)
    assert (before.answer.chosen, before.answer.test) == (after.answer.chosen, after.answer.test)
    for run in before.candidates[before.answer.chosen].trained.runs:
        assert (copy / run / "metrics.csv").read_bytes() == (found[0] / run / "metrics.csv").read_bytes()


@pytest.mark.thorough
@pytest.mark.parametrize("decided", [("race",), ("race", "raced")])
def test_a_run_of_the_race_that_was_deleted_before_the_finals_is_trained_again(found, command, tmp_path, decided):
    copy = Path(shutil.copytree(found[0], tmp_path / "copy"))
    typed = [each for each in command if not each.startswith("hydra.run.dir")]
    plan = json.loads((copy / "plan.json").read_text())
    (copy / "plan.json").write_text(json.dumps({key: plan[key] for key in ("search", *decided)}))
    record = SmallestRecord.read(copy)
    deleted = copy / record.candidates[plan["raced"]["decision"]["decision"][-1]].trained.runs[0]
    metrics = (deleted / "metrics.csv").read_bytes()
    shutil.rmtree(deleted)
    status, _, err = run_script(smallest, *typed, f"hydra.run.dir={copy}")
    assert status == 0, err
    assert (deleted / "metrics.csv").read_bytes() == metrics
    assert SmallestRecord.read(copy).earlier_s == pytest.approx(sum(record.seconds.values()), abs=0.1)
    again = SmallestRecord.read(copy).answer
    assert (again.chosen, again.val, again.test) == (record.answer.chosen, record.answer.val, record.answer.test)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["race", "raced", "race below", "finals", "repeats"])
def test_a_damaged_decision_is_named(found, command, tmp_path, name):
    copy = Path(shutil.copytree(found[0], tmp_path / "copy"))
    typed = [each for each in command if not each.startswith("hydra.run.dir")]
    plan = json.loads((copy / "plan.json").read_text())
    kinds = {"race": [], "raced": {}, "race below": [], "finals": 1, "repeats": [1]}  # of another decision, or none
    nothing = [] if name == "race below" else [{"places": [], "frozen": []}]
    for damaged in (kinds[name], "text", None, [99], [-1], ["0"], -3, {"places": [0]}, *nothing):
        plan[name]["decision"]["decision"] = damaged
        (copy / "plan.json").write_text(json.dumps(plan))
        status, _, err = run_script(smallest, *typed, f"hydra.run.dir={copy}")
        assert status == 1 and f"plan.json: the decision '{name}' is damaged; delete this file" in err, (
            damaged,
            err,
        )
        assert len(err.strip().splitlines()) == 1


@pytest.mark.thorough
def test_what_a_folder_holds_stays_where_a_command_is_refused(found, command, images, weights):
    folder, _ = found
    names = ("smallest.json", "report.html", "plan.json", "best.ckpt", "result.json")
    before = {path: path.read_bytes() for name in names for path in folder.rglob(name)}
    changed = images / "val" / "left" / "000.png"
    kept = changed.read_bytes()
    of_weights = weights.read_bytes()
    for arguments, path, content, message in (
        (["good_enough=0.2"], changed, kept, "good_enough=0.3, now 0.2"),
        (["budget.minutes=0.51"], changed, kept, "no network can be trained"),
        ([], changed, (images / "val" / "right" / "000.png").read_bytes(), "images, labels, splits or image weights"),
        ([], weights, of_weights + b"changed", "weights files that have changed since"),
    ):
        keys = {each.partition("=")[0] for each in arguments}
        typed = [each for each in command if each.partition("=")[0] not in keys]
        try:
            path.write_bytes(content)
            status, _, err = run_script(smallest, *typed, *arguments)
        finally:
            changed.write_bytes(kept)
            weights.write_bytes(of_weights)
        assert status == 1 and message in err and len(err.strip().splitlines()) == 1, err
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.thorough
def test_folds_and_settings_in_files_are_of_the_search(command, tmp_path):
    file = tmp_path / "conf" / "optimizer" / "mine.yaml"
    file.parent.mkdir(parents=True)
    own = ("hydra.run.dir=", "budget.minutes=", "candidates.cuts=")
    typed = [each for each in command if not each.startswith(own)]
    typed += [f"hydra.run.dir={tmp_path / 'out'}", "budget.minutes=0.51", "optimizer=mine"]
    typed += [f"--config-dir={file.parents[1]}", "candidates.cuts={shufflenet_v2_x0_5: [maxpool]}"]
    for lr, further, message in (
        (1e-3, (), "no network"),
        (1e-3, ("datamodule.folds=3",), "datamodule.folds not set, now 3"),
        (1e-2, (), "settings in files of conf or --config-dir that have changed"),
    ):
        file.write_text(f"_target_: torch.optim.NAdam\nlr: {lr}\n")
        status, _, err = run_script(smallest, *typed, *further)
        assert status == 1 and message in err, err


@pytest.mark.thorough
def test_a_folder_of_weights_that_has_changed_is_of_another_search(command, weights, tmp_path):
    file = Path(shutil.copyfile(weights, tmp_path / "pytorch_model.bin"))
    own = ("hydra.run.dir=", "budget.minutes=", "candidates.cuts=", "candidates.weights.")
    typed = [each for each in command if not each.startswith(own)]
    typed += [f"hydra.run.dir={tmp_path / 'out'}", "budget.minutes=0.51", f"{own[-1]}shufflenet_v2_x0_5={tmp_path}"]
    for further, message in ((b"", "no network"), (b"changed", "weights files that have changed since")):
        file.write_bytes(file.read_bytes() + further)
        status, _, err = run_script(smallest, *typed, "candidates.cuts={shufflenet_v2_x0_5: [maxpool]}")
        assert status == 1 and message in err, err


@pytest.mark.thorough
def test_folds_predict_every_image_where_each_trains_on_a_part(command, tmp_path):
    own = ("hydra.run.dir=", "budget.minutes=", "candidates.cuts=")
    typed = [each for each in command if not each.startswith(own)]
    typed += [
        f"hydra.run.dir={tmp_path}",
        "budget.minutes=0.51",
        "datamodule.folds=3",
        "datamodule.train_fraction=0.25",
    ]
    status, _, err = run_script(smallest, *typed, "candidates.cuts={shufflenet_v2_x0_5: [maxpool]}")
    assert status == 1 and "no network can be trained" in err, err
    record = SmallestRecord.read(tmp_path)
    assert [record.data[name] for name in ("n_train", "n_val", "folds", "majority_val")] == [48, 24, 3, 0.5]
    assert {each.probe.n for each in record.candidates if each.probe} == {72}


@pytest.mark.thorough
def test_few_validation_images_of_too_few_groups_for_folds_are_one_split(images, command, tmp_path):
    """Four folds of three patients leave one without a patient."""
    table, lines = tmp_path / "table.csv", ["path,label,split,group"]
    for path in sorted(images.rglob("*.png")):
        split, name = path.relative_to(images).parts[:2]
        of_few = name == "left" and split != "test"
        lines.append(f"{path.relative_to(images)},{name},{split},{f'patient {int(path.stem) % 3}' if of_few else ''}")
    table.write_text("\n".join(lines) + "\n")
    own = ("hydra.run.dir=", "budget.minutes=", "candidates.cuts=", "finals.folds_below=")
    status, _, err = run_script(
        smallest, *(each for each in command if not each.startswith(own)), f"datamodule.table={table}",
        f"hydra.run.dir={tmp_path / 'out'}", "budget.minutes=0.51", "candidates.cuts={shufflenet_v2_x0_5: [maxpool]}",
    )  # fmt: skip
    assert status == 1 and "no network can be trained" in err, err
    assert SmallestRecord.read(tmp_path / "out").data["folds"] is None


@pytest.mark.thorough
def test_what_the_budget_cannot_fine_tune_races_frozen(command, tmp_path):
    own = [
        each for each in command if "hydra.run.dir" not in each and each not in ("trainer.max_epochs=2", "name=found")
    ]
    status, _, err = run_script(
        smallest, *own, f"hydra.run.dir={tmp_path / 'frozen'}", "trainer.max_epochs=100000", "budget.minutes=10"
    )
    assert status == 0, err
    record = SmallestRecord.read(tmp_path / "frozen")
    trained = [each for each in record.candidates if each.trained]
    assert trained and all(each.frozen and each.network.startswith("frozen shufflenet") for each in trained)
    assert not any(each.frozen for each in record.candidates if not each.trained)
    assert re.search(r"Only the head is trained in (\d+) of \1 network", " ".join(record.notes))
    chosen = record.candidates[record.answer.chosen]
    start = torch.load(next(each.partition("=")[2] for each in command if "candidates.weights." in each))
    (best,) = {(tmp_path / "frozen" / name / "checkpoints" / "best.ckpt") for name in chosen.trained.runs[:1]}
    state = torch.load(best, weights_only=False)["state_dict"]
    kept = [name for name in state if name.startswith("network.backbone.") and "num_batches" not in name]
    assert kept and all(torch.equal(state[name], start[name.removeprefix("network.backbone.")]) for name in kept)
    assert all(RunRecord.read(RunFolder(tmp_path / "frozen" / name)).val for name in chosen.trained.runs)


@pytest.mark.thorough
def test_a_search_that_is_over_exports_its_finalists_where_that_is_asked_for(found, command, tmp_path, monkeypatch):
    allow_any_agreement(monkeypatch)
    folder, _ = found
    shutil.copytree(folder, tmp_path / "found")
    typed = [each for each in command if not each.startswith("hydra.run.dir=")]
    again = [format_folder(tmp_path / "conf"), *typed, f"hydra.run.dir={tmp_path / 'found'}"]
    metrics = {path: path.stat().st_mtime_ns for path in (tmp_path / "found" / "runs").rglob("metrics.csv")}
    for deploy in ("first", "fails", "null"):
        status, out, err = run_script(smallest, *again, f"deploy={deploy}")
        assert status == 0, err
        record = SmallestRecord.read(tmp_path / "found")
        finals = [each for each in record.candidates if each.stage == "final"]
        page = (tmp_path / "found" / "report.html").read_text()
        assert finals and all(each.deployed is None for each in record.candidates if each not in finals)
        if deploy == "first":  # which always predicts the first class, that of a half of the images
            for each in finals:
                assert (each.deployed.val.n, each.deployed.val.accuracy.value, each.deployed.bytes) == (24, 0.5, 7)
                assert (tmp_path / "found" / each.deployed.file).read_bytes() == b"1234567"
            assert "  as first: accuracy 0.500 " in out and "Exported files: first" in page
            assert "as first: accuracy 0.500 " in (tmp_path / "found" / "MODEL_CARD.md").read_text()
        elif deploy == "fails":
            assert all("no operator Conv" in each.deployed.error for each in finals)
            assert "  as fails: no file: " in out and "no operator Conv" in page
        else:
            assert all(each.deployed is None for each in finals) and "Exported files" not in page
    assert {path: path.stat().st_mtime_ns for path in metrics} == metrics


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", pytest.param("ray", marks=needs_ray)])
def test_processes_of_a_launcher_give_the_answer_of_one(found, command, tmp_path, launcher):
    """Of Ray one is killed, which Ray starts again."""
    typed = [each for each in command if not each.startswith("hydra.run.dir")]
    typed += [f"hydra.run.dir={tmp_path / 'shared'}", f"hydra/launcher={launcher}"]
    started = subprocess.Popen(
        [sys.executable, "smallest.py", *typed], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    if launcher == "ray":
        while not list((tmp_path / "shared" / "runs").glob("*/checkpoints/last.ckpt")) and started.poll() is None:
            time.sleep(0.1)
        ray_jobs(started.pid)[0].kill()
    out, err = started.communicate()
    assert started.returncode == 0, err
    one, shared = SmallestRecord.read(found[0]), SmallestRecord.read(tmp_path / "shared")
    assert (shared.answer.chosen, shared.answer.reference) == (one.answer.chosen, one.answer.reference)
    assert shared.answer.test == one.answer.test and shared.n_trained == one.n_trained
    assert shared.seconds["race"] + shared.seconds["finals"] > 1  # of the processes, not of the one that waited
    assert "heartbeats" not in out + err and "2 workers" in out


@pytest.mark.slow
def test_killed_at_ten_random_moments_it_gives_the_same_answer_and_trains_nothing_twice(found, command, tmp_path):
    """Each process trains for a few seconds; the epochs of all runs' logs are those of one training."""
    folder = tmp_path / "killed"
    typed = [each for each in command if not each.startswith("hydra.run.dir")] + [f"hydra.run.dir={folder}"]
    moments, log = random.Random(0), tmp_path / "log"
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # as in this process: two would add in another order
    for _ in range(10):
        with log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "smallest.py", *typed], cwd=PROJECT, stdout=out, stderr=out, env=one_thread
            )
            time.sleep(moments.uniform(8, 16))
            process.send_signal(signal.SIGKILL)
            process.wait()
    ended = subprocess.run(
        [sys.executable, "smallest.py", *typed],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        env=one_thread,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    before, after = SmallestRecord.read(found[0]), SmallestRecord.read(folder)
    assert after.answer.chosen == before.answer.chosen and after.answer.reference == before.answer.reference
    assert after.answer.test == before.answer.test and after.answer.val == before.answer.val
    for path in (folder / "runs").glob("*/metrics.csv"):
        assert path.read_bytes() == (found[0] / "runs" / path.parent.name / "metrics.csv").read_bytes()
