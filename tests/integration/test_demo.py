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
from common.errors import UserError
from inference.demo import server
from inference.demo.app import DemoApp
from tests.support.fake_checkpoints import make_checkpoint, make_odd_images
from tests.support.fake_explained import make_explained_run
from tests.support.helpers import CHROMIUM, PROJECT, needs_chromium

no_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is not installed")


@pytest.fixture
def demo(in_process):
    return lambda *arguments: in_process(script, *arguments)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_an_address_that_cannot_be_served():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for host, number, share, words in (
            ("127.0.0.1", port, False, f"port={port}: taken on 127.0.0.1; use another one"),
            ("127.0.0.1", 70000, False, "port=70000: use 1 to 65535"),
            ("127.0.0.1", "http", False, "port=http: use 1 to 65535"),
            ("127.0.0.1", 80.5, False, "port=80.5: use 1 to 65535"),
            ("127.0.0.1", port, "maybe", "share=maybe: use true or false"),
            ("192.0.2.1", port, False, "host=192.0.2.1: no address of this machine"),
        ):
            with pytest.raises(UserError, match=words):
                server.check_address(host, number, share)


def test_errors_are_one_line(demo, tmp_path, monkeypatch):
    checkpoint = make_checkpoint(tmp_path / "best.ckpt")
    monkeypatch.setitem(sys.modules, "gradio", None)  # as where it is not installed
    for arguments, words in (
        ([], "ckpt: nothing is given; give a run's"),
        ([f"ckpt={checkpoint}", f"port={free_port()}"], 'install it with pip install -e ".[demo]"'),
        ([f"ckpt={checkpoint}", "prot=1"], "prot: no such key; did you mean port or"),
    ):
        status, out, err = demo(*arguments)
        assert status == 1 and out == "" and words in err and len(err.splitlines()) == 1, err


def test_telemetry_is_off_before_gradio_is_imported(monkeypatch):
    found = {}

    def import_module(name):
        found.update({key: os.environ.get(key) for key in server.NO_NETWORK})
        return SimpleNamespace()

    for key in server.NO_NETWORK:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(server.importlib, "import_module", import_module)
    server.import_gradio()
    assert found == {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


@pytest.fixture
def app(tmp_path, two_colors):
    """Return the part of the page that predicts, which needs no gradio."""
    return DemoApp(make_explained_run(tmp_path / "run", two_colors), "cpu")


def test_the_page_is_escaped_and_names_what_cannot_be_read(app, tmp_path):
    files = make_odd_images(tmp_path / "images", 3)
    hostile = tmp_path / "images" / "<script>'.png"
    shutil.copy(files[1], hostile)
    letter = tmp_path / "letter.jpg"
    letter.write_text("Dear reader")
    html = app.predict([str(hostile), str(letter), str(files[0])])
    assert "<script" not in html and "&lt;script&gt;" in html and html.count("<article") == 2
    assert '<p class="warning">letter.jpg: not a readable image' in html and str(tmp_path) not in html
    assert html.count("Most similar in training:") == 2
    assert app.predict(None).count("<article") == 0
    assert app.predict([str(files[0])] * 18).count("<article") == 16
    assert "2 more images skipped: at most 16 at a time" in app.predict([str(files[0])] * 18)
    assert [image.split for image, _ in app.examples] == ["test"] * 7  # every other one of 14
    assert "Test accuracy: 0.8000 (64 of 80, 95% interval" in app.head()


@pytest.fixture
def served(tmp_path, two_colors):
    """Run `python demo.py` in a process of its own; return the port."""
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
@needs_chromium
def test_an_image_is_explained_in_chromium(served, two_colors):
    playwright = pytest.importorskip("playwright.sync_api")
    for host in {address[4][0] for address in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}:
        if not host.startswith("127."):
            with pytest.raises(OSError):
                socket.create_connection((host, served), timeout=2)  # loopback only
    requested = []
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 390, "height": 900})
        view.on("request", lambda request: requested.append(request.url))
        response = view.goto(f"http://127.0.0.1:{served}/")
        assert "default-src 'self'" in response.headers["content-security-policy"]
        view.wait_for_selector("#files input[type=file]", state="attached")
        images = sorted((two_colors / "test" / "red").glob("*.png"))[:2]
        view.set_input_files("#files input[type=file]", [str(image) for image in images])
        view.wait_for_selector("article.explained >> nth=1")
        words = view.inner_text("#prediction")
        assert [image.name in words for image in images] == [True, True]
        assert "predicted" in words and "Most similar in training" in words
        assert view.evaluate("[...document.querySelectorAll('article img')].every(i => i.naturalWidth > 0)")
        assert view.evaluate("document.documentElement.scrollWidth") <= 390
        view.click("#examples button >> nth=-1")
        view.wait_for_function("document.querySelectorAll('article.explained').length === 1")
        assert "labeled red" in view.inner_text("#prediction")
        browser.close()
    hosts = {url.split("/")[2] for url in requested if not url.startswith(("data:", "blob:"))}
    assert hosts == {f"127.0.0.1:{served}"}
