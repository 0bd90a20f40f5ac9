"""Compare images and files of weights with those that the finished jobs of a sweep had."""

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

TRAIN_AGAIN = "To train them again, give the sweep another folder: hydra.sweep.dir=DIR"


def warn_of_other_inputs(sweep: SweepProgress) -> None:
    """Warn where jobs that were skipped, since they had finished before, have seen other images or began with other weights.

    Their accuracies stay, and beside those of jobs that ran now would not be comparable. Where images are added to a folder, or
    a file of weights is written again, and the same command is typed, this is the only sign of it.
    """
    skipped = [
        each for each in sweep.records() if not sweep.has_run(each.folder.path.name, each.run.process_started_at)
    ]
    _warn_of_other_images(skipped)
    _warn_of_other_files(skipped)


def _warn_of_other_files(skipped: list[RunRecord]) -> None:
    from lightning_modules.pretrained_weights import digest_of_file  # late: torch

    digest_now = functools.cache(digest_of_file)  # once a file
    other = defaultdict(list)
    for record in skipped:
        for setting, field in DIGESTS.items():
            path, digest = record.run.settings.get(setting), record.model and getattr(record.model, field)
            if record.status == "finished" and digest and digest_now(path) != digest:
                other[setting, path].append(record)
    for (setting, path), records in other.items():
        log.warning(
            "%s=%s: is another file than %s of this sweep, skipped now, began with: %s. %s",
            setting, path, plural(len(records), "finished run"), _names(records), TRAIN_AGAIN,
        )  # fmt: skip


def _names(records: list[RunRecord]) -> str:
    return ", ".join(sorted(each.folder.path.name for each in records)[:5]) + ", ..." * (len(records) > 5)


def _warn_of_other_images(skipped: list[RunRecord]) -> None:
    """Warn of other images, labels, splits or weights of images; one job stands for all that had the same images."""
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
            "the images, labels, splits or weights of images are not those that %s of this sweep, skipped now, had: %s. %s",
            plural(len(other), "finished run"), _names(other), TRAIN_AGAIN,
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
