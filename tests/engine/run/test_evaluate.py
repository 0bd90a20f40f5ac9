"""What follows training: the decision in best.ckpt, the protocol, how often test was opened."""

import numpy as np
import pytest
import torch

from common.atomic_io import read_csv
from engine.run.evaluate import add_to_checkpoint
from evaluation.calibration import with_temperature
from tests.support.helpers import make_images


def weights(path) -> dict[str, bytes]:
    return {name: t.numpy().tobytes() for name, t in torch.load(path, weights_only=True)["state_dict"].items()}


def test_the_decision_is_in_best_ckpt_and_in_the_record(train):
    ran = train()
    state = torch.load(ran.folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert state["decision"] == ran.record["decision"]
    assert state["decision"]["fitted_on"] == 12 and state["decision"]["positive_class"] == "red"
    assert "red from p = " in ran.out and "AUROC" in ran.out and "Accuracy test: " in ran.out


def test_figures_of_the_record_follow_from_the_tables(train):
    ran = train()
    rows = read_csv(ran.folder / "predictions.csv")
    labels = np.array([row["label"] == "red" for row in rows]).astype(int)
    p = np.array([[float(row["p_blue"]), float(row["p_red"])] for row in rows])
    section, decision = ran.record["test"], ran.record["decision"]
    q = with_temperature(p, decision["temperature"])
    assert section["calibrated"]["brier"] == pytest.approx(((q - np.eye(2)[labels]) ** 2).sum(axis=1).mean(), abs=1e-5)
    called = p[:, 1] >= decision["threshold"] - 5e-7  # the table has six digits
    assert section["binary"]["at_threshold"]["sensitivity"]["value"] == pytest.approx(called[labels == 1].mean())
    low, high = section["intervals"]["auroc"]
    assert low <= section["auroc"] <= high


def test_a_decision_leaves_the_weights_as_they_are_and_a_failure_leaves_the_file(train, monkeypatch):
    ran = train("trainer.max_epochs=1")
    best = ran.folder / "checkpoints" / "best.ckpt"
    before = weights(best)
    decision = {**torch.load(best, weights_only=True)["decision"], "temperature": 2.0}
    add_to_checkpoint(best, "decision", decision)
    assert weights(best) == before and torch.load(best, weights_only=True)["decision"] == decision

    def full(*_):
        raise OSError(28, "No space left on device")

    content = best.read_bytes()
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError):
        add_to_checkpoint(best, "decision", {**decision, "temperature": 3.0})
    assert best.read_bytes() == content and not list(best.parent.glob(".best*"))


def test_measuring_again_takes_the_decision_of_the_checkpoint_unless_other_rules_are_given(train, tmp_path):
    ran = train()
    again = ["stages=[test]", f"ckpt_path={ran.folder}/checkpoints/best.ckpt"]
    same = train(*again, f"hydra.run.dir={tmp_path / 'same'}", small=False, to=tmp_path / "same")
    assert same.record["decision"] == ran.record["decision"]
    other = train(
        *again,
        "decision.positive_class=blue",
        f"hydra.run.dir={tmp_path / 'other'}",
        small=False,
        to=tmp_path / "other",
    )
    assert other.record["decision"]["positive_class"] == "blue"
    assert torch.load(ran.folder / "checkpoints" / "best.ckpt", weights_only=True)["decision"] == ran.record["decision"]


def test_openings_of_test_are_counted_over_measuring_again_and_going_on(train, tmp_path):
    ran = train()
    assert ran.record["test"]["test_evaluations"] == 1
    for count in (2, 3):
        again = train(
            "stages=[test]", f"ckpt_path={ran.folder}/checkpoints/best.ckpt",
            f"hydra.run.dir={tmp_path / str(count)}", small=False, to=tmp_path / str(count),
        )  # fmt: skip
        assert again.record["test"]["test_evaluations"] == count == ran.record["test"]["test_evaluations"]
        assert f"opened for the {count}. time" in again.out
    on = train(f"ckpt_path={ran.folder}/checkpoints/last.ckpt", "trainer.max_epochs=3", small=False, to=ran.folder)
    assert on.status == 0 and on.record["test"]["test_evaluations"] == 4


def test_the_study_s_protocol_is_flagged_everywhere(train):
    ran = train("datamodule.select_on=test")
    assert ran.status == 0, ran.err
    record = ran.record
    assert record["data"]["select_on"] == "test" and record["val"] is None and record["decision"] is None
    assert record["best"]["monitor"] == "test/accuracy"
    assert any("datamodule.select_on=test" in warning for warning in record["run"]["warnings"])
    assert "test accuracy" in ran.out and "(the epoch was chosen on these images)" in ran.out
    chosen = max(float(row["val/accuracy"]) for row in read_csv(ran.folder / "metrics.csv"))
    assert record["test"]["accuracy"]["value"] == pytest.approx(chosen)  # of the test images, seen every epoch
    assert not (ran.folder / "predictions_val.csv").exists()


def test_the_study_s_protocol_needs_a_test_split(train, tmp_path):
    root = make_images(tmp_path / "data", {f"{s}/{c}": 8 for s in ("train", "val") for c in ("blue", "red")})
    ran = train("datamodule.select_on=test", root=root)
    assert ran.status == 1 and "datamodule.select_on=test needs a test split" in ran.err


def test_three_classes_have_figures_of_each(train, tmp_path):
    root = make_images(
        tmp_path / "data", {f"{s}/{c}": 6 for s in ("train", "val", "test") for c in ("blue", "red", "green")}
    )
    ran = train(root=root)
    assert ran.status == 0, ran.err
    assert [line["class"] for line in ran.record["test"]["per_class"]] == ["blue", "green", "red"]
    assert "binary" not in ran.record["test"] and "threshold" not in ran.record["decision"]
    wrong = train("decision.positive_class=red", root=root)
    assert wrong.status == 1 and "decision.positive_class=red" in wrong.err


def test_runs_of_other_seeds_have_the_same_images(train, tmp_path):
    root = make_images(tmp_path / "data", {"blue": 20, "red": 20})
    records = [train(f"seed={seed}", root=root).record for seed in (1, 2)]
    assert records[0]["data"]["fingerprint"] == records[1]["data"]["fingerprint"]
    assert records[0]["run"]["config_hash"] != records[1]["run"]["config_hash"]
    other = train("datamodule.split_seed=7", root=root).record
    half = train("datamodule.train_fraction=0.5", root=root).record
    for changed in (other, half):
        assert changed["data"]["fingerprint"] != records[0]["data"]["fingerprint"]
    val_test = [record["data"]["fingerprint_val_test"] for record in (*records, half, other)]
    assert val_test[0] == val_test[1] == val_test[2] != val_test[3]
