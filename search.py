"""Search settings with Optuna, train the best again with several seeds: python search.py name=NAME trials=40"""

import importlib.util
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from engine import cli
from train import run


@hydra.main(version_base="1.3", config_path=str(cli.CONF), config_name="search")
def main(config: DictConfig) -> None:
    try:
        if importlib.util.find_spec("optuna") is None:
            raise ValueError('search.py needs Optuna, which is not installed: pip install -e ".[search]"')
        from engine.search.search import run_search  # late: help and errors of the command line come without Optuna

        run_search(config, Path(HydraConfig.get().runtime.output_dir), run)
    except Exception as error:  # told by start; Hydra would say more around it
        cli.FAILED[:] = [cli.FailedJob("search", error, alone=True)]


if __name__ == "__main__":
    cli.run_cli(main)
