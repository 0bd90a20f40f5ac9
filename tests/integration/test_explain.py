"""predict.py explain=true: the page, the table of labels to check, and back into training."""

import base64
import io
import json
import shlex
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import predict as script
from common.atomic_io import write_csv
from common.run_folder import RunFolder
from common.run_record import Decision, RunRecord, write_record
from datamodules.sources.csv_table import CsvTable
from datamodules.sources.source import read_source
from tests.support.fake_checkpoints import make_checkpoint, make_odd_images
from tests.support.fake_explained import make_explained_run
from tests.support.helpers import in_chromium, needs_chromium, read_csv
from tests.support.parsed_html import Parsed

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>')


@pytest.fixture
def predict(in_process):
    return lambda *arguments: in_process(script, *arguments, "device=cpu")


@pytest.fixture
def explained(predict, two_colors, tmp_path):
    """Explain the test images of a run whose network was never trained; return the run, what was printed, the folder."""
    run, out = RunFolder(tmp_path / "run"), tmp_path / "out"
    checkpoint = make_explained_run(run.path, two_colors)
    status, printed, err = predict(f"ckpt={checkpoint}", f"images={run.path}", "explain=true", f"out={out}")
    assert (status, err) == (0, ""), err
    return run, printed, out


def page(out, name="predictions.html") -> tuple[str, Parsed]:
    text = (out / name).read_text(encoding="utf-8")
    return text, Parsed(text)


def test_the_least_certain_test_images_of_a_run(explained):
    _, printed, out = explained
    text, parsed = page(out)
    assert not parsed.open and not parsed.wrong and parsed.count("script") == 0
    assert "http:" not in text and "https:" not in text
    assert parsed.count("article") == 14 and "14 images that could be read (test split of the run)" in text
    own = read_csv(out / "predictions.csv")
    order = sorted(own, key=lambda r: (r["label"] == r["predicted"], float(r[f"p_{r['label']}"])))
    paths = [data for tag, data in parsed.text if tag == "p" and data.startswith("test/")]
    assert [row["label"] for row in order] == [path.split("/")[1] for path in paths] and len(set(paths)) == 14
    wrong = sum(row["label"] != row["predicted"] for row in own)
    assert parsed.words().count("wrong labeled") == wrong and "is selected on them" in parsed.words()
    assert "the three most similar of 24 training images" in parsed.words()
    images = [attributes["src"] for tag, attributes in parsed.tags if tag == "img"]
    assert len(images) == 14 * (2 + 3) and all(src.startswith("data:image/jpeg;base64,") for src in images)
    shown = [data for tag, data in parsed.text if tag == "td" and data.strip()]
    for row, both in zip(order, zip(shown[::2], shown[1::2], strict=True), strict=True):
        probabilities = sorted((float(row["p_blue"]), float(row["p_red"])), reverse=True)
        assert list(map(float, both)) == pytest.approx(probabilities, abs=6e-4)
    assert f"Explained: {out}/predictions.html" in printed


def test_the_labels_to_check_replace_no_predictions(explained, predict, tmp_path):
    run, *_ = explained
    table = tmp_path / "labels_to_check.csv"
    status, _, err = predict(f"ckpt={run.best_checkpoint}", f"images={run.path}", "explain=true", f"out={table}")
    assert (
        status == 1
        and f"ERROR: out={table}: explain=true writes the labels to check there" in err
        and not table.exists()
    )


def test_corrected_labels_are_a_table_for_training(explained, two_colors):
    run, printed, out = explained
    table = out / "labels_to_check.csv"
    rows, splits = read_csv(table), run.read_splits()
    assert list(rows[0]) == ["path", "label", "split", "group", "predicted", "confidence"]
    kept = [{name: row[name] for name in splits[0]} for row in rows]
    assert sorted(map(str, kept)) == sorted(map(str, splits))  # the run's own table, in another order
    assert {row["split"] for row in rows[:14]} == {"test"} and not any(row["predicted"] for row in rows[14:])
    own = {row["path"]: row for row in read_csv(out / "predictions.csv")}
    for row in rows[:14]:
        mine = own[row["path"]]
        assert row["predicted"] == mine["predicted"]
        assert float(row["confidence"]) == pytest.approx(max(float(mine["p_blue"]), float(mine["p_red"])), abs=1.1e-6)
    corrected = rows[0] | {"label": {"red": "blue", "blue": "red"}[rows[0]["label"]]}
    write_csv(table, list(rows[0]), [corrected, *rows[1:]])
    assert training_command(printed) == ["python", "train.py", "datamodule=image_folder", f"datamodule.table={table}",
                                         f"datamodule.root={two_colors}", "seed=1"]  # fmt: skip
    catalog = read_source(CsvTable(table=table, root=two_colors))
    counts = {split: int((catalog.splits == split).sum()) for split in ("train", "val", "test")}
    assert counts == {"train": 24, "val": 12, "test": 14}
    now = {path: catalog.classes[label] for path, label in zip(catalog.paths, catalog.labels, strict=True)}
    before = {row["path"]: row["label"] for row in splits}
    assert {path for path in now if now[path] != before[path]} == {corrected["path"]}


