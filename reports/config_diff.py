"""Which settings runs differ in, and their short names."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

from common.run_record import DIGESTS, REPEATS
from common.text import clean
from reports.load_runs import Run

WIDE = {"experiment"}  # a choice that may set anything
OF_MEASURING = {"stages"}  # settings about what is done with a network, not about the network
LONGEST = 48  # characters of a name or value
LONGEST_OF_EQUAL = 240  # characters of values whose first LONGEST do not differ


def settings_key(run: Run, *, of_network: bool = False) -> Hashable:
    """Return a key that is equal for runs that differ in nothing but REPEATS, and in whether their cost was measured.

    Args:
        of_network: also equal for runs that differ in what was done with the network.
    """
    about, ignored = run.record.run, REPEATS | OF_MEASURING if of_network else REPEATS
    settings = {key: value for key, value in about.settings.items() if key not in ignored}
    if isinstance(stages := settings.get("stages"), list):
        settings["stages"] = [stage for stage in stages if stage != "cost"]
    return _text([settings, about.choices])


def changed_settings(runs: Sequence[Run]) -> dict[str, str]:
    """Return the keys that differ between runs, each with its short name: groups first, then settings.

    A setting that follows from a group's choice, such as the learning rate from the optimizer's file, is skipped unless
    the command lines set it to different values.
    """
    known = [run.record.run for run in runs if run.record.run.settings]
    choices = [about.choices for about in known]
    groups = [key for key in _keys(choices) if len({_text(each.get(key)) for each in choices}) > 1]
    settings = [about.settings for about in known]
    typed = _typed([about.overrides for about in known])
    singles = []
    for key in _keys(settings):
        values = [_text(each[key]) if key in each else None for each in settings]
        if key in REPEATS | OF_MEASURING or len(set(values)) < 2:
            continue
        reaching = [group for group in groups if group in WIDE or key.split(".")[0] == group]
        if key in typed or not any(_depends(values, [each.get(group) for each in choices]) for group in reaching):
            singles.append(key)
    return _short([*groups, *singles])


def differences(runs: Sequence[Run]) -> list[str]:
    """Return the short names of settings that differ, and files of weights or a teacher with other content."""
    files = [
        f"the content of the file of {setting}"
        for setting, field in DIGESTS.items()
        if len({getattr(run.model, field) for run in runs} - {None}) > 1
    ]
    return [*changed_settings(runs).values(), *files]


def values_of(runs: Sequence[Run], key: str) -> list[str]:
    """Return a group's choice or a setting of each run as short text; a dash if a run has none.

    Different values stay different: long ones, such as paths, lose the folders that they share.
    """
    values = [_value(run, key) for run in runs]
    whole = [str(value).removesuffix(".0") if isinstance(value, float) else str(value) for value in values]
    short = [f"{value:g}" if isinstance(value, float) else value for value in values]
    shared = os.path.commonprefix([text for text in whole if len(text) > LONGEST]).rfind("/")  # noqa: RUF071 any text
    ends = [f"…{text[shared:]}" if shared > 0 and len(text) > LONGEST else text for text in whole]
    for texts, longest in ((short, LONGEST), (ends, LONGEST), (ends, LONGEST_OF_EQUAL)):
        shown = [clean(text, longest) for text in texts]
        if len(set(shown)) >= len(set(whole)):
            break
    return shown


def _value(run: Run, key: str) -> object:
    about = run.record.run
    table = about.settings if "." in key or key not in about.choices else about.choices
    value = table.get(key, "-")
    if isinstance(value, (dict, list, bool)) or value is None:
        return json.dumps(value, default=str, ensure_ascii=False)
    return value


def _typed(overrides: Sequence[list[str]]) -> set[str]:
    """Return the keys that command lines or sweeps set to different values."""
    values = defaultdict(set)
    for each in overrides:
        for key, value in dict(text.lstrip("+~").partition("=")[::2] for text in each).items():
            values[key].add(value)
    return {key for key, found in values.items() if len(found) > 1}


def _depends(values: list, choices: list) -> bool:
    """Return whether each choice comes with one value."""
    found = defaultdict(set)
    for value, choice in zip(values, choices, strict=True):
        found[_text(choice)].add(value)
    return all(len(each) == 1 for each in found.values())


def _short(keys: list[str]) -> dict[str, str]:
    """Return a short name for each key: its last word, two words if it is `enabled`, the whole key if two would be equal."""
    ends = {key: ".".join(key.split(".")[-2 if key.endswith(".enabled") else -1 :]) for key in keys}
    alike = Counter(ends.values())
    return {key: clean(key if alike[end] > 1 else end, LONGEST) for key, end in ends.items()}


def _keys(tables: Sequence[dict]) -> list[str]:
    return list(dict.fromkeys(key for table in tables for key in table))


def _text(value) -> str:
    return json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
