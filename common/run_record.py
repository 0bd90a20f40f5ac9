"""result.json, the record of a run, as typed sections; docs/make_result.py makes docs/result.md from their docstrings."""

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import shlex
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from common.atomic_io import write_json
from common.errors import UserError
from common.run_folder import PROJECT, RunFolder
from common.text import file_size, format_interval, milliseconds
from common.untrusted.json_files import read_json, to_type

log = logging.getLogger(__name__)

SCHEMA = 2
LARGEST = 16 * 2**20  # bytes; the record of a thousand classes is half a MiB
OLDER = {1: "0.1.0"}  # schema -> the version that reads it
PLACES = {  # where files are, and how a GPU computes the same results
    "ckpt_path", "datamodule.cache", "datamodule.cache_max_gib", "datamodule.gpu_cache_gib", "trainer.cuda_graphs",
}  # fmt: skip
AFTERWARDS = {"seeds", "good_enough", "deploy", "overview"}  # what is done with trained networks
REPEATS = {"seed", "datamodule.fold"}  # settings that only repeat a run
PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "thop", "numpy", "pillow")

Status = Literal["running", "finished", "failed", "pruned"]
Criterion = Literal["accuracy", "balanced_accuracy", "f1", "cost"]
Hex = Annotated[str, Meta(pattern="^[0-9a-f]*$")]


class OlderRecordError(UserError):
    """Name the version that reads a record of an older schema."""


@dataclass(kw_only=True)
class RunInfo:
    """How the run was started, on which machine and with which settings."""

    name: str = ""
    """Folder of the run, relative to outputs/ if it is there."""
    command: str = ""
    """The command as typed."""
    overrides: list[str] = field(default_factory=list)
    """Settings from the command line and the sweep."""
    seed: int | None = None
    """Seed of weights, order, augmentation and dropout."""
    choices: dict[str, str | None] = field(default_factory=dict)
    """The file chosen for each group of conf/."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Every setting by its dotted key, as written: interpolations are not resolved. Excluded are the locations of checkpoint
    and cache, and settings that change no training, such as `seeds`, `good_enough`, `deploy` and `overview`."""
    config_hash: Hex | None = None
    """16 hex digits that identify choices and settings; equal for runs that would do the same."""
    started_at: str | None = None
    """Local time with its offset, ISO 8601."""
    process_started_at: float | None = None
    """Seconds since 1970 when the last process that wrote this record began it."""
    wall_time_s: float | None = None
    """Seconds of the whole run, including those before an interruption."""
    git_commit: str | None = None
    """Commit of the code; null if the project is not a clone."""
    git_dirty: bool | None = None
    """Whether the code had changed since that commit."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of Python and of the packages that determine the numbers."""
    device: str | None = None
    """cpu, or the name of the GPU."""
    processes: int | None = None
    """Processes that trained together."""
    nodes: int | None = None
    """Machines that these processes ran on."""
    threads: int | None = None
    """Threads of each process."""
    ended_by: str | None = None
    """What ended the training before its last epoch: early stopping or the time limit."""
    debug: str | None = None
    """What made this a debug run, which is never ranked: debug=fast, trainer.limit_train_batches=0.1, ...; else null."""
    warnings: list[str] = field(default_factory=list)
    """Every warning that the run showed, once each."""


@dataclass(kw_only=True)
class Excluded:
    """An image that the run did not use."""

    path: str
    """Path relative to the root."""
    reason: str
    """Why it was not used."""


@dataclass(kw_only=True)
class AuditFinding:
    """Something suspicious about the images."""

    kind: str
    """conflict, group, exact duplicate, near duplicate, series, imbalance, odd, pages, names, few levels, bit depth or
    streamed."""
    leak: bool
    """Whether training images are also in val or test."""
    text: str
    """One sentence with counts and examples."""
    caveat: str | None = None
    """Why accuracies may be too high, a clause of results: `may be too high: ...`; empty if they are not. Null in records of
    earlier versions."""


@dataclass(kw_only=True)
class InputInfo:
    """How images become the input of the network."""

    image_size: int | None = None
    """Height and width in pixels."""
    fit: str | None = None
    """How an image becomes a square: squash, crop or pad."""
    interpolation: str | None = None
    """How the image is resized: bilinear or bicubic."""
    mean: list[float] | None = None
    """Mean of each channel for normalization, from 0 to 1; null if that of the training images was not computed."""
    std: list[float] | None = None
    """Standard deviation of each channel, as for `mean`."""
    source: str | None = None
    """Where interpolation, mean and std come from: weights, settings, a checkpoint, or ImageNet if none of these has them."""


