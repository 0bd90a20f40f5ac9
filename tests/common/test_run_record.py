import json
import logging
import subprocess
import sys
from datetime import datetime

import pytest

from common.atomic_io import write_json
from common.run_folder import PROJECT
from common.run_record import SCHEMA, SECTIONS, RunRecord, digest, flat, increment_test_evaluations, read_record

SETTINGS = {
    "seed": 1,
    "ckpt_path": None,
    "stages": ["cost", "fit", "test"],
    "datamodule": {"root": "a", "cache": "outputs/.cache", "cache_max_gib": 20, "fold": None},
    "optimizer": {"_target_": "torch.optim.Adam", "lr": 1e-3},
}
CHOICES = {"model": "resnet18", "optimizer": "adam", "hydra/launcher": "basic"}


@pytest.fixture
def record(tmp_path):
    """A record that is described, by other settings where wanted: dotted keys and their values."""

    def make(choices=None, folder=tmp_path, **changes):
        settings = json.loads(json.dumps(SETTINGS))
        for key, value in changes.items():
            *above, last = key.split(".")
            part = settings
            for name in above:
                part = part[name]
            part[last] = value
        made = RunRecord(folder, command=["train.py", "a b=1"], overrides=["a b=1"])
        made.describe(settings, {**CHOICES, **(choices or {})})
        return made

    return make


def config_hash(made):
    return made.run["config_hash"]


@pytest.mark.parametrize("place", [
    {"ckpt_path": "/x/last.ckpt"}, {"datamodule.cache": "/tmp/cache"}, {"datamodule.cache_max_gib": 3},
    {"optimizer._target_": "torch.optim.adam.Adam"},
], ids=str)  # fmt: skip
def test_one_configuration_in_other_places_has_one_hash(record, place):
    assert config_hash(record(**place)) == config_hash(record())


@pytest.mark.parametrize("change", [
    {"seed": 2}, {"datamodule.root": "b"}, {"datamodule.fold": 0}, {"optimizer.lr": 1e-4}, {"optimizer.lr": "0.001"},
    {"optimizer.momentum": 0.9}, {"stages": ["fit", "cost", "test"]}, {"choices": {"optimizer": "sgd"}},
    {"choices": {"loss": None}},
], ids=str)  # fmt: skip
def test_any_other_setting_has_another_hash(record, change):
    assert config_hash(record(**change)) != config_hash(record())


def test_the_hash_does_not_depend_on_order_or_process(record):
    backwards = {key: SETTINGS[key] for key in reversed(SETTINGS)}
    made = record()
    again = record()
    again.describe(backwards, dict(reversed(CHOICES.items())))
    assert config_hash(again) == config_hash(made) and len(config_hash(made)) == 16
    code = "from common.run_record import digest; print(digest({'b': 1, 'a': None}, {'model': 'x'}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest({"a": None, "b": 1}, {"model": "x"})


def test_what_describes_the_configuration(record):
    about = record().run
    assert (about["seed"], about["command"], about["overrides"]) == (1, "train.py 'a b=1'", ["a b=1"])
    assert about["choices"] == {"model": "resnet18", "optimizer": "adam"}  # no group of Hydra's own
    assert about["settings"] == {
        "seed": 1, "stages": ["cost", "fit", "test"], "datamodule.root": "a", "datamodule.fold": None, "optimizer.lr": 1e-3
    }  # fmt: skip
    assert flat({"a": {"b": {}, "_c": 1, "d": {"e": [1]}}}) == {"a.b": {}, "a.d.e": [1]}


def test_the_states_of_a_run(record, tmp_path):
    made = record()
    assert list(tmp_path.iterdir()) == []  # nothing before it starts
    path = tmp_path / "result.json"
    made.start()
    running = read_record(path)
    assert (running["schema"], running["status"]) == (SCHEMA, "running") and "reason" not in running
    assert set(running) == {"schema", "status", *SECTIONS} and running["model"] is None
    assert datetime.fromisoformat(running["run"]["started_at"]).tzinfo is not None
    assert running["run"]["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    made.model = {"name": "x", "macs": float("nan")}
    made.fail("no memory", ["careful"])
    failed = read_record(path)
    assert (failed["status"], failed["reason"]) == ("failed", "no memory")
    assert failed["model"] == {"name": "x", "macs": None} and failed["run"]["warnings"] == ["careful"]
    made.finish([])
    assert read_record(path)["status"] == "finished" and "reason" not in read_record(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_that_is_not_the_first_writes_nothing(tmp_path):
    made = RunRecord(tmp_path, command=[], overrides=[], write=False)
    made.start(), made.finish([]), made.fail("", [])
    assert list(tmp_path.iterdir()) == []


def test_a_failure_that_cannot_be_written_is_logged(record, tmp_path, caplog):
    folder = tmp_path / "gone"
    folder.mkdir()
    made = record(folder=folder)
    folder.rmdir()
    made.fail("no space", [])
    assert f"{folder}: the record of the failure cannot be written: No such file or directory" in caplog.text
    with pytest.raises(FileNotFoundError):
        made.finish([])


def test_a_run_that_goes_on_adds_its_time_and_knows_what_was_before(record, tmp_path):
    assert record().earlier == {} and not record().was_stopped and record().earlier_openings == 0
    before = {"schema": SCHEMA, "status": "running", "run": {"wall_time_s": 100.5}, "test": {"test_evaluations": 2}}
    write_json(tmp_path / "result.json", before)
    made = record()
    assert made.was_stopped and made.earlier_openings == 2
    made.finish([])
    assert 100.5 <= read_record(tmp_path / "result.json")["run"]["wall_time_s"] < 130
    anew = record()
    assert not anew.was_stopped
    anew.forget()
    anew.finish([])
    assert anew.earlier_openings == 0 and read_record(tmp_path / "result.json")["run"]["wall_time_s"] < 30


@pytest.mark.parametrize(("content", "words"), [
    ('{"schema": 1, "status": "fin', "not a whole record .*run it again, or delete the folder"),
    ("", "not a whole record"),
    ('{"schema": 2}', "a record of schema 2; this version reads schema 1"),
    ("{}", "a record of schema None"),
    ("[1]", "a record of schema list"),
])  # fmt: skip
def test_a_record_that_cannot_be_read_is_named_and_begins_anew(record, tmp_path, caplog, content, words):
    path = tmp_path / "result.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"^{path}: {words}"):
        read_record(path)
    with caplog.at_level(logging.WARNING):
        assert record().earlier == {}
    assert f"what the run had recorded before is not known: {path}" in caplog.text


def test_openings_of_the_test_split_are_counted(tmp_path):
    assert increment_test_evaluations(tmp_path) is None and list(tmp_path.iterdir()) == []
    record = {"schema": SCHEMA, "status": "finished", "run": {}, "test": None, "val": {"loss": 1}}
    write_json(tmp_path / "result.json", record)
    assert [increment_test_evaluations(tmp_path), increment_test_evaluations(tmp_path)] == [1, 2]
    assert read_record(tmp_path / "result.json") == record | {"test": {"test_evaluations": 2}}


def test_a_run_is_named_by_its_place_below_outputs(tmp_path):
    assert RunRecord(tmp_path / "x", command=[], overrides=[]).run["name"] == "x"
    assert RunRecord(PROJECT / "outputs" / "m" / "date", command=[], overrides=[]).run["name"] == "m/date"


def test_outside_of_a_clone_the_commit_is_null(record, monkeypatch, tmp_path):
    assert len(record().run["git_commit"]) == 40 or record().run["git_commit"] is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (record().run["git_commit"], record().run["git_dirty"]) == (None, None)
