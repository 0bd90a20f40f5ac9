"""Run a LiteRT file in tflite-micro's interpreter: python microcontroller_process.py MODEL IMAGES.npy OUT.json

This is a process of its own, because the interpreter may abort it, and reports what it lacks on standard error only.
"""

import contextlib
import json
import sys
import time
from pathlib import Path

import numpy as np
from tflite_micro import runtime

LARGE = 2**28  # bytes of an arena that is large enough for every network
STEP = 16  # bytes: the alignment of an arena
MOST_S = 30.0  # for all images; at least one is computed


def main(model: str, images: str, out: str) -> None:
    """Write probabilities and the smallest arena to a file; what the arena holds goes to standard error."""
    content = Path(model).read_bytes()
    interpreter = runtime.Interpreter.from_bytes(content, arena_size=LARGE)
    found, began = [], time.monotonic()
    for pixels in np.load(images, allow_pickle=False):
        if found and time.monotonic() - began > MOST_S:
            break
        interpreter.set_input(pixels[None], 0)
        interpreter.invoke()
        found.append(interpreter.get_output(0)[0].tolist())
    interpreter.print_allocations()
    Path(out).write_text(json.dumps({"probabilities": found, "arena_bytes": smallest_arena(content)}))


def smallest_arena(content: bytes) -> int:
    """Return the smallest arena in which the interpreter starts, by bisection."""
    too_small, enough = 0, LARGE // STEP
    while enough - too_small > 1:
        middle = (too_small + enough) // 2
        with contextlib.suppress(RuntimeError):
            runtime.Interpreter.from_bytes(content, arena_size=middle * STEP)
            enough = middle
            continue
        too_small = middle
    return enough * STEP


if __name__ == "__main__":
    main(*sys.argv[1:])
