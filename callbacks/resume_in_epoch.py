"""Resume in the middle of an epoch, also with another batch size."""

import lightning as L


class ResumeInEpoch(L.Callback):
    """Convert Lightning's count of finished batches to the current batch size.

    A checkpoint counts images (datamodules/loader.py); Lightning counts batches, to recognize the last one.
    """

    def on_train_start(self, trainer, pl_module) -> None:
        done = trainer.fit_loop.epoch_loop.batch_progress.current
        if trainer.fit_loop.restarting and trainer.train_dataloader.sampler.skip:
            further = trainer.train_dataloader.batch_sampler.batches_done - done.ready
            for name in ("ready", "started", "processed", "completed"):
                setattr(done, name, getattr(done, name) + further)
