"""The page of a search for the smallest network that is good enough, and its section in the model card."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from markupsafe import Markup

from common.atomic_io import write_text
from common.smallest_record import COSTS, Candidate, Measured, SmallestRecord, Trained
from common.table import Cell, Column, Table, escape_markdown
from common.text import SPLIT_NAMES, clean, compact_count, duration, join_words, plural, shell_join
from reports import svg
from reports.columns import file_columns
from reports.page import environment_and_script
from reports.smallest_words import (
    COST_NAMES,
    answer_sentences,
    describe_cost,
    describe_goal,
    describe_measured,
    guess_share,
    metric_name,
    work,
)
from reports.studies import PAGE

SPAN = 0.25  # of the metric: the least that the figure's vertical axis covers, where values reach that far down
MOST_CLASSES = 12  # by name
LONGEST_NAME = 80  # characters
STAGES = {
    "start": "start and reading of images", "screen": "screen",
    "race": "race", "finals": "finals", "proof": "choice and proof", "latency": "latencies",
    "export": "exports",
}  # fmt: skip
ENDED = {"finished": "finished", "pruned": "stopped early", "failed": "failed", "waiting": "not finished"}
ROLES = {"raced": "race", "final": "finals", "reference": "the reference", "chosen": "chosen"}
CARD_HEADING = "How it was chosen"


def write_page(record: SmallestRecord, folder: Path) -> Path:
    """Write its page into the folder of the search."""
    page = folder / PAGE
    write_text(page, make_page(record))
    return page


def make_page(record: SmallestRecord) -> str:
    """Make the page of a search that has an answer."""
    environment, script = environment_and_script()
    sentence, *evidence = answer_sentences(record)
    ranked = _ranked(record)
    numbers = {index: number for number, index in enumerate(ranked, 1)}
    others = _others(record)
    name = clean(record.data.get("name", ""), LONGEST_NAME)
    drawings = [made for key in record.question.cost if (made := _drawing(record, key, numbers))]
    return environment.get_template("smallest_page.html").render(
        title=f"Which is the smallest network that is good enough{f' on {name}' if name else ''}?",
        subtitle=f"{work(record)}.",
        answer=sentence,
        evidence=[line[0].upper() + line[1:] for line in evidence],
        drawings=drawings,
        legend=_legend(record, any(drawing["shows_guess"] for drawing in drawings)),
        front=_front_table(record),
        trained=_trained_table(record, ranked),
        trained_note=_trained_note(record),
        exports=_exports_table(record, ranked),
        exported_as=record.question.deploy,
        others=_others_table(record, others, len(ranked)) if others else None,
        others_title=_others_title(record, others),
        commands=record.answer.commands,
        notes=record.notes,
        facts=_facts(record),
        again=shell_join(record.command),
        **script,
    )


def card_section(record: SmallestRecord) -> str:
    """Return the section of the chosen network's model card, in Markdown."""
    ranked = _ranked(record)
    lines = [f"## {CARD_HEADING}", ""]
    lines += [f"- {escape_markdown(sentence)}" for sentence in answer_sentences(record)]
    lines += [f"- {escape_markdown(f'Asked for: {_question(record)}')}"]
    lines += [f"- {escape_markdown(note)}" for note in record.notes]
    lines += ["", *_trained_table(record, ranked).as_markdown(), "", escape_markdown(_trained_note(record))]
    lines += ["", "```", *(clean(command).replace("`", "'") for command in record.answer.commands), "```"]
    lines += ["", escape_markdown(f"{work(record)}, by {shell_join(record.command)}")]
    return "\n".join(lines) + "\n"


def _ranked(record: SmallestRecord) -> list[int]:
    """Return the candidates that were trained: the chosen one, the reference, then the others from cheap to expensive."""
    first = [record.answer.chosen, record.answer.reference]
    trained = [index for index, each in enumerate(record.candidates) if each.trained is not None]
    return sorted(trained, key=lambda i: (first.index(i) if i in first else len(first), *_by_cost(record, i)))


def _others(record: SmallestRecord) -> list[int]:
    """Return the candidates that were not trained, from cheap to expensive."""
    others = [index for index, each in enumerate(record.candidates) if each.trained is None]
    return sorted(others, key=lambda index: _by_cost(record, index))


def _by_cost(record: SmallestRecord, index: int) -> tuple:
    """Order by the first cost that was asked for; candidates without it come last, by their MACs."""
    costs, key = record.candidates[index].costs, record.question.cost[0]
    return costs.of(key) is None, costs.of(key) or costs.macs, costs.macs, index


