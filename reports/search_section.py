"""The section on a search: its trials in order with the best so far, and which settings mattered."""

from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, MaxNLocator

from common.errors import UserError
from common.search_record import SearchRecord
from common.text import clean, compact_count, finite_number, join_words, plural
from evaluation.describe import NAMES
from reports.run_links import link
from reports.studies import PAGE
from reports.svg import COLORS, INK, PAPER, STYLE, panel, to_svg

ROUGH = 30  # trials below which an importance is a rough guide
MOST_BARS = 12
LARGEST = 1e15  # absolute value of an objective that is still drawn
LONGEST_NAME = 200  # characters of a trial's settings
WORDS = {  # of objectives
    **NAMES, "ece": "ECE", "macs": "MACs", "macs_thop": "MACs by thop", "checkpoint_mib": "checkpoint size (MiB)",
    "latency_p50_ms": "latency (ms)",
}  # fmt: skip


class Value(NamedTuple):
    """One objective of a finished trial."""

    number: int  # of the trial, from 1
    value: float
    name: str  # its settings


def search_section(search: Path, page_folder: Path) -> dict:
    """Return the figures and sentences of a search, or why they cannot be made."""
    try:
        record = SearchRecord.read(search)
    except (UserError, OSError) as error:
        return {"figures": [], "sentences": [f"The search is not shown: {clean(error)}"], "trials": None}
    states = Counter(trial.state for trial in record.trials)
    counts = join_words([f"{n:,} {state}" for state, n in states.items()])
    sentences = [
        f"{plural(len(record.trials), 'trial')}: {counts if len(states) > 1 else f'all {next(iter(states), 0)}'}."
    ]
    figures = []
    for place, (key, maximize) in enumerate(zip(record.objectives, record.maximize, strict=False)):
        found = _values(record, place)
        if found:
            best = (max if maximize else min)(found, key=lambda each: each.value)
            sentences.append(_best(_words(key), best, len(record.trials), maximize))
            pruned = [i for i, trial in enumerate(record.trials, 1) if trial.state == "pruned"]
            figures.append(Markup(_history(_words(key), found, pruned, maximize)))
    shares = {name: share for name, share in record.importance.items() if 0 <= share <= 1}
    if shares:
        figures.append(Markup(_importance(shares)))
        sentences.append(_about_importance(record, next(iter(shares)), states["finished"]))
    elif record.no_importance:
        sentences.append(f"The importance of the settings is not known: {clean(record.no_importance)}.")
    page = search / "trials" / PAGE
    is_own = page.parent.absolute() == page_folder.absolute()
    found = link(page, page_folder, "the page of the trials") if page.is_file() and not is_own else None
    return {"figures": figures, "sentences": sentences, "trials": found}


def _values(record: SearchRecord, place: int) -> list[Value]:
    found = []
    for number, trial in enumerate(record.trials, 1):
        value = finite_number(trial.values[place]) if place < len(trial.values) else None
        if trial.state == "finished" and value is not None and abs(value) <= LARGEST:
            found.append(Value(number, value, clean(trial.name, LONGEST_NAME)))
    return found


def _best(what: str, best: Value, n: int, maximize: bool) -> str:
    """Say what was the best, and in which trial: a late one is a sign that more trials may help."""
    superlative = "highest" if maximize else "lowest"
    late = "; it came late, so more trials may find a better one" if n > 3 and best.number > 0.8 * n else ""
    return (
        f"The {superlative} {what}, {_number(best.value)}, is that of trial {best.number} of {n:,} ({best.name}){late}."
    )


def _about_importance(record: SearchRecord, first: str, n_finished: int) -> str:
    rough = f" With {n_finished} finished trials it is a rough guide." if n_finished < ROUGH else ""
    n = len(record.importance)
    most = f" The figure shows the {MOST_BARS} most important of {n:,} settings." if n > MOST_BARS else ""
    what = "both objectives together" if len(record.objectives) > 1 else _words(record.objectives[0])
    return (
        f"{clean(first, 60)} mattered most for {what} within the ranges searched (importance by Optuna's PED-ANOVA: how much "
        f"each setting by itself separates the best trials from the others).{most}{rough}"
    )


def _history(what: str, found: list[Value], pruned: list[int], maximize: bool) -> str:
    """Draw the value of each trial, and the best so far as a line."""
    with mpl.rc_context(STYLE):
        figure, axes = panel((4.4, 3.2))
        best = list(accumulate((each.value for each in found), max if maximize else min))
        axes.step([each.number for each in found], best, where="post", color=COLORS[0], linewidth=1.4, zorder=2)
        for each, so_far, before in zip(found, best, [None, *best[:-1]], strict=True):
            improves = each.value == so_far != before
            (dot,) = axes.plot(
                each.number, each.value, "o", markersize=6.5, color=COLORS[0] if improves else PAPER, zorder=3,
                markeredgecolor=COLORS[0] if improves else INK, markeredgewidth=1,
            )  # fmt: skip
            dot.set_gid(f"tip{each.number}")
        values = [each.value for each in found]
        if min(values) > 0 and max(values) / min(values) > 20:
            axes.set_yscale("log")
        if max(values) >= 1000:
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: compact_count(value)))
        if pruned:
            low = axes.get_ylim()[0]
            axes.plot(pruned, [low] * len(pruned), "x", color=INK, markersize=5, zorder=3, clip_on=False)
            axes.set_ylim(bottom=low)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
        axes.set(xlabel="trial" + (", x: pruned" if pruned else ""), ylabel=what)
        axes.set_title(f"Best {what} so far")
        tips = {f"tip{each.number}": f"Trial {each.number}: {_number(each.value)}, {each.name}" for each in found}
        return to_svg(figure, f"{what} of each trial, and the best so far", tips)


def _importance(shares: dict[str, float]) -> str:
    """Draw a bar for each setting, the most important first."""
    shown = list(shares.items())[:MOST_BARS]
    with mpl.rc_context(STYLE):
        figure, axes = panel((4.4, max(0.9 + 0.3 * len(shown), 1.6)))
        places = range(len(shown), 0, -1)
        axes.barh(list(places), [share for _, share in shown], height=0.6, color=COLORS[0])
        for place, (_, share) in zip(places, shown, strict=True):
            axes.annotate(f"{share:.0%}", (share, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
        axes.set_yticks(
            list(places), [clean(name.split(".")[-1], 30).encode("ascii", "replace").decode() for name, _ in shown]
        )
        axes.set_xlim(0, 1.12)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}" if value <= 1 else ""))
        axes.grid(axis="y", visible=False)
        axes.set_axisbelow(True)
        axes.set(xlabel="share of the importance")
        axes.set_title("Which settings mattered")
        words = join_words([f"{clean(name, 60)} {share:.0%}" for name, share in shown], MOST_BARS)
        return to_svg(figure, f"Importance of the settings: {words}")


def _words(key: str) -> str:
    """Return an objective's key in words: `validation accuracy`, `MACs`."""
    section, _, name = clean(key, 60).partition(".")
    words = WORDS.get(name, name.replace("_", " "))
    return f"validation {words}" if section == "val" else words


def _number(value: float) -> str:
    return compact_count(value) if value >= 1000 else f"{value:.4g}"
