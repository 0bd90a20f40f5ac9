"""The callbacks of a run: what every run needs, and what conf/callbacks asks for."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import lightning as L
from lightning.pytorch.callbacks import (
    Callback,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    ProgressBar,
    StochasticWeightAveraging,
    Timer,
)
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig, OmegaConf

from callbacks.checkpoint import BestCheckpoint, LastCheckpoint, SingleFileCheckpoint
from callbacks.cuda_graphs import CudaGraphs
from callbacks.epoch_logger import EpochLogger
from callbacks.epoch_scores import EpochScores
from callbacks.freeze_backbone import FreezeBackbone
from callbacks.graceful_shutdown import GracefulShutdown
from callbacks.line_progress import LineProgress
from callbacks.max_steps import MaxSteps
from callbacks.prediction_writer import PredictionWriter
from callbacks.resume_in_epoch import ResumeInEpoch
from callbacks.step_seed import StepSeed
from callbacks.terminate_on_nan import TerminateOnNaN
from callbacks.throughput import Throughput
from common.errors import UserError
from common.run_folder import METRIC_COLUMNS, SCORE_COLUMNS
from common.run_record import RunRecord
from common.text import did_you_mean
from engine.config.instantiate import LIBRARIES, OURS, instantiate
from engine.state import STATE

OF_EVERY_RUN = (StepSeed, CudaGraphs, Throughput, EpochLogger, PredictionWriter, TerminateOnNaN, GracefulShutdown)
METRICS = (*METRIC_COLUMNS[1:-1], *SCORE_COLUMNS)


def all_callbacks(
    config: DictConfig, record: RunRecord, configured: Mapping[str, L.Callback], further: Sequence[L.Callback]
) -> list[L.Callback]:
    """List all callbacks in the order in which Lightning calls them: every run's, those of conf/callbacks, and `further`.

    BestCheckpoint comes before LastCheckpoint, which stores its state; FreezeBackbone before FreezeBatchNorm, which
    freezes more.

    Raises:
        UserError: two callbacks do the same, or one cannot work here; names their keys.
    """
    _check(config, configured)
    for key, callback in configured.items():
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(record.folder.checkpoints)
            _check_file_names(key, callback)
    kinds = (BestCheckpoint, LastCheckpoint)
    best, last = (next((c for c in configured.values() if isinstance(c, kind)), None) or kind() for kind in kinds)
    best.dirpath = last.dirpath = str(record.folder.checkpoints)
    last.before_save = record.save_new_warnings
    monitored = _monitored_scores(config, configured, further)
    return [
        ResumeInEpoch(),  # before all callbacks that count batches
        StepSeed(seed=config.seed),
        *([MaxSteps(max_steps=max_steps)] if (max_steps := config.trainer.get("max_steps")) else []),
        *([FreezeBackbone(epochs=config.model.freeze)] if config.model.freeze else []),
        *(callback for callback in configured.values() if not isinstance(callback, kinds)),
        *([EpochScores(monitored=monitored)] if monitored else []),
        CudaGraphs(enabled=config.trainer.get("cuda_graphs", "auto")),  # after all that change batches or the network
        Throughput(started_s=STATE.started_s),
        EpochLogger(),
        PredictionWriter(),
        TerminateOnNaN(),
        GracefulShutdown(),
        best,
        last,
        *further,
    ]


def configured_callbacks(config: DictConfig) -> dict[str, L.Callback]:
    """Build the callbacks of conf/callbacks and the command line, by their keys, except those that have nothing to do.

    Raises:
        UserError: a class is not a callback.
    """
    built = {f"callbacks.{name}": instantiate(config, f"callbacks.{name}") for name in config.callbacks}
    for key, callback in built.items():
        if callback is not None and not isinstance(callback, Callback):
            target = OmegaConf.select(config, key)._target_
            raise UserError(
                f"{key}._target_={target}: is not a Lightning callback; use a subclass of lightning.Callback"
            )
    return {key: each for key, each in built.items() if each is not None and getattr(each, "enabled", True)}


def evaluation_callbacks(config: DictConfig, trained_with: Sequence[L.Callback]) -> list[L.Callback]:
    """List the callbacks for evaluation after training: every run's, and those of conf/callbacks, rebuilt.

    The state that callbacks of conf/callbacks kept from training does not belong to the evaluated network: an average of the
    weights, for example, would replace those of best.ckpt. Rebuilt, they evaluate as in a separate command.
    """
    kept = (*OF_EVERY_RUN, LineProgress, ProgressBar)
    again = configured_callbacks(config).values()
    again = [callback for callback in again if not isinstance(callback, (*kept, ModelCheckpoint))]
    return [*again, *(callback for callback in trained_with if isinstance(callback, kept))]


def _monitored_scores(
    config: DictConfig, configured: Mapping[str, L.Callback], further: Sequence[L.Callback]
) -> dict[str, str]:
    """Return the monitored ones of SCORE_COLUMNS, each with the key that monitors it."""
    monitors = [(getattr(callback, "monitor", None), f"{key}.monitor") for key, callback in configured.items()]
    monitors += [(config.scheduler.get("monitor"), "scheduler.monitor")] if config.get("scheduler") else []
    monitors += [(getattr(callback, "monitor", None), "objectives") for callback in further]  # those of a search
    return {score: key for score, key in reversed(monitors) if score in SCORE_COLUMNS}


def _check(config: DictConfig, configured: Mapping[str, L.Callback]) -> None:
    """Refuse callbacks that duplicate another one, or that cannot work in this project's runs."""
    for (key, one), (other_key, other) in combinations(configured.items(), 2):
        if reason := _doubled(OmegaConf.select(config, key), one, OmegaConf.select(config, other_key), other):
            raise UserError(f"{key} and {other_key}: {reason}; remove one of them: ~{other_key}")
    for key, callback in configured.items():
        name, way_out = type(callback).__name__, f"remove it: ~{key}"
        if isinstance(callback, OF_EVERY_RUN) or (isinstance(callback, FreezeBackbone) and config.model.freeze):
            raise UserError(f"{key}: every run has {name} already; {way_out}")
        if isinstance(callback, StochasticWeightAveraging):
            raise UserError(
                f"{key}: its average exists only after the last epoch, when best.ckpt has been chosen; use callbacks=ema, "
                "or lightning.pytorch.callbacks.WeightAveraging"
            )
        if isinstance(callback, GradientAccumulationScheduler):
            raise UserError(
                f"{key}: learning-rate schedules and resuming within an epoch do not take its numbers into account; use "
                "trainer.accumulate_grad_batches"
            )
        if isinstance(callback, Timer) and config.trainer.get("max_time") is not None:
            raise UserError(f"{key} and trainer.max_time: both stop training after a time; {way_out}")
        _check_monitor(config, key, callback)


