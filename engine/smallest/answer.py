"""The answer of smallest.py: the choice on validation images, the proof on test images, and the files that report them."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace

from callbacks.run_progress import USED_UP
from common.atomic_io import atomic_open, tolerate_disk_errors, write_text
from common.checks import FEWEST_SEEDS
from common.errors import UserError
from common.run_folder import RunFolder, shown_path, shown_script
from common.run_record import write_record
from common.smallest_record import Answer, Measured, SmallestRecord, Trained
from common.text import quote_override, register_argument, shell_join
from engine.run.deploy import deploy
from engine.search.trial import completed_record
from engine.smallest.latency import measure_latencies
from engine.smallest.runs import Outcomes, RunKey, Runs, describe_failure, read_outcomes
from engine.smallest.selection import cost_of, rank_of
from evaluation.choice import Finalist, Rule, choose, metric_interval, prove
from lightning_modules.checkpoint import load_classifier
from reports.model_card import model_card
from reports.smallest_page import card_section, write_page
from reports.smallest_words import answer_sentences, last_lines
from reports.wording import as_pair

BEST, CARD = "best.ckpt", "MODEL_CARD.md"


class Answerer:
    """Choose a network, prove that it is good enough, and write the answer."""

    def __init__(self, record: SmallestRecord, runs: Runs, keys: dict[int, list[RunKey]]):
        self.record, self.runs, self.keys = record, runs, keys
        self.settings, question = runs.settings, runs.settings.question
        self.rule = Rule(question.good_enough, question.target, question.metric)

    def choose(self, finals: Sequence[int]) -> None:
        """Choose among the trained finalists on validation images; the first of them is the reference."""
        found = {index: read_outcomes(self.runs, keys, "val") for index, keys in self._of_same_images(finals).items()}
        self.reference, *others = [index for index in finals if found[index] is not None]
        reference = found[self.reference]
        choice = choose(
            self._finalist(self.reference, reference), [self._finalist(i, found[i]) for i in others], self.rule,
            reference.labels, reference.groups,
        )  # fmt: skip
        self.chosen, nearest = self.reference if choice.index is None else others[choice.index], None
        is_smaller = self.rule.target is None and self.chosen != self.reference
        if is_smaller and not choice.within and choice.evidence.gap <= 0:
            # Do not hand out a network that is outside the margin even on the images that chose it
            self.chosen, nearest = self.reference, self.chosen
        self.record.answer = Answer(
            verdict="chosen_not_proved", chosen=self.chosen, reference=self.reference, nearest=nearest,
            n_finalists=len(others), val=as_pair(choice.evidence, "val"),
        )  # fmt: skip

    def _of_same_images(self, finals: Sequence[int]) -> dict[int, list[RunKey]]:
        """Return the runs that compare the finalists; of folds, only those that all finalists have, since images differ."""
        trained = {index: [key for key in self.keys[index] if self.runs.is_trained(key)] for index in finals}
        folds = set.intersection(*({key.fold for key in keys} for keys in trained.values() if keys))
        return {index: [key for key in keys if key.fold in folds] for index, keys in trained.items()}

    def prove(self) -> None:
        """Evaluate the chosen network and the reference on the test images, once."""
        if not self.record.data["n_test"]:
            return
        tested = dict.fromkeys((self.chosen, self.reference))
        trained = [key for index in tested for key in self.keys[index] if self.runs.is_trained(key)]
        self.runs.test(trained, "test", cost_of=self.keys[self.chosen][0])
        chosen, reference = (read_outcomes(self.runs, self.keys[i], "test") for i in (self.chosen, self.reference))
        if chosen is None or reference is None:
            raise UserError(f"{self.settings.folder}: no test run has finished; the log of each is test/RUN/train.log")
        of_reference = self._finalist(self.reference, reference)
        of_chosen = of_reference if self.chosen == self.reference else self._finalist(self.chosen, chosen)
        first = self.runs.first(self.chosen)
        proof = prove(
            of_chosen, of_reference, self.rule, reference.labels, reference.groups, self.record.answer.n_finalists,
            raced=[first.seed if first.fold is None else first.fold],
        )  # fmt: skip
        answer = self.record.answer
        answer.verdict, answer.test = proof.verdict, as_pair(proof.evidence, "test")
        answer.as_trained = proof.as_trained.shown
        if self.chosen == self.reference and self.rule.target is None:
            raced = [i for i, each in enumerate(self.record.candidates) if each.stage in ("raced", "final")]
            is_single = sum(self.runs.is_trained(self.runs.first(index)) for index in raced) == 1
            answer.verdict, answer.test = "none" if is_single else "shown", None

    def _finalist(self, index: int, found: Outcomes) -> Finalist:
        """Return what choice and proof compare."""
        cost = rank_of(self.record.candidates[index], self.settings.question.cost[0])
        n = _n_comparable(found.seeds)
        return Finalist(cost, found.right[:n], found.seeds[:n])

    def write(self, timed: Callable[[str], AbstractContextManager]) -> None:
        """Collect the results, measure latencies, write best.ckpt, smallest.json and the page, and print the answer.

        Args:
            timed: takes a stage's name; its context adds the seconds of a block to that stage.
        """
        record, folder, candidates = self.record, self.settings.folder, self.record.candidates
        raced = [index for index, each in enumerate(candidates) if each.stage in ("raced", "final")]
        for index in raced:
            candidates[index].trained = self._trained(index)
        trained = [completed_record(RunFolder(path.parent)) for path in (folder / "runs").glob("*/result.json")]
        record.n_trained = sum(each is not None for each in trained)
        wanted = raced if "latency_ms" in self.settings.question.cost else list(self.keys)
        self.runs.progress.set("measuring latency")
        with timed("latency"):
            measure_latencies([candidates[index] for index in wanted], len(record.data["classes"]), folder)
        record.front = self._front()
        # Export from the run's folder, which lists the images to verify an export and to calibrate a quantized one
        own = self.runs.folder(self.keys[self.chosen][0]).best_checkpoint
        try:
            if not own.is_file():
                raise UserError(f"{own}: missing")
            load_classifier(own)  # do not hand out a damaged checkpoint
        except UserError as error:
            raise UserError(
                f"{str(error).partition('; use ')[0]}, so {BEST} cannot be made from it; delete the folders of its run "
                "in runs and test, and rerun the same command, which retrains it"
            ) from error
        register = register_argument(self.runs.record(self.keys[self.chosen][0]).run.settings)
        record.answer.commands = [
            shell_join(
                ["python", shown_script(f"{verb}.py"), quote_override("ckpt", str(shown_path(checkpoint))), *more]
            )
            + register
            for verb, checkpoint, more in (
                ("predict", folder / BEST, ["images=DIR"]),
                ("export", own, [quote_override("out", str(shown_path(folder / "best.onnx")))]),
                ("demo", own, []),
            )
        ]
        with timed("export") if record.question.deploy else nullcontext():
            self._deploy()
        record.answer.sentences = answer_sentences(record)
        record.status = "finished"
        self._hand_out()
        record.write(folder)
        page = write_page(record, folder)
        print("", *last_lines(record, shown_path(page)), "Then:", sep="\n")
        for command in record.answer.commands[1:]:
            print(f"    {command}")

    def _deploy(self) -> None:
        """Export the first network of each finalist: the chosen one always, the others as far as the budget allows."""
        name, candidates = self.record.question.deploy, self.record.candidates
        for each in candidates:
            each.deployed = None
        for index in dict.fromkeys((self.chosen, self.reference, *self.keys)) if name is not None else ():
            key, each = self.keys[index][0], candidates[index]
            if not self.runs.is_trained(key):
                continue
            trained = self.runs.record(key)
            known = trained.deployed
            if not (known and known.is_file_of(name) and (trained.folder.path / (known.file or "")).exists()):
                if index != self.chosen and self.runs.budget.is_over:
                    self.record.notes.append(f"{each.name} was not exported as {name}: {USED_UP}.")
                    continue
                self.runs.progress.begin(f"export as {name}: {each.name}")
                with self.runs.progress.quiet():
                    deploy(trained, name, trained.folder.best_checkpoint)
                write_record(trained)
            found = trained.deployed
            each.deployed = replace(found, file=found.file and f"runs/{trained.folder.path.name}/{found.file}")

    def _hand_out(self) -> None:
        """Write best.ckpt, the chosen network, and its model card."""
        key = self.keys[self.chosen][0]
        folder = self.settings.folder
        with atomic_open(folder / BEST, "wb") as file:
            file.write(self.runs.folder(key).best_checkpoint.read_bytes())
        with tolerate_disk_errors(folder / CARD):
            write_text(folder / CARD, f"{self._card(key).rstrip()}\n\n{card_section(self.record)}")

    def _card(self, key: RunKey) -> str:
        """Return the model card of a run, with its results on test if it was evaluated there."""
        trained, tested = self.runs.record(key), self.runs.record(key, "test")
        shown = tested or trained
        shown.deployed = self.record.candidates[key.candidate].deployed
        shown.run.name = self.record.candidates[key.candidate].name
        if tested:
            shown.best, shown.batch_norms, shown.throughput = trained.best, trained.batch_norms, trained.throughput
            shown.model.weights = trained.model.weights
            shown.run.wall_time_s = trained.run.wall_time_s
            shown.run.warnings = list(dict.fromkeys([*trained.run.warnings, *tested.run.warnings]))
        return model_card(shown, str(self.settings.folder / BEST))

    def _trained(self, index: int) -> Trained:
        """Return the results of a candidate's runs."""
        keys = self.keys.get(index) or [self.runs.first(index)]
        records = [self.runs.record(key) for key in keys]
        done = [key for key, record in zip(keys, records, strict=True) if record is not None]
        epochs = []
        for key in done:  # not from the records' throughput, which begins where a run resumed
            with suppress(UserError):
                epochs += self.runs.folder(key).read_metrics()
        ended, reason = "finished", None
        if not any(record and record.status == "finished" for record in records):
            found = next((record for record in records if record), None)
            ended, reason = ("pruned", found.reason) if found else ("waiting", None)
            if any(key in self.runs.failed for key in keys):
                error = next(self.runs.failed[key] for key in keys if key in self.runs.failed)
                ended, reason = "failed", describe_failure(error)
        return Trained(
            runs=[f"runs/{self.runs.folder(key).path.name}" for key in done],
            seeds=[key.seed if key.fold is None else key.fold for key in done],
            epochs=max(epochs, default=None), ended=ended, reason=reason,
            val=self._measured(keys, "val"), test=self._measured(keys, "test") if index in self.keys else None,
        )  # fmt: skip

    def _measured(self, keys: Sequence[RunKey], split: str) -> Measured | None:
        """Return the metric's mean over seeds or folds, with its interval; None without predictions.

        Of two, it is that of the first, in best.ckpt: the interval of their mean would reach from 0 to 1.
        """
        found = read_outcomes(self.runs, keys, split)
        if found is None:
            return None
        right = found.right[: _n_comparable(found.right)]
        value, low, high = metric_interval(right, self.rule, found.labels, found.groups)
        return Measured(value=value, low=low, high=high, n=right.shape[1], n_seeds=len(right))

    def _front(self) -> list[int]:
        """Return, with two costs, the finished candidates that no equally accurate one beats in both; else nothing."""
        costs = self.settings.question.cost
        if len(costs) < 2:
            return []
        found = {i: each for i, each in enumerate(self.record.candidates) if each.trained and each.trained.val}
        done = [(i, *(cost_of(each, key) for key in costs), each.trained.val.value) for i, each in found.items()]
        return [
            index for index, a, b, value in done
            if not any(x <= a and y <= b and v >= value and (x, y, v) != (a, b, value) for _, x, y, v in done)
        ]  # fmt: skip


def _n_comparable(seeds: Sequence) -> int:
    """Return how many seeds count: of two only the first, since two do not show how much seeds differ."""
    return len(seeds) if len(seeds) >= FEWEST_SEEDS else 1
