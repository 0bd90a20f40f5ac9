"""Evaluate the best network on val and test, fit the decision, and log the last lines of a run."""

import logging
from dataclasses import asdict, replace
from pathlib import Path

import lightning as L
import numpy as np
from omegaconf import DictConfig

from callbacks.image_logger import save_figure
from callbacks.prediction_writer import PredictionWriter
from callbacks.throughput import Throughput
from common.atomic_io import tolerate_disk_errors
from common.errors import UserError
from common.image_grid import encode_png
from common.own_test_images import OwnTestImages
from common.predictions_csv import Predictions
from common.progress import Progress
from common.run_folder import RunFolder, shown_path
from common.run_record import Decision, RunRecord, SplitMetrics, describe_test_evaluations, increment_test_evaluations
from engine.config.instantiate import instantiate
from engine.run.checkpoint_io import write_checkpoint
from engine.run.component_errors import component_error
from engine.run.last_lines import log_next_commands, log_verdict
from engine.run.loggers import Loggers, how_to_view, log_results
from evaluation.decision import DecisionRules, measure
from evaluation.describe import describe_guessing, describe_metrics
from evaluation.estimates import FurtherMetric, further_metric
from lightning_modules.image_classifier import ImageClassifier

log = logging.getLogger(__name__)


def evaluate_val(
    config: DictConfig,
    record: RunRecord,
    trainer: L.Trainer,
    model: ImageClassifier,
    data: L.LightningDataModule,
    rules: DecisionRules,
    trained: dict | None,
) -> None:
    """Fill the record's `val` and `decision`; write a decision that is fitted here into the run's best.ckpt.

    Args:
        trained: the content of that best.ckpt; None: nothing was trained.
    """
    if data.select_on == "test":  # there is no val split to fit on
        return
    trainer.validate(model, datamodule=data, verbose=False)
    predictions = _predictions(trainer, "val")
    if model.decision is None or not rules.matches(model.decision, model.classes):
        model.decision = rules.fit(
            predictions.labels, predictions.probabilities, model.classes, predictions.logits, predictions.groups
        )
        if trained and trainer.is_global_zero:
            record.save_new_warnings()  # those of the fit, which a command that resumes from here would not repeat
            add_decision(Path(record.best.checkpoint), trained, model.decision)
    record.decision = model.decision
    record.val = _metrics(config, trainer, model, "val")
    record.val.part = data.describe_part("val")


def evaluate_test(
    config: DictConfig, record: RunRecord, trainer: L.Trainer, model: ImageClassifier, data: L.LightningDataModule
) -> None:
    """Fill the record's `test`, and count the evaluations of this training on its test images; not in a cross-validation."""
    if data.rules["folds"] is not None and "fit" in config.stages:
        log.info("cross-validation: test images are not evaluated; stages=[test] ckpt_path=CHECKPOINT does that")
        return
    trainer.test(model, datamodule=data, verbose=False)
    record.test = _metrics(config, trainer, model, "test")
    record.test.part = data.describe_part("test")
    n = record.test.test_evaluations = _count_test_evaluation(config, record, data)
    if n and n > 1:
        log.warning("%s", describe_test_evaluations(n, record.data.select_on == "test"))


def _count_test_evaluation(config: DictConfig, record: RunRecord, data: L.LightningDataModule) -> int | None:
    """Count this evaluation in the training's record, if it includes any of the training's test images.

    Return how often these were evaluated, this time included; 1 if none of them was; None where it is unknown.
    """
    trained_in = record.folder if record.best else RunFolder.of_checkpoint(Path(config.ckpt_path))
    if trained_in is None or not record.writes:
        return None
    if trained_in.path.resolve() == record.folder.path.resolve():
        unknown = record.previous is None and record.best is None  # a checkpoint without a record of its training
        before = None if unknown else record.previous_test_evaluations
        if before is None:
            log.warning("how often %s was evaluated on test is unknown", record.folder.path)
            return None
        # A run that ended between its evaluation and the end of its record repeats that evaluation
        was_this = record.resumes and before and replace(record.previous.test, test_evaluations=None) == record.test
        return before if was_this else before + 1
    own, catalog = OwnTestImages(trained_in), data.catalog
    if own.unknown:
        log.warning("how often %s was evaluated on test is unknown: %s", config.ckpt_path, own.unknown)
        return None
    files, fingerprints = catalog.files, data.pixel_cache.stats.fingerprints
    images = ((fingerprints[row], files[row]) for row in catalog.rows("test"))
    if own.data.fingerprint_val_test != record.data.fingerprint_val_test and not own.include_any(images):
        return 1
    with tolerate_disk_errors(trained_in.record):  # perhaps another user's folder
        return increment_test_evaluations(trained_in)
    return None


