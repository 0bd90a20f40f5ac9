"""A disk that fills up while a run writes, at several moments. Most of it needs the right to mount one."""

import errno
import subprocess

import pytest

from callbacks.epoch_logger import EpochLogger
from engine.run import tensorboard
from engine.run.tensorboard import TensorBoard
from reports.report import write_report
from tests.support.fake_runs import make_run


@pytest.fixture
def disk(tmp_path):
    """A disk of 12 MiB that can be filled and freed."""
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


def at_epoch(monkeypatch, epoch, action):
    whole = EpochLogger.on_train_epoch_start

    def then(self, trainer, pl_module):
        if trainer.current_epoch == epoch:
            action()
        whole(self, trainer, pl_module)

    monkeypatch.setattr(EpochLogger, "on_train_epoch_start", then)


LONGER = ("trainer.max_epochs=4", "optimizer.lr=0.01")


@pytest.fixture(scope="module")
def kept():
    return []


@pytest.fixture
def straight(train, kept):
    """The undisturbed run, once for all tests here."""
    if not kept:
        kept.append(train(*LONGER))
    return kept[0]


def test_full_for_a_while_training_goes_on_and_nothing_is_lost(train, straight, disk, monkeypatch):
    at_epoch(monkeypatch, 1, disk.fill)
    at_epoch(monkeypatch, 3, disk.free)
    ran = train(*LONGER, to=disk.place / "run", drawn=True)
    assert ran.status == 0, ran.err
    warnings = " ".join(ran.record["run"]["warnings"])
    assert "metrics.csv is not written (No space left on device)" in warnings
    assert "last.ckpt cannot be written (No space left on device): training goes on" in warnings
    for name in ("metrics.csv", "predictions.csv"):
        assert (ran.folder / name).read_bytes() == (straight.folder / name).read_bytes()
    assert ran.record["test"] == straight.record["test"] and "Traceback" not in ran.out + ran.err


def test_full_to_the_end_the_best_model_is_kept_elsewhere_and_the_message_says_where(
    train, straight, disk, monkeypatch, tmp_path
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    at_epoch(monkeypatch, 0, disk.fill)
    ran = train(*LONGER, to=disk.place / "run", drawn=True)
    assert ran.status == 1 and "Traceback" not in ran.out + ran.err, ran.err
    assert "no space is left on the disk" in ran.err and "result.json" in ran.err
    kept = list(tmp_path.glob("justenough-*/best.ckpt"))
    assert len(kept) == 1 and f"it is {kept[0]}" in ran.out
    accuracy = straight.record["test"]["accuracy"]["value"]
    assert f"Accuracy test: {accuracy:.4f}" in ran.out  # what was found out is told all the same


def without_tensorboard(ran, straight):
    assert ran.status == 0 and "Traceback" not in ran.out + ran.err, ran.err
    (warning,) = [text for text in ran.record["run"]["warnings"] if "TensorBoard" in text]
    assert warning == f"{ran.folder}: no TensorBoard (No space left on device); the run goes on"
    assert ran.out.count("no TensorBoard") == 1 and not list(ran.folder.glob("events.out*"))
    assert (ran.folder / "predictions.csv").read_bytes() == (straight.folder / "predictions.csv").read_bytes()


def test_full_from_the_start_there_is_no_tensorboard(train, straight, disk, monkeypatch):
    begin = TensorBoard.__init__

    def then(self, **arguments):
        disk.fill()
        begin(self, **arguments)

    monkeypatch.setattr(TensorBoard, "__init__", then)
    at_epoch(monkeypatch, 3, disk.free)
    without_tensorboard(train(*LONGER, to=disk.place / "run", drawn=True), straight)


def test_without_the_right_to_mount_too(train, straight, monkeypatch):

    def write_bytes(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(tensorboard, "write_bytes", write_bytes)
    without_tensorboard(train(*LONGER, drawn=True), straight)


def test_a_store_on_a_full_disk(train, disk):
    disk.fill()
    ran = train(f"datamodule.cache={disk.place / 'cache'}")
    assert ran.status == 0 and "images are decoded anew each epoch" in ran.out


def test_a_report_on_a_full_disk(disk, tmp_path):
    make_run(tmp_path / "runs" / "a", epochs=0)
    disk.fill()
    with pytest.raises(ValueError, match="No space left on device; use out=DIR"):
        write_report(str(tmp_path / "runs"), out=str(disk.place))
    assert [path.name for path in disk.place.iterdir()] == ["ballast"]
