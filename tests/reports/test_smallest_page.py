"""The page of the smallest network: whole, self-contained, nobody is missing; what is not drawn is counted; in a browser."""

import functools
import re

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from common.smallest_record import COSTS
from reports import svg
from reports.smallest_page import card_section, make_page, write_page
from tests.support.fake_smallest import ALL, measured, smallest_record, train
from tests.support.helpers import in_chromium, needs_chromium
from tests.support.parsed_html import Parsed

DRAW = svg.smallest
DOT = re.compile(r'<use xlink:href="#(\w+)"')


@functools.cache
def page(name: str) -> str:
    return make_page(ALL[name]())


@functools.cache
def parsed(name: str) -> Parsed:
    return Parsed(page(name))


@pytest.fixture(autouse=True, scope="module")
def each_figure_is_drawn_once():
    """Most tests are about the words beside the same figure, which takes most of a page's time."""
    drawn = {}

    def remembered(found, narrow=False):
        key = repr((found, narrow))
        if key not in drawn:
            drawn[key] = DRAW(found, narrow)
        return drawn[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(svg, "smallest", remembered)
        yield


SOME = ("shown", "two_costs", "exported")


@pytest.mark.parametrize(
    "name", [*SOME, *(pytest.param(each, marks=pytest.mark.thorough) for each in ALL if each not in SOME)]
)
def test_every_page_is_whole_needs_nothing_and_has_every_candidate_in_a_table(name):
    found = parsed(name)
    assert (found.open, found.wrong) == ([], [])
    for tag, attributes in found.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")
        assert "src" not in attributes and not any(each.startswith("on") for each in attributes)
        for link in ("href", "xlink:href"):
            assert attributes.get(link, "#").startswith("#")
    policy = next(a["content"] for t, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and found.count("script") == 1 and found.count("h1") == 1
    record = ALL[name]()
    front = len(record.front) + 1 if record.front else 0
    exported = sum(each.deployed is not None for each in record.candidates)
    front += exported + 1 if exported else 0
    heads = sum(a.get("class") == "main cards" for tag, a in found.tags if tag == "table")
    assert found.count("tr") == len(record.candidates) + heads + front


def test_the_seeds_are_those_of_the_runs():
    for folds, seeds in ((None, "1, 2 and 3"), (4, "1")):
        record = smallest_record()
        record.question.seeds, record.data["folds"] = [1, 2, 3], folds
        text = [data.strip() for _, data in Parsed(make_page(record)).text if data.strip()]
        assert text[text.index("seeds") + 1] == seeds


@pytest.mark.thorough
def test_a_test_value_of_an_earlier_answer_is_named_as_such():
    """Another budget chose a runner-up; its test value stays in the folder."""
    record = smallest_record()
    assert "Earlier answers" not in make_page(record)
    opened = [each for each in record.candidates if each.trained and each.stage == "final" and not each.trained.test]
    assert len(opened) == 1
    opened[0].trained.test = measured(0.932, 445)
    note = "Earlier answers in this folder evaluated them for #5; that played no part in this choice."
    assert note in Parsed(make_page(record)).words() and note.replace("#", "\\#") in card_section(record)


@pytest.mark.parametrize(("n", "words"), [
    (346, "Probes and finals predict each image of train and validation once, in 4 folds; the race uses one fold;"),
    (87, "Probes predict each image of train and validation once, in 4 folds; the race uses one fold, and the table says "
     "how many images the finals use;"),
])  # fmt: skip
def test_finals_of_fewer_folds_do_not_predict_each_image(n, words):
    record = ALL["folds"]()  # 260 training and 86 validation images
    for each in record.candidates:
        if each.stage == "final":
            each.trained.val = measured(0.93, n)
    assert words in make_page(record)


def test_the_files_of_the_finalists_have_a_table_with_what_they_cost():
    words = parsed("exported").words()
    _, _, table = words.partition("Exported files: onnx_int8")
    chosen, _, reference = table.partition("the reference")
    for part in (
        "0.930 0.902 to 0.951",
        "0.004 -0.002 to 0.010",
        "within 0.01",
        "3.1e-02",
        "3 of 444",
        "420 KiB",
        "2.1 ms",
    ):
        assert part in chosen, chosen
    assert "no file: KeyError: <b>no operator</b>" in reference
    assert "Exported files" not in parsed("shown").words()
    assert "costs 0.004 (-0.002 to 0.010): within 0.01" in card_section(ALL["exported"]())


def test_the_answer_comes_first_and_everything_else_follows():
    found = parsed("shown")
    words = found.words()
    for part in (
        "Which is the smallest network that is good enough on solar?", "Screened 312 networks, trained 14 runs, 18 min 01 s.",
        "Smallest network that is good enough: mobilenet_v3_small cut after features.8, 128 px.", "Chosen on validation,",
        "Accuracy and MACs", "trained in the race", "the margin, 0.02 below the reference", "All values are of validation",
        "What was trained", "stopped early after epoch 4, behind by accuracy and cost: ", "The 303 other networks", "Use it",
        "python export.py ckpt=outputs/smallest/solar/best.ckpt", "asked for", "pretrained", "AMD EPYC 7B13, 2 cores",
        "race 8 min 40 s", "python smallest.py 'datamodule.root=my images' budget.minutes=30",
    ):  # fmt: skip
        assert part in words, part
    assert words.index("Smallest network that") < words.index("122k parameters") < words.index("Accuracy and MACs")


def test_groups_of_images_are_named_since_they_widen_the_intervals():
    record = smallest_record()
    assert "groups" not in Parsed(make_page(record)).words()
    record.data["n_groups"] = 37
    words = Parsed(make_page(record)).words()
    assert "445 test images; 37 groups of images, which intervals take into account" in words


@pytest.mark.parametrize(("n_finalists", "target", "why"), [
    (2, None, "divided by the number of candidates"), (1, 0.9, "divided by the number of candidates"),
    (1, None, "halved, because the trained networks, which are tested as well, could have given the answer"),
    (0, 0.9, "halved, because"),
])  # fmt: skip
def test_the_page_says_why_a_bound_on_settings_holds_at_more_than_95_percent(n_finalists, target, why):
    record = smallest_record(target=target)
    record.answer.n_finalists = n_finalists
    assert f"The bound on settings holds at 97.5%: 5% is {why}" in Parsed(make_page(record)).words()
    record.answer.test.level = 0.05
    assert "The bound on settings holds" not in Parsed(make_page(record)).words()


def test_seconds_of_earlier_commands_are_not_charged_to_the_budget_of_the_last_one():
    record = smallest_record()
    assert "choice and proof 41.0 s (budget 30 min)" in Parsed(make_page(record)).words()
    record.earlier_s = 1000.0
    words = Parsed(make_page(record)).words()
    assert "41.0 s (16 min 40 s of this in earlier commands; budget of the last command 30 min)" in words
    assert "18 min 01 s with earlier commands" in words


def test_hostile_names_are_text():
    found = parsed("limited")
    for name in (
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(2)>',
        "<b>mine</b>",
        "<i>offline</i>",
        "alert(3)",
    ):
        assert name in found.words()
    record = smallest_record()
    record.candidates[record.answer.chosen].backbone = '"><script>alert(1)</script>\u4e2d &'
    found = Parsed(make_page(record))
    assert found.count("script") == 1 and (found.open, found.wrong) == ([], [])


def test_which_weights_were_pretrained_and_what_was_skipped():
    words = parsed("limited").words()
    assert "random weights lcnet_050 and tinynet_e" in words and "edgenext_xx_small: torchvision IMAGENET1K_V1" in words
    assert "Skipped, replaced or cut off tinynet_e: no pretrained weights" in words
    assert (
        "latency up to 5 ms; file size up to 4 MiB" in words
        and "excluded: file" in words
        and "0.486 ms unreliable" in words
    )


@pytest.mark.parametrize("name", ["shown", "limited", "target"])
def test_what_is_not_drawn_is_counted(name):
    record = ALL[name]()
    note = re.search(r"Not drawn: ([^.]*(?:\.\d[^.]*)*)\.<", page(name)).group(1)
    left_out = sum(int(n) for n in re.findall(r"(\d+) (?:excluded|not screened|without|with a probe)", note))
    wide = page(name).split('<figure class="narrow-one">')[0]
    drawing = wide[wide.index("<svg viewBox") :]
    dots = set(re.findall(r'<path id="(\w+)" d="M 0 1\.2', drawing))  # of radius 1.2
    assert sum(marker in dots for marker in DOT.findall(drawing)) == len(record.candidates) - left_out


def test_two_costs_have_two_figures_and_a_table_of_the_front():
    found = parsed("two_costs")
    labels = [a["aria-label"] for tag, a in found.tags if tag == "svg" and "aria-label" in a]
    assert len(labels) == 4 and "over MACs" in labels[0] and "over peak activations" in labels[2]
    assert "The front of both costs" in found.words()


@pytest.mark.parametrize(
    "cost", [pytest.param(each, marks=[pytest.mark.thorough] * (each != "macs")) for each in COSTS]
)
def test_the_names_of_the_axes_are_not_cut_off(cost, monkeypatch):
    figures = []
    monkeypatch.setattr(svg, "smallest", DRAW)
    monkeypatch.setattr(svg, "to_svg", lambda figure, words: figures.append(figure) or "<svg></svg>")
    make_page(smallest_record(cost=(cost,)))
    assert len(figures) == 2  # one for a phone
    for figure in figures:
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw_without_rendering()
        for label in (figure.axes[0].xaxis.label, figure.axes[0].yaxis.label):
            box = label.get_window_extent(renderer)
            assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1, (
                label.get_text()
            )


def test_the_figure_is_described():
    label = next(a["aria-label"] for tag, a in parsed("shown").tags if "aria-label" in a and tag == "svg")
    assert label.startswith(
        "Accuracy on validation over MACs on a logarithmic axis: 312 probes and 9 trained networks; chosen:"
    )
    assert "mobilenet_v3_small cut after features.8, 128 px: 0.933 with MACs 5.47M" in label
    assert "a band reaches 0.02 below" in label and "the target is 0.9" in page("target")


def test_a_network_that_collapsed_does_not_flatten_the_figure():
    record = smallest_record()
    index = next(i for i, each in enumerate(record.candidates) if each.trained and each.stage == "raced")
    train(record, index, val=None, stage="raced", ended="failed", reason="loss is NaN")
    other = next(i for i, each in enumerate(record.candidates) if each.trained and each.stage == "raced" and i != index)
    record.candidates[other].trained.val.value = 0.1
    words = Parsed(make_page(record)).words()
    assert "1 trained with a value below 0.68" in words and "failed loss is NaN; 1 run" in words


def test_the_page_is_written_beside_the_record(tmp_path):
    record = ALL["only_one"]()
    record.write(tmp_path)
    written = write_page(type(record).read(tmp_path), tmp_path)
    assert written == tmp_path / "report.html" and written.read_text(encoding="utf-8") == page("only_one")


def test_the_section_of_the_card():
    section = card_section(ALL["limited"]())
    assert section.startswith("## How it was chosen\n") and section.endswith("\n")
    assert (
        "confirmed on test: accuracy 0.931" in section
        and "| 1 | mobilenet\\_v3\\_small cut after features.8 (chosen)" in section
    )
    assert "<" not in section and "Screened 233 networks" in section


@needs_chromium
@pytest.mark.thorough
@pytest.mark.parametrize("name", ["shown", "limited"])
def test_in_a_browser_it_fits_wide_and_on_a_phone(name, tmp_path):
    file = write_page(ALL[name](), tmp_path)
    for width in (1280, 390):
        with in_chromium(file) as (shown, requests, messages):
            shown.set_viewport_size({"width": width, "height": 844})
            assert shown.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
            boxes = shown.evaluate(
                """[...document.querySelectorAll('figure svg')].filter(svg => svg.getBoundingClientRect().width).map(svg => ({
                     svg: svg.getBoundingClientRect(),
                     names: [...svg.querySelectorAll('text')].filter(t => / px|^features/.test(t.textContent)).map(
                       t => t.getBoundingClientRect())}))"""
            )
            assert len(boxes) == 1 and len(boxes[0]["names"]) >= 2
            svg, names = boxes[0]["svg"], boxes[0]["names"]
            for i, a in enumerate(names):
                assert svg["left"] <= a["left"] and a["right"] <= svg["right"] + 1 and svg["top"] <= a["top"]
                for b in names[:i]:
                    overlap = min(a["bottom"], b["bottom"]) - max(a["top"], b["top"])
                    assert overlap < 0.4 * a["height"] or a["right"] < b["left"] or b["right"] < a["left"]
            shown.click("th:has-text('validation') button")
            first = shown.inner_text("table.main tbody tr:first-child td:nth-child(2)")
            assert first.startswith("shufflenet_v2_x0_5 cut after features.5")  # the least accurate one
            assert len(requests) == 1 and messages == []
