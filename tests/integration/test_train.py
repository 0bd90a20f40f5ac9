"""The main job from end to end, on small made-up images."""

import hashlib
import io
import json
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data

import predict
from common.progress import Progress
from common.run_folder import METRIC_COLUMNS, RunFolder
from common.run_record import Proportion, RunRecord
from common.text import format_interval
from evaluation.intervals import wilson
from lightning_modules.checkpoint import load_classifier
from tests.support import commands
from tests.support.commands import run_script
from tests.support.helpers import NOT_DRAWN, SHARED, SIMPLE_CNN, make_images, read_csv
from tests.support.processes import TRAIN, small_training, start, wait


def weights_digest(path) -> str:
    state = torch.load(path, weights_only=True)["state_dict"]
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in state.values())).hexdigest()


def test_a_run_leaves_all_its_files(finished_run):
    folder = finished_run.folder
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    events = {name for name in names if name.startswith("events.out.tfevents.")}
    assert len(events) == 1
    assert names - events == {
        ".hydra/config.yaml",
        ".hydra/hydra.yaml",
        ".hydra/overrides.yaml",
        "checkpoints/best.ckpt",
        "checkpoints/best.safetensors",
        "checkpoints/last.ckpt",
        "metrics.csv",
        "MODEL_CARD.md",
        "predictions.csv",
        "predictions_val.csv",
        "splits.csv",
        "overview.png",
        "calibration.png",
        "contact_sheet.png",
        "summary.txt",
        "result.json",
        "train.log",
    }


