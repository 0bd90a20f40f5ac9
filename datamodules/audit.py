"""What is wrong with the images: found at the start of every run, from the statistics of its one scan of the files."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from datamodules.image_stats import ImageStats
from datamodules.sources.catalog import SPLITS, Catalog

HASH_BITS = 6  # near duplicates differ in so many of 64 bits of their dHash at most ...
THUMBNAIL_LEVELS = 4.0  # ... and by so many gray levels of 255 on average at 16 x 16 pixels
MOST_TOGETHER = 4000  # images compared pairwise; more of them share a part of their hash only where all look alike
IMBALANCE = 10  # the largest class against the smallest
NAMED = 3  # files named on the screen for a finding


@dataclass
class Finding:
    """Describe something suspicious about the images."""

    kind: str
    text: str  # one sentence
    groups: list[list[int]]  # the rows concerned, those that belong together in one list
    leak: bool = False  # whether images of val or test are also in train


def audit(catalog: Catalog, stats: ImageStats) -> list[Finding]:
    """Return all findings about the images that are not excluded, the worst first."""
    rows = np.flatnonzero(catalog.present())
    exact = _exact_groups(stats, rows)
    near = _near_groups(stats, rows)
    conflicts = [group for group in exact if len({int(catalog.labels[row]) for row in group}) > 1]
    findings = [
        _finding("conflict", "image(s) under two labels", catalog, conflicts),
        *_by_split("exact duplicate", catalog, exact),
        *_by_split("near duplicate", catalog, near),
        _balance(catalog),
        _odd(catalog, stats, rows),
    ]
    return [finding for finding in findings if finding is not None]


def leaking_train_rows(catalog: Catalog, findings: list[Finding]) -> list[int]:
    """Return the training images that are in val or test as well."""
    groups = [group for finding in findings if finding.leak for group in finding.groups]
    return sorted({row for group in groups for row in group if catalog.splits[row] == "train"})


def _exact_groups(stats: ImageStats, rows: np.ndarray) -> list[list[int]]:
    same = defaultdict(list)
    for row in rows.tolist():
        same[stats.fingerprints[row]].append(row)
    return [group for group in same.values() if len(group) > 1]


def _near_groups(stats: ImageStats, rows: np.ndarray) -> list[list[int]]:
    """Return near duplicates that are no exact ones; pairs that share an image are one group."""
    partners: dict[int, set[int]] = defaultdict(set)
    for a, b in near_pairs(stats.hashes[rows], stats.thumbnails[rows]):
        a, b = int(rows[a]), int(rows[b])
        if stats.fingerprints[a] != stats.fingerprints[b]:
            partners[a].add(b)
            partners[b].add(a)
    groups, seen = [], set()
    for start in sorted(partners):
        waiting, group = [start], []
        while waiting:
            row = waiting.pop()
            if row not in seen:
                seen.add(row)
                group.append(row)
                waiting += partners[row]
        if group:
            groups.append(sorted(group))
    return groups


def near_pairs(hashes: np.ndarray, thumbnails: np.ndarray) -> list[tuple[int, int]]:
    """Return pairs (a, b), a < b, whose dHashes differ in few bits and whose thumbnails are nearly the same.

    Two hashes that differ in at most HASH_BITS of 64 bits agree in one of HASH_BITS + 1 pieces (pigeonhole), so that only
    images that share a piece are compared.
    """
    found: set[tuple[int, int]] = set()
    edges = np.linspace(0, 64, HASH_BITS + 2).astype(int)
    for low, high in pairwise(edges):
        piece = (hashes >> np.uint64(low)) & np.uint64(2 ** int(high - low) - 1)
        order = np.argsort(piece, kind="stable")
        borders = np.flatnonzero(np.diff(piece[order])) + 1
        for bucket in np.split(order, borders):
            if 1 < len(bucket) <= MOST_TOGETHER or len(hashes) <= MOST_TOGETHER:
                found |= _near_in(bucket, hashes, thumbnails)
    return sorted(found)


def _near_in(bucket: np.ndarray, hashes: np.ndarray, thumbnails: np.ndarray) -> set[tuple[int, int]]:
    pairs = set()
    bucket = np.sort(bucket)
    for position, row in enumerate(bucket[:-1]):
        others = bucket[position + 1 :]
        close = others[np.bitwise_count(hashes[others] ^ hashes[row]) <= HASH_BITS]
        if len(close):
            difference = np.abs(thumbnails[close].astype(np.int16) - thumbnails[row]).mean(axis=(1, 2))
            pairs |= {(int(row), int(other)) for other in close[difference <= THUMBNAIL_LEVELS]}
    return pairs


def _by_split(kind: str, catalog: Catalog, groups: list[list[int]]) -> list[Finding | None]:
    across = [group for group in groups if _leaks(catalog, group)]
    within = [group for group in groups if not _leaks(catalog, group)]
    leak = _finding(kind, "group(s) across train and val or test", catalog, across)
    if leak is not None:
        leak.leak = True
    return [leak, _finding(kind, "group(s) within a split", catalog, within)]


def _leaks(catalog: Catalog, group: list[int]) -> bool:
    splits = {str(catalog.splits[row]) for row in group}
    return "train" in splits and len(splits & set(SPLITS)) > 1


def _finding(kind: str, what: str, catalog: Catalog, groups: list[list[int]]) -> Finding | None:
    if not groups:
        return None
    named = "; ".join(" = ".join(catalog.paths[row] for row in group[:NAMED]) for group in groups[:NAMED])
    more = f"; and {len(groups) - NAMED} more" if len(groups) > NAMED else ""
    return Finding(kind, f"{kind}: {len(groups)} {what}: {named}{more}", groups)


def _balance(catalog: Catalog) -> Finding | None:
    counts = np.bincount(catalog.labels[catalog.present()], minlength=len(catalog.classes))
    if counts.max() < IMBALANCE * max(counts.min(), 1):
        return None
    small, large = catalog.classes[int(counts.argmin())], catalog.classes[int(counts.argmax())]
    text = (f"imbalance: {counts.max():,} of class {large} against {counts.min():,} of class {small}; see "
            "loss=weighted_cross_entropy and datamodule.sampler=balanced")  # fmt: skip
    return Finding("imbalance", text, [])


def _odd(catalog: Catalog, stats: ImageStats, rows: np.ndarray) -> Finding | None:
    """Find images much smaller than the others, or of another mode than nearly all others."""
    area = stats.sizes[rows].prod(axis=1)
    small = rows[area * 16 < np.median(area)]
    modes = Counter(stats.modes[row] for row in rows.tolist())
    usual = modes.most_common(1)[0][0]
    rare = [row for row in rows.tolist() if stats.modes[row] != usual] if modes[usual] >= 0.95 * len(rows) else []
    odd = sorted({*small.tolist(), *rare})
    if not odd:
        return None
    shown = ", ".join(
        f"{catalog.paths[r]} ({stats.sizes[r][0]} x {stats.sizes[r][1]}, {stats.modes[r]})" for r in odd[:NAMED]
    )
    more = f" and {len(odd) - NAMED} more" if len(odd) > NAMED else ""
    return Finding("odd", f"odd: {len(odd)} image(s) of an unusual size or mode: {shown}{more}", [[row] for row in odd])
