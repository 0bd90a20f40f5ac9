import re

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binom

from common.errors import UserError
from common.text import format_interval
from datamodules.decode import open_image, resize
from evaluation.intervals import accuracy_interval, design_effect, proportion
from evaluation.paired_tests import compare_pair
from inference.backends import ModelDescription
from inference.export.verify import (
    FLAT,
    MARGIN,
    ORDER,
    Verification,
    VerificationImages,
    agreement,
    compare_outputs,
    known_images,
    spread,
    verification_images,
)
from inference.image_inputs import ImageInputs
from tests.support.fake_checkpoints import MEAN, STD, make_odd_images
from tests.support.fake_explained import make_labeled_run
from tests.support.fake_runs import change_record


class Brightness:
    """Predict bees for the brighter half."""

    description = ModelDescription(["ants", "bees"], 32, MEAN, STD, None)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        p = pixels.mean(axis=(1, 2, 3)) / 255
        return np.stack([1 - p, p], axis=1)


@pytest.fixture
def run(tmp_path):
    """A run of six images of bees, two of each split."""
    files = make_odd_images(tmp_path / "images", 6)
    return make_labeled_run(tmp_path / "run", tmp_path / "images", files, ["bees"] * 6, ["train", "val", "test"] * 2)


def test_the_run_s_validation_images_are_used_else_training_ones_and_never_test(run):
    splits = known_images(run.best_checkpoint, None, None)
    assert verification_images(splits, ORDER, 10).description == "2 validation images"
    splits["val"].pop()
    assert verification_images(splits, ORDER, 10).description == "1 validation image"
    splits.pop("val")
    found = verification_images(splits, ORDER, 1)
    assert found.description == "1 of 2 training images" and len(found.images) == 1
    splits.pop("train")
    assert verification_images(splits, ORDER, 10) == ([], "16 synthetic images", "")


def test_images_that_are_gone_or_given(run, tmp_path, caplog):
    elsewhere = tmp_path / "elsewhere.ckpt"
    given = known_images(elsewhere, str(tmp_path / "images"), None)
    assert verification_images(given, ORDER, 10).description == "6 images"
    assert known_images(elsewhere, None, None) == {} and "not in the folder of a run" in caplog.text
    assert "give the folder of the run that trained it: images=RUN" in caplog.text
    assert known_images(elsewhere, str(run.path), None).keys() >= {"train", "val"}
    for checkpoint, words in ((elsewhere, "not in the folder of a run"), (run.best_checkpoint, "no such folder")):
        with pytest.raises(UserError, match=f"^root=/nowhere: .*{words}"):  # made-up images would be no answer
            known_images(checkpoint, None, "/nowhere")
    (tmp_path / "images").rename(tmp_path / "moved")
    assert known_images(run.best_checkpoint, None, None) == {}
    assert "the run's images are no longer in" in caplog.text
    with pytest.raises(UserError, match="images=/nowhere"):
        known_images(run.best_checkpoint, "/nowhere", None)
    again = known_images(run.best_checkpoint, str(run.splits), str(tmp_path / "moved"))
    assert sorted(again) == ["test", "train", "val"]


def test_a_run_that_is_named_gives_its_images_and_not_its_figures(run, tmp_path):
    Image.new("RGB", (9, 9)).save(run.path / "contact_sheet.png")
    found = known_images(tmp_path / "elsewhere.ckpt", str(run.path), None)
    assert {split: [each.file.parent for each in images] for split, images in found.items()} == {
        split: [tmp_path / "images"] * 2 for split in ("train", "val", "test")
    }
    run.splits.unlink()
    (run.path / ".hydra").mkdir(exist_ok=True)
    run.config.write_text("")
    with pytest.raises(UserError, match=r"the folder of a run without splits\.csv"):
        known_images(run.best_checkpoint, str(run.path), None)


def test_a_table_of_splits_that_was_copied_in_part_is_not_the_run_s(run, caplog):
    change_record(run.path, data={"n_val": 2, "n_test": 2})
    lines = run.splits.read_text().splitlines(keepends=True)
    assert len(known_images(run.best_checkpoint, None, None)["val"]) == 2 and not caplog.messages
    for split in ("val", "test"):
        run.splits.write_text("".join(lines).replace(next(line for line in lines if f",{split}," in line), ""))
        caplog.clear()
        assert known_images(run.best_checkpoint, None, None) == {}
        assert f"splits.csv has 1 {split} images, and result.json 2: copied in part" in caplog.text
        with pytest.raises(UserError, match=f"has 1 {split} images, and result.json 2: copied in part"):
            known_images(run.best_checkpoint, str(run.path), None)  # a run that is named
        assert len(known_images(run.best_checkpoint, str(run.splits), None)[split]) == 1


