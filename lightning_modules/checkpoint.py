"""Checkpoints as input: read without running code, checked, and turned into a network or a classifier again."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from common.untrusted.description import NEXT, brief, check_decision, check_description, check_network
from common.untrusted.tensors import load_tensors
from lightning_modules.networks.registry import build_network

if TYPE_CHECKING:
    from lightning_modules.image_classifier import ImageClassifier

log = logging.getLogger(__name__)

SELF_DESCRIPTION = ("network", "classes", "image_size", "mean", "std")
NETWORK_PREFIX = "network."  # of the network's tensors in a classifier's state dict
MOST_EPOCHS = 10**7
MOMENTS = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "sum"}


class TrainedNetwork(NamedTuple):
    """A network with its weights, and what its checkpoint says of it."""

    network: nn.Module  # in eval mode; normalized images (B, 3, H, W) -> logits (B, K)
    description: dict  # of SELF_DESCRIPTION
    decision: dict | None  # temperature, threshold, ..., as of evaluation.decision


def read_checkpoint(path: Path) -> dict:
    """The contents of a checkpoint of this project: what it says of itself is such, its weights are tensors.

    Raises:
        ValueError: missing, damaged, not a checkpoint of this project, or one that describes something absurd.
    """
    state = _load(path)
    described = state.get("hyper_parameters", {}) if isinstance(state, dict) else {}
    if not isinstance(described, dict):
        raise ValueError(f"{path}: not a checkpoint of this project (its hyper_parameters are no mapping)")
    missing = [key for key in SELF_DESCRIPTION if key not in described]
    if missing or "state_dict" not in state:
        raise ValueError(
            f"{path}: not a checkpoint of this project (it does not say its {', '.join(missing) or 'weights'}); "
            "for a plain state dict use model.weights=FILE"
        )
    check_description(*(described[key] for key in SELF_DESCRIPTION[1:]), source=str(path))
    check_network(described["network"], str(path))
    check_decision(state.get("decision"), described["classes"], str(path))
    _check_tensors(state["state_dict"], path)
    return state


def epochs_done(path: Path) -> int:
    """How many epochs of training a checkpoint has behind it; reads its description alone, not the weights.

    Raises:
        ValueError: it does not say.
    """
    state = _load(path, mmap=True)
    epoch = state.get("epoch") if isinstance(state, dict) else None
    if type(epoch) is not int or not 0 <= epoch < MOST_EPOCHS:
        raise ValueError(f"{path}: its epoch is {brief(epoch)}, {NEXT}")
    return epoch + 1


def _load(path: Path, mmap: bool = False):
    if not path.is_file():
        raise ValueError(
            f"{path}: no such checkpoint; a run keeps its own in checkpoints/best.ckpt and checkpoints/last.ckpt"
        )
    try:
        return load_tensors(path, mmap=mmap)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{path}: not a checkpoint, or a damaged one ({error}); take best.ckpt or last.ckpt of a run"
        ) from error


def _check_tensors(state_dict, path: Path) -> None:
    """Names with tensors that have their numbers in the file: a large one made of a few numbers would fill the memory."""
    if not isinstance(state_dict, dict) or not all(isinstance(name, str) for name in state_dict):
        raise ValueError(f"{path}: its state_dict is no mapping of names, {NEXT}")
    for name, tensor in state_dict.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise ValueError(f"{path}: its weights {name[:100]} are no plain tensor, {NEXT}")
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise ValueError(f"{path}: its weights {name[:100]} are {tuple(tensor.shape)} of fewer numbers, {NEXT}")
    if (nbytes := sum(tensor.nbytes for tensor in state_dict.values())) > path.stat().st_size:
        raise ValueError(f"{path}: its weights are {nbytes / 2**20:,.0f} MiB in a smaller file, {NEXT}")


def load_network(path: Path) -> TrainedNetwork:
    """The network that a checkpoint describes, with its weights, without Lightning around it.

    Raises:
        ValueError: see `read_checkpoint`; or a network that is not in the list of this project's, or weights that do not
            fit it.
    """
    state = read_checkpoint(path)
    description = {key: state["hyper_parameters"][key] for key in SELF_DESCRIPTION}
    named = _check_fits(state, path)
    network = build_network(num_classes=len(description["classes"]), **description["network"])
    _fill(network, named, path)
    return TrainedNetwork(network.to(memory_format=torch.channels_last).eval(), description, state.get("decision"))


def load_classifier(path: Path) -> "ImageClassifier":
    """The classifier that a checkpoint describes, with its weights, in eval mode.

    Raises:
        ValueError: see `read_checkpoint`; or weights that do not fit the network that it names.
    """
    from lightning_modules.image_classifier import (
        ImageClassifier,  # late: a network alone comes without Lightning, whose import takes seconds
    )

    state = read_checkpoint(path)
    _check_fits(state, path)
    classifier = ImageClassifier(**{key: state["hyper_parameters"][key] for key in SELF_DESCRIPTION})
    _fill(classifier, state["state_dict"], path)
    classifier.decision = state.get("decision")
    return classifier.eval()


def check_same_network(path: Path, network: dict, classes: list[str]) -> None:
    """Whether a run with this network can go on from the checkpoint.

    Raises:
        ValueError: names what differs; or the optimizer's numbers in it are of other weights.
    """
    state = read_checkpoint(path)
    _check_moments(state.get("optimizer_states"), {tensor.shape for tensor in state["state_dict"].values()}, path)
    saved = state["hyper_parameters"]
    for name, here, there in (("network", network, saved["network"]), ("classes", classes, saved["classes"])):
        if here != there:
            raise ValueError(
                f"ckpt_path={path}: is of another model: its {name}: {there}; this run: {here}. "
                "Go on with the settings of its own run, or start anew with model.weights=FILE"
            )


def _check_moments(states, shapes: set[torch.Size], path: Path) -> None:
    """What an optimizer keeps of each weight has the weight's shape; torch finds that out in the next step only."""
    kept = [state.get("state") for state in states if isinstance(state, dict)] if isinstance(states, list) else []
    for of_weight in (each for state in kept if isinstance(state, dict) for each in state.values()):
        for name in MOMENTS & of_weight.keys() if isinstance(of_weight, dict) else ():
            moment = of_weight[name]
            if moment is not None and (not isinstance(moment, Tensor) or moment.shape not in shapes):
                shape = tuple(moment.shape) if isinstance(moment, Tensor) else brief(moment)
                raise ValueError(f"{path}: {name} of its optimizer is {shape}, which is the shape of no weight")


