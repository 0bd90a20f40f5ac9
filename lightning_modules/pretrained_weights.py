"""Load the initial weights of a network: `auto`, `imagenet`, `null`, a file, a folder or a Hugging Face hub repository."""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.errors import UserError
from lightning_modules.networks.registry import build_network, pretrained_name, timm_name
from lightning_modules.weight_names import fits, head_weights, last_layer, load_by_name, rename
from lightning_modules.weight_sources import (
    NoneExistError,
    UnavailableError,
    Weights,
    describe_file,
    describe_repository,
    find_file,
    from_file,
    from_hub,
    from_timm,
    from_torchvision,
    installed_networks,
    is_repository,
)

log = logging.getLogger(__name__)

ALLOWED = "use auto, imagenet, null (random weights), a file of weights, or OWNER/NAME of a repository of the Hugging Face hub"
LONGEST_SHOWN = 300  # characters
RANDOM = "RANDOM WEIGHTS: %s. Expect a lower accuracy"
OF_NETWORK = "set by the network itself"  # the record's description of such weights


def check_policy(policy: str | None) -> None:
    """Raise UserError, before anything is read, unless `model.weights` names something that can exist."""
    if policy in (None, "auto", "imagenet"):
        return
    if not isinstance(policy, str) or not policy.strip():
        raise UserError(f"model.weights={policy!r}: is not a file or a name; {ALLOWED}")
    is_folder = os.path.isdir(policy)  # noqa: PTH112 False for a name that is too long
    if find_file(policy) is None and (is_folder or not is_repository(policy)):
        reason = "a folder without weights" if is_folder else "no such file"
        raise UserError(f"model.weights={policy[:LONGEST_SHOWN]}: {reason}; {ALLOWED}")


def load_initial_weights(
    network: nn.Module,
    policy: str | None,
    *,
    arguments: dict,
    classes: Sequence[str] | None = None,
    called: str = "this network",
    download_to: Path,
) -> str:
    """Load weights into `network` according to the policy; return the record's description of them.

    Random weights always cause a warning.

    Args:
        policy: `auto`, `imagenet`, None, or the name of a file, a folder or a repository.
        arguments: what the network was built from, as in `network_arguments`; torchvision and timm have weights by its names.
        classes: class names of the logits; if the weights are for other classes, the last layer stays random.
        called: name in messages for a network that neither library has.
        download_to: folder for downloaded files.

    Raises:
        UserError: the weights that the policy names are not available or do not fit.
    """
    found = find_initial_weights(policy, arguments=arguments, called=called, download_to=download_to)
    if found.weights is None:
        is_published, k = pretrained_name(arguments) or timm_name(arguments), 2 if classes is None else len(classes)
        if not is_published and sets_its_weights(network, lambda: build_network(**arguments, num_classes=k)):
            log.info("weights: %s, since it has the same ones when it is built again", OF_NETWORK)
            return OF_NETWORK
        log.warning(RANDOM, found.brief or found.reason)
        ways = ["model.weights=imagenet explains how to get them"] if found.brief else []
        ways += [
            f"pretrained without a download: model=truncated model.backbone={each} model.keep=blocks.5.0"
            for each in (installed_networks() if policy == "auto" else [])
        ]
        if ways:
            log.info("  %s", "; ".join(ways))
        return found.description
    key = f"model.weights={policy}" + f" ({found.description})" * (policy in ("auto", "imagenet"))
    _load_fitting(network, found.weights, classes, key)
    return found.description


def sets_its_weights(network: nn.Module, rebuild: Callable[[], nn.Module]) -> bool:
    """Return whether most weights before the head do not depend on the seed, as when the constructor loads them from a file."""
    of_head, same = set(head_weights(network)), weights_of_itself(network, rebuild)
    drawn = {name: weight for name, weight in network.named_parameters() if weight.dim() > 1 and name not in of_head}
    return 2 * sum(drawn[name].numel() for name in drawn if name in same) > sum(map(torch.numel, drawn.values()))


