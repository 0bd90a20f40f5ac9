from collections import Counter, namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from common.errors import UserError
from datamodules import loader
from datamodules.loader import EpochSampler, ImageDataset, StatefulDataLoader, keep_batch
from datamodules.sources.catalog import Catalog
from datamodules.transform_list import TransformList
from datamodules.transforms import Augmentation
from tests.support.configs import data_module
from tests.support.helpers import make_images

ROWS = np.arange(100, 123)


def rows_of(**options):
    return [row for _, row, _ in EpochSampler(ROWS, seed=1, **options)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_evaluation_takes_every_row_exactly_once_over_all_processes(world_size):
    parts = [rows_of(shuffle=False, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert sorted(row for part in parts for row in part) == ROWS.tolist()
    samplers = [EpochSampler(ROWS, shuffle=False, seed=1, rank=r, world_size=world_size) for r in range(world_size)]
    assert [len(s) for s in samplers] == [len(part) for part in parts]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_training_takes_every_row_and_equally_many_a_process(world_size):
    parts = [rows_of(shuffle=True, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert {len(part) for part in parts} == {-(-len(ROWS) // world_size)}
    assert {row for part in parts for row in part} == set(ROWS.tolist())


def test_order_depends_on_seed_and_epoch():
    sampler = EpochSampler(ROWS, shuffle=True, seed=1)
    first = list(sampler)
    assert first == list(sampler)
    sampler.set_epoch(1)
    assert [row for _, row, _ in sampler] != [row for _, row, _ in first]
    assert all((epoch, occurrence) == (1, 0) for epoch, _, occurrence in sampler)
    assert [row for _, row, _ in EpochSampler(ROWS, shuffle=True, seed=2)] != [row for _, row, _ in first]


def test_balanced_sampling_draws_all_classes_alike():
    labels = np.array([0] * 900 + [1] * 90 + [2] * 10)
    sampler = EpochSampler(np.arange(1000) + 7, shuffle=True, balance=labels, seed=1)
    drawn = np.array([row for _, row, _ in sampler])
    assert len(drawn) == 1000 and drawn.min() >= 7
    assert np.bincount(labels[drawn - 7]) == pytest.approx([1000 / 3] * 3, abs=60)
    sampler.set_epoch(1)
    assert drawn.tolist() != [row for _, row, _ in sampler]


LABELS = np.repeat([0, 1], [950, 50])


def balanced(**options):
    return EpochSampler(np.arange(1000), shuffle=True, balance=LABELS, seed=3, **options)


@pytest.fixture
def unbalanced(dataset):
    """950 + 50 images, which are augmented."""
    pixels = np.random.default_rng(1).integers(0, 256, (1000, 8, 8, 3), dtype=np.uint8)
    catalog = Catalog(
        name="x", root=None, classes=["a", "b"], paths=[""] * 1000, labels=LABELS, splits=np.array([""] * 1000)
    )
    return ImageDataset(catalog, Images(pixels), dataset.augmentation, seed=3)


def test_an_image_that_balanced_sampling_repeats_is_another_view_each_time(unbalanced):
    items = [item for item in balanced() if item[1] >= 950]
    views = {(row, view.tobytes()) for (_, row, _), view in zip(
        items, unbalanced.__getitems__(items)["pixels"].numpy(), strict=True
    )}  # fmt: skip
    assert len({row for row, _ in views}) == 50 and len(items) > 450
    assert len(views) == len(items)  # of 8 x 8 pixels, so that no view hides between two rotations
    unbalanced.augment_on_gpu = True
    assert len({tuple(params) for params in unbalanced.__getitems__(items)["params"].tolist()}) == len(items)


@pytest.mark.parametrize("sampler", [balanced, lambda **o: EpochSampler(np.arange(10), shuffle=True, seed=3, **o)])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_no_item_comes_twice_over_all_processes_and_resuming_gives_the_same(sampler, world_size):
    parts = [list(sampler(rank=rank, world_size=world_size)) for rank in range(world_size)]
    together = [item for part in parts for item in part]
    assert len(set(together)) == len(together)
    counts = Counter(row for _, row, _ in together)
    assert set(together) == {(0, row, occurrence) for row, n in counts.items() for occurrence in range(n)}
    in_order = [item for step in zip(*parts, strict=True) for item in step]
    seen = Counter()
    for _, row, occurrence in in_order:
        assert occurrence == seen[row]
        seen[row] += 1
    resumed = sampler(rank=world_size - 1, world_size=world_size)
    resumed.skip = 2
    assert list(resumed) == parts[-1][2:]
    assert list(resumed) == parts[-1]


def test_an_image_that_comes_once_is_drawn_as_before(dataset):
    """The keys are those of version 0.2.0, which knew no occurrences."""
    dataset.mixes = True
    items = [(2, row, 0) for row in (4, 0, 9)]
    batch = dataset.__getitems__(items)
    for (_, row, _), pixels in zip(items, batch["pixels"].permute(0, 2, 3, 1).numpy(), strict=True):
        params = dataset.augmentation.draw(16, np.random.default_rng((3, 2, row)))
        assert np.array_equal(dataset.augmentation.apply(dataset.cache[row], params), pixels)
    assert batch["mix_seed"] == np.random.default_rng((3, 2, 4, 0, 9)).integers(loader.SEEDS)


def test_batches_that_repeat_the_same_images_are_mixed_in_other_ways(dataset):
    dataset.mixes = True
    batches = [[(0, 4, n), (0, 7, m)] for n in range(4) for m in range(4)]
    assert len({dataset.__getitems__(items)["mix_seed"] for items in batches}) == 16


def test_sample_weights_come_with_their_images(dataset):
    catalog = Catalog(name="x", root=None, classes=["a", "b"], paths=[""] * 10, labels=np.zeros(10, int),
                      splits=np.array([""] * 10), weights=np.arange(10, dtype=np.float32))  # fmt: skip
    batch = ImageDataset(catalog, dataset.cache, None, seed=0).__getitems__([(0, 3, 0), (0, 9, 0)])
    assert batch["weights"].tolist() == [3, 9]
    assert "weights" not in dataset.__getitems__([(0, 3, 0)])


class Images:
    """Play a pixel cache."""

    def __init__(self, pixels):
        self.pixels = pixels
        self.image_size = pixels.shape[1]

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, row):
        return self.pixels[row]


@pytest.fixture
def dataset():
    pixels = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)
    catalog = Catalog(
        name="x",
        root=None,
        classes=["a", "b"],
        paths=[""] * 10,
        labels=np.arange(10) % 2,
        splits=np.array(["train"] * 10),
    )
    augmentation = Augmentation(
        horizontal_flip=0.5, vertical_flip=0.5, rotation_degrees=15, color_jitter=0.2, erasing=0.5
    )
    return ImageDataset(catalog, Images(pixels), augmentation, seed=3)


def test_a_batch_is_channels_last_with_the_right_labels(dataset):
    dataset.augmentation = None
    batch = dataset.__getitems__([(0, 7, 0), (0, 2, 0), (0, 3, 0)])
    assert batch["pixels"].shape == (3, 3, 16, 16) and batch["pixels"].dtype == torch.uint8
    assert batch["pixels"].is_contiguous(memory_format=torch.channels_last)
    assert batch["labels"].tolist() == [1, 0, 1] and batch["rows"].tolist() == [7, 2, 3]
    assert np.array_equal(batch["pixels"][1].permute(1, 2, 0).numpy(), dataset.cache[2])


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(
    "augmentation", [None, TransformList(transforms=[v2.TrivialAugmentWide(), v2.RandomCrop(16, 4)])]
)
def test_augmentation_is_the_same_on_any_number_of_workers_and_differs_between_epochs(
    dataset, augmentation, num_workers
):
    dataset.augmentation, dataset.mixes = augmentation or dataset.augmentation, True

    def epoch(number, workers):
        sampler = EpochSampler(np.arange(10), shuffle=True, seed=3)
        sampler.set_epoch(number)
        loader = DataLoader(dataset, batch_size=4, sampler=sampler, num_workers=workers, collate_fn=keep_batch)
        batches = list(loader)
        assert all(
            set(b) == {"pixels", "labels", "rows", "mix_seed"} for b in batches
        )  # by params the GPU would augment
        order = torch.cat([b["rows"] for b in batches]).argsort()
        return torch.cat([b["pixels"] for b in batches])[order], [b["mix_seed"] for b in batches]

    (pixels, seeds), (theirs, same), (others, different) = epoch(0, num_workers), epoch(0, 0), epoch(1, 0)
    assert torch.equal(pixels, theirs) and seeds == same and len(set(seeds)) == 3
    assert not torch.equal(pixels, others) and not set(seeds) & set(different)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_transform_that_fails_in_a_worker_is_one_line(dataset, num_workers):
    def fail(image):
        raise KeyError("color")

    dataset.augmentation = TransformList(transforms=[v2.Identity(), fail])
    sampler = EpochSampler(np.arange(10), shuffle=True, seed=3)
    batches = StatefulDataLoader(dataset, batch_size=4, sampler=sampler, num_workers=num_workers, collate_fn=keep_batch)
    with pytest.raises(
        UserError, match=r"^augmentation\.transforms\[1\] \(.*fail\): raised KeyError: 'color' .*give it a tensor\)$"
    ):
        list(batches)


def loader_of(dataset, batch_size=3, *, rank=0, world_size=1, images=10, num_workers=0, **options):
    sampler = EpochSampler(np.arange(images) % 10, shuffle=True, seed=3, rank=rank, world_size=world_size, **options)
    single = batch_size > 1 and len(sampler) % batch_size == 1
    return StatefulDataLoader(dataset, batch_size=batch_size, sampler=sampler, drop_last=single, num_workers=num_workers,
                              collate_fn=keep_batch)  # fmt: skip


def rows_of_batches(loader) -> list[list[int]]:
    return [batch["rows"].tolist() for batch in loader]


def test_a_loader_resumes_in_the_middle_of_a_pass(dataset):
    whole = rows_of_batches(loader_of(dataset, 4))
    stopped, other = loader_of(dataset, 4), loader_of(dataset, 4)
    batches = iter(stopped)
    next(batches), next(batches)
    other.load_state_dict(stopped.state_dict())
    assert rows_of_batches(other) == whole[2:]
    assert other.state_dict() == {"images": 0}  # the pass is over
    assert rows_of_batches(other) == whole  # and the next one is whole
    older = loader_of(dataset, 4)
    older.load_state_dict({"batches": 2})
    assert rows_of_batches(older) == whole[2:]


@pytest.mark.parametrize(("before", "after", "sizes"), [
    (4, 2, [2, 2, 2]),  # six images are left of ten
    (4, 3, [2, 3]),  # up to where the second of the batches of three would end; the single one at the end is skipped
    (4, 5, [6]),  # one of the first five is left, no batch by itself
    (4, 8, [4, 2]),
    (2, 8, [6, 2]),
    (2, 10, [8]),
    (4, 1, [1] * 6),
])  # fmt: skip
def test_batches_of_another_size_see_the_rest_of_a_pass_once(dataset, before, after, sizes):
    order = [row for batch in loader_of(dataset, 1) for row in batch["rows"].tolist()]
    batches = iter(loader := loader_of(dataset, before))
    seen = next(batches)["rows"].tolist()
    resumed = loader_of(dataset, after, num_workers=2 * (after == 5))
    resumed.load_state_dict(loader.state_dict())
    left = len(resumed) - resumed.batch_sampler.batches_done
    rest = rows_of_batches(resumed)
    assert [len(rows) for rows in rest] == sizes and left == len(sizes)
    assert seen + [row for rows in rest for row in rows] == order[: before + sum(sizes)]
    assert sum(len(rows) for rows in rows_of_batches(resumed)) == resumed.images  # the next pass is whole


def test_another_number_of_processes_sees_the_rest_of_a_pass_once(dataset):
    batches = iter(loader := loader_of(dataset, 2, rank=0, world_size=2))
    seen = next(batches)["rows"].tolist() + next(iter(loader_of(dataset, 2, rank=1, world_size=2)))["rows"].tolist()
    resumed = loader_of(dataset, 3)
    resumed.load_state_dict(loader.state_dict())
    rest = [row for rows in rows_of_batches(resumed) for row in rows]
    assert len(seen) == 4 and not set(seen) & set(rest) and len(set(seen + rest)) == 9  # the tenth is a single one
    odd = iter(loader := loader_of(dataset, 3))
    next(odd)
    with pytest.raises(
        UserError, match=r"after 3 images of an epoch, which cannot be divided among 2 processes; .*trainer\.devices"
    ):
        loader_of(dataset, 2, world_size=2).load_state_dict(loader.state_dict())


def test_a_pass_of_another_order_or_without_a_rest_is_not_resumed(dataset):
    batches = iter(loader := loader_of(dataset, 4))
    next(batches), next(batches)
    state = loader.state_dict()
    assert state["images"] == 8
    other = loader_of(dataset, 4)
    other.sampler.seed = 4
    for odd in (other, loader_of(dataset, 4, images=12), loader_of(dataset, 4, balance=np.arange(10) % 2)):
        with pytest.raises(
            UserError,
            match=r"after 8 images of .*another order; resume with the run's own seed",
        ):
            odd.load_state_dict(state)
    with pytest.raises(UserError, match=r"no batch is left; resume with the run's own datamodule\.batch_size=4"):
        loader_of(dataset, 9).load_state_dict(state)  # nine, and the tenth would be a single one
    single = loader_of(dataset, 1)
    single.load_state_dict(state | {"images": 9})  # one image is a batch where all batches are
    assert [len(batch["rows"]) for batch in single] == [1]
    with pytest.raises(UserError, match="the number of images seen in its epoch is"):
        loader_of(dataset, 4).load_state_dict({"images": "x"})


def test_a_single_remaining_image_is_no_training_batch_and_is_logged(tmp_path, caplog):
    root = make_images(tmp_path, {f"{s}/{c}": n for s, n in (("train", 5), ("val", 5)) for c in ("blue", "red")})
    data = data_module(root, tmp_path / "cache", "datamodule.batch_size=3", "augmentation=none")
    data.setup()
    assert [len(batch["rows"]) for batch in data.train_dataloader()] == [3, 3, 3]
    assert "single image" in caplog.text
    assert [len(batch["rows"]) for batch in data.val_dataloader()] == [3, 3, 3, 1]


def test_workers_need_shared_memory(monkeypatch, caplog):
    free = namedtuple("Usage", "free")
    monkeypatch.setattr(loader.shutil, "disk_usage", lambda _: free(64 * 2**20))  # what containers have by default
    monkeypatch.setattr(loader, "SHARED_MEMORY", Path())
    assert loader.workers_that_fit(2, 10 * 2**20) == 2 and not caplog.messages
    assert loader.workers_that_fit(4, 10 * 2**20) == 0
    assert "datamodule.num_workers=4 needs 120 MiB of shared memory" in caplog.text
    assert loader.workers_that_fit(0, 10**12) == 0
