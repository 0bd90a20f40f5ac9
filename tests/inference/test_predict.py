import errno
from pathlib import Path

import pytest

from inference.image_inputs import ImageInput
from inference.predict import PredictionSummary, prediction_columns, prediction_row, whole_csv
from inference.predictor import Prediction
from tests.support.fake_checkpoints import DECISION

CLASSES = ["ants", "bees"]


def seen(
    path: str, bees: float, label: str = "", split: str = "", abstains: bool = False
) -> tuple[ImageInput, Prediction]:
    source = ImageInput(path, Path(path), label, split)
    predicted = CLASSES[bees > 0.5]
    return source, Prediction(
        path, "f" * 16, predicted, {"ants": 1 - bees, "bees": bees}, None, CLASSES[bees >= 0.4], abstains
    )


def test_lines_are_a_run_s_with_what_follows_from_the_decision():
    assert prediction_columns(CLASSES, DECISION) == [
        "path", "fingerprint", "label", "predicted", "p_ants", "p_bees", "decided", "abstained", "error"
    ]  # fmt: skip
    assert prediction_columns(CLASSES, None) == [
        "path",
        "fingerprint",
        "label",
        "predicted",
        "p_ants",
        "p_bees",
        "abstained",
        "error",
    ]
    assert prediction_row(*seen("a.jpg", 0.4512345678, abstains=True)) == {
        "path": "a.jpg", "fingerprint": "f" * 16, "label": "", "predicted": "ants", "p_ants": "0.548765",
        "p_bees": "0.451235", "decided": "bees", "abstained": "true", "error": "",
    }  # fmt: skip
    unread = prediction_row(ImageInput("a.jpg", Path("a.jpg"), "ants"), Prediction("a.jpg", error="a.jpg: is\nempty"))
    assert unread == {
        "path": "a.jpg", "fingerprint": "", "label": "ants", "predicted": "", "abstained": "", "error": "a.jpg: is empty"
    }  # fmt: skip


def test_a_table_is_whole_or_absent(tmp_path, monkeypatch):
    place = tmp_path / "new" / "predictions.csv"
    with whole_csv(place, ["path", "error"]) as write:
        write({"path": "ä,b\udcff.jpg"})
        assert not place.exists()
    assert place.read_bytes() == b'path,error\n"\xc3\xa4,b\xff.jpg",\n'
    with pytest.raises(KeyboardInterrupt), whole_csv(place, ["path"]) as write:
        write({"path": "other"})
        raise KeyboardInterrupt
    assert b"other" not in place.read_bytes() and list(place.parent.iterdir()) == [place]

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ValueError, match=r"out=.*cannot be written \(No space left"), whole_csv(place, ["path"]):
        pass
    assert list(place.parent.iterdir()) == [place]
    with pytest.raises(KeyboardInterrupt), whole_csv(tmp_path / "made" / "a.csv", ["path"]):
        raise KeyboardInterrupt
    assert not (tmp_path / "made").exists()


def test_a_place_that_cannot_be_written_and_errors_of_the_reader(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be written .*use out"), whole_csv(tmp_path / "file" / "a.csv", []):
        pass
    with pytest.raises(OSError, match="of an image"), whole_csv(tmp_path / "a.csv", ["path"]):
        raise OSError("of an image")  # not taken for one of the table


def test_the_screen_s_words_are_counts_by_hand():
    tally = PredictionSummary(CLASSES, DECISION)
    sources = [
        seen("1.jpg", 0.9, "bees", "val"),
        seen("2.jpg", 0.45, "bees", "val", abstains=True),  # wrong by the largest probability
        seen("3.jpg", 0.1, "ants", "val"),
        seen("4.jpg", 0.2, "bees", "test"),
        seen("5.jpg", 0.3, "wasps", "test"),
        seen("6" * 80 + ".jpg", 0.7),
        (ImageInput("7.jpg", Path("7.jpg")), Prediction("7.jpg", error="7.jpg: not a readable image")),
    ]
    for source, prediction in sources:
        tally.add(source, prediction)
    text = "\n".join(tally.in_words())
    assert "1.jpg  bees       0.9000  bees     false" in text and "2.jpg  ants       0.5500  bees     true" in text
    assert "... and 2 more" in text
    assert "7 images: ants 4, bees 2" in text and "not read: 1" in text
    assert "abstained: 1 (confidence below 0.600, for an accuracy of 0.95)" in text
    assert "Accuracy val: 0.6667 (2 of 3, 95% interval 0.208 to 0.939)" in text
    assert "Accuracy val where not abstained: 1.0000 (2 of 2, " in text
    assert "Accuracy test: 0.0000 (0 of 1, " in text
    assert "not in the accuracy: 1 image whose label the network does not know (wasps); it knows ants and bees" in text
    assert tally.errors == 1 and tally.first_error == "7.jpg: not a readable image"


def test_without_a_decision_or_labels_nothing_is_said_of_them():
    tally = PredictionSummary(CLASSES, None)
    source, prediction = seen("6" * 80 + ".jpg", 0.7)
    tally.add(source, prediction)
    text = "\n".join(tally.in_words())
    assert "abstained" not in text and "Accuracy" not in text and "decided" not in text and "more" not in text
    assert "…666" in text and "6" * 60 not in text
