"""The end of a run: what the best network gets on val and test, what follows from its probabilities, the last lines."""

import io
import logging
import shlex
from pathlib import Path

import lightning as L
import torch
from omegaconf import DictConfig, OmegaConf

from datamodules.elpv import LICENCE
from lightning_modules.checkpoint import read_checkpoint
from lightning_modules.classifier import Classifier
from reports.decision import Rules, in_words, measure
from reports.files import write_bytes
from reports.mosaic import save_png
from reports.records import Record, count_opening, flat, opened_in_words
from reports.statistics import accuracy_entry, accuracy_in_words

from .going_on import run_of
from .predictions import Predictions
from .tensorboard import show
from .throughput import Throughput
from .writing import may_fail

log = logging.getLogger(__name__)


def validate(record: Record, trainer: L.Trainer, model: Classifier, data: L.LightningDataModule, rules: Rules) -> None:
    """Fills the record's `val` and `decision`; a decision fitted now goes into the run's best.ckpt."""
    if data.protocol == "test_selected":  # no val: nothing to fit on
        return
    record.val = _evaluate(trainer, model, data, "val")
    if model.decision is None or not rules.made(model.decision, model.classes):
        predictions = _of(trainer, Predictions)
        model.decision = rules.fit(predictions.labels["val"], predictions.probabilities["val"], model.classes)
        if record.best and trainer.is_global_zero:
            with may_fail(Path(record.best["checkpoint"])):
                add_to_checkpoint(Path(record.best["checkpoint"]), "decision", model.decision)
    record.decision = model.decision
    record.val |= _measured(trainer, model, "val")


def test(
    config: DictConfig, record: Record, trainer: L.Trainer, model: Classifier, data: L.LightningDataModule
) -> None:
    """Opens the test split: fills the record's `test`, and counts how often that was done with this training."""
    record.test = _evaluate(trainer, model, data, "test")
    record.test |= _measured(trainer, model, "test")
    trained_in = None if record.best else run_of(Path(config.ckpt_path))
    opened = record.earlier_openings + 1 if record.best else None
    if trained_in and record.writes:
        with may_fail(trained_in / "result.json"):  # another's run
            opened = count_opening(trained_in)
    record.test["opened"] = opened
    if opened and opened > 1:
        log.warning("%s", opened_in_words(opened))


def conclude(config: DictConfig, record: Record, trainer: L.Trainer) -> None:
    """What is known at the end, into the record, TensorBoard and the last lines of the screen."""
    checkpoint = Path(record.best["checkpoint"] if record.best else config.ckpt_path)
    record.model["checkpoint_mib"] = round(checkpoint.stat().st_size / 2**20, 3)
    record.throughput = _of(trainer, Throughput).measured()
    measured = {split: getattr(record, split) for split in ("val", "test") if getattr(record, split)}
    if trainer.is_global_zero:
        predictions, split = _of(trainer, Predictions), list(measured)[-1]
        labels, probabilities = predictions.labels[split], predictions.probabilities[split]
        from reports.figures import calibration, figure_pixels  # late: nothing is drawn before the first step

        pixels = figure_pixels(calibration(labels, probabilities, split, record.decision))
        with may_fail(record.folder / "calibration.png"):
            save_png(pixels, record.folder / "calibration.png")
        show(trainer, "calibration", pixels)
    finals = {f"final/{split}_accuracy": section["accuracy"]["value"] for split, section in measured.items()}
    finals |= {f"cost/{name}": record.model[name] for name in ("macs", "parameters") if record.model[name]}
    settings = flat(OmegaConf.to_container(config, resolve=True))
    scalars = {key: value if isinstance(value, (int, float, str)) else str(value) for key, value in settings.items()}
    for logger in trainer.loggers:
        logger.log_hyperparams(scalars, finals)  # the HParams tab knows scalars alone
        logger.close()
    record.data["licence"] = LICENCE if config.datamodule.source.startswith("elpv") else None
    split, section = list(measured.items())[-1]
    for line in in_words(section, record.decision):
        log.info("%s: %s", split, line)
    selected = " (the epoch was chosen on these pictures)" if record.data["protocol"] == "test_selected" else ""
    log.info("Accuracy %s: %s%s", split, accuracy_in_words(section["accuracy"]), selected)
    log.info("Run: %s", record.folder)
    if trainer.loggers:
        log.info("TensorBoard: tensorboard --logdir %s", shlex.quote(str(record.folder)))


def add_to_checkpoint(path: Path, key: str, value) -> None:
    """One more entry in a checkpoint, which is whole before and after; the weights keep their bits."""
    buffer = io.BytesIO()
    torch.save({**read_checkpoint(path), key: value}, buffer)
    write_bytes(path, buffer.getvalue())


def _evaluate(trainer: L.Trainer, model: Classifier, data: L.LightningDataModule, split: str) -> dict:
    """One pass over `val` or `test`; returns that section of the record."""
    (trainer.validate if split == "val" else trainer.test)(model, datamodule=data, verbose=False)
    table = _of(trainer, Predictions).tables[split]
    correct = sum(line["label"] == line["predicted"] for line in table)
    return {**model.results[split], "accuracy": accuracy_entry(correct, len(table))}


def _measured(trainer: L.Trainer, model: Classifier, split: str) -> dict:
    predictions = _of(trainer, Predictions)
    return measure(predictions.labels[split], predictions.probabilities[split], model.classes, model.decision)


def _of(trainer: L.Trainer, kind: type[L.Callback]):
    """The trainer's callback of a kind."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, kind))
