"""The sentences on the smallest network that is good enough: the last lines of the screen, the page, the model card.

Numbers are rounded so that none flatters: bounds outward, and how much smaller a network is downward.
"""

from math import ceil, floor, log10
from pathlib import Path

from common.checks import FEWEST_SEEDS
from common.smallest_record import Answer, Candidate, Measured, Pair, SmallestRecord
from common.text import (
    SPLIT_NAMES,
    clean,
    compact_count,
    duration,
    file_size,
    format_interval,
    join_words,
    milliseconds,
    plural,
    rounded_down,
    rounded_up,
)
from evaluation.intervals import ONE_SIDED, guessing_probability
from reports import wording

COST_NAMES = {
    "macs": "MACs",
    "parameters": "parameters",
    "file_kib": "file size",
    "activation_kib": "peak activations",
    "activation_int8_kib": "peak activations as int8",
    "latency_ms": "latency",
}
ALWAYS = ("parameters", "macs", "latency_ms", "file_kib")  # in the answer, whatever was asked
SKEWED = 0.75  # share of the largest class from which accuracy says little about the others
HEADS = {
    "shown": "Smallest network that is good enough",
    "shown_as_trained": "Smallest network that is good enough, as trained",
    "not_shown": "Smallest network by validation, not shown to be good enough",
    "chosen_not_proved": "Smallest network by validation, not proved to be good enough",
}


def answer_sentences(record: SmallestRecord) -> list[str]:
    """Return the answer, then a line each for its costs, its evidence and its caveats."""
    answer, chosen = record.answer, record.candidates[record.answer.chosen]
    head = HEADS.get(answer.verdict, HEADS["not_shown"])
    itself = _itself(record, chosen) if answer.chosen == answer.reference else ""
    trivial = bool(itself) and record.question.target is None  # the reference is within its own margin
    if answer.verdict in ("not_shown", "chosen_not_proved") and not (trivial or _within(record, answer.val)):
        head = "No network is shown to be good enough; the nearest one on validation"
    if answer.verdict == "none":
        head, itself = "No smaller network to choose; only one was trained to the end", ""
    better, failed = _better_probe(record), _failed(record)
    if (better or failed) and answer.verdict in ("shown", "shown_as_trained"):
        head = head.replace("good enough", "good enough among those that were trained")
    guessing = _guessing(record, chosen)
    if guessing and answer.verdict in ("shown", "shown_as_trained"):  # the most accurate one is no better
        margin, target = record.question.good_enough, record.question.target
        goal = f"within {margin:g} of the most accurate one" if target is None else f"above {target:g}"
        which = f"the smallest that is shown to be {goal}"
        if trivial:
            which, itself = "the most accurate one in the race", ""
        head = f"No network is shown to be better than guessing; {which}"
    lines = [f"{head}: {clean(chosen.name)}{itself}", _costs(record, chosen), _evidence(record, chosen, answer)]
    lines += [
        *([] if chosen.deployed is None else map(clean, chosen.deployed.describe_lines())),
        _frozen(chosen, _reference(record)),
        better,
        failed,
        guessing,
        *(f"accuracies {clean(caveat)}" for caveat in record.data.get("caveats", [])),
        _kind_of_proof(record, chosen, answer),
        _what_is_shown(record, answer),
        _not_in_finals(record, chosen),
        _front(record),
    ]
    return [line for line in lines if line]


def last_lines(record: SmallestRecord, page: Path | str) -> list[str]:
    """Return what the screen shows at the end: the answer, its evidence, what was done, the page and the next command."""
    first, *rest = answer_sentences(record)
    done = f"{work(record)}. Page: {page}   Use it: {record.answer.commands[0]}"
    return [first, *(f"  {line}" for line in rest), done]


