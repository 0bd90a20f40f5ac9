"""The stages of a run, called without the command line."""

import logging

import numpy as np
import pytest
from PIL import Image

from callbacks.checkpoint import BestCheckpoint, LastCheckpoint
from callbacks.freeze_backbone import FreezeBackbone
from callbacks.freeze_batch_norm import FreezeBatchNorm
from common.run_folder import RunFolder
from common.run_record import DataInfo, RunRecord
from datamodules.sources.catalog import Catalog
from engine.config.instantiate import instantiate
from engine.run.callback_list import all_callbacks, configured_callbacks
from engine.run.resume import compare_images
from engine.run.stages import build_data, build_model, complete_loss, describe_data, log_limits, split_columns
from tests.support.configs import composed
from tests.support.helpers import make_images

SPLITS = ("train", "val", "test")


@pytest.fixture
def prepared(tmp_path, two_colors):
    """Compose a configuration and open its images."""

    def prepare(*overrides, root=two_colors):
        config = composed(
            "datamodule=image_folder", f"datamodule.root={root}", f"datamodule.cache={tmp_path / 'cache'}",
            "model.image_size=32", "datamodule.batch_size=8", "trainer=cpu", "model.weights=null", *overrides,
        )  # fmt: skip
        data = instantiate(config, "datamodule", augmentation=instantiate(config, "augmentation"))
        data.setup()
        return config, data

    return prepare


@pytest.mark.parametrize("loss", [
    "cross_entropy", *(pytest.param(each, marks=pytest.mark.thorough) for each in ("weighted_cross_entropy", "focal")),
])  # fmt: skip
def test_the_network_overfits_one_batch_with_every_loss(prepared, loss):
    config, data = prepared(
        f"loss={loss}", "augmentation=none", "optimizer.lr=0.01", "scheduler=none", "datamodule.sampler=balanced"
    )
    model = build_model(config, data).train()
    complete_loss(model, data)
    optimizer = model.configure_optimizers()
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    losses = []
    for step in range(25):
        optimizer.zero_grad()
        loss = model.training_step(batch, step)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(("loss", "sampler", "warned"), [
    ("weighted_cross_entropy", "balanced", True), ("weighted_cross_entropy", "shuffle", False),
    ("cross_entropy", "balanced", False), ("focal", "balanced", False),
])  # fmt: skip
def test_classes_that_are_weighted_twice_are_warned_of(prepared, caplog, loss, sampler, warned):
    config, data = prepared(f"loss={loss}", f"datamodule.sampler={sampler}")
    complete_loss(build_model(config, data), data)
    assert ("rare classes are weighted twice" in caplog.text) == warned


@pytest.mark.parametrize("by_accuracy", [True, False])
@pytest.mark.parametrize(("overrides", "is_weighted"), [
    ([], False), (["loss=focal"], False), (["loss=weighted_cross_entropy"], True), (["datamodule.sampler=balanced"], True),
])  # fmt: skip
def test_the_warning_of_imbalance_proposes_what_is_not_set(by_accuracy, overrides, is_weighted):
    monitor = "callbacks.best_checkpoint.monitor=val/balanced_accuracy"
    proposed = build_data(composed(*overrides, *([] if by_accuracy else [monitor]))).against_imbalance
    assert all((text in proposed) == by_accuracy for text in (monitor, "metric=balanced_accuracy"))
    assert ("loss=weighted_cross_entropy or datamodule.sampler=balanced" in proposed) == (not is_weighted)
    assert bool(proposed) == (by_accuracy or not is_weighted)


@pytest.mark.parametrize(("overrides", "classes", "warned"), [
    (["model=shufflenet_mod"], 2, False), (["model=shufflenet_mod"], 3, False), (["model=shufflenet_mod"], 4, True),
    (["model=truncated"], 4, False),
    (["model=truncated", "model.head.hidden_dims=[8,3]", "model.head.dropout=[0,0,0]"], 4, False),
    (["model=simple_cnn"], 4, False),
])  # fmt: skip
def test_a_head_that_is_too_narrow_for_the_classes_is_warned_of(prepared, tmp_path, caplog, overrides, classes, warned):
    root = make_images(tmp_path / "data", {f"{split}/{k}": 4 for split in SPLITS for k in range(classes)})
    build_model(*prepared(*overrides, root=root))
    text = "model.head.hidden_dims=[2]: 4 classes are distinguished by 2 numbers"
    assert (text in caplog.text) == ("model.head.hidden_dims=[] model.head.dropout=[0.2]" in caplog.text) == warned


