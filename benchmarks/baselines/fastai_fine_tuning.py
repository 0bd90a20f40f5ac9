"""What a fastai user would write: its vision learner on the truncated backbone, with its own augmentation and fine_tune.

python fastai_fine_tuning.py ROOT --weights FILE --epochs 12
"""

import argparse
import os
import time
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
STARTED = time.perf_counter()

import torch
from fastai.callback.core import Callback
from fastai.torch_core import set_seed
from fastai.vision.all import (
    ImageDataLoaders,
    Learner,
    Normalize,
    Resize,
    accuracy,
    aug_transforms,
    create_head,
    imagenet_stats,
    params,
)
from torch import nn
from torchvision.models import shufflenet_v2_x0_5


class Lines(Callback):
    """Print one line per epoch, as the other contestants do, and write the time of each step to the file STEPS, if set."""

    order = 60  # after the recorder

    def after_step(self):
        with Path(os.environ.get("STEPS", os.devnull)).open("a") as steps:
            print(time.perf_counter(), file=steps)

    def after_epoch(self):
        _, valid, score = self.recorder.values[-1]
        print(
            f"epoch {self.epoch + 1} val loss {valid:.4f} val {score:.4f} {time.perf_counter() - STARTED:.1f} s",
            flush=True,
        )


def network(weights: str, classes: int) -> nn.Sequential:
    """Return the truncated backbone with fastai's own head."""
    backbone = shufflenet_v2_x0_5(weights=None)
    backbone.load_state_dict(torch.load(weights, weights_only=True), strict=False)
    return nn.Sequential(nn.Sequential(*list(backbone.children())[:-2]), create_head(192, classes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=48763)
    args = parser.parse_args()
    set_seed(args.seed)
    loaders = ImageDataLoaders.from_folder(
        args.root, train="train", valid="val", bs=16, num_workers=2, seed=args.seed, item_tfms=Resize(256, method="squish"),
        batch_tfms=[*aug_transforms(flip_vert=True, max_rotate=15), Normalize.from_stats(*imagenet_stats)],
    )  # fmt: skip
    learner = Learner(
        loaders, network(args.weights, len(loaders.vocab)), metrics=accuracy, cbs=Lines(),
        splitter=lambda net: [params(net[0]), params(net[1])],
    )  # fmt: skip
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(args.epochs)


if __name__ == "__main__":
    main()
