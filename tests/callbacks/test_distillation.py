from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from callbacks.distillation import Distillation, check_teacher
from callbacks.linear_probe import unaugmented_batches
from common.errors import UserError
from common.run_record import DataInfo, ModelInfo, RunRecord
from datamodules.normalize import normalize
from lightning_modules.checkpoint import load_classifier
from lightning_modules.losses import DistillationLoss
from tests.support.fake_checkpoints import make_checkpoint
from tests.support.helpers import SIMPLE_CNN


def test_the_loss_is_that_of_the_paper():
    logits, teacher = torch.tensor([[1.0, -1.0], [0.2, 0.6]]), torch.tensor([[2.0, 0.0], [-1.0, 3.0]])
    losses = torch.tensor([0.7, 0.1])
    soft = torch.exp(teacher / 4) / torch.exp(teacher / 4).sum(1, keepdim=True)
    own = torch.exp(logits / 4) / torch.exp(logits / 4).sum(1, keepdim=True)
    divergence = (soft * (soft / own).log()).sum(1)
    expected = 0.7 * losses + 0.3 * 16 * divergence
    assert torch.allclose(DistillationLoss(temperature=4, weight=0.3)(losses, logits, teacher), expected)
    assert torch.equal(DistillationLoss(temperature=4, weight=0)(losses, logits, teacher), losses)


def test_a_teacher_that_agrees_adds_nothing():
    logits = torch.tensor([[1.0, -1.0]])
    assert DistillationLoss(temperature=2, weight=1)(torch.tensor([5.0]), logits, logits).item() == pytest.approx(
        0, abs=1e-7
    )


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0, "weight": 0.5},
        {"temperature": float("inf"), "weight": 0.5},
        {"temperature": 1, "weight": 1.5},
    ],
)
def test_bad_values_are_named(options):
    with pytest.raises(UserError, match=r"distillation\.(temperature|weight)="):
        DistillationLoss(**options)


