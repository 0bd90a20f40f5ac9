import gzip
import json
import os
import re
import shutil
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from datamodules.sources.source import read_source
from datamodules.sources.webdataset import Members, TarShards, WebDataset
from datamodules.streams import Share, StreamSampler
from tests.support.helpers import served
from tests.support.shards import make_folder, write_tar, write_tars

pytest.importorskip("webdataset", reason="needs the extra streaming")


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    root = tmp_path_factory.mktemp("birds")
    write_tars(root, make_folder(root / "images"))
    return root


def opened(tmp_path, tars, **settings):
    source = WebDataset(**{"train": f"{tars}/train", "val": f"{tars}/val", "test": f"{tars}/test"} | settings)
    source.cache = tmp_path / "cache"
    return source


def one_shard(tmp_path, samples):
    (tmp_path / "train").mkdir()
    write_tar(tmp_path / "train" / "0.tar", samples)
    return str(tmp_path / "train")


@pytest.fixture(scope="module")
def png(tars):
    return next((tars / "images" / "val").glob("*/*.png")).read_bytes()


def test_val_and_test_are_files_in_the_cache_and_train_is_counted_once(tmp_path, tars, monkeypatch):
    source = opened(tmp_path, tars)
    catalog = read_source(source)
    assert (
        catalog.classes == ["blue", "green", "red"]
        and source.stream.n_images == 34
        and catalog.name.startswith("birds")
    )
    assert sorted(catalog.splits) == ["test"] * 9 + ["val"] * 12
    for file, label in zip(catalog.files, catalog.labels, strict=True):
        red, green, blue = np.asarray(Image.open(file)).mean((0, 1))
        assert catalog.classes[label] == {red: "red", green: "green", blue: "blue"}[max(red, green, blue)]
    monkeypatch.setattr("datamodules.sources.webdataset.TarShards.labels", lambda self: pytest.fail("counted again"))
    assert opened(tmp_path, tars).stream.class_counts == [14, 11, 9]


@pytest.mark.parametrize("pattern", ["train/*.tar", "train/{000..006}.tar", "{train/00,train/00}[0-6].tar"])
def test_a_pattern_names_shards(tmp_path, tars, pattern):
    shards = opened(tmp_path, tars, train=f"{tars}/{pattern}").shards("train")
    assert len(shards.urls) == (14 if pattern.startswith("{") else 7)


def test_what_classes_json_states_is_not_counted(tmp_path, png):
    train = one_shard(tmp_path, [{"png": png, "cls": b"1"}, {"png": png, "cls": b"0"}])
    stated = {"classes": ["ant", "bee"], "train_images": 1000, "class_counts": [400, 600]}
    (tmp_path / "train" / "classes.json").write_text(json.dumps(stated))
    stream = opened(tmp_path, tmp_path, train=train).stream
    assert (stream.classes, stream.n_images, stream.class_counts) == (["ant", "bee"], 1000, [400, 600])
    other_sum = {"classes": ["a", "b"], "class_counts": [1, 2], "train_images": 4}
    for wrong in (
        other_sum,
        {"classes": ["a"]},
        {"classes": ["a", "a"]},
        {"classes": ["a", "b"], "class_counts": [1]},
        {"x": 1},
    ):
        (tmp_path / "train" / "classes.json").write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=r"classes\.json"):
            _ = opened(tmp_path, tmp_path, train=train).stream
    without = {"classes": ["ant", "bee", "cat"], "class_counts": [1000, 0, 0]}
    (tmp_path / "train" / "classes.json").write_text(json.dumps(without))
    with pytest.raises(UserError, match=r"classes\.json: .* no image of class bee and cat; every class needs some"):
        _ = opened(tmp_path, tmp_path, train=train).stream


