"""A disk that fills up while a run writes: one line ends the run, what was written stays whole, and it can be resumed.

Most of it needs the right to mount a disk.
"""

import errno
import re
import subprocess
import tempfile
from types import SimpleNamespace

import pytest
import torch
from tensorboard.compat.tensorflow_stub.io import gfile

from callbacks import image_logger
from callbacks.epoch_logger import EpochLogger
from callbacks.image_logger import save_figure
from common.atomic_io import replace_folder
from common.errors import UserError
from common.run_folder import RunFolder
from common.run_record import RunRecord
from engine.run.loggers import TensorBoard, _quiet_threads
from inference.export.export import _format_errors, export
from inference.export.torch_export import TorchExport
from lightning_modules.checkpoint import epochs_done, load_network
from reports.report import write_report
from tests.support.fake_runs import make_run
from tests.support.helpers import SIMPLE_CNN


@pytest.fixture
def disk(tmp_path):
    """Mount a disk of 12 MiB that can be filled and freed."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a disk of a limited size")
    yield Disk(place)
    subprocess.run(["umount", "--lazy", place], check=True)


class Disk:
    def __init__(self, place):
        self.place = place

    def fill(self):
        with (self.place / "ballast").open("wb", buffering=0) as file:
            for size in (2**20, 2**12, 1):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError:
                    continue

    def free(self):
        (self.place / "ballast").unlink()


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def ends_in_one_line(ran):
    assert ran.status == 1 and "Traceback" not in ran.out + ran.err, ran.err
    errors = [line for line in ran.err.splitlines() if line]
    assert len(errors) == 1 and errors[0].startswith("ERROR: "), ran.err
    assert "no space is left on the disk; free some, or write elsewhere: hydra.run.dir=DIR" in errors[0]


@pytest.mark.thorough
def test_filled_while_it_trains_the_best_checkpoint_stays_and_it_resumes_to_the_same_bits(
    train, finished_run, disk, monkeypatch
):
    usual = EpochLogger.on_train_epoch_start

    def fill(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            disk.fill()
        usual(self, trainer, pl_module)

    with monkeypatch.context() as patched:
        patched.setattr(EpochLogger, "on_train_epoch_start", fill)
        ran = train(to=disk.place / "run")
    ends_in_one_line(ran)
    folder = RunFolder(ran.folder)
    assert f"could not write {folder.record} (No space left on device); continuing" in ran.out
    assert ran.record.status == "running"  # the whole record of before
    assert epochs_done(folder.best_checkpoint) == epochs_done(folder.last_checkpoint) == 1
    load_network(folder.best_checkpoint)
    assert not [path for path in ran.folder.rglob(".*") if path.is_file()]  # nothing half written
    disk.free()
    resumed = train(f"ckpt_path={folder.last_checkpoint}", small=False, to=ran.folder)
    assert resumed.status == 0, resumed.err
    for name in ("metrics.csv", "predictions.csv"):
        assert (ran.folder / name).read_bytes() == (finished_run.folder / name).read_bytes()
    assert resumed.record.test == finished_run.record.test


def test_full_from_the_start(train, disk):
    (disk.place / "run").mkdir()
    disk.fill()
    ran = train(to=disk.place / "run")
    ends_in_one_line(ran)
    assert not (ran.folder / "checkpoints").exists() and not (ran.folder / "result.json").exists()


def test_an_error_of_tensorboards_thread_is_raised_here_and_ending_is_quiet(tmp_path, monkeypatch, capsys):
    logger = TensorBoard(str(tmp_path))
    logger.log_metrics({"val/loss": 1.0}, step=1)
    logger.save()
    monkeypatch.setattr(gfile.LocalFileSystem, "append", full)
    monkeypatch.setattr(gfile.LocalFileSystem, "write", full)
    with _quiet_threads(), pytest.raises(OSError, match="No space left on device"):
        for step in range(2, 200):
            logger.experiment.add_image("image", torch.zeros(3, 64, 64), step)
            logger.save()
    logger.finalize("failed")
    assert capsys.readouterr().err == ""


def test_figures_are_skipped(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(image_logger, "write_bytes", full)
    trainer = SimpleNamespace(default_root_dir=str(tmp_path), loggers=[])
    save_figure(trainer, "feature_maps", b"PNG")
    assert f"could not write {tmp_path / 'feature_maps.png'} (No space left on device); continuing" in caplog.text


def test_a_pixel_cache_on_a_full_disk(train, disk):
    disk.fill()
    ran = train(f"datamodule.cache={disk.place / 'cache'}", "trainer.max_epochs=1", "stages=[fit]", *SIMPLE_CNN)
    assert ran.status == 0 and "pixel cache: could not write" in ran.out


def test_a_record_that_cannot_be_written_is_reported_in_one_line(train, monkeypatch):
    monkeypatch.setattr(RunRecord, "save", full)
    ran = train("stages=[cost]", *SIMPLE_CNN)
    ends_in_one_line(ran)
    assert not ran.folder.exists()  # nothing was done


def test_a_report_on_a_full_disk(disk, tmp_path):
    make_run(tmp_path / "runs" / "a", epochs=0)
    disk.fill()
    with pytest.raises(ValueError, match="No space left on device; use out=DIR"):
        write_report(str(tmp_path / "runs"), out=str(disk.place / "new" / "folder"))
    assert [path.name for path in disk.place.iterdir()] == ["ballast"]


def test_an_exported_folder_on_a_full_disk(disk, tmp_path):
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "index.html").write_bytes(b"x" * 2**16)
    disk.fill()
    with pytest.raises(OSError, match="No space left on device") as caught:
        replace_folder(tmp_path / "web", disk.place / "page")
    assert caught.value.errno == errno.ENOSPC and caught.value.strerror == "No space left on device"
    assert [path.name for path in disk.place.iterdir()] == ["ballast"]


@pytest.mark.thorough
def test_a_torch_export_on_a_full_disk(finished_run, disk, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(disk.place))
    (disk.place / "ballast").write_bytes(b"x" * (12 * 2**20 - 2**15))  # room for the folder, not for the file
    words = rf"^{re.escape(str(disk.place))}: cannot be written \(No space left on device\); free some space"
    with pytest.raises(UserError, match=words):
        export(
            str(finished_run.folder / "checkpoints" / "best.ckpt"), format=TorchExport(), out=str(disk.place / "a.pt2")
        )
    assert [path.name for path in disk.place.iterdir() if path.is_file()] == ["ballast"]


def test_a_full_temporary_folder_is_what_export_names(tmp_path, monkeypatch):
    """Another `out` would not help."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    words = rf"^{re.escape(str(tmp_path))}: cannot be written \(No space left on device\); free some space, or use TMPDIR=DIR$"
    with pytest.raises(UserError, match=words), _format_errors("format=onnx", "write"):
        raise OSError(errno.ENOSPC, "No space left on device")
    elsewhere = OSError(errno.ENOSPC, "No space left on device", "/elsewhere/runtime")
    with pytest.raises(OSError, match="elsewhere"), _format_errors("format=web", "write"):
        raise elsewhere
