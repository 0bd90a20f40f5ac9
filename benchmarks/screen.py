"""Can the screen be trusted? Compare probes with the same networks fine-tuned, by validation accuracy, in one table.

    python -m benchmarks.screen DIR ... elpv --weights tf_efficientnet_lite0=FILE shufflenet_v2_x0_5=FILE
        [--sizes 96 160] [--candidates 20] [--epochs 8] [--seed 1] [--jobs 1]

DIR is a folder of images as for datamodule.root, and its name becomes that of the row; any other name is a file in
conf/datamodule. Every cut is screened; candidates evenly spaced among all cuts, by backbone, size and depth, are fine-tuned
with recipe=fast. The interval is over candidates: percentiles of 10,000 bootstrap samples. Runs and screens stay in
outputs/benchmarks/screen, and the same command resumes. Writes outputs/benchmarks/screen.json.
"""

import argparse
import logging
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from hydra import initialize_config_dir
from scipy.stats import spearmanr

from benchmarks.timing import PROJECT, RESULTS
from common.atomic_io import write_json
from common.run_folder import RunFolder
from common.smallest_record import Candidate, Costs
from common.table import Table
from common.text import duration, override_value
from engine.cli import CONF
from engine.process_tuning import tune_process
from engine.search.trial import completed_record
from engine.smallest.progress import Progress
from engine.smallest.screen import Pass, Screen
from inference.export.verify import spread
from lightning_modules.cut_costs import cut_costs

FOLDER = RESULTS / "screen"
BOOTSTRAPS = 10_000


class Tried(NamedTuple):
    """A candidate, probed and fine-tuned."""

    name: str
    macs: int
    probed: float
    tuned: float
    seconds: float


def list_candidates(backbones: list[str], sizes: list[int]) -> list[Candidate]:
    """Return all cuts of the backbones, by backbone, size and depth."""
    unused = dict.fromkeys(("file_kib", "activation_kib", "activation_int8_kib"), 0)
    found = []
    for backbone in backbones:
        costs = cut_costs(backbone, tuple(sizes))
        for index, size in enumerate(costs.sizes):
            for cut in costs.cuts:
                of_image = Costs(parameters=cut.parameters, macs=cut.macs[index], **unused)
                network = {"backbone": backbone, "keep": cut.keep, "image_size": size}
                found.append(Candidate(**network, pretrained=True, weights="file", costs=of_image))
    return found


def arguments_of(data: str) -> tuple[str, list[str]]:
    """Return the name of a data set and what train.py needs for it."""
    path = Path(data)
    if path.is_dir():
        root = override_value(str(path.resolve()))
        return path.resolve().name, ["datamodule=image_folder", f"datamodule.root={root}"]
    return data, [f"datamodule={data}"]


def screen(candidates: list[Candidate], weights: dict[str, str], folder: Path, overrides: list[str]) -> list[Pass]:
    """Probe the candidates in place; return the passes."""
    with initialize_config_dir(str(CONF), version_base="1.3"), Progress() as progress:
        return Screen(
            candidates, weights, folder, folds=None, metric="accuracy", budget_minutes=None, remaining_s=lambda: None,
            overrides=overrides, progress=progress,
        ).run()  # fmt: skip


def fine_tune(candidate: Candidate, folder: Path, overrides: list[str], weights: str, epochs: int, seed: int) -> Tried:
    """Train a candidate, unless an earlier command did; return its validation accuracy with that of its probe."""
    name = re.sub(r"[^\w.-]", "_", f"{candidate.backbone}-{candidate.keep}-{candidate.image_size}-{epochs}-{seed}")
    run = RunFolder(folder / name)
    if completed_record(run) is None:
        command = [
            sys.executable, "train.py", *overrides, "model=truncated", f"model.backbone={candidate.backbone}",
            f"model.keep={candidate.keep}", f"model.image_size={candidate.image_size}",
            f"model.weights={override_value(weights)}", f"trainer.max_epochs={epochs}", f"seed={seed}", "stages=[fit]",
            f"hydra.run.dir={override_value(str(run.path))}",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr}")
    record = completed_record(run)
    epochs_done = (record.throughput and record.throughput.epochs) or []
    seconds = sum(epoch.seconds for epoch in epochs_done)
    tried = Tried(
        candidate.name, candidate.costs.macs, candidate.probe.value, record.val.accuracy.value, round(seconds, 1)
    )
    print(f"{tried.name}: probed {tried.probed:.3f}, fine-tuned {tried.tuned:.3f}", flush=True)
    return tried


