"""A command that is refused changes nothing on disk; a run that has trained is not lost to one that fails."""

import contextlib
import shutil
import signal
from pathlib import Path

import pytest

from common.errors import StopRequested
from common.run_folder import RunFolder
from engine import cli


def content(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, its name and its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def made(finished_run, tmp_path) -> RunFolder:
    """A copy of a finished run."""
    return RunFolder(Path(shutil.copytree(finished_run.folder, tmp_path / "made")))


def fails(error):
    def fail(*_, **__):
        raise error

    return fail


LONGER = "trainer.max_epochs=5"


@pytest.mark.parametrize("more", [
    [],  # nothing is left to train
    [LONGER, "optimizer.lr=-1"],
    [LONGER, "optimizer=sgd", "optimizer.momentum=abc"],
    [LONGER, "datamodule.root=/nowhere"],
    [LONGER, "model.image_size=0"],
    [LONGER, "model.keep=3"],
    [LONGER, "datamodule.batch_size=none"],
    [LONGER, "trainer=ddp", "trainer.devices=0"],
    [LONGER, "teacher=/nowhere.ckpt"],
    ["stages=[test]", "datamodule.root=/nowhere"],
    ["stages=[test]", "model.image_size=48"],
    ["stages=[test]", "debug=limit"],
])  # fmt: skip
def test_a_refused_command_leaves_a_finished_run_to_the_byte(train, made, more):
    before = content(made.path)
    checkpoint = made.best_checkpoint if "stages=[test]" in more else made.last_checkpoint
    ran = train(f"ckpt_path={checkpoint}", f"hydra.run.dir={made.path}", *more, small=False, to=made.path)
    assert ran.status == 1 and ran.err.startswith("ERROR: "), ran.err
    assert content(made.path) == before


@pytest.mark.parametrize("more", [["seed=7"], [], ["optimizer.lr=-1"], ["datamodule.root=/nowhere"]])
def test_nor_is_it_lost_where_its_folder_is_named(train, made, more):
    before = content(made.path)
    ran = train(*more, f"hydra.run.dir={made.path}", to=made.path)
    assert ran.status == 1 and "holds a finished run" in ran.err
    other = train(f"ckpt_path={made.last_checkpoint}", f"hydra.run.dir={made.path.with_name('new')}", small=False)
    assert other.status == 1 and not made.path.with_name("new").exists()
    assert content(made.path) == before


@pytest.mark.parametrize("where", [
    "datamodules.image_datamodule.ImageDataModule.setup",  # while images are read
    "engine.run.stages.fit",
    "lightning_modules.image_classifier.ImageClassifier.training_step",
])  # fmt: skip
@pytest.mark.parametrize("error", [KeyError("a defect"), StopRequested(signal.SIGTERM)])
def test_nor_by_what_ends_a_longer_training_before_its_first_step(train, made, monkeypatch, where, error):
    before = content(made.path)
    monkeypatch.setattr(where, fails(error))
    with pytest.raises(KeyError) if isinstance(error, KeyError) else contextlib.nullcontext():
        train(f"ckpt_path={made.last_checkpoint}", LONGER, small=False, to=made.path)
    assert content(made.path) == before


def test_a_new_folder_is_left_by_none(train, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "OUTPUTS", tmp_path / "outputs")
    cli.new_run_dir.cache_clear()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for folder in ("a/b/run", "mine"):
        ran = train("optimizer.lr=-1", f"hydra.run.dir={tmp_path / folder}")
        assert ran.status == 1 and not (tmp_path / "a").exists()
    assert content(tmp_path / "mine") == {"notes.txt": b"mine"}
    empty = tmp_path / "empty"
    empty.mkdir()
    ran = train("hydra.run.dir=${new_run_dir:${model.name}}", root=empty)
    cli.new_run_dir.cache_clear()
    assert ran.status == 1 and not (tmp_path / "outputs").exists()
