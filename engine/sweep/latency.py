"""Measure latencies and export files at the end of a sweep, job by job, when nothing trains."""

import logging
from collections.abc import Sequence

from omegaconf import OmegaConf

from common.atomic_io import tolerate_disk_errors
from common.errors import UserError
from common.progress import Progress
from common.run_record import RunRecord, write_record
from common.text import plural
from engine.run.job import folder_lock
from engine.sweep.progress import SweepProgress

log = logging.getLogger(__name__)


def measure_latencies(sweep: SweepProgress) -> None:
    """Measure, in this process, the latency of each finished job that lacks it; update its record and model card.

    Disturbed measurements are repeated. Even where jobs ran on other machines, latencies are measured on this one, so that all
    figures of a page come from one machine.
    """
    waiting = sorted((record for record in sweep.records() if _waits(record)), key=lambda record: record.folder.path)
    if not waiting:
        return
    if sweep.is_training():
        log.warning(
            "the latencies of %s are not measured yet: another process still runs jobs of this sweep, and measures them "
            "when it ends",
            plural(len(waiting), "run"),
        )
        return
    print(f"\nLatency of {plural(len(waiting), 'run')}, measured in turn now that no job of the sweep runs")
    n_flagged = 0
    for record in waiting:
        name = record.folder.path.name
        try:
            with folder_lock(record.folder) as locked:
                record = RunRecord.read(record.folder)
                if locked and _waits(record):
                    with Progress(f"latency of {name}", log):
                        _measure(record)
                    shown = min(record.model.latency, key=lambda each: each.is_reliable)  # so that unreliable ones show
                    print(f"{name}: {shown.describe()}", flush=True)
                n_flagged += _waits(record)
        except UserError as error:
            log.warning("%s: no latency: %s", name, error)
        except Exception as error:  # a user's own network failed; its run is recorded and complete
            log.exception("%s: no latency: %r", name, error)
    if n_flagged:
        print(f"{n_flagged:,} of them are unreliable; to repeat them, rerun the same command when the machine is idle")


def deploy_rest(sweep: SweepProgress, name: str | None, register: Sequence[str]) -> None:
    """Export the network of each finished job without a file of this format: jobs that ran side by side, or before `deploy`
    was set. The files are not compared on test images, on which these runs were evaluated already."""
    records = [] if name is None else sorted(sweep.records(), key=lambda record: record.folder.path)
    waiting = [record for record in records if _is_undeployed(record, name)]
    if not waiting:
        return
    if sweep.is_training():
        log.warning(
            "deploy=%s: %s not exported yet: another process still runs jobs of this sweep, and exports them when it ends",
            name,
            f"{plural(len(waiting), 'run')} {'is' if len(waiting) == 1 else 'are'}",
        )
        return
    from engine.run.deploy import deploy  # late: torch

    print(f"\nExporting {plural(len(waiting), 'run')} in turn as {name}")
    for record in waiting:
        job = record.folder.path.name
        try:
            with folder_lock(record.folder) as locked:
                record = RunRecord.read(record.folder)
                if not locked or not _is_undeployed(record, name):
                    continue
                deploy(record, name, record.folder.best_checkpoint, register=register)
                with tolerate_disk_errors(record.folder.record):
                    _write(record)
                for line in record.deployed.describe_lines():
                    print(f"{job}: {line}", flush=True)
        except UserError as error:
            log.warning("%s: not exported: %s", job, error)
        except Exception as error:  # a broken job must not fail the others, which are recorded and complete
            log.exception("%s: not exported: %r", job, error)


def _is_undeployed(record: RunRecord, name: str) -> bool:
    """Return whether a finished job has no file of this format, perhaps because an export failed."""
    has_file = record.deployed is not None and record.deployed.is_file_of(name)
    return record.status == "finished" and record.best is not None and not has_file


def _waits(record: RunRecord) -> bool:
    """Return whether a job has measured its other costs while a latency is missing or unreliable."""
    if record.status != "finished" or not record.model or not record.model.macs:
        return False
    return not record.model.latency or not all(each.is_reliable for each in record.model.latency)


def _measure(record: RunRecord) -> None:
    from engine.run.cost import measure_latency_later  # late: torch

    record.model.latency = measure_latency_later(record)
    _write(record)


def _write(record: RunRecord) -> None:
    """Write the record and, if there is one, the model card."""
    from reports.model_card import write_card

    config = OmegaConf.load(record.folder.config)
    write_record(record)
    if record.folder.model_card.is_file():
        with tolerate_disk_errors(record.folder.model_card):
            write_card(record, config.ckpt_path)