@dataclass(kw_only=True)
class DataInfo:
    """The images: which ones, how many, and how they are split."""

    name: str | None = None
    """Name of the data set."""
    root: str | None = None
    """Folder to which the paths in the tables are relative."""
    classes: list[str] = field(default_factory=list)
    """Names in the order of the logits."""
    select_on: str | None = None
    """Split that chose the epoch: val, or test when the study is replayed."""
    splits_from: str | None = None
    """Whether the splits were given by the source, drawn, or taken from an earlier run."""
    n_train: int | None = None
    """Training images."""
    n_val: int | None = None
    """Validation images."""
    n_test: int | None = None
    """Test images."""
    folds: int | None = None
    """Folds of a cross-validation."""
    fold: int | None = None
    """Number of the fold used as val, from 0."""
    read_s: float | None = None
    """Seconds for listing, decoding and auditing the images."""
    kept_as: str | None = None
    """How the decoded images are kept: uint8, JPEG (last bits of pixels differ), or as files, decoded in every epoch."""
    range: tuple[float, float, bool] | None = None
    """With more than 8 bits a channel: values that become 0 and 255, and whether this includes files that state a range."""
    preprocessing: InputInfo | None = None
    """How images become the input of the network; null in records of earlier versions."""
    fingerprint: str | None = None
    """16 hex digits of all images with labels and splits, and of the weights of the training images."""
    fingerprint_full: str | None = None
    """As `fingerprint`, including training images that `datamodule.train_fraction` excluded: equal for all seeds."""
    fingerprint_val_test: str | None = None
    """As `fingerprint`, for only val and test, on which accuracies are measured."""
    fingerprint_folds: str | None = None
    """As `fingerprint`, for all images of a cross-validation: equal for all of its folds; null without folds."""
    excluded: list[Excluded] = field(default_factory=list)
    """Images that were not used."""
    audit: list[AuditFinding] | None = None
    """Findings of the audit; empty if it found nothing."""
    license: str | None = None
    """License of the images, if the source states one."""
    citation: str | None = None
    """What to cite for the images, if the source states it."""

    @property
    def caveats(self) -> list[str]:
        """Return the clauses that belong beside every accuracy on these images."""
        dropped = any(image.reason == "in val or test too" for image in self.excluded)  # datamodule.on_leak=drop
        of_leak = "" if dropped else "may be too high: {}s across train and val or test"
        clauses = [
            of_leak.format(finding.kind) if finding.caveat is None and finding.leak else finding.caveat
            for finding in self.audit or []
        ]
        return [clause for clause in clauses if clause]


@dataclass(kw_only=True)
class Latency:
    """Time of a forward pass in eval mode."""

    batch_size: int
    """Images at a time."""
    latency_p50_ms: float | None = None
    """Median over the repeats, milliseconds."""
    latency_p95_ms: float | None = None
    """95th percentile, milliseconds."""
    repeats: int | None = None
    """Timed passes."""
    warm_up: int | None = None
    """Passes before timing started."""
    device: str | None = None
    """cpu or cuda."""
    threads: int | None = None
    """Processor threads that were used."""
    cores: int | None = None
    """Cores that the process may use."""
    load_1min: float | None = None
    """Load average of the machine in the minute before, including the run's own work."""
    flag: str | None = None
    """Why the time is not reliable, such as `other processes used 1.6 of 2 cores`; null if it is reliable."""

    @property
    def is_reliable(self) -> bool:
        """Whether it was measured without a disturbance."""
        return self.latency_p50_ms is not None and self.flag is None

    def describe(self) -> str:
        """Return `latency p50 5.3 ms, p95 5.6 ms at batch size 1 (94 repeats)`, and why it is unreliable, if it is."""
        text = (
            f"latency p50 {milliseconds(self.latency_p50_ms)}, p95 {milliseconds(self.latency_p95_ms)} at batch size "
            f"{self.batch_size} ({self.repeats} repeats)"
        )
        return f"{text} (unreliable: {self.flag})" if self.flag else text


# Settings that name a file -> fields of `model` with the digest of its content
DIGESTS = {"model.weights": "weights_digest", "teacher": "teacher_digest"}


