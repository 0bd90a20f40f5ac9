"""Search settings with Optuna, retrain the best with several seeds: python search.py name=NAME n_trials=40"""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from common.progress import Progress
from common.targets import check_installed
from engine import cli
from train import run


@hydra.main(version_base="1.3", config_path=str(cli.CONF), config_name="search")
def main(config: DictConfig) -> None:
    with cli.keep_error("search", config):
        check_installed("optuna", "search.py", "search")
        with Progress("starting"):
            from engine.search.search import run_search  # late: help and command-line errors need no Optuna

        run_search(config, Path(HydraConfig.get().runtime.output_dir), run)


if __name__ == "__main__":
    cli.run_cli(main)
