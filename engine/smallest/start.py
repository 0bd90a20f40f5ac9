"""Start smallest.py: check packages and show progress before torch is imported, which takes seconds."""

import importlib.util
from collections.abc import Callable

from omegaconf import DictConfig

from common.errors import UserError
from engine.smallest.progress import Progress


def start(config: DictConfig, run: Callable) -> None:
    """Check that the packages are installed, and run all stages.

    Args:
        run: train.py's function, which takes a configuration, a record and further callbacks.

    Raises:
        UserError: a package is missing, or an error of `run_smallest`.
    """
    for package in ("optuna", "sklearn"):
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f'smallest.py needs {package}, which is not installed: pip install -e ".[smallest]" ("[samples]" includes it)'
            )
    with Progress("starting") as progress:
        from engine.smallest.smallest import run_smallest  # late: it imports torch

        run_smallest(config, run, progress)
