from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from torch import nn

from callbacks.linear_probe import LinearProbe, first_linear, fold_standardization, parts_of, standardization
from common.errors import UserError
from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.networks.registry import build_network
from lightning_modules.networks.surgery import find_head
from lightning_modules.networks.torchvision_models import TORCHVISION_WEIGHTS
from lightning_modules.pretrained_weights import load_initial_weights
from tests.support.fake_checkpoints import MEAN, STD
from tests.support.helpers import FINAL


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ImageClassifier(network=FINAL, classes=["blue", "red"], image_size=32, mean=MEAN, std=STD)


@pytest.mark.parametrize(("layer", "shape"), [(nn.Linear(6, 3), (50, 6)), (nn.Conv2d(6, 3, 1), (50, 6, 2, 2))])
def test_a_folded_layer_gives_for_features_what_it_gave_for_standardized_ones(layer, shape):
    torch.manual_seed(0)
    features = 0.3 + 0.02 * torch.randn(*shape)
    mean, scale = standardization(features)
    before = layer((features - mean) / scale)
    fold_standardization(layer, mean, scale)
    assert torch.allclose(layer(features), before, atol=1e-4)


@pytest.mark.parametrize("name", TORCHVISION_WEIGHTS)
def test_every_network_s_head_has_a_layer_to_fold_into(name):
    with torch.device("meta"):
        network = build_network(network="torchvision", name=name, num_classes=2)
    assert isinstance(first_linear(find_head(network)), nn.Conv2d if name.startswith("squeezenet") else nn.Linear)


def test_a_head_that_is_a_convolution_learns_before_the_first_step(fake_trainer, caplog):
    caplog.set_level("INFO")
    torch.manual_seed(0)
    network = {"network": "torchvision", "name": "squeezenet1_1"}
    model = ImageClassifier(network=network, classes=["blue", "red"], image_size=32, mean=MEAN, std=STD)
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    LinearProbe(steps=100, lr=0.01, weight_decay=0).on_train_start(fake_trainer, model)
    after = model.network.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        "classifier.1.weight",
        "classifier.1.bias",
    }
    loss = float(caplog.text.split("loss ")[1].split()[0])
    assert loss < 0.6  # log 2 is that of a head that has learned nothing


def test_only_the_head_learns_before_the_first_step(model, fake_trainer, pretrained, tmp_path, caplog):
    caplog.set_level("INFO")
    load_initial_weights(model.network, str(pretrained), arguments={"network": "timm"}, download_to=tmp_path)
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    probe = LinearProbe(steps=100, lr=0.01, weight_decay=5)
    probe.on_train_start(fake_trainer, model)
    assert "linear probe: 100 steps on the features of 24 images" in caplog.text and probe.done
    after = model.network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert {name.split(".")[0] for name in changed if not name.endswith(statistics)} == {"head"}
    assert {module.p for module in model.network.modules() if isinstance(module, nn.Dropout)} == {0.0}


def training_loss(model, trainer) -> float:
    """Return the cross entropy of all training images in one batch, in training mode."""
    loader = trainer.datamodule.unaugmented_train_dataloader()
    batches = [trainer.strategy.batch_to_device(batch, "cpu") for batch in loader]
    with torch.no_grad():
        logits = model.network(torch.cat([batch["pixels"] for batch in batches]))
    return float(nn.functional.cross_entropy(logits, torch.cat([batch["labels"] for batch in batches])))


def test_the_head_is_trained_on_the_features_that_training_begins_with(
    model, fake_trainer, pretrained, tmp_path, caplog
):
    """On images of another kind than the weights' it was 0.4 in the probe and 1.7 in the first epoch."""
    caplog.set_level("INFO")
    load_initial_weights(model.network, str(pretrained), arguments={"network": "timm"}, download_to=tmp_path)
    modes = [module.training for module in model.network.modules()]
    LinearProbe(steps=100, lr=0.01, weight_decay=5).on_train_start(fake_trainer, model)
    assert [module.training for module in model.network.modules()] == modes
    assert training_loss(model, fake_trainer) == pytest.approx(
        float(caplog.text.split("loss ")[1].split()[0]), abs=0.02
    )


