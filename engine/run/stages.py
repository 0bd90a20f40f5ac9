"""The stages of a run: from the configuration to objects, through training and evaluation, into the record."""

import functools
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from engine.process_tuning import import_torchmetrics

import_torchmetrics()  # before Lightning does

import lightning as L
import torch
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from torch import nn

from callbacks.checkpoint import BestCheckpoint
from callbacks.distillation import check_teacher
from callbacks.freeze_batch_norm import FreezeBatchNorm
from callbacks.graceful_shutdown import GracefulShutdown, ended_by
from callbacks.line_progress import EpochBar, LineProgress
from callbacks.progressive_resizing import ProgressiveResizing
from callbacks.throughput import Throughput
from common.errors import UserError
from common.progress import Progress
from common.run_record import AuditFinding, BestEpoch, DataInfo, Excluded, InputInfo, RunRecord
from common.text import plural, quote_override, shell_join
from datamodules.memory import Memory
from datamodules.sources.catalog import split_of
from datamodules.sources.image_folder import ImageFolder
from engine.config.instantiate import instantiate
from engine.config.trainer_flags import batch_limits, lightning_flags
from engine.config.validate import check_image_size, check_metrics, validate
from engine.processes import Process, check_same_images, cluster_environment, process_of_run, trainer_settings
from engine.run.callback_list import all_callbacks, configured_callbacks, evaluation_callbacks
from engine.run.checkpoint_io import AtomicCheckpointIO, check_best, intact_checkpoint
from engine.run.cost import describe_model
from engine.run.debug import mark_debug
from engine.run.deploy import check_calibration, check_deploy, deploy
from engine.run.evaluate import evaluate_test, evaluate_val, evaluated_checkpoint, finalize, find_callback
from engine.run.idle_in_run import idle_in_run, warn_of_idle_in_run
from engine.run.loggers import Loggers, log_settings, open_loggers
from engine.run.resume import check_unseen, compare_images, evaluated_elsewhere, resume_errors, settings_of_network
from lightning_modules.checkpoint import (
    check_readable,
    check_same_network,
    epochs_done,
    load_best,
    load_classifier,
    read_checkpoint,
    steps_done,
    stopped_in_epoch,
)
from lightning_modules.epoch_end import time_share
from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.network_errors import network_errors
from lightning_modules.networks.registry import head_name, network_arguments
from lightning_modules.networks.surgery import set_frozen
from lightning_modules.preprocessing import Preprocessing, decide_preprocessing
from lightning_modules.pretrained_weights import digest_of_file, load_initial_weights

log = logging.getLogger(__name__)

MEMORY = Memory()  # data that the jobs of a sweep in this process share
ANY = InputInfo(interpolation="bilinear", mean=[0.5] * 3, std=[0.5] * 3)  # where no network sees the images
KNOWN_WARNINGS = (
    ".*does not have many workers.*",  # no workers are fastest with decoded images: conf/datamodule/base
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",  # lightning 2.6 with torch 2.14
    "GPU available but not used.*",  # it was not chosen, or is Apple's: engine/config/trainer_flags.py
    "The `srun` command is available.*",  # Lightning warns wherever SLURM is installed
    "Checkpoint directory .* exists and is not empty.*",  # a run that resumes in its own folder
    # A resumed run that now also saves within an epoch (LastCheckpoint has no state to lose), or no longer stops early
    r"Be aware that when using `ckpt_path`[^\[]*\[(('Timer'|\"(LastCheckpoint|EarlyStopping)\{[^\"]*\")(, )?)+\]",
)


def train_and_test(config: DictConfig, record: RunRecord, callbacks: Sequence[L.Callback] = ()) -> None:
    """Run the stages of `config` (cost, fit, test, in this order) and fill the record; add `callbacks` to those of the run."""
    with Progress("checking the settings", log) as progress:
        _train_and_test(config, record, callbacks, progress)


