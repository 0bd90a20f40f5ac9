"""The state of the command that this process runs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from common.run_folder import shown_script
from common.text import shell_join
from engine.processes import Process


class FailedJob(NamedTuple):
    """A job that failed."""

    name: str
    error: Exception | None  # None: only another process knows it
    in_sweep: bool


@dataclass
class CliState:
    """The command, the failed jobs and the start time of one process."""

    started_s: float = field(default_factory=time.perf_counter)  # start of the process; in a sweep, of the current job
    command: list[str] = field(default_factory=list)  # as typed
    data_source: str = ""  # a sentence on the data source chosen for the command; empty where it names one
    # Which process of its run this is; under srun it is set once it is known whether the tasks train together
    process: Process = field(default_factory=Process)
    failed: list[FailedJob] = field(default_factory=list)
    made_folders: list[Path] = field(default_factory=list)  # folders that this command created, inner ones first

    @property
    def other_folder(self) -> str:
        """The setting that moves a search to another folder: name=NAME, which a typed hydra.run.dir leaves without effect."""
        return "hydra.run.dir=DIR" if any(each.startswith("hydra.run.dir=") for each in self.command) else "name=NAME"


STATE = CliState()


def resume_advice(command: Sequence[str]) -> str:
    """Return `. Resume with: python train.py ...` for a command as in STATE, to be typed in the same folder."""
    return f". Resume with: {shell_join([*command[:1], *map(shown_script, command[1:2]), *command[2:]])}"
