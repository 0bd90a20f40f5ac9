"""Find the smallest network that is good enough: candidates, screen, race, finals, choice, proof, page."""

import contextlib
import hashlib
import itertools
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from engine.process_tuning import import_torchmetrics

import_torchmetrics()  # before Lightning does

import lightning as L
import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from callbacks.run_progress import USED_UP
from common.checks import FEWEST_SEEDS
from common.errors import StopRequested, UserError
from common.idle import warn_of_idle
from common.run_folder import RunFolder
from common.signals import stop_immediately
from common.smallest_record import Candidate, SmallestRecord
from common.text import duration, is_own_backbone, milliseconds, plural, quote_override
from datamodules.sources.catalog import Catalog
from engine.cli import MAY_DIFFER
from engine.config.validate import validate
from engine.processes import starts_processes
from engine.run.job import write_configuration
from engine.run.stages import build_data
from engine.search.space import compose_run
from engine.search.study import database_url, storage_errors
from engine.search.trial import log_to
from engine.smallest.answer import Answerer
from engine.smallest.candidates import apply_limits, list_candidates
from engine.smallest.feature_cache import weights_name
from engine.smallest.latency import check_onnx, measure_latencies, processor_name, take_known_latencies
from engine.smallest.plan import FILES, IMAGES, NETWORKS, OWN_WEIGHTS, RESERVE_S, WEIGHTS, Budget, Plan, TrainingTimes
from engine.smallest.progress import Progress, repeats_hidden
from engine.smallest.race import Race
from engine.smallest.runs import STAGES, RunKey, Runs, describe_failure, idle_in_runs
from engine.smallest.screen import SCREEN_SHARE, Rows, Screen, read_folds
from engine.smallest.selection import (
    REFERENCE_SHARE,
    Racer,
    is_raced_unprobed,
    pick_finalists,
    pick_race,
    pick_reference,
    rank_of,
)
from engine.smallest.settings import WEIGHTED, SmallestSettings, read_settings
from engine.smallest.workers import prepare_worker, run_workers
from engine.state import STATE
from engine.sweep.lost_jobs import wait_for_all
from evaluation.intervals import ONE_SIDED, guessing_probability, wilson
from lightning_modules.networks.truncated import build_backbone
from lightning_modules.pretrained_weights import OF_NETWORK, weights_of_itself
from lightning_modules.weight_sources import find_file
from reports.smallest_words import SKEWED, guess_share

log = logging.getLogger(__name__)

LATENCY = "latency_ms"
UNMEASURABLE = f"{LATENCY} cannot be measured"  # why a candidate is excluded
START = "start"  # a key of the stages' seconds: the time until the images are read, and to start workers
DECISIVE = ("metric", "good_enough", "target_accuracy", "cost", "limits", "seeds", "race", "finals", "candidates")


def run_smallest(config: DictConfig, run: Callable, progress: Progress) -> None:
    """Run all stages, reusing those that an earlier command has finished; write smallest.json, the page and best.ckpt.

    Args:
        run: train.py's function, which takes a configuration, a record and further callbacks.

    Raises:
        UserError: wrong settings, no candidate, or images from which nothing can be learned.
    """
    for key in ("worker", "budget.left_minutes"):
        if (value := OmegaConf.select(config, key)) is not None:
            raise UserError(f"{quote_override(key, value)}: is set by smallest.py itself; remove it")
    with stop_immediately():
        Smallest(config, run, progress).find()


def work(config: DictConfig) -> None:
    """Do what is left of screen, race and finals, in a process that a launcher has started; the first process answers."""
    from train import run  # a worker does not go through the root script, which passes it otherwise

    prepare_worker()
    with stop_immediately(), Progress() as progress:
        Smallest(config, run, progress).train()


