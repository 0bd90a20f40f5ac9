"""After training: the decision in best.ckpt, the metrics, how often the test images were used."""

import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from common.run_folder import RunFolder
from common.run_record import Decision, RunRecord, write_record
from engine.run.evaluate import add_decision
from evaluation.calibration import with_temperature
from lightning_modules.checkpoint import read_checkpoint
from tests.support.helpers import SIMPLE_CNN, content, make_images, read_csv

UNBIASED = "only the first result is unbiased"


def weights(path) -> dict[str, bytes]:
    return {name: t.numpy().tobytes() for name, t in torch.load(path, weights_only=True)["state_dict"].items()}


def test_the_decision_is_in_best_ckpt_and_in_the_record(finished_run):
    state = torch.load(finished_run.folder / "checkpoints" / "best.ckpt", weights_only=True)
    decision = finished_run.record.decision
    assert state["decision"] == asdict(decision)
    assert (decision.fitted_on, decision.delta, decision.confidence, decision.positive_class) == (12, 0.1, None, "red")
    assert (
        "accuracy 0.95 cannot be promised with 12 validation images (at least 45 without an error" in finished_run.out
    )
    assert "threshold for 'red': " in finished_run.out and "AUROC" in finished_run.out


def test_metrics_of_the_record_agree_with_the_tables(finished_run):
    rows = read_csv(finished_run.folder / "predictions.csv")
    labels = np.array([row["label"] == "red" for row in rows]).astype(int)
    p = np.array([[float(row["p_blue"]), float(row["p_red"])] for row in rows])
    metrics, decision = finished_run.record.test, finished_run.record.decision
    q = with_temperature(p, decision.temperature)
    assert metrics.calibrated.brier == pytest.approx(((q - np.eye(2)[labels]) ** 2).sum(axis=1).mean(), abs=1e-5)
    assert metrics.loss == pytest.approx(-np.log(p[np.arange(len(p)), labels]).mean(), abs=1e-5)
    predicted = p[:, 1] >= decision.threshold - 5e-7  # the table has six digits
    assert metrics.binary.at_threshold.sensitivity.value == pytest.approx(predicted[labels == 1].mean())
    low, high = metrics.intervals["auroc"]
    assert low <= metrics.auroc <= high


def test_writing_a_decision_keeps_the_weights_and_a_failure_keeps_the_file(finished_run, tmp_path, monkeypatch):
    best = tmp_path / "best.ckpt"
    shutil.copyfile(finished_run.folder / "checkpoints" / "best.ckpt", best)
    before = weights(best)
    decision = Decision(**torch.load(best, weights_only=True)["decision"] | {"temperature": 2.0})
    add_decision(best, read_checkpoint(best), decision)
    assert weights(best) == before and torch.load(best, weights_only=True)["decision"] == asdict(decision)

    def full(*_):
        raise OSError(28, "No space left on device")

    content = best.read_bytes()
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        add_decision(best, read_checkpoint(best), replace(decision, temperature=3.0))
    assert best.read_bytes() == content and not list(best.parent.glob(".best*"))


@pytest.mark.thorough
def test_evaluating_again_gives_the_same_and_is_counted_as_is_resuming(train, finished_run, made, tmp_path):
    before = finished_run.record
    assert before.test.test_evaluations == 1
    options = {"small": False, "to": tmp_path / "again"}
    command = ["stages=[test]", f"ckpt_path={made.best_checkpoint}", f"hydra.run.dir={tmp_path / 'again'}"]
    again = train(*command, **options)
    assert again.status == 0, again.err
    assert f"the test images were evaluated 2 times with this model; {UNBIASED}" in again.out
    card = (again.folder / "MODEL_CARD.md").read_text()
    assert f"When this card was written: the test images were evaluated 2 times with this model; {UNBIASED}." in card
    assert again.record.val == before.val and again.record.decision == before.decision
    assert again.record.test == replace(before.test, test_evaluations=2)
    assert (again.folder / "predictions.csv").read_bytes() == made.predictions("test").read_bytes()
    content = made.best_checkpoint.read_bytes()
    other = train(*command, "decision.positive_class=blue", **options)  # other rules
    assert other.record.decision.positive_class == "blue" and other.record.test.test_evaluations == 3
    assert made.best_checkpoint.read_bytes() == content
    resumed = train(f"ckpt_path={made.last_checkpoint}", "trainer.max_epochs=3", small=False, to=made.path)
    assert resumed.status == 0 and resumed.record.test.test_evaluations == 4
    assert "resuming after epoch 2" in resumed.out


