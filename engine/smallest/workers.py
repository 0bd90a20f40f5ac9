"""Processes that share screen, race and finals, started by Hydra's launcher: joblib, Ray, SLURM."""

import logging
import time

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from common.text import plural
from engine import log_handlers
from engine.process_tuning import tune_process
from engine.state import STATE

log = logging.getLogger(__name__)


def run_workers(config: DictConfig, n: int, left_s: float | None) -> None:
    """Start `n` processes that do what is left of screen, race and finals in the time that is left, and wait for them."""
    from engine.smallest.smallest import work  # late: it imports this file

    hydra = HydraConfig.instance().cfg
    with open_dict(config):
        whole = OmegaConf.merge(hydra, config)
    with read_write(whole), read_write(whole.hydra):
        whole.hydra.hydra_logging = {"root": None}  # keeps the launcher from changing the log of this process
    context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks())
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=work, config=whole)
    left = [] if left_s is None else [f"budget.left_minutes={left_s / 60:.2f}"]
    typed = list(hydra.hydra.overrides.task)
    logging.getLogger("hydra_plugins").setLevel(logging.WARNING)  # it would repeat the arguments of each process
    log.info("%s, started by %s", plural(n, "worker"), hydra.hydra.launcher._target_.rpartition(".")[2])
    launcher.launch([[*typed, *left, f"worker={number}"] for number in range(n)], initial_job_idx=0)


def prepare_worker() -> None:
    """Set up logging and threads in a process that a launcher has started."""
    hydra = HydraConfig.get()
    tune_process()
    log_handlers.protect_screen()
    log_handlers.prefix_log_lines(f"worker {hydra.job.num + 1}")
    STATE.command = ["python", "smallest.py", *hydra.overrides.task]
    STATE.started_s = time.perf_counter()
