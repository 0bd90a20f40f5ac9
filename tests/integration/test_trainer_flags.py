"""Flags of Lightning's Trainer on the command line: what a run with them leaves. 24, 12 and 14 images in batches of 8."""

import math
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Timer

from callbacks.prediction_writer import PredictionWriter
from callbacks.step_seed import StepSeed
from inference.predictor import Predictor
from lightning_modules.image_classifier import ImageClassifier
from reports import compare
from tests.support.helpers import SIMPLE_CNN, at_step, outcome, read_csv


def steps(folder) -> int:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


def metrics(folder) -> list[dict[str, str]]:
    return read_csv(folder / "metrics.csv")


@pytest.fixture
def rates(monkeypatch) -> list[float]:
    """The learning rate of every optimizer step, in the order of the commands."""
    seen, usual = [], ImageClassifier.optimizer_step

    def step(self, epoch, batch_idx, optimizer, *arguments, **options):
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0 or self.trainer.is_last_batch:
            seen.append(optimizer.param_groups[0]["lr"])
        return usual(self, epoch, batch_idx, optimizer, *arguments, **options)

    monkeypatch.setattr(ImageClassifier, "optimizer_step", step)
    return seen


def half_cosine(length: int, first: int = 0, peak: float = 0.003) -> list[float]:
    """The values of lr (1 + cos(pi k / length)) / 2 for k from `first`."""
    return [peak * (1 + math.cos(math.pi * k / length)) / 2 for k in range(first, length)]


def trained(ran):
    assert ran.status == 0, ran.err
    assert ran.record.status == "finished" and ran.record.test.test_evaluations == 1
    return metrics(ran.folder)


