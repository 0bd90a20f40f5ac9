"""Start smallest.py: check packages and show progress before torch is imported, which takes seconds."""

from collections.abc import Callable

from omegaconf import DictConfig

from common.targets import check_installed
from engine.smallest.progress import Progress


def start(config: DictConfig, run: Callable) -> None:
    """Check that the packages are installed, and run all stages.

    Args:
        run: train.py's function, which takes a configuration, a record and further callbacks.

    Raises:
        UserError: a package is missing, or an error of `run_smallest`.
    """
    for package in ("optuna", "sklearn"):
        check_installed(package, "smallest.py", "smallest")
    with Progress("starting") as progress:
        from engine.smallest.smallest import run_smallest  # late: it imports torch

        run_smallest(config, run, progress)
