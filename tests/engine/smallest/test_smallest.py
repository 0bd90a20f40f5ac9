"""The stages of smallest.py: how long they have taken, also where a signal ends one; notes on runs that failed; limits."""

import contextlib
import errno
import os
import time
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest

from common.errors import StopRequested, UserError
from common.run_folder import RunFolder
from common.smallest_record import Candidate, Question, SmallestRecord
from engine.smallest.latency import measure_latencies
from engine.smallest.plan import Budget
from engine.smallest.runs import RunKey
from engine.smallest.selection import Racer
from engine.smallest.smallest import Smallest, check_enough_images
from tests.support.fake_smallest import candidates, latency, measured


def test_the_time_of_a_stage_that_is_stopped_is_kept_for_the_command_that_resumes(tmp_path):
    search = object.__new__(Smallest)
    search.settings, search.folder, search._has_answer = SimpleNamespace(folder=tmp_path), tmp_path, False
    search.record = SmallestRecord(question=Question(cost=["macs"], metric="accuracy", good_enough=0.02))
    search.record.seconds = {"screen": 2.0}  # of an earlier command

    def screen() -> None:
        with search._timed("screen"):
            time.sleep(0.3)
            raise StopRequested(15)

    search._screen = screen
    with pytest.raises(StopRequested):
        search._train()
    assert SmallestRecord.read(tmp_path).seconds["screen"] == pytest.approx(2.3, abs=0.2)


def test_what_is_of_no_stage_counts_as_the_start():
    """40 s until the images are read; two processes then take 60 s, of which their stages are 45 s."""
    search = object.__new__(Smallest)
    search.record = SmallestRecord(question=Question(cost=["macs"], metric="accuracy", good_enough=0.02))
    search.record.seconds, search._before_s = {"start": 3.0, "screen": 7.0}, 10.0  # of an earlier command
    search.budget = SimpleNamespace(elapsed_s=40.0)
    search._count_start()
    assert search.record.seconds == {"start": 43.0, "screen": 7.0}
    search.record.seconds, search.budget.elapsed_s = {"start": 8.0, "screen": 17.0, "race": 35.0}, 100.0
    search._count_start()
    assert sum(search.record.seconds.values()) == 110.0 and search.record.seconds["race"] == 35.0


@pytest.mark.parametrize(
    ("n_test", "share", "folds", "advice"),
    [(5, 0.5, None, "add labeled images"), (6, 0.5, None, None), (36, 0.9, None, None), (0, 0.5, None, "add"),
     (35, 0.9, None, "add labeled images, or use metric=balanced_accuracy"), (0, 0.5, 2, None),
     (72, 0.95, None, "add labeled images, or use metric=balanced_accuracy"), (73, 0.95, None, None)],
)  # fmt: skip
def test_too_few_images_for_any_network_to_be_better_than_guessing_are_refused(n_test, share, folds, advice):
    """Guessing gets all n images right with a probability of share**n, which must be at most 0.025, and the lower end of
    Wilson's interval, which is n / (n + z^2) there, must be above its share."""
    data = {"root": "here", "n_train": 3, "n_val": 3, "n_test": n_test, "folds": folds} | dict.fromkeys(
        ("majority_val", "majority_test"), share
    )
    record = SmallestRecord(question=Question(cost=["macs"], metric="accuracy", good_enough=0.02), data=data)
    n = n_test or (6 if folds else 3)
    assert (share**n > 0.025 or n / (n + 1.959964**2) <= share) == (advice is not None)
    if advice is None:
        check_enough_images(record)
    else:
        with pytest.raises(UserError, match=f"^here: {n} images to prove the answer .*; {advice}"):
            check_enough_images(record)
    record.question.metric = "balanced_accuracy"
    check_enough_images(record)


def test_a_class_that_is_too_small_for_folds_is_named(caplog, monkeypatch):
    """Class b has three images in train and val."""
    caplog.set_level("INFO")
    monkeypatch.setattr("engine.smallest.smallest.read_folds", lambda config, folds: f"{folds} folds")
    catalog = SimpleNamespace(
        classes=["a", "b"], labels=np.array([0] * 12 + [1] * 4),
        rows=lambda split: {"train": np.arange(0, 10), "val": np.arange(10, 15)}[split],
    )  # fmt: skip
    search = object.__new__(Smallest)
    search.settings = SimpleNamespace(folds=None, n_folds=2, folds_below=300, question=SimpleNamespace(seeds=[7, 8]))
    assert search._read_folds(None, catalog) is None
    assert "no cross-validation in 2 folds: class b has 3 images in train and val" in caplog.text
    catalog.labels = np.array([0] * 9 + [1] * 7)
    assert search._read_folds(None, catalog) == "2 folds"
    assert "the finals are a cross-validation" not in caplog.text  # since a note gives the number and the reason
    search.settings.folds = 5
    assert search._read_folds(None, catalog) == "5 folds"
    assert "the finals are a cross-validation in 5 folds, not several seeds" in caplog.text