@pytest.mark.thorough
def test_a_trained_network_teaches_a_small_one(train, finished_run):
    teacher = finished_run.folder / "checkpoints" / "best.ckpt"
    student = (*SIMPLE_CNN, "trainer.max_epochs=1", "stages=[fit]")
    by_itself, taught = train(*student), train(*student, f"teacher={teacher}")
    assert taught.status == 0, taught.err
    assert not any("teacher=" in warning for warning in taught.record.run.warnings)  # the splits are the same
    first, other = (
        torch.load(r.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for r in (by_itself, taught)
    )
    assert set(first) == set(other)  # the teacher is no part of what is kept
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("cache_teacher", [None, True, pytest.param(False, marks=pytest.mark.thorough)])
def test_without_augmentation_cached_predictions_are_those_of_every_step(finished_run, fake_trainer, cache_teacher):
    path = finished_run.folder / "checkpoints" / "best.ckpt"
    callback = Distillation(teacher=str(path), temperature=4, weight=0.5, cache_teacher=cache_teacher)
    student = load_classifier(path)
    callback.setup(fake_trainer, student, "fit")
    callback.on_train_start(fake_trainer, student)
    assert (callback.cache is None) == (cache_teacher is False)
    data = fake_trainer.datamodule
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    callback.on_train_batch_start(fake_trainer, student, batch, 0)
    with torch.no_grad():
        assert torch.allclose(batch["teacher_logits"], student(batch["pixels"]), atol=1e-5)


def test_the_teacher_sees_the_normalization_that_it_was_trained_with(tmp_path, finished_run, fake_trainer, caplog):
    data, student = fake_trainer.datamodule, load_classifier(finished_run.folder / "checkpoints" / "best.ckpt")
    path = make_checkpoint(
        tmp_path / "teacher.ckpt",
        classes=student.classes,
        image_size=32,
        decision=None,
        mean=[0.1, 0.5, 0.9],
        interpolation="bicubic",
    )
    callback = Distillation(teacher=str(path), temperature=4, weight=0.5)
    callback.setup(fake_trainer, student, "fit")
    assert caplog.messages == [
        f"teacher={path}: was trained on images that were resized bicubic, but here they are bilinear"
    ]
    callback.on_train_start(fake_trainer, student)
    pixels = torch.from_numpy(np.stack([data.pixel_cache[row] for row in range(4)])).permute(0, 3, 1, 2)
    found = callback._predict(normalize(pixels, data.mean, data.std))
    expected = load_classifier(path)(normalize(pixels, [0.1, 0.5, 0.9], student.hparams["std"]))
    assert torch.allclose(found, expected.detach(), atol=1e-4) and found.std() > 0.01
    others = callback.teacher(normalize(pixels, data.mean, data.std)).detach()
    assert (found - others).abs().max() > 0.01  # the pupil's normalization gives other logits


def test_the_teacher_sees_the_mixed_images(finished_run, fake_trainer):
    path = finished_run.folder / "checkpoints" / "best.ckpt"
    student, data = load_classifier(path), fake_trainer.datamodule
    data.batch_transform = v2.MixUp()
    callback = Distillation(teacher=str(path), temperature=4, weight=0.5)
    callback.setup(fake_trainer, student, "fit")
    callback.on_train_start(fake_trainer, student)
    assert callback.cache is None and data.augmentation.changes_nothing
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    callback.on_train_batch_start(fake_trainer, student, batch, 0)
    plain = torch.from_numpy(np.stack([data.pixel_cache[row] for row in batch["rows"].tolist()]))
    mixed = batch["pixels"] - normalize(plain.permute(0, 3, 1, 2), data.mean, data.std)
    assert mixed.abs().max() > 0.1 and batch["targets"].shape == (8, 2)
    with torch.no_grad():
        assert torch.allclose(batch["teacher_logits"], student(batch["pixels"]), atol=1e-5)
    # what sees each image once sees it unmixed: the linear probe, and a teacher that is cached
    assert not any("targets" in each for each in unaugmented_batches(fake_trainer, student))
    callback.cache_teacher = True
    with pytest.raises(UserError, match=r"cache_teacher=true with a batch_transform: .*use callbacks\.distillation"):
        callback.on_train_start(fake_trainer, student)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "has no record of its training images"),
        (DataInfo(fingerprint_val_test="0" * 16), "was trained with other val and test images"),
        (DataInfo(fingerprint_val_test="1" * 16), None),
    ],
)
def test_a_teacher_of_unknown_or_other_images_is_warned_of(finished_run, made, caplog, data, reason):
    teacher = finished_run.record
    teacher.folder, teacher.data, teacher.writes = made, data, True
    teacher.save()
    student = RunRecord(data=DataInfo(fingerprint_val_test="1" * 16))
    check_teacher(str(made.best_checkpoint), student)
    assert (reason in caplog.text) if reason else not caplog.text


def test_a_teacher_outside_of_a_run_is_warned_of(tmp_path, caplog):
    path = make_checkpoint(tmp_path / "teacher.ckpt")
    check_teacher(str(path), RunRecord(data=DataInfo(fingerprint_val_test="1" * 16)))
    assert "has no record of its training images" in caplog.text


def test_another_teacher_than_the_training_began_with_is_warned_of(tmp_path, caplog):
    path = make_checkpoint(tmp_path / "teacher.ckpt")
    for before, now in (("0" * 16, "1" * 16), ("0" * 16, "0" * 16), (None, "1" * 16)):  # None: of a version without it
        caplog.clear()
        record = RunRecord(model=ModelInfo(teacher_digest=now), data=DataInfo())
        record.previous = RunRecord(status="running", model=ModelInfo(teacher_digest=before))
        check_teacher(str(path), record)
        assert ("is not the file with which this training began" in caplog.text) == (before == "0" * 16 != now)


def test_a_wrong_teacher_is_refused_in_one_line(tmp_path):
    path = make_checkpoint(tmp_path / "teacher.ckpt", classes=("ants", "bees"))
    callback = Distillation(teacher=str(path), temperature=4, weight=0.5)
    student = SimpleNamespace(classes=["blue", "red"])
    with pytest.raises(UserError, match=r"teacher=.*has the classes ants, bees, but the data has blue, red"):
        callback.setup(None, student, "fit")
    missing = tmp_path / "other.ckpt"
    with pytest.raises(UserError, match=f"^teacher={missing}: no such checkpoint"):
        check_teacher(str(missing), RunRecord(data=DataInfo()))