def work(record: SmallestRecord) -> str:
    """Return `Screened 94 of 312 networks, trained 14 runs, 18 min 05 s`, or without ` of 312` if that is all."""
    possible = [each for each in record.candidates if each.probe or (each.pretrained and not each.excluded)]
    n_screened = sum(each.probe is not None for each in possible)
    screened = plural(len(possible), "network")
    if n_screened < len(possible):  # because of the budget, or of features that are not finite
        screened = f"{n_screened:,} of {screened}"
    parts = [f"Screened {screened}", f"trained {plural(record.n_trained, 'run')}"]
    if record.seconds:
        parts.append(duration(sum(record.seconds.values())) + (" with earlier commands" if record.earlier_s else ""))
    return ", ".join(parts)


def describe_cost(key: str, value: float | None) -> str:
    """Return `3.1M`, `246 KiB`, `0.6 ms`: a cost without its name; a dash for None."""
    if value is None:
        return "-"
    if key == "latency_ms":
        return milliseconds(value)
    if key.endswith("_kib"):
        return file_size(value * 1024)
    return compact_count(value)


def describe_measured(found: Measured | None, rarest: int | None = None) -> str:
    """Return `0.931 (0.912 to 0.946, n = 445, mean of 3 networks)`; a dash for None.

    Args:
        rarest: number of images of the rarest class, if it limits what a balanced accuracy shows.
    """
    if found is None:
        return "-"
    known = found.low is not None and found.high is not None
    parts = [format_interval(found.low, found.high)] if known else []
    parts += [f"n = {found.n:,}"] if found.n else []
    parts += [f"{rarest:,} of the rarest class"] if rarest else []
    parts += [f"mean of {found.n_seeds} networks"] if found.n_seeds > 1 else []  # of seeds, or of folds
    return f"{found.value:.3f}" + (f" ({', '.join(parts)})" if parts else "")


def describe_goal(record: SmallestRecord) -> str:
    """Return `balanced accuracy at most 0.02 below the most accurate network's`, or that of a target."""
    question = record.question
    metric = metric_name(record)
    if question.target is not None:
        return f"{metric} above {question.target:g}"
    return f"{metric} at most {question.good_enough:g} below the most accurate network's"


def metric_name(record: SmallestRecord) -> str:
    return record.question.metric.replace("_", " ")


def at_size(candidate: Candidate) -> str:
    """Return `resnet18 at 192 px`, for the middle of a sentence."""
    return clean(f"{candidate.network} at {candidate.image_size} px")


def _costs(record: SmallestRecord, chosen: Candidate) -> str:
    """Return parameters, MACs, latency, file size and the other costs asked for; a deciding cost also as a share."""
    question, reference = record.question, _reference(record)
    asked = [*question.cost, *question.limits]
    parts = []
    for key in dict.fromkeys((*ALWAYS, *asked)):
        value = chosen.costs.of(key)
        if value is None:
            continue
        text = describe_cost(key, value)
        if key in ("macs", "parameters"):
            text += f" {COST_NAMES[key]}"
        elif key == "latency_ms":
            text += _how_timed(chosen)
        else:
            text += f" {'file' if key == 'file_kib' else COST_NAMES[key]}"
        if reference is not chosen and key in question.cost and (full := reference.costs.of(key)):
            text += f" ({_share(value, full, at_size(reference))})"
        parts.append(text)
    return ", ".join(parts)


def _how_timed(chosen: Candidate) -> str:
    latency = chosen.costs.latency
    flag = f"; unreliable: {clean(latency.flag)}" if latency.flag else ""
    return f" on this machine (ONNX, {plural(latency.threads or 1, 'thread')}{flag})"


def _share(value: float, full: float, whose: str) -> str:
    """Return `1/160 of resnet18 at 192 px`, or `0.71 times resnet18 at 192 px`."""
    ratio = full / value if value else 0
    if ratio < 2:
        return f"{ceil(100 / ratio - 1e-9) / 100 if ratio else 1:.2f} times {whose}"
    step = 10 ** (floor(log10(ratio)) - 1)
    return f"1/{floor(ratio / step + 1e-9) * step:g} of {whose}"


def guess_share(record: SmallestRecord, split: str = "val") -> float | None:
    """Return what always predicting the largest class scores on a split; None without images."""
    if record.question.metric == "accuracy":
        return record.data.get(f"majority_{split}")
    return 1 / len(record.data["classes"])


