"""Read checkpoints: without running code, with checks, and back into a network or a classifier."""

import contextlib
import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.run_folder import EXPORTED
from common.run_record import Decision
from common.text import clean
from common.untrusted.description import NEXT, brief, check_decision, check_description, check_network, check_schema
from common.untrusted.tensors import CHECKSUM, is_safetensors, load_tensors, read_safetensors
from lightning_modules.network_errors import network_errors
from lightning_modules.networks.registry import build_network, is_full_name
from lightning_modules.weight_names import fits, is_plain, load_by_name

if TYPE_CHECKING:
    from lightning_modules.image_classifier import ImageClassifier

log = logging.getLogger(__name__)

SELF_DESCRIPTION = ("network", "classes", "image_size", "mean", "std", "fit", "range", "interpolation")
NETWORK_PREFIX = "network."  # of the network's tensors in a classifier's state dict
LOSS_PREFIX = "loss."  # of the tensors that a user's own loss needs to resume
MOST_EPOCHS = 10**7
MOST_STEPS = 10**12
MOMENTS = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "sum"}


class TrainedNetwork(NamedTuple):
    """Hold a network with its weights and the description in its checkpoint."""

    network: nn.Module  # in eval mode; normalized images (B, 3, H, W) -> logits (B, K)
    description: dict  # of SELF_DESCRIPTION
    decision: Decision | None  # temperature, threshold, ...; see evaluation.decision


def read_checkpoint(path: Path) -> dict:
    """Read a checkpoint of this project and check its description and its weights.

    Raises:
        UserError: the file is missing, damaged, not a checkpoint of this version of the project, or has an absurd description.
    """
    state = _load(path)
    described = state.get("hyper_parameters", {}) if isinstance(state, dict) else {}
    if not isinstance(described, dict):
        raise UserError(f"{path}: not a checkpoint of this project (its hyper_parameters are not a mapping)")
    described.setdefault("fit", "squash")  # checkpoints from before these settings existed lack them
    described.setdefault("range", None)
    described.setdefault("interpolation", "bilinear")
    missing = [key for key in SELF_DESCRIPTION if key not in described]
    if missing or "state_dict" not in state:
        raise UserError(
            f"{path}: not a checkpoint of this project (without {', '.join(missing) or 'weights'}); "
            "for a plain state dict use model.weights=FILE"
        )
    check_schema(described, str(path))
    check_description(*(described[key] for key in SELF_DESCRIPTION[1:]), source=str(path))
    check_network(described["network"], str(path))
    state["decision"] = check_decision(state.get("decision"), described["classes"], str(path))
    _check_tensors(state["state_dict"], path)
    return state


def check_readable(described: dict) -> None:
    """Check before training that `read_checkpoint` accepts this description.

    Raises:
        UserError: a class name, the range of the images or a setting of the network that a checkpoint cannot have.
    """
    try:
        check_description(*(described[key] for key in SELF_DESCRIPTION[1:]), source="this run")
        check_network(described["network"], "this run")
    except UserError as error:
        advice = "set datamodule.range=LOW,HIGH" if "its range" in str(error) else "change it"
        raise UserError(f"{str(error).removesuffix(NEXT)}which a checkpoint cannot have; {advice}") from error


def epochs_done(path: Path) -> int:
    """Return how many epochs a checkpoint was trained for; the weights are not read.

    Raises:
        UserError: the checkpoint has no valid number of epochs.
    """
    return _count(_load(path, mmap=True), "epoch", MOST_EPOCHS, path) + 1


def steps_done(path: Path) -> int:
    """Return how many optimizer steps a checkpoint was trained for, like `epochs_done`."""
    return _count(_load(path, mmap=True), "global_step", MOST_STEPS, path)


def stopped_in_epoch(path: Path) -> bool:
    """Return whether a checkpoint was written in the middle of an epoch, which `epochs_done` counts as done."""
    progress = _load(path, mmap=True)
    for key in ("loops", "fit_loop", "epoch_progress", "current"):
        progress = progress.get(key) if isinstance(progress, dict) else None
    counts = [progress.get(name) if isinstance(progress, dict) else None for name in ("ready", "processed")]
    return all(type(count) is int for count in counts) and counts[1] < counts[0]


def _count(state, key: str, most: int, path: Path) -> int:
    count = state.get(key) if isinstance(state, dict) else None
    if type(count) is not int or not 0 <= count < most:
        raise UserError(f"{path}: its {key} is {brief(count)}, {NEXT}")
    return count