def training_command(printed: str) -> list[str]:
    line = next(line for line in printed.splitlines() if line.startswith("then train on them: "))
    return shlex.split(line.removeprefix("then train on them: "))


def test_any_images_hostile_names_and_what_is_not_shown(predict, tmp_path):
    checkpoint = make_checkpoint(tmp_path / "somewhere" / "else" / "net.ckpt", classes=HOSTILE, decision=None)
    files = make_odd_images(tmp_path / "images", 9)
    (tmp_path / "images" / "letter.jpg").write_text("Dear reader")
    hostile = tmp_path / "images" / "<b>&'.png"
    shutil.copy(files[1], hostile)
    status, printed, err = predict(f"ckpt={checkpoint}", f"images={tmp_path}/images", "explain=true",
                                   "explain_most=10", f"out={tmp_path}/a.csv")  # fmt: skip
    assert status == 1 and "1 of 11 images could not be read" in err and "Labels to check" not in printed
    text, parsed = page(tmp_path, "a.html")
    assert parsed.count("article") == 10 and not parsed.wrong
    assert parsed.count("script") == 0 and parsed.count("b") == 10
    assert "<img src=x" not in text and HOSTILE[0] in parsed.words() and "<b>&'.png" in parsed.words()
    assert "10 images that could be read; the least certain first" in parsed.words()
    assert "No similar training images: the checkpoint is not in the folder of a run" in parsed.words()
    predict(
        f"ckpt={checkpoint}", f"images={tmp_path}/images", "explain=true", "explain_most=4", f"out={tmp_path}/b.csv"
    )
    parsed = page(tmp_path, "b.html")[1]
    assert parsed.count("article") == 4 and "6 more certain ones not shown" in parsed.words()
    table = read_csv(tmp_path / "b.csv")
    confidence = sorted(max(float(r[f"p_{name}"]) for name in HOSTILE) for r in table if not r["error"])
    shown = [float(data) for tag, data in parsed.text if tag == "td" and data.strip()][::2]
    assert shown == pytest.approx(confidence[:4], abs=6e-4)  # no labels: the least confident first


def test_labels_of_a_table_and_of_unknown_classes(predict, tmp_path):
    checkpoint = make_checkpoint(tmp_path / "net.ckpt")
    files = make_odd_images(tmp_path / "images", 4)
    table = tmp_path / "images" / "t.csv"
    write_csv(table, ["path", "label"], [{"path": f.name, "label": n} for f, n in
                                         zip(files, ("ants", "bees", "wasps", ""), strict=True)])  # fmt: skip
    assert predict(f"ckpt={checkpoint}", f"images={table}", "explain=true", f"out={tmp_path}/a.csv")[0] == 0
    words = page(tmp_path, "a.html")[1].words()
    assert "labeled wasps , which the network does not know; predicted" in words
    assert words.count("correct labeled") + words.count("wrong labeled") == 2
    assert "if labels are known, wrong ones first, by the probability of their label." in words


def test_no_page_without_a_readable_image(predict, tmp_path):
    checkpoint = make_checkpoint(tmp_path / "net.ckpt")
    (tmp_path / "letter.jpg").write_text("Dear reader")
    status, printed, err = predict(f"ckpt={checkpoint}", f"images={tmp_path}/letter.jpg", "explain=true",
                                   f"out={tmp_path}/a.csv")  # fmt: skip
    assert status == 1 and "1 of 1 images could not be read" in err and "Explained" not in printed
    assert (tmp_path / "a.csv").exists() and not (tmp_path / "a.html").exists()


def test_the_positive_class_stays_the_same_where_a_table_would_swap_the_classes(explained, predict):
    run, _, out = explained
    record = RunRecord.read(run)
    record.data.classes = ["red", "blue"]
    record.decision = Decision(temperature=1, target_accuracy=0.95, positive_class="blue")
    write_record(record)
    _, printed, _ = predict(f"ckpt={run.best_checkpoint}", f"images={run.path}", "explain=true", "explain_most=1",
                            f'out="{out} 2"')  # fmt: skip
    command = training_command(printed)
    assert command[3] == f'datamodule.table="{out} 2/labels_to_check.csv"'
    assert command[-1] == "decision.positive_class=blue"


