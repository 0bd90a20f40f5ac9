"""MODEL_CARD.md of a run: what was trained on what, how good it is, what it costs and where it ends; from the record alone.

Mitchell et al. 2019, "Model Cards for Model Reporting", arXiv:1810.03993, whose sections it follows.
"""

import json
from pathlib import PurePath

from common.atomic_io import write_text
from common.run_record import SECTIONS, RunRecord
from common.text import clean, finite_number, join_words, plural
from evaluation.intervals import format_accuracy
from reports.card_sections import MOST_CLASSES, SPLITS, classes, confusion, cost, decisions, escaped, figures, measured

CARD = "MODEL_CARD.md"
MOST_FINDINGS = 20
MOST_WARNINGS = 20
LONGEST_WARNING = 300  # characters
GROUPS = ("model", "recipe", "optimizer", "scheduler", "loss", "augmentation", "trainer", "datamodule", "decision")
USE = """\
```python
from predict import Predictor
model = Predictor.from_checkpoint({checkpoint})
model.predict(["a.jpg", "b.png"])
```"""
LOOKED_UP = "not known to this project: look it up where the images come from, before weights trained on them go out"
LICENSES_OF_WEIGHTS = {
    "random": "begun from random weights: nobody else's.",
    "imagenet": "begun from weights that were trained on ImageNet, whose terms allow research and education that is not "
    "commercial; torchvision, which gives them out, leaves it to the user to find out whether that covers his use.",
    "file": "begun from a file of weights: its terms are not known to this project, and hold for what came of it.",
    "checkpoint": "of another run: its card says from what it began.",
}


def write_card(record: RunRecord, ckpt_path: str | None) -> None:
    """Writes the card of a run that has come to its end.

    Args:
        ckpt_path: what was measured, where nothing was trained.
    """
    content = {section: getattr(record, section) for section in SECTIONS}
    checkpoint = record.best["checkpoint"] if record.best else ckpt_path
    write_text(record.folder / CARD, model_card(content, str(checkpoint)))


def model_card(record: dict, checkpoint: str) -> str:
    """The card as Markdown.

    Args:
        record: of a run that has measured something, as `read_record` gives it; what is missing in it is left out.
        checkpoint: path of what it is about.
    """
    record = {**record, **{name: record.get(name) or {} for name in ("run", "data", "model", "best", "throughput")}}
    parts = {
        f"Model card: {escaped(record['run'].get('name'))}": _summary(record),
        "Use": _use(record, checkpoint),
        "Data": _data(record),
        "Training": _training(record),
        "Figures": [*figures(record), *classes(record), *confusion(record)],
        "Calibration and decisions": decisions(record),
        "Cost": cost(record),
        "Warnings": _warnings(record),
        "Limits": _limits(record),
        "Licenses": _licenses(record),
    }
    lines = []
    for depth, (title, body) in enumerate(parts.items()):
        if body:
            lines += [f"{'##' if depth else '#'} {title}", "", *body, ""]
    return "\n".join(lines)


def _summary(record: dict) -> list[str]:
    data, model = record["data"], record["model"]
    names = [escaped(name) for name in data.get("classes", [])]
    size = record["run"].get("settings", {}).get("model.image_size")
    pixels = f" It sees {size} x {size} pixels." if size else ""
    lines = [f"`{_code(model.get('name'))}` tells {join_words(names, MOST_CLASSES)} apart.{pixels}", ""]
    for split, section in measured(record)[:1]:
        chosen = (
            "" if split == "test" and not _selected_on_test(record) else " **The epoch was chosen on these images.**"
        )
        lines.append(f"Accuracy {SPLITS[split]}: **{format_accuracy(section['accuracy'])}**.{chosen}")
    return lines


def _use(record: dict, checkpoint: str) -> list[str]:
    text = clean(PurePath(checkpoint))
    return [
        USE.format(checkpoint=json.dumps(text, ensure_ascii=False)),
        "",
        "`python predict.py ckpt=FILE images=DIR` labels a folder, `explain=true` shows why, `python export.py ckpt=FILE` "
        "makes an ONNX file. It is meant for images as it was trained on, and says one of its classes of any other image "
        "too.",
    ]


