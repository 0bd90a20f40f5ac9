"""Checkpoints as input: read without running code, checked, and turned into a classifier again."""

from pathlib import Path
from pickle import UnpicklingError

import torch

from .classifier import Classifier

SELF_DESCRIPTION = ("network", "classes", "image_size", "mean", "std")


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
    """How many epochs of training a checkpoint has behind it; reads its description alone, not the weights."""
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["epoch"] + 1


def load_classifier(path: Path) -> Classifier:
    """The classifier that a checkpoint describes, with its weights, in eval mode.

    Raises:
        ValueError: see `read_checkpoint`; or weights that do not fit the network that it names.
    """
    state = read_checkpoint(path)
    classifier = Classifier(**{key: state["hyper_parameters"][key] for key in SELF_DESCRIPTION})
    try:
        classifier.load_state_dict(state["state_dict"], strict=True)
    except RuntimeError as error:
        raise ValueError(
            f"{path}: the weights do not fit the network that it names "
            f"({described(classifier)}): {str(error).splitlines()[1].strip()}"
        ) from error
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


def described(classifier: Classifier) -> str:
    """`truncated, backbone shufflenet_v2_x0_5, keep 5`."""
    network = dict(classifier.hparams["network"])
    return ", ".join([network.pop("network"), *(f"{key} {value}" for key, value in network.items())])
