"""A web page: drop a picture, see the answer and why: python demo.py ckpt=outputs/MODEL/DATE/checkpoints/best.ckpt"""

import hydra
from omegaconf import DictConfig

from callbacks import command_line
from callbacks.predicting.asked import named_file


@hydra.main(version_base="1.3", config_path=str(command_line.CONF), config_name="demo")
def main(config: DictConfig) -> None:
    try:
        run(config)
    except Exception as error:  # told by start; Hydra would say more around it
        command_line.FAILED.append(command_line.Failed("demo", error, alone=True))


def run(config: DictConfig) -> None:
    """Serves the page until it is stopped with Ctrl-C.

    Raises:
        ValueError: no checkpoint, no gradio, or no such host or port.
    """
    from callbacks.explaining import serving

    checkpoint = named_file(config.ckpt)
    serving.check_address(config.host, config.port, config.share)
    serving.gradio()

    from callbacks.explaining.web import Demo  # late: torch

    page = Demo(checkpoint, str(config.device)).page()
    serving.serve(page, host=config.host, port=config.port, share=config.share)


if __name__ == "__main__":
    command_line.start(main)
