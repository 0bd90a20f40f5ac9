"""Change two defaults of Python and of the system that slow a process that trains down."""

import atexit
import ctypes
import gc
import os

OBJECTS = 100_000  # made before garbage is collected; 700 by default
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
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
    if any(name.startswith("MALLOC_") for name in os.environ):
        return  # the user has chosen
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return
    if any(
        mallopt(M_MMAP_THRESHOLD, size) for size in LARGEST_KEPT
    ):  # the other setting without this one would be slower
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
