"""Measure how long commands take to start, compared with their imports.

    python -m benchmarks.start_up --root DIR [--runs FOLDER] [--repeats 5]

Whole processes, alternating in one session: `import torch, torchvision, lightning`; train.py on DIR with a warm pixel cache,
until its first optimizer step is done; `train.py --help`; a misspelled setting; report.py on FOLDER. Writes
outputs/benchmarks/start_up.json.
"""

import tempfile
import time
from pathlib import Path

from benchmarks.timing import PROJECT, alternate, parser, ratios, report, run_python, spread

TIMED = PROJECT / "benchmarks" / "baselines" / "timed.py"
IMPORTS = "import torch, torchvision, lightning"


def first_step(root: Path, *settings: str) -> float:
    """Measure the seconds from the command to the end of the first optimizer step."""
    with tempfile.TemporaryDirectory() as folder:
        steps = Path(folder, "steps")
        started = time.perf_counter()
        run_python(
            TIMED, steps, "train.py", "datamodule=image_folder", f"datamodule.root={root}", "model.weights=null",
            "trainer.max_epochs=1", f"hydra.run.dir={folder}/run", *settings,
        )  # fmt: skip
        return float(steps.read_text().split()[0]) - started


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--root", required=True, type=Path)
    options.add_argument("--runs", type=Path, help="folder of finished runs for report.py")
    args = options.parse_args()
    root = args.root.resolve()
    measures = {
        IMPORTS: lambda: run_python("-c", IMPORTS)[0],
        "train.py to its first step": lambda: first_step(root, "stages=[fit]"),
        "the same with stages=[cost,fit]": lambda: first_step(root, "stages=[cost,fit]"),
        "train.py --help": lambda: run_python("train.py", "--help")[0],
        "train.py optimizer.learning=1": lambda: run_python("train.py", "optimizer.learning=1", check=False)[0],
    }
    if args.runs:
        measures["report.py"] = lambda: run_python("report.py", f"runs={args.runs.resolve()}")[0]
    first_step(root, "stages=[fit]")  # fills the pixel cache
    measured = alternate(measures, args.repeats)
    report("start_up", measured, unit="s")
    print("\nratio to the imports")
    for name, values in measured.items():
        print(f"{name}: {spread(ratios(values, measured[IMPORTS]))}")


if __name__ == "__main__":
    main()
