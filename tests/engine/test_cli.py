import logging
import re

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from engine import cli, log_handlers
from engine.cli import complete_overrides, job_dir_name, new_run_dir, safe_name


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "OUTPUTS", tmp_path)
    new_run_dir.cache_clear()
    yield tmp_path
    new_run_dir.cache_clear()


def test_two_runs_of_one_second_get_two_folders(monkeypatch):
    monkeypatch.setattr(cli.time, "strftime", lambda _: "2026-01-01_00-00-00")
    first = new_run_dir("resnet18")
    assert new_run_dir("resnet18") == first  # one process, one folder
    new_run_dir.cache_clear()
    assert new_run_dir("resnet18") == f"{first}-2"


@pytest.mark.parametrize("text", ["a b", "ä=1,2", "x" * 200, "../../etc", "a/b", "", "-m", "数"])
def test_names_are_safe_and_distinct(text):
    name = safe_name(text)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,98}", name)
    assert name != safe_name(text + "!")


def test_jobs_are_named_by_what_is_swept():
    overrides = ["experiment=batch_sizes", "datamodule.batch_size=16", "optimizer.lr=0.1", "seed=1"]
    assert job_dir_name(overrides, ["experiment", "seed"]) == "batch_size-16_lr-0.1"


def sweep_of(*arguments):
    added = OverridesParser.create().parse_overrides(complete_overrides(list(arguments))[len(arguments) :])
    return next(o.value() for o in added if o.key_or_group == "hydra.sweep.dir").rsplit("/", 1)[1]


def test_the_same_sweep_has_the_same_folder():
    typed = ("-m", "datamodule.batch_size=8,16", "seed=1")
    assert sweep_of(*typed) == sweep_of(*typed) != sweep_of("-m", "datamodule.batch_size=8,32", "seed=1")
    assert sweep_of(*typed, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2") == sweep_of(*typed)
    assert re.fullmatch(r"batch_size-[0-9a-f]{8}", sweep_of(*typed))
    assert sweep_of("-m", "experiment=batch_sizes", "seed=1") == "batch_sizes"


def test_the_flag_of_a_sweep_may_be_anywhere():
    assert complete_overrides(["seed=1,2", "-m"])[:2] == ["-m", "seed=1,2"]


def test_a_given_folder_is_kept():
    given = [a for a in complete_overrides(["hydra.sweep.dir=/x"]) if a.startswith("hydra.sweep.dir=")]
    assert given == ["hydra.sweep.dir=/x"]


def test_a_folder_with_quotes_and_spaces_can_be_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "OUTPUTS", tmp_path / 'with "quotes", = and ünïcode')
    assert sweep_of("-m", "seed=1,2").startswith("seed-")


def test_warnings_of_python_are_one_line_of_the_log(caplog):
    with caplog.at_level(logging.WARNING):
        log_handlers.log_python_warning("two\n  lines", UserWarning, "f.py", 3)
    assert caplog.messages == ["two lines (UserWarning)"]