def test_the_note_on_a_run_that_failed_says_what_to_do(tmp_path):
    """And names an error without a text by its kind."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a/result.json")
    key, search = RunKey(0, 1), object.__new__(Smallest)
    search._has_answer, search.folder, search.folds = False, tmp_path, None
    search.candidates = [SimpleNamespace(stage="raced")]
    search.question = Question(cost=["macs"], metric="accuracy", good_enough=0.02)
    search.record = SmallestRecord(question=search.question)
    search._decide = lambda name, take: [0] if name == "finals" else 1
    for error, wanted in ((full, "free some"), (AssertionError(), "AssertionError()")):
        search.runs = SimpleNamespace(
            finals=lambda index: [key], train=lambda keys, title: None, failed={key: error}, describe=lambda key: "a, seed 1",
            is_cut_off=lambda key: False,
        )  # fmt: skip
        search._finals([0])
        assert search.record.notes[-1].startswith("a, seed 1 failed: ") and wanted in search.record.notes[-1]
        assert "Errno" not in search.record.notes[-1]


def test_a_run_of_the_race_that_failed_is_noted_and_known_to_the_answer(tmp_path):
    search, error = object.__new__(Smallest), UserError("no memory; use a smaller datamodule.batch_size")
    search.candidates = [SimpleNamespace(stage="candidate") for _ in range(2)]
    search.record = SmallestRecord(question=Question(cost=["macs"], metric="accuracy", good_enough=0.02))
    search.plan, search._save = SimpleNamespace(is_decided=lambda name: False), lambda: None
    search.runs = SimpleNamespace(
        first=lambda index: RunKey(index, 1), folder=lambda key: RunFolder(tmp_path / f"run-{key.candidate}"), failed={},
        is_trained=lambda key: key.candidate == 1, describe=lambda key: f"network {key.candidate}, seed {key.seed}",
    )  # fmt: skip
    search._run_trials = lambda *_: [(RunFolder(tmp_path / "run-0"), error)]
    assert search._run_race([0, 1], "raced", "race", []) == [1]
    assert search.record.notes == [f"network 0, seed 1 failed: {error}."]
    assert search.runs.failed == {RunKey(0, 1): error}


def test_the_runs_of_a_race_that_is_over_are_trained_again_where_all_were_deleted():
    search, trained = object.__new__(Smallest), []
    search.candidates = [SimpleNamespace(stage="candidate") for _ in range(3)]
    search.plan = SimpleNamespace(is_decided=lambda name: True)
    search._decide, search._save = lambda name, take: [0, 2], lambda: None  # of three one was ended early
    search.runs = SimpleNamespace(
        first=lambda index: index, is_trained=lambda key: key in trained, train=lambda keys, title: trained.extend(keys)
    )
    assert search._run_race([0, 1, 2], "raced", "race", []) == [0, 2]


def test_what_another_budget_has_trained_can_be_the_answer():
    """Of six networks 5 and 4 race; 3 and, with a frozen backbone, 2 were trained before; 1 is above a limit."""
    search, trained = object.__new__(Smallest), {(5, False), (3, False), (3, True), (2, True), (1, False)}
    search.candidates, search.folds = candidates(("resnet18",), cuts=6)[:6], None
    search.settings = SimpleNamespace(n_finalists=3)
    search.question = Question(cost=["macs"], metric="accuracy", good_enough=0.02)
    for index in (5, 4):
        search.candidates[index].stage = "raced"
    search.candidates[1].excluded = "1M MACs are above limits.macs=1"
    search.runs = SimpleNamespace(
        first=lambda index: (index, search.candidates[index].frozen), is_trained=lambda key: key in trained,
        value=lambda key: {5: 0.90, 3: 0.91, 2: 0.89}[key[0]], finals=lambda index: [index], train=lambda keys, title: None,
        failed={}, is_cut_off=lambda key: False,
    )  # fmt: skip
    search._decide = lambda name, take: take() if name == "finals" else 1
    search._timed, search._save = lambda stage: contextlib.nullcontext(), lambda: None
    assert search._finals([5]) == [3, 2]  # 3 is the most accurate one, and 2 is cheaper and good enough
    assert [each.frozen for each in search.candidates] == [False, False, True, False, False, False]
    assert [each.stage for each in search.candidates[2:]] == ["final", "final", "raced", "raced"]


@pytest.mark.parametrize(
    ("min_epochs", "n_raced", "is_noted"), [(3, 2, False), (4, 2, True), (9, 2, True), (9, 0, False)]
)
def test_a_race_without_a_rung_before_its_last_epoch_says_that_it_ends_no_one(min_epochs, n_raced, is_noted):
    search, found = object.__new__(Smallest), candidates(("resnet18", "mobilenet_v2"), cuts=6)
    search.question = Question(cost=["macs"], metric="accuracy", good_enough=0.02)
    search.settings = SimpleNamespace(n_raced=n_raced, min_epochs=min_epochs)
    search.candidates, search.config = found, SimpleNamespace(trainer=SimpleNamespace(max_epochs=4))
    search.runs, search.record = SimpleNamespace(reopen=lambda: None), SmallestRecord(question=search.question)
    search.budget, search.times = Budget(None), SimpleNamespace(of=lambda each: 1.0, of_head=lambda each: 0.1)
    assert len(search._plan_race()["places"]) == n_raced + 1
    noted = f"stops no network early, since race.min_epochs={min_epochs} is not below trainer.max_epochs=4"
    assert any(noted in note for note in search.record.notes) == is_noted


def test_a_best_probe_that_does_not_race_is_not_called_too_slow_by_itself():
    """The heads of the others of the race take a minute each, as its own would."""
    search, found = object.__new__(Smallest), candidates(("resnet18",), sizes=(96,), cuts=3)
    for each, probe in zip(found, (0.72, 0.74, 0.73), strict=True):
        each.probe = measured(probe)
    search.candidates, search.times, search.budget = found, SimpleNamespace(of=lambda each: 600.0), Budget(10)
    search.question = Question(cost=["macs"], metric="accuracy", good_enough=0.02, target=0.99)
    search.record = SmallestRecord(question=search.question)
    search._note_frozen([Racer(2, False, 0.76), Racer(0, False, 0.75)])
    assert search.record.notes == [
        f"The network with the best probe, {found[1].name} (0.740), does not race: besides the networks that do, the budget "
        "leaves no time even to train its head."
    ]
    search.record.notes, search.budget = [], Budget(None)
    search._note_frozen([Racer(2, False, 0.76)])
    assert search.record.notes[0].endswith(" (0.740), does not race: it is far below target_accuracy=0.99.")
    search.record.notes = []
    search._note_frozen([Racer(2, False, 0.76), Racer(1, False, 0.77)])
    assert search.record.notes == []
    search.budget = Budget(10)  # 1.1 * (30 s + 600 s / 0.35) are 32 min
    search._note_frozen([Racer(1, True, 0.74), Racer(2, True, 0.73), Racer(0, False, 0.75)])
    assert search.record.notes == [
        f"Only the head is trained in 2 of 3 networks of the race, for lack of time: to fine-tune {found[1].network} at 96 px, "
        "which has the best probe of these (0.740), takes about 10 min 00 s; use budget.minutes=32 or more."
    ]


@pytest.mark.parametrize("n_below", [0, 1, 3, 40])
def test_what_a_limit_of_latency_excludes_leaves_its_place_to_faster_networks(tmp_path, monkeypatch, n_below):
    """One network in a million MACs takes a millisecond here; the reference is the best probe of all below the limit."""
    search, found = object.__new__(Smallest), candidates(("resnet18", "mobilenet_v2"), cuts=6)
    ms = sorted(each.costs.macs / 1e6 for each in found)
    limit = (ms[n_below - 1] + ms[n_below]) / 2 if n_below else ms[0] / 2
    search.question = Question(
        cost=["macs"], metric="accuracy", good_enough=0.02, limits={"latency_ms": limit}, budget_minutes=10
    )
    search.settings, search.candidates, search.folder = SimpleNamespace(n_raced=2, min_epochs=4), found, tmp_path
    search.config = SimpleNamespace(trainer=SimpleNamespace(max_epochs=16))
    search.progress, search.runs = SimpleNamespace(set=lambda text: None), SimpleNamespace(reopen=lambda: None)
    search.record, search.budget = SmallestRecord(question=search.question, data={"classes": ["a", "b"]}), Budget(10)
    search.times = SimpleNamespace(of=lambda each: 1.0, of_head=lambda each: 0.1)
    measured = []

    def measure(listed, n_classes, folder) -> None:
        measured.extend(listed)
        for each in listed:
            each.costs.latency = latency(each.costs.macs / 1e6)

    monkeypatch.setattr("engine.smallest.smallest.measure_latencies", measure)
    below = [index for index, each in enumerate(found) if each.costs.macs / 1e6 <= limit]
    assert len(below) == n_below
    if not below:
        with pytest.raises(UserError, match=r"none of .* is within the limits.*latency_ms"):
            search._plan_race()
    else:
        places = search._plan_race()["places"]
        assert set(places) <= set(below)
        assert found[places[0]].probe.value == max(found[index].probe.value for index in below)
    assert len(measured) < len(found) * 2 / 3


@pytest.mark.parametrize("question", [{"cost": ["latency_ms"]}, {"cost": ["macs"], "limits": {"latency_ms": 99.0}}])
@pytest.mark.parametrize("n_failed", [2, 4])
def test_what_has_no_latency_does_not_race_where_latency_decides(tmp_path, monkeypatch, caplog, question, n_failed):
    """The most expensive cuts, which have the best probes, cannot be exported; a million MACs take a millisecond."""
    caplog.set_level("WARNING")  # an earlier test may have set loggers to INFO
    search, found = object.__new__(Smallest), candidates(("resnet18",), sizes=(96,), cuts=4)
    fails = [each.keep for each in sorted(found, key=lambda each: -each.costs.macs)[:n_failed]]

    def measure(listed, n_classes):
        for each in listed:
            timed = asdict(latency(each.costs.macs / 1e6))
            yield each, {"failed": "no such operator"} if each.keep in fails else timed

    monkeypatch.setattr("engine.smallest.latency._measure", measure)
    search.question = Question(metric="accuracy", good_enough=0.02, **question)
    search.settings, search.candidates, search.folder = SimpleNamespace(n_raced=3, min_epochs=4), found, tmp_path
    search.config = SimpleNamespace(trainer=SimpleNamespace(max_epochs=16))
    search.progress, search.runs = SimpleNamespace(set=lambda text: None), SimpleNamespace(reopen=lambda: None)
    search.record, search.budget = SmallestRecord(question=search.question, data={"classes": ["a", "b"]}), Budget(None)
    search.times = SimpleNamespace(of=lambda each: 1.0, of_head=lambda each: 0.1)
    if n_failed == len(found):
        with pytest.raises(UserError, match=r"^(cost=latency_ms|limits.latency_ms): the latency of no screened "):
            search._plan_race()
    else:
        assert {found[index].keep for index in search._plan_race()["places"]}.isdisjoint(fails)
    wanted = ["latency_ms cannot be measured" if each.keep in fails else None for each in found]
    assert [each.excluded for each in found] == wanted
    assert [each.getMessage().count("no such operator") for each in caplog.records] == [1] * n_failed
    for each in found:  # as in a command that resumes
        each.excluded = each.costs.latency = None
    search._take_known_latencies()
    assert [each.excluded for each in found] == wanted and len(caplog.records) == n_failed


@pytest.mark.parametrize(("left_s", "n"), [(None, 3), (20.0, 2), (0.0, 0)])
def test_what_is_cheaper_races_below_the_most_accurate_one_where_none_of_the_race_is(left_s, n):
    """A training of 9 s, half of which counts, in half of the time that is left."""
    search, found = object.__new__(Smallest), candidates(("resnet18", "mobilenet_v2"), cuts=6)
    search.question = Question(cost=["macs"], metric="accuracy", good_enough=0.02)
    search.settings, search.candidates = SimpleNamespace(n_raced=3), found
    search.record, search._has_answer = SmallestRecord(question=search.question), False
    search.times = SimpleNamespace(of=lambda each: 9.0, of_head=lambda each: 99.0)
    search._left_s = lambda: left_s
    order = sorted(range(len(found)), key=lambda index: found[index].costs.macs)
    best, others, cheap = order[30], order[35:40], order[5]
    for index in (best, *others, cheap):
        found[index].stage = "raced"
    values = {best: 0.92, cheap: 0.6, **dict.fromkeys(others, 0.91)}
    search.runs = SimpleNamespace(first=lambda index: index, value=values.get)
    plan = search._plan_race_below(list(values))
    assert len(plan["places"]) == n and plan["frozen"] == []
    assert all(found[index].costs.macs < found[best].costs.macs and index != cheap for index in plan["places"])
    assert bool(search.record.notes) == bool(n)
    values[cheap] = 0.905  # good enough for less
    assert search._plan_race_below(list(values)) == {"places": [], "frozen": []}


@pytest.mark.parametrize(
    ("value", "target", "n"),
    [
        (0.73, None, 3),
        (0.95, None, 3),  # where training adds much, it may do so to the cheaper ones
        (0.73, 0.75, 0),  # the target is missed, so that none is the cheapest good one
        (0.95, 0.75, 3),
    ],
)
def test_below_a_trained_network_what_it_gained_is_what_the_cheaper_ones_may_gain(value, target, n):
    """Their probes are within 0.04 of its own; the best of them, for whose training there is time, is not frozen either."""
    search, found = object.__new__(Smallest), candidates(("resnet18",), sizes=(96,), cuts=4)
    for each, (macs, probe) in zip(found, ((10, 0.67), (20, 0.68), (40, 0.71), (100, 0.70)), strict=True):
        each.costs.macs, each.probe = macs, measured(probe)
    search.question = Question(cost=["macs"], metric="accuracy", good_enough=0.02, target=target)
    search.settings, search.candidates = SimpleNamespace(n_raced=3), found
    search.record, found[3].stage = SmallestRecord(question=search.question), "raced"
    search.times = SimpleNamespace(of=lambda each: 9.0, of_head=lambda each: 0.1)
    search._left_s = lambda: 100.0
    search.runs = SimpleNamespace(first=lambda index: index, value={3: value}.get)
    plan = search._plan_race_below([3])
    assert sorted(plan["places"]) == list(range(3))[:n] and plan["frozen"] == []
    assert bool(search.record.notes) == bool(n)


@pytest.mark.parametrize("is_answered", [False, True])
def test_latencies_of_a_busy_machine_are_measured_again_where_they_decide_and_the_same_command_is_typed_again(
    tmp_path, monkeypatch, is_answered
):
    """Those that raced; that of another one stays as it is, and so do all in a process that shares a search."""

    def command(ms: float, flag: str | None) -> list[Candidate]:
        found = candidates(("resnet18",), sizes=(96,), cuts=4)
        made = replace(latency(ms), flag=flag)
        monkeypatch.setattr(
            "engine.smallest.latency._measure", lambda listed, _: ((each, asdict(made)) for each in listed)
        )
        return found

    measure_latencies(command(9.0, "other processes")[:3], 2, tmp_path)
    search, found = object.__new__(Smallest), command(2.0, None)
    search.question = Question(cost=["latency_ms"], metric="accuracy", good_enough=0.02)
    search.record = SmallestRecord(question=search.question, data={"classes": ["a", "b"]})
    search.candidates, search.folder, search._is_answered = found, tmp_path, is_answered
    search.plan, search.progress = (
        SimpleNamespace(is_decided=lambda name: True),
        SimpleNamespace(set=lambda text: None),
    )
    plans = {"race": {"places": [1], "frozen": []}, "race below": {"places": [0], "frozen": []}}
    search._decide, search._run_race = lambda name, take: plans[name], lambda places, *_: places
    search._race()
    wanted = [2.0, 2.0, 9.0, None] if is_answered else [9.0, 9.0, 9.0, None]
    assert [each.costs.latency_ms for each in found] == wanted
    assert [bool(each.costs.latency and each.costs.latency.flag) for each in found] == [ms == 9.0 for ms in wanted]


@pytest.mark.parametrize("is_decided", [False, True])
def test_latencies_of_another_machine_do_not_decide(tmp_path, monkeypatch, is_decided):
    """On this one, the network with more MACs is the faster one; the race was on another."""

    def found(**ms: float) -> list[Candidate]:
        networks = candidates(("resnet18",), sizes=(96,), cuts=2)
        made = {each.keep: asdict(latency(ms[name])) for each, name in zip(networks, ("few", "many"), strict=True)}
        monkeypatch.setattr(
            "engine.smallest.latency._measure", lambda listed, _: ((each, made[each.keep]) for each in listed)
        )
        return networks

    monkeypatch.setattr("engine.smallest.latency.processor_name", lambda: "another")
    measure_latencies(found(few=1.0, many=2.0), 2, tmp_path)
    monkeypatch.setattr("engine.smallest.latency.processor_name", lambda: "this one")
    search = object.__new__(Smallest)
    search.candidates, search.folder, search._has_answer = found(few=9.0, many=8.0), tmp_path, True
    search.question = Question(cost=["latency_ms"], metric="accuracy", good_enough=0.02)
    search.record = SmallestRecord(question=search.question, data={"classes": ["a", "b"]})
    search.progress, search.settings = SimpleNamespace(set=lambda text: None), SimpleNamespace(n_finalists=1)
    search.runs = SimpleNamespace(
        first=lambda index: index, value=lambda key: 0.9, finals=lambda index: [index], train=lambda keys, title: None,
        failed={}, is_cut_off=lambda key: False, is_trained=lambda key: True,
    )  # fmt: skip
    search._take_known_latencies()
    for each in search.candidates:
        each.stage = "raced"
    search._decide = lambda name, take: {"allowed": 1} if name == "repeats" else [0, 1] if is_decided else take()
    assert search._finals([0, 1]) == ([0, 1] if is_decided else [1])  # of equal ones the cheapest is the reference
    assert [each.costs.latency_ms for each in search.candidates] == [9.0, 8.0]


@pytest.mark.parametrize("question", [{"cost": ["latency_ms"]}, {"cost": ["macs"], "limits": {"latency_ms": 9.5}}])
def test_what_may_race_below_the_most_accurate_one_is_measured_where_latency_decides(tmp_path, monkeypatch, question):
    """A network of n MACs takes n ms here; only that with 12 was measured before the first race, besides the one that raced."""
    search, found = object.__new__(Smallest), candidates(("resnet18",), sizes=(96,), cuts=5)
    for each, macs in zip(found, (8, 9, 10, 12, 20), strict=True):
        each.costs.macs, each.probe = macs, measured(0.7)
    found[3].costs.latency, found[4].costs.latency, found[4].stage = latency(12.0), latency(9.4), "raced"
    search.question = Question(metric="accuracy", good_enough=0.02, **question)
    search.settings, search.candidates, search.folder = SimpleNamespace(n_raced=4), found, tmp_path
    search.record = SmallestRecord(question=search.question, data={"classes": ["a", "b"]})
    search.times, search._left_s = SimpleNamespace(of=lambda each: 9.0, of_head=lambda each: 99.0), lambda: None
    search.progress = SimpleNamespace(set=lambda text: None)
    search.runs = SimpleNamespace(first=lambda index: index, value={4: 0.8}.get)

    def measure(listed, n_classes, folder) -> None:
        for each in listed:
            each.costs.latency = latency(float(each.costs.macs))

    monkeypatch.setattr("engine.smallest.smallest.measure_latencies", measure)
    assert sorted(search._plan_race_below([4])["places"]) == [0, 1]


@pytest.mark.parametrize("minutes", [None, 26])
def test_a_note_names_the_budget_that_screens_all_networks(tmp_path, monkeypatch, minutes):
    search, skipped = object.__new__(Smallest), [SimpleNamespace(name="a at 96 px", skipped="it would take about 9 s")]
    search.question = Question(cost=["macs"], metric="accuracy", good_enough=0.02, budget_minutes=10)
    search.record = SmallestRecord(question=search.question)
    search.settings, search.config = (
        SimpleNamespace(overrides=[], candidates=SimpleNamespace(weights={})),
        SimpleNamespace(trainer=SimpleNamespace(max_epochs=4)),
    )
    search._timed, search._save = lambda stage: contextlib.nullcontext(), lambda: None
    search.candidates = search.fold_rows = search.folds = search.progress = search.budget = search._run = None
    search.n_train, search.n_val = 9, 9
    search.plan = SimpleNamespace(is_decided=lambda name: False)
    search.folder = tmp_path
    screen = SimpleNamespace(run=lambda is_planned: skipped, enough_minutes=lambda: minutes)
    for name, made in (("Screen", screen), ("TrainingTimes", None), ("Runs", None)):
        monkeypatch.setattr(f"engine.smallest.smallest.{name}", lambda *_, made=made, **__: made)
    search._screen()
    assert search.record.notes[0] == "a at 96 px was not screened: it would take about 9 s."
    assert search.record.notes[1:] == (
        [] if minutes is None else ["To screen all networks, the budget has to be about budget.minutes=26."]
    )
