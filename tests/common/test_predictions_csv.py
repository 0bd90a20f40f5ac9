"""Tables of predictions: CSV, of many classes parquet, read back the same."""

import importlib.util
import random

import numpy as np
import pytest

from common import predictions_csv
from common.errors import UserError
from common.own_test_images import OwnTestImages
from common.predictions_csv import (
    Predictions,
    predictions_file,
    read_predicted_images,
    read_predictions,
    write_predictions,
)
from common.run_folder import RunFolder

K = predictions_csv.MOST_IN_CSV + 1


def predictions(folder, n=40, paths=None):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(K), n)
    prints = [f"{k:016x}" for k in random.Random(0).sample(range(1000), n)]
    classes = [f"klasse {k} ä" for k in range(K)]
    return Predictions(prints, np.arange(n) % K, probabilities.argmax(axis=1), classes, probabilities,
                       paths or [f"{k}.png" for k in range(n)], folder)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def test_many_classes_are_a_parquet_file_which_is_read_as_the_csv_is(folder, monkeypatch):
    made = predictions(folder)
    write_predictions(folder, "test", made)
    assert [path.name for path in folder.path.iterdir()] == ["predictions.parquet"] and predictions_file(folder, "test")
    images, table = read_predicted_images(folder, "test"), read_predictions(folder, "test")
    assert table.probabilities.dtype == np.float64 and table.classes == made.classes
    monkeypatch.setattr(predictions_csv, "MOST_IN_CSV", K)
    write_predictions(folder, "test", made)
    assert [path.name for path in folder.path.iterdir()] == ["predictions.csv"]
    of_csv = read_predictions(folder, "test")
    assert read_predicted_images(folder, "test") == images and [row["path"] for row in images] == made.paths
    assert (of_csv.fingerprints, of_csv.paths, of_csv.classes) == (table.fingerprints, table.paths, table.classes)
    assert (of_csv.labels == table.labels).all() and (of_csv.predicted == table.predicted).all()
    assert np.allclose(of_csv.probabilities, table.probabilities, atol=1e-6)


def test_without_pyarrow_and_with_names_that_are_no_utf8_it_is_a_csv(folder, monkeypatch, caplog):
    write_predictions(folder, "val", predictions(folder, 1, ["\udce9.png"]))
    assert "not UTF-8" in caplog.text and read_predictions(folder, "val").paths == ["\udce9.png"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    write_predictions(folder, "test", predictions(folder))
    assert 'pip install -e ".[parquet]"' in caplog.text and folder.predictions("test").is_file()


@pytest.mark.parametrize("damage", ["cut", "no parquet", "types", "columns", "label", "probability", "nothing"])
def test_a_damaged_parquet_file_is_named(folder, damage):
    import pyarrow as pa
    from pyarrow import parquet

    write_predictions(folder, "test", predictions(folder))
    path = folder.predictions_parquet("test")
    table, content = parquet.read_table(path), path.read_bytes()
    first = table.column_names.index("label")
    if damage == "cut":
        path.write_bytes(content[:-100])
    elif damage == "no parquet":
        path.write_bytes(b"PAR1" * 10)
    elif damage == "nothing":
        parquet.write_table(table[:0], path)
    elif damage == "columns":
        parquet.write_table(table.drop_columns(["fingerprint"]), path)
    else:
        place, name, values = {
            "types": (4, table.column_names[4], pa.array(["x"] * 40)),
            "label": (first, "label", pa.array(["other"] * 40)),
            "probability": (4, table.column_names[4], pa.array(np.full(40, np.nan, np.float32))),
        }[damage]
        parquet.write_table(table.set_column(place, name, values), path)
    with pytest.raises(UserError, match=f"^{path}: "):
        read_predictions(folder, "test")


@pytest.mark.parametrize("is_too_large", [False, True])
def test_a_small_file_with_values_that_fill_the_memory_is_refused(folder, monkeypatch, is_too_large):
    """Of 2,000 equal rows with 105 values each."""
    made = predictions(folder, 1)
    repeated = (made.fingerprints * 2000, made.labels.repeat(2000), made.predicted.repeat(2000), made.classes)
    write_predictions(
        folder, "test", Predictions(*repeated, made.probabilities.repeat(2000, axis=0), made.paths * 2000, folder)
    )
    assert folder.predictions_parquet("test").stat().st_size < 300_000
    monkeypatch.setattr(predictions_csv, "MOST_VALUES", 209_999 if is_too_large else 210_000)
    if not is_too_large:
        assert len(read_predictions(folder, "test").labels) == 2000
        return
    with pytest.raises(UserError, match="2,000 images with 105 columns are more than a table may have"):
        read_predictions(folder, "test")


def test_the_test_images_of_such_a_run_are_recognized(folder, monkeypatch):
    made = predictions(folder)
    write_predictions(folder, "test", made)
    monkeypatch.setattr("common.own_test_images.RunRecord.read", lambda run: type("Record", (), {"data": None}))
    own = OwnTestImages(folder)
    assert own.unknown == "" and own.fingerprints == set(made.fingerprints)
