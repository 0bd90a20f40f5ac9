import hashlib
import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from common.errors import UserError
from inference.export.web import onnxruntime_web
from inference.export.web.onnxruntime_web import TARBALL, RuntimeFile, find_runtime

CONTENT = {"dist/a.mjs": b"script", "dist/b.wasm": b"program"}


@pytest.fixture(autouse=True)
def files(monkeypatch):
    """Two small files in place of the package's."""
    found = [
        RuntimeFile(member, Path(member).name, hashlib.sha256(content).hexdigest())
        for member, content in CONTENT.items()
    ]
    monkeypatch.setattr(onnxruntime_web, "FILES", tuple(found))


def make_tarball(path: Path, content=CONTENT) -> Path:
    with tarfile.open(path, "w:gz") as tarball:
        for name, each in content.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(each)
            tarball.addfile(info, io.BytesIO(each))
    return path


def make_npm(folder: Path, monkeypatch, script: str) -> None:
    """Put an `npm` before all other programs."""
    folder.mkdir()
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(npm.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_npm_fetches_it_once(tmp_path, monkeypatch, caplog):
    tarball, calls = make_tarball(tmp_path / "source.tgz"), tmp_path / "calls"
    make_npm(tmp_path / "bin", monkeypatch, f'echo "$@" >> {calls}; cp {tarball} "$4/{TARBALL}"')
    caplog.set_level("INFO")
    for _ in range(2):
        assert find_runtime(None, tmp_path / "cache") == {"a.mjs": b"script", "b.wasm": b"program"}
    assert len(calls.read_text().splitlines()) == 1 and calls.read_text().startswith("pack onnxruntime-web@1.")
    assert caplog.text.count("by npm (33 MB, once; kept in ") == 1


@pytest.mark.parametrize(("script", "words"), [
    ("echo 'npm error code ENOTFOUND' >&2; exit 1", r"\(code ENOTFOUND\); once there is a network"),
    ("exit 0", r"\(it left no file\)"),
    ("exit 3", r"\(without a reason\)"),
    (f'echo nothing > "$4/{TARBALL}"', r"what npm fetched as onnxruntime-web@.* is not the npm package"),
])  # fmt: skip
def test_npm_that_fails_leaves_nothing(tmp_path, monkeypatch, script, words):
    make_npm(tmp_path / "bin", monkeypatch, script)
    with pytest.raises(UserError, match=words):
        find_runtime(None, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_without_npm_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        UserError, match=r"npm is not installed; install it, or .*npm pack onnx.*format\.runtime=onnx.*tgz"
    ):
        find_runtime(None, tmp_path / "cache")


def test_a_tarball_or_a_folder_that_is_given(tmp_path):
    tarball = make_tarball(tmp_path / "a.tgz")
    with tarfile.open(tarball) as opened:
        for member in filter(tarfile.TarInfo.isfile, opened.getmembers()):
            place = tmp_path / "unpacked" / member.name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(opened.extractfile(member).read())
    for given in (tarball, tmp_path / "unpacked", tmp_path / "unpacked" / "package"):
        assert list(find_runtime(str(given), tmp_path / "cache").values()) == list(CONTENT.values())
    (tmp_path / "text.tgz").write_text("text")
    (tmp_path / "cut.tgz").write_bytes(tarball.read_bytes()[:-40])
    make_tarball(tmp_path / "other.tgz", {"dist/a.mjs": b"script", "dist/b.wasm": b"of another version"})
    make_tarball(tmp_path / "less.tgz", {"dist/a.mjs": b"script"})
    for name, words in (
        (
            "nowhere.tgz",
            r"format\.runtime=.*nowhere\.tgz: no such file or folder; give onnxruntime-web-.*\.tgz of npm pack",
        ),
        ("text.tgz", r"is not the npm package onnxruntime-web@"),
        ("cut.tgz", r"is not the npm package onnxruntime-web@"),
        ("less.tgz", r"it has no complete dist/b\.wasm"),
        ("other.tgz", r"dist/b\.wasm is not from onnxruntime-web@.* \(its sha256 differs\)"),
        (".", r"is not the npm package onnxruntime-web@"),
    ):
        with pytest.raises(UserError, match=words):
            find_runtime(str(tmp_path / name), tmp_path / "cache")
