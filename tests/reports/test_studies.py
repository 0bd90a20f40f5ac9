"""A page about a folder of many sweeps: a section for each; folders that were given themselves are compared."""

import csv
import io

import pytest

from common.errors import UserError
from common.smallest_record import FILE as SMALLEST
from reports.renderers import as_csv, as_latex, as_markdown, as_text
from reports.report import write_report
from reports.run_links import use
from reports.significance import answer
from reports.smallest_words import answer_sentences
from tests.support.fake_runs import judged, make_run
from tests.support.fake_smallest import ALL
from tests.support.parsed_html import Parsed


@pytest.fixture
def outputs(tmp_path):
    """Two sweeps of one setting each, a search, smallest.py and two single runs, all on the same images."""
    root = tmp_path / "outputs"
    for place, (sweep, key, values) in enumerate(
        (("depth", "model.keep", (4, 8)), ("rates", "optimizer.lr", (0.1, 0.01)))
    ):
        for value in values:
            started = {"started_at": f"2026-01-0{place + 1}T00:00:00+00:00"}
            make_run(root / "sweeps" / sweep / f"{value}", settings={key: value}, epochs=0, run=started)
        (root / "sweeps" / sweep / "sweep.json").write_text("{}")
    for kind in ("trials", "retrained"):
        make_run(root / "searches" / "s" / kind / "lr-0.3", settings={"optimizer.lr": 0.3}, epochs=0)
    (root / "searches" / "s" / "search.json").write_text("{}")
    make_run(root / "smallest" / "pets" / "runs" / "a", choices={"model": "a"}, epochs=0)
    (root / "smallest" / "pets" / SMALLEST).write_text("{}")
    for name in ("b", "c"):
        make_run(root / name / "2026", choices={"model": name}, epochs=0)
    return root


def judged_all(root):
    from reports.aggregate import aggregate
    from reports.load_runs import find_records, given_folders, load_runs

    return aggregate(load_runs(find_records(str(root)), given_folders(str(root))))


def test_each_study_is_a_section_whose_rows_are_named_by_what_differs_there(outputs):
    groups = judged_all(outputs).groups
    found = {group.title: {row.name for row in group.rows} for group in groups}
    assert found == {
        "Sweep rates: which learning rate?": {"lr=0.1", "lr=0.01"},
        "Sweep depth: which keep?": {"keep=4", "keep=8"},
        "Search s, trials: pets": {"resnet18"},
        "Search s, retrained: pets": {"resnet18"},
        "smallest.py pets, its runs: pets": {"a"},
        "Single runs on pets": {"model=b", "model=c"},
    }
    titles = [group.title for group in groups]
    assert titles[0].startswith("Sweep rates")  # the latest first
    assert titles[-1] == "Single runs on pets"


def test_tables_of_several_studies_name_them(outputs):
    data = judged_all(outputs)
    of_rates = [line for line in csv.DictReader(io.StringIO(as_csv(data))) if line["study"] == "Sweep rates"]
    assert {line["name"] for line in of_rates} == {"lr=0.1", "lr=0.01"}
    comments = [line for line in as_latex(data).splitlines() if line.startswith("% ")]
    assert comments[:2] == ["% Sweep rates: which learning rate?", f"% {data.groups[0].heading}"]
    single = judged(outputs / "sweeps" / "rates")
    assert "study" not in as_csv(single) and as_latex(single).startswith(f"% {single.groups[0].heading}\n")


def test_a_folder_that_was_given_itself_is_compared_with_the_others(outputs):
    both = [str(outputs / "sweeps" / name) for name in ("depth", "rates")]
    page = Parsed(write_report(both, out=str(outputs)).page.read_text())
    assert "Contents" not in page.words() and "keep=8" in page.words() and "lr=0.1" in page.words()
    assert len(judged(outputs / "sweeps" / "depth").groups) == 1


@pytest.mark.parametrize(("place", "command"), [("smallest/pets", "smallest.py"), ("searches/s", "search.py")])
def test_the_page_of_a_search_is_not_replaced_by_one_of_other_runs(outputs, tmp_path, place, command):
    folder = outputs / place
    (folder / "report.html").write_text("the answer")
    make_run(folder / "test" / "a", choices={"model": "a"}, epochs=0)  # so that the runs lie directly below the folder
    before = sorted(folder.rglob("*"))
    for out in (None, str(folder)):
        with pytest.raises(UserError, match=f"is the page of {command}.*; use out=DIR or out=NAME"):
            write_report(str(folder), out)
    assert (folder / "report.html").read_text() == "the answer" and sorted(folder.rglob("*")) == before
    write_report(str(folder), str(tmp_path / "elsewhere"))
    assert write_report(str(folder), str(folder / "all.html")).page.name == "all.html"


def test_a_search_of_smallest_keeps_its_own_answer(outputs):
    record = ALL["shown"]()
    record.answer.sentences = [*answer_sentences(record), "\x1b[2Jx"]
    record.write(outputs / "smallest" / "pets")
    make_run(outputs / "smallest" / "pets" / "runs" / "more_accurate", choices={"model": "d"}, accuracy=0.99, epochs=0)
    (of_smallest,) = [g for g in judged_all(outputs).groups if g.study and g.study.folder.name == "runs"]
    assert answer(of_smallest)[:-1] == record.answer.sentences[:-1]
    assert "\x1b" not in answer(of_smallest)[-1]
    head, costs, proof, *_ = answer_sentences(record)
    assert proof.startswith("chosen on validation")
    for text in (as_text(judged_all(outputs)), as_markdown(judged_all(outputs), "").replace("\\", "")):
        assert f"{head}. {costs}. C{proof[1:]}." in text  # as sentences
    assert use(of_smallest, outputs) is None
    record.answer.sentences = ["", " \n"]
    record.write(outputs / "smallest" / "pets")
    (of_smallest,) = [g for g in judged_all(outputs).groups if g.study and g.study.folder.name == "runs"]
    assert answer(of_smallest) == ["This search has no answer yet."]


def test_the_contents_lead_to_the_sections_and_their_own_pages(outputs):
    write_report(str(outputs / "sweeps" / "depth"))
    written = write_report(str(outputs))
    page = Parsed(written.page.read_text())
    assert (page.open, page.wrong) == ([], [])
    targets = [a["href"][1:] for tag, a in page.tags if tag == "a" and a["href"].startswith("#")]
    assert targets == [a["id"] for tag, a in page.tags if tag == "section" and "id" in a] and len(targets) == 6
    own = [a["href"] for tag, a in page.tags if tag == "a" and a["href"].endswith("report.html")]
    assert own == ["./sweeps/depth/report.html"]
    assert "sets of images or splits" not in page.words() and "<h1>9 runs in 6 groups</h1>" in written.page.read_text()
    assert "\nSweep depth: which keep?\n" in written.text
    assert "## Sweep depth: which keep?" in written.page.with_suffix(".md").read_text()
