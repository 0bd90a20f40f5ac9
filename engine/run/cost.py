"""The cost stage: what the network costs, and its latency, measured when no other job of the sweep runs."""

import hashlib
import logging
from dataclasses import asdict
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from common.atomic_io import tolerate_disk_errors, write_text
from common.run_record import Latency, ModelInfo, RunRecord
from engine.config.validate import validate
from lightning_modules.checkpoint import load_classifier
from lightning_modules.image_classifier import ImageClassifier
from lightning_modules.networks.registry import build_network, network_arguments
from lightning_modules.profiling import count_parameters, measure_cost, measure_latencies, summary

log = logging.getLogger(__name__)

MEASURED = {}  # results of this process, shared by the jobs of a sweep: networks of equal structure cost the same


def on_gpu(config: DictConfig) -> bool:
    """Return whether the runs of a configuration compute on a CUDA GPU."""
    return torch.cuda.is_available() and config.trainer.accelerator != "cpu"


def describe_model(config: DictConfig, model: ImageClassifier, record: RunRecord) -> ModelInfo:
    """Return the record's `model`; if cost is a stage of the run, measure and log the cost, and write summary.txt.

    While other jobs of a sweep run, no latency is measured, since their load would distort it.
    """
    if "cost" not in config.stages or not record.writes:
        return ModelInfo(name=config.model.name, parameters=count_parameters(model.network))
    size = model.hparams["image_size"]
    sweep = record.folder.path.parent if record.in_sweep else None
    key = f"cost {sweep} {_structure(model.network)} {size}"
    known = MEASURED.get(key) if sweep else None
    cost, table = known or (measure_cost(model.network, size), summary(model.network, size))
    if sweep:
        MEASURED[key] = cost, table
    info = ModelInfo(name=config.model.name, **cost)
    if info.counted_macs != info.macs:  # the screen and the table would seem to contradict each other
        table += (
            f"\nThe MACs of this table are counted by FlopCounterMode of torch, those on the screen and on pages "
            f"({info.counted_macs:,}) by thop. {info.macs_difference}\n"
        )
    with tolerate_disk_errors(record.folder.summary):
        write_text(record.folder.summary, table)
    latency = "latency: measured at the end of the sweep, when nothing trains"
    if not record.latency_comes_later:
        info.latency = _measure(config, model.network, size, sweep)
        latency = info.latency[0].describe()
    frozen = info.parameters_trainable != info.parameters
    log.info(
        "cost: %s parameters%s, %s MACs for an image of %d x %d, %s",
        f"{info.parameters:,}", f" ({info.parameters_trainable:,} trainable)" if frozen else "",
        f"{info.counted_macs:,}", size, size, latency,
    )  # fmt: skip
    return info


def measure_latency_later(record: RunRecord) -> list[Latency]:
    """Measure the latency that a finished job of a sweep has postponed, on its checkpoint or its rebuilt network.

    Raises:
        UserError: the checkpoint is missing or damaged.
    """
    config = validate(OmegaConf.load(record.folder.config))
    checkpoint, sweep = record.folder.best_checkpoint if record.best else config.ckpt_path, record.folder.path.parent
    if checkpoint is not None:
        classifier = load_classifier(Path(checkpoint))
        return _measure(config, classifier.network, classifier.hparams["image_size"], sweep)
    arguments = network_arguments(OmegaConf.to_container(config.model))
    network = build_network(num_classes=len(record.data.classes), **arguments)
    return _measure(config, network, config.model.image_size, sweep)


def _measure(config: DictConfig, network: nn.Module, image_size: int, sweep: Path | None) -> list[Latency]:
    """Measure the latency of one image and of a training batch, on a GPU if the run may use one.

    Args:
        sweep: folder of the sweep, whose earlier jobs share reliable measurements of networks with the same structure.
    """
    device, batch_size = torch.device("cuda" if on_gpu(config) else "cpu"), config.datamodule.batch_size
    key = f"latency {sweep} {_structure(network)} {image_size} {batch_size} {device} {torch.get_num_threads()}"
    known = MEASURED.get(key) if sweep else None
    found = [Latency(**each) for each in known or measure_latencies(network, image_size, batch_size, device)]
    if sweep and all(each.is_reliable for each in found):
        MEASURED[key] = [asdict(each) for each in found]
    return found


def _structure(network: nn.Module) -> str:
    """Return a text that is equal for networks that differ only in the values of their weights."""
    state = network.state_dict(keep_vars=True).items()
    tensors = [(name, tuple(each.shape), each.dtype, each.requires_grad) for name, each in state]
    settings = [
        {name: value for name, value in vars(each).items() if _is_setting(name, value)} for each in network.modules()
    ]
    return hashlib.blake2b(f"{network} {tensors} {settings}".encode()).hexdigest()


def _is_setting(name: str, value: object) -> bool:
    return (
        not name.startswith("_") and name != "training" and isinstance(value, int | float | str | tuple | list | None)
    )
