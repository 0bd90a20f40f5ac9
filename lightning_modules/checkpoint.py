"""Checkpoints as input: read without running code, checked, and turned into a network or a classifier again."""

from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from .networks import build_network

if TYPE_CHECKING:
    from .classifier import Classifier

SELF_DESCRIPTION = ("network", "classes", "image_size", "mean", "std")
NETWORK_PREFIX = "network."  # of the network's tensors in a classifier's state dict


class Trained(NamedTuple):
    """A network with its weights, and what its checkpoint says of it."""

    network: nn.Module  # in eval mode; normalised pictures (B, 3, H, W) -> logits (B, K)
    description: dict  # of SELF_DESCRIPTION
    decision: dict | None  # temperature, threshold, ..., as of reports.decision


def read_checkpoint(path: Path) -> dict:
    """The contents of a checkpoint of this project.

    Raises:
        ValueError: missing, damaged, or not a checkpoint of this project.
    """
    if not path.is_file():
        raise ValueError(
            f"{path}: no such checkpoint; a run keeps its own in checkpoints/best.ckpt and checkpoints/last.ckpt"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise ValueError(
            f"{path}: not a checkpoint, or a damaged one ({str(error).splitlines()[0]}); "
            "take best.ckpt or last.ckpt of a run"
        ) from error
    described = state.get("hyper_parameters", {}) if isinstance(state, dict) else {}
    missing = [key for key in SELF_DESCRIPTION if key not in described]
    if missing or "state_dict" not in state:
        raise ValueError(
            f"{path}: not a checkpoint of this project (it does not say its {', '.join(missing) or 'weights'}); "
            "for a plain state dict use model.weights=FILE"
        )
    return state


def epochs_done(path: Path) -> int:
    """How many whole epochs of training a checkpoint has behind it; reads its description alone, not the weights."""
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]


def load_network(path: Path) -> Trained:
    """The network that a checkpoint describes, with its weights, without Lightning around it.

    Raises:
        ValueError: see `read_checkpoint`; or a network that is not in the list of this project's, or weights that do not
            fit it.
    """
    state = read_checkpoint(path)
    description = {key: state["hyper_parameters"][key] for key in SELF_DESCRIPTION}
    try:
        network = build_network(num_classes=len(description["classes"]), **description["network"])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: names a network that cannot be built here: {error}") from error
    named = {name.removeprefix(NETWORK_PREFIX): tensor for name, tensor in state["state_dict"].items()}
    _fill(network, named, path, description["network"])
    return Trained(network.to(memory_format=torch.channels_last).eval(), description, state.get("decision"))


def load_classifier(path: Path) -> "Classifier":
    """The classifier that a checkpoint describes, with its weights, in eval mode.

    Raises:
        ValueError: see `read_checkpoint`; or weights that do not fit the network that it names.
    """
    from .classifier import Classifier  # late: a network alone comes without Lightning, whose import takes seconds

    state = read_checkpoint(path)
    classifier = Classifier(**{key: state["hyper_parameters"][key] for key in SELF_DESCRIPTION})
    _fill(classifier, state["state_dict"], path, classifier.hparams["network"])
    classifier.decision = state.get("decision")
    return classifier.eval()


def check_same_network(path: Path, network: dict, classes: list[str]) -> None:
    """Whether a run with this network can go on from the checkpoint.

    Raises:
        ValueError: names what differs.
    """
    saved = read_checkpoint(path)["hyper_parameters"]
    for name, here, there in (("network", network, saved["network"]), ("classes", classes, saved["classes"])):
        if here != there:
            raise ValueError(
                f"ckpt_path={path}: is of another model: its {name}: {there}; this run: {here}. "
                "Go on with the settings of its own run, or start anew with model.weights=FILE"
            )


def described(network: dict) -> str:
    """`truncated, backbone shufflenet_v2_x0_5, keep 5`, of a checkpoint's `network`."""
    arguments = dict(network)
    return ", ".join([arguments.pop("network"), *(f"{key} {value}" for key, value in arguments.items())])


def _fill(module: nn.Module, state_dict: dict, path: Path, network: dict) -> None:
    try:
        module.load_state_dict(state_dict, strict=True)
    except RuntimeError as error:
        raise ValueError(
            f"{path}: the weights do not fit the network that it names ({described(network)}): "
            f"{str(error).splitlines()[1].strip()}"
        ) from error
