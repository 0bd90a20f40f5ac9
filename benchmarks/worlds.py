"""Worlds with known truth: seeds and images of which every outcome's chance is known."""

import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from scipy.optimize import fsolve
from scipy.stats import norm

POINTS, WEIGHTS = hermegauss(200)  # an expectation over a standard normal variable is a sum over them
WEIGHTS = WEIGHTS / WEIGHTS.sum()
IMAGES = 2.0  # standard deviation of how easy images are


@functools.cache
def seed_world(accuracy: float, seeds_sd: float) -> tuple[float, float]:
    """Return a and the SD of s for these accuracies of seeds that are right with chance Phi(a + s + d), d ~ N(0, 2^2)."""
    scale = math.sqrt(1 + IMAGES**2)
    start = norm.ppf(accuracy) * scale
    if seeds_sd == 0:
        return start, 0.0

    def errors(solution):
        found = norm.cdf((solution[0] + math.exp(solution[1]) * POINTS) / scale)
        mean = WEIGHTS @ found
        return mean - accuracy, math.sqrt(max(WEIGHTS @ found**2 - mean**2, 1e-18)) - seeds_sd

    a, log_sd = fsolve(errors, (start, math.log(seeds_sd / norm.pdf(start / scale) * scale)))
    assert max(map(abs, errors((a, log_sd)))) < 1e-6, (accuracy, seeds_sd)
    return a, math.exp(log_sd)


def draw_rows(generator, worlds, n_seeds: int, n_images: int) -> list[np.ndarray]:
    """Draw what each setting's seeds get right of the same images: (S, n) bool for each (a, SD) of `seed_world`."""
    easy = generator.normal(0, IMAGES, (1, n_images))
    noise = (n_seeds, n_images)
    return [a + sd * generator.normal(size=(n_seeds, 1)) + easy + generator.normal(size=noise) > 0 for a, sd in worlds]


def draw_groups(generator, accuracy: float, sizes: Sequence[int], alike: float, n_seeds: int = 1):
    """Draw what seeds get right of images in groups of these sizes: (S, n) bool and the (n,) numbers of the groups.

    `alike` is the SD of groups in units of that of images; beside it several seeds have noise of their own of that size.
    """
    groups, noise = np.repeat(np.arange(len(sizes)), sizes), float(n_seeds > 1)
    chance = norm.ppf(accuracy) * math.sqrt(1 + alike**2 + noise) + alike * generator.normal(size=len(sizes))[groups]
    chance = chance + generator.normal(size=len(groups))
    return chance + noise * generator.normal(size=(n_seeds, len(groups))) > 0, groups
