"""Monitored scores: of an epoch what the record says of the same network, and never of images that cannot tell."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from callbacks.early_stopping import EarlyStopping
from callbacks.epoch_scores import EpochScores
from common.errors import UserError
from tests.support.helpers import SIMPLE_CNN, make_images, read_csv

BEST = "callbacks.best_checkpoint.monitor"
FIRST = (f"{BEST}=val/auroc", "scheduler=plateau", "scheduler.monitor=val/f1")
EARLY = ("callbacks=early_stopping", "callbacks.early_stopping.monitor=val/balanced_accuracy")


def test_of_the_best_epoch_they_equal_the_record_and_another_library(train, tmp_path):
    """Three gray classes of uneven number, that no network can tell apart."""
    counts = {f"{split}/{name}": n for split in ("train", "val", "test") for name, n in (("a", 4), ("b", 6), ("c", 12))}
    ran = train(*SIMPLE_CNN, *FIRST, *EARLY, "trainer.max_epochs=3", root=make_images(tmp_path / "gray", counts))
    assert ran.status == 0, ran.err
    rows, record = read_csv(ran.folder / "metrics.csv"), ran.record
    best = rows[record.best.epoch - 1]
    assert record.best.monitor == "val/auroc" and record.best.value == max(float(row["val/auroc"]) for row in rows)
    table = read_csv(ran.folder / "predictions_val.csv")
    labels = np.array(["abc".index(row["label"]) for row in table])
    p = np.array([[float(row[f"p_{name}"]) for name in "abc"] for row in table])
    expected = {
        "balanced_accuracy": balanced_accuracy_score(labels, p.argmax(1)),
        "f1": f1_score(labels, p.argmax(1), average="macro"),
        "auroc": roc_auc_score(labels, p / p.sum(1, keepdims=True), multi_class="ovr", average="macro"),
    }
    for name, value in expected.items():
        assert float(best[f"val/{name}"]) == pytest.approx(getattr(record.val, name), abs=1e-6), name
        assert float(best[f"val/{name}"]) == pytest.approx(value, abs=1e-3 if name == "auroc" else 1e-6), name
    assert re.search(r"val balanced accuracy 0\.\d{4}  val f1 0\.\d{4}  val auroc 0\.\d{4}", ran.out)


def test_a_run_that_resumes_with_another_monitor_keeps_its_rows(train):
    first = train(*SIMPLE_CNN, "trainer.max_epochs=1", "scheduler=plateau", "stages=[fit]")
    last = f"ckpt_path={first.folder}/checkpoints/last.ckpt"
    ran = train(
        last,
        "trainer.max_epochs=2",
        "scheduler=plateau",
        "scheduler.monitor=val/f1",
        "stages=[fit]",
        small=False,
        to=first.folder,
    )
    assert ran.status == 0, ran.err
    rows = read_csv(ran.folder / "metrics.csv")
    assert rows[0]["val/f1"] == "" and 0 <= float(rows[1]["val/f1"]) <= 1


def checked(labels, monitored="val/auroc", classes=("a", "b", "c")):
    data = SimpleNamespace(
        validated_split="val", validated_rows=lambda: np.arange(len(labels)),
        catalog=SimpleNamespace(labels=np.array(labels), classes=list(classes)),
    )  # fmt: skip
    EpochScores(monitored={monitored: BEST}).setup(SimpleNamespace(datamodule=data), None, "fit")


@pytest.mark.parametrize("score", ["val/auroc", "val/f1", "val/balanced_accuracy"])
def test_images_of_one_class_are_refused(score):
    with pytest.raises(
        UserError, match=rf"^{BEST}={score}: all images of val are of one class \(b\).*; use {BEST}=val/loss"
    ):
        checked([1, 1, 1], score)


@pytest.mark.parametrize(("labels", "text"), [
    ([0, 0, 1, 1], "val has no images of c, so it covers only the other classes"),
    ([0, 0, 1, 2], "val has one image of b and c, which counts as much as all of another class"),
    ([0, 0, 1, 1, 2, 2], None),
])  # fmt: skip
def test_classes_that_cannot_tell_much_are_named(labels, text, caplog):
    checked(labels)
    assert [text in message for message in caplog.messages] == ([True] if text else [])


@pytest.mark.parametrize(("monitor", "mode"), [("val/loss", "min"), ("val/auroc", "max"), ("train/loss", "min")])
def test_early_stopping_knows_the_direction(monitor, mode):
    assert EarlyStopping(monitor=monitor, patience=1).mode == mode
    assert EarlyStopping(monitor=monitor, patience=1, mode="max").mode == "max"


def test_a_nan_is_a_value_and_no_error():
    scores, logged = EpochScores(monitored={"val/auroc": BEST}), {}
    data = SimpleNamespace(catalog=SimpleNamespace(labels=np.array([0, 1])))
    trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"), world_size=1, datamodule=data)
    nan = torch.full((2, 2), float("nan"))
    scores.on_validation_batch_end(
        trainer, None, {"rows": torch.arange(2), "logits": nan, "probabilities": nan}, None, 0
    )
    scores.on_validation_epoch_end(trainer, SimpleNamespace(log=lambda name, value, **_: logged.update({name: value})))
    assert np.isnan(logged["val/auroc"])


@pytest.mark.parametrize(
    "setting", [{"patience": -1}, {"patience": 1, "min_delta": -0.1}, {"patience": 1, "min_delta": np.nan}]
)
def test_early_stopping_names_a_setting_that_means_nothing(setting):
    name, value = list(setting.items())[-1]
    with pytest.raises(UserError, match=re.escape(f"callbacks.early_stopping.{name}={value}: use ")):
        EarlyStopping(monitor="val/loss", **setting)
