"""Train a classifier, reload its best checkpoint, test it and record the run: python train.py model=shufflenet_mod"""

from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from common.progress import Progress
from common.run_record import RunRecord
from engine import cli


@hydra.main(version_base="1.3", config_path=str(cli.CONF), config_name="train")
def main(config: DictConfig) -> None:
    cli.run_hydra_job(config, run)


def run(config: DictConfig, record: RunRecord, callbacks: Sequence = ()) -> None:
    with Progress("starting"):
        from engine.run.stages import train_and_test  # late: help and command-line errors need no torch

    train_and_test(config, record, callbacks)


if __name__ == "__main__":
    cli.run_cli(main)
