"""Find out from the launcher's variables which process of a run this one is, and pass messages between the processes.

With trainer=ddp a run has several processes. torchrun and srun start all of them, on one node or several; without a launcher,
the first process has Lightning start the others on this machine. Only the first process (rank 0) writes the record, holds the
folder's lock and logs on the screen. Before Lightning connects them, and about errors, they use torch's key-value store.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import socket
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from common.errors import StopRequested, UserError
from common.progress import Progress
from engine.heartbeat import SILENT_S, Watch, beat, has_beaten

log = logging.getLogger(__name__)

CONNECT_S = 300.0  # time for all processes to start and import torch
ANSWER_S = 10.0  # time for another process to name the error that ended it
SEEN_S = 60.0  # until a file is visible on another node: network file systems cache for a while that it was missing
POLL_S = 0.1
SHOWN_EVERY_S = 20.0
FAILED, FAILED_ELSEWHERE, STOPPED = "failed", "failed elsewhere", "stopped"  # keys of the first, another, any process
SHOWN = "shown"  # key: another process has shown its error itself


class FirstProcessFailed(Exception):  # noqa: N818 the first process shows the error
    """End a process of a run whose first process has ended with an error."""


class ShownElsewhere(UserError):  # noqa: N818 another process has shown the error
    """End the first process with an error that another process has shown already, having got no answer from the first."""


class Process(NamedTuple):
    """One of the processes that train a network together."""

    launcher: str = ""  # torchrun or srun; empty: started by hand or by Lightning
    rank: int = 0  # among all processes; 0 is the first one
    local_rank: int = 0  # among those of its node
    node_rank: int = 0
    world_size: int = 1  # processes of all nodes
    nodes: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def is_launched(self) -> bool:
        """Whether a launcher started all processes, so that each knows only what it found itself."""
        return bool(self.launcher) and self.world_size > 1

    @property
    def name(self) -> str:
        return f"process {self.rank}" + (f" on node {self.node_rank}" if self.nodes > 1 else "")


def launched_process(given: Mapping[str, str] = os.environ) -> Process:
    """Return what the launcher's variables say about this process, whether or not its run uses several processes.

    SLURM also sets most of its variables in the batch script and in an interactive shell of a job. Only a task started by srun
    has SLURM_STEP_NUM_TASKS, which counts the tasks of its step, even where the job has more.

    Raises:
        UserError: a variable is missing among those that torchrun and srun set together.
    """
    try:
        return _launched_process(given, {name: int(text) for name, text in given.items() if re.fullmatch(r"\d+", text)})
    except KeyError as error:
        launcher = "torchrun" if "TORCHELASTIC_RUN_ID" in given else "srun"
        raise UserError(
            f"{error.args[0]}={given.get(error.args[0], '')}: is not a number, although {launcher} sets one with its other "
            f"variables; start with {launcher}, or in a shell without its variables"
        ) from None


def _launched_process(given: Mapping[str, str], found: Mapping[str, int]) -> Process:
    if "TORCHELASTIC_RUN_ID" in given and "RANK" in found:  # checked before srun, which may start torchrun on each node
        return Process(
            "torchrun", found["RANK"], found["LOCAL_RANK"], found.get("GROUP_RANK", 0), found["WORLD_SIZE"],
            found.get("GROUP_WORLD_SIZE", 1),
        )  # fmt: skip
    if found.get("SLURM_STEP_NUM_TASKS", 1) > 1:
        return Process(
            "srun", found["SLURM_PROCID"], found["SLURM_LOCALID"], found["SLURM_NODEID"], found["SLURM_STEP_NUM_TASKS"],
            found.get("SLURM_STEP_NUM_NODES", 1),
        )  # fmt: skip
    local_rank = found.get("LOCAL_RANK", 0)  # set by Lightning for the processes it starts on this machine
    return Process("", local_rank, local_rank, 0, max(found.get("WORLD_SIZE", 1), local_rank + 1), 1)


def process_of_run(strategy: object, *, in_sweep: bool = False) -> Process:
    """Return which process of its run this one is.

    srun's tasks are separate runs where each trains in one process (trainer.strategy=auto) or takes jobs of a sweep.

    Args:
        strategy: `trainer.strategy`.

    Raises:
        UserError: torchrun, which connects its processes, started a run of one process; or NODE_RANK is set without a launcher.
    """
    process, together = launched_process(), str(strategy).startswith("ddp") and not in_sweep
    if process.launcher == "torchrun" and process.world_size > 1 and not together:
        raise UserError(
            f"torchrun has started {process.world_size} processes, and "
            + ("each job of a sweep or a search trains in one; start it without torchrun" if in_sweep else
               f"trainer.strategy={strategy} trains in one; to train in all of them: trainer=ddp")
        )  # fmt: skip
    if together and not process.launcher and os.environ.get("NODE_RANK", "0") != "0":
        raise UserError(
            f"NODE_RANK={os.environ['NODE_RANK']}: start a run on several nodes with torchrun or srun: {on_nodes()}"
        )
    return process if together else Process()


def on_nodes() -> str:
    """Return the commands that start a run on several nodes."""
    return (
        "torchrun --nnodes=2 --node-rank=N --nproc-per-node=GPUS --master-addr=NODE0 train.py trainer=ddp on each node, or "
        "srun --nodes=2 --ntasks-per-node=GPUS python train.py trainer=ddp"
    )


def starts_processes(launcher: Mapping) -> bool:
    """Return whether Hydra's configured launcher starts processes for its jobs; the basic one runs them here, in turn."""
    return not launcher["_target_"].endswith(".BasicLauncher")