def read_description(path: Path) -> dict | None:
    """Return the unchecked description in a checkpoint or in a safetensors file's header, or None; the weights are not read.

    Raises:
        UserError: the file does not hold weights.
    """
    state = _load(path, mmap=True)
    described = state.get("hyper_parameters") if isinstance(state, dict) else None
    return described if isinstance(described, dict) and described else None


def as_safetensors(checkpoint: dict) -> bytes:
    """Return the network's weights in a checkpoint as a safetensors file, with the description as JSON in its header.

    The names are the network's own (torchvision's or timm's for their networks), so others can load them without this project.
    """
    from safetensors.torch import save  # late, since most commands do not need it

    described = {**checkpoint["hyper_parameters"], "decision": checkpoint.get("decision")}
    weights = {
        # copies, since the library refuses weights that two layers share
        name.removeprefix(NETWORK_PREFIX): tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(NETWORK_PREFIX)
    }
    texts = {name: json.dumps(value) for name, value in described.items() if value is not None}
    return _in_order(save(weights, {"format": "pt"} | texts))


def _in_order(content: bytes) -> bytes:
    """Add a checksum to a safetensors file and sort its texts, whose order is random, so equal weights give equal bytes."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    texts = header["__metadata__"] | {CHECKSUM: hashlib.sha256(content[start:]).hexdigest()}
    header["__metadata__"] = dict(sorted(texts.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[start:]


def _from_safetensors(path: Path, *, tensors: bool) -> dict:
    """Return what `as_safetensors` wrote, in the form of a checkpoint."""
    weights, texts = read_safetensors(path, tensors=tensors)
    described = {}
    for name, text in texts.items():
        with contextlib.suppress(ValueError, RecursionError):  # `format` and texts of other programs are not JSON
            described[name] = json.loads(text)
    decision = described.pop("decision", None)
    named = {NETWORK_PREFIX + name: tensor for name, tensor in weights.items()}
    return {"hyper_parameters": described, "decision": decision, "state_dict": named}


def _load(path: Path, mmap: bool = False):
    if not path.is_file():
        raise UserError(
            f"{path}: no such checkpoint; a run keeps its own in checkpoints/best.ckpt and checkpoints/last.ckpt"
        )
    if path.suffix.lower() in EXPORTED:
        raise UserError(f"{path}: is an exported file; give the checkpoint it was made from, best.ckpt of its run")
    try:
        return _from_safetensors(path, tensors=not mmap) if is_safetensors(path) else load_tensors(path, mmap=mmap)
    except (UserError, OSError) as error:
        raise UserError(
            f"{path}: not a checkpoint, or a damaged one ({error}); use best.ckpt or last.ckpt of a run"
        ) from error


def _check_tensors(state_dict, path: Path) -> None:
    """Refuse weights that are not plain tensors, or that are expanded from few numbers and would fill the memory."""
    if not isinstance(state_dict, dict) or not all(isinstance(name, str) for name in state_dict):
        raise UserError(f"{path}: its state_dict is not a mapping of names, {NEXT}")
    for name, tensor in state_dict.items():
        if not is_plain(tensor):
            raise UserError(f"{path}: its weights {name[:100]} are not a plain tensor, {NEXT}")
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise UserError(f"{path}: its weights {name[:100]} are {tuple(tensor.shape)} from fewer numbers, {NEXT}")


def load_network(path: Path) -> TrainedNetwork:
    """Build the network of a checkpoint with its weights, without importing Lightning.

    Raises:
        UserError: see `read_checkpoint`; or the network is not one of this project, or the weights do not fit it.
    """
    state = read_checkpoint(path)
    description = {key: state["hyper_parameters"][key] for key in SELF_DESCRIPTION}
    named = _check_fits(state, path)
    network = build_network(num_classes=len(description["classes"]), **description["network"])
    _fill(network, named, path)
    return TrainedNetwork(network.to(memory_format=torch.channels_last).eval(), description, state.get("decision"))


def load_classifier(path: Path) -> "ImageClassifier":
    """Build the classifier of a checkpoint with its weights, in eval mode; errors as of `load_network`."""
    return _classifier(read_checkpoint(path), path)


def load_best(path: Path) -> tuple["ImageClassifier", int, dict]:
    """Return the results of `load_classifier`, `epochs_done` and `read_checkpoint` for a checkpoint, reading it once."""
    state = read_checkpoint(path)
    return _classifier(dict(state), path), _count(state, "epoch", MOST_EPOCHS, path) + 1, state


def _classifier(state: dict, path: Path) -> "ImageClassifier":
    from lightning_modules.image_classifier import ImageClassifier  # late: the import of Lightning takes seconds

    _check_fits(state, path)
    classifier = ImageClassifier(**{key: state["hyper_parameters"][key] for key in SELF_DESCRIPTION})
    _fill(classifier, state["state_dict"], path)
    classifier.decision = state.get("decision")
    return classifier.eval()


def check_same_network(path: Path, network: dict, classes: list[str]) -> None:
    """Check that a run with this network can resume from the checkpoint.

    Raises:
        UserError: network or classes differ (names which), or the optimizer's state belongs to other weights.
    """
    state = read_checkpoint(path)
    _check_moments(state.get("optimizer_states"), {tensor.shape for tensor in state["state_dict"].values()}, path)
    saved = state["hyper_parameters"]
    for name, here, there in (("network", network, saved["network"]), ("classes", classes, saved["classes"])):
        if here != there:
            raise UserError(
                f"ckpt_path={path}: belongs to another model: its {name}: {there}; this run: {here}. "
                "Resume with the settings of its own run, or start from its weights with model.weights=FILE"
            )


def _check_moments(states, shapes: set[torch.Size], path: Path) -> None:
    """Check the shapes of an optimizer's moments, which torch would only notice in the next step."""
    kept = [state.get("state") for state in states if isinstance(state, dict)] if isinstance(states, list) else []
    for of_weight in (each for state in kept if isinstance(state, dict) for each in state.values()):
        for name in MOMENTS & of_weight.keys() if isinstance(of_weight, dict) else ():
            moment = of_weight[name]
            if moment is not None and (not isinstance(moment, Tensor) or moment.shape not in shapes):
                shape = tuple(moment.shape) if isinstance(moment, Tensor) else brief(moment)
                raise UserError(f"{path}: {name} of its optimizer is {shape}, but no weight has this shape")


