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
from datamodules.pixel_cache import open_pixel_cache
from tests.support.helpers import PROJECT, make_images


@pytest.fixture
def files(tmp_path):
    root = make_images(tmp_path / "images", {"red": 6}, size=50)
    return sorted((root / "red").iterdir())


def test_a_store_holds_the_pixels_of_decoding_and_is_found_again(files, tmp_path, monkeypatch):
    store = open_pixel_cache(files, 32, tmp_path / "store")
    for row, file in enumerate(files):
        assert np.array_equal(store[row], np.asarray(resize(open_image(file), 32)))
    assert len(set(store.facts.fingerprints)) == len(files)
    monkeypatch.setattr(module, "_decode_all", lambda *_: pytest.fail("built again"))
    again = open_pixel_cache(files, 32, tmp_path / "store")
    assert (
        all(np.array_equal(again[row], store[row]) for row in range(len(files)))
        and again.facts.fingerprints == store.facts.fingerprints
    )


def test_a_store_is_an_ordinary_array_file_and_opens_itself_in_another_process(files, tmp_path):
    store = open_pixel_cache(files, 32, tmp_path / "store")
    array = np.load(store.path, mmap_mode="r")
    assert array.shape == (6, 32, 32, 3) and all(np.array_equal(array[row], store[row]) for row in range(6))
    sent = pickle.dumps(store)
    assert len(sent) < 20_000
    assert np.array_equal(pickle.loads(sent)[5], store[5])


def test_a_changed_file_or_size_makes_another_store(files, tmp_path):
    before = open_pixel_cache(files, 32, tmp_path / "store")
    Image.new("RGB", (50, 50), "white").save(files[2])
    after = open_pixel_cache(files, 32, tmp_path / "store")
    assert (after[2] == 255).all() and not (before[2] == 255).all()
    assert open_pixel_cache(files, 16, tmp_path / "store")[0].shape == (16, 16, 3)


def test_fingerprint_is_of_the_pixels_and_not_of_the_file(files, tmp_path):
    Image.open(files[0]).save(files[1].with_suffix(".bmp"))
    store = open_pixel_cache([files[0], files[1].with_suffix(".bmp"), files[2]], 32, tmp_path / "store")
    assert store.facts.fingerprints[0] == store.facts.fingerprints[1] != store.facts.fingerprints[2]


def test_unreadable_files_are_black_and_say_why(files, tmp_path):
    files[1].write_bytes(b"")
    files[3].write_text("no image")
    store = open_pixel_cache(files, 32, tmp_path / "store")
    assert [bool(error) for error in store.facts.errors] == [False, True, False, True, False, False]
    assert "is empty" in store.facts.errors[1] and files[3].name in store.facts.errors[3]
    assert not store[1].any() and store[2].any()


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EROFS])
def test_without_space_images_are_decoded_anew_and_it_is_said(files, tmp_path, monkeypatch, caplog, reason):
    expected = open_pixel_cache(files, 32, tmp_path / "store")

    def refuse(*_, **__):
        raise OSError(reason, "refused")

    monkeypatch.setattr(module.os, "pwrite", refuse)
    store = open_pixel_cache(files, 32, tmp_path / "other")
    assert all(np.array_equal(store[row], expected[row]) for row in range(len(files)))
    assert store.facts.fingerprints == expected.facts.fingerprints
    assert "decoded anew" in caplog.text and not list((tmp_path / "other").iterdir())


def test_a_disk_without_room_is_known_before_anything_is_written(files, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    store = open_pixel_cache(files, 32, tmp_path / "store")
    assert store[0].shape == (32, 32, 3) and "no space for" in caplog.text


def test_stores_not_used_for_longest_make_room(files, tmp_path):
    size_gib = 6 * 32 * 32 * 3 / 2**30
    names = []
    for image_size, limit in ((32, 1), (31, 1), (30, 2.5 * size_gib)):
        open_pixel_cache(files, image_size, tmp_path / "store", limit_gib=limit)
        names.append({place.name for place in (tmp_path / "store").iterdir()})
        for age, place in enumerate((tmp_path / "store").iterdir()):
            os.utime(place, (age + 1000 * (place.name in names[0]), 2000 - 1000 * (place.name in names[0])))
    assert len(names[1]) == 2 and len(names[2]) == 2 and not names[0] & names[2]


def test_a_killed_builder_leaves_nothing_that_counts(files, tmp_path):
    script = (
        "import sys; from pathlib import Path; from datamodules import pixels, facts\n"
        "slow = pixels.look_at\n"
        "def look(*a):\n    print('building', flush=True); import time; time.sleep(60)\n"
        "pixels.look_at = look\n"
        "pixels.open_store([Path(p) for p in sys.argv[2:]], 32, Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "store"), *map(str, files)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT)
    process.stdout.readline()
    process.kill()
    process.wait()
    process.stdout.close()
    assert [place for place in (tmp_path / "store").iterdir() if ".building-" in place.name]
    assert open_pixel_cache(files, 32, tmp_path / "store")[5].any()
    old = next(place for place in (tmp_path / "store").iterdir() if ".building-" in place.name)
    os.utime(old, (0, 0))
    open_pixel_cache(files, 16, tmp_path / "store")
    assert not old.exists()


def test_another_s_store_may_vanish_while_it_is_looked_at(files, tmp_path, monkeypatch):
    for name in ("a" * 24, "b" * 24 + ".building-x"):
        (tmp_path / "store" / name).mkdir(parents=True)
    usual = Path.is_symlink

    def is_symlink(path):  # what is asked last before a store is measured
        if path.parent == tmp_path / "store":
            path.rmdir()
            return False
        return usual(path)

    monkeypatch.setattr(Path, "is_symlink", is_symlink)
    assert open_pixel_cache(files, 32, tmp_path / "store")[5].any()


def test_two_builders_at_once_end_with_one_whole_store(files, tmp_path):
    stores, threads = [], []
    for _ in range(4):
        threads.append(threading.Thread(target=lambda: stores.append(open_pixel_cache(files, 32, tmp_path / "store"))))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert len(stores) == 4 and all(
        np.array_equal(store[row], stores[0][row]) for store in stores for row in range(len(files))
    )
    assert len(list((tmp_path / "store").iterdir())) == 1
