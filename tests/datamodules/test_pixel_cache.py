import errno
import io
import logging
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from datamodules import cache_build, decode
from datamodules import cache_folder as module
from datamodules.cache_folder import open_pixel_caches
from datamodules.decode import open_image, resize
from datamodules.deep_pixels import ValueRange
from datamodules.near_duplicates import compared_look
from datamodules.pixel_cache import PIXELS, SAMPLE, THUMBNAILS, VERSIONS, Look, UncachedPixels
from tests.support.helpers import PROJECT, make_images, open_pixel_cache
from tests.support.windows import keep_open_files


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
    without = UncachedPixels(files, Look(32, interpolation="bicubic"), cubic.stats)
    assert np.array_equal(pickle.loads(pickle.dumps(without))[0], cubic[0])
    assert list(linear.stats.fingerprints) == list(cubic.stats.fingerprints)


def test_each_fit_has_a_cache_of_its_own(files, tmp_path):
    for file in files:
        Image.open(file).resize((60, 30)).save(file)
    caches = {fit: open_pixel_cache(files, Look(32, fit=fit), tmp_path / "cache") for fit in ("squash", "crop", "pad")}
    for fit, cache in caches.items():
        without = UncachedPixels(files, Look(32, fit), cache.stats)
        assert np.array_equal(cache[0], np.asarray(resize(open_image(files[0]), 32, fit)))
        assert np.array_equal(pickle.loads(pickle.dumps(without))[0], cache[0])
    assert not caches["pad"][0][:7].any() and not np.array_equal(caches["crop"][0], caches["squash"][0])
    assert list(caches["crop"].stats.fingerprints) == list(caches["squash"].stats.fingerprints)


def test_a_cache_holds_the_pixels_of_decoding_and_is_found_again(files, tmp_path, monkeypatch):
    cache = open_pixel_cache(files, Look(32), tmp_path / "cache")
    for row, file in enumerate(files):
        assert np.array_equal(cache[row], np.asarray(resize(open_image(file), 32)))
    assert len(set(cache.stats.fingerprints)) == len(files)
    monkeypatch.setattr(module, "build", lambda *_: pytest.fail("built again"))
    again = open_pixel_cache(files, Look(32), tmp_path / "cache")
    assert all(np.array_equal(again[row], cache[row]) for row in range(len(files))) and list(
        again.stats.fingerprints
    ) == list(cache.stats.fingerprints)


def test_a_cache_is_an_ordinary_array_file_and_opens_itself_in_another_process(files, tmp_path):
    cache = open_pixel_cache(files, Look(32), tmp_path / "cache")
    array = np.load(cache.path, mmap_mode="r")
    assert array.shape == (6, 32, 32, 3) and all(np.array_equal(array[row], cache[row]) for row in range(6))
    sent = pickle.dumps(cache)
    assert len(sent) < 20_000
    assert np.array_equal(pickle.loads(sent)[5], cache[5])


def test_unreadable_files_are_black_and_hold_the_reason(files, tmp_path):
    files[1].write_bytes(b"")
    files[3].write_text("no image")
    cache = open_pixel_cache(files, Look(32), tmp_path / "cache")
    assert [bool(error) for error in cache.stats.errors] == [False, True, False, True, False, False]
    assert "is empty" in cache.stats.errors[1] and files[3].name in cache.stats.errors[3]
    assert not cache[1].any() and cache[2].any()


