import numpy as np
import pytest
import torch

from lightning_modules.metrics import EpochMetrics


def test_metrics_equal_arithmetic_written_out_over_uneven_batches():
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(23, 3)), generator.integers(0, 3, 23)
    metrics = EpochMetrics()
    for begin, end in ((0, 10), (10, 20), (20, 23)):
        x, y = torch.tensor(logits[begin:end]), torch.tensor(labels[begin:end])
        metrics.update(x, y, torch.nn.functional.cross_entropy(x, y))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = {
        "loss": -np.log(probabilities[np.arange(23), labels]).mean(),
        "accuracy": (logits.argmax(axis=1) == labels).mean(),
    }
    assert metrics.compute_and_reset() == pytest.approx(expected, abs=1e-6)
    assert not any(metrics.sums())


def test_sums_of_a_stopped_pass_continue_it_to_the_same_bits():
    torch.manual_seed(0)
    batches = [(torch.randn(5, 3), torch.randint(3, (5,)), torch.rand(())) for _ in range(4)]
    whole, first, second = EpochMetrics(), EpochMetrics(), EpochMetrics()
    for index, batch in enumerate(batches):
        whole.update(*batch)
        first.update(*batch) if index < 2 else None
    second.add_to_sums(first.sums())
    for batch in batches[2:]:
        second.update(*batch)
    assert second.compute_and_reset() == whole.compute_and_reset()


def test_a_nan_stays_visible():
    metrics = EpochMetrics()
    metrics.update(torch.zeros(2, 2), torch.zeros(2, dtype=torch.long), torch.tensor(float("nan")))
    assert np.isnan(metrics.compute_and_reset()["loss"])
