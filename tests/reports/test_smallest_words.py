"""The sentences on the smallest network: one head a verdict, what would decide, nothing rounded to its own advantage."""

import re
from dataclasses import replace

import numpy as np
import pytest

from common.smallest_record import Measured, SmallestRecord
from evaluation.intervals import wilson
from reports.smallest_words import answer_sentences, describe_cost, describe_measured, guess_share, last_lines
from tests.support import fake_smallest
from tests.support.fake_smallest import ALL

PARTS = {  # of each record: the head, and what has to follow it
    "exported": (
        "Smallest network that is good enough: mobilenet_v3_small cut after features.8, 128 px",
        "as onnx_int8: 420 KiB, 2.1 ms (p95 2.4 ms) per image on one thread, runs/a/checkpoints/best_int8.onnx",
        "as onnx_int8: accuracy 0.930 (0.902 to 0.951) on 444 validation images, costs 0.004 (-0.002 to 0.010): within 0.01; "
        "in balanced accuracy it costs 0.005 (-0.004 to 0.014): not shown to be within 0.01 by 444 images; "
        "probabilities differ by at most 3.1e-02, 3 of 444 predictions differ",
    ),
    "shown": (
        "Smallest network that is good enough: mobilenet_v3_small cut after features.8, 128 px",
        "122k parameters, 5.47M MACs (1/240 of resnet18 at 192 px), 0.486 ms on this machine (ONNX, 1 thread), 476 KiB file",
        "chosen on validation, confirmed on test: accuracy 0.931 (0.907 to 0.955, n = 445, mean of 3 networks); "
        "0.004 below resnet18, at most 0.017 below (97.5%), margin 0.02",
    ),
    "shown_as_trained": (
        "Smallest network that is good enough, as trained: mobilenet_v3_small",
        "at most 0.017 below (95%), margin 0.02", "this holds for these trained networks only: others with the same settings "
        "may be worse; comparing settings takes at least 3 seeds besides that of the race",
    ),
    "not_shown": (
        "Smallest network by validation, not shown to be good enough: mobilenet_v3_small",
        "not shown: 0.012 below resnet18, but up to 0.031 below cannot be excluded (95%), margin 0.02, with 153 test images "
        "and 1 seed; about 610 test images would decide",
        "the smallest margin that is shown is 0.031; 0.02 is shown only for the most accurate network itself, "
        "resnet18 at 192 px",
    ),
    "not_shown_on_validation": (
        "No network is shown to be good enough; the nearest one on validation: mobilenet_v3_small",
        "with 152 validation images and 1 seed; about 700 validation images would decide",
        "chosen, not proved: there is no test split",
    ),
    "mean_of_seeds": (
        "Smallest network that is good enough, as trained",
        "n = 445, mean of 3 networks); the network in best.ckpt: 0.004 below",
        "this holds for these trained networks only: others with the same settings may be worse",
    ),
    "too_far": (
        "Smallest network by validation, not shown", "0.026 below resnet18, but up to 0.054 below cannot be excluded (95%)",
        "the difference is not within 0.02, so more images will not help unless it shrinks",
    ),
    "not_proved": (
        "Smallest network by validation, not proved to be good enough: mobilenet_v3_small",
        "chosen on validation, which flatters: accuracy 0.933", "chosen, not proved: there is no test split",
    ),
    "target": ("Smallest network that is good enough: mobilenet", "its own lower bound 0.907 (97.5%) lies above 0.9"),
    "target_not_shown": (
        "Smallest network by validation, not shown", "its own lower bound 0.907 (97.5%) does not lie above 0.92",
        "about 1,900 test images would decide", "the largest target that is shown is 0.907",
        "the most accurate, resnet18 at 192 px, has 0.935 (0.912 to 0.958, n = 445, mean of 3 networks) on test: "
        "not shown to be above 0.92",
    ),
    "folds": ("Smallest network that is good enough, as trained: mobilenet",),
    "two_costs": ("the front of MACs and peak activations has", "; MACs decided", "590 KiB peak activations (1/3 of resnet18"),
    "only_one": (
        "No smaller network to choose; only one was trained to the end: resnet18, 192 px", "measured on test: accuracy",
    ),
    "reference_itself": (
        "resnet18, 192 px, the most accurate one that was trained", "measured on test: accuracy 0.935",
        "no smaller network was shown to come within 0.02 of it (on validation)",
    ),
    "limited": ("0.486 ms on this machine (ONNX, 1 thread; unreliable: other processes used 1.6 of 2 cores)",),
}  # fmt: skip


