"""predict.py explain=true: the page, the table of labels to check, and back into training."""

import shlex
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import predict as script
from common.atomic_io import read_csv, write_csv, write_json
from common.run_record import read_record
from tests.support.fake_checkpoints import make_checkpoint, make_odd_images
from tests.support.fake_explained import make_explained_run
from tests.support.fake_runs import make_run
from tests.support.html import Parsed

CHROMIUM = shutil.which("chromium")
HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>')


@pytest.fixture
def predict(in_process):
    return lambda *arguments: in_process(script, *arguments, "device=cpu")


@pytest.fixture
def explained(predict, two_colors, tmp_path):
    """A run with a network that was never trained, and its hardest test images: the run, what was printed, the folder."""
    run, out = tmp_path / "run", tmp_path / "out"
    make_explained_run(run, two_colors)
    status, printed, err = predict(f"ckpt={run}/checkpoints/best.ckpt", f"images={run}", "explain=true", f"out={out}")
    assert (status, err) == (0, ""), err
    return run, printed, out


def page(out, name="predictions.html") -> tuple[str, Parsed]:
    text = (out / name).read_text(encoding="utf-8")
    return text, Parsed(text)


def test_the_hardest_test_images_of_a_run(explained):
    _, printed, out = explained
    text, parsed = page(out)
    assert (
        not parsed.open
        and not parsed.wrong
        and parsed.count("script") == 0
        and "http:" not in text
        and "https:" not in text
    )
    assert parsed.count("article") == 14 and "14 images that could be read (test split of the run)" in text
    own = read_csv(out / "predictions.csv")
    order = sorted(own, key=lambda r: (r["label"] == r["predicted"], float(r[f"p_{r['label']}"])))
    paths = [data for tag, data in parsed.text if tag == "p" and data.startswith("test/")]
    assert [row["label"] for row in order] == [path.split("/")[1] for path in paths] and len(set(paths)) == 14
    wrong = sum(row["label"] != row["predicted"] for row in own)
    assert parsed.words().count("wrong labeled") == wrong and "chosen on them" in parsed.words()
    assert "the three most similar of 24 training images" in parsed.words()
    images = [attributes["src"] for tag, attributes in parsed.tags if tag == "img"]
    assert len(images) == 14 * (2 + 3) and all(src.startswith("data:image/jpeg;base64,") for src in images)
    shares = [data for tag, data in parsed.text if tag == "td" and data.strip()]
    for row, both in zip(order, zip(shares[::2], shares[1::2], strict=True), strict=True):
        chances = sorted((float(row["p_blue"]), float(row["p_red"])), reverse=True)
        assert list(map(float, both)) == pytest.approx(chances, abs=6e-4)
    assert f"Explained: {out}/predictions.html" in printed


def test_corrected_labels_go_back_into_training(explained, train, two_colors, tmp_path):
    run, printed, out = explained
    table = out / "labels_to_check.csv"
    rows, splits = read_csv(table), read_csv(run / "splits.csv")
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
    command = next(line for line in printed.splitlines() if line.startswith("and when they are: "))
    words = shlex.split(command.removeprefix("and when they are: "))
    assert words == ["python", "train.py", "datamodule=image_folder", f"datamodule.root={two_colors}",
                     f"datamodule.table={table}"]  # fmt: skip
    again = train(*words[3:], "trainer.max_epochs=1")
    assert again.status == 0, again.err
    counts = {f"n_{split}": n for split, n in (("train", 24), ("val", 12), ("test", 14))}
    assert {name: again.record["data"][name] for name in counts} == counts
    now = {row["path"]: row["label"] for row in read_csv(again.folder / "splits.csv")}
    before = {row["path"]: row["label"] for row in splits}
    assert {path for path in now if now[path] != before[path]} == {corrected["path"]}


def test_any_images_hostile_names_and_what_is_left_out(predict, tmp_path):
    checkpoint = make_checkpoint(tmp_path / "somewhere" / "else" / "net.ckpt", classes=HOSTILE, decision=None)
    files = make_odd_images(tmp_path / "images", 9)
    (tmp_path / "images" / "letter.jpg").write_text("Dear reader")
    hostile = tmp_path / "images" / "<b>&'.png"
    shutil.copy(files[1], hostile)
    status, printed, err = predict(f"ckpt={checkpoint}", f"images={tmp_path}/images", "explain=true",
                                   "explain_most=10", f"out={tmp_path}/a.csv")  # fmt: skip
    assert status == 1 and "1 of 11 images could not be read" in err and "Labels to check" not in printed
    text, parsed = page(tmp_path, "a.html")
    assert (
        parsed.count("article") == 10 and not parsed.wrong and parsed.count("script") == 0 and parsed.count("b") == 10
    )
    assert "<img src=x" not in text and HOSTILE[0] in parsed.words() and "<b>&'.png" in parsed.words()
    assert "10 images that could be read; the most doubtful first" in parsed.words()
    assert "No similar training images: the checkpoint does not lie in a run's folder" in parsed.words()
    predict(
        f"ckpt={checkpoint}", f"images={tmp_path}/images", "explain=true", "explain_most=4", f"out={tmp_path}/b.csv"
    )
    parsed = page(tmp_path, "b.html")[1]
    assert parsed.count("article") == 4 and "6 less doubtful left out" in parsed.words()
    table = read_csv(tmp_path / "b.csv")
    confidence = sorted(max(float(r[f"p_{name}"]) for name in HOSTILE) for r in table if not r["error"])
    shares = [float(data) for tag, data in parsed.text if tag == "td" and data.strip()][::2]
    assert shares == pytest.approx(confidence[:4], abs=6e-4)  # no labels: the least confident first


