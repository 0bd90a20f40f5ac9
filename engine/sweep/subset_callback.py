"""What a sweep over seeds of data with subsets ends with."""

from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class SubsetTableCallback(Callback):
    """Writes subsets.md into the sweep's folder and prints it: the accuracy of each kind of image over the seeds."""

    def on_multirun_end(self, config: DictConfig, **_) -> None:
        from common.atomic_io import write_text  # late: every start of a job imports this file
        from reports.subsets import in_markdown

        folder = Path(config.hydra.sweep.dir)
        try:
            table = in_markdown(folder)
        except ValueError as error:
            print(f"\nNo table of subsets: {error}")
            return
        write_text(folder / "subsets.md", table)
        print("", table, f"Subsets: {folder / 'subsets.md'}", sep="\n")