@dataclass(kw_only=True)
class ModelInfo:
    """The network and its cost for one image."""

    name: str | None = None
    """model.name in the configuration."""
    weights: str | None = None
    """Initial weights: random, imagenet (...), file NAME, hub OWNER/NAME@COMMIT or checkpoint PATH."""
    weights_digest: str | None = None
    """16 hex digits of the file that `model.weights` names, directly or as a folder; null if it names none."""
    teacher_digest: str | None = None
    """16 hex digits of the checkpoint that `teacher` names; null without a teacher."""
    parameters: int | None = None
    """All parameters."""
    parameters_trainable: int | None = None
    """Parameters that training changes."""
    macs: int | None = None
    """Multiply-accumulates counted by torch's FlopCounterMode."""
    macs_thop: int | None = None
    """Multiply-accumulates counted by thop, as in the study. Screen and pages show the larger count, mostly this one."""
    macs_difference: str | None = None
    """Why the two counts differ."""
    checkpoint_mib: float | None = None
    """Size of the evaluated checkpoint, MiB."""
    peak_memory_mib: float | None = None
    """Weights, one image, and the activations in memory at the same time, MiB."""
    latency: list[Latency] | None = None
    """At batch size 1 and at the training batch size; null until the end of a sweep whose jobs run side by side."""

    @property
    def counted_macs(self) -> int | None:
        """The count that screen and pages show: thop's, as in the study, or torch's when thop misses attention."""
        return max((count for count in (self.macs, self.macs_thop) if count), default=None)

    @property
    def single_latencies(self) -> list[Latency]:
        """Latencies at batch size 1."""
        return [each for each in self.latency or [] if each.batch_size == 1]


@dataclass(kw_only=True)
class BestEpoch:
    """The epoch whose weights were kept."""

    epoch: int | None = None
    """Number of the epoch, from 1."""
    monitor: str | None = None
    """Metric that chose it: val/accuracy, val/loss, val/f1, ..., or the same on test, or on train if a debug run overfits."""
    value: float | None = None
    """Value of this metric at that epoch."""
    checkpoint: str | None = None
    """File with the weights."""


@dataclass(kw_only=True)
class BatchNormChoice:
    """What callbacks.freeze_batch_norm.enabled=auto measured before the first step."""

    shift: float | None = None
    """How far the training images differ from the statistics of the pretrained batch norms, in nats."""
    kept: bool | None = None
    """Whether these statistics were kept."""
    lr_factor: float | None = None
    """Factor applied to the backbone's learning rate."""


@dataclass(kw_only=True)
class Decision:
    """Temperature, confidence and threshold, fitted on validation images; also in the checkpoint."""

    temperature: float
    """Divisor of the logits (Guo et al. 2017), fitted with targets smoothed as by Platt; 1 if val has no error to fit it on."""
    target_accuracy: float
    """Value of decision.target_accuracy for which `confidence` was chosen."""
    delta: float | None = None
    """decision.delta: the probability that the promise of `confidence` fails; null: no promise (old records, 8 bits)."""
    confidence: float | None = None
    """Smallest confidence at which a prediction is made; null if val promises the target for no share of the images."""
    fitted_on: int | None = None
    """Number of validation images."""
    design_effect: float = 1.0
    """Design effect of all `fitted_on` images if val has groups; `confidence` uses the one of the confident images."""
    positive_class: str | None = None
    """The class that `threshold` is for, if there are two classes."""
    threshold_criterion: Criterion | None = None
    """What `threshold` maximizes on val (accuracy, balanced_accuracy or f1) or minimizes (cost)."""
    false_negative_cost: float | None = None
    """For the criterion cost: how many false alarms a missed positive is worth."""
    threshold: float | None = None
    """Probability of the positive class from which it is predicted; null if val has images of only one class."""


