"""Who goes where: every share of the images, seeded and stratified by class, in which a group never crosses a border."""

import logging

import numpy as np

from common.errors import UserError
from datamodules.sources.catalog import SPLITS, UNASSIGNED, Catalog

log = logging.getLogger(__name__)

TRAIN_VAL_TEST = {"train": 0.6, "val": 0.2, "test": 0.2}
TRAIN_TEST = {"train": 0.8, "test": 0.2}  # where test also selects the epoch
TRAIN_VAL = {"train": 0.8, "val": 0.2}  # of a train split that comes without val
CLASSES_SHOWN = 20  # in a message
THINNED = "datamodule.train_fraction={:g}"  # why an image is excluded


def fill_in_splits(catalog: Catalog, groups: np.ndarray, seed: int, with_val: bool = True) -> None:
    """Split everything where no split is given, and val off train where val is not given.

    Args:
        groups: (rows,) group numbers, as of `join_groups`.
        with_val: False where test takes the place of val: no val split is made then.
    """
    present = catalog.present()
    given = set(catalog.splits[present]) - {UNASSIGNED}
    if not given:
        _assign(catalog, np.flatnonzero(present), TRAIN_VAL_TEST if with_val else TRAIN_TEST, groups, seed)
        return
    unassigned = np.flatnonzero(present & (catalog.splits == UNASSIGNED))
    if len(unassigned):
        log.warning("%d image(s) without a split are excluded, since others have one", len(unassigned))
        catalog.exclude(unassigned, "no split given")
    if "val" not in given and with_val:
        _assign(catalog, catalog.rows("train"), TRAIN_VAL, groups, seed)
        log.info("no val images: 20%% of train split off, stratified, seed %d", seed)
    if "test" not in given and with_val:
        log.warning(
            "no test folder or split: there will be no test accuracy, only that of the validation split, which also chose "
            "the best epoch"
        )


def select_fold(catalog: Catalog, groups: np.ndarray, folds: int, fold: int | None, seed: int) -> None:
    """Divide train and val again into `folds` parts, of which number `fold` is val. Test stays what it is, and closed.

    Raises:
        UserError: so many folds, or such a fold, there cannot be.
    """
    rows = np.flatnonzero((catalog.splits == "train") | (catalog.splits == "val"))
    if not 2 <= folds <= max(len(rows), 2):
        raise UserError(f"datamodule.folds={folds}: use 2 or more, up to the {len(rows):,} images, or null")
    if fold is None or not 0 <= fold < folds:
        raise UserError(f"datamodule.fold={fold}: use 0 to {folds - 1} with datamodule.folds={folds}")
    numbers = assign_folds(catalog.labels[rows], folds, seed, groups[rows])
    catalog.splits[rows] = np.where(numbers == fold, "val", "train")
    log.info("fold %d of 0 to %d is validation; the test split stays closed", fold, folds - 1)


def exclude_val(catalog: Catalog, folds: int | None) -> None:
    """Have the test images select the epoch, as the study did: val is excluded.

    Raises:
        UserError: there is no test split, or it has to stay closed.
    """
    if folds is not None or not len(catalog.rows("test")):
        reason = "cross-validation keeps it closed" if folds is not None else "there is none"
        raise UserError(f"datamodule.select_on=test needs a test split, and {reason}; use datamodule.select_on=val")
    val = catalog.rows("val")
    catalog.exclude(val, "datamodule.select_on=test has no val split")
    unused = f"; {len(val)} val images are not used" if len(val) else ""
    log.warning(
        "datamodule.select_on=test: the epoch is chosen on the test images, as the study did, so that its test "
        "accuracy is too high%s", unused,
    )  # fmt: skip


def thin_train(catalog: Catalog, groups: np.ndarray, fraction: float, seed: int) -> None:
    """Keep a stratified part of train; a smaller part lies within a larger one of the same seed, except for groups.

    Args:
        seed: of the run, so that repetitions of it train on different parts.

    Raises:
        UserError: a class would have no image left.
    """
    train = catalog.rows("train")
    parts = assign_splits(catalog.labels[train], {"kept": fraction, "rest": 1 - fraction}, seed, groups[train])
    gone = set(catalog.labels[train]) - set(catalog.labels[train[parts == "kept"]])
    if gone:
        name = catalog.classes[min(gone)]
        raise UserError(
            f"datamodule.train_fraction={fraction:g}: leaves no image of class {name} in train; use a larger share"
        )
    catalog.exclude(train[parts == "rest"], THINNED.format(fraction))
    log.info("datamodule.train_fraction=%g: %d of %d train images", fraction, (parts == "kept").sum(), len(train))


def check_splits(catalog: Catalog, optional: set[str]) -> None:
    """Make sure that every class is in each split; splits of `optional` may be empty.

    Raises:
        UserError: names the class, the split and the way out.
    """
    for split in SPLITS:
        rows = catalog.rows(split)
        if split in optional and not len(rows):
            continue
        counts = np.bincount(catalog.labels[rows], minlength=len(catalog.classes))
        missing = [catalog.classes[label] for label in np.flatnonzero(counts == 0)]
        if missing:
            more = f" and {len(missing) - CLASSES_SHOWN:,} more" if len(missing) > CLASSES_SHOWN else ""
            raise UserError(
                f"{catalog.root}: the {split} split has no image of class {', '.join(missing[:CLASSES_SHOWN])}{more}; "
                f"every class needs some in every split (it has {len(rows)} images in all)"
            )


