"""Divide images into splits, folds and parts of train: seeded, and without ever dividing a group.

Train, val and test follow from a hash of each image, so adding images moves none of the others. Folds and
`train_fraction` are dealt out, stratified by class.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from common.errors import UserError
from common.text import join_words, plural
from datamodules.image_stats import Fingerprints
from datamodules.sources.catalog import SPLITS, UNASSIGNED, Catalog, repeated_rows

log = logging.getLogger(__name__)

TRAIN_VAL_TEST = {"train": 0.6, "val": 0.2, "test": 0.2}
TRAIN_TEST = {"train": 0.8, "test": 0.2}  # where test also selects the epoch
TRAIN_VAL = {"train": 0.8, "val": 0.2}  # of a train split that comes without val
CLASSES_SHOWN = 20  # in a message
THINNED = "datamodule.train_fraction={:g}"  # reason for excluding an image, like the next two
NO_VAL = "datamodule.select_on=test has no val split"
DROPPED = "in val or test too"
GIVEN = "given by the source"  # where splits are from
NO_TEST = ": there will be no test accuracy, only that of the validation split, which also chose the best epoch"
NEEDED = "drawn splits need three images, or groups of images, of each class"
IN_FOLDS = "needs that many images, or groups of images, of each class in train and val; use fewer, or remove the class"
FEW = 10  # up to this many near duplicates are kept together in any data set
TOO_MANY = 0.05  # a larger share of the images is not copies of one image but one scene


def fill_in_splits(
    catalog: Catalog,
    groups: np.ndarray,
    fingerprints: Sequence[str],
    seed: int,
    with_val: bool = True,
    in_folds: bool = False,
) -> None:
    """Split all images if the source gives no splits; if it gives train without val, split val off train.

    Args:
        groups: (rows,) group numbers from `join_groups`.
        with_val: False if test takes the place of val, so no val split is made.
        in_folds: whether `select_fold` makes val later, so none is split off train here.
    """
    present = catalog.present()
    given = set(catalog.splits[present]) - {UNASSIGNED}
    if not given:
        shares = TRAIN_VAL_TEST if with_val else TRAIN_TEST
        draw_splits(catalog, np.flatnonzero(present), shares, groups, fingerprints, seed)
        catalog.splits_from = f"drawn by datamodule.split_seed={seed}"
        if with_val and not len(catalog.rows("test")):
            log.warning(
                "no test images, since no class has three images or groups of them, one for each split%s", NO_TEST
            )
        return
    catalog.splits_from = GIVEN
    exclude_without_split(catalog, np.flatnonzero(present & (catalog.splits == UNASSIGNED)))
    if "val" not in given and with_val and not in_folds:
        draw_splits(catalog, catalog.rows("train"), TRAIN_VAL, groups, fingerprints, seed)
        catalog.splits_from = f"{GIVEN}, val drawn from train by datamodule.split_seed={seed}"
        log.info("no val images: 20%% of train becomes val, seed %d", seed)
    if "test" not in given and with_val:
        log.warning("no test folder or split%s", NO_TEST)


def exclude_without_split(catalog: Catalog, rows: np.ndarray) -> None:
    """Exclude the images of `rows`, which have no split although others of the source have one."""
    if len(rows):
        log.warning("excluded %s without a split, since other images have one", plural(len(rows), "image"))
        catalog.exclude(rows, "no split given")


def check_folds(folds: int | None, fold: int | None) -> None:
    """Raise UserError, before the images are read, unless `folds` and `fold` are given together and are in range."""
    if folds is None:
        if fold is not None:
            raise UserError(
                f"datamodule.fold={fold}: does nothing without datamodule.folds; add it, such as datamodule.folds=5"
            )
        return
    if folds < 2:
        raise UserError(f"datamodule.folds={folds}: use 2 or more, up to the number of images, or null")
    if fold is None:
        raise UserError(
            f"datamodule.folds={folds}: needs datamodule.fold, the number of the fold that is val: add datamodule.fold=0 "
            f"(up to {folds - 1}), or for all of them -m 'datamodule.fold=range(0,{folds})'"
        )
    if not 0 <= fold < folds:
        raise UserError(f"datamodule.fold={fold}: use 0 to {folds - 1} with datamodule.folds={folds}")


def select_fold(catalog: Catalog, groups: np.ndarray, folds: int, fold: int, seed: int) -> None:
    """Pool train and val and divide them into `folds` parts; part number `fold` becomes val. Test does not change.

    Raises:
        UserError: more folds than images.
    """
    rows = np.flatnonzero((catalog.splits == "train") | (catalog.splits == "val"))
    if folds > max(len(rows), 2):
        raise UserError(f"datamodule.folds={folds}: use 2 or more, up to the {len(rows):,} images, or null")
    numbers = assign_folds(catalog.labels[rows], folds, seed, groups[rows])
    catalog.splits[rows] = np.where(numbers == fold, "val", "train")
    log.info("fold %d of 0 to %d is validation", fold, folds - 1)


def exclude_val(catalog: Catalog, folds: int | None) -> None:
    """Exclude val, since the test images select the epoch, as they did in the study.

    Raises:
        UserError: there is no test split, or cross-validation must not use it.
    """
    if folds is not None or not len(catalog.rows("test")):
        reason = "cross-validation must not use it" if folds is not None else "there is none"
        raise UserError(f"datamodule.select_on=test needs a test split, but {reason}; use datamodule.select_on=val")
    val = catalog.rows("val")
    catalog.exclude(val, NO_VAL)
    unused = f"; {len(val)} val images are not used" if len(val) else ""
    log.warning(
        "datamodule.select_on=test: the epoch is chosen on the test images, as in the study, so the test accuracy is "
        "too high%s", unused,
    )  # fmt: skip


def thin_train(catalog: Catalog, groups: np.ndarray, fraction: float, seed: int) -> None:
    """Keep a stratified part of train; a smaller part is a subset of a larger one with the same seed, except for groups.

    Args:
        seed: of the run, so its repetitions train on different parts.

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