def test_the_seeds_of_the_difference_are_named_where_the_mean_is_over_more():
    """The seed of the race is in the mean, and not in the test: 0.659 - 0.643 over four networks, 0.014 over three."""
    record = fake_smallest.smallest_record()
    chosen = record.candidates[record.answer.chosen]
    for n_seeds, words in ((4, "mean of 4 networks); over 3 of them: 0.004 below"), (3, "networks); 0.004 below")):
        chosen.trained.test = replace(chosen.trained.test, n_seeds=n_seeds)
        assert words in answer_sentences(record)[2]


@pytest.mark.parametrize("name", ALL)
def test_each_kind_of_answer(name):
    sentences = answer_sentences(ALL[name]())
    text = "\n".join(sentences)
    for part in PARTS[name]:
        assert part in text
    assert PARTS[name][0].split(":")[0] in sentences[0] or name in ("two_costs", "limited", "reference_itself")
    assert "apart" not in text and "distinguished" not in text
    assert all(line == line.strip() and "\n" not in line and line for line in sentences)


@pytest.mark.parametrize("name", ALL)
def test_shown_is_a_word_of_test_images(name):
    record = ALL[name]()
    shown = record.answer.verdict.startswith("shown")
    text = " ".join(answer_sentences(record))
    assert not shown or "confirmed on test" in text or record.answer.test is None
    assert shown or not re.search(r"confirmed|that is good enough", text)


@pytest.mark.parametrize(
    ("at_least", "is_reference", "is_within"), [(-0.0201, False, False), (-0.0199, False, True), (-0.0201, True, True)]
)
def test_without_test_images_what_validation_does_not_show_is_only_the_nearest(at_least, is_reference, is_within):
    """The reference is within its own margin; the bound is then that of the nearest smaller network."""
    record = ALL["not_proved"]()
    record.answer.val.at_least = at_least
    record.answer.chosen = record.answer.reference if is_reference else record.answer.chosen
    head, *rest = answer_sentences(record)
    assert head.startswith("Smallest network by validation, not proved" if is_within else "No network is shown")
    assert any(line.startswith("chosen, not proved: there is no test split") for line in rest)


def test_what_would_decide_says_if_it_is_planned_for_no_difference():
    record = ALL["not_shown"]()
    record.answer.test.difference = 0.07
    text = "\n".join(answer_sentences(record))
    assert "0.070 above resnet18" in text and "; if they are equally good, about 610 test images would decide" in text
    assert (
        "0.02 is shown only for the reference itself, resnet18 at 192 px" in text
    )  # not the most accurate one on test


def test_a_probe_above_all_that_was_trained_stands_beside_the_answer():
    record = ALL["shown"]()
    waiting = next(each for each in record.candidates if each.probe and not each.trained and not each.excluded)
    reference = record.candidates[record.answer.reference].trained.val.value
    waiting.probe.value = reference + 0.019
    assert not any("was not trained" in line for line in answer_sentences(record))
    waiting.probe.value = reference + 0.021
    first, *rest = answer_sentences(record)
    assert first.startswith("Smallest network that is good enough among those that were trained: ")
    (line,) = [line for line in rest if "a more accurate network was not trained" in line]
    assert waiting.backbone in line and f"the reference {reference:.3f}" in line
    for name, is_named in (
        ("target", False),
        ("target_not_shown", True),
    ):  # no one asks for more than a target that is shown
        record = ALL[name]()
        next(
            each for each in record.candidates if each.probe and not each.trained and not each.excluded
        ).probe.value = 1.0
        assert any("a more accurate network was not trained" in line for line in answer_sentences(record)) == is_named


