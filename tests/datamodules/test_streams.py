"""Streamed training images: each once an epoch, the bits of the pixel cache, the same after a resume."""

import io
import logging
import threading
import time
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from datamodules.decode import open_image, read_content, resize
from datamodules.deep_pixels import ValueRange
from datamodules.pixel_cache import Look
from datamodules.streams import Sample, Share, StreamDataset, StreamItem, StreamSampler, TrainStream, read_ahead
from engine.config.instantiate import instantiate
from engine.run.stages import build_data
from tests.support.configs import composed
from tests.support.shards import COUNTS, files_of, make_folder, write_chunks, write_tars

pytest.importorskip("litdata", reason="needs the extra streaming")
pytest.importorskip("webdataset", reason="needs the extra streaming")
N_TRAIN = 34


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module", params=[write_tars, write_chunks], ids=["webdataset", "litdata"])
def settings(request, images, tmp_path_factory):
    """Shards of 17 images, so that two processes have one each."""
    return request.param(tmp_path_factory.mktemp("shards"), images, each=17)


@pytest.fixture
def opened(settings, tmp_path):
    def open_data(*overrides):
        small = ["model=simple_cnn", "model.image_size=16", "datamodule.batch_size=5", f"datamodule.cache={tmp_path}"]
        data = build_data(composed(*settings, *small, *overrides))
        data.setup()
        return data

    return open_data


def names(batches):
    return [name for batch in batches for name in batch["names"]]


def same(batches, others):
    pairs = zip(batches, others, strict=True)
    return all(one["names"] == two["names"] and torch.equal(one["pixels"], two["pixels"]) for one, two in pairs)


def test_an_epoch_has_every_image_once_with_the_bits_and_the_label_of_its_file(opened, images):
    data = opened("augmentation=none")
    assert data.stream.class_counts == [14, 11, 9] and data.catalog.classes == ["blue", "green", "red"]
    loader = data.train_dataloader()
    batches = list(loader)
    assert [len(batch["labels"]) for batch in batches] == [5] * 6 + [4] and len(loader) == 7
    pixels = torch.cat([batch["pixels"] for batch in batches])
    assert pixels.shape == (N_TRAIN, 3, 16, 16) and batches[0]["pixels"].is_contiguous(
        memory_format=torch.channels_last
    )
    streamed = Counter(
        (data.catalog.classes[label], image.permute(1, 2, 0).numpy().tobytes())
        for label, image in zip(torch.cat([batch["labels"] for batch in batches]).tolist(), pixels, strict=True)
    )
    assert streamed == Counter(
        (label, np.asarray(resize(open_image(file, 16), 16)).tobytes()) for file, label in files_of(images / "train")
    )
    assert len(set(names(batches))) == N_TRAIN


def test_val_and_test_are_rows_of_the_catalog_and_train_is_none(opened):
    data = opened()
    assert [data.n_images(split) for split in ("train", "val", "test")] == [N_TRAIN, 12, 9]
    assert len(data.catalog) == 21 and (data.catalog.splits != "train").all()
    assert [finding.kind for finding in data.findings] == ["streamed"]
    with pytest.raises(UserError, match="is streamed, but this needs all training images as files"):
        data.rows("train")
    assert data.fingerprint() != data.fingerprint("val", "test")


def test_the_order_depends_on_seed_and_epoch_and_the_augmentation_on_the_place(opened):
    data = opened("augmentation=study_jitter")
    loader, plain = data.train_dataloader(), opened("augmentation=none").train_dataloader()
    first, same_epoch, raw = list(loader), list(loader), list(plain)
    assert same(first, same_epoch) and names(first) == names(raw)
    loader.sampler.set_epoch(1)
    assert names(list(loader)) != names(first)
    assert names(list(opened("seed=9").train_dataloader())) != names(first)
    params = [data.augmentation.draw(16, np.random.default_rng([data.seed, 0, number])) for number in range(N_TRAIN)]
    images = torch.cat([batch["pixels"] for batch in raw]).permute(0, 2, 3, 1).numpy()
    expected = [data.augmentation.apply(image, param) for image, param in zip(images, params, strict=True)]
    assert np.array_equal(torch.cat([batch["pixels"] for batch in first]).permute(0, 2, 3, 1).numpy(), expected)


def test_workers_change_nothing(opened):
    data, with_workers = opened(), opened("datamodule.num_workers=2")
    assert same(list(data.train_dataloader()), list(with_workers.train_dataloader()))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_resumes_after_any_batch_with_the_very_images_that_would_have_come(opened, settings, workers):
    loader = opened().train_dataloader()
    straight = list(loader)
    for done in (1, 3, 6):
        passing = iter(loader)
        for _ in range(done):
            next(passing)
        state = loader.state_dict()
        passing.close()
        resumed = opened(f"datamodule.num_workers={workers}").train_dataloader()
        resumed.load_state_dict(state)
        assert same(list(resumed), straight[done:])
    for change in ["seed=3", *["datamodule.source.shuffle_buffer=3"] * (settings[0] == "datamodule=webdataset")]:
        other = opened(change).train_dataloader()
        with pytest.raises(UserError, match="but this command has other images or another order"):
            other.load_state_dict(state)


