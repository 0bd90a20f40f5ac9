"""Change defaults of Python, the system and libraries that slow training down."""

import atexit
import ctypes
import gc
import os
import sys
from types import ModuleType

OBJECTS = 100_000  # allocations between two garbage collections; Python's default is 700
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
# Rounds that an OpenMP thread spins, waiting for another one, before it sleeps. With GNU's default of 300,000 (some 10 ms) a
# core spins at each of a step's hundred parallel regions while another process uses the other core (docs/speed.md)
SPIN_ROUNDS = 5000
LARGEST_KEPT = (2**30, 2**25)  # bytes; the second is the most that glibc before 2.35 accepts


def tune_process() -> None:
    """Collect garbage less often and keep freed memory; call it first in every process that works (twice does no harm).

    Importing torch and Lightning creates millions of objects, which Python searches for garbage hundreds of times: that takes
    a third of the start, and 1.5 s at the end. glibc returns a step's large blocks to the system, which has to clear every page
    for the next step: a tenth of the training time or more.
    """
    if gc.get_threshold()[0] == OBJECTS:
        return
    gc.set_threshold(OBJECTS, 50)
    atexit.register(gc.freeze)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_ROUNDS))  # read when torch is imported
    if any(name.startswith("MALLOC_") for name in os.environ):
        return  # the user has chosen
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return
    # Without the first setting, the second one would make it slower
    if any(mallopt(M_MMAP_THRESHOLD, size) for size in LARGEST_KEPT):
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def collect_garbage() -> None:
    """Free what a job of a sweep leaves behind: trainer and data refer to each other, and hold device memory until then.

    Objects that exist after the first job, mostly modules, stay until the process ends, so later collections skip them. That
    saves a quarter of a second each.
    """
    gc.collect()
    if not collect_garbage.frozen:  # gc.get_freeze_count() counts a million objects one by one: 0.04 s a job
        gc.freeze()
        collect_garbage.frozen = True


collect_garbage.frozen = False


def import_torchmetrics() -> None:
    """Import torchmetrics without scipy.signal, which takes a tenth of the time of all imports.

    torchmetrics 1.9 imports it only to restore a function's old name for another package.
    """
    if "scipy.signal" in sys.modules or "torchmetrics" in sys.modules:
        return
    placeholder = ModuleType("scipy.signal")
    placeholder.hamming = None
    sys.modules[placeholder.__name__] = placeholder
    try:
        import torchmetrics  # noqa: F401
    finally:
        del sys.modules[placeholder.__name__]  # a later import gets the real module
