"""How a file runs as on a microcontroller, with a program in place of tflite-micro."""

import json

import numpy as np
import pytest

from common.errors import UserError
from inference.export import microcontroller
from inference.export.microcontroller import run_as_microcontroller

PLAIN = np.array([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]])
FAST = np.array([[0.75, 0.25], [0.375, 0.625], [0.0, 1.0]])
FOUND = {"probabilities": [[0.75, 0.25], [0.625, 0.375]], "arena_bytes": 10 * 1024}  # time was left for two of three
ARENA = "Arena allocation head 6144 bytes\nArena allocation tail 4096 bytes\n"


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Run a file in a program that ends with this status after writing these texts; return what was found."""

    def run(found=FOUND, stderr=ARENA, status=0):
        program = tmp_path / "program.py"
        write = f"open(sys.argv[3], 'w').write({json.dumps(found)!r})" if found else ""
        program.write_text(f"import sys\n{write}\nsys.stderr.write({stderr!r})\nsys.exit({status})\n")
        monkeypatch.setattr(microcontroller, "PROCESS", program)
        return run_as_microcontroller(tmp_path / "model.tflite", np.zeros((3, 4, 4, 3), np.uint8), FAST, PLAIN, 5120)

    return run


def test_parity_and_what_the_arena_holds(ran):
    found = ran()
    assert (found.images, found.changed) == (2, 1)
    assert (found.largest_difference, found.largest_difference_fast) == (0.125, 0.25)
    text = found.describe(None)
    assert (
        "tflite-micro on 2 images: probabilities differ by at most 1.2e-01 from LiteRT's plain kernels, 2.5e-01" in text
    )
    assert "1 of 2 predictions; arena 10.0 KiB: 6.0 of activations" in text
    assert text.endswith(
        "(computed as limits.activation_int8_kib: 5.0) and 4.0 of the interpreter's own (less with 32 bits)"
    )
    assert found.describe(10).endswith("; fits in 10 KiB of RAM, without the program's own variables")
    assert "; does not fit in 9.99 KiB of RAM" in found.describe(9.99)


@pytest.mark.parametrize(("stderr", "status", "words"), [
    ("Didn't find op for builtin opcode 'GELU'\nFailed\n", 1, "^it has no operator GELU$"),
    ("a\nout of memory\n\n", 3, "^status 3: out of memory$"), ("", -9, "^status -9: no reason is given$"),
    ("", 0, "^status 0: no reason is given$"), ("x" * 999, 1, r"^status 1: x+…$"),
])  # fmt: skip
def test_a_file_that_does_not_run_has_a_reason(ran, stderr, status, words):
    with pytest.raises(UserError, match=words) as caught:
        ran(None, stderr, status if status >= 0 else "__import__('os').kill(__import__('os').getpid(), 9)")
    assert len(str(caught.value)) <= 200


def test_a_program_that_does_not_end_is_stopped(ran, monkeypatch):
    monkeypatch.setattr(microcontroller, "TIMEOUT_S", 0.001)
    with pytest.raises(UserError, match=r"it did not end within 0\.001 s"):
        ran()