def test_spread_is_even():
    assert spread(range(10), 4) == [0, 3, 6, 9] and spread(range(3), 4) == [0, 1, 2]
    assert len(spread(range(1000), 200)) == 200 and spread(range(9), 4) == [0, 3, 5, 8]  # of 0, 2.67, 5.33, 8


@pytest.mark.parametrize("native_sizes", [True, False])
def test_differences_by_hand(run, native_sizes):
    shapes, seen = [], []

    def constant(pixels: np.ndarray) -> np.ndarray:
        shapes.append(pixels.shape)
        p = np.full(len(pixels), 0.75)
        return np.stack([1 - p, p], axis=1)

    images = list(ImageInputs(str(run.splits)))
    found = compare_outputs(
        Brightness(), constant, VerificationImages(images, "all"), native_sizes, lambda *of: seen.append(of)
    )
    means = [np.asarray(resize(open_image(image_input.file), 32)).mean() / 255 for image_input in images]
    assert found.n == found.n_labeled == 6 and found.correct_exported == 6 and found.balanced_cost is None
    assert seen == [(n, 6) for n in range(1, 7)]
    assert found.only_checkpoint == 0 and found.only_exported == found.changed
    assert found.correct_checkpoint == sum(mean > 0.5 for mean in means) == 6 - found.changed
    assert found.largest_difference == pytest.approx(max(abs(0.75 - mean) for mean in means))
    assert shapes[-1] == (6, 32, 32, 3) and ((1, 32, 32, 3) in shapes) != native_sizes
    assert "of 6, 95% interval" in found.describe_accuracies() and "of 6 predictions differ" in found.describe()


def test_what_a_rare_class_loses_is_seen_in_balanced_accuracy(tmp_path):
    """Of 5 ants and 1 bee, the checkpoint is right on all, a file that always answers ants on 5."""
    files = make_odd_images(tmp_path / "images", 6)
    folder = make_labeled_run(tmp_path / "run", tmp_path / "images", files, ["ants"] * 5 + ["bees"], ["val"] * 6)
    images = list(ImageInputs(str(folder.splits)))

    class Right:
        description, calls = Brightness().description, iter([*(image.label for image in images), None])

        def __call__(self, pixels):
            label = next(self.calls)
            return np.repeat([[label != "bees", label == "bees"]], len(pixels), axis=0).astype(float)

    found = compare_outputs(
        Right(), lambda pixels: np.repeat([[1.0, 0.0]], len(pixels), axis=0), VerificationImages(images, "all"), False
    )
    cost = found.balanced_cost
    assert found.correct_exported == 5 and cost.value == 0.5 and cost.low <= 0 and cost.high == 1
    assert found.describe_cost("int8").endswith(
        "; costs 0.500 (-1.000 to 1.000) of the balanced accuracy: not shown to be within 0.01 by 6 images"
    )


@pytest.mark.parametrize(("only_checkpoint", "only_exported", "n", "words"), [
    (18, 2, 400, r"int8 costs 0\.040 \(0\.02\d to 0\.06\d\) of the accuracy: not within 0\.01"),
    (10, 2, 400, r"int8 costs 0\.020 \(0\.00\d to 0\.04\d\) of the accuracy: not shown to be within 0\.01 by 400 images"),
    (0, 0, 1, r"of the accuracy: not shown to be within 0\.01 by 1 image$"),
    (2, 8, 400, r"int8 gains 0\.015 \(-0\.00\d to 0\.03\d\) of the accuracy: within 0\.01"),
    (0, 0, 2000, r"int8 costs 0\.000 \(-0\.002 to 0\.002\) of the accuracy: within 0\.01"),
    (0, 0, 10, r"of the accuracy: not shown to be within 0\.01 by 10 images"),
])  # fmt: skip
def test_what_eight_bits_cost_is_paired_and_has_a_verdict(only_checkpoint, only_exported, n, words):
    right = n - 12
    found = Verification(
        n, "all", 0.1, 12, n, right + only_checkpoint, right + only_exported, only_checkpoint, only_exported
    )
    assert re.search(words, found.describe_cost("int8"))
    assert found._replace(n_labeled=0).describe_cost("int8") is None