def _guessing(record: SmallestRecord, chosen: Candidate) -> str | None:
    """Warn if the chosen network is not shown to be better than always predicting the largest class."""
    split = "test" if chosen.trained.test else "val"
    measured, guess = getattr(chosen.trained, split), guess_share(record, split)
    if guess is None:
        return None
    is_above = (measured.value if measured.low is None else measured.low) > guess
    if measured.n and record.question.metric == "accuracy":  # the rule that the run itself reports by
        is_above &= guessing_probability(measured.value * measured.n, measured.n, guess) <= ONE_SIDED
    if is_above:
        return None
    is_skewed = record.question.metric == "accuracy" and guess >= SKEWED
    advice = "; metric=balanced_accuracy counts all classes equally" if is_skewed else ""
    return f"not shown to be better than guessing: always predicting the largest class gives {guess:.3f}{advice}"


def _frozen(chosen: Candidate, reference: Candidate) -> str | None:
    """Explain `frozen` if the chosen network or the reference is frozen."""
    if not (chosen.frozen or reference.frozen):
        return None
    return "frozen: only the head was trained, because the race's budget left no time to fine-tune the backbone"


def _better_probe(record: SmallestRecord) -> str | None:
    """Warn if a network that was not trained has a probe more accurate than the reference by more than the margin."""
    reference, margin, answer = _reference(record), record.question.good_enough, record.answer
    probed = [each for each in record.candidates if each.probe and not each.trained and not each.excluded]
    reached = record.question.target is not None and _within(record, answer.test or answer.val)
    if reached or not probed:
        return None
    best = max(probed, key=lambda each: each.probe.value)
    if best.probe.value <= reference.trained.val.value + margin:
        return None
    return (
        f"a more accurate network was not trained: the probe of {at_size(best)} already has "
        f"{describe_measured(best.probe)} on validation, the reference {reference.trained.val.value:.3f}"
    )


def _failed(record: SmallestRecord) -> str | None:
    """Name the networks whose training failed, which the answer cannot take into account."""
    names = [clean(each.name) for each in record.candidates if each.trained and each.trained.ended == "failed"]
    if not names:
        return None
    return f"not compared, since the training failed: {'; '.join(names)}; the same command tries again"


def _evidence(record: SmallestRecord, chosen: Candidate, answer: Answer) -> str:
    """Return how it was chosen and what the images show, in one line."""
    itself = answer.chosen == answer.reference and record.question.target is None
    pair = answer.test or (None if itself else answer.val)
    split = pair.split if pair else "test" if chosen.trained.test else "val"
    measured = getattr(chosen.trained, split)
    how = dict.fromkeys(("shown", "shown_as_trained"), "chosen on validation, confirmed on test")
    how["chosen_not_proved"] = "chosen on validation, which flatters"
    compared = pair and (record.question.target is not None or answer.chosen != answer.reference)
    lead = how[answer.verdict] if compared and answer.verdict in how else f"measured on {SPLIT_NAMES[split]}"
    rarest = record.data.get(f"rarest_{split}") if record.question.metric == "balanced_accuracy" else None
    facts = f"{lead}: {metric_name(record)} {describe_measured(measured, rarest)}"
    if compared:
        of = ""
        if pair.n_seeds < measured.n_seeds:  # all but the race's seed, or only the network handed out
            of = "the network in best.ckpt: " if pair.n_seeds == 1 else f"over {pair.n_seeds} of them: "
        return f"{facts}; {of}{_against(record, answer, pair, measured.value)}"
    if answer.verdict == "none":
        return facts
    if answer.nearest is not None and answer.val:
        nearest = at_size(record.candidates[answer.nearest])
        return f"{facts}; the nearest smaller one, {nearest}, is {wording.difference(answer.val)} on validation"
    key = record.question.cost[0]
    rank = (chosen.costs.of(key) or 0, chosen.costs.macs)
    smaller = [
        each for each in record.candidates
        if each is not chosen and each.trained and each.trained.val and (each.costs.of(key) or 0, each.costs.macs) < rank
    ]  # fmt: skip
    if not smaller:
        if rank == min((each.costs.of(key) or 0, each.costs.macs) for each in record.candidates):
            return f"{facts}; it is the smallest of all candidates"
        return f"{facts}; no smaller network was trained to the end, so none was compared with it"
    return f"{facts}; no smaller network was shown to come within {record.question.good_enough:g} of it (on validation)"


