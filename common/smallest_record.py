"""smallest.json, the result of `smallest.py`: the candidates with their costs, how far each has come, and the answer."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from common.atomic_io import write_json
from common.errors import UserError
from common.run_record import Deployed, Latency
from common.untrusted.json_files import read_json, to_type

SCHEMA = 1
LARGEST = 64 * 2**20  # bytes; a thousand candidates are one MiB
FILE = "smallest.json"

# Key of `cost=` and of `limits.*` -> its meaning and unit
COSTS = {
    "macs": "multiply-accumulates of one image",
    "parameters": "parameters",
    "file_kib": "size of the weights as float32, KiB",
    "activation_kib": "peak memory of the activations of one image as float32, KiB",
    "activation_int8_kib": "peak memory of the activations of one image as int8, KiB",
    "latency_ms": "time of one image on this machine, ONNX on one thread, median, ms",
}
Metric = Literal["accuracy", "balanced_accuracy"]
Verdict = Literal["shown", "shown_as_trained", "not_shown", "chosen_not_proved", "none"]


@dataclass(kw_only=True)
class Costs:
    """What the network needs for one image, measured without data, with a head for the classes of the data."""

    parameters: int
    macs: int
    """Multiply-accumulates, thop's count."""
    file_kib: float
    """Weights and buffers as float32, KiB."""
    activation_kib: float
    """Peak memory of the activations that are needed at the same time while the network runs, as float32, KiB."""
    activation_int8_kib: float
    """The same with one byte per value, KiB."""
    latency: Latency | None = None
    """As an ONNX file on one thread; null if it was not measured."""

    @property
    def latency_ms(self) -> float | None:
        return self.latency and self.latency.latency_p50_ms

    def of(self, key: str) -> float | None:
        """Return the cost that a key of COSTS names; None if it was not measured."""
        return getattr(self, key)


@dataclass(kw_only=True)
class Measured:
    """A value of the metric with its 95% interval."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    """Number of images."""
    n_seeds: int = 1


@dataclass(kw_only=True)
class Trained:
    """The runs of a candidate."""

    runs: list[str] = field(default_factory=list)
    """Folders below that of the search, one per seed or fold."""
    seeds: list[int] = field(default_factory=list)
    epochs: int | None = None
    """The most epochs that any of the runs has trained."""
    ended: Literal["finished", "pruned", "failed", "waiting"] = "waiting"
    reason: str | None = None
    """Why it was pruned or failed."""
    val: Measured | None = None
    test: Measured | None = None
    """Null unless it was evaluated on the test images."""


@dataclass(kw_only=True)
class Candidate:
    """A backbone cut after one of its blocks, for images of one size."""

    backbone: str
    keep: str
    """The name of the last block that is kept."""
    image_size: int
    """Pixels, height and width."""
    whole: bool = False
    """Whether it is the whole backbone without its classifier."""
    pretrained: bool
    weights: str
    """Where the weights are from, or `random`."""
    costs: Costs
    excluded: str | None = None
    """Why it takes no part, such as the limit that it exceeds."""
    probe: Measured | None = None
    """Of a logistic regression on its features, without training the backbone; null if it was not screened."""
    stage: Literal["candidate", "screened", "raced", "final"] = "candidate"
    """How far it has come."""
    frozen: bool = False
    """Whether only its head is trained, since fine-tuning it does not fit into the budget."""
    trained: Trained | None = None
    deployed: Deployed | None = None
    """The exported file of its first run's network, with its path below the folder of the search."""

    @property
    def network(self) -> str:
        """Return `tf_efficientnet_lite0 cut after blocks.3.0`, or only the backbone's name if it is whole; `frozen` first."""
        frozen = "frozen " if self.frozen else ""
        return f"{frozen}{self.backbone}" if self.whole else f"{frozen}{self.backbone} cut after {self.keep}"

    @property
    def name(self) -> str:
        """Return `tf_efficientnet_lite0 cut after blocks.3.0, 128 px`."""
        return f"{self.network}, {self.image_size} px"