def test_two_processes_have_every_image_once_and_equally_many(opened):
    stream = opened().stream
    parts = [
        [item.name for item in StreamSampler(stream, n_images=N_TRAIN, seed=1, share=Share(rank, 2))] for rank in (0, 1)
    ]
    assert [len(part) for part in parts] == [17, 17] and len({*parts[0], *parts[1]}) == N_TRAIN
    numbers = [
        item.number for rank in (0, 1) for item in StreamSampler(stream, n_images=N_TRAIN, seed=1, share=Share(rank, 2))
    ]
    assert sorted(numbers) == list(range(N_TRAIN))


def test_another_order_has_another_digest(opened):
    """By which a run does not resume within an epoch where other images would come; litdata shuffles within each node."""
    stream, found = opened().stream, {}
    for share in (Share(0, 1), Share(0, 2), Share(0, 2, 2)):
        for seed, epoch in ((1, 1), (1, 2), (2, 1)):
            sampler = StreamSampler(stream, n_images=N_TRAIN, seed=seed, share=share)
            sampler.set_epoch(epoch)
            order = tuple(item.name for item in sampler)
            assert found.setdefault(sampler.digest(), order) == order
    assert len(found) == 9


@pytest.mark.parametrize("skip", [0, 3, 16, 17, 20, 40])
def test_a_process_with_too_few_images_repeats_its_first_ones(opened, skip):
    shards = opened().stream.shards

    def read(skip, n):
        return [sample.name for sample in islice(shards.read(Share(1, 2), seed=1, epoch=0, skip=skip), n)]

    once = read(0, 17)
    assert len(set(once)) == 17 and sorted(read(17, 17)) == sorted(once)
    assert read(skip, 30) == read(0, skip + 30)[skip:]


def test_a_sample_of_the_training_images_stands_for_all(opened, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    data = opened()
    sample = list(data.sample_of_train_dataloader(7, batch_size=4, augmented=False))
    assert [len(batch["labels"]) for batch in sample] == [4, 3]
    assert len(names(data.unaugmented_train_dataloader())) == N_TRAIN and "only the first" not in caplog.text
    monkeypatch.setattr("datamodules.image_datamodule.MOST_OF_STREAM", 12)
    assert len(names(data.unaugmented_train_dataloader())) == 12
    assert f"only the first 12 of {N_TRAIN} streamed training images" in caplog.text


def test_a_limit_takes_the_first_batches(opened):
    data = opened()
    whole = names(data.train_dataloader())
    data.limits = {"train": 2}
    assert data.n_used("train") == 10 and names(data.train_dataloader()) == whole[:10]


@pytest.mark.parametrize(("setting", "words"), [
    ("datamodule.folds=3", "datamodule.folds=3: streamed training images are not divided"),
    ("datamodule.fold=0", "datamodule.fold=0: streamed training images are not divided"),  # folds would be refused as well
    ("datamodule.train_fraction=0.5", "are not reduced; name fewer shards; use datamodule.train_fraction=1"),
    ("datamodule.sampler=balanced", "use datamodule.sampler=shuffle"),
    ("datamodule.select_on=test", "use datamodule.select_on=val"),
    ("datamodule.on_leak=drop", "are not compared with those of val and test; use datamodule.on_leak=warn"),
])  # fmt: skip
def test_what_needs_all_training_images_is_refused(opened, setting, words):
    with pytest.raises(UserError, match=words):
        opened(setting)


def test_mean_and_std_of_the_training_images_are_refused():
    config = composed("datamodule=webdataset", "datamodule.source.train=/x", "datamodule.source.val=/x")
    with pytest.raises(UserError, match=r"model.normalization=dataset: mean and std of streamed training images"):
        instantiate(config, "datamodule", augmentation=instantiate(config, "augmentation"), mean=None, std=None)


def dataset(on_unreadable="error", **look):
    return StreamDataset(3, Look(8, **look), None, 1, on_unreadable)


def item(number, content):
    return StreamItem(0, number, 0, content, number, f"shard: {number}")


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_image_that_cannot_be_read_ends_the_run_or_another_one_takes_its_place():
    good, bad = png(np.full((8, 8, 3), 9, np.uint8)), b"no image"
    items = [item(0, good), item(1, bad), item(2, b"")]
    with pytest.raises(UserError, match=r"shard: 1: not a readable image .* or use datamodule.on_unreadable=skip"):
        dataset().__getitems__(items)
    batch = dataset("skip").__getitems__(items)
    assert batch["labels"].tolist() == [0, 0, 0] and batch["names"] == ["shard: 0"] * 3
    assert [reason.partition(":")[2].partition(":")[0] for reason in batch["unreadable"]] == [" 1", " 2"]
    assert (batch["pixels"] == 9).all()
    with pytest.raises(UserError, match="no image of a whole batch can be read"):
        dataset("skip").__getitems__(items[1:])


def test_more_than_8_bits_need_a_range():
    deep = png(np.full((8, 8), 1000, np.uint16))
    with pytest.raises(UserError, match=r"shard: 0: more than 8 bits per channel.*datamodule.range=LOW,HIGH"):
        dataset().__getitems__([item(0, deep)])
    batch = dataset(value_range=ValueRange(0, 4000, of_all=True)).__getitems__([item(0, deep)])
    assert (batch["pixels"] == 64).all()  # 255 * 1000 / 4000


def test_the_content_of_a_file_is_decoded_as_the_file(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (1100, 1500, 3), np.uint8)).save(path, exif=exif)
    one, two = open_image(path, 64), read_content(path.read_bytes(), "x", 64).rgb()
    assert one.size == two.size and one.tobytes() == two.tobytes()


