"""What a killed command has trained is known by the checkpoints themselves, whatever the clock says."""

import os
import time

import pytest

from common.errors import UserError
from common.run_folder import RunFolder
from engine.run.folder_backup import FolderBackup

HOURS = 3 * 3600


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    write(folder, "old")
    return folder


def write(folder, text, hours_s=0):
    """Write what a run writes, by a clock that is some hours off."""
    folder.checkpoints.mkdir(exist_ok=True)
    for file in (folder.last_checkpoint, folder.record):
        new = file.with_suffix(".new")
        new.write_text(text)
        os.utime(new, (time.time() + hours_s,) * 2)
        new.replace(file)


def backup(folder):
    return FolderBackup(folder, whole=False, kept_in=folder.path.with_name("kept"))


@pytest.mark.parametrize("how", [{"restarts": True}, {"restarts": False, "extends": True}, {"restarts": False}])
@pytest.mark.parametrize("hours_s", [-HOURS, 0, HOURS])
def test_what_a_killed_command_has_trained_stays_where_the_clock_was_set(folder, how, hours_s):
    backup(folder).begin(**how)
    write(folder, "new", hours_s)
    backup(folder).recover()
    assert (folder.last_checkpoint.read_text(), folder.record.read_text()) == ("new", "new")
    kept = list(folder.path.with_name("kept").glob("*"))
    assert [sorted(path.name for path in each.iterdir()) for each in kept] == (
        [["checkpoints", "result.json"]] if len(how) == 2 or how["restarts"] else []
    )


@pytest.mark.parametrize("how", [{"restarts": True}, {"restarts": False, "extends": True}, {"restarts": False}])
@pytest.mark.parametrize("hours_s", [-HOURS, 0, HOURS])
def test_what_it_has_not_trained_is_put_back_where_the_clock_was_set(folder, how, hours_s):
    write(folder, "old", hours_s)
    backup(folder).begin(**how)
    folder.record.write_text("running")
    backup(folder).recover()
    assert (folder.last_checkpoint.read_text(), folder.record.read_text()) == ("old", "old")
    assert sorted(path.name for path in folder.path.iterdir()) == ["checkpoints", "result.json"]


@pytest.mark.parametrize("inside", ["", "deeper"])
def test_a_pipe_in_the_folder_is_named_and_nothing_stays_behind(folder, inside):
    pipe = folder.path / inside / "pipe"
    pipe.parent.mkdir(exist_ok=True)
    os.mkfifo(pipe)
    before = sorted(folder.path.rglob("*"))
    whole = FolderBackup(folder, whole=True, kept_in=folder.path.with_name("kept"))
    with pytest.raises(
        UserError, match=rf"^{pipe}: not a file but a pipe, .*; remove it, or use another hydra.run.dir=DIR$"
    ):
        whole.begin(restarts=True)
    assert sorted(folder.path.rglob("*")) == before