def trainer_settings(process: Process, trainer: Mapping) -> dict:
    """Return `devices` and `num_nodes` for Lightning where a launcher determines them.

    Raises:
        UserError: other devices were asked for, or the nodes have different numbers of processes.
    """
    if not process.is_launched:
        return {}
    here = process.world_size // process.nodes
    if here * process.nodes != process.world_size:
        raise UserError(
            f"{process.launcher} has started {process.world_size} processes on {process.nodes} nodes; start as many on each"
        )
    devices = trainer.get("devices")
    asked = len(devices) if isinstance(devices, list | tuple) else int(devices) if str(devices).isdigit() else None
    if asked is not None and asked != here:
        raise UserError(
            f"trainer.devices={devices}: {process.launcher} has started {here} processes on each node; use "
            "trainer.devices=auto"
        )
    return {"devices": devices if isinstance(devices, list | tuple) else here, "num_nodes": process.nodes}


def cluster_environment(process: Process):
    """Return Lightning's environment for the launcher, so that its ranks are those of `process`."""
    from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment

    if process.launcher == "torchrun":
        return TorchElasticEnvironment()
    if process.launcher == "srun":
        # Lightning takes these for srun's arguments, but they may be missing or describe the whole job instead of the step
        os.environ["SLURM_NTASKS"] = str(process.world_size)
        os.environ["SLURM_NTASKS_PER_NODE"] = str(process.world_size // process.nodes)
        os.environ["SLURM_NNODES"] = str(process.nodes)
        return SLURMEnvironment(auto_requeue=False)  # engine/run/job.py requeues
    return LightningEnvironment()


def share(process: Process, key: str, value: object = None) -> object:
    """Return the first process's value in every process of a run.

    Raises:
        FirstProcessFailed: the first process ended before it shared a value.
    """
    if not process.is_launched:
        return value
    if process.is_first:
        _store(process).set(key, json.dumps(value))
        return value
    _wait(process, {key: 0})
    return json.loads(_store(process).get(key))


def check_same_images(process: Process, fingerprint: str) -> None:
    """Wait until all processes have come here, with the same fingerprint of images and splits.

    Raises:
        UserError: a process has another one, or one has failed.
        FirstProcessFailed: the first process has failed; raised in the others.
    """
    if not process.is_launched:
        return
    store, keys = _store(process), [f"images {rank}" for rank in range(process.world_size)]
    store.set(keys[process.rank], fingerprint)
    _wait(process, {each: rank for rank, each in enumerate(keys)})
    for rank, other in enumerate(keys):
        if (found := store.get(other).decode()) != (first := store.get(keys[0]).decode()):
            raise UserError(
                f"process {rank} has different images or splits than the first process ({found}, not {first})"
            )


def check_shared(process: Process, file: Path) -> None:
    """Check that every process can see a file that the first one has written.

    Raises:
        UserError: this process cannot.
    """
    if not process.is_launched:
        return

    def digest() -> str:
        return hashlib.blake2b(file.read_bytes()).hexdigest() if file.is_file() else ""

    wanted, end = share(process, "shared", digest()), time.monotonic() + SEEN_S
    while digest() != wanted:
        if time.monotonic() > end:
            raise UserError(
                f"{file.parent.parent}: is not the folder that the first process writes to; a run on several nodes "
                "needs a folder that all of them share: hydra.run.dir=DIR"
            )
        time.sleep(POLL_S)


def agreed_error(process: Process, error: Exception, message: str | None, *, lost: bool = False) -> Exception:
    """Return the error with which this process is to end: FirstProcessFailed where the first process shows the error.

    Args:
        message: the error's text for the user; None for a defect.
        lost: whether the error only means that another process has ended; the first process then returns that one's error.
    """
    if not process.is_launched or isinstance(error, FirstProcessFailed):
        return error
    try:
        store = _store(process)
        if process.is_first:
            if lost and (cause := _ask(store, FAILED_ELSEWHERE)):
                error = _error_elsewhere(store, cause)
            store.set(FAILED, "")
            return error
        if not lost:
            store.set(FAILED_ELSEWHERE, f"{process.name}: {message or f'{type(error).__name__}: {error}'}")
        if _ask(store, FAILED) is not None:
            return FirstProcessFailed()
        store.set(SHOWN, "")  # the first process may still wait for this one in the middle of a step
    except (RuntimeError, UserError):  # the store ended with the first process or its launcher, or was never found
        if lost:
            return FirstProcessFailed()
    return error if message is None else UserError(f"{process.name}: {message}")


def error_behind_stop(process: Process) -> UserError | None:
    """Return the error of another process because of which the launcher sent a signal to this first process, or None."""
    if process.is_launched and process.is_first:
        with contextlib.suppress(RuntimeError, UserError):
            store = _store(process)
            if store.check([FAILED_ELSEWHERE]):
                return _error_elsewhere(store, store.get(FAILED_ELSEWHERE).decode())
    return None


def _error_elsewhere(store, cause: str) -> UserError:
    return ShownElsewhere(cause) if store.check([SHOWN]) else UserError(cause)


def announce_stop(process: Process, number: int) -> None:
    """Inform the other processes, before Lightning connects them, that a signal has stopped this one."""
    if process.is_launched:
        with contextlib.suppress(RuntimeError, UserError):
            _store(process).set(STOPPED, str(number))


def _ask(store, key: str) -> str | None:
    """Return a value that another process sets within ANSWER_S, or None."""
    end = time.monotonic() + ANSWER_S
    while not store.check([key]):
        if time.monotonic() > end:
            return None
        time.sleep(POLL_S)
    return store.get(key).decode()


def _wait(process: Process, keys: dict[str, int]) -> None:
    """Wait until every key is set, each by the process with its rank."""
    store, shown = _store(process), time.monotonic()
    watch = Watch(store)
    try:
        while not store.check(list(keys)):
            if store.check([STOPPED]):
                raise StopRequested(int(store.get(STOPPED)))
            if process.is_first and store.check([FAILED_ELSEWHERE]):
                raise UserError(store.get(FAILED_ELSEWHERE).decode())
            if not process.is_first and store.check([FAILED]):
                raise FirstProcessFailed
            missing = [rank for key, rank in keys.items() if not store.check([key])]
            if silent := watch.find_silent(missing if process.is_first else {0}.intersection(missing)):
                raise UserError(
                    f"{silent} has given no sign of life for {SILENT_S:.0f} s: it was killed, or its machine hangs; "
                    "restart all processes"
                )
            if process.is_first and missing and time.monotonic() > shown + SHOWN_EVERY_S:
                shown = time.monotonic()
                log.info("waiting for process %s, which still reads images", ", ".join(map(str, missing)))
            time.sleep(POLL_S)
    except RuntimeError as error:
        if process.is_first:
            raise UserError(f"{process.launcher} has ended, so this process ended, too") from error
        raise FirstProcessFailed from error


def _store(process: Process):
    """Return the store that all processes of a run share, found once: torchrun runs it, or under srun the first process.

    Raises:
        UserError: the other processes cannot be reached, or a signal stopped the attempt.
    """
    if process not in _found:
        _found[process] = UserError("stopped before all processes had connected")
        _found[process] = _find_store(process)
    if isinstance(_found[process], UserError):
        raise _found[process]
    return _found[process]


_found: dict[Process, object] = {}  # process -> its store, or the error why there is none


def _find_store(process: Process):
    """Connect to the store and, in the first process, wait for the others; return an error if they are late.

    torch could do both, but it would log nothing meanwhile and not react to signals.
    """
    if process.is_first:
        log.setLevel(logging.INFO)  # Hydra configures logging later: until then only warnings would be shown
    with Progress(f"waiting until the {process.world_size} processes of {process.launcher} are connected", log):
        from torch.distributed import PrefixStore, TCPStore  # late: torch

        if process.launcher == "srun":
            environment = cluster_environment(process)
            os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = environment.main_address, str(environment.main_port)
        host, port, end = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), time.monotonic() + CONNECT_S
        keeps = process.is_first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        try:
            while not keeps and not _is_open(host, port):
                if time.monotonic() > end:
                    raise RuntimeError(f"nothing answers within {CONNECT_S:.0f} s")
                time.sleep(POLL_S)
            store = TCPStore(
                host, port, process.world_size, keeps, timedelta(seconds=CONNECT_S),
                wait_for_workers=False, multi_tenant=True,
            )  # fmt: skip
            shared = PrefixStore("justenough", store)
            beat(shared, process.rank, process.name)
            others = range(1, process.world_size) if process.is_first else ()
            while missing := [rank for rank in others if not has_beaten(shared, rank)]:
                if time.monotonic() > end:
                    raise RuntimeError(
                        f"process {', '.join(map(str, missing))} did not connect within {CONNECT_S:.0f} s"
                    )
                time.sleep(POLL_S)
        except RuntimeError as error:
            reason = str(error).splitlines()[0][:200]
            return UserError(
                f"MASTER_ADDR:MASTER_PORT={host}:{port}: the {process.world_size} processes of {process.launcher} cannot "
                f"connect there ({reason}); set them to the first node and a free port"
            )
    return shared


def _is_open(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=POLL_S):
        return True
    return False
