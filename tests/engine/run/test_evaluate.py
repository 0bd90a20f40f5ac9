"""After training: the decision in best.ckpt, the metrics, how often the test images were used."""

import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from common.run_folder import RunFolder
from common.run_record import Decision
from common.untrusted.tables import read_csv
from engine.run.evaluate import add_decision
from evaluation.calibration import with_temperature
from tests.support.helpers import SIMPLE_CNN, make_images


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
    add_decision(best, decision)
    assert weights(best) == before and torch.load(best, weights_only=True)["decision"] == asdict(decision)

    def full(*_):
        raise OSError(28, "No space left on device")

    content = best.read_bytes()
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        add_decision(best, replace(decision, temperature=3.0))
    assert best.read_bytes() == content and not list(best.parent.glob(".best*"))


def test_evaluating_again_gives_the_same_and_is_counted_as_is_resuming(train, finished_run, tmp_path):
    folder = RunFolder(shutil.copytree(finished_run.folder, tmp_path / "trained"))
    before = finished_run.record
    assert before.test.test_evaluations == 1
    options = {"small": False, "to": tmp_path / "again"}
    command = ["stages=[test]", f"ckpt_path={folder.best_checkpoint}", f"hydra.run.dir={tmp_path / 'again'}"]
    again = train(*command, **options)
    assert again.status == 0, again.err
    assert "this model has now been evaluated on the test set 2 times" in again.out
    assert again.record.val == before.val and again.record.decision == before.decision
    assert again.record.test == replace(before.test, test_evaluations=2)
    assert (again.folder / "predictions.csv").read_bytes() == folder.predictions("test").read_bytes()
    content = folder.best_checkpoint.read_bytes()
    other = train(*command, "decision.positive_class=blue", **options)  # other rules
    assert other.record.decision.positive_class == "blue" and other.record.test.test_evaluations == 3
    assert folder.best_checkpoint.read_bytes() == content
    resumed = train(f"ckpt_path={folder.last_checkpoint}", "trainer.max_epochs=3", small=False, to=folder.path)
    assert resumed.status == 0 and resumed.record.test.test_evaluations == 4
    assert "resuming after epoch 2" in resumed.out


def test_selection_on_test_is_marked_everywhere(train):
    ran = train("datamodule.select_on=test", *SIMPLE_CNN)
    assert ran.status == 0, ran.err
    record = ran.record
    assert record.data.select_on == "test" and record.val is None and record.decision is None
    assert record.best.monitor == "test/accuracy"
    assert any("datamodule.select_on=test" in warning for warning in record.run.warnings)
    assert "test accuracy" in ran.out and "(the epoch was chosen on these images)" in ran.out
    chosen = max(float(row["val/accuracy"]) for row in read_csv(ran.folder / "metrics.csv"))
    assert record.test.accuracy.value == pytest.approx(chosen)  # of the test images, seen every epoch
    assert not (ran.folder / "predictions_val.csv").exists()


def test_three_classes_have_metrics_of_each(train, tmp_path):
    counts = {f"{s}/{c}": 6 for s in ("train", "val", "test") for c in ("blue", "red", "green")}
    ran = train("trainer.max_epochs=1", *SIMPLE_CNN, root=make_images(tmp_path / "data", counts))
    assert ran.status == 0, ran.err
    assert [scores.name for scores in ran.record.test.per_class] == ["blue", "green", "red"]
    assert ran.record.test.binary is None and ran.record.decision.threshold is None