def _train_and_test(config: DictConfig, record: RunRecord, callbacks: Sequence[L.Callback], progress: Progress) -> None:
    config = validate(config)
    process = process_of_run(config.trainer.strategy, in_sweep=record.in_sweep)
    rank_zero_only.rank = process.rank  # Lightning takes SLURM's rank, even where each task is a separate run
    check_deploy(config.get("deploy"), config.stages)  # runs of earlier versions have no `deploy`
    mark_debug(config, record)
    trains = "fit" in config.stages
    if trains and config.ckpt_path is not None:
        take_checkpoint(config, record)
    L.seed_everything(config.seed, workers=True, verbose=False)
    preprocessing = decide_preprocessing(OmegaConf.to_container(config.model), config.ckpt_path)
    log.info("preprocessing: %s", preprocessing.describe())
    source = source_of(record) or preprocessing.source
    data = build_data(config, preprocessing)
    check_calibration(config.get("deploy"), data.source.streams)
    if record.in_sweep:
        data.memory = MEMORY
    data.limits, data.overfits = batch_limits(config.trainer), bool(config.trainer.get("overfit_batches"))
    data.trains = trains
    check_place(record, data)
    rules = instantiate(config, "decision")
    progress.set("listing the images")
    rules.check(data.catalog.classes)
    check_metrics(config, len(data.catalog.classes))
    progress.set("making the network")
    model = build_model(config, data)
    if config.stages == ["cost"]:
        progress.set("measuring the cost")
        record.data, record.model = describe_data(data, source), describe_model(config, model, record)
        return
    progress.set("loading the weights")
    weights, digest = load_weights(config, record, model) if trains else (None, None)
    progress.set("starting the loggers")  # this may wait for a server
    with open_loggers(config, record) as loggers:
        configured = configured_callbacks(config)
        trainer = build_trainer(config, record, process, loggers, all_callbacks(config, record, configured, callbacks))
        data.trainer = trainer  # Lightning sets it too late: limits count the batches of all processes
        for callback in configured.values() if trains else ():
            if isinstance(callback, ProgressiveResizing):
                callback.check(model.network, data.image_size)
        progress.set("reading the images")
        read_images(config, record, process, data, source)
        on_gpu = trainer.strategy.root_device.type == "cuda"
        idle = idle_in_run(
            config, configured, data, pretrained=model.pretrained, on_gpu=on_gpu, in_sweep=record.in_sweep
        )
        warn_of_idle_in_run(record, idle, trains)
        model.hparams["range"] = data.value_range and list(data.value_range)
        model.hparams["mean"], model.hparams["std"] = data.mean, data.std
        if trains:
            check_readable(model.hparams)
        progress.set("measuring the cost")
        record.model = describe_model(config, model, record)
        progress.set("starting the training")
        log_settings(loggers, config, record)
        log_limits(config, data)
        trained = None
        if trains:
            complete_loss(model, data)
            record.model.weights, record.model.weights_digest = weights, digest
            record.model.teacher_digest = digest_of_file(config.teacher)
            record.save()
            record.best, model, trained = fit(config, record, trainer, model, data)
            trainer.callbacks = evaluation_callbacks(config, trainer.callbacks)
        trainer.strategy.precision_plugin = Precision()  # float32, as in predict.py and exported files
        progress.set("computing the results on val")
        evaluate_val(config, record, trainer, model, data, rules, trained)
        del trained  # with the optimizer's state, it is three times the size of the network
        progress.set("computing the results on test")
        if "test" in config.stages and data.has_test:
            evaluate_test(config, record, trainer, model, data)
        data.warn_of_changed_files()
        if config.get("deploy") is not None and record.writes and not record.latency_comes_later:
            record.save()  # deploy reads the data's root from it
            checkpoint = evaluated_checkpoint(config, record)
            whole_test = record.test is not None and record.test.part is None
            deploy(record, config.deploy, checkpoint, test=whole_test, register=config.register)
        progress.set("writing the results")
        finalize(config, record, trainer, loggers)


