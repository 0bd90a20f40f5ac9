import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from common.atomic_io import (
    atomic_folder,
    replace_folder,
    tolerate_disk_errors,
    write_bytes,
    write_csv,
    write_json,
    write_text,
)
from tests.support.helpers import PROJECT, content, read_csv


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
    assert text.startswith('{\n  "a": null,\n  "b": [\n    1.5,')


def test_tables_keep_commas_quotes_lines_and_odd_bytes(tmp_path):
    odd = os.fsdecode(b"caf\xe9.png")  # a file's name that is not UTF-8
    rows = [{"path": 'a, "b"\nc', "label": ""}, {"path": odd, "label": "ä"}]
    write_csv(tmp_path / "t.csv", ["label", "path"], rows)
    assert (tmp_path / "t.csv").read_bytes().startswith(b"label,path\n,")
    assert read_csv(tmp_path / "t.csv") == rows


def test_of_two_processes_that_make_a_folder_the_first_wins(tmp_path):
    place = tmp_path / "new" / "images"
    with atomic_folder(place) as building:
        write_text(building / "a", "second")
        with atomic_folder(place) as other:
            write_text(other / "a", "first")
    assert (place / "a").read_text() == "first" and list(place.parent.iterdir()) == [place]
    with pytest.raises(KeyError), atomic_folder(tmp_path / "new" / "other"):
        raise KeyError
    with pytest.raises(OSError, match="Not a directory"), atomic_folder(tmp_path / "new" / "file"):
        (tmp_path / "new" / "file").write_text("no folder")
    assert sorted(each.name for each in place.parent.iterdir()) == ["file", "images"]


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source").mkdir()
    write_text(tmp_path / "source" / "a", "new")
    return tmp_path / "source"


def test_a_folder_is_replaced_as_a_whole_also_through_a_link(tmp_path, source):
    place = tmp_path / "deep" / "place"
    replace_folder(source, place)  # there is none yet
    write_text(place / "b", "old")
    (tmp_path / "link").symlink_to(place)
    replace_folder(source, tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and content(place.parent) == {"place/a": b"new"}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["deep", "link", "source"]


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("fails", ["new", "copy", "both"])
def test_a_folder_that_cannot_be_replaced_stays_and_is_never_lost(tmp_path, source, monkeypatch, fails, is_there):
    place, rename = tmp_path / "parent" / "place", Path.rename
    if is_there:
        place.mkdir(parents=True)
        write_text(place / "a", "old")

    def refuse(self, target):
        if self.name == "new" or (fails == "both" and self.name == "old"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    if fails == "copy":
        (source / "missing").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match="No such file" if fails == "copy" else "No space left") as caught:
        replace_folder(source, place)
    assert fails != "copy" or (caught.value.errno == 2 and caught.value.filename)
    if fails == "both" and is_there:  # what was there is beside its place
        ((name, kept),) = ((name, kept) for name, kept in content(place.parent).items() if "/old/" in name)
        assert name.startswith(".place.building-") and kept == b"old"
    else:
        assert content(place.parent) == ({"place/a": b"old"} if is_there else {})
        assert [each.name for each in place.parent.iterdir()] == ["place"] * is_there


@pytest.mark.parametrize(("errno", "is_tolerated"), [(28, True), (13, True), (2, False)])
def test_only_errors_of_the_disk_are_tolerated(tmp_path, caplog, errno, is_tolerated):
    with (
        contextlib.nullcontext() if is_tolerated else pytest.raises(OSError, match="x"),
        tolerate_disk_errors(tmp_path),
    ):
        raise OSError(errno, "x")
    assert caplog.messages == [f"could not write {tmp_path} (x); continuing"] * is_tolerated
