"""Simulate how often the answer of smallest.py is wrong, in whole searches whose true accuracies are known.

    python -m benchmarks.smallest_simulation [--replicates 2000] [--seed 0] [--only NAME] [--processes 1] [--count-raced]
        [--second-race]

A search has many candidates with costs and true accuracies. Each gets a noisy probe; eight of them and the best one race with
one seed. The finals are between the reference (the most accurate in the race), the cheapest that looks good enough in the race,
and the most accurate of the others, with seeds or folds, the first of which is the race's network. Then come the project's own
choice on validation and its proof on test (`evaluation.choice`).

A network is right on an image with probability Phi(a + s + d + e): s differs between seeds, d between images (the same for all
networks), e between images for one setting; the mean accuracy and its standard deviation (SD) between seeds are exactly those
of the world. Prints a Markdown table with one line per world.
"""

import argparse
import functools
import math
from multiprocessing import Pool
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from benchmarks.worlds import IMAGES, seed_world
from evaluation.choice import Finalist, Rule, choose, prove

RACED, FINALISTS, SLACK = 8, 2, 0.06  # candidates, candidates, probed accuracy
PROBE = 0.04  # SD of a probe's error
OWN = 0.5  # share of the variance of how easy images are that is a setting's own
ALIKE = 0.5  # share of the variance of how easy images are that groups share


class World(NamedTuple):
    """A kind of search; accuracies are those of settings, which are means over infinitely many seeds."""

    name: str
    accuracies: tuple[float, ...]  # by cost, the cheapest first
    n_val: int
    n_test: int
    spread: float  # SD of the accuracies of seeds
    n_seeds: int = 4  # the race's seed, which does not count for settings, and the others
    folds: bool = False  # four folds instead of seeds, on four times the validation images
    margin: float = 0.02
    target: float | None = None
    small_class: float | None = None  # share of a small class: balanced accuracy; all loss against the best is on it
    group_size: int = 1
    best_validated: bool = False  # finalists are the best of the race, without the cheapest
    known: bool = False  # the reference is the last candidate, whoever wins the race, so it has no luck of its own


class Counts(NamedTuple):
    """The results of a world's replicates, as shares."""

    shown: float
    shown_false: float
    trained: float
    trained_false: float
    wrong: float  # the answer is wrong: about settings if that is shown, else about the trained networks
    good: float  # the chosen setting is truly good enough, whatever is shown
    cost: float  # mean rank by cost of the chosen candidate, as a share of all candidates
    cost_shown: float  # the same over the searches in which something is shown


