"""The LightningModule: every model file trains, metrics are exact, the schedule steps when it should."""

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from engine.run import stages
from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.metrics import Metrics
from tests.support.configs import CONF, composed
from tests.support.helpers import FINAL

MODELS = sorted(f.stem for f in (CONF / "model").glob("*.yaml"))
NAMED = {"timm": ["model.name=lcnet_050"]}


class Data:
    """Stands in for the data module: what a classifier is told of it."""

    mean, std = [0.5] * 3, [0.25] * 3

    class catalog:  # noqa: N801
        classes = ("a", "b", "c")


def batches(count: int, size: int, side: int, classes: int = 3):
    torch.manual_seed(0)
    rows = torch.arange(size)
    return [
        {"pixels": torch.randn(size, 3, side, side), "labels": rows % classes, "rows": rows + i * size}
        for i in range(count)
    ]


def quiet_trainer(folder, **options) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu", default_root_dir=folder, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
# The two of them take as long as all others together
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * n.startswith("vgg")) for n in MODELS])
def test_every_model_file_trains_two_steps(name, tmp_path):
    if name == "timm":
        pytest.importorskip("timm", reason="needs the extra timm")
    config = composed(f"model={name}", *NAMED.get(name, []), "model.image_size=48")
    model = stages.build_model(config, Data)
    before = {key: tensor.clone() for key, tensor in model.network.named_parameters()}
    trainer = quiet_trainer(tmp_path, max_steps=2, max_epochs=1)
    loader = DataLoader(batches(2, 4, 48), batch_size=None)
    trainer.fit(model, loader, loader)
    assert trainer.global_step == 2
    changed = [key for key, tensor in model.network.named_parameters() if not torch.equal(tensor, before[key])]
    assert len(changed) > 0.9 * len(before)  # the rest are biases in front of a batch norm, whose gradient is nothing
    assert model.eval()(torch.randn(1, 3, 48, 48)).shape == (1, 3)
    assert stages.describe_model(config, model)["parameters"] == sum(p.numel() for p in model.network.parameters())


def test_metrics_equal_arithmetic_written_out_over_uneven_batches():
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(23, 3)), generator.integers(0, 3, 23)
    logits[np.arange(23), labels] += 1
    metrics = Metrics(3, full=True)
    for begin, end in ((0, 10), (10, 20), (20, 23)):
        x, y = torch.tensor(logits[begin:end]), torch.tensor(labels[begin:end])
        metrics.update(x, y, torch.nn.functional.cross_entropy(x, y))
    found = metrics.compute_and_reset()

    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predicted = logits.argmax(axis=1)
    confusion = np.array([[((labels == t) & (predicted == p)).sum() for p in range(3)] for t in range(3)])
    recalls, precisions = confusion.diagonal() / confusion.sum(axis=1), confusion.diagonal() / confusion.sum(axis=0)
    pairs = [  # AUROC of one class against the rest: the share of pairs in the right order
        np.mean([p > q for p in probabilities[labels == c, c] for q in probabilities[labels != c, c]]) for c in range(3)
    ]
    top = probabilities.max(axis=1)
    bins = [(top > b / 15) & (top <= (b + 1) / 15) for b in range(15)]
    ece = sum(b.mean() * abs((predicted == labels)[b].mean() - top[b].mean()) for b in bins if b.any())
    assert found["confusion"] == confusion.tolist()
    expected = {
        "loss": -np.log(probabilities[np.arange(23), labels]).mean(),
        "accuracy": (predicted == labels).mean(),
        "balanced_accuracy": recalls.mean(),
        "f1": (2 * recalls * precisions / (recalls + precisions)).mean(),
        "auroc": np.mean(pairs),
        "ece": ece,
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-6)


def classifier(**options) -> ImageClassifier:
    return ImageClassifier(network=FINAL, classes=["a", "b"], image_size=32, mean=[0.5] * 3, std=[0.25] * 3, **options)


def test_every_trainable_parameter_is_in_exactly_one_group():
    config = composed()
    model = classifier(optimizer=stages.build(config, "optimizer"))
    groups = model.configure_optimizers().param_groups
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters()) and len(set(listed)) == len(listed)


def test_a_bad_optimizer_value_is_put_into_words():
    model = classifier(optimizer=lambda parameters: torch.optim.Adam(parameters, lr=-1))
    with pytest.raises(ValueError, match="optimizer: Invalid learning rate: -1"):
        model.configure_optimizers()