def test_counts_that_classes_json_states_are_of_its_classes_in_its_order(tmp_path, png):
    train = one_shard(tmp_path, [{"png": png, "cls": label} for label in (b"bee", b"ant", b"bee")])
    (tmp_path / "train" / "classes.json").write_text(json.dumps({"classes": ["ant", "bee"], "class_counts": [1, 2]}))
    for classes, counts in ((None, [1, 2]), (["ant", "bee"], [1, 2]), (["bee", "ant"], [2, 1])):
        stream = opened(tmp_path, tmp_path, train=train, classes=classes).stream
        labels = [stream.label(sample) for sample in stream.shards.read_in_order()]
        assert stream.class_counts == counts == np.bincount(labels).tolist()
    stream = opened(tmp_path, tmp_path, train=train, classes=["ant", "bee", "cat"]).stream
    with pytest.raises(UserError, match="has no image of class cat"):
        _ = stream.class_counts


def test_that_fewer_images_are_there_than_stated_is_reported(tmp_path, tars, caplog):
    shards = opened(tmp_path, tars).shards("train")
    assert len(list(islice(shards.read(Share(), seed=1, epoch=0, skip=0), 34))) == 34 and not caplog.text
    assert len(list(islice(shards.read(Share(), seed=1, epoch=0, skip=30), 10))) == 10
    assert "holds 34 images, fewer than stated" in caplog.text


@pytest.mark.parametrize("rank", [0, 1])
def test_that_a_process_repeats_all_of_its_images_is_reported_once(tmp_path, tars, caplog, rank):
    shards, share = opened(tmp_path, tars).shards("train"), Share(rank, 2)
    one_pass = []
    for sample in shards.read(share, seed=1, epoch=0, skip=0):
        if sample.name in one_pass:
            break
        one_pass.append(sample.name)
    assert 0 < len(one_pass) < 34
    assert len(list(islice(shards.read(share, seed=1, epoch=0, skip=0), 2 * len(one_pass)))) and not caplog.text
    assert len(list(islice(shards.read(share, seed=1, epoch=0, skip=0), 5 * len(one_pass)))) == 5 * len(one_pass)
    assert caplog.text.count(f"process {rank} hold {len(one_pass)} images, which come more than twice") == 1


def test_labels_that_only_look_like_numbers_are_names(tmp_path, png):
    train = one_shard(tmp_path, [{"png": png, "cls": label.encode()} for label in ("²", "10", "9" * 5000)])
    assert opened(tmp_path, tmp_path, train=train).stream.classes == ["10", "9" * 5000, "²"]


def test_a_label_named_like_a_missing_one_is_refused_unless_it_is_stated_as_a_class(tmp_path, png):
    train = one_shard(tmp_path, [{"png": png, "cls": label.encode()} for label in ("ant", "nan", "bee", "nan")])
    with pytest.raises(UserError, match=r"train: 2 images without a label \(found nan\)"):
        _ = opened(tmp_path, tmp_path, train=train).stream
    stated = opened(tmp_path, tmp_path, train=train, classes=["ant", "bee", "nan"])
    assert stated.stream.class_counts == [1, 1, 2]


def test_numbers_are_in_their_order_and_labels_may_be_in_json(tmp_path, png):
    samples = [{"jpg": png, "json": json.dumps({"size": 1, "label": n % 11}).encode(), "txt": b"x"} for n in range(22)]
    source = opened(tmp_path, tmp_path, train=one_shard(tmp_path, samples))
    assert source.stream.classes == [str(n) for n in range(11)] and source.stream.class_counts == [2] * 11
    source = opened(tmp_path, tmp_path, train=source.train, label="json.size", classes=["a", "b"])
    with pytest.raises(UserError, match="has no image of class a"):
        _ = source.stream.class_counts


@pytest.mark.parametrize(("image", "label", "content", "name"), [
    (None, None, b"jpg", "of cls"), ("png", None, b"png", "of cls"), ("webp", "json.kind", b"webp", "of kind"),
    (None, "json", b"jpg", "of label"),
])  # fmt: skip
def test_which_files_of_a_sample_are_image_and_label(tmp_path, image, label, content, name):
    sample = {"webp": b"webp", "png": b"png", "jpg": b"jpg", "txt": b"x", "cls": b"of cls"}
    sample["json"] = json.dumps({"cls": "of json", "kind": " of kind\n", "label": "\tof label "}).encode()
    train = one_shard(tmp_path, [sample])
    source = opened(tmp_path, tmp_path, train=train, image=image, label=label)
    shards = source.shards("train")
    (found,) = shards.read_in_order()
    assert (found.content, found.label, list(shards.labels())) == (content, name, [name])


