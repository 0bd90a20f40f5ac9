"""A trained network as one file that runs elsewhere: python export.py ckpt=outputs/MODEL/DATE/checkpoints/best.ckpt"""

import shlex

import hydra
from omegaconf import DictConfig, OmegaConf

from callbacks import command_line
from callbacks.exporting.asked import check_asked


@hydra.main(version_base="1.3", config_path=str(command_line.CONF), config_name="export")
def main(config: DictConfig) -> None:
    try:
        run(config)
    except Exception as error:  # told by start; Hydra would say more around it
        command_line.FAILED.append(command_line.Failed("export", error, alone=True))


def run(config: DictConfig) -> None:
    """Writes the file and says what it was found to do."""
    settings = {key: value for key, value in OmegaConf.to_container(config).items() if key != "hydra"}
    check_asked(**settings)
    from callbacks.exporting.making import export  # late: help and errors of the command line come without torch

    made = export(**settings)
    shape = "pictures (N, H, W, 3) uint8 of any size in, probabilities out"
    if not config.preprocessing:
        shape = "normalised pictures (N, 3, S, S) in, logits out"
    if made.calibrated_on:
        print(f"calibrated on {made.calibrated_on:,} pictures")
    print(f"compared with the checkpoint on {made.proof.in_words()}")
    if accuracies := made.proof.accuracies():
        print(accuracies)
    print(f"{made.path}: {made.path.stat().st_size / 2**20:.2f} MiB, {shape}")
    if made.path.suffix == ".onnx":
        print(f"Label pictures with it: python predict.py ckpt={shlex.quote(str(made.path))} images=DIR")


if __name__ == "__main__":
    command_line.start(main)
