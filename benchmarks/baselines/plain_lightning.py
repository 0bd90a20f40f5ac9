"""What a Lightning user would write: the plain loop's network, transforms and optimizer in a module and a Trainer.

python plain_lightning.py ROOT --weights FILE --epochs 60
"""

import argparse
import time
import warnings

STARTED = time.perf_counter()

import lightning as L
import torch
import torchvision
from torch import nn
from torchvision import transforms as T
from torchvision.datasets import ImageFolder

NORMALIZE = T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


class Module(L.LightningModule):
    def __init__(self, weights: str, classes: int):
        super().__init__()
        backbone = torchvision.models.shufflenet_v2_x0_5(weights=None)
        backbone.load_state_dict(torch.load(weights, weights_only=True), strict=False)
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(192, 2), nn.Dropout(0.02)]
        self.net = nn.Sequential(*list(backbone.children())[:-2], *head, nn.Linear(2, classes))

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.log("val", (self.net(batch[0]).argmax(1) == batch[1]).float().mean(), batch_size=len(batch[1]))

    def on_validation_epoch_end(self):
        epoch, score = self.current_epoch + 1, self.trainer.callback_metrics["val"]
        print(f"epoch {epoch} val {score:.4f} {time.perf_counter() - STARTED:.1f} s", flush=True)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-4)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=7, mode="max")
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=48763)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    L.seed_everything(args.seed, verbose=False)
    resize, tensor = T.Resize((256, 256)), T.ToTensor()
    flips = [T.RandomHorizontalFlip(), T.RandomVerticalFlip(), T.RandomRotation(15)]
    train = ImageFolder(f"{args.root}/train", T.Compose([resize, *flips, tensor, T.RandomErasing(), NORMALIZE]))
    val = ImageFolder(f"{args.root}/val", T.Compose([resize, tensor, NORMALIZE]))
    options = {"batch_size": 16, "num_workers": 2, "persistent_workers": True}
    trainer = L.Trainer(
        max_epochs=args.epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    loaders = [torch.utils.data.DataLoader(part, shuffle=part is train, **options) for part in (train, val)]
    trainer.fit(Module(args.weights, len(train.classes)), *loaders)


if __name__ == "__main__":
    main()
