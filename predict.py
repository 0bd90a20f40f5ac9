"""Label images with a trained network: python predict.py ckpt=outputs/MODEL/DATE/checkpoints/best.ckpt images=DIR

From Python:

    from predict import Predictor
    model = Predictor.from_checkpoint("outputs/MODEL/DATE/checkpoints/best.ckpt")
    model.predict(["a.jpg", Image.open("b.png"), array, tensor])
"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from engine import cli
from inference.arguments import check_predict_arguments, checkpoint_argument
from inference.predictor import Predictor

__all__ = ["Predictor"]


@hydra.main(version_base="1.3", config_path=str(cli.CONF), config_name="predict")
def main(config: DictConfig) -> None:
    try:
        run(config)
    except Exception as error:  # told by start; Hydra would say more around it
        cli.FAILED.append(cli.FailedJob("predict", error, alone=True))


def run(config: DictConfig) -> None:
    """Writes predictions.csv and says what is in it.

    Raises:
        ValueError: what is wrong with the settings; or, when all is written, that some files could not be read.
    """
    from tqdm import tqdm

    from inference.predict import PredictionSummary, prediction_columns, prediction_row, whole_csv
    from inference.run_images import count_test_evaluation, resolve_images

    checkpoint = checkpoint_argument(config.ckpt, exported=True)
    check_predict_arguments(**config)
    images = OmegaConf.to_container(config.images) if OmegaConf.is_list(config.images) else config.images
    sources = resolve_images(images, config.root)
    model = Predictor.from_checkpoint(checkpoint, str(config.device))
    tally = PredictionSummary(model.classes, model.decision)
    explained = None
    if config.explain:
        from inference.explain.explain import Explanations

        explained = Explanations(model, checkpoint, sources, config.explain_most)
    answers = model.stream(sources, config.batch_size)
    hidden = not sys.stderr.isatty()
    place = out_file(config.out)
    with whole_csv(place, prediction_columns(model.classes, model.decision)) as write:
        for source, prediction in tqdm(answers, total=len(sources), unit="image", leave=False, disable=hidden):
            write(prediction_row(source, prediction))
            tally.add(source, prediction)
            if explained:
                explained.add(source, prediction)
    opened = count_test_evaluation(checkpoint, sources) if "test" in tally.right else None
    print(*tally.in_words(opened), f"Predictions: {place}", *(explained.write(place) if explained else []), sep="\n")
    if tally.errors:
        example = tally.first_error if tally.errors == 1 else f"the first: {tally.first_error}"
        raise ValueError(f"{tally.errors:,} of {tally.n:,} images could not be read ({example}); see the column error")


def out_file(out: str | None) -> Path:
    """Where the table goes."""
    place = Path(cli.new_run_dir("predictions") if out is None else str(out))
    return place if place.suffix.lower() == ".csv" else place / "predictions.csv"


if __name__ == "__main__":
    cli.run_cli(main)
