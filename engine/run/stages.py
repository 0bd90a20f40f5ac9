"""The steps of a run, for the root scripts: from the configuration to objects, through training, into the record."""

import hashlib
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from omegaconf import DictConfig, OmegaConf
from torch import nn

from callbacks.distillation import warn_of_other_splits
from common.atomic_io import tolerate_disk_errors, write_csv, write_text
from common.run_record import RunRecord
from engine.config.instantiate import instantiate
from engine.config.validate_network import check_image_size
from engine.run.checkpoint_io import PREVIOUS, AtomicCheckpointIO
from engine.run.resume import resume_errors
from lightning_modules.checkpoint import check_same_network, epochs_done, load_classifier
from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.networks.registry import network_arguments, pretrained_name
from lightning_modules.networks.surgery import set_frozen
from lightning_modules.pretrained_weights import load_initial_weights
from lightning_modules.profiling import count_parameters, measure_cost, summary

log = logging.getLogger(__name__)

KNOWN_WARNINGS = (
    ".*does not have many workers.*",  # none is the fastest where images are decoded already: conf/datamodule/base
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",  # lightning 2.6 with torch 2.14
    "Checkpoint directory .* exists and is not empty.*",  # a run that goes on in its own folder
)


def describe_data(data: L.LightningDataModule, record: RunRecord) -> dict:
    """The record's `data`, and splits.csv once the splits are decided."""
    catalog = data.catalog
    described = {
        "name": catalog.name,
        "root": str(catalog.root),
        "classes": catalog.classes,
        "select_on": data.select_on,
    }
    if data.store is None:
        return described
    columns = {
        "path": catalog.paths,
        "label": [catalog.classes[label] for label in catalog.labels],
        "split": catalog.splits,
        "group": catalog.groups,
        **({"weight": catalog.weights} if catalog.weights is not None else {}),
        **catalog.subsets,
    }
    if record.writes:
        rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
        with tolerate_disk_errors(record.folder / "splits.csv"):
            write_csv(record.folder / "splits.csv", list(columns), rows)
    images = data.store.facts.fingerprints
    measured_on = sorted(  # the images that accuracies are of, whatever the training images are
        f"{images[row]} {catalog.classes[catalog.labels[row]]} {split}"
        for split in ("val", "test")
        for row in catalog.rows(split)
    )
    return {
        **described,
        **{f"n_{split}": len(catalog.rows(split)) for split in ("train", "val", "test")},
        "folds": data.rules["folds"],
        "fold": data.rules["fold"],
        "read_s": round(data.read_s, 2),
        "fingerprint": data.fingerprint(),
        "fingerprint_val_test": hashlib.blake2b("\n".join(measured_on).encode(), digest_size=8).hexdigest(),
        "excluded": [{"path": catalog.paths[row], "reason": reason} for row, reason in catalog.excluded.items()],
        "audit": [{"kind": f.kind, "leak": f.leak, "text": f.text} for f in data.findings],
    }


def build_model(config: DictConfig, data: L.LightningDataModule) -> ImageClassifier:
    """The classifier to train, with random weights; or, where nothing is trained, the one of the checkpoint.

    Raises:
        ValueError: the checkpoint is of another network, or of other classes than the data.
    """
    classes = data.catalog.classes
    if config.ckpt_path is not None and "fit" not in config.stages:
        classifier = load_classifier(Path(config.ckpt_path))
        if classifier.classes != classes:
            raise ValueError(
                f"ckpt_path={config.ckpt_path}: knows the classes {', '.join(classifier.classes)}, the data "
                f"has {', '.join(classes)}; give the data that it was trained on"
            )
        return classifier
    settings = OmegaConf.to_container(config.model, resolve=True, throw_on_missing=True)
    network = network_arguments(settings)
    if config.ckpt_path is not None:
        check_same_network(Path(config.ckpt_path), network, classes)
    classifier = ImageClassifier(
        network=network,
        classes=classes,
        image_size=config.model.image_size,
        mean=data.mean,
        std=data.std,
        loss=build_loss(config, data) if "fit" in config.stages else None,
        optimizer=instantiate(config, "optimizer"),
        scheduler=instantiate(config, "scheduler"),
    )
    check_image_size(config, classifier.network)
    if config.model.freeze:
        set_frozen(classifier.network, True)
        classifier.train()  # eval mode of what is frozen comes with each epoch: callbacks/freeze_backbone.py
    return classifier


def build_loss(config: DictConfig, data: L.LightningDataModule) -> nn.Module:
    """The training loss; one that weighs classes is told how many images each has."""
    made = instantiate(config, "loss")
    return made if isinstance(made, nn.Module) else made(class_counts=data.class_counts)


