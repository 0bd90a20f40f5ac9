"""A web page: drop an image, see the answer and why: python demo.py ckpt=outputs/MODEL/DATE/checkpoints/best.ckpt"""

import hydra
from omegaconf import DictConfig

from engine import cli
from inference.arguments import checkpoint_argument


@hydra.main(version_base="1.3", config_path=str(cli.CONF), config_name="demo")
def main(config: DictConfig) -> None:
    try:
        run(config)
    except Exception as error:  # told by start; Hydra would say more around it
        cli.FAILED.append(cli.FailedJob("demo", error, alone=True))


def run(config: DictConfig) -> None:
    """Serves the page until it is stopped with Ctrl-C.

    Raises:
        ValueError: no checkpoint, no gradio, or no such host or port.
    """
    from inference.demo import server

    checkpoint = checkpoint_argument(config.ckpt)
    server.check_address(config.host, config.port, config.share)
    server.gradio()

    from inference.demo.app import DemoApp  # late: torch

    page = DemoApp(checkpoint, str(config.device)).page()
    server.serve(page, host=config.host, port=config.port, share=config.share)


if __name__ == "__main__":
    cli.run_cli(main)
