"""The objectives of a search: metrics of a run's record, each with its better direction."""

from typing import NamedTuple

from common.errors import UserError
from common.run_record import RunRecord
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
EPOCH_METRICS = {  # those measured after each epoch
    f"val.{name}": f"val/{name}" for name in ("accuracy", "balanced_accuracy", "f1", "auroc", "loss")
}


class Objective(NamedTuple):
    """An objective: one key of DIRECTIONS, read from records and formatted."""

    key: str

    @property
    def direction(self) -> str:
        return DIRECTIONS[self.key]

    def value_in(self, record: RunRecord) -> float:
        """Return the value in a record.

        Raises:
            UserError: the run did not measure it.
        """
        section, _, name = self.key.partition(".")
        found = getattr(record, section)
        if name == "latency_p50_ms" and found is not None:
            found = next(iter(found.single_latencies), None)
        found = getattr(found, name, None)
        value = finite_number(getattr(found, "value", found))
        if value is None:
            raise UserError(f"objectives: {self.key} is not a number in the record ({found})")
        return value

    def format(self, value: float) -> str:
        """Return `val accuracy 0.8102`, `model macs 38.9M`."""
        return f"{self.key.replace('.', ' ')} {compact_count(value) if value >= 1000 else f'{value:.4f}'}"

    def describe(self, record: RunRecord) -> str:
        """Format the value in a record; an accuracy with its interval and counts, an unreliable latency with the reason."""
        if self.key == "val.accuracy":
            return f"val accuracy {format_accuracy(record.val.accuracy)}"
        text = self.format(self.value_in(record))
        flag = record.model.single_latencies[0].flag if self.key == "model.latency_p50_ms" else None
        return f"{text} (unreliable: {flag})" if flag else text


def parse_objectives(keys: list[str]) -> list[Objective]:
    """Return the one or two objectives.

    Raises:
        UserError: none, too many, a repeated one, or an unknown one.
    """
    for key in keys:
        if key not in DIRECTIONS:
            closed = " (test images are not evaluated in a search)" if key.startswith("test") else ""
            raise UserError(f"objectives={key}: no such objective{closed}; {did_you_mean(key, DIRECTIONS)}")
    if len(keys) not in (1, 2) or len(set(keys)) < len(keys):
        raise UserError(f"objectives=[{','.join(keys)}]: give one, or two different ones")
    return [Objective(key) for key in keys]
