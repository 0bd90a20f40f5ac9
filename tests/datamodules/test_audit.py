"""Near duplicates: changed images are found, others of the same layout are not, and only what leaks is dropped."""

import contextlib
import io
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from scipy.sparse.csgraph import connected_components

from common.progress import Progress
from datamodules import near_duplicates
from datamodules.audit import audit, leaking_train_rows
from datamodules.decode import FIRST_OF_SEVERAL, fingerprint, resize
from datamodules.image_stats import ImageStats
from datamodules.sources.catalog import Catalog

SIDE = 150


class Pixels:
    """Images in memory, as a pixel cache gives them."""

    look = near_duplicates.compared_look(None)

    def __init__(self, images):
        self.images = images
        self.stats = ImageStats.empty(len(images))
        for row, image in enumerate(images):
            self.stats.fingerprints[row] = fingerprint(image)
            self.stats.sizes[row], self.stats.modes[row] = image.size, image.mode
            self.stats.thumbnails[row] = resize(image, 16)

    def __getitem__(self, row):
        return np.asarray(self.look.resize(self.images[row].convert("RGB")))[..., None]


def catalog_of(splits):
    rows = range(len(splits))
    return Catalog(
        "made up", Path("root"), ["blue", "red"], [f"{row}.png" for row in rows], np.array([row % 2 for row in rows]),
        np.array(splits, dtype=object),
    )  # fmt: skip


def to_image(pixels):
    return Image.fromarray(np.clip(pixels, 0, 255).round().astype(np.uint8))


def field(generator, sd, side=SIDE):
    """A random field without mean, of standard deviation 1."""
    values = ndimage.gaussian_filter(generator.normal(size=(side, side)), sd, mode="wrap")
    return (values - values.mean()) / values.std()


def jpeg(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=50)
    return Image.open(file).convert("L")


def shift(image):
    """By 1% to the right and down."""
    by = round(image.width * 0.01)
    return Image.fromarray(np.pad(np.asarray(image), ((by, 0), (by, 0)), mode="edge")[: image.height, : image.width])


def crop(image):
    """3% of the width and of the height."""
    width, height = image.size
    return image.resize(
        image.size, Image.Resampling.BICUBIC, box=(0.01 * width, 0.02 * height, 0.98 * width, 0.99 * height)
    )


def contrast(image):
    pixels = np.asarray(image, float)
    return to_image((pixels - pixels.mean()) * 0.8 + pixels.mean())


CHANGES = {
    "brightness +3%": lambda image: to_image(np.asarray(image) * 1.03),
    "brightness +10%": lambda image: to_image(np.asarray(image) * 1.10),
    "brightness -10%": lambda image: to_image(np.asarray(image) * 0.90),
    "contrast": contrast,
    "jpeg": jpeg,
    "noise": lambda image: to_image(np.asarray(image) + np.random.default_rng(1).normal(0, 8, image.size[::-1])),
    "shift": shift,
    "crop": crop,
    "rotation": lambda image: image.rotate(1, Image.Resampling.BICUBIC),
}


def confirmed(images):
    """The pairs called the same, and how many were looked at."""
    pixels, looked_at = Pixels(images), []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(near_duplicates.Search, "_ask", counted(near_duplicates.Search._ask, looked_at))
        pairs = near_duplicates.find_pairs(np.arange(len(images)), pixels).pairs
    return {tuple(pair) for pair in pairs.tolist()}, sum(looked_at)


def counted(ask, looked_at):
    def counting(self, pairs, look):
        looked_at.append(len(pairs))
        ask(self, pairs, look)

    return counting


def share_found(originals, how):
    """Of changed images in test whose originals are in train."""
    n = len(originals)
    pairs, _ = confirmed(originals + [CHANGES[how](image) for image in originals])
    return np.mean([(row, row + n) in pairs for row in range(n)])


@pytest.fixture(scope="module")
def textured():
    """60 images with a texture of their own, half of them weak, within one layout of bars and a frame."""
    generator = np.random.default_rng(0)
    layout = np.full((SIDE, SIDE), 150.0)
    layout[[40, 41, 75, 76, 110, 111]] = 60
    layout[:6] = layout[-6:] = layout[:, :6] = layout[:, -6:] = 20
    return [to_image(layout + (15, 4)[n % 2] * field(generator, 3)) for n in range(60)]


