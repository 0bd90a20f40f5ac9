"""Images kept on a GPU give the same batches as those that move there step by step. The CPU plays the GPU here."""

import gc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datamodules import gpu_cache
from datamodules.normalize import normalize
from datamodules.transform_list import TransformList
from tests.support.configs import data_module
from tests.support.helpers import make_images

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator")


@pytest.fixture
def data(tmp_path):
    """Make a data module that believes to be on a GPU, from settings."""
    root = make_images(tmp_path / "images", {"train/red": 12, "train/blue": 12, "val/red": 4, "val/blue": 4}, size=24)

    def make(*overrides):
        usual = ("model.image_size=24", "datamodule.batch_size=8", "augmentation.color_jitter=0.2")
        made = data_module(root, tmp_path / "cache", *usual, *overrides)
        made.setup()
        strategy = SimpleNamespace(root_device=torch.device("cuda"))
        epoch = SimpleNamespace(epoch_progress=SimpleNamespace(current=SimpleNamespace(processed=0)))
        made.trainer = SimpleNamespace(strategy=strategy, global_rank=0, world_size=1, num_nodes=1, fit_loop=epoch)
        return made

    return make


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    usual = gpu_cache.copy_to_gpu
    monkeypatch.setattr(gpu_cache, "free_bytes", lambda device: 2**30)
    monkeypatch.setattr(gpu_cache, "copy_to_gpu", lambda cache, device: usual(cache, torch.device("cpu")))


def batches(data, loader):
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def test_batches_are_the_same_where_images_are_kept_there(data):
    moving, staying = data("datamodule.gpu_cache_gib=0"), data()
    assert moving.train_dataloader().dataset.in_gpu_cache is False
    assert "pixels" not in next(iter(staying.train_dataloader()))
    for name in ("train_dataloader", "val_dataloader"):
        pairs = zip(batches(moving, getattr(moving, name)()), batches(staying, getattr(staying, name)()), strict=True)
        for theirs, ours in pairs:
            assert set(theirs) == set(ours)
            assert all(torch.equal(theirs[key], ours[key]) for key in theirs)
    assert moving.gpu_pixels is None


def test_val_images_are_those_of_the_files(data):
    made = data()
    for batch in batches(made, made.val_dataloader()):
        files = [made.pixel_cache[row] for row in batch["rows"].tolist()]
        stacked = torch.from_numpy(np.stack(files)).permute(0, 3, 1, 2)
        assert torch.equal(batch["pixels"], normalize(stacked, made.mean, made.std))
        assert batch["pixels"].is_contiguous(memory_format=torch.channels_last)


def test_a_list_may_keep_training_images_on_the_processor(data):
    made = data()
    made.augmentation = TransformList(transforms=[lambda image: image.rotate(90)], on_device=False)  # only Pillow's
    batch = next(iter(made.train_dataloader()))
    rotated = [np.rot90(made.pixel_cache[row]) for row in batch["rows"].tolist()]
    assert "params" not in batch and np.array_equal(batch["pixels"].permute(0, 2, 3, 1), np.stack(rotated))
    assert "pixels" not in next(iter(made.val_dataloader()))


def test_nothing_holds_the_images_once_the_data_module_is_gone(data):
    made = data()
    batches(made, made.val_dataloader())
    assert made.gpu_pixels is not None
    held = weakref.ref(made)
    del made
    gc.collect()
    assert held() is None


def test_the_limit_is_of_all_images_as_uint8(data):
    cache = data().pixel_cache  # 32 images of 24 x 24 x 3 bytes
    needed = 32 * 24 * 24 * 3
    assert gpu_cache.fits_on_gpu(cache, needed / 2**30, 2 * needed)
    assert not gpu_cache.fits_on_gpu(cache, needed / 2**30 * 0.999, 2 * needed)
    assert not gpu_cache.fits_on_gpu(cache, 0, 2 * needed)


def test_half_of_the_free_memory_is_left_to_the_training(data, caplog):
    cache = data().pixel_cache
    needed = 32 * 24 * 24 * 3
    assert not gpu_cache.fits_on_gpu(cache, 8, 2 * needed - 1)
    assert "each batch is copied to the GPU" in caplog.text


def test_where_the_images_are_is_decided_and_logged_once(data, monkeypatch, caplog):
    monkeypatch.setattr(gpu_cache, "free_bytes", lambda device: 0)
    made = data()
    made.train_dataloader()
    monkeypatch.setattr(gpu_cache, "free_bytes", lambda device: 2**30)
    made.val_dataloader()
    assert made.gpu_pixels is None and caplog.text.count("each batch is copied to the GPU") == 1