def _doubled(node: DictConfig, one: L.Callback, other_node: DictConfig, other: L.Callback) -> str | None:
    """Return why two callbacks are duplicates, or None."""
    if node == other_node:
        return "are the same"
    for kind in (BestCheckpoint, LastCheckpoint, ProgressBar):
        if isinstance(one, kind) and isinstance(other, kind):
            return f"a run has only one {kind.__name__}"
    keep_state = all(is_overridden("state_dict", instance=each, parent=Callback) for each in (one, other))
    if keep_state and one.state_key == other.state_key:
        return f"two of {type(one).__name__} with the same settings would overwrite each other's state in a checkpoint"
    return None


def _check_monitor(config: DictConfig, key: str, callback: L.Callback) -> None:
    """Refuse to monitor a metric that no run logs; a user's own class might log it, which only training can show."""
    monitor = getattr(callback, "monitor", None)
    targets = [str(node._target_) for node in config.callbacks.values() if node]
    known = all(target.split(".")[0] in OURS | LIBRARIES for target in targets)
    if isinstance(monitor, str) and monitor not in METRICS and known:
        raise UserError(f"{key}.monitor={monitor}: no such metric; {did_you_mean(monitor, METRICS)}")


def _check_file_names(key: str, callback: ModelCheckpoint) -> None:
    """Refuse a callback that would write best.ckpt or last.ckpt, too."""
    if isinstance(callback, SingleFileCheckpoint):
        return
    if callback.save_last:
        raise UserError(f"{key}.save_last={callback.save_last}: every run keeps last.ckpt already; leave it out")
    if callback.filename in ("best", "last", "last-before"):
        raise UserError(f"{key}.filename={callback.filename}: every run has this file already; use another name")
