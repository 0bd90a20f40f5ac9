"""Change defaults of Python, the system and libraries that slow a process that trains down."""

import atexit
import ctypes
import gc
import os
import sys
from types import ModuleType

OBJECTS = 100_000  # made before garbage is collected; 700 by default
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
# Rounds that a thread of OpenMP spins for another one before it sleeps. With the 300,000 of GNU (some 10 ms) a core spins
# at each of the hundred parallel parts of a step while another process has the other core (docs/speed.md)
SPIN_ROUNDS = 5000
LARGEST_KEPT = (2**30, 2**25)  # bytes; the second is the most that glibc before 2.35 takes


def tune_process() -> None:
    """Collect garbage less often and keep freed memory; called as soon as a process is going to work, repeatable.

    Importing torch and Lightning makes millions of objects, among which Python looks for garbage hundreds of times: a third of
    the start, and a second and a half of the end. glibc gives a step's large blocks back to the system, which has to clear
    every page again in the next step: a tenth of the training and more.
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
    # The second setting without the first one would be slower
    if any(mallopt(M_MMAP_THRESHOLD, size) for size in LARGEST_KEPT):
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def collect_garbage() -> None:
    """Free what a job of a sweep has left: trainer and data refer to each other and hold device memory until then.

    What is there after the first job, mostly modules, stays to the end of the process: later jobs do not look through it
    again, which takes a quarter of a second.
    """
    gc.collect()
    if not collect_garbage.frozen:  # gc.get_freeze_count() counts a million objects one by one: 0.04 s a job
        gc.freeze()
        collect_garbage.frozen = True


collect_garbage.frozen = False


def import_torchmetrics() -> None:
    """Import torchmetrics without scipy.signal, a tenth of the time of all imports.

    torchmetrics 1.9 imports it to give one of its functions back the name that another package knows it by.
    """
    if "scipy.signal" in sys.modules or "torchmetrics" in sys.modules:
        return
    placeholder = ModuleType("scipy.signal")
    placeholder.hamming = None
    sys.modules[placeholder.__name__] = placeholder
    try:
        import torchmetrics  # noqa: F401
    finally:
        del sys.modules[placeholder.__name__]  # the next who imports it gets the module itself