def _kind(record: SmallestRecord, index: int) -> str:
    """Return what a trained candidate is."""
    if index == record.answer.chosen:
        return "chosen"
    if index == record.answer.reference:
        return "reference"
    return "final" if record.candidates[index].stage == "final" else "raced"


def _drawing(record: SmallestRecord, key: str, numbers: dict[int, int]) -> dict | None:
    """Draw the candidates over one cost, wide and for a phone, and count what is not drawn."""
    candidates, question = record.candidates, record.question
    marks, no_cost = [], 0
    for index, number in numbers.items():
        each = candidates[index]
        cost, val, kind = each.costs.of(key), each.trained.val, _kind(record, index)
        if cost and val:
            name = clean(each.name.encode("ascii", "replace").decode(), LONGEST_NAME)  # what every font has
            named = f"{name}: {val.value:.3f}" if kind in ("chosen", "reference") else ""
            marks.append(svg.Mark(number, cost, val.value, val.low, val.high, kind, named))
    kinds = {(candidates[i].backbone, candidates[i].image_size): kind for i in numbers
             if (kind := _kind(record, i)) in ("reference", "chosen")}  # fmt: skip
    lines: dict[tuple, list] = {}
    for each in candidates:
        if each.probe is not None and each.excluded is None:
            cost = each.costs.of(key)
            no_cost += not cost
            if cost:
                lines.setdefault((each.backbone, each.image_size), []).append((cost, each.probe.value))
    if not marks and not lines:
        return None
    probes = sorted(((kinds.get(place, ""), points) for place, points in lines.items()), key=lambda line: len(line[0]))
    reference = next((m for m in marks if m.number == numbers[record.answer.reference]), None)
    band = (reference.value - question.good_enough, reference.value) if reference and question.target is None else None
    floor = _floor(marks, [value for points in lines.values() for _, value in points], band, question.target)
    below = sum(value < floor for points in lines.values() for _, value in points)
    below_trained = sum(mark.value < floor for mark in marks)
    guess = guess_share(record)
    guess = guess if guess is not None and guess > floor else None
    drawing = svg.Smallest(
        probes=probes, marks=[mark for mark in marks if mark.value >= floor], band=band, target=question.target,
        guess=guess, floor=floor, x_label=COSTS[key], y_label=f"{metric_name(record)} on validation",
        words=_spoken(record, key, marks, sum(map(len, lines.values()))),
    )  # fmt: skip
    return {
        "title": f"{metric_name(record).capitalize()} and {COST_NAMES[key]}",
        "wide": Markup(svg.smallest(drawing)),  # escaped there
        "narrow": Markup(svg.smallest(drawing, narrow=True)),
        "shows_guess": guess is not None,
        "note": _figure_note(record, key, floor, below, below_trained, no_cost),
    }


def _floor(marks: Sequence[svg.Mark], probes: Sequence[float], band: tuple | None, target: float | None) -> float:
    """Return the lowest value drawn: below all finals with their intervals, and SPAN below the best if values lie there."""
    finals = [mark for mark in marks if mark.kind != "raced"] or list(marks)
    values = [v for m in finals for v in (m.value, m.low) if v is not None]
    values += [v for v in (target, *(band or ())) if v is not None]
    top = max([*probes, *(mark.value for mark in marks), *values])
    lowest = min([*probes, *(mark.value for mark in marks), *values])
    floor = max(lowest, min([*values, top - SPAN]))
    return floor - 0.03 * max(top - floor, 0.01)


def _spoken(record: SmallestRecord, key: str, marks: Sequence[svg.Mark], n_probes: int) -> str:
    """Describe the figure for a screen reader."""
    parts = [
        f"{metric_name(record).capitalize()} on validation over {COST_NAMES[key]} on a logarithmic axis: "
        f"{plural(n_probes, 'probe')} and {plural(len(marks), 'trained network')}"
    ]
    for mark in sorted(marks, key=lambda each: each.number):
        if mark.kind in ("chosen", "reference"):
            kind = "chosen" if mark.kind == "chosen" else "the most accurate one"
            parts.append(f"{kind}: {mark.name} with {COST_NAMES[key]} {describe_cost(key, mark.cost)}")
    if record.question.target is not None:
        parts.append(f"the target is {record.question.target:g}")
    elif any(mark.kind in ("chosen", "reference") for mark in marks):
        parts.append(f"a band reaches {record.question.good_enough:g} below the most accurate one")
    return "; ".join(parts) + ". The table below has the numbers."


