"""How long should OpenMP threads spin while they wait? Images/s of training, on a quiet machine and beside busy processes.

    python -m benchmarks.waiting_threads [--beside 0 1 2] [--repeats 5]

Measures the compute limit of data_pipeline.py (one resident batch of the final network), each time in a new process, in turn:
with the default of GNU OpenMP, with several values of GOMP_SPINCOUNT, including that of engine/process_tuning.py, and with
OMP_WAIT_POLICY=passive; each beside the given numbers of busy processes. Writes outputs/benchmarks/waiting_threads.json.
"""

import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.data_pipeline import compute_limit
from benchmarks.timing import alternate, parser, ratios, report, spread
from engine.process_tuning import SPIN_ROUNDS

AS_IT_IS = "as it is"
WAITING = {
    AS_IT_IS: {"GOMP_SPINCOUNT": "300000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    f"GOMP_SPINCOUNT={SPIN_ROUNDS}": {"GOMP_SPINCOUNT": str(SPIN_ROUNDS)},
    "GOMP_SPINCOUNT=3000": {"GOMP_SPINCOUNT": "3000"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
}


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep `count` processes busy in an endless loop."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def images_per_s(variables: dict[str, str], beside: int) -> float:
    """Measure the compute limit with these environment variables."""
    os.environ.update(variables)
    try:
        with busy_processes(beside):
            return compute_limit()
    finally:
        for name in variables:
            del os.environ[name]


def main() -> None:
    options = parser(__doc__)
    options.add_argument(
        "--beside", type=int, nargs="+", default=[0, 1, 2], help="busy processes; 0, 1 and 2 by default"
    )
    args = options.parse_args()
    measured = alternate(
        {
            f"{name}, beside {beside}": functools.partial(images_per_s, variables, beside)
            for beside in args.beside
            for name, variables in WAITING.items()
        },
        args.repeats,
    )
    report("waiting_threads", measured, unit="images/s", cores=os.cpu_count())
    print("\nratio to OpenMP as it is")
    for label, values in measured.items():
        name, beside = label.rsplit(", ", 1)
        if name != AS_IT_IS:
            print(f"{label}: {spread(ratios(values, measured[f'{AS_IT_IS}, {beside}']))}")


if __name__ == "__main__":
    main()
