"""The budget, and the decisions made under it, kept so that a repeated command decides the same."""

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

from common.atomic_io import write_json
from common.errors import UserError
from common.locks import locked
from common.run_folder import RunFolder
from common.run_record import RunRecord, undisturbed
from common.smallest_record import Candidate
from common.text import clean, join_words, override_value
from engine.state import STATE

log = logging.getLogger(__name__)

FILE = "plan.json"
TRAINING = 5.0  # an image's training step in forward passes: forward, backward, batches of 16 images
LONGEST = 120  # characters of a setting that a refusal repeats
HEAD = 2.0  # all training of an image in forward passes, backbone frozen: features without augmentation, one epoch
STEM = 0.2  # share of a whole pass that every cut takes: the first layers compute little but move whole images
FIRST_RATE = 1.5e9  # MACs per second, assumed until a pass has measured this machine
PER_RUN_S = 6.0  # seconds of a run outside its epochs
RESERVE_S = 30.0  # seconds kept for test images, latencies and the page
LIMIT = 1.2  # share of the budget that a command may take
CUT_OFF = 1.15  # share of the budget at which a run is stopped before its last epoch, sooner where RESERVE_S needs it
IMAGES, WEIGHTS, FILES, NETWORKS, OWN_WEIGHTS = "images", "weights", "files", "networks", "own_weights"
CHANGED = {  # what identifies a search besides its settings: key -> its name in a message where it differs
    IMAGES: "images, labels, splits or image weights that have changed since",
    WEIGHTS: "weights files that have changed since",
    FILES: "settings in files of conf or --config-dir that have changed since",
    NETWORKS: "networks of your own whose layers have changed since",
    OWN_WEIGHTS: "networks of your own that set other weights now",
}
SEARCH = "search"  # the key, among the decisions, of what identifies a folder's search
DECISIONS = ("race", "raced", "race below", "raced below", "finals", "repeats")  # each depends on those before it


class Budget:
    """The time budget of a command.

    Args:
        minutes: for the whole command; None: no limit.
        left_minutes: what is left of it, in a process that the command has started; None: the command starts now.
        spent_s: seconds that this process has taken so far, for its imports.
    """

    def __init__(self, minutes: float | None, left_minutes: float | None = None, spent_s: float = 0.0):
        self.minutes = minutes
        self._started_s = time.monotonic() - spent_s
        if minutes is not None and left_minutes is not None:
            self._started_s -= (minutes - left_minutes) * 60

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    def left_s(self, share: float = 1.0) -> float | None:
        """Return the seconds that are left of a share of the budget; None: no limit."""
        return None if self.minutes is None else share * self.minutes * 60 - self.elapsed_s

    def minutes_for(self, seconds: float) -> int:
        """Return a budget in minutes, larger than this one, that allows this many more seconds with a tenth to spare."""
        return max(math.ceil(1.1 * (self.elapsed_s + seconds) / 60), math.floor(self.minutes) + 1)

    @property
    def is_over(self) -> bool:
        """Whether runs have to stop before their last epoch."""
        return self.minutes is not None and min(self.left_s(CUT_OFF), self.left_s(LIMIT) - RESERVE_S) < 0


