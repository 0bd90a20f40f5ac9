"""Find the smallest network that is good enough on your images: python smallest.py datamodule.root=DIR"""

import hydra
from omegaconf import DictConfig

from engine import cli
from train import run


@hydra.main(version_base="1.3", config_path=str(cli.CONF), config_name="smallest")
def main(config: DictConfig) -> None:
    with cli.keep_error("smallest", config):
        from engine.smallest.smallest import (
            run_smallest,  # late: help and errors of the command line come without torch
        )

        run_smallest(config, run)


if __name__ == "__main__":
    cli.run_cli(main)
