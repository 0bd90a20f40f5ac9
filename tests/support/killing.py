"""Kill one run again and again at random moments, and resume it: python tests/support/killing.py WHERE IMAGES

A process that has imported everything already forks each attempt, so that the moments are in the run and not in its
imports. Print the seed of the moments and each moment; end with status 1 where a run does not end in the bits of one
that was never stopped.
"""

import argparse
import os
import random
import signal
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(PROJECT)  # not this folder

import lightning  # noqa: F401
import torch

import train
from common.run_folder import RunFolder
from common.run_record import RunRecord
from engine import cli
from tests.support.helpers import outcome

SETTINGS = ["datamodule=image_folder", "model.image_size=32", "datamodule.batch_size=8", "trainer=cpu", "seed=7"]
SETTINGS += [
    "model.weights=null",
    "optimizer.lr=0.003",
    "trainer.max_epochs=4",
    "callbacks.last_checkpoint.every_n_train_steps=2",
]


def start(folder: Path, images: Path) -> int:
    """Fork a process that trains in `folder`, or resumes there; return its number."""
    number = os.fork()
    if number:
        return number
    log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1), os.dup2(log, 2)
    cache = f"datamodule.cache={folder.with_name(folder.name + '-cache')}"  # built for this folder: a kill may hit the building
    sys.argv = [str(PROJECT / "train.py"), f"datamodule.root={images}", f"hydra.run.dir={folder}", cache, *SETTINGS]
    status = 0
    try:
        cli.run_cli(train.main)
    except SystemExit as ended:
        status = ended.code or 0
    finally:
        sys.stdout.flush()
        os._exit(status)


def wait(number: int, seconds: float | None) -> int | None:
    """Return the exit status, or None where the process was killed because the time was up."""
    ends = None if seconds is None else time.monotonic() + seconds
    while ends is None or time.monotonic() < ends:
        ended, status = os.waitpid(number, 0 if ends is None else os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    return None


def is_finished(folder: Path) -> bool:
    """Return whether a run wrote its complete record."""
    record = RunFolder(folder).record
    return record.is_file() and RunRecord.read(folder).status == "finished"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("where", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.where.mkdir(parents=True, exist_ok=True)
    moments = random.Random(arguments.seed)
    print(f"seed of the moments: {arguments.seed}", flush=True)
    started = time.monotonic()
    if wait(start(arguments.where / "straight", arguments.images), None) != 0:
        sys.exit("the undisturbed run failed")
    longest, wanted = time.monotonic() - started, outcome(arguments.where / "straight")
    kills, runs, same = 0, 0, 0
    while kills < arguments.kills:
        runs += 1
        folder, status = arguments.where / f"run-{runs}", None
        while status is None:
            seconds = moments.uniform(0, longest) if kills < arguments.kills else None
            status = wait(start(folder, arguments.images), seconds)
            if status is None:
                kills += 1
                print(f"run {runs}: killed after {seconds:.3f} s", flush=True)
                if is_finished(folder):  # killed on its way out
                    status = 0
        if status != 0:
            sys.exit(f"run {runs} ended with status {status}: {folder.with_suffix('.log')}")
        same += outcome(folder) == wanted
    print(
        f"{kills} kills in {runs} runs, {same} of {runs} end in the same bits (an undisturbed run takes {longest:.1f} s)"
    )
    sys.exit(same != runs)


if __name__ == "__main__":
    main()
