"""Fixtures: a file that must not be made."""

import pytest


@pytest.fixture
def canary(tmp_path):
    """Yield the path of a file that hostile input tries to make, and which must not exist in the end."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists()