class Plan:
    """plan.json: decisions by name, each with the budget under which it was made; another budget decides again."""

    def __init__(self, folder: Path, budget: Budget):
        self.path, self.budget = folder / FILE, budget
        lock = self.path.with_suffix(".lock")
        self._locked = partial(locked, lock, timeout_s=-1, removes=True, what="deciding what to train")

    @property
    def search(self) -> dict[str, object] | None:
        """What identifies the search that has begun in this folder, as in `claim`; None where none has."""
        return self._read().get(SEARCH)

    def claim(self, search: dict[str, object]) -> None:
        """Write down what identifies the search of this folder: by key, its settings and what CHANGED lists.

        Raises:
            UserError: the folder has a search with other settings or images, and their results would be mixed.
        """
        with self._locked():
            known, search = self._read(), json.loads(json.dumps(search))
            before = known.setdefault(SEARCH, search)
            for key in {FILES, NETWORKS, OWN_WEIGHTS} & search.keys() if isinstance(before, dict) else ():
                before.setdefault(key, search[key])  # earlier versions did not store it
            if before != search:
                before = before if isinstance(before, dict) else {}
                keys = [key for key in {**before, **search} if before.get(key) != search.get(key)]
                if len(keys) > 1:
                    keys = [key for key in keys if key != FILES]  # typed settings change it, too, so name only those
                different = [
                    CHANGED.get(key) or f"{key}{_as_typed(before, key)}, now {_as_typed(search, key)[1:]}"
                    for key in keys
                ]
                raise UserError(
                    f"{self.path.parent}: contains an earlier search with {join_words(different)}; use another "
                    f"{STATE.other_folder}, or delete this folder"
                )
            write_json(self.path, known)

    def decide(self, name: str, decide: Callable[[], object]) -> object:
        """Return the decision `name` of DECISIONS, made by this process if none has made it yet.

        A new one discards those that depend on it, such as the finals on a run of the race that had failed before.
        """
        with self._locked():
            if self.is_decided(name):
                return self._read()[name]["decision"]
            known, decision = self._read(), decide()
            for later in DECISIONS[DECISIONS.index(name) + 1 :]:
                known.pop(later, None)
            known[name] = {"budget_minutes": self.budget.minutes, "decision": decision}
            write_json(self.path, known)
            return decision

    def keep_networks(self, candidates: int) -> None:
        """Let the decisions of an earlier budget stand, except for the number of seeds that it allowed.

        Taken again, they would be for a more expensive reference, whose seeds this budget would lack in turn.

        Raises:
            UserError: as `check`, of this number of candidates.
        """
        with self._locked():
            if not self.completes_seeds:
                return
            known = self._read()
            decided = {name: known[name] for name in DECISIONS if name in known}
            for name, entry in decided.items():
                self.check(name, entry.get("decision") if isinstance(entry, dict) else None, candidates)
            earlier = known.pop("repeats")["budget_minutes"]
            for entry in decided.values():
                entry["budget_minutes"] = self.budget.minutes
            known["race"]["decision"]["notes"].append(
                f"This is the race of budget.minutes={earlier}, whose finals this budget completes; with another one, a new "
                "race is planned."
            )
            write_json(self.path, known)

    @property
    def completes_seeds(self) -> bool:
        """Whether an earlier budget lacked time for seeds of its finalists, and this one is what it named as enough."""
        try:
            enough = self._read()["repeats"]["decision"]["decision"]["enough_minutes"]
            return self.budget.minutes is not None and enough <= self.budget.minutes
        except (KeyError, TypeError):  # nothing decided, all seeds allowed, or decided by an earlier version
            return False

    def check(self, name: str, found: object, candidates: int) -> None:
        """Check that a decision with its notes has the form that its name requires, for this number of candidates.

        Raises:
            UserError: it has another one.
        """
        parts = found if isinstance(found, dict) else {}
        decision, notes = parts.get("decision"), parts.get("notes")
        if name == "repeats":
            # Earlier versions wrote the number itself
            allowed = decision.get("allowed") if isinstance(decision, dict) else decision
            is_known = type(allowed) is int and allowed > 0
        else:
            places = decision if isinstance(decision, dict) else {}
            lists = [places.get("places"), places.get("frozen")] if name in ("race", "race below") else [decision]
            is_known = all(isinstance(each, list) for each in lists) and (bool(lists[0]) or name == "race below")
            is_known = is_known and all(type(i) is int and 0 <= i < candidates for each in lists for i in each)
        if not is_known or not isinstance(notes, list) or not all(isinstance(text, str) for text in notes):
            raise UserError(
                f"{self.path}: the decision {name!r} is damaged; delete this file and rerun the same command, which decides "
                "again with the runs that have finished"
            )

    def is_decided(self, name: str) -> bool:
        """Return whether a decision was made under this budget."""
        entry = self._read().get(name)
        return isinstance(entry, dict) and entry.get("budget_minutes") == self.budget.minutes

    def _read(self) -> dict:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError:
            found = None
        if isinstance(found, dict):
            return found
        log.warning(
            "%s is damaged, so this command decides again with the runs that have finished; whether those have its settings "
            "and images cannot be checked", self.path,
        )  # fmt: skip
        return {}


def _as_typed(search: dict[str, object], key: str) -> str:
    """Return `=0.02`, or ` not set` for a setting that was not typed, whose value is from a file of conf."""
    if key not in search:
        return " not set"
    return f"={clean(search[key] if isinstance(search[key], str) else override_value(search[key]), LONGEST)}"


class TrainingTimes:
    """Predict training times in seconds, from the passes of the screen and then from finished runs.

    Timings taken while other programs used the cores would make networks seem slower than they are. Such a pass counts as no
    slower than usual on this machine, and such an epoch counts only where a run has no other.
    """

    def __init__(self, passes: Sequence, n_train: int, n_val: int, epochs: int):
        timed = [each for each in passes if not each.skipped and each.seconds > 0]
        rates = [each.macs * each.images / each.seconds for each in timed]
        calm = [rate for rate, each in zip(rates, timed, strict=True) if each.flag is None]
        self._usual = median(calm or rates or [FIRST_RATE])
        self._rates = {
            (each.backbone, each.image_size): (max(rate, self._usual) if each.flag and calm else rate, each.macs)
            for rate, each in zip(rates, timed, strict=True)
        }
        self._images, self._images_frozen = TRAINING * n_train + n_val, HEAD * n_train + n_val
        self._epochs = epochs
        self._factors: list[float] = []
        self._factors_disturbed: list[float] = []  # of runs that have only disturbed epochs

    def of(self, candidate: Candidate) -> float:
        """Return the predicted seconds of one whole training of a candidate."""
        if candidate.frozen:
            return self.of_head(candidate)
        factor = median(self._factors) if self._factors else min(self._factors_disturbed, default=1.0)
        return PER_RUN_S + factor * self._epochs * self._images * self._forward_s(candidate)

    def of_head(self, candidate: Candidate) -> float:
        """Return the predicted seconds to train a candidate's head on the frozen backbone."""
        return PER_RUN_S + self._images_frozen * self._forward_s(candidate)

    def _forward_s(self, candidate: Candidate) -> float:
        """Return the seconds of a forward pass of one image, from the screen's pass with its backbone and size."""
        rate, whole = self._rates.get((candidate.backbone, candidate.image_size), (self._usual, candidate.costs.macs))
        return (STEM * whole + (1 - STEM) * candidate.costs.macs) / rate

    def learn(self, candidate: Candidate, folder: RunFolder) -> None:
        """Correct the predicted fine-tuning times by a run that has finished."""
        record = None if candidate.frozen else RunRecord.read_if_intact(folder)
        epochs = undisturbed(record.throughput.epochs) if record and record.throughput else []
        if epochs:
            factors = self._factors_disturbed if epochs[0].flag else self._factors
            factors.append(median(each.seconds for each in epochs) / (self._images * self._forward_s(candidate)))
