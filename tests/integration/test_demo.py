import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

import demo as script
from inference.demo import server
from tests.support.fake_checkpoints import make_checkpoint, make_odd_images
from tests.support.fake_explained import make_explained_run
from tests.support.helpers import PROJECT

CHROMIUM = shutil.which("chromium")
no_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is not installed")


@pytest.fixture
def demo(in_process):
    return lambda *arguments: in_process(script, *arguments)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_errors_are_one_line(demo, tmp_path, monkeypatch):
    checkpoint = make_checkpoint(tmp_path / "best.ckpt")
    monkeypatch.setitem(sys.modules, "gradio", None)  # as where it is not installed
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments, words in (
            ([], "ckpt: nothing is given; give a run's"),
            (["ckpt="], "ckpt: nothing is given; give a run's"),
            (["ckpt=nowhere.ckpt"], "ckpt=nowhere.ckpt: no such checkpoint"),
            ([f"ckpt={tmp_path}"], f"ckpt={tmp_path}: is a folder; give the file, ckpt={tmp_path}/best.ckpt"),
            ([f"ckpt={tmp_path}/best.onnx"], "is an exported file already; give the checkpoint that it was made from"),
            ([f"ckpt={checkpoint}", f"port={port}"], f"port={port}: taken on 127.0.0.1; use another one"),
            ([f"ckpt={checkpoint}", "port=70000"], "port=70000: use 1 to 65535"),
            ([f"ckpt={checkpoint}", "port=http"], "port=http: use 1 to 65535"),
            ([f"ckpt={checkpoint}", "port=80.5"], "port=80.5: use 1 to 65535"),
            ([f"ckpt={checkpoint}", "share=maybe"], "share=maybe: use true or false"),
            ([f"ckpt={checkpoint}", "host=192.0.2.1"], "host=192.0.2.1: no address of this machine"),
            ([f"ckpt={checkpoint}", f"port={free_port()}"], 'install it with pip install -e ".[demo]"'),
            ([f"ckpt={checkpoint}", "prot=1"], "prot: no such key; did you mean port or"),
        ):
            status, out, err = demo(*arguments)
            assert status == 1 and out == "" and words in err and len(err.splitlines()) == 1, err


def test_telemetry_is_off_before_gradio_is_imported(monkeypatch):
    seen = {}

    def noted(name):
        seen.update({key: os.environ.get(key) for key in server.NO_NETWORK})
        return SimpleNamespace()

    for key in server.NO_NETWORK:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(server.importlib, "import_module", noted)
    server.gradio()
    assert seen == {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


@pytest.fixture
def answers(tmp_path, two_colors, monkeypatch):
    """The answering part of the page, which needs no gradio."""
    from inference.demo.app import DemoApp

    return DemoApp(make_explained_run(tmp_path / "run", two_colors), "cpu")


def test_an_answer_is_escaped_and_says_what_cannot_be_read(answers, tmp_path):
    files = make_odd_images(tmp_path / "images", 3)
    hostile = tmp_path / "images" / "<script>'.png"
    shutil.copy(files[1], hostile)
    letter = tmp_path / "letter.jpg"
    letter.write_text("Dear reader")
    html = answers.answer([str(hostile), str(letter), str(files[0])])
    assert "<script" not in html and "&lt;script&gt;" in html and html.count("<article") == 2
    assert '<p class="warning">letter.jpg: not a readable image' in html and str(tmp_path) not in html
    assert html.count("Most similar in training:") == 2
    assert answers.answer(None).count("<article") == 0
    assert answers.answer([str(files[0])] * 18).count("<article") == 16
    assert "2 more images left out: 16 at a time" in answers.answer([str(files[0])] * 18)
    assert [image.split for image, _ in answers.examples] == ["test"] * 7  # every other one of 14
    assert "Accuracy test: 0.8000 (64 of 80, 95% interval" in answers._head()


@pytest.fixture
def served(tmp_path, two_colors):
    """`python demo.py` in a process of its own; the address."""
    port, log = free_port(), tmp_path / "log"
    checkpoint = make_explained_run(tmp_path / "run", two_colors)
    command = [sys.executable, "demo.py", f"ckpt={checkpoint}", f"port={port}", "device=cpu"]
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=PROJECT, stdout=file, stderr=file)
    try:
        for _ in range(600):
            if "Demo: " in log.read_text() or process.poll() is not None:
                break
            time.sleep(0.1)
        assert f"Demo: http://127.0.0.1:{port}/" in log.read_text(), log.read_text()
        yield port
        process.send_signal(signal.SIGINT)
        process.wait(20)
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()


@no_gradio
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_image_goes_in_and_an_answer_comes_out_in_chromium(served, two_colors):
    playwright = pytest.importorskip("playwright.sync_api")
    for host in {address[4][0] for address in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}:
        if not host.startswith("127."):
            with pytest.raises(OSError):
                socket.create_connection((host, served), timeout=2)  # loopback alone
    asked = []
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 390, "height": 900})
        view.on("request", lambda request: asked.append(request.url))
        answer = view.goto(f"http://127.0.0.1:{served}/")
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        view.wait_for_selector("#files input[type=file]", state="attached")
        images = sorted((two_colors / "test" / "red").glob("*.png"))[:2]
        view.set_input_files("#files input[type=file]", [str(image) for image in images])
        view.wait_for_selector("article.explained >> nth=1")
        words = view.inner_text("#answer")
        assert [image.name in words for image in images] == [True, True]
        assert "says" in words and "Most similar in training" in words
        assert view.evaluate("[...document.querySelectorAll('article img')].every(i => i.naturalWidth > 0)")
        assert view.evaluate("document.documentElement.scrollWidth") <= 390
        view.click("#examples button >> nth=-1")
        view.wait_for_function("document.querySelectorAll('article.explained').length === 1")
        assert "labeled red" in view.inner_text("#answer")
        browser.close()
    hosts = {url.split("/")[2] for url in asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {f"127.0.0.1:{served}"}
