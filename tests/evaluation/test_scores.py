import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp, ndtr, softmax
from scipy.stats import binom, norm
from sklearn.metrics import average_precision_score, roc_auc_score
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    multiclass_accuracy,
    multiclass_auroc,
    multiclass_confusion_matrix,
    multiclass_f1_score,
)

from common.errors import UserError
from common.run_record import ClassScores
from evaluation import estimates
from evaluation.decision import measure
from evaluation.describe import describe_metrics
from evaluation.estimates import estimate_metrics, few_images, further_metric, resample_metrics
from evaluation.intervals import proportion
from evaluation.score_intervals import (
    auroc_model,
    confusion_interval,
    f1_derivatives,
    pooled_interval,
    recall_derivatives,
    scaled_interval,
)
from evaluation.scores import (
    auroc,
    average_precision,
    balanced_accuracy,
    count_confusion,
    macro_auroc,
    macro_f1,
    most_confused,
    per_class,
    ranking_scores,
    weighted_average_precision,
)


def made_up(n, classes, digits=None, seed=0):
    """Labels and probabilities that follow them somewhat; `digits` makes ties."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=n)
    logits = generator.normal(size=(n, classes))
    logits[np.arange(n), labels] += 1.0
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return labels, probabilities if digits is None else probabilities.round(digits)


def confusion_of(labels, predicted, classes):
    return np.array([[((labels == t) & (predicted == p)).sum() for p in range(classes)] for t in range(classes)])


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_metrics_of_the_confusion_matrix_equal_torchmetrics(classes):
    labels, probabilities = made_up(200, classes)
    tensors = torch.tensor(probabilities), torch.tensor(labels)
    confusion = count_confusion(labels, probabilities.argmax(axis=1), classes)
    assert (confusion == multiclass_confusion_matrix(*tensors, classes).numpy()).all()
    assert balanced_accuracy(confusion) == pytest.approx(multiclass_accuracy(*tensors, classes).item(), abs=1e-6)
    assert macro_f1(confusion) == pytest.approx(multiclass_f1_score(*tensors, classes).item(), abs=1e-6)
    twice = np.stack([confusion, np.eye(classes, dtype=int)])
    assert balanced_accuracy(twice)[1] == macro_f1(twice)[1] == 1 and macro_f1(twice)[0] == macro_f1(confusion)


@pytest.mark.parametrize("digits", [None, 1])
def test_auroc_and_average_precision_equal_torchmetrics(digits):
    labels, probabilities = made_up(300, 2, digits)
    tensors = torch.tensor(probabilities[:, 1]), torch.tensor(labels)
    assert auroc(labels, probabilities[:, 1]) == pytest.approx(binary_auroc(*tensors).item(), abs=1e-6)
    theirs = binary_average_precision(*tensors).item()
    assert average_precision(labels, probabilities[:, 1]) == pytest.approx(theirs, abs=1e-6)
    assert macro_auroc(labels, probabilities) == pytest.approx(auroc(labels, probabilities[:, 1]), abs=1e-12)


@pytest.mark.parametrize("digits", [None, 1])
def test_macro_auroc_equals_torchmetrics(digits):
    labels, probabilities = made_up(200, 5, digits)
    theirs = np.mean(
        [binary_auroc(torch.tensor(probabilities[:, k]), torch.tensor(labels == k).int()) for k in range(5)]
    )
    assert macro_auroc(labels, probabilities) == pytest.approx(theirs, abs=1e-6)
    if digits is None:  # with ties its rows no longer sum to one, and torchmetrics makes probabilities of them again
        theirs = multiclass_auroc(torch.tensor(probabilities), torch.tensor(labels), 5).item()
        assert macro_auroc(labels, probabilities) == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_bootstrap_equals_a_plain_loop(classes):
    labels, probabilities = made_up(150, classes, digits=2)
    generator, drawn = np.random.default_rng(5), {"balanced_accuracy": [], "f1": [], "auroc": []}
    if classes == 2:
        drawn["average_precision"] = []
    for _ in range(1000):
        rows = np.concatenate(
            [generator.choice(np.flatnonzero(labels == k), (labels == k).sum()) for k in range(classes)]
        )
        confusion = confusion_of(labels[rows], probabilities[rows].argmax(axis=1), classes)
        drawn["balanced_accuracy"].append(balanced_accuracy(confusion))
        drawn["f1"].append(macro_f1(confusion))
        drawn["auroc"].append(macro_auroc(labels[rows], probabilities[rows]))
        if classes == 2:
            drawn["average_precision"].append(average_precision(labels[rows], probabilities[rows, 1]))
    found = estimate_metrics(labels, probabilities)
    resampled = resample_metrics(labels, probabilities.argmax(axis=1), ranking_scores(probabilities), None, 2000, 0)
    assert list(found) == list(resampled) == list(drawn)
    for name, values in drawn.items():
        low, high = np.quantile(resampled[name], [0.025, 0.975])
        assert (low, high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.015)  # widths are 0.10 to 0.16
        united = found[name].interval  # with a score interval, which is hardly wider where nothing is near 1
        assert united.low <= low and high <= united.high and united.high - united.low < 1.25 * (high - low)


@pytest.mark.parametrize(
    "counts",
    [*(pytest.param(counts, marks=pytest.mark.thorough) for counts in ((60, 60, 1), (30, 30, 30, 1, 2, 3))), (1,) * 20],
    ids=str,
)
def test_the_interval_of_auroc_counts_classes_of_one_image(counts):
    """Draws of one image are all the same, so that of 1,000 + 1,000 + 1 images it covered in 0.15."""
    generator, k = np.random.default_rng(4), len(counts)

    def drawn(of):
        labels = np.repeat(np.arange(k), of)
        logits = generator.normal(size=(len(labels), k))
        logits[np.arange(len(labels)), labels] += 1.5
        return labels, softmax(logits, axis=1), logits

    labels, _, logits = drawn(np.full(k, 400))
    odds = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True) - np.exp(logits))
    weights = np.array(counts)[labels]
    truth = np.mean([roc_auc_score(labels == each, odds[:, each], sample_weight=weights) for each in range(k)])
    found = (estimate_metrics(*drawn(counts), resamples=200)["auroc"].interval for _ in range(100))
    assert np.mean([low <= truth <= high for low, high in found]) >= 0.9


@pytest.mark.parametrize("resamples", [1000, 999])  # of fewer than 1,000 mean and standard deviation count
@pytest.mark.parametrize("counts", [(12, 30), (30, 12, 20), (4, 3, 40), (4, 3, 1, 40)], ids=str)
def test_an_interval_reaches_to_the_farthest_of_its_parts(counts, resamples):
    """Two classes of few images have no pooled interval, three have; what draws of few images hide is that of more classes."""
    generator, k, n = np.random.default_rng(6), len(counts), np.array(counts)
    labels = np.repeat(np.arange(k), counts)
    probabilities = softmax(generator.normal(size=(len(labels), k)) + 1.5 * np.eye(k)[labels], axis=1)
    predicted, scores = probabilities.argmax(axis=1), ranking_scores(probabilities)
    drawn = resample_metrics(labels, predicted, scores, None, resamples, 0)
    confusion = confusion_of(labels, predicted, k)
    found = estimate_metrics(labels, probabilities, resamples=resamples)
    parts = {
        "balanced_accuracy": [confusion_interval(confusion, recall_derivatives)],
        "f1": [confusion_interval(confusion, f1_derivatives)],
    }
    if k == 4:
        value, of_f1, together = balanced_accuracy(confusion), macro_f1(confusion), macro_f1(confusion, n < 10)
        parts["balanced_accuracy"].append(pooled_interval(value, n))
        parts["f1"] += [pooled_interval(of_f1, n), pooled_interval(together, n)]
    sides = [(scores[labels == j, j], scores[labels != j, j]) for j in ([1] if k == 2 else range(k))]
    shows = sum(min((a <= b.max()).sum(), (b >= a.min()).sum()) for a, b in sides)
    models = {"auroc": auroc_model(found["auroc"].value, n), "average_precision": 1 / n[1]}
    for name in list(drawn)[2:]:
        value, draws = found[name].value, drawn[name]
        hidden = auroc_model(value, n, 1 / n) * value * (1 - value) if k > 2 else 0
        center = value - max(0, draws.mean() - value)
        parts[name] = [scaled_interval(center, draws.var() + hidden, models[name], shows)]
    for name, draws in drawn.items():
        of_draws = (
            norm(draws.mean(), draws.std()).interval(0.95) if resamples < 1000 else np.quantile(draws, [0.025, 0.975])
        )
        lows, highs = zip(*parts[name], of_draws, [found[name].value] * 2, strict=True)
        assert found[name].interval == pytest.approx((min(lows), min(1, max(highs))), abs=1e-9), name


def test_bootstrap_is_seeded_and_bounded(monkeypatch):
    labels, probabilities = made_up(500, 2)
    assert estimate_metrics(labels, probabilities) == estimate_metrics(labels, probabilities)
    assert estimate_metrics(labels, probabilities) != estimate_metrics(labels, probabilities, seed=1)
    drawn = []
    draw = estimates.draw
    monkeypatch.setattr(
        estimates, "draw", lambda g, resamples, counts: drawn.append(resamples) or draw(g, resamples, counts)
    )
    estimate_metrics(labels, probabilities)
    assert sum(drawn) == 2000
    for limit, expected in ((150_000, 300), (10, 200)):
        drawn.clear()
        monkeypatch.setattr(estimates, "DRAWS", limit)
        monkeypatch.setattr(estimates, "CELLS", 64 * 500)
        estimate_metrics(labels, probabilities)
        assert sum(drawn) == expected and max(drawn) == 64


def test_per_class_by_hand():
    a, b, c = per_class(np.array([[8, 2, 0], [1, 9, 0], [0, 3, 0]]), ["a", "b", "c"])
    assert a == ClassScores(name="a", n=10, recall=proportion(8, 10), precision=proportion(8, 9), f1=16 / 19)
    assert b.f1 == 18 / 24 and c == ClassScores(name="c", n=3, recall=proportion(0, 3), precision=None, f1=0)
    assert per_class(np.array([[2, 0], [0, 0]]), ["a", "b"])[1] == ClassScores(name="b", n=0)


def test_classes_without_images_do_not_count():
    confusion = np.array([[3, 1, 0], [1, 1, 1], [0, 0, 0]])
    assert balanced_accuracy(confusion) == pytest.approx((3 / 4 + 1 / 3) / 2)
    assert macro_f1(confusion) == pytest.approx((6 / 8 + 2 / 5 + 0) / 3)  # the third was predicted
    assert macro_f1(confusion[:, [0, 1, 1]] * [1, 1, 0]) == pytest.approx((6 / 8 + 2 / 4) / 2)
    together = macro_f1(confusion, np.array([False, True, True]))  # 2 right of 3 + 3 that are or were called so
    assert together == pytest.approx((6 / 8 + 2 * 2 / 6) / 3) and (confusion == [[3, 1, 0], [1, 1, 1], [0, 0, 0]]).all()
    labels, probabilities = made_up(60, 2)
    third = np.pad(probabilities, ((0, 0), (0, 1)))
    assert macro_auroc(labels, third) == pytest.approx(macro_auroc(labels, probabilities))
    assert list(estimate_metrics(labels, third)) == ["balanced_accuracy", "f1", "auroc"]
    assert list(estimate_metrics(np.zeros(60, int), probabilities)) == ["balanced_accuracy", "f1"]


def separated(counts, wrong=0):
    """Labels, probabilities and logits of classes that are far apart, but for some images of the first one."""
    labels = np.repeat(np.arange(len(counts)), counts)
    logits = np.random.default_rng(0).normal(0, 0.1, (len(labels), len(counts)))
    logits[np.arange(len(labels)), labels] += 3
    logits[:wrong] = np.roll(logits[:wrong], 1, axis=1)
    return labels, softmax(logits, axis=1), logits


@pytest.mark.parametrize(("counts", "wrong", "least"), [
    ([10, 10], 0, 0.10), ([19, 1], 0, 0.10), ([20, 20], 2, 0.10), ([1, 1], 0, 0.5), ([7, 7, 6], 0, 0.05), ([1] * 10, 0, 0.05),
])  # fmt: skip
def test_no_interval_is_without_width_and_all_hold_their_value(counts, wrong, least):
    labels, probabilities, logits = separated(counts, wrong)
    found = estimate_metrics(labels, probabilities, logits)
    assert len(found) == (4 if len(counts) == 2 else 3)
    for name, (value, (low, high)) in found.items():
        assert 0 <= low <= value <= high <= 1 and high - low > least, name
    if not wrong:
        assert all(each.value == each.interval.high == 1 for each in found.values())
    if counts == [10, 10]:  # as accurate as accuracy itself
        assert found["balanced_accuracy"].interval == pytest.approx((proportion(20, 20).low, 1.0), abs=1e-6)


def test_of_few_images_the_intervals_hold_their_values_whatever_they_are():
    generator = np.random.default_rng(1)
    for _ in range(40):
        classes = generator.integers(2, 5)
        labels = generator.integers(classes, size=generator.integers(classes, 15))
        logits = generator.normal(size=(len(labels), classes)) + generator.uniform(-3, 3) * np.eye(classes)[labels]
        for value, (low, high) in estimate_metrics(labels, softmax(logits, axis=1), logits, resamples=1000).values():
            assert 0 <= low <= value <= high <= 1 and low < high


@pytest.mark.parametrize("counts", [(45, 5), (60, 30, 10)])
@pytest.mark.thorough
def test_intervals_cover(counts):
    """Logits of normal noise with the true class shifted: 150 replicates, 0.93 less three standard errors of them."""
    generator, labels, d = np.random.default_rng(3), np.repeat(np.arange(len(counts)), counts), 2.66
    n, at = np.array(counts), np.sqrt(2) * np.polynomial.hermite.hermgauss(60)[0]
    weights = np.polynomial.hermite.hermgauss(60)[1] / np.sqrt(np.pi)
    recall = weights @ ndtr(at + d) ** (len(n) - 1)  # 0.97 of two classes
    wrong = (1 - recall) / (len(n) - 1)
    truth = {"balanced_accuracy": recall, "f1": np.mean(2 * recall * n / (n + recall * n + wrong * (n.sum() - n)))}
    if len(n) == 2:
        truth["auroc"] = ndtr(d)
    covered = dict.fromkeys(truth, 0)
    for _ in range(150):
        logits = generator.normal(size=(len(labels), len(n))) + d * np.eye(len(n))[labels]
        found = estimate_metrics(labels, softmax(logits, axis=1), logits, resamples=1000)
        for name, true in truth.items():
            covered[name] += found[name].interval.low <= true <= found[name].interval.high
    bound = 0.93 - 3 * np.sqrt(0.93 * 0.07 / 150)
    assert all(count / 150 >= bound for count in covered.values()), covered


def test_auroc_and_average_precision_rank_by_logits_where_probabilities_are_all_1():
    generator = np.random.default_rng(0)
    labels = generator.integers(2, size=300)
    margin = 25 + generator.normal(size=300) + 4 * labels  # every image is far on the side of class 1
    logits = np.stack([-margin / 2, margin / 2], axis=1).astype(np.float32)
    probabilities = torch.tensor(logits).softmax(1).numpy()
    assert (probabilities[:, 1] == 1).all()
    odds = logits[:, 1].astype(float) - logits[:, 0]
    for given in (logits, None):  # the probability of the other class tells them apart as well
        found = estimate_metrics(labels, probabilities, given)
        assert found["auroc"].value == pytest.approx(roc_auc_score(labels, odds)) and found["auroc"].value > 0.99
        assert found["average_precision"].value == pytest.approx(average_precision_score(labels, odds))
        for value, (low, high) in found.values():
            assert low <= value <= high
        assert macro_auroc(labels, probabilities, given) == found["auroc"].value


def test_ranking_scores_are_log_odds():
    logits = 30 * np.random.default_rng(0).normal(size=(50, 7))
    others = np.stack([logsumexp(np.delete(logits, k, axis=1), axis=1) for k in range(7)], axis=1)
    assert ranking_scores(softmax(logits, axis=1), logits) == pytest.approx(logits - others, abs=1e-9)
    p = softmax(logits / 30, axis=1)
    assert ranking_scores(p) == pytest.approx(np.log(p / (1 - p)), abs=1e-9)
    assert ranking_scores(p[:, :2] / p[:, :2].sum(axis=1, keepdims=True)) == pytest.approx(
        (logits[:, :2] - logits[:, 1::-1]) / 30, abs=1e-9
    )
    assert np.isfinite(ranking_scores(np.array([[1.0, 0.0], [0.0, 1.0]]))).all()
    assert ranking_scores(log_softmax(logits, axis=1), log_softmax(logits, axis=1)) == pytest.approx(logits - others)


def test_images_in_groups_are_worth_their_groups():
    labels, probabilities = made_up(100, 2)
    logits, groups = np.log(probabilities), np.repeat(np.arange(100), 5)  # five copies of each image
    copies = [np.repeat(each, 5, axis=0) for each in (labels, probabilities, logits)]
    single, grouped, ignored = (
        {name: each.interval.high - each.interval.low for name, each in found.items()}
        for found in (
            estimate_metrics(labels, probabilities, logits),
            estimate_metrics(*copies, groups),
            estimate_metrics(*copies),
        )
    )
    for name in single:
        assert 0.95 * single[name] < grouped[name] < 1.15 * single[name], name
        assert ignored[name] < 0.6 * single[name], name
    # a number an image is as no groups at all, but for other draws
    assert estimate_metrics(labels, probabilities, logits, np.arange(100)[::-1]).keys() == single.keys()


def test_a_group_in_several_classes_is_drawn_whole():
    labels, groups = np.array([0, 1, 0, 1, 0, 0]), np.array([7, 7, 3, 3, 5, 5])
    scores = np.array([0.0, 2.0, 1.0, 3.0, -1.0, -2.0])
    drawn = resample_metrics(labels, labels, np.stack([-scores, scores], axis=1), groups, 1000, 0)
    assert set(drawn["auroc"]) == {1.0} and len(drawn["auroc"]) == 1000
    labels, groups = np.array([1, 0, 0, 0, 1]), np.array([1, 1, 1, 1, 2])
    drawn = resample_metrics(labels, np.zeros(5, int), np.zeros((5, 2)), groups, 1000, 0)
    assert 700 < len(drawn["auroc"]) < 800 and set(drawn["auroc"]) == {0.5}  # group 2 twice has no class 0


def test_classes_of_few_images_are_named():
    assert few_images([48, 10], ["cat", "dog"]) is None
    assert few_images([48, 2, 0], ["cat", "dog", "fox"]) == (
        "few images of dog (2): intervals of balanced accuracy, F1, AUROC and average precision may cover less than 93%"
    )
    assert "F1, AUROC, average precision and youden may" in few_images([48, 2], ["cat", "dog"], ["youden"])
    rarest_last = few_images([6, 5, 4, 3, 2, 1], list("abcdef"))
    assert rarest_last.startswith("few images of f (1), e (2), d (3), c (4) and 2 more: ")
    many = few_images([1] * 20, [f"c{k}" for k in range(20)])
    assert "c0 (1), c1 (1)" in many and "16 more" in many and len(many) < 200


def test_the_screen_names_classes_of_few_images():
    labels, probabilities, logits = separated([20, 2])
    lines = describe_metrics(measure(labels, probabilities, ["cat", "dog"], None, logits=logits), None)
    assert any("few images of dog (2)" in line for line in lines)
    labels, probabilities, logits = separated([20, 20])
    lines = describe_metrics(measure(labels, probabilities, ["cat", "dog"], None, logits=logits), None)
    assert not any("few images of" in line for line in lines)


def test_recalls_of_images_in_groups_are_wider():
    confusion = np.array([[80, 20], [10, 90]])
    (plain, _), (wide, _) = (per_class(confusion, ["a", "b"], *[np.full(2, effect)] * 2) for effect in (1.0, 4.0))
    assert (plain.recall.value, plain.recall.n) == (wide.recall.value, wide.recall.n)
    twenty = proportion(20, 25)
    assert (wide.recall.low, wide.recall.high) == pytest.approx((twenty.low, twenty.high))
    assert wide.precision.low < plain.precision.low


@pytest.mark.thorough
def test_scores_cover_where_the_images_of_one_class_only_are_in_groups():
    """400 single images and 10 groups of 10: the recall of the second class covered 0.75, balanced accuracy 0.86."""
    generator, held = np.random.default_rng(6), []
    labels, groups = np.repeat([0, 1], [400, 100]), np.append(np.arange(400), 400 + np.repeat(np.arange(10), 10))
    for _ in range(150):
        noise = np.sqrt(0.6) * generator.normal(size=410)[groups] + np.sqrt(0.4) * generator.normal(size=500)
        margin = (norm.ppf(0.9) + noise) * (2 * labels - 1)
        logits = np.stack([-margin, margin], axis=1)
        probabilities = softmax(logits, axis=1)
        found = measure(labels, probabilities, ["a", "b"], None, logits=logits, groups=groups)
        at = found.binary.at_half
        recalls = [each.recall for each in found.per_class]
        assert [at.specificity, at.sensitivity] == recalls
        intervals = [(each.low, each.high) for each in recalls] + [found.intervals["balanced_accuracy"]]
        held.append([low <= 0.9 <= high for low, high in intervals])
    assert (np.mean(held, axis=0) >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / 150)).all()


def test_a_metric_of_the_users_own_holds_its_value_and_is_never_of_no_width():
    labels, probabilities, _ = separated([20, 20])

    def youden(y, p):  # sensitivity + specificity - 1
        right = p.argmax(axis=1) == y
        return right[y == 1].mean() + right[y == 0].mean() - 1

    certain = further_metric(youden, labels, probabilities)
    assert (certain.value, certain.interval) == (1, None) and "is 1 on every resample" in certain.reason
    labels, probabilities = made_up(80, 2)
    value, (low, high), reason = further_metric(youden, labels, probabilities)
    assert low < value < high and reason is None
    rest = labels == 0
    single = further_metric(  # no interval of 60 held the truth of 300 + 300 + 1
        youden, np.append(labels[rest], 1), np.append(probabilities[rest], [[0.2, 0.8]], axis=0)
    )
    assert 0 < single.value < 1 and single.interval is None and "a class has one image" in single.reason
    distinct = further_metric(
        lambda y, p: len(np.unique(p[:, 0])), labels, probabilities
    )  # a resample always has fewer
    assert distinct.value == distinct.interval.high == 80
    undefined = further_metric(lambda y, p: np.nan, labels, probabilities)
    assert undefined[:2] == (None, None) and undefined.reason == "is NaN or infinite"
    before = labels.copy(), probabilities.copy()
    further_metric(lambda y, p: float(y.sort() or p.sort(axis=0) or 1), labels, probabilities)  # both in place
    assert (labels == before[0]).all() and (probabilities == before[1]).all()
    alike = np.repeat(np.arange(4), 20)
    low, high = further_metric(youden, labels, probabilities, alike).interval
    assert low < high


def test_the_expanded_interval_by_hand():
    """Of 2, 5 and 9 images, whose draws have 1/2, 4/5 and 8/9 of their variance."""
    labels, values = np.repeat([0, 1, 2], [2, 5, 9]), []
    probabilities = np.eye(3)[[0, 1, 1, 1, 1, 0, 2, *[2] * 7, 0, 1]]

    def share(y, p):
        values.append(float((p.argmax(axis=1) == y).mean()))
        return values[-1]

    low, high = further_metric(share, labels, probabilities).interval
    value, *drawn = values
    ends = np.quantile(drawn, [0.025, 0.975])
    further = 2 * value - np.mean(drawn) + np.sqrt((2 / 1 + 5 / 4 + 9 / 8) / 3) * (ends - np.mean(drawn))
    further = np.clip(further, min(drawn), max(drawn))
    assert (low, high) == pytest.approx((min(ends[0], further[0]), max(ends[1], further[1])))
    assert low < ends[0] and high > ends[1] and len(drawn) == 1000


def test_the_interval_of_ones_own_metric_of_many_classes_covers(monkeypatch):
    """20 classes of 5 images with recalls and precisions of 0.7; draws of 5 images vary less, and percentiles cover 0.87."""
    monkeypatch.setattr(estimates, "FURTHER_RESAMPLES", 250)

    def kappa(y, p):  # whose chance agreement is 1 in 20 where the classes are equally often true
        return ((p.argmax(axis=1) == y).mean() - 0.05) / 0.95

    generator, labels, covered = np.random.default_rng(0), np.repeat(np.arange(20), 5), []
    for _ in range(200):
        wrong = generator.random(100) >= 0.7
        predicted = np.where(wrong, (labels + generator.integers(1, 20, 100)) % 20, labels)
        low, high = further_metric(kappa, labels, np.eye(20)[predicted]).interval
        covered.append(low <= 0.65 / 0.95 <= high)
    assert np.mean(covered) >= 0.95 - 2 * np.sqrt(0.95 * 0.05 / 200)


def test_resamples_of_many_classes_are_drawn_together(monkeypatch):
    """One of 2,000 classes at a time took minutes: as many are drawn at once as images allow, not classes squared."""
    shapes = []

    def counted(*arguments):
        shapes.append((drawn := draw(*arguments)).shape)
        return drawn

    draw = estimates.draw
    monkeypatch.setattr(estimates, "draw", counted)
    labels = np.repeat(np.arange(500), 3)
    resample_metrics(labels, labels[::-1].copy(), np.zeros((1500, 500)), None, 2000, 0)
    assert sum(resamples for resamples, _ in shapes) >= 200 and {n for _, n in shapes} == {1500}
    assert len(shapes) == 1


def test_a_metric_of_the_users_own_draws_groups_whole():
    """Images of a group were drawn by class, as if those of two classes were not alike."""
    # both images of a group are right, or both wrong
    groups, labels = np.repeat(np.arange(100), 2), np.tile([0, 1], 100)
    probabilities = np.eye(2)[np.where(groups < 80, labels, 1 - labels)]

    def balanced(y, p):
        assert len(np.unique(y)) == 2
        return balanced_accuracy(count_confusion(y, p.argmax(axis=1), 2))

    low, high = further_metric(balanced, labels, probabilities, groups).interval
    assert (low, high) == pytest.approx(binom(100, 0.8).interval(0.95) / np.array(100), abs=0.015)
    # draws without the only group of a class are left out, which the metric refuses
    few = further_metric(
        balanced, np.array([0, 0, 0, 1, 1, 1, 1]), np.eye(2)[[0, 1, 0, 1, 1, 0, 1]], np.array([0, 1, 2, *[0] * 4])
    )
    assert few.interval and few.reason is None
    labels, groups = np.tile([0, *[1] * 50], 40), np.repeat(np.arange(40), 51)
    labels[labels > 0] = groups[labels > 0] + 1  # each group has most images of a class of its own
    none = further_metric(lambda y, _: y.mean(), labels, np.full((len(labels), 41), 1 / 41), groups)
    assert none.interval is None and none.reason == "has no interval: few draws of groups have images of all classes"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("call", [
    lambda p, bad: auroc(np.array([0, 1, 1]), [0.1, bad, 0.3]),
    lambda p, bad: average_precision(np.array([0, 1, 1]), [0.1, bad, 0.3]),
    lambda p, bad: macro_auroc(np.array([0, 1, 1]), np.where(p == 0.2, bad, p)),
    lambda p, bad: estimate_metrics(np.array([0, 1, 1]), np.where(p == 0.2, bad, p)),
    lambda p, bad: estimate_metrics(np.array([0, 1, 1]), p, np.where(p == 0.2, bad, p)),
])  # fmt: skip
def test_nan_and_infinite_are_refused(call, bad):
    with pytest.raises(ValueError, match="NaN or infinite for 1 of 3 images"):
        call(np.array([[0.5, 0.5], [0.2, 0.8], [0.3, 0.7]]), bad)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: auroc(np.array([1, 1]), np.array([0.1, 0.2])), "2 positive of 2"),
    (lambda: auroc(np.array([1, 0, 1]), np.array([0.1, 0.2])), "one score per image"),
    (lambda: auroc(np.eye(3)[:, :2], np.eye(3)[:, :2]), "one score per image"),
    (lambda: macro_auroc(np.array([0, 2]), np.ones((2, 2))), "labels lie in 0 to 1"),
    (lambda: macro_auroc(np.array([-1, 1]), np.ones((2, 2))), "labels lie in 0 to 1, not -1 to 1"),
    (lambda: macro_auroc(np.array([0, 1]), np.ones(2)), r"\(n, classes\)"),
    (lambda: macro_auroc(np.zeros(0, int), np.ones((0, 2))), r"not \(0,\), \(0, 2\)"),
    (lambda: macro_auroc(np.array([1, 1]), np.full((2, 3), 1 / 3)), "2 positive of 2"),
    (lambda: estimate_metrics(np.array([0, 1]), np.eye(2), np.ones((2, 3))), r"logits need .* \(2, 2\), not \(2, 3\)"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert not isinstance(caught.value, UserError)  # a defect of the caller, which keeps its traceback


def test_the_most_confused_classes_come_first():
    confusion = np.array([[9, 2, 0], [5, 1, 2], [0, 7, 0]])
    found = [(each.label, each.predicted, each.n) for each in most_confused(confusion, ["a", "b", "c"], most=3)]
    assert found == [("c", "b", 7), ("b", "a", 5), ("a", "b", 2)]
    counts = np.arange(100).reshape(10, 10)
    found = most_confused(counts, list("abcdefghij"))
    assert [each.n for each in found] == sorted(counts[~np.eye(10, dtype=bool)], reverse=True)[:50]


def test_a_class_that_is_only_predicted_has_an_f1_of_zero_and_one_that_is_neither_has_none():
    scores = per_class(np.array([[3, 1, 0], [0, 0, 0], [0, 0, 0]]), ["a", "b", "c"])
    assert [each.f1 for each in scores] == [pytest.approx(6 / 7), 0, None]
    assert [each.recall is None for each in scores] == [False, True, True]
    assert [each.precision is None for each in scores] == [False, False, True]


def test_probabilities_near_zero_and_one_keep_their_order():
    """Of float64, without logits: those of classes of which two are next to impossible."""
    small = 10.0 ** -np.arange(40, 300, 10)
    scores = ranking_scores(np.stack([small, np.full(26, 0.5), np.full(26, 0.5)], axis=1))
    assert scores[:, 0] == pytest.approx(np.log(small)) and (scores[:, 1:] == 0).all()
    rest = 2.0 ** -np.arange(20, 53)
    scores = ranking_scores(np.stack([1 - rest, rest / 2, rest / 2], axis=1))
    assert scores[:, 0] == pytest.approx(-np.log(rest), rel=1e-6)


def test_a_resample_without_positives_has_no_average_precision():
    positive, weights = np.array([True, False, False]), np.array([[0, 2, 1], [1, 1, 1]])
    found = weighted_average_precision(positive, np.array([0.5, 0.75, 0.25]), weights)
    assert np.isnan(found[0]) and found[1] == 0.5