def cells(kind, count):
    """Other cells of one kind, spread over the data set."""
    pytest.importorskip("elpv_dataset", reason="needs the extra samples")
    from datamodules.sources.elpv import Elpv

    source = Elpv()
    paths = [cell.path for cell in source.cells() if cell.kind == kind and cell.is_certain]
    return [Image.open(source.root / path).convert("L") for path in paths[:: len(paths) // count][:count]]


@pytest.mark.parametrize("how", CHANGES)
def test_a_changed_image_is_found(textured, how):
    assert share_found(textured, how) >= 0.95


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("kind", ["mono", pytest.param("poly", marks=pytest.mark.thorough)])  # with more texture
def test_changed_solar_cells_are_found(kind, how):
    """Mono cells have little texture of their own: noise of 8 gray levels drowns that of a quarter of them."""
    least = {"noise": 0.7, "jpeg": 0.9, "shift": 0.9, "crop": 0.85} if kind == "mono" else {}
    assert share_found(cells(kind, 30), how) >= least.get(how, 0.95)


def test_other_images_of_the_same_layout_are_proposed_but_not_called_the_same(textured):
    pairs, proposed = confirmed(textured)
    assert proposed > 100 and len(pairs) == 0


def test_other_mono_cells_that_look_alike_are_mostly_not_called_the_same():
    pairs, proposed = confirmed(cells("mono", 150))
    assert proposed > 100 and len(pairs) <= 0.02 * proposed


def test_drawings_without_texture_are_the_same_only_if_their_lines_are():
    drawings = []
    for place in range(30):
        page = np.full((SIDE, SIDE), 255.0)
        page[20:130, 70:76] = page[72:78, 20:130] = 0  # in all
        left, top = 25 + 16 * (place % 6), 25 + 16 * (place // 6)
        page[top : top + 20, left : left + 20] = 0
        drawings.append(to_image(page))
    pairs, _ = confirmed([*drawings, CHANGES["brightness -10%"](drawings[0]), jpeg(drawings[1])])
    assert pairs == {(0, 30), (1, 31)}


def chained():
    """Images of which each is like the next and no other: half of the texture of both is in the one between them."""
    generator = np.random.default_rng(0)
    coarse, first, last = 120 + 40 * field(generator, 20), field(generator, 2), field(generator, 2)
    others = [to_image(120 + 40 * field(generator, 20) + 12 * field(generator, 2)) for _ in range(4)]
    between = (first + last) / math.sqrt(2)  # correlates with both by 0.71
    return [to_image(coarse + 12 * texture) for texture in (first, between, last)] + others


def test_of_a_chain_only_the_image_that_is_itself_like_one_of_test_leaks():
    pixels = Pixels(chained())
    catalog = catalog_of(["train", "train", "test", "train", "train", "val", "test"])
    near = [finding for finding in audit(catalog, pixels) if finding.kind == "near duplicate"]
    assert [(finding.leak, finding.groups) for finding in near] == [(True, [[0, 1, 2]])]
    assert near[0].text == "near duplicate: 1 group across train and val or test: 0.png = 1.png = 2.png"
    assert leaking_train_rows(catalog, near) == [1]


def test_of_many_copies_those_that_tell_the_finding_are_named():
    """Of a group three files are named, and six drawn: they were the first ones, here all of train and of one label."""
    image = to_image(120 + 40 * field(np.random.default_rng(0), 2))
    splits = ["train"] * 12 + ["val", "test"]
    catalog = catalog_of(splits)
    catalog.labels = np.array([0] * 11 + [1] * 3)
    conflict, leak = [finding for finding in audit(catalog, Pixels([image] * len(splits))) if finding.groups]
    assert conflict.text == "conflict: 1 image under two labels: 0.png = 11.png = 1.png"
    assert leak.text == "exact duplicate: 1 group across train and val or test: 0.png = 12.png = 13.png"
    assert sorted(leak.groups[0]) == sorted(conflict.groups[0]) == list(range(14))
    catalog.groups = ["patient"] * 14
    named = next(finding for finding in audit(catalog, Pixels([image] * len(splits))) if finding.kind == "group")
    assert named.groups[0][:4] == [0, 12, 13, 1]


def test_groups_within_a_split_have_one_example(textured):
    pixels = Pixels([*textured[:6], jpeg(textured[0]), jpeg(textured[1])])
    (near,) = audit(catalog_of(["train"] * 6 + ["train", "train"]), pixels)
    assert near.groups == [[0, 6], [1, 7]]
    assert near.text == "near duplicate: 2 groups within a split: 0.png = 6.png; and 1 more"


@pytest.mark.parametrize("split", ["val", "test"])
def test_copies_within_a_split_are_named_as_independent_for_its_intervals(textured, split):
    pixels = Pixels([*textured[:6], textured[0]])
    (exact,) = audit(catalog_of([split] + ["train"] * 5 + [split]), pixels)
    words = "1 group within a split, whose intervals treat them as independent images: 0.png = 6.png"
    assert exact.text == f"exact duplicate: {words}" and not exact.leak
    also_in_train = Pixels([*textured[:6], textured[0], textured[1]])
    (exact,) = audit(catalog_of([split] + ["train"] * 5 + [split, "train"]), also_in_train)
    assert exact.text.startswith("exact duplicate: 2 groups within a split, whose intervals treat them as")
    grouped = catalog_of([split] + ["train"] * 5 + [split])
    grouped.groups[:] = ["patient"] + [""] * 5 + ["patient"]
    assert [found.text for found in audit(grouped, pixels)] == [
        "exact duplicate: 1 group within a split: 0.png = 6.png"
    ]


def test_the_same_image_in_val_and_test_is_not_called_within_a_split(textured):
    pixels = Pixels([*textured[:6], jpeg(textured[0]), jpeg(textured[1]), textured[2]])
    catalog = catalog_of(["val", "train", "val", "train", "val", "test", "test", "train", "test"])
    found = [finding for finding in audit(catalog, pixels) if "duplicate" in finding.kind]
    assert {
        (finding.text.partition(":")[0], finding.text.partition(" group")[2], finding.leak) for finding in found
    } == {
        ("exact duplicate", " across val and test: 2.png = 8.png", False),
        ("near duplicate", " across val and test: 0.png = 6.png", False),
        ("near duplicate", " within a split: 1.png = 7.png", False),
    }
    assert leaking_train_rows(catalog, found) == []


def test_many_near_copies_in_train_do_not_hide_one_in_test(textured):
    generator = np.random.default_rng(0)
    copies = [to_image(np.asarray(textured[0], float) + generator.normal(0, 3, (SIDE, SIDE))) for _ in range(40)]
    changed = CHANGES["shift"](textured[0])
    catalog = catalog_of(["train"] * 40 + ["test"] + ["train", "val"] * 10)
    assert leaking_train_rows(catalog, audit(catalog, Pixels([*copies, changed, *textured[1:21]]))) == list(range(40))


def test_constant_images_are_like_no_other():
    images = [Image.new("L", (SIDE, SIDE), level) for level in range(0, 250, 10)]
    assert confirmed(images) == (set(), 0)


def test_what_was_not_looked_at_is_a_finding(textured, monkeypatch):
    catalog = catalog_of(["train", "test"] * 30)
    monkeypatch.setattr(near_duplicates, "MOST_PAIRS", 100)
    found = audit(catalog, Pixels(textured))[0].text
    assert "only the 100 most similar were compared; " in found and found.endswith(" (datamodule.table=FILE)")
    monkeypatch.setattr(near_duplicates, "MOST_IMAGES", 59)
    (finding,) = audit(catalog, Pixels(textured))
    assert finding.kind == "near duplicate" and not finding.leak
    assert "not looked for, since 60 images are more than the 59" in finding.text


@pytest.mark.parametrize(("name", "is_kept_together", "is_found"), [
    ("cam1_{scene:03}_{frame:02}.jp2", False, True),
    ("{scene}/{frame}.png", False, True),
    ("img_{row:04}.png", False, False),  # one series in all
    ("cam1_{scene:03}_{frame:02}.png", True, False),
])  # fmt: skip
def test_frames_of_smooth_scenes_are_found_by_their_names(name, is_kept_together, is_found):
    """Their texture is noise, so they are not near duplicates; 40 scenes of 4 frames, the last of which is in test."""
    generator = np.random.default_rng(0)
    scenes = [120 + 15 * field(generator, 15) for _ in range(40)]
    images = [to_image(scene + generator.normal(0, 6, (SIDE, SIDE))) for scene in scenes for _ in range(4)]
    catalog = catalog_of(["train", "train", "val", "test"] * 40)
    catalog.labels = np.arange(160) // 4 % 2
    catalog.paths = [name.format(row=row, scene=row // 4, frame=row % 4) for row in range(160)]
    if is_kept_together:
        catalog.splits = np.repeat(np.array(["train", "val", "test", "train"], object), 40)
    found = [finding for finding in audit(catalog, Pixels(images)) if "same object" in finding.text]
    assert len(found) == is_found
    for finding in found:
        assert not finding.leak and len(finding.groups) > 30
        assert finding.caveat.startswith("may be too high: ") and finding.caveat.endswith("may show the same object")
        assert all(len(np.unique(np.array(group) // 4)) == 1 for group in finding.groups)
        assert all(len(set(catalog.splits[group[:2]])) == 2 for group in finding.groups)


def look_counted(monkeypatch):
    """Return a list that grows by the number of images that are looked at."""
    looked, gray = [], near_duplicates.Search._gray

    def counting(self, images):
        looked.extend(self.rows[images].tolist())
        return gray(self, images)

    monkeypatch.setattr(near_duplicates.Search, "_gray", counting)
    return looked


def found(pixels):
    return near_duplicates.find_pairs(np.arange(len(pixels.images)), pixels).pairs.tolist()


def test_answers_are_kept_by_fingerprint_and_only_new_images_are_looked_at(textured, tmp_path, monkeypatch):
    looked = look_counted(monkeypatch)
    images = [textured[0], shift(textured[0]), *textured[1:30]]
    pixels = Pixels(images)
    pixels.path = tmp_path / "pixels.npy"
    assert found(pixels) == [[0, 1]] and len(looked) > 0
    kept = tmp_path / "near.npz"
    whole, looked[:] = kept.read_bytes(), []
    assert found(pixels) == [[0, 1]] and looked == []

    grown = Pixels(
        [jpeg(textured[5]), *images[::-1]]
    )  # in another order, in another store to which the file was copied
    (tmp_path / "grown").mkdir()
    grown.path = tmp_path / "grown" / "pixels.npy"
    grown.path.with_name("near.npz").write_bytes(whole)
    assert found(grown) == [[0, 25], [30, 31]]
    assert 0 in looked and len(looked) <= 1 + near_duplicates.PROPOSED
    fewer = Pixels(images[1:])
    fewer.path, looked[:] = grown.path, []
    assert found(fewer) == [] == looked

    for damaged in (whole[:40], b"", b"PK\x03\x04" + whole[8:], np.zeros(3).tobytes()):
        kept.write_bytes(damaged)
        assert found(pixels) == [[0, 1]]
        assert kept.read_bytes() == whole  # looked at again, and kept


def kept_in(folder, images):
    """Return the found pairs by fingerprints, of which the answers are kept in a folder."""
    pixels = Pixels(images)
    folder.mkdir(exist_ok=True)
    pixels.path = folder / "pixels.npy"
    return {frozenset(pixels.stats.fingerprints[row] for row in pair) for pair in found(pixels)}


@pytest.mark.thorough
@pytest.mark.parametrize("before", [40, 150])
def test_images_added_to_those_of_a_fixed_camera_give_the_pairs_of_all_at_once(before, tmp_path):
    """Before, there are too few for a scene, or there is one: the same copies are found afterwards, and no other pair."""
    generator = np.random.default_rng(0)
    scene = 120 + 25 * field(generator, 5, 64) + 20 * field(generator, 1, 64)
    frames = []
    for _ in range(250):
        frame = scene.copy()
        for _ in range(3):
            top, left, height, width = *generator.integers(4, 50, 2), *generator.integers(4, 12, 2)
            frame[top : top + height, left : left + width] = generator.uniform(20, 235)
        frames.append(to_image(frame + generator.normal(0, 3, (64, 64))))
    frames += [CHANGES["brightness +3%"](frame) for frame in frames[:20]]
    kept_in(tmp_path / "grown", [*frames[:before], *frames[-20:]])
    grown, at_once = kept_in(tmp_path / "grown", frames), kept_in(tmp_path / "at once", frames)
    assert len(at_once) == 20 and grown == at_once


def test_what_was_compared_before_does_not_change_the_pairs(tmp_path, monkeypatch):
    """Of images with more neighbors than they propose, others are nearest once some were added or removed."""
    monkeypatch.setattr(near_duplicates, "PROPOSED", 2)
    monkeypatch.setattr(near_duplicates, "COMPLETED", 2)
    generator = np.random.default_rng(0)
    pattern = 120 + 25 * field(generator, 2, 64) + 20 * field(generator, 1, 64)
    images = [to_image(pattern + generator.normal(0, 10, (64, 64))) for _ in range(30)]
    at_once = {count: kept_in(tmp_path / f"{count}", images[:count]) for count in (10, 20, 30)}
    assert not at_once[10] <= at_once[20]
    for count in (20, 30, 10, 20):  # added, removed, added
        assert kept_in(tmp_path / "same", images[:count]) == at_once[count]


def test_that_pairs_were_not_compared_is_reported_again(textured, tmp_path, monkeypatch):
    monkeypatch.setattr(near_duplicates, "MOST_PAIRS", 100)
    pixels = Pixels(textured)
    pixels.path = tmp_path / "pixels.npy"
    first, second = (near_duplicates.find_pairs(np.arange(len(textured)), pixels).notes for _ in range(2))
    assert "only the 100 most similar were compared" in first[0] and second == first
    assert near_duplicates.find_pairs(np.arange(1, len(textured)), pixels).notes == first  # without one of them


def test_a_fifth_of_the_images_is_the_least_number_of_pairs_that_are_compared(textured, monkeypatch):
    """As many images as are compared with each other; pairs that are the same are not among those that are not."""
    monkeypatch.setattr(near_duplicates, "MOST_PAIRS", 1)
    monkeypatch.setattr(near_duplicates, "MOST_IMAGES", 20)
    shown, progress = [], Progress()
    monkeypatch.setattr(progress, "set", shown.append)
    pixels = Pixels([*textured[:19], jpeg(textured[0])])
    near = near_duplicates.find_pairs(np.arange(20), pixels, progress)
    assert shown == ["comparing 4 similar pairs of images"] and "only the 4 most similar were compared" in near.notes[0]
    assert near.pairs.tolist() == [[0, 19]] and len(near.unlike) == 3 and [0, 19] not in near.unlike.tolist()


def test_what_another_process_has_compared_meanwhile_is_not_compared_again(textured, tmp_path, monkeypatch):
    pixels = Pixels([*textured[:6], jpeg(textured[0])])
    pixels.path = tmp_path / "pixels.npy"
    with monkeypatch.context() as full:
        full.setattr(near_duplicates, "write_bytes", Mock(side_effect=OSError(28, "No space left on device")))
        assert found(pixels) == [[0, 6]] and not list(tmp_path.iterdir())
    assert found(pixels) == [[0, 6]]
    kept = (tmp_path / "near.npz").read_bytes()
    (tmp_path / "near.npz").unlink()

    @contextlib.contextmanager
    def waits(lock, what):
        assert (lock, what) == (tmp_path / "near.lock", "comparing images")
        (tmp_path / "near.npz").write_bytes(kept)
        yield

    monkeypatch.setattr(near_duplicates, "one_at_a_time", waits)
    monkeypatch.setattr(near_duplicates, "Search", None)
    assert found(pixels) == [[0, 6]]


def test_answers_of_another_version_or_shape_are_none(tmp_path, monkeypatch):
    answers = near_duplicates.Answers.none()
    answers.compared, answers.in_scene = np.array([3, 7], np.uint64), np.zeros(2, bool)

    def is_taken(**changes):
        replace(answers, **changes).save(tmp_path / "near.npz")
        return len(near_duplicates.Answers.load(tmp_path / "near.npz").compared) > 0

    assert is_taken()
    assert not is_taken(compared=np.array([7, 3], np.uint64)) and not is_taken(in_scene=np.zeros(3, bool))
    assert not is_taken(similar=np.zeros(2)) and not is_taken(same=np.zeros(1, bool))
    pairs = np.array([[3, 7], [3, 8]], np.uint64)  # of which one image was not compared
    assert is_taken(pairs=pairs, same=np.array([True, False])) and not is_taken(pairs=pairs, same=np.ones(2, bool))
    is_taken()
    monkeypatch.setattr(near_duplicates, "LOOK", near_duplicates.LOOK + 1)
    assert len(near_duplicates.Answers.load(tmp_path / "near.npz").compared) == 0


def test_textures_correlate_as_by_brute_force():
    """At every shift of up to 5% of a side, by what both have there; of each pair another shift is the best."""
    generator = np.random.default_rng(0)
    side, shifts = 40, range(-2, 3)
    a = np.zeros((6, side, side))
    a[:, 6:-6, 6:-6] = generator.normal(size=(6, side - 12, side - 12))
    a[:, 10:20, 12:17] = 0  # not compared
    by = [(0, 0), (2, -1), (-2, 2), (1, 0), (0, -2), (-1, -2)]
    b = np.stack([np.roll(each, shift, (0, 1)) for each, shift in zip(a, by, strict=True)])
    b[:, 22:30, 8:24] = 0
    b = np.where(b != 0, b + generator.normal(size=b.shape) * generator.uniform(0, 3, (1, side, side)), 0)

    def at(one, other, down, right):
        moved = np.roll(other, (-down, -right), (0, 1))
        common = (one != 0) & (moved != 0)
        return (one * moved).sum() / np.sqrt((one[common] ** 2).sum() * (moved[common] ** 2).sum())

    expected = [max(at(x, y, down, right) for down in shifts for right in shifts) for x, y in zip(a, b, strict=True)]
    assert near_duplicates.correlate(a, b) == pytest.approx(expected, abs=1e-5)


def test_products_of_thumbnails_are_their_correlations_without_the_outermost_pixels():
    thumbnails = np.random.default_rng(0).integers(0, 256, (50, 16, 16)).astype(np.uint8)
    thumbnails[3] = 7
    pixels, every = SimpleNamespace(stats=SimpleNamespace(thumbnails=thumbnails)), np.arange(50)
    inner = near_duplicates.Search(every, every, pixels, near_duplicates.Answers.none())._inner(every).astype(float)
    product = inner @ inner.T
    others = np.arange(50) != 3
    expected = np.corrcoef(thumbnails[others, 1:-1, 1:-1].reshape(49, -1))
    assert product[others][:, others] == pytest.approx(expected, abs=5e-4)  # kept in 16 bits, of which 11 are digits
    assert not product[3].any()


@pytest.mark.thorough
def test_copies_among_the_frames_of_fixed_cameras_are_found_and_other_frames_are_not_the_same(caplog):
    """Of two cameras, 300 frames each, in which something else comes by; light and exposure change."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64] / 64 - 0.5
    scenes = [120 + 25 * field(generator, 5, 64) + 20 * field(generator, 1, 64) for _ in range(2)]
    frames = []
    for number in range(600):
        frame = scenes[number % 2].copy()
        for _ in range(3):
            top, left, height, width = *generator.integers(4, 50, 2), *generator.integers(4, 12, 2)
            frame[top : top + height, left : left + width] = generator.uniform(20, 235)
        light = generator.uniform(0.8, 1.2) * (1 + 0.3 * math.sin(number / 50) * x + 0.2 * math.cos(number / 50) * y)
        frames.append(to_image(frame * light + generator.normal(0, 3, (64, 64))))
    changed = ["brightness +3%", "brightness +10%", "jpeg", "shift", "crop"]
    copies = [CHANGES[how](frames[row]) for how in changed for row in range(20)]
    with caplog.at_level("INFO"):
        pairs = found(Pixels(frames + copies))
    planted = {(row, 600 + 20 * number + row) for number in range(5) for row in range(20)}
    same = planted | {(a, b) for a in range(600, 700) for b in range(a + 1, 700) if (a - b) % 20 == 0}  # of one frame
    assert len(planted & set(map(tuple, pairs))) >= 85
    assert len(set(map(tuple, pairs)) - same) <= 5
    assert caplog.text.count("images show one scene") == 2


def test_names_that_may_be_one_class_are_found():
    catalog = catalog_of(["train"] * 2)
    catalog.similar_names = ["names: the classes Cat and cat differ only by case"]
    generator = np.random.default_rng(0)
    images = [to_image(generator.uniform(0, 255, (32, 32))) for _ in range(2)]
    findings = audit(catalog, Pixels(images))
    assert [(f.kind, f.text, f.leak) for f in findings] == [("names", catalog.similar_names[0], False)]


@pytest.mark.thorough
def test_noise_of_few_pixels_is_not_alike_by_chance():
    """Discs in noise: compared at 16 pixels a side most of them were called the same."""
    generator = np.random.default_rng(0)
    for side in (16, 24, 32, 48):
        y, x = np.mgrid[:side, :side] / side - 0.5
        disc = np.where(x**2 + y**2 < 0.1, 30, 130)
        images = [to_image(disc + generator.normal(0, 20, (side, side))) for _ in range(84)]
        copies = [CHANGES[how](images[row]) for row, how in enumerate(("brightness +3%", "jpeg"))]
        assert found(Pixels(images + copies)) == [[0, 84], [1, 85]], side


def looked_at(numbers, splits, pairs=()):
    """Return a catalog, pixels and near duplicates of images of these fingerprints, without looking at any."""
    stats = ImageStats.empty(len(numbers))
    stats.fingerprints.numbers[:], stats.sizes[:], stats.modes[:] = numbers, 64, ["RGB"] * len(numbers)
    near = near_duplicates.NearDuplicates(np.array(pairs, np.int64).reshape(-1, 2), [])
    return catalog_of(splits), SimpleNamespace(stats=stats), near


def test_files_with_several_pages_are_found():
    """They are not odd, and excluded ones are not named."""
    catalog, pixels, near = looked_at(np.arange(25) + 1, ["train"] * 25)
    catalog.excluded = {3: "not counted"}
    pixels.stats.modes[2:4] = ["RGB" + FIRST_OF_SEVERAL] * 2
    (finding,) = audit(catalog, pixels, near)
    assert finding.text == "pages: 1 file with several pages or frames; only the first is used: 2.png"
    assert finding.groups == [[2]]
    pixels.stats.modes[2:8] = ["RGB" + FIRST_OF_SEVERAL] * 6
    (finding,) = [each for each in audit(catalog, pixels, near) if each.kind == "pages"]
    assert finding.text.endswith("only the first is used: 2.png, 4.png and 3 more")


def test_copies_of_near_duplicates_leak_as_by_brute_force():
    """Every copy of one image is a near duplicate of every copy of the other: groups and training images that leak."""
    generator = np.random.default_rng(0)
    for _ in range(50):
        numbers = generator.integers(1, 9, 20)
        splits = generator.choice(["train", "val", "test"], 20, p=[0.6, 0.2, 0.2]).tolist()
        firsts = [int(np.flatnonzero(numbers == number)[0]) for number in np.unique(numbers)]
        pairs = sorted(tuple(sorted(generator.choice(firsts, 2, replace=False).tolist())) for _ in range(3))
        catalog, pixels, near = looked_at(numbers, splits, sorted(set(pairs)))
        alike = np.zeros((20, 20), bool)
        for a, b in near.pairs:
            alike |= (numbers == numbers[a])[:, None] & (numbers == numbers[b])
        alike |= alike.T
        _, group_of = connected_components(alike)
        found = [each for each in audit(catalog, pixels, near) if each.kind == "near duplicate"]
        groups = {frozenset(group) for each in found for group in each.groups}
        every = {frozenset(np.flatnonzero(group_of == k).tolist()) for k in range(group_of.max() + 1)}
        assert groups == {group for group in every if len(group) > 1}
        is_train = np.array(splits) == "train"
        leaks = np.flatnonzero(is_train & alike[:, ~is_train].any(axis=1)).tolist()
        assert leaking_train_rows(catalog, found) == leaks


@pytest.mark.parametrize(("counts", "is_found"), [
    ((30, 3), True), ((29, 3), False), ((3, 30), True), ((10, 0), True), ((9, 0), False), ((100, 11), False),
])  # fmt: skip
def test_ten_times_as_many_of_a_class_are_an_imbalance(counts, is_found):
    n = sum(counts)
    catalog, pixels, near = looked_at(np.arange(n + 50) + 1, ["train"] * (n + 50))
    catalog.excluded = dict.fromkeys(range(n, n + 50), "not counted")
    catalog.labels = np.array([0] * counts[0] + [1] * counts[1] + [0] * 50)
    found = [each.text for each in audit(catalog, pixels, near) if each.kind == "imbalance"]
    large, small = ("blue", "red") if counts[0] > counts[1] else ("red", "blue")
    assert bool(found) == is_found
    assert not found or found == [f"imbalance: {max(counts)} of class {large} against {min(counts)} of class {small}"]


@pytest.mark.parametrize(("side", "n_gray", "odd"), [
    (16, 0, []), (15, 0, [0]), (16, 1, [1]), (15, 1, [0, 1]), (16, 2, []), (15, 2, [0]), (16, 19, [0]),
])  # fmt: skip
def test_a_sixteenth_of_the_usual_area_or_a_mode_of_one_in_twenty_is_odd(side, n_gray, odd):
    catalog, pixels, near = looked_at(np.arange(25) + 1, ["train"] * 25)
    catalog.excluded = dict.fromkeys(range(20, 25), "not counted")
    pixels.stats.sizes[0] = 16, side
    pixels.stats.sizes[20:] = 1
    pixels.stats.modes[1 : 1 + n_gray] = ["L"] * n_gray
    found = [each for each in audit(catalog, pixels, near) if each.kind == "odd"]
    assert [row for each in found for group in each.groups for row in group] == odd
    assert not odd or f"odd: {len(odd)} image" in found[0].text


@pytest.mark.parametrize("n_small", [3, 4])
def test_three_odd_images_are_named_by_width_and_height(n_small):
    """Small compared with the median: a few huge images make no others odd."""
    catalog, pixels, near = looked_at(np.arange(25) + 1, ["train"] * 25)
    pixels.stats.sizes[:n_small] = 15, 8
    pixels.stats.sizes[-5:] = 9000
    (found,) = audit(catalog, pixels, near)
    named = ", ".join(f"{row}.png (15 x 8, RGB)" for row in range(3))
    more = " and 1 more" if n_small == 4 else ""
    assert found.text == f"odd: {n_small} images with an unusual size or mode: {named}{more}"


@pytest.mark.parametrize(("same", "other", "changes", "is_found"), [
    (10, 10, {}, True), (10, 9, {}, False), (10, 11, {}, False), (20, 0, {}, True), (19, 0, {}, False),
    (20, 0, {"labels": "other"}, False), (20, 0, {"excluded": "other"}, False), (20, 0, {"name": "one"}, False),
    (20, 0, {"splits": "train"}, False),
])  # fmt: skip
def test_half_of_twenty_similar_pairs_in_one_series_of_names_are_a_finding(same, other, changes, is_found):
    """Where pairs share a series by chance in a twenty-fifth of cases: 25 series of two images, of which one is in test."""
    catalog, pixels, near = looked_at(np.arange(50) + 1, ["train", changes.get("splits", "test")] * 25)
    catalog.labels[:], pairs = 0, [[2 * k, 2 * k + 1] for k in range(same)] + [[0, 2 * k + 3] for k in range(other)]
    catalog.paths = [f"{row // 2 if 'name' not in changes else 0}_{row % 2}.png" for row in range(50)]
    near.unlike = np.array(pairs)
    if "labels" in changes:
        catalog.labels[1::2] = 1
    if "excluded" in changes:
        catalog.excluded = {1: "not counted"}
    found = [each for each in audit(catalog, pixels, near) if each.kind == "series"]
    assert [(each.groups, each.leak) for each in found] == [(pairs[:same], False)] * is_found
    assert not found or f"series: {same} pairs of similar images across splits with" in found[0].text


def test_copies_of_two_named_groups_are_independent_for_the_intervals():
    catalog, pixels, near = looked_at([1, 1, 2, 3], ["val", "val", "train", "train"])
    catalog.labels[:2] = 0
    for groups, is_independent in ((["a", "b", "", ""], True), (["a", "a", "", ""], False)):
        catalog.groups = groups
        (found,) = [each for each in audit(catalog, pixels, near) if each.kind == "exact duplicate"]
        assert ("as independent images" in found.text) == is_independent


def test_named_groups_across_splits_are_found_where_few_images_have_one():
    catalog, pixels, near = looked_at(
        np.arange(8) + 1, ["train", "val", "val", "test", "train", "train", "val", "test"]
    )
    catalog.groups = ["a", "a", "b", "b", "c", "c", "", ""]
    found = [each for each in audit(catalog, pixels, near) if each.kind == "group"]
    assert [(each.leak, each.groups) for each in found] == [(True, [[0, 1]]), (False, [[2, 3]])]
    assert [each.text.partition(";")[0] for each in found] == [
        "group: 1 named group across train and val or test: a", "group: 1 named group across val and test: b",
    ]  # fmt: skip
    assert [each.caveat for each in found] == ["may be too high: 1 named group across train and val or test", ""]
    assert leaking_train_rows(catalog, found) == [0]


def test_four_named_groups_are_named_in_short():
    catalog, pixels, near = looked_at(np.arange(10) + 1, ["train", "val"] * 5)
    names = ["a\nb", "x" * 99, "c", "d", "e"]
    for n, words in ((4, "a b, " + "x" * 39 + "…, c and d"), (5, "a b, " + "x" * 39 + "…, c and 2 more")):
        catalog.groups = [name for name in names[:n] for _ in range(2)] + [""] * (10 - 2 * n)
        (found,) = audit(catalog, pixels, near)
        assert found.text == f"group: {n} named groups across train and val or test: {words}"
