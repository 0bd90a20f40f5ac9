"""Which process of a run this one is, by the variables of torchrun, srun and Lightning, and what the processes agree on."""

import signal
import socket
import threading
import time

import pytest
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from common.errors import StopRequested, UserError
from engine import heartbeat, processes
from engine.processes import FirstProcessFailed, Process, launched_process, process_of_run, trainer_settings
from tests.support.processes import BATCH

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none", "RANK": "3", "LOCAL_RANK": "1", "GROUP_RANK": "1", "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
}  # fmt: skip
SHELL = {"SLURM_JOB_ID": "5", "SLURM_JOB_NAME": "interactive", "SLURM_NTASKS": "2", "SLURM_NNODES": "1"}
STEP = {**BATCH, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_TASKS_PER_NODE": "2"}
SRUN = {**STEP, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}
SRUN_NODES = {**SRUN, "SLURM_STEP_NUM_NODES": "2", "SLURM_LOCALID": "0", "SLURM_NODEID": "1"}
FIRST = Process("srun", 0, 0, 0, 2, 2)
OTHER = FIRST._replace(rank=1, node_rank=1)


@pytest.mark.parametrize(
    ("environment", "process"),
    [
        pytest.param({}, Process(), id="none"),
        pytest.param(TORCHRUN, Process("torchrun", 3, 1, 1, 4, 2), id="torchrun"),
        pytest.param(TORCHRUN | SRUN, Process("torchrun", 3, 1, 1, 4, 2), id="torchrun that srun has started"),
        pytest.param(SRUN, Process("srun", 1, 1, 0, 2, 1), id="srun"),
        pytest.param(SRUN_NODES, Process("srun", 1, 0, 1, 2, 2), id="srun on two nodes"),
        pytest.param(SHELL | SRUN, Process("srun", 1, 1, 0, 2, 1), id="srun in a shell of salloc"),
        pytest.param(BATCH, Process(), id="batch script of a job of two tasks"),
        pytest.param(SHELL, Process(), id="interactive shell of a job of two tasks"),
        pytest.param(STEP | {"SLURM_STEP_NUM_TASKS": "1"}, Process(), id="one task in a job of two"),
        pytest.param({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, Process("", 1, 1, 0, 2, 1), id="started by Lightning"),
    ],
)
def test_a_process_is_found_by_the_variables_of_its_launcher(environment, process):
    assert launched_process(environment) == process


@pytest.mark.parametrize(("environment", "missing"), [(TORCHRUN, "LOCAL_RANK"), (SRUN, "SLURM_PROCID")])
def test_half_of_the_variables_of_a_launcher_are_refused(environment, missing):
    with pytest.raises(UserError, match=f"^{missing}=: is not a number"):
        launched_process({name: value for name, value in environment.items() if name != missing})


@pytest.mark.parametrize(
    ("environment", "kind"),
    [(TORCHRUN, TorchElasticEnvironment), (SRUN, SLURMEnvironment), (SRUN_NODES, SLURMEnvironment)],
)
def test_lightning_finds_the_same(monkeypatch, environment, kind):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "8")  # of the job around
    process = process_of_run("ddp")
    found = processes.cluster_environment(process)
    assert isinstance(found, kind)
    ranks = found.global_rank(), found.local_rank(), found.node_rank(), found.world_size()
    assert ranks == (process.rank, process.local_rank, process.node_rank, process.world_size)
    settings = trainer_settings(process, {"devices": "auto"})
    assert settings == {"devices": process.world_size // process.nodes, "num_nodes": process.nodes}
    found.validate_settings(num_devices=settings["devices"], num_nodes=settings["num_nodes"])


def test_tasks_of_srun_with_one_process_or_with_jobs_of_a_sweep_are_runs_of_their_own(monkeypatch):
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)
    assert process_of_run("auto") == process_of_run("ddp", in_sweep=True) == Process()


@pytest.mark.parametrize(
    ("environment", "ask", "message"),
    [
        (TORCHRUN, lambda: process_of_run("auto"), "torchrun has started 4 processes.*strategy=auto.*: trainer=ddp"),
        (TORCHRUN, lambda: process_of_run("auto", in_sweep=True), "each job of a sweep.*start it without torchrun"),
        ({"NODE_RANK": "1"}, lambda: process_of_run("ddp"), "NODE_RANK=1: .*torchrun --nnodes=2.*srun --nodes=2"),
        (TORCHRUN, lambda: trainer_settings(process_of_run("ddp"), {"devices": 4}),
         "trainer.devices=4: torchrun has started 2 processes on each node; use trainer.devices=auto"),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_NUM_NODES": "2"},
         lambda: trainer_settings(process_of_run("ddp"), {}), "3 processes on 2 nodes; start as many on each"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_launcher_is_refused(monkeypatch, environment, ask, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        ask()


@pytest.fixture
def both(monkeypatch):
    """Run a function in each of two threads, as the two processes of a run; return what each returned or raised."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setattr(processes, "_found", {})
    monkeypatch.setattr(processes, "ANSWER_S", 1.0)
    monkeypatch.setattr(processes, "SEEN_S", 0.5)

    def run(first, other):
        ended = {}

        def work(process, do):
            try:
                ended[process.rank] = do(process)
            except BaseException as error:
                ended[process.rank] = error

        threads = [threading.Thread(target=work, args=each) for each in ((FIRST, first), (OTHER, other))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return ended[0], ended[1]

    return run


def test_all_processes_learn_the_value_of_the_first(both):
    def ask(process):
        return processes.share(process, "folder", "outputs/a" if process.is_first else None)

    assert both(ask, ask) == ("outputs/a", "outputs/a")


def test_other_images_on_another_node_end_both_with_one_message(both):
    def work(process):
        try:
            processes.check_same_images(process, "abc" if process.is_first else "xyz")
        except Exception as error:
            return processes.agreed_error(process, error, str(error))

    first, other = both(work, work)
    assert str(first) == "process 1 has different images or splits than the first process (xyz, not abc)"
    assert isinstance(other, FirstProcessFailed)


def test_the_first_process_shows_why_another_one_has_ended(both):
    def fail(process):
        return processes.agreed_error(process, UserError("no permission"), "no permission")

    def lose(process):
        return processes.agreed_error(process, RuntimeError("Connection closed by peer"), "lost", lost=True)

    first, other = both(lose, fail)
    assert str(first) == "process 1 on node 1: no permission" and isinstance(other, FirstProcessFailed)


def test_an_error_that_the_first_process_never_shows_is_shown_by_the_other(both):
    _, other = both(processes._store, lambda process: processes.agreed_error(process, UserError("x"), "x"))
    assert str(other) == "process 1 on node 1: x"


def test_what_another_process_has_shown_is_recorded_but_not_shown_again(both, monkeypatch):
    monkeypatch.setattr(processes, "ANSWER_S", 0.5)
    ended = threading.Event()

    def fail(process):
        error = processes.agreed_error(process, UserError("no permission"), "no permission")
        ended.set()
        return error

    def lose(process):  # which waits for the other one in a step, until that has ended
        processes._store(process)
        ended.wait(60)
        return processes.agreed_error(process, RuntimeError("Connection closed by peer"), "lost", lost=True)

    first, other = both(lose, fail)
    assert str(first) == str(other) == "process 1 on node 1: no permission"
    assert isinstance(first, processes.ShownElsewhere) and not isinstance(other, processes.ShownElsewhere)


def test_a_signal_to_one_of_them_ends_a_wait_of_the_other(both):
    first, other = both(
        lambda process: processes.check_same_images(process, "a"), lambda process: processes.announce_stop(process, 15)
    )
    assert isinstance(first, StopRequested) and first.number == 15 and other is None


@pytest.fixture
def quick_watch(monkeypatch):
    for name, seconds in (("BEAT_S", 0.05), ("LOOK_S", 0.1), ("SILENT_S", 0.5)):
        monkeypatch.setattr(heartbeat, name, seconds)


@pytest.mark.thorough
def test_a_process_that_reads_for_long_is_waited_for(both, quick_watch):
    def read(process):
        processes._store(process)
        time.sleep(1.5)
        return processes.check_same_images(process, "a")

    assert both(lambda process: processes.check_same_images(process, "a"), read) == (None, None)


def test_the_first_process_says_which_one_was_killed(both, quick_watch, monkeypatch):
    monkeypatch.setattr(processes, "beat", lambda store, rank, name: store.set(f"alive {rank}", f"7 {name} (host)"))
    first, _ = both(lambda process: processes.check_same_images(process, "a"), processes._store)
    assert str(first).startswith("process 1 on node 1 (host) has given no sign of life for 60 s: it was killed")


@pytest.mark.parametrize("process", [FIRST, OTHER])
def test_a_process_that_finds_no_other_one_says_so_once(both, monkeypatch, process):
    monkeypatch.setattr(processes, "CONNECT_S", 0.2)
    started = time.monotonic()
    with pytest.raises(UserError, match="the 2 processes of srun cannot connect there") as caught:
        processes.share(process, "folder")
    agreed = processes.agreed_error(process, caught.value, str(caught.value))
    assert isinstance(agreed, UserError) and str(agreed).endswith(str(caught.value))
    assert time.monotonic() - started < 10.0  # the error does not look for them again


@pytest.mark.parametrize("process", [FIRST, OTHER])
def test_a_signal_ends_the_search_for_the_others(both, process):
    def stop(number, frame):
        raise StopRequested(number)

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(StopRequested):
            processes.share(process, "folder")
    finally:
        signal.signal(signal.SIGALRM, before)
    processes.announce_stop(process, signal.SIGTERM)  # without another search


def test_a_folder_that_the_nodes_do_not_share_is_refused(both, tmp_path):
    for name in ("here", "there"):
        (tmp_path / name / ".hydra").mkdir(parents=True)
        (tmp_path / name / ".hydra" / "config.yaml").write_text(name)

    def check(process):
        name = "here" if process.is_first else "there"
        return processes.check_shared(process, tmp_path / name / ".hydra" / "config.yaml")

    first, other = both(check, check)
    assert first is None and "there: is not the folder that the first process writes to" in str(other)
