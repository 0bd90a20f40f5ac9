"""Untrusted runs in a report: their texts are texts on every page, and no file is shown that they name blindly."""

import base64
import csv
import io
import json
import re
import shutil

import pytest
from PIL import Image

from common.atomic_io import write_csv
from common.run_record import RunRecord
from datamodules.decode import fingerprint, open_image
from reports.load_runs import find_records, load_runs
from reports.report import write_report
from tests.support.fake_runs import change_record, make_run
from tests.support.helpers import in_chromium, needs_chromium, read_csv
from tests.support.parsed_html import Parsed

OWNED = "document.owned=1"
TEXTS = (
    f"<script>{OWNED}</script>",
    f"\"'><img src=x onerror={OWNED}>",
    f"</title><svg onload={OWNED}>",
    f"</style></script><script>{OWNED}</script>",
    f"<a href='javascript:{OWNED}'>javascript:{OWNED}</a>",
    f"{{{{ ''.__class__ }}}} {{% include 'x' %}} ${{{OWNED}}} <!--",
    "=cmd|' /C calc'!A0",
    "@SUM(1)\t\r\n=1+1",
    "\u202egnp.evil \u2066x\u2069 \u200b",
    "letter, NUL \0, escape \x1b]0;owned\x07, end \u2028 of line",
    "\\input{/etc/passwd} \\write18{touch owned} $\\frac{$ & % # _ ^ ~",
    "[a](javascript:alert(1)) ![b](x) `c` | d | <e>",
    "long " + "x" * 10_000,
)
NAMES = tuple(f"{index} {text}" for index, text in enumerate(TEXTS))


def texts_everywhere(folder, index: int, classes) -> None:
    """Make a run whose record and tables hold the texts wherever a text is possible."""
    text = NAMES[index % len(NAMES)]
    make_run(folder, seed=1, choices={"model": f"{index} {text}", "experiment": text}, settings={f"a.b{text}": text},
             overrides=(f"x={text}",), classes=classes, n={"val": 26, "test": 26}, epochs=3,
             data={"name": text, "fingerprint": "d", "root": "/etc"},
             run={"name": text, "command": text, "device": text, "warnings": list(NAMES), "git_commit": text,
                  "versions": {text: text}, "started_at": text})  # fmt: skip
    change_record(folder, model={"name": text, "weights": text})


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    for index in range(3):
        texts_everywhere(root / "runs" / f"{index}", index * 4, NAMES)
    for index, text in enumerate(NAMES):
        make_run(root / "runs" / f"failed{index}", status="failed", reason=text, run={"name": text}, epochs=0)
        (root / "runs" / f"odd{index}").mkdir()
        (root / "runs" / f"odd{index}" / "result.json").write_text(json.dumps({"schema": text}))
    return write_report(str(root / "runs"), title=" ".join(TEXTS[:3]))


@pytest.fixture(scope="module")
def page(written):
    return Parsed(written.page.read_text(encoding="utf-8"))


def test_on_the_page_they_are_text(page):
    assert (page.open, page.wrong) == ([], [])
    assert page.count("script") == page.count("title") == page.count("h1") == 1
    assert page.count("img") == page.count("iframe") == 0
    hrefs = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert hrefs and all(re.fullmatch(r"\./(failed)?\d+/", href) for href in hrefs)  # folders, by their own names
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert not any(
            "javascript:" in (attributes.get(name) or "") for name in ("href", "src", "xlink:href", "action")
        )
    words = page.words()
    for text in TEXTS[:7]:
        assert " ".join(text.split()) in words, text
    assert "x" * 1900 in words and "x" * 2000 not in words
    assert not set(words) & set("\0\x1b\u202e\u2066\u2069\ud800\x07")