@dataclass
class Proportion:
    """A share of images with its 95% Wilson interval."""

    value: float
    """correct / n."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    correct: int
    """Images counted as correct."""
    n: int
    """All images."""


@dataclass(kw_only=True)
class ClassScores:
    """One class against the rest."""

    name: str
    """The class."""
    n: int
    """Images of the class."""
    recall: Proportion | None = None
    """Null if there are no images of the class."""
    precision: Proportion | None = None
    """Null if the class was never predicted."""
    f1: float | None = None
    """2 TP / (2 TP + FP + FN)."""


@dataclass(kw_only=True)
class Confused:
    """Images of one class that were predicted as another."""

    label: str
    """True class."""
    predicted: str
    """Predicted class."""
    n: int
    """Number of such images."""


@dataclass(kw_only=True)
class AtThreshold:
    """Two classes: the positive one is predicted if its probability reaches a threshold."""

    threshold: float
    """Threshold on the probability of the positive class."""
    accuracy: Proportion
    """Share of images predicted correctly."""
    sensitivity: Proportion
    """Share of positives predicted as positive."""
    specificity: Proportion
    """Share of negatives predicted as negative."""
    balanced_accuracy: float
    """Mean of sensitivity and specificity."""
    f1: float
    """F1 of the positive class."""
    precision: Proportion | None = None
    """Null if nothing is predicted as positive."""


@dataclass(kw_only=True)
class Binary:
    """Metrics that only two classes have."""

    positive_class: str
    """The class that counts as positive."""
    average_precision: float
    """Sum over thresholds of the increase in recall times the precision."""
    at_half: AtThreshold
    """Metrics at a threshold of 0.5."""
    at_threshold: AtThreshold | None = None
    """Metrics at the threshold of `decision`."""


@dataclass(kw_only=True)
class Calibrated:
    """Metrics of the probabilities after scaling with the temperature of `decision`."""

    loss: float
    """Mean cross entropy, nats."""
    ece: float
    """Expected calibration error, 15 bins."""
    brier: float
    """Brier score, 0 to 2."""


@dataclass
class Selective:
    """Selective prediction: only images at or above the confidence of `decision`."""

    confidence: float
    """The confidence limit."""
    coverage: float
    """Share of the images at or above it."""
    n: int
    """Number of these images."""
    accuracy: Proportion | None = None
    """Accuracy on these images; null if there are none."""


@dataclass
class EceByChance:
    """Expected calibration error of a perfectly calibrated network with the same confidences, 15 bins."""

    mean: float
    """Mean over random draws of which images are right."""
    p95: float
    """95th percentile; an `ece` above it shows miscalibration."""


@dataclass
class Baseline:
    """Predicting the most frequent class of a split for every image."""

    name: str
    """The class."""
    share: float
    """Its share of the images, which is the accuracy of always predicting it."""

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> "Baseline":
        """Return the baseline for these counts of images per class; among equally frequent classes the first."""
        name = max(counts, key=counts.get)
        return cls(name, counts[name] / sum(counts.values()))


@dataclass(kw_only=True)
class SplitMetrics:
    """Results of the best checkpoint on val or test."""

    part: str | None = None
    """`8 of 14 test images` if a debug run was limited to these (listed in predictions_*.csv); null if all were used."""
    accuracy: Proportion | None = None
    """Accuracy of the most probable class."""
    baseline: Baseline | None = None
    """Accuracy of always predicting the most frequent class; in records of older versions it follows from `confusion`."""
    loss: float | None = None
    """Mean cross entropy, nats."""
    balanced_accuracy: float | None = None
    """Mean recall over the classes that have images."""
    f1: float | None = None
    """Macro F1."""
    auroc: float | None = None
    """Macro AUROC, one against the rest; null if all images are of one class."""
    ece: float | None = None
    """Expected calibration error, 15 bins."""
    ece_by_chance: EceByChance | None = None
    """The `ece` expected by chance."""
    brier: float | None = None
    """Brier score, 0 to 2."""
    confusion: list[list[int]] | None = None
    """Counts: rows are true classes, columns are predicted ones. Null with more than 100 classes, which have `confused`."""
    confused: list[Confused] | None = None
    """With more than 100 classes, the most frequent confusions."""
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """95% intervals by metric: the wider ends of a score interval and a bootstrap stratified by class."""
    further: dict[str, float | None] = field(default_factory=dict)
    """The user's own metrics (conf/metrics) by name, with their intervals in `intervals`. Null for NaN."""
    per_class: list[ClassScores] | None = None
    """One entry per class."""
    binary: Binary | None = None
    """Only if the images are of two classes."""
    calibrated: Calibrated | None = None
    """Only with a decision."""
    selective: Selective | None = None
    """Only with a decision that has a confidence."""
    test_evaluations: int | None = None
    """How often this training was evaluated on its test images, including this time; other images: 1. Null: val, or unknown."""

    @property
    def guessing(self) -> Baseline | None:
        """The baseline, also of records that only have the confusion matrix; None if they have neither."""
        counts = self.class_counts
        if self.baseline or not counts:
            return self.baseline
        names = [scores.name for scores in self.per_class or []]
        if len(names) != len(counts):
            names = [str(index) for index in range(len(counts))]
        return Baseline.of(dict(zip(names, counts, strict=True))) if sum(counts) > 0 else None

    @property
    def class_counts(self) -> list[int] | None:
        """Images of each class; None if they are not known."""
        if self.confusion:
            return [sum(row) for row in self.confusion]
        return [scores.n for scores in self.per_class] if self.per_class else None

    @property
    def no_better_than_guessing(self) -> bool:
        """Whether the interval of accuracy reaches down to the baseline."""
        return bool(self.accuracy and self.guessing and self.accuracy.low <= self.guessing.share)

    @property
    def better_than_guessing_by_class(self) -> bool:
        """Whether the interval of balanced accuracy is above that of guessing: 1 / (number of classes with images).

        With classes of equal size, it says the same as accuracy, of which `no_better_than_guessing` judges: then false.
        """
        interval = self.intervals.get("balanced_accuracy")
        sizes = [n for n in self.class_counts or [] if n > 0]
        return bool(interval and len(set(sizes)) > 1 and interval[0] > 1 / len(sizes))


