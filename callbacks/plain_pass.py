"""One pass over all training pictures as they are, before training."""

from collections.abc import Iterator

from torch import Tensor


def plain_batches(trainer, pl_module) -> Iterator[dict[str, Tensor]]:
    """Batches of normalised pictures on the device, without augmentation, the same in every process."""
    for batch in trainer.datamodule.plain_train_dataloader():
        yield trainer.strategy.batch_to_device(batch, pl_module.device)  # with the data module's hook, that normalises
