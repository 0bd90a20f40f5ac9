"""Any timm network, by its name there, with or without a tag. Needs the extra `timm`."""

import difflib
import functools
import importlib
from collections.abc import Iterable
from types import ModuleType

from torch import nn

from lightning_modules.networks.errors import NetworkError
from lightning_modules.networks.meta import build_anywhere

MOST_NEAR = 8  # names in a message


def timm_model(*, name: str, num_classes: int) -> nn.Module:
    """Build the named network with random weights and a last layer for `num_classes`; errors as of `check_timm_name`."""
    check_timm_name(name, key="model.name")
    timm = find_timm("model=timm")
    return build_anywhere(functools.partial(timm.create_model, name, pretrained=False, num_classes=num_classes))


def find_timm(asked_by: str) -> ModuleType:
    """Return the package timm; if it is not installed, raise NetworkError, which begins with `asked_by`."""
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise NetworkError(f'{asked_by}: timm is not installed; install it with pip install -e ".[timm]"') from error


def check_timm_name(name: str, *, key: str, further: Iterable[str] = ()) -> None:
    """Check that timm has a network with this name and, if given, this tag (`mobilenetv3_small_100.lamb_in1k`).

    Args:
        key: the setting.
        further: other names that are allowed.

    Raises:
        NetworkError: timm is not installed or does not have the network. Names with a scheme (hf-hub:, local-dir:) are refused,
            since timm would fetch what a checkpoint names.
    """
    further = list(further)
    if not name:
        raise NetworkError(f"{key}=: has no value; give it the name of a network")
    try:
        timm = find_timm(f"{key}={name}")
    except NetworkError as error:
        if not further:
            raise
        raise NetworkError(
            f'{key}={name}: unknown (timm, which has a thousand more, is not installed: pip install -e ".[timm]")',
            name=name,
            allowed=further,
        ) from error
    architecture, dot, tag = name.partition(".")
    names = timm.list_models()
    if architecture not in names:
        near = difflib.get_close_matches(name.lower(), [*further, *names], n=MOST_NEAR, cutoff=0.6)
        near = near or timm.list_models(f"*{name.split('_')[0].split(':')[-1]}*")[:MOST_NEAR]
        if further:
            allowed = [*further, *(n for n in near if n not in further), "any of timm.list_models()"]
            why = " to timm, to which a name with one dot and no capitals belongs (your own: package.module.function)"
            raise NetworkError(f"{key}={name}: unknown{why if dot else ''}", name=name, allowed=allowed)
        hint = f"similar names: {', '.join(near)}" if near else "timm.list_models() lists its networks"
        raise NetworkError(f"{key}={name}: timm has no network of this name; {hint}")
    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{architecture}.*")]
    if dot and tag not in tags:
        known = f"its tags are {', '.join(tags[:MOST_NEAR])}" if tags else "it has no tags"
        raise NetworkError(f"{key}={name}: timm has no weights of {architecture} with the tag {tag!r}; {known}")


def timm_weights(name: str) -> list[tuple[str, str]]:
    """Return the tags of a network's weights, the default first, each with its hub repository or URL.

    Errors are those of `check_timm_name`.
    """
    check_timm_name(name, key="model.backbone")
    models = find_timm("timm").models
    architecture, dot, _ = name.partition(".")
    names = [name] if dot else find_timm("timm").list_pretrained(f"{architecture}.*")
    configs = [models.get_pretrained_cfg(each) for each in names]
    default = models.get_pretrained_cfg(architecture)
    configs.sort(key=lambda config: default is None or config.tag != default.tag)
    return [(config.tag, config.hf_hub_id or config.url or "an unknown place") for config in configs]
