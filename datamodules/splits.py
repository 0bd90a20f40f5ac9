"""Who goes where: seeded, stratified splits and folds in which a group never crosses a border."""

import numpy as np

FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}


def assign_splits(
    labels: np.ndarray, fractions: dict[str, float], seed: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """(rows,) names of `fractions`: each class is divided in those proportions, as near as whole groups allow.

    Groups of several images go first, the largest first, each to where its classes are missing most. Then single
    images are shuffled within their class and dealt out at the rounded cumulative shares of what is still missing, so
    that without groups every split has its share of every class to within one image.
    """
    names = list(fractions)
    generator = np.random.default_rng(seed)
    shares = np.array(list(fractions.values()))
    shares = shares / shares.sum()
    result = np.full(len(labels), "", dtype=f"<U{max(map(len, names))}")
    kinds, codes = np.unique(labels, return_inverse=True)
    totals = np.bincount(codes, minlength=len(kinds))  # (K,)
    missing = shares[:, None] * totals[None, :]  # (splits, K)

    for rows in _groups_of_several(groups, generator):
        counts = np.bincount(codes[rows], minlength=len(kinds))
        after = missing - counts  # (splits, K), were the group to go there
        cost = ((after**2 - missing**2) / np.maximum(totals, 1)).sum(axis=1)
        choice = int(np.argmin(cost))
        result[rows] = names[choice]
        missing[choice] -= counts

    for code in range(len(kinds)):
        rows = generator.permutation(np.flatnonzero((codes == code) & (result == "")))
        if len(rows):
            wanted = np.maximum(missing[:, code], 0)
            edges = np.cumsum(wanted / wanted.sum()) if wanted.sum() else np.cumsum(shares)
            cuts = np.floor(edges * len(rows) + 0.5 + 1e-9).astype(int)
            for name, begin, end in zip(names, [0, *cuts[:-1]], cuts, strict=True):
                result[rows[begin:end]] = name
    return result


def assign_folds(labels: np.ndarray, folds: int, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """(rows,) fold numbers from 0, stratified and grouped like `assign_splits`."""
    shares = {f"{fold:04d}": 1 / folds for fold in range(folds)}
    return assign_splits(labels, shares, seed, groups).astype(int)


def join_groups(groups: list[str], fingerprints: list[str]) -> np.ndarray:
    """(rows,) group numbers: rows of one named group, and rows of the same pixels, are together, also over several steps."""
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


def _groups_of_several(groups: np.ndarray | None, generator: np.random.Generator) -> list[np.ndarray]:
    """Rows of each group of more than one, the largest first, those of one size in seeded order."""
    if groups is None or len(groups) == 0:
        return []
    order = np.argsort(groups, kind="stable")
    borders = np.flatnonzero(np.diff(groups[order])) + 1
    several = [rows for rows in np.split(order, borders) if len(rows) > 1]
    several = [several[index] for index in generator.permutation(len(several))] if several else []
    return sorted(several, key=len, reverse=True)