def test_the_command_to_train_on_corrected_labels_trains_as_the_run_did(explained, predict, two_colors):
    run, _, out = explained
    record = RunRecord.read(run)
    data = ["datamodule=csv", "datamodule.table=t.csv", "+datamodule.root=x", "datamodule.folds=2", "datamodule.fold=1",
            "datamodule.splits=s.csv", "datamodule.train_fraction=0.5", "datamodule.source.path=org/name"]  # fmt: skip
    record.run.command = "python train.py --config-dir 'my conf' recipe=fast -m seeds=3"
    record.run.overrides = [
        *data,
        "seeds=3",
        "stages=[fit]",
        "ckpt_path=last.ckpt",
        "recipe=fast",
        "trainer.max_epochs=7",
    ]
    write_record(record)
    run.hydra.mkdir()
    first = [
        "recipe=fast",
        "model=resnet18",
        "+model.dropout=0.1",
        "~callbacks.x",
        "trainer.max_epochs=3",
        "datamodule.fit=crop",
    ]
    run.choices.write_text(f"hydra: {{overrides: {{task: {json.dumps(first)}}}}}", encoding="utf-8")
    arguments = f"ckpt={run.best_checkpoint}", f"images={run.path}", "explain=true", "explain_most=1", f"out={out}"
    assert training_command(predict(*arguments)[1]) == [
        "python", "train.py", "--config-dir=my conf", "datamodule=image_folder", f"datamodule.table={out}/labels_to_check.csv",
        f"datamodule.root={two_colors}", "recipe=fast", "model=resnet18", "+model.dropout=0.1", "~callbacks.x",
        "trainer.max_epochs=7", "datamodule.fit=crop",
    ]  # fmt: skip
    record.run.command = "python train.py 'seed=1"
    write_record(record)
    status, _, err = predict(*arguments)
    assert status == 1 and f"ERROR: {run.record}: run.command is not a command (No closing quotation)" in err


def test_the_image_stays_in_proportion_and_the_heat_is_where_the_network_looked(predict, tmp_path):
    """Explain a network that predicts from what is bright in one corner: it looked at that corner."""
    checkpoint = make_checkpoint(tmp_path / "net.ckpt", image_size=32)
    state = torch.load(checkpoint, weights_only=True)
    for name, tensor in state["state_dict"].items():
        tensor.zero_()
        if name.endswith("0.weight") and tensor.dim() == 4:
            tensor[0, 0, 1, 1] = 1.0  # the red channel passes unchanged
        elif name.endswith("classifier.1.weight"):
            tensor[0, :16] = 1.0  # of the first channel, all positions
        elif name.endswith("classifier.4.weight"):
            tensor[1, 0] = 1.0
    torch.save(state, checkpoint)
    pixels = np.zeros((60, 120, 3), np.uint8)
    pixels[:30, 90:] = 255  # top right
    Image.fromarray(pixels).save(tmp_path / "corner.png")
    images = f"images={tmp_path}/corner.png"
    assert predict(f"ckpt={checkpoint}", images, "explain=true", f"out={tmp_path}/a.csv")[0] == 0
    images = [a["src"] for tag, a in page(tmp_path, "a.html")[1].tags if tag == "img"]
    plain, overlay = (decoded(src) for src in images)
    assert plain.size == overlay.size == (256, 128)
    yellowness = np.asarray(overlay, float)[..., :2].sum(2) - 2 * np.asarray(overlay, float)[..., 2]
    quarters = {(r, c): yellowness[64 * r : 64 * r + 64, 64 * c : 64 * c + 64].mean() for r in (0, 1) for c in range(4)}
    assert max(quarters, key=quarters.get) == (0, 3)


def decoded(src: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(src.partition(",")[2])))


@pytest.mark.thorough
@needs_chromium
def test_the_page_in_chromium(explained):
    _, _, out = explained
    for width, scheme in ((390, "light"), (1200, "dark")):
        with in_chromium(out / "predictions.html", color_scheme=scheme) as (view, requests, messages):
            view.set_viewport_size({"width": width, "height": 900})
            assert view.evaluate("document.documentElement.scrollWidth") <= width
            assert view.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
            paper = view.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
            assert {url.partition(":")[0] for url in requests} <= {"file", "data"} and messages == []
