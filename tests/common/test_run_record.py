import json
import logging
import subprocess
import sys
from datetime import datetime

import pytest

from common.atomic_io import write_json
from common.errors import UserError
from common.run_folder import PROJECT, RunFolder
from common.run_record import (
    SCHEMA,
    ModelInfo,
    RunRecord,
    SplitMetrics,
    config_digest,
    flatten,
    increment_test_evaluations,
    write_record,
)
from docs.make_result import result_page

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
    """Make a record that is described, with other settings where wanted: dotted keys and their values."""

    def make(choices=None, folder=tmp_path, **changes):
        settings = json.loads(json.dumps(SETTINGS))
        for key, value in changes.items():
            *above, last = key.split(".")
            part = settings
            for name in above:
                part = part[name]
            part[last] = value
        made = RunRecord.begin(RunFolder(folder), command=["train.py", "a b=1"], overrides=["a b=1"])
        made.describe(settings, {**CHOICES, **(choices or {})})
        return made

    return make


@pytest.mark.parametrize("place", [
    {"ckpt_path": "/x/last.ckpt"}, {"datamodule.cache": "/tmp/cache"}, {"datamodule.cache_max_gib": 3},
    {"optimizer._target_": "torch.optim.adam.Adam"},
], ids=str)  # fmt: skip
def test_one_configuration_in_other_places_has_one_hash(record, place):
    assert record(**place).run.config_hash == record().run.config_hash


@pytest.mark.parametrize("change", [
    {"seed": 2}, {"datamodule.root": "b"}, {"datamodule.fold": 0}, {"optimizer.lr": 1e-4}, {"optimizer.lr": "0.001"},
    {"optimizer.momentum": 0.9}, {"stages": ["fit", "cost", "test"]}, {"choices": {"optimizer": "sgd"}},
    {"choices": {"loss": None}}, {"optimizer._target_": "my.Adam"},
], ids=str)  # fmt: skip
def test_any_other_setting_has_another_hash(record, change):
    assert record(**change).run.config_hash != record().run.config_hash


def test_the_hash_does_not_depend_on_order_or_process(record):
    backwards = {key: SETTINGS[key] for key in reversed(SETTINGS)}
    made = record()
    again = record()
    again.describe(backwards, dict(reversed(CHOICES.items())))
    assert again.run.config_hash == made.run.config_hash and len(made.run.config_hash) == 16
    code = "from common.run_record import config_digest; print(config_digest({'b': 1, 'a': None}, {'model': 'x'}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == config_digest({"a": None, "b": 1}, {"model": "x"})


def test_what_describes_the_configuration(record):
    about = record().run
    assert (about.seed, about.command, about.overrides) == (1, "train.py 'a b=1'", ["a b=1"])
    assert about.choices == {"model": "resnet18", "optimizer": "adam"}  # no group of Hydra's own
    assert about.settings == {
        "seed": 1, "stages": ["cost", "fit", "test"], "datamodule.root": "a", "datamodule.fold": None, "optimizer.lr": 1e-3,
        "optimizer._target_": "torch.optim.Adam",
    }  # fmt: skip
    assert flatten({"a": {"b": {}, "_c": 1, "_target_": "x.Y", "d": {"e": [1]}}}) == {
        "a.b": {}, "a._target_": "x.Y", "a.d.e": [1]
    }  # fmt: skip
    assert flatten({"a": {"scheduling": {0: 1, 4: 2}}}) == {"a.scheduling.0": 1, "a.scheduling.4": 2}


def test_the_states_of_a_run(record, tmp_path):
    made = record()
    assert list(tmp_path.iterdir()) == []  # nothing before it starts
    made.save()
    running = RunRecord.read(RunFolder(tmp_path))
    assert (running.schema, running.status, running.reason, running.model) == (SCHEMA, "running", None, None)
    assert running.run == made.run and running.folder == RunFolder(tmp_path)
    assert datetime.fromisoformat(running.run.started_at).tzinfo is not None
    assert running.run.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    made.model = ModelInfo(name="x", peak_memory_mib=float("nan"))
    made.collected = ["careful"]
    made.fail("no memory")
    failed = RunRecord.read(tmp_path)
    assert (failed.status, failed.reason, failed.run.warnings) == ("failed", "no memory", ["careful"])
    assert failed.model == ModelInfo(name="x", peak_memory_mib=None)
    made.finish()
    finished = RunRecord.read(tmp_path / "result.json")
    assert (finished.status, finished.reason) == ("finished", None)
    assert list(tmp_path.iterdir()) == [tmp_path / "result.json"]


def test_a_process_that_is_not_the_first_writes_nothing(tmp_path):
    made = RunRecord.begin(RunFolder(tmp_path), command=[], overrides=[], writes=False)
    made.save(), made.finish(), made.fail("")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_that_cannot_be_written_is_logged(record, tmp_path, caplog):
    folder = tmp_path / "gone"
    folder.mkdir()
    made = record(folder=folder)
    folder.rmdir()
    made.fail("no space")
    assert f"could not write {folder / 'result.json'} (No such file or directory); continuing" in caplog.text
    with pytest.raises(FileNotFoundError):
        made.finish()


