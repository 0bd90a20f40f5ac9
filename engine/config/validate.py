"""Check a run's configuration before anything is read or trained, with the constructors' signatures as its schema."""

import inspect
import logging
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from traceback import walk_tb

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue
from torch import nn

from common.checks import check_whole_numbers
from common.errors import UserError
from common.run_record import SplitMetrics
from common.targets import resolve_target
from common.text import BACKBONE, OWN_KEYS, did_you_mean, names_own_code, override_value, quote_override
from engine.config.annotations import PLAIN, matches_type, type_name
from engine.config.instantiate import LIBRARIES, OF_SEVERAL, OURS, instantiate, is_about_settings, setting_error
from engine.config.top_level import check_top_level, no_file
from engine.config.trainer_flags import check_trainer
from lightning_modules.checkpoint import read_checkpoint
from lightning_modules.network_errors import network_errors, register_by_name
from lightning_modules.networks.registry import find_network, network_arguments
from lightning_modules.networks.surgery import smallest_image_size
from lightning_modules.networks.truncated import Truncated
from lightning_modules.preprocessing import decide_preprocessing
from lightning_modules.pretrained_weights import check_policy

log = logging.getLogger(__name__)

MIXED = ("16-mixed", "bf16-mixed", "16", "bf16")  # precisions, as Lightning calls them
STAGES = ("cost", "fit", "test")
LARGEST_TRIED = 512  # pixels, in the search for the smallest image size
ACCEPTED: set[str] = set()  # `model` settings of earlier jobs of this process whose network takes its images
NODES = ("datamodule", "augmentation", "loss", "decision", "optimizer", "trainer")
MAY_BE_EMPTY = ("batch_transform", "scheduler")
# Keys whose absence shows what a file of the user's own lacks
OF_OWN_FILES = {
    "model": {
        "freeze": "begin the model's file with defaults: [base/common@_here_]",
        "network": "name what builds it, as network: simple_cnn or network: package.module.Class (a model has no _target_)",
    },
    "datamodule": {
        "_target_": "begin the file of the data with defaults: [base/loader@_here_]",
        "source": "name the class that lists the images below source:, as conf/datamodule/image_folder.yaml does",
    },
}
# Arguments that the run passes itself, which are not settings
GIVEN = {
    "datamodule": ("augmentation", "batch_transform", "interpolation", "mean", "std"),
    "loss": ("class_counts",),
    "optimizer": ("params", "network"),
    "scheduler": ("optimizer", "steps", "max_steps", "time_share"),
}


def validate(config: DictConfig) -> DictConfig:
    """Resolve and check a run's configuration, except for ranges, which the constructors check.

    Returns:
        A configuration for `instantiate`, without interpolations and with `stages` in their order.

    Raises:
        UserError: names key, value and what is allowed.
    """
    check_whole_numbers(OmegaConf.to_container(config))
    if config.ckpt_path is None:  # the settings of a run of an earlier version are not the user's
        check_top_level(config)
    if OmegaConf.select(config, "trainer.fast_dev_run"):  # one epoch, set before a schedule refers to it
        config = OmegaConf.merge(config, {"trainer": {"max_epochs": 1}})
    try:
        for key in ("model", *NODES):
            node = OmegaConf.select(config, key, throw_on_missing=True)
            if not OmegaConf.is_dict(node) or not node:
                given = OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
                if key == "augmentation" and isinstance(given, list):
                    raise UserError(
                        "augmentation: its file holds only a list; put it below transforms:, as "
                        "conf/augmentation/trivial_augment.yaml does"
                    )
                raise no_file(key, given)
            for name, advice in OF_OWN_FILES.get(key, {}).items():
                if name not in node:
                    raise UserError(f"{key}.{name} is missing; {advice}")
        # First, since the image size may be that of a backbone's weights; the user's configuration names it, no checkpoint
        for key, name in _own_parts(config):
            register_by_name([name], key)
        config = _with_image_size(config)  # other settings refer to it
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} has no value; give it one: {error.full_key}=VALUE") from error
    _check_one_size(values)
    for group in OF_SEVERAL:
        values[group] = values.get(group) or {}
        if not isinstance(values[group], dict):
            raise UserError(
                f"{group}={str(values[group])[:60]!r}: choose files of conf/{group}: {group}=NAME or {group}=[A,B]"
            )
        if "_target_" in values[group]:
            raise UserError(
                f"{group}._target_={values[group]['_target_']}: has no name, and needs one since several can "
                "be chosen; write in its file: NAME: {_target_: ..., and its settings}"
            )
    measured = {each.name for each in fields(SplitMetrics)} | {"average_precision"}
    if taken := sorted(measured & set(values["metrics"])):
        raise UserError(f"metrics.{taken[0]}: every run has a metric with this name; choose another name")
    values["stages"] = _stages(values)
    register_by_name(values.get("register") or [], "register")
    _check_run(values)  # first, since other settings refer to these
    values["trainer"] = check_trainer(values["trainer"])
    _check_fused(values)
    _check_schedule(values)
    _check_model(values["model"])
    nodes = {key: values.get(key) for key in (*NODES, *MAY_BE_EMPTY)}
    # Lightning's Trainer does not have it in its signature, which checks the others; check_trainer has checked it
    nodes["trainer"] = {key: value for key, value in values["trainer"].items() if key != "cuda_graphs"}
    nodes |= {f"{group}.{name}": node for group in OF_SEVERAL for name, node in values[group].items()}
    for key, node in nodes.items():
        _complete_partial(key, node)
        if node:
            # a logger without its own folder writes into the run's
            _check_node(key, node, GIVEN.get(key, ()), filled=("save_dir",) if key.startswith("logger.") else ())
    checked = OmegaConf.create(values)
    if "fit" in checked.stages:
        _try_optimizer(checked)
    return checked


