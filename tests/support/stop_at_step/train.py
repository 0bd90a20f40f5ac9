"""Run train.py and send it a signal: STOP_AT=PROCESS:STEP:SIGNAL python tests/support/stop_at_step/train.py ARGUMENTS

It has the name of the root script because the command line is completed by it.
"""

import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[3])  # not this folder

import train
from callbacks.step_seed import StepSeed
from engine import cli

if __name__ == "__main__":
    if os.environ.get("STOP_AT"):
        process, step, number = map(int, os.environ["STOP_AT"].split(":"))
        usual = StepSeed.on_train_batch_start

        def then(self, trainer, *arguments):
            usual(self, trainer, *arguments)
            if (trainer.global_rank, trainer.global_step) == (process, step):
                os.kill(os.getpid(), number)

        StepSeed.on_train_batch_start = then
    cli.run_cli(train.main)
