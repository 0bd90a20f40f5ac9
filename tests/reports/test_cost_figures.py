"""Accuracy against cost: the front, where baseline and margin are drawn, labels that do not overlap, costs by themselves."""

import re

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

from reports import cost_figures
from reports.cost_figures import Levels, Point, accuracy_figure, cost_figure, pareto_front
from reports.report import write_report
from tests.support.fake_runs import make_run
from tests.support.helpers import in_chromium, needs_chromium
from tests.support.parsed_html import Parsed

TICK = re.compile(
    r'y="([\d.]+)" style="fill: var\(--grid\)[^>]*>\s*</g>\s*</g>\s*<g>\s*<text[^>]*text-anchor: end[^>]*>([\d.]+)<'
)


def points(*of):
    """Points of (accuracy, cost), named keep=1, keep=2, ..., with intervals of 0.03 to both sides."""
    return [Point(i, a, a - 0.03, a + 0.03, c, f"keep={i}", f"{i}. <b>") for i, (a, c) in enumerate(of, 1)]


def height_of(drawing):
    """Return where an accuracy is drawn, by the ticks of the axis and their numbers."""
    ticks = np.array([(float(number), float(y)) for y, number in TICK.findall(drawing)])
    assert len(ticks) > 2
    slope, intercept = np.polyfit(*ticks.T, 1)
    return lambda accuracy: pytest.approx(slope * accuracy + intercept, abs=0.05)


def test_pareto_front_by_comparing_all_pairs():
    generator = np.random.default_rng(1)
    points = [Point(i, float(a), None, None, float(c)) for i, (a, c) in enumerate(generator.integers(0, 12, (60, 2)))]
    beaten = {
        p.rank for p in points for q in points
        if q.cost <= p.cost and q.accuracy >= p.accuracy and (q.cost < p.cost or q.accuracy > p.accuracy)
    }  # fmt: skip
    first = {(p.cost, p.accuracy): p.rank for p in reversed(points)}  # of equal ones the first
    assert pareto_front(points) == {
        p.rank for p in points if p.rank not in beaten and first[p.cost, p.accuracy] == p.rank
    }


def test_baseline_margin_and_intervals_are_where_the_axis_has_them():
    drawing = accuracy_figure("T", points((0.8, 1e6), (0.7, 3e6)), {1}, "MACs", Levels(0.8, 0.04, 0.62))
    y = height_of(drawing)
    (line,) = re.findall(r'd="M [\d.]+ ([\d.]+) \nL [\d.]+ ([\d.]+) \n"[^>]*stroke-dasharray: 1,1.5', drawing)
    assert [float(each) for each in line] == [y(0.62), y(0.62)]
    band = re.search(r'd="([^"]*)"[^>]*style="fill: var\(--blue\); opacity: 0.14"', drawing).group(1)
    ends = {float(end) for end in re.findall(r"[ML] [\d.]+ ([\d.]+)", band)}
    assert sorted(ends) == [y(0.8), y(0.76)]
    bars = re.findall(r'd="M ([\d.]+) ([\d.]+) \nL ([\d.]+) ([\d.]+) \n"[^>]*stroke-opacity: 0.6', drawing)
    assert [(float(low), float(high)) for _, low, _, high in bars] == [(y(0.67), y(0.73)), (y(0.77), y(0.83))]
    assert "always the most frequent class: 0.620" in drawing and "keep=1" in drawing and "keep=2" in drawing


def test_a_baseline_far_below_is_an_arrow_and_does_not_flatten_the_points():
    near = accuracy_figure("T", points((0.8, 1e6), (0.7, 3e6)), {1}, "MACs", Levels(0.8, 0.02, 0.01))
    assert "↓ always the most frequent class: 0.010" in near and "stroke-dasharray: 1,1.5" not in near
    assert min(float(number) for _, number in TICK.findall(near)) > 0.5


@pytest.fixture
def drawn(monkeypatch):
    """Keep what the axes are given to draw, by the name of the method."""
    found = {"step": [], "axhline": [], "set_ylim": []}

    def keep(name, usual):
        def kept(self, *given, **options):
            found[name].append(given)
            return usual(self, *given, **options)

        monkeypatch.setattr(Axes, name, kept)

    for name in found:
        keep(name, getattr(Axes, name))
    return found


