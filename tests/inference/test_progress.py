"""What is on the screen while a command computes."""

import logging
import os
import time

from inference import progress


def test_what_takes_longer_has_another_line(caplog, monkeypatch):
    monkeypatch.setattr(progress, "SILENCE_S", 0.05)
    with caplog.at_level(logging.INFO), progress.phase("converting"):
        time.sleep(0.2)
    lines = caplog.messages
    assert lines[0] == "converting" and lines[1] == "converting: 0 s so far"
    time.sleep(0.1)
    assert caplog.messages == lines  # it has ended


def test_what_a_library_writes_beside_python_is_not_shown(capfd):
    with progress.quiet_native():
        os.write(2, b"INFO: a delegate\n")
    os.write(2, b"shown\n")
    assert capfd.readouterr().err == "shown\n"