def build_data(config: DictConfig, seen: Preprocessing | InputInfo = ANY) -> L.LightningDataModule:
    """Build the data module of a validated configuration with its transforms, for images as `seen`; no image is read."""
    arguments = {key: instantiate(config, key) for key in ("augmentation", "batch_transform")}
    arguments |= {key: getattr(seen, key) for key in ("interpolation", "mean", "std")}
    data = instantiate(config, "datamodule", **arguments)
    data.against_imbalance = _against_imbalance(config)
    return data


def _against_imbalance(config: DictConfig) -> str:
    """Return the settings for a class with few images that are not set, to try; empty if all are."""
    keys = "callbacks.best_checkpoint.monitor", "loss._target_", "datamodule.sampler"
    monitor, loss, sampler = (OmegaConf.select(config, key) for key in keys)
    by_accuracy = monitor == "val/accuracy"
    is_weighted = str(loss).endswith(".WeightedCrossEntropy") or sampler == "balanced"
    settings = ["callbacks.best_checkpoint.monitor=val/balanced_accuracy"] * by_accuracy
    settings += ["loss=weighted_cross_entropy or datamodule.sampler=balanced"] * (not is_weighted)
    return ", and ".join(settings) + "; in smallest.py, metric=balanced_accuracy" * by_accuracy


def source_of(record: RunRecord) -> str | None:
    """Return the source of the preprocessing of a run that resumes in its own folder."""
    data = record.previous and record.previous.data
    return data.preprocessing.source if data and data.preprocessing else None


def check_place(record: RunRecord, data: L.LightningDataModule) -> None:
    """Check that the run's figures cannot become images of the next run.

    Raises:
        UserError: the run's folder is, or would be, a class folder among the images.
    """
    if not isinstance(data.source, ImageFolder) or data.source.root is None or not data.source.root.is_dir():
        return
    root, folder = data.source.root.resolve(), record.folder.path.resolve()
    if not folder.is_relative_to(root):
        return
    top, *_ = (*folder.relative_to(root).parts, "")
    has_splits = any(split_of(each.name) == "train" for each in root.iterdir())
    if not has_splits or split_of(top):  # a folder next to train, val and test is not a class
        key = f"hydra.{'sweep' if record.in_sweep else 'run'}.dir"
        raise UserError(
            f"{key}={folder}: lies among the images of datamodule.root={data.source.root}, so the figures written there would "
            "become images of a class; write elsewhere"
        )


def take_checkpoint(config: DictConfig, record: RunRecord) -> None:
    """Choose the checkpoint to resume from, or the previous one if it is damaged, before anything is written.

    Raises:
        UserError: neither is intact, or the run has finished all its epochs or steps.
    """
    config.ckpt_path = str(intact_checkpoint(Path(config.ckpt_path)))
    check_best(Path(config.ckpt_path))
    if config.trainer.get("fast_dev_run"):
        config.trainer.max_epochs = epochs_done(Path(config.ckpt_path)) + 1
        if OmegaConf.select(config, "scheduler.epochs") == 1:
            config.scheduler.epochs = config.trainer.max_epochs
    done, steps = epochs_done(Path(config.ckpt_path)), steps_done(Path(config.ckpt_path))
    max_steps = config.trainer.get("max_steps")
    if max_steps and steps >= max_steps and not record.resumes:
        raise UserError(
            f"ckpt_path={config.ckpt_path}: has done {steps} of trainer.max_steps={max_steps} optimizer steps; to train "
            f"longer: trainer.max_steps={2 * steps} (and enough trainer.max_epochs); to evaluate it again: stages=[test]"
        )
    finished = done - stopped_in_epoch(Path(config.ckpt_path))
    if done > config.trainer.max_epochs or (finished == config.trainer.max_epochs and not record.resumes):
        raise UserError(
            f"ckpt_path={config.ckpt_path}: has finished {finished} of trainer.max_epochs={config.trainer.max_epochs} "
            f"epochs; to train longer: trainer.max_epochs={done + 10}; to evaluate it again: stages=[test]"
        )


