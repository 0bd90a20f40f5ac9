"""datamodule.splits: the splits of an earlier run are taken over, and new images join them."""

import csv
import hashlib
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from datamodules import image_datamodule
from datamodules.earlier_splits import read_splits
from datamodules.memory import Memory
from datamodules.near_duplicates import compared_look
from datamodules.prepare import prepare_catalog
from datamodules.sources.csv_table import CsvTable
from datamodules.sources.image_folder import ImageFolder
from datamodules.sources.source import read_source
from tests.support.configs import data_module
from tests.support.helpers import make_images, open_pixel_cache


def prepared(source, tmp_path, splits=None, **rules):
    catalog = read_source(source)
    cache = open_pixel_cache(catalog.files, compared_look(None), tmp_path / "caches")
    prepare_catalog(catalog, cache, **{"seed": 0, "splits": splits and read_splits(splits)} | rules)
    return catalog


def write_table(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    return str(path)


@pytest.fixture
def root(tmp_path):
    return make_images(tmp_path / "data", {"blue": 20, "red": 20}, size=32)


@pytest.fixture
def table(tmp_path):
    """Splits that no hash gives: by number."""
    rows = [
        (f"{name}/{n:03}.png", name, ("train", "val", "test")[n % 3]) for name in ("blue", "red") for n in range(20)
    ]
    return write_table(tmp_path / "splits.csv", rows)


def split_of(catalog):
    return dict(zip(catalog.paths, catalog.splits.tolist(), strict=True))


def test_listed_images_keep_their_split_and_new_ones_go_by_their_hash(root, tmp_path, table, caplog):
    make_images(tmp_path / "new", {"blue": 30, "red": 30}, size=32, seed=5)
    for path in (tmp_path / "new").glob("*/*"):
        path.rename(root / path.parent.name / f"new {path.name}")
    (root / "red/000.png").unlink()
    (root / "red/001.png").rename(root / "blue/moved.png")  # another path: new
    with caplog.at_level(logging.INFO):
        catalog = prepared(ImageFolder(root=root), tmp_path, table)
    splits = split_of(catalog)
    for name, numbers in (("blue", range(20)), ("red", range(2, 20))):
        assert [splits[f"{name}/{n:03}.png"] for n in numbers] == [("train", "val", "test")[n % 3] for n in numbers]
    drawn = split_of(prepared(ImageFolder(root=root), tmp_path))
    new = [path for path in splits if "new " in path]
    assert [splits[path] for path in new] == [drawn[path] for path in new]
    assert "2 images listed there, but missing here: red/000.png and red/001.png" in caplog.text
    assert catalog.splits_from == f"{table}: 38 images as there, 61 new"


def test_with_folds_only_the_test_images_keep_their_split(root, tmp_path, table, caplog):
    """Of 40 images 12 are in test and one is excluded; of the 27 others, in stratified thirds, fold 1 is val."""
    Path(table).write_text(Path(table).read_text().replace("blue/000.png,blue,train", "blue/000.png,blue,"))
    with caplog.at_level(logging.INFO):
        catalog = prepared(ImageFolder(root=root), tmp_path, table, folds=3, fold=1)
    by_number = {row: ("train", "val", "test")[int(path[-7:-4]) % 3] for row, path in enumerate(catalog.paths)}
    assert catalog.rows("test").tolist() == [row for row, split in by_number.items() if split == "test"]
    assert catalog.rows("val").tolist() != [row for row, split in by_number.items() if split == "val"]
    assert "12 test images keep their split, 27 others are divided into folds, 0 are new" in caplog.text
    assert catalog.splits_from == f"{table}: 40 images as there, 0 new; train and val divided into folds"


def test_a_few_new_images_go_by_their_hash_since_their_class_is_in_every_split(root, tmp_path, table, caplog):
    """By a hash of our own: what a class lacks is counted with its old images: new ones without them lack nearly all."""
    make_images(tmp_path / "new", {"blue": 4, "red": 4}, size=32, seed=5)
    for path in (tmp_path / "new").glob("*/*"):
        path.rename(root / path.parent.name / f"new {path.name}")
    catalog = prepared(ImageFolder(root=root), tmp_path, table)
    stats = open_pixel_cache(catalog.files, compared_look(None), tmp_path / "caches").stats
    new = [row for row, path in enumerate(catalog.paths) if "new " in path]
    digests = [hashlib.blake2b(f"0 pixels {stats.fingerprints[row]}".encode(), digest_size=16).digest() for row in new]
    places = [int.from_bytes(digest[:8]) / 2**64 for digest in digests]
    expected = ["train" if place < 0.6 else "val" if place < 0.8 else "test" for place in places]
    assert [catalog.splits[row] for row in new] == expected
    assert "had no image of the class" not in caplog.text


@pytest.mark.parametrize(("listed", "now"), [("./{}", "{}"), ("{}", "./{}"), (".//{}", "./{}")])
def test_a_path_is_the_same_however_a_table_writes_it(root, tmp_path, listed, now):
    """`./blue/000.png` is `blue/000.png`; in splits that no hash gives it would be seen if they were drawn."""
    names = [f"{name}/{n:03}.png" for name in ("blue", "red") for n in range(20)]
    splits = [("train", "val", "test")[n % 3] for n in range(len(names))]
    rows = [(listed.format(name), name[:-8], split) for name, split in zip(names, splits, strict=True)]
    earlier = write_table(tmp_path / "splits.csv", rows)
    source = CsvTable(
        table=write_table(tmp_path / "now.csv", [(now.format(n), n[:-8], "") for n in names]), root=str(root)
    )
    assert split_of(prepared(source, tmp_path, earlier)) == dict(zip(names, splits, strict=True))


def test_a_new_image_goes_with_its_group_or_its_near_duplicate(root, tmp_path, table, caplog):
    blocks = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(blocks).resize((160, 160), Image.Resampling.BICUBIC)
    image.save(root / "red/001.png")  # val
    image.save(root / "red/new.jpg", quality=60)
    rows = [f"{name}/{n:03}.png,{name},{'ab'[n % 2] if n < 2 else ''}" for name in ("blue", "red") for n in range(20)]
    rows += ["red/new.jpg,red,", "blue/new.png,blue,a", "blue/between.png,blue,c"]
    rows[3], rows[4] = "blue/003.png,blue,c", "blue/004.png,blue,c"  # train and val
    make_images(tmp_path / "new", {"blue": 2}, size=32, seed=5)
    (tmp_path / "new/blue/000.png").rename(root / "blue/new.png")
    (tmp_path / "new/blue/001.png").rename(root / "blue/between.png")
    listed = tmp_path / "table.csv"
    listed.write_text("\n".join(["path,label,group", *rows]))
    catalog = prepared(CsvTable(table=listed, root=root), tmp_path, table)
    splits = split_of(catalog)
    assert (splits["red/new.jpg"], splits["blue/new.png"], splits["blue/between.png"]) == ("val", "train", "")
    (reason,) = catalog.excluded.values()
    assert (
        "belongs to images of train and val" in reason
        and "excluded 1 new image in a group with images of two splits" in caplog.text
    )
    in_folds = prepared(CsvTable(table=listed, root=root), tmp_path, table, folds=2, fold=0)
    joined = {split_of(in_folds)[f"blue/{name}.png"] for name in ("003", "004", "between")}
    assert not in_folds.excluded and len(joined) == 1 and joined < {"train", "val"}  # one fold has all of the group


def test_a_label_that_changed_is_named(root, tmp_path, table, caplog):
    (root / "red/005.png").rename(root / "red/x.png")
    lines = [row.split(",") for row in (tmp_path / "splits.csv").read_text().splitlines()[1:]]
    table = write_table(tmp_path / "splits.csv", [(p, "red" if p == "blue/002.png" else la, s) for p, la, s in lines])
    assert split_of(prepared(ImageFolder(root=root), tmp_path, table))["blue/002.png"] == "test"
    assert "1 image with a different label here: blue/002.png" in caplog.text


def test_val_that_was_drawn_from_train_is_no_contradiction_but_test_in_train_is(tmp_path):
    root = make_images(tmp_path / "data", {f"{s}/{c}": 6 for s in ("train", "test") for c in ("blue", "red")}, size=32)
    rows = [(f"{s}/{c}/{n:03}.png", c, "val" if s == "train" and n < 2 else s)
            for s in ("train", "test") for c in ("blue", "red") for n in range(6)]  # fmt: skip
    make_images(tmp_path / "new", {"train/blue": 20}, size=32, seed=3)
    for path in (tmp_path / "new/train/blue").iterdir():
        path.rename(root / "train/blue" / f"new {path.name}")
    splits = split_of(prepared(ImageFolder(root=root), tmp_path, write_table(tmp_path / "splits.csv", rows)))
    assert {path: splits[path] for path, _, _ in rows} == {path: split for path, _, split in rows}
    assert {split for path, split in splits.items() if "new" in path} == {"train", "val"}
    rows[0] = (*rows[0][:2], "test")
    with pytest.raises(
        UserError, match=r"line 2: train/blue/000\.png is in test there, but the source puts it into train"
    ):
        prepared(ImageFolder(root=root), tmp_path, write_table(tmp_path / "splits.csv", rows))


@pytest.mark.parametrize(("content", "message"), [
    (None, "no such file"),
    (b"", "columns path, label and split are missing"),
    (b"path,label\nblue/000.png,blue\n", "column split is missing"),
    (b"path,label,split\nblue/000.png,blue,training\n", "line 2: split is 'training'; allowed are train, val, test"),
    (b"path,label,split\n" + 2 * b"blue/000.png,blue,val\n", "line 3: blue/000.png is listed twice"),
    (b"path,label,split\n../../etc/passwd,blue,val\n", "lists none of the 40 images"),
    (b"path,label,split\nblue/000.png,blue\n", "values are missing"),
    (b"\x00\xff\xfe" * 100, "are missing"),
])  # fmt: skip
def test_a_table_that_is_none_is_refused_by_name(root, tmp_path, content, message):
    table = tmp_path / "splits.csv"
    if content is not None:
        table.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        prepared(ImageFolder(root=root), tmp_path, str(table))
    assert str(error.value).startswith(f"datamodule.splits={table}: ") and "\n" not in str(error.value)


def test_a_table_of_splits_of_ones_own_is_shown_the_way(root, tmp_path):
    table = tmp_path / "mine.csv"
    table.write_text("path;label;split\nred/000.png;red;train\n")
    with pytest.raises(UserError, match=r"a column split: datamodule\.table=FILE with path,label,split$"):
        prepared(ImageFolder(root=root), tmp_path, str(table))


def test_the_jobs_of_a_sweep_read_the_table_once(root, tmp_path, table, monkeypatch):
    read, memory, splits = [], Memory(), []
    monkeypatch.setattr(image_datamodule, "read_splits", lambda place: read.append(place) or read_splits(place))
    for seed in (1, 2, 3):
        data = data_module(root, tmp_path / "cache", f"datamodule.splits={table}", f"seed={seed}")
        data.memory = memory
        data.setup()
        splits.append(split_of(data.catalog))
    assert read == [table] and splits[0] == splits[1] == splits[2]
    assert splits[0]["red/004.png"] == "val" and splits[0]["blue/005.png"] == "test"
    later = data_module(
        root, tmp_path / "cache", f"datamodule.splits={table}", "datamodule.folds=2", "datamodule.fold=0"
    )
    later.memory = memory
    later.setup()  # other rules
    assert read == [table, table]
