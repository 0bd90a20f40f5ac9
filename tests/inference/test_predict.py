import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from scipy.stats import binomtest

from common.errors import UserError
from common.own_test_images import OwnTestImages
from common.run_folder import RunFolder
from common.text import format_interval
from evaluation.decision import measure
from evaluation.describe import describe_recall
from evaluation.intervals import accuracy_interval, proportion
from inference.image_inputs import ImageInput
from inference.predict import PredictionSummary, open_table, prediction_columns, prediction_row, table_path
from inference.predictor import Prediction
from tests.support.fake_checkpoints import DECISION
from tests.support.fake_runs import make_run

CLASSES = ["ants", "bees"]


def predicted(
    path: str, bees: float, label: str = "", split: str = "", abstains: bool = False
) -> tuple[ImageInput, Prediction]:
    image_input = ImageInput(path, Path(path), label, split)
    probabilities = {"ants": 1 - bees, "bees": bees}
    return image_input, Prediction(
        path, "f" * 16, CLASSES[bees > 0.5], probabilities, None, CLASSES[bees >= 0.4], abstains
    )


def test_rows_are_a_run_s_with_what_the_decision_adds():
    assert prediction_columns(CLASSES, DECISION) == [
        "path", "fingerprint", "label", "predicted", "p_ants", "p_bees", "decided", "abstained", "error"
    ]  # fmt: skip
    assert prediction_columns(CLASSES, None) == [
        "path", "fingerprint", "label", "predicted", "p_ants", "p_bees", "abstained", "error"
    ]  # fmt: skip
    assert prediction_row(*predicted("a.jpg", 0.4512345678, abstains=True)) == {
        "path": "a.jpg", "fingerprint": "f" * 16, "label": "", "predicted": "ants", "p_ants": "0.548765",
        "p_bees": "0.451235", "decided": "bees", "abstained": "true", "error": "",
    }  # fmt: skip
    unread = prediction_row(ImageInput("a.jpg", Path("a.jpg"), "ants"), Prediction("a.jpg", error="a.jpg: is\nempty"))
    assert unread == {
        "path": "a.jpg", "fingerprint": "", "label": "ants", "predicted": "", "abstained": "", "error": "a.jpg: is empty"
    }  # fmt: skip


def test_a_table_is_whole_or_absent(tmp_path, monkeypatch):
    place = tmp_path / "new" / "predictions.csv"
    with open_table(place, ["path", "error"]) as write:
        write({"path": "ä,b\udcff.jpg"})
        assert not place.exists()
    assert place.read_bytes() == b'path,error\n"\xc3\xa4,b\xff.jpg",\n'
    with pytest.raises(KeyboardInterrupt), open_table(place, ["path"]) as write:
        write({"path": "other"})
        raise KeyboardInterrupt
    assert b"other" not in place.read_bytes() and list(place.parent.iterdir()) == [place]

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"out=.*cannot be written \(No space left"), open_table(place, ["path"]):
        pass
    assert list(place.parent.iterdir()) == [place]
    with pytest.raises(KeyboardInterrupt), open_table(tmp_path / "made" / "below" / "a.csv", ["path"]):
        raise KeyboardInterrupt
    assert not (tmp_path / "made").exists()


def test_no_table_that_is_read_or_a_run_s_own_is_replaced(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "list.csv").write_text("path\na.jpg\n")
    (tmp_path / "link.csv").symlink_to("list.csv")
    assert table_path(f"{tmp_path}/run") == tmp_path / "run" / "predictions.csv"
    for out in ("list.csv", "run/../list.csv", "link.csv"):
        with pytest.raises(UserError, match=f"^out={tmp_path}/{out}: is the table that the images are read from; use"):
            table_path(f"{tmp_path}/{out}", [tmp_path / "list.csv"])
    (tmp_path / "run" / "result.json").write_text("{}")
    for out in ("run", "run/predictions_val.csv", "run/splits.csv", "run/metrics.csv"):
        with pytest.raises(UserError, match=f"^out={tmp_path}/run/.*csv: is a table of the run itself; use another"):
            table_path(f"{tmp_path}/{out}")
    assert table_path(f"{tmp_path}/run/mine.csv").name == "mine.csv"
    with pytest.raises(UserError, match=r"out=\['a'\]: is not one path"):
        table_path(OmegaConf.create(["a"]))


