"""The nearest of many vectors by their product, without multiplying most of them."""

from collections.abc import Callable

import numpy as np

from common.progress import Progress

PRODUCT = (1024, 2048)  # rows and columns of a product at once: what a processor's cache holds
DIMENSIONS = 47  # of the bound of a product, besides the length of what is left
SAMPLED = 8192  # vectors of which these are principal components
MARGIN = 1.1e-3  # of the bound, for its rounding: 2 ** -11 of each factor in half precision, and that of the sums
MOST_WAITING = 2**21  # pairs, until those that no row takes any more are left out

# (n,) rows -> (n, D) of length 1 or 0, float16: all at once would take much memory
Vectors = Callable[[np.ndarray], np.ndarray]


def find_nearest(
    vectors: Vectors,
    asked: np.ndarray,
    most: int,
    least: float,
    progress: Progress | None = None,
    takes: np.ndarray | None = None,
) -> np.ndarray:
    """Return (found, 3) pairs of rows and their product: of each row that is asked, the `most` largest from `least` on.

    Where a bound in few dimensions (`_coarse`) shows of nearly all pairs that their product is smaller, it is computed of the
    others only.

    Args:
        vectors: of `asked.size` rows.
        takes: (rows,) float32, filled with the product from which on each row takes a further pair; the rows that are not
            asked take those that are from what it holds on. None: they take none.
    """
    order = np.argsort(~asked, kind="stable")  # those that are asked first, so that two of them are multiplied once
    count, helps = int(asked.sum()), True  # whether the bound does
    coarse = _coarse(vectors, order)
    others = np.float32(np.inf) if takes is None else takes
    lowest = np.where(asked, np.float32(least), others)[order]  # that a row still takes
    best, waiting, n_waiting = np.zeros((0, 3), np.float64), [], 0
    for begin in range(0, count, PRODUCT[0]):
        rows = slice(begin, min(begin + PRODUCT[0], count))
        own, ours = vectors(order[rows]).astype(np.float32), lowest[rows]  # a view
        coarse_own = coarse[rows].astype(np.float32)
        if progress:
            share = begin * (2 * len(order) - begin) / (count * (2 * len(order) - count))
            progress.how_far = f"{share:.0%} of all pairs"
        for start in range(begin, len(order), PRODUCT[1]):
            columns = order[start : start + PRODUCT[1]]
            theirs = lowest[start : start + PRODUCT[1]]  # a view
            if helps:
                bound = coarse_own @ coarse[start : start + PRODUCT[1]].astype(np.float32).T
                hits = np.flatnonzero(bound >= min(ours.min(), theirs.min()) - MARGIN)
                # Where it does not here, it does not in other blocks either: their order is that of fingerprints
                helps = len(hits) <= bound.size // 20
            if helps:
                row, column = np.divmod(hits, len(columns))
                used, place = np.unique(column, return_inverse=True)
                values = np.einsum("ij,ij->i", own[row], vectors(columns[used]).astype(np.float32)[place])
            else:
                product = own @ vectors(columns).astype(np.float32).T
                if start == begin:
                    product[:, : len(own)][np.tri(len(own), dtype=bool)] = -1  # itself, the other half
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
                if len(taken):  # a million images have half a million blocks, of which most have nothing
                    waiting.append(np.column_stack([one[taken], other[taken], values[taken]]))
                    n_waiting += len(taken)
            if n_waiting > MOST_WAITING:
                best, waiting, n_waiting = _best(np.concatenate([best, *waiting]), most, lowest), [], 0
    if progress:
        progress.how_far = ""
    best = _best(np.concatenate([best, *waiting]), most, lowest)
    if takes is not None:
        takes[order] = lowest
    best[:, :2] = order[best[:, :2].astype(np.int64)]
    return best


def _coarse(vectors: Vectors, order: np.ndarray) -> np.ndarray:
    """Return (rows, DIMENSIONS + 1) float16 whose products are at least as large as those of the vectors, but for MARGIN.

    Each vector in the coordinates of the largest principal components of a sample, and the length of what is left of it: the
    product of what is left of two is at most that of the lengths (Cauchy and Schwarz).
    """
    sample = vectors(order[:SAMPLED]).astype(np.float32)
    basis = np.linalg.eigh(sample.T @ sample)[1][:, -DIMENSIONS:].astype(np.float32)
    del sample
    found = np.empty((len(order), basis.shape[1] + 1), np.float16)
    for begin in range(0, len(order), PRODUCT[0]):  # few rows, since this is when most memory is taken
        rows = slice(begin, begin + PRODUCT[0])
        block = vectors(order[rows]).astype(np.float32)
        inside = block @ basis
        found[rows, :-1] = inside
        found[rows, -1] = np.linalg.norm(block - inside @ basis.T, axis=1)
    return found


def _best(found: np.ndarray, most: int, lowest: np.ndarray) -> np.ndarray:
    """Return of each row's pairs the `most` largest, and raise what the rows still take."""
    found = found[np.lexsort((-found[:, 2], found[:, 0]))]
    place = np.arange(len(found)) - np.searchsorted(found[:, 0], found[:, 0])  # among those of its row
    full = found[place == most - 1]
    lowest[full[:, 0].astype(np.int64)] = np.nextafter(full[:, 2].astype(np.float32), np.float32(2))
    return found[place < most]
