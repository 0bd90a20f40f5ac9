import errno
import threading

import numpy as np
import pytest
from PIL import Image

from datamodules import pixels as module
from datamodules.decode import open_picture, resize
from datamodules.pixels import open_store
from tests.helpers import make_pictures


@pytest.fixture
def files(tmp_path):
    root = make_pictures(tmp_path / "pictures", {"red": 6}, size=50)
    return sorted((root / "red").iterdir())


def test_a_store_holds_the_pixels_of_decoding_and_is_found_again(files, tmp_path, monkeypatch):
    store = open_store(files, 32, tmp_path / "store")
    for row, file in enumerate(files):
        assert np.array_equal(store[row], np.asarray(resize(open_picture(file), 32)))
    assert len(set(store.fingerprints)) == len(files)
    monkeypatch.setattr(module, "_decode_all", lambda *_: pytest.fail("built again"))
    again = open_store(files, 32, tmp_path / "store")
    assert np.array_equal(again.pixels, store.pixels) and again.fingerprints == store.fingerprints


def test_a_changed_file_or_size_makes_another_store(files, tmp_path):
    before = open_store(files, 32, tmp_path / "store")
    Image.new("RGB", (50, 50), "white").save(files[2])
    after = open_store(files, 32, tmp_path / "store")
    assert (after[2] == 255).all() and not (before[2] == 255).all()
    assert open_store(files, 16, tmp_path / "store")[0].shape == (16, 16, 3)


def test_fingerprint_is_of_the_pixels_and_not_of_the_file(files, tmp_path):
    Image.open(files[0]).save(files[1].with_suffix(".bmp"))
    store = open_store([files[0], files[1].with_suffix(".bmp"), files[2]], 32, tmp_path / "store")
    assert store.fingerprints[0] == store.fingerprints[1] != store.fingerprints[2]


def test_all_unreadable_files_are_listed_and_no_store_is_left(files, tmp_path):
    files[1].write_bytes(b"")
    files[3].write_text("no picture")
    files[4].write_bytes(files[4].read_bytes()[:-200])
    with pytest.raises(ValueError, match="3 of 6 files cannot be read") as error:
        open_store(files, 32, tmp_path / "store")
    assert all(files[index].name in str(error.value) for index in (1, 3, 4))
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EROFS])
def test_without_space_pictures_are_held_in_memory_and_it_is_said(files, tmp_path, monkeypatch, caplog, reason):
    expected = open_store(files, 32, tmp_path / "store").pixels.copy()

    def refuse(*_, **__):
        raise OSError(reason, "refused")

    monkeypatch.setattr(module.np.lib.format, "open_memmap", refuse)
    store = open_store(files, 32, tmp_path / "other")
    assert np.array_equal(store.pixels, expected)
    assert "held in memory" in caplog.text


def test_two_builders_at_once_end_with_one_whole_store(files, tmp_path):
    stores, threads = [], []
    for _ in range(4):
        threads.append(threading.Thread(target=lambda: stores.append(open_store(files, 32, tmp_path / "store"))))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert len(stores) == 4 and all(np.array_equal(store.pixels, stores[0].pixels) for store in stores)
    assert len(list((tmp_path / "store").iterdir())) == 1