def weights_of_itself(network: nn.Module, rebuild: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """Return the weights and buffers, by name, that do not depend on the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed() + 1)
        again = rebuild().state_dict()
    return {
        name: each for name, each in network.state_dict().items() if name in again and torch.equal(each, again[name])
    }


class InitialWeights(NamedTuple):
    """Hold the weights that a policy asks for."""

    weights: Weights | None  # None: random
    description: str  # for the record
    reason: str = ""  # why they are random
    brief: str = ""  # the same in one line, if `reason` explains how to get them


def find_initial_weights(policy: str | None, *, arguments: dict, called: str, download_to: Path) -> InitialWeights:
    """Return what `load_initial_weights` loads, without logging; from caches and packages, else by download.

    Raises:
        UserError: the weights that the policy names are not available.
    """
    check_policy(policy)
    name, brief = pretrained_name(arguments) or timm_name(arguments) or called, ""
    try:
        weights = _find(policy, arguments, download_to)
    except NoneExistError as error:
        cause, described = error, "none exist"
        reason = f"no pretrained weights exist for {name}; model.weights=FILE loads your own"
    except UnavailableError as error:
        cause, described = error, "imagenet not available"
        named, brief = policy not in ("auto", "imagenet"), f"those of {name} cannot be downloaded ({error.brief})"
        reason = str(error) if named else f"the pretrained weights of {name} are not available here: {error}"
    else:
        if weights is not None:
            return InitialWeights(weights, weights.source)
        reason = "model.weights=null; auto uses pretrained ones if they exist, model.weights=FILE a file"
        return InitialWeights(None, "random", reason)
    if policy != "auto":
        raise UserError(f"model.weights={policy}: {reason}") from cause
    return InitialWeights(None, f"random (auto: {described})", reason, brief)


def digest_of_file(policy: str | None) -> str | None:
    """Return 16 hex digits of the file of weights that a policy names, itself or inside a folder; None if it names none."""
    path = find_file(policy) if isinstance(policy, str) and policy not in ("auto", "imagenet") else None
    if path is None:
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def describe_weights(policy: str | None) -> dict | None:
    """Return the unchecked description that comes with the weights of a file, a folder or a repository; None if there is none.

    In files of this project it is the description of a checkpoint (image_size, mean, std, ...), in timm's it is
    `pretrained_cfg` (input_size, mean, std, interpolation, ...). Weights are not read.

    Raises:
        UserError: there is no such repository. A file that cannot be downloaded or read gives None; loading it fails later.
    """
    if not isinstance(policy, str) or policy in ("auto", "imagenet"):
        return None
    if (path := find_file(policy)) is not None:
        return describe_file(path)
    try:
        return describe_repository(policy) if is_repository(policy) else None
    except UnavailableError:
        return None


def _find(policy: str | None, arguments: dict, download_to: Path) -> Weights | None:
    """Return the weights that a policy asks for; None for random ones."""
    if policy is None:
        return None
    if policy not in ("auto", "imagenet"):
        path = find_file(policy)
        return from_file(path) if path is not None else from_hub(policy)
    if (name := pretrained_name(arguments)) is not None:
        return from_torchvision(name, download_to)
    if (name := timm_name(arguments)) is not None:
        return from_timm(name, download_to)
    raise NoneExistError


def _load_fitting(network: nn.Module, weights: Weights, classes: Sequence[str] | None, key: str) -> None:
    """Load the weights that fit by name and shape, and log what was loaded; `key` names the weights in errors.

    Raises:
        UserError: nothing fits, or a weight before the head has another shape.
    """
    own = network.state_dict()
    renamed = rename(weights.state, network)
    fitting = {name: tensor for name, tensor in renamed.items() if name in own and fits(tensor, own[name])}
    of_head = set(head_weights(network))
    before_head = [name for name in own if name not in of_head] or list(own)
    named = fitting.keys() | (renamed.keys() - of_head)  # one of another shape is named below
    if not any(name.endswith("weight") and name in named for name in before_head):
        raise UserError(
            f"{key}: none of its weights fit this network. It has names such as "
            f"{', '.join(name[:100] for name in list(weights.state)[:3])}; the network needs {', '.join(list(own)[:3])}"
        )
    for name in own:
        if name in renamed and name not in fitting and name not in of_head:
            same_kind = renamed[name].is_floating_point() == own[name].is_floating_point()
            numbers = "" if same_kind else f", and its numbers are {renamed[name].dtype}"
            raise UserError(
                f"{key}: is from another network: {name} has the shape {tuple(renamed[name].shape)} there and "
                f"{tuple(own[name].shape)} here{numbers}; choose the model that it was saved from, or other weights"
            )
    # Leave out whole layers of the head for other classes or features, even if their bias fits
    partly = {_layer(name) for name in own if name in renamed and name not in fitting}
    fitting = {name: tensor for name, tensor in fitting.items() if _layer(name) not in partly}
    _leave_last_layer(network, weights, classes, renamed, fitting)
    load_by_name(network, fitting, strict=False)
    if odd := sum(int((~torch.isfinite(own[name])).sum()) for name in fitting):
        log.warning("%s: %s numbers in it are NaN or infinite", key, f"{odd:,}")
    needed = [name for name in own if name in renamed or not name.endswith("num_batches_tracked")]  # files may lack it
    random = [name for name in needed if name not in fitting]
    log.log(
        logging.INFO if of_head.issuperset(random) else logging.WARNING,
        "weights: %d of %d tensors from %s; random: %s; in the file but not used: %s", len(fitting), len(needed),
        weights.source, _count_by_part(random), _count_by_part(name for name in renamed if name not in fitting),
    )  # fmt: skip


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _leave_last_layer(network, weights: Weights, classes: Sequence[str] | None, renamed: dict, fitting: dict) -> None:
    """Do not load a last layer that is for other classes or features; log that it starts from random weights."""
    last, known = [name for name in last_layer(network) if name in renamed], weights.described.get("classes")
    others = isinstance(known, (list, tuple)) and classes is not None and list(known) != list(classes)
    if not last or (not others and all(name in fitting for name in last)):
        return
    for name in last:
        fitting.pop(name, None)
    there, here = (_sizes(state, last) for state in (renamed, network.state_dict()))
    log.info(
        "the last layer starts from random weights: in %s it is for %s, in this network for %s", weights.source,
        _shorten(known) if others else there, _shorten(classes) if others else here,
    )  # fmt: skip


def _sizes(state: dict, layer: list[str]) -> str:
    """Return `1,000 classes of 512 features` for the layer that computes the logits."""
    classes, *features = max((state[name].shape for name in layer), key=len) or (0,)
    return f"{classes:,} classes" + f" of {features[0]:,} features" * bool(features)


def _shorten(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(str(name)[:100] for name in names[:most]) + ", ..." * (len(names) > most)


def _count_by_part(names: Iterable[str]) -> str:
    """Return the number of tensors of each part: `backbone.stage2 (3), head (4)`."""
    counts = Counter(
        ".".join(name.split(".")[:2]) if name.startswith("backbone.") else name.split(".")[0] for name in names
    )
    return ", ".join(f"{part[:100]} ({count})" for part, count in sorted(counts.items())) or "nothing"
