"""Train a classifier, reload its best checkpoint, test it and record the run: python train.py model=shufflenet_mod"""

from collections.abc import Sequence
from pathlib import Path

import hydra
from omegaconf import DictConfig

from callbacks import command_line
from reports.records import Record


@hydra.main(version_base="1.3", config_path=str(command_line.CONF), config_name="train")
def main(config: DictConfig) -> None:
    command_line.job(config, run)


def run(config: DictConfig, record: Record, callbacks: Sequence = ()) -> None:
    """One run: what is asked of cost, fit and test, in this order; with further callbacks of Lightning around it."""
    import lightning as L  # late: help and errors of the command line come without torch

    from callbacks import results, stages
    from callbacks.build import build
    from callbacks.checkpoint_files import whole
    from callbacks.checks import check_settings
    from callbacks.writing import may_fail
    from lightning_modules.checkpoint import load_classifier

    check_settings(config)
    if config.ckpt_path is not None and "fit" in config.stages:
        config.ckpt_path = str(whole(Path(config.ckpt_path)))
    L.seed_everything(config.seed, workers=True, verbose=False)
    data = build(config, "datamodule", augmentation=build(config, "augmentation"))
    if config.stages != ["cost"]:
        data.setup()
    rules = build(config, "decision")
    rules.check(data.catalog.classes)
    record.data = stages.describe_data(data, record)
    model = stages.model(config, data)
    record.model = stages.describe_model(config, model)
    if "cost" in config.stages and record.writes:
        record.model |= stages.cost(config, model, record.folder)
    if config.stages == ["cost"]:
        return
    trainer = stages.trainer(config, record, callbacks=callbacks)
    if "fit" in config.stages:
        record.model["weights"] = stages.initial_weights(config, record, model)
        with may_fail(record.folder / "result.json"):
            record.start()
        record.best = stages.fit(config, record, trainer, model, data)
        model = load_classifier(Path(record.best["checkpoint"]))
    results.validate(record, trainer, model, data, rules)
    if "test" in config.stages and data.has_test:
        results.test(config, record, trainer, model, data)
    results.conclude(config, record, trainer)


if __name__ == "__main__":
    command_line.start(main)
