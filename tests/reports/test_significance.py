"""Comparisons with the best row, and the answer in two sentences."""

import numpy as np
import pytest
from scipy.stats import binomtest

from reports.significance import answer, describe_selection_bias


def test_comparisons_are_exact_mcnemar_after_holm(run, summary):
    run("best", choices={"model": "best"}, wrong={"val": set(), "test": {0, 1}})
    run("near", choices={"model": "near"}, wrong={"val": {1}, "test": {1, 2, 3, 4, 5}})
    run("far", choices={"model": "far"}, wrong={"val": {1, 2}, "test": set(range(20))})
    best, near, far = summary().groups[0].rows
    p_near, p_far = binomtest(1, 5).pvalue, binomtest(0, 18).pvalue  # right where the other is wrong: 1 and 4; 0 and 18
    assert far.comparison.p_value == pytest.approx(2 * p_far) and far.comparison.distinguishable is True
    assert near.comparison.p_value == pytest.approx(p_near) and near.comparison.distinguishable is False
    assert near.comparison.difference == pytest.approx(-3 / 80) and near.comparison.n == 80
    assert str(best.comparison) == "the best"


def test_seeds_are_matched(run, summary):
    for seed in (1, 2):
        run(f"a{seed}", seed=seed, choices={"model": "a"}, wrong={"val": set(), "test": {0}})
    for seed, missed in ((2, 10), (3, 40)):
        run(f"b{seed}", seed=seed, choices={"model": "b"}, wrong={"val": {1}, "test": set(range(missed))})
    run("c9", seed=9, choices={"model": "c"}, wrong={"val": {1, 2}})
    _, b, c = summary().groups[0].rows
    assert (b.comparison.seeds, b.comparison.difference) == (1, pytest.approx(-9 / 80))  # only seed 2
    assert str(c.comparison) == "not compared: it has no seed in common with the best"


def test_where_test_predictions_lack_the_validation_ones_are_compared(run, summary):
    run("a", choices={"model": "a"}, wrong={"val": set(), "test": set()})
    folder = run("b", choices={"model": "b"}, wrong={"val": {1, 2, 3}, "test": set()})
    (folder / "predictions.csv").write_text("path,fing")
    group = summary().groups[0]
    assert group.split == "val" and group.rows[1].comparison.difference == pytest.approx(-3 / 60)
    (folder / "predictions_val.csv").unlink()
    group = summary().groups[0]
    assert group.split == "test" and "cut off" in str(group.rows[1].comparison)


def test_predictions_of_other_images_are_not_compared(run, summary):
    run("a", choices={"model": "a"}, wrong={"val": set()})
    folder = run("b", choices={"model": "b"}, accuracy=0.6)
    for name in ("predictions.csv", "predictions_val.csv"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace(",0000000000000000,", ",ffff,"))
    assert "images or labels differ" in str(summary().groups[0].rows[1].comparison)
    assert summary().groups[0].selection_bias is None


def test_the_answer_names_the_smallest_that_cannot_be_distinguished(run, summary):
    wrong = {"val": set(), "test": {0, 1}}
    run("large", choices={"model": "large"}, wrong=wrong, cost=(200e6, 1e7, 9))
    run("middle", choices={"model": "middle"}, wrong={"val": {1}, "test": {1, 2}}, cost=(100e6, 1e6, 9))
    run("small", choices={"model": "small"}, wrong={"val": {1, 2}, "test": {1, 2, 3}}, cost=(50e6, 1e5, 9))
    run("tiny", choices={"model": "tiny"}, wrong={"val": {1, 2, 3}, "test": set(range(30))}, cost=(1e6, 1e4, 9))
    first, second = answer(summary().groups[0])
    assert first.startswith(
        "The best by validation is large: validation accuracy 1.000 (0.940 to 1.000, n = 60), test acc"
    )
    assert second.startswith(
        "The smallest network that cannot be distinguished from it is small with 50M multiply-accumulates"
    )
    assert (
        "0.25 times those of large" in second
        and "with 80 test images;" in second
        and "images would be needed" in second
    )


def test_the_answer_where_all_smaller_ones_are_worse(run, summary):
    run("large", choices={"model": "large"}, wrong={"val": set(), "test": set()}, cost=(2e8, 1e7, 9))
    run("small", choices={"model": "small"}, wrong={"val": {1}, "test": set(range(30))}, cost=(1e8, 1e6, 9))
    assert answer(summary().groups[0])[1] == "The smaller network is distinguishably worse on test."


def test_costs_without_accuracies_have_an_answer(run, summary):
    for name, macs in (("a", 2e9), ("b", 4e6)):
        run(name, choices={"model": name}, n={"train": 1}, cost=(macs, 1e5, 3), data={"fingerprint": None})
    assert "The smallest network is b with 4M multiply-accumulates" in answer(summary().groups[0])[0]


def test_selection_bias_is_of_the_mean_over_seeds(run, summary):
    generator = np.random.default_rng(0)
    for row in range(12):
        for seed in (1, 2):
            missed = set(np.flatnonzero(generator.random(200) < 0.3).tolist())
            run(f"r{row}{seed}", seed=seed, choices={"model": f"m{row}"}, wrong={"val": missed}, n={"val": 200})
    group = summary().groups[0]
    found, n = group.selection_bias
    assert n == 12 and found.value == pytest.approx(group.rows[0].accuracies["val"].value)
    assert abs(found.corrected - 0.7) < abs(found.value - 0.7)  # all have 0.7 in truth
    words = f"best of 12 on validation: {found.value:.3f} as measured, {found.corrected:.3f} corrected"
    assert describe_selection_bias(group) == words
