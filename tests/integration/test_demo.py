"""python demo.py: which folder it serves, how it makes and keeps that, and what its server answers.

The page itself: tests/integration/test_web.py.
"""

import contextlib
import hashlib
import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

import demo as script
from common.errors import UserError
from inference.demo import app, server
from inference.export.export import MANIFEST
from inference.export.web.onnxruntime_web import FILES
from tests.support.fake_checkpoints import make_checkpoint
from tests.support.helpers import PROJECT

CACHE = "format.cache="


@pytest.fixture
def demo(in_process):
    return lambda *arguments: in_process(script, *arguments)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder as export.py format=web writes it, of a network of a few bytes."""
    made = tmp_path / "site"
    made.mkdir()
    texts = {"index.html": "<h1>page</h1>", "app.js": "1", "ort.wasm": "wasm", "model.onnx": "network"}
    texts["model.json"] = json.dumps({"sha256": hashlib.sha256(b"network").hexdigest()})
    for name, text in texts.items():
        (made / name).write_text(text)
    (made / MANIFEST).write_text(json.dumps({"format": "web", "files": sorted(texts)}))
    (made / "secret.txt").write_text("not of the export")
    return made


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_an_address_that_cannot_be_served():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for host, number, words in (
            ("127.0.0.1", port, f"port={port}: already in use on 127.0.0.1; use another one"),
            ("127.0.0.1", 70000, "port=70000: use 1 to 65535"),
            ("127.0.0.1", "http", "port=http: use 1 to 65535"),
            ("127.0.0.1", 80.5, "port=80.5: use 1 to 65535"),
            ("192.0.2.1", port, "host=192.0.2.1: not an address of this machine"),
            ("127.0..1", port, "host=127.0..1: not an address; use 127.0.0.1"),
        ):
            with pytest.raises(UserError, match=words):
                server.check_address(host, number)


def test_errors_are_one_line(demo, folder, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.setenv("PATH", str(tmp_path))  # no npm
    checkpoint = make_checkpoint(tmp_path / "best.ckpt")
    ending = tmp_path / "ending.ckpt"
    ending.write_bytes(checkpoint.read_bytes()[:5000])
    other = shutil.copytree(folder, tmp_path / "other")
    (other / MANIFEST).write_text('{"format": "litert", "files": ["model.tflite"]}')
    changed = shutil.copytree(folder, tmp_path / "changed")
    (changed / "model.onnx").write_text("another network")
    outside = shutil.copytree(folder, tmp_path / "outside")
    (outside / MANIFEST).write_text('{"format": "web", "files": ["index.html", "../best.ckpt"]}')
    before = sorted(tmp_path.rglob("*"))
    for arguments, words in (
        ([], "ckpt is not set; give the checkpoint of a run"),
        (["ckpt=/nowhere.ckpt"], "ckpt=/nowhere.ckpt: no such checkpoint"),
        ([f"ckpt={tmp_path}"], f"ckpt={tmp_path}: is a folder; give the file"),
        ([f"ckpt={ending}"], "ending.ckpt: not a checkpoint"),
        ([f"ckpt={checkpoint}"], "format=web: needs the npm package onnxruntime-web@1."),
        ([f"ckpt={checkpoint}", "format.runtime=/no.tgz"], "format.runtime=/no.tgz: no such file or folder"),
        (
            [f"ckpt={checkpoint}", f"{CACHE}{checkpoint}/cache"],
            "best.ckpt/cache: cannot be written; use format.cache=DIR",
        ),
        ([f"ckpt={checkpoint}", "share=true"], "share: is no longer a setting"),
        ([f"ckpt={checkpoint}", "device=cpu"], "device: is no longer a setting: the browser computes"),
        ([f"ckpt={checkpoint}", "prot=1"], "prot: no such key; did you mean port or"),
        ([f"ckpt={other}"], "other: contains an export of format=litert, which is not a page; export it again"),
        ([f"ckpt={changed}"], "changed: model.onnx is not the network that export.py verified; export it again"),
        ([f"ckpt={outside}"], "outside: its file ../best.ckpt is missing; export it again"),
    ):
        given = [f"port={free_port()}", *([] if CACHE in str(arguments) else [f"{CACHE}{tmp_path}/cache"])]
        status, _, err = demo(*arguments, *given)
        assert status == 1 and err.startswith("ERROR: ") and words in err and len(err.splitlines()) == 1, err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.thorough
def test_the_page_is_made_once_for_a_checkpoint(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    from inference.export.web import web_folder

    monkeypatch.setattr(web_folder, "find_runtime", lambda given, cache: {file.name: b"text" for file in FILES})
    checkpoint, made, export = make_checkpoint(tmp_path / "best.ckpt"), [], app.export
    monkeypatch.setattr(app, "export", lambda *given, **settings: made.append(1) or export(*given, **settings))
    found = app.find_or_make(checkpoint, None, str(tmp_path / "cache"))
    assert found.parent == tmp_path / "cache" / "web" and "index.html" in app.web_files(found)
    again = app.find_or_make(checkpoint.rename(tmp_path / "other.ckpt"), None, str(tmp_path / "cache"))
    assert again == found and len(made) == 1
    (found / "ort.wasm").unlink()
    assert app.find_or_make(tmp_path / "other.ckpt", None, str(tmp_path / "cache")) == found and len(made) == 2
    monkeypatch.setattr(app, "export", lambda ckpt, out, **_: made.append(Path(out).name) or stop())
    for change in ("checkpoint", "version"):
        if change == "checkpoint":
            make_checkpoint(tmp_path / "other.ckpt", mean=[0.4, 0.4, 0.4])
        else:
            monkeypatch.setattr(app.importlib.metadata, "version", lambda name: "99")
        with pytest.raises(KeyboardInterrupt):
            app.find_or_make(tmp_path / "other.ckpt", None, str(tmp_path / "cache"))
    assert len({found.name, *made[2:]}) == 3


def stop():
    raise KeyboardInterrupt


@contextlib.contextmanager
def asked(folder: Path):
    """Serve a folder in this process; yield a function that asks it."""
    serving = server.WebServer(folder, app.web_files(folder), "127.0.0.1", 0)
    threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def ask(path: str, method: str = "GET", host: str | None = None):
        connection = http.client.HTTPConnection("127.0.0.1", serving.server_port, timeout=10)
        with contextlib.closing(connection):
            connection.putrequest(method, path, skip_host=True)
            if host != "":
                connection.putheader("Host", host or f"127.0.0.1:{serving.server_port}")
            connection.endheaders()
            response = connection.getresponse()
            return response.status, response.read().decode(), response.headers

    try:
        yield ask
    finally:
        serving.shutdown()
        serving.server_close()


def test_only_the_files_of_the_export_are_served(folder):
    with asked(folder) as ask:
        for path, text, kind in (
            ("/", "<h1>page</h1>", "text/html; charset=utf-8"), ("/app.js?1", "1", "text/javascript; charset=utf-8"),
            ("/ort.wasm", "wasm", "application/wasm"), ("/model.onnx", "network", "application/octet-stream"),
        ):  # fmt: skip
            status, content, headers = ask(path)
            assert (status, content, headers["Content-Type"]) == (200, text, kind)
            assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-cache"
            status, content, headers = ask(path, "HEAD")
            assert (status, content, headers["Content-Length"]) == (200, "", str(len(text)))
        for path in (
            "/secret.txt",
            f"/{MANIFEST}",
            "/../best.ckpt",
            "/%2e%2e/best.ckpt",
            "//etc/passwd",
            "/app.js/",
            "/site",
        ):
            assert ask(path)[0] == 404, path
        assert ask("/", "POST")[0] == 501
        assert ask("http://[damaged/")[0] == 404
        (folder / "app.js").unlink()  # as while the folder is exported again
        assert ask("/app.js")[0] == 404


def test_a_request_by_another_site_s_name_is_refused(folder):
    """A site whose name leads to this machine (DNS rebinding) reads nothing."""
    with asked(folder) as ask:
        for host in ("attacker.example", "attacker.example:7860", "127.0.0.1.example", "localhost.example", "[bad", ""):
            status, content, _ = ask("/model.onnx", host=host)
            assert status == 403 and "network" not in content, host
            assert "by its address, such as http://127.0.0.1:" in content and ":7860" not in content  # its own port
        for host in ("localhost:9999", "127.0.0.1", "[::1]:7860", "192.0.2.1:80"):
            assert ask("/", host=host)[0] == 200, host


def test_the_command_serves_this_machine_until_ctrl_c(folder, tmp_path):
    port, log = free_port(), tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "demo.py", f"ckpt={folder}", f"port={port}"], cwd=PROJECT, stdout=file, stderr=file,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored in a shell's background
        )  # fmt: skip
    try:
        for _ in range(600):
            if "Demo: " in log.read_text() or process.poll() is not None:
                break
            time.sleep(0.1)
        shown = log.read_text().splitlines()  # on a busy machine, lines like "starting: 4 s so far" come first
        assert [line for line in shown if not line.startswith("starting: ")] == [
            f"Demo: http://127.0.0.1:{port}/ (stop with Ctrl-C)"
        ]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as response:
            assert response.read() == b"<h1>page</h1>"
        with pytest.raises(OSError):  # another address of this machine
            socket.create_connection(("127.0.0.2", port), timeout=2)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0 and log.read_text().splitlines() == shown
    finally:
        process.kill()
        process.wait()
