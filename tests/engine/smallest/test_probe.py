"""Probes against scikit-learn's own cross-validation, and where images are few."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from engine.smallest.probe import STRENGTHS, Part, _choose_strength, _standardized, probe
from evaluation.intervals import wilson


def made(n: int, c: int, k: int = 2, distance: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features around the center of each class, and labels."""
    generator = np.random.default_rng(seed)
    labels = np.resize(np.arange(k), n)
    centers = generator.normal(0, distance / np.sqrt(c), (k, c))
    return (10 + 3 * (centers[labels] + generator.normal(0, 0.3, (n, c)))).astype(np.float32), labels


def halves(n: int) -> list[Part]:
    return [Part(np.arange(n // 2), np.arange(n // 2, n))]


@pytest.mark.parametrize(
    ("c", "k"),
    [
        (8, 2),
        pytest.param(8, 5, marks=pytest.mark.thorough),
        pytest.param(300, 2, marks=pytest.mark.thorough),
        (300, 5),
    ],
)
def test_it_predicts_as_sklearn_does_with_its_own_choice_of_the_strength(c, k):
    features, labels = made(200, c, k, distance=0.5)
    found = probe(features, labels, halves(200), classes=k, metric="accuracy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on its way to another interface
        model = LogisticRegressionCV(Cs=STRENGTHS, cv=3, scoring="neg_log_loss", max_iter=5000)
        expected = make_pipeline(StandardScaler(), model).fit(features[:100], labels[:100])
    assert found.value == pytest.approx((expected.predict(features[100:]) == labels[100:]).mean(), abs=0.06)
    assert (found.low, found.high, found.n) == (*wilson(round(found.value * 100), 100), 100)
    assert probe(features, labels, halves(200), classes=k, metric="accuracy") == found


def test_rotating_more_features_than_images_changes_nothing():
    features, labels = made(60, 29)  # as many as there are training images, less one
    noise = features[:, :1] * 0  # constant channels, which are no information
    few = probe(features, labels, halves(60), classes=2, metric="accuracy")
    many = probe(np.hstack([features, *[noise] * 20]), labels, halves(60), classes=2, metric="accuracy")
    assert few == many


def test_the_strength_is_not_chosen_on_the_predicted_images():
    features, labels = made(80, 40)
    other = labels.copy()
    other[40:] = np.random.default_rng(1).permutation(other[40:])
    a, b = (probe(features, each, halves(80), classes=2, metric="accuracy") for each in (labels, other))
    agrees = (labels[40:] == other[40:]).mean()
    assert abs(b.value - (a.value * agrees + (1 - a.value) * (1 - agrees))) < 0.15  # the same predictions, other labels


def test_features_are_standardized_by_the_training_images_as_sklearn_does():
    features = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32) * [1e-3, 1, 10, 1, 0, 1e-4] + 1000
    features[:, 0] -= 1000
    part = Part(np.arange(10, 40), np.r_[40:50, 0:10])
    scaler = StandardScaler().fit(features[part.train])
    expected = scaler.transform(features[[*part.train, *part.val]])
    expected[:, 4:] = 0  # what does not change, or by rounding only
    assert _standardized(features, part) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("thorough", [True, False])  # False: by one fold, of every second strength
@pytest.mark.parametrize("balanced", [True, pytest.param(False, marks=pytest.mark.thorough)])
def test_the_strength_is_that_of_the_smallest_loss_of_unseen_images_by_brute_force(balanced, thorough):
    generator, y = (
        np.random.default_rng(9),
        np.repeat([0, 1], [40, 12]),
    )  # whose losses by either weight differ in the best
    x = generator.normal(size=(52, 4)) + y[:, None] * [1, 1, 0, 0]
    inner, weights = np.resize([0, 1, 2, 0, 1], 52), np.where(y, 1 / 12, 1 / 40) if balanced else np.ones(52)
    losses = {}
    for strength in STRENGTHS[:: 1 if thorough else 2]:
        losses[strength] = 0
        for fold in range(3 if thorough else 1):
            unseen = inner == fold
            model = LogisticRegression(C=strength, class_weight="balanced" if balanced else None, max_iter=5000)
            p = model.fit(x[~unseen], y[~unseen]).predict_proba(x[unseen])
            losses[strength] += log_loss(y[unseen], p, sample_weight=weights[unseen], normalize=False)
    assert _choose_strength(x, y, inner, balanced, thorough) == min(losses, key=losses.get)


def test_where_no_fold_has_two_classes_the_strength_is_the_middle_one():
    assert (
        _choose_strength(np.ones((2, 1)), np.array([0, 1]), np.array([0, 1]), False, True)
        == STRENGTHS[len(STRENGTHS) // 2]
    )


@pytest.mark.parametrize("n_parts", [1, 2])
def test_the_strength_is_chosen_thoroughly_unless_there_are_several_probes(n_parts, monkeypatch):
    seen = []
    monkeypatch.setattr("engine.smallest.probe._choose_strength", lambda *given: seen.append(given[-1]) or 1.0)
    probe(*made(40, 3), halves(40) * n_parts, classes=2, metric="accuracy")
    assert seen == [n_parts == 1] * n_parts


def test_out_of_fold_every_image_is_predicted_once_by_a_probe_that_has_not_seen_it():
    generator = np.random.default_rng(0)
    features, labels = generator.normal(size=(120, 60)).astype(np.float32), np.resize([0, 1], 120)
    fold = generator.integers(0, 4, 120)
    parts = [Part(np.flatnonzero(fold != each), np.flatnonzero(fold == each)) for each in range(4)]
    found = probe(features, labels, parts, classes=2, metric="accuracy")
    assert found.n == 120 and 0.35 < found.value < 0.65  # nothing can be learned; images that were seen are all right


def test_groups_widen_the_interval_and_do_not_help_to_choose():
    features, labels = (np.repeat(each, 5, axis=0) for each in made(40, 30, distance=0.8))
    groups = np.repeat(np.arange(40), 5)
    single = probe(features, labels, halves(200), classes=2, metric="accuracy")
    grouped = probe(features, labels, halves(200), classes=2, metric="accuracy", groups=groups)
    assert grouped.high - grouped.low > 1.5 * (single.high - single.low)
    assert grouped.value >= single.value - 0.05


def test_balanced_accuracy_does_not_reward_the_largest_class():
    features, labels = made(400, 5, distance=0.5)
    rare = np.flatnonzero(labels == 1)
    rows = np.sort(np.concatenate([np.flatnonzero(labels == 0), rare[:: len(rare) // 12]]))
    features, labels = features[rows], labels[rows]
    places = np.arange(len(rows))
    part = [Part(places[::2], places[1::2])]
    plain, balanced = (
        probe(features, labels, part, classes=2, metric=metric) for metric in ("accuracy", "balanced_accuracy")
    )
    assert plain.value > 0.85 and 0.5 < balanced.value < 1 and balanced.low is None


def test_balanced_accuracy_is_the_mean_recall_and_not_the_mean_precision(monkeypatch):
    labels, predicted = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 1])
    monkeypatch.setattr("engine.smallest.probe._predict", lambda *_: predicted)
    part = [Part(np.arange(0), np.arange(6))]
    found = probe(np.zeros((6, 1)), labels, part, classes=2, metric="balanced_accuracy")
    assert found.value == balanced_accuracy_score(labels, predicted) == (3 / 4 + 1) / 2


@pytest.mark.parametrize(
    ("labels", "k"),
    [
        ([0, 1] * 10 + [2] * 2 + [0, 1, 2], 3),  # two images of a class
        ([0, 1] * 10 + [0, 1, 2], 3),  # none of one that is predicted
        ([0] * 20 + [0, 1, 0], 2),  # a single class to learn from
        ([0, 1, 0, 1, 1], 2),  # two images
        (list(range(20)) * 2 + [0, 1, 2], 20),  # twenty classes of two images
        ([*range(30), 0, 1, 2], 30),  # thirty of one image
    ],
)
@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy"])
def test_few_images_of_a_class_give_a_value_without_a_warning(labels, k, metric):
    labels = np.array(labels)
    features = np.random.default_rng(0).normal(size=(len(labels), 12)).astype(np.float32) + 5 * labels[:, None]
    features[:, 3] = 1  # a channel that never changes
    n = len(labels) - 3
    found = probe(features, labels, [Part(np.arange(n), np.arange(n, n + 3))], classes=k, metric=metric)
    assert 0 <= found.value <= 1 and found.n == 3
