import json
import ntpath
import os
import pickle
from itertools import islice
from pathlib import Path

import pytest

from common.errors import UserError
from datamodules.sources.litdata import Chunks, LitData
from datamodules.sources.source import read_source
from datamodules.streams import Share
from tests.support.shards import files_of, make_folder, write_chunks

litdata = pytest.importorskip("litdata", reason="needs the extra streaming")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def chunks(images, tmp_path_factory):
    root = tmp_path_factory.mktemp("birds")
    write_chunks(root, images)
    return root


def opened(tmp_path, chunks, **settings):
    source = LitData(**{"train": f"{chunks}/train", "val": f"{chunks}/val"} | settings)
    source.cache = tmp_path / "cache"
    return source


def written(folder, items):
    """Write one chunk of items."""
    from litdata.streaming.writer import BinaryWriter

    folder.mkdir()
    writer = BinaryWriter(str(folder), chunk_size=100)
    for number, item in enumerate(items):
        writer[number] = item
    writer.done()
    writer.merge(1)
    return str(folder)


def test_val_is_files_in_the_cache_and_nothing_is_written_beside_the_chunks(tmp_path, chunks, images):
    before = sorted((file, file.stat().st_mtime_ns) for file in chunks.rglob("*"))
    source = opened(tmp_path, chunks)
    catalog = read_source(source)
    contents = [
        (Path(file).read_bytes(), catalog.classes[label])
        for file, label in zip(catalog.files, catalog.labels, strict=True)
    ]
    assert contents == [(file.read_bytes(), label) for file, label in files_of(images / "val")]
    assert source.stream.n_images == 34 and source.stream.class_counts == [14, 11, 9]
    assert len(list(islice(source.stream.shards.read(Share(), seed=1, epoch=0, skip=0), 40))) == 40
    assert sorted((file, file.stat().st_mtime_ns) for file in chunks.rglob("*")) == before


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_image_goes_to_one_process(tmp_path, chunks, world_size):
    source = opened(tmp_path, chunks)
    for epoch in (0, 1):
        shares, names = [12, 12, 10] if world_size == 3 else [34 // world_size] * world_size, []
        parts = [
            source.stream.shards.read(Share(rank, world_size), seed=1, epoch=epoch, skip=0)
            for rank in range(world_size)
        ]
        lengths = [
            len(source.stream.shards._open(Share(rank, world_size), seed=1, epoch=epoch)) for rank in range(world_size)
        ]
        for part, n in zip(parts, lengths, strict=True):
            names += [sample.name for sample in islice(part, n)]
        assert len(names) == len(set(names)) == 34 and max(lengths) - min(lengths) <= 2, shares


def test_names_and_classes_that_are_found(tmp_path, chunks):
    items = [{"photo": b"x", "kind": "cat" if n % 3 else "dog", "size": 1.5} for n in range(9)]
    train = written(tmp_path / "train", items)
    source = opened(tmp_path, chunks, train=train, image="photo", label="kind")
    assert source.stream.classes == ["cat", "dog"] and source.stream.class_counts == [6, 3]
    with pytest.raises(
        UserError, match=r"items have no image, only photo, kind and size; use datamodule\.source\.image=KEY"
    ):
        _ = opened(tmp_path, chunks, train=train).stream


def test_chunks_of_two_splits_are_refused(tmp_path, chunks):
    with pytest.raises(UserError, match=r"source\.val=.*train also belongs to train; give each split its own shards"):
        read_source(opened(tmp_path, chunks, val=f"{chunks}/val/../train/"))


def test_on_windows_a_folder_with_a_drive_is_local(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "path", ntpath)
    with pytest.raises(UserError, match=r"^datamodule.source.train=C:.birds: no index.json in it"):
        Chunks("datamodule.source.train", r"C:\birds", "image", "label", tmp_path)


def test_another_number_than_that_of_the_index_is_refused(tmp_path, chunks):
    train = written(tmp_path / "train", [{"image": b"x", "label": n % 2} for n in range(9)])
    stated = {"classes": ["ant", "bee"], "train_images": 8}
    (tmp_path / "train" / "classes.json").write_text(json.dumps(stated))
    with pytest.raises(UserError, match="has 9 images, but 8 are stated"):
        _ = opened(tmp_path, chunks, train=train).stream


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("evil"),)