def test_the_line_joins_the_front_and_nothing_else_by_cost(drawn):
    given = points((0.8, 3e6), (0.7, 1e6), (0.75, 2e6), (0.6, 2.5e6))
    accuracy_figure("T", given, {1, 2, 3}, "MACs", Levels())
    assert drawn["step"] == [([1e6, 2e6, 3e6], [0.7, 0.75, 0.8])]
    accuracy_figure("T", given, {1, 4}, "MACs", Levels())
    assert drawn["step"][1:] == [([2.5e6, 3e6], [0.6, 0.8])]
    drawn["step"].clear()
    accuracy_figure("T", given, {4}, "MACs", Levels())
    assert drawn["step"] == []  # one point has nothing to be joined with


@pytest.mark.parametrize(("target", "is_shown"), [(0.9, True), (0.7, True), (1.0, False), (0.5, False)])
def test_a_target_is_a_line_within_the_heights_that_are_shown_unless_it_lies_far_away(drawn, target, is_shown):
    """Heights are 0.72 to 0.83 of the intervals; a target up to two times that from their middle does not flatten them."""
    accuracy_figure("T", points((0.8, 1e6), (0.75, 3e6)), {1}, "MACs", Levels(target=target))
    assert drawn["axhline"] == [(target,)] * is_shown
    ((low, high),) = (given for given in drawn["set_ylim"] if len(given) == 2)  # matplotlib's own calls give a list
    ends = [0.72, 0.83, *[target] * is_shown]
    span = max(ends) - min(ends)
    assert (low, high) == (pytest.approx(min(ends) - 0.07 * span), pytest.approx(max(ends) + 0.05 * span))


@pytest.mark.parametrize(("n", "baseline"), [(2, 0.3), (5, 0.72), (8, 0.05), (14, 0.6)])
def test_labels_cover_no_point_and_no_other_label_and_points_of_the_front_are_filled(monkeypatch, n, baseline):
    """Measured where the figure is drawn; names up to eight points and ranks above, and one line on the baseline."""
    generator, found = np.random.default_rng(n), []

    def measure(figure, *_):
        (axes,), renderer = figure.axes, FigureCanvasAgg(figure).get_renderer()
        found.append([(text.get_text(), text.get_window_extent(renderer)) for text in axes.texts])
        dots = {int(line.get_gid()[3:]): line for line in axes.lines if (line.get_gid() or "").startswith("tip")}
        ends = [[(p.cost, p.accuracy), (p.cost, p.low), (p.cost, p.high)] for p in given]
        found.append([axes.transData.transform(each) for each in ends])
        found.append({rank for rank, dot in dots.items() if dot.get_markerfacecolor() == dot.get_markeredgecolor()})
        found.append((axes.get_window_extent(renderer), figure.dpi / 72))
        return ""

    monkeypatch.setattr(cost_figures, "to_svg", measure)
    given = points(*zip(generator.uniform(0.7, 0.8, n), np.exp(generator.uniform(13, 15, n)), strict=True))
    front = pareto_front(given)
    accuracy_figure("T", given, front, "MACs", Levels(max(p.accuracy for p in given), 0.02, baseline))
    labels, places, filled, (frame, scale) = found
    assert filled == front
    of_points = [(text, box) for text, box in labels if "always" not in text]
    ((_, of_baseline),) = [label for label in labels if label not in of_points]
    assert len(of_points) >= min(n, 5) and frame.y0 <= of_baseline.y0 < of_baseline.y1 <= frame.y1
    assert {text for text, _ in of_points} <= {name for p in given for name in [p.name] * (n <= 8) + [f"{p.rank}"]}
    for index, (_, box) in enumerate(of_points):
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        assert not any(box.overlaps(other) for other in [of_baseline, *(each for _, each in of_points[:index])])
        for (x, y), (_, bottom), (_, top) in places:  # a dot is 7 points wide, and its edge 1
            assert not box.overlaps(Bbox([[x - 4 * scale, y - 4 * scale], [x + 4 * scale, y + 4 * scale]]))
            assert not box.overlaps(Bbox([[x - scale / 2, bottom], [x + scale / 2, top]]))


def test_the_label_of_the_baseline_does_not_touch_a_name_beside_it(monkeypatch):
    found = []

    def measure(figure, *_):
        (axes,), renderer = figure.axes, FigureCanvasAgg(figure).get_renderer()
        found.extend(text.get_window_extent(renderer) for text in axes.texts)
        return ""

    monkeypatch.setattr(cost_figures, "to_svg", measure)
    names = ("model=simple_cnn", "model=shufflenet_mod")
    values = ((0.1204, 0.0509, 0.19, 0.424), (0.0259, 0.0167, 0.0618, 2.83))
    given = [Point(rank, *value, name) for rank, (value, name) in enumerate(zip(values, names, strict=True), 1)]
    accuracy_figure("T", given, {1}, "ms for one image, median", Levels(0.1204, 0.02, 1 / 60), "validation accuracy")
    baseline, *labels = found
    assert len(labels) == 2 and not any(baseline.padded(6, 0).overlaps(label) for label in labels)