def _own_parts(config: DictConfig) -> list[tuple[str, str]]:
    """Return the settings of the model that name the user's own code, and the names."""
    named = [(key, OmegaConf.select(config, key)) for key in OWN_KEYS]
    return [(key, name) for key, name in named if names_own_code(key, name)]


def _with_image_size(config: DictConfig) -> DictConfig:
    """Return a configuration with the image size of the weights or the checkpoint instead of auto."""
    if type(OmegaConf.select(config, "model.image_size")) is int:
        return config
    model = OmegaConf.to_container(config.model, resolve=True, throw_on_missing=True)
    size = decide_preprocessing(model, config.ckpt_path).image_size
    return OmegaConf.merge(config, {"model": {"image_size": size}})


def _check_one_size(values: dict) -> None:
    """Check that the data has the network's image size, which predict and export use."""
    size, given = values["model"]["image_size"], values["datamodule"].get("image_size")
    if given is not None and given != size:
        raise UserError(
            f"datamodule.image_size={given}: must equal the network's size, model.image_size={size}; set that instead: "
            f"model.image_size={given}"
        )


def _stages(values: dict) -> list[str]:
    """Return the chosen stages in their order."""
    stages = values["stages"]
    chosen = stages if isinstance(stages, list) else [stages]
    for stage in chosen:
        if stage not in STAGES:
            raise UserError(
                f"{quote_override('stages', stages)}: {override_value(stage)} is not a stage; "
                f"{did_you_mean(str(stage), STAGES)}"
            )
    if not chosen:
        raise UserError("stages=[]: nothing to do; use some of cost, fit, test")
    ordered = [stage for stage in STAGES if stage in chosen]
    if "test" in chosen and "fit" not in chosen and values["ckpt_path"] is None:
        raise UserError(
            f"{quote_override('stages', ordered)}: without fit there is nothing to test; add "
            "ckpt_path=RUN/checkpoints/best.ckpt"
        )
    return ordered


def _check_run(values: dict) -> None:
    seed, weights, freeze = values.get("seed"), values["model"].get("weights"), values["model"].get("freeze")
    if values.get("overview", "auto") not in (True, False, "auto"):
        raise UserError(f"{quote_override('overview', values['overview'])}: use true, false or auto")
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise UserError(f"{quote_override('seed', seed)}: use a whole number from 0 to {2**32 - 1}")
    if "fit" in values["stages"] and values["ckpt_path"] is None:
        check_policy(weights)
    if "fit" in values["stages"] and (teacher := values.get("teacher")) is not None:
        try:
            read_checkpoint(Path(str(teacher)))
        except UserError as error:
            raise UserError(f"teacher={error}") from error
    if not (freeze is None or isinstance(freeze, bool) or (isinstance(freeze, int) and freeze > 0)):
        raise UserError(
            f"{quote_override('model.freeze', freeze)}: use null, true, or the number of epochs after which to unfreeze"
        )
    if infinite := [name for name, value in values["optimizer"].items() if value in (math.inf, -math.inf)]:
        raise UserError(f"optimizer.{infinite[0]}={values['optimizer'][infinite[0]]}: use a finite number")
    if type(freeze) is int and str(values["trainer"].get("strategy")).startswith("ddp"):
        raise UserError(
            f"model.freeze={freeze} with trainer=ddp: parameters that are unfrozen later would not be averaged over the "
            "processes; use model.freeze=true, or one process"
        )


