"""Warn of settings that were typed without an effect, since another setting, the images or the machine decides."""

import logging
from collections.abc import Mapping, Sequence

log = logging.getLogger(__name__)


def warn_of_idle(typed: Sequence[str], idle: Mapping[str, str]) -> None:
    """Warn of each typed setting that has no effect.

    Args:
        typed: arguments of the command line. One that only turns something off (null, false or ~) is not a mistake.
        idle: setting, group or KEY=VALUE without an effect -> what it would need, or what decides instead.
    """
    for text in typed:
        key, _, value = text.lstrip("+").partition("=")
        if text.startswith("~") or value in ("null", "false"):
            continue
        found = (why for name, why in idle.items() if name in (key, text) or key.startswith(f"{name}."))
        if why := next(found, None):
            log.warning("%s: has no effect %s", text, why)
