"""Hydra's flags on a command line."""

from common.flags import own_folders, split_flags


def test_flags_with_a_value_in_two_words_are_no_overrides():
    arguments = ["--config-dir", "my_conf", "seed=1", "-m", "-c", "job", "model=tiny"]
    assert split_flags(arguments) == (["--config-dir", "my_conf", "-m", "-c", "job"], ["seed=1", "model=tiny"])
    for given in (arguments, ["--config-dir=my_conf"], ["-cd", "my_conf"]):
        assert own_folders(given) == ["--config-dir=my_conf"]
    assert own_folders(["seed=1", "hydra.searchpath=[file:///x]"]) == ["hydra.searchpath=[file:///x]"]
