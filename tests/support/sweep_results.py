"""What the jobs of a sweep have left."""

import json


def finished(folder):
    """Return the records of the jobs that finished: path -> bytes."""
    records = {path: path.read_bytes() for path in folder.glob("*/result.json")}
    return {path: content for path, content in records.items() if json.loads(content)["status"] == "finished"}


def results(folder):
    """Return all results of the jobs, to the last digit."""
    tables = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for name in ("metrics.csv", "predictions.csv", "predictions_val.csv", "splits.csv")
        for path in sorted(folder.rglob(name))
    }
    sections = {
        path.parent.name: {key: json.loads(path.read_text())[key] for key in ("val", "test", "decision")}
        for path in sorted(folder.glob("*/result.json"))
    }
    return tables, sections
