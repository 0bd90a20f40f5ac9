import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as F

from common.errors import UserError
from datamodules.transforms import Augmentation, AugmentationParams, draw_rectangle

apply = Augmentation.apply
OFF = {"horizontal_flip": 0, "vertical_flip": 0, "rotation_degrees": 0, "color_jitter": 0, "erasing": 0}


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)


def test_nothing_drawn_changes_nothing(image):
    augmentation = Augmentation(**OFF)
    assert augmentation.apply(image, augmentation.draw(40, np.random.default_rng(0))) is image


def test_flips_and_rotation_equal_torchvision_in_the_study_s_order(image):
    ours = apply(image, AugmentationParams(horizontal_flip=1, vertical_flip=1, angle_degrees=11.25))
    theirs = F.rotate(F.vflip(F.hflip(Image.fromarray(image))), 11.25)
    assert np.array_equal(ours, np.asarray(theirs))


def test_jitter_equals_torchvision(image):
    theirs = F.adjust_saturation(F.adjust_contrast(F.adjust_brightness(Image.fromarray(image), 1.1), 0.9), 1.2)
    assert np.array_equal(
        apply(image, AugmentationParams(brightness=1.1, contrast=0.9, saturation=1.2)), np.asarray(theirs)
    )


def test_erasing_blackens_one_rectangle_within_the_paper_s_bounds(image):
    bright = np.maximum(image, 1)
    shares = []
    for seed in range(300):
        erased = apply(bright, AugmentationParams(**draw_rectangle(40, np.random.default_rng(seed))))
        black = (erased == 0).all(axis=2)
        rows, columns = np.flatnonzero(black.any(axis=1)), np.flatnonzero(black.any(axis=0))
        assert black.sum() == len(rows) * len(columns) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert np.array_equal(erased[~black], bright[~black])
        shares.append(black.mean())
        assert 0.3 * 0.7 < len(columns) / len(rows) < 3.3 * 1.4  # rounded to whole pixels of a small image
    assert 0.01 < min(shares) < 0.05 and 0.28 < max(shares) < 0.36
    assert np.mean(shares) == pytest.approx((0.02 + 0.33) / 2, abs=0.02)


@pytest.mark.parametrize("step", ["horizontal_flip", "vertical_flip", "erasing"])
def test_probabilities_are_kept(step, image):
    augmentation = Augmentation(**OFF | {step: 0.3})
    draws = [augmentation.draw(40, np.random.default_rng(seed)) for seed in range(1000)]
    changed = sum(not np.array_equal(apply(image, draw), image) for draw in draws)
    assert changed == pytest.approx(300, abs=60)  # four standard deviations


def test_rotation_covers_both_sides_up_to_its_bound():
    class Angles(np.random.Generator):
        seen: list = []

        def uniform(self, low, high):
            self.seen.append((low, high))
            return super().uniform(low, high)

    Augmentation(**OFF | {"rotation_degrees": 15}).draw(4, Angles(np.random.PCG64(0)))
    assert Angles.seen == [(-15, 15)]


@pytest.mark.parametrize(("name", "value"), [("erasing", 1.5), ("horizontal_flip", -0.1), ("rotation_degrees", 200)])
def test_bad_values_are_named(name, value):
    with pytest.raises(UserError, match=f"augmentation.{name}={value}"):
        Augmentation(**OFF | {name: value})


DRAWS = [
    AugmentationParams(),
    AugmentationParams(horizontal_flip=1),
    AugmentationParams(vertical_flip=1),
    AugmentationParams(
        horizontal_flip=1, vertical_flip=1, erased_top=3, erased_left=20, erased_height=10, erased_width=5
    ),
    AugmentationParams(angle_degrees=15),
    AugmentationParams(
        angle_degrees=-7.5, vertical_flip=1, erased_top=0, erased_left=0, erased_height=8, erased_width=39
    ),
]