def test_in_the_other_files_they_are_text(written):
    folder = written.page.parent
    for cell in (cell for row in csv.reader(io.StringIO((folder / "table.csv").read_text())) for cell in row):
        number = cell.lstrip("+-").replace(".", "", 1).replace("e-", "", 1).isdigit()
        assert not cell.lstrip().startswith(("=", "+", "-", "@")) or number or cell == "-", cell
    latex = (folder / "table.tex").read_text()
    for command in ("\\input", "\\write18", "\\frac"):
        assert command not in latex
    for line in latex.splitlines():
        assert line.startswith("%") or line.replace("\\$", "").count("$") % 2 == 0
    markdown = (folder / "report.md").read_text()
    assert "<script" not in markdown and "<img" not in markdown and not re.search(r"(?<!\\)\]\(", markdown)
    for name in ("report.html", "report.md", "table.csv", "table.tex", "methods.md"):
        assert not set((folder / name).read_text()) & set("\0\x1b\u202e\u2066\u2069\x07")


@pytest.mark.thorough
@needs_chromium
def test_in_chromium_nothing_of_it_runs(written):
    for without_policy in (False, True):  # the page's policy forbids scripts; without it only the escaping holds
        with in_chromium(written.page, bypass_csp=without_policy) as (page, requests, messages):
            page.evaluate("document.querySelectorAll('table.main th button').forEach(button => button.click())")
            assert page.evaluate("document.owned") is None
            assert page.evaluate("document.querySelectorAll('script').length") == 1
            assert (messages, requests) == ([], [written.page.as_uri()])
            assert page.evaluate("document.documentElement.scrollWidth") <= 1280
            page.set_viewport_size({"width": 390, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth") <= 390


def name_one_image(folder, path: str, own: str) -> None:
    """Replace every image of the run's tables by this one, each wrong."""
    for name in ("predictions.csv", "predictions_val.csv"):
        rows = read_csv(folder / name)
        write_csv(folder / name, list(rows[0]), [row | {"path": path, "fingerprint": own} for row in rows])


@pytest.mark.parametrize("case", ["no image", "guessed", "above", "absolute", "link", "device", "seen"])
def test_a_report_shows_no_file_that_a_record_names_blindly(tmp_path, case):
    private = tmp_path / "private"
    private.mkdir()
    Image.new("RGB", (8, 8), "red").save(private / "me.png")
    (private / "passwd").write_text("root:x:0:0")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link.png").symlink_to(private / "me.png")
    own = fingerprint(open_image(private / "me.png"))
    root, path, claimed = {
        "no image": (private, "passwd", own),
        "guessed": (private, "me.png", "0" * 16),
        "above": (tmp_path / "root", "../private/me.png", own),
        "absolute": (tmp_path / "root", str(private / "me.png"), own),
        "link": (tmp_path / "root", "link.png", own),
        "device": ("/dev", "zero", own),
        "seen": (private, "me.png", own),
    }[case]
    run = make_run(tmp_path / "run", accuracy=0.1, epochs=0, data={"root": str(root)}, n={"val": 8, "test": 8})
    name_one_image(run, path, claimed)
    text = write_report(str(run)).page.read_text()
    assert ("data:image/jpeg;base64," in text) == (case == "seen")
    assert "root:x:0:0" not in text and base64.b64encode(b"root:x:0:0").decode()[:12] not in text


def test_records_that_would_fill_the_memory_or_name_a_folder_elsewhere(tmp_path):
    run = make_run(tmp_path / "run", epochs=0)
    usual = json.loads((run / "result.json").read_text())
    for record, words in (
        (usual | {"x": "y" * 17 * 2**20}, "more than 16 MiB"),
        (usual | {"run": usual["run"] | {"config_hash": "../../../home"}}, "run.config_hash"),
        (usual | {"run": usual["run"] | {"seed": 10**30}}, "a number of more than 64 bits"),
    ):
        (run / "result.json").write_text(json.dumps(record))
        with pytest.raises(ValueError, match=rf"result\.json: .*{words}"):
            RunRecord.read(run)
    for text, words in (
        ("[" * 100_000, "not a whole record"),
        (json.dumps(usual)[:-1] + ', "x": NaN}', "not a whole record"),
    ):
        (run / "result.json").write_text(text)
        with pytest.raises(ValueError, match=words):
            load_runs(find_records(str(run)))
    shutil.rmtree(run)