@pytest.mark.parametrize(("sample", "words"), [
    ({"cls": b"a"}, r"000001: has no image \(jpg, jpeg, png, webp\)"),
    ({"png": b"x"}, r"000001: has no label \(cls, json\)"),
    ({"v1.png": b"x", "v1.cls": b"a"}, r"has no image \(.*\); suffixes start at the first dot, .* suffix v1\.png"),
    ({"png": b"x", "cls": b" "}, "its label is ''"),
    ({"png": b"x", "cls": b"\xff"}, "its label is malformed"),
    ({"png": b"x", "json": b"{"}, "its label is malformed"),
    ({"png": b"x", "json": b"[" * 100_000}, "its label is malformed"),
    ({"png": b"x", "json": b'{"label": [1]}'}, r"its label is '\[1\]'"),
    ({"png": b"x", "json": b'{"label": true}'}, "its label is 'True'"),
    ({"png": b"x", "json": b'{"name": 1}'}, "its label is 'None'"),
])  # fmt: skip
def test_a_sample_without_image_or_label_is_one_line(tmp_path, png, sample, words):
    train = one_shard(tmp_path, [{"png": png, "cls": b"a"}, sample])
    with pytest.raises(UserError, match=words) as counted:
        _ = opened(tmp_path, tmp_path, train=train).stream
    source = opened(tmp_path, tmp_path, train=train, classes=["a", "b"], train_images=2)
    with pytest.raises(UserError, match=words) as streamed:
        list(source.stream.shards.read_in_order())
    for error in (counted, streamed):
        assert "\n" not in str(error.value) and "0.tar" in str(error.value)


def test_a_label_of_no_class_is_one_line(tmp_path, tars):
    source = opened(tmp_path, tars, classes=["blue", "red"], train_images=34)
    with pytest.raises(UserError, match="'green' is none of the 2 classes blue and red"):
        read_source(source)  # of val
    with pytest.raises(UserError, match=r"source\.train=.*: 11 images: label 'green' is none of"):
        _ = source.stream.class_counts
    with pytest.raises(UserError, match="has 34 images, but 35 are stated"):
        _ = opened(tmp_path, tars, train_images=35).stream


@pytest.mark.parametrize(("stated", "buffer"), [(33, 1), (33, 1000), (1, 5), (34, 1), (34, 1000)])
def test_more_images_than_stated_are_reported_once(tmp_path, tars, caplog, stated, buffer):
    settings = {"classes": ["blue", "green", "red"], "train_images": stated, "shuffle_buffer": buffer}
    sampler = StreamSampler(opened(tmp_path, tars, **settings).stream, n_images=stated, seed=0)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        assert len(list(sampler)) == stated
    shown = [message for message in caplog.messages if f"more than the stated {stated} images" in message]
    assert len(shown) == (stated < 34) and not any("fewer than stated" in message for message in caplog.messages)


def test_part_of_an_epoch_says_nothing_of_the_number_of_images(tmp_path, tars, caplog):
    stream = opened(tmp_path, tars, classes=["blue", "green", "red"], train_images=34).stream
    assert len(list(StreamSampler(stream, n_images=8, seed=0))) == 8 and not caplog.messages