@pytest.mark.parametrize(("n", "differ"), [(28, 0.05), (90, 0.05), (452, 0.02)])
def test_a_file_that_costs_nothing_is_rarely_reported_to_cost_more_than_the_margin(n, differ):
    """Summed exactly over the images that only one of the two gets right, as many in truth of the one as of the other."""
    most = int(binom.isf(1e-9, n, differ))
    reported = binom.sf(most, n, differ)  # as if all of the others were
    for both in range(most + 1):
        for lost in range(both + 1):
            found = Verification(n, "all", 0.1, both, n, n - both + lost, n - lost, lost, both - lost).cost()
            if found.verdict == "not within 0.01":
                reported += binom.pmf(both, n, differ) * binom.pmf(lost, both, 0.5)
    assert reported <= 0.025


def test_agreement_by_hand():
    expected = np.array([[0.2, 0.8], [0.8, 0.2]])
    assert agreement(expected, expected) == 1 and agreement(expected, np.full((2, 2), 0.5)) == 0
    assert agreement(expected, expected[::-1]) == pytest.approx(1 - 4)  # twice as far as their average, squared
    flat = np.array([[0.501, 0.499], [0.499, 0.501]])  # of an untrained network: rounding is as large as what varies
    assert agreement(flat, flat[::-1]) == pytest.approx(1 - 8e-6 / FLAT)
    assert agreement(flat, expected) < 0 and np.isnan(agreement(flat, flat * np.nan))


def test_the_screen_says_where_an_agreement_proves_little(run):
    found = Verification(500, "all", 0.1, 12, 0, 0, 0, agreement=0.987)
    assert (
        found.describe_agreement() == "agreement of the probabilities 0.987 (1: equal, 0: no better than their average)"
    )
    assert found._replace(n=19).describe_agreement().endswith("; 19 images prove little")
    assert found._replace(n=1).describe_agreement().endswith("; 1 image proves little")
    flat = compare_outputs(
        Brightness(), Brightness(), VerificationImages(list(ImageInputs(str(run.splits)))[:1], "one"), False
    )
    assert flat.variance == 0 and "hardly differ between images" in flat.describe_agreement()


def test_what_costs_two_in_a_hundred_is_no_damage():
    sure = np.eye(2)[np.arange(500) % 2]
    other = sure.copy()
    other[:10] = other[:10, ::-1]
    assert agreement(sure, other) == pytest.approx(0.92)


def test_without_labels_there_is_no_accuracy_and_unreadable_images_are_skipped(tmp_path, caplog):
    found = compare_outputs(Brightness(), Brightness(), VerificationImages([], "synthetic"), False)
    assert found.describe_accuracies() is None and found.largest_difference == 0 and found.n == 16
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "a.png").write_text("no image")
    images = verification_images(known_images(bad, str(bad), None), ORDER, 9)
    with pytest.raises(UserError, match="1 image: none can be read"):
        compare_outputs(Brightness(), Brightness(), images, False)
    assert "skipped: " in caplog.text and "a.png" in caplog.text
    Image.new("RGB", (8, 8), "white").save(bad / "b.png")
    images = verification_images(known_images(bad, str(bad), None), ORDER, 9)
    found = compare_outputs(Brightness(), Brightness(), images, False)
    assert found.describe().startswith("1 of 2 images: ") and "0 of 1 predictions differ" in found.describe()


def test_a_checkpoint_that_gives_nan_is_named_and_not_the_format(run):
    class Broken(Brightness):
        def __call__(self, pixels):
            return super().__call__(pixels) * np.nan

    images = verification_images(known_images(run.best_checkpoint, None, None), ORDER, 200)
    with pytest.raises(UserError, match="network of the checkpoint gives NaN"):
        compare_outputs(Broken(), Brightness(), images, native_sizes=True)


def test_what_a_file_costs_on_images_in_groups(run):
    """A file that is wrong on one whole group of three: as single images that would be three independent errors."""
    images = [each._replace(group=f"p{index // 3}") for index, each in enumerate(ImageInputs(str(run.splits)))] * 8

    def checkpoint(pixels: np.ndarray) -> np.ndarray:
        return np.tile([0.2, 0.8], (len(pixels), 1))

    checkpoint.description = Brightness.description
    images = [each._replace(group=f"{each.group} {index // 6}") for index, each in enumerate(images)]
    asked = iter(range(len(images)))

    def exported(pixels: np.ndarray) -> np.ndarray:
        wrong = len(pixels) == 1 and next(asked) < 3
        return np.tile([0.8, 0.2] if wrong else [0.2, 0.8], (len(pixels), 1))

    found = compare_outputs(checkpoint, exported, VerificationImages(images, "all"), False)
    right, groups = np.ones((2, 1, 48), bool), np.arange(48) // 3
    right[1, 0, :3] = False
    pair, cost = compare_pair(*right, MARGIN, groups), found.cost()
    assert (cost.value, cost.low, cost.high) == (3 / 48, pair.low, pair.high)
    assert cost.high > found._replace(grouped=None).cost().high
    interval = accuracy_interval(right[1], groups)
    assert f"of the file 0.9375 (45 of 48, 95% interval {format_interval(*interval)})" in (found.describe_accuracies())