@pytest.mark.thorough
def test_a_training_that_continues_in_another_folder_was_evaluated_before(train, made, tmp_path):
    place = tmp_path / "longer"
    command = [f"ckpt_path={made.last_checkpoint}", "trainer.max_epochs=3", f"hydra.run.dir={place}"]
    stopped = train(*command, "stages=[fit]", small=False, to=place)  # not evaluated there yet, but later
    assert stopped.status == 0 and stopped.record.test.test_evaluations == 1, stopped.err
    last = RunFolder(place).last_checkpoint
    ran = train(f"ckpt_path={last}", "trainer.max_epochs=4", "stages=[fit,test]", small=False, to=place)
    assert ran.status == 0 and ran.record.test.test_evaluations == 2, ran.err
    assert f"the test images were evaluated 2 times with this model; {UNBIASED}" in ran.out
    assert RunRecord.read(made).test.test_evaluations == 1
    other = make_images(
        tmp_path / "other", {f"{s}/{c}": 6 for s in ("train", "val", "test") for c in ("blue", "red")}, seed=7
    )
    place = tmp_path / "other_images"
    ran = train(*command[:2], f"hydra.run.dir={place}", f"datamodule.root={other}", small=False, to=place)
    assert ran.status == 0 and ran.record.test.test_evaluations == 1, ran.err


@pytest.mark.thorough
def test_a_model_that_is_evaluated_on_other_images_is_evaluated_on_them_for_the_first_time(train, made, tmp_path):
    before = content(made.path)
    counts = {f"{split}/{color}": 6 for split in ("train", "val", "test") for color in ("blue", "red")}
    other = make_images(tmp_path / "other", counts, seed=7)
    command = ["stages=[test]", f"ckpt_path={made.best_checkpoint}", f"datamodule.root={other}"]
    ran = train(*command, f"hydra.run.dir={tmp_path / 'elsewhere'}", small=False, to=tmp_path / "elsewhere")
    assert ran.status == 0, ran.err
    assert ran.record.test.test_evaluations == 1 and "were evaluated" not in ran.out
    assert content(made.path) == before


@pytest.mark.thorough
@pytest.mark.parametrize("tested", [True, False], ids=["tested before", "never tested"])
def test_the_same_images_under_other_names_are_counted(train, made, two_colors, tmp_path, tested):
    if not tested:
        record = RunRecord.read(made)
        record.test = None
        write_record(record)
        made.predictions("test").unlink()
    copied = shutil.copytree(two_colors, tmp_path / "copied")
    for path in list(copied.rglob("*.png")):
        path.rename(path.with_name(f"other {path.stem}.PNG"))
    command = ["stages=[test]", f"ckpt_path={made.best_checkpoint}", f"datamodule.root={copied}"]
    ran = train(*command, f"hydra.run.dir={tmp_path / 'again'}", small=False, to=tmp_path / "again")
    assert ran.status == 0, ran.err
    assert ran.record.test.test_evaluations == RunRecord.read(made).test.test_evaluations == 1 + tested


@pytest.mark.thorough
@pytest.mark.parametrize("splits", [["datamodule.folds=null", "datamodule.fold=null"], []], ids=["val", "fold"])
def test_a_fold_s_model_is_counted_on_the_test_images_whatever_is_val(train, tmp_path, splits):
    fold = train(*SIMPLE_CNN, "datamodule.folds=3", "datamodule.fold=1", "trainer.max_epochs=1")
    assert fold.status == 0, fold.err
    assert fold.record.test is None and "cross-validation: test images are not evaluated" in fold.out
    best = RunFolder(fold.folder).best_checkpoint
    for count in (1, 2):
        place = tmp_path / f"test{count}"
        ran = train("stages=[test]", f"ckpt_path={best}", *splits, f"hydra.run.dir={place}", small=False, to=place)
        assert ran.status == 0 and "are not evaluated" not in ran.out, ran.err
        assert ran.record.test.accuracy.n == 14
        if not splits:  # its own fold
            assert (ran.record.data.folds, ran.record.data.fold) == (3, 1)
            assert ran.record.val.accuracy == fold.record.val.accuracy and ran.record.val.accuracy.n == 12
        assert ran.record.test.test_evaluations == RunRecord.read(fold.folder).test.test_evaluations == count


