"""Simulated worlds whose truth is known: the probability of every outcome, for each seed and image."""

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
    """Return a and the SD of s for seeds of this mean accuracy and SD, right with chance Phi(a + s + d), d ~ N(0, 2^2)."""
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
    """Draw which of the same images each setting's seeds get right: (S, n) bool for each (a, SD) of `seed_world`."""
    easy = generator.normal(0, IMAGES, (1, n_images))
    noise = (n_seeds, n_images)
    return [a + sd * generator.normal(size=(n_seeds, 1)) + easy + generator.normal(size=noise) > 0 for a, sd in worlds]


def draw_groups(generator, accuracy: float, sizes: Sequence[int], alike: float, n_seeds: int = 1):
    """Draw which images, in groups of these sizes, seeds get right: (S, n) bool and group numbers (n,).

    `alike` is the SD between groups in units of the SD between images; several seeds also have their own noise with that SD.
    """
    groups, noise = np.repeat(np.arange(len(sizes)), sizes), float(n_seeds > 1)
    chance = norm.ppf(accuracy) * math.sqrt(1 + alike**2 + noise) + alike * generator.normal(size=len(sizes))[groups]
    chance = chance + generator.normal(size=len(groups))
    return chance + noise * generator.normal(size=(n_seeds, len(groups))) > 0, groups
