"""The end of a run: what the best network gets on val and test, what follows from its probabilities, the last lines."""

import io
import logging
import shlex
from pathlib import Path

import lightning as L
import torch
from omegaconf import DictConfig, OmegaConf

from callbacks.image_logger import log_image
from callbacks.prediction_writer import PredictionWriter
from callbacks.throughput import Throughput
from common.atomic_io import tolerate_disk_errors, write_bytes
from common.image_grid import save_png
from common.run_record import RunRecord, describe_test_evaluations, flat, increment_test_evaluations
from datamodules.sources.elpv import LICENSE
from engine.run.resume import run_of_checkpoint
from evaluation.decision import DecisionRules, describe_metrics, measure
from evaluation.intervals import accuracy_entry, format_accuracy
from lightning_modules.checkpoint import read_checkpoint
from lightning_modules.image_classifier import ImageClassifier

log = logging.getLogger(__name__)


def evaluate_val(
    record: RunRecord, trainer: L.Trainer, model: ImageClassifier, data: L.LightningDataModule, rules: DecisionRules
) -> None:
    """Fills the record's `val` and `decision`; a decision fitted now goes into the run's best.ckpt."""
    if data.select_on == "test":  # no val: nothing to fit on
        return
    record.val = _evaluate(trainer, model, data, "val")
    if model.decision is None or not rules.made(model.decision, model.classes):
        predictions = _of(trainer, PredictionWriter)
        model.decision = rules.fit(predictions.labels["val"], predictions.probabilities["val"], model.classes)
        if record.best and trainer.is_global_zero:
            with tolerate_disk_errors(Path(record.best["checkpoint"])):
                add_to_checkpoint(Path(record.best["checkpoint"]), "decision", model.decision)
    record.decision = model.decision
    record.val |= _measured(trainer, model, "val")


def evaluate_test(
    config: DictConfig, record: RunRecord, trainer: L.Trainer, model: ImageClassifier, data: L.LightningDataModule
) -> None:
    """Opens the test split: fills the record's `test`, and counts how often that was done with this training."""
    record.test = _evaluate(trainer, model, data, "test")
    record.test |= _measured(trainer, model, "test")
    trained_in = None if record.best else run_of_checkpoint(Path(config.ckpt_path))
    opened = record.earlier_openings + 1 if record.best else None
    if trained_in and record.writes:
        with tolerate_disk_errors(trained_in / "result.json"):  # another's run
            opened = increment_test_evaluations(trained_in)
    record.test["test_evaluations"] = opened
    if opened and opened > 1:
        log.warning("%s", describe_test_evaluations(opened))


def finalize(config: DictConfig, record: RunRecord, trainer: L.Trainer) -> None:
    """What is known at the end, into the record, TensorBoard and the last lines of the screen."""
    checkpoint = Path(record.best["checkpoint"] if record.best else config.ckpt_path)
    record.model["checkpoint_mib"] = round(checkpoint.stat().st_size / 2**20, 3)
    record.throughput = _of(trainer, Throughput).measured()
    measured = {split: getattr(record, split) for split in ("val", "test") if getattr(record, split)}
    if trainer.is_global_zero:
        predictions, split = _of(trainer, PredictionWriter), list(measured)[-1]
        labels, probabilities = predictions.labels[split], predictions.probabilities[split]
        from evaluation.figures import calibration, figure_pixels  # late: nothing is drawn before the first step

        pixels = figure_pixels(calibration(labels, probabilities, split, record.decision))
        with tolerate_disk_errors(record.folder / "calibration.png"):
            save_png(pixels, record.folder / "calibration.png")
        log_image(trainer, "calibration", pixels)
    finals = {f"final/{split}_accuracy": section["accuracy"]["value"] for split, section in measured.items()}
    finals |= {f"cost/{name}": record.model[name] for name in ("macs", "parameters") if record.model[name]}
    settings = flat(OmegaConf.to_container(config, resolve=True))
    scalars = {key: value if isinstance(value, (int, float, str)) else str(value) for key, value in settings.items()}
    for logger in trainer.loggers:
        logger.log_hyperparams(scalars, finals)  # the HParams tab knows scalars alone
        logger.close()
    record.data["license"] = LICENSE if config.datamodule.source.startswith("elpv") else None
    split, section = list(measured.items())[-1]
    for line in describe_metrics(section, record.decision):
        log.info("%s: %s", split, line)
    selected = " (the epoch was chosen on these images)" if record.data["select_on"] == "test" else ""
    log.info("Accuracy %s: %s%s", split, format_accuracy(section["accuracy"]), selected)
    log.info("Run: %s", record.folder)
    if trainer.loggers:
        log.info("TensorBoard: tensorboard --logdir %s", shlex.quote(str(record.folder)))


def add_to_checkpoint(path: Path, key: str, value) -> None:
    """One more entry in a checkpoint, which is whole before and after; the weights keep their bits."""
    buffer = io.BytesIO()
    torch.save({**read_checkpoint(path), key: value}, buffer)
    write_bytes(path, buffer.getvalue())


def _evaluate(trainer: L.Trainer, model: ImageClassifier, data: L.LightningDataModule, split: str) -> dict:
    """One pass over `val` or `test`; returns that section of the record."""
    (trainer.validate if split == "val" else trainer.test)(model, datamodule=data, verbose=False)
    table = _of(trainer, PredictionWriter).tables[split]
    correct = sum(line["label"] == line["predicted"] for line in table)
    return {**model.results[split], "accuracy": accuracy_entry(correct, len(table))}


def _measured(trainer: L.Trainer, model: ImageClassifier, split: str) -> dict:
    predictions = _of(trainer, PredictionWriter)
    return measure(predictions.labels[split], predictions.probabilities[split], model.classes, model.decision)


def _of(trainer: L.Trainer, kind: type[L.Callback]):
    """The trainer's callback of a kind."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, kind))
