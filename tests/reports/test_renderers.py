"""A report as text, Markdown, CSV and LaTeX: numbers, and hostile texts as text."""

import csv
import io
from pathlib import Path

import pytest

from common.run_record import Deployed, RunRecord, write_record
from common.table import escape_markdown
from reports.columns import result_table
from reports.renderers import as_csv, as_latex, as_markdown, as_text
from reports.report import write_report
from reports.significance import answer
from tests.support import fake_smallest
from tests.support.fake_runs import change_record, judged, make_run

FORMULA = '=cmd|" /C calc"!A0'


@pytest.fixture
def summary(tmp_path):
    for seed in (1, 2):
        make_run(
            tmp_path / f"a{seed}", seed=seed, choices={"model": "a"}, accuracy=0.9, cost=(123_456_789, 143_528, 5.678)
        )
    make_run(tmp_path / "b", choices={"model": FORMULA}, accuracy=0.4, cost=(9e9, 2e7, 50))
    make_run(tmp_path / "c", status="failed", reason="no memory\nleft & <b>gone</b>", choices={"model": "c"})
    return judged(tmp_path)


def test_text_has_a_line_a_row_and_what_failed(summary):
    head, best, worse, _, answered, _, failed = as_text(summary).splitlines()
    assert head.split()[:2] == ["#", "setting"] and answered == " ".join(answer(summary.groups[0]))
    assert best.startswith("1  model=a ") and "0.900 ± 0.000 (" in best and "123M" in best and "5.68 ms" in best
    assert "worse as trained (at most 0.597 below, p < 0.0001, 1 common seed)" in worse and "9G" in worse
    assert failed == "failed: c: no memory left & <b>gone</b>"


def test_csv_has_all_digits_and_no_formulas(summary):
    text = as_csv(summary)
    best, worse, failed = csv.DictReader(io.StringIO(text))
    assert (best["rank"], best["macs"], best["latency_p50_ms"]) == ("1", "123456789", "5.678")
    assert float(best["val_accuracy"]) == pytest.approx(0.9) and best["seeds"] == "1 2"
    assert float(worse["difference"]) == pytest.approx((32 - 72) / 80)
    assert worse["setting model"] == f"'{FORMULA}"
    assert (failed["rank"], failed["status"]) == ("", "failed") and failed["reason"].startswith("no memory left")


def test_markdown_keeps_hostile_text_in_its_cell(summary):
    lines = as_markdown(summary, "a_b <script>").splitlines()
    assert lines[0] == r"# a\_b &lt;script&gt;"
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 4 and len({line.replace(r"\|", "").count("|") for line in rows}) == 1
    assert "&lt;b&gt;gone" in lines[-1]


def test_latex_is_a_tabular_of_booktabs_with_everything_escaped(summary):
    text = as_latex(summary)
    begin, *body, end = [line for line in text.splitlines() if not line.startswith("%")]
    assert begin.startswith(r"\begin{tabular}{rl") and end == r"\end{tabular}"
    assert [line for line in body if line.startswith("\\") and "&" not in line] == [
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
    ]
    rows = [line for line in body if "&" in line]
    columns = len(begin.split("{")[2].rstrip("}"))
    assert {line.replace(r"\&", "").count(" & ") for line in rows} == {columns - 1}
    assert begin == r"\begin{tabular}{rlrrrrrrrrr}" and " & p & " in rows[0] and "worse" not in "".join(body)
    assert ["Good enough: " in each for each in (text, as_markdown(summary, ""))] == [False, True]  # a verdict
    (compared,) = [row.comparison for row in summary.groups[0].rows if row.comparison.pair]
    assert compared.p_value < 0.0001 and r" & \textless{} 0.0001 & " in rows[2]
    assert r"=cmd\textbar{}\textquotedbl{} /C calc\textquotedbl{}!A0" in text and r"$\pm$" in text


