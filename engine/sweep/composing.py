"""Compose few configurations before a sweep: Hydra composes that of every job once more, two minutes for a thousand."""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf

from common.errors import UserError
from engine.run.job_state import check_in_sweep
from engine.sweep.seeds import sweep_overrides


def check_jobs(config: DictConfig) -> None:
    """Compose one job of each combination of files of groups; other values compose the same.

    Hydra's sweeper would do so after it has written its own files, and for every job: its check is switched off.

    Raises:
        HydraException: as of a composition: an unknown choice or key.
        UserError: all jobs would have one folder, or as of `check_in_sweep`.
    """
    loader = GlobalHydra.instance().config_loader()
    (batch,) = BasicSweeper.split_arguments(sweep_overrides(config), None)
    subdir = str(OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"])
    if "${" not in subdir and len(batch) > 1:
        raise UserError(
            f"hydra.sweep.subdir={subdir}: is the same folder for all jobs, of which only the last one would be left; leave it "
            "out, or name what is swept: 'hydra.sweep.subdir=${seed}'"
        )
    distinct = {tuple(each for each in job if not _is_setting(each)): job for job in reversed(batch)}
    for job in reversed(distinct.values()):
        composed = loader.load_sweep_config(config, list(job))
        check_in_sweep(composed, composed.hydra.runtime.choices.get("debug"))
    Sweeper.validate_batch_is_legal = _is_checked


def _is_checked(sweeper: Sweeper, batch: Sequence[Sequence[str]]) -> None:
    pass


def _is_setting(override: str) -> bool:
    """Return whether an override gives a single value: a group's name has no dot."""
    key = override.lstrip("+~").partition("=")[0]
    return key == "seed" or "." in key
