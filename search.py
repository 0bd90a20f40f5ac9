"""Search settings with Optuna, train the best again with several seeds: python search.py name=NAME trials=40"""

import importlib.util
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from callbacks import command_line
from train import run


@hydra.main(version_base="1.3", config_path=str(command_line.CONF), config_name="search")
def main(config: DictConfig) -> None:
    try:
        if importlib.util.find_spec("optuna") is None:
            raise ValueError('search.py needs Optuna, which is not installed: pip install -e ".[search]"')
        from callbacks.search import search  # late: help and errors of the command line come without Optuna

        search(config, Path(HydraConfig.get().runtime.output_dir), run)
    except Exception as error:  # told by start; Hydra would say more around it
        command_line.FAILED[:] = [command_line.Failed("search", error, alone=True)]


if __name__ == "__main__":
    command_line.start(main)