def test_the_last_lines_have_page_and_command():
    first, *rest = last_lines(ALL["shown"](), "outputs/smallest/solar/report.html")
    assert not first.startswith(" ") and all(line.startswith("  ") for line in rest[:-1])
    assert rest[-1] == (
        "Screened 312 networks, trained 14 runs, 18 min 01 s. Page: outputs/smallest/solar/report.html   "
        "Use it: python predict.py ckpt=outputs/smallest/solar/best.ckpt images=DIR"
    )
    record = ALL["limited"]()  # those without pretrained weights or above a limit cannot be screened
    possible = [each for each in record.candidates if each.pretrained and each.excluded is None]
    for each in record.candidates:
        each.probe = each.probe if each.pretrained else None
    record.earlier_s = 600.0
    assert last_lines(record, "x")[-1].startswith(
        f"Screened {len(possible)} networks, trained 14 runs, 18 min 01 s with ear"
    )
    possible[0].probe = possible[1].probe = None
    assert last_lines(record, "x")[-1].startswith(f"Screened {len(possible) - 2} of {len(possible)} networks, ")


def bound_of(record: SmallestRecord, pattern: str) -> float:
    return float(re.search(pattern, " ".join(answer_sentences(record))).group(1))


@pytest.mark.parametrize("as_trained", [None, True, False])  # None: an answer of 0.5.0
def test_an_answer_about_settings_says_if_the_network_handed_out_is_not_shown_itself(as_trained):
    record = ALL["shown"]()
    record.answer.as_trained = as_trained
    assert any("network in best.ckpt is not shown" in line for line in answer_sentences(record)) == (
        as_trained is False
    )


def test_no_rounding_flatters():
    generator = np.random.default_rng(0)
    for bound in generator.uniform(0.001, 0.0199, 50):
        record = ALL["shown"]()
        record.answer.test = replace(record.answer.test, at_least=-bound)
        assert 0 <= bound_of(record, r"at most ([\d.]+) below") - bound < 0.001
    for bound in generator.uniform(0.9001, 0.93, 50):
        record = ALL["target"]()
        record.answer.test = replace(record.answer.test, at_least=bound)
        assert 0 <= bound - bound_of(record, r"lower bound ([\d.]+)") < 0.001
    for times in generator.uniform(2, 5000, 50):
        record = ALL["shown"]()
        reference = record.candidates[record.answer.reference]
        record.candidates[record.answer.chosen].costs.macs = reference.costs.macs / times
        assert 0.9 * times <= bound_of(record, r"1/([\d.]+) of resnet18") <= times * 1.0001
    assert describe_measured(Measured(value=0.5, low=0.40096, high=0.59904, n=10)) == "0.500 (0.400 to 0.600, n = 10)"


def test_what_is_not_half_as_large_is_given_in_hundredths_rounded_up():
    record = ALL["shown"]()
    chosen, reference = (record.candidates[index] for index in (record.answer.chosen, record.answer.reference))
    for times in np.random.default_rng(0).uniform(0.51, 1.5, 50):
        chosen.costs.macs = times * reference.costs.macs
        assert 0 <= bound_of(record, r"\(([\d.]+) times resnet18 at 192 px\)") - times < 0.01 + 1e-9
    chosen.costs.macs = 0.71 * reference.costs.macs
    assert bound_of(record, r"\(([\d.]+) times") == 0.71
    chosen.costs.macs = reference.costs.macs / 2
    assert bound_of(record, r"\(1/([\d.]+) of resnet18") == 2


