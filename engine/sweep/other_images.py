"""Compare the images that the finished jobs of a sweep were trained on with those that are there now."""

import logging

from omegaconf import OmegaConf

from common.progress import Progress
from common.run_record import RunRecord
from common.text import plural
from engine.error_messages import user_message
from engine.sweep.progress import SweepProgress

log = logging.getLogger(__name__)


def warn_of_other_images(sweep: SweepProgress) -> None:
    """Warn where jobs that were skipped, since they had finished before, have seen other images, labels or splits.

    Their accuracies stay, and beside those of jobs that ran now would not be comparable. Where images are added to a folder and
    the same command is typed, this is the only sign of it. One job stands for all that had the same images.
    """
    skipped = [
        each for each in sweep.records() if not sweep.has_run(each.folder.path.name, each.run.process_started_at)
    ]
    by_images: dict[str, list[RunRecord]] = {}
    for record in skipped:
        if record.status == "finished" and record.data and record.data.fingerprint_full and record.data.preprocessing:
            by_images.setdefault(record.data.fingerprint_full, []).append(record)
    other = []
    for fingerprint, records in by_images.items():
        try:
            with Progress("comparing the images with those of finished runs", log):
                now = _fingerprint(records[0])
        except Exception as error:  # also of a source of the user's own: the sweep's report comes in any case
            log.warning(
                "%s skipped: whether the images are still those that it was trained on cannot be checked: %s",
                plural(len(records), "finished run"), user_message(error) or repr(error),
            )  # fmt: skip
            continue
        other += records if now != fingerprint else []
    if other:
        log.warning(
            "the images, labels or splits are not those that %s of this sweep, skipped now, had: %s. To train them again, "
            "give the sweep another folder: hydra.sweep.dir=DIR", plural(len(other), "finished run"),
            ", ".join(sorted(record.folder.path.name for record in other)[:5]) + ", ..." * (len(other) > 5),
        )  # fmt: skip


def _fingerprint(record: RunRecord) -> str:
    """Return that of the images which a job with the configuration of this record would have now."""
    from engine.config.validate import validate  # late: torch
    from engine.run.stages import MEMORY, build_data

    config, inputs = validate(OmegaConf.load(record.folder.config)), record.data.preprocessing
    data = build_data(config, inputs.interpolation, inputs.mean, inputs.std)
    data.memory = MEMORY
    data.setup()
    return data.fingerprint(thinned=False)