@dataclass
class ExportCost:
    """What an exported file costs: the (balanced) accuracy of its checkpoint minus its own, on the same images."""

    value: float
    """The difference."""
    low: float
    """Lower end of its paired 95% interval."""
    high: float
    """Upper end of this interval."""
    verdict: str
    """`within 0.01`, `not within 0.01`, or `not shown to be within 0.01 by 28 images`."""

    def describe(self, of: str = "") -> str:
        """Return `costs 0.004 (-0.002 to 0.010): within 0.01`, or `gains ...` of a file that is more accurate."""
        gains = round(self.value, 3) < 0
        low, high = (-self.high, -self.low) if gains else (self.low, self.high)
        verb, interval = "gains" if gains else "costs", format_interval(low, high)
        return f"{verb} {abs(self.value):.3f} ({interval}){of}: {self.verdict}"


@dataclass(kw_only=True)
class ExportMetrics:
    """How the outputs of an exported file compare with those of its checkpoint, image by image on one split."""

    images: str
    """Which images, such as `2,000 of 9,812 validation images`."""
    n: int
    """Number of these images."""
    largest_difference: float
    """Largest difference of a probability."""
    changed: int
    """Images whose predicted class differs."""
    accuracy: Proportion | None = None
    """Accuracy of the file; null on training images, which would flatter it, and on synthetic ones."""
    cost: ExportCost | None = None
    """Null in the same cases as `accuracy`."""
    balanced_cost: ExportCost | None = None
    """As `cost`, in balanced accuracy, which shows what a rare class loses; null too if all classes are equally frequent."""

    def describe(self) -> str:
        """Return `accuracy 0.861 (0.826 to 0.890) on 400 validation images, costs 0.004 (-0.002 to 0.010): within 0.01`."""
        found, parts = self.accuracy, []
        if found and self.cost:
            accuracy = f"{found.value:.3f} ({format_interval(found.low, found.high)})"
            parts = [f"accuracy {accuracy} on {self.images}, {self.cost.describe()}"]
            if self.balanced_cost:
                parts.append(f"in balanced accuracy it {self.balanced_cost.describe()}")
        on = "" if parts else f"{self.images}: "
        return "; ".join([*parts, on + describe_difference(self.largest_difference, self.changed, self.n)])


def describe_difference(largest: float, changed: int, n: int) -> str:
    """Return `probabilities differ by at most 1.2e-07, 0 of 153 predictions differ`."""
    return f"probabilities differ by at most {largest:.1e}, {changed:,} of {n:,} predictions differ"


@dataclass(kw_only=True)
class Deployed:
    """The checkpoint, exported in the format that `deploy` names, and verified and measured as by export.py."""

    format: str
    """Name of the file in conf/format."""
    file: str | None = None
    """What was written, relative to the run's folder."""
    bytes: int | None = None
    """Size of the file; for a folder, of all its files."""
    latency: Latency | None = None
    """Latency of one image on one processor thread, including preprocessing; null if the format measures none."""
    calibrated_on: int = 0
    """Number of training images that set its ranges."""
    val: ExportMetrics | None = None
    """Results on validation images; null if there are none."""
    test: ExportMetrics | None = None
    """Results on test images; null if the run did not evaluate them when the file was made."""
    other: ExportMetrics | None = None
    """Without validation images: results on training images, else on synthetic ones; no accuracy."""
    error: str | None = None
    """Why there is no file."""

    def is_file_of(self, name: str) -> bool:
        """Return whether this is a file of that format, not a failed attempt."""
        return self.format == name and self.error is None

    @property
    def measured(self) -> list[ExportMetrics]:
        return [each for each in (self.val, self.test, self.other) if each]

    def describe(self) -> str:
        """Return `as onnx_int8: 420 KiB, 2.1 ms (p95 2.4 ms) per image on one thread, checkpoints/best_int8.onnx`."""
        if self.error:
            return f"as {self.format}: no file: {self.error}"
        parts, found = [] if self.bytes is None else [file_size(self.bytes)], self.latency
        if found:
            times = f"{milliseconds(found.latency_p50_ms)} (p95 {milliseconds(found.latency_p95_ms)})"
            flag = f" (unreliable: {found.flag})" if found.flag else ""
            parts.append(f"{times} per image on one thread{flag}")
        return f"as {self.format}: {', '.join([*parts, *([self.file] if self.file else [])])}"

    def describe_lines(self) -> list[str]:
        """Return `describe`, and one line per split, each beginning with the format."""
        return [self.describe(), *(f"as {self.format}: {each.describe()}" for each in self.measured)]


