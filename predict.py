"""Label images with a trained network: python predict.py ckpt=outputs/MODEL/DATE/checkpoints/best.ckpt images=DIR

From Python:

    from predict import Predictor
    model = Predictor.from_checkpoint("outputs/MODEL/DATE/checkpoints/best.ckpt")
    model.predict(["a.jpg", Image.open("b.png"), array, tensor])
"""

import hydra
from omegaconf import DictConfig

from common.signals import stop_immediately
from engine import cli
from inference.predict import run
from inference.predictor import Predictor

__all__ = ["Predictor"]


@hydra.main(version_base="1.3", config_path=str(cli.CONF), config_name="predict")
def main(config: DictConfig) -> None:
    with cli.keep_error("predict", config), stop_immediately():
        run(config)


if __name__ == "__main__":
    cli.run_cli(main)