def test_a_place_that_cannot_be_written_and_errors_of_reading(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .*use out"), open_table(tmp_path / "file" / "a.csv", []):
        pass
    with pytest.raises(OSError, match="of an image"), open_table(tmp_path / "a.csv", ["path"]):
        raise OSError(errno.EIO, "of an image")  # not taken for one of the table


def test_counts_of_many_classes_are_those_of_the_most_frequent_and_the_sum_of_the_others():
    names = [f"number {place}" for place in range(20)]
    summary = PredictionSummary(names, None)
    for place, name in enumerate(names):
        for image in range(place + 1):
            prediction = Prediction(
                f"{place}-{image}.jpg", probabilities=dict.fromkeys(names, 0.0) | {name: 1.0}, predicted=name
            )
            summary.add(ImageInput(prediction.path, Path(prediction.path)), prediction)
    (line,) = [line for line in summary.lines() if line.startswith("210 images")]
    assert line.startswith("210 images, predicted: 20 as number 19, 19 as number 18, ")
    assert line.endswith(f", 9 as number 8, {sum(range(9))} as other classes")


def test_without_a_readable_image_nothing_is_counted_but_those_that_could_not_be_read():
    summary = PredictionSummary(CLASSES, DECISION)
    for path in ("1.jpg", "2.jpg"):
        summary.add(ImageInput(path, Path(path)), Prediction(path, error=f"{path}: not a readable image"))
    assert summary.lines()[-2:] == ["", "not read: 2"]


def test_a_single_row_is_not_replaced_by_a_line_that_counts_it():
    summary = PredictionSummary(CLASSES, None)
    for n in range(1, 8):
        summary.add(*predicted(f"{n}.jpg", 0.9))
        rows = [line for line in summary.lines() if ".jpg" in line or "more" in line]
        assert len(rows) == min(n, 6) and (rows[-1] == "... and 2 more" if n == 7 else rows[-1].startswith(f"{n}.jpg"))


def test_the_summary_is_counted_by_hand():
    summary = PredictionSummary(CLASSES, DECISION)
    predictions = [
        predicted("1.jpg", 0.9, "bees", "val"),
        predicted("2.jpg", 0.45, "bees", "val", abstains=True),  # wrong by the largest probability
        predicted("3.jpg", 0.1, "ants", "val"),
        predicted("4.jpg", 0.2, "bees", "test"),
        predicted("5.jpg", 0.3, "wasps", "test"),
        predicted("6" * 80 + ".jpg", 0.7),
        (ImageInput("7.jpg", Path("7.jpg")), Prediction("7.jpg", error="7.jpg: not a readable image")),
    ]
    for image_input, prediction in predictions:
        summary.add(image_input, prediction)
    text = "\n".join(summary.lines())
    assert "1.jpg  bees       0.9000  bees     false" in text and "2.jpg  ants       0.5500  bees     true" in text
    assert "... and 2 more" in text
    assert "7 images, predicted: 4 as ants, 2 as bees\n`decided` ('bees' from 0.400 on): 3 as ants, 3 as bees\n" in text
    assert "not read: 1" in text
    promise = "accuracy 0.95 with 90% confidence on images like those of validation: confidence >= 0.600"
    assert f"abstained: 1 ({promise})" in text
    assert (
        "Val accuracy: 0.6667 (2 of 3, 95% interval 0.207 to 0.939); always 'bees': 0.6667\nwith fewer than 3 errors"
        in text
    )
    assert "Val accuracy where not abstained: 1.0000 (2 of 2, " in text
    low, high = binomtest(1, 2).proportion_ci(method="wilson")
    assert (
        f"\nVal recall: ants 1.00 (0.20 to 1.00, n = 1), bees 0.50 ({format_interval(low, high, 2)}, n = 2)\n" in text
    )
    both = format_interval(*binomtest(2, 2).proportion_ci(method="wilson"), 2)
    by_threshold = f"ants 1.00 (0.20 to 1.00, n = 1), bees 1.00 ({both}"
    assert f"\nVal recall of `decided` ('bees' from 0.400 on): {by_threshold}, n = 2)\n" in text
    assert "Test accuracy: 0.0000 (0 of 1, " in text and "Test recall: " not in text  # one class: the same number
    assert (
        "excluded from the accuracy: 1 image with a label that the network does not know (wasps); it knows ants and bees"
        in text
    )
    none = PredictionSummary(CLASSES, replace(DECISION, confidence=None))
    promise = "(accuracy 0.95 cannot be promised with 20 validation images (at least 45"
    for number, (image_input, prediction) in enumerate(predictions, 1):
        none.add(image_input, replace(prediction, abstained=None if prediction.error else True))
        if number < 3:
            which = "abstained: 1" if number == 1 else "abstained from all 2"
            assert f"{which} {promise}" in "\n".join(none.lines())
    assert f"abstained from all 6 {promise}" in "\n".join(none.lines())
    assert "`predicted` still has the most probable class" in "\n".join(none.lines())
    assert "the test images were evaluated 3 times with this model; only the first" in "\n".join(summary.lines(3))
    assert "evaluated" not in "\n".join(summary.lines(1)) + text
    assert summary.errors == 1 and summary.first_error == "7.jpg: not a readable image"


def test_without_a_decision_or_labels_the_summary_leaves_them_out():
    summary = PredictionSummary(CLASSES, None)
    summary.add(*predicted("6" * 80 + ".jpg", 0.7))
    text = "\n".join(summary.lines())
    assert "abstained" not in text and "ccuracy" not in text and "decided" not in text and "more" not in text
    assert "…666" in text and "6" * 60 not in text


def test_the_recall_of_images_in_groups_is_that_of_the_record():
    """12 images of 3 animals; their class names keep their capitals, and images without a split are named, too."""
    labels, right = ["Honey Bee", "Ant"] * 6, [True] * 8 + [False] * 4
    summary = PredictionSummary(["Ant", "Honey Bee"], None)
    for index, (label, is_right) in enumerate(zip(labels, right, strict=True)):
        other = "Ant" if label == "Honey Bee" else "Honey Bee"
        row = ImageInput(f"{index}.jpg", Path("x.jpg"), label=label, group=f"animal {index // 4}")
        name = label if is_right else other
        summary.add(row, Prediction(row.path, "", name, {"Ant": 0.5, "Honey Bee": 0.5}))
    found = np.array([label == "Honey Bee" for label in labels]).astype(int)
    predicted_classes = np.where(right, found, 1 - found)
    probabilities = np.eye(2)[predicted_classes]
    metrics = measure(found, probabilities, ["Ant", "Honey Bee"], None, groups=np.arange(12) // 4)
    assert f"\nR{describe_recall(metrics.per_class)[1:]}" in "\n".join(summary.lines())


def test_of_equally_frequent_classes_the_first_is_named_as_in_the_record():
    summary = PredictionSummary(CLASSES, None)
    for label in ("bees", "ants"):
        summary.add(*predicted(f"{label}.jpg", 0.9, label, "test"))
    assert "; always 'ants': 0.5000" in "\n".join(summary.lines())


def test_images_in_groups_have_the_intervals_of_their_record():
    """Ten groups of four, each right or wrong as a whole."""
    summary, groups = PredictionSummary(CLASSES, DECISION), np.arange(40) // 4
    right, kept = groups % 4 > 0, np.arange(40) % 5 > 0
    for index, group in enumerate(groups):
        image_input, prediction = predicted(
            f"{index}.jpg", 0.9 if right[index] else 0.1, "bees", "test", not kept[index]
        )
        summary.add(image_input._replace(group=f"p{group}"), prediction)
    text = "\n".join(summary.lines())
    of_all, of_kept = accuracy_interval(right[None], groups), accuracy_interval(right[None, kept], groups[kept])
    assert f"Test accuracy: 0.7000 (28 of 40, 95% interval {format_interval(*of_all)})" in text
    shown = f"Test accuracy where not abstained: {right[kept].mean():.4f} ({right[kept].sum()} of {kept.sum()}, 95% interval "
    assert f"{shown}{format_interval(*of_kept)})" in text
    assert of_all.low < proportion(28, 40).low - 0.1


@pytest.mark.parametrize("split", ["", "test", "val"])
def test_an_accuracy_on_images_of_train_is_not_that_of_new_ones(tmp_path, split):
    """The table that a network was trained on, without its splits, gave an `Accuracy` of mostly training images."""
    run = make_run(tmp_path / "run", data={"root": str(tmp_path)})
    splits = {"a.png": "train", "b.png": "train", "c.png": "val", "d.png": "test"}
    rows = "".join(f"{path},ants,{part}\n" for path, part in splits.items())
    (run / "splits.csv").write_text(f"path,label,split\n{rows}")
    summary = PredictionSummary(CLASSES, None, OwnTestImages(RunFolder(run)))
    for path in (*splits, "new.png"):
        summary.add(*predicted(str(tmp_path / "x" / ".." / path), 0.1, "ants", split))
    words = "3 of these 5 images are train or validation images of this network, so this accuracy is too good"
    assert words in summary.lines()
    one = PredictionSummary(CLASSES, None, OwnTestImages(RunFolder(run)))
    one.add(*predicted(str(tmp_path / "a.png"), 0.1, "ants", split))
    assert "this image is a train or validation image of this network, so this accuracy is too good" in one.lines()