def test_the_smallest_margin_and_the_largest_target_are_named_only_where_the_one_asked_for_is_beyond_them():
    record = ALL["not_shown"]()
    record.answer.test = replace(record.answer.test, smallest_margin=record.question.good_enough - 0.001)
    assert "the smallest margin that is shown" not in " ".join(answer_sentences(record))
    record = ALL["target_not_shown"]()
    record.answer.test = replace(record.answer.test, smallest_margin=record.question.target + 0.001)
    assert "the largest target that is shown" not in " ".join(answer_sentences(record))


@pytest.mark.parametrize(("name", "words"), [("not_shown", "smallest margin"), ("target_not_shown", "largest target")])
def test_the_margin_or_target_of_one_network_is_named_as_such_beside_the_mean_of_several(name, words):
    record = ALL[name]()
    test = record.candidates[record.answer.chosen].trained.test
    record.answer.test = replace(record.answer.test, n_seeds=test.n_seeds)
    assert f"the {words} that is shown is 0." in " ".join(answer_sentences(record))
    record.answer.test, test.n_seeds = replace(record.answer.test, n_seeds=1), 4
    assert f"the {words} that is shown for the network in best.ckpt is 0." in " ".join(answer_sentences(record))


def test_guessing_has_a_balanced_accuracy_of_one_in_as_many_as_there_are_classes():
    record = ALL["shown"]()
    record.question.metric, record.data["classes"] = "balanced_accuracy", list("abcd")
    assert guess_share(record) == 1 / 4


@pytest.mark.parametrize(
    ("difference", "words"), [(0.0, ", the most accurate one that"), (0.001, ", the reference itself")]
)
def test_who_is_as_accurate_as_the_best_is_the_most_accurate_one(difference, words):
    record = ALL["reference_itself"]()
    chosen = record.candidates[record.answer.chosen]
    other = next(each for each in record.candidates if each is not chosen and each.trained and each.trained.val)
    other.trained.val = replace(other.trained.val, value=chosen.trained.val.value + difference)
    assert words in answer_sentences(record)[0]


def test_no_difference_is_one_to_the_reference():
    record = ALL["shown"]()
    record.answer.test = replace(record.answer.test, difference=0.0)
    assert "; no difference to resnet18, at most 0.017 below (97.5%), margin 0.02" in " ".join(answer_sentences(record))


def test_a_bound_next_to_the_target_is_not_shown_as_equal_to_it():
    record = ALL["target"]()
    record.answer.test = replace(record.answer.test, at_least=0.9004)
    assert "its own lower bound 0.9004 (97.5%) lies above 0.9" in " ".join(answer_sentences(record))


def test_no_better_than_guessing_is_a_sentence_of_its_own():
    record = ALL["shown"]()
    assert "guessing" not in " ".join(answer_sentences(record))
    record.data["majority_val"] = 0.92
    assert "guessing" not in " ".join(answer_sentences(record))  # measured on test, where that class is rarer
    record.data["majority_test"] = 0.92
    line = "not shown to be better than guessing: always predicting the largest class gives 0.920"
    assert f"{line}; metric=balanced_accuracy counts all classes equally" in answer_sentences(record)
    assert answer_sentences(record)[0].startswith(
        "No network is shown to be better than guessing; the smallest that is shown to be within 0.02 of the most accurate"
    )
    record.question.metric = "balanced_accuracy"
    record.data["classes"] = ["a"]
    assert (
        "gives 1.000 " in " ".join([*answer_sentences(record), ""])
        and "balanced accuracy 0.931" in answer_sentences(record)[2]
    )


def test_the_exact_test_has_to_agree_that_it_is_better_than_guessing():
    record = ALL["shown"]()
    chosen = record.candidates[record.answer.chosen].trained
    for share, right, guesses in ((1 / 30, 3, True), (1 / 30, 4, False), (0.043, 4, True)):
        # Guessing has so many right with a probability of 0.08, 0.02 and 0.04
        record.data["majority_test"] = share
        chosen.test = Measured(value=right / 30, low=wilson(right, 30).low, high=wilson(right, 30).high, n=30)
        assert chosen.test.low > share and ("guessing" in " ".join(answer_sentences(record))) is guesses


