"""Folders of runs that never ran, with records and tables as train.py leaves them."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.atomic_io import write_csv
from common.run_folder import RunFolder
from common.run_record import (
    BestEpoch,
    DataInfo,
    Latency,
    ModelInfo,
    Proportion,
    RunInfo,
    RunRecord,
    SplitMetrics,
    write_record,
)
from evaluation.intervals import wilson
from reports.aggregate import ReportData, aggregate
from reports.load_runs import find_records, load_runs

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
    """Make the folder of one run and return it.

    Args:
        wrong: images that it gets wrong, by split; in place of `accuracy`, which draws them by the seed.
        n: images a split; without test there is none.
        cost: MACs, parameters and latency in ms; None: not measured.
        data, run: values of these sections of the record in place of the usual ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    n = n or {"val": 60, "test": 80}
    choices = {"experiment": None, "model": "resnet18", "optimizer": "adam", **(choices or {})}
    settings = {"seed": seed, "optimizer.lr": 0.001, "datamodule.fold": None, **(settings or {})}
    record = RunRecord(status=status, reason=reason, run=_about(folder.name, seed, overrides, choices, settings))
    record.run = replace(record.run, **(run or {}))
    record.folder = RunFolder(folder)
    if status == "finished":
        record.data = replace(_data(classes, n, settings), **(data or {}))
        record.model = _model(choices["model"], cost)
        for split in ("val", "test"):
            if size := n.get(split):
                missed = wrong[split] if wrong and split in wrong else _missed(size, accuracy, seed, split)
                written = _write_predictions(record.folder, split, size, missed, classes, record.data.fold)
                setattr(record, split, written)
        if epochs:
            write_metrics(folder, epochs, accuracy, seed)
    write_record(record)
    return folder


def change_record(folder: Path, **sections: dict) -> None:
    """Change values in the sections of a run's record, `data={"root": ...}`; `best` is new."""
    record = RunRecord.read(folder)
    for name, values in sections.items():
        setattr(record, name, replace(getattr(record, name) or BestEpoch(), **values))
    write_record(record)


def judged(folder: Path) -> ReportData:
    """Return what a report shows of the runs below a folder."""
    return aggregate(load_runs(find_records(str(folder))))


def write_metrics(folder: Path, epochs: int, accuracy: float, seed: int) -> None:
    """Write metrics.csv with accuracies that rise to `accuracy`."""
    rows = []
    noise = np.random.default_rng(seed).normal(0, 0.008, (epochs, 2))
    for epoch in range(1, epochs + 1):
        share = 1 - math.exp(-3 * epoch / epochs)
        train, val = 0.5 + (accuracy - 0.5) * share + noise[epoch - 1]
        losses = {"train/loss": f"{1.2 - train:.6f}", "val/loss": f"{1.25 - val:.6f}"}
        accuracies = {"train/accuracy": f"{train + 0.02:.6f}", "val/accuracy": f"{val:.6f}"}
        rate = 0.0005 * (1 + math.cos(math.pi * (epoch - 1) / epochs))
        rows.append({"epoch": epoch, **losses, **accuracies, "lr": rate})
    RunFolder(folder).write_metrics(rows)


def _about(name: str, seed: int, overrides: tuple[str, ...], choices: dict, settings: dict) -> RunInfo:
    return RunInfo(
        name=name, command="python train.py -m seed=1,2", overrides=[*overrides, f"seed={seed}"], seed=seed,
        choices=choices, settings=settings, started_at=f"2026-01-01T00:00:{seed % 60:02}+00:00", wall_time_s=61.5,
        git_commit="0" * 40, git_dirty=False, versions=VERSIONS, device="cpu", processes=1, threads=2,
    )  # fmt: skip


def _data(classes: tuple[str, ...], n: dict[str, int], settings: dict) -> DataInfo:
    return DataInfo(
        name="pets", classes=list(classes), select_on="val", n_train=200, n_val=n.get("val"), n_test=n.get("test"),
        fold=settings["datamodule.fold"], fingerprint="d1",
    )  # fmt: skip


def _model(name: str, cost: tuple[float, float, float] | None) -> ModelInfo:
    if cost is None:
        return ModelInfo(name=name, weights="random")
    macs, parameters, milliseconds = cost
    latency = Latency(batch_size=1, latency_p50_ms=milliseconds, device="cpu", threads=2)
    return ModelInfo(name=name, weights="random", macs=int(macs), parameters=int(parameters), latency=[latency])


def _missed(n: int, accuracy: float, seed: int, split: str) -> set[int]:
    """Choose the images that a seed gets wrong; some are hard for all seeds."""
    hard = np.random.default_rng(len(split)).normal(size=n)
    score = hard + np.random.default_rng(seed).normal(size=n) * 0.8
    return set(np.argsort(-score)[: round(n * (1 - accuracy))].tolist())


def _write_predictions(
    folder: RunFolder, split: str, n: int, missed: set, classes: tuple[str, ...], fold: int | None
) -> SplitMetrics:
    """Write the table of a split and return what the record keeps of it."""
    k, rows = len(classes), []
    part = (fold or 0) if split == "val" else 0  # test images are the same in each fold
    counts = np.zeros((k, k), int)
    for image in range(n):
        label = image % k
        predicted = (label + 1) % k if image in missed else label
        counts[label, predicted] += 1
        probability = 0.6 + 0.3 * (image * 7919 % 97) / 97
        others = (1 - probability) / (k - 1)
        row = {"path": f"{part}/{split}/{image:05}.png", "fingerprint": f"{part:04x}{image:012x}"}
        row |= {"label": classes[label], "predicted": classes[predicted]}
        row |= {f"p_{name}": f"{probability if i == predicted else others:.6f}" for i, name in enumerate(classes)}
        rows.append(row)
    columns = ["path", "fingerprint", "label", "predicted", *(f"p_{name}" for name in classes)]
    write_csv(folder.predictions(split), columns, rows)
    accuracy = Proportion((n - len(missed)) / n, *wilson(n - len(missed), n), n - len(missed), n)
    return SplitMetrics(accuracy=accuracy, loss=0.5, confusion=counts.tolist())
