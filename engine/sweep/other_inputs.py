"""Compare images and weights files with those of a sweep's finished jobs."""

import functools
import logging
from collections import defaultdict

from omegaconf import OmegaConf

from common.progress import Progress
from common.run_record import DIGESTS, RunRecord
from common.text import plural
from engine.error_messages import user_message
from engine.sweep.progress import SweepProgress

log = logging.getLogger(__name__)

TRAIN_AGAIN = "To retrain them, give the sweep another folder: hydra.sweep.dir=DIR"


def warn_of_other_inputs(sweep: SweepProgress) -> None:
    """Warn where jobs that were skipped as finished used other images or began with other weights.

    Their accuracies stay on the page, and cannot be compared with those of jobs that ran now. If images were added to a folder,
    or a weights file was rewritten, before the same command was repeated, this is the only sign of it.
    """
    skipped = [
        each for each in sweep.records() if not sweep.has_run(each.folder.path.name, each.run.process_started_at)
    ]
    _warn_of_other_images(skipped)
    _warn_of_other_files(skipped)


def _warn_of_other_files(skipped: list[RunRecord]) -> None:
    from lightning_modules.pretrained_weights import digest_of_file  # late: torch

    digest_now = functools.cache(digest_of_file)  # computed once per file
    other = defaultdict(list)
    for record in skipped:
        for setting, field in DIGESTS.items():
            path, digest = record.run.settings.get(setting), record.model and getattr(record.model, field)
            if record.status == "finished" and digest and digest_now(path) != digest:
                other[setting, path].append(record)
    for (setting, path), records in other.items():
        log.warning(
            "%s=%s: this file has changed since %s of this sweep, skipped now, began with it: %s. %s",
            setting, path, plural(len(records), "finished run"), _names(records), TRAIN_AGAIN,
        )  # fmt: skip


def _names(records: list[RunRecord]) -> str:
    return ", ".join(sorted(each.folder.path.name for each in records)[:5]) + ", ..." * (len(records) > 5)


def _warn_of_other_images(skipped: list[RunRecord]) -> None:
    """Warn of changed images, labels, splits or image weights; jobs with the same images are checked once."""
    by_images: dict[str, list[RunRecord]] = {}
    for record in skipped:
        if record.status == "finished" and record.data and record.data.fingerprint_full and record.data.preprocessing:
            by_images.setdefault(record.data.fingerprint_full, []).append(record)
    other = []
    for fingerprint, records in by_images.items():
        try:
            with Progress("comparing the images with those of finished runs", log):
                now = _fingerprint(records[0])
        except Exception as error:  # even a user's own data source must not prevent the sweep's report
            log.warning(
                "%s skipped without checking that the images are still the same: %s",
                plural(len(records), "finished run"), user_message(error) or repr(error),
            )  # fmt: skip
            continue
        other += records if now != fingerprint else []
    if other:
        log.warning(
            "images, labels, splits or image weights have changed since %s of this sweep, skipped now: %s. %s",
            plural(len(other), "finished run"), _names(other), TRAIN_AGAIN,
        )  # fmt: skip


def _fingerprint(record: RunRecord) -> str:
    """Return the fingerprint of the images that a job with this record's configuration would use now."""
    from engine.config.validate import validate  # late: torch
    from engine.run.stages import MEMORY, build_data

    data = build_data(validate(OmegaConf.load(record.folder.config)), record.data.preprocessing)
    data.memory = MEMORY
    data.setup()
    return data.fingerprint(thinned=False)