def _figure_note(record: SmallestRecord, key: str, floor: float, below: int, below_trained: int, no_cost: int) -> str:
    """Say which images the values were measured on, and count what is not drawn."""
    candidates = record.candidates
    images = "All values are of validation images"
    if folds := record.data.get("folds"):
        once = f"predict each image of train and validation once, in {folds} folds"
        finals = [
            each.trained.val.n for each in candidates if each.stage == "final" and each.trained and each.trained.val
        ]
        n = sum(record.data.get(name) or 0 for name in ("n_train", "n_val"))
        images = f"Probes and finals {once}; the race uses one fold"
        if any((measured or n) < n for measured in finals):  # the budget did not allow all folds
            images = f"Probes {once}; the race uses one fold, and the table says how many images the finals use"
    left_out = [
        (sum(each.excluded is not None for each in candidates), "excluded"),
        (sum(each.excluded is None and each.probe is None and each.trained is None for each in candidates), "not screened"),
        (no_cost, f"without a measured {COST_NAMES[key]}"),
        (below, f"with a probe below {floor:.2f}"),
        (below_trained, f"trained with a value below {floor:.2f}"),
    ]  # fmt: skip
    counts = [f"{n:,} {what}" for n, what in left_out if n]
    not_drawn = f" Not drawn: {join_words(counts)}." if counts else ""
    return f"{images}; intervals are 95%.{not_drawn}"


def _legend(record: SmallestRecord, shows_guess: bool) -> list[dict]:
    """Return a symbol and its words for each kind of mark in the figure."""
    ring = '<circle cx="7" cy="7" r="5.5" fill="{}" stroke="{}"/>'
    square = '<rect x="2" y="2" width="10" height="10" fill="currentColor"/>'
    kinds = {_kind(record, i) for i, each in enumerate(record.candidates) if each.trained and each.trained.val}
    entries = []
    if any(each.probe for each in record.candidates):
        entries.append(("line", '<path d="M2 11 L12 6 L22 4" fill="none" stroke="var(--grid)" opacity=".6"/>'
                        '<g fill="var(--grid)"><circle cx="2" cy="11" r="2"/><circle cx="12" cy="6" r="2"/>'
                        '<circle cx="22" cy="4" r="2"/></g>',
                        "probes of a backbone at one image size, from cut to cut (not fine-tuned)"))  # fmt: skip
    for kind, shape, words in (
        ("raced", ring.format("none", "currentColor"), "trained in the race, its number in the table"),
        ("final", ring.format("currentColor", "currentColor"), "in the finals"),
        ("reference", square, "the reference, the most accurate in the race"),
        ("chosen", ring.format("var(--blue)", "var(--blue)"), "chosen"),
    ):
        if kind in kinds:
            entries.append(("mark", shape, words))
    if record.question.target is not None:
        line = '<path d="M0 7 H24" stroke="var(--blue)" stroke-width="2" stroke-dasharray="6 3"/>'
        entries.append(("line", line, f"the target, {record.question.target:g}"))
    else:
        band = '<rect y="2" width="24" height="10" fill="var(--blue)" opacity=".2"/><path d="M0 2 H24" stroke="var(--blue)"/>'
        entries.append(("line", band, f"the margin, {record.question.good_enough:g} below the reference"))
    if shows_guess:
        line = '<path d="M0 7 H24" stroke="var(--grid)" stroke-width="1.5" stroke-dasharray="2 2"/>'
        entries.append(("line", line, f"always the largest class, {guess_share(record):.3f}"))
    return [{"kind": kind, "shape": Markup(shape), "words": words} for kind, shape, words in entries]


def _cost_columns(keys: Iterable[str] = COSTS) -> list[Column]:
    return [Column(COST_NAMES[key], lambda each, key=key: _cost_cell(each, key)) for key in keys]


def _cost_cell(candidate: Candidate, key: str) -> Cell:
    value = candidate.costs.of(key)
    flagged = key == "latency_ms" and candidate.costs.latency and candidate.costs.latency.flag
    return Cell(describe_cost(key, value), value, "unreliable" if flagged else "")


def _measured_cell(found: Measured | None) -> Cell:
    if found is None:
        return Cell("-", None)
    value, _, detail = describe_measured(found).partition(" ")
    return Cell(value, found.value, detail.strip("()"))


def _network_columns(record: SmallestRecord, indices: Sequence[int], first: int = 1) -> list[Column]:
    """Make the columns that name a network and, for the candidates at `indices`, their numbers from `first` on and roles."""
    numbers = {id(record.candidates[index]): number for number, index in enumerate(indices, first)}
    roles = {id(record.candidates[i]): ROLES[_kind(record, i)] for i in indices if record.candidates[i].trained}
    number = Column("#", lambda each: Cell(str(numbers[id(each)]), numbers[id(each)]))
    return [
        *([number] if numbers else []),
        Column("network", lambda each: Cell(clean(each.network), each.network, roles.get(id(each), "")), is_text=True),
        Column("px", lambda each: Cell(str(each.image_size), each.image_size)),
    ]


