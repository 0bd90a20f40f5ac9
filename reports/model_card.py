"""MODEL_CARD.md of a run, from its record: what was trained on what, how good it is, what it costs and its limits.

The sections follow Mitchell et al. 2019, "Model Cards for Model Reporting", arXiv:1810.03993.
"""

import json
import re
from collections.abc import Collection
from pathlib import Path, PurePath

from markupsafe import Markup

from common.atomic_io import write_text
from common.html import jinja_environment
from common.run_folder import RunFolder
from common.run_record import (
    InputInfo,
    Latency,
    Proportion,
    RunInfo,
    RunRecord,
    SplitMetrics,
    describe_test_evaluations,
)
from common.table import Table, escape_markdown
from common.text import SPLIT_NAMES, capped, clean, format_interval, join_words, own_names, plural, register_argument
from evaluation.describe import (
    NAMES,
    describe_accuracy,
    describe_calibration,
    describe_caveats,
    describe_guessing,
    describe_promise,
    format_threshold,
)
from evaluation.intervals import format_accuracy
from reports.load_runs import Run

MOST_CLASSES = 12  # of the confusion matrix; the table of each class has all of them
MOST_ROWS = 100  # of that table; result.json has the others, too
MOST_FINDINGS = 20
MOST_WARNINGS = 20
LONGEST_WARNING = 300  # characters
FEW_IMAGES = 30  # of a class
GROUPS = (
    "model", "recipe", "optimizer", "scheduler", "loss", "augmentation", "batch_transform", "trainer", "datamodule", "decision",
)  # fmt: skip
FITS = {  # what datamodule.fit does to images that are not square, unless it squashes them
    "crop": ": the largest square in the center of an image",
    "pad": ": the whole image, padded with black to a square",
}
UNKNOWN_LICENSE = "not known to this project: look it up at their source before publishing weights trained on them"
LICENSES_OF_WEIGHTS = {
    "random": "initialized randomly, so no other license applies.",
    "imagenet": "initialized from weights trained on ImageNet, whose terms allow non-commercial research and education; "
    "torchvision and timm, which distribute them, leave it to users to find out whether that covers their use.",
    "hub": "initialized from a repository of the Hugging Face hub, whose page states its terms.",
    "file": "initialized from a file: its terms are not known to this project, and apply to what was trained from it.",
    "checkpoint": "of another run: its model card lists what it was initialized from.",
}


def write_card(record: RunRecord, ckpt_path: str | None) -> None:
    """Write the card of a run that has finished.

    Args:
        ckpt_path: the checkpoint that was measured, if nothing was trained.
    """
    checkpoint = str(record.best.checkpoint if record.best else ckpt_path)
    is_lone = not record.best and RunFolder.of_checkpoint(Path(checkpoint)) is None
    write_text(record.folder.model_card, model_card(record, checkpoint, is_lone=is_lone))


