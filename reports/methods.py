"""methods.md: the methods section of a paper, one paragraph for each group, of what the records of its best row state."""

from common.run_record import RunInfo
from common.table import escape_markdown
from common.text import SPLIT_NAMES, clean, finite_number, join_words, plural, short_name
from evaluation.paired_tests import ALMOST_SINGLE, mean_group
from reports.accuracy import CorrectnessMatrix
from reports.model_card import scaled_values, settings_of
from reports.report_data import ReportData, ResultGroup, ResultRow
from reports.significance import describe_accuracy
from reports.studies import search_that_retrained
from reports.wording import is_of_settings

MOST_CLASSES = 12  # by name
MOST_SEEDS = 20
SOFTWARE = ("python", "torch", "torchvision", "lightning")
NAMES = {"optimizer": "Optimizer", "scheduler": "Schedule", "loss": "Loss", "augmentation": "Augmentation",
         "batch_transform": "Batch transform"}  # fmt: skip
OPTIONAL = (  # callbacks, with the setting that switches them on, its value if it does not, and what they do
    ("distillation", "teacher", None, "It also learned from the outputs of the teacher {}."),
    ("linear_probe", "callbacks.linear_probe.steps", 0, "Its head was trained first, for {} steps on features computed once."),
    ("freeze_batch_norm", "callbacks.freeze_batch_norm.enabled", False, "Its batch norms kept the statistics of the weights."),
    ("ema", "callbacks.ema.enabled", False, "A moving average of its weights (EMA) was evaluated and kept."),
    ("recalibrate_batch_norm", "callbacks.recalibrate_batch_norm.enabled", False,
     "The statistics of its batch norms were measured on training images before each validation."),
    ("progressive_resizing", "callbacks.progressive_resizing.initial_scale", 1,
     "The training images began at a share of {} of this size."),
)  # fmt: skip
DECODED = (
    "Images were decoded to RGB with 8 bits per channel: upright by EXIF, alpha over white, the first of several frames"
)
WILSON = "Wilson's score interval (Wilson 1927, J. Am. Stat. Assoc. 22:209-212)"
EFFECT = "the design effect of their groups (Kish 1965, Survey Sampling, ch. 5)"
KISH = (
    f"the number of images divided by {EFFECT}, or if larger by that of the differences within groups (Fleiss and Cuzick 1979, "
    "Appl. Psychol. Meas. 3:537-542), by t quantiles (Dean and Pagano 2015, J. Surv. Stat. Methodol. 3:484-503)"
)
OF_MEANS = "Student's t interval of the seeds' means"
SEEDS = (
    "an interval over seeds and images, both as random effects (Searle, Casella and McCulloch 1992, Variance Components, "
    "ch. 4), with pseudo-images (Agresti and Coull 1998, Am. Stat. 52:119-126), and where these are wider, "
    f"{OF_MEANS} and the first interval on the scale of log odds"
)
SCORE = "Tango's score interval (Tango 1998, Stat. Med. 17:891-908)"
HOLM = "p-values are corrected by Holm 1979 (Scand. J. Stat. 6:65-70)"


def as_methods(data: ReportData) -> str:
    """Format the paragraphs; values that are not recorded are skipped."""
    lines = ["# Methods", ""]
    for group in data.groups:
        lines += [f"## {escape_markdown(group.title)}", ""] if len(data.groups) > 1 else []
        row = group.rows[0]
        sentences = [*_data(row), *_training(row), *_selection(group), *_evaluation(group), *_software(row)]
        lines += [escape_markdown(" ".join(sentences)), ""]
    return "\n".join(lines)


def _data(row: ResultRow) -> list[str]:
    data, runs = row.data, row.runs
    names = join_words([short_name(name) for name in data.classes], MOST_CLASSES)
    sentences = [f"The data set {clean(data.name or '', 60)} has {len(data.classes):,} classes ({names})."]
    counts = [
        f"{' to '.join(dict.fromkeys((f'{min(found):,}', f'{max(found):,}')))} {SPLIT_NAMES.get(split, 'training')}"
        for split in ("train", "val", "test")
        if (found := [n for run in runs if (n := getattr(run.data, f"n_{split}"))])
    ]
    there = "Each fold has" if row.folds else "There are"
    sentences += [f"{there} {join_words(counts)} images."] if counts else []
    origins = list(dict.fromkeys(run.data.splits_from for run in runs if run.data.splits_from))
    sentences += [f"Splits: {clean('; '.join(origins))}."] if origins else []
    if row.folds:
        sentences.append(f"{row.describe_folds()} folds of a cross-validation were trained for each seed.")
    for split, found in row.outcomes.items():
        if isinstance(found, CorrectnessMatrix) and found.groups is not None:
            sentences.append(f"The {SPLIT_NAMES[split]} images form {len(set(found.groups.tolist())):,} groups.")
    excluded = max(len(run.data.excluded) for run in runs)
    return [*sentences, f"Excluded: {plural(excluded, 'image')}."] if excluded else sentences