def test_the_record_agrees_with_metrics_csv_and_the_screen(finished_run):
    rows = read_csv(finished_run.folder / "metrics.csv")
    assert tuple(rows[0]) == METRIC_COLUMNS and [row["epoch"] for row in rows] == ["1", "2"]
    lines = [line for line in finished_run.out.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2 and f"val accuracy {float(rows[1]['val/accuracy']):.4f}" in lines[1]
    record = finished_run.record
    assert record.status == "finished" and record.data.license is None and record.data.select_on == "val"
    assert record.data.classes == ["blue", "red"]
    assert (record.data.n_train, record.data.n_val, record.data.n_test) == (24, 12, 14)
    assert record.data.audit == record.data.excluded == [] and record.data.folds is None
    assert record.model.parameters == 143_528 and record.model.macs_thop > record.model.macs > 0
    assert record.model.weights == "random"
    best = max(range(2), key=lambda index: float(rows[index]["val/accuracy"]))
    assert record.best.epoch == best + 1 and record.best.value == pytest.approx(float(rows[best]["val/accuracy"]))
    assert record.val.accuracy.value == pytest.approx(record.best.value)
    assert record.throughput.train_images_per_s > 0 and record.throughput.time_to_first_step_s > 0


def test_the_table_of_layers_says_why_its_macs_are_not_those_on_the_screen(finished_run):
    shown = re.search(r"parameters, ([\d,]+) MACs", finished_run.out)[1]
    table, note = (finished_run.folder / "summary.txt").read_text().split("\n\n")
    total = table.splitlines()[-1].split()[-1]
    more = int(shown.replace(",", "")) - int(total.replace(",", ""))
    assert more > 0 and shown in note and f"thop counts {more:,} more" in note and "batch norms" in note


@pytest.mark.thorough
def test_whatever_may_take_long_has_words_for_the_screen(train, monkeypatch):
    """As common/progress.py shows them once the screen has been silent for a while."""
    named, usual = [], Progress.set

    def keep(progress, text, how_far=""):
        named.append(text)
        usual(progress, text, how_far)

    monkeypatch.setattr(Progress, "set", keep)
    ran = train("stages=[cost,fit,test]", "trainer.max_epochs=1")
    assert ran.status == 0, ran.err
    assert [text for text in named if text] == [
        "starting", "checking the settings", "listing the images", "making the network", "loading the weights",
        "starting the loggers", "reading the images", "reading the images", "comparing the images with each other",
        "comparing 0 similar pairs of images", "auditing the images", "measuring the cost", "starting the training",
        "starting the training", "epoch 1/1", "epoch 1/1, val", "epoch 1/1", "computing the results on val",
        "evaluation on val", "computing the results on test", "evaluation on test", "writing the results",
        "writing the model card",
    ]  # fmt: skip


def test_the_recorded_test_result_is_that_of_the_predictions(finished_run):
    table = read_csv(finished_run.folder / "predictions.csv")
    assert list(table[0]) == ["path", "fingerprint", "label", "predicted", "p_blue", "p_red"]
    assert len({row["path"] for row in table}) == len({row["fingerprint"] for row in table}) == 14
    for row in table:
        assert row["path"].startswith(f"test/{row['label']}/")
        assert float(row["p_blue"]) + float(row["p_red"]) == pytest.approx(1, abs=2e-6)
        assert row["predicted"] == ("blue" if float(row["p_blue"]) > float(row["p_red"]) else "red")
    correct = sum(row["label"] == row["predicted"] for row in table)
    test = finished_run.record.test
    low, high = wilson(correct, 14)
    assert test.accuracy == Proportion(value=correct / 14, low=low, high=high, correct=correct, n=14)
    confusion = [
        [sum(row["label"] == t and row["predicted"] == p for row in table) for p in ("blue", "red")]
        for t in ("blue", "red")
    ]
    assert test.confusion == confusion
    assert test.balanced_accuracy == pytest.approx((confusion[0][0] / 7 + confusion[1][1] / 7) / 2)
    compared = "clearly better" if low > 0.5 else "not shown to be better"
    shown = f"Test accuracy {correct / 14:.3f} ({correct} of 14, 95% interval {format_interval(low, high)}), {compared} than "
    assert f"{shown}always answering 'blue' (0.500)\n" in finished_run.out


def test_the_last_lines_are_commands_that_run(finished_run, tmp_path):
    lines = [line.strip() for line in finished_run.out.splitlines() if line.startswith("    python ")]
    predicts, exports, smallest = map(shlex.split, lines)
    ckpt = f"ckpt={finished_run.folder / 'checkpoints' / 'best.ckpt'}"
    assert predicts[:3] == ["python", "predict.py", ckpt] and exports == ["python", "export.py", ckpt]
    data = [each for each in finished_run.record.run.overrides if each.startswith("datamodule.")]
    assert smallest == ["python", "smallest.py", *data] and len(data) > 1  # the root chooses datamodule=image_folder
    status, out, err = run_script(predict, *predicts[2:], f"out={tmp_path}")
    assert status == 0 and "predictions.csv" in out, err
    (row,) = read_csv(tmp_path / "predictions.csv")
    expected = {each["fingerprint"]: each for each in read_csv(finished_run.folder / "predictions_val.csv")}
    assert row["predicted"] == expected[row["fingerprint"]]["predicted"]  # a validation image: test stays uncounted
    assert finished_run.out.splitlines()[-1].endswith(lines[-1])
    assert f"\nOverview: {finished_run.folder / 'overview.png'}\n" in finished_run.out


def test_the_first_lines_have_each_fact_once(finished_run):
    cost = next(line for line in finished_run.out.splitlines() if line.startswith("cost: "))
    model = finished_run.record.model
    assert cost.startswith(f"cost: 143,528 parameters, {model.macs_thop:,} MACs for an image of 32 x 32, latency p50 ")
    assert f"{model.macs:,}" not in finished_run.out  # torch's count is in the record
    assert finished_run.out.count("RANDOM WEIGHTS") == 1 and "initial weights" not in finished_run.out


def test_in_a_terminal_the_bar_counts_epochs_as_the_log_does(train, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(commands, "io", SimpleNamespace(StringIO=Terminal))
    ran = train(*SIMPLE_CNN)
    assert ran.status == 0, ran.err
    bars, lines = (set(re.findall(rf"epoch \d+/\d+(?={behind})", ran.out)) for behind in (":", "  loss"))
    assert bars == lines == {"epoch 1/2", "epoch 2/2"} and "Epoch" not in ran.out + ran.err


def test_splits_csv_has_the_split_of_every_image(finished_run):
    rows = RunFolder(finished_run.folder).read_splits()
    assert list(rows[0]) == ["path", "label", "split", "group"]
    assert len(rows) == 50 and all(row["path"].startswith(f"{row['split']}/{row['label']}/") for row in rows)


def test_the_same_settings_give_the_same_bits_and_another_seed_others(train, finished_run):
    same, other = train(), train("seed=1", "stages=[fit]", "trainer.max_epochs=1")  # without figures and costs
    for name in ("metrics.csv", "predictions.csv", "splits.csv"):
        assert (finished_run.folder / name).read_bytes() == (same.folder / name).read_bytes()
    digests = [weights_digest(ran.folder / "checkpoints" / "best.ckpt") for ran in (finished_run, same, other)]
    assert digests[0] == digests[1] != digests[2]


def test_the_next_commands_start_scripts_that_are_there_in_another_folder_too(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = train(*SIMPLE_CNN, "trainer.max_epochs=1", "stages=[fit]")
    commands = [shlex.split(line) for line in ran.out.splitlines() if line.startswith("    python ")]
    scripts = [Path(script) for _, script, *_ in commands]
    assert [script.name for script in scripts] == ["predict.py", "export.py", "smallest.py"]
    assert all(script.is_file() for script in scripts), scripts


@pytest.mark.thorough
def test_a_run_of_more_epochs_resumes_to_what_it_had_given_at_once(train):
    plateau = ("scheduler=plateau", "scheduler.patience=0", "scheduler.monitor=train/loss")
    straight = train("trainer.max_epochs=3", *plateau, *SIMPLE_CNN)
    stopped = train("trainer.max_epochs=1", *plateau, *SIMPLE_CNN)
    last = stopped.folder / "checkpoints" / "last.ckpt"
    before = {p.name for p in stopped.folder.parent.iterdir()}
    ran = train(f"ckpt_path={last}", "trainer.max_epochs=3", small=False, to=stopped.folder)
    assert ran.status == 0, ran.err
    assert "resuming after epoch 1" in ran.out
    lines = [re.search("    (python smallest.py .*)", each.out)[1] for each in (straight, ran)]
    assert sorted(lines[0].split()) == sorted(lines[1].split())  # with the images of its first command
    kept = f"{stopped.folder.name}.replaced"  # of the shorter training
    assert {p.name for p in stopped.folder.parent.iterdir()} == before | {kept}  # in its own folder
    for name in ("metrics.csv", "predictions.csv", "predictions_val.csv"):
        assert (straight.folder / name).read_bytes() == (stopped.folder / name).read_bytes(), name
    for name in ("best.ckpt", "last.ckpt"):
        folders = (straight.folder, stopped.folder)
        assert len({weights_digest(folder / "checkpoints" / name) for folder in folders}) == 1
    states = [torch.load(r.folder / "checkpoints" / "last.ckpt", weights_only=True) for r in (straight, stopped)]
    assert states[0]["lr_schedulers"] == states[1]["lr_schedulers"]
    assert any("trainer.max_epochs=3" in message for message in ran.record.run.warnings)  # the changed setting
    found, expected = ran.record.best, straight.record.best
    assert (found.epoch, found.monitor, found.value) == (expected.epoch, expected.monitor, expected.value)


def test_without_a_test_folder_the_last_line_is_of_validation(train, tmp_path):
    root = make_images(tmp_path / "data", {f"{s}/{c}": 8 for s in ("train", "val") for c in ("blue", "red")})
    ran = train("trainer.max_epochs=1", *SIMPLE_CNN, root=root)
    assert ran.status == 0 and ran.record.test is None
    assert "no test folder" in ran.out and "Validation accuracy " in ran.out and "Test accuracy" not in ran.out
    assert not (ran.folder / "predictions.csv").exists() and (ran.folder / "predictions_val.csv").exists()


def test_checkpoints_load_without_running_code_and_describe_themselves(finished_run):
    for name in ("best.ckpt", "last.ckpt"):
        state = torch.load(finished_run.folder / "checkpoints" / name, weights_only=True)
        described = state["hyper_parameters"]
        assert json.loads(json.dumps(described)) == described  # plain values
        assert described["network"]["network"] == "truncated" and described["classes"] == ["blue", "red"]
        assert described["image_size"] == 32 and len(described["mean"]) == len(described["std"]) == 3
    assert not load_classifier(finished_run.folder / "checkpoints" / "best.ckpt").training


@pytest.mark.thorough
def test_the_safetensors_file_is_evaluated_as_the_best_checkpoint_and_nothing_resumes_from_it(
    finished_run, made, train, tmp_path
):
    weights = f"ckpt_path={made.best_weights}"
    again = train("stages=[test]", weights, f"hydra.run.dir={tmp_path / 'again'}", small=False, to=tmp_path / "again")
    assert again.status == 0, again.err
    assert again.record.test.accuracy == finished_run.record.test.accuracy
    assert again.record.decision == finished_run.record.decision
    resumed = train(weights, "trainer.max_epochs=9", small=False)
    assert resumed.status == 1 and "cannot be resumed" in resumed.err and "model.weights=FILE" in resumed.err


@pytest.mark.parametrize("wanted", ["auto", pytest.param("false", marks=pytest.mark.thorough)])
@pytest.mark.thorough
def test_of_a_sweep_the_chosen_job_has_an_overview_that_its_page_shows(train, tmp_path, wanted):
    place = tmp_path / "sweep"
    settings = (*SIMPLE_CNN, "optimizer.lr=0.00001,0.02", "trainer.max_epochs=6", f"overview={wanted}", "logger=none")
    ran = train("-m", *settings, f"hydra.sweep.dir={place}", to=place)
    assert ran.status == 0, ran.err
    drawn = [path.parent.name for path in place.glob("*/overview.png")]
    assert drawn == (["lr-0.02"] if wanted == "auto" else []), ran.out
    assert ("Overview of the run: its training" in (place / "report.html").read_text()) == (wanted == "auto")


def test_tensorboard_holds_scalars_images_and_hyper_parameters(finished_run):
    events = EventAccumulator(str(finished_run.folder), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()
    assert set(tags["scalars"]) == {"train/loss", "train/accuracy", "train/lr", "val/loss", "val/accuracy"}
    assert [scalar.step for scalar in events.Scalars("val/accuracy")] == [1, 2]
    assert set(tags["images"]) == {
        f"visuals/{name}"
        for name in ("augmented_batch", "contact_sheet", "confusion/val", "confusion/test", "calibration", "overview")
    }
    groups = sorted({tag.partition("/")[0] for tag in (*tags["scalars"], *tags["images"])})
    assert groups[:2] == ["train", "val"]  # of all groups TensorBoard opens the first two
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    session = parse_session_start_info_plugin_data(content).hparams
    record = finished_run.record
    assert {name: value.number_value or value.string_value for name, value in session.items()} == {
        "model": "shufflenet_mod", "optimizer": "adam_1e-3", "optimizer.lr": 0.003, "datamodule.batch_size": 8,
        "data": "two_colors0", "datamodule": "image_folder", "model.image_size": 32, "trainer": "cpu",
        "trainer.max_epochs": 2, "model.weights": "None", "final/test_accuracy": record.test.accuracy.value,
        "final/val_accuracy": record.val.accuracy.value, "cost/macs": record.model.macs_thop, "cost/parameters": 143_528,
    }  # fmt: skip
    assert "_hparams_/experiment" not in events.summary_metadata  # else those of one run would be the columns of all


@pytest.mark.thorough
def test_the_stage_cost_by_itself_opens_no_image_and_loads_no_weights(train, tmp_path):
    root = make_images(tmp_path / "data", {"blue": 10, "red": 10})
    for image in root.rglob("*.png"):
        image.write_bytes(b"")
    ran = train("stages=[cost]", "model.image_size=256", "model.weights=/nowhere.pth", root=root)
    assert ran.status == 0, ran.err
    assert ran.record.model.macs_thop == 44_046_916 and ran.record.val is None


@pytest.mark.thorough
def test_a_job_of_a_sweep_that_fails_is_recorded_and_the_others_run(train, tmp_path):
    ran = train("-m", "datamodule.batch_size=99,8", *SIMPLE_CNN, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert ran.status == 1
    failed, finished = (RunRecord.read(tmp_path / "sweep" / f"batch_size-{size}") for size in (99, 8))
    assert (failed.status, finished.status) == ("failed", "finished")
    assert "datamodule.batch_size=99 is larger" in failed.reason
    assert "1 job failed: batch_size-99. Rerun" in ran.err and "Traceback" not in ran.out + ran.err


def train_by_ddp(images, place, devices, *more):
    """Train one epoch on the processor in so many processes."""
    settings = ["trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={devices}", "trainer.max_epochs=1"]
    settings += ["datamodule.batch_size=4", "callbacks.best_checkpoint.monitor=val/auroc"]
    settings += [f"hydra.run.dir={place}/ddp", *NOT_DRAWN, *more]
    return wait(start(TRAIN, *small_training(images, place, *settings)))[0]


@pytest.mark.timeout(200)
@pytest.mark.slow
def test_two_processes_test_every_image_once(train, tmp_path, two_colors):
    averaged = [f"callbacks.{name}.enabled=true" for name in ("ema", "recalibrate_batch_norm")]
    status, out, err = train_by_ddp(two_colors, tmp_path, 2, *averaged)
    assert status == 0, err
    assert out.count("Test accuracy") == 1 and out.count("epoch 1/1") == 1
    record = RunRecord.read(tmp_path / "ddp")
    assert record.run.processes == 2 and record.test.accuracy.n == 14
    assert record.best.value == pytest.approx(record.val.auroc, abs=1e-6)
    assert sum(map(sum, record.test.confusion)) == 14
    paths = [row["path"] for row in read_csv(tmp_path / "ddp" / "predictions.csv")]
    assert len(paths) == len(set(paths)) == 14
    again = train(
        "stages=[test]",
        f"ckpt_path={tmp_path}/ddp/checkpoints/best.ckpt",
        "trainer=cpu",
        f"hydra.run.dir={tmp_path / 'again'}",
        small=False,
        to=tmp_path / "again",
    )
    assert again.record.test.accuracy == record.test.accuracy and again.record.test.confusion == record.test.confusion
    assert again.record.test.loss == pytest.approx(record.test.loss, rel=1e-5)


@pytest.mark.thorough
def test_ddp_with_one_process_warns_of_nothing_that_its_user_could_change(tmp_path, two_colors):
    status, out, err = train_by_ddp(two_colors, tmp_path, 1)
    assert status == 0, err
    assert "Test accuracy" in out
    assert "sync_dist" not in out + err


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real images and weights beside the project")
def test_real_photos_with_a_real_backbone_reach_080(train):
    """The mean of three seeds; a single one varies by 0.05 with the last bits of the processor."""
    weights = SHARED / "weights" / "shufflenet_v2_x0_5_trunk.pth"
    root = f"datamodule.root={SHARED / 'data' / 'ants_bees'}"
    settings = ("datamodule=image_folder", root, f"model.weights={weights}", *NOT_DRAWN)
    runs = [train(f"seed={seed}", *settings, small=False) for seed in (48763, 1, 2)]
    assert sum(ran.record.val.accuracy.value for ran in runs) / 3 >= 0.80


def test_a_fold_leaves_the_test_split_closed(train):
    ran = train("datamodule.folds=3", "datamodule.fold=1", "trainer.max_epochs=1", *SIMPLE_CNN)
    assert ran.status == 0 and ran.record.test is None and not (ran.folder / "predictions.csv").exists()
    assert (ran.record.data.folds, ran.record.data.fold) == (3, 1)
    assert ran.record.data.n_train == 24 and ran.record.data.n_val == 12
    assert "test images are not evaluated" in ran.out and "Validation accuracy" in ran.out


def test_a_run_s_own_splits_can_be_given_back(train, tmp_path):
    root = make_images(tmp_path / "data", {"blue": 30, "red": 20}, size=32)
    settings = ("seed=5", "trainer.max_epochs=1", *SIMPLE_CNN)
    first = train(*settings, root=root)
    again = train(*settings, f"datamodule.table={first.folder / 'splits.csv'}", root=root)
    for name in ("splits.csv", "metrics.csv", "predictions.csv"):
        assert (first.folder / name).read_bytes() == (again.folder / name).read_bytes()


@pytest.mark.filterwarnings("ignore:.*ckpt_path", "ignore:.*WeightAveraging")  # of what is removed and added
@pytest.mark.thorough
def test_other_callbacks_on_top_of_a_resumed_run_keep_its_settings_of_the_common_ones(train):
    monitor = ("callbacks.best_checkpoint.monitor=val/loss", "callbacks=early_stopping")
    begun = train("trainer.max_epochs=1", "stages=[fit]", *monitor, *SIMPLE_CNN)
    last = begun.folder / "checkpoints" / "last.ckpt"
    for epochs, files in ((2, "ema"), (3, "default")):
        ran = train(
            f"ckpt_path={last}", f"callbacks={files}", f"trainer.max_epochs={epochs}", small=False, to=begun.folder
        )
        assert ran.status == 0, ran.err
        used = OmegaConf.load(begun.folder / ".hydra" / "config.yaml").callbacks
        assert used.best_checkpoint.monitor == ran.record.best.monitor == "val/loss"
        assert "early_stopping" not in used and used.ema.enabled == (files == "ema")


@pytest.mark.parametrize(
    ("optimizer", "missing"),
    [pytest.param("sgd", "dampening and momentum", marks=pytest.mark.thorough), ("rmsprop", "alpha")],
)
def test_a_checkpoint_by_itself_does_not_resume_with_another_optimizer(
    train, finished_run, tmp_path, optimizer, missing
):
    """Without the configuration of its run beside it, only the state in the checkpoint tells; SGD went on with Adam's."""
    last = shutil.copy(finished_run.folder / "checkpoints" / "last.ckpt", tmp_path / "by_itself.ckpt")
    given = ("trainer.max_epochs=5", f"optimizer={optimizer}", f"ckpt_path={last}")
    ran = train(*given, to=tmp_path / "made")
    assert ran.status == 1 and f"has the state of another optimizer (without {missing})" in ran.err, ran.err
    assert not (tmp_path / "made").exists()


def test_an_evaluation_takes_batches_larger_than_the_train_split(train, finished_run, made, tmp_path):
    best = f"ckpt_path={made.best_checkpoint}"
    ran = train(
        "stages=[test]", best, "datamodule.batch_size=25", f"hydra.run.dir={tmp_path / 'again'}", to=tmp_path / "again"
    )
    assert ran.status == 0 and ran.record.test.accuracy == finished_run.record.test.accuracy, ran.err
    # Not the scheduler and other files of the run, which nobody typed
    idle = "trainer.max_epochs=2 and optimizer.lr=0.003: have no effect without the stage fit"
    assert [each for each in ran.record.run.warnings if "no effect" in each] == [idle]
