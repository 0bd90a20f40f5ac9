"""Decisions that are kept, the clock of the budget, and predicted times."""

import json
import logging
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from omegaconf import OmegaConf

from common.errors import UserError
from common.locks import locked
from common.run_folder import RunFolder
from common.run_record import EpochSpeed, RunRecord, Throughput, write_record
from common.smallest_record import Candidate, Costs, Measured, Question
from engine.smallest.plan import HEAD, PER_RUN_S, TRAINING, Budget, Plan, TrainingTimes
from engine.smallest.smallest import DECISIVE, Smallest, search_of
from engine.state import STATE
from lightning_modules.pretrained_weights import OF_NETWORK

SETTINGS = SimpleNamespace(overrides=[], folds=None, candidates=SimpleNamespace(weights={}))


class Pass(NamedTuple):
    backbone: str
    image_size: int
    images: int
    seconds: float
    macs: float
    skipped: str | None = None
    flag: str | None = None


def candidate(backbone: str, macs: int) -> Candidate:
    costs = Costs(parameters=1, macs=macs, file_kib=1.0, activation_kib=1.0, activation_int8_kib=1.0)
    return Candidate(backbone=backbone, keep="k", image_size=64, pretrained=True, weights="w", costs=costs)


def test_a_decision_is_taken_once_and_again_for_another_budget(tmp_path, caplog):
    taken = []

    def decide() -> list[int]:
        taken.append(len(taken))
        return [len(taken)]

    assert Plan(tmp_path, Budget(10)).decide("race", decide) == [1]
    assert Plan(tmp_path, Budget(10)).decide("race", decide) == [1]
    assert Plan(tmp_path, Budget(10)).decide("finals", decide) == [2]
    assert Plan(tmp_path, Budget(20)).decide("race", decide) == [3]
    assert not caplog.messages
    (tmp_path / "plan.json").write_text("{damaged")
    assert Plan(tmp_path, Budget(20)).decide("race", decide) == [4]
    assert f"{tmp_path / 'plan.json'} is damaged, so this command decides again" in caplog.messages[0]
    (tmp_path / "plan.json").unlink()
    (tmp_path / "plan.json").mkdir()
    with pytest.raises(IsADirectoryError):
        Plan(tmp_path, Budget(20)).decide("race", decide)


@pytest.mark.parametrize(("name", "good", "damaged"), [
    ("race", {"places": [0], "frozen": [2]}, [{"places": [], "frozen": []}, {"places": [3], "frozen": []}, [0]]),
    ("race below", {"places": [], "frozen": []}, [{"places": [], "frozen": [-1]}]),
    ("raced", [2, 0], [[3], [-1], [True], [0.0], [], {"places": [0]}]),
    ("finals", [1], [None]),
    ("repeats", {"allowed": 1, "enough_minutes": 30}, [0, True, 2.0, [1], {}, {"allowed": 0}, {"allowed": [1]}]),
    ("repeats", 1, []),
])  # fmt: skip
def test_a_decision_on_three_candidates_has_the_form_of_its_name(tmp_path, name, good, damaged):
    plan = Plan(tmp_path, Budget(10))
    plan.check(name, {"decision": good, "notes": ["slow"]}, 3)
    found = [{"decision": each, "notes": []} for each in damaged]
    for each in (
        *found,
        {"decision": good, "notes": [1]},
        {"decision": good, "notes": "slow"},
        {"decision": good},
        good,
    ):
        with pytest.raises(UserError, match=f"the decision '{name}' is damaged; delete this file"):
            plan.check(name, each, 3)


