"""Find the smallest network that is good enough on your images: python smallest.py datamodule.root=DIR"""

import hydra
from omegaconf import DictConfig

from engine import cli
from engine.smallest.start import start
from train import run


@hydra.main(version_base="1.3", config_path=str(cli.CONF), config_name="smallest")
def main(config: DictConfig) -> None:
    with cli.keep_error("smallest", config):
        start(config, run)


if __name__ == "__main__":
    cli.run_cli(main)
