"""Mixed batches, by arithmetic written out."""

import random

import numpy as np
import pytest
import torch
from scipy.stats import beta, kstest
from torchvision.transforms import v2

from common.errors import UserError
from datamodules.batch_transform import check_batch_transform, mix_batch


@pytest.fixture
def batch():
    """Four images of constant color in channels-last memory, three classes."""
    pixels = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    return {"pixels": pixels, "labels": torch.tensor([0, 1, 2, 1]), "rows": torch.arange(4)}


class Share(v2.MixUp):
    """Mix with a share that is known."""

    def make_params(self, flat_inputs):
        return {"lam": 0.7}


def test_mixup_is_the_sum_of_an_image_and_its_neighbor(batch):
    mix_batch(batch, Share(), 3, seed=0)
    assert batch["pixels"][:, 0, 0, 0].tolist() == pytest.approx([0.3 * 3, 0.7, 0.7 * 2 + 0.3, 0.7 * 3 + 0.3 * 2])
    expected = [[0.7, 0.3, 0], [0.3, 0.7, 0], [0, 0.3, 0.7], [0, 0.7, 0.3]]
    assert torch.allclose(batch["targets"], torch.tensor(expected))
    assert batch["labels"].tolist() == [0, 1, 2, 1] and "weights" not in batch


def test_cutmix_shares_are_those_of_the_area(batch):
    sizes = set()
    for seed in range(40):
        mixed = dict(batch)
        mix_batch(mixed, v2.CutMix(), 3, seed)
        own = (mixed["pixels"][2, 0] == 2).float().mean().item()
        assert mixed["pixels"][2].unique().tolist() in ([2.0], [1.0, 2.0], [1.0])
        assert mixed["targets"][2].tolist() == pytest.approx([0, 1 - own, own])
        sizes.add(own)
    assert len(sizes) > 10 and batch["pixels"][2].unique().tolist() == [2.0]


def test_the_loss_of_weighted_images_is_the_mix_of_their_weighted_losses(batch):
    weights, logits = torch.tensor([1.0, 3.0, 0.5, 0.0]), torch.randn(4, 3)
    mixed = batch | {"weights": weights}
    mix_batch(mixed, Share(), 3, seed=0)
    ours = torch.nn.functional.cross_entropy(logits, mixed["targets"], reduction="none") * mixed["weights"]
    log_p = logits.log_softmax(1)
    for image, neighbor in enumerate((3, 0, 1, 2)):
        own, other = batch["labels"][image], batch["labels"][neighbor]
        expected = -0.7 * weights[image] * log_p[image, own] - 0.3 * weights[neighbor] * log_p[image, other]
        assert ours[image].item() == pytest.approx(expected.item(), rel=1e-5)
    assert weights.tolist() == [1.0, 3.0, 0.5, 0.0]


def test_images_without_weight_give_no_nan(batch):
    mixed = batch | {"weights": torch.zeros(4)}
    mix_batch(mixed, Share(), 3, seed=0)
    assert mixed["weights"].tolist() == [0] * 4 and mixed["targets"].isfinite().all()


@pytest.mark.parametrize("transform", [v2.MixUp(alpha=0.4), v2.CutMix(), v2.RandomChoice([v2.MixUp(), v2.CutMix()])])
def test_the_seed_decides_and_the_global_generators_continue(batch, transform):
    def mixed(seed: int) -> torch.Tensor:
        copy = dict(batch)
        mix_batch(copy, transform, 3, seed)
        assert copy["pixels"].is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(copy["targets"].sum(1), torch.ones(4))
        return copy["pixels"]

    torch.manual_seed(1), random.seed(1), np.random.seed(1)  # noqa: NPY002
    first = mixed(5)
    drawn = torch.rand(()).item(), random.random(), np.random.random()  # noqa: NPY002
    torch.manual_seed(1), random.seed(1), np.random.seed(1)  # noqa: NPY002
    assert drawn == (torch.rand(()).item(), random.random(), np.random.random())  # noqa: NPY002
    assert torch.equal(first, mixed(5)) and not torch.equal(first, mixed(6))


def test_shares_are_beta_distributed(batch):
    shares = []
    for seed in range(500):
        mixed = dict(batch)
        mix_batch(mixed, v2.MixUp(alpha=0.4), 3, seed)
        shares.append(mixed["targets"][0, 0].item())
    assert kstest(shares, beta(0.4, 0.4).cdf).pvalue > 1e-4


@pytest.mark.parametrize(("transform", "message"), [
    (v2.MixUp(num_classes=5), r"v2\.MixUp\): raised ValueError: .* 3 != 5"),
    (v2.Resize(4), r"v2\.Resize\): returns \(4, 3, 4, 4\) float32 and \(4, 3\) float32 for images and targets \(4, 3, 8, 8\)"),
    (lambda pixels, targets: pixels, r"returns \(4, 3, 8, 8\) float32 for images and targets"),
    (lambda pixels, targets: (pixels, targets.argmax(1)), r"and \(4,\) int64 for images and targets"),
    (lambda pixels, targets: None, r"returns a NoneType for"),
    (lambda pixels: pixels, r"raised TypeError"),
])  # fmt: skip
def test_what_gives_no_images_and_targets_is_named_before_training(transform, message):
    with pytest.raises(UserError, match=r"^batch_transform \(.*" + message) as caught:
        check_batch_transform(transform, 3, 8, 16)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("transform", [v2.MixUp(alpha=0.4), v2.CutMix()])
def test_a_batch_of_one_image_which_mixing_leaves_as_it_is_is_refused(transform):
    one = {"pixels": torch.rand(1, 3, 8, 8), "labels": torch.tensor([1])}
    mixed = dict(one)
    mix_batch(mixed, transform, 3, seed=0)
    assert torch.allclose(mixed["pixels"], one["pixels"])
    with pytest.raises(UserError, match=r"^datamodule\.batch_size=1: batch_transform .* use a larger"):
        check_batch_transform(transform, 3, 8, 1)
    check_batch_transform(transform, 3, 8, 2)
