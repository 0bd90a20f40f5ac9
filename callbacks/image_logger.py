"""Images for the loggers: one augmented batch as the network sees it, and the confusion matrix."""

import io
from copy import copy
from itertools import islice
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger
from PIL import Image

from callbacks.prediction_writer import PredictionWriter, evaluated_split
from common.atomic_io import tolerate_disk_errors, write_bytes
from common.image_grid import encode_png, grid
from common.run_folder import RunFolder
from evaluation.scores import count_confusion

SHOWN = 16  # images of the batch


class ImageLogger(L.Callback):
    """Log the first training batch when training starts, and the confusion matrix after each pass over val or test."""

    def on_train_start(self, trainer, pl_module) -> None:
        if trainer.current_epoch or not trainer.is_global_zero or not takes_images(trainer):
            return
        loader = trainer.train_dataloader
        sampler = copy(loader.sampler)
        sampler.skip = 0  # a resumed loader may start in the middle of an epoch
        first = list(islice(sampler, min(SHOWN, loader.batch_size)))
        batch = loader.dataset.__getitems__(first)  # a second loader would start its workers for one batch
        batch = trainer.datamodule.on_after_batch_transfer(batch, 0)
        mean, std = (torch.tensor(pl_module.hparams[name]).view(3, 1, 1) for name in ("mean", "std"))
        pixels = (batch["pixels"].cpu() * std + mean).clamp(0, 1)  # (B, 3, H, W), back to visible colors
        titles = [pl_module.classes[label] for label in batch["labels"].tolist()]
        images = pixels.permute(0, 2, 3, 1).numpy()
        log_image(trainer, "augmented_batch", encode_png(grid(list(zip(images, titles, strict=True)))))

    def on_validation_end(self, trainer, pl_module) -> None:
        split = evaluated_split(trainer)
        if split is None or not trainer.is_global_zero or not takes_images(trainer):
            return
        from evaluation.figures import confusion_matrix, figure_pixels  # late: nothing is drawn during training

        found = next(each for each in trainer.callbacks if isinstance(each, PredictionWriter)).predictions[split]
        figure = confusion_matrix(count_confusion(found.labels, found.predicted, len(found.classes)), found.classes)
        log_image(trainer, f"confusion/{split}", encode_png(figure_pixels(figure)))

    on_test_end = on_validation_end


def takes_images(trainer) -> bool:
    """Return whether any of the run's loggers takes images."""
    return any(
        isinstance(logger, MLFlowLogger | TensorBoardLogger) or callable(getattr(logger, "log_image", None))
        for logger in trainer.loggers
    )


def log_image(trainer, name: str, png: bytes) -> None:
    """Log an image, at the current epoch, to each of the run's loggers that takes images."""
    for logger in trainer.loggers:
        if isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, _pixels(png), artifact_file=f"{name}.png")
        elif callable(getattr(logger, "log_image", None)):  # WandbLogger, and loggers with the same method
            logger.log_image(key=name, images=[_pixels(png)], step=trainer.current_epoch)
        elif isinstance(logger, TensorBoardLogger):
            from tensorboard.compat.proto.summary_pb2 import Summary  # late: a run may have no TensorBoard

            with Image.open(io.BytesIO(png)) as image:
                width, height = image.size
            # The writer's add_image would decode and encode the pixels again
            encoded = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
            # In one group after the charts of train and val, since TensorBoard opens the first two groups
            value = Summary.Value(tag=f"visuals/{name}", image=encoded)
            logger.experiment._get_file_writer().add_summary(Summary(value=[value]), trainer.current_epoch)


def _pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.array(image)


def save_figure(trainer, name: str, png: bytes) -> None:
    """Write NAME.png into the run's folder, and log it."""
    path = RunFolder(Path(trainer.default_root_dir)).figure(name)
    with tolerate_disk_errors(path):
        write_bytes(path, png)
    log_image(trainer, name, png)
