"""What holds with many images: little memory a row, and how they are kept."""

import hashlib
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from datamodules.image_stats import Fingerprints, ImageStats
from datamodules.loader import EpochSampler
from datamodules.pixel_cache import PIXELS, SAMPLE, STATS, Look, open_place
from datamodules.sources.source import ImageRow, Source, read_source
from tests.support.configs import data_module

ROWS = 100_000


class ManyRows(Source):
    """A hundred thousand images that nobody opens."""

    name = "many"
    root = Path("/many")

    def images(self):
        for number in range(ROWS):
            yield ImageRow(f"class_{number % 10}/image_{number:07d}.jpg", f"class_{number % 10}")


def peak_bytes(make):
    tracemalloc.start()
    made = make()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return made, peak


@pytest.mark.thorough
def test_a_row_of_a_catalog_takes_little_memory_also_while_it_is_made():
    """A list of the paths would take 80 bytes a row by itself, and an object a row 100 more."""
    catalog, peak = peak_bytes(lambda: read_source(ManyRows()))
    assert peak / ROWS < 130
    assert (
        catalog.paths[99_999] == "class_9/image_0099999.jpg" and catalog.files[0] == "/many/class_0/image_0000000.jpg"
    )
    assert catalog.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1] and len(catalog) == ROWS


def test_statistics_are_read_without_an_object_a_row(tmp_path):
    stats = ImageStats.empty(ROWS)
    stats.modes = ["RGB"] * ROWS
    stats.errors[5] = "not a readable image"
    stats.fingerprints.numbers[:] = np.random.default_rng(0).integers(1, 2**64, ROWS, np.uint64)
    stats.save(tmp_path / "stats.npz")
    read, peak = peak_bytes(lambda: ImageStats.load(tmp_path / "stats.npz", ROWS))
    assert peak / ROWS < 80
    assert (
        read.errors == stats.errors
        and read.modes == stats.modes
        and list(read.fingerprints) == list(stats.fingerprints)
    )


def test_an_open_cache_of_images_of_8_bits_holds_nothing_of_their_range(tmp_path):
    """Fingerprints, sizes and two lists: 32 bytes a row; two ranges of two numbers would be 32 more."""
    stats = ImageStats.empty(ROWS)
    stats.modes = ["RGB"] * ROWS
    stats.save(tmp_path / STATS)
    np.save(tmp_path / PIXELS, np.zeros((ROWS, 1, 1, 3), np.uint8))
    (tmp_path / SAMPLE).write_text(hashlib.blake2b(bytes(64 * 3), digest_size=16).hexdigest())
    tracemalloc.start()
    cache = open_place(tmp_path, Look(1), ROWS)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held / ROWS < 40
    assert np.isnan(cache.stats.spreads[[0, 99_999]]).all() and cache.stats.stated.shape == (ROWS, 2)


def test_an_epoch_holds_no_object_a_row():
    def first():
        items = iter(EpochSampler(np.arange(ROWS), shuffle=True, seed=1))
        return [next(items) for _ in range(3)]

    items, peak = peak_bytes(first)
    assert peak / ROWS < 80
    assert [row for _, row, _ in items] == np.random.default_rng((1, 0)).permutation(ROWS)[:3].tolist()


def test_fingerprints_are_texts_of_16_digits():
    texts = ["", "00000000000000ff", "fedcba9876543210"]
    held = Fingerprints(np.zeros(3, np.uint64))
    held[1], held[2] = texts[1:]
    assert list(held) == texts and held[2] == texts[2] and held.numbers.tolist() == [0, 255, 0xFEDCBA9876543210]


def test_a_fold_without_folds_is_refused_before_images_are_listed(tmp_path):
    with pytest.raises(UserError, match=r"datamodule\.fold=1: does nothing without datamodule\.folds"):
        data_module(tmp_path / "no such folder", tmp_path / "cache", "datamodule.fold=1")


def test_the_fingerprint_of_the_data_is_that_of_the_sorted_lines(two_colors, tmp_path, monkeypatch):
    """Also of copies under two labels, wherever the lines are cut."""
    root = shutil.copytree(two_colors, tmp_path / "images")
    (root / "train" / "red" / "copy.png").write_bytes(next((root / "train" / "blue").iterdir()).read_bytes())
    data = data_module(root, tmp_path / "cache")
    data.setup()
    rows = zip(data.pixel_cache.stats.fingerprints, data.catalog.labels, data.catalog.splits, strict=True)
    lines = sorted(f"{image} {data.catalog.classes[label]} {split}" for image, label, split in rows)
    assert len({line.split()[0] for line in lines}) == len(lines) - 1
    for size in (2**16, 1, 3):
        monkeypatch.setattr("datamodules.image_datamodule.LINES", size)
        assert data.fingerprint() == hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()


def test_images_are_kept_as_jpegs_where_uint8_has_no_room(tmp_path, caplog):
    root = tmp_path / "images"
    generator = np.random.default_rng(0)
    for number in range(20):
        path = root / ["train", "val"][number % 2] / "ab"[number // 2 % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(small).resize((128, 128), Image.Resampling.BICUBIC).save(path)
    uint8_gib = 20 * (128 * 128 * 3 + 64 * 64) / 2**30
    kept = {}
    for form, limit in (
        ("auto", uint8_gib * 1.01),
        ("auto", uint8_gib * 0.99),
        ("uint8", uint8_gib * 0.99),
        ("jpeg", 1),
        ("auto", uint8_gib * 0.01),
    ):
        caplog.clear()
        with caplog.at_level("INFO"):
            data = data_module(root, tmp_path / f"{form}{limit}", "model.image_size=128", f"datamodule.cache_format={form}",
                         f"datamodule.cache_max_gib={limit}")  # fmt: skip
            data.setup()
        kept[form, limit] = data.pixel_cache.kept_as
        assert ("are kept as JPEGs" in caplog.text) == (form == "auto" and uint8_gib * 0.5 < limit < uint8_gib)
        assert ("decoding images in every epoch" in caplog.text) == (data.pixel_cache.kept_as not in ("uint8", "JPEG"))
        batch = next(iter(data.val_dataloader()))
        pixels = np.asarray(Image.open(data.catalog.files[int(batch["rows"][0])]), float)
        difference = np.abs(batch["pixels"][0].permute(1, 2, 0).numpy() - pixels)
        assert difference.max() == 0 if data.pixel_cache.kept_as != "JPEG" else 0 < difference.mean() < 3
    decoded = "files, decoded in every epoch"
    assert list(kept.values()) == ["uint8", "JPEG", decoded, "JPEG", decoded]
