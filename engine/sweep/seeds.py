"""The seeds of a sweep: `seeds` of conf/train.yaml as its slowest axis, and one line on its runs and what they can show."""

import math
import re

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, ListConfig, open_dict, read_write

from common.checks import FEWEST_SEEDS, check_good_enough
from common.errors import UserError
from common.text import join_words, plural, quote_override

LARGEST = 2**32  # of a seed, not reached
MOST = 10_000  # seeds


def sweep_overrides(config: DictConfig) -> list[Override]:
    """Return the overrides that Hydra's sweeper combines: those of an experiment file, then those of the command line."""
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    hydra = GlobalHydra.instance()
    parser = OverridesParser.create(hydra.config_loader() if hydra.is_initialized() else None)  # for glob(*)
    return parser.parse_overrides([*params, *config.hydra.overrides.task])


def swept_values(config: DictConfig) -> dict[str, list[str]]:
    """Return the swept values by key, from the command line and an experiment file, as Hydra's sweeper combines them.

    Raises:
        UserError: a key is swept over an interval, or has no values.
    """
    values = {}
    for override in sweep_overrides(config):
        if override.is_interval_sweep():
            raise UserError(
                f"{override.input_line}: an interval has no values to run; give values separated by commas, or "
                "range(START,STOP,STEP); search.py searches in intervals"
            )
        sweeps = override.is_sweep_override()
        found = list(override.sweep_string_iterator()) if sweeps else [override.input_line]
        if not found:
            raise UserError(
                f"{override.input_line}: has no value; a range ends before its second number, and glob(...) takes choices "
                "that exist"
            )
        values[override.key_or_group] = found
    return values


def check_single_run(config: DictConfig) -> None:
    """Refuse settings of a sweep in a single run, before it has a folder.

    Raises:
        UserError: `seeds` has a value, or `good_enough` or a launcher is on the command line.
    """
    seeds, typed = config.get("seeds"), _typed(config)
    if seeds is not None:
        raise UserError(
            f"{quote_override('seeds', seeds)}: a single run has one seed: use seed={config.seed}; for several seeds, add -m, "
            "which makes it a sweep"
        )
    if "good_enough" in typed:
        raise UserError(
            "good_enough: is for the page of a sweep: add -m, or use python report.py runs=DIR good_enough=..."
        )
    launchers = [each for each in config.hydra.overrides.hydra if re.match(r"\+*hydra[/.]launcher", each)]
    if launchers:
        raise UserError(f"{launchers[0]}: a launcher starts the runs of a sweep: add -m, or leave it out")


def complete_sweep(config: DictConfig) -> str:
    """Check the settings that only a sweep has, add its seeds in place, and return one line on it.

    All settings run with the first seed before any runs with the second, so that a sweep that is stopped early has compared
    as many settings as possible.

    Raises:
        UserError: `seeds` or `good_enough` is invalid, one of them or `deploy` is swept, a value is repeated, or both `seed`
            and `seeds` are given.
    """
    check_good_enough(config.good_enough)
    values = swept_values(config)
    for key, instead in (
        ("seeds", "the seeds in brackets: seeds=[1,2]"),
        ("good_enough", "one value; report.py takes others"),
        ("deploy", "one format; export.py exports the trained networks in others"),
    ):
        if len(values.get(key, [])) > 1:
            raise UserError(
                f"{key}={','.join(values[key])}: applies to the whole sweep and cannot be swept; give {instead}"
            )
    for key, given in values.items():
        _check_repeated(key, given)
    seeds, typed = _seeds(config), _typed(config)
    if seeds and "seed" in typed and "seeds" in typed:
        raise UserError(
            f"{typed['seed']} with {typed['seeds']}: give one of them: a list, seeds=[1,2,5], or how many, starting at "
            "the configuration's `seed`, seeds=3"
        )
    chosen = seeds and "seed" not in typed
    if chosen:
        if _measures_costs_only(config):
            del seeds[1:]
        with read_write(config.hydra), open_dict(config.hydra):
            swept = {key: value for key, value in (config.hydra.sweeper.params or {}).items() if key != "seed"}
            config.hydra.sweeper.params = {"seed": ",".join(map(str, seeds)), **swept}
    return _describe(config, bool(chosen))