def test_exported_networks_have_a_table_where_some_run_has_one(tmp_path):
    for seed, cost in ((1, 0.004), (2, 0.020), (3, None)):
        deployed(make_run(tmp_path / f"a{seed}", seed=seed, choices={"model": "a"}), cost)
    deployed(make_run(tmp_path / "b", choices={"model": "b"}), 0.0, "=web|")
    make_run(tmp_path / "c", choices={"model": "c"})
    data = judged(tmp_path)
    table = as_text(data).partition("\n\n")[2].splitlines()
    head, *rows = [" ".join(line.split()) for line in table]
    assert head == "# network exported as accuracy cost verdict balanced cost largest difference size latency p50"
    a, b = sorted(rows[:2], key=lambda line: line.split()[1])
    assert "model=a onnx_int8 (2 of 3 runs) 0.930 0.012 1 within 0.01, 1 not within 0.01 0.005 3.1e-02" in a
    reason = f"{a[0]}. model=a: no file as onnx_int8: no operator Conv{' and so on' * 30}; use deploy=onnx"
    assert reason in rows and as_markdown(data, "t").count(escape_markdown(reason)) == 1
    assert (
        "model=b =web| 0.930 (0.902 to 0.951) 0.000 (-0.006 to 0.006) within 0.01 0.005 (-0.004 to 0.014) 3.1e-02" in b
    )
    lines = {row["setting model"]: row for row in csv.DictReader(io.StringIO(as_csv(data)))}
    assert float(lines["a"]["exported_cost"]) == pytest.approx(0.012) and lines["c"]["exported_cost"] == ""
    assert float(lines["b"]["exported_latency_p50_ms"]) == 2.1 and lines["b"]["exported_as"] == "'=web|"
    assert "costs" not in as_text(judged(tmp_path / "c")) and "exported" not in as_csv(judged(tmp_path / "c"))


def deployed(folder: Path, cost: float | None, format: str = "onnx_int8") -> None:
    """Give a run a file, or none (`cost` None)."""
    record = RunRecord.read(folder)
    failed = Deployed(format=format, error=f"no operator Conv{' and so on' * 30}; use deploy=onnx")
    record.deployed = failed if cost is None else fake_smallest.deployed(cost, format)
    write_record(record)


def test_a_report_writes_csv_beside_the_runs_and_shows_the_table(summary, tmp_path):
    assert write_report(str(tmp_path)).text == as_text(summary)
    assert (tmp_path / "table.csv").read_text() == as_csv(summary)


def test_hostile_letters_can_be_written(tmp_path):
    record = make_run(tmp_path / "a", choices={"model": "MARK"}) / "result.json"
    record.write_text(record.read_text().replace("MARK", "a?\\u0000\\u202eb"))
    make_run(tmp_path / "b", choices={"model": "b"})
    made = judged(tmp_path)
    for text in (as_text(made), as_csv(made), as_latex(made), as_markdown(made, "\udc80")):
        assert text.encode() and "\x00" not in text and "\u202e" not in text
    assert "a? b" in as_text(made)


def test_unfinished_runs_are_listed_with_their_reason(tmp_path):
    make_run(tmp_path / "a", choices={"model": "a"})
    for status, why in (("pruned", "behind the median in epoch 3"), ("running", None)):
        make_run(tmp_path / status, status=status, reason=why, choices={"model": status})
    long = f"excluded images are test images, of them {'a/file/with/a/name.png, ' * 16}the last one"
    make_run(tmp_path / "long", status="failed", reason=long, choices={"model": "long"})
    made = judged(tmp_path)
    lines = as_text(made).splitlines()
    assert "pruned: pruned: behind the median in epoch 3" in lines
    assert any(line.startswith("running: running: started 2026-01-01") for line in lines)
    assert f"failed: long: {long[:299]}…" in lines
    assert {row["runs"]: row["reason"] for row in csv.DictReader(io.StringIO(as_csv(made)))}["long"] == long


def test_a_metric_of_one_s_own_is_of_one_split_and_named_by_it(run, tmp_path):
    for seed, on_val, on_test in ((1, 0.5, 0.125), (2, 0.5, 0.375), (3, 0.5, None)):
        folder = run(f"s{seed}", seed=seed, n={"val": 60, **({} if on_test is None else {"test": 80})})
        change_record(folder, val={"further": {"kappa": on_val}})
        if on_test is not None:
            change_record(folder, test={"further": {"kappa": on_test}})
    change_record(run("val-only", choices={"optimizer": "sgd"}, n={"val": 60}), val={"further": {"kappa": 0.75}})
    made = judged(tmp_path)
    table = result_table(made.groups[0])
    places = [table.titles.index(title) for title in ("setting", "test kappa")]
    # of the two seeds that were evaluated on test
    assert {tuple(line[i].text for i in places) for line in table.lines} == {
        ("optimizer=adam", "0.250"),
        ("optimizer=sgd", "-"),
    }
    lines = {line["setting optimizer"]: line for line in csv.DictReader(io.StringIO(as_csv(made)))}
    measured = {line[places[0]].text: line[table.titles.index("test accuracy (n = 80)")] for line in table.lines}
    assert measured["optimizer=adam"].detail.endswith(", 2 of 3 seeds")
    assert (lines["adam"]["test kappa"], lines["sgd"]["test kappa"], lines["sgd"]["val kappa"]) == ("0.25", "", "0.75")
