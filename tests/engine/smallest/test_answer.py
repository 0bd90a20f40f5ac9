"""Which network is handed out and what is recorded of it, by made-up outcomes in place of trained networks."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binomtest

from common.run_folder import METRIC_COLUMNS, RunFolder
from common.run_record import Deployed, RunRecord
from common.smallest_record import Candidate, Costs, Measured, Question, SmallestRecord, Trained
from engine.smallest import answer
from engine.smallest.answer import Answerer
from engine.smallest.progress import Progress
from engine.smallest.runs import Outcomes, RunKey

N = 1000


def candidate(macs: int, parameters: int = 1, **given) -> Candidate:
    costs = Costs(parameters=parameters, macs=macs, file_kib=1, activation_kib=1, activation_int8_kib=1)
    return Candidate(backbone="a", keep="k", image_size=64, pretrained=True, weights="x", costs=costs, **given)


@pytest.fixture
def answerer(tmp_path, monkeypatch):
    """Make an Answerer of networks that get the first so many of 1,000 images wrong; None: it was not trained.

    The first is the reference; each costs half of the one before it.
    """

    def make(
        wrong: list[int | None], *, n_seeds: int = 1, test: list[int] | None = None, has_test: bool = True, **given
    ):
        question = Question(**{"cost": ["macs"], "metric": "accuracy", "good_enough": 0.02, **given})
        listed = [candidate(2 ** (20 - index), stage="raced") for index in range(len(wrong))]
        record, opened = SmallestRecord(question=question, candidates=listed, data={"n_test": N * has_test}), []
        keys = {index: [RunKey(index, seed) for seed in range(1, n_seeds + 1)] for index in range(len(wrong))}
        runs = SimpleNamespace(
            folds=None, first=lambda index: keys[index][0], is_trained=lambda key: wrong[key.candidate] is not None,
            test=lambda tested, split, cost_of: opened.append((tested, split, cost_of)),
            settings=SimpleNamespace(question=question, folder=tmp_path),
        )  # fmt: skip

        def outcomes(_, given_keys, split):
            found = [key for key in given_keys if runs.is_trained(key)]
            if not found:
                return None
            errors = (test if split == "test" and test else wrong)[found[0].candidate]
            right = np.tile(np.arange(N) >= errors, (len(found), 1))
            return Outcomes([key.seed for key in found], right, np.arange(N) % 2, None, list(map(str, range(N))))

        monkeypatch.setattr(answer, "read_outcomes", outcomes)
        made = Answerer(record, runs, keys)
        made.opened = opened
        return made

    return make


@pytest.mark.parametrize(("wrong", "given", "chosen", "nearest"), [
    ([50, 52, 55], {}, 2, None),  # the cheapest one that is shown to be good enough
    ([50, 52, 90], {}, 1, None),
    ([50, None, 52], {}, 2, None),
    ([50, 65], {}, 1, None),  # not shown, but within the margin where it was chosen
    ([50, 70], {}, 0, 1),  # at the margin itself
    ([50, 90, 95], {}, 0, 1),
    ([50], {}, 0, None),
    ([50, 90], {"target": 0.99}, 0, None),  # with a target the reference is a candidate as well, and the best bound decides
    ([50, 40], {"target": 0.99}, 1, None),
    ([20, 30], {"target": 0.9}, 1, None),
])  # fmt: skip
def test_who_is_chosen_and_who_was_only_the_nearest(answerer, wrong, given, chosen, nearest):
    found = answerer(wrong, **given)
    found.choose(range(len(wrong)))
    recorded = found.record.answer
    assert (recorded.verdict, recorded.chosen, recorded.reference, recorded.nearest) == (
        "chosen_not_proved", chosen, 0, nearest
    )  # fmt: skip
    trained = [each for each in wrong if each is not None]
    assert recorded.n_finalists == len(trained) - 1
    compared = chosen if nearest is None else nearest
    assert recorded.val.split == "val" and recorded.val.difference == pytest.approx((wrong[0] - wrong[compared]) / N)


@pytest.mark.parametrize(("wrong", "test", "n_seeds", "given", "verdict"), [
    ([50, 52], None, 1, {}, "shown_as_trained"),
    ([50, 52], None, 4, {}, "shown"),  # three seeds besides that of the race
    ([50, 52], None, 3, {}, "shown_as_trained"),
    ([50, 52], [50, 90], 4, {}, "not_shown"),  # what validation shows test does not
    ([50, 90], None, 1, {}, "shown"),  # the reference itself, beside another one that was trained
    ([50], None, 1, {}, "none"),
    ([50, None], None, 1, {}, "none"),
    ([50], None, 1, {"target": 0.9}, "shown_as_trained"),
    ([50], None, 1, {"target": 0.96}, "not_shown"),
    ([50], None, 4, {"target": 0.9}, "shown"),
    ([50, 52], None, 4, {"target": 0.9}, "shown"),
])  # fmt: skip
def test_what_the_test_images_show(answerer, wrong, test, n_seeds, given, verdict):
    found = answerer(wrong, test=test, n_seeds=n_seeds, **given)
    found.choose(range(len(wrong)))
    found.prove()
    recorded, chosen = found.record.answer, found.chosen
    assert recorded.verdict == verdict
    tested = [key for index in dict.fromkeys((chosen, 0)) for key in found.keys[index]]
    assert found.opened == [(tested, "test", found.keys[chosen][0])]  # only the chosen one and the reference, once
    if chosen == 0 and not given:
        assert recorded.test is None
        return
    pair, of_settings = recorded.test, n_seeds == 4 and verdict == "shown"
    assert (pair.split, pair.n, pair.n_seeds, pair.of_settings) == ("test", N, 3 if of_settings else 1, of_settings)
    n_candidates = len(wrong) if given else len(wrong) - 1  # with a target, the reference is one, too
    assert pair.level == (0.05 / n_candidates if of_settings else 0.05)
    errors = test or wrong
    assert pair.difference == pytest.approx((errors[0] - errors[chosen]) / N)
    assert recorded.as_trained == (verdict != "not_shown")  # all seeds have the same errors


@pytest.mark.parametrize(("folds", "worse", "verdict", "n"), [
    (False, 1, "shown", 3), (False, 2, "shown_as_trained", 1),  # seeds 1 to 4, of which 1 raced
    (True, 0, "shown", 3), (True, 1, "shown_as_trained", 1),  # folds 0 to 3 of seed 1, of which 0 raced
])  # fmt: skip
def test_the_network_of_the_race_does_not_count_on_test(answerer, monkeypatch, folds, worse, verdict, n):
    """One of the four networks of the chosen candidate gets 300 more of the 1,000 images wrong there."""
    found = answerer([50, 52], n_seeds=4)
    if folds:
        found.keys.update({index: [RunKey(index, 1, fold) for fold in range(4)] for index in range(2)})
    inner = answer.read_outcomes

    def outcomes(runs, keys, split):
        given = inner(runs, keys, split)
        networks = [key.fold if folds else key.seed for key in keys]
        if split == "test" and keys[0].candidate == 1:
            given.right[networks.index(worse), 500:800] = False
        return given._replace(seeds=networks)

    monkeypatch.setattr(answer, "read_outcomes", outcomes)
    found.choose([0, 1])
    found.prove()
    pair = found.record.answer.test
    assert (found.record.answer.verdict, pair.n_seeds, pair.difference) == (verdict, n, pytest.approx(-0.002))


def test_without_test_images_nothing_is_opened_and_nothing_is_proved(answerer):
    found = answerer([50, 52], has_test=False)
    found.choose([0, 1])
    found.prove()
    assert (found.record.answer.verdict, found.record.answer.test, found.opened) == ("chosen_not_proved", None, [])


@pytest.mark.parametrize(("n_seeds", "counted"), [(1, 1), (2, 1), (3, 3)])
def test_of_two_seeds_the_first_counts(answerer, n_seeds, counted):
    found = answerer([50, 52], n_seeds=n_seeds)
    found.choose([0, 1])
    assert found.record.answer.val.n_seeds == counted


def test_a_training_that_was_cut_off_is_not_tested(answerer):
    found = answerer([50, 52], n_seeds=2)
    found.runs.is_trained = lambda key: key.seed == 1
    found.choose([0, 1])
    found.prove()
    assert found.opened == [([RunKey(1, 1), RunKey(0, 1)], "test", RunKey(1, 1))]


def test_a_file_that_was_deleted_or_never_exported_is_exported(answerer, tmp_path, monkeypatch):
    made, exported = answerer([50], deploy="onnx_int8"), []
    made.choose([0])
    trained = RunRecord(deployed=Deployed(format="onnx_int8", file="best_int8.onnx"))
    trained.folder = RunFolder(tmp_path / "a")
    trained.folder.path.mkdir()
    made.runs.record, made.runs.progress = lambda key: trained, Progress()

    def deploy(record, name, checkpoint) -> None:
        exported.append(name)
        record.deployed = Deployed(format=name, file="best_int8.onnx")

    monkeypatch.setattr(answer, "deploy", deploy)
    monkeypatch.setattr(answer, "write_record", lambda record: None)
    (tmp_path / "a" / "best_int8.onnx").touch()
    made._deploy()
    assert exported == [] and made.record.candidates[0].deployed.file == "runs/a/best_int8.onnx"
    (tmp_path / "a" / "best_int8.onnx").unlink()
    made._deploy()
    assert exported == ["onnx_int8"]
    trained.deployed = None  # never exported
    made._deploy()
    assert exported == ["onnx_int8"] * 2


def test_where_the_budget_is_used_up_only_the_chosen_network_is_exported_and_all_others_are_named(
    answerer, tmp_path, monkeypatch
):
    made, exported = answerer([50, None, 52, 90], deploy="onnx"), []
    made.choose(range(4))
    for index, each in enumerate(made.record.candidates):
        each.keep = f"k{index}"
    made.runs.record = lambda key: SimpleNamespace(deployed=None, folder=RunFolder(tmp_path / str(key.candidate)))
    made.runs.progress, made.runs.budget = Progress(), SimpleNamespace(is_over=True)

    def deploy(record, name, checkpoint) -> None:
        exported.append(checkpoint.parent.parent.name)
        record.deployed = Deployed(format=name, file="best.onnx")

    monkeypatch.setattr(answer, "deploy", deploy)
    monkeypatch.setattr(answer, "write_record", lambda record: None)
    made._deploy()
    assert exported == ["2"] and [bool(each.deployed) for each in made.record.candidates] == [False, False, True, False]
    others = [made.record.candidates[index].name for index in (0, 3)]
    assert [note.partition(" was not exported as onnx: ")[0] for note in made.record.notes] == others


def test_the_front_of_two_costs_is_that_of_brute_force(answerer):
    generator, found = np.random.default_rng(4), answerer([0], cost=["macs", "parameters"])
    found.record.candidates = [
        candidate(int(a), int(b), trained=Trained(val=Measured(value=v / 8)) if v else None if a % 2 else Trained())
        for a, b, v in generator.integers(0, 7, (60, 3))
    ]
    measured = {
        index: (each.costs.macs, each.costs.parameters, -each.trained.val.value)
        for index, each in enumerate(found.record.candidates) if each.trained and each.trained.val
    }  # fmt: skip
    beaten = {
        i for i, mine in measured.items() for other in measured.values()
        if other != mine and all(x <= y for x, y in zip(other, mine, strict=True))
    }  # fmt: skip
    assert found._front() == [index for index in measured if index not in beaten] and beaten
    found.settings.question.cost = ["macs"]
    assert found._front() == []


def test_what_became_of_the_trainings_of_a_candidate(answerer, tmp_path):
    found = answerer([50, 52], n_seeds=3)
    records, runs, keys = {}, found.runs, found.keys[0]

    def record(key, status, epochs, reason=None):
        """The throughput is only of the epoch after the last resume."""
        folder = runs.folder(key)
        folder.path.mkdir()
        folder.write_metrics(dict.fromkeys(METRIC_COLUMNS, 0.5) | {"epoch": epoch + 1} for epoch in range(epochs))
        records[key] = SimpleNamespace(status=status, reason=reason, throughput=SimpleNamespace(epochs=[None]))

    runs.record, runs.failed = records.get, {}
    runs.folder = lambda key: RunFolder(tmp_path / f"run-{key.seed}")
    outcome = found._trained(0)
    assert (outcome.runs, outcome.ended, outcome.epochs) == ([], "waiting", None)
    runs.failed = {keys[1]: ValueError("broken")}
    outcome = found._trained(0)
    assert outcome.ended == "failed" and "broken" in outcome.reason
    record(keys[0], "pruned", 2, "behind")
    runs.failed = {}
    outcome = found._trained(0)
    assert (outcome.runs, outcome.seeds, outcome.ended, outcome.reason, outcome.epochs) == (
        ["runs/run-1"], [1], "pruned", "behind", 2
    )  # fmt: skip
    record(keys[2], "finished", 5)
    outcome = found._trained(0)
    assert (outcome.runs, outcome.seeds, outcome.ended, outcome.reason, outcome.epochs) == (
        ["runs/run-1", "runs/run-3"], [1, 3], "finished", None, 5
    )  # fmt: skip
    assert (outcome.val.value, outcome.val.n, outcome.val.n_seeds) == (0.95, N, 3)
    assert outcome.val.low < 0.95 < outcome.val.high and outcome.test == outcome.val
    del found.keys[0]  # of the race only, with its first seed
    runs.first = lambda _: keys[0]
    assert found._trained(0).test is None and found._trained(0).val.n_seeds == 1


@pytest.mark.parametrize(("n_seeds", "n_counted"), [(1, 1), (2, 1), (3, 3)])
def test_of_two_networks_the_value_of_the_one_in_best_ckpt_is_shown(answerer, n_seeds, n_counted):
    """The interval of the mean of two, 0.95 and 0.85, would have a lower bound of 0 (12.7 standard errors)."""
    found = answerer([50], n_seeds=n_seeds)
    found.runs.failed, found.runs.folds = {}, None
    inner = answer.read_outcomes

    def outcomes(runs, keys, split):
        given = inner(runs, keys, split)
        given.right[1:, :150] = False
        return given

    answer.read_outcomes = outcomes  # the fixture's monkeypatch restores it
    shown = found._measured(found.keys[0], "test")
    assert shown.n_seeds == n_counted and shown.value == pytest.approx(np.mean([0.95, 0.85, 0.85][:n_counted]))
    if n_counted == 1:
        exact = binomtest(950, 1000).proportion_ci(method="wilson")
        assert (shown.low, shown.high) == pytest.approx((exact.low, exact.high), abs=1e-6)
