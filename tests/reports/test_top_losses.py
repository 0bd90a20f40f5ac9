"""Top losses and their thumbnails, which are shown only of images that the run has seen."""

import base64
import csv
import io

import pytest
from PIL import Image

from common.run_record import Confused
from datamodules.decode import ValueRange, read_image
from reports.report import write_report
from reports.top_losses import confusion, verified_thumbnail, with_thumbnails
from tests.support.fake_runs import change_record, judged, make_run
from tests.support.parsed_html import Parsed


def test_top_losses_are_those_most_often_wrong(tmp_path):
    for seed, wrong in ((1, {3, 5, 7}), (2, {5, 7}), (3, {7})):
        make_run(tmp_path / f"s{seed}", seed=seed, wrong={"test": wrong}, epochs=0)
    (row,) = judged(tmp_path).groups[0].rows
    found = with_thumbnails(row.top_losses, row.runs[0])
    assert [(p.path[-6:-4], p.wrong, p.runs) for p in found.losses] == [("07", 3, 3), ("05", 2, 3), ("03", 1, 3)]
    table = csv.DictReader(io.StringIO((tmp_path / "s1" / "predictions.csv").read_text()))
    truth = next(float(line["p_dog"]) for line in table if line["path"].endswith("07.png"))
    assert found.losses[0].true_probability == pytest.approx(truth)
    assert (found.losses[0].label, found.losses[0].predicted) == ("dog", "cat")
    assert found.losses[0].reason == "the record does not contain the folder of the images"


def test_top_losses_of_a_cross_validation_come_from_all_folds(tmp_path):
    missed = {(0, 1): {1, 2}, (0, 2): {1}, (1, 1): {3}, (1, 2): {3, 4}, (2, 1): set(), (2, 2): set()}
    for (fold, seed), wrong in missed.items():
        settings = {"datamodule.fold": fold, "datamodule.folds": 3}
        make_run(tmp_path / f"f{fold}s{seed}", seed=seed, settings=settings, n={"val": 20}, wrong={"val": wrong},
                 data={"fingerprint": f"fold{fold}", "folds": 3}, epochs=0)  # fmt: skip
    (row,) = judged(tmp_path).groups[0].rows
    found = with_thumbnails(row.top_losses, row.runs[0])
    assert {(p.path, p.wrong, p.runs) for p in found.losses[:2]} == {
        ("0/val/00001.png", 2, 2), ("1/val/00003.png", 2, 2)
    }  # fmt: skip
    assert {(p.path, p.wrong, p.runs) for p in found.losses[2:]} == {
        ("0/val/00002.png", 1, 2), ("1/val/00004.png", 1, 2)
    }  # fmt: skip
    truths = [p.true_probability for p in found.losses]
    assert truths == sorted(truths[:2]) + sorted(truths[2:])
    words = Parsed(write_report(str(tmp_path)).page.read_text()).words()
    assert "Validation images that the runs of resnet18 (3 folds) get wrong most often; ties are ordered by" in words


def test_the_top_losses_of_one_run_are_not_called_those_of_several(tmp_path):
    make_run(tmp_path / "a", n={"test": 30}, wrong={"test": {1, 4}}, epochs=0)
    words = Parsed(write_report(str(tmp_path)).page.read_text()).words()
    assert "Test images that resnet18 gets wrong, ordered by the probability of the true class, lowest first." in words
    assert "In parentheses: the probability of the predicted class." in words and "runs of" not in words


def test_confusions_of_many_classes_are_counted_in_all_runs(tmp_path):
    """A record has only the 50 most frequent of its own run, and what is one of them in one run may be none in another."""
    classes = tuple(f"c{i:03}" for i in range(120))
    for seed, wrong in ((1, set(range(60))), (2, set(range(55, 60)))):
        run = make_run(
            tmp_path / f"s{seed}", seed=seed, classes=classes, n={"test": 240}, wrong={"test": wrong}, epochs=0
        )
        kept = [Confused(label=classes[i], predicted=classes[i + 1], n=1) for i in sorted(wrong)[:50]]
        change_record(run, test={"confusion": None, "confused": kept})
    (row,) = judged(tmp_path).groups[0].rows
    made = confusion(row.runs)
    assert made.most_frequent[:5] == [(f"c{i:03}", f"c{i + 1:03}", 2) for i in range(55, 60)]
    assert {n for *_, n in made.most_frequent[5:]} == {1}
    single = confusion(row.runs[:1])
    assert single.most_frequent[0] == ("c000", "c001", 1)
    (tmp_path / "s2" / "predictions.csv").unlink()
    assert confusion(row.runs) is None and confusion(row.runs[:1]) == single


def test_a_path_may_not_leave_the_folder_of_the_images(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "broken.png").write_bytes(b"no image")
    for path in ("../secret.png", str(tmp_path / "secret.png"), "link.png"):
        assert verified_thumbnail(root, path, "", 48) == (None, "its path leaves the folder of the images")
    assert verified_thumbnail(root, "broken.png", "", 48) == (None, "the image cannot be read")
    assert verified_thumbnail(root, "none.png", "", 48) == (None, "the image is missing")
    assert verified_thumbnail(root, "x\0y", "", 48) == (None, "the image cannot be read")


def test_an_image_is_shown_only_to_who_has_seen_it(tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    own = read_image(tmp_path / "a.png").fingerprint()
    assert verified_thumbnail(tmp_path, "a.png", own, 48)[0]
    for guessed in ("", "0" * 16, own[:-1]):
        assert verified_thumbnail(tmp_path, "a.png", guessed, 48) == (
            None,
            "the image is not the one that the run used",
        )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"])
def test_any_mode_becomes_a_thumbnail(tmp_path, mode):
    name = "a.tif" if mode in ("CMYK", "F", "I;16") else "a.png"
    image = Image.new("I;16", (300, 20), 40000) if mode == "I;16" else Image.new("L", (300, 20), 200).convert(mode)
    image.save(tmp_path / name)
    range_of_run = ValueRange(0, 65535) if mode in ("F", "I;16") else None
    text, reason = verified_thumbnail(tmp_path, name, read_image(tmp_path / name).fingerprint(), 48, range_of_run)
    with Image.open(io.BytesIO(base64.b64decode(text))) as made:
        assert (reason, made.size, made.mode) == (None, (144, 10), "RGB")


def test_the_predicted_class_is_that_of_the_runs_that_are_wrong(tmp_path):
    for seed, wrong in ((1, {3}), (2, set()), (3, set())):
        make_run(tmp_path / f"s{seed}", seed=seed, wrong={"test": wrong}, epochs=0)
    (loss,) = judged(tmp_path).groups[0].rows[0].top_losses.losses
    assert (loss.label, loss.predicted, loss.wrong, loss.runs) == ("dog", "cat", 1, 3)
