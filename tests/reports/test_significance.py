import numpy as np
import pytest
from scipy.stats import binomtest

from reports.significance import answer, describe_selection_bias


def test_verdicts_are_exact_mcnemar_after_holm(run, summary):
    run("best", choices={"model": "best"}, wrong={"val": set(), "test": {0, 1}})
    run("near", choices={"model": "near"}, wrong={"val": {1}, "test": {1, 2, 3, 4, 5}})
    run("far", choices={"model": "far"}, wrong={"val": {1, 2}, "test": set(range(20))})
    best, near, far = summary().sections[0].rows
    p_near, p_far = binomtest(1, 5).pvalue, binomtest(0, 18).pvalue  # alone right: 1 and 4; 0 and 18
    assert far.verdict.p_value == pytest.approx(2 * p_far) and far.verdict.apart is True
    assert near.verdict.p_value == pytest.approx(p_near) and near.verdict.apart is False
    assert near.verdict.difference == pytest.approx(-3 / 80) and near.verdict.n == 80
    assert str(best.verdict) == "the best"


def test_seeds_are_matched(run, summary):
    for seed in (1, 2):
        run(f"a{seed}", seed=seed, choices={"model": "a"}, wrong={"val": set(), "test": {0}})
    for seed, missed in ((2, 10), (3, 40)):
        run(f"b{seed}", seed=seed, choices={"model": "b"}, wrong={"val": {1}, "test": set(range(missed))})
    run("c9", seed=9, choices={"model": "c"}, wrong={"val": {1, 2}})
    _, b, c = summary().sections[0].rows
    assert (b.verdict.seeds, b.verdict.difference) == (1, pytest.approx(-9 / 80))  # seed 2 alone
    assert str(c.verdict) == "not compared: it has no seed in common with the best"


def test_where_test_predictions_lack_the_validation_ones_are_compared(run, summary):
    run("a", choices={"model": "a"}, wrong={"val": set(), "test": set()})
    folder = run("b", choices={"model": "b"}, wrong={"val": {1, 2, 3}, "test": set()})
    (folder / "predictions.csv").write_text("path,fing")
    section = summary().sections[0]
    assert section.split == "val" and section.rows[1].verdict.difference == pytest.approx(-3 / 60)
    (folder / "predictions_val.csv").unlink()
    section = summary().sections[0]
    assert section.split == "test" and "cut off" in str(section.rows[1].verdict)


def test_predictions_of_other_images_are_not_compared(run, summary):
    run("a", choices={"model": "a"}, wrong={"val": set()})
    folder = run("b", choices={"model": "b"}, accuracy=0.6)
    for name in ("predictions.csv", "predictions_val.csv"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace(",0000000000000000,", ",ffff,"))
    assert "other images" in str(summary().sections[0].rows[1].verdict)
    assert summary().sections[0].optimism is None


def test_the_answer_names_the_smallest_that_cannot_be_told_apart(run, summary):
    wrong = {"val": set(), "test": {0, 1}}
    run("large", choices={"model": "large"}, wrong=wrong, cost=(200e6, 1e7, 9))
    run("middle", choices={"model": "middle"}, wrong={"val": {1}, "test": {1, 2}}, cost=(100e6, 1e6, 9))
    run("small", choices={"model": "small"}, wrong={"val": {1, 2}, "test": {1, 2, 3}}, cost=(50e6, 1e5, 9))
    run("tiny", choices={"model": "tiny"}, wrong={"val": {1, 2, 3}, "test": set(range(30))}, cost=(1e6, 1e4, 9))
    first, second = answer(summary().sections[0])
    assert first.startswith(
        "The best by validation is large: validation accuracy 1.000 (0.940 to 1.000, n = 60), test acc"
    )
    assert second.startswith(
        "The smallest network that cannot be told apart from it is small with 50M multiply-accumulates"
    )
    assert (
        "0.25 times those of large" in second
        and "with 80 test images;" in second
        and "images would be needed" in second
    )


def test_the_answer_where_all_smaller_ones_are_worse(run, summary):
    run("large", choices={"model": "large"}, wrong={"val": set(), "test": set()}, cost=(2e8, 1e7, 9))
    run("small", choices={"model": "small"}, wrong={"val": {1}, "test": set(range(30))}, cost=(1e8, 1e6, 9))
    assert answer(summary().sections[0])[1] == "The smaller network is told apart from it as worse on test."


def test_costs_alone_have_an_answer(run, summary):
    for name, macs in (("a", 2e9), ("b", 4e6)):
        run(name, choices={"model": name}, n={"train": 1}, cost=(macs, 1e5, 3), data={"fingerprint": None})
    assert "The smallest network is b with 4M multiply-accumulates" in answer(summary().sections[0])[0]


def test_optimism_is_of_the_mean_over_seeds(run, summary):
    generator = np.random.default_rng(0)
    for row in range(12):
        for seed in (1, 2):
            missed = set(np.flatnonzero(generator.random(200) < 0.3).tolist())
            run(f"r{row}{seed}", seed=seed, choices={"model": f"m{row}"}, wrong={"val": missed}, n={"val": 200})
    section = summary().sections[0]
    found, n = section.optimism
    assert n == 12 and found.value == pytest.approx(section.rows[0].accuracies["val"].value)
    assert abs(found.corrected - 0.7) < abs(found.value - 0.7)  # all have 0.7 in truth
    words = f"best of 12: {found.value:.3f} as seen on validation, {found.corrected:.3f} corrected for the choice"
    assert describe_selection_bias(section) == words