@pytest.mark.parametrize("jpeg_quality", [None, 95])
@pytest.mark.parametrize("error", [OSError(errno.EIO, os.strerror(errno.EIO)), MemoryError()], ids=["disk", "memory"])
def test_a_file_that_the_system_could_not_read_is_read_again(files, tmp_path, monkeypatch, error, jpeg_quality):
    looks, read, asked = [Look(32, jpeg_quality=jpeg_quality), compared_look(None)], decode.formats.kind_of, []
    files[3].write_text("no image")

    def read_start(file):
        return file.read_bytes()[: decode.formats.HEADER]

    def read_caches(fails):
        asked.clear()

        def kind_of(header):
            asked.append(header)
            if fails and header == read_start(files[1]):
                raise error
            return read(header)

        monkeypatch.setattr(decode.formats, "kind_of", kind_of)
        return open_pixel_caches(files, looks, tmp_path / "cache")

    for _ in range(2):  # it still cannot be read
        for cache in read_caches(fails=True):
            assert [bool(reason) for reason in cache.stats.errors] == [False, True, False, True, False, False]
            assert not cache[1].any()
    for cache in read_caches(fails=False):
        assert [bool(reason) for reason in cache.stats.errors] == [False, False, False, True, False, False]
        assert all(cache[row].any() for row in (0, 1, 2, 4, 5)) and cache.stats.fingerprints[1]
    sampled = jpeg_quality is not None  # to estimate the size of the cache
    assert asked.count(read_start(files[0])) == sampled  # what was known is not decoded again
    read_caches(fails=False)
    assert not asked


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EROFS])
def test_without_space_images_are_decoded_each_time_with_a_warning(files, tmp_path, monkeypatch, caplog, reason):
    expected = open_pixel_cache(files, Look(32), tmp_path / "cache")

    def refuse(*_, **__):
        raise OSError(reason, "refused")

    monkeypatch.setattr(cache_build._ArrayWriter, "_put", refuse)
    cache = open_pixel_cache(files, Look(32), tmp_path / "other")
    assert all(np.array_equal(cache[row], expected[row]) for row in range(len(files)))
    assert list(cache.stats.fingerprints) == list(expected.stats.fingerprints)
    assert np.array_equal(pickle.loads(pickle.dumps(cache))[5], expected[5])
    assert "decoding images in every epoch" in caplog.text and not list((tmp_path / "other").iterdir())


@pytest.mark.parametrize("jpeg_quality", [None, 95])
def test_on_windows_caches_are_written_and_extended(files, tmp_path, monkeypatch, caplog, jpeg_quality):
    """Windows has no os.pwrite, and neither renames nor removes a folder while a file in it is open."""
    looks = [Look(32, jpeg_quality=jpeg_quality), compared_look(None)]
    expected = open_pixel_caches(files, looks, tmp_path / "other")
    for name in ("pwrite", "posix_fallocate"):
        monkeypatch.delattr(os, name, raising=False)
    keep_open_files(monkeypatch)
    open_pixel_caches(files[:4], looks, tmp_path / "cache")
    for cache, same in zip(open_pixel_caches(files, looks, tmp_path / "cache"), expected, strict=True):
        assert all(np.array_equal(cache[row], same[row]) for row in range(len(files)))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not [each for each in (tmp_path / "cache").iterdir() if ".building-" in each.name]


def test_on_windows_a_damaged_or_outdated_cache_is_replaced(files, tmp_path, monkeypatch):
    keep_open_files(monkeypatch)
    content, usual = files[1].read_bytes(), decode.formats.kind_of

    def fail(header):
        if content.startswith(header):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return usual(header)

    monkeypatch.setattr(decode.formats, "kind_of", fail)
    assert open_pixel_cache(files, Look(32), tmp_path / "cache").stats.errors[1]
    monkeypatch.setattr(decode.formats, "kind_of", usual)
    path = open_pixel_cache(files, Look(32), tmp_path / "cache").path
    assert path is not None
    path.write_bytes(path.read_bytes()[:-32] + bytes(32))
    assert open_pixel_cache(files, Look(32), tmp_path / "cache")[5].any(axis=(1, 2)).all()


def test_on_windows_no_process_is_asked_whether_it_runs(monkeypatch):
    """There, os.kill(process, 0) sends a Ctrl-C to the console."""
    monkeypatch.setattr(cache_build.sys, "platform", "win32")
    monkeypatch.setattr(cache_build.os, "kill", lambda *_: pytest.fail("sent a signal"))
    assert cache_build._runs(os.getpid() + 1)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="not on this system")