@pytest.mark.parametrize(("item", "words"), [
    ({"image": b"x", "label": Evil()}, "label is written as pickle; write a name or a number"),
    ({"image": b"x", "label": 1, "more": Evil()}, "items contain pickle, which cannot be read"),
    ({"image": Evil(), "label": 1}, "image is written as pickle; write the content of an image file, as bytes"),
    ({"image": b"x", "label": 1, "more": (1, 2)}, "its items are not plain dicts|items contain json"),
    ({"image": b"x", "label": {"name": 1}}, "its items are not plain dicts"),
    ((b"x", 1), "its items are not plain dicts"),
    ({"image": b"x", "label": 1.5}, "label is written as float"),
])  # fmt: skip
def test_what_would_run_code_or_is_no_image_and_label_is_refused(tmp_path, chunks, item, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words) as error:
        _ = opened(tmp_path, chunks, train=written(tmp_path / "train", [item]), classes=["a", "b"]).stream
    assert "\n" not in str(error.value) and not Path("evil").exists()


def changed(tmp_path, chunks, change):
    train = tmp_path / "train"
    train.mkdir()
    for file in (chunks / "train").iterdir():
        (train / file.name).write_bytes(file.read_bytes())
    index = json.loads((train / "index.json").read_text())
    change(index, train)
    (train / "index.json").write_text(json.dumps(index))
    return str(train)


SPEC = {
    "type": "collections.defaultdict",
    "context": json.dumps({"default_factory_module": "evil"}),
    "children_spec": [],
}


@pytest.mark.parametrize(("change", "words"), [
    (lambda index, train: index["config"].update(data_spec=json.dumps([1, SPEC])), "its items are not plain dicts|malformed"),
    (lambda index, train: index["config"].update(format="mds"), "its items are not plain dicts"),
    (lambda index, train: index["config"].update(data_format=["bytes", "pickle"]), "label is written as pickle"),
    (lambda index, train: index["chunks"][0].update(filename="../val/0.bin"), "chunk '../val/0.bin' is malformed"),
    (lambda index, train: index["chunks"][0].update(chunk_size=-1), "is malformed"),
    (lambda index, train: index["chunks"][0].update(chunk_size=2.5), "is malformed"),
    (lambda index, train: index["chunks"][0].update(chunk_bytes=10**9), "is cut off"),
    (lambda index, train: (train / "chunk-0-1.bin").unlink(), "chunk-0-1.bin is missing"),
    (lambda index, train: index.pop("config"), "'config'"),
    (lambda index, train: index.update(chunks=[]), "it lists no chunks"),
    (lambda index, train: index.update(chunks=7), "not iterable"),
])  # fmt: skip
def test_a_damaged_or_hostile_index_is_one_line(tmp_path, chunks, change, words):
    with pytest.raises(UserError, match=words) as error:
        _ = opened(tmp_path, chunks, train=changed(tmp_path, chunks, change)).stream
    assert "\n" not in str(error.value)


def test_compressed_chunks_may_be_smaller_than_their_content(tmp_path, chunks):
    def compress(index, train):
        index["config"].update(compression="zstd")
        index["chunks"][0].update(chunk_bytes=10**9)

    assert opened(tmp_path, chunks, train=changed(tmp_path, chunks, compress)).shards("train").n_images == 34


def test_a_damaged_chunk_is_one_line(tmp_path, chunks):
    def damage(index, train):
        content = (train / "chunk-0-0.bin").read_bytes()
        (train / "chunk-0-0.bin").write_bytes(b"\xff" * len(content))

    source = opened(tmp_path, chunks, train=changed(tmp_path, chunks, damage))
    with pytest.raises(UserError, match=r"train: cannot be read \(") as error:
        list(source.stream.shards.read_in_order())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("train", "words"), [
    ("/nowhere", "no index.json in it"), ("hf://datasets/nobody/none", "cannot be read"),
])  # fmt: skip
def test_a_folder_that_is_none_is_refused(tmp_path, chunks, train, words, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=words):
        _ = opened(tmp_path, chunks, train=train).stream


def test_pickled_content_is_only_bytes(tmp_path, chunks, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = written(tmp_path / "train", [{"image": pickle.dumps(Evil()), "label": 0}])
    (sample,) = opened(tmp_path, chunks, train=train, classes=["a", "b"]).stream.shards.read_in_order()
    assert isinstance(sample.content, bytes) and not Path("evil").exists()
