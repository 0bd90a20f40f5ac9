"""From the images that a source lists to those that a run uses: handle unreadable files, splits, folds and leaks."""

import logging

import numpy as np

from common.errors import UserError
from common.progress import Progress
from common.text import plural
from datamodules.audit import IMBALANCED, NAMED, NEAR_DUPLICATE, Finding, audit, leaking_train_rows
from datamodules.earlier_splits import EarlierSplits, take_over_splits
from datamodules.image_stats import ImageStats
from datamodules.near_duplicates import connected, find_pairs
from datamodules.pixel_cache import PixelCache
from datamodules.sources.catalog import Catalog
from datamodules.splits import (
    DROPPED,
    GIVEN,
    TRAIN_VAL_TEST,
    check_splits,
    exclude_val,
    fill_in_splits,
    join_groups,
    kept_together,
    select_fold,
    thin_train,
)

log = logging.getLogger(__name__)

SHOWN = 20  # unreadable files named on the screen


def prepare_catalog(
    catalog: Catalog,
    pixels: PixelCache,
    *,
    seed: int,
    splits: EarlierSplits | None = None,
    folds: int | None = None,
    fold: int | None = None,
    select_on: str = "val",
    train_fraction: float = 1.0,
    train_seed: int = 0,
    on_unreadable: str = "error",
    on_leak: str = "warn",
    streams_train: bool = False,
    against_imbalance: str = "",
) -> list[Finding]:
    """Exclude unreadable files, assign splits and handle leaks, in place; return the findings of the audit.

    Args:
        pixels: of all images of the catalog, with their statistics.
        seed: of splits and folds.
        splits: those of an earlier run, or of a splits.csv, which its images keep.
        train_seed: of `train_fraction`. It is the run's own seed: if all seeds shared one part of the training images, their
            mean would describe that part instead of any part of that size.
        streams_train: whether the training images are streamed instead of rows: datamodules/streams.py.
        against_imbalance: settings for the warning of a class with few images; empty: none is missing.

    Raises:
        UserError: the settings do not allow the unreadable images, leaks or splits that were found.
    """
    _handle_unreadable(catalog, pixels.stats, on_unreadable)
    fingerprints, with_val = pixels.stats.fingerprints, select_on == "val"
    with Progress("comparing the images with each other", log) as progress:
        near = find_pairs(np.flatnonzero(catalog.present()), pixels, progress)
    together, torn = kept_together(
        catalog, connected(near.pairs), fingerprints, parts=max(folds or 0, len(TRAIN_VAL_TEST))
    )
    groups = join_groups(catalog.groups, fingerprints, together)
    if splits is not None:
        take_over_splits(catalog, groups, fingerprints, splits, seed, with_val, in_folds=folds is not None)
    else:
        fill_in_splits(catalog, groups, fingerprints, seed, with_val, in_folds=folds is not None)
    was_drawn = catalog.splits_from != GIVEN or folds is not None
    if select_on == "test":
        exclude_val(catalog, folds)
    if folds is not None:
        select_fold(catalog, groups, folds, fold, seed)
    with Progress("auditing the images", log):
        findings = audit(catalog, pixels, near)
    if torn and was_drawn:
        for finding in findings:
            if finding.kind == NEAR_DUPLICATE:  # its images are those that are divided
                finding.caveat = ""
        findings.insert(0, _torn(catalog, torn))
    _handle_leaks(catalog, findings, on_leak, against_imbalance)
    if train_fraction < 1:
        thin_train(catalog, groups, train_fraction, train_seed)
    optional = {"test"} if select_on == "val" else {"val"}
    check_splits(catalog, optional | ({"train"} if streams_train else set()), folds)
    return findings


def _torn(catalog: Catalog, groups: list[list[int]]) -> Finding:
    """Describe the near duplicates that no split could keep together, and what to do about them."""
    images, largest = sum(map(len, groups)), max(map(len, groups))
    shown = ", ".join(catalog.paths[row] for row in max(groups, key=len)[:NAMED])
    divided = f"{plural(len(groups), 'group')} of near duplicates divided between the splits"
    return Finding(NEAR_DUPLICATE, (
        f"near duplicate: {images:,} images in {plural(len(groups), 'group')}, the largest of {largest:,} ({shown}, ...), are "
        "divided between the splits, because they are too many to be copies: the scene of a fixed camera, a video, or "
        "most of a class. Accuracies on val and test are then too high for new scenes; to keep groups together, give a table "
        "with a column group, such as the day, camera or patient (datamodule.table=FILE)"
    ), groups, caveat=f"may be too high for new scenes, and intervals too narrow: {divided}")  # fmt: skip


def _handle_unreadable(catalog: Catalog, stats: ImageStats, on_unreadable: str) -> None:
    errors = {row: error for row, error in enumerate(stats.errors) if error}
    if not errors:
        return
    listed = "\n  ".join(sorted(errors.values())[:SHOWN])
    more = f"\n  and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
    found = f"{len(errors)} of {len(catalog)} files cannot be read"
    if len(errors) == len(catalog):
        raise UserError(f"{found}, so no image is left; repair or replace them:\n  {listed}{more}")
    if on_unreadable == "error":
        raise UserError(
            f"{found}; repair or remove them, or exclude them with datamodule.on_unreadable=skip:\n  {listed}{more}"
        )
    log.warning("%s and are excluded:\n  %s%s", found, listed, more)
    for row, error in errors.items():
        catalog.exclude([row], error)


def _handle_leaks(catalog: Catalog, findings: list[Finding], on_leak: str, against_imbalance: str) -> None:
    """Log all findings; those of images of val or test in train are errors, or are mended, if `on_leak` says so."""
    leaks = [finding for finding in findings if finding.leak]
    if leaks and on_leak == "error":
        texts = "\n  ".join(finding.text for finding in leaks)
        raise UserError(
            f"datamodule.on_leak=error: images of train are also in val or test:\n  {texts}\nRemove them, or use "
            "datamodule.on_leak=drop, which excludes them from train"
        )
    for finding in findings:
        advice = "datamodule.on_leak=drop" if finding.leak and on_leak != "drop" else ""
        advice = against_imbalance if finding.kind == IMBALANCED else advice
        log.warning("%s%s", finding.text, advice and f"; see {advice}")
    if leaks and on_leak == "drop":
        rows = leaking_train_rows(catalog, findings)
        catalog.exclude(rows, DROPPED)
        log.warning("datamodule.on_leak=drop: %s excluded from train", plural(len(rows), "image"))
        for finding in leaks:
            finding.caveat = ""