class Cosine(nn.Linear):
    """A head of the user's own that looks at directions only."""

    def forward(self, x):
        return 10 * nn.functional.linear(nn.functional.normalize(x), nn.functional.normalize(self.weight), self.bias)


@pytest.mark.parametrize(
    "build",
    [
        lambda features: Cosine(features, 2, bias=False),
        lambda features: Cosine(features, 2),
        lambda features: nn.Linear(features, 2, bias=False),
    ],
    ids=["cosine", "cosine with bias", "without bias"],
)
def test_a_head_of_another_kind_gives_after_the_probe_what_it_has_learned(
    model, build, fake_trainer, pretrained, tmp_path, caplog
):
    caplog.set_level("INFO")
    load_initial_weights(model.network, str(pretrained), arguments={"network": "timm"}, download_to=tmp_path)
    torch.manual_seed(0)
    model.network.head = build(first_linear(find_head(model.network)).in_features)
    LinearProbe(steps=100, lr=0.01, weight_decay=0).on_train_start(fake_trainer, model)
    assert training_loss(model, fake_trainer) == pytest.approx(
        float(caplog.text.split("loss ")[1].split()[0]), abs=0.05
    )


class Features(SimpleNamespace):
    """Stand for the data of images whose features are known, without groups unless they are given."""

    def __init__(self, n: int, groups: list[str] | None = None):
        catalog = SimpleNamespace(groups=groups or [""] * n)
        super().__init__(datamodule=SimpleNamespace(stream=None, catalog=catalog, rows=lambda split: np.arange(n)))


def trained_head(features: np.ndarray, labels: np.ndarray, weight_decay) -> tuple[nn.Linear, float]:
    torch.manual_seed(0)
    head, loss = nn.Linear(features.shape[1], int(labels.max()) + 1), nn.CrossEntropyLoss(reduction="none")
    probe = LinearProbe(steps=200, lr=0.01, weight_decay=weight_decay)
    tensors = torch.tensor(features, dtype=torch.float32), torch.tensor(labels)
    return head, probe._train(Features(len(labels)), SimpleNamespace(loss=loss), head, *tensors, None)[1]


@pytest.mark.thorough
def test_the_decay_that_is_chosen_suits_the_images():
    """Digits of ten classes, as scikit-learn's regression whose strength is cross-validated; noise, of which none learns."""
    digits = load_digits()
    train, test = np.arange(500), np.arange(500, len(digits.target))
    mean, deviation = digits.data[train].mean(0), digits.data[train].std()
    by_hand = GridSearchCV(LogisticRegression(max_iter=2000), {"C": 10.0 ** np.arange(-3, 3)}, cv=3)
    by_hand.fit((digits.data[train] - mean) / deviation, digits.target[train])
    wanted = by_hand.score((digits.data[test] - mean) / deviation, digits.target[test])
    found = {}
    for decay in ("auto", 5):
        head, _ = trained_head(digits.data[train], digits.target[train], decay)
        with torch.no_grad():
            right = head(torch.tensor(digits.data[test], dtype=torch.float32)).argmax(1).numpy() == digits.target[test]
        found[decay] = right.mean()
    assert found["auto"] >= wanted - 0.02 and found["auto"] > found[5]
    noise = np.random.default_rng(0).normal(size=(300, 64))
    assert trained_head(noise, np.arange(300) % 3, "auto")[1] == 20


@pytest.mark.parametrize("n_single", [*(pytest.param(each, marks=pytest.mark.thorough) for each in (0, 30)), 60])
def test_classes_of_one_image_do_not_make_a_head_unsure_of_the_others(n_single):
    """The classes from `n_single` on have six images each, and are far apart: a weak decay suits them."""
    generator = np.random.default_rng(0)
    labels = np.concatenate([np.arange(n_single), np.repeat(np.arange(n_single, 60), 6)])
    centers = generator.normal(size=(60, 64))
    features = centers[labels] + generator.normal(0, 0.3, (len(labels), 64))
    decay = trained_head(features, labels, "auto")[1]
    assert decay == 5 if n_single == 60 else decay < 5, decay  # of one image each nothing can be learned about it