@dataclass(kw_only=True)
class EpochSpeed:
    """The training part of one epoch."""

    images: int
    """Images trained on."""
    seconds: float
    """Wall time of this part."""
    step_p50_ms: float | None = None
    """Median time of a step without loading its images, milliseconds; null in records of earlier versions."""
    step_p95_ms: float | None = None
    """95th percentile of the same."""
    others_cores: float | None = None
    """Cores that other processes used meanwhile, out of those that the run may use; null if the system does not report it."""
    stolen_cores: float | None = None
    """Cores that a virtual machine was denied meanwhile (stolen time); null if the system does not report it."""
    flag: str | None = None
    """Why the time is not reliable, such as `other processes used 1.6 of 2 cores`; null if it is reliable."""


def undisturbed(epochs: list[EpochSpeed]) -> list[EpochSpeed]:
    """Return the epochs without a flag; all epochs if each has one."""
    return [each for each in epochs if each.flag is None] or epochs


@dataclass(kw_only=True)
class Throughput:
    """How fast the run trained."""

    train_images_per_s: float | None = None
    """Images per second over all epochs but the first; if some of these have no flag, only over those."""
    flag: str | None = None
    """Why this is not reliable: each of these epochs has a flag; null if it is reliable."""
    epochs: list[EpochSpeed] = field(default_factory=list)
    """Every epoch of this process."""
    time_to_first_step_s: float | None = None
    """Seconds from the start of the process, or of its job in a sweep, to the end of the first training batch."""
    peak_memory_mib: dict[str, float] = field(default_factory=dict)
    """Peak memory of `process` and, if a GPU was used, of `gpu`."""

    def describe(self) -> str:
        """Return `55.2 images/s`, and what disturbed the epochs, if anything did."""
        text, steady = f"{self.train_images_per_s} images/s", self.epochs[1:]
        if self.flag:
            return f"{text} (unreliable: {self.flag})"
        left_out = sum(each.flag is not None for each in steady)
        return f"{text} (without {left_out} of {len(steady)} epochs, which were disturbed)" if left_out else text