def test_runs_of_other_seeds_have_the_same_images(prepared, tmp_path):
    root = make_images(tmp_path / "data", {"blue": 20, "red": 20})
    seed_1, seed_2, split_seed, half = (
        describe_data(prepared(override, root=root)[1])
        for override in ("seed=1", "seed=2", "datamodule.split_seed=7", "datamodule.train_fraction=0.5")
    )
    assert len({data.fingerprint for data in (seed_1, seed_2)}) == 1
    assert len({data.fingerprint for data in (seed_1, split_seed, half)}) == 3
    assert seed_1.fingerprint_val_test == half.fingerprint_val_test != split_seed.fingerprint_val_test


def test_folds_have_the_same_images_until_there_are_others(prepared, tmp_path):
    """Whatever is dropped from the training images of a fold, since it is in its val too, or left out by train_fraction."""
    root = make_images(tmp_path / "data", {"blue": 24, "red": 24})
    image = Image.open(root / "red" / "000.png")
    for i in range(1, 20):  # so many near duplicates are divided between the folds
        image.putpixel((i, 0), (0, 0, 0))
        image.save(root / "red" / f"{i:03}.png")

    def folds(*overrides):
        settings = ("datamodule.folds=3", "datamodule.on_leak=drop", "datamodule.batch_size=4", *overrides)
        return [describe_data(prepared(*settings, f"datamodule.fold={i}", root=root)[1]) for i in range(3)]

    before, thinned = folds(), folds("datamodule.train_fraction=0.5")
    assert len({tuple(each.path for each in data.excluded) for data in before}) == 3
    assert len({data.fingerprint_val_test for data in before}) == 3
    assert len({data.fingerprint_folds for data in before + thinned}) == 1
    (make_images(tmp_path / "more", {"blue": 1}, seed=4) / "blue" / "000.png").rename(root / "blue" / "new.png")
    assert len({data.fingerprint_folds for data in folds()} - {before[0].fingerprint_folds}) == 1
    assert describe_data(prepared(root=root)[1]).fingerprint_folds is None


def test_other_weights_of_training_images_are_another_fingerprint(prepared, tmp_path, caplog):
    root, table = make_images(tmp_path / "data", {"blue": 20, "red": 20}), tmp_path / "table.csv"
    paths = sorted(f"{path.parent.name}/{path.name}" for path in root.glob("*/*.png"))
    splits = ("train", "train", "val", "test")

    def described(of_train, of_others, *overrides):
        lines = [
            f"{path},{path[: path.index('/')]},{splits[i % 4]},{of_others if i % 4 > 1 else of_train(i)}\n"
            for i, path in enumerate(paths)
        ]
        table.write_text("path,label,split,weight\n" + "".join(lines))
        data = prepared(f"datamodule.table={table}", *overrides, root=root)[1]
        opened.append(data)
        return describe_data(data)

    record, opened = RunRecord(), []
    record.folder = RunFolder(tmp_path / "run")
    record.folder.path.mkdir()
    equal, some, others = (
        described(lambda i: 1, 1),
        described(lambda i: 1 + i % 2, 1),
        described(lambda i: 2 - i % 2, 1),
    )
    assert len({each.fingerprint for each in (equal, some, others)}) == 3
    assert len({each.fingerprint_val_test for each in (equal, some, others)}) == 1
    assert described(lambda i: 1 + i % 2, 7).fingerprint == some.fingerprint  # which val and test do not use
    halves = [described(lambda i: 1 + i % 2, 1, "datamodule.train_fraction=0.5", f"seed={seed}") for seed in (1, 2)]
    assert {each.fingerprint_full for each in halves} == {some.fingerprint}
    for before, now, n in ((0, 1, 10), (1, 0, 10), (1, 2, 20), (1, 3, 0)):
        caplog.clear()
        record.folder.write_splits(split_columns(opened[before]))
        record.previous, record.data = RunRecord(data=describe_data(opened[before])), describe_data(opened[now])
        compare_images(record, opened[now].catalog, opened[now].pixel_cache.stats.fingerprints)
        assert ("0 in another split" in caplog.text) == (n > 0) and (f"{n} with another weight" in caplog.text) == (
            n > 0
        )


