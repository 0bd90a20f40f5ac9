"""Images of more than 8 bits a channel: one range for all of a data set, the same in training and prediction."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from datamodules.decode import open_image, read_image, resize, to_rgb
from datamodules.deep_pixels import MOST_VALUES, DeepPixels, ValueRange, parse_range
from datamodules.image_stats import ImageStats
from datamodules.sources.catalog import Catalog
from datamodules.value_range import describe_range, few_levels, mixed_depths, training_range
from tests.support.configs import data_module

SIDE = 48
RAMP = np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)


def save(path, values):
    """Save values as what holds them: uint16 as PNG, all else as TIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    path = path.with_suffix(".png" if values.dtype == np.uint16 else ".tif")
    image.save(path)
    return path


def make(root, value_of, n=6):
    """Save n images a class and split, the values of each by `value_of(split, class, number)`."""
    for split in ("train", "val", "test"):
        for label, name in enumerate(("a", "b")):
            for number in range(n):
                save(root / split / name / f"{number:02}", value_of(split, label, number))
    return root


def datamodule(root, tmp_path, **settings):
    return data_module(root, tmp_path / "cache", f"model.image_size={SIDE}", **settings)


def prepared(root, tmp_path, **settings):
    data = datamodule(root, tmp_path, **settings)
    data.setup()
    return data


def exposure(dtype, tops):
    """Return images of one ramp, whose brightest value is another one of `tops` in turn."""
    return lambda split, label, number: (RAMP * tops[(number + label) % len(tops)]).astype(dtype)


@pytest.mark.parametrize(("dtype", "tops"), [
    (np.uint16, (200, 250, 255)), (np.uint16, (256, 300)), (np.uint16, (3000, 4095)), (np.uint16, (60000, 65535)),
    (np.float32, (0.5, 1.0)), (np.float32, (1e-6, 2e-6)), (np.int32, (-2000, -1000)), (np.int32, (100_000, 200_000)),
])  # fmt: skip
def test_all_levels_are_used_and_exposure_is_kept(tmp_path, dtype, tops):
    data = prepared(make(tmp_path / "data", exposure(dtype, tops)), tmp_path)
    low, high = min(0, *tops), max(0, *tops)
    assert data.value_range.low == pytest.approx(low)
    assert data.value_range.high == pytest.approx(high)
    for row in data.catalog.rows("val"):
        values = np.asarray(Image.open(data.catalog.files[row])).astype(float)
        expected = (values - low) / (high - low) * 255
        pixels = data.pixel_cache[row].astype(float)
        assert np.abs(pixels - expected[..., None]).max() < 1.5
        assert len(np.unique(pixels)) > 100
    assert "few levels" not in {finding.kind for finding in data.findings}


def test_the_range_is_of_the_training_images(tmp_path):
    data = prepared(
        make(tmp_path / "data", lambda split, *_: (RAMP * (4000 if split == "train" else 8000)).astype(np.uint16)),
        tmp_path,
    )
    assert data.value_range.high == pytest.approx(4000, abs=8)
    assert data.pixel_cache[int(data.catalog.rows("test")[0])].max() == 255  # clipped, and not scaled by itself


def test_a_hot_pixel_decides_nothing_and_few_levels_are_found(tmp_path, caplog):
    def values(split, label, number):
        image = (RAMP * (200 if (split, label, number) == ("val", 1, 2) else 4000)).astype(np.uint16)
        image[5, 5] = 65535
        return image

    data = prepared(make(tmp_path / "data", values), tmp_path)
    assert data.value_range.high == pytest.approx(4000, abs=8)
    (finding,) = [finding for finding in data.findings if finding.kind == "few levels"]
    dark = [row for row, path in enumerate(data.catalog.paths) if path == "val/b/02.png"]
    assert finding.kind == "few levels" and finding.groups == [dark] and "val/b/02.png (13)" in finding.text
    assert "datamodule.range=LOW,HIGH" in caplog.text