@pytest.mark.parametrize(("flags", "steps_done"), [
    ((), 6),  # 24 images in batches of 8, two epochs
    pytest.param(("trainer.limit_train_batches=2",), 4, marks=pytest.mark.thorough),
    pytest.param(("trainer.limit_train_batches=0.4",), 2, marks=pytest.mark.thorough),
    (("trainer.accumulate_grad_batches=2",), 4),  # the third batch is a step too
    (("datamodule.batch_size=23",), 2),  # the last single image is skipped
    pytest.param(("datamodule.sampler=balanced", "trainer.max_steps=5"), 5, marks=pytest.mark.thorough),
    pytest.param(("trainer.overfit_batches=1",), 2, marks=pytest.mark.thorough),
    pytest.param(("trainer.fast_dev_run=3",), 3, marks=pytest.mark.thorough),
])  # fmt: skip
def test_a_schedule_by_steps_counts_the_steps_that_are_done(train, rates, flags, steps_done):
    ran = train(*SIMPLE_CNN, "scheduler=one_cycle", "scheduler.warmup_fraction=0", "stages=[fit]", *flags)
    assert ran.status == 0, ran.err
    assert rates == pytest.approx(half_cosine(steps_done)) and steps(ran.folder) == steps_done
    last = torch.load(ran.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["optimizer_states"][0]["param_groups"][0]["lr"] == 0


@pytest.mark.thorough
def test_a_schedule_by_epochs_ends_with_a_fast_run_too(train, rates):
    ran = train(*SIMPLE_CNN, "trainer.fast_dev_run=2", "trainer.max_epochs=50", "stages=[fit]")
    last = torch.load(ran.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert rates == [0.003] * 2 and last["optimizer_states"][0]["param_groups"][0]["lr"] == 0
    refused = train(*SIMPLE_CNN, "scheduler.epochs=2", "trainer.max_epochs=3")
    assert refused.status == 1 and "scheduler.epochs=2: ends before trainer.max_epochs=3" in refused.err


@pytest.mark.thorough
def test_with_a_time_limit_the_schedule_ends_with_it(train, rates, monkeypatch):
    """By a clock of the test, on which a step takes a tenth of the limit."""
    monkeypatch.setattr(Timer, "time_elapsed", lambda self, stage=None: 6.0 * len(rates))
    ran = train(*SIMPLE_CNN, "trainer.max_time=00:00:01:00", "trainer.max_epochs=100", "stages=[fit]")
    assert ran.status == 0, ran.err
    assert rates == pytest.approx(half_cosine(10)) and float(metrics(ran.folder)[-1]["lr"]) == 0
    rates.clear()
    longer = ("trainer.max_time=00:00:01:00", "trainer.max_epochs=100", "trainer.min_epochs=4", "stages=[fit]")
    assert train(*SIMPLE_CNN, *longer).status == 0
    assert rates == pytest.approx(half_cosine(12))  # four epochs, after the time is over


@pytest.mark.thorough
@pytest.mark.parametrize(("scheduler", "length", "unit"), [("cosine", 4, "epochs"), ("one_cycle", 12, "steps")])
def test_a_longer_resume_has_the_schedule_of_the_longer_training(train, rates, scheduler, length, unit):
    ran = train(*SIMPLE_CNN, f"scheduler={scheduler}", "stages=[fit]")
    rates.clear()
    longer = train(f"ckpt_path={ran.folder}/checkpoints/last.ckpt", "trainer.max_epochs=4", small=False, to=ran.folder)
    assert longer.status == 0, longer.err
    expected = {
        "cosine": [lr for lr in half_cosine(4, first=2) for _ in range(3)],  # epoch by epoch
        "one_cycle": half_cosine(10, first=4),  # of 12 steps two rise
    }[scheduler]
    assert rates == pytest.approx(expected)
    assert float(metrics(ran.folder)[-1]["lr"]) < 0.0005 and len(metrics(ran.folder)) == 4
    (line,) = [
        text for text in longer.record.run.warnings if text.startswith("from here on, the learning rate follows")
    ]
    assert (
        f"a training of {length} {unit}, of which {length // 2} are done: {max(expected):.2g} instead of 0 in" in line
    )
    if scheduler == "cosine":  # with more images a step and another learning rate; 12 of 16 steps are done
        rates.clear()
        settings = ("trainer.max_epochs=6", "trainer.max_steps=16", "datamodule.batch_size=12", "optimizer.lr=0.1")
        longer = train(f"ckpt_path={ran.folder}/checkpoints/last.ckpt", *settings, small=False, to=ran.folder)
        assert longer.status == 0 and rates == pytest.approx(half_cosine(16, first=12, peak=0.1)), longer.err


@pytest.mark.parametrize(("before", "after", "expected"), [
    ("cosine", "plateau", [0.003] * 3),
    pytest.param("one_cycle", "none", [0.003] * 3, marks=pytest.mark.thorough),
    pytest.param("plateau", "none", [0.003] * 3, marks=pytest.mark.thorough),
    ("plateau", "cosine", half_cosine(3, first=2) * 3),
    pytest.param("none", "cosine", half_cosine(3, first=2) * 3, marks=pytest.mark.thorough),
])  # fmt: skip
@pytest.mark.thorough
def test_a_resume_with_another_scheduler_starts_from_the_learning_rate_of_its_command(
    train, rates, monkeypatch, before, after, expected
):
    monkeypatch.setattr(torch.optim.lr_scheduler.ReduceLROnPlateau, "_is_better", lambda *_: False)
    patience = ["scheduler.patience=0"] if before == "plateau" else []
    ran = train(*SIMPLE_CNN, f"scheduler={before}", *patience, "stages=[fit]")
    last = torch.load(ran.folder / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]
    left = last["param_groups"][0]["lr"]
    assert before != "plateau" or left == pytest.approx(3e-5)  # reduced after each epoch
    rates.clear()
    settings = (f"scheduler={after}", "trainer.max_epochs=3", "stages=[fit]")
    resumed = train(f"ckpt_path={ran.folder}/checkpoints/last.ckpt", *settings, small=False, to=ran.folder)
    assert resumed.status == 0 and rates == pytest.approx(expected), resumed.err
    (line,) = [text for text in resumed.record.run.warnings if "the learning rate" in text]
    assert f"{expected[0]:.2g} instead of {left:.2g} in the checkpoint" in line


@pytest.mark.thorough
def test_a_shorter_resume_has_the_schedule_of_the_shorter_training(train, rates, monkeypatch):
    at_step(monkeypatch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    stopped = train(*SIMPLE_CNN, "scheduler=one_cycle", "scheduler.warmup_fraction=0", "trainer.max_epochs=9")
    last = f"ckpt_path={stopped.folder}/checkpoints/last.ckpt"
    rates.clear()
    refused = train(last, "trainer.max_epochs=1", small=False, to=stopped.folder)
    assert refused.status == 1 and "has finished 1 of trainer.max_epochs=1 epochs; to train longer" in refused.err
    shorter = train(last, "trainer.max_epochs=2", small=False, to=stopped.folder)
    assert "resuming in epoch 2" in shorter.out
    assert shorter.status == 0 and rates == pytest.approx(half_cosine(6, first=4)), shorter.err


@pytest.mark.parametrize("scheduler", ["cosine", "one_cycle"])
def test_max_steps_ends_an_epoch_in_its_middle_with_a_whole_result(train, scheduler):
    """Three steps an epoch: the fourth is the first of the second."""
    ran = train(*SIMPLE_CNN, "trainer.max_steps=4", "trainer.max_epochs=9", f"scheduler={scheduler}")
    rows = trained(ran)
    assert steps(ran.folder) == 4 and len(rows) == 2
    assert all(value for row in rows for value in row.values())  # the cut epoch was validated too
    assert "epoch 2/2" in ran.out and "stopped after 1 of 3 batches" in ran.out and "trainer.max_steps=4" in ran.out
    assert float(rows[0]["lr"]) > 1e-4 and float(rows[1]["lr"]) == pytest.approx(0, abs=1e-12)  # the schedule's end
    assert [epoch.images for epoch in ran.record.throughput.epochs] == [24, 8]
    assert ran.record.run.debug is None


@pytest.mark.thorough
def test_accumulated_batches_are_one_step_and_the_end_of_an_epoch_too(train):
    """Of three batches the first two are a step, the last one is another: two an epoch."""
    ran = train(*SIMPLE_CNN, "trainer.accumulate_grad_batches=2", "trainer.max_steps=3", "trainer.min_epochs=2")
    rows = trained(ran)
    assert steps(ran.folder) == 3 and len(rows) == 2
    assert "stopped after 2 of 3 batches" in ran.out
    longer = train(f"ckpt_path={ran.folder}/checkpoints/last.ckpt", "trainer.max_steps=3", small=False, to=ran.folder)
    assert "has done 3 of trainer.max_steps=3 optimizer steps; to train longer: trainer.max_steps=6" in longer.err
    arguments = ("trainer.max_steps=5", "trainer.max_epochs=9", "trainer.min_epochs=null")
    longer = train(f"ckpt_path={ran.folder}/checkpoints/last.ckpt", *arguments, small=False, to=ran.folder)
    assert longer.status == 0, longer.err
    assert steps(ran.folder) == 5 and [row["epoch"] for row in metrics(ran.folder)] == ["1", "2", "3"]


@pytest.mark.thorough
def test_stopped_between_accumulated_batches_it_resumes_to_the_same_bits(train, monkeypatch):
    """Five batches of four images are stopped after the third, which waits for the step that the fourth makes."""
    flags = (
        "datamodule.batch_size=4", "trainer.accumulate_grad_batches=2", "trainer.max_steps=5", "trainer.gradient_clip_val=1",
        "callbacks.last_checkpoint.every_n_train_steps=1",
    )  # fmt: skip
    straight = train(*flags)
    trained(straight)
    usual = StepSeed.on_train_batch_start

    def stop(self, trainer, pl_module, batch, batch_idx):
        usual(self, trainer, pl_module, batch, batch_idx)
        if trainer.current_epoch == 0 and batch_idx == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(StepSeed, "on_train_batch_start", stop)
    stopped = train(*flags)
    assert stopped.status == 128 + signal.SIGTERM and steps(stopped.folder) == 2
    monkeypatch.setattr(StepSeed, "on_train_batch_start", usual)
    resumed = train(f"ckpt_path={stopped.folder}/checkpoints/last.ckpt", small=False, to=stopped.folder)
    assert resumed.status == 0, resumed.err
    assert outcome(straight.folder) == outcome(stopped.folder)


@pytest.mark.thorough
def test_a_signal_in_the_step_that_ends_the_training_waits_for_its_result(train, monkeypatch):
    at_step(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    stopped = train(*SIMPLE_CNN, "trainer.max_steps=2", "callbacks.last_checkpoint.every_n_train_steps=2")
    assert stopped.status == 128 + signal.SIGTERM and len(metrics(stopped.folder)) == 1
    resumed = train(f"ckpt_path={stopped.folder}/checkpoints/last.ckpt", small=False, to=stopped.folder)
    assert resumed.status == 0, resumed.err
    assert resumed.record.status == "finished" and len(metrics(stopped.folder)) == 1


@pytest.mark.thorough
def test_the_time_is_up_in_the_middle_of_an_epoch(train, monkeypatch):
    """After the fifth step, by a clock of the test; whoever else sets should_stop has the same end."""
    late = []
    at_step(monkeypatch, 5, lambda: late.append(True))
    monkeypatch.setattr(Timer, "time_elapsed", lambda self, stage=None: 60 if late else 0)
    ran = train(*SIMPLE_CNN, "trainer.max_time=00:00:00:30", "trainer.max_epochs=100")
    rows = trained(ran)
    assert steps(ran.folder) == 5 and len(rows) == 2 and all(value for row in rows for value in row.values())
    assert "stopped after 2 of 3 batches" in ran.out and "timer: 60 s of training are over" in ran.out
    again = train(f"ckpt_path={ran.folder}/checkpoints/last.ckpt", small=False, to=ran.folder)
    assert again.status == 1 and "to train longer: a longer trainer.max_time" in again.err, again.err
    assert ran.record.status == "finished" and ran.record.test.test_evaluations == 1


@pytest.mark.thorough
def test_epochs_without_validation_have_empty_cells_and_are_never_the_best(train):
    flags = ("trainer.check_val_every_n_epoch=2", "trainer.max_epochs=5", "scheduler=plateau", "scheduler.patience=0")
    ran = train(*SIMPLE_CNN, *flags, "scheduler.monitor=val/accuracy")
    rows = trained(ran)
    assert [bool(row["val/loss"]) for row in rows] == [False, True, False, True, False]
    assert all(row["train/loss"] and row["lr"] for row in rows)
    assert ran.record.best.epoch == 4  # of two epochs with accuracy 1 the one with the lower loss
    assert float(rows[3]["val/loss"]) < float(rows[1]["val/loss"])
    assert rows[1]["val/accuracy"] == rows[3]["val/accuracy"] == "1.0"
    # Only the second validation shows no improvement: one reduction, after the epoch whose line comes before it
    assert [float(row["lr"]) for row in rows] == pytest.approx([0.003] * 4 + [0.0003])


@pytest.mark.parametrize("flags", [
    ["trainer.precision=bf16-mixed"],
    pytest.param(["trainer.gradient_clip_val=0.01", "trainer.gradient_clip_algorithm=value", "trainer.detect_anomaly=true"],
                 marks=pytest.mark.thorough),
    ["trainer.inference_mode=false", "trainer.benchmark=true", "trainer.deterministic=false", "trainer.sync_batchnorm=true",
     "trainer.log_every_n_steps=2", "trainer.enable_progress_bar=false", "trainer.strategy=auto",
     "+trainer.num_nodes=1", "trainer.min_epochs=1", "trainer.min_steps=1", "trainer.max_time={minutes: 5}"],
])  # fmt: skip
def test_other_flags_train(train, flags):
    ran = train(*SIMPLE_CNN, "trainer.max_epochs=1", *flags)
    assert len(trained(ran)) == 1 and steps(ran.folder) == 3 and ran.record.run.debug is None


@pytest.mark.parametrize(("devices", "n_gpus"), [("2", 0), ("[0,1]", 2), ('"0,1"', 2), ("auto", 2), ("-1", 2)])
def test_several_devices_need_a_process_each(train, monkeypatch, devices, n_gpus):
    """Lightning would start processes that do not know of each other, and all but one would find the run's folder in use."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: n_gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: n_gpus)
    ran = train(*SIMPLE_CNN, f"trainer.devices={devices}", "trainer.accelerator=auto")
    assert ran.status == 1 and not ran.folder.exists()
    assert f"trainer.devices={devices}: trainer.strategy=auto trains in one process, on one device" in ran.err
    assert "use trainer.devices=1, or add trainer=ddp, which starts a process per device" in ran.err


@pytest.mark.parametrize("precision", ["bf16-mixed", pytest.param("bf16-true", marks=pytest.mark.thorough)])
def test_results_are_in_the_precision_in_which_the_network_is_used(train, precision):
    ran = train(*SIMPLE_CNN, "trainer.max_epochs=1", f"trainer.precision={precision}", "trainer=cpu")
    trained(ran)
    model = Predictor.from_checkpoint(ran.folder / "checkpoints" / "best.ckpt")
    for table in ("predictions.csv", "predictions_val.csv"):
        rows = read_csv(ran.folder / table)
        found = model.predict([Path(ran.record.data.root, row["path"]) for row in rows])
        for row, prediction in zip(rows, found, strict=True):
            assert {name: float(row[f"p_{name}"]) for name in model.classes} == pytest.approx(
                prediction.probabilities, abs=2e-6, rel=0
            )


@pytest.mark.thorough
def test_clipping_reaches_the_optimizer(train):
    """SGD moves each weight by no more than the learning rate times the largest allowed gradient."""
    flags = ("optimizer=sgd", "optimizer.lr=1", "scheduler=none", "trainer.max_steps=1")
    weights = []
    for clip in ("1e-6", "1e-12"):
        ran = train(*SIMPLE_CNN, *flags, "trainer.gradient_clip_algorithm=value", f"trainer.gradient_clip_val={clip}")
        trained(ran)
        state = torch.load(ran.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        weights.append({name: value for name, value in state.items() if name.endswith(("weight", "bias"))})
    moved = [(weights[0][name] - weights[1][name]).abs().max() for name in weights[0]]
    assert 0 < max(moved) < 1.2e-6


@pytest.mark.thorough
def test_clipping_with_mixed_precision_switches_a_fused_optimizer_off(train):
    flags = ("trainer.max_epochs=1", "trainer.precision=bf16-mixed", "trainer.gradient_clip_val=0.5", "stages=[fit]")
    ran = train(*SIMPLE_CNN, *flags)
    assert ran.status == 0 and "optimizer.fused=false: a fused optimizer cannot have" in ran.out, ran.err
    refused = train(*SIMPLE_CNN, *flags, "optimizer.fused=true")
    assert refused.status == 1 and refused.err.startswith("ERROR: optimizer.fused=true: a fused"), refused.err


@pytest.mark.thorough
def test_a_profile_lies_in_the_folder_and_the_screen_says_where(train):
    ran = train(*SIMPLE_CNN, "trainer.profiler=simple", "trainer.max_epochs=1")
    trained(ran)
    for stage in ("fit", "validate", "test"):
        path = ran.folder / f"{stage}-profile.txt"
        assert "Profiler Report" in path.read_text() and f"Profile: {path}" in ran.out
    assert "run_training_batch" in (ran.folder / "fit-profile.txt").read_text()


@pytest.mark.thorough
def test_a_fast_run_does_everything_is_marked_and_never_ranked(train, capsys):
    ran = train(*SIMPLE_CNN, "debug=fast", "trainer.check_val_every_n_epoch=2", drawn=True)
    assert len(trained(ran)) == 1 and steps(ran.folder) == 1
    record = ran.record
    assert record.run.debug == "debug=fast" and record.val.accuracy.n == record.test.accuracy.n == 8
    assert [each.n for each in record.test.per_class] == [4, 4] and record.test.auroc is not None
    assert (
        ran.out.startswith("WARNING: debug run (debug=fast)") and "Debug run (debug=fast)" in ran.out.splitlines()[-4]
    )
    assert "**A debug run (debug=fast): its results mean nothing.**" in (ran.folder / "MODEL_CARD.md").read_text()
    assert compare.main([str(ran.folder)] * 2) == 1
    assert "a debug run (debug=fast), never ranked" in capsys.readouterr().err
    again = train(
        "stages=[test]",
        f"ckpt_path={ran.folder}/checkpoints/best.ckpt",
        f"hydra.run.dir={ran.folder}/again",
        small=False,
        to=ran.folder / "again",
    )
    assert again.status == 0, again.err
    assert again.record.run.debug == "debug=fast"


def test_limits_leave_images_of_every_class_and_the_same_in_each_epoch(train, monkeypatch):
    seen = []
    monkeypatch.setattr(
        PredictionWriter, "on_train_batch_end",
        lambda self, trainer, module, outputs, batch, index: seen.append((trainer.current_epoch, batch["rows"].tolist())),
    )  # fmt: skip
    ran = train(
        *SIMPLE_CNN, "trainer.limit_train_batches=0.7", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1"
    )
    trained(ran)
    assert steps(ran.folder) == 4  # int(0.7 * 3) = 2 batches in each of two epochs
    epochs = [sorted(row for epoch, rows in seen if epoch == number for row in rows) for number in (0, 1)]
    assert epochs[0] == epochs[1] and len(set(epochs[0])) == 16
    for split in (ran.record.val, ran.record.test):
        assert [each.n for each in split.per_class] == [4, 4]
    assert ran.record.run.debug.startswith("trainer.limit_train_batches=0.7, trainer.limit_val_batches=1")
    assert "limited to 16 of 24 train, 8 of 12 val, 8 of 14 test images" in ran.out
    assert (ran.record.val.part, ran.record.test.part) == ("8 of 12 val images", "8 of 14 test images")
    assert "Accuracy on 8 of 14 test images only " in ran.out and "8 of 14 test images: recall: " in ran.out
    card = (ran.folder / "MODEL_CARD.md").read_text()
    assert "Accuracy on 8 of 14 test images only: " in card and "class (on 8 of 14 test images only)" in card
    assert not re.search(r"(?i)test accuracy|accuracy test|\btest: ", ran.out + card)


@pytest.mark.thorough
def test_overfitting_sees_the_same_images_without_augmentation_and_learns_them_by_heart(train, monkeypatch):
    seen = {"training_step": [], "validation_step": []}
    for name in seen:
        usual = getattr(ImageClassifier, name)

        def look(self, batch, batch_idx, name=name, usual=usual):
            seen[name].append((batch["rows"].tolist(), batch["pixels"].clone()))
            return usual(self, batch, batch_idx)

        monkeypatch.setattr(ImageClassifier, name, look)
    ran = train(*SIMPLE_CNN, "debug=overfit", "trainer.max_epochs=8", "stages=[fit]", "augmentation=study_jitter")
    assert ran.status == 0, ran.err
    first, pixels = seen["training_step"][0]
    assert len(seen["training_step"]) == 8 and len(seen["validation_step"]) == 9 and len(first) == 8
    for rows, same in (*seen["training_step"], *seen["validation_step"]):
        assert rows == first and torch.equal(same, pixels)
    record = ran.record
    assert [each.n for each in record.val.per_class] == [4, 4] and record.test is None
    assert (
        (record.best.monitor, record.best.value)
        == ("train/accuracy", 1.0)
        == ("train/accuracy", record.val.accuracy.value)
    )
    assert "trains on the same 8 images in every epoch, without augmentation" in ran.out
    assert "same images accuracy 1.0000" in ran.out and "Accuracy on 8 training images only 1.000 (8 of 8" in ran.out


@pytest.mark.thorough
def test_a_checkpoint_in_the_middle_of_another_epoch_is_refused(train, monkeypatch):
    at_step(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    stopped = train(*SIMPLE_CNN)
    last = stopped.folder / "checkpoints" / "last.ckpt"
    copy = stopped.folder.parent / "copy"
    ran = train(f"ckpt_path={last}", "debug=fast", f"hydra.run.dir={copy}", small=False, to=copy)
    assert ran.status == 1
    assert (
        "ckpt_path: it was saved after 16 images of an epoch, but this command has other images or another order"
        in ran.err
    )
    ran = train(f"ckpt_path={last}", "seed=3", small=False, to=stopped.folder)
    assert ran.status == 1 and "resume with the run's own seed" in ran.err


@pytest.mark.thorough
@pytest.mark.parametrize(("size", "batches"), [(4, [4, 4]), (5, [4, 4]), (12, [8])])
def test_an_epoch_that_resumes_with_batches_of_another_size_sees_each_image_once(
    train, monkeypatch, rates, size, batches
):
    """Stopped after two batches of eight, in the first epoch of two."""
    seen, usual = [], ImageClassifier.training_step

    def look(self, batch, batch_idx):
        seen.append((self.trainer.current_epoch, batch["rows"].tolist()))
        return usual(self, batch, batch_idx)

    monkeypatch.setattr(ImageClassifier, "training_step", look)
    at_step(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    stopped = train(*SIMPLE_CNN, "scheduler=one_cycle", "scheduler.warmup_fraction=0")
    settings = (f"datamodule.batch_size={size}", "datamodule.num_workers=1")
    ran = train(f"ckpt_path={stopped.folder}/checkpoints/last.ckpt", *settings, small=False, to=stopped.folder)
    assert ran.status == 0, ran.err
    for epoch in (0, 1):
        rows = [row for number, batch in seen for row in batch if number == epoch]
        assert len(rows) == len(set(rows)) == 24
    assert [len(batch) for epoch, batch in seen if epoch == 0] == [8, 8, *batches]
    total = len(seen)  # the schedule follows the steps that there are
    assert rates[2:] == pytest.approx(half_cosine(total, first=2)) and steps(stopped.folder) == total
    assert [row["epoch"] for row in metrics(stopped.folder)] == ["1", "2"]


@pytest.mark.thorough
def test_debug_on_top_of_a_run_that_resumes_sets_its_flags_and_marks_it(train):
    ran = train(*SIMPLE_CNN)
    last = ran.folder / "checkpoints" / "last.ckpt"
    fast = train(f"ckpt_path={last}", "debug=fast", "hydra.run.dir=" + str(ran.folder.parent / "copy"), small=False,
                 to=ran.folder.parent / "copy")  # fmt: skip
    assert fast.status == 0, fast.err
    assert fast.record.run.debug == "debug=fast" and fast.record.test.accuracy.n == 8
    assert [row["epoch"] for row in metrics(fast.folder)] == ["1", "2", "3"] and ran.record.run.debug is None


@pytest.mark.thorough
def test_debug_runs_of_a_sweep_are_not_on_its_page(train, tmp_path):
    folder = tmp_path / "sweep"
    ran = train(
        "-m", *SIMPLE_CNN, "trainer.max_epochs=1", "trainer.limit_train_batches=1,null", f"hydra.sweep.dir={folder}"
    )
    assert ran.status == 0, ran.err
    excluded = [line for line in ran.out.splitlines() if line.startswith("excluded: ")]
    (line,) = excluded
    assert line.endswith("limit_train_batches-1: a debug run (trainer.limit_train_batches=1), never ranked")
    page = (folder / "report.md").read_text()
    assert page.count("debug run") == 1 and "limit_train_batches-null" not in line