def _training(row: ResultRow) -> list[str]:
    run = row.runs[0]
    about, seen, norms = run.record.run, run.data.preprocessing, run.record.batch_norms
    settings = about.settings
    weights = list(dict.fromkeys(clean(each.model.weights) for each in row.runs if each.model.weights))
    size = f" with {row.parameters:,.0f} parameters" if row.parameters else ""
    sentences = [f"The network is {clean(run.model.name or row.name)}{size}."]
    sentences += [f"Initial weights: {join_words(weights)}."] if weights else []
    if seen and seen.image_size:
        sentences.append(
            f"Images were resized to {seen.image_size} x {seen.image_size} pixels ({seen.interpolation}, {seen.fit})."
        )
    deep = (
        "" if run.data.range else "; where a file has more bits, its window or the bits that it states became 0 to 255"
    )
    sentences += [f"{DECODED}{deep}.", *([scaled_values(run, "became")] if run.data.range else [])]
    if not _was_trained(row):  # the settings are not those of its training
        return [*sentences, "It was not trained in this run."]
    if settings.get("model.freeze") is True:
        sentences.append("Only its head was trained.")
    elif frozen := _number(settings, "model.freeze"):
        sentences.append(f"Only its head was trained in the first {plural(frozen, 'epoch')}.")
    epochs, patience = (_number(settings, key) for key in ("trainer.max_epochs", "callbacks.early_stopping.patience"))
    ended = sorted({clean(each.record.run.ended_by) for each in row.runs if each.record.run.ended_by})
    if epochs:
        limited = patience or ended or settings.get("trainer.max_time") or settings.get("trainer.max_steps")
        sentences.append(f"It was trained for {'up to ' if limited else ''}{plural(epochs, 'epoch')}.")
    if patience:
        monitor = clean(settings.get("callbacks.early_stopping.monitor"))
        sentences.append(f"Training ends early if {monitor} does not improve for {plural(patience, 'epoch')}.")
    sentences += [f"Trainings ended before their last epoch: {join_words(ended)}."] if ended else []
    if batch := _number(settings, "datamodule.batch_size"):
        devices = about.processes or 1
        sentences.append(f"A batch has {plural(batch, 'image')}{f' on each of {devices} devices' * (devices > 1)}.")
    if (batches := _number(settings, "trainer.accumulate_grad_batches") or 1) > 1:
        sentences.append(f"Each step takes the gradients of {batches} batches.")
    if clip := _number(settings, "trainer.gradient_clip_val"):
        sentences.append(
            f"Gradients are clipped at {clip:g} ({settings.get('trainer.gradient_clip_algorithm') or 'norm'})."
        )
    if settings.get("datamodule.sampler") == "balanced":
        sentences.append("All classes are drawn with equal probability.")
    sentences += [text for group, name in NAMES.items() if (text := _choice(about, group, name))]
    if norms and norms.kept is not None:
        sentences.append(f"Its batch norms {'kept' if norms.kept else 'did not keep'} the statistics of the weights.")
    warnings = [text for each in row.runs for text in each.record.run.warnings]
    for callback, key, off, text in OPTIONAL:
        value = settings.get(key, off)
        if value not in (off, "auto") and not any(f"callbacks.{callback}: skipped" in each for each in warnings):
            sentences.append(text.format(clean(value)))
    return sentences


def _was_trained(row: ResultRow) -> bool:
    """Return whether the runs trained their networks, instead of evaluating a checkpoint."""
    stages = row.runs[0].record.run.settings.get("stages")
    return not isinstance(stages, list) or "fit" in stages


def _number(settings: dict, key: str) -> float | None:
    """Return the value of a setting if it is a number; a record may hold anything."""
    return finite_number(settings.get(key))


def _choice(about: RunInfo, group: str, name: str) -> str | None:
    """Return `Optimizer: Adam (lr 0.001).`; None if the run has none."""
    kind, values = str(about.settings.get(f"{group}._target_", "")).rpartition(".")[2], settings_of(about, group)
    kind = "" if kind == name else clean(kind)
    shown = f"{kind} ({values})" if kind and values else kind or values
    return f"{name}: {clean(shown)}." if shown else None