@pytest.mark.parametrize("costs", [(1e6, 1.1e6, 1e9), (9e8, 1e9, 1e6)])
def test_the_baseline_is_labeled_at_the_end_where_fewer_points_are(monkeypatch, costs):
    found = []

    def measure(figure, *_):
        (axes,), renderer = figure.axes, FigureCanvasAgg(figure).get_renderer()
        (label,) = [text for text in axes.texts if "always" in text.get_text()]
        frame, box = axes.get_window_extent(renderer), label.get_window_extent(renderer)
        found.append((box.x0 + box.x1) / 2 > (frame.x0 + frame.x1) / 2)
        return ""

    monkeypatch.setattr(cost_figures, "to_svg", measure)
    accuracy_figure("T", points(*zip((0.71, 0.69, 0.8), costs, strict=True)), {1, 3}, "MACs", Levels(baseline=0.7))
    assert found == [costs[1] < 1e7]  # where the two points beside the line are not


def test_a_tip_is_text():
    drawing = accuracy_figure("T", points((0.8, 1e6), (0.7, 3e6)), {1}, "MACs", Levels())
    assert drawing.count('tabindex="0"') == 2 and "<title>1. &lt;b&gt;</title>" in drawing and "<b>" not in drawing


def test_costs_by_themselves_have_a_point_and_a_number_each():
    drawing = cost_figure("MACs", points((0, 1.5e6), (0, 3e6)), "MACs of one image")
    assert drawing.count('tabindex="0"') == 2 and ">1.5M<" in drawing and ">keep=2<" in drawing


@needs_chromium
@pytest.mark.parametrize("width", [1280, pytest.param(390, marks=pytest.mark.thorough)])
def test_labels_overlap_neither_each_other_nor_a_point(tmp_path, width):
    crowded = points(
        (0.80, 1e6), (0.80, 1.05e6), (0.801, 1.1e6), (0.79, 1.1e6), (0.7, 4e6), (0.71, 4e6), (0.805, 4.1e6)
    )
    drawing = accuracy_figure("T", crowded, pareto_front(crowded), "MACs", Levels(0.805, 0.02, 0.69))
    (tmp_path / "a.html").write_text(f"<meta charset='utf-8'><body style='font-family: sans-serif'>{drawing}")
    with in_chromium(tmp_path / "a.html") as (page, _, _):
        page.set_viewport_size({"width": width, "height": 900})
        labels, dots = page.evaluate(
            """['text', '.tip'].map(what => [...document.querySelectorAll(what)].filter(
                 each => what !== 'text' || /^keep=|always/.test(each.textContent)).map(
                 each => { const b = each.getBoundingClientRect(); return [b.left, b.right, b.top, b.bottom] }))"""
        )
    assert len(labels) >= 6 and len(dots) == 7
    for i, a in enumerate(labels):
        for b in [*labels[:i], *dots]:
            across, down = min(a[1], b[1]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[2], b[2])
            assert across <= 0.5 or down <= 0.35 * (a[3] - a[2])  # a text's box is higher than its letters


def test_only_costs_have_figures_of_costs_and_no_empty_frame(tmp_path):
    for keep in (4, 8):
        make_run(tmp_path / str(keep), settings={"model.keep": keep}, n={"train": 1}, cost=(1e6 * keep, 1e5 * keep, keep),
                 data={"fingerprint": None}, epochs=0)  # fmt: skip
    page = Parsed(write_report(str(tmp_path)).page.read_text())
    titles = [text.strip() for tag, text in page.text if tag == "h3"]
    assert titles == ["Costs", "All rows"] and "not compared" not in page.words()
    drawn = [a["aria-label"] for tag, a in page.tags if tag == "svg" and "aria-label" in a]
    assert drawn == ["MACs of each row", "Parameters of each row", "Latency of each row"]
    assert "The smallest network is keep=4 with 4M multiply-accumulates" in page.words()


def test_where_all_cost_the_same_nothing_is_drawn_against_it(tmp_path):
    for rate in (1e-3, 1e-2):
        make_run(tmp_path / str(rate), settings={"optimizer.lr": rate}, epochs=1)
    page = Parsed(write_report(str(tmp_path)).page.read_text())
    assert "All rows cost the same, so accuracy is not drawn against cost." in page.words()
    assert not [a for tag, a in page.tags if tag == "svg" and "aria-label" in a]  # nor one epoch as a curve
    assert "Over epochs" not in page.words() and "Accuracy and cost" not in page.words()