def _data(record: dict) -> list[str]:
    data, settings = record["data"], record["run"].get("settings", {})
    counts = [f"{data[f'n_{split}']:,} {split}" for split in ("train", "val", "test") if data.get(f"n_{split}")]
    lines = [f"- {escaped(data.get('name'))}: {', '.join(counts) or 'no counts'} images"]
    lines += _items(data, root="folder", fingerprint="fingerprint of images, labels and splits")
    lines += _items(settings, **{"datamodule.table": "labels from", "datamodule.split_seed": "seed of the splits"})
    if data.get("folds"):
        lines.append(f"- fold {data.get('fold')} of {data['folds']} of a cross-validation: the test split stays closed")
    lines += [f"- left out: {plural(len(data['excluded']), 'image')}, see the record"] if data.get("excluded") else []
    found = data.get("audit")
    if found is not None:
        lines.append(f"- audit: {'' if found else 'nothing found'}".rstrip())
        lines += [f"  - {escaped(each['text'])}" for each in found[:MOST_FINDINGS]]
        lines += [f"  - and {len(found) - MOST_FINDINGS:,} more"] if len(found) > MOST_FINDINGS else []
    return lines


def _training(record: dict) -> list[str]:
    run, best = record["run"], record["best"]
    settings, choices = run.get("settings", {}), run.get("choices", {})
    lines = [f"- initial weights: {escaped(record['model']['weights'])}"] if record["model"].get("weights") else []
    if best:
        on = "**test** images" if _selected_on_test(record) else "validation images"
        value = f" of {best['value']:.4f}" if finite_number(best.get("value")) is not None else ""
        lines.append(f"- chosen on {on}: epoch {best.get('epoch')}, for its {escaped(best.get('monitor'))}{value}")
    for group in GROUPS:
        own = [f"{key.partition('.')[2]} {_value(settings[key])}" for key in settings if key.startswith(f"{group}.")]
        told = [value for value in own if "$" not in value]
        if choices.get(group) or told:
            lines.append(f"- {group} {escaped(choices.get(group) or '')}: {escaped(', '.join(told) or 'as it is')}")
    lines += _items(run, seed="seed", git_commit="git commit")
    lines += ["- the code had changed since that commit"] if run.get("git_dirty") else []
    versions = ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items())
    lines += [f"- {escaped(versions)}"] if versions else []
    return [*lines, "", "```", clean(run["command"]), "```"] if run.get("command") else lines


def _warnings(record: dict) -> list[str]:
    """What the run said while it ran; the audit's findings among them."""
    found = record["run"].get("warnings")
    if found is None:
        return []
    lines = [f"- {escaped(clean(text, LONGEST_WARNING))}" for text in found[:MOST_WARNINGS]]
    lines += [f"- and {len(found) - MOST_WARNINGS:,} more"] if len(found) > MOST_WARNINGS else []
    return lines or ["None."]


def _limits(record: dict) -> list[str]:
    data, found = record["data"], measured(record)
    lines = []
    if _selected_on_test(record):
        lines.append("- The test images chose the epoch (`selected_on_test`): all figures here are too good.")
    elif found and found[0][0] == "val":
        lines.append("- There is no test figure: validation chose the epoch, and its figures are too good.")
    if ((record.get("test") or {}).get("test_evaluations") or 0) > 1:
        lines.append("- The test split was opened before: its first figure is the honest one.")
    leaks = sum(bool(each.get("leak")) for each in data.get("audit") or [])
    if leaks:
        lines.append(
            f"- {plural(leaks, 'finding')} of the audit: training images stand in val or test too, so figures are optimistic."
        )
    for split, section in found[:1]:
        rare = [each for each in section.get("per_class") or [] if each["n"] < 30]
        told = [f"{escaped(each['class'])} ({each['n']})" for each in rare]
        lines += (
            [f"- Few {SPLITS[split]} images, so that little is known: {join_words(told, MOST_CLASSES)}."]
            if told
            else []
        )
    if str(record["model"].get("weights")).startswith("random"):
        lines.append("- It began from random weights; with pretrained ones the same network is mostly better.")
    lines.append(
        "- One training with one seed: another one gives another figure (`-m 'seed=range(1,6)'` shows by how much)."
    )
    lines.append(
        "- Measured on images of the same source as those of training; other cameras, places and times are untested."
    )
    lines.append("- A group within a class that the labels do not name may fare worse: nothing here tells.")
    return lines


def _licenses(record: dict) -> list[str]:
    kind = str(record["model"].get("weights") or "checkpoint").split(" ")[0]
    data = record["data"].get("license")
    return [
        f"- images: {escaped(data) if data else LOOKED_UP}",
        f"- weights: {LICENSES_OF_WEIGHTS.get(kind, LICENSES_OF_WEIGHTS['file'])}",
    ]


def _selected_on_test(record: dict) -> bool:
    return record["data"].get("select_on") == "test"


def _items(section: dict, **names: str) -> list[str]:
    return [f"- {words}: {escaped(section[key])}" for key, words in names.items() if section.get(key) not in (None, "")]


def _value(value) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _code(text: object) -> str:
    return clean(text).replace("`", "'")