def rank_correlation(tried: list[Tried]) -> tuple[float, float, float]:
    """Return Spearman's correlation of probed and fine-tuned accuracy with its bootstrap interval over candidates."""
    values = np.array([(each.probed, each.tuned) for each in tried])
    generator = np.random.default_rng(0)
    samples = []
    for _ in range(BOOTSTRAPS):
        drawn = values[generator.integers(0, len(values), len(values))]
        if (np.ptp(drawn, axis=0) > 0).all():  # else the correlation is undefined
            samples.append(spearmanr(*drawn.T).statistic)
    low, high = np.quantile(samples, [0.025, 0.975]) if samples else (np.nan, np.nan)
    whole = spearmanr(*values.T).statistic if (np.ptp(values, axis=0) > 0).all() else np.nan
    return float(whole), float(low), float(high)


def row(name: str, candidates: list[Candidate], passes: list[Pass], tried: list[Tried]) -> list[str]:
    """Return the line of a data set."""
    found, low, high = rank_correlation(tried)
    gains = [each.tuned - each.probed for each in tried]
    best = max(tried, key=lambda each: each.tuned)
    place = 1 + sum(each.probed > best.probed for each in tried)
    screened = [candidate for candidate in candidates if candidate.probe]
    return [
        name, f"{len(tried)} of {len(screened)}", str(screened[0].probe.n), f"{found:.2f} ({low:.2f} to {high:.2f})",
        f"{np.mean(gains):+.3f} ({min(gains):+.3f} to {max(gains):+.3f})", f"{place} of {len(tried)}",
        duration(sum(each.seconds or 0 for each in passes)), duration(sum(each.seconds for each in tried)),
    ]  # fmt: skip


TITLES = (
    "data set", "networks fine-tuned", "validation images", "Spearman (95%)", "fine-tuning adds (smallest to largest)",
    "place of the best by its probe", "passes of the screen", "trainings",
)  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("data", nargs="+", help="folders of images, or files of conf/datamodule")
    options.add_argument("--weights", nargs="+", required=True, metavar="BACKBONE=FILE", help="or BACKBONE=auto")
    options.add_argument("--sizes", nargs="+", type=int, default=[96, 160])
    options.add_argument("--candidates", type=int, default=20, help="number fine-tuned for each data set")
    options.add_argument("--epochs", type=int, default=8)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--jobs", type=int, default=1, help="number of trainings at once")
    args = options.parse_args()
    tune_process()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    weights = {name: file if file == "auto" else str(Path(file).resolve()) for name, file in
               (each.split("=", 1) for each in args.weights)}  # fmt: skip
    lines, kept = [], {}
    for data in args.data:
        started = time.time()
        name, of_data = arguments_of(data)
        overrides = [*of_data, "recipe=fast", "logger=none", "trainer=cpu"]
        candidates = list_candidates(list(weights), args.sizes)
        passes = screen(candidates, weights, FOLDER / name, overrides)
        chosen = spread([candidate for candidate in candidates if candidate.probe], args.candidates)
        with ThreadPoolExecutor(args.jobs) as pool:
            trainings = [
                pool.submit(fine_tune, each, FOLDER / name, overrides, weights[each.backbone], args.epochs, args.seed)
                for each in chosen
            ]
            tried = [each.result() for each in trainings]
        lines.append(row(name, candidates, passes, tried))
        kept[name] = {"tried": [each._asdict() for each in tried], "wall_s": round(time.time() - started, 1)}
    write_json(RESULTS / "screen.json", {**vars(args), "data_sets": kept})
    print("", *Table.of(TITLES, lines).as_markdown(), sep="\n")


if __name__ == "__main__":
    main()