def described(network: dict) -> str:
    """`truncated, backbone shufflenet_v2_x0_5, keep 5`, of a checkpoint's `network`."""
    arguments = dict(network)
    return ", ".join([arguments.pop("network"), *(f"{key} {value}" for key, value in arguments.items())])


def _check_fits(state: dict, path: Path) -> dict[str, Tensor]:
    """The weights by their names in the network that the checkpoint names, which is built without memory to compare.

    Raises:
        ValueError: a network that is not in the list of this project's, or that has other weights.
    """
    described_as = state["hyper_parameters"]["network"]
    try:
        with torch.device("meta"):
            network = build_network(num_classes=len(state["hyper_parameters"]["classes"]), **described_as)
    except Exception as error:  # what the checkpoint says decides which one it is
        raise ValueError(f"{path}: names a network that cannot be built here: {error or repr(error)}") from error
    wanted = network.state_dict()
    named = {name.removeprefix(NETWORK_PREFIX): tensor for name, tensor in state["state_dict"].items()}
    reason = next((f"{name} is missing" for name in wanted if name not in named), None)
    reason = reason or next((f"{name[:100]} is not in it" for name in named if name not in wanted), None)
    for name, tensor in named.items() if not reason else ():
        here, there = wanted[name], tensor
        if here.shape != there.shape or here.is_floating_point() != there.is_floating_point() or there.is_complex():
            reason = f"{name} is {tuple(here.shape)} there and {tuple(there.shape)} in the file, of {there.dtype}"
            break
    if reason:
        raise ValueError(
            f"{path}: the weights do not fit the network that it names ({described(described_as)}): {reason}"
        )
    return named


def _fill(module: nn.Module, state_dict: dict[str, Tensor], path: Path) -> None:
    module.load_state_dict(state_dict, strict=True)
    odd = sum(int((~torch.isfinite(tensor)).sum()) for tensor in state_dict.values())
    if odd:
        log.warning("%s: %s of its weights are NaN or infinite: what it says means nothing", path, f"{odd:,}")