def test_evaluated_again_in_its_own_folder_the_count_continues(train, made, tmp_path):
    command = ["stages=[test]", f"ckpt_path={made.best_checkpoint}", f"hydra.run.dir={made.path}"]
    ran = train(*command, to=made.path)
    assert ran.status == 0, ran.err
    assert ran.record.test.test_evaluations == 2


def test_a_record_that_cannot_be_read_counts_nothing_and_is_logged(train, made, tmp_path):
    made.record.write_text("{")
    place = tmp_path / "again"
    command = ["stages=[test]", f"ckpt_path={made.best_checkpoint}", f"hydra.run.dir={place}"]
    ran = train(*command, small=False, to=place)
    assert ran.status == 0, ran.err
    assert ran.record.test.test_evaluations is None and made.record.read_text() == "{"
    assert any("evaluated on test is unknown" in warning for warning in ran.record.run.warnings)


def test_selection_on_test_is_marked_everywhere(train):
    ran = train("datamodule.select_on=test", *SIMPLE_CNN)
    assert ran.status == 0, ran.err
    record = ran.record
    assert record.data.select_on == "test" and record.val is None and record.decision is None
    assert record.best.monitor == "test/accuracy"
    assert any("datamodule.select_on=test" in warning for warning in record.run.warnings)
    assert "test accuracy" in ran.out and "; the epoch was chosen on these images" in ran.out
    chosen = max(float(row["val/accuracy"]) for row in read_csv(ran.folder / "metrics.csv"))
    assert record.test.accuracy.value == pytest.approx(chosen)  # of the test images, seen every epoch
    assert not (ran.folder / "predictions_val.csv").exists()
    place = ran.folder.parent / "again"
    best = RunFolder(ran.folder).best_checkpoint
    again = train("stages=[test]", f"ckpt_path={best}", f"hydra.run.dir={place}", small=False, to=place)
    words = "the test images were evaluated 2 times with this model, and they chose its epoch: no result is unbiased"
    assert words in again.out and words[1:] in (place / "MODEL_CARD.md").read_text()


def test_three_classes_have_metrics_of_each(train, tmp_path):
    counts = {f"{s}/{c}": 6 for s in ("train", "val", "test") for c in ("blue", "red", "green")}
    ran = train("trainer.max_epochs=1", *SIMPLE_CNN, root=make_images(tmp_path / "data", counts))
    assert ran.status == 0, ran.err
    assert [scores.name for scores in ran.record.test.per_class] == ["blue", "green", "red"]
    assert ran.record.test.binary is None and ran.record.decision.threshold is None


def test_a_network_that_gives_nan_is_named(train, finished_run, tmp_path):
    damaged = RunFolder(shutil.copytree(finished_run.folder, tmp_path / "run")).best_checkpoint
    state = torch.load(damaged, weights_only=True)
    next(iter(state["state_dict"].values()))[:] = float("nan")
    torch.save(state, damaged)
    ran = train("stages=[test]", f"ckpt_path={damaged}", small=False, to=tmp_path / "again")
    words = "val: the network gives NaN for 12 of 12 images: its weights are damaged; use another checkpoint"
    assert ran.status == 1 and words in ran.err


def test_a_training_that_diverges_in_its_last_step_says_what_to_try(train):
    ran = train(*SIMPLE_CNN, "optimizer=sgd", "optimizer.lr=1e30", "trainer.max_steps=1")
    words = (
        "12 images: the training diverged in its last steps; try a smaller optimizer.lr or trainer.gradient_clip_val=1"
    )
    assert ran.status == 1 and words in ran.err
