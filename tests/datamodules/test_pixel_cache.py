import errno
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import pixel_cache as module
from datamodules.decode import open_image, resize
from datamodules.near_duplicates import compared_look
from datamodules.pixel_cache import Look, open_pixel_cache
from tests.support.helpers import PROJECT, make_images


@pytest.fixture
def files(tmp_path):
    root = make_images(tmp_path / "images", {"red": 6}, size=50)
    return sorted((root / "red").iterdir())


def test_each_interpolation_has_a_cache_of_its_own_and_finds_the_same_duplicates(files, tmp_path):
    linear, cubic = (
        open_pixel_cache(files, Look(32, interpolation=name), tmp_path / "cache") for name in ("bilinear", "bicubic")
    )
    assert len(list((tmp_path / "cache").iterdir())) == 2
    for cache, filter in ((linear, Image.Resampling.BILINEAR), (cubic, Image.Resampling.BICUBIC)):
        assert np.array_equal(cache[0], np.asarray(Image.open(files[0]).resize((32, 32), filter)))
    without = module.UncachedPixels(files, module.Look(32, interpolation="bicubic"), cubic.stats)
    assert np.array_equal(pickle.loads(pickle.dumps(without))[0], cubic[0])
    assert np.array_equal(linear.stats.thumbnails, cubic.stats.thumbnails)
    assert linear.stats.fingerprints == cubic.stats.fingerprints


def test_each_fit_has_a_cache_of_its_own(files, tmp_path):
    for file in files:
        Image.open(file).resize((60, 30)).save(file)
    caches = {fit: open_pixel_cache(files, Look(32, fit=fit), tmp_path / "cache") for fit in ("squash", "crop", "pad")}
    for fit, cache in caches.items():
        without = module.UncachedPixels(files, module.Look(32, fit), cache.stats)
        assert np.array_equal(cache[0], np.asarray(resize(open_image(files[0]), 32, fit)))
        assert np.array_equal(pickle.loads(pickle.dumps(without))[0], cache[0])
    assert not caches["pad"][0][:7].any() and not np.array_equal(caches["crop"][0], caches["squash"][0])
    assert caches["crop"].stats.fingerprints == caches["squash"].stats.fingerprints


def test_a_cache_holds_the_pixels_of_decoding_and_is_found_again(files, tmp_path, monkeypatch):
    cache = open_pixel_cache(files, Look(32), tmp_path / "cache")
    for row, file in enumerate(files):
        assert np.array_equal(cache[row], np.asarray(resize(open_image(file), 32)))
    assert len(set(cache.stats.fingerprints)) == len(files)
    monkeypatch.setattr(module, "_decode", lambda *_: pytest.fail("built again"))
    again = open_pixel_cache(files, Look(32), tmp_path / "cache")
    assert (
        all(np.array_equal(again[row], cache[row]) for row in range(len(files)))
        and again.stats.fingerprints == cache.stats.fingerprints
    )


def test_a_cache_is_an_ordinary_array_file_and_opens_itself_in_another_process(files, tmp_path):
    cache = open_pixel_cache(files, Look(32), tmp_path / "cache")
    array = np.load(cache.path, mmap_mode="r")
    assert array.shape == (6, 32, 32, 3) and all(np.array_equal(array[row], cache[row]) for row in range(6))
    sent = pickle.dumps(cache)
    assert len(sent) < 20_000
    assert np.array_equal(pickle.loads(sent)[5], cache[5])


def test_a_changed_file_or_size_makes_another_cache(files, tmp_path):
    before = open_pixel_cache(files, Look(32), tmp_path / "cache")
    Image.new("RGB", (50, 50), "white").save(files[2])
    after = open_pixel_cache(files, Look(32), tmp_path / "cache")
    assert (after[2] == 255).all() and not (before[2] == 255).all()
    assert open_pixel_cache(files, Look(16), tmp_path / "cache")[0].shape == (16, 16, 3)


def test_fingerprint_is_of_the_pixels_and_not_of_the_file(files, tmp_path):
    Image.open(files[0]).save(files[1].with_suffix(".bmp"))
    cache = open_pixel_cache([files[0], files[1].with_suffix(".bmp"), files[2]], Look(32), tmp_path / "cache")
    assert cache.stats.fingerprints[0] == cache.stats.fingerprints[1] != cache.stats.fingerprints[2]


