import json

import numpy as np
import pytest

from common.atomic_io import write_csv
from datamodules.decode import open_image, resize
from inference.backends import ModelDescription
from inference.export.verify import VerificationImages, compare_outputs, known_images, spread, verification_images
from inference.image_inputs import ImageInputs
from tests.support.fake_checkpoints import MEAN, STD, make_odd_images


class Brightness:
    """Says bees for the brighter half."""

    description = ModelDescription(["ants", "bees"], 32, MEAN, STD, None)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        p = pixels.mean(axis=(1, 2, 3)) / 255
        return np.stack([1 - p, p], axis=1)


@pytest.fixture
def run(tmp_path):
    files = make_odd_images(tmp_path / "images", 6)
    rows = [{"path": f.name, "label": "bees", "split": ("train", "val", "test")[n % 3]} for n, f in enumerate(files)]
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    write_csv(tmp_path / "run" / "splits.csv", list(rows[0]), rows)
    (tmp_path / "run" / "result.json").write_text(
        json.dumps({"schema": 1, "status": "finished", "run": {}, "data": {"root": str(tmp_path / "images")}})
    )
    return tmp_path / "run"


def test_the_run_s_validation_images_are_taken_else_training_ones_and_never_test(run):
    splits = known_images(run / "checkpoints" / "best.ckpt", None, None)
    assert verification_images(splits, ("val", "train", ""), 10).words == "2 validation images"
    splits.pop("val")
    found = verification_images(splits, ("val", "train", ""), 1)
    assert found.words == "1 of 2 training images" and len(found.sources) == 1
    splits.pop("train")
    assert verification_images(splits, ("val", "train", ""), 10) == ([], "16 made-up images")


def test_images_that_are_gone_or_given(run, tmp_path, caplog):
    given = known_images(tmp_path / "alone.ckpt", str(tmp_path / "images"), None)
    assert verification_images(given, ("val", "train", ""), 10).words == "6 images"
    assert (
        known_images(tmp_path / "alone.ckpt", None, None) == {} and "no splits.csv of its run beside it" in caplog.text
    )
    (tmp_path / "images").rename(tmp_path / "moved")
    assert known_images(run / "checkpoints" / "best.ckpt", None, None) == {}
    assert "the run's images are not at" in caplog.text
    with pytest.raises(ValueError, match="images=/nowhere"):
        known_images(run / "checkpoints" / "best.ckpt", "/nowhere", None)
    again = known_images(run / "checkpoints" / "best.ckpt", str(run / "splits.csv"), str(tmp_path / "moved"))
    assert sorted(again) == ["test", "train", "val"]


def test_spread_is_even():
    assert (
        spread(range(10), 4) == [0, 3, 6, 9]
        and spread(range(3), 4) == [0, 1, 2]
        and len(spread(range(1000), 200)) == 200
    )


@pytest.mark.parametrize("native_sizes", [True, False])
def test_differences_by_hand(run, native_sizes):
    shapes = []

    def shifted(pixels: np.ndarray) -> np.ndarray:
        shapes.append(pixels.shape)
        p = np.full(len(pixels), 0.75)
        return np.stack([1 - p, p], axis=1)

    sources = list(ImageInputs(str(run / "splits.csv")))
    proof = compare_outputs(Brightness(), shifted, VerificationImages(sources, "all"), native_sizes)
    means = [np.asarray(resize(open_image(source.file), 32)).mean() / 255 for source in sources]
    assert proof.n == proof.labeled == 6 and proof.right_after == 6
    assert proof.right_before == sum(mean > 0.5 for mean in means) == 6 - proof.changed
    assert proof.largest_difference == pytest.approx(max(abs(0.75 - mean) for mean in means))
    assert shapes[-1] == (6, 32, 32, 3) and ((1, 32, 32, 3) in shapes) != native_sizes


def test_without_labels_there_is_no_accuracy_and_unreadable_images_are_left_out(run, tmp_path, caplog):
    proof = compare_outputs(Brightness(), Brightness(), VerificationImages([], "made up"), False)
    assert proof.accuracies() is None and proof.largest_difference == 0 and proof.n == 16
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "a.png").write_text("no image")
    with pytest.raises(ValueError, match="none of the 1 images can be read"):
        compare_outputs(
            Brightness(), Brightness(), verification_images(known_images(bad, str(bad), None), ("",), 9), False
        )
    assert "left out: " in caplog.text and "a.png" in caplog.text
