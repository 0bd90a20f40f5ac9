"""A trial of a search as a run like any other: its folder, what Hydra would leave there, its log, its record."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from omegaconf import OmegaConf, open_dict

from common.atomic_io import write_text
from common.run_record import read_record
from engine import cli, log_handlers
from engine.run.job import Job, folder_lock, run_job
from engine.search.space import compose_train_config

log = logging.getLogger(__name__)

POLL_S = 1.0


def run_trial(folder: Path, overrides: Sequence[str], run: Callable) -> Exception | None:
    """Runs train.py's job with these arguments in a folder, or finds it done; returns the error that it ended with.

    A run of the same folder that was killed goes on from its last checkpoint.
    """
    config = compose_train_config(list(overrides))
    with open_dict(config):
        own = config.pop("hydra")
        own.runtime.output_dir = own.run.dir = str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / ".hydra"
    kept.mkdir(exist_ok=True)
    write_text(kept / "config.yaml", OmegaConf.to_yaml(config))
    write_text(kept / "hydra.yaml", OmegaConf.to_yaml({"hydra": own}))
    write_text(kept / "overrides.yaml", OmegaConf.to_yaml(own.overrides.task))
    job = Job(folder, cli.TYPED, list(overrides), dict(own.runtime.choices), one_of_many=True)
    cli.STARTED.append(time.perf_counter())
    with _log_in(folder / "train.log", own.job_logging.formatters.file.format):
        return run_job(job, config, run)


def completed_record(folder: Path) -> dict | None:
    """The record of a run that is finished or was pruned, or None."""
    try:
        record = read_record(folder / "result.json")
    except (OSError, ValueError):
        return None
    return record if record["status"] in ("finished", "pruned") else None


def wait_for_lock(folder: Path) -> None:
    """Returns once no other process is in the folder; says so while it waits."""
    told = False
    while folder.is_dir():
        with folder_lock(folder, rank=0) as alone:
            if alone:
                return
        if not told:
            log.info("%s: another process is at the same settings; its result will be taken over", folder.name)
            told = True
        time.sleep(POLL_S)


@contextlib.contextmanager
def _log_in(path: Path, form: str) -> Iterator[None]:
    handler = log_handlers.LogFileHandler(str(path))
    handler.setFormatter(logging.Formatter(form))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
