"""The page: whole, self-contained, hostile texts as text; curves, top losses and thumbnails."""

import base64
import hashlib

import numpy as np
import pytest
from PIL import Image

from common.atomic_io import write_csv
from common.run_record import Latency
from datamodules.decode import fingerprint, open_image
from reports import page as page_module
from reports.report import write_report
from tests.support.fake_runs import change_record, judged, make_run
from tests.support.helpers import in_chromium, needs_chromium, read_csv
from tests.support.parsed_html import Parsed

HOSTILE = ("<script>alert(1)</script>", "=cmd()", '"><img src=x onerror=alert(2)>')


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Three networks and three seeds, hostile class names, a failed run, a damaged one, missing images; and its page."""
    root = tmp_path_factory.mktemp("sweep")
    images = root / "images"
    (images / "0" / "test").mkdir(parents=True)
    own = {}
    for index in range(0, 80, 2):  # every other one is missing
        path = images / "0" / "test" / f"{index:05}.png"
        Image.fromarray(np.full((20, 30, 3), index * 3, np.uint8)).save(path)
        own[f"0/test/{path.name}"] = fingerprint(open_image(path))
    costs = {"small": (4e7, 1.4e5, 5.7), "middle": (4e8, 2e6, 13), "large": (5e9, 2e7, 74)}
    for index, (model, cost) in enumerate(costs.items()):
        for seed in (1, 2, 3):
            make_run(root / "runs" / f"model-{model}_seed-{seed}", seed=seed, choices={"model": model}, cost=cost,
                     accuracy=0.7 + 0.08 * index, classes=HOSTILE, data={"root": str(images)})  # fmt: skip
    for table in (root / "runs").glob("*/predictions.csv"):
        rows = read_csv(table)
        write_csv(
            table, list(rows[0]), [row | {"fingerprint": own.get(row["path"], row["fingerprint"])} for row in rows]
        )
    (root / "runs" / "model-small_seed-1" / "metrics.csv").unlink()
    table = root / "runs" / "model-small_seed-2" / "metrics.csv"
    table.write_text(table.read_text()[:-20])
    logged = {"warnings": ["odd: 1 image", "failed: <b>no memory</b>"]}
    make_run(
        root / "runs" / "failed", status="failed", reason="<b>no memory</b>", choices={"model": "huge"}, run=logged
    )
    (root / "runs" / "odd").mkdir()
    (root / "runs" / "odd" / "result.json").write_text("{")
    written = write_report(str(root / "runs"))
    return root, written.page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parsed(sweep):
    return Parsed(sweep[1])


def test_the_page_is_whole_and_needs_nothing(parsed):
    assert (parsed.open, parsed.wrong) == ([], [])
    for tag, attributes in parsed.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert not attributes.get("src", "data:").partition("data:")[0], (tag, attributes)
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "./"))  # no scheme, no host
    policy = next(a["content"] for t, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_hostile_names_are_text(parsed):
    assert parsed.count("script") == 1
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)
    assert all(name in parsed.words() for name in HOSTILE)
    assert parsed.words().count("<b>no memory</b>") == 1 and "odd: 1 image" in parsed.words()


def test_the_only_script_is_allowed_by_its_hash(parsed):
    (script,) = [data for tag, data in parsed.text if tag == "script"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert any(f"script-src 'sha256-{digest}'" in (a.get("content") or "") for _, a in parsed.tags)


def test_the_page_has_all_of_its_parts(parsed):
    words = parsed.words()
    for part in (
        "Which model?", "9 of 10 runs finished, 1 failed, 1 record excluded.", "Excluded", "Reproduce",
        "The best by validation is model=large:",
        "Selection bias: the best of 3", "Top losses", "Not finished", "not a whole record",
        "python train.py -m seed=1,2", "0000000000000000000000000000000000000000", "d1", "200 train, 60 val, 80 test",
        "metrics.csv is missing in model-small_seed-1", "model-small_seed-2/metrics.csv: cut off in its last line",
        "Lines are means over seeds", "Holm-corrected for 2 comparisons", "the image is missing",
    ):  # fmt: skip
        assert part in words, part
    assert parsed.count("h1") == 1
    labels = [a["aria-label"] for tag, a in parsed.tags if tag == "svg" and "aria-label" in a]
    assert len(labels) == 8  # five over epochs, three of cost
    images = [a["src"] for tag, a in parsed.tags if tag == "img"]
    assert 1 <= len(images) < 12


def test_drawings_take_their_colors_from_the_page(sweep):
    drawings = sweep[1].split('<div class="drawings">', 1)[1]
    for color in ("#010203", "#a1a2a3", "#f1f2f3"):
        assert color not in sweep[1]
    assert "currentColor" in drawings and "DejaVu" not in drawings


def test_many_rows_are_capped_in_the_drawings(tmp_path):
    for row in range(23):
        make_run(tmp_path / f"r{row}", choices={"model": f"m{row}"}, n={"val": 8}, cost=(1e6 + row, 1e5, 3), epochs=2)
    page = write_report(str(tmp_path)).page.read_text()
    assert "The best 20 of 23 are drawn." in page
    assert page.count("<tr") > 23


def test_curves_that_hide_each_other_are_drawn_once_and_named(tmp_path):
    for name, accuracy in (("a", 0.9), ("b", 0.6)):
        make_run(tmp_path / name, choices={"model": name}, accuracy=accuracy, epochs=3)
    page = Parsed(write_report(str(tmp_path)).page.read_text())
    titles = [text for tag, text in page.text if tag == "text" and "the same for all" in text]
    assert titles == ["Learning rate, the same for all"]  # fake runs share their schedule, but no other metric


def test_of_many_rows_the_cheap_ones_of_the_front_are_drawn_too(tmp_path):
    for row in range(22):  # of one cost, the first of them on the front
        make_run(tmp_path / f"r{row}", choices={"model": f"m{row}"}, accuracy=0.9, cost=(8e6, 8e5, 8), epochs=0)
    make_run(tmp_path / "small", choices={"model": "small"}, accuracy=0.7, cost=(2e6, 2e5, 2), epochs=0)
    make_run(tmp_path / "beaten", choices={"model": "beaten"}, accuracy=0.6, cost=(3e6, 3e5, 3), epochs=0)
    page = Parsed(write_report(str(tmp_path)).page.read_text())
    legend = [text for tag, text in page.text if tag == "li" and "model=" in text]
    assert "The best 20 of 24 and all on the front are drawn." in page.words()
    assert "All rows cost the same" not in page.words()
    drawn = [a["aria-label"] for tag, a in page.tags if tag == "svg" and "points" in a.get("aria-label", "")]
    assert [label.split(": ")[1].split()[0] for label in drawn] == ["21"] * 3
    assert any("model=small" in text for text in legend) and not any("model=beaten" in text for text in legend)


def test_runs_on_other_images_have_a_warning_and_tables_of_their_own(tmp_path):
    for name in ("d1", "d2"):
        make_run(tmp_path / name, choices={"model": name}, data={"fingerprint": name, "name": name}, epochs=0)
    page = Parsed(write_report(str(tmp_path)).page.read_text())
    assert "on 2 different sets of images or splits" in page.words() and "2 runs in 2 groups" in page.words()
    assert sum(a.get("class") == "main cards" for tag, a in page.tags if tag == "table") == 2


def test_what_is_not_drawn_of_many_data_sets_and_of_many_costs_is_named(tmp_path):
    for name in range(5):
        make_run(tmp_path / "data" / f"d{name}", data={"fingerprint": f"d{name}"}, n={"val": 8}, epochs=0)
    words = Parsed(write_report(str(tmp_path / "data")).page.read_text()).words()
    assert "Figures are drawn for the first 4 only; for those of another, make a page of its runs." in words
    for row in range(23):
        make_run(tmp_path / "costs" / f"r{row}", choices={"model": f"m{row}"}, n={"train": 1}, cost=(1e6 + row, 1e5, 3))
    page = Parsed(write_report(str(tmp_path / "costs")).page.read_text())
    drawn = [a for tag, a in page.tags if tag == "g" and a.get("class") == "tip"]
    assert len(drawn) % 20 == 0 and len(drawn) > 0
    assert "The 20 with the fewest MACs of 23 are drawn." in page.words()


def test_equal_rows_come_by_their_settings_and_unknown_costs_are_not_the_same(tmp_path):
    """Whichever job of a sweep started first was the best of equal ones, and 16 came before 8."""
    for second, (rate, size) in enumerate(((0.01, 8), (1e-5, 16), (1e-5, 8), (0.001, 128))):
        settings = {"optimizer.lr": rate, "datamodule.batch_size": size}
        make_run(tmp_path / f"lr-{rate}_batch_size-{size}", settings=settings, n={"val": 40}, cost=None, epochs=0,
                 wrong={"val": {1, 2}}, run={"started_at": f"2026-01-01T00:00:0{second}+00:00"})  # fmt: skip
    (group,) = judged(tmp_path).groups
    assert [row.name for row in group.rows] == [
        "lr=1e-05 batch_size=8", "lr=1e-05 batch_size=16", "lr=0.001 batch_size=128", "lr=0.01 batch_size=8"
    ]  # fmt: skip
    assert [row.rank for row in group.rows] == [1, 2, 3, 4]
    assert "All rows cost the same" not in write_report(str(tmp_path)).page.read_text()


def test_a_disturbed_latency_is_neither_drawn_nor_on_the_front(tmp_path, monkeypatch):
    drawn, usual = {}, page_module.accuracy_figure

    def draw(title, points, front, *others):
        drawn[title] = {point.cost for point in points}, {point.cost for point in points if point.rank in front}
        return usual(title, points, front, *others)

    monkeypatch.setattr(page_module, "accuracy_figure", draw)
    flag = "other processes used 1.6 of 2 cores"
    for name, milliseconds in (("a", 5.0), ("b", 9.0), ("c", 0.1)):
        folder = make_run(
            tmp_path / name, choices={"model": name}, cost=(1e6 * milliseconds, 1e5, milliseconds), epochs=0
        )
        if name == "c":
            change_record(folder, model={"latency": [Latency(batch_size=1, latency_p50_ms=milliseconds, flag=flag)]})
    (group,) = judged(tmp_path).groups
    assert {row.name: row.latency_p50_ms for row in group.rows} == {"model=a": 5.0, "model=b": 9.0, "model=c": None}
    page = Parsed(write_report(str(tmp_path)).page.read_text())
    assert (
        f"1 of 3 latency measurements cannot be relied on and is excluded from the table and the figure ({flag})"
        in (page.words())
    )
    assert drawn["Accuracy and MACs"][0] == {1e5, 5e6, 9e6} and drawn["Accuracy and latency"][0] == {5.0, 9.0}
    assert drawn["Accuracy and latency"][1] <= {5.0, 9.0}
    single = Parsed(write_report(str(tmp_path / "c"), out=str(tmp_path / "of_c")).page.read_text())
    assert f"The latency cannot be relied on and is excluded from the table ({flag})" in single.words()


def test_a_finished_run_without_a_row_of_its_own_has_finished(tmp_path):
    for name, day in (("a", 1), ("b", 2)):
        make_run(tmp_path / "runs" / name, run={"started_at": f"2026-01-0{day}"})
    page = write_report(str(tmp_path / "runs")).page.read_text()
    assert "2 of 2 runs finished, 1 record excluded." in page


def test_only_failed_runs_make_a_page(tmp_path):
    names = ", ".join(f"train/cat/{n:08}.png" for n in range(16))
    make_run(tmp_path / "a", status="failed", reason=f"broken; use less. Images: {names}")
    words = Parsed(write_report(str(tmp_path)).page.read_text()).words()
    assert words.startswith("No finished run") and "How good" not in words
    assert "No run has finished" in words and "broken; use less. Images: train/cat/00000000.png" in words
    assert "00000015.png" not in words  # names of a sweep's failed runs would fill its screen


@needs_chromium
def test_the_page_in_chromium(sweep):
    page_file = sweep[0] / "runs" / "report.html"
    with in_chromium(page_file) as (page, requests, messages):
        ranks = "[...document.querySelectorAll('table.main tbody tr')].map(r => r.cells[0].textContent.trim())"
        assert page.evaluate(ranks) == ["1", "2", "3"]
        head = page.locator("table.main th", has_text="MACs")
        head.locator("button").click()
        assert (head.get_attribute("aria-sort"), page.evaluate(ranks)) == ("ascending", ["3", "2", "1"])
        page.keyboard.press("Enter")
        assert (head.get_attribute("aria-sort"), page.evaluate(ranks)) == ("descending", ["1", "2", "3"])
        assert page.locator("table.main th[aria-sort]").count() == 1
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        hint = page.get_by_text("Hover over a dot")
        assert hint.is_visible()
        page.emulate_media(media="print")
        assert not hint.is_visible() and page.get_by_text("accuracy with its 95% interval").is_visible()
        assert [url for url in requests if not url.startswith("data:")] == [page_file.as_uri()] and messages == []


def test_long_class_names_without_spaces_may_break_behind_marks(tmp_path):
    classes = ("Solmaris_bitentaculata_with_copepod", "-<b>dog.1")
    make_run(tmp_path / "a", classes=classes, n={"test": 20}, wrong={"test": {0, 1, 3}}, epochs=0)
    page = write_report(str(tmp_path)).page.read_text()
    long = "Solmaris_<wbr>bitentaculata_<wbr>with_<wbr>copepod"
    other = "-&lt;b&gt;dog.1"
    for name in (long, other):
        assert f'<th scope="col">{name}</th>' in page and f'<th scope="row">{name}</th>' in page
    assert f"<b>{long}</b>, predicted <b>{other}</b>" in page and "<b>dog" not in page
    make_run(tmp_path / "b", classes=classes, n={"test": 20}, epochs=0, choices={"model": "a_long_<i>name"},
             data={"n_train": 1234})  # fmt: skip
    page = write_report(str(tmp_path)).page.read_text()
    assert "model=a_<wbr>long_&lt;i&gt;name" in page and "1,234 train" in page and "<i>" not in page


@pytest.mark.thorough
@needs_chromium
def test_a_matrix_of_many_classes_with_long_names_breaks_them_between_words(tmp_path):
    classes = tuple(f"a hemisphere with a long name {k:02}" for k in range(12))
    make_run(tmp_path / "a", classes=classes, n={"val": 24, "test": 24}, epochs=0)
    measure = """[...document.querySelectorAll('table.matrix tbody th')].map(header => {
        const word = document.createElement('span'), width = header.clientWidth;
        word.textContent = 'hemisphere', word.style.whiteSpace = 'nowrap';
        header.append(' ', word);
        return [width, word.offsetWidth];
    })"""
    with in_chromium(write_report(str(tmp_path)).page) as (page, _, _):
        widths = page.evaluate(measure)
    assert len(widths) == 12 and all(header >= word for header, word in widths)
