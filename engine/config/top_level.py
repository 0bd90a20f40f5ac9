"""Check the top level of a run's configuration, where files of the user's own may write anything. Imports no torch."""

import functools
import re

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from common.errors import UserError
from common.text import did_you_mean, override_value, quote_override
from engine.hints import CONF, keys_called, suggest


def check_trainer_group(config: DictConfig) -> None:
    """Raise UserError where a file sets the group `trainer` to a value."""
    if not OmegaConf.is_dict(trainer := config.get("trainer")):
        raise no_file("trainer", trainer)


def no_file(group: str, value: object) -> UserError:
    """Return the error for a group that has a value, or nothing, where a file is to be chosen."""
    return UserError(f"{quote_override(group, value)}: choose a file of conf/{group}: {group}=NAME")


@functools.cache
def _known() -> set[str]:
    """Return the keys at the top level that the project reads."""
    files = OmegaConf.load(CONF / "train.yaml")
    groups = {
        re.sub(r"^override |[/@].*", "", name) for each in files.defaults if OmegaConf.is_dict(each) for name in each
    }
    return (groups | set(files)) - {"recipe", "experiment", "debug", "defaults"}


def check_top_level(config: DictConfig) -> None:
    """Refuse keys that reach no code, such as `max_epochs: 3` in an experiment, unless other settings refer to them.

    Raises:
        UserError: names the key, and what is probably meant.
    """
    known = _known()
    unknown = [key for key in config if key not in known]
    if not unknown:
        return
    texts = [OmegaConf.to_yaml(config), *([OmegaConf.to_yaml(HydraConfig.get())] if HydraConfig.initialized() else [])]
    used = set(re.findall(r"\$\{(\w+)", "".join(texts)))
    for key in unknown:
        if key in used:
            continue
        value = OmegaConf.to_container(config, resolve=False)[key]
        typed = quote_override(str(key), value)
        if (CONF / str(key)).is_dir() and isinstance(value, dict):
            raise UserError(
                f"{key}: its file changes nothing, since it does not begin with the line # @package _global_"
            )
        if "." in str(key):
            above, _, last = key.rpartition(".")
            raise UserError(f"{key}: a file names the group and the setting apart: {above}: {{{last}: VALUE}}")
        if (CONF / str(key)).is_dir():
            raise UserError(
                f"{typed}: chooses no file; in a file, the list `defaults` does that: - override /{key}: NAME"
            )
        meant = keys_called(str(key), OmegaConf.masked_copy(config, [each for each in config if each in known]))
        hint = suggest(meant, override_value(value)) if meant else did_you_mean(str(key), sorted(known))
        raise UserError(f"{typed}: no such setting; {hint}")
