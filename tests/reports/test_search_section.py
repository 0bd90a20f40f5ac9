"""A search on its pages: the best so far over the trials, the importance of settings, links; hostile and damaged files."""

import re
from dataclasses import replace

import pytest

from common.search_record import FILE, SearchRecord, SearchTrial
from reports.report import write_report
from reports.search_section import search_section
from tests.support.fake_runs import make_run
from tests.support.parsed_html import Parsed

VALUES = (0.7, 0.8, None, 0.75, 0.9)  # of the third trial none: it was pruned
RECORD = SearchRecord(
    name="s",
    objectives=["val.accuracy"],
    maximize=[True],
    trials=[
        SearchTrial(state="pruned" if v is None else "finished", values=[v] if v else [], name=f"optimizer.lr={i} <b>")
        for i, v in enumerate(VALUES)
    ],
    importance={"optimizer.lr": 0.8, "datamodule.batch_size": 0.2},
)


@pytest.fixture
def searched(tmp_path):
    """The folder of a search with a trial and a retrained run, and the function that writes its record."""
    for kind in ("trials", "retrained"):
        for rate in (4, 5):
            make_run(tmp_path / kind / f"lr-{rate}", settings={"optimizer.lr": rate})
    write_report(str(tmp_path / "trials"))
    RECORD.write(tmp_path)
    return tmp_path


def test_the_best_so_far_steps_at_each_better_trial(searched):
    section = search_section(searched, searched)
    history, importance = section["figures"]
    steps = re.search(r'd="([^"]*)"[^>]*style="fill: none; stroke: var\(--blue\); stroke-width: 1.4', history).group(1)
    heights = [float(y) for _, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", steps)]
    dots = dict(re.findall(r"<title>Trial (\d): [^<]*</title>.*?<use [^>]*y=\"([\d.]+)\"", history, re.DOTALL))
    assert sorted(dots) == ["1", "2", "4", "5"]
    levels = list(dict.fromkeys(heights))  # 0.7, then 0.8, still 0.8 with trial 4, then 0.9
    assert levels == pytest.approx([float(dots[number]) for number in ("1", "2", "5")])
    assert "Importance of the settings: optimizer.lr 80% and datamodule.batch_size 20%" in importance
    words = " ".join(section["sentences"])
    assert "5 trials: 4 finished and 1 pruned." in words
    assert "The highest validation accuracy, 0.9, is that of trial 5 of 5 (optimizer.lr=4 <b>); it came late" in words
    assert (
        "optimizer.lr mattered most for validation accuracy" in words
        and "4 finished trials it is a rough guide" in words
    )


def test_the_most_important_of_many_settings_are_drawn_and_their_number_is_shown(searched):
    replace(RECORD, importance={f"a.p{i:02}": 1 / 14 for i in range(14)}).write(searched)
    section = search_section(searched, searched)
    assert "p11 7%" in section["figures"][-1] and "p12 7%" not in section["figures"][-1]
    assert "The figure shows the 12 most important of 14 settings." in " ".join(section["sentences"])


@pytest.mark.thorough
def test_both_pages_of_a_search_show_it_and_that_of_the_retrained_leads_to_the_trials(searched):
    for runs, folder, leads in (("retrained", "", True), ("retrained", "retrained", True), ("trials", "trials", False)):
        page = Parsed(write_report(str(searched / runs), str(searched / folder)).page.read_text())
        assert (page.open, page.wrong) == ([], [])
        assert "The search" in page.words() and "Best validation accuracy so far" in page.words()
        hrefs = [a["href"] for tag, a in page.tags if tag == "a" and a["href"].endswith("trials/report.html")]
        assert bool(hrefs) == leads


def test_an_importance_that_is_not_known_has_its_reason_and_a_damaged_record_is_named(searched):
    replace(RECORD, importance={}, no_importance="only one setting was searched").write(searched)
    section = search_section(searched, searched)
    assert len(section["figures"]) == 1
    assert "The importance of the settings is not known: only one setting was searched." in section["sentences"]
    for content in (
        "{",
        '{"name": 1}',
        '{"name": "s", "objectives": ["a"], "maximize": [true], "trials": [{"state": "<b>"}]}',
    ):
        (searched / FILE).write_text(content)
        page = Parsed(write_report(str(searched / "retrained")).page.read_text())
        assert "The search is not shown: " in page.words() and FILE in page.words()


@pytest.mark.parametrize("values", [
    [1.7e308, -1.7e308], [0, 0],
    *(pytest.param(each, marks=pytest.mark.thorough) for each in ([-5, 1e-320], [2**62, 0.1])),
], ids=str)  # fmt: skip
def test_odd_numbers_stop_no_page(searched, values):
    trials = [SearchTrial(state="finished", values=[value], name="x" * 5000) for value in values]
    replace(RECORD, trials=trials, importance={"a": 1.7e308, "b": -3.0, "c": 0.5}).write(searched)
    words = " ".join(search_section(searched, searched)["sentences"])
    assert "c mattered most" in words and len(words) < 1500


def test_two_objectives_have_a_figure_each_and_a_search_without_a_finished_trial_none(searched):
    trials = [SearchTrial(state="finished", values=[0.8, macs], name=f"keep={macs}") for macs in (3e8, 1e6, 2e6)]
    two = replace(RECORD, objectives=["val.accuracy", "model.macs"], maximize=[True, False], trials=trials)
    two.write(searched)
    section = search_section(searched, searched)
    assert len(section["figures"]) == 3
    assert "The lowest MACs, 1M, is that of trial 2 of 3 (keep=1000000.0)." in section["sentences"]
    objectives = ["val.f1", "model.checkpoint_mib"]
    replace(two, objectives=objectives).write(searched)
    words = " ".join(search_section(searched, searched)["sentences"])
    assert "validation macro F1" in words and "lowest checkpoint size (MiB), 1M, is" in words
    replace(two, trials=[SearchTrial(state="failed")], importance={}).write(searched)
    assert search_section(searched, searched)["figures"] == []