def check_splits(catalog: Catalog, optional: set[str], folds: int | None = None) -> None:
    """Check that every class has images in each split and, in train, a weight above 0; splits of `optional` may be empty.

    Args:
        folds: number of folds of train and val, for the message.

    Raises:
        UserError: names the class, the split and what to do.
    """
    for split in SPLITS:
        rows = catalog.rows(split)
        if split in optional and not len(rows):
            continue
        counts = np.bincount(catalog.labels[rows], minlength=len(catalog.classes))
        missing = [catalog.classes[label] for label in np.flatnonzero(counts == 0)]
        if missing:
            more = f" and {len(missing) - CLASSES_SHOWN:,} more" if len(missing) > CLASSES_SHOWN else ""
            needed = f"; {NEEDED}" if (catalog.splits_from or "").startswith("drawn") else ""
            if folds and split != "test":
                needed = f"; datamodule.folds={folds}: {IN_FOLDS}"
            raise UserError(
                f"{catalog.root}: the {split} split has no image of class {', '.join(missing[:CLASSES_SHOWN])}{more}; "
                f"every class needs images in every split ({split} has {plural(len(rows), 'image')} in all){needed}"
            )
    train = catalog.rows("train")
    if catalog.weights is not None and len(train):
        weights = np.bincount(catalog.labels[train], catalog.weights[train], minlength=len(catalog.classes))
        ignored = [catalog.classes[label] for label in np.flatnonzero(weights == 0)]
        if ignored:
            raise UserError(
                f"{catalog.root}: every training image of class {join_words(ignored, CLASSES_SHOWN)} has the weight 0, so "
                "nothing would be learned about it; use more of its images, give some a weight, or remove the class"
            )


def assign_splits(
    labels: np.ndarray, shares: dict[str, float], seed: int, groups: np.ndarray | None = None, evens_out: bool = False
) -> np.ndarray:
    """Return (rows,) names of `shares`: each class is divided in those proportions, as closely as whole groups allow.

    Groups of several images come first, the largest first; each goes where its classes are missing most. Then the single
    images of each class are shuffled and dealt out at the rounded cumulative shares of what is still missing. Without
    groups, every split has its share of every class to within one image.

    Args:
        evens_out: give groups, and what rounding leaves of a class, to splits that lack the class and have too few images so
            far. The sizes of the splits come out right too, but a smaller share is no longer a subset of a larger one.
    """
    names = list(shares)
    generator = np.random.default_rng(seed)
    fractions = np.array(list(shares.values()))
    fractions = fractions / fractions.sum()
    result = np.full(len(labels), "", dtype=f"<U{max(map(len, names))}")
    kinds, codes = np.unique(labels, return_inverse=True)
    totals = np.bincount(codes, minlength=len(kinds))  # (K,)
    if evens_out:
        totals = np.append(totals, len(labels))  # (K + 1,): one more class, to which every image belongs
    missing = fractions[:, None] * totals[None, :]  # (splits, K), or K + 1

    for rows in _groups_of_several(groups, generator):
        counts = np.bincount(codes[rows], minlength=len(kinds))
        counts = np.append(counts, len(rows)) if evens_out else counts
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
            if evens_out:
                counts = np.floor(np.diff(edges, prepend=0.0) * len(rows) + 1e-9).astype(int)
                has_room = wanted > counts + 1e-9  # for the class; at least as many splits as images are left over
                short = np.lexsort((counts - missing[:, -1], ~has_room))[: len(rows) - counts.sum()]
                counts[short] += 1
                missing[:, -1] -= counts
                cuts = np.cumsum(counts)
            for name, begin, end in zip(names, [0, *cuts[:-1]], cuts, strict=True):
                result[rows[begin:end]] = name
    return result


