"""What a sweep over the number of training images ends with."""

from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class LearningCurveCallback(Callback):
    """Draws learning_curve.png into the sweep's folder and says whether more images or a larger network would help."""

    def on_multirun_end(self, config: DictConfig, **_) -> None:
        from common.image_grid import save_png
        from evaluation.figures import figure_pixels  # late: every start of a job imports this file
        from reports.learning_curve import draw, in_words, read_curves

        folder = Path(config.hydra.sweep.dir)
        try:
            curves = read_curves(folder)
        except ValueError as error:
            print(f"\nNo learning curve: {error}")
            return
        save_png(figure_pixels(draw(curves)), folder / "learning_curve.png")
        print("", *in_words(curves), f"Learning curve: {folder / 'learning_curve.png'}", sep="\n")
