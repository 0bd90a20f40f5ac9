"""Find the nearest of many vectors by their product, without multiplying most pairs."""

from collections.abc import Callable

import numpy as np

from common.progress import Progress

PRODUCT = (1024, 2048)  # rows and columns of a block of products, which fits into a processor's cache
DIMENSIONS = 47  # principal components in the bound of a product, besides the length of the rest
SAMPLED = 8192  # vectors from which the principal components are computed
MARGIN = 1.1e-3  # added for the rounding of the bound: 2 ** -11 for each factor in half precision, and that of the sums
MOST_WAITING = 2**21  # pairs that are collected before those that no row takes any more are dropped

# (n,) rows -> (n, D) float16 of length 1 or 0; all at once would take much memory
Vectors = Callable[[np.ndarray], np.ndarray]


def find_nearest(vectors: Vectors, count: int, most: int, least: float, progress: Progress | None = None) -> np.ndarray:
    """Return (found, 3): pairs of rows and their product, for each of `count` rows the `most` largest that are >= `least`.

    If a bound in few dimensions (`_coarse`) shows that the products of nearly all pairs are smaller, only the others are
    computed.

    Args:
        vectors: returns the vectors of any of the rows.
    """
    every, helps = np.arange(count), True  # whether the bound helps
    coarse = _coarse(vectors, every)
    lowest = np.full(count, least, np.float32)  # smallest product that a row still takes
    best, waiting, n_waiting = np.zeros((0, 3), np.float64), [], 0
    for begin in range(0, count, PRODUCT[0]):
        rows = slice(begin, begin + PRODUCT[0])
        own, ours = vectors(every[rows]).astype(np.float32), lowest[rows]  # a view
        coarse_own = coarse[rows].astype(np.float32)
        if progress:
            progress.how_far = f"{begin * (2 * count - begin) / count**2:.0%} of all pairs"
        for start in range(begin, count, PRODUCT[1]):
            columns = every[start : start + PRODUCT[1]]
            theirs = lowest[start : start + PRODUCT[1]]  # a view
            if helps:
                bound = coarse_own @ coarse[start : start + PRODUCT[1]].astype(np.float32).T
                hits = np.flatnonzero(bound >= min(ours.min(), theirs.min()) - MARGIN)
                # If it does not help here, it helps in no other block: the order is that of fingerprints, so random
                helps = len(hits) <= bound.size // 20
            if helps:
                row, column = np.divmod(hits, len(columns))
                used, place = np.unique(column, return_inverse=True)
                values = np.einsum("ij,ij->i", own[row], vectors(columns[used]).astype(np.float32)[place])
            else:
                product = own @ vectors(columns).astype(np.float32).T
                if start == begin:
                    product[:, : len(own)][np.tri(len(own), dtype=bool)] = -1  # the diagonal and the mirrored half
                hits = np.flatnonzero(product >= np.minimum(ours[:, None], theirs))
                if len(hits) > product.size // 20 and min(product.shape) > most:
                    ours[:] = np.maximum(ours, np.partition(product, -most, axis=1)[:, -most])
                    theirs[:] = np.maximum(theirs, np.partition(product, -most, axis=0)[-most])
                    hits = np.flatnonzero(product >= np.minimum(ours[:, None], theirs))
                row, column = np.divmod(hits, len(columns))
                values = product.ravel()[hits]
            row, column = row + begin, column + start
            for one, other in ((row, column), (column, row)):
                taken = np.flatnonzero((values >= lowest[one]) & (row < column))
                if len(taken):  # a million images have half a million blocks, and most of them have none
                    waiting.append(np.column_stack([one[taken], other[taken], values[taken]]))
                    n_waiting += len(taken)
            if n_waiting > MOST_WAITING:
                best, waiting, n_waiting = _best(np.concatenate([best, *waiting]), most, lowest), [], 0
    if progress:
        progress.how_far = ""
    return _best(np.concatenate([best, *waiting]), most, lowest)


def _coarse(vectors: Vectors, every: np.ndarray) -> np.ndarray:
    """Return (rows, DIMENSIONS + 1) float16 whose products are upper bounds of those of the vectors, up to MARGIN.

    Each row has a vector's coordinates in the largest principal components of a sample, and the length of the rest of it. The
    product of two rests is at most the product of their lengths (Cauchy-Schwarz inequality).
    """
    sample = vectors(every[:SAMPLED]).astype(np.float32)
    basis = np.linalg.eigh(sample.T @ sample)[1][:, -DIMENSIONS:].astype(np.float32)
    del sample
    found = np.empty((len(every), basis.shape[1] + 1), np.float16)
    for begin in range(0, len(every), PRODUCT[0]):  # few rows, since memory use peaks here
        rows = slice(begin, begin + PRODUCT[0])
        block = vectors(every[rows]).astype(np.float32)
        inside = block @ basis
        found[rows, :-1] = inside
        found[rows, -1] = np.linalg.norm(block - inside @ basis.T, axis=1)
    return found


def _best(found: np.ndarray, most: int, lowest: np.ndarray) -> np.ndarray:
    """Return the `most` largest pairs of each row, and raise `lowest` to what the rows still take."""
    found = found[np.lexsort((-found[:, 2], found[:, 0]))]
    place = np.arange(len(found)) - np.searchsorted(found[:, 0], found[:, 0])  # rank among the pairs of its row
    full = found[place == most - 1]
    lowest[full[:, 0].astype(np.int64)] = np.nextafter(full[:, 2].astype(np.float32), np.float32(2))
    return found[place < most]