def read_images(
    config: DictConfig, record: RunRecord, process: Process, data: L.LightningDataModule, source: str | None
) -> None:
    """Read the images, which may take minutes; record them, and compare them with those of a checkpoint and earlier runs.

    Raises:
        UserError: images cannot be read or split, or differ from those of another process or of the resumed run.
    """
    if config.ckpt_path is not None:
        described = read_checkpoint(Path(config.ckpt_path))["hyper_parameters"]
        data.keep_range(described["range"], config.ckpt_path)
    data.setup()
    check_same_images(process, data.fingerprint())
    record.data = describe_data(data, source)
    record.check_same_images()
    fingerprints = data.pixel_cache.stats.fingerprints
    key = "model.weights" if config.ckpt_path is None else "ckpt_path"
    if (begins_with := OmegaConf.select(config, key)) is not None and not data.overfits:
        check_unseen(key, str(begins_with), data.catalog, fingerprints)
    compare_images(record, data.catalog, fingerprints)
    if config.ckpt_path is not None and "fit" in config.stages:
        record.evaluated_elsewhere = evaluated_elsewhere(config.ckpt_path, record, data.catalog, fingerprints)
    if record.writes:
        record.folder.write_splits(split_columns(data))


def log_limits(config: DictConfig, data: L.LightningDataModule) -> None:
    """Log how many images of each split a debug run uses, and what to expect where it overfits."""
    if data.overfits:
        log.info(
            "trainer.overfit_batches=%s: trains on the same %s images in every epoch, without augmentation, and validates on "
            "these very images: their accuracy should reach 1",
            config.trainer.overfit_batches, f"{data.n_used('train'):,}",
        )  # fmt: skip
    counts = [
        f"{used:,} of {total:,} {split}" for split in data.limits
        if (used := data.n_used(split)) < (total := data.n_images(split)) and (not data.overfits or split == "test")
    ]  # fmt: skip
    if counts:
        same = "for train the first in each epoch's stream" if data.stream else "the same in every epoch"
        log.info("limited to %s images, %s", ", ".join(counts), same)


def describe_data(data: L.LightningDataModule, source: str | None = None) -> DataInfo:
    """Return the record's `data`, without counts and audit if the images were not read.

    Args:
        source: where interpolation, mean and std come from.
    """
    catalog = data.catalog
    info = DataInfo(
        name=catalog.name,
        root=str(catalog.root),
        classes=catalog.classes,
        select_on=data.select_on,
        license=catalog.license,
        citation=catalog.citation,
        preprocessing=InputInfo(**_inputs(data), source=source),
    )
    if data.pixel_cache is None:
        return info
    info.n_train, info.n_val, info.n_test = map(data.n_images, ("train", "val", "test"))
    info.splits_from = catalog.splits_from
    info.folds, info.fold = data.rules["folds"], data.rules["fold"]
    info.read_s = round(data.read_s, 2)
    info.kept_as = data.pixel_cache.kept_as
    info.range = data.value_range and tuple(data.value_range)
    info.fingerprint = data.fingerprint()
    is_thinned = data.rules["train_fraction"] < 1
    info.fingerprint_full = data.fingerprint(thinned=False) if is_thinned else info.fingerprint
    info.fingerprint_val_test = data.fingerprint("val", "test")
    info.fingerprint_folds = None if info.folds is None else data.fingerprint(thinned=False, of_all_folds=True)
    info.excluded = [Excluded(path=catalog.paths[row], reason=reason) for row, reason in catalog.excluded.items()]
    info.audit = [AuditFinding(kind=f.kind, leak=f.leak, text=f.text, caveat=f.caveat) for f in data.findings]
    return info