@dataclass(kw_only=True)
class RunRecord:
    """The record of a run. It grows with the run and is written at its start, at training, on failure and at its end.

    A section is null if its stage did not run.
    """

    schema: int = SCHEMA
    """Version of this layout."""
    status: Status = "running"
    """running: has not reached its end; finished; failed; pruned: a search ended it."""
    reason: str | None = None
    """Why it failed or was pruned."""
    run: RunInfo = field(default_factory=RunInfo)
    data: DataInfo | None = None
    model: ModelInfo | None = None
    batch_norms: BatchNormChoice | None = None
    best: BestEpoch | None = None
    decision: Decision | None = None
    val: SplitMetrics | None = None
    test: SplitMetrics | None = None
    deployed: Deployed | None = None
    throughput: Throughput | None = None

    def __post_init__(self):
        self.folder: RunFolder | None = None
        self.writes = False
        self.in_sweep = False  # one of the jobs of a sweep or a search
        self.latency_comes_later = False  # other jobs of its sweep run at the same time
        self.previous: RunRecord | None = None  # record of the run that this one resumes
        self.tests_earlier_images = False  # some test images are those of `previous`, whose val and test differ
        self.evaluated_elsewhere: int | None = 0  # test evaluations in the folder where this training began
        self.has_trained = False  # whether this command made an optimizer step
        self.collected: list[str] = []  # warnings of this command so far; each write includes them
        self.evaluates_again = False  # evaluates the checkpoint of `previous` in its own folder, without training
        self._started = time.perf_counter()

    @classmethod
    def begin(cls, folder: RunFolder, *, command: list[str], overrides: list[str], writes: bool = True) -> "RunRecord":
        """Make the record of a run that starts now.

        Args:
            folder: of the run; what an earlier run recorded there becomes `previous`, unless it cannot be read.
            command: as typed.
            overrides: settings of the command line and of the sweep.
            writes: False in all processes of a run but the first.
        """
        about = RunInfo(
            name=folder.name,
            command=shlex.join(command),
            overrides=overrides,
            started_at=datetime.now().astimezone().isoformat(timespec="seconds"),
            process_started_at=time.time(),
            versions={"python": platform.python_version(), **{n: importlib.metadata.version(n) for n in PACKAGES}},
            **_git(),
        )
        record = cls(run=about)
        record.folder, record.writes, record.previous = folder, writes, _previous(folder)
        return record

    @classmethod
    def read(cls, folder: RunFolder | Path) -> "RunRecord":
        """Read the record of a run.

        Args:
            folder: of the run, or the path of its result.json.

        Raises:
            UserError: no record, too large, cut off, of another schema, or with values that no run writes; names file and key.
        """
        if isinstance(folder, Path):
            folder = RunFolder(folder.parent if folder.name == "result.json" else folder)
        content = read_json(folder.record, LARGEST)
        schema = content.get("schema")
        if type(schema) is not int or schema != SCHEMA:
            older = OLDER.get(schema) if type(schema) is int else None
            by = f"version {older} reads it" if older else f"this version reads schema {SCHEMA}"
            kind = OlderRecordError if older else UserError
            raise kind(f"{folder.record}: a record of schema {str(schema)[:60]}; {by}")
        if "status" not in content or content.get("run") is None:
            raise UserError(
                f"{folder.record}: status or run is missing, so this is not the record of a run; rerun it, or delete the folder"
            )
        record = to_type(content, cls, folder.record)
        record.folder = folder
        record.run.name = record.run.name or folder.path.name
        return record

    @classmethod
    def read_if_intact(cls, folder: RunFolder) -> "RunRecord | None":
        """Read the record of a run; return None where it is missing, damaged or of another version."""
        try:
            return cls.read(folder)
        except UserError:
            return None

    @property
    def previous_test_evaluations(self) -> int | None:
        """How often this training was evaluated on some of these test images before; None if unknown."""
        if self.previous is None or self.previous.test is None:
            return self.evaluated_elsewhere
        before, now = (each.data and each.data.fingerprint_val_test for each in (self.previous, self))
        known_others = before and now and before != now and not self.tests_earlier_images
        return 0 if known_others else self.previous.test.test_evaluations

    @property
    def resumes(self) -> bool:
        """Whether the previous run in this folder did not reach its end."""
        return self.previous is not None and self.previous.status in ("running", "failed")

    @property
    def has_done(self) -> bool:
        """Whether this command has trained or measured anything."""
        return self.has_trained or self.val is not None or self.test is not None

    def describe(self, settings: dict, choices: dict[str, str | None]) -> None:
        """Store the composed configuration: every setting by its dotted key, and the file chosen for each group.

        Two runs with the same `config_hash` would do the same; runs that differ only in REPEATS are repetitions of each other.
        """
        self.run.seed = settings["seed"]
        self.run.choices = {group: choice for group, choice in choices.items() if group.isidentifier()}
        self.run.settings = {key: value for key, value in flatten(settings).items() if key not in PLACES | AFTERWARDS}
        self.run.config_hash = config_digest(self.run.settings, self.run.choices)

    def check_same_images(self) -> None:
        """Check a repeated evaluation in the run's own folder, once the images are known.

        Raises:
            UserError: the images are not those of the run, or only a part of them.
        """
        if not self.evaluates_again or self.previous is None:
            return
        elsewhere = (
            f"{self.folder.path} takes only measurements of its own images; to write elsewhere: hydra.run.dir=DIR"
        )
        if self.run.debug and self.run.debug != self.previous.run.debug:
            raise UserError(f"{self.run.debug}: {elsewhere}")
        before, now = (each.data and each.data.fingerprint_val_test for each in (self.previous, self))
        if before and now and before != now:
            raise UserError(
                f"datamodule.root={self.data.root}: its val and test images are not those of the run; {elsewhere}"
            )

    def save(self) -> None:
        """Write what is known so far; a repeated evaluation is written only at its end."""
        if not self.evaluates_again:
            self._write("running", None)

    def save_new_warnings(self) -> None:
        """Write what is known so far if there are new warnings: the command that resumes a killed run does not repeat them."""
        if not set(self.collected) <= set(self.run.warnings):
            self.save()

    def mark_interrupted(self) -> None:
        """Write the record of a run that a signal ended and that can be resumed."""
        self._write("running", None)

    def finish(self) -> None:
        """Write the record of a run that completed its stages; a run that is only evaluated again keeps its status."""
        if not self.evaluates_again:
            self._write("finished", None)
            return
        before = self.previous
        self.run = dataclasses.replace(
            before.run, warnings=list(dict.fromkeys([*before.run.warnings, *self.collected]))
        )
        if self.model and before.model:
            missing = {key: value for key, value in vars(before.model).items() if getattr(self.model, key) is None}
            self.model = dataclasses.replace(self.model, **missing)
        for name in ("data", "model", "decision", "val", "test", "deployed"):
            setattr(self, name, getattr(self, name) or getattr(before, name))
        self.best, self.throughput = before.best, before.throughput
        self.status, self.reason = before.status, before.reason
        if self.writes:
            write_record(self)

    def fail(self, reason: str) -> None:
        """Write the record of a run that an error ended; if that fails too, the log says so."""
        try:
            self._write("failed", reason)
        except OSError as error:
            log.warning("could not write %s (%s); continuing", self.folder.record, error.strerror)

    def prune(self, reason: str) -> None:
        """Write the record of a run that a search ended."""
        self._write("pruned", reason)

    def _write(self, status: Status, reason: str | None) -> None:
        before_s = (self.previous and self.previous.run.wall_time_s) or 0
        self.run.wall_time_s = round(before_s + time.perf_counter() - self._started, 2)
        before = self.previous.run.warnings if self.resumes else []  # from before the interruption: first, once each
        self.run.warnings = list(dict.fromkeys([*before, *self.collected]))
        self.status, self.reason = status, reason
        if self.writes:
            write_json(self.folder.record, self._with_previous())

    def _with_previous(self) -> dict:
        """Return the record, completed from the previous run with what this command did not reach: a resumed run that fails
        keeps its data, network and best epoch, and always the number of its test evaluations."""
        content = asdict(self)
        known = self.previous is not None and self.status != "finished"
        for name in ("data", "model", "best") if known else ():
            content[name] = content[name] or asdict(self.previous)[name]
        if self.test is None and (n := self.previous_test_evaluations) != 0:
            content["test"] = asdict(SplitMetrics(test_evaluations=n))
        return content