def test_accuracies_are_those_of_the_labeled_images_and_widen_with_their_own_groups():
    found = Verification(500, "all", 0.1, 12, 400, 320, 300, effects=(1.0, 4.0))
    intervals = [
        format_interval(*(getattr(proportion(k, n), end) for end in ("low", "high")))
        for k, n in ((320, 400), (75, 100))
    ]
    assert found.describe_accuracies() == (
        f"accuracy of the checkpoint 0.8000 (320 of 400, 95% interval {intervals[0]}), "
        f"of the file 0.7500 (300 of 400, 95% interval {intervals[1]})"
    )


def test_checkpoint_and_file_have_effects_of_their_own_and_one_cost_of_both(run):
    """The checkpoint is wrong on whole groups, the file on any images; of two classes one has fewer images."""
    images = list(ImageInputs(str(run.splits))) * 10
    generator, groups = np.random.default_rng(0), np.arange(60) // 5
    labels = np.where(np.arange(60) < 40, "ants", "bees")
    images = [
        each._replace(group=f"p{groups[row]}", label=str(labels[row]), split="val") for row, each in enumerate(images)
    ]
    right = np.stack([(groups % 3 > 0), generator.random(60) < 0.6], axis=1)

    def answers(column):
        asked = iter(range(60))

        def answer(pixels: np.ndarray) -> np.ndarray:
            if len(pixels) > 1:
                return np.tile([0.5, 0.5], (len(pixels), 1))
            row = next(asked)
            return np.eye(2)[[int((labels[row] == "bees") == right[row, column])]]

        answer.description = Brightness.description
        return answer

    found = compare_outputs(answers(0), answers(1), VerificationImages(images, "all", "val"), False)
    assert found.effects == (design_effect(right[:, 0], groups), design_effect(right[:, 1], groups))
    assert found.effects[0] > found.effects[1] and found.split == "val"
    pair = compare_pair(right[:, 0][None], right[:, 1][None], MARGIN, groups, (labels == "bees").astype(int))
    cost = found.balanced_cost
    assert (cost.value, cost.low, cost.high) == (pair.difference, pair.low, pair.high)


def test_images_of_another_class_have_no_label_and_the_largest_difference_is_that_of_any_class(run):
    images = list(ImageInputs(str(run.splits)))
    images[0] = images[0]._replace(label="wasps")

    class Three:
        description = ModelDescription(["ants", "bees", "flies"], 32, MEAN, STD, None)

        def __call__(self, pixels):
            return np.tile([0.25, 0.375, 0.375], (len(pixels), 1))

    found = compare_outputs(
        Three(), lambda pixels: np.tile([0.5, 0.25, 0.25], (len(pixels), 1)), VerificationImages(images, "all"), False
    )
    assert (found.n, found.n_labeled, found.changed, found.only_checkpoint) == (6, 5, 6, 5)
    assert found.largest_difference == 0.25
    damaged = compare_outputs(
        Three(), lambda pixels: np.full((len(pixels), 3), np.nan), VerificationImages(images, "all"), False
    )
    assert np.isnan(damaged.largest_difference) and np.isnan(damaged.agreement)


@pytest.mark.parametrize("resizes_exactly", [True, False])
def test_a_file_s_resizing_is_compared_with_this_project_s(run, resizes_exactly):
    """A file that is brighter by 0.125 where it resizes itself, and by 0.25 everywhere."""

    def exported(pixels):
        p = Brightness()(np.full((len(pixels), 32, 32, 3), 64, np.uint8))[:, 1] + 0.25
        p += 0.125 * (pixels.shape[1:3] != (32, 32))
        return np.stack([1 - p, p], axis=1)

    images = [
        each._replace(label=label)
        for each, label in zip(ImageInputs(str(run.splits)), ["ants", "bees"] * 3, strict=True)
    ]
    found = compare_outputs(
        Brightness(), exported, VerificationImages(images, "all"), True, resizes_exactly=resizes_exactly
    )
    assert found.resizing == pytest.approx(0.125 * resizes_exactly)
    assert found.balanced_cost is None  # of as many ants as bees it is the cost in accuracy
