from itertools import combinations

import numpy as np
import pytest

from datamodules import audit
from datamodules.audit import HASH_BITS, THUMBNAIL_LEVELS, near_pairs


def brute_force(hashes, thumbnails):
    """All with all."""
    return [
        (a, b)
        for a, b in combinations(range(len(hashes)), 2)
        if int(hashes[a] ^ hashes[b]).bit_count() <= HASH_BITS
        and np.abs(thumbnails[a].astype(int) - thumbnails[b]).mean() <= THUMBNAIL_LEVELS
    ]


@pytest.mark.parametrize("most_together", [4000, 50])
def test_near_pairs_are_those_of_comparing_all_with_all(monkeypatch, most_together):
    monkeypatch.setattr(audit, "MOST_TOGETHER", most_together)
    generator = np.random.default_rng(0)
    originals = generator.integers(0, 2**63, 150, dtype=np.uint64)
    changes = [generator.choice(64, bits).astype(np.uint64) for bits in range(1, 13) for _ in range(5)]
    flips = np.array([np.bitwise_or.reduce(np.uint64(1) << bits) for bits in changes], np.uint64)
    hashes = np.concatenate([originals, originals[: len(flips)] ^ flips])
    thumbnails = generator.integers(0, 240, (150, 16, 16), dtype=np.uint8)
    strength = generator.integers(1, 13, (len(flips), 1, 1))
    noise = (generator.integers(0, 12, (len(flips), 16, 16)) % strength).astype(np.uint8)
    thumbnails = np.concatenate([thumbnails, thumbnails[: len(flips)] + noise])
    expected = brute_force(hashes, thumbnails)
    assert len(expected) > 10
    assert near_pairs(hashes, thumbnails) == expected
