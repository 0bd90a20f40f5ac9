"""python export.py format=web: the folder, and its page in Chromium, whose probabilities are compared with Python's."""

import base64
import copy
import json
import shutil
import threading
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw

import export as script
import predict as predict_script
from common.errors import UserError
from common.run_folder import PROJECT, RunFolder
from common.text import format_confidence
from datamodules.decode import open_image
from inference.backends import CheckpointBackend, OnnxBackend
from inference.demo.app import web_files
from inference.demo.server import WebServer
from inference.explain.explainer import Explainer
from inference.explain.overlay import overlay
from inference.export import export as module
from inference.export import onnx_file
from inference.export.web import web_folder
from inference.export.web.onnxruntime_web import FILES, find_runtime
from inference.export.web.web_folder import WebFolder
from inference.predictor import Predictor
from tests.support.fake_checkpoints import DECISION, make_checkpoint, make_odd_images, noisy
from tests.support.fake_explained import make_labeled_run
from tests.support.helpers import SHARED, content, in_chromium, needs_chromium, read_csv, served

pytest.importorskip("onnxscript")
numpy_helper = pytest.importorskip("onnx.numpy_helper")
CACHE = PROJECT / "outputs" / ".cache"
HOSTILE = '<img src=x onerror="document.title=1">'
READY = "#choose:enabled"
PAGE = ["app.js", "index.html", "service_worker.js", "style.css"]

# Decode a file as the page does, and compute its probabilities
COMPUTE = """async ([content, name, type]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const image = await decode(new File([bytes], name, { type }));
  let pixels = "";
  for (let k = 0; k < image.pixels.length; k += 32768) pixels += String.fromCharCode(...image.pixels.subarray(k, k + 32768));
  const { probabilities, heatOf } = await predict(image);
  const heat = heatOf && model.classes.map((_, k) => ({ ...heatOf(k), values: [...heatOf(k).values] }));
  return { probabilities, heat, width: image.width, height: image.height, pixels: btoa(pixels) };
}"""
# Draw heat over pixels of one gray level
DRAW = """([heat, width, height, fit]) => {
  model.fit = fit;
  const data = new Uint8ClampedArray(4 * width * height).fill(100);
  for (let at = 3; at < data.length; at += 4) data[at] = 255;
  drawHeat(data, width, height, heat);
  return Array.from(data);
}"""
TRUNCATED = {
    "network": "truncated",
    "backbone": "shufflenet_v2_x0_5",
    "keep": 4,
    "head": {"hidden_dims": [3], "dropout": [0.2, 0]},
}