def _selection(group: ResultGroup) -> list[str]:
    row, split = group.rows[0], group.ranked_on
    seeds = [str(seed) for seed in row.seeds]
    trained = f"It was trained with {plural(len(seeds), 'seed')} ({join_words(seeds, MOST_SEEDS)})."
    sentences = [trained] if _was_trained(row) else []
    late = _number(row.runs[0].record.run.settings, "callbacks.best_checkpoint.select_after_fraction")
    after = f", after the first {late:.0%} of the epochs," if late else ""
    if monitors := {clean(run.record.best.monitor) for run in row.runs if run.record.best and run.record.best.monitor}:
        best = join_words(sorted(monitors))
        sentences.append(f"Of each training, the weights of the epoch with the best {best}{after} were kept.")
    if group.selected_on_test:
        sentences.append("The test images chose the epoch, so accuracies on them are too good.")
    if search := search_that_retrained(row.runs[0].folder.path):
        by = clean(join_words(search.objectives, 4))
        sentences.append(f"Its settings were selected in a search of {plural(len(search.trials), 'trial')} by {by}.")
    if len(group.rows) > 1 and row.ranked_by:
        differ = f", which differ in {join_words(group.changed)}," if group.changed else ""
        sentences.append(f"It is the best of {len(group.rows):,} settings{differ} by {split} accuracy.")
    return sentences


def _evaluation(group: ResultGroup) -> list[str]:
    row = group.rows[0]
    counts = [run.record.test.test_evaluations or 1 for run in row.runs if run.record.test]
    times = "once" if max(counts, default=0) == 1 else f"up to {max(counts, default=0)} times"
    which = (
        "each trained network" if len(counts) == len(row.runs) else f"{len(counts)} of {len(row.runs)} trained networks"
    )
    sentences = [f"The test images were evaluated {times} for {which}."]
    sentences = sentences if counts else ["No test images were evaluated."]
    for split, found in row.accuracies.items():
        if found is None:
            continue
        sentences.append(f"{SPLIT_NAMES[split].capitalize()} accuracy is {describe_accuracy(found)}.")
        if found.standard_deviation is not None:
            sentences.append(f"Its standard deviation over seeds is {found.standard_deviation:.3f}.")
    outcomes = [row.outcomes[split] for split, found in row.accuracies.items() if found]
    known = bool(outcomes) and all(isinstance(found, CorrectnessMatrix) and found.is_whole for found in outcomes)
    grouped = known and any(found.groups is not None for found in outcomes)
    if known and all(len(found.seeds) == 1 for found in outcomes):
        sentences.append(f"Accuracies have 95% intervals: {WILSON}{f', with {KISH}' if grouped else ''}.")
    elif known and all(len(found.seeds) > 1 for found in outcomes):
        sentences.append(
            f"Accuracies have 95% intervals: {SEEDS}{'; a group of images is one unit' if grouped else ''}."
        )
    compared = [each for each in group.rows if each.comparison and each.comparison.pair]
    if compared:
        how = _how_compared(compared, group.split)
        half = ", times half the number of settings, since the same measurements chose the best"
        chose = half if group.chose_best else ""
        corrected = f"; {HOLM}{chose}" if len(compared) > 1 else ""
        what = "Settings" if any(is_of_settings(each.comparison.pair) for each in compared) else "Trained networks"
        sentences.append(f"{what} were compared on the same {SPLIT_NAMES[group.split]} images ({how}){corrected}.")
    return sentences


def _how_compared(rows: list[ResultRow], split: str) -> str:
    """Name the tests and intervals by which `compare_pair` compared these rows with the best."""
    groups = next((found for row in rows if (found := row.outcomes[split].groups) is not None), None)
    units, effective, how = "images", "", {}
    if groups is not None:
        units, effective = "groups of images", f", divided by {EFFECT}"
    wider = mean_group(groups) <= ALMOST_SINGLE
    for row in rows:
        if row.comparison.pair.n_seeds > 1:
            counts = f" and {SCORE} of the mean counts{effective}" if wider else ""
            how["several seeds"] = f"seeds and {units} as random effects, and {OF_MEANS}{counts}, if wider"
        elif groups is None:
            how["one seed"] = f"McNemar's exact test and {SCORE}"
        else:
            how["one seed"] = (
                f"t tests on {units}{f', and {SCORE} of the counts{effective}, if wider' if wider else ''}"
            )
    if len(how) == 1:
        return next(iter(how.values()))
    return "; ".join(f"over {seeds}: {text}" for seeds, text in how.items())


def _software(row: ResultRow) -> list[str]:
    about = row.runs[0].record.run
    versions = [f"{name} {clean(about.versions[name])}" for name in SOFTWARE if name in about.versions]
    dirty = " with uncommitted changes" if about.git_dirty else ""
    commit = f", code at commit {clean(about.git_commit)[:12]}{dirty}" if about.git_commit else ""
    device = f"; device: {clean(about.device)}" if about.device else ""
    return [f"Software: {', '.join(versions)}{commit}{device}."] if versions else []
