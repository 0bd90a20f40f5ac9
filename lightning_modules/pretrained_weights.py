"""Initial weights of a network: `auto`, `imagenet`, `null` or the path of a state dict."""

import logging
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.untrusted.description import check_schema
from common.untrusted.tensors import load_tensors
from lightning_modules.networks.surgery import HEADS
from lightning_modules.networks.torchvision_models import TORCHVISION_WEIGHTS

log = logging.getLogger(__name__)

REACHABLE_WITHIN_S = 8.0  # `auto` has to be done after 10 s at most
NEXT_STEPS = (
    "Three ways out: model.weights=null starts from random weights; model.weights=FILE loads a state dict that you "
    "have; or put the file of {url} into {folder} and run again"
)


def load_initial_weights(network: nn.Module, policy: str | None, *, backbone: str | None, download_to: Path) -> str:
    """Fill `network` according to the policy and return the record's description of its initial weights.

    Args:
        policy: `auto`, `imagenet`, None or the path of a state dict.
        backbone: torchvision's name of the whole backbone; None where there are no pretrained weights.
        download_to: folder for downloaded files.

    Raises:
        UserError: `imagenet` is not available, or the file does not fit.
    """
    if policy is None:
        return "random"
    if policy not in ("auto", "imagenet"):
        return _load_file(network, Path(policy))
    if backbone is None:
        if policy == "imagenet":
            raise UserError("model.weights=imagenet: there are no such weights for this network; use null or a path")
        return "random"
    weights = TORCHVISION_WEIGHTS[backbone]
    try:
        state = _imagenet(weights.url, download_to)
    except OSError as error:
        next_steps = NEXT_STEPS.format(url=weights.url, folder=download_to)
        if policy == "imagenet":
            raise UserError(
                f"model.weights=imagenet: the weights of {backbone} are not available: {error}. {next_steps}"
            ) from error
        log.warning(
            "RANDOM WEIGHTS: the ImageNet weights of %s are not available here (%s). Expect a lower accuracy and "
            "slower learning. %s.",
            backbone,
            error,
            next_steps,
        )
        return "random (auto: imagenet not available)"
    _load_fitting(network, state, source=f"imagenet ({backbone})")
    return f"imagenet ({weights})"


def _imagenet(url: str, download_to: Path) -> dict[str, Tensor]:
    """Return torchvision's weights from torch's own cache, the project's, or its download.

    Raises:
        OSError: they cannot be downloaded.
    """
    folders = [Path(torch.hub.get_dir()) / "checkpoints", download_to]
    folder = next((f for f in folders if (f / Path(url).name).is_file()), None)
    if folder is None:
        _check_reachable(url)
        folder = download_to
    return torch.hub.load_state_dict_from_url(
        url, model_dir=str(folder), map_location="cpu", check_hash=True, weights_only=True, progress=False
    )


def _check_reachable(url: str) -> None:
    """Ask the server for the file's headers. In a thread, since a name look-up has no time limit.

    Raises:
        OSError: no answer within REACHABLE_WITHIN_S.
    """
    answer: list[OSError] = []

    def ask():
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACHABLE_WITHIN_S).close()
        except OSError as error:
            answer.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACHABLE_WITHIN_S)
    if thread.is_alive():
        raise OSError(f"no answer from {urllib.request.urlparse(url).hostname} within {REACHABLE_WITHIN_S:.0f} s")
    if answer:
        reason = answer[0].reason if isinstance(answer[0], urllib.error.URLError) else answer[0]
        raise OSError(f"{urllib.request.urlparse(url).hostname}: {reason}")


def _load_file(network: nn.Module, path: Path) -> str:
    """Load a plain state dict or a checkpoint."""
    try:
        state = load_tensors(path, archives_only=False)
    except (UserError, OSError) as error:
        raise UserError(f"model.weights={path}: not a file of weights ({error})") from error
    if isinstance(state, dict) and "state_dict" in state:
        described = state.get("hyper_parameters")
        if isinstance(described, dict) and "network" in described:  # of this project
            check_schema(described, f"model.weights={path}")
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise UserError(f"model.weights={path}: holds no state dict (names with tensors)")
    _load_fitting(network, state, source=str(path))
    return f"file {path.name}"


def _load_fitting(network: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load what fits by name and shape, and log what was loaded and what was not.

    Raises:
        UserError: nothing fits, or a tensor before the head has another shape.
    """
    own = network.state_dict()
    renamed = _rename(state, network)
    fitting = {name: tensor for name, tensor in renamed.items() if name in own and tensor.shape == own[name].shape}
    if not any(name.endswith("weight") for name in fitting):
        raise UserError(
            f"model.weights={source}: fits nothing in this network. It has names such as "
            f"{', '.join(list(state)[:3])}; the network needs {', '.join(list(own)[:3])}"
        )
    for name in own:
        if name in renamed and renamed[name].shape != own[name].shape and name.split(".")[0] not in HEADS:
            raise UserError(
                f"model.weights={source}: is of another network: {name} has the shape {tuple(renamed[name].shape)} there and "
                f"{tuple(own[name].shape)} here; choose the model that it was saved from, or other weights"
            )
    network.load_state_dict(fitting, strict=False)
    if odd := sum(int((~torch.isfinite(own[name])).sum()) for name in fitting):
        log.warning("model.weights=%s: %s numbers in it are NaN or infinite", source, f"{odd:,}")
    random = _count_by_part(set(own) - set(fitting))
    unused = _count_by_part(name for name in renamed if name not in fitting)
    log.log(
        logging.WARNING if "backbone." in random else logging.INFO,
        "weights: %d of %d tensors from %s; random: %s; in the file but not used: %s",
        len(fitting),
        len(own),
        source,
        random,
        unused,
    )


def _rename(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Return the state with the network's own names: without a wrapper's prefix, names of a whole backbone translated."""
    translate = network.weight_names() if hasattr(network, "weight_names") else {}
    own = set(network.state_dict())

    def without(prefix: str) -> dict[str, Tensor]:
        stripped = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        return {translate.get(name, name): tensor for name, tensor in stripped.items()}

    candidates = [without(prefix) for prefix in ("", "module.", "network.", "model.", "backbone.")]
    return max(candidates, key=lambda names: len(own & set(names)))


def _count_by_part(names: Iterable[str]) -> str:
    """Return `backbone.stage2 (3), head (4)`: how many tensors each part has."""
    counts = Counter(
        ".".join(name.split(".")[:2]) if name.startswith("backbone.") else name.split(".")[0] for name in names
    )
    return ", ".join(f"{part} ({count})" for part, count in sorted(counts.items())) or "nothing"


def describe_weights(policy: str | None) -> dict | None:
    """Return what a file of weights says of itself: mean, std, image_size, interpolation; None where it says nothing.

    A checkpoint of this project does. What is wrong with a file, its loading reports.
    """
    if policy in (None, "auto", "imagenet") or not Path(policy).is_file():
        return None
    try:
        state = load_tensors(Path(policy), mmap=True)
    except (UserError, OSError):
        return None
    described = state.get("hyper_parameters") if isinstance(state, dict) else None
    if not isinstance(described, dict) or not {"network", "mean", "std", "image_size"} <= described.keys():
        return None
    return {"interpolation": "bilinear"} | described
