"""overview.png: its numbers against arithmetic written out, and folders that lack something."""

import io
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from common.errors import UserError
from common.predictions_csv import Predictions, write_predictions
from common.run_folder import RunFolder
from common.run_record import BestEpoch, RunRecord, write_record
from common.text import format_interval
from datamodules.decode import read_image
from engine.run import evaluate
from evaluation.decision import measure
from evaluation.intervals import wilson
from reports.overview import draw_overview, main, overview
from tests.support.fake_runs import change_record, make_run

# True class, predicted class and probability of the true class: 3 + 1 cats, 1 + 5 dogs
IMAGES = [
    ("cat", 0.9), ("cat", 0.8), ("cat", 0.7), ("cat", 0.3),
    ("dog", 0.05), ("dog", 0.9), ("dog", 0.6), ("dog", 0.7), ("dog", 0.8), ("dog", 0.9),
]  # fmt: skip


def evaluated(folder, labels, probabilities, classes, *, split="test", epochs=12, paths=None, **options) -> RunRecord:
    """Make up a run with these predictions of a split as train.py leaves them."""
    options.setdefault("n", {"val": 60, "test": 80} if split == "test" else {"val": 60})
    make_run(folder, classes=tuple(classes), epochs=epochs, **options)
    record = RunRecord.read(RunFolder(folder))
    record.best = BestEpoch(epoch=min(2, epochs), monitor="val/accuracy", value=0.8, checkpoint="best.ckpt")
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    paths = paths or [f"{i:03}.png" for i in range(len(labels))]
    prints = [
        read_image(folder / path, 32).fingerprint() if (folder / path).is_file() else f"{i:04x}"
        for i, path in enumerate(paths)
    ]
    found = Predictions(prints, labels, probabilities.argmax(1), list(classes), probabilities, paths, record.folder)
    write_predictions(record.folder, split, found)
    setattr(record, split, measure(labels, probabilities, list(classes), None, {}))
    write_record(record)
    return RunRecord.read(record.folder)


def texts(figure) -> list[str]:
    """Return what is written beside the axes, then in them."""
    found = [*figure.texts, *(text for axes in figure.axes for text in axes.findobj(Text))]
    return [text.get_text() for text in found if text.get_text()]


@pytest.fixture
def pets(tmp_path):
    for index in range(len(IMAGES)):
        Image.new("RGB", (40, 20), (10 * index, 0, 200)).save(tmp_path / f"{index:03}.png")
    labels = [("cat", "dog").index(name) for name, _ in IMAGES]
    probabilities = [(p, 1 - p) if name == "cat" else (1 - p, p) for name, p in IMAGES]
    return evaluated(tmp_path, labels, probabilities, ("cat", "dog"), data={"root": str(tmp_path)})


def test_its_numbers_are_those_of_the_predictions(pets):
    figure = draw_overview(pets)
    found = texts(figure)
    low, high = wilson(8, 10)
    assert f"Test accuracy 0.800 (8 of 10, 95% interval {format_interval(low, high)})" in found
    assert found[1].startswith("not shown to be better than always answering 'dog' (0.600) · resnet18 on pets · ")
    assert {"3\n75%", "1\n25%", "1\n17%", "5\n83%"} <= set(found)
    curves, recalls = figure.axes[:2], next(axes for axes in figure.axes if axes.get_title("left").startswith("Recall"))
    assert [tuple(line.get_xdata()) for line in recalls.lines if line.get_marker() == "o"] == [(3 / 4,), (5 / 6,)]
    assert f"mean of all classes (balanced accuracy) {(3 / 4 + 5 / 6) / 2:.3f}" in found
    rows = pets.folder.read_metrics()
    for axes, metric in zip(curves, ("loss", "accuracy"), strict=True):
        by_label = {line.get_label(): line for line in axes.lines}
        for kind in ("train", "val"):
            assert list(by_label[kind].get_ydata()) == [rows[epoch][f"{kind}/{metric}"] for epoch in range(1, 13)]
        assert list(by_label["chosen epoch"].get_xdata()) == [2]
    (baseline,) = (line for line in curves[1].lines if line.get_label().startswith("always "))
    assert baseline.get_label().endswith("(val)") and set(baseline.get_ydata()) == {0.5}  # 30 of 60