def _check_fused(values: dict) -> None:
    """Switch a fused optimizer off where gradients are clipped with mixed precision, which Lightning refuses for it."""
    optimizer, trainer = values["optimizer"], values["trainer"]
    mixed = str(trainer.get("precision")) in MIXED
    if not (optimizer.get("fused") and mixed and trainer.get("gradient_clip_val") and "fit" in values["stages"]):
        return
    both = f"trainer.precision={trainer['precision']} with trainer.gradient_clip_val={trainer['gradient_clip_val']}"
    typed = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    if any(each.lstrip("+").startswith("optimizer.fused=") for each in typed):
        raise UserError(f"optimizer.fused=true: a fused optimizer cannot have {both}; use optimizer.fused=false")
    log.info("optimizer.fused=false: a fused optimizer cannot have %s", both)
    optimizer["fused"] = False


def _check_schedule(values: dict) -> None:
    scheduler, trainer = values.get("scheduler"), values["trainer"]
    epochs = scheduler.get("epochs") if isinstance(scheduler, dict) else None
    by_steps = trainer.get("max_steps") or trainer.get("max_time")  # a schedule follows these before the epochs
    if type(epochs) is int and 1 <= epochs < trainer["max_epochs"] and not by_steps and "fit" in values["stages"]:
        raise UserError(
            f"scheduler.epochs={epochs}: ends before trainer.max_epochs={trainer['max_epochs']}, so the learning rate "
            "would be 0 from then on; leave it out, or use as many epochs"
        )


def _check_model(model: dict) -> None:
    """Check the types of the model's settings against its network's signature; the network checks ranges itself."""
    if not isinstance(name := model.get("name"), str):  # as the record has it; a record with another name is not read
        raise UserError(f"{quote_override('model.name', name)}: use a text with a letter, such as model.name=net_1")
    with network_errors():
        arguments = network_arguments(model)
        build = find_network(arguments["network"])
    for name, parameter in inspect.signature(build).parameters.items():
        if name in arguments and not matches_type(arguments[name], parameter.annotation):
            raise UserError(
                f"{quote_override(f'model.{name}', arguments[name])}: expected {type_name(parameter.annotation)}"
            )


def check_metrics(config: DictConfig, k: int) -> None:
    """Check before training, on made-up predictions of `k` classes, that the user's own metrics give a number.

    Raises:
        UserError: a metric gives something else. Errors of the metric itself pass through.
    """
    generator = np.random.default_rng(0)
    labels = np.arange(4 * k) % k
    probabilities = generator.dirichlet(np.ones(k), len(labels))
    for name in config.metrics:
        metric = instantiate(config, f"metrics.{name}")
        try:
            inspect.signature(metric).bind(labels, probabilities)
        except ValueError:  # Python does not know the parameters of a builtin function
            pass
        except TypeError as error:
            raise UserError(
                f"metrics.{name}={config.metrics[name]._target_}: does not take labels (n,) and probabilities (n, K): {error}"
            ) from error
        value = metric(labels, probabilities)
        if not isinstance(value, (int, float, np.integer, np.floating)):
            raise UserError(
                f"metrics.{name}={config.metrics[name]._target_}: gives {str(value)[:60]!r}; it must give a number"
            )


def check_image_size(config: DictConfig, network: nn.Module, k: int) -> None:
    """Check that a network takes images of the configured size, and that a user's own network gives `k` logits.

    Raises:
        UserError: the size does not fit; names the smallest size that does.
    """
    size = config.model.image_size
    if _own_parts(config):
        check_logits(config, network, k)
    elif str(config.model) in ACCEPTED:
        return
    elif smallest_image_size(network, size, start=size) is not None:
        ACCEPTED.add(str(config.model))
    else:
        smallest = smallest_image_size(network, LARGEST_TRIED)
        if smallest and smallest < size:
            raise UserError(
                f"model.image_size={size}: {config.model.name} does not take it; try model.image_size={smallest}, the smallest "
                "that it takes"
            )
        raise UserError(
            f"model.image_size={size} is too small for {config.model.name}; "
            f"the smallest is {smallest or f'above {LARGEST_TRIED}'}"
        )


