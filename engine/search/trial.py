"""A trial of a search as an ordinary run: its folder with the files that Hydra would write, its log, its record."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from omegaconf import OmegaConf, open_dict

from common.run_folder import RunFolder
from common.run_record import RunRecord
from engine import log_handlers
from engine.run.job import Job, run_job
from engine.search.space import compose_train_config
from engine.state import STATE

LINE = "%(asctime)s %(levelname)s %(message)s"  # also in conf/hydra/job_logging/house.yaml


def run_trial(folder: RunFolder, overrides: Sequence[str], run: Callable) -> Exception | None:
    """Run train.py's job with these arguments in a folder, unless it has finished; return the error that ended it.

    A run that was killed in this folder resumes from its last checkpoint.
    """
    config = compose_train_config(list(overrides))
    with open_dict(config):
        hydra = config.pop("hydra")
        hydra.runtime.output_dir = hydra.run.dir = str(folder.path)
    folder.path.mkdir(parents=True, exist_ok=True)
    choices, whole = dict(hydra.runtime.choices), OmegaConf.create({"hydra": hydra})
    job = Job(folder, STATE.command, list(overrides), choices, in_sweep=True, hydra=whole)
    STATE.started_s = time.perf_counter()
    with log_to(folder.log):
        return run_job(job, config, run)


def completed_record(folder: RunFolder) -> RunRecord | None:
    """Return the record of a finished or pruned run, otherwise None."""
    record = RunRecord.read_if_intact(folder)
    return record if record and record.status in ("finished", "pruned") else None


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Write log lines to a file, with their times."""
    handler = log_handlers.LogFileHandler(str(path))
    handler.setFormatter(logging.Formatter(LINE))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
