"""Reuse the splits of an earlier run: its images stay in their splits, and new images are added."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from common.run_folder import RunFolder
from common.run_record import RunRecord
from common.text import clean, join_words, plural
from common.untrusted.tables import iterate_csv
from datamodules.sources.catalog import SPLITS, UNASSIGNED, Catalog
from datamodules.sources.source import plain_path
from datamodules.splits import (
    DROPPED,
    NO_VAL,
    THINNED,
    TRAIN_TEST,
    TRAIN_VAL,
    TRAIN_VAL_TEST,
    draw_splits,
    exclude_without_split,
)

log = logging.getLogger(__name__)

SHOWN = 3  # images named in a warning


class EarlierSplits(NamedTuple):
    """The table that `datamodule.splits` names."""

    name: str  # as typed
    images: dict[str, tuple[str, str, str, str]]  # path -> label, split, reason for its exclusion in that run, and line
    note: str | None  # why the reasons are unknown


def take_over_splits(
    catalog: Catalog,
    groups: np.ndarray,
    fingerprints: Sequence[str],
    splits: EarlierSplits,
    seed: int,
    with_val: bool = True,
    in_folds: bool = False,
) -> None:
    """Give images that an earlier run lists their splits from that run, and new images splits by their hash.

    A new image in a group with old ones joins their split; it is excluded if they are in two splits.

    Args:
        groups: (rows,) group numbers from `join_groups`.
        with_val: False if test takes the place of val.
        in_folds: whether `select_fold` divides train and val again, so only test keeps its images.

    Raises:
        UserError: the table of splits contradicts the splits of the source, or lists none of its images.
    """
    key = f"datamodule.splits={splits.name}"
    given, present = catalog.splits.copy(), catalog.present()
    source_splits = set(given[present]) - {UNASSIGNED}
    is_old = _keep_splits(catalog, splits, key, source_splits)
    is_new = present & ~is_old
    _join(catalog, groups, is_new & (given == UNASSIGNED), is_old, key, in_folds)
    shares = TRAIN_VAL_TEST if with_val else TRAIN_TEST
    rows = np.flatnonzero(is_new & catalog.present() & (catalog.splits == UNASSIGNED))
    if source_splits:
        exclude_without_split(catalog, rows)
        shares = TRAIN_VAL
        divided = is_new & (catalog.splits == "train") & (with_val and "val" not in source_splits)
        _join(catalog, groups, divided, is_old & (given == "train"), key, in_folds)
        rows = np.flatnonzero(divided & (catalog.splits == "train"))
    if len(rows):
        draw_splits(catalog, rows, shares, groups, fingerprints, seed)
    n_old, n_new = int(is_old.sum()), int(is_new.sum())
    catalog.splits_from = f"{splits.name}: {n_old} images as there, {n_new} new"
    if in_folds:
        n_test, n_others = ((is_old & np.isin(catalog.splits, splits)).sum() for splits in (["test"], ["train", "val"]))
        catalog.splits_from += "; train and val divided into folds"
        kept = f"{n_test:,} test images keep their split, {n_others:,} others are divided into folds"
    else:
        kept = f"{n_old:,} images keep their split"
    log.info("%s: %s, %s are new", key, kept, f"{n_new:,}")


def _keep_splits(catalog: Catalog, splits: EarlierSplits, key: str, source_splits: set[str]) -> np.ndarray:
    """Give images that are listed their splits, or exclude them again; return (rows,) bool, whether each is listed."""
    if splits.note:
        log.warning("%s", splits.note)
    is_old, renamed, here = np.zeros(len(catalog), bool), [], set(catalog.paths)
    for row in np.flatnonzero(catalog.present()).tolist():
        if (old := splits.images.get(catalog.paths[row])) is None:
            continue
        (label, split, reason, line), given = old, catalog.splits[row]
        is_old[row] = True
        if label != catalog.classes[catalog.labels[row]]:
            renamed.append(catalog.paths[row])
        drawn_val = given == "train" and split == "val" and "val" not in source_splits
        if split and given not in (UNASSIGNED, split) and not drawn_val:
            raise UserError(
                f"{key}: {line}: {clean(catalog.paths[row], 200)} is in {split} there, but the source puts it into "
                f"{given}; remove datamodule.splits, or remove the splits from the source"
            )
        if split:
            catalog.splits[row] = split
        else:
            catalog.exclude([row], reason)
    if not is_old.any():
        raise UserError(
            f"{key}: lists none of the {len(catalog):,} images below {catalog.root}; images are matched by path"
        )
    missing = [path for path in splits.images if path not in here]
    for found, what in ((missing, "listed there, but missing here"), (renamed, "with a different label here")):
        if found:
            log.warning("%s: %s %s: %s", key, plural(len(found), "image"), what, join_words(found, SHOWN))
    return is_old


def _join(
    catalog: Catalog, groups: np.ndarray, wanted: np.ndarray, is_old: np.ndarray, key: str, in_folds: bool
) -> None:
    """Put new images into the split of the old ones in their group, or exclude them if the old ones are in two splits.

    Where train and val are divided into folds later, they count as one split.
    """
    old_splits = defaultdict(set)
    for row in np.flatnonzero(is_old & (catalog.splits != UNASSIGNED)):
        split = catalog.splits[row]
        old_splits[groups[row]].add("train" if in_folds and split == "val" else split)
    between = []
    for row in np.flatnonzero(wanted):
        found = old_splits.get(groups[row], ())
        if len(found) == 1:
            catalog.splits[row] = next(iter(found))
        elif found:
            between.append(row)
            catalog.exclude([row], f"new, and belongs to images of {join_words(sorted(found), 3)} in {key}")
    if between:
        log.warning("%s: excluded %s in a group with images of two splits", key, plural(len(between), "new image"))


def read_splits(splits: str) -> EarlierSplits:
    """Read the table of an earlier run's folder, or a splits.csv; raise UserError if it is missing or damaged."""
    key = f"datamodule.splits={clean(splits, 300)}"
    advice = "give the folder of a run, or its splits.csv"
    try:
        path = Path(splits).expanduser()
        folder = RunFolder(path if path.is_dir() else path.parent)
        table = folder.splits if path.is_dir() else path
        table.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, or ~ of an unknown user
        raise UserError(f"{key}: {error}; {advice}") from error
    if path.is_file() and table != folder.splits:
        advice += "; splits of your own are a column split: datamodule.table=FILE with path,label,split"
    reasons, note = _reasons(folder) if table == folder.splits else ({}, None)
    listed = {}
    try:
        for line, row in iterate_csv(table, needed=("path", "label", "split")):
            if row["split"] not in (*SPLITS, UNASSIGNED):
                raise UserError(
                    f"{table}: line {line}: split is {clean(row['split'], 40)!r}; allowed are train, val, test and nothing"
                )
            image = plain_path(row["path"])
            if image in listed:
                raise UserError(f"{table}: line {line}: {clean(row['path'], 200)} is listed twice")
            split, reason = _decide_again(row["split"], reasons.get(row["path"], ""))
            if split is not None:
                listed[image] = row["label"], split, reason, f"line {line}"
    except UserError as error:
        raise UserError(f"{key}: {error}; {advice}") from error
    if not listed:
        raise UserError(f"{key}: {table} lists no image; {advice}")
    return EarlierSplits(splits, listed, note)


def _decide_again(split: str, reason: str) -> tuple[str | None, str]:
    """Return an image's split before any exclusion that this run decides itself, and its reason; None: treat it as new."""
    if split:
        return split, ""
    if reason == NO_VAL:
        return "val", ""
    if reason == DROPPED or reason.startswith(THINNED.split("{")[0]):
        return "train", ""
    if "not a readable image" in reason:
        return None, ""
    return UNASSIGNED, reason or "excluded in datamodule.splits"


def _reasons(folder: RunFolder) -> tuple[dict[str, str], str | None]:
    """Return path -> reason of each exclusion in the run's record; if that is missing or damaged, none, and a note."""
    try:
        data = RunRecord.read(folder).data
        return {each.path: each.reason for each in data.excluded} if data else {}, None
    except UserError as error:
        return {}, f"{folder.splits}: the reasons for its excluded images are unknown ({error})"
