"""The nearest of many vectors are those of all products, in small blocks and however many the bound spares."""

import numpy as np
import pytest

from common.progress import Progress
from datamodules import nearest


@pytest.fixture(params=["bound", "no bound"])
def vectors(request):
    """350 vectors of length 1 or 0: near a few directions, so that the bound spares most products, or anywhere."""
    generator = np.random.default_rng(0)
    if request.param == "bound":
        found = np.eye(64)[generator.integers(0, 40, 350)] + generator.normal(0, 0.03, (350, 64))
    else:
        found = generator.normal(size=(350, 64)) + np.eye(64)[0] * 3
    found[40:52] = found[7]  # more equal ones than are asked for
    found[100:103] = 0
    return (found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)).astype(np.float16)


@pytest.mark.parametrize(("most", "least"), [(1, 0.3), (4, 0.5), (4, 0.05), (400, 0.3), (4, 0.9995)])
def test_all_pairs_of_brute_force(vectors, monkeypatch, most, least):
    monkeypatch.setattr(nearest, "PRODUCT", (31, 67))
    monkeypatch.setattr(nearest, "MOST_WAITING", 90)
    found = nearest.find_nearest(vectors.__getitem__, 350, most, least, Progress())
    product = vectors.astype(np.float32) @ vectors.astype(np.float32).T
    np.fill_diagonal(product, -2)
    one, other = found[:, :2].astype(int).T
    assert found[:, 2] == pytest.approx(product[one, other], abs=1e-6)
    assert len(set(zip(one, other, strict=True))) == len(found)
    for row in range(350):
        wanted = np.sort(product[row][product[row] >= least])[::-1]
        assert np.sort(found[one == row, 2])[::-1] == pytest.approx(wanted[:most], abs=1e-6)


@pytest.mark.parametrize("vectors", ["bound"], indirect=True)
def test_the_bound_is_at_least_the_product_and_hardly_more_for_most_pairs(vectors):
    coarse = nearest._coarse(vectors.__getitem__, np.arange(350)).astype(np.float32)
    bound, product = coarse @ coarse.T, vectors.astype(np.float32) @ vectors.astype(np.float32).T
    assert coarse.shape == (350, nearest.DIMENSIONS + 1) and (bound >= product - nearest.MARGIN).all()
    assert (bound > 0.6).sum() < 1.2 * (product > 0.6).sum() < 0.1 * bound.size
