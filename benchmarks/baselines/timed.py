"""Run a script unchanged and record when each optimizer step was done: python timed.py FILE SCRIPT [ARGUMENT ...]

FILE gets one line per step: the seconds of the system's monotonic clock, which all processes share. A script whose optimizer is
not one of torch's must write them itself, to the file that the environment variable STEPS names.
"""

import importlib.abc
import importlib.util
import os
import runpy
import sys
import time
from pathlib import Path

OPTIMIZER = "torch.optim.optimizer"


class AfterImport(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Register the hook when the script itself imports torch, so that nothing is imported earlier than without the hook."""

    def __init__(self, steps):
        self.steps = steps

    def find_spec(self, name, path=None, target=None):
        if name != OPTIMIZER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        module.register_optimizer_step_post_hook(lambda *_: print(time.perf_counter(), file=self.steps, flush=True))


def main() -> None:
    file, script, *arguments = sys.argv[1:]
    sys.argv = [script, *arguments]
    os.environ["STEPS"] = file
    sys.path[0] = str(Path(script).resolve().parent)
    with Path(file).open("w") as steps:
        sys.meta_path.insert(0, AfterImport(steps))
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