def finalize(config: DictConfig, record: RunRecord, trainer: L.Trainer, loggers: Loggers) -> None:
    """Complete the record, draw calibration.png and overview.png, pass the results to the loggers, log the last lines."""
    checkpoint = evaluated_checkpoint(config, record)
    record.model.checkpoint_mib = round(checkpoint.stat().st_size / 2**20, 3)
    record.throughput = find_callback(trainer, Throughput).measured()
    measured = {split: metrics for split in ("val", "test") if (metrics := getattr(record, split))}
    split, metrics = list(measured.items())[-1] if measured else (None, None)
    has_overview = False
    if measured and trainer.is_global_zero:
        _draw_calibration(record, trainer, split)
        wanted = config.get("overview", "auto")  # runs of earlier versions have none
        has_overview = (not record.in_sweep if wanted == "auto" else wanted) and _draw_overview(record, trainer, split)
    finals = {
        f"final/{'part_of_' * bool(each.part)}{name}_accuracy": each.accuracy.value for name, each in measured.items()
    }
    costs = {"macs": record.model.counted_macs, "parameters": record.model.parameters}
    finals |= {f"cost/{name}": value for name, value in costs.items() if value}
    name = (metrics and metrics.part) or split
    log_results(loggers, config, record, finals)
    for line in describe_metrics(metrics, record.decision, name) if measured else ():
        log.info("%s: %s", name, line)
    if measured and not record.run.debug and (guessing := describe_guessing(metrics)):
        log.warning("%s: %s", name, guessing)
    for line in record.deployed.describe_lines() if record.deployed else ():
        log.info("%s", line)
    for path in record.folder.profiles if trainer.is_global_zero else ():
        log.info("Profile: %s", path)
    if measured:
        log_verdict(record, name)
    else:
        log.info("Nothing was measured: datamodule.select_on=test has no val split, and test is not among the stages")
    if record.run.debug:
        log.info("Debug run (%s): its results mean nothing, and no report ranks it", record.run.debug)
    log.info("Run: %s", shown_path(record.folder.path))
    if not trainer.is_global_zero:
        return
    if has_overview:
        log.info("Overview: %s", shown_path(record.folder.figure("overview")))
    for line in how_to_view(loggers):
        log.info("%s", line)
    if measured and not (record.in_sweep or record.run.debug):
        val = find_callback(trainer, PredictionWriter).predictions.get("val")
        log_next_commands(record, checkpoint, val)


def add_decision(path: Path, content: dict, decision: Decision) -> None:
    """Write a checkpoint with this content and a decision; the file is whole at every moment, the weights are unchanged."""
    write_checkpoint(path, {**content, "decision": asdict(decision)})


def evaluated_checkpoint(config: DictConfig, record: RunRecord) -> Path:
    """Return the checkpoint whose network a run evaluates: the best one of its training, or the given one."""
    return Path(record.best.checkpoint if record.best else config.ckpt_path)


def find_callback(trainer: L.Trainer, kind: type[L.Callback]):
    """Return the trainer's callback of a class."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, kind))


def _predictions(trainer: L.Trainer, split: str) -> Predictions:
    """Return the predictions of an evaluated split.

    Raises:
        UserError: a probability is NaN.
    """
    found = find_callback(trainer, PredictionWriter).predictions[split]
    if odd := int((~np.isfinite(found.probabilities).all(axis=1)).sum()):
        diverged = "the training diverged in its last steps; try a smaller optimizer.lr or trainer.gradient_clip_val=1"
        why = diverged if trainer.global_step else "its weights are damaged; use another checkpoint"
        raise UserError(f"{split}: the network gives NaN for {odd:,} of {len(found.labels):,} images: {why}")
    return found


def _metrics(config: DictConfig, trainer: L.Trainer, model: ImageClassifier, split: str) -> SplitMetrics:
    predictions = _predictions(trainer, split)
    further = {name: _further(config, name, predictions, split) for name in config.metrics}
    metrics = measure(
        predictions.labels, predictions.probabilities, model.classes, model.decision, further,
        logits=predictions.logits, groups=predictions.groups,
    )  # fmt: skip
    metrics.loss = model.results[split]["loss"]
    return metrics


def _further(config: DictConfig, name: str, predictions: Predictions, split: str) -> FurtherMetric:
    """Compute a user's own metric; if it fails, only its value is missing."""
    try:
        metric = instantiate(config, f"metrics.{name}")
        found = further_metric(metric, predictions.labels, predictions.probabilities, predictions.groups)
    except Exception as error:  # a user's class may raise any type
        log.warning(
            "%s: %s", split, component_error(error, config) or f"metrics.{name}: {type(error).__name__}: {error}"
        )
        return FurtherMetric(None, None)
    if found.reason:
        log.warning("%s: metrics.%s %s", split, name, found.reason)
    return found


def _draw_calibration(record: RunRecord, trainer: L.Trainer, split: str) -> None:
    from evaluation.figures import calibration, figure_pixels  # late: nothing is drawn before the first step

    found = _predictions(trainer, split)
    figure = calibration(found.labels, found.probabilities, split, record.decision, found.groups)
    save_figure(trainer, "calibration", encode_png(figure_pixels(figure)))


def _draw_overview(record: RunRecord, trainer: L.Trainer, split: str) -> bool:
    """Draw overview.png and return whether that succeeded; a failure does not end the run."""
    from reports.overview import overview  # late: nothing is drawn before the first step

    with Progress("drawing the overview", log):
        try:
            png = overview(record, _predictions(trainer, split))
        except (UserError, OSError, ValueError) as error:
            log.warning("overview.png was not drawn: %s", error)
            return False
        save_figure(trainer, "overview", png)
    return record.folder.figure("overview").is_file()
