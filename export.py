"""Export a trained network for use elsewhere: python export.py ckpt=outputs/MODEL/DATE/checkpoints/best.ckpt"""

import hydra
from omegaconf import DictConfig

from common.progress import Progress
from common.signals import stop_immediately
from engine import cli
from inference.arguments import checkpoint_argument


@hydra.main(version_base="1.3", config_path=str(cli.CONF), config_name="export")
def main(config: DictConfig) -> None:
    with cli.keep_error("export", config), stop_immediately():
        checkpoint_argument(config.ckpt)  # refuse a wrong one before torch is imported
        with Progress("starting"):
            from engine.config.instantiate import instantiate
            from inference.export.export import run  # late: help and command-line errors need no torch

        run(config, lambda: instantiate(config, "format"))


if __name__ == "__main__":
    cli.run_cli(main)
