"""benchmarks/near_duplicates.py: what cannot be measured is refused."""

import sys

import pytest

from benchmarks.near_duplicates import main


def test_too_few_images_for_the_planted_copies_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["near_duplicates", "--images", "3000", "999"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "--images 999: use 1,000 or more, since 500 of them are planted copies" in capsys.readouterr().err
