"""Folders of runs that never ran, with records and tables as train.py leaves them."""

import math
from pathlib import Path

import numpy as np

from common.atomic_io import write_json, write_text
from evaluation.intervals import accuracy_entry
from reports.aggregate import ReportData, aggregate
from reports.load_runs import find_records, load_runs
from reports.significance import compare_to_best

CLASSES = ("cat", "dog")
VERSIONS = {"python": "3.11.7", "torch": "2.14.1"}


def make_run(
    folder: Path,
    *,
    seed: int = 1,
    choices: dict | None = None,
    settings: dict | None = None,
    overrides: tuple[str, ...] = (),
    wrong: dict[str, set[int]] | None = None,
    accuracy: float = 0.8,
    n: dict[str, int] | None = None,
    classes: tuple[str, ...] = CLASSES,
    cost: tuple[float, float, float] | None = (38_947_204, 143_528, 5.7),
    epochs: int = 12,
    status: str = "finished",
    reason: str | None = None,
    data: dict | None = None,
    run: dict | None = None,
) -> Path:
    """One run.

    Args:
        wrong: images that it gets wrong, by split; in place of `accuracy`, which draws them by the seed.
        n: images a split; without test there is none.
        cost: MACs, parameters and latency in ms; None: not measured.
        data, run: keys of these sections of the record on top.
    """
    folder.mkdir(parents=True, exist_ok=True)
    n = n or {"val": 60, "test": 80}
    choices = {"experiment": None, "model": "resnet18", "optimizer": "adam", **(choices or {})}
    settings = {"seed": seed, "optimizer.lr": 0.001, "datamodule.fold": None, **(settings or {})}
    record = {
        "schema": 1,
        "status": status,
        "reason": reason,
        "run": {**_about(folder.name, seed, overrides, choices, settings), **(run or {})},
    }
    record["data"] = {**_data(classes, n, settings), **(data or {})}
    if status != "finished":
        write_json(folder / "result.json", {**record, "data": None, "val": None, "test": None})
        return folder
    record["model"] = _model(choices["model"], cost)
    for split in ("val", "test"):
        record[split] = None
        if n.get(split):
            missed = wrong[split] if wrong and split in wrong else _missed(n[split], accuracy, seed, split)
            record[split] = _write_predictions(folder, split, n[split], missed, classes, settings["datamodule.fold"])
    write_json(folder / "result.json", record)
    if epochs:
        write_metrics(folder, epochs, accuracy, seed)
    return folder


def judged(folder: Path) -> ReportData:
    """What a report says of the runs below a folder."""
    summary = aggregate(load_runs(find_records(str(folder))))
    compare_to_best(summary)
    return summary


def write_metrics(folder: Path, epochs: int, accuracy: float, seed: int) -> None:
    """metrics.csv with accuracies that rise to `accuracy`."""
    lines = ["epoch,train/loss,train/accuracy,val/loss,val/accuracy,lr"]
    noise = np.random.default_rng(seed).normal(0, 0.008, (epochs, 2))
    for epoch in range(1, epochs + 1):
        share = 1 - math.exp(-3 * epoch / epochs)
        train, val = 0.5 + (accuracy - 0.5) * share + noise[epoch - 1]
        rate = 0.0005 * (1 + math.cos(math.pi * (epoch - 1) / epochs))
        lines.append(f"{epoch},{1.2 - train:.6f},{train + 0.02:.6f},{1.25 - val:.6f},{val:.6f},{rate}")
    write_text(folder / "metrics.csv", "\n".join(lines) + "\n")


def _about(name: str, seed: int, overrides: tuple[str, ...], choices: dict, settings: dict) -> dict:
    """The record's section `run`."""
    return {
        "name": name, "command": "python train.py -m seed=1,2", "overrides": [*overrides, f"seed={seed}"], "seed": seed,
        "choices": choices, "settings": settings, "started_at": f"2026-01-01T00:00:{seed % 60:02}+00:00", "wall_time_s": 61.5,
        "git_commit": "0" * 40, "git_dirty": False, "versions": VERSIONS, "device": "cpu", "processes": 1, "threads": 2,
        "warnings": [],
    }  # fmt: skip


def _data(classes: tuple[str, ...], n: dict[str, int], settings: dict) -> dict:
    """The record's section `data`."""
    described = {"name": "pets", "classes": list(classes), "select_on": "val", "n_train": 200, "folds": None}
    return {
        **described,
        "fold": settings["datamodule.fold"],
        "fingerprint": "d1",
        "n_val": n.get("val"),
        "n_test": n.get("test"),
    }


def _model(name: str, cost: tuple[float, float, float] | None) -> dict:
    """The record's section `model`."""
    macs, parameters, latency = cost or (None, None, None)
    entry = {"batch_size": 1, "latency_p50_ms": latency, "device": "cpu", "threads": 2}
    described = {"name": name, "macs": macs, "parameters": parameters, "weights": "random"}
    return {**described, "latency": [entry] if cost else None}


def _missed(n: int, accuracy: float, seed: int, split: str) -> set[int]:
    """Some images are hard for all seeds."""
    hard = np.random.default_rng(len(split)).normal(size=n)
    score = hard + np.random.default_rng(seed).normal(size=n) * 0.8
    return set(np.argsort(-score)[: round(n * (1 - accuracy))].tolist())


def _write_predictions(
    folder: Path, split: str, n: int, missed: set, classes: tuple[str, ...], fold: int | None
) -> dict:
    """The table; returns the record's section."""
    k = len(classes)
    counts = np.zeros((k, k), int)
    lines = [
        ",".join(_quoted(name) for name in ("path", "fingerprint", "label", "predicted", *(f"p_{c}" for c in classes)))
    ]
    for image in range(n):
        label = image % k
        predicted = (label + 1) % k if image in missed else label
        counts[label, predicted] += 1
        chance = 0.6 + 0.3 * (image * 7919 % 97) / 97
        chances = [f"{chance if c == predicted else (1 - chance) / (k - 1):.6f}" for c in range(k)]
        path, own = f"{split}/{image:05}.png", f"{fold or 0:04x}{image:012x}"
        lines.append(
            ",".join((f"{fold or 0}/{path}", own, _quoted(classes[label]), _quoted(classes[predicted]), *chances))
        )
    write_text(folder / {"val": "predictions_val.csv", "test": "predictions.csv"}[split], "\n".join(lines) + "\n")
    return {"accuracy": accuracy_entry(n - len(missed), n), "loss": 0.5, "confusion": counts.tolist()}


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\n') else text