def test_the_reference_is_named_so_that_it_cannot_be_taken_for_the_chosen_one():
    for same, words in (((2, 256), "below the same at 256 px"), ((4, 128), "below the whole mobilenet_v3_small")):
        record = ALL["shown"]()
        index = fake_smallest.index_of(record, "mobilenet_v3_small", *same)
        fake_smallest.train(record, index, val=fake_smallest.measured(0.94))
        record.answer.reference = index
        assert words in " ".join(answer_sentences(record))


def test_names_stay_in_one_line():
    record = ALL["shown"]()
    record.candidates[record.answer.chosen].backbone = "a\nb\x1b[31m"
    assert all("\n" not in line and "\x1b" not in line for line in answer_sentences(record))


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [("macs", 3.14e6, "3.14M"), ("parameters", 61_000, "61k"), ("file_kib", 246, "246 KiB"), ("file_kib", 2048, "2 MiB"),
     ("latency_ms", 0.61, "0.61 ms"), ("latency_ms", None, "-")],
)  # fmt: skip
def test_costs_have_units(key, value, text):
    assert describe_cost(key, value) == text


def test_where_more_images_would_not_decide():
    record = ALL["not_shown"]()
    record.answer.test = replace(record.answer.test, would_decide=None)
    assert answer_sentences(record)[2].endswith("; more images would not decide it")
    record = ALL["target_not_shown"]()
    record.question.target, record.answer.test.would_decide = 0.95, None
    assert "the accuracy is not above 0.95, so more images will not help unless it rises" in answer_sentences(record)[2]


def test_a_frozen_network_is_named_and_explained():
    record = fake_smallest.smallest_record()
    answer = record.answer
    assert "frozen" not in " ".join(answer_sentences(record))
    record.candidates[answer.reference].frozen = True
    sentences = answer_sentences(record)
    assert "below frozen resnet18, at most" in sentences[2]
    assert (
        "frozen: only the head was trained, because the race's budget left no time to fine-tune the backbone"
        in sentences
    )
    record.candidates[answer.chosen].frozen = True
    assert "frozen mobilenet_v3_small cut after features.8, 128 px" in answer_sentences(record)[0]


def test_the_same_network_frozen_at_another_size_is_not_taken_for_the_chosen_one():
    record = fake_smallest.smallest_record()
    chosen, reference = (record.candidates[i] for i in (record.answer.chosen, record.answer.reference))
    reference.backbone, reference.keep, reference.whole, reference.frozen = chosen.backbone, chosen.keep, False, True
    assert "below the same frozen at 192 px" in answer_sentences(record)[2]


def test_a_reference_that_is_the_answer_is_not_called_more_than_it_is():
    record = ALL["reference_itself"]()
    chosen = record.candidates[record.answer.chosen]
    above = replace(chosen.trained.val, value=chosen.trained.val.value + 0.01, n=100)
    for each in record.candidates:
        each.trained = each.trained if each is chosen else None
    text = "\n".join(answer_sentences(record))
    assert "the most accurate one that was trained" in text
    assert "no smaller network was trained to the end, so none was compared with it" in text
    record.data["majority_test"] = record.data["majority_val"] = 0.99
    assert answer_sentences(record)[0] == (
        f"No network is shown to be better than guessing; the most accurate one in the race: {chosen.name}"
    )
    other = next(each for each in record.candidates if each.costs.macs > chosen.costs.macs)
    other.trained = replace(chosen.trained, val=above)  # on fewer images
    assert "reference itself" not in answer_sentences(record)[0]
    record.data["majority_test"] = record.data["majority_val"] = 0.5
    assert answer_sentences(record)[0].endswith(", the reference itself")


