"""Serve a web page: drop an image, see the answer and why: python demo.py ckpt=outputs/MODEL/DATE/checkpoints/best.ckpt"""

import hydra
from omegaconf import DictConfig

from common.progress import Progress
from engine import cli


@hydra.main(version_base="1.3", config_path=str(cli.CONF), config_name="demo")
def main(config: DictConfig) -> None:
    with cli.keep_error("demo", config):
        with Progress("starting"):
            from inference.demo.app import run  # late: help and command-line errors need no torch

        run(config)


if __name__ == "__main__":
    cli.run_cli(main)