def worlds() -> list[World]:
    """Return the worlds of the table."""
    curve = tuple(0.95 - 0.35 * math.exp(-i / 5) for i in range(40))
    found = [
        World(f"curve, {n_val:,} and {n_test:,}", curve, n_val, n_test, spread)
        for n_val, n_test in ((60, 60), (150, 150), (450, 450), (2000, 2000))
        for spread in (0.0, 0.01, 0.02)
    ]
    found += [World(f"curve, one seed, {n:,} and {n:,}", curve, n, n, 0.01, n_seeds=1) for n in (60, 450, 2000)]
    found += [World(f"curve, folds, {n:,} and {2 * n:,}", curve, n, 2 * n, 0.01, folds=True) for n in (60, 150)]
    for best in (0.85, 0.95):
        beyond = (best - 0.0201,) * 59 + (best,)
        found += [
            World(
                f"all just beyond, best {best:g}, {n_val:,} and {n_test:,}", beyond, n_val, n_test, spread, known=True
            )
            for n_val, n_test in ((60, 60), (60, 2000), (450, 450), (2000, 2000))
            for spread in (0.0, 0.01, 0.02)
        ]
    beyond = (0.8799,) * 59 + (0.9,)
    adversarial = functools.partial(World, accuracies=beyond, known=True)
    found += [
        World("all just beyond, a lucky reference, 450 and 2,000", beyond, 450, 2000, 0.02),
        World("all just beyond, a lucky reference, 2,000 and 2,000", beyond, 2000, 2000, 0.01),
        adversarial("all just beyond, the best of the race, 2,000 and 2,000", n_val=2000, n_test=2000, spread=0.02,
                    best_validated=True),
        World("7 just beyond, 2,000 and 2,000", beyond[52:], 2000, 2000, 0.02, known=True),
        *(World(f"1 just beyond, {n:,} and {n:,}", beyond[58:], n, n, spread, known=True)
          for n in (400, 1000, 2000) for spread in (0.0, 0.02)),
        adversarial("all just beyond, one seed, 60 and 2,000", n_val=60, n_test=2000, spread=0.01, n_seeds=1),
        adversarial("all just beyond, one seed, 450 and 450", n_val=450, n_test=450, spread=0.0, n_seeds=1),
        adversarial("all just beyond, one seed, 2,000 and 2,000", n_val=2000, n_test=2000, spread=0.0, n_seeds=1),
        adversarial("all just beyond, folds, 100 and 450", n_val=100, n_test=450, spread=0.01, folds=True),
        adversarial("all just beyond, folds, 300 and 2,000", n_val=300, n_test=2000, spread=0.02, folds=True),
        adversarial("all just beyond, folds, 300 and 60", n_val=300, n_test=60, spread=0.02, folds=True),
        World("all 0.051 below, margin 0.05, 150 and 150", (0.8499,) * 59 + (0.9001,), 150, 150, 0.01, margin=0.05, known=True),
        World("all equal (a lucky reference), margin 0.01, 450 and 2,000", (0.9,) * 60, 450, 2000, 0.02, margin=0.01),
        World("target 0.9, curve, 450 and 450", curve, 450, 450, 0.01, target=0.9),
        World("target 0.9, all just below, 60 and 2,000", (0.8999,) * 60, 60, 2000, 0.02, target=0.9),
        World("target 0.9, all just below, 2,000 and 2,000", (0.8999,) * 60, 2000, 2000, 0.02, target=0.9),
        World("target 0.9, all just below, folds, 300 and 2,000", (0.8999,) * 60, 300, 2000, 0.02, folds=True, target=0.9),
        World("target 0.95, all just below, 450 and 450", (0.9499,) * 60, 450, 450, 0.01, target=0.95),
        World("target 0.95, all just below, one seed, 60 and 150", (0.9499,) * 60, 60, 150, 0.0, 1, target=0.95),
        World("target 0.95, all just below, folds, 60 and 150", (0.9499,) * 60, 60, 150, 0.01, folds=True, target=0.95),
        World("balanced, curve, a tenth, 450 and 450", curve, 450, 450, 0.01, small_class=0.1),
        World("balanced, all just beyond, a tenth, 450 and 450", beyond, 450, 450, 0.0, small_class=0.1, known=True),
        World("balanced, all just beyond, a tenth, one seed, 150 and 2,000", beyond, 150, 2000, 0.0, 1, small_class=0.1,
              known=True),
        World("balanced, target 0.9, all just below, a tenth, one seed, 150 and 450", (0.8999,) * 60, 150, 450, 0.0, 1,
              target=0.9, small_class=0.1),
        World("balanced, target 0.9, all just below, a third, 450 and 2,000", (0.8999,) * 60, 450, 2000, 0.01,
              target=0.9, small_class=0.3),
        World("balanced, all just beyond, a third, 2,000 and 2,000", beyond, 2000, 2000, 0.02, small_class=0.3, known=True),
        World("groups of 5, all just beyond, 450 and 450", beyond, 450, 450, 0.01, group_size=5, known=True),
        World("groups of 5, all just beyond, one seed, 450 and 2,000", beyond, 450, 2000, 0.0, 1, group_size=5, known=True),
        World("groups of 5, target 0.9, all just below, 450 and 450", (0.8999,) * 60, 450, 450, 0.01, target=0.9, group_size=5),
    ]  # fmt: skip
    return found


class Images:
    """One split: its images, and which of them networks get right."""

    def __init__(self, world: World, n: int, generator: np.random.Generator):
        self.generator, self.n, self.size = generator, n, world.group_size
        self.groups = np.arange(n) // self.size if self.size > 1 else None
        self.labels = None if world.small_class is None else (np.arange(n) < round(world.small_class * n)).astype(int)
        if self.groups is not None and self.labels is not None:
            raise ValueError("groups or classes")
        self.easy = IMAGES * math.sqrt(1 - OWN) * self._draw()
        self.own: dict[int, np.ndarray] = {}

    def _draw(self) -> np.ndarray:
        noise = self.generator.standard_normal(self.n, dtype=np.float32)
        if self.groups is None:
            return noise
        shared = self.generator.standard_normal(self.n, dtype=np.float32)[self.groups]
        return math.sqrt(ALIKE) * shared + math.sqrt(1 - ALIKE) * noise

    def right(self, setting: int, log_odds: np.ndarray) -> np.ndarray:
        """Return which images networks of a setting get right, (S, n), from a + s of each network and class, (S, K)."""
        if setting not in self.own:
            self.own[setting] = self.easy + IMAGES * math.sqrt(OWN) * self._draw()
        noise = self.generator.standard_normal((len(log_odds), self.n), dtype=np.float32)
        labels = np.zeros(self.n, int) if self.labels is None else self.labels
        return log_odds[:, labels] + self.own[setting] + noise > 0