def test_a_resumed_run_keeps_the_warnings_from_before(record, tmp_path):
    first = record()
    first.collected = ["random weights", "careful"]
    first.mark_interrupted()
    resumed = record()
    resumed.save()
    assert RunRecord.read(tmp_path).run.warnings == ["random weights", "careful"]  # also where it is killed now
    resumed.collected = ["careful", "few images"]
    resumed.finish()
    assert RunRecord.read(tmp_path).run.warnings == ["random weights", "careful", "few images"]
    longer = record()  # of another network, about which the results of the one before say nothing
    longer.collected = ["few images"]
    longer.finish()
    assert longer.run.warnings == ["few images"]


def test_a_resumed_run_adds_its_time_and_knows_the_record_before(record, tmp_path):
    first = record()
    assert first.previous is None and not first.resumes and first.previous_test_evaluations == 0
    content = {"schema": SCHEMA, "status": "running", "run": {"wall_time_s": 100.5}, "test": {"test_evaluations": 2}}
    write_json(tmp_path / "result.json", content)
    resumed = record()
    assert resumed.resumes and resumed.previous_test_evaluations == 2
    resumed.finish()
    assert 100.5 <= RunRecord.read(tmp_path).run.wall_time_s < 130
    restarted = record()
    assert not restarted.resumes
    restarted.previous = None
    restarted.finish()
    assert restarted.previous_test_evaluations == 0 and RunRecord.read(tmp_path).run.wall_time_s < 30


START = '{"schema": 2, "status": "finished", "run": {}'


@pytest.mark.parametrize(("content", "words"), [
    ('{"schema": 2, "status": "fin', r"not a whole record .*rerun it, or delete the folder"),
    ("", "not a whole record"),
    ("[1]", "not a whole record .a list"),
    ('{"schema": 2, "status": "finished", "run": {"wall_time_s": NaN}}', "not a whole record"),
    ('{"schema": 3}', "a record of schema 3; this version reads schema 2"),
    ('{"schema": true}', "a record of schema True; this version"),
    ("{}", "a record of schema None; this version"),
    ('{"schema": 2, "status": "finished"}', "status or run is missing"),
    ('{"schema": 2, "status": "done", "run": {}}', "status: Invalid enum value 'done'"),
    ('{"schema": 2, "status": "finished", "run": {"seed": "1"}}', "run.seed: Expected int . null, got str, which no run"),
    (START + ', "data": []}', "data: Expected object . null, got array"),
    (START + ', "test": {"accuracy": {"value": 0.5}}}', "test.accuracy: Object missing required field low"),
    (START + ', "val": {"per_class": [{"name": "a", "n": 1.5}]}}', r"val.per_class\[0\].n: Expected int, got float"),
    (START + ', "decision": {"temperature": 1, "target_accuracy": 1, "threshold_criterion": "x"}}', "decision.threshold_crit"),
])  # fmt: skip
def test_a_record_that_cannot_be_read_is_named_by_file_and_key(record, tmp_path, caplog, content, words):
    path = tmp_path / "result.json"
    path.write_text(content)
    with pytest.raises(UserError, match=f"^{path}: {words}"):
        RunRecord.read(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert record().previous is None
    assert f"the record of the earlier run cannot be used: {path}" in caplog.text


def test_unknown_keys_of_a_record_are_skipped_and_missing_ones_have_defaults(tmp_path):
    content = {
        "schema": SCHEMA,
        "status": "pruned",
        "run": {"later": 1},
        "val": {"loss": 1, "confusion": [[1, 2], [3, 4]]},
    }
    write_json(tmp_path / "result.json", content)
    read = RunRecord.read(tmp_path)
    assert read.run.name == tmp_path.name and read.test is None
    assert read.val == SplitMetrics(loss=1.0, confusion=[[1, 2], [3, 4]])


def test_evaluations_on_the_test_split_are_counted(tmp_path):
    folder = RunFolder(tmp_path)
    assert increment_test_evaluations(folder) is None and list(tmp_path.iterdir()) == []
    record = RunRecord(status="finished", val=SplitMetrics(loss=1.0))
    record.folder = folder
    write_record(record)
    assert [increment_test_evaluations(folder), increment_test_evaluations(folder)] == [1, 2]
    read = RunRecord.read(folder)
    assert read.test == SplitMetrics(test_evaluations=2) and read.val == record.val and read.status == "finished"


def test_a_run_is_named_by_its_place_below_outputs(tmp_path):
    for folder, name in ((tmp_path / "x", "x"), (PROJECT / "outputs" / "m" / "date", "m/date")):
        assert RunRecord.begin(RunFolder(folder), command=[], overrides=[]).run.name == name


def test_outside_of_a_clone_the_commit_is_null(record, monkeypatch, tmp_path):
    assert record().run.git_commit is None or len(record().run.git_commit) == 40
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (record().run.git_commit, record().run.git_dirty) == (None, None)


def test_the_page_of_the_record_is_up_to_date_and_explains_every_field():
    page = result_page()
    assert (PROJECT / "docs" / "result.md").read_text(encoding="utf-8") == page, (
        "python -m docs.make_result > docs/result.md"
    )
    assert "|  |" not in page


def test_a_run_of_an_older_version_is_neither_resumed_nor_written_over(tmp_path):
    record = tmp_path / "result.json"
    record.write_text('{"schema": 1, "status": "running", "run": {}}')
    with pytest.raises(UserError, match=r"a record of schema 1; version 0\.1\.0 reads it"):
        RunRecord.begin(RunFolder(tmp_path), command=[], overrides=[])
    assert record.read_text() == '{"schema": 1, "status": "running", "run": {}}'
