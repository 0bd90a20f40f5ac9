import errno
import io
import json
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from datamodules.sources.huggingface import HuggingFace
from datamodules.sources.source import read_source

datasets = pytest.importorskip("datasets", reason="needs the extra hf")
LABELS = [0, 1, 0, 1, 1, 0]


def png(value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")


def typed(labels=LABELS, label="label"):
    columns = {"image": datasets.Image(), label: datasets.ClassLabel(names=["cat", "dog"])}
    rows = {"image": [png(40 * index) for index in range(len(labels))], label: labels}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(columns))


def opened(tmp_path, path, **arguments):
    source = HuggingFace(path=str(path), **arguments)
    source.cache = tmp_path / "cache"
    return read_source(source)


def check(catalog, labels, values):
    assert [catalog.classes[label] for label in catalog.labels] == labels
    assert [np.asarray(Image.open(file))[0, 0, 0] for file in catalog.files] == values


def test_a_parquet_file_with_two_plain_columns(tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = {
        "image": [png(40 * index) for index in range(4)],
        "label": ["cat", "dog", "dog", "cat"],
        "size": [1, 2, 3, 4],
    }
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "pets.parquet")
    catalog = opened(tmp_path, tmp_path / "pets.parquet")
    check(catalog, ["cat", "dog", "dog", "cat"], [0, 40, 80, 120])
    assert catalog.name == "pets" and set(catalog.splits) == {""}  # one split: this project splits


def test_parquet_files_of_a_pattern_have_the_name_of_their_folder(tmp_path):
    (tmp_path / "pets").mkdir()
    for part in range(2):
        typed().to_parquet(tmp_path / f"pets/part-{part}.parquet")
    catalog = opened(tmp_path, tmp_path / "pets/part-*.parquet")
    assert catalog.name == "pets" and len(catalog) == 2 * len(LABELS)
    assert [table.parent.name.rpartition("-")[0] for table in (tmp_path / "cache").glob("*/images.csv")] == ["pets"]


@pytest.mark.parametrize("setting", [{"subset": "en"}, {"revision": "v1"}])
def test_what_only_a_data_set_of_the_hub_has_is_refused_of_local_files(setting, tmp_path):
    typed().to_parquet(tmp_path / "pets.parquet")
    typed().save_to_disk(tmp_path / "saved")
    ((name, value),) = setting.items()
    for place in (tmp_path / "pets.parquet", tmp_path / "pets*.parquet", tmp_path / "saved"):
        with pytest.raises(UserError, match=rf"^datamodule\.source\.{name}={value}: has no effect on .*; remove it$"):
            opened(tmp_path, place, **setting)


def test_an_image_keeps_its_path_where_others_are_added_before_it(tmp_path):
    """By the pixels: `datamodule.splits` knows images by their paths, which were numbers."""

    def value_of_path(name, order):
        labels, values = [0, 1, 0, 1, 1, 0, 1, 1], [10, 20, 30, 40, 50, 60, 10, 10]  # of which three are one image
        columns = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
        rows = {"image": [png(values[index]) for index in order], "label": [labels[index] for index in order]}
        datasets.Dataset.from_dict(rows, features=columns).save_to_disk(tmp_path / name)
        catalog = opened(tmp_path, tmp_path / name)
        check(catalog, [("cat", "dog")[labels[index]] for index in order], [values[index] for index in order])
        return dict(zip(catalog.paths, [values[index] for index in order], strict=True))

    before, after = value_of_path("before", [0, 1, 2, 6]), value_of_path("after", [5, 4, 7, 0, 6, 3, 2, 1])
    assert len(before) == 4 and len(after) == 8
    assert before.items() <= after.items()


def test_columns_that_would_count_in_a_table_are_named(tmp_path, caplog):
    """Images of one patient would be in train and in test without a word."""
    data = typed().add_column("Split", ["train", "test"] * 3).add_column("group", list("aabbcc"))
    data.save_to_disk(tmp_path / "one")
    assert set(opened(tmp_path, tmp_path / "one").splits) == {""}
    assert "columns are ignored; only a table (datamodule.table) can use them: Split and group" in caplog.text
    caplog.clear()
    datasets.DatasetDict({"train": data.remove_columns("group"), "test": typed()}).save_to_disk(tmp_path / "two")
    opened(tmp_path, tmp_path / "two")
    assert "ignored" not in caplog.text  # its splits are used


def test_splits_names_and_missing_labels_of_a_saved_data_set(tmp_path, caplog):
    splits = {"train": typed(), "validation": typed([1, 0]), "test": typed([1, -1, 0]), "extra": typed([0])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "pets")
    catalog = opened(tmp_path, tmp_path / "pets")
    assert catalog.splits.tolist() == ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    check(catalog, [("cat", "dog")[i] for i in [*LABELS, 1, 0, 1, 0]], [0, 40, 80, 120, 160, 200, 0, 40, 0, 80])
    found = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert (
        "excluded 1 row of test without an image or a label" in caplog.text and "split extra is skipped" in caplog.text
    )
    caplog.clear()
    opened(tmp_path, tmp_path / "pets")  # whose images are there already: another run has its own record
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == found


def test_a_label_that_is_not_a_number_is_a_missing_one(tmp_path, caplog):
    """As None is: pandas makes NaN of None in a column of numbers."""
    rows = {"image": [png(40 * index) for index in range(5)], "label": [0.0, 1.0, float("nan"), None, 1.0]}
    datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).save_to_disk(tmp_path / "pets")
    check(opened(tmp_path, tmp_path / "pets"), ["0.0", "1.0", "1.0"], [0, 40, 160])
    assert "excluded 2 rows of train without an image or a label" in caplog.text