def _describe(network: dict) -> str:
    """Return `truncated, backbone shufflenet_v2_x0_5, keep 5` for a checkpoint's `network`."""
    arguments = dict(network)
    return ", ".join([arguments.pop("network"), *(f"{key} {value}" for key, value in arguments.items())])


def _check_fits(state: dict, path: Path) -> dict[str, Tensor]:
    """Return the weights by their names in the checkpoint's network, which is built without memory for the comparison.

    The tensors of a loss are removed from `state`, since evaluation does not use them.

    Raises:
        UserError: the network is not one of this project, or has other weights.
    """
    described = state["hyper_parameters"]["network"]
    try:
        # A user's own network may compute with its weights when it is built
        own = is_full_name(described.get("network"))
        with network_errors(), contextlib.nullcontext() if own else torch.device("meta"):
            network = build_network(num_classes=len(state["hyper_parameters"]["classes"]), **described)
    except Exception as error:  # the content of the checkpoint decides which one
        raise UserError(f"{path}: its network cannot be built here: {clean(str(error) or repr(error))}") from error
    wanted = network.state_dict()
    state["state_dict"] = {name: t for name, t in state["state_dict"].items() if not name.startswith(LOSS_PREFIX)}
    named = {name.removeprefix(NETWORK_PREFIX): tensor for name, tensor in state["state_dict"].items()}
    reason = next((f"{name} is missing" for name in wanted if name not in named), None)
    reason = reason or next((f"the network has no {name[:100]}" for name in named if name not in wanted), None)
    if not reason and (name := next((name for name in named if not fits(named[name], wanted[name])), None)):
        here, there = wanted[name], named[name]
        reason = f"{name} is {tuple(here.shape)} there, but {tuple(there.shape)} in the file, of {there.dtype}"
    if reason:
        raise UserError(f"{path}: the weights do not fit the network named in it ({_describe(described)}): {reason}")
    # Names that share numbers in the file, but not in the network, could fill the memory
    distinct = {id(own): named[name].nbytes for name, own in network.state_dict(keep_vars=True).items()}
    if (nbytes := sum(distinct.values())) > path.stat().st_size:
        raise UserError(f"{path}: its weights are {nbytes / 2**20:,.0f} MiB in a smaller file, {NEXT}")
    return named


def _fill(module: nn.Module, state_dict: dict[str, Tensor], path: Path) -> None:
    """Load all weights, and warn about those that are not finite."""
    load_by_name(module, state_dict, strict=True)
    odd = sum(int((~torch.isfinite(tensor)).sum()) for tensor in state_dict.values())
    if odd:
        log.warning("%s: %s of its weights are NaN or infinite: its predictions mean nothing", path, f"{odd:,}")
