"""Check a sample of a sweep's jobs before the sweep writes anything; composing a thousand takes minutes."""

import logging
from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf

from common.errors import UserError
from common.progress import Progress
from engine.config.trainer_flags import debug_reason
from engine.run.job_state import check_in_sweep
from engine.sweep.seeds import sweep_overrides

log = logging.getLogger(__name__)

ON_THIS_MACHINE = ("BasicLauncher", "JoblibLauncher")  # on a cluster, this machine may lack the GPU that jobs have


def check_jobs(config: DictConfig) -> None:
    """Compose one job for each combination of group files and one for each value of a setting, and check its settings.

    Only one seed is checked, since there may be many and they are alike. Hydra's sweeper would compose every job, and only
    after writing its files, so its check is switched off.

    Raises:
        HydraException: the composition fails: an unknown choice or key.
        UserError: all jobs would share a folder, an error of `check_in_sweep` or, where jobs run on this machine, a wrong
            setting.
    """
    is_here = str(config.hydra.launcher._target_).endswith(ON_THIS_MACHINE)
    loader = GlobalHydra.instance().config_loader()
    (batch,) = BasicSweeper.split_arguments(sweep_overrides(config), None)
    subdir = str(OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"])
    if "${" not in subdir and len(batch) > 1:
        raise UserError(
            f"hydra.sweep.subdir={subdir}: is the same folder for all jobs, so only the last job would remain; leave it "
            "out, or use a swept key: 'hydra.sweep.subdir=${seed}'"
        )
    jobs, debugging = _jobs_to_check(batch), []
    with Progress("checking the settings", log) as progress:
        for number, job in enumerate(jobs, 1):
            progress.count(number, len(jobs), "job")
            composed = loader.load_sweep_config(config, job)
            check_in_sweep(composed, composed.hydra.runtime.choices.get("debug"))
            debugging.append(debug_reason(composed.trainer, None))
            if is_here and composed.ckpt_path is None:  # a job with a checkpoint uses its run's settings
                check_settings(composed)
    if all(debugging):
        log.warning("every job is a debug run (%s), which no report ranks: the sweep will have no page", debugging[0])
    Sweeper.validate_batch_is_legal = lambda *_: None


def _jobs_to_check(batch: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the first job of each combination of group files, and of each value of a setting except seeds."""
    jobs, seen = [], set()
    for job in batch:
        files = tuple(each for each in job if not _is_setting(each))
        new = {files, *(each for each in job if _is_setting(each) and not _is_seed(each))} - seen
        if new:
            seen |= new
            jobs.append(list(job))
    return jobs


def check_settings(config: DictConfig) -> None:
    """Check the settings of a composed run as far as possible without images, by building its components.

    Raises:
        UserError: a setting is wrong.
    """
    from engine.config.instantiate import instantiate
    from engine.config.validate import validate
    from engine.run.stages import build_data
    from lightning_modules.network_errors import network_errors
    from lightning_modules.networks.registry import build_network, network_arguments

    checked = validate(OmegaConf.masked_copy(config, [name for name in config if name != "hydra"]))
    build_data(checked)
    for key in ("decision", "loss"):
        instantiate(checked, key)
    with network_errors():
        build_network(**network_arguments(OmegaConf.to_container(checked.model)), num_classes=2)


def _is_setting(override: str) -> bool:
    """Return whether an override sets a single value; the name of a group has no dot."""
    key = override.lstrip("+~").partition("=")[0]
    return key == "seed" or "." in key


def _is_seed(override: str) -> bool:
    key, _, value = override.partition("=")
    return key.endswith("seed") and value.isdigit()