@pytest.mark.parametrize("kept", [0, 100, 700, 3000])
def test_a_damaged_shard_is_one_line(tmp_path, tars, kept):
    train = tmp_path / "train"
    train.mkdir()
    (train / "0.tar").write_bytes((tars / "train" / "000.tar").read_bytes()[:kept])
    with pytest.raises(UserError, match=r"0\.tar: cannot be read|has no image") as error:
        _ = opened(tmp_path, tars, train=str(train)).stream
    assert "\n" not in str(error.value)
    (train / "0.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(UserError, match=r"0\.tar: cannot be read"):
        _ = opened(tmp_path, tars, train=str(train)).stream


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_shard_that_was_cut_off_between_two_images_is_not_taken_as_whole(tmp_path, tars, caplog, split):
    source = f"{tars}/{split}/000.tar"
    with tarfile.open(source) as tar:
        third = tar.getmembers()[4].offset  # two files an image
    shutil.copytree(f"{tars}/{split}", tmp_path / "cut")
    shard, settings = tmp_path / "cut" / "000.tar", {split: str(tmp_path / "cut")}
    shard.write_bytes(Path(source).read_bytes()[: third + 100])
    with pytest.raises(
        UserError, match=r"000\.tar: cannot be read \(cut off\); write this shard again, or list only the others"
    ):
        read_source(opened(tmp_path, tars, **settings))
    shard.write_bytes(Path(source).read_bytes()[:third])
    read_source(opened(tmp_path, tars, **settings))
    assert "1 shard without the end of a tar file, so images may be missing" in caplog.text
    caplog.clear()
    shard.write_bytes(Path(source).read_bytes())
    read_source(opened(tmp_path, tars, **settings))
    assert "without the end of a tar file" not in caplog.text


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("damage", ["header", "end mark", "two in one", "compressed"])
def test_a_shard_that_seems_to_end_within_is_refused(tmp_path, tars, split, damage):
    """A tar file ends at the first header that is none, and what follows is lost; `cat` of two ends after the first."""
    source = Path(f"{tars}/{split}/000.tar")
    content = source.read_bytes()
    with tarfile.open(source) as tar:
        third = tar.getmembers()[4].offset  # two files an image
    if damage == "two in one":
        content += content
    else:
        content = content[:third] + (b"\0" if damage == "end mark" else b"\7") * 1024 + content[third + 1024 :]
    shutil.copytree(source.parent, tmp_path / "shards")
    (tmp_path / "shards" / "000.tar").write_bytes(gzip.compress(content) if damage == "compressed" else content)
    with pytest.raises(UserError, match=r"000\.tar: cannot be read \(damaged after [\d,]+ bytes, or several tar files"):
        read_source(opened(tmp_path, tars, **{split: str(tmp_path / "shards")}))


def test_shards_of_two_splits_are_refused(tmp_path, tars):
    link = tmp_path / "linked.tar"
    link.symlink_to(tars / "train" / "001.tar")
    for settings in ({"val": str(link)}, {"test": f"{tars}/val/00*.tar"}, {"val": f"{tars}/train"}):
        with pytest.raises(
            UserError, match=r"source\.(val|test)=.*00.\.tar also belongs to (train|val); give each split"
        ):
            read_source(opened(tmp_path, tars, **settings))


def test_compressed_shards_are_read(tmp_path, tars, caplog):
    (tmp_path / "gz").mkdir()
    (tmp_path / "gz" / "0.tar").write_bytes(gzip.compress((tars / "val" / "000.tar").read_bytes()))
    one, gz = (read_source(opened(tmp_path, tars, val=place)) for place in (f"{tars}/val/000.tar", f"{tmp_path}/gz"))
    assert len(one) == len(gz) and "without the end of a tar file" not in caplog.text


@pytest.mark.parametrize(("settings", "words"), [
    ({"train": "pipe:touch evil"}, "or http and https URLs"),
    ({"val": "pipe:touch evil"}, "or http and https URLs"),
    ({"train": "{pipe:touch evil,a.tar}"}, "no shard pipe:touch evil"),
    ({"train": "s3://bucket/0.tar"}, "or http and https URLs"),
    ({"train": "file:///etc/passwd"}, "or http and https URLs"),
    ({"train": "/nowhere"}, "no shard /nowhere"),
    ({"train": "/nowhere/{0..2}.tar"}, "no shard /nowhere/0.tar"),
    ({"train": "/nowhere/{0..2.tar"}, "no shard|braces"),
    ({"train": "http://nowhere/0.tar"}, "classes has no value"),
    ({"train": "http://nowhere/0.tar", "classes": ["a", "b"]}, "train_images has no value"),
    ({"classes": ["a"]}, "two or more different names"), ({"train_images": 0}, "use a number above 0"),
    ({"shuffle_buffer": 0}, "shuffle_buffer"),
])  # fmt: skip
def test_what_cannot_be_is_refused(tmp_path, tars, settings, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        read_source(opened(tmp_path, tars, **settings))
    assert not Path("evil").exists()


@pytest.mark.parametrize(("name", "mib"), [("0.png", 2**20), ("0.png", 257), ("0.cls", 2)])
def test_a_member_that_would_fill_the_memory_is_refused(tmp_path, name, mib):
    (tmp_path / "train").mkdir()
    with tarfile.open(tmp_path / "train" / "0.tar", "w") as tar:
        member = tarfile.TarInfo(name)
        member.size = mib * 2**20
        tar.fileobj.write(member.tobuf())
    with pytest.raises(UserError, match=rf"{name} has {mib:,} MiB"):
        _ = opened(tmp_path, tmp_path, train=str(tmp_path / "train")).stream


def test_nothing_in_a_shard_is_run(tmp_path, png):
    import pickle

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "evil",)

    content = pickle.dumps(Evil())
    samples = [{"png": png, "cls": label, "pyd": content, "pth": content, "pickle": content} for label in (b"a", b"b")]
    source = opened(tmp_path, tmp_path, train=one_shard(tmp_path, samples))
    assert [sample.label for sample in source.stream.shards.read_in_order()] == ["a", "b"]
    assert not (tmp_path / "evil").exists()


def test_shards_come_by_http(tmp_path, tars):
    with served(tars) as server:
        settings = {split: f"{server.url}{split}/{{000..{last:03}}}.tar" for split, last in (("val", 2), ("test", 1))}
        source = opened(tmp_path, tars, train=f"{server.url}train/{{000..006}}.tar", classes=["blue", "green", "red"],
                        train_images=34, **settings)  # fmt: skip
        assert len(read_source(source)) == 21
        here, there = (each.stream.shards.read_in_order() for each in (opened(tmp_path, tars), source))
        assert [sample[:2] for sample in here] == [sample[:2] for sample in there]
        with pytest.raises(UserError, match="the number of training images of each class is unknown"):
            _ = source.stream.class_counts
        missing = opened(
            tmp_path, tars, train=f"{server.url}train/{{006..007}}.tar", classes=["a", "b"], train_images=9
        )
        with pytest.raises(UserError, match=re.escape("007.tar: cannot be read")):
            list(missing.stream.shards.read_in_order())


def test_a_split_without_images_is_named_and_leaves_nothing(tmp_path, tars):
    source = opened(tmp_path, tars, val=one_shard(tmp_path, []))
    with pytest.raises(UserError, match=f"^datamodule.source.val={tmp_path}/train: has no images$"):
        read_source(source)
    assert [file.suffix for file in source.cache.iterdir()] == [".json"]  # of the number of training images


def test_on_windows_backslashes_separate_the_folders_of_a_pattern(tmp_path, monkeypatch):
    folder = one_shard(tmp_path, [])
    monkeypatch.setattr(os, "sep", "\\")
    for pattern in (folder, f"{folder}/*.tar", f"{folder}/{{0..0}}.tar"):
        shards = TarShards("datamodule.source.train", pattern.replace("/", "\\"), Members(("png",), None), 10)
        assert shards.urls == [f"{folder}/0.tar"]


def test_a_process_without_images_is_named(tmp_path):
    shards = TarShards("datamodule.source.train", one_shard(tmp_path, []), Members(("png",), None), 10)
    with pytest.raises(UserError, match=r"process 0 hold no images \(.*/train/0.tar\); list only shards with images"):
        next(shards.read(Share(), seed=1, epoch=0, skip=0))


def test_fewer_shards_than_processes_are_refused(tmp_path, tars):
    shards = opened(tmp_path, tars).stream.shards
    with pytest.raises(UserError, match=r"7 shards for 8 processes; each needs at least one"):
        shards.check_processes(8)
    shards.check_processes(7)
    assert next(shards.read(Share(6, 7), seed=1, epoch=0, skip=0)).content