def assign_splits(
    labels: np.ndarray, shares: dict[str, float], seed: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """Return (rows,) names of `shares`: each class is divided in those proportions, as near as whole groups allow.

    Groups of several images go first, the largest first, each to where its classes are missing most. Then single
    images are shuffled within their class and dealt out at the rounded cumulative shares of what is still missing, so
    that without groups every split has its share of every class to within one image.
    """
    names = list(shares)
    generator = np.random.default_rng(seed)
    fractions = np.array(list(shares.values()))
    fractions = fractions / fractions.sum()
    result = np.full(len(labels), "", dtype=f"<U{max(map(len, names))}")
    kinds, codes = np.unique(labels, return_inverse=True)
    totals = np.bincount(codes, minlength=len(kinds))  # (K,)
    missing = fractions[:, None] * totals[None, :]  # (splits, K)

    for rows in _groups_of_several(groups, generator):
        counts = np.bincount(codes[rows], minlength=len(kinds))
        after = missing - counts  # (splits, K), if the group went there
        cost = ((after**2 - missing**2) / np.maximum(totals, 1)).sum(axis=1)
        choice = int(np.argmin(cost))
        result[rows] = names[choice]
        missing[choice] -= counts

    for code in range(len(kinds)):
        rows = generator.permutation(np.flatnonzero((codes == code) & (result == "")))
        if len(rows):
            wanted = np.maximum(missing[:, code], 0)
            edges = np.cumsum(wanted / wanted.sum()) if wanted.sum() else np.cumsum(fractions)
            cuts = np.floor(edges * len(rows) + 0.5 + 1e-9).astype(int)
            for name, begin, end in zip(names, [0, *cuts[:-1]], cuts, strict=True):
                result[rows[begin:end]] = name
    return result


def assign_folds(labels: np.ndarray, folds: int, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Return (rows,) fold numbers from 0, stratified and grouped like `assign_splits`."""
    shares = {f"{fold:04d}": 1 / folds for fold in range(folds)}
    return assign_splits(labels, shares, seed, groups).astype(int)


def stratified_rows(strata: list[str], wanted: int, seed: int) -> np.ndarray:
    """Draw exactly `wanted` rows, of each stratum its share; what rounding leaves goes to the largest remainders."""
    names, codes = np.unique(strata, return_inverse=True)
    quotas = np.bincount(codes) * wanted / len(strata)
    counts = np.floor(quotas).astype(int)
    remainders = np.argsort(counts - quotas, kind="stable")
    counts[remainders[: wanted - counts.sum()]] += 1
    generator = np.random.default_rng(seed)
    drawn = [generator.permutation(np.flatnonzero(codes == code))[: counts[code]] for code in range(len(names))]
    return np.sort(np.concatenate(drawn))


def spread_rows(labels: np.ndarray, wanted: int, seed: int) -> np.ndarray:
    """Draw `wanted` rows with every class among the first ones, then each by its share; in that order, so classes alternate.

    Args:
        labels: (rows,) class indices.
        wanted: rows; of fewer than there are classes only so many classes are drawn.
        seed: of the draw within a class.
    """
    generator = np.random.default_rng(seed)
    place = np.empty(len(labels))  # in its class, from 0 to 1
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        place[rows] = np.arange(len(rows)) / len(rows)
    return np.argsort(place, kind="stable")[:wanted]


def join_groups(groups: list[str], fingerprints: list[str]) -> np.ndarray:
    """Return (rows,) group numbers that join rows of one named group and rows of equal pixels, also over several steps."""
    parent = np.arange(len(groups))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for kind, names in (("group", groups), ("pixels", fingerprints)):
        first: dict[tuple[str, str], int] = {}
        for row, name in enumerate(names):
            if name:
                parent[root(row)] = root(first.setdefault((kind, name), row))
    return np.array([root(row) for row in range(len(groups))])


def _assign(catalog: Catalog, rows: np.ndarray, shares: dict[str, float], groups: np.ndarray, seed: int) -> None:
    catalog.splits[rows] = assign_splits(catalog.labels[rows], shares, seed, groups[rows])


def _groups_of_several(groups: np.ndarray | None, generator: np.random.Generator) -> list[np.ndarray]:
    """Return the rows of each group of more than one, the largest first, those of one size in seeded order."""
    if groups is None or len(groups) == 0:
        return []
    order = np.argsort(groups, kind="stable")
    borders = np.flatnonzero(np.diff(groups[order])) + 1
    several = [rows for rows in np.split(order, borders) if len(rows) > 1]
    several = [several[index] for index in generator.permutation(len(several))] if several else []
    return sorted(several, key=len, reverse=True)