def _itself(record: SmallestRecord, chosen: Candidate) -> str:
    """Say how the reference compares with the other trained networks, if it is itself the answer."""
    others = [e.trained.val.value for e in record.candidates if e is not chosen and e.trained and e.trained.val]
    if max(others, default=0) > chosen.trained.val.value:
        return ", the reference itself"  # others were measured on other images, or with fewer seeds
    return ", the most accurate one that was trained"


def _against(record: SmallestRecord, answer: Answer, pair: Pair, value: float) -> str:
    """Compare with the margin or the target; if that is not shown, say what would decide."""
    question, within = record.question, _within(record, pair)
    share = wording.confidence(pair.level)
    shown = answer.verdict in ("shown", "shown_as_trained", "chosen_not_proved") and within
    words = wording.difference(pair)
    words += " to" if words == "no difference" else ""
    gap = f"{words} {_of_reference(record)}" if answer.chosen != answer.reference else ""
    if question.target is not None:
        lies = "lies" if within else "does not lie"
        text = f"its own lower bound {_bound(pair.at_least, question.target)} {share} {lies} above {question.target:g}"
        text = f"{gap}; {text}" if gap else text
    elif within:
        text = f"{gap}, {wording.at_most(pair)} {share}, margin {question.good_enough:g}"
    else:
        bound = wording.at_most(pair).removeprefix("at most ")
        text = f"{gap}, but up to {bound} cannot be excluded {share}, margin {question.good_enough:g},"
    if shown:
        return text
    on = wording.measured_on(pair.n, pair.split, pair.n_seeds)
    return f"not shown: {text} {on}; {_what_would_decide(record, pair, value)}"


def _what_would_decide(record: SmallestRecord, pair: Pair, value: float) -> str:
    """Return what would decide, or why nothing would.

    Args:
        value: the chosen network's value of the metric.
    """
    margin, target = record.question.good_enough, record.question.target
    if pair.would_decide:
        decide = clean(pair.would_decide)
        if target is None and pair.difference > 0:  # the plan takes no difference above 0 for true
            decide = f"if they are equally good, {decide}"
        return decide if " would" in decide or "only if" in decide else f"{decide} would decide"
    if target is None and pair.difference <= -margin:
        return f"the difference is not within {margin:g}, so more images will not help unless it shrinks"
    if target is not None and value <= target:
        return f"the {metric_name(record)} is not above {target:g}, so more images will not help unless it rises"
    return "more images would not decide it"


def _of_reference(record: SmallestRecord) -> str:
    """Return the reference as a second mention: `resnet18`, or `the whole tf_efficientnet_lite0` of the same backbone."""
    chosen, reference = record.candidates[record.answer.chosen], _reference(record)
    if chosen.backbone != reference.backbone:
        return clean(reference.network)
    if chosen.keep == reference.keep:
        return f"the same{' frozen' if reference.frozen > chosen.frozen else ''} at {reference.image_size} px"
    return f"the whole {clean(reference.network)}" if reference.whole else at_size(reference)