def test_unreadable_files_are_black_and_hold_the_reason(files, tmp_path):
    files[1].write_bytes(b"")
    files[3].write_text("no image")
    cache = open_pixel_cache(files, Look(32), tmp_path / "cache")
    assert [bool(error) for error in cache.stats.errors] == [False, True, False, True, False, False]
    assert "is empty" in cache.stats.errors[1] and files[3].name in cache.stats.errors[3]
    assert not cache[1].any() and cache[2].any()


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EROFS])
def test_without_space_images_are_decoded_each_time_with_a_warning(files, tmp_path, monkeypatch, caplog, reason):
    expected = open_pixel_cache(files, Look(32), tmp_path / "cache")

    def refuse(*_, **__):
        raise OSError(reason, "refused")

    monkeypatch.setattr(module.os, "pwrite", refuse)
    cache = open_pixel_cache(files, Look(32), tmp_path / "other")
    assert all(np.array_equal(cache[row], expected[row]) for row in range(len(files)))
    assert cache.stats.fingerprints == expected.stats.fingerprints
    assert np.array_equal(pickle.loads(pickle.dumps(cache))[5], expected[5])
    assert "decoding images in every epoch" in caplog.text and not list((tmp_path / "other").iterdir())


def test_a_disk_without_room_is_known_before_anything_is_written(files, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    cache = open_pixel_cache(files, Look(32), tmp_path / "cache")
    assert cache[0].shape == (32, 32, 3) and "no space for" in caplog.text


def test_the_least_recently_used_caches_make_room(files, tmp_path):
    size_gib = 6 * 32 * 32 * 3 / 2**30
    names = []
    for image_size, limit in ((32, 1), (31, 1), (30, 2.5 * size_gib)):
        open_pixel_cache(files, Look(image_size), tmp_path / "cache", limit_gib=limit)
        names.append({place.name for place in (tmp_path / "cache").iterdir()})
        for age, place in enumerate((tmp_path / "cache").iterdir()):
            os.utime(place, (age + 1000 * (place.name in names[0]), 2000 - 1000 * (place.name in names[0])))
    assert len(names[1]) == 2 and len(names[2]) == 2 and not names[0] & names[2]


def test_a_killed_builder_leaves_nothing_that_counts(files, tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from datamodules import pixel_cache\n"
        "def scan(*a):\n    print('building', flush=True); time.sleep(60)\n"
        "pixel_cache.scan_image = scan\n"
        "pixel_cache.open_pixel_cache([Path(p) for p in sys.argv[2:]], pixel_cache.Look(32), Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "cache"), *map(str, files)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT)
    process.stdout.readline()
    process.kill()
    process.wait()
    process.stdout.close()
    assert [place for place in (tmp_path / "cache").iterdir() if ".building-" in place.name]
    assert open_pixel_cache(files, Look(32), tmp_path / "cache")[5].any()
    old = next(place for place in (tmp_path / "cache").iterdir() if ".building-" in place.name)
    os.utime(old, (0, 0))
    open_pixel_cache(files, Look(16), tmp_path / "cache")
    assert not old.exists()


def test_a_cache_of_another_process_may_vanish_meanwhile(files, tmp_path, monkeypatch):
    for name in ("a" * 24, "b" * 24 + ".building-x"):
        (tmp_path / "cache" / name).mkdir(parents=True)
    usual = Path.is_symlink

    def is_symlink(path):  # the last question before a cache is measured
        if path.parent == tmp_path / "cache":
            path.rmdir()
            return False
        return usual(path)

    monkeypatch.setattr(Path, "is_symlink", is_symlink)
    assert open_pixel_cache(files, Look(32), tmp_path / "cache")[5].any()


def test_several_at_once_build_one_whole_cache_and_decode_each_file_once(files, tmp_path, monkeypatch):
    caches, threads, decoded, scan = [], [], [], module.scan_image
    monkeypatch.setattr(module, "scan_image", lambda path, *rest: decoded.append(path) or scan(path, *rest))
    for _ in range(4):
        threads.append(
            threading.Thread(target=lambda: caches.append(open_pixel_cache(files, Look(32), tmp_path / "cache")))
        )
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert len(caches) == 4 and all(
        np.array_equal(cache[row], caches[0][row]) for cache in caches for row in range(len(files))
    )
    assert len(list((tmp_path / "cache").iterdir())) == 1 and len(decoded) == len(files)


def test_an_added_file_decodes_that_file_only(files, tmp_path, monkeypatch, caplog):
    before = open_pixel_cache(files[:5], Look(32), tmp_path / "cache")
    (before.path.parent / "near.npz").write_bytes(b"known")
    decoded, scan = [], module.scan_image
    monkeypatch.setattr(module, "scan_image", lambda path, *rest: decoded.append(path) or scan(path, *rest))
    order = [files[5], *files[3:5], *files[:3]]  # as the catalog has them: anywhere
    with caplog.at_level("INFO"):
        after = open_pixel_cache(order, Look(32), tmp_path / "cache")
    assert decoded == [files[5]] and "reading 1 of 6 images" in caplog.text
    for row, file in enumerate(order):
        assert np.array_equal(after[row], np.asarray(resize(open_image(file), 32)))
    assert after.stats.fingerprints[1:] == [before.stats.fingerprints[row] for row in (3, 4, 0, 1, 2)]
    assert np.array_equal(after.stats.sizes, np.full((6, 2), 50)) and after.stats.thumbnails.any(axis=(1, 2)).all()
    assert (after.path.parent / "near.npz").read_bytes() == b"known"
    decoded.clear()
    open_pixel_cache(order[1:], Look(32), tmp_path / "cache")  # removed again
    assert decoded == []


def test_two_folders_of_equal_names_sizes_and_times_have_their_own_pixels(tmp_path, monkeypatch):
    for name, color in (("one", "red"), ("two", "blue")):
        (tmp_path / name / "data").mkdir(parents=True)
        Image.new("RGB", (32, 32), color).save(tmp_path / name / "data" / "a.bmp")
        os.utime(tmp_path / name / "data" / "a.bmp", (1000, 1000))
    colors = []
    for name in ("one", "two"):
        monkeypatch.chdir(tmp_path / name)
        colors.append(open_pixel_cache([Path("data/a.bmp")], Look(16), tmp_path / "cache")[0][0, 0].tolist())
    assert colors == [[255, 0, 0], [0, 0, 255]]


def test_a_file_replaced_in_place_is_seen_though_size_and_time_are_the_same(files, tmp_path):
    bitmap = tmp_path / "a.bmp"
    for color in ("red", "blue"):
        Image.new("RGB", (32, 32), color).save(bitmap)
        os.utime(bitmap, (1000, 1000))
        pixels = open_pixel_cache([bitmap], Look(16), tmp_path / "cache")[0]
    assert pixels[0, 0].tolist() == [0, 0, 255]


def test_the_limit_is_one(files, tmp_path, caplog):
    """Nothing is written above it, and no other cache is removed for one that has no room anyway."""
    other = open_pixel_cache(files[:2], Look(16), tmp_path / "cache")
    for limit, warned in ((0, False), (6 * 32 * 32 * 3 / 2**30 * 0.99, True)):
        cache = open_pixel_cache(files, Look(32), tmp_path / "cache", limit_gib=limit)
        assert np.array_equal(cache[1], np.asarray(resize(open_image(files[1]), 32)))
        assert ("datamodule.cache_max_gib" in caplog.text) == warned
    assert [place.name for place in (tmp_path / "cache").iterdir()] == [other.path.parent.name]


def test_a_growing_cache_keeps_to_the_limit(files, tmp_path):
    one = 32 * 32 * 3 / 2**30
    open_pixel_cache(files[:4], Look(32), tmp_path / "cache", limit_gib=7 * one)
    grown = open_pixel_cache(
        files, Look(32), tmp_path / "cache", limit_gib=7 * one
    )  # both together would be ten images
    assert np.array_equal(grown[3], np.asarray(resize(open_image(files[3]), 32)))
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_file_where_the_cache_should_be_is_a_warning(files, tmp_path, caplog):
    (tmp_path / "cache").write_text("not a folder")
    cache = open_pixel_cache(files, Look(32), tmp_path / "cache")
    assert cache[0].any() and "decoding images in every epoch" in caplog.text


def test_pixels_that_are_compared_come_from_a_cache_of_their_size_in_between_as_from_the_files(
    files, tmp_path, monkeypatch
):
    look = compared_look(None)
    read = open_pixel_cache(files, look, tmp_path / "read")
    source = open_pixel_cache(files, look.between, tmp_path / "cache")
    monkeypatch.setattr(module, "scan_image", lambda *_: pytest.fail("read again"))
    made = open_pixel_cache(files, look, tmp_path / "cache", beside=source, source=source)
    assert len({read[row].tobytes() for row in range(len(files))}) > 1
    for row in range(len(files)):
        assert np.array_equal(made[row], read[row])
    assert made.stats.fingerprints == read.stats.fingerprints and made.stats.errors == read.stats.errors
    assert np.array_equal(made.stats.thumbnails, read.stats.thumbnails)


def test_of_two_caches_that_a_run_needs_both_have_room_or_the_second_is_not_written(files, tmp_path, monkeypatch):
    """Else each start would remove one for the other."""
    look, one = compared_look(None), 3 * 64**2 * len(files) / 2**30
    for limit, is_kept in ((6, True), (3, False)):  # the second takes three times as much
        folder = tmp_path / str(limit)
        first = open_pixel_cache(files, look, folder, limit * one)
        scans = []
        usual = module.scan_image
        monkeypatch.setattr(module, "scan_image", lambda *a, _usual=usual, _scans=scans: _scans.append(1) or _usual(*a))
        second = open_pixel_cache(files, Look(110), folder, limit * one, beside=first, stats=first.stats)
        assert (second.path is not None) == is_kept and first.path.is_file()
        assert np.array_equal(
            second[0], np.asarray(Image.open(files[0]).convert("RGB").resize((110, 110), Image.BILINEAR))
        )
        assert bool(scans) == is_kept