def test_the_text_nan_is_a_missing_label_unless_it_names_a_class(tmp_path, caplog):
    rows = {"image": [png(40 * index) for index in range(5)], "label": ["cat", "nan", "dog", "<NA>", "None"]}
    datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).save_to_disk(tmp_path / "pets")
    check(opened(tmp_path, tmp_path / "pets"), ["cat", "dog", "None"], [0, 80, 160])
    assert "excluded 2 rows of train without an image or a label" in caplog.text
    rows["label"] = [0, 1, 1, 0, 1]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "nan"])})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "foods")
    assert opened(tmp_path, tmp_path / "foods").classes == ["cat", "nan"]


def test_columns_that_are_not_clear_are_asked_for(tmp_path):
    two = typed().add_column("second", [1] * 6).rename_column("label", "kind").cast_column(
        "second", datasets.ClassLabel(names=["cat", "dog"]))  # fmt: skip
    two.save_to_disk(tmp_path / "two")
    with pytest.raises(UserError, match=r"source.label has no value, .*: image, kind, second; give it one"):
        opened(tmp_path, tmp_path / "two")
    check(
        opened(tmp_path, tmp_path / "two", label="kind"),
        [("cat", "dog")[i] for i in LABELS],
        [0, 40, 80, 120, 160, 200],
    )
    with pytest.raises(UserError, match=r"source.image=photo: no such column; found image, kind, second"):
        opened(tmp_path, tmp_path / "two", image="photo")


@pytest.mark.parametrize(("column", "words"), [
    ({"label": "labels"}, r"source.label=labels: holds List\(Value\('int64'\)\); a label is one text or number for each image"),
    ({"label": "image"}, r"source.label=image: holds Image\(.*; a label is one"),
    ({"image": "images"}, r"source.image=images: holds (List|Sequence)\(.*Image\(.*, which is not one image per row \(.*\)"),
    ({"image": "size"}, r"source.image=size: holds Value\('int64'\), which is not one image per row \(.*int64"),
])  # fmt: skip
def test_a_column_of_something_else_is_named(tmp_path, column, words):
    """Several labels an image, several images a row, numbers."""
    data = typed().add_column("labels", [[label] for label in LABELS]).add_column("size", LABELS)
    images = datasets.Dataset.from_dict(
        {"images": [[png(40 * index)] for index in range(len(LABELS))]},
        features=datasets.Features({"images": datasets.Sequence(datasets.Image())}),
    )
    datasets.concatenate_datasets([data, images], axis=1).save_to_disk(tmp_path / "pets")
    with pytest.raises(UserError, match=words):
        opened(tmp_path, tmp_path / "pets", **{"image": "image", "label": "label"} | column)


def test_a_file_outside_of_the_data_set_is_not_read(tmp_path):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "data").mkdir()
    for path in (tmp_path / "secret", "/dev/zero", tmp_path / "data"):
        table = pyarrow.table({"image": [png(0), {"bytes": None, "path": str(path)}], "label": ["cat", "dog"]})
        pyarrow.parquet.write_table(table, tmp_path / "data" / "train.parquet")
        with pytest.raises(UserError, match=f"refers to the file {path}, which is not part of the data set"):
            opened(tmp_path, tmp_path / "data")
    assert not list((tmp_path / "cache").iterdir())


def test_what_is_no_data_set_is_named(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"datamodule.source.path=.*x.parquet: cannot be loaded"):
        opened(tmp_path, tmp_path / "x.parquet")


@pytest.mark.parametrize(("subset", "words"), [(None, "Config name is missing"), ("c", "BuilderConfig 'c' not found")])
def test_a_missing_subset_is_named_with_those_there_are(tmp_path, subset, words):
    for name in ("a", "b"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        typed().to_parquet(tmp_path / "pets" / name / "train.parquet")
    configs = [{"config_name": name, "data_files": f"{name}/*.parquet"} for name in ("a", "b")]
    (tmp_path / "pets" / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    with pytest.raises(
        UserError, match=rf"{words}.*'a', 'b'.*; give it one of its subsets: datamodule.source.subset=NAME$"
    ):
        opened(tmp_path, tmp_path / "pets", subset=subset)


@pytest.mark.parametrize(("error", "words"), [
    (ConnectionError("Couldn't reach 'org/pets' on the Hub (ConnectTimeout)"), "ConnectTimeout.*; check the network, or use"),
    (datasets.exceptions.DatasetNotFoundError("'org/pets' is a gated dataset."), "gated .*log in with: hf auth login$"),
])  # fmt: skip
def test_an_error_of_the_hub_has_its_next_step(tmp_path, monkeypatch, error, words):
    monkeypatch.setattr(datasets, "load_dataset", mock.Mock(side_effect=error))
    with pytest.raises(UserError, match=rf"datamodule.source.path=org/pets: cannot be loaded .*{words}"):
        opened(tmp_path, "org/pets")


def test_a_full_disk_is_not_an_error_of_the_data_set(tmp_path, monkeypatch):
    full = datasets.exceptions.DatasetGenerationError("An error occurred while generating the dataset")
    full.__cause__ = OSError(errno.ENOSPC, "No space left on device", "file.arrow")
    for error in (full, OSError("Not enough disk space. Needed: 2.00 GiB (download: 1.00 GiB)")):
        monkeypatch.setattr(datasets, "load_dataset", mock.Mock(side_effect=error))
        with pytest.raises(OSError, match="space") as found:
            opened(tmp_path, "org/pets")
        assert found.value.errno == errno.ENOSPC
    typed().save_to_disk(tmp_path / "pets")
    monkeypatch.setattr(datasets.Dataset, "select_columns", mock.Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        opened(tmp_path, tmp_path / "pets")
