"""A sweep that was killed ends as one that was not."""

import hashlib
import json
import shutil

import pytest
import torch
from PIL import Image

from callbacks.epoch_logger import EpochLogger
from common.atomic_io import write_json
from common.run_record import RunRecord
from datamodules.memory import Memory
from lightning_modules.networks.simple_cnn import simple_cnn
from tests.support.fake_checkpoints import make_checkpoint
from tests.support.helpers import SIMPLE_CNN, Killed
from tests.support.sweep_results import results


@pytest.mark.thorough
def test_a_killed_sweep_ends_as_one_that_was_not_and_reruns_only_what_failed(train, tmp_path, monkeypatch):
    def sweep(name):
        return train("-m", "seed=1,2", *SIMPLE_CNN, f"hydra.sweep.dir={tmp_path / name}", to=tmp_path / name)

    def killed(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            raise Killed

    undisturbed = sweep("undisturbed")
    assert undisturbed.status == 0, undisturbed.err
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(EpochLogger, "on_train_epoch_start", killed)
        sweep("killed")
    ran = sweep("killed")
    assert ran.status == 0, ran.err
    first_job = ran.out.split("Job 2")[0]
    assert "seed-1: interrupted; resuming from checkpoints/last.ckpt" in first_job
    assert "epoch 2/2" in first_job and "epoch 1/2" not in first_job
    assert "Job 2 of 2: seed-2" in ran.out and "Sweep: 2 of 2 done, 0 running, 0 failed" in ran.out
    assert results(undisturbed.folder) == results(ran.folder)
    for job in ("seed-1", "seed-2"):
        expected, found = (RunRecord.read(each.folder / job) for each in (undisturbed, ran))
        assert found.model.weights == expected.model.weights
    path = ran.folder / "seed-2" / "result.json"
    write_json(path, json.loads(path.read_text()) | {"status": "failed", "reason": "made up"})
    again = sweep("killed")
    assert again.status == 0 and again.out.count("epoch 1/2") == 0
    assert (
        "seed-1: already finished, skipping" in again.out
        and "seed-2: failed; resuming from checkpoints/last.ckpt" in again.out
    )
    # The same network was evaluated on the same images with the same result, which counts once
    assert RunRecord.read(ran.folder / "seed-2").test.test_evaluations == 1


@pytest.mark.thorough
def test_a_sweep_typed_again_names_finished_runs_that_had_other_images(train, two_colors, tmp_path, monkeypatch):
    root = shutil.copytree(two_colors, tmp_path / "images")

    def sweep(*settings):
        monkeypatch.setattr("engine.run.stages.MEMORY", Memory())  # each command is a process of its own
        arguments = ("-m", "seed=1,2", *SIMPLE_CNN, "trainer.max_epochs=1", f"hydra.sweep.dir={tmp_path / 'sweep'}")
        ran = train(*arguments, *settings, root=root, to=tmp_path / "sweep")
        assert ran.status == 0, ran.err
        return ran.out + ran.err

    assert "of this sweep, skipped now" not in sweep()
    again = sweep()
    assert again.count("already finished, skipping") == 2 and "skipped now" not in again
    image = next((root / "train" / "blue").iterdir())
    Image.new("RGB", (48, 48), (0, 90, 200)).save(image.with_name("added.png"))
    assert (
        "have changed since 2 finished runs of this sweep, skipped now: seed-1, seed-2. To retrain them, give the "
        "sweep another folder: hydra.sweep.dir=DIR"
    ) in sweep()
    image.with_name("added.png").unlink()
    image.rename(image.with_name("renamed.png"))  # the same images
    assert "skipped now" not in sweep()
    shutil.move(root, tmp_path / "elsewhere")
    assert "2 finished runs skipped without checking that the images are still the same" in sweep()


@pytest.mark.thorough
@pytest.mark.parametrize(("setting", "field"), [("model.weights", "weights_digest"), ("teacher", "teacher_digest")])
def test_a_sweep_typed_again_names_finished_runs_that_began_with_other_weights(train, tmp_path, setting, field):
    folder, file, network = tmp_path / "sweep", tmp_path / "w.pth", simple_cnn(num_classes=2, image_size=16)

    def sweep(seeds, value=0.1):
        if setting == "teacher":
            make_checkpoint(file, classes=("blue", "red"), image_size=16, mean=[value] * 3, decision=None)
        else:
            torch.nn.init.constant_(next(network.parameters()), value)
            torch.save(network.state_dict(), file)
        arguments = (*SIMPLE_CNN, f"{setting}={file}", "stages=[fit]", "trainer.max_epochs=1")
        ran = train("-m", f"seed={seeds}", *arguments, f"hydra.sweep.dir={folder}", to=folder)
        assert ran.status == 0, ran.err
        return ran.out + ran.err

    assert "skipped now" not in sweep("1")
    digest = hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest()
    assert getattr(RunRecord.read(folder / "job").model, field) == digest
    assert "skipped now" not in sweep("1")  # the same content, written again
    again = sweep("1", value=0.2)
    assert "job: already finished, skipping" in again
    assert (
        f"{setting}={file}: this file has changed since 1 finished run of this sweep, skipped now, began with it: job."
        in again
    )