def test_thumbnails_have_their_space_before_they_are_written(files, tmp_path, monkeypatch, caplog):
    """They are mapped, and a page that the disk has no space for would be a signal."""

    def refuse(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(cache_build.os, "posix_fallocate", refuse)
    cache = open_pixel_cache(files, compared_look(None), tmp_path / "cache")
    assert cache.path is None and cache.stats.thumbnails.any()
    assert "decoding images in every epoch" in caplog.text and not list((tmp_path / "cache").iterdir())


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


@pytest.mark.parametrize("quality", [None, 95])
@pytest.mark.parametrize("saves", [True, False])
def test_what_a_killed_builder_has_read_and_saved_is_not_read_again(
    files, tmp_path, monkeypatch, caplog, quality, saves
):
    looks = [compared_look(None), Look(32, jpeg_quality=quality)]
    script = (
        "import sys, time; from pathlib import Path; from datamodules import cache_build, cache_folder\n"
        "from datamodules.near_duplicates import compared_look\n"
        f"cache_build.CHUNK, cache_build.SAVED_S, usual = 2, {-1 if saves else 60}, cache_build.scan_image\n"
        "def scan(path, row, *rest):\n"
        "    if row == 5:\n        print('building', flush=True); time.sleep(60)\n"
        "    return usual(path, row, *rest)\n"
        "cache_build.scan_image = scan\n"
        f"looks = [compared_look(None), cache_build.Look(32, jpeg_quality={quality})]\n"
        "cache_folder.open_pixel_caches(sys.argv[2:], looks, Path(sys.argv[1]))"
    )
    files[0].write_bytes(b"no image")
    command = [sys.executable, "-c", script, str(tmp_path / "cache"), *map(str, files)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT)
    process.stdout.readline()
    process.kill()
    process.wait()
    process.stdout.close()
    assert [".building-" in place.name for place in (tmp_path / "cache").iterdir() if place.is_dir()] == [True]
    read, scan = [], cache_build.scan_image
    monkeypatch.setattr(cache_build, "scan_image", lambda path, row, *rest: read.append(row) or scan(path, row, *rest))
    with caplog.at_level("INFO"):
        continued = open_pixel_caches(files, looks, tmp_path / "cache")
    assert sorted(read) == ([4, 5] if saves else [0, 1, 2, 3, 4, 5])
    assert ("where an earlier command ended" in caplog.text) == saves
    whole = open_pixel_caches(files, looks, tmp_path / "other")
    for one, other in zip(continued, whole, strict=True):
        assert all(np.array_equal(one[row], other[row]) for row in range(6))
        assert list(one.stats.fingerprints) == list(other.stats.fingerprints) and one.stats.errors == other.stats.errors
        assert "not a known image format" in one.stats.errors[0] and one.stats.modes == ["", *5 * ["RGB"]]
    assert np.array_equal(continued[0].stats.thumbnails, whole[0].stats.thumbnails)
    assert not [place for place in (tmp_path / "cache").iterdir() if ".building-" in place.name]


def test_a_killed_builder_with_a_damaged_state_is_not_continued(files, tmp_path):
    whole = open_pixel_cache(files, Look(32), tmp_path / "other")
    building = tmp_path / "cache" / f"{whole.path.parent.name}.building-elsewhere-1-x"
    building.mkdir(parents=True)
    np.save(building / "versions.npy", module.versions_of(list(map(str, files))))
    (building / "state.npz").write_bytes(b"PK\x03\x04 damaged")
    os.utime(building, (0, 0))
    cache = open_pixel_cache(files, Look(32), tmp_path / "cache")
    assert all(np.array_equal(cache[row], whole[row]) for row in range(6))


def test_slow_files_do_not_delay_the_next_save(monkeypatch):
    """Files are given out in parts of 8 for about half of the 30 seconds after which progress is saved, but at most 1,024."""
    clock, read = [0.0], []

    def scan_image(path, row, *_):
        read.append(row)
        clock[0] += 1.0 if 2000 <= row < 2100 else 0.001

    monkeypatch.setattr(cache_build, "own_cores", lambda: [0])
    monkeypatch.setattr(cache_build, "scan_image", scan_image)
    monkeypatch.setattr(cache_build.time, "monotonic", lambda: clock[0])
    done = [*cache_build.scan([""] * 5000, np.arange(5000), 0, None, Look(32))]
    assert read == [*range(5000)] and done[:2] == [1024, 2016] and done[-1] == 5000
    assert done[2] == 2032 and max(np.diff(done)) == 1024


def test_the_lock_of_who_compares_images_is_not_copied_into_a_new_cache(files, tmp_path):
    place = open_pixel_cache(files[:4], Look(32), tmp_path / "cache").path.parent
    (place / "near.lock").touch()
    (place / "near.npz").touch()
    further = open_pixel_cache(files, Look(32), tmp_path / "cache").path.parent
    assert sorted(each.name for each in further.glob("near*")) == ["near.npz"]


def test_what_is_being_built_is_not_taken_for_an_earlier_cache(files, tmp_path, monkeypatch, caplog):
    open_pixel_cache(files[:4], Look(32), tmp_path / "cache")
    building = tmp_path / "cache" / f"{Look(32).name()}-{'0' * 24}.building-elsewhere-1-x"
    building.mkdir()
    np.save(building / "versions.npy", module.versions_of(list(map(str, files))))
    read, scan = [], cache_build.scan_image
    monkeypatch.setattr(cache_build, "scan_image", lambda path, row, *rest: read.append(row) or scan(path, row, *rest))
    open_pixel_cache(files, Look(32), tmp_path / "cache")
    assert sorted(read) == [4, 5] and "again" not in caplog.text


def test_what_was_begun_a_day_ago_is_removed(files, tmp_path):
    for name, used_s in (("a" * 24, 0), ("b" * 24, None)):
        (tmp_path / "cache" / f"{name}.building-host-1-x").mkdir(parents=True)
        if used_s is not None:
            os.utime(tmp_path / "cache" / f"{name}.building-host-1-x", (used_s, used_s))
    open_pixel_cache(files, Look(16), tmp_path / "cache")
    assert [place.name[0] for place in (tmp_path / "cache").iterdir() if ".building-" in place.name] == ["b"]


def test_jpegs_are_those_of_pillow_and_take_a_fraction(tmp_path):
    generator = np.random.default_rng(0)
    files = []
    for number in range(5):
        small = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(small).resize((400, 300), Image.Resampling.BICUBIC).save(files[-1])
    files[2].write_bytes(b"")
    plain, packed = (
        open_pixel_cache(files, Look(256, jpeg_quality=quality), tmp_path / "cache") for quality in (None, 95)
    )
    for row in (0, 1, 3, 4):
        buffer = io.BytesIO()
        resized = Image.open(files[row]).resize((256, 256), Image.Resampling.BILINEAR)
        resized.save(buffer, "JPEG", quality=95, subsampling=0)
        assert np.array_equal(packed[row], np.asarray(Image.open(buffer)))
        assert np.abs(packed[row].astype(int) - plain[row]).mean() < 1.5
    assert not packed[2].any() and packed.stats.errors == plain.stats.errors
    assert sum(file.stat().st_size for file in packed.path.parent.glob("jpeg-*")) < plain.path.stat().st_size / 5
    assert np.array_equal(pickle.loads(pickle.dumps(packed))[4], packed[4])
    for name in ("jpeg-0000.bin", "places.npy"):
        path = packed.path.parent / name
        content = path.read_bytes()
        for damaged in (content[:-1], b""):
            path.write_bytes(damaged)
            again = open_pixel_cache(files, Look(256, jpeg_quality=95), tmp_path / "cache")
            assert np.array_equal(again[4], packed[4])


def test_a_jpeg_that_is_damaged_in_the_cache_ends_the_run_with_what_to_remove(files, tmp_path):
    packed = open_pixel_cache(files, Look(32, jpeg_quality=95), tmp_path / "cache")
    path = packed.path.parent / "jpeg-0000.bin"
    path.write_bytes(bytes(path.stat().st_size))
    packed.path.with_name(SAMPLE).unlink()  # as in a cache of an earlier version, or for an image that is not sampled
    with pytest.raises(UserError, match=f"the JPEG of image 3 cannot be read.; remove all of {tmp_path / 'cache'},"):
        open_pixel_cache(files, Look(32, jpeg_quality=95), tmp_path / "cache")[3]


@pytest.mark.parametrize("name", [PIXELS, THUMBNAILS, VERSIONS])
def test_a_damaged_header_is_made_again(files, tmp_path, name):
    looks = [Look(32), compared_look(None)]
    whole, _ = open_pixel_caches(files[:-1], looks, tmp_path / "cache")
    for file in (tmp_path / "cache").glob(f"*/{name}"):
        content = bytearray(file.read_bytes())
        content[10] ^= 255  # the brace of its dictionary
        file.write_bytes(content)
    for some in (files[:-1], files):
        again, _ = open_pixel_caches(some, looks, tmp_path / "cache")
        assert again.kept_as == "uint8" and np.array_equal(again[0], whole[0])


@pytest.mark.parametrize("look", [Look(32), compared_look(None), Look(32, jpeg_quality=95)])
def test_a_cache_with_other_bytes_of_the_right_size_is_made_again(files, tmp_path, caplog, look):
    """As after a disk has lost blocks; for files that were added, it is not reused either."""
    whole = open_pixel_cache(files[:-1], look, tmp_path / "cache")
    expected = [whole[row].copy() for row in range(len(files) - 1)]
    for some in (files[:-1], files):
        (file,) = (tmp_path / "cache").glob(f"*/{'jpeg-*' if look.jpeg_quality else PIXELS}")
        lost = file.stat().st_size // len(files)
        with file.open("r+b") as opened:
            opened.seek(-3 * lost, os.SEEK_END)
            opened.write(bytes(lost))
        again = open_pixel_cache(some, look, tmp_path / "cache")
        assert all(np.array_equal(again[row], expected[row]) for row in range(len(expected)))
    assert caplog.text.count("damaged (its images are not those that were written)") == 2


def test_empty_thumbnails_are_made_again(files, tmp_path):
    look = compared_look(None)
    thumbnails = [open_pixel_cache(files, look, tmp_path / "cache").stats.thumbnails.copy()]
    next((tmp_path / "cache").glob("*/thumbnails.npy")).write_bytes(b"")
    thumbnails.append(open_pixel_cache(files, look, tmp_path / "cache").stats.thumbnails)
    assert np.array_equal(*thumbnails)


def test_further_images_are_added_to_the_jpegs_without_a_copy(files, tmp_path, monkeypatch):
    look = Look(32, jpeg_quality=90)
    before = open_pixel_cache(files[:4], look, tmp_path / "cache")
    grown = open_pixel_cache([files[5], *files[:5]], look, tmp_path / "cache")
    assert (before.path.with_name("jpeg-0000.bin")).samefile(grown.path.with_name("jpeg-0000.bin"))
    assert [file.name for file in sorted(grown.path.parent.glob("jpeg-*"))] == ["jpeg-0000.bin", "jpeg-0001.bin"]
    whole = open_pixel_cache([files[5], *files[:5]], look, tmp_path / "other")
    assert all(np.array_equal(grown[row], whole[row]) for row in range(6))
    monkeypatch.setattr(cache_build, "scan_image", lambda *_: pytest.fail("read again"))
    few = open_pixel_cache([files[1]], look, tmp_path / "cache")  # most of the file is not wanted
    assert np.array_equal(few[0], whole[2])
    assert (few.path.with_name("jpeg-0000.bin")).stat().st_size == len(whole.content(2))
    monkeypatch.undo()
    monkeypatch.setattr(cache_build.os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
    copied = open_pixel_cache(files[:5], look, tmp_path / "cache")
    assert np.array_equal(copied[4], whole[5])


def test_without_the_folder_that_was_removed_meanwhile_images_are_decoded(files, tmp_path, monkeypatch, caplog):
    finish = cache_build._Building.finish

    def remove_and_finish(building, places):
        shutil.rmtree(tmp_path / "cache")
        finish(building, places)

    monkeypatch.setattr(cache_build._Building, "finish", remove_and_finish)
    assert open_pixel_cache(files, Look(32), tmp_path / "cache")[5].any()
    assert "could not write" in caplog.text and os.strerror(errno.ENOENT) in caplog.text


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
    caches, threads, decoded, scan = [], [], [], cache_build.scan_image
    monkeypatch.setattr(cache_build, "scan_image", lambda path, *rest: decoded.append(path) or scan(path, *rest))
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
    decoded, scan = [], cache_build.scan_image
    monkeypatch.setattr(cache_build, "scan_image", lambda path, *rest: decoded.append(path) or scan(path, *rest))
    order = [files[5], *files[3:5], *files[:3]]  # as the catalog has them: anywhere
    with caplog.at_level("INFO"):
        after = open_pixel_cache(order, Look(32), tmp_path / "cache")
    assert decoded == [str(files[5])] and "reading 1 of 6 images" in caplog.text
    for row, file in enumerate(order):
        assert np.array_equal(after[row], np.asarray(resize(open_image(file), 32)))
    assert list(after.stats.fingerprints)[1:] == [before.stats.fingerprints[row] for row in (3, 4, 0, 1, 2)]
    assert np.array_equal(after.stats.sizes, np.full((6, 2), 50))
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


def test_a_file_replaced_in_place_is_seen_though_size_and_time_are_the_same(tmp_path):
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


def test_a_disk_that_takes_no_cache_is_named_once(files, tmp_path, caplog):
    (tmp_path / "cache").write_text("not a folder")
    large, compared = open_pixel_caches(files, [Look(300), compared_look(None)], tmp_path / "cache")  # of two readings
    open_pixel_caches(files, [Look(300, value_range=ValueRange(0, 1))], tmp_path / "cache", beside=compared)
    assert (
        large.image_size == 300
        and large[0].any()
        and [m.partition(" (")[0] for m in caplog.messages] == [f"pixel cache: could not write {tmp_path / 'cache'}"]
    )


@pytest.mark.parametrize("refused", ["stats.npz", PIXELS])
def test_a_cache_that_may_not_be_read_is_named_once_and_stays(files, tmp_path, monkeypatch, caplog, refused):
    """Another user of the machine made it."""
    first, _ = open_pixel_caches(files, [Look(32), compared_look(None)], tmp_path / "cache")
    whole, opened = {path: path.read_bytes() for path in first.path.parent.iterdir()}, Path.open

    def refuse(path, *arguments, **keywords):
        if path.name == refused:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", refuse)
    caches = open_pixel_caches(files, [Look(32), compared_look(None)], tmp_path / "cache")
    assert all(np.array_equal(caches[0][row], first[row]) for row in range(len(files)))
    assert all(isinstance(cache, UncachedPixels) for cache in caches)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"pixel cache: could not use {tmp_path / 'cache'} (Permission denied); decoding images in every epoch"
    ]
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in first.path.parent.iterdir()} == whole