def test_on_a_gpu_the_pixels_come_as_they_are_with_what_the_augmentation_has_drawn():
    augmentation = instantiate(composed("augmentation=study"), "augmentation")
    images = StreamDataset(3, Look(8), augmentation, 1, "error", augment_on_gpu=True, mixes=True)
    batch = images.__getitems__([item(4, png(np.full((8, 8, 3), 7, np.uint8)))])
    assert (batch["pixels"] == 7).all() and 0 <= batch["mix_seed"] < 2**63
    assert batch["params"][0].tolist() == pytest.approx(augmentation.draw(8, np.random.default_rng([1, 0, 4])))


def test_labels_are_names_or_numbers_of_the_classes():
    class OfNowhere:
        key = "datamodule.source.train=x"

    stream = TrainStream(OfNowhere, ["cat", "dog"], 10, None, None)
    assert [stream.label(Sample(b"", label, "x: 1")) for label in ("dog", "0", "01", "0000000001")] == [1, 0, 1, 1]
    for label in ("2", "Dog", "-1", "1.0", "²", "0000000009", "0" * 5000):
        with pytest.raises(UserError, match="is none of the 2 classes cat and dog"):
            stream.label(Sample(b"", label, "x: 1"))
    with pytest.raises(UserError, match="use loss=cross_entropy"):
        _ = stream.class_counts


@pytest.mark.parametrize(("classes", "labels", "numbers"), [
    (["1", "2", "3"], ["1", "2", "3", "0", "01"], [0, 1, 2, None, None]),  # a 0 among them: are they names or numbers?
    (["2", "10", "1"], ["2", "10", "1", "0"], [0, 1, 2, None]),
    (["0", "1", "2"], ["0", "01", "2", "3"], [0, 1, 2, None]),
    (["7", "8", "a"], ["7", "8", "0", "1", "2", "3"], [0, 1, 0, 1, 2, None]),
])  # fmt: skip
def test_labels_are_names_only_where_a_class_is_named_like_the_number_of_another(classes, labels, numbers):
    class OfNowhere:
        key = "datamodule.source.train=x"

    stream = TrainStream(OfNowhere, classes, 10, None, None)
    for label, number in zip(labels, numbers, strict=True):
        if number is not None:
            assert stream.label(Sample(b"", label, "x: 1")) == number
            continue
        with pytest.raises(UserError, match=f"label '{label}' is none of the 3 classes"):
            stream.label(Sample(b"", label, "x: 1"))


def test_damaged_counts_of_the_labels_are_counted_again(opened, tmp_path, caplog):
    def counts():
        return opened().stream.class_counts

    right = counts()
    (kept,) = (tmp_path / "sources").glob("*.labels.json")
    whole = kept.read_bytes()
    for damaged in ("", "[]", "7", '["blue", "green", "red"]', '{"blue": "14", "green": 11, "red": 9}'):
        kept.write_text(damaged)
        caplog.clear()
        assert counts() == right and kept.read_bytes() == whole, damaged
        assert f"{kept}: damaged" in caplog.text, damaged


def test_reading_ahead_stays_bounded_and_ends_with_its_reader():
    read = []

    def items():
        for number in range(1000):
            read.append(number)
            yield number

    ahead = read_ahead(items(), 5)
    assert next(ahead) == 0
    time.sleep(0.3)
    assert len(read) <= 8  # one taken, five waiting, one in hand
    ahead.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "read ahead"]
    assert list(read_ahead(iter(range(9)), 5)) == list(range(9))

    def broken():
        yield 1
        raise UserError("the shard")

    ahead = read_ahead(broken(), 5)
    assert next(ahead) == 1
    with pytest.raises(UserError, match="the shard"):
        next(ahead)


def test_counts_are_those_of_the_shards():
    assert sum(n for name, n in COUNTS.items() if name.startswith("train")) == N_TRAIN
