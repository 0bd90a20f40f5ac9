"""report.py, and the report at the end of a sweep."""

import errno
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from common.errors import UserError
from common.run_record import RunRecord
from reports.report import write_report
from reports.top_losses import MOST_LOSSES
from tests.support.fake_runs import make_run
from tests.support.helpers import PROJECT
from tests.support.parsed_html import Parsed

WRITTEN = {"report.html", "report.md", "table.csv", "table.tex", "methods.md", "confusion.png"}


@pytest.fixture
def report(in_process):
    """Run `python report.py ...` in this process; return status, output, errors."""
    import report as script

    return lambda *arguments: in_process(script, *arguments)


@pytest.fixture
def runs(tmp_path):
    make_run(tmp_path / "runs" / "a", choices={"model": "a"}, accuracy=0.9)
    make_run(tmp_path / "runs" / "b", choices={"model": "b"}, accuracy=0.5)
    return tmp_path / "runs"


def test_writes_beside_the_runs_and_nothing_else(report, runs):
    before = sorted((PROJECT / "outputs").rglob("report.log"))
    status, out, err = report(f"runs={runs}")
    assert (status, err) == (0, "")
    assert {path.name for path in runs.iterdir()} == {"a", "b"} | WRITTEN
    assert "The best by validation is model=a:" in out and out.rstrip().endswith(f"Page: {runs / 'report.html'}")
    assert "<title>Which model?</title>" in (runs / "report.html").read_text()
    assert sorted((PROJECT / "outputs").rglob("report.log")) == before
    assert not (PROJECT / "outputs" / ".hydra").exists()


@pytest.mark.thorough
def test_chosen_places_and_title(report, runs, tmp_path):
    status, _, _ = report(f"runs=[{runs}/a,{runs}/b]", f"out={tmp_path}/new/place", "title='A & B'")
    assert status == 0 and {path.name for path in (tmp_path / "new" / "place").iterdir()} == WRITTEN
    assert "<h1>A &amp; B</h1>" in (tmp_path / "new" / "place" / "report.html").read_text()
    assert report(f"runs={runs}/*", f"out={tmp_path}/one.html")[0] == 0
    names = {"one.html", "one.md", "one.csv", "one.tex", "one_methods.md", "one_confusion.png"}
    assert {path.name for path in tmp_path.glob("one*")} == names


def test_errors_are_one_line(report, runs, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for arguments, words in (
        ([], "runs: nothing is given"),
        (["runs=/nowhere"], "runs=/nowhere: no such folder"),
        ([f"runs={tmp_path}/empty"], "no result.json in it or below"),
        ([f"runs={runs}", f"out={tmp_path}/file/x"], "cannot be written"),
        (["run=x"], "did you mean runs?"),
        (["runs={a: 1}"], "runs={'a': 1}: is not a folder; e.g. runs=outputs/sweeps/NAME, or several, runs=[DIR,DIR]"),
        (["runs=2026"], "runs=2026: no such folder"),
        ([f"runs={runs}", "out=[a]"], "out=['a']: is not one path; use out=DIR or out=NAME.html"),
        ([f"runs={runs}", "good_enough=1"], "good_enough=1: use a difference in accuracy above 0 and below 1"),
        ([f"runs={runs}", "good_enough=null"], "good_enough=null: use"),
        (
            [f"runs={runs}", "target_accuracy=95"],
            "target_accuracy=95: use an accuracy above 0 and below 1, e.g. 0.95, or null",
        ),
    ):
        status, _, err = report(*arguments)
        assert status == 1 and err.startswith("ERROR: ") and words in err and len(err.splitlines()) == 1, err


def test_a_full_disk_beside_the_runs_names_no_argument_that_was_not_given(runs, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("reports.report.write_text", full)
    with pytest.raises(
        UserError, match=f"^{runs} cannot be written: No space left on device; python report.py takes out"
    ):
        write_report(str(runs))


def test_a_record_cut_off_is_excluded_and_named_once(report, runs):
    (runs / "c").mkdir()
    (runs / "c" / "result.json").write_text('{"schema": 2,')
    status, out, _ = report(f"runs={runs}")
    assert status == 0 and out.count("excluded: ") == out.count("not a whole record") == 1


def test_reports_never_import_torch(runs):
    code = (
        "import sys; from reports.report import write_report; write_report(sys.argv[1]);"
        "print([m for m in ('torch', 'lightning', 'pandas', 'matplotlib.pyplot') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(runs)], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_end_of_a_sweep_writes_the_report(runs, capsys):
    from engine.sweep.hydra_callbacks import SweepReport

    SweepReport().on_multirun_end(OmegaConf.create({"good_enough": 0.02, "hydra": {"sweep": {"dir": str(runs)}}}))
    out = capsys.readouterr().out
    assert {path.name for path in runs.iterdir()} >= WRITTEN
    assert (
        "The best by validation is model=a:" in out
        and f"Page: {runs / 'report.html'}" in out
        and f"Sweep: {runs}" in out
    )


def test_a_defect_in_the_report_does_not_fail_the_sweep(runs, monkeypatch, caplog, tmp_path):
    from engine.sweep.hydra_callbacks import SweepReport

    def broken(*_, **__):
        raise KeyError("defect")

    monkeypatch.setattr("reports.report.write_report", broken)
    SweepReport().on_multirun_end(OmegaConf.create({"good_enough": 0.02, "hydra": {"sweep": {"dir": str(runs)}}}))
    assert "no report: KeyError('defect')" in caplog.text
    monkeypatch.undo()
    SweepReport().on_multirun_end(
        OmegaConf.create({"good_enough": 0.02, "hydra": {"sweep": {"dir": str(tmp_path / "none")}}})
    )
    assert "no such folder" in caplog.text and caplog.records[-1].levelname == "WARNING"  # the command succeeds


def test_the_page_of_a_trained_run(finished_run, tmp_path):
    page = Parsed(write_report(str(finished_run.folder), out=str(tmp_path)).page.read_text(encoding="utf-8"))
    record = RunRecord.read(finished_run.folder)
    words = page.words()
    assert f"{record.test.accuracy.value:.3f}" in words and "It is the only setting here" in words
    drawings = [attributes for tag, attributes in page.tags if tag == "svg" and "aria-label" in attributes]
    assert len(drawings) == 5  # over epochs
    wrong = record.test.accuracy.n - record.test.accuracy.correct
    thumbnails = [attributes for tag, attributes in page.tags if tag == "img" and not attributes["alt"]]
    assert len(thumbnails) == min(wrong, MOST_LOSSES) and "cut off" not in words
