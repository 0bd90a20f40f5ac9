"""Which settings of the verbs besides train.py have no effect, as far as their configuration shows it. Imports no torch."""

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from engine.hints import CONF
from engine.processes import starts_processes


def idle_in_verb(verb: str, config: DictConfig) -> dict[str, str]:
    """Return what `common.idle.warn_of_idle` needs; values of a wrong type, which the verb itself refuses, count as set."""
    of_verb = {"predict": _of_predict, "smallest": _of_smallest, "search": _of_search}.get(verb, lambda _: {})
    idle = of_verb(config)
    if verb not in ("smallest", "search"):  # these check their keys, since they pass some to runs
        known = {*OmegaConf.load(CONF / f"{verb}.yaml"), "format"}
        idle |= {str(key): f"in {verb}.py, which has no such setting" for key in config if key not in known}
    return idle


def _of_predict(config: DictConfig) -> dict[str, str]:
    exported = str(config.ckpt).lower().endswith(".onnx")
    idle = {"explain_most": "without explain=true"} if config.explain is False else {}
    return idle | ({"register": f"with the exported file ckpt={config.ckpt}"} if exported else {})


def _of_smallest(config: DictConfig) -> dict[str, str]:
    idle = {}
    if not starts_processes(HydraConfig.get().launcher):
        idle["workers"] = "without hydra/launcher=joblib, ray or submitit_slurm"
    if OmegaConf.select(config, "datamodule.folds") is not None:
        idle |= dict.fromkeys(("finals.folds", "finals.folds_below"), "with datamodule.folds")
    return idle


def _of_search(config: DictConfig) -> dict[str, str]:
    from engine.search.objectives import EPOCH_METRICS  # late: scipy

    idle = {"default_space": "with space"} if config.space is not None else {}
    if not OmegaConf.is_list(config.objectives) or not config.objectives:
        return idle
    if len(config.objectives) == 1:
        idle["n_retrain"] = "with one objective"
    if len(config.objectives) > 1 or config.objectives[0] not in EPOCH_METRICS:
        idle["pruning"] = "without a single objective that is measured after each epoch"
    return idle