def describe_model(config: DictConfig, model: ImageClassifier) -> dict:
    """The record's `model` before anything is measured."""
    return {
        "name": config.model.name,
        "weights": None,
        "parameters": count_parameters(model.network),
        "macs": None,
        "macs_thop": None,
        "checkpoint_mib": None,
    }


def profile_model(config: DictConfig, model: ImageClassifier, folder: Path) -> dict:
    """Measures the cost, says it, and writes summary.txt."""
    size = model.hparams["image_size"]
    on_gpu = torch.cuda.is_available() and config.trainer.accelerator != "cpu"
    costs = measure_cost(model.network, size, config.datamodule.batch_size, torch.device("cuda" if on_gpu else "cpu"))
    with tolerate_disk_errors(folder / "summary.txt"):
        write_text(folder / "summary.txt", summary(model.network, size))
    trainable = costs["parameters_trainable"]
    single = costs["latency"][0]
    log.info(
        "cost: %s parameters%s; %s MACs by thop, %s by FlopCounterMode for an image of %d x %d; latency p50 %.1f ms, p95 "
        "%.1f ms at batch 1 (%d repeats)",
        f"{costs['parameters']:,}",
        "" if trainable == costs["parameters"] else f" ({trainable:,} trainable)",
        f"{costs['macs_thop']:,}",
        f"{costs['macs']:,}",
        size,
        size,
        single["latency_p50_ms"],
        single["latency_p95_ms"],
        single["repeats"],
    )
    return costs


def load_weights(config: DictConfig, record: RunRecord, model: ImageClassifier) -> str:
    """Gives the network the weights that it starts from; returns them in words."""
    if config.ckpt_path is not None:
        earlier = (record.earlier.get("model") or {}).get("weights")  # of the run that goes on in its own folder
        return earlier or f"checkpoint {config.ckpt_path}"
    backbone = pretrained_name(model.hparams["network"])
    cache = Path(config.datamodule.cache) / "weights"
    described = load_initial_weights(model.network, config.model.weights, backbone=backbone, download_to=cache)
    log.info("initial weights: %s", described)
    return described


def build_trainer(config: DictConfig, record: RunRecord, *, callbacks: Sequence[L.Callback] = ()) -> L.Trainer:
    """Lightning's trainer for this run's folder with further `callbacks`, and the device in the record."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its import has set it to INFO
    for message in KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message)
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time and is for code that reads such memory
    callbacks = all_callbacks(config, record, callbacks)
    goes_on = config.ckpt_path is not None and "fit" in config.stages
    first_step = epochs_done(Path(config.ckpt_path)) + 1 if goes_on else None
    on_terminal = sys.stderr.isatty()
    if on_terminal:
        callbacks.append(TQDMProgressBar(leave=False))
    made = instantiate(
        config,
        "trainer",
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        logger=instantiate(config, "logger", folder=str(record.folder), first_step=first_step) or False,
        default_root_dir=str(record.folder),
        enable_progress_bar=on_terminal,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        use_distributed_sampler=False,
    )
    device = made.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    record.run |= {"device": name, "processes": made.world_size, "threads": torch.get_num_threads()}
    log.info("device: %s, processes: %d, threads: %d", name, made.world_size, torch.get_num_threads())
    return made


def fit(
    config: DictConfig, record: RunRecord, trainer: L.Trainer, model: ImageClassifier, data: L.LightningDataModule
) -> dict:
    """Trains, or goes on training; returns the record's `best`.

    Raises:
        ValueError: the run to go on with has had all of its epochs.
    """
    if config.ckpt_path is not None:
        done = epochs_done(Path(config.ckpt_path))
        if done >= config.trainer.max_epochs and not record.was_stopped:
            raise ValueError(
                f"ckpt_path={config.ckpt_path}: has had {done} of trainer.max_epochs={config.trainer.max_epochs} "
                f"epochs; to train longer: trainer.max_epochs={done + 10}; to measure again: stages=[test]"
            )
        log.info("going on after epoch %d", done)
    if config.teacher is not None:
        warn_of_other_splits(config.teacher, record)
    with resume_errors(config.ckpt_path):
        trainer.fit(model, data, ckpt_path=config.ckpt_path, weights_only=True)
    best = next(c for c in trainer.checkpoint_callbacks if c.monitor)
    if trainer.is_global_zero:
        Path(best.dirpath, PREVIOUS).unlink(missing_ok=True)  # last.ckpt is whole, and no other comes
    checkpoint = trainer.strategy.checkpoint_io.place_of(Path(best.best_model_path))
    epoch = epochs_done(checkpoint)
    monitor = best.monitor if data.select_on == "val" else best.monitor.replace("val/", "test/")
    log.info("best: epoch %d, %s %.4f", epoch, monitor, best.best_model_score)
    return {
        "epoch": epoch,
        "monitor": monitor,
        "value": float(best.best_model_score),
        "checkpoint": str(checkpoint),
    }
