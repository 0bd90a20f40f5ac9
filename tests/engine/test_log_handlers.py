"""A screen or log that takes no more ends no command."""

import importlib
import io
import logging
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from common.progress import Progress
from common.run_record import RunRecord
from engine.log_handlers import LogFileHandler, ProtectedStream, ScreenHandler, protect_screen, undo_log_file
from tests.support.commands import SMALL_RUN
from tests.support.helpers import NOT_DRAWN, PROJECT, SIMPLE_CNN, make_images
from tests.support.windows import keep_open_files


def closed_pipe() -> io.TextIOWrapper:
    reads, writes = os.pipe()
    os.close(reads)
    return os.fdopen(writes, "w", encoding="utf-8")


def full_disk() -> io.TextIOWrapper:
    return Path("/dev/full").open("w", encoding="utf-8")


@pytest.mark.parametrize("make", [closed_pipe, full_disk])
def test_a_screen_that_takes_no_more_is_named_once(make, caplog):
    stream = make()
    protected = ProtectedStream(stream)
    for _ in range(3):
        print("x" * 100_000, "数", file=protected)
        protected.flush()
    stream.close()  # what Python does at its end
    assert [message.partition(" (")[0] for message in caplog.messages] == ["could not write to the screen"]


def test_letters_beyond_its_encoding_are_escaped_and_a_closed_one_is_nowhere(monkeypatch):
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="ascii"))
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(Progress, "screen_s", None)  # and back
    protect_screen()
    ScreenHandler().emit(logging.makeLogRecord({"msg": "größe, 数"}))
    print("caf\udce9")
    print("lost", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.close()
    assert buffer.getvalue() == b"gr\\xf6\\xdfe, \\u6570\ncaf\\udce9\n"


def test_no_file_takes_the_place_of_a_screen_that_was_closed_from_the_start(tmp_path):
    """What a library in C++ prints would be written into it."""
    file = tmp_path / "checkpoint"
    code = (
        "import os, sys; from common.progress import quiet_native; from engine.log_handlers import protect_screen;"
        "protect_screen(); file = open(sys.argv[1], 'wb'); os.write(1, b'a'); os.write(2, b'b'); quiet_native().__enter__();"
        "file.write(b'content')"
    )
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code, file]
    assert subprocess.run(command, cwd=PROJECT, check=False).returncode == 0
    assert file.read_bytes() == b"content"


def test_a_line_of_one_thread_is_shown_while_another_imports_tqdm(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", types.ModuleType("tqdm"))  # as it is until its first line has run
    ScreenHandler().emit(logging.makeLogRecord({"msg": "starting: 4 s so far"}))
    assert capsys.readouterr().out == "starting: 4 s so far\n"


@pytest.mark.parametrize("with_tqdm", [False, True])
def test_a_line_is_written_in_one_piece_since_processes_share_a_screen(monkeypatch, with_tqdm):
    """In two pieces, lines of processes side by side were joined where the stream writes each piece at once."""
    written = []
    write_through = types.SimpleNamespace(write=lambda text: written.append(text) if text else None, flush=lambda: None)
    monkeypatch.setattr(sys, "stdout", write_through)
    if with_tqdm:
        importlib.import_module("tqdm")
    else:
        monkeypatch.delitem(sys.modules, "tqdm", raising=False)
    ScreenHandler().emit(logging.makeLogRecord({"msg": "epoch 1/2"}))
    assert written == ["epoch 1/2\n"]


@pytest.fixture
def log_to():
    handlers, root = [], logging.getLogger()

    def add(path):
        handlers.append(LogFileHandler(str(path)))
        root.addHandler(handlers[-1])
        return handlers[-1]

    yield add
    for handler in handlers:
        root.removeHandler(handler)
        handler.close()


def test_a_log_that_cannot_be_written_is_named_once(log_to, caplog, tmp_path):
    for place in (Path("/dev/full"), tmp_path):  # a full disk, a folder
        caplog.clear()
        log_to(place)
        for _ in range(2):
            logging.getLogger("x").warning("line")
        assert [m for m in caplog.messages if m.startswith(f"could not write {place} (")] == caplog.messages[1:2]


def test_what_a_command_has_written_is_taken_back(log_to, tmp_path):
    for before in (None, b"earlier\n"):
        path = tmp_path / f"{before}.log"
        if before:
            path.write_bytes(before)
        handler = log_to(path)
        assert path.exists() == bool(before)
        handler.handle(logging.makeLogRecord({"msg": "line"}))
        assert path.read_bytes() == (before or b"") + b"line\n"
        undo_log_file(path)
        handler.handle(logging.makeLogRecord({"msg": "later"}))
        assert (path.read_bytes() if path.exists() else None) == before


def test_on_windows_a_log_that_a_command_has_begun_is_removed(log_to, tmp_path, monkeypatch):
    keep_open_files(monkeypatch)
    log_to(tmp_path / "train.log").handle(logging.makeLogRecord({"msg": "line"}))
    undo_log_file(tmp_path / "train.log")
    assert not list(tmp_path.iterdir())


def test_where_matplotlib_keeps_its_fonts_is_no_matter_of_the_user(tmp_path):
    code = "from engine.log_handlers import protect_screen; protect_screen(); import matplotlib as m; print(m.get_cachedir())"
    (tmp_path / "file").touch()
    environment = {name: value for name, value in os.environ.items() if name != "MPLCONFIGDIR"}
    environment |= {"HOME": str(tmp_path / "file"), "XDG_CONFIG_HOME": "", "XDG_CACHE_HOME": ""}
    ran = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=environment, capture_output=True, check=True)
    assert b"matplotlib-" in ran.stdout and ran.stderr == b""  # a temporary folder, as the one in HOME cannot be made


@pytest.mark.thorough
def test_training_into_a_closed_pipe_and_a_full_log_reaches_its_end(tmp_path):
    root = make_images(
        tmp_path / "data", {f"{split}/{c}": 8 for split in ("train", "val", "test") for c in ("größe", "数")}
    )
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "train.log").symlink_to("/dev/full")
    command = [
        sys.executable, PROJECT / "train.py", *SMALL_RUN, *SIMPLE_CNN, f"datamodule.root={root}", "trainer.max_epochs=1",
        "stages=[fit,test]", f"datamodule.cache={tmp_path / 'cache'}", f"hydra.run.dir={folder}", *NOT_DRAWN,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    process.stdout.readline()
    process.stdout.close()  # as `| head -1`
    errors = process.communicate(timeout=100)[1]
    record = RunRecord.read(folder)
    assert (process.returncode, errors, record.status) == (0, b"", "finished")
    warnings = " ".join(record.run.warnings)
    assert (
        "could not write to the screen (Broken pipe)" in warnings and "train.log (No space left on device)" in warnings
    )
