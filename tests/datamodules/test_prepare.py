"""Leaks, duplicates, unreadable files and folds of made-up folders."""

import logging

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from datamodules import near_duplicates
from datamodules.decode import resize
from datamodules.near_duplicates import compared_look
from datamodules.prepare import prepare_catalog
from datamodules.sources.csv_table import CsvTable
from datamodules.sources.image_folder import ImageFolder
from datamodules.sources.source import read_source
from engine.config.instantiate import instantiate
from engine.config.validate import validate
from engine.run.stages import build_data
from tests.support.configs import composed
from tests.support.helpers import make_images, open_pixel_cache

SPLIT_COUNTS = {f"{s}/{c}": 6 for s in ("train", "val", "test") for c in ("blue", "red")}


def prepared(catalog, tmp_path, **rules):
    cache = open_pixel_cache(catalog.files, compared_look(None), tmp_path / "caches")
    return catalog, prepare_catalog(catalog, cache, **{"seed": 0} | rules)


def copy(root, source, target, **how):
    Image.open(root / source).convert("RGB").save(root / target, **how)


@pytest.fixture
def root(tmp_path):
    return make_images(tmp_path / "data", SPLIT_COUNTS, size=64)


def kinds(findings):
    return sorted((f.kind, f.leak) for f in findings)


@pytest.mark.parametrize("limit", [1, pytest.param(0, marks=pytest.mark.thorough)])
def test_near_duplicates_and_so_splits_are_those_of_every_image_size_fit_and_interpolation(
    tmp_path, monkeypatch, limit
):
    """Else networks that want another size are compared on other images, and a teacher sees its pupil's test images."""
    generator = np.random.default_rng(0)
    for color in ("blue", "red"):
        (tmp_path / "data" / color).mkdir(parents=True)
        for number in range(30):
            pixels = generator.normal(120, 20, (30, 40, 3)).repeat(4, axis=0).repeat(4, axis=1) + 25 * (color == "red")
            for copy in range(1 + (number < 8)):  # brighter by 3%
                Image.fromarray((pixels * (1 + 0.03 * copy)).clip(0, 255).astype(np.uint8)).save(
                    tmp_path / "data" / color / f"{number}-{copy}.png"
                )
    looks, looked, found = [], near_duplicates.Search.run, {}
    monkeypatch.setattr(near_duplicates.Search, "run", lambda search: looks.append(1) or looked(search))
    for size, fit, interpolation, folds in (
        (16, "squash", "bilinear", None), (64, "squash", "bilinear", None), (64, "squash", "bilinear", 3),
        (100, "crop", "bicubic", None), (100, "crop", "bicubic", 3), (300, "pad", "bilinear", None),
        (256, "squash", "bilinear", None),
    ):  # fmt: skip
        config = composed("datamodule=image_folder", f"model.image_size={size}", "datamodule.batch_size=4")
        config.datamodule.update({
            "root": str(tmp_path / "data"), "cache": str(tmp_path / "cache"), "cache_max_gib": limit, "fit": fit,
            "folds": folds, "fold": folds and 1,
        })  # fmt: skip
        data = instantiate(
            config, "datamodule", augmentation=instantiate(config, "augmentation"), interpolation=interpolation
        )
        data.setup()
        with Image.open(data.catalog.files[0]) as image:
            shown = resize(image, size, fit, interpolation)
        assert np.array_equal(data.pixel_cache[0], np.asarray(shown))
        found.setdefault(folds, []).append((data.catalog.splits.tolist(), [(f.kind, f.groups) for f in data.findings]))
    for folds in (None, 3):
        assert all(each == found[folds][0] for each in found[folds])
    (_, findings) = found[None][0]
    assert sum(len(groups) for kind, groups in findings if kind == "near duplicate") == 16
    assert len(looks) == (1 if limit else 7)  # the answers are kept for all sizes


def test_clean_folders_have_no_findings(root, tmp_path):
    assert prepared(read_source(ImageFolder(root=root)), tmp_path)[1] == []


def test_an_exact_copy_across_splits_is_a_leak_whatever_its_name_and_format(root, tmp_path, caplog):
    copy(root, "train/blue/000.png", "val/blue/other name.bmp")
    catalog, findings = prepared(read_source(ImageFolder(root=root)), tmp_path)
    assert kinds(findings) == [("exact duplicate", True)]
    assert findings[0].caveat == "may be too high: 1 group of exact duplicates across train and val or test"
    assert "train/blue/000.png = val/blue/other name.bmp" in caplog.text and "datamodule.on_leak=drop" in caplog.text
    assert len(catalog.rows("train")) == 12  # a warning changes nothing