def _trained_table(record: SmallestRecord, ranked: list[int]) -> Table:
    """Make the table of the trained networks, in the order of their numbers."""
    return Table.filled(
        [
            *_network_columns(record, ranked),
            Column("probe", lambda each: _measured_cell(each.probe)),
            Column("validation", lambda each: _measured_cell(each.trained.val)),
            Column("test", lambda each: _measured_cell(each.trained.test)),
            Column(
                "ended", lambda each: Cell(*[ENDED[each.trained.ended]] * 2, _how_it_ended(each.trained)), is_text=True
            ),
            *_cost_columns(),
        ],
        [record.candidates[index] for index in ranked],
    )


def _exports_table(record: SmallestRecord, ranked: list[int]) -> Table | None:
    """Make the table of the exported finalists, with their numbers in the table of trained networks."""
    candidates = [record.candidates[index] for index in ranked if record.candidates[index].deployed]
    if not candidates:
        return None
    columns = [
        *_network_columns(record, ranked),
        *file_columns(lambda each: [each.deployed]),
        Column("called differently", _called_differently),
        Column("latency p50, with preprocessing", _exported_latency),
        Column("file", _exported_file, is_text=True),
    ]
    return Table.filled(columns, candidates)


def _called_differently(candidate: Candidate) -> Cell:
    val = candidate.deployed.val
    return Cell(f"{val.changed:,} of {val.n:,}", val.changed) if val else Cell("-", None)


def _exported_latency(candidate: Candidate) -> Cell:
    found = candidate.deployed.latency
    if found is None:
        return Cell("-", None)
    return Cell(
        describe_cost("latency_ms", found.latency_p50_ms), found.latency_p50_ms, "unreliable" if found.flag else ""
    )


def _exported_file(candidate: Candidate) -> Cell:
    found = candidate.deployed
    return Cell(*[clean(f"no file: {found.error}" if found.error else found.file or "-")] * 2)


def _how_it_ended(trained: Trained) -> str:
    epochs = f" of {plural(trained.epochs, 'epoch')}" if trained.epochs else ""
    runs = plural(len(trained.runs), "run") + epochs
    return f"{clean(trained.reason)}; {runs}" if trained.reason else runs


def _weights(candidate: Candidate) -> str:
    return clean(candidate.weights) if candidate.pretrained else "random"


def _others_table(record: SmallestRecord, others: list[int], n_trained: int) -> Table:
    """Make the table of the networks that were not trained; their numbers continue those of the trained ones."""
    return Table.filled(
        [
            *_network_columns(record, others, n_trained + 1),
            Column("probe", lambda each: _measured_cell(each.probe)),
            *_cost_columns(),
            Column("how far it got", lambda each: Cell(*[_how_far(each)] * 2), is_text=True),
            Column("weights", lambda each: Cell(*[_weights(each)] * 2), is_text=True),
        ],
        [record.candidates[index] for index in others],
    )


def _how_far(candidate: Candidate) -> str:
    if candidate.excluded is not None:
        return f"excluded: {clean(candidate.excluded)}"
    return "not screened" if candidate.probe is None else "screened, not raced"


def _others_title(record: SmallestRecord, others: list[int]) -> str:
    which = "other network" if len(others) < len(record.candidates) else "network"
    return f"The {plural(len(others), which)}"


def _front_table(record: SmallestRecord) -> Table | None:
    """Make the table of the networks that no other one of at least their accuracy beats in the costs that were asked for."""
    if len(record.question.cost) < 2 or not record.front:
        return None
    candidates = [record.candidates[index] for index in record.front]
    return Table.filled(
        [
            *_network_columns(record, []),
            *_cost_columns(record.question.cost),
            Column("validation", lambda each: _measured_cell(each.trained and each.trained.val)),
            Column("test", lambda each: _measured_cell(each.trained and each.trained.test)),
            Column("probe", lambda each: _measured_cell(each.probe)),
        ],
        candidates,
    )


