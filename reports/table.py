"""Many records as one table."""

import logging
from pathlib import Path

from .files import write_csv
from .records import read_record

log = logging.getLogger(__name__)

COLUMNS = (
    "run",
    "status",
    "model",
    "parameters",
    "macs",
    "macs_thop",
    "latency_p50_ms",
    "val_accuracy",
    "test_accuracy",
)


def read_runs(folder: Path) -> list[dict]:
    """The records below a folder, one a run; one that cannot be read is a warning and left out."""
    records = []
    for path in sorted(folder.rglob("result.json")):
        try:
            records.append(read_record(path))
        except ValueError as error:
            log.warning("left out: %s", error)
    return records


def row(record: dict) -> dict:
    """A record as a line of the table; None where it was not measured."""
    model = record["model"] or {}
    single = next((entry for entry in model.get("latency") or [] if entry["batch_size"] == 1), {})
    accuracies = {
        f"{split}_accuracy": (record[split] or {}).get("accuracy", {}).get("value") for split in ("val", "test")
    }
    return {
        "run": record["run"]["name"].rsplit("/", 1)[-1],
        "status": record["status"],
        "model": model.get("name"),
        **{key: model.get(key) for key in ("parameters", "macs", "macs_thop")},
        "latency_p50_ms": single.get("latency_p50_ms"),
        **accuracies,
    }


def table(records: list[dict]) -> list[dict]:
    """Lines ranked by validation accuracy, then by MACs."""
    rows = [row(record) for record in records]
    return sorted(rows, key=lambda line: (-(line["val_accuracy"] or 0), line["macs"] or 0))


def as_text(rows: list[dict]) -> str:
    """The lines in columns, for the screen."""
    shown = [column for column in COLUMNS if any(line[column] is not None for line in rows)]
    if all(line["status"] == "finished" for line in rows):
        shown.remove("status")
    cells = [shown, *([_cell(column, line[column]) for column in shown] for line in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(shown))]
    left = {"run", "status", "model"}
    return "\n".join(
        "  ".join(
            text.ljust(width) if column in left else text.rjust(width)
            for text, width, column in zip(line, widths, shown, strict=True)
        ).rstrip()
        for line in cells
    )


def write_table(folder: Path) -> str:
    """Writes table.csv into a sweep's folder; returns it as text."""
    rows = table(read_runs(folder))
    write_csv(folder / "table.csv", COLUMNS, rows)
    return as_text(rows) if rows else "no records"


def _cell(column: str, value) -> str:
    if value is None:
        return "-"
    if column.endswith("accuracy"):
        return f"{value:.4f}"
    if column.endswith("ms"):
        return f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