class Smallest:
    """Find the smallest network that is good enough; the processes of a search share only its folder."""

    def __init__(self, config: DictConfig, run: Callable, progress: Progress):
        hydra = HydraConfig.get()
        self.settings = read_settings(config, Path(hydra.run.dir), list(hydra.overrides.task))
        self.config, self._run, self.progress = config, run, progress
        self.question, self.folder = self.settings.question, self.settings.folder
        spent_s = time.perf_counter() - STATE.started_s
        self.budget = Budget(self.question.budget_minutes, config.budget.left_minutes, spent_s)
        self.plan = Plan(self.folder, self.budget)

    def find(self) -> None:
        """Run all stages."""
        launcher = HydraConfig.get().launcher
        wait_for_all(launcher)
        self._prepare()
        with log_to(self.folder / "smallest.log"):
            if starts_processes(launcher) and not self._is_answered:
                self.progress.set(f"{plural(self.settings.workers, 'worker')} at work")
                run_workers(self.config, self.settings.workers, self.budget.left_s())
                self.record.seconds = SmallestRecord.read(self.folder).seconds  # counted by the workers
                self._count_start()
            self._answer(self._train())

    def train(self) -> None:
        """Run the stages that processes share: all but the answer."""
        self._prepare()
        self._train()

    def _train(self) -> list[int]:
        try:
            self._screen()
            if self.plan.completes_seeds and not self._has_time_for_seeds_of_a_new_race():
                self.plan.keep_networks(len(self.candidates))
            return self._finals(self._race_below(self._race()))
        except StopRequested:
            self._save()  # with the seconds so far
            raise

    def _prepare(self) -> None:
        database_url(self.settings.storage, self.folder)
        if self._asks_latency:
            check_onnx(self._asks_latency)
        small = [
            "model=truncated", f"model.image_size={min(self.settings.candidates.image_sizes)}", "model.weights=null"
        ]  # fmt: skip
        config = validate(compose_run([*self.settings.overrides, *small, STAGES]))  # of a run, to look at the images
        data = build_data(config)  # without the memory of earlier commands in this process: are these still the images?
        if data.source.streams:
            raise UserError(
                f"{type(data.source).__name__} streams its training images, but smallest.py computes features of all of them; "
                "use datamodule=image_folder datamodule.root=DIR with a part of the images"
            )
        notes: list[str] = []
        with repeats_hidden():  # the screening phase would log it again
            self.progress.begin("candidates: looking up weights, measuring costs")
            self.candidates = list_candidates(self.config, self.settings.candidates, len(data.catalog.classes), notes)
            apply_limits(self.candidates, self.question.limits)
            self.progress.begin("reading the images")
            with self.progress.open_to_others():  # no run has begun
                data.setup()
            self.fold_rows = self._read_folds(config, data.catalog)
            self.folds = self.fold_rows and len(self.fold_rows)
        if self.config.worker is None:
            idle = idle_in_runs(self.settings, config, data, self.folds)
            warn_of_idle(HydraConfig.get().overrides.task, idle)
        self._begin(data)
        self.record.notes = [*notes, *self.record.notes]

    def _read_folds(self, config: DictConfig, catalog: Catalog) -> list[Rows] | None:
        """Return the rows of train and val in each fold; None: one validation split and several seeds.

        Args:
            config: of a run without folds.
            catalog: its images.
        """
        if self.settings.folds is not None:
            log.info("the finals are a cross-validation in %d folds, not several seeds", self.settings.folds)
            return read_folds(config, self.settings.folds)  # raises UserError before the folder exists
        val, folds = catalog.rows("val"), self.settings.n_folds
        if len(val) >= self.settings.folds_below:
            return None
        labels = catalog.labels[np.concatenate([catalog.rows("train"), val])]
        smallest, n = min(Counter(labels.tolist()).items(), key=lambda item: item[1])
        if n < 2 * folds:
            log.info(
                "no cross-validation in %d folds: class %s has %s in train and val, and needs two for each fold",
                folds, catalog.classes[smallest], plural(n, "image"),
            )  # fmt: skip
            return None
        try:
            return read_folds(config, folds)
        except UserError as error:  # one side of a fold may lack a class with few groups, such as patients
            log.info("no cross-validation in %d folds: %s", folds, error)
            return None

    def _begin(self, data: L.LightningDataModule) -> None:
        """Create the folder of the search, claim it, and begin the record."""
        catalog = data.catalog
        rows = {split: catalog.rows(split) for split in ("train", "val", "test")}
        counts = {split: len(of_split) for split, of_split in rows.items()}
        if self.folds:  # they predict each image of train and val once, whatever datamodule.train_fraction is
            rows["val"] = np.concatenate([val for _, val in self.fold_rows])
            counts["train"] = len(rows["val"]) - counts["val"]
        self.n_train, self.n_val = counts["train"], counts["val"]
        measured = {split: rows[split] for split in ("val", "test") if len(rows[split])}
        labels = {split: Counter(catalog.labels[of_split].tolist()) for split, of_split in measured.items()}
        self.record = SmallestRecord(
            name=self.settings.name,
            command=STATE.command,
            question=self.question,
            data={
                "name": catalog.name, "root": str(catalog.root), "classes": catalog.classes,
                **{f"n_{split}": n for split, n in counts.items()}, "n_groups": catalog.n_groups,
                **{f"majority_{split}": max(found.values()) / found.total() for split, found in labels.items()},
                **{f"rarest_{split}": min(found.values()) for split, found in labels.items()},
                "folds": self.folds, "caveats": [each.caveat for each in data.findings if each.caveat],
            },
            machine={
                "processor": processor_name(), "cores": os.cpu_count(),
                "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
            },
            candidates=self.candidates,
        )  # fmt: skip
        check_enough_images(self.record)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.plan.claim(search_of(self.settings, self.config, data, self.candidates))
        before = None
        with contextlib.suppress(UserError, OSError):  # there is none, or it is of another version
            before = SmallestRecord.read(self.folder)
            self.record.seconds = before.seconds
        self._has_answer = before is not None and before.status == "finished"
        self._is_answered = self._has_answer and self.plan.is_decided("repeats")
        self._before_s = sum(self.record.seconds.values())
        self.record.earlier_s = before.earlier_s if self._is_answered else round(self._before_s, 1)
        if not self._is_answered:
            self._count_start()
        write_configuration(RunFolder(self.folder), OmegaConf.to_yaml(self.config), HydraConfig.instance().cfg)
        if self.question.metric == "balanced_accuracy" and WEIGHTED in self.settings.overrides:
            self.note(f"The classes have equal weight in the loss ({WEIGHTED}), as in metric=balanced_accuracy.")
        if self.folds:
            if self.settings.folds is None:
                self.note(
                    f"The validation split has only {self.n_val} images: instead of several seeds, the finals use a "
                    f"cross-validation over the training and validation images in {self.folds} folds."
                )
            n, fraction = len(rows["val"]), data.rules["train_fraction"]
            self.n_train, self.n_val = round(n * (1 - 1 / self.folds) * fraction), round(n / self.folds)

    def _decide(self, name: str, take: Callable):
        """Return a decision of the plan, taking it if needed; record the notes that belong to it."""

        def take_with_notes() -> dict:
            before, decision = len(self.record.notes), take()
            return {"decision": decision, "notes": self.record.notes[before:]}

        found = self.plan.decide(name, take_with_notes)
        self.plan.check(name, found, len(self.candidates))
        for text in found["notes"]:
            self.note(text)
        return found["decision"]

    def note(self, text: str) -> None:
        """Record and log one sentence on what was skipped, fell back or was cut off."""
        if text not in self.record.notes:
            self.record.notes.append(text)
            log.info("%s", text)

    def _screen(self) -> None:
        """Probe all cuts, and measure how fast this machine is."""
        with self._timed("screen"):
            screen = Screen(
                self.candidates, self.settings.candidates.weights, self.folder, folds=self.fold_rows,
                metric=self.question.metric,
                budget_minutes=self.question.budget_minutes, remaining_s=lambda: self.budget.left_s(SCREEN_SHARE),
                overrides=self.settings.overrides, progress=self.progress,
            )  # fmt: skip
            passes = screen.run(is_planned=not self.plan.is_decided("repeats"))  # not after workers of fewer threads
        for each in passes:
            if each.skipped:
                self.note(f"{each.name} was not screened: {each.skipped}.")
        if minutes := screen.enough_minutes():
            self.note(f"To screen all networks, the budget has to be about budget.minutes={minutes}.")
        self._save()
        self.times = TrainingTimes(passes, self.n_train, self.n_val, self.config.trainer.max_epochs)
        self.runs = Runs(self.settings, self.candidates, self.folds, self.budget, self.progress, self._run)

    def _race(self) -> list[int]:
        """Train the reference and cheaper candidates that may be good enough; return those that finished, reference first."""
        places = self._decide_race("race", self._plan_race)
        if self._asks_latency and self._is_answered:  # a repeated command remeasures what a busy machine disturbed
            take_known_latencies(self.candidates, len(self.record.data["classes"]), self.folder, flagged=False)
            decided = filter(self.plan.is_decided, ("race", "race below"))
            self._measure_latencies([index for name in decided for index in self._decide(name, dict)["places"]])
        self._take_known_latencies()
        if not self.plan.is_decided("raced"):
            others = f"; {plural(len(places) - 1, 'other candidate')} race{'s' if len(places) == 2 else ''} against it"
            log.info("Reference, trained first: %s%s", self.candidates[places[0]].name,
                     others if len(places) > 1 else "; no cheaper candidate comes close")  # fmt: skip
        finished = self._run_race(places, "raced", "race", [])
        if not finished:
            raise UserError(self._why_none_finished(places))
        return finished

    def _has_time_for_seeds_of_a_new_race(self) -> bool:
        """Return whether the reference of a new race could be trained with all seeds in half of the time that is left."""
        left_s = self._left_s()
        found = pick_reference(self.candidates, range(len(self.candidates)), self.question.cost[0], self.times, left_s)
        if found is None:
            return False
        return len(self.runs.finals(found.index)) * self.times.of(self.candidates[found.index]) <= left_s / 2

    def _race_below(self, finished: list[int]) -> list[int]:
        """Run a second race among cheaper candidates where the most accurate finisher is also the cheapest good one.

        Return the finishers of both races.
        """
        # By a version without second races
        if self.plan.is_decided("finals") and not self.plan.is_decided("race below"):
            return finished
        places = self._decide_race("race below", lambda: self._plan_race_below(finished))
        self._take_known_latencies()
        if not places:
            return finished
        found = self._run_race(places, "raced below", "second race", finished)
        return [*finished, *(index for index in found if index not in finished)]

    def _decide_race(self, name: str, take: Callable) -> list[int]:
        """Return who takes part in a race; freeze those that are to race frozen."""
        plan = self._decide(name, take)
        for index in plan["frozen"]:
            self.candidates[index].frozen = True
        return plan["places"]

    def _run_race(self, places: list[int], decision: str, title: str, trained: list[int]) -> list[int]:
        """Train the candidates of a race until none is left; return those that finished.

        Args:
            decision: name of the decision in plan.json that lists the finishers.
            trained: finishers of an earlier race.
        """
        failed = []
        if not self.plan.is_decided(decision):
            failed = self._run_trials(places, title, trained)
        for index in places:
            self.candidates[index].stage = "raced"
        keys = {self.runs.folder(key).path: key for key in map(self.runs.first, places)} if failed else {}
        for folder, error in failed:
            self.runs.failed[keys[folder.path]] = error
            self._note_failure(keys[folder.path], error)
        finished = [index for index in places if self.runs.is_trained(self.runs.first(index))]
        if (finished or self.plan.is_decided(decision)) and not failed:  # otherwise the same command tries again
            decided = self._decide(decision, lambda: self._end_race(places, finished))
            self.runs.train([self.runs.first(index) for index in decided], title)  # where folders were deleted since
            finished = [index for index in decided if self.runs.is_trained(self.runs.first(index))]
        self._save()
        return finished

    def _run_trials(self, places: list[int], title: str, trained: list[int]) -> list[tuple[RunFolder, Exception]]:
        """Run the trials of a race; return the runs that failed."""
        with self._timed("race"), storage_errors():
            self.progress.set(title)  # replaces the progress of the screen
            race = Race(self.runs, places, self.times, title, trained)
            with self.progress.quiet():
                while not race.run_trials():
                    time.sleep(1.0)
        return race.failed

    def _end_race(self, places: list[int], finished: list[int]) -> list[int]:
        """Note which runs of the race the budget has cut off; return the candidates that finished."""
        not_started = [index for index in places if self.runs.record(self.runs.first(index)) is None]
        if not_started and self.budget.minutes is not None:
            self.note(
                f"{plural(len(not_started), 'candidate')} of the race did not start: too little of "
                f"budget.minutes={self.question.budget_minutes:g} was left."
            )
        self._note_ended_early([self.runs.first(index) for index in places])
        return finished

    def _note_failure(self, key: RunKey, error: BaseException) -> None:
        self.note(f"{self.runs.describe(key)} failed: {describe_failure(error)}.")

    def _note_ended_early(self, keys: list[RunKey]) -> None:
        for key in keys:
            if self.runs.is_cut_off(key):
                self.note(f"{self.runs.describe(key)} stopped before its last epoch: {USED_UP}.")

    def _why_none_finished(self, places: list[int]) -> str:
        if any(self.runs.is_cut_off(self.runs.first(index)) for index in places):
            return (
                f"budget.minutes={self.question.budget_minutes}: no network was trained to the end; use about "
                f"budget.minutes={2 * self.question.budget_minutes:g}, which resumes the runs"
            )
        return f"{self.folder}: no run of the race has finished; the log of each is runs/RUN/train.log"

    def _plan_race(self) -> dict[str, list[int]]:
        """Return `places`, the reference and the candidates that race against it, and which of them are `frozen`.

        Raises:
            UserError: no candidate can be trained; the plan then keeps no decision.
        """
        self.runs.reopen()
        cost, n, pool = self.question.cost[0], self.settings.n_raced, list(range(len(self.candidates)))
        if self._asks_latency:
            pool = self._pick_measured(self._pick, pool, 2 * n)
        racers = self._pick(pool, cost, n)
        if not racers:
            raise UserError(self._why_none_fits())
        self._note_frozen(racers)
        least, epochs = self.settings.min_epochs, self.config.trainer.max_epochs
        if least >= epochs and sum(not each.frozen for each in racers) > 1:
            self.note(
                f"The race stops no network early, since race.min_epochs={least} is not below trainer.max_epochs={epochs}."
            )
        return {"places": [each.index for each in racers], "frozen": [each.index for each in racers if each.frozen]}

    def _plan_race_below(self, finished: list[int]) -> dict[str, list[int]]:
        """Return the candidates that race below the most accurate finisher, in the form of `_plan_race`.

        There are none where a cheaper finisher is good enough already, or no finisher is.

        The first race is against one of the best probes. Where training makes a much cheaper network more accurate than that
        one, the first race has hardly tried any candidate that is cheaper still.
        """
        cost, raced = self.question.cost[0], {i for i, each in enumerate(self.candidates) if each.stage == "raced"}
        values, costs, best, need = self._compare(finished)
        good = [index for index in finished if values[index] >= need]
        if not good or any(costs[index] < costs[best] for index in good):
            return {"places": [], "frozen": []}
        reference = Racer(best, self.candidates[best].frozen, values[best])

        def pick(pool: list[int], cost: str, most: int) -> list[Racer]:
            return pick_race(
                self.candidates, pool, reference, cost, need, most, self.times, self._left_s(), with_best=False
            )

        pool, n = [index for index in range(len(self.candidates)) if index not in raced], self.settings.n_raced
        if self._asks_latency:
            self._pick_measured(pick, pool, 2 * n)
            pool = [index for index in pool if self.candidates[index].costs.latency]
        racers = pick(pool, cost, n)
        places = [each.index for each in racers]
        if places:
            self.note(
                "No network of the first race is both good enough and cheaper than its most accurate one, "
                f"{self.candidates[best].name}: {plural(len(places), 'cheaper network')} "
                f"race{'s' if len(places) == 1 else ''} below it."
            )
        return {"places": places, "frozen": [each.index for each in racers if each.frozen]}

    def _compare(self, indices: list[int]) -> tuple[dict[int, float], dict[int, tuple[float, int]], int, float]:
        """Compare candidates that finished the race, by their validation metric.

        Return metric and cost by index, the most accurate candidate (the cheapest of equal ones), and the metric that is good
        enough.
        """
        self._measure_latencies(indices)
        values = {index: self.runs.value(self.runs.first(index)) for index in indices}
        costs = {index: rank_of(self.candidates[index], self.question.cost[0]) for index in indices}
        best = min(values, key=lambda index: (-values[index], costs[index]))
        return values, costs, best, self.question.target or values[best] - self.question.good_enough

    def _note_frozen(self, racers: list[Racer]) -> None:
        """Note which racers are frozen, and the budget that would fine-tune them; note a best probe that cannot race."""
        listed = [self.candidates[each.index] for each in racers]
        frozen = [each for each, racer in zip(listed, racers, strict=True) if racer.frozen]
        if frozen:
            best = max(frozen, key=lambda each: each.probe.value)
            tuning_s = self.times.of(best)
            self.note(
                f"Only the head is trained in {len(frozen)} of {plural(len(racers), 'network')} of the race, for lack of time: "
                f"to fine-tune {best.network} at {best.image_size} px, which has the best probe of these "
                f"({best.probe.value:.3f}), takes about {duration(tuning_s)}; use budget.minutes="
                f"{self.budget.minutes_for(RESERVE_S + tuning_s / REFERENCE_SHARE)} or more."
            )
        probed = [each for each in self.candidates if each.probe and not each.excluded]
        best = max(probed, key=lambda each: each.probe.value, default=None)
        if best and best.probe.value > max(each.probe.value if each.probe else 0.0 for each in listed):
            why = "besides the networks that do, the budget leaves no time even to train its head"
            if self.budget.minutes is None:
                why = f"it is far below target_accuracy={self.question.target}"
            self.note(f"The network with the best probe, {best.name} ({best.probe.value:.3f}), does not race: {why}.")

    @property
    def _asks_latency(self) -> str:
        """The setting that needs latencies; empty if none does."""
        if LATENCY in self.question.cost:
            return f"cost={LATENCY}"
        return f"limits.{LATENCY}" if LATENCY in self.question.limits else ""

    def _take_known_latencies(self) -> None:
        """Give candidates the latencies on which this command or another process has based its decisions."""
        if self._asks_latency:
            failed = take_known_latencies(self.candidates, len(self.record.data["classes"]), self.folder)
            self._apply_latencies(failed)

    def _apply_latencies(self, failed: list[Candidate]) -> None:
        """Exclude candidates above a limit, and those whose latency cannot be measured: MACs would be taken for ms."""
        apply_limits(self.candidates, self.question.limits)
        for each in failed:
            each.excluded = each.excluded or UNMEASURABLE

    def _pick_measured(self, pick: Callable[..., list[Racer]], pool: list[int], most: int) -> list[int]:
        """Return the candidates of a pool that are likely to race, judged by MACs; their latencies are within the limit."""
        before_s = self._left_s()
        while True:  # others take the places of candidates that a limit excludes
            picked = [each.index for each in pick(pool, "macs", most)]
            self._measure_latencies(picked)
            fast, left_s = [index for index in picked if not self.candidates[index].excluded], self._left_s()
            # Two thirds of the time are kept for the race
            if len(fast) == len(picked) or (left_s is not None and left_s < before_s * 2 / 3):
                return fast

    def _measure_latencies(self, indices: list[int]) -> None:
        """Measure latencies that are missing, such as after a change of the machine, and exclude candidates by them.

        Where latency decides, MACs would decide in the place of those that are missing.
        """
        if not self._asks_latency:
            return
        listed = [each for each in (self.candidates[index] for index in indices) if each.costs.latency is None]
        if not listed:
            return
        self.progress.set("measuring latency")
        with self._timed("latency"):
            measure_latencies(listed, len(self.record.data["classes"]), self.folder)
        self._apply_latencies([each for each in listed if each.costs.latency is None])

    def _pick(self, pool: list[int], cost: str, most: int) -> list[Racer]:
        """Return the reference of a pool and at most `most` candidates that race against it by a cost."""
        left_s, times = self._left_s(), self.times
        reference = pick_reference(self.candidates, pool, cost, times, left_s)
        if reference is None:
            return []
        if left_s is not None:
            lead = self.candidates[reference.index]
            left_s -= times.of_head(lead) if reference.frozen else times.of(lead)
        need = self.question.target or reference.expected - self.question.good_enough
        return [reference, *pick_race(self.candidates, pool, reference, cost, need, most, times, left_s)]

    def _why_none_fits(self) -> str:
        measured = [each for each in self.candidates if each.costs.latency]
        if measured and all(each.excluded for each in measured):
            return (
                f"limits.{LATENCY}={self.question.limits[LATENCY]:g}: the fastest of "
                f"{plural(len(measured), 'measured network')} takes "
                f"{milliseconds(min(each.costs.latency_ms for each in measured))}, and no other screened network can be "
                "trained in the time that is left; raise the limit, or add smaller networks and sizes: "
                "candidates.backbones=[NAME], candidates.image_sizes=[64]"
            )
        left = [each for each in self.candidates if not each.excluded]
        possible = [each for each in left if each.probe is not None or is_raced_unprobed(each)]
        if not possible and any(each.excluded == UNMEASURABLE for each in self.candidates):
            return (
                f"{self._asks_latency}: the latency of no screened network can be measured (the warnings say why); use "
                f"costs and limits other than {LATENCY}"
            )
        if not possible:
            return f"candidates: no network was screened. {' '.join(self.record.notes)}"
        fastest_s = min(self.times.of_head(each) if each.pretrained else self.times.of(each) for each in possible)
        needed = self.budget.minutes_for(RESERVE_S + fastest_s / REFERENCE_SHARE)
        answer = f"; the answer of an earlier command is in {self.folder / 'report.html'}" if self._has_answer else ""
        return (
            f"budget.minutes={self.question.budget_minutes}: no network can be trained in the time that is left; use "
            f"budget.minutes={needed} or more (the results of the screen are kept){answer}"
        )

    def _left_s(self) -> float | None:
        left_s = self.budget.left_s()
        return None if left_s is None else max(0.0, left_s - RESERVE_S)

    def _finals(self, raced: list[int]) -> list[int]:
        """Train the reference and the finalists with as many seeds or folds as the budget allows; return their indices."""
        raced = [*raced, *self._trained_before()]
        reference, *finalists = self._decide("finals", lambda: self._plan_finals(raced))
        allowed = self._decide("repeats", lambda: self._plan_repeats([reference, *finalists]))
        allowed = allowed["allowed"] if isinstance(allowed, dict) else allowed  # a number in earlier versions
        self._measure_latencies([reference, *finalists])
        self.keys = {index: self.runs.finals(index)[:allowed] for index in (reference, *finalists)}
        with self._timed("finals"):
            # All networks with one seed before any with the next
            order = [keys[i] for i in range(allowed) for keys in self.keys.values()]
            self.runs.train(order, "finals")
        for key, error in self.runs.failed.items():
            self._note_failure(key, error)
        self._note_ended_early(order)
        for index in self.keys:
            self.candidates[index].stage = "final"
        self._save()
        return [reference, *finalists]

    def _trained_before(self) -> list[int]:
        """Return candidates trained to the end under another budget that are in no race of this one; they count as raced."""
        found = []
        for index, each in enumerate(self.candidates):
            if each.stage in ("raced", "final") or each.excluded:
                continue
            if not self.runs.is_trained(self.runs.first(index)):
                each.frozen = True  # perhaps it was trained with a frozen backbone
            if self.runs.is_trained(self.runs.first(index)):
                each.stage = "raced"
                found.append(index)
            else:
                each.frozen = False
        return found

    def _plan_finals(self, raced: list[int]) -> list[int]:
        values, costs, reference, need = self._compare(raced)
        return [reference, *pick_finalists(values, costs, need, self.settings.n_finalists, reference)]

    def _plan_repeats(self, finals: list[int]) -> dict[str, int]:
        """Return how many of the seeds or folds the budget has `allowed`, and `enough_minutes` for all if it lacks some."""
        if self._has_answer and self.record.data["n_test"]:
            self.note(
                "These test images were evaluated for an earlier answer of this search, too. Each attempt adds to the chance "
                "that something is wrongly shown: 5% for one, up to 10% for two."
            )
        wanted, left_s = len(self.runs.finals(finals[0])), self._left_s()
        if left_s is None:
            return {"allowed": wanted}
        for index in finals:
            self.times.learn(self.candidates[index], self.runs.folder(self.runs.first(index)))
        keys = {index: self.runs.finals(index) for index in finals}
        seconds = [  # of each further seed or fold, without runs that another budget has trained already
            sum(self.times.of(self.candidates[i]) for i in finals if not self.runs.is_trained(keys[i][number]))
            for number in range(1, wanted)
        ]
        allowed = 1 + sum(until_then <= left_s for until_then in itertools.accumulate(seconds))
        if self.folds is None and allowed < min(wanted, FEWEST_SEEDS):
            allowed = 1  # two seeds say next to nothing about how much seeds differ
        if allowed == wanted:
            return {"allowed": wanted}
        what, enough = "folds" if self.folds else "seeds", self.budget.minutes_for(RESERVE_S + sum(seconds))
        self.note(
            f"The budget allows {allowed} of {wanted} {what} in the finals; budget.minutes={enough} allows all {what} of these "
            "networks."
        )
        return {"allowed": allowed, "enough_minutes": enough}

    def _answer(self, finals: list[int]) -> None:
        """Choose on validation, prove on test, write the answer."""
        with contextlib.nullcontext() if self._is_answered else self._timed("proof"):
            answerer = Answerer(self.record, self.runs, self.keys)
            answerer.choose(finals)
            answerer.prove()
        answerer.write(self._timed)

    def _save(self) -> None:
        if not self._has_answer:  # an earlier answer stays until there is a new one
            self.record.write(self.folder)

    def _count_start(self) -> None:
        """Count the seconds of this command that belong to no stage, such as the start of processes."""
        seconds = self.record.seconds
        further_s = self._before_s + self.budget.elapsed_s - sum(seconds.values())
        seconds[START] = round(seconds.get(START, 0.0) + max(0.0, further_s), 1)

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started_s = time.monotonic()
        try:
            yield
        finally:
            self.record.seconds[stage] = round(self.record.seconds.get(stage, 0.0) + time.monotonic() - started_s, 1)