def test_a_decision_names_its_wait_for_another_process_and_leaves_no_lock(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    made = []
    thread = threading.Thread(target=lambda: made.append(Plan(tmp_path, Budget(10)).decide("race", lambda: [1])))
    with locked(tmp_path / "plan.lock"):
        thread.start()
        thread.join(0.2)
        assert made == []
    thread.join(30)
    assert made == [[1]] and not (tmp_path / "plan.lock").exists()
    assert caplog.messages == ["deciding what to train: another process is doing this; waiting"]


def test_a_new_decision_discards_those_that_depend_on_it(tmp_path):
    """The finals were decided without a run of the race that had failed; the next command trains it."""
    plan = Plan(tmp_path, Budget(10))
    plan.claim({"seeds": [1]})
    for name, decision in (("race", [0, 1]), ("finals", [1]), ("repeats", 4)):
        plan.decide(name, lambda decision=decision: decision)
    again = Plan(tmp_path, Budget(10))
    assert again.decide("race", list) == [0, 1] and again.is_decided("finals")
    assert again.decide("raced", lambda: [0, 1]) == [0, 1]
    assert again.search == {"seeds": [1]} and again.is_decided("race")
    assert not again.is_decided("repeats") and again.decide("finals", lambda: [0, 1]) == [0, 1]


def test_what_could_not_be_decided_is_decided_by_the_next_command(tmp_path):
    def refuse() -> None:
        raise UserError("too short")

    with pytest.raises(UserError):
        Plan(tmp_path, Budget(10)).decide("race", refuse)
    assert not Plan(tmp_path, Budget(10)).is_decided("race")
    assert Plan(tmp_path, Budget(10)).decide("race", lambda: [1]) == [1]
    assert Plan(tmp_path, Budget(10)).is_decided("race") and not Plan(tmp_path, Budget(20)).is_decided("race")


def test_without_a_budget_there_is_no_end():
    assert Budget(None).left_s() is None
    assert not Budget(None).is_over


def test_a_budget_that_is_proposed_suffices_and_is_larger():
    assert Budget(3).minutes_for(30) == 4
    assert Budget(3, left_minutes=0).minutes_for(600) == 15  # 1.1 times 13 minutes
    assert Budget(0.05).minutes_for(1) == 1


def test_a_process_that_is_started_later_has_what_is_left():
    whole, late = Budget(10), Budget(10, left_minutes=2)
    assert whole.left_s() > 500
    assert 0 < late.left_s() <= 120
    assert late.left_s(0.5) < 0
    assert not late.is_over  # runs end in the middle 1.15 times the budget after the start
    assert Budget(10, left_minutes=-1.6).is_over
    assert [Budget(60, left_minutes=left).is_over for left in (-8.9, -9.1)] == [False, True]
    # A fifth of 4 minutes is 48 s, of which 30 s are reserved for test images, latencies and the page
    assert [Budget(4, left_minutes=left).is_over for left in (-17 / 60, -19 / 60)] == [False, True]


@pytest.mark.parametrize(
    ("seeds", "trained", "left_s", "allowed"),
    [
        (2, 1, 1000, 2),
        (4, 1, 1000, 4),
        (4, 1, 25, 3),
        (4, 1, 15, 1),
        (2, 1, 5, 1),
        (4, 4, 0, 4),
        (4, 3, 5, 3),
        (4, 2, 15, 3),
    ],
)
def test_seeds_are_left_out_only_where_the_budget_is_too_small(seeds, trained, left_s, allowed):
    """One candidate of 10 s a training, the first seeds of which are trained; 2 of 4 do not show how much seeds differ."""
    notes = []
    search = SimpleNamespace(
        runs=SimpleNamespace(finals=lambda _: list(range(seeds)), folder=lambda _: None, first=lambda _: 0,
                             is_trained=lambda seed: seed < trained),
        times=SimpleNamespace(learn=lambda *_: None, of=lambda _: 10.0), candidates=[None], folds=None, budget=Budget(10),
        note=notes.append, _left_s=lambda: left_s, _has_answer=False,
    )  # fmt: skip
    found = Smallest._plan_repeats(search, [0])
    assert found.pop("allowed") == allowed
    assert bool(notes) == (allowed < seeds)
    if notes:  # 1.1 times the seconds of the seeds and 30 s, or a minute more than now
        assert found.pop("enough_minutes") == 11 and "budget.minutes=11 allows all seeds" in notes[0]
    assert not found


@pytest.mark.parametrize(("has_answer", "n_test", "is_noted"), [(True, 40, True), (False, 40, False), (True, 0, False)])
def test_a_second_answer_says_that_the_test_images_were_evaluated_before(has_answer, n_test, is_noted):
    notes = []
    search = SimpleNamespace(
        runs=SimpleNamespace(finals=lambda _: [1, 2, 3, 4]), _left_s=lambda: None, note=notes.append, _has_answer=has_answer,
        record=SimpleNamespace(data={"n_test": n_test}),
    )  # fmt: skip
    assert Smallest._plan_repeats(search, [0]) == {"allowed": 4}
    assert bool(notes) == is_noted and all("for an earlier answer of this search" in text for text in notes)


def test_the_budget_named_as_enough_completes_the_finals_of_the_search(tmp_path):
    def decided(minutes: float, enough: float | None = None, taken: str = "") -> Plan:
        """Return a search of one candidate, all decided by `taken` under this budget."""
        plan = Plan(tmp_path, Budget(minutes))
        allowed = {"allowed": 4} if enough is None else {"allowed": 1, "enough_minutes": enough}
        for name, decision in (
            ("race", {"places": [0], "frozen": []}),
            ("raced", [0]),
            ("finals", [0]),
            ("repeats", allowed),
        ):
            plan.decide(name, lambda decision=decision: {"decision": decision, "notes": [taken]})
        return plan

    decided(52, enough=104, taken="slow")
    for minutes in (52, 103.5, None):  # None: a new race has time for all seeds
        assert not Plan(tmp_path, Budget(minutes)).completes_seeds
    plan = Plan(tmp_path, Budget(104))
    assert plan.completes_seeds and not plan.is_decided("race")
    plan.keep_networks(1)
    plan.keep_networks(1)  # as another process of the search does
    assert [plan.is_decided(name) for name in ("race", "raced", "finals", "repeats")] == [True, True, True, False]
    kept = "This is the race of budget.minutes=52, whose finals this budget completes"
    notes = plan.decide("race", None)["notes"]
    assert notes[0] == "slow" and notes[1].startswith(kept) and len(notes) == 2
    decided(104)
    assert not Plan(tmp_path, Budget(200)).completes_seeds  # it lacks none
    assert plan.decide("finals", None)["notes"] == ["slow"]
    known = json.loads((tmp_path / "plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps({**known, "repeats": {"budget_minutes": 104, "decision": 1}}))
    assert not Plan(tmp_path, Budget(200)).completes_seeds  # an earlier version wrote no other
    decided(300, enough=400)
    known = json.loads((tmp_path / "plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps({**known, "race": 5}))
    with pytest.raises(UserError, match="the decision 'race' is damaged"):
        Plan(tmp_path, Budget(400)).keep_networks(1)


@pytest.mark.parametrize(("left_s", "keeps"), [(1e9, False), (481.0, False), (479.0, True)])
def test_a_budget_for_all_seeds_of_a_new_reference_races_again(left_s, keeps):
    """The best candidate takes 60 s a training, and four of them half of 480 s."""
    search = object.__new__(Smallest)
    search.candidates = [candidate("a", 1), candidate("b", 9)]
    for each in search.candidates:
        each.probe = Measured(value=0.9, low=0.8, high=0.95, n=100)
    search.question = Question(cost=["macs"], metric="accuracy", good_enough=0.02)
    search.times = SimpleNamespace(of=lambda each: 60.0 if each.backbone == "b" else 1.0, of_head=lambda each: 0.5)
    search.runs, search._left_s = SimpleNamespace(finals=lambda _: [1, 2, 3, 4]), lambda: left_s
    assert search._has_time_for_seeds_of_a_new_race() == (not keeps)


def test_a_training_is_predicted_from_the_pass_of_its_backbone_by_macs():
    """100 images of 4M MACs in 2 s: 20 ms each, of which a fifth is the stem's; 1M take 4 + 4 ms."""
    untimed = [Pass("b", 64, 100, 0.0, 4e6, "skipped"), Pass("c", 64, 100, 0.0, 4e6)]
    times = TrainingTimes([Pass("a", 64, 100, 2.0, 4e6), *untimed], 50, 10, epochs=3)
    assert times.of(candidate("a", 10**6)) == pytest.approx(PER_RUN_S + 3 * (TRAINING * 50 + 10) * 8e-3)
    assert times.of(candidate("a", 4 * 10**6)) == pytest.approx(PER_RUN_S + 3 * (TRAINING * 50 + 10) * 20e-3)
    # Of no pass: the usual rate, 200M MACs a second
    assert times.of(candidate("other", 10**6)) == pytest.approx(PER_RUN_S + 3 * (TRAINING * 50 + 10) * 5e-3)


def test_a_head_is_predicted_from_one_look_at_the_images_whatever_fine_tuning_takes(tmp_path):
    times, of_a = TrainingTimes([Pass("a", 64, 100, 2.0, 4e6)], 50, 10, epochs=3), candidate("a", 4 * 10**6)
    head_s = PER_RUN_S + (HEAD * 50 + 10) * 20e-3
    assert times.of_head(of_a) == pytest.approx(head_s) and times.of(of_a) > head_s
    record = RunRecord(throughput=Throughput(epochs=[EpochSpeed(images=50, seconds=100.0)]))
    record.folder = RunFolder(tmp_path)
    write_record(record)
    before, of_a.frozen = times.of(of_a), True
    times.learn(of_a, record.folder)  # seconds of a head say nothing of fine-tuning
    assert times.of(of_a) == times.of_head(of_a) == pytest.approx(head_s)
    of_a.frozen = False
    assert times.of(of_a) == before


def test_a_disturbed_pass_makes_no_network_seem_slower_than_usual():
    """200M MACs a second are usual; the disturbed pass of b has 20M, that of c 400M."""
    passes = [
        Pass("a", 64, 100, 2.0, 4e6),
        Pass("b", 64, 100, 20.0, 4e6, flag="busy"),
        Pass("c", 64, 100, 1.0, 4e6, flag="busy"),
    ]
    of_4m = {name: TrainingTimes(passes, 50, 10, 3).of(candidate(name, 4 * 10**6)) for name in "abc"}
    assert of_4m["b"] == of_4m["a"] > of_4m["c"]
    busy = [Pass(name, 64, 100, 40.0, 4e6, flag="busy") for name in "de"]  # more of them do not make slow usual
    more = TrainingTimes([*passes, *busy, Pass("f", 64, 100, 4.0, 4e6)], 50, 10, 3)  # f is slow in truth: 100M
    seconds = {name: more.of(candidate(name, 4 * 10**6)) - PER_RUN_S for name in "abcdf"}
    usual = (of_4m["a"] - PER_RUN_S) * 200 / 150  # the median of 200M and 100M
    assert (seconds["b"], seconds["d"], seconds["f"]) == pytest.approx((usual, usual, 1.5 * usual))
    assert seconds["a"] == pytest.approx(0.75 * usual) and seconds["c"] == pytest.approx(0.375 * usual)
    slow = TrainingTimes(passes[1:2], 50, 10, 3)  # nothing else is known
    assert slow.of(candidate("b", 4 * 10**6)) - PER_RUN_S == pytest.approx(10 * (of_4m["a"] - PER_RUN_S))


def test_a_disturbed_epoch_or_run_does_not_change_what_the_next_ones_are_expected_to_take(tmp_path):
    times = TrainingTimes([Pass("a", 64, 100, 2.0, 4e6)], 50, 10, epochs=3)  # 5.2 s an epoch
    of_a = candidate("a", 4 * 10**6)

    def learn(*epochs: tuple[float, str | None]) -> float:
        folder = RunFolder(tmp_path / str(len(list(tmp_path.iterdir()))))
        folder.path.mkdir()
        record = RunRecord(
            throughput=Throughput(epochs=[EpochSpeed(images=50, seconds=s, flag=flag) for s, flag in epochs])
        )
        record.folder = folder
        write_record(record)
        times.learn(of_a, folder)
        return times.of(of_a) - PER_RUN_S

    assert learn((45.0, "busy"), (40.0, "busy")) == pytest.approx(3 * 42.5)  # nothing better is known
    assert learn((18.0, "busy"), (20.0, "busy")) == pytest.approx(3 * 19.0)
    assert learn((45.0, "busy"), (45.0, "busy"), (6.0, None)) == pytest.approx(3 * 6.0)
    assert learn((90.0, "busy")) == pytest.approx(3 * 6.0)
    assert learn((8.0, None)) == pytest.approx(3 * 7.0)  # the median of two


@pytest.fixture(autouse=True)
def no_command(monkeypatch):
    monkeypatch.setattr(STATE, "command", ["python", "smallest.py"])


def test_a_folder_is_of_one_search(tmp_path, monkeypatch):
    search = {"good_enough": 0.02, "trainer.max_epochs": "2", "images": "0a"}
    Plan(tmp_path, Budget(10)).claim(search)
    Plan(tmp_path, Budget(20)).claim(dict(reversed(search.items())))
    with pytest.raises(
        UserError, match=r"contains an earlier search with good_enough=0.02, now 0.05; use another name=NAME"
    ):
        Plan(tmp_path, Budget(10)).claim(search | {"good_enough": 0.05})
    with pytest.raises(UserError, match="splits or image weights that have changed since; use another name=NAME"):
        Plan(tmp_path, Budget(10)).claim(search | {"images": "0b"})
    with pytest.raises(UserError, match=r"with trainer.max_epochs=2, now not set; use another name=NAME"):
        Plan(tmp_path, Budget(10)).claim({key: value for key, value in search.items() if key != "trainer.max_epochs"})
    with pytest.raises(UserError, match=r"with optimizer.lr not set, now 0.01; use another name=NAME"):
        Plan(tmp_path, Budget(10)).claim(search | {"optimizer.lr": "0.01"})
    Plan(tmp_path, Budget(10)).claim(search)
    Plan(tmp_path, Budget(10)).claim(search | {"files": "0a"})  # begun by a version that did not look
    with pytest.raises(UserError, match="with settings in files of conf or --config-dir that have changed since; use"):
        Plan(tmp_path, Budget(10)).claim(search | {"files": "0b"})
    with pytest.raises(UserError, match=r"with good_enough=0.02, now 0.05; use another name=NAME"):
        Plan(tmp_path, Budget(10)).claim(search | {"files": "0b", "good_enough": 0.05})
    monkeypatch.setattr(STATE, "command", ["python", "smallest.py", f"hydra.run.dir={tmp_path}"])
    with pytest.raises(UserError, match=r"use another hydra.run.dir=DIR, or delete this folder"):
        Plan(tmp_path, Budget(10)).claim(search | {"good_enough": 0.05})


def test_a_network_of_the_users_own_that_has_changed_is_of_another_search(tmp_path, monkeypatch):
    """The decisions name candidates by their places, which a further block moves."""
    monkeypatch.setattr("engine.smallest.smallest.compose_run", lambda overrides: OmegaConf.create())
    config = OmegaConf.create(dict.fromkeys(DECISIVE) | {"candidates": {"backbones": ["my.Net"], "image_sizes": [64]}})
    catalog = SimpleNamespace(paths=["a.png"], groups=["a"])
    data = SimpleNamespace(catalog=catalog, fingerprint=lambda: "0a")

    def claim(*candidates: Candidate) -> None:
        Plan(tmp_path, Budget(10)).claim(search_of(SETTINGS, config, data, candidates))

    claim(candidate("resnet18", 10), candidate("my.Net", 20))
    claim(candidate("resnet18", 11), candidate("my.Net", 20))  # libraries may count otherwise
    with pytest.raises(
        UserError, match="with networks of your own whose layers have changed since; use another name=NAME"
    ):
        claim(candidate("resnet18", 10), candidate("my.Net", 15), candidate("my.Net", 20))


def test_a_network_of_the_users_own_that_sets_other_weights_is_of_another_search(tmp_path, monkeypatch):
    """Screen and runs would be of the weights before; those that depend on the seed differ each time it is built."""
    file = tmp_path / "own.pth"

    def build(name: str) -> torch.nn.Module:
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.Linear(64, 9))
        network[0].load_state_dict(torch.load(file))
        return network

    monkeypatch.setattr("engine.smallest.smallest.compose_run", lambda overrides: OmegaConf.create())
    monkeypatch.setattr("engine.smallest.smallest.build_backbone", build)
    config = OmegaConf.create(dict.fromkeys(DECISIVE) | {"candidates": {"backbones": ["my.Net"], "image_sizes": [64]}})
    data = SimpleNamespace(catalog=SimpleNamespace(paths=["a.png"], groups=["a"]), fingerprint=lambda: "0a")
    network = replace(candidate("my.Net", 20), weights=OF_NETWORK)

    def claim() -> None:
        Plan(tmp_path, Budget(10)).claim(search_of(SETTINGS, config, data, [network]))

    torch.save(torch.nn.Conv2d(3, 64, 3).state_dict(), file)
    claim()
    claim()
    torch.save(torch.nn.Conv2d(3, 64, 3).state_dict(), file)
    with pytest.raises(UserError, match="with networks of your own that set other weights now; use another name=NAME"):
        claim()