def _inputs(data: L.LightningDataModule) -> dict:
    """Return how images become the inputs of the network, as both classifier and record keep it."""
    return {key: getattr(data, key) for key in ("image_size", "fit", "interpolation", "mean", "std")}


def split_columns(data: L.LightningDataModule) -> dict[str, Sequence]:
    """Return the columns of splits.csv; `weight` only where images have weights."""
    catalog = data.catalog
    return {
        "path": catalog.paths,
        "label": [catalog.classes[label] for label in catalog.labels],
        "split": catalog.splits,
        "group": catalog.groups,
        **({"weight": catalog.weights} if catalog.weights is not None else {}),
        **catalog.subsets,
    }


def build_model(config: DictConfig, data: L.LightningDataModule) -> ImageClassifier:
    """Build the classifier to train, with random weights; without training, load the checkpoint's classifier.

    Raises:
        UserError: the checkpoint has another network, or other classes, image size or fit than the data.
    """
    classes = data.catalog.classes
    network = network_arguments(OmegaConf.to_container(config.model))
    if config.ckpt_path is not None and "fit" not in config.stages:
        classifier = load_classifier(Path(config.ckpt_path))
        if classifier.classes != classes:
            raise UserError(
                f"ckpt_path={config.ckpt_path}: has the classes {', '.join(classifier.classes)}, but the data "
                f"has {', '.join(classes)}; use the data that it was trained on"
            )
        trained, given = classifier.hparams, {"fit": data.fit, "image_size": data.image_size}
        same_size = {"image_size": network.get("image_size")}  # another size has its own message, below
        if {**trained["network"], **same_size} != {**network, **same_size}:
            its, here = (
                shell_join(quote_override(key, value) for key, value in settings_of_network(each).items())
                for each in (trained["network"], network)
            )
            raise UserError(
                f"ckpt_path={config.ckpt_path}: belongs to another model: its network: {its}; this command: {here}. Leave "
                "experiment and the settings of model out, or give those of its network"
            )
        for key, name in (("fit", "datamodule.fit"), ("image_size", "model.image_size")):
            if trained[key] != given[key]:
                raise UserError(
                    f"ckpt_path={config.ckpt_path}: was trained with {name}={trained[key]}, not {given[key]}; "
                    f"use {name}={trained[key]}"
                )
        return classifier
    if config.ckpt_path is not None:
        check_same_network(Path(config.ckpt_path), network, classes)
    classifier = ImageClassifier(
        network=network,
        classes=classes,
        **_inputs(data),
        loss=instantiate(config, "loss") if "fit" in config.stages else None,
        optimizer=instantiate(config, "optimizer"),
        scheduler=instantiate(config, "scheduler"),
    )
    check_image_size(config, classifier.network, len(classes))
    if "fit" in config.stages:
        warn_of_narrow_head(network.get("head"), len(classes))
    if config.model.freeze:
        with network_errors():
            set_frozen(classifier.network, True)
        classifier.train()  # callbacks/freeze_backbone.py puts frozen modules into eval mode in each epoch
    return classifier


def warn_of_narrow_head(head: dict | None, k: int) -> None:
    """Warn where a linear layer before the last has fewer than `k` - 1 outputs, too few to separate `k` classes freely."""
    widths = (head or {}).get("hidden_dims") if head_name({"head": head}) is None else None
    if widths and min(widths) < k - 1:
        log.warning(
            "model.head.hidden_dims=%s: %d classes are distinguished by %s, which costs accuracy; without the hidden layer: "
            "model.head.hidden_dims=[] model.head.dropout=[0.2]", widths, k, plural(min(widths), "number"),
        )  # fmt: skip