def _trained_note(record: SmallestRecord) -> str:
    """Explain the table of the trained networks."""
    answer, proof = record.answer, record.answer.test
    texts = [
        f"{metric_name(record).capitalize()} with its 95% interval. Validation also chose epochs and networks, so it flatters."
    ]
    evaluated = [number for number, each in enumerate(_ranked(record), 1) if record.candidates[each].trained.test]
    if evaluated:
        texts.append("The test images were evaluated once, at the end, for the chosen network and the reference only.")
    answered = {answer.chosen, answer.reference}  # the first numbers
    if earlier := [number for number in evaluated if number > len(answered)]:
        which = join_words([f"#{number}" for number in earlier])
        texts.append(f"Earlier answers in this folder evaluated them for {which}; that played no part in this choice.")
    if any(each.frozen for each in record.candidates):
        texts.append(
            "In a frozen network only the head was trained, because the race's budget left no time to fine-tune the backbone."
        )
    if any(each.probe for each in record.candidates):
        texts.append("A probe is a logistic regression on the features of the backbone without fine-tuning.")
    texts.append("Costs are for one image.")
    if proof and proof.level < 0.05:
        why = (
            "divided by the number of candidates that could have been chosen, because seeds that are lucky on validation are "
            "as lucky on test"
        )
        if answer.n_finalists + (record.question.target is not None) == 1:
            why = "halved, because the trained networks, which are tested as well, could have given the answer"
        texts.append(f"The bound on settings holds at {100 * (1 - proof.level):.4g}%: 5% is {why}.")
    return " ".join(texts)


def _question(record: SmallestRecord) -> str:
    question = record.question
    given = {key: value for key, value in question.limits.items() if value is not None}
    limits = [f"{COST_NAMES[key]} up to {describe_cost(key, value)}" for key, value in given.items()]
    costs = join_words([COST_NAMES[key] for key in question.cost])
    return "; ".join([f"the smallest by {costs} with {describe_goal(record)}", *limits])


def _facts(record: SmallestRecord) -> list[tuple[str, str]]:
    """Return names and values: the question, data, weights, seeds, machine and times."""
    data, question, machine = record.data, record.question, record.machine
    facts = [("asked for", _question(record))]
    counts = [f"{data[f'n_{split}']:,} {split}" for split in ("train", "val", "test")]
    about = [clean(data["name"], LONGEST_NAME), f"{join_words(counts)} images"]
    if folds := data.get("folds"):
        about.append(f"finals in {folds} folds of train and val")
    if groups := data.get("n_groups"):
        about.append(f"{plural(groups, 'group')} of images, which intervals take into account")
    facts.append(("data", "; ".join(filter(None, about))))
    facts.append(("classes", join_words([clean(name, LONGEST_NAME) for name in data["classes"]], MOST_CLASSES)))
    guesses = {split: guess_share(record, split) for split in ("val", "test") if data.get(f"n_{split}") != 0}
    if shares := [f"{guess:.3f} on {SPLIT_NAMES[split]}" for split, guess in guesses.items() if guess is not None]:
        facts.append(("guessing", f"always the largest class: {join_words(shares)}"))
    by_weights: dict[str, dict[str, None]] = {}  # the backbones in their order, each once
    for each in record.candidates:
        by_weights.setdefault(_weights(each), {})[each.backbone] = None
    for weights, names in sorted(by_weights.items(), key=lambda item: item[0] == "random"):
        label = "random weights" if weights == "random" else "pretrained"
        facts.append((label, clean(join_words(list(names), 40)) + ("" if weights == "random" else f": {weights}")))
    seeds = question.seeds[:1] if folds else question.seeds  # all folds are trained with the first one
    facts.append(("seeds", join_words(list(map(str, seeds)), 20)))
    where = [clean(machine["processor"])] if machine.get("processor") else []
    where += [plural(machine["cores"], "core")] if machine.get("cores") else []
    where += [f"load average {machine['load_1min']:g} at the start"] if machine.get("load_1min") is not None else []
    facts += [("machine", ", ".join(where))] if where else []
    times = [f"{name} {duration(record.seconds[key])}" for key, name in STAGES.items() if key in record.seconds]
    times += [f"{clean(key)} {duration(value)}" for key, value in record.seconds.items() if key not in STAGES]
    if times:
        notes = [f"{duration(record.earlier_s)} of this in earlier commands"] if record.earlier_s else []
        if question.budget_minutes:
            notes.append(f"budget{' of the last command' if notes else ''} {question.budget_minutes:g} min")
        facts.append(("time", join_words(times, 10) + (f" ({'; '.join(notes)})" if notes else "")))
    n = len(record.candidates)
    n_excluded = sum(each.excluded is not None for each in record.candidates)
    n_probed = sum(each.probe is not None for each in record.candidates)
    n_trained = sum(each.trained is not None for each in record.candidates)
    facts.append(("candidates", f"{compact_count(n) if n >= 10000 else n}: {n_excluded:,} excluded, {n_probed:,} screened, "
                  f"{n_trained:,} trained"))  # fmt: skip
    return facts