def test_a_leak_can_be_an_error(root, tmp_path):
    copy(root, "train/blue/000.png", "test/blue/copy.png")
    with pytest.raises(UserError, match=r"on_leak=error.*\n.*test/blue/copy.png = train/blue/000.png"):
        prepared(read_source(ImageFolder(root=root)), tmp_path, on_leak="error")


def test_a_leak_can_be_repaired_by_dropping_from_train_only(root, tmp_path, caplog):
    copy(root, "train/blue/000.png", "test/blue/copy.png")
    copy(root, "val/red/001.png", "train/red/copy.png")
    catalog, _ = prepared(read_source(ImageFolder(root=root)), tmp_path, on_leak="drop")
    excluded = {catalog.paths[row]: reason for row, reason in catalog.excluded.items()}
    assert excluded == {"train/blue/000.png": "in val or test too", "train/red/copy.png": "in val or test too"}
    assert [len(catalog.rows(split)) for split in ("train", "val", "test")] == [11, 12, 13]
    assert "2 images excluded from train" in caplog.text


def image_with_shapes(seed):
    """Something with structure: near duplicates are found by it."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((160, 160), Image.Resampling.BICUBIC)


def test_imbalance_and_odd_images_are_found(tmp_path, caplog):
    root = make_images(tmp_path / "data", {"blue": 200, "red": 10}, size=64)
    Image.new("RGB", (8, 8), "red").save(root / "red" / "tiny.png")
    Image.new("L", (64, 64), 200).save(root / "blue" / "gray.png")
    _, findings = prepared(read_source(ImageFolder(root=root)), tmp_path, against_imbalance="loss=weighted")
    assert [f.kind for f in findings] == ["imbalance", "odd"]
    assert [each.message for each in caplog.records if "imbalance" in each.message] == [
        "imbalance: 201 of class blue against 11 of class red; see loss=weighted"
    ]  # fmt: skip
    assert "tiny.png (8 x 8, RGB)" in findings[1].text and "gray.png (64 x 64, L)" in findings[1].text


def test_unreadable_files_are_an_error_that_lists_all_or_are_skipped(root, tmp_path):
    (root / "train/blue/empty.png").write_bytes(b"")
    (root / "val/red/text.jpg").write_text("no image")
    cut = (root / "test/red/000.png").read_bytes()[:-900]
    (root / "test/red/cut.png").write_bytes(cut)
    with pytest.raises(UserError, match="3 of 39 files cannot be read") as error:
        prepared(read_source(ImageFolder(root=root)), tmp_path)
    assert all(name in str(error.value) for name in ("empty.png", "text.jpg", "cut.png", "on_unreadable=skip"))
    catalog, _ = prepared(read_source(ImageFolder(root=root)), tmp_path, on_unreadable="skip")
    assert sorted(catalog.paths[row] for row in catalog.excluded) == [
        "test/red/cut.png", "train/blue/empty.png", "val/red/text.jpg",
    ]  # fmt: skip
    assert [len(catalog.rows(split)) for split in ("train", "val", "test")] == [12, 12, 12]


def test_copies_stay_together_in_a_split(tmp_path):
    root = make_images(tmp_path / "data", {"blue": 30, "red": 30}, size=32)
    for index in range(10):
        copy(root, f"blue/{index:03}.png", f"blue/copy{index}.png")
    catalog, findings = prepared(read_source(ImageFolder(root=root)), tmp_path)
    assert not any(f.leak for f in findings)
    split_of = dict(zip(catalog.paths, catalog.splits, strict=True))
    assert all(split_of[f"blue/copy{index}.png"] == split_of[f"blue/{index:03}.png"] for index in range(10))


def test_a_split_that_is_drawn_keeps_near_duplicates_together(tmp_path, caplog):
    """Each of 20 images is there three times, of which one is compressed and one smaller."""
    root = make_images(tmp_path / "data", {"blue": 20, "red": 20}, size=64)
    for index in range(20):
        image, folder = image_with_shapes(index), root / ("blue", "red")[index % 2]
        image.save(folder / f"{index} a.png")
        image.save(folder / f"{index} b.jpg", quality=50)
        image.resize((90, 90), Image.Resampling.LANCZOS).save(folder / f"{index} c.png")
    for rules in ({}, {"folds": 4, "fold": 0}, {"select_on": "test"}):
        catalog, findings = prepared(read_source(ImageFolder(root=root)), tmp_path, **rules)
        assert kinds(findings) == [("near duplicate", False)] and len(findings[0].groups) == 20
        split_of = {}
        for path, split in zip(catalog.paths, catalog.splits, strict=True):
            if " " in path:
                split_of.setdefault(path.split(" ")[0], set()).add(split)
        assert all(len(splits) == 1 for splits in split_of.values())
    assert "leak" not in caplog.text


def frames_of_one_camera():
    """One scene, and in each frame something small in another place."""
    scene, generator = np.asarray(image_with_shapes(0).convert("L")).copy(), np.random.default_rng(0)
    for _ in range(60):
        frame, (x, y) = scene.astype(float), generator.integers(0, 150, 2)
        frame[y : y + 10, x : x + 10] = generator.integers(0, 256)
        yield Image.fromarray((frame + generator.normal(0, 2, frame.shape)).clip(0, 255).astype(np.uint8))


def test_images_of_a_fixed_camera_are_no_group_and_it_says_what_to_do(tmp_path, caplog):
    root = tmp_path / "data"
    for name in ("blue", "red"):
        (root / name).mkdir(parents=True)
    for index, frame in enumerate(frames_of_one_camera()):
        frame.save(root / ("blue", "red")[index % 2] / f"{index:03}.png")
    catalog, findings = prepared(read_source(ImageFolder(root=root)), tmp_path)
    assert all(len(catalog.rows(split)) >= 4 for split in ("train", "val", "test"))
    torn, leak, *_ = findings
    assert "60 images in 1 group" in torn.text and "too high for new scenes; to keep" in torn.text and not torn.leak
    assert leak.leak and leak.kind == "near duplicate"  # it is still there
    assert [finding.caveat for finding in findings if finding.caveat] == [
        "may be too high for new scenes, and intervals too narrow: 1 group of near duplicates divided between the splits"
    ]
    assert torn.text in caplog.text


@pytest.mark.parametrize("count", [3, 5, 10])
def test_small_classes_of_near_duplicates_still_have_images_in_every_split(tmp_path, count):
    root = tmp_path / "data"
    for name, seed in (("blue", 1), ("red", 2)):
        (root / name).mkdir(parents=True)
        for index in range(count):
            image_with_shapes(seed).save(root / name / f"{index}.jpg", quality=40 + 5 * index)
    catalog, _ = prepared(read_source(ImageFolder(root=root)), tmp_path)
    for split in ("train", "val", "test"):
        assert set(catalog.labels[catalog.rows(split)]) == {0, 1}


def splits_by_path(catalog):
    return dict(zip(catalog.paths, catalog.splits, strict=True))


def test_added_images_move_none_of_the_others(tmp_path):
    """Under other names and in another order as well."""
    root = make_images(tmp_path / "data", {"blue": 40, "red": 40}, size=32)
    before = splits_by_path(prepared(read_source(ImageFolder(root=root)), tmp_path)[0])
    make_images(tmp_path / "more", {"blue": 30, "red": 50}, size=32, seed=1)
    for path in (tmp_path / "more").glob("*/*"):
        path.rename(root / path.parent.name / f"000 first {path.name}")
    (root / "blue/000.png").rename(root / "blue/zzz.png")
    before["blue/zzz.png"] = before.pop("blue/000.png")
    after = splits_by_path(prepared(read_source(ImageFolder(root=root)), tmp_path)[0])
    assert len(after) == 160 and {path: after[path] for path in before} == before


def test_val_is_split_off_train_and_missing_test_is_logged(tmp_path, caplog):
    root = make_images(tmp_path / "data", {"train/blue": 10, "train/red": 20}, size=32)
    with caplog.at_level(logging.INFO):
        catalog, _ = prepared(read_source(ImageFolder(root=root)), tmp_path)
    counts = {s: np.bincount(catalog.labels[catalog.rows(s)], minlength=2) for s in ("train", "val", "test")}
    assert (counts["train"] + counts["val"]).tolist() == [10, 20] and counts["test"].sum() == 0
    assert counts["val"].min() >= 1 and 2 <= counts["val"].sum() <= 12
    assert "no test folder" in caplog.text


def test_too_few_images_for_three_splits_are_named(tmp_path, caplog):
    root, refused = make_images(tmp_path / "data", {"blue": 2, "red": 2}, size=32), 0
    for seed in range(20):
        caplog.clear()
        try:
            catalog, _ = prepared(read_source(ImageFolder(root=root)), tmp_path, seed=seed)
        except UserError as error:
            assert "drawn splits need three images, or groups of images, of each class" in str(error)
            refused += 1
        else:
            assert not len(catalog.rows("test")) and "no test images, since no class has three" in caplog.text
    assert 0 < refused < 20
    catalog, _ = prepared(read_source(ImageFolder(root=make_images(root, {"blue": 3, "red": 3}))), tmp_path)
    assert len(catalog.rows("test")) == 2


def test_more_folds_than_images_of_a_class_are_named(tmp_path):
    """Four of blue are enough for the splits and for three folds, but at least one is in test."""
    root = make_images(tmp_path / "data", {"blue": 4, "red": 30}, size=32)
    with pytest.raises(
        UserError, match=r"val split has no image of class blue.*datamodule\.folds=4: needs that many images"
    ):
        for fold in range(4):
            prepared(read_source(ImageFolder(root=root)), tmp_path, folds=4, fold=fold)


def test_folds_partition_train_and_val_but_not_test(root, tmp_path):
    seen = []
    for fold in range(3):
        catalog, _ = prepared(read_source(ImageFolder(root=root)), tmp_path, folds=3, fold=fold)
        assert len(catalog.rows("test")) == 12 and len(catalog.rows("train")) == 16
        seen += catalog.rows("val").tolist()
    assert sorted(seen) == sorted(set(seen)) and len(seen) == 24


def test_no_val_is_split_off_train_where_folds_make_it(tmp_path, caplog):
    root = make_images(tmp_path / "data", {"train/blue": 9, "train/red": 9, "test/blue": 4, "test/red": 4})
    caplog.set_level("INFO")
    catalog, _ = prepared(read_source(ImageFolder(root=root)), tmp_path, folds=3, fold=0)
    assert len(catalog.rows("val")) == 6 and catalog.splits_from == "given by the source"
    assert "fold 0 of 0 to 2 is validation" in caplog.text and "becomes val" not in caplog.text


def test_more_folds_than_images(root, tmp_path):
    with pytest.raises(UserError, match=r"datamodule\.folds=25: use 2 or more, up to the 24 images, or null"):
        prepared(read_source(ImageFolder(root=root)), tmp_path, folds=25, fold=0)


def test_a_table_with_groups_keeps_them_together(tmp_path):
    root = make_images(tmp_path / "data", {"all": 60}, size=32)
    lines = ["path,label,group"] + [f"all/{i:03}.png,{'ab'[i % 2]},patient {i // 5}" for i in range(60)]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    catalog, _ = prepared(read_source(CsvTable(table=tmp_path / "table.csv", root=root)), tmp_path)
    for patient in range(12):
        assert len(set(catalog.splits[patient * 5 : patient * 5 + 5])) == 1
    assert all(len(catalog.rows(split)) >= 5 for split in ("train", "val", "test"))


def test_a_group_across_given_splits_is_a_leak_that_can_be_dropped(root, tmp_path, caplog):
    lines = ["path,label,split,group"]
    for split in ("train", "val", "test"):
        lines += [f"{split}/{c}/{i:03}.png,{c},{split},{split} {i}" for c in ("blue", "red") for i in range(6)]
    for line in (2, 20, 30):  # one image of each split
        lines[line] = lines[line].rsplit(",", 1)[0] + ",patient 7"
    (tmp_path / "table.csv").write_text("\n".join(lines))

    def table():
        return read_source(CsvTable(table=tmp_path / "table.csv", root=root))

    catalog, findings = prepared(table(), tmp_path)
    assert kinds(findings) == [("group", True)] and len(catalog.rows("train")) == 12
    assert findings[0].caveat == "may be too high: 1 named group across train and val or test"
    assert "group: 1 named group across train and val or test: patient 7; see datamodule.on_leak" in caplog.text
    with pytest.raises(UserError, match=r"on_leak=error.*\n.*patient 7"):
        prepared(table(), tmp_path, on_leak="error")
    catalog, findings = prepared(table(), tmp_path, on_leak="drop")
    assert kinds(findings) == [("group", True)] and findings[0].caveat == ""
    assert [catalog.paths[row] for row in catalog.excluded] == ["train/blue/001.png"]


def test_without_a_training_image_the_split_is_named(tmp_path):
    root = make_images(tmp_path / "data", {"blue": 3, "red": 3})
    lines = [f"{c}/{i:03}.png,{c},test" for c in ("blue", "red") for i in range(3)]
    (tmp_path / "table.csv").write_text("\n".join(["path,label,split", *lines]))
    with pytest.raises(UserError, match="the train split has no image of class blue, red"):
        prepared(read_source(CsvTable(table=tmp_path / "table.csv", root=root)), tmp_path)


def test_files_none_of_which_can_be_read_are_refused_also_where_these_are_skipped(root, tmp_path):
    for file in root.glob("*/*/*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(UserError, match="36 of 36 files cannot be read, so no image is left"):
        prepared(read_source(ImageFolder(root=root)), tmp_path, on_unreadable="skip")


def test_select_on_test_has_no_val_split_and_logs_it(root, tmp_path, caplog):
    catalog, _ = prepared(read_source(ImageFolder(root=root)), tmp_path, select_on="test")
    assert [len(catalog.rows(split)) for split in ("train", "val", "test")] == [12, 0, 12]
    assert set(catalog.excluded.values()) == {"datamodule.select_on=test has no val split"}
    assert "the test accuracy is too high; 12 val images are not used" in caplog.text


def test_select_on_test_splits_nothing_off_for_val(tmp_path):
    root = make_images(tmp_path / "given", {f"{s}/{c}": 10 for s in ("train", "test") for c in ("blue", "red")})
    catalog, _ = prepared(read_source(ImageFolder(root=root)), tmp_path, select_on="test")
    assert [len(catalog.rows(split)) for split in ("train", "val", "test")] == [20, 0, 20]
    root = make_images(tmp_path / "open", {"blue": 10, "red": 10})
    catalog, _ = prepared(read_source(ImageFolder(root=root)), tmp_path, select_on="test")
    train, val, test = (len(catalog.rows(split)) for split in ("train", "val", "test"))
    assert (train + test, val) == (20, 0) and 2 <= test <= 9


@pytest.mark.parametrize(("rules", "reason"), [({}, "there is none"), ({"folds": 2, "fold": 0}, "must not use it")])
def test_select_on_test_needs_a_test_split(tmp_path, rules, reason):
    splits = ("train", "val") if not rules else ("train", "val", "test")
    root = make_images(tmp_path / "data", {f"{s}/{c}": 6 for s in splits for c in ("blue", "red")})
    with pytest.raises(UserError, match=f"select_on=test needs a test split, but .*{reason}"):
        prepared(read_source(ImageFolder(root=root)), tmp_path, select_on="test", **rules)


def test_each_seed_draws_a_part_of_train_of_its_own_and_smaller_parts_within_it(tmp_path):
    root = make_images(tmp_path / "data", {"blue": 60, "red": 60}, size=8)
    parts, others = {}, set()
    for seed in (1, 2, 3):
        for fraction in (0.25, 0.5, 1):
            rules = {"train_fraction": fraction, "train_seed": seed, "seed": 5}
            catalog, _ = prepared(read_source(ImageFolder(root=root)), tmp_path, **rules)
            parts[seed, fraction] = set(catalog.rows("train").tolist())
            others.add((tuple(catalog.rows("val")), tuple(catalog.rows("test"))))
        assert parts[seed, 0.25] < parts[seed, 0.5] < parts[seed, 1] == parts[1, 1]
    assert len(others) == 1
    shared = [len(parts[a, 0.5] & parts[b, 0.5]) for a, b in ((1, 2), (1, 3), (2, 3))]
    assert all(abs(n - 18) <= 9 for n in shared), shared  # of 36: half by chance, standard deviation 2.1


def test_train_fraction_is_stratified_and_nested_and_changes_nothing_else(tmp_path):
    root = make_images(tmp_path / "data", {"train/blue": 20, "train/red": 40, "val/blue": 4, "val/red": 4})
    kept = {}
    for fraction in (0.25, 0.5):
        catalog, _ = prepared(read_source(ImageFolder(root=root)), tmp_path, train_fraction=fraction)
        train = catalog.rows("train")
        assert np.bincount(catalog.labels[train]).tolist() == [round(20 * fraction), round(40 * fraction)]
        assert len(catalog.rows("val")) == 8
        kept[fraction] = set(train)
    assert kept[0.25] < kept[0.5]


def test_names_of_classes_are_one_line_of_the_screen(tmp_path, caplog):
    names = ("red\nERROR: no", "blue\x1b[2J")
    root = make_images(tmp_path / "data", {f"{split}/{name}": 4 for split in ("train", "val") for name in names})
    config = composed(f"datamodule.cache={tmp_path / 'cache'}", "datamodule=image_folder", "datamodule.batch_size=4")
    config.datamodule.source.root = str(root)
    with caplog.at_level(logging.INFO):
        build_data(validate(config)).setup()
    (line,) = [each.getMessage() for each in caplog.records if "; classes " in each.getMessage()]
    assert "\n" not in line and "\x1b" not in line