@pytest.mark.parametrize(("n_hot", "apart", "counts"), [
    (5, 90, True), (5, 110, False), (5, 150, False), (15, 5000, True), (9, 5000, False),
])  # fmt: skip
@pytest.mark.parametrize("sign", [1, -1])
def test_a_thousandth_of_the_values_counts_where_it_is_near_the_others(n_hot, apart, counts, sign):
    """Of 10,000 values over 1000 the outermost 10 at either end count up to 100 away."""
    values = np.linspace(0, 1000, 10_000) * sign
    values[-n_hot:] = (1000 + apart) * sign
    ends = sorted([0, (1000 + apart) * sign if counts else 999 * sign])
    assert DeepPixels(values.reshape(100, 100)).spread() == pytest.approx(ends, abs=1)
    broken = np.append(values, [np.inf, -np.inf, np.nan] * 100)
    assert DeepPixels(broken.reshape(2, -1)).spread() == pytest.approx(ends, abs=1)


@pytest.mark.parametrize("step", [1, 3, 6])
def test_of_a_large_color_image_all_channels_count(step):
    """Of its values every `step`-th is looked at; where that is a multiple of 3, it was red only."""
    n_pixels = MOST_VALUES * step // 3
    pixels = np.zeros((n_pixels // 1024, 1024, 3), np.uint16)
    pixels[...] = 100, 2000, 4000
    pixels[: len(pixels) // 2] -= 100  # the upper half is darker
    assert DeepPixels(pixels).spread() == (0, 4000)
    with_alpha = np.concatenate([pixels[:32], np.full_like(pixels[:32, :, :1], 65535)], axis=2)
    assert DeepPixels(with_alpha, has_alpha=True).spread() == (0, 3900)


def test_images_of_8_and_of_more_bits_in_one_data_set_are_found(tmp_path, caplog):
    """A network could tell the classes apart by their brightness only."""

    def values(split, label, number):
        is_deep = label == 1 and number < 3
        return (RAMP * (4000 if is_deep else 250)).astype(np.uint16 if is_deep else np.uint8)

    data = prepared(make(tmp_path / "data", values), tmp_path)
    (finding,) = [finding for finding in data.findings if finding.kind == "bit depth"]
    assert finding.text.startswith(
        "bit depth: 9 images of more than 8 bits per channel (9 of 18 of class b, 0 of 18 of class a) and 27 of 8: "
    )
    assert (
        "those of more than 8 bits: " in finding.text
        and "test/b/00.png" in finding.text
        and finding.text in caplog.text
    )


def test_of_mixed_bit_depths_the_rarer_images_are_named_and_classes_without_images_have_no_share():
    nan = (np.nan, np.nan)
    for row, kind, ends in (
        (0, "more than 8 bits", "1 of 3 of class a, 0 of 2 of class b"),
        (1, "8 bits", "3 of 3 of class a, 1 of 2 of class b"),
    ):
        spreads = [(0, 9) if (number == row) == (kind != "8 bits") else nan for number in range(5)]
        catalog, stats = stats_of(spreads)
        catalog.classes = ["a", "b", "c"]
        text = mixed_depths(catalog, stats).text
        assert f"per channel ({ends}) and" in text and text.endswith(f"those of {kind}: {row}.png")
    assert "(1 of 1 of class b, 1 of 2 of class a)" in mixed_depths(*stats_of([(0, 9), (0, 9), nan])).text
    assert "those of more than 8 bits: 0.png and 2.png" in mixed_depths(*stats_of([(0, 9), nan, (0, 9), nan])).text
    assert mixed_depths(*stats_of([nan] * 3)) is None and mixed_depths(*stats_of([(0, 9)] * 3)) is None


def test_equal_shares_of_several_bit_depths_are_those_of_each_class(tmp_path):
    def values(split, label, number):
        return (RAMP * 250 + number).astype(np.uint16 if number < 2 else np.uint8)

    data = prepared(make(tmp_path / "data", values), tmp_path)
    (finding,) = [finding for finding in data.findings if finding.kind == "bit depth"]
    assert "12 images of more than 8 bits per channel (33.3% of each class) and 24 of 8" in finding.text


@pytest.mark.parametrize("setting", ["-1000,1000", [-1000, 1000]])
def test_a_range_of_the_user_holds_for_all(tmp_path, setting):
    data = prepared(make(tmp_path / "data", lambda *_: (RAMP * 3000 - 1500).astype(np.int32)), tmp_path, range=setting)
    assert data.value_range == ValueRange(-1000, 1000, of_all=True)
    values = np.asarray(Image.open(data.catalog.files[0]))
    expected = ((values.clip(-1000, 1000) + 1000) / 2000 * 255).round()
    assert np.array_equal(data.pixel_cache[0][..., 0], expected)


@pytest.mark.parametrize(
    "setting", ["4095", "a,b", "5,1", "1,1", "nan,1", "0,inf", "-inf,0", None, [1, 2, 3], [True, 2]]
)
def test_what_is_no_range(setting):
    with pytest.raises(UserError, match=r"datamodule\.range=.*use auto, or the values that become black and white"):
        parse_range(setting)


def test_a_wrong_range_is_shown_as_it_was_typed():
    """Hydra gives `datamodule.range=5,1` as a list."""
    with pytest.raises(UserError, match=r"^datamodule\.range=5,1: use auto"):
        parse_range([5, 1])


def test_prediction_sees_what_training_saw(tmp_path):
    """Through the range of a checkpoint; the fingerprint of an image is that of its values, whatever the range is."""
    data = prepared(make(tmp_path / "data", exposure(np.uint16, (900, 1100, 4095))), tmp_path)
    for row, file in enumerate(data.catalog.files):
        again = ValueRange(*list(data.value_range))
        assert np.array_equal(np.asarray(resize(open_image(file, SIDE, again), SIDE)), data.pixel_cache[row])
        assert read_image(file).fingerprint() == data.pixel_cache.stats.fingerprints[row]


def test_images_of_8_bits_have_no_range_and_are_as_they_were(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        data = prepared(
            make(tmp_path / "data", lambda _, label, number: (RAMP * (100 + number + 9 * label)).astype(np.uint8)),
            tmp_path,
        )
    assert data.value_range is None and "few levels" not in caplog.text and "8 bits" not in caplog.text
    assert (
        len({place.name for place in (tmp_path / "cache" / "pixels").iterdir()}) == 2
    )  # what is compared, and the run's own
    assert np.array_equal(data.pixel_cache[0][..., 0], np.asarray(Image.open(data.catalog.files[0])))


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 4095)])
def test_a_checkpoint_s_range_decodes_nothing_again_and_compares_images_as_its_run_did(tmp_path, dtype, top):
    """Also where the run drew the splits itself: near duplicates, found by these pixels, have a part in them."""
    root = make(tmp_path / "data", lambda _, label, number: np.roll(RAMP * top, 90 * number + label, 0).astype(dtype))
    caches = [prepared(root, tmp_path), datamodule(root, tmp_path)]
    before = sorted((tmp_path / "cache" / "pixels").iterdir())
    caches[1].keep_range(caches[0].value_range, "best.ckpt")
    caches[1].setup()
    assert sorted((tmp_path / "cache" / "pixels").iterdir()) == before
    assert caches[1].value_range == caches[0].value_range
    assert [finding.text for finding in caches[1].findings] == [finding.text for finding in caches[0].findings]
    assert all(np.array_equal(caches[0].pixel_cache[row], caches[1].pixel_cache[row]) for row in range(36))


def test_the_range_is_on_the_screen_and_a_checkpoint_s_own_holds(tmp_path, caplog):
    root = make(tmp_path / "data", exposure(np.uint16, (3000, 4095)))
    with caplog.at_level(logging.INFO):
        prepared(root, tmp_path)
    assert "36 by one range for all, 0 to 4095 (most values of the training images)" in caplog.text
    data = datamodule(root, tmp_path)
    data.keep_range([0.0, 8190.0, False], "best.ckpt")
    data.setup()
    assert data.value_range == ValueRange(0, 8190) and data.pixel_cache[1].max() == round(4095 / 8190 * 255)
    other = datamodule(root, tmp_path, range="0,100")
    with pytest.raises(UserError, match=r"best\.ckpt: was trained with the range 0 to 8190"):
        other.keep_range([0.0, 8190.0, False], "best.ckpt")


def test_a_network_of_8_bits_sees_16_bits_in_full_and_no_floats(tmp_path):
    """Also where a run of 8 bits is evaluated on such images: never each image by itself."""
    root = make(tmp_path / "data", exposure(np.uint16, (3000, 4095)))
    data = datamodule(root, tmp_path)
    data.keep_range(None, "best.ckpt")
    data.setup()
    values = np.asarray(Image.open(data.catalog.files[0]))
    assert np.array_equal(data.pixel_cache[0][..., 0], (values / 257).round())
    assert "few levels" in {finding.kind for finding in data.findings}
    with pytest.raises(UserError, match="whose black and white are not known"):
        open_image(save(tmp_path / "float", RAMP.astype(np.float32)))


@pytest.mark.parametrize(("dtype", "top"), [
    (np.uint8, 255), (np.uint16, 65535), (np.int8, None), (np.int16, None), (np.uint32, None), (np.float16, None),
])  # fmt: skip
def test_only_unsigned_numbers_of_up_to_16_bits_have_a_range_of_their_own(dtype, top):
    pixels = DeepPixels(np.zeros((2, 2), dtype))
    if top is not None:
        assert pixels.range_of(None) == (0, top)
    else:
        with pytest.raises(UserError, match=f"its pixels are {np.dtype(dtype)}, whose black and white are not known"):
            pixels.range_of(None)


def test_images_of_one_value_or_of_nothing_but_nan():
    assert DeepPixels(np.full((4, 4), np.nan)).spread() == (0, 0)
    assert not np.asarray(DeepPixels(np.full((4, 4), 7, np.uint16)).to_image(7, 7)).any()


@pytest.mark.parametrize("alpha", [[np.nan, 0.5], [-1.0, 0.0], [np.inf, 1.0]])
def test_alpha_that_is_none_says_nothing(alpha):
    array = np.array([[[1, 2, 3, value] for value in alpha]])
    assert np.array_equal(DeepPixels(array, has_alpha=True).to_image(0, 255), array[..., :3])


@pytest.mark.parametrize(("dtype", "half"), [(np.uint8, 102), (np.uint16, 26214), (np.int32, 102), (np.float64, 0.4)])
def test_deep_alpha_is_laid_over_white(dtype, half):
    """Of unsigned numbers all of their bits are opaque, of others the largest alpha of the image."""
    opaque = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 255 if dtype == np.int32 else 1
    array = np.array([[[0, half], [200, half], [200, 0], [200, opaque]]], dtype)
    array = np.concatenate([array[..., :1]] * 3 + [array[..., 1:]], axis=2)
    made = [array, array[:, :2]] if np.dtype(dtype).kind == "u" else [array]
    for each in made:
        if len(np.unique(each[..., 3])) == 1:
            each[0, 0, 3] = 0  # else alpha says nothing
        share = each[..., 3:].astype(float) / opaque
        expected = each[..., :3] * share + 255 * (1 - share)
        seen = np.asarray(to_rgb(DeepPixels(each, has_alpha=True).to_image(0, 255)))
        assert np.abs(seen - expected).max() <= 1


def test_one_overexposed_training_image_does_not_take_the_levels_of_the_others(tmp_path, caplog):
    """And many of them do count: they are a part of the data."""
    many = make(
        tmp_path / "many", lambda _, label, number: (RAMP * (60000 if number > 3 else 4095)).astype(np.uint16), n=8
    )
    assert prepared(many, tmp_path).value_range.high == 60000

    def values(split, label, number):
        return (RAMP * 4095 + 60000 * ((split, label, number) == ("train", 0, 3))).astype(np.uint16)

    data = prepared(make(tmp_path / "one", values), tmp_path)
    assert data.value_range == ValueRange(0, 4095)
    assert "few levels: 1 image of more than 8 bits" in caplog.text and "train/a/03.png" in caplog.text


def test_deep_images_in_val_and_test_only_are_as_predict_sees_them(tmp_path, caplog):
    def values(split, label, number):
        bits = np.uint8 if split == "train" else np.uint16
        return np.roll(RAMP * (255 if split == "train" else 4095), 5 * number + label, axis=0).astype(bits)

    with caplog.at_level(logging.INFO):
        data = prepared(make(tmp_path / "data", values), tmp_path)
    assert "24 by one range for all, the full range of 16 bits (no training image has them)" in caplog.text
    for row in data.catalog.rows("test"):
        seen = np.asarray(resize(open_image(data.catalog.files[row], SIDE, data.value_range), SIDE))
        assert np.array_equal(data.pixel_cache[row], seen) and seen.max() == 16
    assert "few levels" in caplog.text
    floats = make(tmp_path / "floats", lambda split, *_: RAMP.astype(np.uint8 if split == "train" else np.float32))
    with pytest.raises(UserError, match=r"24 images cannot be scaled like the training images; convert them, or give"):
        prepared(floats, tmp_path, on_leak="drop")


def stats_of(spreads, stated=None, splits=None):
    """Return a catalog and statistics of images of these spreads; NaN: of 8 bits."""
    stats = ImageStats.empty(len(spreads))
    stats.spreads[:] = spreads
    if stated is not None:
        stats.stated[:] = stated
    n = len(spreads)
    paths, labels = [f"{row}.png" for row in range(n)], np.array([row % 2 for row in range(n)])
    catalog = Catalog("made up", Path("root"), ["a", "b"], paths, labels, np.array(splits or ["train"] * n, object))
    return catalog, stats


@pytest.mark.parametrize("side", ["dark", "bright"])
@pytest.mark.parametrize(("n", "n_apart", "far", "counts"), [
    (9, 1, 500, True), (10, 1, 500, False), (10, 1, 100, True), (10, 1, 110, False), (39, 2, 500, True), (40, 2, 500, False),
    (40, 3, 500, True),
])  # fmt: skip
def test_of_ten_training_images_one_and_of_many_a_twentieth_may_lie_apart(n, n_apart, far, counts, side):
    """By more than the distance from the darkest to the brightest of the others, here 100."""
    spreads = np.array([(1000, 1100)] * n, float)
    spreads[:n_apart, 0 if side == "dark" else 1] += -far if side == "dark" else far
    expected = [1000, 1100]
    if counts:
        expected[side == "bright"] += far * (1 if side == "bright" else -1)
    assert training_range(*stats_of(spreads)) == ValueRange(*expected)
    others = [(0, 9999), (np.nan, np.nan), (0, 9999)]  # of test, of 8 bits, one that states its range
    stated = [(np.nan, np.nan)] * (n + 2) + [(0, 4095)]
    splits = ["train"] * n + ["test", "train", "train"]
    assert training_range(*stats_of([*spreads, *others], stated, splits)) == ValueRange(*expected)


def test_the_levels_that_an_image_uses_are_counted_in_its_own_range():
    """Of 255 steps of 100 values each: 31 steps are 32 levels, which are enough."""
    nan, of_all = (np.nan, np.nan), ValueRange(0, 25500, of_all=True)
    spreads = [(0, 3100), (0, 3099), (500, 500), (-9999, 99), (0, 3100), (0, 3100), nan]
    stated = [nan, nan, nan, nan, (-12750, 12750), (0, 31000), nan]
    catalog, stats = stats_of(spreads, stated)
    found = few_levels(catalog, stats, ValueRange(0, 25500))
    assert found.groups == [[2], [3], [5], [1]]  # those of the fewest levels first
    assert "4 images" in found.text and "2.png (1), 3.png (1), 5.png (26) and 1.png (31)" in found.text
    assert few_levels(catalog, stats, of_all).groups == [[2], [3], [1]]
    assert few_levels(*stats_of([(7, 7)]), ValueRange(7, 7)).groups == [[0]]  # all images are of one value
    full = few_levels(*stats_of([(0, 257 * 31), (0, 257 * 31 - 1)]), None)  # of 16 bits, where the network is of 8
    assert full.groups == [[1]] and few_levels(*stats_of([(0, 257 * 31)]), None) is None


def test_which_ranges_hold_is_one_sentence():
    nan = (np.nan, np.nan)
    catalog, stats = stats_of([(0, 9)] * 3 + [nan], [(0, 4095), nan, nan, nan])
    start, own = "more than 8 bits per channel, scaled to 8: ", "1 by the window or the bits that the file states"
    by_training = "2 by one range for all, 5 to 10 (most values of the training images)"
    assert describe_range(catalog, stats, ValueRange(5, 10)) == f"{start}{own}, {by_training}"
    given = ValueRange(5, 10, of_all=True)
    assert describe_range(catalog, stats, given) == f"{start}3 by one range for all, 5 to 10 (datamodule.range)"
    assert describe_range(*stats_of([(0, 9)], [(0, 4095)]), None) == start + own
    assert describe_range(*stats_of([nan]), None) is None