def model_card(record: RunRecord, checkpoint: str, *, is_lone: bool = False) -> str:
    """Make the card of a run as Markdown; every value is text on one line.

    Args:
        record: of a run that measured something; missing sections are skipped.
        checkpoint: path of the model that the card describes.
        is_lone: whether the checkpoint is not in the folder of its run, so that the settings are those of its evaluation only.
    """
    environment = jinja_environment(Path(__file__).parent).overlay(finalize=_escaped)
    run, measured = Run(record.folder, record), measured_splits(record)
    split, metrics = measured[0] if measured else (None, None)
    tables = [_metrics_table(measured), *_class_tables(run, split, metrics)] if measured else []
    n = record.test and record.test.test_evaluations
    own = own_names(record.run.settings)
    text = environment.get_template("model_card.md.jinja").render(
        name=run.name,
        classes=_classes(run),
        accuracy=measured and _accuracy(run, split, metrics),
        debug=record.run.debug,
        biased=split == "val" or run.selected_on_test,
        checkpoint=Markup(json.dumps(clean(PurePath(checkpoint)), ensure_ascii=False)),  # in a block of code
        own=Markup(f", register={json.dumps(own)}" if own else ""),
        register=Markup(register_argument(record.run.settings)),
        data=_data(run),
        audit=run.data.audit and capped([finding.text for finding in run.data.audit], MOST_FINDINGS),
        training=_training(run, is_lone),
        command=Markup(clean(record.run.command).replace("`", "'")),  # in a block of code
        tables=[Markup("\n".join(table.as_markdown())) for table in tables],  # their cells are escaped
        test_evaluations=n and describe_test_evaluations(n, run.selected_on_test),
        decisions=_decisions(record, split, metrics) if measured else [],
        cost=_cost(run),
        warnings=capped([clean(text, LONGEST_WARNING) for text in record.run.warnings], MOST_WARNINGS),
        limits=_limits(run, split, metrics),
        licenses=_licenses(run),
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def measured_splits(record: RunRecord) -> list[tuple[str, SplitMetrics]]:
    """Return name and metrics of each split that was measured, test first."""
    found = [("test", record.test), ("val", record.val)]
    return [(split, metrics) for split, metrics in found if metrics and metrics.accuracy]


def _escaped(value: object) -> Markup:
    return value if isinstance(value, Markup) else Markup(escape_markdown(value))


def _facts(**facts: object) -> list[str]:
    """Return `name: value` of those that are known; underscores in names are spaces."""
    return [f"{name.replace('_', ' ')}: {value}" for name, value in facts.items() if value not in (None, "")]


def _classes(run: Run) -> str:
    seen = run.data.preprocessing or InputInfo()
    size = seen.image_size or run.record.run.settings.get("model.image_size")
    fit = FITS.get(run.record.run.settings.get("datamodule.fit"), "")
    pixels = f" Its input is {size} x {size} pixels{fit}." if size else ""
    if seen.interpolation and seen.mean and seen.std:
        mean, std = (" ".join(f"{value:.3g}" for value in values) for values in (seen.mean, seen.std))
        pixels += f" Images are resized with {seen.interpolation} interpolation, and normalized with mean {mean} and std {std}."
    if run.data.range is not None:
        pixels += f" {scaled_values(run, 'become')}"
    return f"{run.model.name} distinguishes {join_words(run.data.classes, MOST_CLASSES)}.{pixels}"


def _data(run: Run) -> list[str]:
    data, settings = run.data, run.record.run.settings
    counts = [f"{n:,} {split}" for split in ("train", "val", "test") if (n := getattr(data, f"n_{split}"))]
    lines = [f"{data.name}: {', '.join(counts) or 'no counts'} images"]
    lines += _facts(
        folder=data.root,
        fingerprint=data.fingerprint,
        labels_from=settings.get("datamodule.table"),
        splits=data.splits_from,  # with its seed if they were drawn
    )
    if run.folder.splits.is_file() and (groups := len(set(run.folder.group_names().values()))):
        lines.append(
            f"{plural(groups, 'group')} of images; each is in one split, and intervals take groups into account"
        )
    if data.folds:
        unused = "" if run.record.test else ", which does not use the test split"  # smallest.py evaluates it at the end
        lines.append(
            f"one fold of a cross-validation (datamodule.folds={data.folds} datamodule.fold={data.fold}){unused}"
        )
    return [*lines, f"excluded: {plural(len(data.excluded), 'image')}, see result.json"] if data.excluded else lines


def _training(run: Run, is_lone: bool) -> list[str]:
    about, best = run.record.run, run.record.best
    norms, kept = run.record.batch_norms, None
    if norms and norms.kept:
        kept = f"kept from the weights, learning rate of the backbone times {norms.lr_factor:g}"
    lines = _facts(initial_weights=run.model.weights, statistics_of_batch_norms=kept)
    if best:
        on = SPLIT_NAMES.get((best.monitor or "val").partition("/")[0], "training")
        value = "" if best.value is None else f" of {best.value:.4f}"
        lines.append(f"chosen on {on} images: epoch {best.epoch}, for its {best.monitor}{value}")
    if is_lone:
        lines.append("not known: the checkpoint was evaluated away from the folder of its run")
    for group in ("model",) if is_lone else GROUPS:
        shown = settings_of(about, group, but=("model.weights", "model.freeze") if is_lone else ())
        if about.choices.get(group) or shown:
            named = f"{group} {about.choices[group]}" if about.choices.get(group) else group
            lines.append(f"{named}: {shown or 'no settings'}")
    lines += _facts(seed=None if is_lone else about.seed, git_commit=about.git_commit)
    lines += ["the code had uncommitted changes"] if about.git_dirty else []
    return [*lines, ", ".join(f"{name} {version}" for name, version in about.versions.items())]


def settings_of(about: RunInfo, group: str, but: Collection[str] = ()) -> str:
    """Return `lr 0.001, fused true`: the settings of a group that a run states itself, not by those of another group."""
    own = {k.partition(".")[2]: v for k, v in about.settings.items() if k.startswith(f"{group}.") and k not in but}
    known = {key: value for key, value in own.items() if "$" not in str(value) and not key.endswith("_target_")}
    if group == "trainer":  # it lists all of Lightning's flags, most of them unused
        known = {key: value for key, value in known.items() if value is not None}
    return ", ".join(f"{key} {_value(value)}" for key, value in known.items())


def _name(split: str, metrics: SplitMetrics) -> str:
    """Return what was measured: `test`, or `on 8 of 14 test images only` in a debug run."""
    return f"on {metrics.part} only" if metrics.part else SPLIT_NAMES[split]


def _accuracy(run: Run, split: str, metrics: SplitMetrics) -> dict[str, object]:
    """Return the accuracy for the card's first lines, with its baseline, a verdict and its caveats."""
    caveats = [*describe_caveats(metrics), *(f"accuracies {caveat}" for caveat in run.data.caveats)]
    return {
        "split": _name(split, metrics),
        "text": describe_accuracy(metrics),
        "guessing": describe_guessing(metrics),
        "caveats": [f"{text[0].upper()}{text[1:]}." for text in caveats],
    }


def _guessing(metrics: SplitMetrics) -> str:
    return f"{metrics.guessing.share:.3f} ({metrics.guessing.name})" if metrics.guessing else "-"


def _metrics_table(measured: list[tuple[str, SplitMetrics]]) -> Table:
    rows = [["accuracy", *(format_accuracy(metrics.accuracy) for _, metrics in measured)]]
    rows.append(["accuracy of guessing the most frequent class", *(_guessing(metrics) for _, metrics in measured)])
    further = {name: name for _, metrics in measured for name in metrics.further}
    for key, name in (NAMES | further).items():
        rows.append([f"{name} (95% interval)", *(_with_interval(metrics, key) for _, metrics in measured)])
    rows.append(["cross entropy", *(_digits(metrics.loss) for _, metrics in measured)])
    rows.append(["images (n)", *(f"{metrics.accuracy.n:,}" for _, metrics in measured)])
    return Table.of(["", *(_name(split, metrics) for split, metrics in measured)], rows)


def _class_tables(run: Run, split: str, metrics: SplitMetrics) -> list[Table]:
    """Return the scores of each class, and the confusion matrix of a few classes."""
    tables, names = [], run.data.classes
    if metrics.per_class:
        shown = metrics.per_class
        if len(shown) > MOST_ROWS:
            shown = sorted(shown, key=lambda each: each.recall.value if each.recall else 1)[:MOST_ROWS]
        of = "" if shown is metrics.per_class else f", the {MOST_ROWS} with the lowest recall of {len(names):,}"
        head = [f"class ({_name(split, metrics)}{of})", "recall (95% interval)", "precision (95% interval)", "F1", "n"]
        rows = [[e.name, _share(e.recall), _share(e.precision), _digits(e.f1), f"{e.n:,}"] for e in shown]
        tables.append(Table.of(head, rows))
    if metrics.confusion and len(names) == len(metrics.confusion) <= MOST_CLASSES:
        rows = [[name, *(f"{n:,}" for n in line)] for name, line in zip(names, metrics.confusion, strict=True)]
        tables.append(Table.of([f"true (down), predicted (across), {_name(split, metrics)}", *names], rows))
    return tables


def _decisions(record: RunRecord, split: str, metrics: SplitMetrics) -> list[str]:
    decision, n, lines = record.decision, metrics.accuracy.n, []
    if decision:
        n_fitted = plural(decision.fitted_on or 0, "validation image")
        lines.append(f"fitted on {n_fitted}, which also chose the epoch and so flatter; kept in the checkpoint")
    if metrics.ece is not None:
        about = describe_calibration(metrics, decision)
        lines.append(f"expected calibration error (ECE) {_name(split, metrics)}: {about}")
    if decision is None:
        return lines
    if metrics.binary and (at := metrics.binary.at_threshold):
        criterion = decision.threshold_criterion.replace("_", " ")
        lines.append(
            f"threshold for {decision.positive_class}: {format_threshold(decision.threshold)} (best {criterion} on "
            f"validation): sensitivity {_share(at.sensitivity)}, specificity {_share(at.specificity)}"
        )
    promise, selective = describe_promise(decision, like="those of validation"), metrics.selective
    if selective is None:
        lines.append(f"selective prediction: {promise}, so it abstains from every image")
    else:
        correct = f", {_share(selective.accuracy)} of them correct" if selective.accuracy else ""
        lines.append(
            f"selective prediction: {promise}; this decides {selective.n:,} of {n:,} {SPLIT_NAMES[split]} images{correct}; "
            "it abstains from the others"
        )
    return lines


def _cost(run: Run) -> list[str]:
    model, about, speed = run.model, run.record.run, run.record.throughput
    lines = [f"{model.parameters:,} parameters"] if model.parameters else []
    if model.counted_macs:
        lines.append(f"{model.counted_macs:,} multiply-accumulates (MACs) per image")
    lines += [f"checkpoint {model.checkpoint_mib} MiB"] if model.checkpoint_mib else []
    lines += [_latency(each) for each in model.latency or []]
    lines += run.record.deployed.describe_lines() if run.record.deployed else []
    lines += [f"wall time of the whole run {about.wall_time_s:,.1f} s"] if about.wall_time_s is not None else []
    if speed and speed.train_images_per_s is not None:
        lines.append(f"training on {about.device}: {speed.describe()}")
    return lines


def _latency(found: Latency) -> str:
    p95 = f", p95 {found.latency_p95_ms} ms" if found.latency_p95_ms else ""
    n = f", n = {found.repeats}" if found.repeats else ""
    load = "" if found.load_1min is None else f", load average {found.load_1min} on {plural(found.cores or 0, 'core')}"
    where = f"{found.device}, {plural(found.threads or 0, 'thread')}"
    flag = f"; unreliable: {found.flag}" if found.flag else ""
    return f"latency at batch size {found.batch_size}: p50 {found.latency_p50_ms} ms{p95} ({where}{n}{load}){flag}"


def _limits(run: Run, split: str | None, metrics: SplitMetrics | None) -> list[str]:
    lines = []
    if run.record.run.debug:
        lines.append("A debug run: its results mean nothing.")
    if run.selected_on_test:
        lines.append("The test images chose the epoch (datamodule.select_on=test): all results here are too good.")
    elif split == "val":
        lines.append("There is no test result: validation chose the epoch, so its results are too good.")
    by_count = sorted((metrics and metrics.per_class) or [], key=lambda each: each.n)  # if many, the rarest are named
    if rare := [f"{e.name} ({e.n})" for e in by_count if e.n < FEW_IMAGES]:
        lines.append(f"Few {SPLIT_NAMES[split]} images, so little is known: {join_words(rare, MOST_CLASSES)}.")
    if (run.model.weights or "").startswith("random"):
        lines.append("It was trained from random weights; with pretrained ones the same network is usually better.")
    return [
        *lines,
        "One training with one seed: another seed gives another result (-m 'seed=range(1,6)' shows by how much).",
        "Measured on images from the same source as the training images; other cameras, places and times are untested.",
        "A subgroup of a class that the labels do not name may do worse: nothing here would show it.",
    ]


def _licenses(run: Run) -> list[str]:
    kind = (run.model.weights or "checkpoint").split(" ")[0]
    weights = LICENSES_OF_WEIGHTS.get(kind, LICENSES_OF_WEIGHTS["file"])
    cite = [f"cite for the images: {run.data.citation}"] if run.data.citation else []
    return [f"images: {run.data.license or UNKNOWN_LICENSE}", *cite, f"weights: {weights}"]


def _value(value: object) -> str:
    """Return a setting as one line of text; a nested class becomes its name and its settings."""
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        settings = ", ".join(f"{name} {_value(each)}" for name, each in value.items() if name != "_target_")
        return str(value.get("_target_", "")).rpartition(".")[2] + (f" ({settings})" if settings else "")
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def scaled_values(run: Run, verb: str) -> str:
    """Return how the values of images with more than 8 bits per channel become 8 bits."""
    low, high, of_all = run.data.range
    or_own = "" if of_all else ", or where the file states them the values of its window or bits,"
    return f"In images with more than 8 bits per channel, the values {low:g} to {high:g}{or_own} {verb} 0 to 255."


def _with_interval(metrics: SplitMetrics, key: str) -> str:
    interval = metrics.intervals.get(key)
    value = metrics.further[key] if key in metrics.further else getattr(metrics, key, None)
    return _digits(value) + (f" ({format_interval(*interval)})" if interval else "")


def _share(found: Proportion | None) -> str:
    """Return `0.846 (11 of 13, 0.577 to 0.957)`."""
    if found is None:
        return "-"
    return f"{found.value:.3f} ({found.correct:,} of {found.n:,}, {format_interval(found.low, found.high)})"