def test_labels_of_a_table_and_of_unknown_classes(predict, tmp_path):
    checkpoint = make_checkpoint(tmp_path / "net.ckpt")
    files = make_odd_images(tmp_path / "images", 4)
    table = tmp_path / "images" / "t.csv"
    write_csv(table, ["path", "label"], [{"path": f.name, "label": n} for f, n in
                                         zip(files, ("ants", "bees", "wasps", ""), strict=True)])  # fmt: skip
    assert predict(f"ckpt={checkpoint}", f"images={table}", "explain=true", f"out={tmp_path}/a.csv")[0] == 0
    words = page(tmp_path, "a.html")[1].words()
    assert "labeled wasps , which the network does not know; says" in words
    assert words.count("right labeled") + words.count("wrong labeled") == 2


def test_errors_are_one_line(predict, tmp_path):
    checkpoint = make_checkpoint(tmp_path / "net.ckpt")
    make_odd_images(tmp_path / "images", 1)
    images = f"images={tmp_path}/images"
    status, _, err = predict(f"ckpt={checkpoint}", images, "explain=true", "explain_most=0", f"out={tmp_path}/none")
    assert not (tmp_path / "none").exists()
    assert status == 1 and err == "ERROR: explain_most=0: use a whole number of 1 or more\n"
    folder = make_run(tmp_path / "run", epochs=0, n={"val": 9}, data={"root": str(tmp_path / "images")})
    (folder / "splits.csv").write_text("path,label,split,group\n000.jpg,ants,train,\n")
    status, _, err = predict(f"ckpt={checkpoint}", f"images={folder}", "explain=true")
    assert status == 1 and "splits.csv has no val images" in err and len(err.splitlines()) == 1


def test_the_positive_class_stays_the_same_where_a_table_would_turn_the_classes_round(explained, predict):
    run, _, out = explained
    record = read_record(run / "result.json")
    record["data"]["classes"], record["decision"] = ["red", "blue"], {"positive_class": "blue"}
    write_json(run / "result.json", record)
    again = (f"ckpt={run}/checkpoints/best.ckpt", f"images={run}", "explain=true", "explain_most=1", f"out={out} 2")
    _, printed, _ = predict(*(f'out="{each[4:]}"' if each.startswith("out") else each for each in again))
    words = shlex.split(printed.splitlines()[-1].removeprefix("and when they are: "))
    assert words[-2:] == [f'datamodule.table="{out} 2/labels_to_check.csv"', "decision.positive_class=blue"]


def test_an_onnx_file_has_no_gradients(tmp_path):
    from inference.explain.explainer import Explainer
    from predict import Predictor

    class Exported:
        description = None

    with pytest.raises(ValueError, match=r"explain=true needs a checkpoint.*best\.ckpt"):
        Explainer(Predictor(Exported()))


def test_the_image_stays_in_proportion_and_the_heat_is_where_the_network_looked(predict, tmp_path):
    """A network that answers for what is bright in one corner is seen to look at that corner."""
    checkpoint = make_checkpoint(
        tmp_path / "net.ckpt", image_size=32, network={"network": "simple_cnn", "image_size": 32}
    )
    state = torch.load(checkpoint, weights_only=True)
    for name, tensor in state["state_dict"].items():
        tensor.zero_()
        if name.endswith("0.weight") and tensor.dim() == 4:
            tensor[0, 0, 1, 1] = 1.0  # the red channel goes through as it is
        elif name.endswith("classifier.1.weight"):
            tensor[0, :16] = 1.0  # of the first channel, all places
        elif name.endswith("classifier.4.weight"):
            tensor[1, 0] = 1.0
    torch.save(state, checkpoint)
    pixels = np.zeros((60, 120, 3), np.uint8)
    pixels[:30, 90:] = 255  # top right
    Image.fromarray(pixels).save(tmp_path / "corner.png")
    assert (
        predict(f"ckpt={checkpoint}", f"images={tmp_path}/corner.png", "explain=true", f"out={tmp_path}/a.csv")[0] == 0
    )
    images = [a["src"] for tag, a in page(tmp_path, "a.html")[1].tags if tag == "img"]
    plain, overlay = (decoded(src) for src in images)
    assert plain.size == overlay.size == (240, 120)
    yellowness = np.asarray(overlay, float)[..., :2].sum(2) - 2 * np.asarray(overlay, float)[..., 2]
    quarters = {(r, c): yellowness[60 * r : 60 * r + 60, 60 * c : 60 * c + 60].mean() for r in (0, 1) for c in range(4)}
    assert max(quarters, key=quarters.get) == (0, 3)


def decoded(src: str) -> Image.Image:
    import base64
    import io

    return Image.open(io.BytesIO(base64.b64decode(src.partition(",")[2])))


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_page_in_chromium(explained):
    playwright = pytest.importorskip("playwright.sync_api")
    _, _, out = explained
    asked, said = [], []
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width, scheme in ((390, "light"), (1200, "dark")):
            view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            view.on("request", lambda request: asked.append(request.url))
            view.on("console", lambda message: said.append(message.text))
            view.goto(f"file://{out}/predictions.html")
            assert view.evaluate("document.documentElement.scrollWidth") <= width
            assert view.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
            paper = view.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
            view.close()
        browser.close()
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"} and said == []