def complete_loss(model: ImageClassifier, data: L.LightningDataModule) -> None:
    """Give a class-weighted loss the number of training images per class, now that the splits are known, and check the loss.

    Raises:
        UserError: a loss that does not give one value per image, or does not take the mixed labels of a batch transform.
    """
    weighs_classes = isinstance(model.loss, functools.partial)
    if weighs_classes:
        model.loss = model.loss(class_counts=data.class_counts)
    name = f"loss={type(model.loss).__module__}.{type(model.loss).__qualname__}"
    if not isinstance(model.loss, nn.Module):
        raise UserError(f"{name}: is not a torch.nn.Module; derive the class from it")
    if model.loss.__hash__ is None:
        raise UserError(f"{name}: cannot be hashed, which torch requires; use @dataclass(eq=False)")
    if data.sampler == "balanced" and (weighs_classes or getattr(model.loss, "weight", None) is not None):
        log.warning(
            "datamodule.sampler=balanced with loss=%s: rare classes are weighted twice, since they are drawn as often as the "
            "others and each of their images counts more; use datamodule.sampler=shuffle, or loss=cross_entropy",
            type(model.loss).__name__,
        )
    losses = model.loss(torch.zeros(2, len(model.classes), requires_grad=True), torch.tensor([0, 1]))
    if not isinstance(losses, torch.Tensor) or losses.shape != (2,):
        shape = tuple(losses.shape) if isinstance(losses, torch.Tensor) else type(losses).__name__
        raise UserError(f"{name}: gives {shape} for two images; it must give one loss per image: (2,)")
    if not losses.requires_grad:
        raise UserError(f"{name}: its result does not depend on the logits, so nothing would be learned")
    if data.batch_transform is not None:
        shares = torch.full((2, len(model.classes)), 1 / len(model.classes))
        try:
            model.loss(torch.zeros_like(shares), shares)
        except Exception as error:
            raise UserError(
                f"batch_transform with loss={type(model.loss).__name__}: the loss takes no class probabilities (B, K) "
                f"({' '.join(str(error).split())[:200]}); use batch_transform=none, or a loss of conf/loss"
            ) from error


def load_weights(config: DictConfig, record: RunRecord, model: ImageClassifier) -> tuple[str, str | None]:
    """Load the initial weights into the network; return their description and the digest of their file for the record."""
    if config.ckpt_path is not None:
        previous = record.previous and record.previous.model  # set where a run resumes in its own folder
        if previous and previous.weights:
            return previous.weights, previous.weights_digest
        return f"checkpoint {config.ckpt_path}", None
    digest = digest_of_file(config.model.weights)
    description = load_initial_weights(
        model.network,
        config.model.weights,
        arguments=model.hparams["network"],
        classes=model.classes,
        called=config.model.name,
        download_to=Path(config.datamodule.cache) / "weights",
    )
    model.pretrained = not description.startswith("random")
    return description, digest


def build_trainer(
    config: DictConfig, record: RunRecord, process: Process, loggers: Loggers, callbacks: Sequence[L.Callback]
) -> L.Trainer:
    """Build Lightning's trainer for this run's folder with its callbacks; record the device."""
    for package in ("lightning.pytorch", "lightning.fabric"):  # importing them has set INFO
        logging.getLogger(package).setLevel(logging.WARNING)
    for message in KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message)
    torch.utils.deterministic.fill_uninitialized_memory = False  # slow, and for code that reads such memory
    callbacks = [*callbacks]
    shows_progress = any(isinstance(callback, ProgressBar) for callback in callbacks)  # a bar that the user chose
    if sys.stderr.isatty() and not shows_progress and config.trainer.get("enable_progress_bar", True):
        callbacks.append(EpochBar())
        shows_progress = True
    callbacks.append(LineProgress(is_shown=not shows_progress))
    flags = lightning_flags(config.trainer, record.folder) | trainer_settings(process, config.trainer)
    trainer = instantiate(
        OmegaConf.create({"trainer": {"log_every_n_steps": 1, **flags}}),
        "trainer",
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO(), cluster_environment(process)],
        logger=list(loggers.values()) or False,
        default_root_dir=str(record.folder.path),
        enable_progress_bar=shows_progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    device = trainer.strategy.root_device
    about = record.run
    about.device = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    about.processes, about.nodes, about.threads = trainer.world_size, trainer.num_nodes, torch.get_num_threads()
    on_nodes = f" on {about.nodes} nodes" if about.nodes > 1 else ""
    processes = f", processes: {about.processes}{on_nodes}" if about.processes > 1 else ""
    log.info("device: %s%s, threads: %d", about.device, processes, about.threads)
    return trainer