def write_record(record: RunRecord) -> None:
    """Write result.json atomically."""
    write_json(record.folder.record, asdict(record))


def increment_test_evaluations(folder: RunFolder) -> int | None:
    """Count one more test evaluation in the record of the run that was trained in this folder.

    Return the new number, or None if that run has no readable record, or one without the number.
    """
    record = _previous(folder)
    if record is None or (record.test and record.test.test_evaluations is None):
        return None
    record.test = record.test or SplitMetrics()
    record.test.test_evaluations = (record.test.test_evaluations or 0) + 1
    write_record(record)
    return record.test.test_evaluations


def read_test_evaluations(folder: RunFolder) -> int:
    """Return the number of test evaluations in a run's record, 0 if there is none."""
    try:
        test = RunRecord.read(folder).test
    except (UserError, OSError):
        return 0
    return (test and test.test_evaluations) or 0


def keep_test_evaluations(folder: RunFolder, n: int) -> None:
    """Write a number of test evaluations into a run's record if that has a smaller one, from before they were counted."""
    record = _previous(folder) if n > read_test_evaluations(folder) else None
    if record is not None and (record.test is None or record.test.test_evaluations is not None):
        record.test = dataclasses.replace(record.test or SplitMetrics(), test_evaluations=n)
        write_record(record)


def describe_test_evaluations(n: int, selected_on_test: bool = False) -> str:
    """Describe how often a model was evaluated on its test images; shown on the screen from the second time on.

    Args:
        selected_on_test: whether the test images also chose the epoch.
    """
    times, bias = ("once", "") if n == 1 else (f"{n} times", "; only the first result is unbiased")
    if selected_on_test:
        bias = ", and they chose its epoch: no result is unbiased"
    return f"the test images were evaluated {times} with this model{bias}"


def flatten(settings: dict, prefix: str = "") -> dict:
    """Flatten nested settings to one level of dotted keys; of keys that begin with _ keep only `_target_`."""
    lines = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            lines |= flatten(value, f"{prefix}{key}.")
        elif key == "_target_" or not str(key).startswith("_"):  # a key may be a number
            lines[f"{prefix}{key}"] = value
    return lines


def config_digest(settings: dict, choices: dict) -> str:
    """Identify a configuration by 16 hex digits, whatever the order of its keys.

    torch.optim.adam.Adam is torch.optim.Adam: for a class of a library, only the package and the last name count.
    """
    short = {
        key: ".".join(value.split(".")[:: max(1, value.count("."))]) for key, value in settings.items()
        if key.endswith("_target_") and str(value).startswith(("torch.", "torchvision.", "lightning."))
    }  # fmt: skip
    text = json.dumps([sorted((settings | short).items()), sorted(choices.items())], default=str, ensure_ascii=False)
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).hexdigest()


def _previous(folder: RunFolder) -> RunRecord | None:
    """Return the record of an earlier run in this folder; None if there is none that can be read."""
    if not folder.record.is_file():
        return None
    try:
        return RunRecord.read(folder)
    except OlderRecordError:
        raise  # its folder is intact; this version neither resumes nor overwrites it
    except UserError as error:
        log.warning("the record of the earlier run cannot be used: %s", error)
        return None


def refuse_older_run(folder: RunFolder) -> None:
    """Raise OlderRecordError if a run was recorded by a version whose settings and weights have other names."""
    try:
        RunRecord.read(folder)
    except OlderRecordError:
        raise
    except UserError:
        return  # no record, or a damaged one: the checkpoint may still be intact


def _git() -> dict:
    """Return the commit of the code, None if it is not a clone or git is missing."""

    def ask(*arguments: str) -> str:
        environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        command = ["git", *arguments]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True, env=environment)
        return done.stdout.strip()

    try:
        return {"git_commit": ask("rev-parse", "HEAD"), "git_dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"git_commit": None, "git_dirty": None}