def assign_folds(labels: np.ndarray, folds: int, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Return (rows,) fold numbers from 0, stratified and grouped like `assign_splits`."""
    shares = {f"{fold:04d}": 1 / folds for fold in range(folds)}
    return assign_splits(labels, shares, seed, groups, evens_out=True).astype(int)


def stratified_rows(strata: list[str], wanted: int, seed: int) -> np.ndarray:
    """Draw exactly `wanted` rows, each stratum in proportion; what rounding leaves goes to the largest remainders."""
    names, codes = np.unique(strata, return_inverse=True)
    quotas = np.bincount(codes) * wanted / len(strata)
    counts = np.floor(quotas).astype(int)
    remainders = np.argsort(counts - quotas, kind="stable")
    counts[remainders[: wanted - counts.sum()]] += 1
    generator = np.random.default_rng(seed)
    drawn = [generator.permutation(np.flatnonzero(codes == code))[: counts[code]] for code in range(len(names))]
    return np.sort(np.concatenate(drawn))


def spread_rows(labels: np.ndarray, wanted: int, seed: int) -> np.ndarray:
    """Draw `wanted` rows: first one of every class, then each class in proportion, in an order in which classes alternate.

    Args:
        labels: (rows,) class indices.
        wanted: number of rows; if it is smaller than the number of classes, only that many classes are drawn.
        seed: of the draw within a class.
    """
    generator = np.random.default_rng(seed)
    place = np.empty(len(labels))  # relative position within the class, from 0 to 1
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        place[rows] = np.arange(len(rows)) / len(rows)
    return np.argsort(place, kind="stable")[:wanted]


def hash_places(keys: Iterable[str], seed: int) -> np.ndarray:
    """Return (keys, 2) numbers from 0 to 1 by hash: the place of a key, which decides its split, and its rank in a group."""
    digests = bytearray()
    for key in keys:
        digests += hashlib.blake2b(f"{seed} {key}".encode(errors="surrogateescape"), digest_size=16).digest()
    return np.frombuffer(digests, ">u8").reshape(-1, 2) / 2.0**64


def draw_splits(
    catalog: Catalog,
    rows: np.ndarray,
    shares: dict[str, float],
    groups: np.ndarray,
    fingerprints: Sequence[str],
    seed: int,
) -> None:
    """Divide rows in the proportions of `shares`, each group by the hash of one of its images, whatever other images exist.

    An image's hash is that of its group's name or, without a group, of its pixels. If a split, including the images that it
    already has, would hold no image of a class, the group whose hash is nearest moves there, and this is logged.
    """
    if not len(rows):  # such as of a table that lists test images only; `check_splits` names what is missing
        return
    places = hash_places(_keys(catalog.groups, fingerprints, rows), seed)
    order = np.lexsort((places[:, 1], groups[rows]))
    _, first, unit_of = np.unique(groups[rows][order], return_index=True, return_inverse=True)
    place = places[order[first], 0]  # (groups,) of the image with the lowest rank
    del places, first
    ends = np.cumsum(list(shares.values()))
    choice = np.minimum(np.searchsorted(ends, place, side="right"), len(ends) - 1)
    classes = len(catalog.classes)
    units, labels = np.divmod(np.unique(unit_of * classes + catalog.labels[rows][order]), classes)
    elsewhere = np.ones(len(catalog), bool)
    elsewhere[rows] = False
    there = [np.bincount(catalog.labels[elsewhere & (catalog.splits == split)], minlength=classes) for split in shares]
    moved = _fill_gaps(choice, place, units, labels, ends, np.array(there))
    catalog.splits[rows[order]] = np.array(list(shares), dtype=object)[choice[unit_of]]
    if moved:
        count = int(np.isin(unit_of, moved).sum())
        log.warning(
            "%s put into a split that had no image of the class, instead of the split of the hash: images added later may "
            "undo that; datamodule.splits=RUN keeps the splits of an earlier run", plural(count, "image"),
        )  # fmt: skip


def _keys(groups: Sequence[str], fingerprints: Sequence[str], rows: np.ndarray) -> Iterator[str]:
    for begin in range(0, len(rows), 2**14):  # a list of a million row numbers would take 40 MB
        for row in rows[begin : begin + 2**14].tolist():
            yield f"group {groups[row]}" if groups[row] else f"pixels {fingerprints[row]}"


def _fill_gaps(
    choice: np.ndarray, place: np.ndarray, units: np.ndarray, labels: np.ndarray, ends: np.ndarray, there: np.ndarray
) -> list[int]:
    """Give each split a group of every class, where others can spare one; change `choice` and return the groups that moved.

    Args:
        choice: (groups,) number of the split; place: (groups,) from 0 to 1.
        units, labels: (pairs,) which groups have which classes, sorted by group.
        ends: (splits,) place at which each split ends, from 0 to 1.
        there: (splits, classes) number of images that are in the splits already.
    """
    classes = there.shape[1]
    counts = there + np.bincount(choice[units] * classes + labels, minlength=there.size).reshape(-1, classes)
    moved = []

    def classes_of(unit: int) -> np.ndarray:
        return labels[np.searchsorted(units, unit) : np.searchsorted(units, unit, side="right")]

    for label in np.unique(labels):
        for split in np.flatnonzero(counts[:, label] == 0):
            begin, end = ends[split - 1] if split else 0.0, ends[split]
            spared = [unit for unit in units[labels == label] if (counts[choice[unit], classes_of(unit)] > 1).all()]
            if spared:
                distance = [max(begin - place[unit], place[unit] - end, 0) for unit in spared]
                unit = spared[int(np.argmin(distance))]
                counts[choice[unit], classes_of(unit)] -= 1
                choice[unit] = split
                counts[split, classes_of(unit)] += 1
                moved.append(int(unit))
    return moved


def join_groups(groups: Sequence[str], fingerprints: Sequence[str], near: Iterable[Iterable[int]] = ()) -> np.ndarray:
    """Return (rows,) group numbers that join rows of one named group and rows of equal pixels, directly or through others.

    Args:
        near: sets of rows, such as near duplicates, that are joined too.
    """
    parent = np.arange(len(groups))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for names in (groups, fingerprints):
        first: dict[str, int] = {}
        for row in _repeated(names).tolist():
            if name := names[row]:
                parent[root(row)] = root(first.setdefault(name, row))
    for one, *others in near:
        for other in others:
            parent[root(other)] = root(one)
    for row in np.flatnonzero(parent != np.arange(len(parent))).tolist():
        parent[row] = root(row)
    return parent


def _repeated(names: Sequence[str]) -> np.ndarray:
    """Return, in order, the rows whose name may occur more than once; all others are joined with none."""
    if isinstance(names, Fingerprints):
        return repeated_rows(names.numbers)
    return repeated_rows(np.fromiter(map(hash, names), np.int64, len(names))) if any(names) else np.empty(0, np.int64)


def kept_together(
    catalog: Catalog, near: list[list[int]], fingerprints: Sequence[str], parts: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Return the groups of near duplicates that stay together in a split, and those that are split up.

    Split up are groups too large to be copies, such as the scene of a fixed camera or a video, and groups that leave a class
    with fewer groups than parts.

    Args:
        near: rows of each group.
        parts: number of parts that the images are divided into, 3 or the number of folds.
    """
    most = max(FEW, TOO_MANY * int(catalog.present().sum()))
    split_up = [group for group in near if len(group) > most]
    kept = sorted((group for group in near if len(group) <= most), key=len)
    present = np.flatnonzero(catalog.present())
    unjoined = _class_counts(catalog, join_groups(catalog.groups, fingerprints), present) if kept else None
    while kept:
        joined = _class_counts(catalog, join_groups(catalog.groups, fingerprints, kept), present)
        largest = {}  # scarce class -> its largest group, the last one
        for group in kept:
            labels = np.unique(catalog.labels[group])
            largest |= {label: group for label in labels if joined[label] < min(parts, unjoined[label])}
        if not largest:
            break
        torn = {group[0] for group in largest.values()}
        split_up += [group for group in kept if group[0] in torn]
        kept = [group for group in kept if group[0] not in torn]
    return kept, split_up


def _class_counts(catalog: Catalog, groups: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return (classes,), the number of groups of each class."""
    pairs = np.unique(catalog.labels[rows] * len(groups) + groups[rows])
    return np.bincount(pairs // len(groups), minlength=len(catalog.classes))


def _groups_of_several(groups: np.ndarray | None, generator: np.random.Generator) -> list[np.ndarray]:
    """Return the rows of each group of several images, the largest first and equal sizes in seeded order."""
    if groups is None:
        return []
    order = np.argsort(groups, kind="stable")
    borders = np.flatnonzero(np.diff(groups[order])) + 1
    several = [rows for rows in np.split(order, borders) if len(rows) > 1]
    several = [several[index] for index in generator.permutation(len(several))]
    return sorted(several, key=len, reverse=True)
