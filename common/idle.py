"""Warn of settings that were typed without an effect, since another setting, the images or the machine decides.

Which settings: `idle_in_run` of train.py, `idle_in_runs` of smallest.py, `idle_in_verb` of the others.
"""

import logging
from collections.abc import Mapping, Sequence

from common.text import join_words

log = logging.getLogger(__name__)

MOST = 20  # settings in one line


def warn_of_idle(typed: Sequence[str], idle: Mapping[str, str], where: str = "") -> None:
    """Warn of typed settings that have no effect, in one line for each reason.

    Args:
        typed: arguments of the command line. One that only turns something off (null, false or ~) is not a mistake.
        idle: setting, group or KEY=VALUE without an effect -> what it would need, or what decides instead.
        where: ` of experiment=NAME` where they come from a file.
    """
    without = {}
    for text in typed:
        key, value = key_of(text), text.partition("=")[2]
        if text.startswith("~") or value in ("null", "false"):
            continue
        found = (why for name, why in idle.items() if name in (key, text) or key.startswith(f"{name}."))
        if why := next(found, None):
            without.setdefault(why, []).append(text)
    for why, texts in without.items():
        names = join_words(texts, MOST) + where
        log.warning("%s: %s no effect %s", names, "has" if len(texts) == 1 else "have", why)


def warn_of_repeated(command: Sequence[str]) -> None:
    """Warn of a setting that is typed more than once with different values, of which Hydra takes the last.

    Args:
        command: the command as typed.
    """
    typed = [text for text in command if "=" in text and not text.startswith(("-", "~"))]
    last = {key_of(text): text for text in typed}
    for text in dict.fromkeys(typed):
        if text != last[key_of(text)]:
            log.warning("%s: overridden by %s, which comes later", text, last[key_of(text)])


def key_of(text: str) -> str:
    """Return the key of a typed setting."""
    return text.lstrip("+~").partition("=")[0]