class Settings:
    """The candidates of a world: their true accuracies, of settings and of trained networks."""

    def __init__(self, world: World):
        best, each = max(world.accuracies), np.array(world.accuracies)
        self.of_class = [[a] for a in each]
        if world.small_class is not None:  # the large class is as accurate as the best setting's
            self.of_class = [[best, round(best - 2 * (best - a), 6)] for a in each]
        self.worlds = [[seed_world(a, world.spread) for a in classes] for classes in self.of_class]
        self.true = np.array([np.mean(classes) for classes in self.of_class])

    def train(self, index: int, luck: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return a + s of networks with this luck (S,) for each class, (S, K), and their true accuracies (S,)."""
        found = np.stack([a + sd * luck for a, sd in self.worlds[index]], axis=1)
        return found, ndtr(found / math.sqrt(1 + IMAGES**2)).mean(axis=1)


def score(right: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """Return the metric of each network, (S,)."""
    if labels is None:
        return right.mean(axis=1)
    return np.mean([right[:, labels == c].mean(axis=1) for c in range(labels.max() + 1)], axis=0)


def one_search(
    world: World, settings: Settings, generator: np.random.Generator, count_raced: bool, second_race: bool
) -> tuple:
    """Simulate a search.

    Return the verdict, whether the chosen setting is good enough, whether that is shown of the trained networks, whether it
    is true of them, whether validation shows it, and the chosen candidate's index.
    """
    n_all = 4 * world.n_val if world.folds else world.n_val
    val, test = Images(world, n_all, generator), Images(world, world.n_test, generator)
    raced_images = np.arange(n_all) % 4 == 0 if world.folds else np.ones(n_all, bool)
    rule = Rule(world.margin, world.target, "accuracy" if world.small_class is None else "balanced_accuracy")
    raced, probed = screen(settings.true, generator)
    n_seeds = 4 if world.folds else world.n_seeds
    networks, val_rows, scores = {}, {}, {}

    def race(indices: list[int]) -> tuple[int, float]:
        """Train these candidates; return the reference and the score that is good enough."""
        for index in indices:
            networks[index] = generator.normal(size=1)
            val_rows[index] = val.right(index, settings.train(index, networks[index])[0])
            labels = None if val.labels is None else val.labels[raced_images]
            scores[index] = score(val_rows[index][:, raced_images], labels)[0]
        reference = len(settings.true) - 1 if world.known else max(scores, key=lambda index: (scores[index], index))
        return reference, scores[reference] - world.margin if world.target is None else world.target

    reference, wanted = race(raced)
    if second_race and scores[reference] >= wanted and all(scores[i] < wanted for i in raced if i < reference):
        below = [index for index in np.argsort(-probed).tolist() if index < reference and index not in raced][:RACED]
        reference, wanted = race(below)
        raced += below
    others = [index for index in raced if index < reference]
    looks_good = sorted(index for index in others if scores[index] >= wanted and not world.best_validated)
    rest = sorted(set(others) - {*looks_good[:1]}, key=lambda index: -scores[index])
    finals = [*looks_good[:1], *rest][:FINALISTS]
    of_val, of_test, true = {}, {}, {}
    for index in [*finals, reference]:
        network, true[index] = settings.train(index, np.append(networks[index], generator.normal(size=n_seeds - 1)))
        rows = np.vstack([val_rows[index], val.right(index, network[1:])])
        of_val[index] = Finalist(index, rows, list(range(n_seeds)))
        if world.folds:
            of_val[index] = Finalist(index, rows[np.arange(n_all) % 4, np.arange(n_all)][None], [0])
        of_test[index] = Finalist(index, test.right(index, network), list(range(n_seeds)))
    choice = choose(of_val[reference], [of_val[index] for index in finals], rule, val.labels, val.groups)
    chosen = reference if choice.index is None else finals[choice.index]
    if chosen == reference and world.target is None:
        return "not_shown", True, False, True, True, chosen
    both = of_test[chosen], of_test[reference]
    proof = prove(*both, rule, test.labels, test.groups, len(finals), raced=[] if count_raced else [0])
    if world.target is None:
        good = settings.true[chosen] > settings.true[reference] - world.margin
        trained_good = true[chosen][0] > true[reference][0] - world.margin
    else:
        good, trained_good = settings.true[chosen] > world.target, true[chosen][0] > world.target
    return proof.verdict, good, proof.as_trained.shown, trained_good, choice.within, chosen


def screen(true: np.ndarray, generator: np.random.Generator) -> tuple[list[int], np.ndarray]:
    """Return the candidates to race (the best probed one and the cheapest ones close to it), and all probes."""
    probed = true + PROBE * generator.standard_normal(len(true))
    best = int(probed.argmax())
    near = [index for index in range(len(true)) if index != best and probed[index] > probed[best] - SLACK]
    rest = sorted(
        (index for index in range(len(true)) if index != best and index not in near), key=lambda i: -probed[i]
    )
    last = [len(true) - 1] if len(true) - 1 not in (*near[:RACED], best) else []
    return [*[*near, *rest][:RACED], best, *last], probed


def simulate(world: World, replicates: int, seed: int, count_raced: bool = False, second_race: bool = False) -> Counts:
    """Count the results of many searches; `seed` and the world determine the random numbers."""
    generator, settings = np.random.default_rng([seed, *repr(world).encode()]), Settings(world)
    found = [one_search(world, settings, generator, count_raced, second_race) for _ in range(replicates)]
    verdicts, good, trained, trained_good, _, chosen = (np.array(each) for each in zip(*found, strict=True))
    shown, cost = verdicts == "shown", (chosen + 1) / len(world.accuracies)
    anything, true = verdicts != "not_shown", np.where(shown, good, trained_good)
    return Counts(
        float(shown.mean()), float((shown & ~good).mean()), float(trained.mean()),
        float((trained & ~trained_good).mean()), float((anything & ~true).mean()), float(good.mean()),
        float(cost.mean()), float(cost[anything].mean()) if anything.any() else math.nan,
    )  # fmt: skip


HEAD = (
    "| world, validation and test images | SD | shown | shown but wrong | as trained | as trained but wrong "
    "| wrong answer | chosen is good enough | its place by cost | where shown |\n|---|---|---|---|---|---|---|---|---|---|"
)


def line(world: World, counts: Counts) -> str:
    """Return a line of the table in Markdown."""
    shown = f"{counts.shown:.3f} | {counts.shown_false:.4f}" if world.n_seeds > 3 else "- | -"
    return (
        f"| {world.name} | {world.spread:g} | {shown} | {counts.trained:.3f} | {counts.trained_false:.4f} | "
        f"{counts.wrong:.4f} | {counts.good:.2f} | {counts.cost:.2f} | {counts.cost_shown:.2f} |"
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--replicates", type=int, default=2000, help="replicates of each world; 2000 by default")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", default="", help="only worlds whose name contains this; all by default")
    options.add_argument("--processes", type=int, default=1)
    options.add_argument(
        "--count-raced", action="store_true", help="let the race's seed count for settings, which is wrong too often"
    )
    options.add_argument(
        "--second-race", action="store_true", help="race eight more below the best if no cheaper one is good enough"
    )
    args = options.parse_args()
    chosen, worst = [world for world in worlds() if args.only in world.name], (0.0, 0.0, 0.0)
    print(HEAD, flush=True)
    with Pool(args.processes) as pool:
        count = functools.partial(
            simulate, replicates=args.replicates, seed=args.seed, count_raced=args.count_raced,
            second_race=args.second_race,
        )  # fmt: skip
        of_each = pool.imap(count, chosen)
        for world, counts in zip(chosen, of_each, strict=True):
            print(line(world, counts), flush=True)
            worst = tuple(map(max, worst, (counts.shown_false, counts.trained_false, counts.wrong)))
    print("| at most | | | {:.4f} | | {:.4f} | {:.4f} | | | |".format(*worst))


if __name__ == "__main__":
    main()