def test_of_one_group_no_decay_can_be_chosen():
    features, labels = np.random.default_rng(0).normal(size=(12, 4)), np.arange(12) % 2
    probe = LinearProbe(steps=3, lr=0.01, weight_decay="auto")
    images = torch.tensor(features).float(), torch.tensor(labels), torch.ones(12)
    loss = SimpleNamespace(loss=nn.CrossEntropyLoss(reduction="none"))
    parts = parts_of(Features(12, ["a"] * 12).datamodule, labels)
    assert probe._choose_decay(loss, nn.Linear(4, 2), images, parts) == 5


def test_the_parts_of_a_choice_are_balanced_and_divide_no_group():
    labels = np.repeat([0, 1, 2], [90, 60, 30])
    parts = parts_of(Features(180).datamodule, labels)
    assert [np.bincount(parts[labels == k]).tolist() for k in range(3)] == [[30] * 3, [20] * 3, [10] * 3]
    names = [f"patient {row // 7}" if row % 3 else "" for row in range(180)]
    parts = parts_of(Features(180, names).datamodule, labels)
    for name in set(names) - {""}:
        assert len({part for part, each in zip(parts, names, strict=True) if each == name}) == 1


@pytest.mark.thorough
@pytest.mark.parametrize(
    "frozen",
    ["callbacks.freeze_batch_norm.enabled=true", pytest.param("model.freeze=true", marks=pytest.mark.thorough)],
)
def test_statistics_that_stay_are_those_of_the_probe(train, pretrained, frozen):
    ran = train(
        f"model.weights={pretrained}", frozen, "callbacks.linear_probe.steps=5", "stages=[fit]", "trainer.max_epochs=1"
    )
    assert ran.status == 0, ran.err
    assert "linear probe: 5 steps on the features of 24 images, loss" in ran.out + ran.err
    before = torch.load(pretrained, weights_only=True)
    after = torch.load(ran.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    means = [name for name in before if name.endswith("running_mean")]
    assert means and all(torch.equal(before[name], after[f"network.backbone.{name}"]) for name in means)


def test_features_of_a_backbone_that_is_not_pretrained_are_not_learned_from(model, fake_trainer, caplog):
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    probe = LinearProbe(steps=100, lr=0.01, weight_decay=5)
    probe.on_train_start(fake_trainer, model)
    assert "callbacks.linear_probe: skipped, since the backbone is not pretrained" in caplog.text and not probe.done
    assert all(torch.equal(before[name], tensor) for name, tensor in model.network.state_dict().items())


@pytest.mark.thorough
@pytest.mark.parametrize("start", ["random", "file"])
def test_a_network_without_batch_norms_is_probed_only_where_its_weights_are_not_random(train, tmp_path, start):
    options = ["model=simple_cnn", "stages=[fit]", "trainer.max_epochs=1", "callbacks.linear_probe.steps=5"]
    if start == "file":
        torch.save(build_network(network="simple_cnn", image_size=32, num_classes=2).state_dict(), tmp_path / "w.pth")
        options.append(f"model.weights={tmp_path / 'w.pth'}")
    ran = train(*options)
    assert ran.status == 0, ran.err
    text = ran.out + ran.err
    assert ("linear_probe: skipped" in text) == (start == "random") != ("linear probe: 5 steps" in text)


@pytest.mark.parametrize(("done", "rates"), [(True, [0.0, 0.0]), (False, [0.2, 0.02])])
def test_resumed_the_dropout_is_off_only_where_the_head_was_probed(done, rates):
    probe = LinearProbe(steps=1, lr=0.1, weight_decay=0)
    probe.load_state_dict({"done": done})
    network = build_network(num_classes=2, **FINAL)
    probe.on_train_start(SimpleNamespace(global_step=7), SimpleNamespace(network=network))
    assert [module.p for module in network.modules() if isinstance(module, nn.Dropout)] == rates


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", -1), ("lr", -1), ("lr", np.nan), ("weight_decay", -1), ("weight_decay", np.nan)],
)
def test_bad_values_are_named(name, value):
    with pytest.raises(UserError, match=f"callbacks.linear_probe.{name}={value}: use (0|a number)"):
        LinearProbe(**{"steps": 1, "lr": 0.1, "weight_decay": 0} | {name: value})