def check_enough_images(record: SmallestRecord) -> None:
    """Raise UserError if not even a network that is right on all images could be shown to be better than guessing."""
    if record.question.metric != "accuracy":
        return
    data, split = record.data, "test" if record.data["n_test"] else "val"
    n = data["n_val"] + data["n_train"] if split == "val" and data["folds"] else data[f"n_{split}"]
    share = guess_share(record, split)
    if wilson(n, n).low <= share or guessing_probability(n, n, share) > ONE_SIDED:  # the rule of the answer
        raise UserError(
            f"{data['root']}: {plural(n, 'image')} to prove the answer ({split}) cannot show that a network is better than "
            f"always predicting the largest class (right in {share:.3f}), even if it is right on all; add labeled images"
            + (", or use metric=balanced_accuracy" if share >= SKEWED else "")
        )


def search_of(
    settings: SmallestSettings, config: DictConfig, data: L.LightningDataModule, candidates: Sequence[Candidate]
) -> dict[str, object]:
    """Return what determines the results, by key: all settings except budget and file locations, and hashes of the files."""
    typed = [each.partition("=") for each in settings.overrides if not MAY_DIFFER.match(each.lstrip("+"))]
    own = {key: OmegaConf.to_container(config[key], resolve=True) if OmegaConf.is_config(config[key]) else config[key]
           for key in DECISIVE}  # fmt: skip
    if settings.folds is not None:
        own["datamodule.folds"] = settings.folds
    catalog = data.catalog
    lines = sorted(zip(catalog.paths, catalog.groups, strict=True))
    images = f"{data.fingerprint()} {lines}".encode(errors="surrogateescape")
    files = [find_file(str(policy)) for policy in settings.candidates.weights.values()]  # None: not a file
    weights = b"".join(_digest(file) for file in files if file)
    composed = OmegaConf.to_container(compose_run([*map("".join, typed), "model=truncated"]))
    # The code of the user's own may change, and with it which candidate has which place
    layers = [(each.backbone, each.keep, each.image_size, each.costs.parameters, each.costs.macs)
              for each in candidates if is_own_backbone(each.backbone)]  # fmt: skip
    setting = dict.fromkeys(each.backbone for each in candidates if each.weights == OF_NETWORK)
    set_weights = [
        weights_name(weights_of_itself(build_backbone(name), partial(build_backbone, name))) for name in setting
    ]
    hashed = {
        IMAGES: images, WEIGHTS: weights, FILES: json.dumps(composed, sort_keys=True, default=str).encode(),
        NETWORKS: json.dumps(layers).encode(), OWN_WEIGHTS: json.dumps(set_weights).encode(),
    }  # fmt: skip
    hashes = {key: hashlib.blake2b(content, digest_size=8).hexdigest() for key, content in hashed.items()}
    return {**{key: value for key, _, value in typed}, **own, **hashes}


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
