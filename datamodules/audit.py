"""Find what is wrong with the images at the start of every run, from one scan of the files and the cached pixels."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np

from common.text import clean, join_words, plural
from datamodules.decode import FIRST_OF_SEVERAL
from datamodules.image_stats import ImageStats
from datamodules.near_duplicates import NearDuplicates, connected, find_pairs
from datamodules.pixel_cache import PixelCache
from datamodules.sources.catalog import Catalog, repeated_rows

IMBALANCE = 10  # ratio of the largest class to the smallest from which on a finding is reported
IMBALANCED, NEAR_DUPLICATE = "imbalance", "near duplicate"  # kinds of findings
NAMED = 3  # files named on the screen for a finding
SERIES_PAIRS = 20  # similar pairs from which on names are compared
SERIES_SHARE = 0.5  # share of them within one series of names from which on a finding is reported
SERIES_CHANCE = 0.1  # the largest share by chance, of that one
LAST_NUMBER = re.compile(r"\d++(?=\D*(\.\w+)?$)")


@dataclass
class Finding:
    """Describe something suspicious about the images."""

    kind: str
    text: str  # one sentence
    groups: list[list[int]]  # the rows concerned; rows that belong together are in one list
    leak: bool = False  # whether images of val or test are also in train
    pairs: list[tuple[int, int]] | None = None  # which of the rows are the same; None: all rows of a group
    caveat: str = ""  # on accuracies: `may be too high: ...`


def audit(catalog: Catalog, pixels: PixelCache, near: NearDuplicates | None = None) -> list[Finding]:
    """Return all findings about the images that are not excluded, the worst first.

    Args:
        near: near duplicates, if they are known already.
    """
    rows, stats = np.flatnonzero(catalog.present()), pixels.stats
    near = near or find_pairs(rows, pixels)
    exact = list(_rows_of(stats, rows, repeated_rows(stats.fingerprints.numbers[rows])).values())
    conflicts = [group for group in exact if len({int(catalog.labels[row]) for row in group}) > 1]
    findings = [
        _finding("conflict", "image", "under two labels", catalog, _differing_first(conflicts, catalog.labels)),
        *_named_groups(catalog, rows),
        *_by_split("exact duplicate", catalog, exact),
        *_near_duplicates(catalog, pixels, rows, near),
        _series(catalog, rows, near.unlike),
        _balance(catalog),
        _odd(catalog, stats, rows),
        _pages(catalog, stats, rows),
        *(Finding("names", text, []) for text in catalog.similar_names),
    ]
    return [finding for finding in findings if finding is not None]


def leaking_train_rows(catalog: Catalog, findings: list[Finding]) -> list[int]:
    """Return the training images that are the same as one of val or test; the others of their groups stay."""
    rows = set()
    for finding in findings:
        if finding.leak:
            same = finding.groups if finding.pairs is None else finding.pairs
            rows |= {row for group in same if _leaks(catalog, group) for row in group if catalog.splits[row] == "train"}
    return sorted(rows)


def _named_groups(catalog: Catalog, rows: np.ndarray) -> list[Finding]:
    """Find the named groups of the source, such as patients, that its own splits spread over several splits."""
    members = defaultdict(list)
    for row in rows.tolist() if any(catalog.groups) else ():
        if name := catalog.groups[row]:
            members[name].append(row)
    spread = {name: group for name, group in members.items() if len(set(catalog.splits[group])) > 1}
    findings = []
    for leak, where in ((True, "train and val or test"), (False, "val and test")):
        across = {name: group for name, group in spread.items() if _leaks(catalog, group) == leak}
        if across:
            names = join_words([clean(name, 40) for name in across], NAMED + 1)
            text = f"group: {plural(len(across), 'named group')} across {where}: {names}"
            finding = Finding("group", text, _differing_first(across.values(), catalog.splits), leak)
            finding.caveat = f"may be too high: {plural(len(across), 'named group')} across {where}" * leak
            findings.append(finding)
    return findings


def _rows_of(stats: ImageStats, rows: np.ndarray, wanted: np.ndarray) -> dict[int, list[int]]:
    """Return fingerprint -> the rows that have it. `wanted` are indices into `rows`."""
    same = defaultdict(list)
    numbers = stats.fingerprints.numbers[rows]
    for index in wanted.tolist():
        same[int(numbers[index])].append(int(rows[index]))
    return same


def _near_duplicates(
    catalog: Catalog, pixels: PixelCache, rows: np.ndarray, near: NearDuplicates
) -> list[Finding | None]:
    """Find the near duplicates that are not exact ones; report what was not compared."""
    kind, numbers = NEAR_DUPLICATE, pixels.stats.fingerprints.numbers
    copies = _rows_of(pixels.stats, rows, np.flatnonzero(np.isin(numbers[rows], numbers[np.unique(near.pairs)])))
    of_pairs = ([copies.get(int(numbers[row]), []) for row in each] for each in near.pairs.tolist())
    pairs = [pair for each in of_pairs for pair in _spread(catalog, *each)]
    findings = _by_split(kind, catalog, connected(pairs), pairs)
    return [*findings, *(Finding(kind, f"{kind}: {note}", []) for note in near.notes)]


def _series(catalog: Catalog, rows: np.ndarray, similar: np.ndarray) -> Finding | None:
    """Find similar images across splits whose names differ only in the last number, such as frames of a video.

    Frames of a smooth surface have only noise in their texture, so they are not near duplicates. Where a class has few such
    series of names, similar images share one by chance.

    Args:
        similar: (pairs, 2) rows that look alike in small and are not near duplicates.
    """
    similar = similar[np.isin(similar, rows).all(axis=1)]
    if len(similar) < SERIES_PAIRS:
        return None

    def series(row: int) -> tuple[int, str]:
        return catalog.labels[row], LAST_NUMBER.sub("", catalog.paths[row])

    known = {row: series(row) for row in np.unique(similar).tolist()}
    is_same = np.array([known[a] == known[b] for a, b in similar.tolist()])
    if is_same.mean() < SERIES_SHARE:  # before the names of all images, which take a while
        return None
    sizes = np.array([*Counter(known.get(row) or series(row) for row in rows.tolist()).values()])
    by_chance = (sizes**2).sum() / (np.bincount(catalog.labels[rows]) ** 2).sum()
    if by_chance > SERIES_CHANCE * is_same.mean():
        return None
    pairs = [pair for pair in similar[is_same].tolist() if len(set(catalog.splits[pair])) > 1]
    if not pairs:
        return None
    text = (
        f"series: {plural(len(pairs), 'pair')} of similar images across splits with names that differ only in the last "
        f"number: {' and '.join(catalog.paths[row] for row in pairs[0])}; if they show the same object, as frames of a video "
        "do, accuracies are too high: give a table with a column group, such as the video (datamodule.table=FILE)"
    )
    caveat = f"may be too high: {plural(len(pairs), 'pair')} of similar images across splits may show the same object"
    return Finding("series", text, _differing_first(connected(pairs), catalog.splits), caveat=caveat)


def _spread(catalog: Catalog, one: list[int], other: list[int]) -> list[tuple[int, int]]:
    """Pair the exact copies of two near duplicates: each copy with one copy of the other in train and one outside of train."""
    first_of = [{bool(catalog.splits[row] == "train"): row for row in reversed(rows)}.values() for rows in (one, other)]
    return sorted({*product(one, first_of[1]), *product(first_of[0], other)})


def _by_split(
    kind: str, catalog: Catalog, groups: list[list[int]], pairs: list[tuple[int, int]] | None = None
) -> list[Finding | None]:
    across, between, within = [], [], []
    for group in groups:
        is_single = len(set(catalog.splits[group])) == 1
        (across if _leaks(catalog, group) else within if is_single else between).append(group)
    across, between = _differing_first(across, catalog.splits), _differing_first(between, catalog.splits)
    leak = _finding(kind, "group", "across train and val or test", catalog, across)
    if leak is not None:
        leak.leak, leak.pairs = True, pairs
        leak.caveat = f"may be too high: {plural(len(across), 'group')} of {kind}s across train and val or test"
    # No training image is in them, but val chooses what test measures
    chosen_by = _finding(kind, "group", "across val and test", catalog, between)
    is_measured = any(catalog.splits[group[0]] in ("val", "test") and not _is_named(catalog, group) for group in within)
    where = "within a split" + ", whose intervals treat them as independent images" * is_measured
    return [leak, chosen_by, _finding(kind, "group", where, catalog, within, examples=1)]


def _is_named(catalog: Catalog, group: Iterable[int]) -> bool:
    """Return whether all images are of one named group, which the intervals resample as a whole."""
    names = {catalog.groups[row] for row in group}
    return len(names) == 1 and "" not in names


def _differing_first(groups: Iterable[list[int]], values: np.ndarray) -> list[list[int]]:
    """Put one row of each value (split or label) first in a large group, since only its first rows are named and drawn."""
    ordered = []
    for group in groups:
        first = sorted({values[row]: row for row in reversed(group)}.values()) if len(group) > NAMED else []
        ordered.append([*first, *(row for row in group if row not in first)])
    return ordered


def _leaks(catalog: Catalog, group: Iterable[int]) -> bool:
    splits = {catalog.splits[row] for row in group}
    return "train" in splits and len(splits) > 1


def _finding(
    kind: str, thing: str, where: str, catalog: Catalog, groups: list[list[int]], examples: int = NAMED
) -> Finding | None:
    if not groups:
        return None
    named = "; ".join(" = ".join(catalog.paths[row] for row in group[:NAMED]) for group in groups[:examples])
    more = f"; and {len(groups) - examples:,} more" if len(groups) > examples else ""
    return Finding(kind, f"{kind}: {plural(len(groups), thing)} {where}: {named}{more}", groups)


def _balance(catalog: Catalog) -> Finding | None:
    counts = np.bincount(catalog.labels[catalog.present()], minlength=len(catalog.classes))
    if counts.max() < IMBALANCE * max(counts.min(), 1):
        return None
    small, large = catalog.classes[int(counts.argmin())], catalog.classes[int(counts.argmax())]
    text = f"{IMBALANCED}: {counts.max():,} of class {large} against {counts.min():,} of class {small}"
    return Finding(IMBALANCED, text, [])


def _pages(catalog: Catalog, stats: ImageStats, rows: np.ndarray) -> Finding | None:
    """Find files with several pages; only the first is used."""
    several = {mode for mode in set(stats.modes) if mode.endswith(FIRST_OF_SEVERAL)}
    found = [int(row) for row in rows if stats.modes[row] in several] if several else []
    if not found:
        return None
    named = join_words([catalog.paths[row] for row in found], NAMED)
    text = f"pages: {plural(len(found), 'file')} with several pages or frames; only the first is used: {named}"
    return Finding("pages", text, [[row] for row in found])


def _odd(catalog: Catalog, stats: ImageStats, rows: np.ndarray) -> Finding | None:
    """Find images that are much smaller than the others, or whose mode differs from that of nearly all others."""
    area = stats.sizes[rows].prod(axis=1)
    small = rows[area * 16 < np.median(area)]
    plain = {mode: mode.removesuffix(FIRST_OF_SEVERAL) for mode in set(stats.modes)}  # pages are a finding of their own
    modes = Counter(plain[stats.modes[row]] for row in rows)
    usual = modes.most_common(1)[0][0]
    odd = set(small.tolist())
    if len(rows) > modes[usual] >= 0.95 * len(rows):
        odd |= {int(row) for row in rows if plain[stats.modes[row]] != usual}
    odd = sorted(odd)
    if not odd:
        return None
    shown = ", ".join(
        f"{catalog.paths[r]} ({stats.sizes[r][0]} x {stats.sizes[r][1]}, {stats.modes[r]})" for r in odd[:NAMED]
    )
    more = f" and {len(odd) - NAMED} more" if len(odd) > NAMED else ""
    return Finding(
        "odd", f"odd: {plural(len(odd), 'image')} with an unusual size or mode: {shown}{more}", [[row] for row in odd]
    )
