import json
import os
import signal
import stat
import subprocess
import sys

import pytest

from common.atomic_io import atomic_folder, replace_folder, write_bytes, write_csv, write_json, write_text
from tests.support.helpers import PROJECT, read_csv


def test_a_process_killed_before_the_renaming_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.json"
    write_text(path, "old")
    code = (
        "import os, signal, sys; from pathlib import Path; from common.atomic_io import write_text;"
        "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL); write_text(Path(sys.argv[1]), 'new' * 100_000)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=PROJECT, check=False)
    assert done.returncode == -signal.SIGKILL and path.read_text() == "old"
    (other,) = set(tmp_path.iterdir()) - {path}
    assert other.name.startswith(".result.json.")  # hidden, and no reader looks for such a name
    write_text(path, "newest")
    assert path.read_text() == "newest"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_what_fails_in_between_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    path = tmp_path / "a.csv"
    write_text(path, "old")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(f"os.{step}", refuse)
    with pytest.raises(PermissionError):
        write_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_can_be_read_by_others(tmp_path):
    """Of a cache that they share (datamodule.cache), as the pixel caches beside it."""
    with atomic_folder(tmp_path / "cache" / "images") as building:
        write_text(building / "images.csv", "path,label")
    assert stat.S_IMODE((tmp_path / "cache" / "images").stat().st_mode) == 0o755


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_an_error_and_keeps_its_file(tmp_path):
    path = tmp_path / "a.csv"
    write_text(path, "old")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            write_text(path, "new")
    finally:
        tmp_path.chmod(0o700)
    assert path.read_text() == "old"


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_bytes(tmp_path / "none" / "a", b"")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        write_bytes(tmp_path / "file" / "a", b"")


def test_content_that_cannot_be_written_touches_nothing(tmp_path):
    path = tmp_path / "a"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    with pytest.raises(ValueError, match="b"):
        write_csv(path, ["a"], [{"a": 1, "b": 2}])
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775)]
)
def test_who_may_read_and_write_what_is_written_is_the_umasks(tmp_path, umask, file, folder):
    """Images of patients stay private by 077, and a group shares its results by 002."""
    before = os.umask(umask)
    try:
        (tmp_path / "source").mkdir()
        write_bytes(tmp_path / "a", b"\x00\xff")
        with atomic_folder(tmp_path / "cache" / "images"):
            pass
        replace_folder(tmp_path / "source", tmp_path / "export")
    finally:
        os.umask(before)
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in (tmp_path / "a", tmp_path / "cache/images", tmp_path / "export")
    }
    assert modes == {"a": file, "images": folder, "export": folder}


def test_nan_and_infinity_are_null_to_any_depth(tmp_path):
    nan, inf = float("nan"), float("inf")
    write_json(tmp_path / "a.json", {"a": nan, "b": [1.5, (inf, {"c": -inf})], "d": "NaN", "ä": True, "e": 2})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")

    def refuse(constant):
        raise AssertionError(constant)

    found = json.loads(text, parse_constant=refuse)
    assert found == {"a": None, "b": [1.5, [None, {"c": None}]], "d": "NaN", "ä": True, "e": 2}
    assert list(found) == ["a", "b", "d", "ä", "e"] and text.endswith("}\n") and "ä" in text


def test_tables_keep_commas_quotes_lines_and_odd_bytes(tmp_path):
    odd = os.fsdecode(b"caf\xe9.png")  # a file's name that is not UTF-8
    rows = [{"path": 'a, "b"\nc', "label": ""}, {"path": odd, "label": "ä"}]
    write_csv(tmp_path / "t.csv", ["label", "path"], rows)
    assert (tmp_path / "t.csv").read_bytes().startswith(b"label,path\n,")
    assert read_csv(tmp_path / "t.csv") == rows