def on_device(image, draws, **options):
    batch = torch.from_numpy(np.stack([image] * len(draws))).permute(0, 3, 1, 2)
    augmentation = Augmentation(**OFF | {"color_jitter": 0.2} | options)
    return augmentation.apply_on_device(batch, torch.tensor(draws)).permute(0, 2, 3, 1).numpy()


def test_a_batch_on_the_device_is_what_each_image_is_on_the_processor(image):
    for draw, theirs in zip(DRAWS, on_device(image, DRAWS), strict=True):
        ours = apply(image, draw)
        different = (ours != theirs).any(axis=2).mean()
        assert different <= (0.03 if draw.angle_degrees else 0), draw  # nearest neighbor: ties may fall either way


def test_jitter_on_the_device_is_that_of_the_processor_to_rounding(image):
    draw = AugmentationParams(brightness=1.1, contrast=0.9, saturation=1.2)
    assert np.abs(apply(image, draw) - on_device(image, [draw, AugmentationParams()])[0]).max() <= 3


BOXES = ((3.3, 0, 30.25, 40), (0, 10.5, 25, 29.5), (8, 2.2, 32, 24))  # top, left, height, width
CROPS = [
    AugmentationParams(horizontal_flip=flip, angle_degrees=angle)._replace(
        crop_top=box[0], crop_left=box[1], crop_height=box[2], crop_width=box[3]
    )
    for box, flip, angle in zip(BOXES, (0, 1, 0), (0, 0, 10), strict=True)
]


def test_a_box_becomes_the_image_as_with_torchvision_and_on_the_device_to_rounding(image):
    whole = AugmentationParams(crop_top=4, crop_left=6, crop_height=32, crop_width=27)
    theirs = F.resized_crop(torch.from_numpy(image).permute(2, 0, 1).float(), 4, 6, 32, 27, [40, 40], antialias=False)
    inside = (
        slice(2, -2),
        slice(2, -2),
    )  # at its edge torchvision repeats the box's pixels and Pillow takes the image's
    assert np.abs(apply(image, whole)[inside] - theirs.permute(1, 2, 0).numpy()[inside]).max() <= 1
    results = on_device(image, [*CROPS, AugmentationParams()], crop_scale=[0.3, 1], color_jitter=0)
    for draw, theirs in zip([*CROPS, AugmentationParams()], results, strict=True):
        different = (np.abs(apply(image, draw) - theirs) > 1).any(axis=2).mean()
        assert different <= (0.03 if draw.angle_degrees else 0), draw


def test_boxes_have_their_shares_and_leave_what_else_is_drawn():
    options = {"horizontal_flip": 0.5, "rotation_degrees": 15, "erasing": 0.5}
    usual, crops = Augmentation(**OFF | options), Augmentation(**OFF | options, crop_scale=[0.35, 0.8])
    shares = []
    for seed in range(500):
        before, after = (each.draw(40, np.random.default_rng(seed)) for each in (usual, crops))
        assert before[:10] == after[:10]
        assert 0 <= after.crop_top <= 40 - after.crop_height and 0 <= after.crop_left <= 40 - after.crop_width
        assert 0.74 < after.crop_width / after.crop_height < 1.34
        shares.append(after.crop_width * after.crop_height / 1600)
    assert 0.35 <= min(shares) < 0.37 and 0.78 < max(shares) <= 0.8


@pytest.mark.parametrize("scale", [[0, 1], [0.5], [0.8, 0.5], [0.5, 1.2]])
def test_a_crop_that_is_none_is_named(scale):
    with pytest.raises(UserError, match=r"augmentation.crop_scale=\[.*use two shares of the area"):
        Augmentation(**OFF, crop_scale=scale)


def test_draws_are_the_same_wherever_they_are_applied():
    augmentation = Augmentation(
        horizontal_flip=0.5, vertical_flip=0.5, rotation_degrees=15, color_jitter=0.2, erasing=1
    )
    draw = augmentation.draw(40, np.random.default_rng(3))
    assert draw == augmentation.draw(40, np.random.default_rng(3)) and draw.erased_height > 0
