"""The end of a run: the best network's metrics on val and test, the decision, and the last lines of the screen."""

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
from common.run_record import (
    Decision,
    RunRecord,
    SplitMetrics,
    describe_test_evaluations,
    increment_test_evaluations,
)
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
    """Fill the record's `val` and `decision`; a decision that is fitted here goes into the run's best.ckpt.

    Args:
        trained: the content of that best.ckpt; None: nothing was trained.
    """
    if data.select_on == "test":  # there is no val to fit on
        return
    trainer.validate(model, datamodule=data, verbose=False)
    predictions = _predictions(trainer, "val")
    if model.decision is None or not rules.matches(model.decision, model.classes):
        model.decision = rules.fit(
            predictions.labels, predictions.probabilities, model.classes, predictions.logits, predictions.groups
        )
        if trained and trainer.is_global_zero:
            record.save_new_warnings()  # of the fit, which a command that resumes now would not repeat
            add_decision(Path(record.best.checkpoint), trained, model.decision)
    record.decision = model.decision
    record.val = _metrics(config, trainer, model, "val")
    record.val.part = data.describe_part("val")


def evaluate_test(
    config: DictConfig, record: RunRecord, trainer: L.Trainer, model: ImageClassifier, data: L.LightningDataModule
) -> None:
    """Fill the record's `test`, and count how often this training was evaluated on its test images."""
    trainer.test(model, datamodule=data, verbose=False)
    record.test = _metrics(config, trainer, model, "test")
    record.test.part = data.describe_part("test")
    n = record.test.test_evaluations = _count_test_evaluation(config, record, data)
    if n and n > 1:
        log.warning("%s", describe_test_evaluations(n, record.data.select_on == "test"))


def _count_test_evaluation(config: DictConfig, record: RunRecord, data: L.LightningDataModule) -> int | None:
    """Count this evaluation in the record of the training, where its test images are among those evaluated.

    Return how often they were evaluated with it, 1 for images of which none is one of them; None where it is unknown.
    """
    trained_in = record.folder if record.best else RunFolder.of_checkpoint(Path(config.ckpt_path))
    if trained_in is None or not record.writes:
        return None
    if trained_in.path.resolve() == record.folder.path.resolve():
        unknown = record.previous is None and record.best is None  # a checkpoint here, and no record of its training
        before = None if unknown else record.previous_test_evaluations
        if before is None:
            log.warning("how often %s was evaluated on test is unknown", record.folder.path)
            return None
        # A run that ended after its evaluation, before its record was finished, repeats that one
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
    with tolerate_disk_errors(trained_in.record):  # perhaps somebody else's
        return increment_test_evaluations(trained_in)
    return None


def finalize(config: DictConfig, record: RunRecord, trainer: L.Trainer, loggers: Loggers) -> None:
    """Complete the record, draw calibration.png and overview.png, give the loggers the results, log the last lines."""
    checkpoint = Path(record.best.checkpoint if record.best else config.ckpt_path)
    record.model.checkpoint_mib = round(checkpoint.stat().st_size / 2**20, 3)
    record.throughput = find_callback(trainer, Throughput).measured()
    measured = {split: metrics for split in ("val", "test") if (metrics := getattr(record, split))}
    split, metrics = list(measured.items())[-1] if measured else (None, None)
    has_overview = False
    if measured and trainer.is_global_zero:
        _draw_calibration(record, trainer, split)
        wanted = config.get("overview", "auto")  # a run of an earlier version has none
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
        log.info("Nothing was measured: there is no val split with datamodule.select_on=test, and test is not a stage")
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
        log_next_commands(record, checkpoint, val, trainer.lightning_module.hparams["network"])


def add_decision(path: Path, content: dict, decision: Decision) -> None:
    """Write a checkpoint of this content with a decision; the file is whole before and after, the weights keep their bits."""
    write_checkpoint(path, {**content, "decision": asdict(decision)})


def find_callback(trainer: L.Trainer, kind: type[L.Callback]):
    """Return the trainer's callback of a kind."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, kind))


def _predictions(trainer: L.Trainer, split: str) -> Predictions:
    """Return the predictions of a split that was evaluated.

    Raises:
        UserError: a probability is NaN.
    """
    found = find_callback(trainer, PredictionWriter).predictions[split]
    if odd := int((~np.isfinite(found.probabilities).all(axis=1)).sum()):
        raise UserError(
            f"{split}: the network gives NaN for {odd:,} of {len(found.labels):,} images, so its weights are damaged; use "
            "another checkpoint"
        )
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
    """Compute a metric of the user's own; one that fails here costs the run nothing else."""
    try:
        metric = instantiate(config, f"metrics.{name}")
        found = further_metric(metric, predictions.labels, predictions.probabilities, predictions.groups)
    except Exception as error:  # of a class of the user's, so of any type
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
    """Draw overview.png and return whether that was done; what it cannot show costs the run nothing else."""
    from reports.overview import overview  # late: nothing is drawn before the first step

    with Progress("drawing the overview", log):
        try:
            png = overview(record, _predictions(trainer, split))
        except (UserError, OSError, ValueError) as error:
            log.warning("overview.png was not drawn: %s", error)
            return False
        save_figure(trainer, "overview", png)
    return record.folder.figure("overview").is_file()