def test_only_splits_of_which_images_are_left_out_are_called_limited(prepared, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    root = make_images(tmp_path / "data", {f"{s}/{c}": 8 for s in ("train", "val") for c in ("blue", "red")}, size=32)
    config, data = prepared("datamodule.batch_size=4", root=root)
    for limits, words in (
        ({"train": 9, "val": 4}, None),
        ({"train": 9, "val": 2}, "limited to 8 of 16 val images, the"),
    ):
        caplog.clear()
        data.limits = limits
        log_limits(config, data)
        assert words in caplog.text if words else "limited" not in caplog.text


def test_training_images_added_to_a_stream_are_not_counted_as_listed_ones(tmp_path, caplog):
    """Its splits.csv has those of val and test only, so that `0 new` would be wrong."""
    paths, splits = ["val/a.png", "test/b.png"], np.array(["val", "test"], object)
    catalog = Catalog("stream", tmp_path, ["a", "b"], paths, np.zeros(2, int), splits)
    record = RunRecord(data=DataInfo(fingerprint="b", n_train=39, n_val=1, n_test=1))
    record.previous = RunRecord(data=DataInfo(fingerprint="a", n_train=34, n_val=1, n_test=1))
    record.folder = RunFolder(tmp_path)
    record.folder.write_splits({"path": paths, "label": ["a", "b"], "split": splits})
    compare_images(record, catalog, ["0", "1"])
    assert "39 train (were 34); 1 val (were 1); 1 test (were 1); of val and test 0 new, 0 gone" in caplog.text


def test_splits_of_a_run_are_those_of_any_later_run_and_the_record_says_so(prepared, tmp_path):
    root = make_images(tmp_path / "data", {"blue": 30, "red": 20}, size=32)
    _, first = prepared("datamodule.split_seed=3", "datamodule.train_fraction=0.5", root=root)
    RunFolder(tmp_path).write_splits(split_columns(first))
    assert describe_data(first).splits_from == "drawn by datamodule.split_seed=3"
    make_images(tmp_path / "more", {"blue": 10}, seed=4, size=32)
    for path in (tmp_path / "more" / "blue").iterdir():
        path.rename(root / "blue" / f"new {path.name}")
    _, later = prepared(f"datamodule.splits={tmp_path}", "datamodule.split_seed=9", root=root)
    assert describe_data(later).splits_from == f"{tmp_path}: 50 images as there, 10 new"
    before, after = (
        {(data.catalog.paths[row], split) for split in ("val", "test") for row in data.catalog.rows(split)}
        for data in (first, later)
    )
    assert before == {pair for pair in after if "new" not in pair[0]}


def test_splits_csv_gives_the_same_splits_to_any_seed(prepared, tmp_path):
    root = make_images(tmp_path / "data", {"blue": 30, "red": 20}, size=32)
    folder = RunFolder(tmp_path)
    columns = split_columns(prepared("seed=5", root=root)[1])
    folder.write_splits(columns)
    table = f"datamodule.table={folder.splits}"
    assert list(split_columns(prepared("seed=6", table, root=root)[1])["split"]) == list(columns["split"])


def test_excluded_images_are_in_the_record(prepared, tmp_path, caplog):
    root = make_images(tmp_path / "data", {f"{s}/{c}": 8 for s in SPLITS for c in ("blue", "red")})
    (root / "train" / "red" / "broken.png").write_bytes(b"")
    (root / "val" / "red" / "again.png").write_bytes((root / "train" / "red" / "000.png").read_bytes())
    info = describe_data(prepared("datamodule.on_unreadable=skip", "datamodule.on_leak=drop", root=root)[1])
    excluded = {each.path: each.reason for each in info.excluded}
    assert set(excluded) == {"train/red/broken.png", "train/red/000.png"}
    assert "empty" in excluded["train/red/broken.png"]
    assert [(finding.kind, finding.leak) for finding in info.audit] == [("exact duplicate", True)]
    assert info.n_train == 15 and "000.png" in caplog.text


def test_callbacks_come_in_the_order_that_they_need(tmp_path):
    config = composed("callbacks.freeze_batch_norm.enabled=true", "callbacks.image_logger=null", "+model.freeze=true")
    record = RunRecord.begin(RunFolder(tmp_path), command=[], overrides=[])
    kinds = [type(callback) for callback in all_callbacks(config, record, configured_callbacks(config), [])]
    assert kinds.index(FreezeBackbone) < kinds.index(FreezeBatchNorm)
    assert kinds[-2:] == [BestCheckpoint, LastCheckpoint]
    names = {kind.__name__ for kind in kinds}
    assert {"StepSeed", "Throughput", "EpochLogger", "PredictionWriter", "TerminateOnNaN", "GracefulShutdown"} < names
    assert not {"ImageLogger", "Distillation", "LinearProbe", "ProgressiveResizing"} & names  # null, or not enabled
