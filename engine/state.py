"""What this process knows of the command that it runs."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from common.run_folder import shown_script
from engine.processes import Process


class FailedJob(NamedTuple):
    """A job that did not reach its end."""

    name: str
    error: Exception | None  # None where another process knows it
    in_sweep: bool


@dataclass
class CliState:
    """Command, failed jobs and the clock of one process."""

    started_s: float = field(default_factory=time.perf_counter)  # of the process, then of each further job of a sweep
    command: list[str] = field(default_factory=list)  # as typed
    data_source: str = ""  # a sentence where the command did not name its own
    # Which of the processes of its run; of srun's only once it is known whether they train together
    process: Process = field(default_factory=Process)
    failed: list[FailedJob] = field(default_factory=list)
    made_folders: list[Path] = field(default_factory=list)  # by this command, the inner ones first


STATE = CliState()


def resume_advice(command: Sequence[str]) -> str:
    """Return `. Resume with: python train.py ...` of a command as STATE has it, for the folder that it was typed in."""
    return f". Resume with: {shlex.join([*command[:1], *map(shown_script, command[1:2]), *command[2:]])}"