def _how_to_train_longer(config: DictConfig) -> str:
    """Return what to change where early stopping or a timer has ended a checkpoint's training."""
    early = [name for name, each in config.callbacks.items() if each and "EarlyStopping" in str(each.get("_target_"))]
    changes = [f"++callbacks.{name}=null" for name in early]
    changes += ["a longer trainer.max_time"] if config.trainer.get("max_time") else []
    return f"to train longer: {' and '.join(changes) or 'remove that callback'}; to evaluate it again: stages=[test]"


def fit(
    config: DictConfig, record: RunRecord, trainer: L.Trainer, model: ImageClassifier, data: L.LightningDataModule
) -> tuple[BestEpoch, ImageClassifier, dict]:
    """Train or resume; return the record's `best`, the classifier of the best epoch, and the content of best.ckpt.

    Raises:
        UserError: training ended before the first validation.
    """
    if config.ckpt_path is not None:
        where = "in" if stopped_in_epoch(Path(config.ckpt_path)) else "after"
        log.info("resuming %s epoch %d", where, epochs_done(Path(config.ckpt_path)))
        shutdown = find_callback(trainer, GracefulShutdown)
        if not record.resumes:
            shutdown.if_ended = _how_to_train_longer(config)
        else:
            shutdown.has_changed = record.previous.run.config_hash != record.run.config_hash
    if config.teacher is not None:
        check_teacher(config.teacher, record)
    try:
        with resume_errors(config.ckpt_path):
            trainer.fit(model, data, ckpt_path=config.ckpt_path, weights_only=True)
    finally:
        record.has_trained = find_callback(trainer, Throughput).first_step_s is not None
    if trainer.is_global_zero:
        record.folder.previous_checkpoint.unlink(missing_ok=True)  # last.ckpt is whole and final
    best = find_callback(trainer, BestCheckpoint)
    if not best.best_model_path:
        raise UserError(
            f"the training ended before its first validation, so there is no best.ckpt "
            f"({'; '.join(ended_by(trainer)) or 'no epoch ended'}); remove what ended it, or trainer.check_val_every_n_epoch"
        )
    record.batch_norms = next((c.choice for c in trainer.callbacks if isinstance(c, FreezeBatchNorm)), None)
    record.run.ended_by = "; ".join(ended_by(trainer)) or None
    classifier, epoch, content = load_best(Path(best.best_model_path))
    found = BestEpoch(
        epoch=epoch,
        monitor=best.monitor.replace("val/", f"{data.validated_split}/"),
        value=float(best.best_model_score),
        checkpoint=best.best_model_path,
    )
    among, share = "", f"last {1 - best.select_after_fraction:.0%} of the epochs"
    share += " or of the time" * (time_share(trainer) is not None)
    if best.select_after_fraction and best.started_over:
        among = f" (best of the {share})"
    elif best.select_after_fraction:
        among = f" (best of all, since the training ended before the {share})"
    log.info("best: epoch %d, %s %.4f%s", found.epoch, found.monitor, found.value, among)
    if found.monitor == "train/accuracy" and found.value < 1:
        log.warning(
            "the network did not memorize its training images: try more trainer.max_epochs or a larger optimizer.lr, "
            "then look for an error in the loss, labels or network"
        )
    return found, classifier, content
