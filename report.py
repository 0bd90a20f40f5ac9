"""Read many runs and write one page with tables and figures: python report.py runs=outputs/sweeps/NAME"""

import logging

import hydra
from omegaconf import DictConfig, OmegaConf

from engine import cli

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(cli.CONF), config_name="report")
def main(config: DictConfig) -> None:
    from reports.report import write_report  # late: help and errors of the command line come without scipy

    runs = OmegaConf.to_container(config.runs) if OmegaConf.is_list(config.runs) else config.runs
    try:
        written = write_report(runs, out=config.out, title=config.title)
    except Exception as error:  # told by start; Hydra would say more around it
        cli.FAILED.append(cli.FailedJob("report", error, alone=True))
        return
    for text in written.warnings:
        log.warning("left out: %s", text)
    print(f"{written.text}\n\nPage: {written.page}")


if __name__ == "__main__":
    cli.run_cli(main)
