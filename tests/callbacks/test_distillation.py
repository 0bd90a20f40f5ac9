import pytest
import torch

from lightning_modules.losses import DistillationLoss
from tests.support.fake_checkpoints import make_checkpoint


def test_the_loss_is_the_paper_s_written_out():
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


@pytest.mark.parametrize("options", [{"temperature": 0, "weight": 0.5}, {"temperature": 1, "weight": 1.5}])
def test_bad_values_are_named(options):
    with pytest.raises(ValueError, match=r"distillation\.(temperature|weight)="):
        DistillationLoss(**options)


def test_a_trained_network_teaches_a_small_one(train):
    teacher = train("model=simple_cnn", "model.image_size=48", "trainer.max_epochs=1")
    path = teacher.folder / "checkpoints" / "best.ckpt"
    alone = train("trainer.max_epochs=1")
    taught = train(f"teacher={path}", "trainer.max_epochs=1")
    assert taught.status == 0, taught.err
    assert "other val and test images" not in taught.err
    first, other = (
        torch.load(r.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for r in (alone, taught)
    )
    assert set(first) == set(other)  # the teacher is no part of what is kept
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_asked_once_where_nothing_is_augmented_the_answers_are_those_of_every_step(train):
    teacher = train("model=simple_cnn", "model.image_size=48", "trainer.max_epochs=1")
    options = [
        f"teacher={teacher.folder / 'checkpoints' / 'best.ckpt'}",
        "augmentation=none",
        "trainer.max_epochs=1",
        "optimizer=sgd",
    ]
    once = train(*options)
    always = train(*options, "callbacks.distillation.cache_teacher=false")
    weights = [
        torch.load(r.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for r in (once, always)
    ]
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor.float(), weights[1][name].float(), atol=1e-5), name


def test_a_teacher_of_unknown_or_other_images_is_warned_of(train, tmp_path):
    path = make_checkpoint(tmp_path / "teacher.ckpt", classes=("blue", "red"), decision=None)
    ran = train(f"teacher={path}", "trainer.max_epochs=1")
    assert ran.status == 0, ran.err
    assert any("does not say on which images it was trained" in w for w in ran.record["run"]["warnings"])


@pytest.mark.parametrize(
    ("classes", "name", "said"),
    [
        (("ants", "bees"), "teacher.ckpt", "knows the classes ants, bees, the data has blue, red"),
        (("blue", "red"), "other.ckpt", "no such checkpoint"),
    ],
)
def test_a_wrong_teacher_is_told_in_a_line(train, tmp_path, classes, name, said):
    make_checkpoint(tmp_path / "teacher.ckpt", classes=classes, decision=None)
    ran = train(f"teacher={tmp_path / name}", "trainer.max_epochs=1")
    assert ran.status == 1
    errors = [line for line in ran.err.splitlines() if "ERROR" in line]
    assert len(errors) == 1 and f"teacher={tmp_path / name}" in errors[0] and said in errors[0]
