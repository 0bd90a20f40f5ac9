"""Records: found below folders, read, or excluded with the reason."""

import errno
import json
import os
from pathlib import Path

import pytest

from reports.load_runs import find_records
from reports.provenance import provenance, title_of
from reports.renderers import as_csv, as_markdown


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"schema": 2, "status": "fin', "not a whole record"),
        (b'{"schema": 7}', "schema 7"),
        (b'{"schema": 1, "status": "finished", "run": {}}', "a record of schema 1; version 0.1.0 reads it"),
        (b"[]", "not a whole record"),
        (b"\xff\xfe", "not a whole record"),
        (b'{"schema": 2, "status": "finished", "run": []}', "run: Expected"),
        (b'{"schema": 2, "status": "finished", "run": {"settings": 3}}', "run.settings"),
        (b'{"schema": 2, "status": "done", "run": {}}', "status: Invalid enum value 'done'"),
        (b'{"schema": 2, "status": "finished", "run": {"seed": "x"}}', "run.seed"),
    ],
)
def test_records_that_cannot_be_read_are_excluded_with_the_reason(run, summary, tmp_path, content, words):
    odd = tmp_path / "odd" / "result.json"
    odd.parent.mkdir()
    odd.write_bytes(content)
    with pytest.raises(ValueError, match=f"none of 1 records.*{words}"):
        summary()
    run("good")
    ((folder, why),) = summary().excluded
    assert folder == str(odd.parent) and words in why


def test_a_folder_that_cannot_be_read_is_excluded_with_the_reason(run, summary, tmp_path, monkeypatch):
    """Such as the runs of a colleague whose umask is 077; a run's own folders and hidden ones are no runs."""
    run("good")
    closed, list_folder = tmp_path / "of a colleague", os.scandir
    others = [tmp_path / name for name in ("good/.hydra", "good/checkpoints", ".cache/0123", "unfinished/.hydra")]
    for folder in (closed, *others):
        folder.mkdir(parents=True, exist_ok=True)

    def scandir(path="."):
        if Path(path) in (closed, *others):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", scandir)
    ((folder, why),) = summary().excluded
    assert folder == str(closed) and str(closed / "result.json") in why


def test_places_without_records(tmp_path):
    for where, words in (
        (None, "nothing is given"),
        (str(tmp_path / "x"), "no such folder"),
        (str(tmp_path), "no result"),
    ):
        with pytest.raises(ValueError, match=words):
            find_records(where)


def test_several_folders_and_patterns(run, tmp_path):
    run("a/1"), run("b/1"), run("c/1")
    assert len(find_records([str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "a")])) == 2
    assert len(find_records(str(tmp_path / "[ab]*"))) == 2


def places_in(value, place=()):
    """Every key of a record, to any depth."""
    for key in value if isinstance(value, dict) else [0] if isinstance(value, list) and value else []:
        yield (*place, key)
        yield from places_in(value[key], (*place, key))


@pytest.mark.parametrize(
    "odd",
    [None, "<b>", *(pytest.param(each, marks=pytest.mark.thorough) for each in (-1, 2**62, 1.7e308, [], {}))],
    ids=repr,
)
def test_an_odd_value_anywhere_in_a_record_stops_no_report(run, summary, tmp_path, odd):
    run("good", choices={"model": "good"}, n={"val": 4, "test": 4})
    path = run("odd", choices={"model": "odd"}, n={"val": 4, "test": 4}) / "result.json"
    text = path.read_text()
    for *above, last in places_in(json.loads(text)):
        record = part = json.loads(text)
        for key in above:
            part = part[key]
        part[last] = odd
        path.write_text(json.dumps(record))
        made = summary()
        assert "good" in as_csv(made) and "good" in as_markdown(made, title_of(made))
        assert (
            len(made.excluded) + sum(len(row.runs) for s in made.groups for row in s.rows) + len(made.unfinished) == 2
        )
        assert provenance(made, tmp_path)["facts"]


def test_a_debug_run_is_excluded_with_the_reason(run, summary, tmp_path):
    run("good", accuracy=0.5)
    run("quick", accuracy=1.0, run={"debug": "debug=fast"})
    data = summary()
    assert [row.runs[0].name for group in data.groups for row in group.rows] == ["good"]
    assert data.excluded == [(str(tmp_path / "quick"), f"{tmp_path / 'quick'}: a debug run (debug=fast), never ranked")]