def test_a_reference_below_which_no_candidate_lies_is_called_the_smallest():
    """One with the same parameters but more multiply-accumulates lies above it."""
    record = ALL["reference_itself"]()
    chosen = record.candidates[record.answer.chosen]
    record.question.cost = ["parameters"]
    larger = replace(chosen, costs=replace(chosen.costs, macs=2 * chosen.costs.macs), trained=None)
    cheaper = replace(chosen, costs=replace(chosen.costs, macs=chosen.costs.macs // 2), trained=None)
    for others, is_smallest in (([larger], True), ([cheaper], False)):
        record.candidates = [chosen, *others]
        record.answer.chosen = record.answer.reference = 0
        text = "\n".join(answer_sentences(record))
        assert ("; it is the smallest of all candidates" in text) is is_smallest
        assert ("none was compared with it" in text) is not is_smallest


def test_the_nearest_of_those_outside_the_margin_stands_beside_the_most_accurate_one():
    record = ALL["reference_itself"]()
    other = ALL["shown"]().answer
    far = replace(other.val, difference=-0.041)
    record.answer = replace(record.answer, nearest=other.chosen, val=far)
    assert answer_sentences(record)[2].endswith(
        "; the nearest smaller one, mobilenet_v3_small cut after features.8 at 128 px, is 0.041 below on validation"
    )


def test_an_answer_without_a_network_whose_training_failed_is_called_that():
    record = ALL["shown"]()
    other = next(each for each in record.candidates if each.trained and each.stage == "raced")
    other.trained = replace(other.trained, ended="failed", val=None)
    head, *lines = answer_sentences(record)
    assert head.startswith("Smallest network that is good enough among those that were trained: ")
    assert f"not compared, since the training failed: {other.name}; the same command tries again" in lines


@pytest.mark.parametrize(("target", "value", "is_named"), [
    (None, 0.917, True), (None, 0.915, False), (0.95, 0.951, True), (0.95, 0.94, False),
])  # fmt: skip
def test_a_smaller_network_of_the_race_that_was_in_no_final_is_named(target, value, is_named):
    """The reference has 0.936 on validation; another one of the race is larger than the chosen one."""
    record = ALL["shown"]()
    record.question.target = target
    chosen = record.candidates[record.answer.chosen]
    for macs in (chosen.costs.macs - 1, chosen.costs.macs + 1):
        other = next(each for each in record.candidates if each.trained is None)
        other.costs.macs, other.stage = macs, "raced"
        other.trained = replace(chosen.trained, val=Measured(value=value, low=0.8, high=0.96, n=100), test=None)
    cheap = next(each for each in record.candidates if each.costs.macs == chosen.costs.macs - 1)
    named = (
        f"1 smaller network of the race may be good enough, but was not in the finals: {cheap.network} at "
        f"{cheap.image_size} px had {value:.3f} (0.800 to 0.960, n = 100) on validation; "
        "a larger finals.candidates compares more"
    )
    assert [line for line in answer_sentences(record) if "finals" in line] == [named] * is_named


@pytest.mark.parametrize(("folds", "repeats"), [(None, "seeds"), (4, "folds")])
def test_an_answer_about_trained_networks_asks_for_seeds_or_folds_or_says_that_those_do_not_show_it(folds, repeats):
    record = ALL["mean_of_seeds"]()
    record.data["folds"] = folds
    asked = f"takes at least 3 {repeats} besides that of the race"
    shown = f"over the other {repeats}, the same settings are not shown to be good enough"
    for candidate in (record.answer.chosen, record.answer.reference):
        text = " ".join(answer_sentences(record))
        assert asked in text and shown not in text  # both need four
        record.candidates[candidate].trained.test.n_seeds = 4
    text = " ".join(answer_sentences(record))
    assert shown in text and asked not in text


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy"])
def test_the_images_of_the_rarest_class_stand_beside_a_balanced_accuracy(metric):
    record = ALL["shown"]()
    record.question.metric = metric
    record.data |= {"rarest_val": 7, "rarest_test": 1234}
    text = " ".join(answer_sentences(record))
    assert (", 1,234 of the rarest class" in text) is (metric == "balanced_accuracy") and "7 of the rarest" not in text
