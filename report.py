"""Read many runs and write one page with tables and figures: python report.py runs=outputs/sweeps/NAME"""

import hydra
from omegaconf import DictConfig

from common.progress import Progress
from engine import cli


@hydra.main(version_base="1.3", config_path=str(cli.CONF), config_name="report")
def main(config: DictConfig) -> None:
    with cli.keep_error("report", config):
        with Progress("starting"):
            from reports.report import run  # late: help and command-line errors need no scipy

        run(config)


if __name__ == "__main__":
    cli.run_cli(main)
