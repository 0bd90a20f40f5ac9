"""Latencies of jobs that run side by side: none while others train, all of them at the end."""

import shutil

import pytest
from filelock import FileLock

from common.run_folder import RunFolder
from common.run_record import Deployed, RunRecord, write_record
from engine.run.cost import measure_latency_later
from engine.sweep import latency
from engine.sweep.progress import SweepProgress
from tests.support.fake_runs import change_record, make_run
from tests.support.helpers import SIMPLE_CNN

LATER = "latency: measured at the end of the sweep, when nothing trains"


@pytest.fixture
def beside_others(monkeypatch):
    """Make each job believe that others run beside it, as with a launcher of several processes; not the end of the sweep."""
    monkeypatch.setattr(SweepProgress, "is_training", lambda self, beside=None: beside is not None)


@pytest.mark.thorough
@pytest.mark.parametrize("stages", ["[cost,fit,test]", "[cost]"])
def test_jobs_side_by_side_are_measured_when_all_have_ended(train, tmp_path, beside_others, stages):
    command = ("-m", "seed=1,2", *SIMPLE_CNN, "trainer.max_epochs=1", f"stages={stages}")
    ran = train(*command, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert ran.status == 0, ran.err
    trained, _, measured = ran.out.partition("Latency of 2 runs, measured in turn")
    assert trained.count(LATER) == 2 and "latency p50" not in trained
    assert measured.index("seed-1: latency p50 ") < measured.index("seed-2: latency p50 ") < measured.index("Page: ")
    for name in ("seed-1", "seed-2"):
        record = RunRecord.read(tmp_path / "sweep" / name)
        assert [each.batch_size for each in record.model.latency] == [1, 8] and record.status == "finished"
        assert all(each.cores and each.repeats for each in record.model.latency)
        if "fit" in stages:
            card = record.folder.model_card.read_text()
            assert card.count("- latency at batch size ") == 2 and "checkpoints/best.ckpt" in card
    assert "latency_p50_ms" in (tmp_path / "sweep" / "table.csv").read_text()  # of the page, which is made afterwards


def will_find(monkeypatch, found):
    """Have the next measurements give these flags and latencies in ms, one after the other."""

    def measure(one_pass, threads):
        flag, p50 = found.pop(0)
        timed = {"latency_p50_ms": p50, "latency_p95_ms": p50, "repeats": 5, "warm_up": 3, "flag": flag}
        return timed | {"threads": threads, "cores": 2, "load_1min": 0.5}

    monkeypatch.setattr("lightning_modules.profiling.time_passes", measure)


def test_the_network_of_a_moved_sweep_is_measured(finished_run, tmp_path, monkeypatch):
    moved = RunFolder(shutil.copytree(finished_run.folder, tmp_path / "moved" / "seed-1"))
    change_record(moved.path, best={"checkpoint": str(tmp_path / "sweep" / "seed-1" / "checkpoints" / "best.ckpt")})
    will_find(monkeypatch, [(None, 5.0), (None, 6.0)])
    found = measure_latency_later(RunRecord.read(moved))
    assert [each.latency_p50_ms for each in found] == [5.0, 6.0]


@pytest.mark.thorough
def test_a_disturbed_latency_is_measured_again_by_the_same_command(train, tmp_path, monkeypatch):
    will_find(monkeypatch, [("busy", 99.0), ("busy", 98.0), (None, 5.0)])
    command = ("-m", "seed=1", *SIMPLE_CNN, "datamodule.batch_size=1", "stages=[cost]")
    command = (*command, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    first = train(*command)
    assert "latency p50 99 ms, p95 99 ms at batch size 1 (5 repeats) (unreliable: busy)" in first.out
    assert "1 of them are unreliable; to repeat them, rerun the same command when the machine is idle" in first.out
    again = train(*command)
    assert (
        "already finished, skipping" in again.out
        and "latency p50 5 ms" in again.out
        and "are unreliable" not in again.out
    )
    (measured,) = RunRecord.read(next((tmp_path / "sweep").glob("*/result.json"))).model.latency
    assert (measured.latency_p50_ms, measured.is_reliable) == (5.0, True)


@pytest.mark.thorough
def test_a_run_that_counts_as_unreliable_shows_which_latency_is(train, tmp_path, monkeypatch):
    # Of batches of 1 and 2, in the job and at the end
    will_find(monkeypatch, [(None, 5.0), ("busy", 99.0), (None, 4.0), ("busy", 98.0)])
    command = ("-m", "seed=1", *SIMPLE_CNN, "datamodule.batch_size=2", "stages=[cost]")
    ran = train(*command, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert "latency p50 98 ms, p95 98 ms at batch size 2 (5 repeats) (unreliable: busy)" in ran.out
    assert "1 of them are unreliable" in ran.out


def begun(folder):
    return SweepProgress(folder, ["python"], 2, 0.0)


def test_a_job_of_another_process_is_noticed_by_its_lock(tmp_path, monkeypatch, caplog):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        record = RunRecord(status="finished")
        record.folder = RunFolder(tmp_path / name)
        write_record(record)
    (tmp_path / "a" / ".lock").touch()  # of a killed process
    assert not begun(tmp_path).is_training()
    with FileLock(tmp_path / "b" / ".lock"):
        assert begun(tmp_path).is_training() and begun(tmp_path).is_training(beside=tmp_path / "a")
        assert not begun(tmp_path).is_training(beside=tmp_path / "b")
        monkeypatch.setattr(latency, "_waits", lambda record: True)
        latency.measure_latencies(begun(tmp_path))
    assert "the latencies of 2 runs are not measured yet: another process still runs jobs of this sweep" in caplog.text


def test_a_broken_job_leaves_the_export_of_the_others(tmp_path, monkeypatch, caplog, capsys):
    """The record of one is damaged when its turn comes, and the configuration of another is gone."""
    progress = begun(tmp_path)
    for name in "abcd":
        folder = RunFolder(make_run(tmp_path / name))
        change_record(folder.path, best={"checkpoint": "best.ckpt"})
        folder.config.parent.mkdir(exist_ok=True)
        folder.config.write_text("ckpt_path: null\n")
    RunFolder(tmp_path / "c").config.unlink()
    asked = []

    def deploy(record, name, checkpoint, register):
        asked.append(record.folder.path.name)
        RunFolder(tmp_path / "b").record.write_text("{")  # after the sweep has read it
        record.deployed = Deployed(format=name, file="best.onnx", bytes=7)

    monkeypatch.setattr("engine.run.deploy.deploy", deploy)
    latency.deploy_rest(progress, "onnx", [])
    assert asked == ["a", "c", "d"]
    found = [RunRecord.read(tmp_path / name).deployed for name in ("a", "c", "d")]
    assert [each and each.bytes for each in found] == [7, None, 7]
    shown = [each.getMessage() for each in caplog.records]
    assert len(shown) == 2 and shown[0].startswith("b: not exported: ") and "result.json" in shown[0]
    assert shown[1].startswith("c: not exported: FileNotFoundError(") and "a: as onnx: " in capsys.readouterr().out


@pytest.mark.thorough
def test_a_network_that_is_gone_costs_the_sweep_nothing(train, tmp_path, beside_others, monkeypatch):
    usual = latency._measure

    def without_checkpoint(record):
        record.folder.best_checkpoint.unlink()
        usual(record)

    monkeypatch.setattr(latency, "_measure", without_checkpoint)
    command = ("-m", "seed=1", *SIMPLE_CNN, "trainer.max_epochs=1", "stages=[cost,fit]")
    ran = train(*command, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert ran.status == 0 and "no such checkpoint" in ran.out and "Page: " in ran.out


@pytest.mark.thorough
def test_jobs_of_one_process_measure_networks_of_the_same_structure_once(train, tmp_path, monkeypatch):
    left = [("busy", 5.0), (None, 5.0), (None, 5.0), (None, 5.0)]
    will_find(monkeypatch, left)
    sweep = tmp_path / "sweep"
    command = ("seed=1,2,3", "model=simple_cnn,squeezenet1_1", "datamodule.batch_size=1", "stages=[cost]")
    ran = train("-m", *command, f"hydra.sweep.dir={sweep}")
    assert ran.status == 0, ran.err
    # The first was disturbed, so that the next one of its structure is measured, and at the end its own is taken from there
    assert len(left) == 1
    records = [RunRecord.read(path) for path in sweep.glob("*/result.json")]
    assert len(records) == 6 and all(each.is_reliable for record in records for each in record.model.latency)
    costs = {(record.model.parameters, record.model.macs, record.folder.summary.read_text()) for record in records}
    assert len(costs) == 2
