"""What a search looks for: numbers of a run's record, and which way is better."""

from typing import NamedTuple

from common.text import compact_count, did_you_mean, finite_number
from evaluation.intervals import format_accuracy

UP, DOWN = "maximize", "minimize"
DIRECTIONS = {
    "val.accuracy": UP,
    "val.balanced_accuracy": UP,
    "val.f1": UP,
    "val.auroc": UP,
    "val.loss": DOWN,
    "val.ece": DOWN,
    "model.macs": DOWN,
    "model.macs_thop": DOWN,
    "model.parameters": DOWN,
    "model.checkpoint_mib": DOWN,
    "model.latency_p50_ms": DOWN,  # of one image
}
WORDS = {
    "val.f1": "val macro F1",
    "val.auroc": "val AUROC",
    "val.ece": "val calibration error",
    "model.macs": "MACs",
    "model.macs_thop": "MACs by thop",
    "model.parameters": "parameters",
    "model.checkpoint_mib": "MiB of checkpoint",
    "model.latency_p50_ms": "latency in ms",
}
COUNTS = {"model.macs", "model.macs_thop", "model.parameters"}
AFTER_EACH_EPOCH = {"val.accuracy": "val/accuracy", "val.loss": "val/loss"}  # all that is known of an epoch


class Objective(NamedTuple):
    """One of DIRECTIONS."""

    key: str

    @property
    def direction(self) -> str:
        return DIRECTIONS[self.key]

    @property
    def words(self) -> str:
        return WORDS.get(self.key, self.key.replace(".", " ").replace("_", " "))

    def of(self, record: dict) -> float:
        """The number in a record.

        Raises:
            ValueError: the run has not measured it.
        """
        section, _, key = self.key.partition(".")
        found = (record.get(section) or {}).get(key)
        if key == "latency_p50_ms":
            latencies = (record.get("model") or {}).get("latency") or []
            found = next((entry[key] for entry in latencies if entry["batch_size"] == 1), None)
        value = finite_number(found["value"] if isinstance(found, dict) else found)
        if value is None:
            raise ValueError(f"objectives: {self.key} is not a number in the record ({found})")
        return value

    def say(self, value: float) -> str:
        """`val accuracy 0.8102`, `MACs 38.9M`."""
        return f"{self.words} {compact_count(value) if self.key in COUNTS else f'{value:.4f}'}"

    def measured(self, record: dict) -> str:
        """As `say`, an accuracy with its interval and counts."""
        if self.key == "val.accuracy":
            return f"{self.words} {format_accuracy(record['val']['accuracy'])}"
        return self.say(self.of(record))


def parse_objectives(keys: list[str]) -> list[Objective]:
    """One or two.

    Raises:
        ValueError: none, too many, one twice, or one that is not known.
    """
    for key in keys:
        if key not in DIRECTIONS:
            closed = " (the test split stays closed in a search)" if str(key).startswith("test") else ""
            raise ValueError(f"objectives={key}: no such objective{closed}; {did_you_mean(str(key), DIRECTIONS)}")
    if len(keys) not in (1, 2) or len(set(keys)) < len(keys):
        raise ValueError(f"objectives=[{','.join(keys)}]: give one, or two different ones")
    return [Objective(key) for key in keys]
