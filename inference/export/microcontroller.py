"""Run an 8-bit LiteRT file as on a microcontroller, to compare its answers and to measure how much RAM it takes.

N images, S pixels a side, K classes.
"""

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.text import clean

PACKAGE = "tflite_micro"  # has wheels for Linux on x86-64 only
PROCESS = Path(__file__).with_name("microcontroller_process.py")
TIMEOUT_S = 300.0
LONGEST = 200  # characters of its reason


@dataclass(frozen=True)
class Microcontroller:
    """Hold how a file runs in tflite-micro's interpreter."""

    images: int
    largest_difference: float  # of a probability, from LiteRT's plain kernels
    largest_difference_fast: float  # from its fast kernels, which round in other places
    changed: int  # images whose predicted class differs from that of the fast kernels
    arena_bytes: int  # the smallest arena that works
    activation_bytes: int  # part of the arena: inputs and outputs of the operators
    # The rest of the arena: what the interpreter keeps about operators, tensors and quantization, on this 64-bit machine
    own_bytes: int
    computed_activation_bytes: int  # what limits.activation_int8_kib of smallest.py bounds

    def describe(self, ram_kib: float | None) -> str:
        """Return parity, the content of the arena and whether it fits into the RAM, for the screen."""
        kib = [value / 1024 for value in (self.arena_bytes, self.activation_bytes, self.own_bytes)]
        parity = (
            f"tflite-micro on {self.images} images: probabilities differ by at most {self.largest_difference:.1e} from "
            f"LiteRT's plain kernels, {self.largest_difference_fast:.1e} from its fast ones, "
            f"{self.changed} of {self.images} predictions"
        )
        arena = (
            f"arena {kib[0]:,.1f} KiB: {kib[1]:,.1f} of activations (computed as limits.activation_int8_kib: "
            f"{self.computed_activation_bytes / 1024:,.1f}) and {kib[2]:,.1f} of the interpreter's own (less with 32 bits)"
        )
        if ram_kib is None:
            return f"{parity}; {arena}"
        fits = "fits" if self.arena_bytes <= ram_kib * 1024 else "does not fit"
        return f"{parity}; {arena}; {fits} in {ram_kib:g} KiB of RAM, without the program's own variables"


def run_as_microcontroller(
    file: Path, pixels: np.ndarray, fast: np.ndarray, plain: np.ndarray, computed_bytes: int
) -> Microcontroller:
    """Run a file in tflite-micro's interpreter, on as many of the images as time allows.

    Args:
        pixels: (N, S, S, 3) uint8.
        fast: (N, K) probabilities of LiteRT's fast kernels.
        plain: (N, K) probabilities of its plain kernels.
        computed_bytes: size of the activations as computed by this project.

    Raises:
        UserError: it does not run there; the message names the unknown operator if that is the reason.
    """
    with tempfile.TemporaryDirectory() as folder:
        images, out = Path(folder, "images.npy"), Path(folder, "out.json")
        np.save(images, pixels)
        command = [sys.executable, str(PROCESS), str(file), str(images), str(out)]
        try:
            ran = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise UserError(f"it did not end within {TIMEOUT_S:g} s") from error
        if ran.returncode or not out.is_file():
            raise UserError(_reason(ran))
        found = json.loads(out.read_text())
    actual = np.array(found["probabilities"])
    fast, plain = fast[: len(actual)], plain[: len(actual)]
    parts = dict(re.findall(r"Arena allocation (head|tail) (\d+) bytes", ran.stderr))
    return Microcontroller(
        images=len(actual),
        largest_difference=float(np.abs(actual - plain).max()),
        largest_difference_fast=float(np.abs(actual - fast).max()),
        changed=int((actual.argmax(1) != fast.argmax(1)).sum()),
        arena_bytes=found["arena_bytes"],
        activation_bytes=int(parts["head"]),
        own_bytes=found["arena_bytes"] - int(parts["head"]),
        computed_activation_bytes=computed_bytes,
    )


def _reason(ran: subprocess.CompletedProcess) -> str:
    unknown = re.findall(r"(?:builtin opcode|from op code) '?(\w+)'?", ran.stderr)
    if unknown:
        return f"it has no operator {unknown[0]}"
    lines = [line for line in ran.stderr.splitlines() if line.strip()] or ["no reason is given"]
    return clean(f"status {ran.returncode}: {lines[-1]}", LONGEST)
