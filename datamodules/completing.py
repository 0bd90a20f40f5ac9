"""From what a source lists to what a run uses: readable pictures, splits, folds, leaks."""

import logging

import numpy as np

from .audit import Finding, audit, leaking_train_rows
from .catalog import UNASSIGNED, Catalog, check_splits
from .decode import UnreadablePictureError
from .facts import Facts
from .splits import FRACTIONS, assign_folds, assign_splits, join_groups

log = logging.getLogger(__name__)

SHOWN = 20  # unreadable files named on the screen


def complete(
    catalog: Catalog,
    facts: Facts,
    *,
    seed: int,
    folds: int | None = None,
    fold: int | None = None,
    protocol: str = "validation",
    train_fraction: float = 1.0,
    unreadable: str = "error",
    leaks: str = "warn",
) -> list[Finding]:
    """Leaves out what cannot be read, assigns splits, and deals with leaks; returns what the audit found.

    With the protocol `test_selected` there is no val split: test takes its place, by name.

    Raises:
        ValueError: unreadable pictures, leaks or splits that the settings do not allow.
    """
    _deal_with_unreadable(catalog, facts, unreadable)
    groups = join_groups(catalog.groups, facts.fingerprints)
    fill_in_splits(catalog, groups, seed, with_val=protocol == "validation")
    if protocol == "test_selected":
        _without_val(catalog, folds)
    if folds is not None:
        _take_fold(catalog, groups, folds, fold, seed)
    findings = audit(catalog, facts)
    _deal_with_leaks(catalog, findings, leaks)
    if train_fraction < 1:
        _thin_out(catalog, groups, train_fraction, seed)
    check_splits(catalog, optional={"test"} if protocol == "validation" else {"val"})
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
        log.warning("%d picture(s) without a split are left out, since others have one", len(open_rows))
        catalog.leave_out(open_rows, "no split given")
    if "val" not in given and with_val:
        train = catalog.rows("train")
        fractions = {"train": 0.8, "val": 0.2}
        catalog.splits[train] = assign_splits(catalog.labels[train], fractions, seed, groups[train])
        log.info("no val pictures: 20%% of train split off, stratified, seed %d", seed)
    if "test" not in given and with_val:
        log.warning(
            "no test folder or split: there will be no test figure, only that of the validation split, which also chose "
            "the best epoch"
        )


def _take_fold(catalog: Catalog, groups: np.ndarray, folds: int, fold: int | None, seed: int) -> None:
    """Train and val anew: fold number `fold` is val, the others are train. Test stays what it is, and closed."""
    rows = np.flatnonzero((catalog.splits == "train") | (catalog.splits == "val"))
    if not 2 <= folds <= max(len(rows), 2):
        raise ValueError(f"datamodule.folds={folds}: use 2 or more, up to the {len(rows):,} pictures, or null")
    if fold is None or not 0 <= fold < folds:
        raise ValueError(f"datamodule.fold={fold}: use 0 to {folds - 1} with datamodule.folds={folds}")
    numbers = assign_folds(catalog.labels[rows], folds, seed, groups[rows])
    catalog.splits[rows] = np.where(numbers == fold, "val", "train")
    log.info("fold %d of 0 to %d is validation; the test split stays closed", fold, folds - 1)


def _without_val(catalog: Catalog, folds: int | None) -> None:
    """The study's way: the epoch is chosen on the test pictures."""
    if folds is not None or not len(catalog.rows("test")):
        reason = "cross-validation keeps it closed" if folds is not None else "there is none"
        raise ValueError(
            f"datamodule.protocol=test_selected needs a test split, and {reason}; use datamodule.protocol=validation"
        )
    val = catalog.rows("val")
    catalog.leave_out(val, "datamodule.protocol=test_selected has no val split")
    unused = f"; {len(val)} val pictures are not used" if len(val) else ""
    log.warning(
        "datamodule.protocol=test_selected: the epoch is chosen on the test pictures, as the study did, so that its test "
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
            f"datamodule.train_fraction={fraction:g}: leaves no picture of class {name} in train; use a larger share"
        )
    catalog.leave_out(train[parts == "rest"], f"datamodule.train_fraction={fraction:g}")
    log.info("datamodule.train_fraction=%g: %d of %d train pictures", fraction, (parts == "kept").sum(), len(train))


def _deal_with_unreadable(catalog: Catalog, facts: Facts, how: str) -> None:
    rows = [row for row, error in enumerate(facts.errors) if error]
    if not rows:
        return
    listed = "\n  ".join(sorted(facts.errors[row] for row in rows)[:SHOWN])
    more = f"\n  and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    found = f"{len(rows)} of {len(catalog)} files cannot be read"
    if how == "error":
        raise UnreadablePictureError(
            f"{found}; repair or remove them, or leave them out with datamodule.unreadable=skip:\n  {listed}{more}"
        )
    log.warning("%s and are left out:\n  %s%s", found, listed, more)
    for row in rows:
        catalog.leave_out([row], facts.errors[row])


def _deal_with_leaks(catalog: Catalog, findings: list[Finding], how: str) -> None:
    leaking = [finding for finding in findings if finding.leak]
    if leaking and how == "error":
        texts = "\n  ".join(finding.text for finding in leaking)
        raise ValueError(
            f"datamodule.leaks=error: pictures of train stand in val or test too:\n  {texts}\nRemove them, or use "
            "datamodule.leaks=drop, which leaves them out of train"
        )
    for finding in findings:
        repaired = finding.leak and how == "drop"
        advice = "; see datamodule.leaks=drop" if finding.leak and not repaired else ""
        log.warning("%s%s", finding.text, advice)
    if leaking and how == "drop":
        rows = leaking_train_rows(catalog, findings)
        catalog.leave_out(rows, "in val or test too")
        log.warning("datamodule.leaks=drop: %d picture(s) left out of train", len(rows))
