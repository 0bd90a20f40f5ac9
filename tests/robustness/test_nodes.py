"""Runs whose processes torchrun or srun has started, as two nodes on this machine."""

import re
import shutil
import signal

import pytest

from common.run_record import RunRecord
from tests.support.helpers import NOT_DRAWN, PROJECT, free_port, outcome, read_csv
from tests.support.processes import BATCH, small_training, start, wait

STOP_AT_STEP = str(PROJECT / "tests" / "support" / "stop_at_step" / "train.py")


def arguments(images, folder, *more):
    """Six steps an epoch for each of two processes."""
    settings = ["trainer=ddp", "trainer.accelerator=cpu", "datamodule.batch_size=2", "trainer.max_epochs=2"]
    settings += [f"hydra.run.dir={folder}", *NOT_DRAWN, *more]
    return [STOP_AT_STEP, *small_training(images, folder.parent, *settings)]


def by_srun(*arguments, nodes=2):
    """Run two tasks with the variables that srun sets."""
    job = {**BATCH, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": str(nodes)}
    job |= {"SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = [
        {"SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank * (nodes - 1)), "SLURM_LOCALID": str(rank * (2 - nodes))}
        for rank in range(2)
    ]
    return wait(*(start(*arguments, variables=job | each) for each in ranks))


def by_torchrun(*arguments, **variables):
    """Run torchrun on two nodes, a process each."""
    launcher = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1"]
    launcher += [f"--master-port={free_port()}"]
    return wait(*(start(*launcher, f"--node-rank={node}", *arguments, variables=variables) for node in range(2)))


@pytest.mark.thorough
@pytest.mark.timeout(200)
def test_tasks_of_srun_train_one_network(train, two_colors, tmp_path):
    folder = tmp_path / "outputs" / "run"
    first, other = by_srun(*arguments(two_colors, folder, "trainer.max_epochs=1"))
    assert first[0] == other[0] == 0, first[2] + other[2]
    assert first[1].count("Test accuracy") == first[1].count("epoch 1/1") == 1 and other[1] == other[2] == ""
    record = RunRecord.read(folder)
    assert (record.run.processes, record.run.nodes, record.test.accuracy.n) == (2, 2, 14)
    paths = [row["path"] for row in read_csv(folder / "predictions.csv")]
    assert len(paths) == len(set(paths)) == 14
    checkpoint, again = f"ckpt_path={folder}/checkpoints/best.ckpt", tmp_path / "again"
    single = train("stages=[test]", checkpoint, "trainer=cpu", f"hydra.run.dir={again}", small=False, to=again)
    assert single.record.test.accuracy == record.test.accuracy and single.record.run.nodes == 1


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_torchrun_srun_and_lightning_train_the_same_network(two_colors, tmp_path):
    folders = [tmp_path / "outputs" / name for name in ("torchrun", "srun", "lightning")]
    given = [arguments(two_colors, folder) for folder in folders]
    ended = [*by_torchrun(*given[0]), *by_srun(*given[1], nodes=1), *wait(start(*given[2], "trainer.devices=2"))]
    assert {status for status, *_ in ended} == {0}, ended
    assert outcome(folders[0]) == outcome(folders[1]) == outcome(folders[2])
    runs = [RunRecord.read(folder).run for folder in folders]
    assert [(run.processes, run.nodes) for run in runs] == [(2, 2), (2, 1), (2, 1)]


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("node", [0, 1])
def test_a_signal_to_the_process_of_one_node_ends_both_and_the_same_command_resumes(two_colors, tmp_path, node):
    straight, folder = tmp_path / "outputs" / "straight", tmp_path / "outputs" / "run"
    assert [status for status, *_ in by_torchrun(*arguments(two_colors, straight))] == [0, 0]
    first, _ = by_torchrun(*arguments(two_colors, folder), STOP_AT=f"{node}:9:{int(signal.SIGTERM)}")
    assert first[0] and first[2].count("stopped by SIGTERM. Resume with: torchrun ... train.py ckpt_path=") == 1
    first, other = by_torchrun(*arguments(two_colors, folder))
    assert first[0] == other[0] == 0 and "run: interrupted; resuming from checkpoints/last.ckpt" in first[1]
    assert outcome(folder) == outcome(straight)


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("launch", [by_torchrun, by_srun])
def test_what_is_refused_is_one_line_of_the_first_process(two_colors, tmp_path, launch):
    folder = tmp_path / "outputs" / "run"
    first, other = launch(*arguments(two_colors, folder, "datamodule.batch_size=99"))
    assert first[0] == other[0] == 1 and "ERROR: " not in other[2]
    assert first[2].count("ERROR: datamodule.batch_size=99 is larger than the train split") == 1
    assert not (folder / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_process_that_is_killed_while_it_reads_images_is_named(two_colors, tmp_path):
    code = (
        "import os, sys; sys.argv[0] = 'train.py'; import train; from engine import cli, heartbeat, processes\n"
        "from datamodules.image_datamodule import ImageDataModule\n"
        "heartbeat.BEAT_S, heartbeat.SILENT_S = 0.5, 5.0\n"
        "if os.environ['SLURM_PROCID'] == '1': ImageDataModule.setup = lambda *_: os.kill(os.getpid(), 9)\n"
        "cli.run_cli(train.main)"
    )
    first, other = by_srun("-c", code, *arguments(two_colors, tmp_path / "outputs" / "run")[1:])
    assert (first[0], other[0]) == (1, -signal.SIGKILL), first[2]
    assert re.search(r"^ERROR: process 1 on node 1 \(.+\) has given no sign of life", first[2], re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_without_a_folder_all_processes_write_into_the_same_dated_one(two_colors, tmp_path):
    given = [each for each in arguments(two_colors, tmp_path / "run") if not each.startswith("hydra.run.dir=")]
    first, other = by_torchrun(*given, "trainer.max_epochs=1", "model.name=of_two_nodes")
    assert first[0] == other[0] == 0, first[2] + other[2]
    (folder,) = (PROJECT / "outputs" / "of_two_nodes").iterdir()
    try:
        assert f"\nRun: {folder.relative_to(PROJECT)}\n" in first[1] and RunRecord.read(folder).run.nodes == 2
    finally:
        shutil.rmtree(folder.parent)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_tasks_of_srun_with_one_process_each_are_runs_of_their_own(two_colors, tmp_path):
    """As `srun -n 2 bash -c 'python train.py seed=$SLURM_PROCID'` starts them; Lightning would write for the first only."""
    first, other = tmp_path / "outputs" / "a", tmp_path / "outputs" / "b"
    job = {**BATCH, "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1"}
    ended = wait(
        *(
            start(*arguments(two_colors, folder, "trainer=cpu", "trainer.max_epochs=1"),
                  variables=job | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)})
            for rank, folder in enumerate((first, other))
        )
    )  # fmt: skip
    assert [status for status, *_ in ended] == [0, 0], ended
    for folder, (_, out, _) in zip((first, other), ended, strict=True):
        assert RunRecord.read(folder).run.processes == 1 and "one of 2 srun tasks, each with a run of its own" in out
        assert list(folder.glob("events.out.tfevents.*")) and (folder / "predictions.csv").is_file()
