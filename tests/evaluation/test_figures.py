"""Figures that are laid out once look as if they were laid out each time."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from common.run_record import Decision
from evaluation import figures
from evaluation.calibration import risk_coverage
from evaluation.figures import calibration, confusion_matrix, draw_confusion, figure_pixels


def test_further_confusion_matrices_of_the_same_classes_have_the_same_pixels(monkeypatch):
    drawn = {"few": ([[5, 3], [2, 6]], ["blue", "red"]), "many": ([[8000, 0], [1234, 7]], ["blue", "red"])}
    drawn["other"] = [[1, 0], [0, 1]], ["a class with a long name", "b"]
    drawn["bar"] = np.eye(7, dtype=int).tolist(), [f"class {number}" for number in range(7)]
    with monkeypatch.context() as patch:
        patch.setattr(figures, "_place_as_before", lambda *_: None)
        each_by_itself = {name: figure_pixels(confusion_matrix(*given)) for name, given in drawn.items()}
    for name in ("few", "many", "few", "bar", "other", "many", "bar"):
        assert np.array_equal(figure_pixels(confusion_matrix(*drawn[name])), each_by_itself[name]), name


def test_names_that_begin_alike_differ_in_the_confusion_matrix():
    names = ["Mitrocoma cellularia, a young one", "Mitrocoma cellularia, an old one", "x"]
    axes = confusion_matrix([[3, 1, 0], [0, 4, 0], [0, 0, 2]], names).axes[0]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        shown = [label.get_text() for label in labels]
        assert len(set(shown)) == 3 and all(len(text) <= 24 for text in shown)
        assert "young" in shown[0] and "old" in shown[1] and shown[2] == "x"


def test_more_classes_than_names_fit_are_numbered_by_whole_numbers():
    for k in (21, 25, 61, 150):
        figure = Figure()
        axes = figure.subplots()
        draw_confusion(axes, np.eye(k, dtype=int), ["x"] * k, with_shares=False, most_written=0, most_named=20)
        figure.draw_without_rendering()
        for axis in (axes.xaxis, axes.yaxis):
            texts = [label.get_text() for label in axis.get_ticklabels()]
            assert len(texts) > 3 and all(text.lstrip("\N{MINUS SIGN}").isdecimal() for text in texts), texts


@pytest.mark.parametrize("right", [0.1, 0.3, 0.5, 0.95])
def test_the_legend_of_selective_prediction_does_not_hide_the_curve(right):
    generator = np.random.default_rng(0)
    labels, probabilities = generator.integers(0, 60, 200), generator.dirichlet(np.ones(60), 200)
    largest, rows = probabilities.argmax(axis=1), np.arange(200)
    labels = np.where(generator.random(200) < right, largest, labels)
    decision = Decision(temperature=1.0, target_accuracy=0.95, confidence=None)
    figure = calibration(labels, probabilities, "test", decision)
    axes = figure.axes[1]
    legend = axes.get_legend().get_window_extent(FigureCanvasAgg(figure).get_renderer())
    coverage, accuracy = risk_coverage(labels, probabilities)
    assert len(coverage) > 100 and probabilities[rows, largest].max() < 1
    assert not any(
        legend.contains(*point) for point in axes.transData.transform(np.stack([coverage, accuracy], axis=1))
    )
