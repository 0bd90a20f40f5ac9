"""A place that cannot be written: one line with the next step, before anything is trained and without a traceback."""

import errno
import os
import shutil
import subprocess

import pytest
import torch

from engine import cli


@pytest.fixture(params=["mounted", "pretended"])
def place(request, tmp_path, monkeypatch):
    """A read-only folder: a file system of its own where one can be mounted (root may write into any other), and a mock."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    if request.param == "pretended":
        make = os.mkdir

        def mkdir(path, *arguments, **options):
            if str(path).startswith(str(folder)):
                raise OSError(errno.EROFS, "Read-only file system", str(path))
            return make(path, *arguments, **options)

        monkeypatch.setattr(os, "mkdir", mkdir)
        yield folder
        return
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no right to mount a read-only file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def check(ran, where, *words, warned=False):
    assert ran.status == 1 and ran.err.count("\n") == 1, ran.err
    assert ran.err.startswith(f"ERROR: {where}"), ran.err
    assert all(word in ran.err for word in ("the file system is read-only; write elsewhere", *words)), ran.err
    assert "Traceback" not in ran.out and ("WARNING" in ran.out) == warned


@pytest.mark.parametrize("argument", ["hydra.run.dir", "hydra.sweep.dir", None])
def test_a_run_and_a_sweep_end_before_they_start(train, place, monkeypatch, argument):
    monkeypatch.setattr(torch, "manual_seed", pytest.fail)  # nothing of the run has started
    monkeypatch.setattr(cli, "OUTPUTS", place / "outputs")
    cli.new_run_dir.cache_clear()
    arguments = {
        "hydra.run.dir": [f"hydra.run.dir={place / 'run'}"],
        "hydra.sweep.dir": ["-m", "seed=1,2", f"hydra.sweep.dir={place / 'sweep'}"],
        None: ['hydra.run.dir="${new_run_dir:${model.name}}"'],  # the default
    }[argument]
    ran = train(*arguments)
    cli.new_run_dir.cache_clear()
    check(ran, place, argument or "hydra.run.dir")


@pytest.mark.thorough
def test_a_run_there_can_be_evaluated_but_not_resumed(train, finished_run, tmp_path):
    folder = shutil.copytree(finished_run.folder, tmp_path / "first")
    bound = subprocess.run(["mount", "--bind", folder, folder], capture_output=True, check=False)
    if bound.returncode:
        pytest.skip("no right to mount a folder once more")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        last = f"ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"
        check(train(last, "trainer.max_epochs=3", small=False, to=folder), folder, warned=True)
        again = tmp_path / "again"
        evaluated = train(last, "stages=[test]", f"hydra.run.dir={again}", small=False, to=again)
        assert evaluated.status == 0, evaluated.err
        assert evaluated.record.test.accuracy.n == finished_run.record.test.accuracy.n
        assert "result.json (Read-only file system); continuing" in " ".join(evaluated.record.run.warnings)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