@torch.no_grad()
def check_logits(config: DictConfig, network: nn.Module, k: int) -> None:
    """Check that a user's own network has weights, and gives logits (N, K) for images (N, 3, S, S), with N = 1 and 2.

    Raises:
        UserError: it does not; names what it gives. Errors of the network itself pass through.
    """
    size, was_training, name = config.model.image_size, network.training, "=".join(_own_parts(config)[0])
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UserError(f"{name}: has no weights to train; add a torch.nn.Parameter, or layers with weights")
    state = network.state_dict()
    if others := [each for each, value in state.items() if not isinstance(value, torch.Tensor)]:
        raise UserError(
            f"{name}: has a state that is not a tensor ({others[0]}), which a checkpoint cannot hold; use buffers instead of "
            "get_extra_state"
        )
    if complex_ones := [each for each, value in state.items() if value.is_complex()]:
        raise UserError(
            f"{name}: has complex weights ({complex_ones[0]}), which a checkpoint cannot hold; use real ones"
        )
    for count, images in ((1, "one image"), (2, "two images")):
        try:
            logits = network.eval()(torch.zeros(count, 3, size, size))
        except Exception as error:
            modules = {frame.f_globals.get("__name__") for frame, _ in walk_tb(error.__traceback__)}
            modules.discard(None)  # of a forward that torch.fx has written
            # Torch layers whose shapes do not fit each other
            if {module.split(".")[0] for module in modules} <= OURS | LIBRARIES:
                name = name if _backbone_takes(network, size) else f"{BACKBONE}={config.model.backbone}"
                raise UserError(
                    f"{name}: does not take an image of {size} x {size}: {' '.join(str(error).split())}"
                ) from error
            raise
        network.train(was_training)
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        if shape != (count, k):
            raise UserError(
                f"{name}: gives {shape} for {images}; it must give logits ({count}, classes): ({count}, {k})"
            )
        if logits.dtype != torch.float32:  # with other types, losses are inexact and exports fail
            raise UserError(f"{name}: gives logits of {logits.dtype}, not torch.float32; end its forward with .float()")
        if (logits >= 0).all() and (logits.sum(1) - 1).abs().max() < 1e-5:
            raise UserError(
                f"{name}: gives probabilities, which add up to 1, not logits; remove its softmax, since the loss has one"
            )


def _backbone_takes(network: nn.Module, size: int) -> bool:
    """Return whether an image of this size passes through the backbone of `model=truncated`; True for other networks."""
    try:
        if isinstance(network, Truncated):
            network.backbone(torch.zeros(1, 3, size, size))
    except Exception:
        return False
    return True


def _try_optimizer(config: DictConfig) -> None:
    """Build an optimizer and scheduler of this project or torch for a tiny network, so that they check their settings."""
    # Layers whose initialization draws no random numbers
    network = nn.Sequential(OrderedDict(body=nn.LayerNorm(1), head=nn.LayerNorm(1)))
    optimizer = _try(config, "optimizer", network=network, params=network.parameters())
    if optimizer is not None:
        _try(config, "scheduler", optimizer=optimizer, steps=1)


def _try(config: DictConfig, key: str, **given):
    node = config.get(key)
    if not node or not str(node._target_).startswith(("torch.", "lightning_modules.")):
        return None
    make = instantiate(config, key)
    wanted = inspect.signature(make).parameters
    try:
        return make(**{name: value for name, value in given.items() if name in wanted})
    except UserError:
        raise
    except Exception as error:
        if is_about_settings(error) or isinstance(error, RuntimeError):
            raise setting_error(key, OmegaConf.to_container(node), error) from error
        raise