@pytest.mark.parametrize("main", [Look(32), Look(256), Look(256, fit="crop"), Look(256, jpeg_quality=95)], ids=str)
def test_one_reading_makes_all_caches_as_one_of_each_would(files, tmp_path, monkeypatch, main):
    compared = compared_look(None)
    files[3].write_bytes(b"")
    each = [open_pixel_cache(files, look, tmp_path / "each") for look in (compared, main)]
    scans, scan = [], cache_build.scan_image
    monkeypatch.setattr(cache_build, "scan_image", lambda *rest: scans.append(1) or scan(*rest))
    together = open_pixel_caches(files, [compared, main], tmp_path / "cache")
    assert len(scans) == len(files)
    for one, other in zip(each, together, strict=True):
        assert len({other[row].tobytes() for row in range(len(files))}) > 1
        assert all(np.array_equal(one[row], other[row]) for row in range(len(files)))
        assert list(one.stats.fingerprints) == list(other.stats.fingerprints) and one.stats.errors == other.stats.errors
    assert np.array_equal(each[0].stats.thumbnails, together[0].stats.thumbnails)
    gray = Image.fromarray(np.asarray(Image.open(files[0]).resize((256, 256), Image.Resampling.BILINEAR))).convert("L")
    assert (
        np.abs(np.asarray(gray, float).reshape(64, 4, 64, 4).mean((1, 3)) - together[0][0][..., 0]).max() <= 1
    )  # rounded twice
    again = open_pixel_caches(files, [compared, main], tmp_path / "cache")
    assert again[1].stats is again[0].stats  # in memory once


def test_of_two_caches_that_a_run_needs_both_have_room_or_the_second_is_not_written(files, tmp_path, monkeypatch):
    """Else each start would remove one for the other."""
    look, one = compared_look(None), 64**2 * len(files) / 2**30
    scans, scan = [], cache_build.scan_image
    monkeypatch.setattr(cache_build, "scan_image", lambda *rest: scans.append(1) or scan(*rest))
    for limit, is_kept in ((10, True), (9, False)):  # the second takes 8.9 times as much
        first, second = open_pixel_caches(files, [look, Look(110)], tmp_path / str(limit), limit * one)
        assert (second.path is not None) == is_kept and first.path.is_file()
        assert np.array_equal(
            second[0], np.asarray(Image.open(files[0]).convert("RGB").resize((110, 110), Image.BILINEAR))
        )
    assert len(scans) == 2 * len(files)