def _kind_of_proof(record: SmallestRecord, chosen: Candidate, answer: Answer) -> str | None:
    """Say what the proof does not cover: other seeds, or images that played no part in the choice."""
    if answer.verdict == "chosen_not_proved":
        if record.data.get("n_test"):
            return "chosen, not proved: the test images, which played no part in the choice, were not evaluated"
        return "chosen, not proved: there is no test split, and a proof needs images that played no part in the choice"
    if answer.verdict == "shown" and answer.as_trained is False:
        return "this holds for the settings: the network in best.ckpt is not shown to be good enough itself"
    if answer.verdict != "shown_as_trained" or not answer.test:
        return None
    repeats = "folds" if record.data.get("folds") else "seeds"
    only = "this holds for these trained networks only"
    if min(each.trained.test.n_seeds for each in (chosen, _reference(record))) > FEWEST_SEEDS:
        return f"{only}: over the other {repeats}, the same settings are not shown to be good enough"
    return (
        f"{only}: others with the same settings may be worse; comparing settings takes at least {FEWEST_SEEDS} {repeats} "
        "besides that of the race, and the budget for them"
    )


def _what_is_shown(record: SmallestRecord, answer: Answer) -> str | None:
    """If the margin or target asked for is not shown, return the smallest or largest that is, and for which network."""
    pair, reference, question = answer.test, _reference(record), record.question
    if answer.verdict != "not_shown":
        return None
    margin, measured = pair.smallest_margin, record.candidates[answer.chosen].trained
    is_of_one = measured.test and pair.n_seeds == 1 < measured.test.n_seeds
    of = " for the network in best.ckpt" if is_of_one else ""
    if question.target is None:
        known = margin is not None and margin >= question.good_enough
        smallest = [f"the smallest margin that is shown{of} is {rounded_up(margin)}"] if known else []
        itself = "reference" if pair.difference > 0 else "most accurate network"  # the race, with one seed, chose it
        only = f"{question.good_enough:g} is shown only for the {itself} itself"
        return "; ".join([*smallest, f"{only}, {at_size(reference)}"])
    known = margin is not None and margin <= question.target
    parts = [f"the largest target that is shown{of} is {rounded_down(margin)}"] if known else []
    test = reference.trained.test
    if answer.chosen != answer.reference and test and test.low is not None:
        value = f"the most accurate, {at_size(reference)}, has {describe_measured(test)} on test"
        parts.append(
            f"{value}: {'above' if test.low > question.target else 'not shown to be above'} {question.target:g}"
        )
    return "; ".join(parts) or None


def _not_in_finals(record: SmallestRecord, chosen: Candidate) -> str | None:
    """Name a smaller network that the race calls good enough, but that was not in the finals, which compare only a few."""
    question, reference = record.question, _reference(record)
    key, need = question.cost[0], question.target or reference.trained.val.value - question.good_enough
    smaller = [
        each for each in record.candidates
        if each.stage == "raced" and each.trained and each.trained.ended == "finished" and each.trained.val
        and each.trained.val.value >= need and (each.costs.of(key) or 0) < (chosen.costs.of(key) or 0)
    ]  # fmt: skip
    if not smaller:
        return None
    best = max(smaller, key=lambda each: each.trained.val.value)
    was = "was" if len(smaller) == 1 else "were"
    others = f"{plural(len(smaller), 'smaller network')} of the race may be good enough, but {was} not in the finals"
    value = f"{at_size(best)} had {describe_measured(best.trained.val)} on validation"
    return f"{others}: {value}; a larger finals.candidates compares more"


def _front(record: SmallestRecord) -> str | None:
    """Say how many networks are on the front of two costs."""
    if len(record.question.cost) < 2 or not record.front:
        return None
    names = [COST_NAMES[key] for key in record.question.cost]
    n = plural(len(record.front), "network")
    return f"the front of {join_words(names)} has {n}, which the page lists; {names[0]} decided"


def _within(record: SmallestRecord, pair: Pair | None) -> bool:
    """Return whether the bound by itself lies within the margin, or above the target."""
    question = record.question
    return pair is not None and pair.at_least > (-question.good_enough if question.target is None else question.target)


def _reference(record: SmallestRecord) -> Candidate:
    return record.candidates[record.answer.reference]


def _bound(value: float, target: float) -> str:
    """Return a lower bound, rounded down, with one more digit where it would otherwise look equal to the target."""
    return rounded_down(value) if float(rounded_down(value)) != round(target, 3) else rounded_down(value, 4)
