"""From what a source lists to what a run uses: readable images, splits, folds, leaks."""

import logging

import numpy as np

from datamodules.audit import Finding, audit, leaking_train_rows
from datamodules.decode import UnreadableImageError
from datamodules.image_stats import ImageStats
from datamodules.sources.catalog import UNASSIGNED, Catalog, check_splits
from datamodules.splits import FRACTIONS, assign_folds, assign_splits, join_groups

log = logging.getLogger(__name__)

SHOWN = 20  # unreadable files named on the screen


def prepare_catalog(
    catalog: Catalog,
    facts: ImageStats,
    *,
    seed: int,
    folds: int | None = None,
    fold: int | None = None,
    select_on: str = "val",
    train_fraction: float = 1.0,
    on_unreadable: str = "error",
    on_leak: str = "warn",
) -> list[Finding]:
    """Leaves out what cannot be read, assigns splits, and deals with leaks; returns what the audit found.

    With `select_on="test"` there is no val split: test takes its place, by name.

    Raises:
        ValueError: unreadable images, leaks or splits that the settings do not allow.
    """
    _deal_with_unreadable(catalog, facts, on_unreadable)
    groups = join_groups(catalog.groups, facts.fingerprints)
    fill_in_splits(catalog, groups, seed, with_val=select_on == "val")
    if select_on == "test":
        _without_val(catalog, folds)
    if folds is not None:
        _take_fold(catalog, groups, folds, fold, seed)
    findings = audit(catalog, facts)
    _deal_with_leaks(catalog, findings, on_leak)
    if train_fraction < 1:
        _thin_out(catalog, groups, train_fraction, seed)
    check_splits(catalog, optional={"test"} if select_on == "val" else {"val"})
    return findings


def fill_in_splits(catalog: Catalog, groups: np.ndarray, seed: int, with_val: bool = True) -> None:
    """Splits 60/20/20 where none is given; splits 20% of train off as val where val is not. Groups stay together.

    Without val: 80/20 where no split is given, and nothing is split off.
    """
    present = catalog.present()
    given = set(catalog.splits[present]) - {UNASSIGNED}
    if not given:
        rows = np.flatnonzero(present)
        fractions = FRACTIONS if with_val else {"train": 0.8, "test": 0.2}
        catalog.splits[rows] = assign_splits(catalog.labels[rows], fractions, seed, groups[rows])
        return
    open_rows = np.flatnonzero(present & (catalog.splits == UNASSIGNED))
    if len(open_rows):
        log.warning("%d image(s) without a split are left out, since others have one", len(open_rows))
        catalog.exclude(open_rows, "no split given")
    if "val" not in given and with_val:
        train = catalog.rows("train")
        fractions = {"train": 0.8, "val": 0.2}
        catalog.splits[train] = assign_splits(catalog.labels[train], fractions, seed, groups[train])
        log.info("no val images: 20%% of train split off, stratified, seed %d", seed)
    if "test" not in given and with_val:
        log.warning(
            "no test folder or split: there will be no test figure, only that of the validation split, which also chose "
            "the best epoch"
        )


def _take_fold(catalog: Catalog, groups: np.ndarray, folds: int, fold: int | None, seed: int) -> None:
    """Train and val anew: fold number `fold` is val, the others are train. Test stays what it is, and closed."""
    rows = np.flatnonzero((catalog.splits == "train") | (catalog.splits == "val"))
    if not 2 <= folds <= max(len(rows), 2):
        raise ValueError(f"datamodule.folds={folds}: use 2 or more, up to the {len(rows):,} images, or null")
    if fold is None or not 0 <= fold < folds:
        raise ValueError(f"datamodule.fold={fold}: use 0 to {folds - 1} with datamodule.folds={folds}")
    numbers = assign_folds(catalog.labels[rows], folds, seed, groups[rows])
    catalog.splits[rows] = np.where(numbers == fold, "val", "train")
    log.info("fold %d of 0 to %d is validation; the test split stays closed", fold, folds - 1)


def _without_val(catalog: Catalog, folds: int | None) -> None:
    """The study's way: the epoch is chosen on the test images."""
    if folds is not None or not len(catalog.rows("test")):
        reason = "cross-validation keeps it closed" if folds is not None else "there is none"
        raise ValueError(f"datamodule.select_on=test needs a test split, and {reason}; use datamodule.select_on=val")
    val = catalog.rows("val")
    catalog.exclude(val, "datamodule.select_on=test has no val split")
    unused = f"; {len(val)} val images are not used" if len(val) else ""
    log.warning(
        "datamodule.select_on=test: the epoch is chosen on the test images, as the study did, so that its test "
        "accuracy is too high%s", unused,
    )  # fmt: skip


def _thin_out(catalog: Catalog, groups: np.ndarray, fraction: float, seed: int) -> None:
    """Keeps a stratified part of train; a smaller part lies within a larger one of the same seed, but for groups."""
    train = catalog.rows("train")
    parts = assign_splits(catalog.labels[train], {"kept": fraction, "rest": 1 - fraction}, seed, groups[train])
    gone = set(catalog.labels[train]) - set(catalog.labels[train[parts == "kept"]])
    if gone:
        name = catalog.classes[min(gone)]
        raise ValueError(
            f"datamodule.train_fraction={fraction:g}: leaves no image of class {name} in train; use a larger share"
        )
    catalog.exclude(train[parts == "rest"], f"datamodule.train_fraction={fraction:g}")
    log.info("datamodule.train_fraction=%g: %d of %d train images", fraction, (parts == "kept").sum(), len(train))


def _deal_with_unreadable(catalog: Catalog, facts: ImageStats, how: str) -> None:
    rows = [row for row, error in enumerate(facts.errors) if error]
    if not rows:
        return
    listed = "\n  ".join(sorted(facts.errors[row] for row in rows)[:SHOWN])
    more = f"\n  and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    found = f"{len(rows)} of {len(catalog)} files cannot be read"
    if how == "error":
        raise UnreadableImageError(
            f"{found}; repair or remove them, or leave them out with datamodule.on_unreadable=skip:\n  {listed}{more}"
        )
    log.warning("%s and are left out:\n  %s%s", found, listed, more)
    for row in rows:
        catalog.exclude([row], facts.errors[row])


def _deal_with_leaks(catalog: Catalog, findings: list[Finding], how: str) -> None:
    leaking = [finding for finding in findings if finding.leak]
    if leaking and how == "error":
        texts = "\n  ".join(finding.text for finding in leaking)
        raise ValueError(
            f"datamodule.on_leak=error: images of train stand in val or test too:\n  {texts}\nRemove them, or use "
            "datamodule.on_leak=drop, which leaves them out of train"
        )
    for finding in findings:
        repaired = finding.leak and how == "drop"
        advice = "; see datamodule.on_leak=drop" if finding.leak and not repaired else ""
        log.warning("%s%s", finding.text, advice)
    if leaking and how == "drop":
        rows = leaking_train_rows(catalog, findings)
        catalog.exclude(rows, "in val or test too")
        log.warning("datamodule.on_leak=drop: %d image(s) left out of train", len(rows))