@dataclass(kw_only=True)
class Pair:
    """The chosen candidate against the reference on the images of one split: its value minus the reference's."""

    split: Literal["val", "test"]
    difference: float
    at_least: float
    """One-sided lower bound of the difference with confidence 1 - `level`; with a target, of the value itself."""
    level: float = 0.05
    """For settings, 0.05 divided by the number of candidates that could have been chosen, or by two if there was only one and
    its trained network is not shown to be good enough."""
    p_value: float
    """One-sided, for a difference of -margin or less, or a value of the target or less."""
    n: int
    n_seeds: int
    of_settings: bool
    """Whether it holds for other seeds of the same settings; if false, only for these trained networks."""
    smallest_margin: float | None = None
    """The smallest margin, or with a target the largest target, that these images show."""
    would_decide: str | None = None
    """What would show it, such as `about 610 test images`; null if it is shown or if the value itself is not within."""


@dataclass(kw_only=True)
class Question:
    """What was asked, from the command line and the defaults."""

    cost: list[str]
    """One or two keys of COSTS; the first one decides."""
    metric: Metric
    good_enough: float
    """Largest accepted loss of the metric against the reference."""
    target: float | None = None
    """Value of the metric that is enough, whatever the reference reaches; null: none was asked for."""
    limits: dict[str, float] = field(default_factory=dict)
    """Key of COSTS -> the most that is allowed."""
    deploy: str | None = None
    """Format of export.py in which the finalists are exported and measured; null: none was asked for."""
    budget_minutes: float | None = None
    seeds: list[int] = field(default_factory=list)


@dataclass(kw_only=True)
class Answer:
    """The answer and its evidence."""

    verdict: Verdict
    chosen: int
    """Index into `candidates`."""
    reference: int | None = None
    """Index of the most accurate candidate that was trained."""
    nearest: int | None = None
    """Index of the nearest cheaper candidate if the reference is chosen, since none was within the margin on validation."""
    val: Pair | None = None
    test: Pair | None = None
    as_trained: bool | None = None
    """Whether test images show the network in best.ckpt itself to be good enough; null in answers of earlier versions."""
    n_finalists: int = 1
    """Number of candidates besides the reference that could have been chosen; with a target, so could the reference."""
    sentences: list[str] = field(default_factory=list)
    """For the screen and the page: the answer first, then its evidence."""
    commands: list[str] = field(default_factory=list)
    """Next commands: predict, export, demo."""


@dataclass(kw_only=True)
class SmallestRecord:
    """The complete result of a search for the smallest network."""

    schema: int = SCHEMA
    status: Literal["running", "finished"] = "running"
    name: str = ""
    command: list[str] = field(default_factory=list)
    """As typed."""
    question: Question
    data: dict[str, Any] = field(default_factory=dict)
    """name, classes, n_train, n_val, n_test, n_groups (named groups of images), majority_val and majority_test (share of the
    largest class among the images that are predicted), rarest_val and rarest_test (number of images of the rarest class among
    them), folds (null: one validation split), caveats (why accuracies may be too high)."""
    machine: dict[str, Any] = field(default_factory=dict)
    """processor, cores, load_1min."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Per stage, over this and earlier commands that were not killed: start, screen, race, finals, proof, latency, export."""
    earlier_s: float = 0.0
    """How many of these seconds are of commands before the one that found the answer; each command has its own budget."""
    n_trained: int = 0
    """Number of runs that were trained."""
    candidates: list[Candidate] = field(default_factory=list)
    front: list[int] = field(default_factory=list)
    """With two costs: the candidates that no other candidate beats in both."""
    answer: Answer | None = None
    notes: list[str] = field(default_factory=list)
    """What was skipped, fell back or was cut off by the budget, one sentence each."""

    def write(self, folder: Path) -> None:
        """Write smallest.json."""
        write_json(folder / FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "SmallestRecord":
        """Read smallest.json; raise UserError if it is missing, damaged or of another version."""
        path = folder / FILE
        content = read_json(path, LARGEST)
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise UserError(
                f"{path}: written by another version of smallest.py; run smallest.py again with another name=NAME"
            )
        return to_type(content, cls, path)
