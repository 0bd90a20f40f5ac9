"""The figures of a model card: tables of each split and class, calibration, cost; with n and 95% intervals."""

from collections.abc import Sequence

from common.text import clean, finite_number, plural
from evaluation.intervals import format_accuracy
from reports.renderers import MARKDOWN

MOST_CLASSES = 12  # of the confusion matrix; the table of each class has all of them
SPLITS = {"val": "validation", "test": "test"}
SHARES = (("balanced_accuracy", "balanced accuracy"), ("f1", "macro F1"), ("auroc", "AUROC"))


def escaped(text: object) -> str:
    """Text that Markdown shows as it stands, in one line."""
    return "".join(MARKDOWN.get(letter, letter) for letter in clean(text))


def measured(record: dict) -> list[tuple[str, dict]]:
    """Name and section of each split with figures, test first."""
    return [(split, record[split]) for split in ("test", "val") if (record.get(split) or {}).get("accuracy")]


def figures(record: dict) -> list[str]:
    found = measured(record)
    if not found:
        return ["Nothing was measured."]
    rows = [("accuracy", [format_accuracy(section["accuracy"]) for _, section in found])]
    for key, words in SHARES:
        rows.append((f"{words} (95% interval)", [_with_interval(section, key) for _, section in found]))
    rows.append(("cross entropy", [_digits(section.get("loss")) for _, section in found]))
    rows.append(("images (n)", [f"{section['accuracy']['n']:,}" for _, section in found]))
    lines = _table(["", *(SPLITS[split] for split, _ in found)], [[name, *cells] for name, cells in rows])
    opened = (record.get("test") or {}).get("test_evaluations")
    lines += ["", f"The test split was opened {_times(opened)} with this training."] if opened else []
    return [*lines, ""]


def classes(record: dict) -> list[str]:
    for split, section in measured(record)[:1]:
        rows = [
            [
                escaped(each["class"]),
                _share(each["recall"]),
                _share(each["precision"]),
                _digits(each["f1"]),
                f"{each['n']:,}",
            ]
            for each in section.get("per_class") or []
        ]
        head = [f"class ({SPLITS[split]})", "recall (95% interval)", "precision (95% interval)", "F1", "n"]
        return [*_table(head, rows), ""] if rows else []
    return []


def confusion(record: dict) -> list[str]:
    names = [escaped(name) for name in record["data"].get("classes", [])]
    for split, section in measured(record)[:1]:
        counts = section.get("confusion")
        if not counts or len(names) != len(counts) or len(names) > MOST_CLASSES:
            return []
        rows = [[name, *(f"{count:,}" for count in line)] for name, line in zip(names, counts, strict=True)]
        return [*_table([f"true (down), said (across), {SPLITS[split]}", *names], rows)]
    return []


def decisions(record: dict) -> list[str]:
    decision, lines = record.get("decision") or {}, []
    if decision:
        lines.append(f"- fitted on {decision['fitted_on']:,} validation images, kept in the checkpoint")
    for split, section in measured(record)[:1]:
        n, warm = section["accuracy"]["n"], section.get("calibrated")
        if finite_number(section.get("ece")) is not None:
            told = f", {warm['ece']:.3f} with temperature {decision['temperature']:.2f}" if warm and decision else ""
            lines.append(f"- expected calibration error (ECE) {SPLITS[split]}: {section['ece']:.3f}{told} (n = {n:,})")
        at = (section.get("binary") or {}).get("at_threshold")
        if at and decision:
            best_for = escaped(str(decision["threshold_criterion"]).replace("_", " "))
            lines.append(
                f"- {escaped(decision['positive_class'])} from p = {decision['threshold']:.3f} on (best {best_for} on "
                f"validation): sensitivity {_share(at['sensitivity'])}, specificity {_share(at['specificity'])}"
            )
        if decision and decision.get("confidence") is None:
            lines.append(f"- no confidence kept an accuracy of {decision['target_accuracy']:g} on validation")
        decided = section.get("decided")
        if decided and decision:
            right = f", {_share(decided['accuracy'])} of them right" if decided.get("accuracy") else ""
            lines.append(
                f"- confidence {decided['confidence']:.3f} and more (for an accuracy of {decision['target_accuracy']:g} on "
                f"validation): {decided['n']:,} of {n:,} images{right}; of the others it abstains"
            )
    return lines


def cost(record: dict) -> list[str]:
    model, speed = record["model"], record["throughput"]
    lines = [f"- {model['parameters']:,} parameters"] if model.get("parameters") else []
    if model.get("macs"):
        by_thop = f", {model['macs_thop']:,} by thop" if model.get("macs_thop") else ""
        lines.append(f"- {model['macs']:,} multiply-accumulates an image (FlopCounterMode){by_thop}")
    if model.get("checkpoint_mib"):
        lines.append(f"- checkpoint {model['checkpoint_mib']} MiB")
    for each in model.get("latency") or []:
        p95 = f", p95 {each['latency_p95_ms']} ms" if each.get("latency_p95_ms") else ""
        n = f", n = {each['repeats']}" if each.get("repeats") else ""
        where = escaped(f"{each.get('device')}, {plural(each.get('threads') or 0, 'thread')}")
        lines.append(f"- latency at batch {each['batch_size']}: p50 {each['latency_p50_ms']} ms{p95} ({where}{n})")
    if finite_number(record["run"].get("wall_time_s")) is not None:
        lines.append(f"- wall time of the whole run {record['run']['wall_time_s']:,.1f} s")
    if finite_number(speed.get("train_images_per_s")) is not None:
        lines.append(f"- training {speed['train_images_per_s']} images/s on {escaped(record['run'].get('device'))}")
    return lines


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n:,} times"


def _digits(value) -> str:
    return "-" if finite_number(value) is None else f"{value:.3f}"


def _with_interval(section: dict, key: str) -> str:
    low_high = (section.get("intervals") or {}).get(key)
    return _digits(section.get(key)) + (f" ({low_high[0]:.3f} to {low_high[1]:.3f})" if low_high else "")


def _share(entry: dict | None) -> str:
    """`0.846 (11 of 13, 0.578 to 0.957)`."""
    if not entry:
        return "-"
    return f"{entry['value']:.3f} ({entry['correct']:,} of {entry['n']:,}, {entry['low']:.3f} to {entry['high']:.3f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    made = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return made + ["| " + " | ".join(row) + " |" for row in rows]
