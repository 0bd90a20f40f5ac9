import numpy as np

from common.run_folder import RunFolder
from datamodules.sources.csv_table import CsvTable
from datamodules.sources.source import read_source
from inference.explain.ranking import LabelReview, LeastCertain, certainty
from inference.image_inputs import ImageInput
from inference.predictor import Prediction
from tests.support.helpers import read_csv


def predicted(index, shares, label="") -> tuple[ImageInput, Prediction]:
    named = dict(zip("abc", shares, strict=True))
    prediction = Prediction(str(index), "", max(named, key=named.get), named)
    return ImageInput(str(index), None, label), prediction


def test_wrong_ones_first_then_the_least_confident():
    predictions = [
        predicted(0, (0.9, 0.05, 0.05), "a"),  # sure and right
        predicted(1, (0.9, 0.04, 0.06), "b"),  # sure and wrong
        predicted(2, (0.4, 0.35, 0.25), "b"),  # unsure and wrong
        predicted(3, (0.4, 0.3, 0.3), "a"),  # unsure and right
        predicted(4, (0.3, 0.3, 0.4), ""),  # not labeled
        predicted(5, (0.5, 0.3, 0.2), "wasp"),  # labeled with what the network does not know
    ]
    assert [certainty(*each) for each in predictions] == [
        (True, 0.9), (False, 0.04), (False, 0.35), (True, 0.4), (True, 0.4), (True, 0.5),
    ]  # fmt: skip
    for most in (6, 4, 1):
        kept = LeastCertain(most)
        for each in predictions:
            kept.add(*each)
        kept.add(ImageInput("gone", None), Prediction("gone", error="no image"))
        assert [image_input.path for image_input, _ in kept.sorted()] == ["1", "2", "3", "4", "5", "0"][
            :most
        ] and kept.n == 6


def test_it_keeps_what_sorting_all_would_keep():
    generator = np.random.default_rng(0)
    predictions = [
        predicted(i, generator.dirichlet((1, 1, 1)).round(1), generator.choice(["a", "b", "c", ""])) for i in range(300)
    ]
    kept = LeastCertain(17)
    for each in predictions:
        kept.add(*each)
    wanted = sorted(predictions, key=lambda each: certainty(*each))[:17]  # stable: of equals the first
    assert [p.path for p, _ in kept.sorted()] == [p.path for p, _ in wanted]


def test_all_rows_stay_with_groups_and_weights_and_the_least_certain_come_first(tmp_path):
    names = ["a,b.png", "ü.png", "c.png", "d.png", "e.png"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "splits.csv").write_text(
        'path,label,split,group,weight\n"a,b.png",x,test,g1,1.0\nü.png,y,train,g2,2.0\nc.png,y,test,,1.0\nd.png,x,test,,1.0\n'
        "e.png,x,,,1.0\n",
        encoding="utf-8",
    )
    labels = LabelReview(RunFolder(tmp_path))
    for path, label, p in (("a,b.png", "x", 0.7), ("c.png", "y", 0.9), ("d.png", "x", 0.25)):
        shares = {"x": p, "y": 1 - p}
        labels.add(ImageInput(path, tmp_path / path, label), Prediction(path, "", max(shares, key=shares.get), shares))
    labels.add(ImageInput("ü.png", tmp_path / "ü.png", "y"), Prediction("ü.png", error="cut off"))
    assert labels.write(tmp_path / "check.csv")  # with images of train
    rows = read_csv(tmp_path / "check.csv")
    assert [row["path"] for row in rows] == ["c.png", "d.png", "a,b.png", "ü.png", "e.png"]
    assert rows[0] == {"path": "c.png", "label": "y", "split": "test", "group": "", "weight": "1.0", "predicted": "x",
                       "confidence": "0.900000"}  # fmt: skip
    assert rows[3] == {"path": "ü.png", "label": "y", "split": "train", "group": "g2", "weight": "2.0", "predicted": "",
                       "confidence": ""}  # fmt: skip
    catalog = read_source(CsvTable(table=tmp_path / "check.csv", root=tmp_path))
    assert list(catalog.paths) == [row["path"] for row in rows] and catalog.weights.tolist() == [1, 1, 1, 2, 1]
    assert catalog.splits.tolist() == ["test", "test", "test", "train", ""] and catalog.groups[3] == "g2"
    assert catalog.subsets == {}  # the columns of the review name none


def test_a_run_on_reviewed_labels_can_be_reviewed(tmp_path):
    """Its table had the two columns twice, and training refused it; `reports.subsets` had a subset for each confidence."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    earlier = "path,label,split,group,camera,predicted,confidence\na.png,x,test,,new,y,0.900000\nb.png,y,train,,old,,\n"
    for name, text in (("splits.csv", earlier), ("own.csv", "path,label,confidence\na.png,x,low\nb.png,y,high\n")):
        (tmp_path / name).write_text(text)
    review = LabelReview(RunFolder(tmp_path))
    review.add(ImageInput("a.png", tmp_path / "a.png", "x"), Prediction("a.png", "", "x", {"x": 0.7, "y": 0.3}))
    review.write(tmp_path / "check.csv")
    assert (tmp_path / "check.csv").read_text() == earlier.replace("y,0.900000", "x,0.700000")
    for name, subsets in (("check.csv", {"camera": ["new", "old"]}), ("own.csv", {"confidence": ["low", "high"]})):
        assert read_source(CsvTable(table=tmp_path / name, root=tmp_path)).subsets == subsets


def test_a_column_of_the_user_s_own_is_kept(tmp_path, caplog):
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    table = "path,label,split,predicted\na.png,x,test,old\nb.png,y,train,new\n"
    (tmp_path / "splits.csv").write_text(table)
    review = LabelReview(RunFolder(tmp_path))
    review.add(ImageInput("a.png", tmp_path / "a.png", "x"), Prediction("a.png", "", "y", {"x": 0.4, "y": 0.6}))
    review.write(tmp_path / "check.csv")
    assert (tmp_path / "check.csv").read_text() == table and "your own column predicted is kept" in caplog.text
    (tmp_path / "splits.csv").write_text(table.replace("train", "val"))
    assert review.write(tmp_path / "val.csv") is False
    catalog = read_source(CsvTable(table=tmp_path / "check.csv", root=tmp_path))
    assert list(catalog.subsets) == ["predicted"]  # as in the run that is reviewed
