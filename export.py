"""A trained network as one file that runs elsewhere: python export.py ckpt=outputs/MODEL/DATE/checkpoints/best.ckpt"""

import shlex

import hydra
from omegaconf import DictConfig, OmegaConf

from engine import cli
from inference.export.arguments import check_export_arguments


@hydra.main(version_base="1.3", config_path=str(cli.CONF), config_name="export")
def main(config: DictConfig) -> None:
    try:
        run(config)
    except Exception as error:  # told by start; Hydra would say more around it
        cli.FAILED.append(cli.FailedJob("export", error, alone=True))


def run(config: DictConfig) -> None:
    """Writes the file and says what it was found to do."""
    settings = {key: value for key, value in OmegaConf.to_container(config).items() if key != "hydra"}
    check_export_arguments(**settings)
    from inference.export.export import export  # late: help and errors of the command line come without torch

    made = export(**settings)
    shape = "images (N, H, W, 3) uint8 of any size in, probabilities out"
    if not config.preprocessing:
        shape = "normalized images (N, 3, S, S) in, logits out"
    if made.calibrated_on:
        print(f"calibrated on {made.calibrated_on:,} images")
    print(f"compared with the checkpoint on {made.proof.in_words()}")
    if accuracies := made.proof.accuracies():
        print(accuracies)
    print(f"{made.path}: {made.path.stat().st_size / 2**20:.2f} MiB, {shape}")
    if made.path.suffix == ".onnx":
        print(f"Label images with it: python predict.py ckpt={shlex.quote(str(made.path))} images=DIR")


if __name__ == "__main__":
    cli.run_cli(main)