@pytest.fixture
def without_npm(monkeypatch):
    """Texts in place of onnxruntime-web."""
    monkeypatch.setattr(web_folder, "find_runtime", lambda given, cache: {file.name: b"text" for file in FILES})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a checkpoint and ten validation images of odd sizes and modes."""
    root = tmp_path_factory.mktemp("images")
    files = make_odd_images(root / "images", 10)
    labels = ["ants" if n % 2 else "bees" for n in range(10)]
    run = make_labeled_run(tmp_path_factory.mktemp("run"), root / "images", files, labels, ["val"] * 10)
    make_checkpoint(run.best_checkpoint)
    return run


@pytest.fixture(scope="module")
def graph(run):
    """Export the graph of the network once: torch's exporter takes seconds."""
    usual, graphs = onnx_file.network_graph, {}

    def network_graph(network, image_size, further=()):
        key = tuple(value.sum().item() for value in network.state_dict().values())
        if key not in graphs:
            graphs[key] = usual(network, image_size, further)
        return copy.deepcopy(graphs[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_file, "network_graph", network_graph)
        yield


@pytest.fixture(scope="module")
def truncated_run(run, tmp_path_factory):
    """The same run with a truncated backbone, behind whose last map everything is linear."""
    copied = RunFolder(tmp_path_factory.mktemp("truncated") / "run")
    shutil.copytree(run.path, copied.path)
    make_checkpoint(copied.best_checkpoint, network=TRUNCATED, image_size=64)
    return copied


def export_site(run, folder: Path) -> Path:
    """Export with the real onnxruntime-web."""
    try:
        find_runtime(None, CACHE)
    except UserError as error:
        pytest.skip(str(error))
    return module.export(str(run.best_checkpoint), format=WebFolder(str(CACHE)), out=str(folder)).path


@pytest.fixture(scope="module")
def site(run, graph, tmp_path_factory) -> Path:
    """The exported folder."""
    return export_site(run, tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def truncated_site(truncated_run, graph, tmp_path_factory) -> Path:
    """The exported folder of the truncated network."""
    return export_site(truncated_run, tmp_path_factory.mktemp("truncated"))


@pytest.fixture
def page(site):
    """Open the page; yield it, the requests and messages, and the server."""
    with served(site) as server, in_chromium(server.url, accept_downloads=True) as (page, requests, messages):
        page.wait_for_selector(READY)
        yield page, requests, messages, server


def test_the_command_writes_one_folder(without_npm, run, graph, in_process, tmp_path):
    status, out, err = in_process(script, f"ckpt={run.best_checkpoint}", "format=web", f"out={tmp_path}/site")
    assert (status, err) == (0, "")
    assert "compared with the checkpoint on 10 validation images: probabilities differ by at most " in out
    assert f"{tmp_path}/site: " in out and "a page for any static host" in out
    written = content(tmp_path / "site")
    assert sorted(written) == sorted([*PAGE, "export.json", "model.json", "model.onnx", "ort.js", "ort.wasm"])
    about = json.loads(written["model.json"])
    assert about["classes"] == ["ants", "bees"] and about["decision"]["threshold"] == DECISION.threshold
    assert about["bytes"] == len(written["model.onnx"]) and not about["deep"]
    assert OnnxBackend(tmp_path / "site" / "model.onnx", "cpu").description.classes == ["ants", "bees"]


def change_weights(monkeypatch, name: str, change) -> None:
    """Change the values of the exported network whose names end so."""
    usual = onnx_file.network_graph

    def network_graph(*arguments):
        graph, changed = usual(*arguments), 0
        for each in graph.graph.initializer:
            if each.name.endswith(name):
                values, changed = numpy_helper.to_array(each), changed + 1
                each.CopyFrom(numpy_helper.from_array(change(values.copy()), each.name))
        assert changed, [each.name for each in graph.graph.initializer]
        return graph

    monkeypatch.setattr(onnx_file, "network_graph", network_graph)


def change_one(values):
    values.flat[0] += 0.5
    return values


def test_a_folder_with_another_weight_is_not_written(without_npm, run, graph, tmp_path, monkeypatch):
    change_weights(monkeypatch, "classifier.4.bias", change_one)
    with pytest.raises(UserError, match=r"format=web .*above largest_difference=0\.0001; nothing was written"):
        module.export(str(run.best_checkpoint), format=WebFolder(str(CACHE)), out=str(tmp_path / "site"))
    assert not (tmp_path / "site").exists()


@pytest.mark.thorough
def test_a_folder_whose_maps_are_not_grad_cam_is_not_written(without_npm, truncated_run, graph, tmp_path, monkeypatch):
    change_weights(monkeypatch, "weights", lambda values: values[::-1].copy())
    with pytest.raises(UserError, match=r"format=web: its class maps differ from Grad-CAM by .*; nothing was written"):
        module.export(str(truncated_run.best_checkpoint), format=WebFolder(str(CACHE)), out=str(tmp_path / "site"))
    assert not (tmp_path / "site").exists()


def test_what_is_refused_writes_nothing(run, in_process, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = [f"ckpt={run.best_checkpoint}", "format=web", f"out={tmp_path}/site", f"format.cache={tmp_path}/cache"]
    for more, words in (
        ([], "format=web: needs the npm package onnxruntime-web@1."),
        (["format.runtime=/nowhere.tgz"], "format.runtime=/nowhere.tgz: no such file or folder"),
        (
            ["preprocessing=false"],
            "preprocessing=false: the page of format=web needs preprocessing in the file; use preprocessing=true",
        ),
    ):
        status, _, err = in_process(script, *arguments, *more)
        assert status == 1 and err.startswith(f"ERROR: {words}") and len(err.splitlines()) == 1, err
    assert not list(tmp_path.iterdir())


def compute(page, file: Path, kind: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels (H, W, 3) and the probabilities of a file in the browser."""
    encoded = base64.b64encode(file.read_bytes()).decode()
    found = page.evaluate(COMPUTE, [encoded, file.name, kind])
    pixels = np.frombuffer(base64.b64decode(found["pixels"]), np.uint8).reshape(found["height"], found["width"], 3)
    return pixels, np.array(found["probabilities"])


def make_photographs(root: Path, n: int) -> Path:
    """Save JPEGs of usual qualities, sizes and subsamplings: shading, shapes with edges, and the grain of a camera."""
    generator = np.random.default_rng(0)
    for index in range(n):
        width, height = generator.integers(150, 420, 2).tolist()
        label = ("ants", "bees")[index % 2]
        image = Image.fromarray(generator.integers(60, 200, (3, 3, 3), dtype=np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        draw = ImageDraw.Draw(image)
        for _ in range(6):
            left, top = (int(generator.integers(0, side)) for side in image.size)
            color = (
                tuple(generator.integers(0, 120, 3).tolist())
                if index % 2
                else tuple(generator.integers(130, 256, 3).tolist())
            )
            draw.ellipse((left, top, left + width // 4, top + height // 5), fill=color)
        grain = generator.normal(0, 6, (height, width, 3))
        folder = root / ("val" if index % 4 < 2 else "train") / label
        folder.mkdir(parents=True, exist_ok=True)
        photo = Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))
        photo.save(folder / f"{index:03}.jpg", quality=int(generator.integers(60, 97)), subsampling=index % 3)
    return root


class Compared(NamedTuple):
    """Hold the largest differences over images; of a probability, but for the pixels."""

    png: float  # of a PNG of the decoded pixels, from predictions_val.csv
    network: float  # browser and Python on the browser's own pixels of the JPEG
    decoder: float  # Python on the browser's pixels of the JPEG and on its own
    pixels: float  # of 255, between these, on average over the image
    changed: int  # JPEGs that the browser calls differently from predictions_val.csv


def compare_validation(run: RunFolder, root: Path, folder: Path) -> Compared:
    """Open 50 validation images of a run as JPEG and as PNG in Chromium, and compare with predictions_val.csv."""
    rows = list(read_csv(run.predictions("val")))
    rows = [rows[k] for k in np.linspace(0, len(rows) - 1, 50).round().astype(int)]
    columns = [name for name in rows[0] if name.startswith("p_")]
    assert len({row["path"] for row in rows}) == 50
    checkpoint = CheckpointBackend(run.best_checkpoint, "cpu")
    description, found, expected = checkpoint.description, [], []
    with served(export_site(run, folder / "site")) as server, in_chromium(server.url) as (view, _, messages):
        view.wait_for_selector(READY)
        for row in rows:
            file, image = root / row["path"], open_image(root / row["path"], description.image_size)
            image.save(folder / "same.png")
            same_pixels, of_png = compute(view, folder / "same.png")
            np.testing.assert_array_equal(same_pixels, image)
            pixels, of_jpeg = compute(view, file)
            theirs, ours = (checkpoint(description.pixels(each)[None])[0] for each in (Image.fromarray(pixels), image))
            given = np.array([float(row[name]) for name in columns])
            difference = np.abs(pixels.astype(int) - np.asarray(image)).mean()
            pairs = (of_png, given), (of_jpeg, theirs), (theirs, ours)
            changed = description.classes[of_jpeg.argmax()] != row["predicted"]
            found.append([*(np.abs(a - b).max() for a, b in pairs), difference, changed])
            expected.append(given[0])
        assert messages == [] and np.std(expected) > 1e-3
    *largest, changed = np.array(found, float).T
    return Compared(*(float(each.max()) for each in largest), int(changed.sum()))


def check_compared(compared: Compared) -> None:
    print(compared)
    assert compared.png <= 2e-6 + 1e-5 and compared.network <= 1e-5  # six digits in the table
    assert compared.pixels < 1 and compared.decoder <= 0.02 and compared.changed == 0


@pytest.mark.slow
@needs_chromium
def test_fifty_photographs_are_answered_as_in_predictions_val(train, tmp_path):
    photos = make_photographs(tmp_path / "photos", 100)
    ran = train("model=simple_cnn", "model.image_size=48", "trainer.max_epochs=1", "stages=[fit]", root=photos)
    assert ran.status == 0, ran.err
    check_compared(compare_validation(RunFolder(ran.folder), photos, tmp_path))


@pytest.mark.slow
@needs_chromium
@pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="needs ../shared: real images and weights")
def test_fifty_real_images_are_answered_as_in_predictions_val(train, tmp_path):
    weights, photos = SHARED / "weights" / "shufflenet_v2_x0_5_trunk.pth", SHARED / "data" / "ants_bees"
    ran = train(f"model.weights={weights}", "trainer.max_epochs=1", "stages=[fit]", "model.image_size=256", root=photos)
    assert ran.status == 0, ran.err
    check_compared(compare_validation(RunFolder(ran.folder), photos, tmp_path))


@pytest.mark.slow
@needs_chromium
def test_the_page_shows_grad_cam_as_explain_does(truncated_site, truncated_run, tmp_path):
    explainer = Explainer(Predictor.from_checkpoint(truncated_run.best_checkpoint, "cpu"))
    files = make_odd_images(tmp_path / "images", 6)
    with served(truncated_site) as server, in_chromium(server.url) as (view, _, messages):
        view.wait_for_selector(READY)
        for file in files:
            encoded = base64.b64encode(file.read_bytes()).decode()
            found = view.evaluate(COMPUTE, [encoded, file.name, ""])
            image = open_image(file)
            expected = explainer.explain(explainer.model.description.pixels(image)[None])
            heat = found["heat"][int(expected.probabilities[0].argmax())]
            values = np.array(heat["values"]).reshape(heat["rows"], heat["columns"])
            assert values.shape == expected.heat[0].shape == (4, 4) and values.max() > 0
            np.testing.assert_allclose(values / values.max(), expected.heat[0] / expected.heat[0].max(), atol=1e-4)
            for fit, (width, height) in (
                ("squash", (97, 60)),
                ("crop", (98, 61)),
                ("crop", (31, 80)),
                ("pad", (150, 43)),
            ):
                drawn = np.array(view.evaluate(DRAW, [heat, width, height, fit])).reshape(height, width, 4)
                gray = Image.new("RGB", (width, height), (100, 100, 100))
                same = np.asarray(overlay(gray, values.astype(np.float32), 64, fit)).astype(int)
                assert np.abs(drawn[..., :3] - same).max() <= 1, fit
        view.evaluate("model.fit = 'squash'")
        view.set_input_files("#files", files[:3])
        view.wait_for_selector("#status:has-text('3 images')")
        labels = "[...document.querySelectorAll('#results canvas')].map((each) => each.getAttribute('aria-label'))"
        shown = [file.name for file in files[2::-1]]
        assert view.evaluate(labels) == shown and not view.is_visible("#legend") and not view.is_visible("#no-heat")
        view.focus("#heat")
        view.keyboard.press("Space")
        assert view.get_attribute("#heat", "aria-pressed") == "true" and view.is_visible("#legend")
        assert all(
            label.startswith(f"{name}: where the network looks for ")
            for label, name in zip(view.evaluate(labels), shown, strict=True)
        )
        view.set_input_files("#files", files[3])
        view.wait_for_selector("#status:has-text('4 images')")
        assert view.evaluate(labels)[0].startswith(f"{files[3].name}: where the network looks for ")
        view.keyboard.press("Space")
        assert view.evaluate(labels) == [files[3].name, *shown] and messages == []


@pytest.mark.slow
@needs_chromium
def test_a_network_without_maps_says_so(page):
    words = (
        "This page cannot show where the network looks, because the layers after its last feature map with several "
        "positions are not linear."
    )
    assert words in page[0].inner_text("header")
    assert "predict.py explain=true can." in page[0].inner_text("#no-heat") and page[0].is_hidden("#heat")


def save_kinds(folder: Path) -> list[Path]:
    """Save an image as PNG, JPEG and WebP with what a browser may apply to its pixels."""
    image = noisy(np.random.default_rng(0), 151, 97)
    files = make_odd_images(folder, 7)
    swapped = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = swapped.find(b"rXYZ"), swapped.find(b"gXYZ")
    swapped[red : red + 4], swapped[green : green + 4] = b"gXYZ", b"rXYZ"  # red is shown as green
    for name, options in (("profile.png", {}), ("profile.jpg", {"quality": 95, "subsampling": 0})):
        files.append(folder / name)
        image.save(files[-1], icc_profile=bytes(swapped), **options)
    for turn in range(1, 9):
        exif = image.getexif()
        exif[0x0112] = turn
        for suffix in ("jpg", "png"):
            files.append(folder / f"turned{turn}.{suffix}")
            image.save(files[-1], exif=exif)
    alpha = image.convert("RGBA")
    alpha.putalpha(Image.fromarray(np.random.default_rng(1).integers(0, 256, (97, 151), dtype=np.uint8)))
    for name in ("alpha.png", "alpha.webp"):
        files.append(folder / name)
        alpha.save(files[-1], lossless=True)
    return files


@pytest.mark.slow
@needs_chromium
def test_the_browser_decodes_and_computes_as_python_does(page, site, tmp_path):
    backend = OnnxBackend(site / "model.onnx", "cpu")
    for file in save_kinds(tmp_path / "kinds"):
        expected = np.asarray(open_image(file))
        pixels, probabilities = compute(page[0], file)
        with Image.open(file) as image:
            allowed = int(
                image.mode.startswith("I")
            )  # of 16 bits, browsers take the upper 8, predict.py the nearest value
        np.testing.assert_allclose(pixels.astype(int), expected, rtol=0, atol=allowed, err_msg=file.name)
        np.testing.assert_allclose(probabilities, backend(pixels[None])[0], atol=1e-6, err_msg=file.name)
    assert page[2] == []


@pytest.mark.slow
@needs_chromium
def test_a_big_jpeg_is_reduced_as_python_does(page, site, tmp_path):
    """The browser's mean of pixels is not quite libjpeg's, which is apart from what the network changes."""
    for size, quality in (((1603, 1205), 90), ((4000, 3000), 80), ((1030, 5000), 90)):
        file = tmp_path / "big.jpg"
        coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(file, quality=quality)
        expected, backend = np.asarray(open_image(file, 48)), OnnxBackend(site / "model.onnx", "cpu")
        pixels, probabilities = compute(page[0], file)
        assert pixels.shape == expected.shape and np.abs(pixels.astype(int) - expected).mean() < 1
        np.testing.assert_allclose(probabilities, backend(pixels[None])[0], atol=1e-6)
        np.testing.assert_allclose(probabilities, backend(expected[None])[0], atol=5e-3)


@pytest.mark.slow
@needs_chromium
def test_a_folder_becomes_the_table_of_predict(page, run, in_process, tmp_path, monkeypatch):
    images = tmp_path / "images"
    (images / 'a, "b"').mkdir(parents=True)
    for n, file in enumerate(make_odd_images(tmp_path / "made", 6)):
        shutil.copy(file, images / ('a, "b"' if n % 2 else "") / file.name)
    (images / "letter.jpg").write_text("Dear reader")
    (images / "empty.png").touch()
    (images / "notes.txt").write_text("no image by its name")
    monkeypatch.chdir(tmp_path)
    in_process(predict_script, f"ckpt={run.best_checkpoint}", "images=images", f"out={tmp_path}/out.csv", "device=cpu")
    view, requests, messages, server = page
    view.set_input_files("#folder", images)
    view.wait_for_selector("#status:has-text('8 images')")
    assert "not read 2" in view.inner_text("#status") and "1 file skipped" in view.inner_text("#status")
    counts = Counter(row["predicted"] for row in read_csv(tmp_path / "out.csv") if row["predicted"])
    assert counts.total() == 6 and all(f"{n} as {name}" in view.inner_text("#status") for name, n in counts.items())
    with view.expect_download() as download:
        view.click("#download")
    assert download.value.suggested_filename == "predictions.csv"
    download.value.save_as(tmp_path / "browser.csv")
    expected, actual = ({row["path"]: row for row in read_csv(tmp_path / name)} for name in ("out.csv", "browser.csv"))
    assert list(next(iter(actual.values()))) == list(next(iter(expected.values()))) and set(actual) == set(expected)
    for path, row in expected.items():
        same = ("label", "predicted", "decided", "abstained")
        assert [row[name] for name in same] == [actual[path][name] for name in same], path
        assert bool(row["error"]) == bool(actual[path]["error"]) and actual[path]["fingerprint"] == ""
        if not row["error"]:
            assert [float(row[f"p_{name}"]) for name in ("ants", "bees")] == pytest.approx(
                [float(actual[path][f"p_{name}"]) for name in ("ants", "bees")], abs=2e-6
            )
    assert messages == [] and all(url.startswith((server.url, "blob:", "data:")) for url in requests)


@pytest.mark.slow
@needs_chromium
def test_it_is_usable_by_keyboard_and_on_a_phone(page, tmp_path):
    view = page[0]
    view.on("filechooser", lambda _: None)  # the browser hands the choice over from now on, not only once it is asked
    view.set_viewport_size({"width": 390, "height": 844})
    view.wait_for_selector(READY)
    focused = []
    for _ in range(3):
        view.keyboard.press("Tab")
        focused.append(view.evaluate("document.activeElement.id"))
    assert focused == ["choose", "choose-folder", "camera"]
    view.focus("#choose")
    with view.expect_file_chooser() as chooser:
        view.keyboard.press("Enter")
    chooser.value.set_files(make_odd_images(tmp_path, 3))
    view.wait_for_selector("#status:has-text('3 images')")
    assert view.locator("#results li").count() == 3
    assert view.evaluate("document.documentElement.scrollWidth") <= 390
    view.focus("#clear")
    view.keyboard.press("Enter")
    assert view.locator("#results li").count() == 0 and view.inner_text("#status") == "Ready."


@pytest.mark.slow
@needs_chromium
def test_clear_ends_what_is_being_labeled(page, tmp_path):
    view, messages = page[0], page[2]
    images = make_odd_images(tmp_path / "images", 20)
    view.evaluate("""() => {
      const usual = predict;
      predict = async (image) => (await new Promise((resolve) => setTimeout(resolve, 100)), usual(image));
    }""")
    view.set_input_files("#files", images)
    view.set_input_files("#files", images[:3])  # waits for the others
    view.wait_for_selector("#results li >> nth=2")
    view.click("#clear")
    view.wait_for_selector("#status:has-text('Ready.')")
    view.wait_for_timeout(500)
    assert view.inner_text("#status") == "Ready." and view.locator("#results li").count() == 0
    view.set_input_files("#files", images[:1])
    view.wait_for_selector("#status:has-text('1 image:')")
    assert view.is_visible("#download") and view.evaluate("rows.length") == 1 and messages == []


def drop(view, *files: Path) -> None:
    """Drop files or folders as a file manager does."""
    session, data = view.context.new_cdp_session(view), {"items": [], "files": [], "dragOperationsMask": 1}
    data["files"] = [str(file) for file in files]
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 200, "data": data})


def problem(view) -> str:
    view.wait_for_selector("#problem:not([hidden])")
    return view.inner_text("#problem")


@pytest.mark.slow
@needs_chromium
def test_images_are_dropped_and_pasted_and_what_is_none_is_named(page, tmp_path):
    view, messages = page[0], page[2]
    images = make_odd_images(tmp_path / "images", 3)
    nested = tmp_path / "folder" / "inner"
    nested.mkdir(parents=True)
    shutil.copy(images[1], nested)
    (nested / "notes.txt").write_text("no image by its name")
    drop(view, images[0], tmp_path / "folder")
    view.wait_for_selector("#status:has-text('2 images')")
    assert f"folder/inner/{images[1].name}" in view.inner_text("#results") and "1 file skipped" in view.inner_text(
        "#status"
    )
    letter, no_images = tmp_path / "letter.jpg", tmp_path / "no_images"
    letter.write_text("Dear reader")
    no_images.mkdir()
    (no_images / "notes.txt").write_text("text")
    drop(view, letter)
    view.wait_for_selector("#status:has-text('not read 1')")
    assert view.inner_text("#results li >> nth=0").startswith("no image\nNot read\n\nnot a readable image")
    drop(view, no_images)
    assert problem(view).startswith("The folder has no images that a browser reads")
    view.evaluate("""() => {
      const data = new DataTransfer();
      data.setData("text/plain", "a letter");
      document.dispatchEvent(new DragEvent("drop", { dataTransfer: data }));
    }""")
    view.wait_for_selector("#problem:has-text('What was dropped is not a file')")
    paste = """([content, type]) => {
      const data = new DataTransfer();
      const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
      if (type) data.items.add(new File([bytes], "pasted.png", { type }));
      document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
    }"""
    view.evaluate(paste, ["", ""])
    view.wait_for_selector("#problem:has-text('There is no image in the clipboard')")
    view.evaluate(paste, [base64.b64encode(images[2].read_bytes()).decode(), "image/png"])
    view.wait_for_selector("#status:has-text('4 images')")
    assert "pasted.png" in view.inner_text("#results li >> nth=0") and view.is_hidden("#problem") and messages == []


@pytest.mark.slow
@needs_chromium
def test_a_webp_that_its_exif_turns_is_refused(page, tmp_path):
    image = noisy(np.random.default_rng(0), 90, 60)
    exif = image.getexif()
    for turn in (1, 6):
        exif[0x0112] = turn
        image.save(tmp_path / f"{turn}.webp", exif=exif)
    view = page[0]
    view.set_input_files("#files", [tmp_path / "1.webp", tmp_path / "6.webp"])
    view.wait_for_selector("#status:has-text('2 images')")
    first, second = (view.inner_text(f"#results li >> nth={k}") for k in (0, 1))
    assert "it is turned by its EXIF, which browsers do not apply to WebP; convert it to JPEG or PNG" in first
    assert "6.webp" in first and "1.webp" in second and "Not read" not in second


@pytest.mark.slow
@needs_chromium
def test_the_camera(site):
    fake = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with served(site) as server, in_chromium(server.url, fake) as (view, _, messages):
        view.wait_for_selector(READY)
        view.evaluate(
            """window.streams = [];
            const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
            navigator.mediaDevices.getUserMedia = async (asked) => (streams.push(await open(asked)), streams.at(-1));
            0;"""
        )
        view.evaluate("$('camera').click(); $('camera').click()")
        view.wait_for_selector("#viewfinder:not([hidden])")
        view.evaluate("new Promise((resolve) => setInterval(() => $('video').videoWidth && resolve(), 50))")
        view.keyboard.press("Enter")  # the focus is on the button that takes the image
        view.wait_for_selector("#status:has-text('1 image:')")
        words = view.inner_text("#results li")
        assert "camera " in words and "Not read" not in words
        view.click("#close-camera")
        assert view.evaluate("streams.flatMap((each) => each.getTracks()).map((each) => each.readyState)") == ["ended"]
        assert (
            view.is_hidden("#viewfinder") and view.evaluate("document.activeElement.id") == "camera" and messages == []
        )
        view.click("#camera")  # again
        view.wait_for_selector("#viewfinder:not([hidden])")
    with served(site) as server, in_chromium(server.url) as (view, _, _):
        view.wait_for_selector(READY)
        view.click("#camera")
        assert problem(view).startswith("No camera: ") and view.is_enabled("#camera")


@pytest.mark.slow
@needs_chromium
def test_a_browser_without_webassembly(site):
    with served(site) as server, in_chromium(server.url, ["--js-flags=--jitless"]) as (view, _, _):
        assert problem(view) == "This browser has no WebAssembly, which runs the network."
        assert view.is_disabled("#choose") and view.inner_text("#status") == "The network is not loaded."


@pytest.mark.slow
@needs_chromium
def test_names_are_texts_and_decisions_those_of_predict(without_npm, site, tmp_path):
    """A copy of the folder with other classes: the page itself checks the network only."""
    shutil.copytree(site, tmp_path / "site")
    about = json.loads((site / "model.json").read_text())
    about["classes"] = [HOSTILE, "b"]
    about["decision"] |= {"confidence": None, "positive_class": "b", "threshold": 0.0}
    (tmp_path / "site" / "model.json").write_text(json.dumps(about))
    file = make_odd_images(tmp_path / "images", 1)[0]
    hostile = file.with_name("<b onclick=alert()>.jpg")
    file.rename(hostile)
    with served(tmp_path / "site") as server, in_chromium(server.url) as (view, _, messages):
        view.wait_for_selector(READY)
        view.set_input_files("#files", hostile)
        view.wait_for_selector("#results li")
        words = view.inner_text("#results")
        assert HOSTILE in words and hostile.name in words and HOSTILE in view.inner_text("#about")
        assert "Its answers are best guesses: accuracy 0.95 cannot be promised for any image" in view.inner_text(
            "#about"
        )
        assert "\n\nbest guess, probability 0." in words and "Abstained" not in words
        assert view.locator("#results img, #about img, #results b").count() == 0 and messages == []


@pytest.mark.slow
@needs_chromium
def test_names_from_right_to_left_do_not_move_the_counts(page):
    """U+2068 and U+2069 isolate them (UAX 9); what would reverse the rest of the line is removed."""
    cats, dogs, reversing = "\u05d7\u05ea\u05d5\u05dc", "\u05db\u05dc\u05d1", "\u202eabc"
    count = (
        "names => { rows = names.map((predicted) => ({ predicted })); showStatus(); return $('status').textContent; }"
    )
    text = page[0].evaluate(count, [cats, cats, cats, dogs, dogs, reversing])
    assert text.startswith(f"6 images: 3 as \u2068{cats}\u2069, 2 as \u2068{dogs}\u2069, 1 as abc")


@pytest.mark.slow
@needs_chromium
def test_the_confidence_reads_as_in_predict(page):
    """Near 1, where many networks have theirs, three digits would say that no image reaches it."""
    values = [0.5, 0.6, 0.9131, 0.9999, 0.99994, 0.9999999, 1 - 1e-12, 1.0]
    assert page[0].evaluate("values => values.map(formatConfidence)", values) == list(map(format_confidence, values))
    page[0].evaluate("model.decision.confidence = 0.99994; describeNetwork()")
    assert "where its confidence is below 0.99994, for accuracy 0.95" in page[0].inner_text("#about")
    assert page[0].evaluate("reasonToAbstain()") == "confidence below 0.99994, too low for accuracy 0.95"


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize(("missing", "words"), [
    ("ort.wasm", "ort.wasm is missing on this server (status 404)"),
    ("ort.js", "ort.js, which runs the network, is missing on this server or damaged"),
    ("model.onnx", "model.onnx is missing on this server (status 404)"),
    ("model.json", "model.json is missing on this server (status 404)"),
])  # fmt: skip
def test_a_folder_that_is_not_whole(site, tmp_path, missing, words):
    shutil.copytree(site, tmp_path / "site")
    (tmp_path / "site" / missing).unlink()
    with served(tmp_path / "site") as server, in_chromium(server.url) as (view, _, _):
        view.wait_for_selector("#problem:not([hidden])")
        assert words in view.inner_text("#problem") and view.is_disabled("#choose")


@pytest.mark.slow
@needs_chromium
def test_a_server_that_answers_missing_files_with_a_page(site, tmp_path):
    shutil.copytree(site, tmp_path / "site")
    (tmp_path / "site" / "model.json").write_text("<!doctype html>")
    with served(tmp_path / "site") as server, in_chromium(server.url) as (view, _, _):
        assert problem(view).startswith("model.json cannot be read: ")


@pytest.mark.slow
@needs_chromium
def test_a_damaged_network_and_a_page_that_is_opened_as_a_file(site, tmp_path):
    shutil.copytree(site, tmp_path / "site")
    network = tmp_path / "site" / "model.onnx"
    changed = bytearray(network.read_bytes())
    changed[len(changed) // 2] ^= 1  # a weight
    network.write_bytes(changed)
    with served(tmp_path / "site") as server, in_chromium(server.url) as (view, _, _):
        view.wait_for_selector("#problem:not([hidden])")
        assert "model.onnx is not the network that export.py verified" in view.inner_text("#problem")
    with in_chromium(site / "index.html") as (view, _, _):
        view.wait_for_selector("#problem:not([hidden])")
        assert "python -m http.server --directory FOLDER" in view.inner_text("#problem")


@pytest.mark.slow
@needs_chromium
def test_demo_serves_the_page(site, tmp_path):
    serving = WebServer(site, web_files(site), "127.0.0.1", 0)
    threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        with in_chromium(f"http://127.0.0.1:{serving.server_port}/") as (view, requests, messages):
            view.wait_for_selector(READY)
            view.set_input_files("#files", make_odd_images(tmp_path, 1))
            view.wait_for_selector("#results li h2:not(:has-text('Not read'))")
            assert view.evaluate("navigator.serviceWorker.ready.then(() => true)") and messages == []
            assert {url.split("/")[2] for url in requests if url.startswith("http")} == {
                f"127.0.0.1:{serving.server_port}"
            }
    finally:
        serving.shutdown()
        serving.server_close()


@pytest.mark.slow
@needs_chromium
def test_only_files_of_the_page_are_kept(site, tmp_path):
    """Another program may answer at the address later."""
    shutil.copytree(site, tmp_path / "site")
    (tmp_path / "site" / "other.txt").write_text("of another program")
    with served(tmp_path / "site") as server, in_chromium(server.url) as (view, _, _):
        view.wait_for_selector(READY)
        view.evaluate("navigator.serviceWorker.ready.then(() => true)")
        view.reload()  # from here on, the worker answers
        view.wait_for_selector(READY)
        assert view.evaluate("fetch('other.txt').then((answer) => answer.text())") == "of another program"
        kept = view.evaluate(
            "caches.open('image-classifier').then((cache) => cache.keys()).then((all) => all.map((each) => each.url))"
        )
        assert {url.removeprefix(server.url) for url in kept} == {
            "", "index.html", "style.css", "app.js", "model.json", "model.onnx", "ort.js", "ort.wasm"
        }  # fmt: skip


@pytest.mark.slow
@needs_chromium
def test_it_works_when_the_server_is_gone(page, tmp_path):
    view, _, _, server = page
    view.evaluate("navigator.serviceWorker.ready.then(() => true)")
    view.reload()
    view.wait_for_selector(READY)
    server.shutdown()
    server.server_close()
    view.reload()
    view.wait_for_selector(READY)
    view.set_input_files("#files", make_odd_images(tmp_path, 1))
    view.wait_for_selector("#results li h2:not(:has-text('Not read'))")
