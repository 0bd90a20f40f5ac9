"""Mark a run as a debug run in its record and on the screen; model card and reports read the record."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from common.errors import UserError
from common.run_folder import RunFolder
from common.run_record import RunRecord
from engine.config.trainer_flags import debug_reason

log = logging.getLogger(__name__)


def mark_debug(config: DictConfig, record: RunRecord) -> None:
    """Fill the record's `run.debug`, and log it. A run from a debug run's checkpoint is a debug run, too.

    Raises:
        UserError: the folder holds a run that is not a debug run, whose results would be replaced.
    """
    reason = debug_reason(config.trainer, record.run.choices.get("debug"))
    if reason and record.previous is not None and not record.previous.run.debug:
        raise UserError(
            f"{reason}: a debug run, whose results would replace those of the run in {record.folder.path}; give it a folder "
            "of its own: hydra.run.dir=DIR"
        )
    if reason is None and config.ckpt_path is not None:
        reason = _of_checkpoint(Path(config.ckpt_path))
    record.run.debug = reason
    if reason:
        log.warning("debug run (%s): its results mean nothing, and no report ranks it", reason)


def _of_checkpoint(path: Path) -> str | None:
    """Return why a checkpoint's run is a debug run; None if it is not one, or its record cannot be read."""
    folder = RunFolder.of_checkpoint(path)
    record = RunRecord.read_if_intact(folder) if folder else None
    reason = record and record.run.debug
    return reason and (reason if reason.startswith("from a checkpoint of") else f"from a checkpoint of {reason}")