@pytest.mark.parametrize(
    ("select_on", "words"), [("val", "only the first result is unbiased"), ("test", "no result is unbiased")]
)
def test_a_second_evaluation_on_test_is_named_with_its_consequence(pets, select_on, words):
    pets.test.test_evaluations, pets.data.select_on = 2, select_on
    (found,) = (text for text in texts(draw_overview(pets)) if "evaluated 2 times" in text)
    assert found.endswith(words)


def test_the_worst_errors_come_first_with_their_images(pets):
    figure = draw_overview(pets)
    found = texts(figure)
    assert found[found.index("dog", found.index("p = 0.95") - 2) :][:4] == ["dog", "→ cat", "p = 0.95", "004.png"]
    assert found.index("p = 0.95") < found.index("p = 0.70") and "p = 0.60" not in found  # the two that are wrong
    colors = [tuple(image.get_array()[0, 0][:3]) for image in figure.images]
    assert len(colors) == 2 and all(abs(int(r) - red) < 8 for (r, _, _), red in zip(colors, (40, 30), strict=True))


def test_without_errors_the_least_confident_images_are_shown(tmp_path):
    for index in range(14):
        Image.new("RGB", (40, 20), (10 * index, 0, 200)).save(tmp_path / f"{index:03}.png")
    right = [0.99, 0.6, 0.9, 0.55, *[0.98] * 10]  # probability of each image's class
    record = evaluated(tmp_path, [0] * 14, [(p, 1 - p) for p in right], ("cat", "dog"), data={"root": str(tmp_path)})
    figure = draw_overview(record)
    found = texts(figure)
    assert "No error on test; the 12 least confident images: label and its probability (p)" in found
    start = found.index("p = 0.55") - 1
    assert found[start : start + 6] == ["cat", "p = 0.55", "003.png", "cat", "p = 0.60", "001.png"]
    assert found.count("p = 0.98") == 9 and "p = 0.99" not in found and not any("→" in text for text in found)
    reds = [int(image.get_array()[0, 0][0]) for image in figure.images[:3]]
    assert len(figure.images) == 12 and all(abs(red - at) < 8 for red, at in zip(reds, (30, 10, 20), strict=True))


def test_an_image_that_is_missing_is_a_gray_square_and_the_reason(pets):
    (pets.folder.path / "004.png").unlink()
    figure = draw_overview(pets)
    assert any("(the image is missing)" in text for text in texts(figure)) and len(figure.images) == 2
    assert set(np.unique(figure.images[0].get_array()[..., :3])) == {225}


@pytest.mark.parametrize(("classes", "losses"), [(3, (1e-4, 3e-4)), (5, (2e5, 9e5)), (8, (0.69304, 0.69315))])
def test_labels_stay_on_the_sheet_and_apart(tmp_path, classes, losses):
    names = [f"NEUTROPHIL_{letter}" for letter in "ABCDEFGH"[:classes]]
    labels = np.arange(40) % classes
    probabilities = np.full((40, classes), 0.4 / classes)
    probabilities[np.arange(40), (labels + 1) % classes] += 0.6
    record = evaluated(tmp_path, labels, probabilities, names)
    rows = [{"epoch": e, "train/loss": loss, "val/loss": loss, "train/accuracy": 0.5, "val/accuracy": 0.5, "lr": 0.1}
            for e, loss in enumerate(np.linspace(*losses, 5), 1)]  # fmt: skip
    record.folder.write_metrics(rows)
    figure = draw_overview(record)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    loss, _, matrix, *_ = figure.axes
    boxes = [axis.label.get_window_extent() for axis in (loss.yaxis, matrix.xaxis)]
    assert loss.get_ylabel() == "loss" and boxes[0].x0 >= 0
    heading = next(text for text in figure.texts if text.get_text().startswith("The 12 worst errors"))
    assert matrix.get_xlabel() == "predicted" and boxes[1].y0 >= heading.get_window_extent().y1
    captions = [text.get_window_extent() for text in figure.texts if text.get_text().startswith("→")]
    assert len(captions) == 12 and all(left.x1 < right.x0 for left, right in pairwise(captions))