def _check_node(key: str, node, given: tuple[str, ...] = (), filled: tuple[str, ...] = ()) -> None:
    """Check a node and its nested nodes against the signatures of their constructors.

    Args:
        given: arguments that the run passes itself, which are not settings.
        filled: arguments that the run passes where they have no value.
    """
    if not isinstance(node, dict):
        raise UserError(f"{key}={str(node)[:60]!r}: expected a _target_ and its settings")
    if node.get("_target_") is None:
        raise UserError(f"{key}._target_ has no value; give it one: the full name of a class or function")
    partial = node.get("_partial_", False)
    if not isinstance(partial, bool):
        raise UserError(f"{key}._partial_={partial!r}: use true or false")
    target = resolve_target(node["_target_"], f"{key}._target_")
    parameters = _parameters(target)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name, value in node.items():
        if name in ("_target_", "_partial_") or (name in filled and name in parameters and value is None):
            continue
        _check_nested(f"{key}.{name}", value)
        if name in given:
            raise UserError(f"{key}.{name}: not a setting, since every run sets it itself; remove it")
        if name not in parameters:
            if open_ended and not str(name).startswith("_"):
                continue
            allowed = set(parameters) - set(given)
            instead = did_you_mean(str(name), allowed) if allowed else f"{target.__name__} has none; remove it"
            if key == "datamodule" and "source" in node:
                instead += f". A setting of its source goes below source: datamodule.source.{name}"
            raise UserError(f"{key}.{name}: no such setting; {instead}")
        nested = isinstance(value, dict) and "_target_" in value
        if not nested and not matches_type(value, parameters[name].annotation):
            expected = type_name(parameters[name].annotation)
            if isinstance(parameters[name].annotation, type) and parameters[name].annotation not in PLAIN:
                expected = f"a _target_ and its settings, which make a {expected}; choose a file of conf/: {key}=NAME"
            raise UserError(f"{quote_override(f'{key}.{name}', value)}: expected {expected}")
        if type(value) is int and parameters[name].annotation is float and node["_target_"].startswith("torchvision."):
            node[name] = float(value)  # MixUp and CutMix pass it to a distribution, which requires a float
    for place, (name, parameter) in enumerate(parameters.items()):
        # A partial gets its first arguments when it is called; an optimizer or a schedule gets one
        comes = partial and parameter.kind is not parameter.KEYWORD_ONLY
        later = name in (*given, *filled) or (comes and (key not in ("optimizer", "scheduler") or place == 0))
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if name not in node and parameter.default is parameter.empty and not later and not variadic:
            if key == "loss" and not inspect.isclass(target):
                raise UserError(
                    f"loss._target_={node['_target_']}: is a function; give the class of a module that is called with logits "
                    f"and labels, such as torch.nn.CrossEntropyLoss, or a function that makes one with loss.{name}=VALUE"
                )
            if key.endswith("]") and not inspect.isclass(target):  # an item of a list, such as a transform
                raise UserError(
                    f"{key}._target_={node['_target_']}: is a function that takes {name}; to have it called with each "
                    f"{name}, add _partial_: true"
                )
            raise UserError(f"{key}.{name} has no value; give it one: {key}.{name}=VALUE")


def _complete_partial(key: str, node) -> None:
    """Add `_partial_` where a class or function is called later, with arguments that only the run knows."""
    if not isinstance(node, dict) or "_target_" not in node:
        return
    if "_partial_" in node:
        if node["_partial_"] is False and key in ("optimizer", "scheduler"):
            raise UserError(f"{key}._partial_=false: must be true, since the run passes further arguments; remove it")
    elif key in ("optimizer", "scheduler"):
        node["_partial_"] = True
    elif key == "loss" or key.startswith("metrics."):
        target = resolve_target(node["_target_"], f"{key}._target_")
        node["_partial_"] = "class_counts" in _parameters(target) or (key != "loss" and not inspect.isclass(target))


def _check_nested(key: str, value) -> None:
    """Check everything below a setting that Hydra would build or resolve."""
    if isinstance(value, dict) and any(str(name).startswith("_") for name in value):
        _check_node(key, value)
    elif isinstance(value, (dict, list)):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            _check_nested(f"{key}.{name}" if isinstance(value, dict) else f"{key}[{name}]", item)
    elif isinstance(value, str) and "${" in value:
        raise UserError(f"{key}={value[:100]!r}: resolves to another interpolation; use a plain text")


def _parameters(target: Callable) -> dict[str, inspect.Parameter]:
    """Return the parameters of a class or function; where Python does not know them, one for any keyword."""
    try:
        return dict(inspect.signature(target, eval_str=True).parameters)
    except NameError:  # an annotation that its library imports only for type checkers
        return dict(inspect.signature(target).parameters)
    except ValueError:  # written in C
        return {"settings": inspect.Parameter("settings", inspect.Parameter.VAR_KEYWORD)}
