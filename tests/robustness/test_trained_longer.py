"""A finished run trained longer in its own folder: what it had is kept beside, and nothing old stays as if it were new."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from common.run_folder import RunFolder
from common.run_record import RunRecord, increment_test_evaluations
from tests.support.commands import STOPPED_EARLY, kill_before_training
from tests.support.helpers import SIMPLE_CNN, at_step, content

OF_NETWORK = ("predictions.csv", "predictions_val.csv", "MODEL_CARD.md", "calibration.png", "overview.png")


def kept(made: RunFolder) -> list[Path]:
    """Return the folders that are kept beside a run."""
    return sorted(made.path.with_name("made.replaced").glob("*"))


@pytest.mark.thorough
def test_what_a_run_had_is_kept_beside_and_nothing_of_the_network_before_stays(train, made):
    before, written = content(made.path), {name: (made.path / name).stat().st_mtime_ns for name in OF_NETWORK}
    ran = train(f"ckpt_path={made.last_checkpoint}", "trainer.max_epochs=3", "stages=[fit]", small=False, to=made.path)
    assert ran.status == 0, ran.err
    (folder,) = kept(made)
    assert f"the earlier run is kept in {folder}" in ran.out
    assert content(folder) == {name: each for name, each in before.items() if name != "train.log"}
    assert not made.predictions("test").exists()
    assert content(made.path)["contact_sheet.png"] == before["contact_sheet.png"]  # of the images, which are the same
    for name in OF_NETWORK:
        assert not (made.path / name).exists() or (made.path / name).stat().st_mtime_ns > written[name], name
    assert ran.record.test.test_evaluations == 1 and ran.record.test.accuracy is None


@pytest.mark.thorough
def test_also_where_it_is_stopped_after_its_first_new_epoch(train, made, monkeypatch):
    before = content(made.path)
    at_step(monkeypatch, 10, lambda: os.kill(os.getpid(), signal.SIGTERM))
    ran = train(f"ckpt_path={made.last_checkpoint}", "trainer.max_epochs=4", small=False, to=made.path)
    assert ran.status == 143, ran.err
    (folder,) = kept(made)
    assert content(folder) == {name: each for name, each in before.items() if name != "train.log"}
    assert not [name for name in OF_NETWORK if (made.path / name).exists()]


@pytest.mark.thorough
def test_a_damaged_best_checkpoint_is_named_before_anything_is_trained(train, made):
    made.best_checkpoint.write_bytes(made.best_checkpoint.read_bytes()[:1000])
    ran = train(f"ckpt_path={made.last_checkpoint}", "trainer.max_epochs=3", small=False, to=made.path)
    assert ran.status == 1 and "epoch 3/3" not in ran.out
    assert f"{made.best_checkpoint} next to it is damaged; copy it again, or remove it" in ran.err
    made.best_checkpoint.unlink()
    ran = train(f"ckpt_path={made.last_checkpoint}", "trainer.max_epochs=3", small=False, to=made.path)
    assert ran.status == 0 and made.best_checkpoint.is_file(), ran.err


@pytest.mark.thorough
def test_without_a_readable_record_the_number_of_test_evaluations_is_unknown(train, made):
    made.record.write_text('{"schema": 2, "sta')
    before = content(made.path)
    refused = train(
        "stages=[test]", f"ckpt_path={made.best_checkpoint}", f"hydra.run.dir={made.path}", small=False, to=made.path
    )
    assert refused.status == 1 and "result.json: is damaged, and an evaluation" in refused.err, refused.err
    assert content(made.path) == before
    longer = train(f"ckpt_path={made.last_checkpoint}", "trainer.max_epochs=3", small=False, to=made.path)
    assert longer.status == 0 and longer.record.test.test_evaluations is None, longer.err
    assert any("evaluated on test is unknown" in each for each in longer.record.run.warnings)
    (folder,) = kept(made)
    assert (folder / "result.json").read_bytes() == before["result.json"]
    again = train(
        "stages=[test]", f"ckpt_path={made.best_checkpoint}", f"hydra.run.dir={made.path}", small=False, to=made.path
    )
    assert again.status == 0 and again.record.test.test_evaluations is None, again.err


@pytest.mark.thorough
def test_images_that_changed_between_sessions(train, two_colors, tmp_path):
    root = Path(shutil.copytree(two_colors, tmp_path / "data"))
    first = train(*SIMPLE_CNN, "trainer.max_epochs=1", root=root, to=tmp_path / "made")
    assert first.status == 0, first.err
    made = RunFolder(first.folder)
    splits, n = made.splits.read_bytes(), first.record.data
    image = sorted((root / "train" / "red").iterdir())[-1]
    image.rename(root / "test" / "red" / image.name)
    moved = f"1 of the {n.n_test + 1} test images have the file names of training images that are gone"
    weights = train(*SIMPLE_CNN, f"model.weights={made.path}", "trainer.max_epochs=1", root=root)
    again = train(f"ckpt_path={made.best_checkpoint}", "stages=[test]", f"hydra.run.dir={tmp_path}/again", small=False,
                  to=tmp_path / "again")  # fmt: skip
    for elsewhere in (weights, again):
        assert sum(moved in each for each in elsewhere.record.run.warnings) == 1, elsewhere.err
    ran = train(f"ckpt_path={made.last_checkpoint}", "trainer.max_epochs=2", small=False, to=made.path)
    assert ran.status == 0, ran.err
    (warning,) = [each for each in ran.record.run.warnings if "have changed since the run began" in each]
    assert f"{n.n_train - 1} train (were {n.n_train}); " in warning
    assert f"{n.n_test} of the test images were test images before" in warning and "1 new, 1 gone" in warning
    assert sum(moved in each for each in ran.record.run.warnings) == 1
    assert ran.record.test.test_evaluations == 3  # with that of `again`
    assert (kept(made)[0] / "splits.csv").read_bytes() == splits


@pytest.mark.thorough
def test_a_run_that_early_stopping_ended_is_not_resumed_without_a_word(train):
    first = train(*STOPPED_EARLY, *SIMPLE_CNN, "optimizer.lr=0.003")
    assert first.status == 0 and "did not improve" in first.record.run.ended_by, first.err
    before = content(first.folder)
    last = f"ckpt_path={RunFolder(first.folder).last_checkpoint}"
    more = ("trainer.max_epochs=7", "++callbacks.early_stopping.patience=3")
    ran = train(last, *more, small=False, to=first.folder)
    assert ran.status == 1 and "to train longer: ++callbacks.early_stopping=null" in ran.err, ran.err
    assert content(first.folder) == before and not list(first.folder.parent.glob("*.replaced"))
    longer = train(last, "trainer.max_epochs=4", "++callbacks.early_stopping=null", small=False, to=first.folder)
    assert longer.status == 0 and len(RunFolder(first.folder).read_metrics()) == 4, longer.err
    assert "Please add the following callbacks" not in longer.err  # the very one that had to be taken away


@pytest.mark.thorough
def test_an_evaluation_counted_after_a_kill_is_not_taken_back(train, made, tmp_path):
    command = [f"ckpt_path={made.last_checkpoint}", "trainer.max_epochs=4"]
    kill_before_training(tmp_path, *command)
    assert increment_test_evaluations(made) == 2
    assert train(command[0], small=False, to=made.path).status == 1
    now = RunRecord.read(made)
    assert (now.status, now.test.test_evaluations) == ("finished", 2)
    assert now.test.accuracy is not None
