"""Train a classifier, reload its best checkpoint, test it and record the run: python train.py model=shufflenet_mod"""

from collections.abc import Sequence
from pathlib import Path

import hydra
from omegaconf import DictConfig

from common.run_record import RunRecord
from engine import cli


@hydra.main(version_base="1.3", config_path=str(cli.CONF), config_name="train")
def main(config: DictConfig) -> None:
    cli.run_hydra_job(config, run)


def run(config: DictConfig, record: RunRecord, callbacks: Sequence = ()) -> None:
    """One run: what is asked of cost, fit and test, in this order; with further callbacks of Lightning around it."""
    import lightning as L  # late: help and errors of the command line come without torch

    from common.atomic_io import tolerate_disk_errors
    from engine.config.instantiate import instantiate
    from engine.config.validate_network import check_settings
    from engine.run import evaluate, stages
    from engine.run.checkpoint_io import intact_checkpoint
    from lightning_modules.checkpoint import load_classifier

    check_settings(config)
    if config.ckpt_path is not None and "fit" in config.stages:
        config.ckpt_path = str(intact_checkpoint(Path(config.ckpt_path)))
    L.seed_everything(config.seed, workers=True, verbose=False)
    data = instantiate(config, "datamodule", augmentation=instantiate(config, "augmentation"))
    if config.stages != ["cost"]:
        data.setup()
    rules = instantiate(config, "decision")
    rules.check(data.catalog.classes)
    record.data = stages.describe_data(data, record)
    model = stages.build_model(config, data)
    record.model = stages.describe_model(config, model)
    if "cost" in config.stages and record.writes:
        record.model |= stages.profile_model(config, model, record.folder)
    if config.stages == ["cost"]:
        return
    trainer = stages.build_trainer(config, record, callbacks=callbacks)
    if "fit" in config.stages:
        record.model["weights"] = stages.load_weights(config, record, model)
        with tolerate_disk_errors(record.folder / "result.json"):
            record.start()
        record.best = stages.fit(config, record, trainer, model, data)
        model = load_classifier(Path(record.best["checkpoint"]))
    evaluate.evaluate_val(record, trainer, model, data, rules)
    if "test" in config.stages and data.has_test:
        evaluate.evaluate_test(config, record, trainer, model, data)
    evaluate.finalize(config, record, trainer)


if __name__ == "__main__":
    cli.run_cli(main)