def test_of_many_classes_the_worst_recalls_and_the_most_frequent_confusions(tmp_path):
    classes = [f"breed {k:03} of a very long name {k:03}" for k in range(100)]
    labels = np.repeat(np.arange(100), 3)
    probabilities = np.full((300, 100), 0.001)
    probabilities[np.arange(300), np.where(labels == 7, 9, labels)] = 0.9
    found = texts(draw_overview(evaluated(tmp_path, labels, probabilities, classes)))
    assert "most frequent: breed …me 007 as breed …me 009 (3)" in found
    worst = list(dict.fromkeys(text for text in found if text.endswith("(n = 3)")))
    assert len(worst) == 20 and worst[0] == "breed …me 007 (n = 3)" and "Recall, 20 worst of 100 classes (95%)" in found
    assert not [text for text in found if "\n" in text and text.endswith("%")]  # no counts in 10,000 cells


@pytest.mark.parametrize("name", ["species {:03} of a genus", "a_long_beginning_{:03}_and_end", "Ab{:03} long"])
def test_names_that_begin_and_end_alike_stay_different(tmp_path, name):
    classes = [name.format(k) for k in range(100)]
    labels = np.repeat(np.arange(100), 3)
    probabilities = np.full((300, 100), 0.001)
    probabilities[np.arange(300), np.where(labels == 7, 9, labels)] = 0.9
    found = texts(draw_overview(evaluated(tmp_path, labels, probabilities, classes)))
    (confusion,) = [text for text in found if text.startswith("most frequent: ")]
    assert "007" in confusion and "009" in confusion
    worst = {text for text in found if text.endswith("(n = 3)")}
    assert len(worst) == 20 and all(len(text) <= 13 + len(" (n = 3)") for text in worst)
    assert any("007" in text for text in worst)
    assert {text for text in found if "007" in text and "(" not in text}  # of the worst errors


def test_without_test_images_and_without_curves_it_says_so(tmp_path):
    record = evaluated(tmp_path, [0, 1, 1], [[0.6, 0.4], [0.1, 0.9], [0.2, 0.8]], ("$a$", "b"), split="val", epochs=0)
    found = texts(draw_overview(record))
    assert found[0].startswith("Validation accuracy 1.000 (3 of 3, ") and "Training: not in this folder" in found
    assert any(text.startswith("no test images were evaluated") for text in found)
    assert any(text.startswith("No error on validation; the 3 least confident images: label") for text in found)
    debug = replace(record, run=replace(record.run, debug="debug=fast"))
    debug.folder = record.folder
    assert any("debug=fast): its results mean nothing" in text for text in texts(draw_overview(debug)))


def test_it_is_drawn_again_from_the_folder(finished_run, tmp_path, capsys):
    record = RunRecord.read(finished_run.folder)
    with Image.open(finished_run.folder / "overview.png") as drawn, Image.open(io.BytesIO(overview(record))) as again:
        assert drawn.size == (1600, 900)
        upper = (0, 0, 1600, 640)  # of errors below the table knows six digits of their probabilities only
        assert np.array_equal(drawn.crop(upper), again.crop(upper))
    assert main([str(tmp_path)]) == 1 and capsys.readouterr().err == (
        f"ERROR: {tmp_path}: no result.json in it; give the folder of a run, e.g. outputs/MODEL/DATE\n"
    )
    make_run(tmp_path, status="failed")
    assert main([str(tmp_path)]) == 1 and "was not evaluated on any images" in capsys.readouterr().err
    make_run(tmp_path / "run")
    assert main([str(tmp_path / "run")]) == 0 and capsys.readouterr().out == f"{tmp_path / 'run' / 'overview.png'}\n"


def test_what_cannot_be_drawn_is_a_warning(pets, monkeypatch, caplog):
    change_record(pets.folder.path, data={"root": None})
    monkeypatch.setattr(evaluate, "_predictions", lambda *_: SimpleNamespace(classes=[]))

    def fails(*_):
        raise UserError("x is damaged")

    monkeypatch.setattr("reports.overview.overview", fails)
    assert not evaluate._draw_overview(pets, None, "test")
    assert "overview.png was not drawn: x is damaged" in caplog.text