def _check_repeated(key: str, values: list[str]) -> None:
    """Raise UserError where a swept key has a value twice: both jobs would share a folder or have the same result."""
    parser, seen = OverridesParser.create(), {}
    for text in values if len(values) > 1 else ():
        text = text if text.startswith(f"{key}=") else f"{key}={text}"
        value = repr(parser.parse_override(text).value())
        if value in seen:
            raise UserError(f"{key}={','.join(values)}: {values[seen[value]]} is given twice; give each value once")
        seen[value] = len(seen)


def _describe(config: DictConfig, chosen: bool) -> str:
    """Return one line on the number of runs and what they can show.

    Args:
        chosen: whether the seeds come from `seeds`.
    """
    swept = swept_values(config)
    seeds = [value.rpartition("=")[2] for value in swept.get("seed", [str(config.seed)])]
    folds, jobs = len(swept.get("datamodule.fold", [1])), math.prod(map(len, swept.values()))
    settings = jobs // (len(seeds) * folds)
    parts = [plural(settings, "setting"), *([plural(folds, "fold")] if folds > 1 else [])]
    text = f"Sweep: {plural(jobs, 'run')}"
    if _measures_costs_only(config) and len(seeds) == 1:
        return f"{text}, with one seed, since a network's cost does not depend on it"
    if len(seeds) > 1:
        text += f": {' x '.join([*parts, plural(len(seeds), 'seed')])} ({_range(seeds)})"
        if settings > 1 and len(seeds) < FEWEST_SEEDS:
            return f"{text}; {FEWEST_SEEDS} are needed before the page calls a setting worse"
        fewer = f"; seeds=1 makes it {plural(jobs // len(seeds), 'run')}" if chosen else ""
        return f"{text}, since one seed cannot show that a setting is worse{fewer}" if settings > 1 else text
    if folds > 1:
        return f"{text}: {' x '.join(parts)}"
    if settings == 1:
        return text
    return (
        f"{text}: one seed per setting: the page compares these trained networks, not the settings; "
        f"seeds={FEWEST_SEEDS} compares the settings, with {plural(FEWEST_SEEDS * jobs, 'run')}"
    )


def _seeds(config: DictConfig) -> list[int]:
    """Return the seeds that `seeds` means: a list, or as many as the number, starting at `seed`; none for null."""
    value, first = config.get("seeds"), config.seed
    if value is None:
        return []
    listed = list(value) if isinstance(value, ListConfig) else None
    if listed is None and type(value) is int and 0 < value <= MOST and type(first) is int:
        listed = list(range(first, first + value))
    valid = {seed for seed in listed or () if type(seed) is int and 0 <= seed < LARGEST}
    if not listed or len(valid) < len(listed):
        raise UserError(
            f"{quote_override('seeds', value)}: give how many, e.g. seeds=3 for {first} and the next two, or a list without "
            "repetitions, e.g. seeds=[1,2,5]"
        )
    return listed


def _typed(config: DictConfig) -> dict[str, str]:
    """Return the arguments of the command line by key."""
    parsed = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
    return {override.key_or_group: override.input_line for override in parsed}


def _measures_costs_only(config: DictConfig) -> bool:
    return config.stages in ("cost", ["cost"])


def _range(seeds: list[str]) -> str:
    """Return `48763 to 48765`, or `1, 2 and 5`."""
    numbers = [int(seed) if seed.isdecimal() else None for seed in seeds]
    if len(seeds) > 2 and None not in numbers and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return f"{seeds[0]} to {seeds[-1]}"
    return join_words(seeds, 10)
