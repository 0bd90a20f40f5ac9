"""Label pictures with a trained network: python predict.py ckpt=outputs/MODEL/DATE/checkpoints/best.ckpt images=DIR

From Python:

    from predict import Classifier
    model = Classifier.from_checkpoint("outputs/MODEL/DATE/checkpoints/best.ckpt")
    model.predict(["a.jpg", Image.open("b.png"), array, tensor])
"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from callbacks import command_line
from callbacks.predicting.asked import check_asked, named_file
from callbacks.predicting.picture_classifier import Classifier

__all__ = ["Classifier"]


@hydra.main(version_base="1.3", config_path=str(command_line.CONF), config_name="predict")
def main(config: DictConfig) -> None:
    try:
        run(config)
    except Exception as error:  # told by start; Hydra would say more around it
        command_line.FAILED.append(command_line.Failed("predict", error, alone=True))


def run(config: DictConfig) -> None:
    """Writes predictions.csv and says what is in it.

    Raises:
        ValueError: what is wrong with the settings; or, when all is written, that some files could not be read.
    """
    from tqdm import tqdm

    from callbacks.explaining.run_pictures import count_opened, pictures_of
    from callbacks.predicting.prediction_table import Tally, columns, line, whole_csv

    checkpoint = named_file(config.ckpt, exported=True)
    check_asked(**config)
    images = OmegaConf.to_container(config.images) if OmegaConf.is_list(config.images) else config.images
    pictures = pictures_of(images, config.root)
    model = Classifier.from_checkpoint(checkpoint, str(config.device))
    tally = Tally(model.classes, model.decision)
    explained = None
    if config.explain:
        from callbacks.explaining.command import Explaining

        explained = Explaining(model, checkpoint, pictures, config.explain_most)
    answers = model.stream(pictures, config.batch_size)
    hidden = not sys.stderr.isatty()
    place = out_file(config.out)
    with whole_csv(place, columns(model.classes, model.decision)) as write:
        for picture, prediction in tqdm(answers, total=len(pictures), unit="picture", leave=False, disable=hidden):
            write(line(picture, prediction))
            tally.add(picture, prediction)
            if explained:
                explained.add(picture, prediction)
    opened = count_opened(checkpoint, pictures) if "test" in tally.right else None
    print(*tally.in_words(opened), f"Predictions: {place}", *(explained.write(place) if explained else []), sep="\n")
    if tally.errors:
        example = tally.first_error if tally.errors == 1 else f"the first: {tally.first_error}"
        raise ValueError(
            f"{tally.errors:,} of {tally.n:,} pictures could not be read ({example}); see the column error"
        )


def out_file(out: str | None) -> Path:
    """Where the table goes."""
    place = Path(command_line.run_folder("predictions") if out is None else str(out))
    return place if place.suffix.lower() == ".csv" else place / "predictions.csv"


if __name__ == "__main__":
    command_line.start(main)
