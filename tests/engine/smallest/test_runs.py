"""Runs of smallest.py: what an earlier budget has cut off, and which trainings finalists are compared by."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from callbacks.run_progress import USED_UP
from common.errors import UserError
from common.idle import warn_of_idle
from common.run_folder import PROJECT, RunFolder
from common.run_record import RunInfo, RunRecord, write_record
from engine.config.trainer_flags import check_trainer
from engine.config.validate import validate
from engine.search.space import compose_run
from engine.smallest.answer import Answerer
from engine.smallest.plan import Budget
from engine.smallest.runs import STAGES, RunKey, Runs, idle_in_runs, read_outcomes
from tests.support.configs import composed, data_module
from tests.support.fake_runs import make_run


def runs(folder: Path, folds: int | None = None) -> Runs:
    candidates = [
        SimpleNamespace(backbone="a", keep="k", image_size=size, frozen=False, name=f"a, {size} px")
        for size in (32, 64)
    ]
    settings = SimpleNamespace(folder=folder, candidates=SimpleNamespace(weights={}))
    return Runs(settings, candidates, folds, Budget(None), None, None)


def end(folder: RunFolder, status: str, reason: str | None = None) -> None:
    folder.path.mkdir(parents=True)
    record = RunRecord(status=status, reason=reason, run=RunInfo(name=folder.path.name))
    record.folder = folder
    write_record(record)


def test_what_a_budget_has_cut_off_is_open_again_what_was_behind_is_not(tmp_path):
    found, keys = runs(tmp_path), [RunKey(0, 1), RunKey(0, 2), RunKey(1, 1)]
    for key, how in zip(keys, [("pruned", USED_UP), ("finished",), ("pruned", "after epoch 1: behind")], strict=True):
        end(found.folder(key), *how)
    assert [found.is_cut_off(key) for key in keys] == [True, False, False]
    found.reopen()
    assert [found.record(key) is None for key in keys] == [True, False, False]
    assert RunRecord.read(found.folder(keys[0])).status == "running"  # so that its training resumes


def test_a_frozen_network_has_one_epoch_whatever_the_others_have(tmp_path):
    """It is fine-tuned networks that are validated every second epoch, and for which four epochs are the least."""
    found = runs(tmp_path)
    found.settings.question = SimpleNamespace(seeds=[1])
    found.settings.overrides = ["recipe=fast", "trainer.check_val_every_n_epoch=2", "trainer.min_epochs=4"]
    found.candidates[0].frozen = True
    for index, n in ((0, 1), (1, 16)):
        with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
            trainer = OmegaConf.to_container(compose_run([*found.overrides(RunKey(index, 1)), STAGES]).trainer)
        assert check_trainer(trainer)["max_epochs"] == n
    assert trainer["check_val_every_n_epoch"] == 2 and trainer["min_epochs"] == 4


@pytest.mark.parametrize(("typed", "folds", "warning"), [
    ("datamodule.split_seed=3", None, "datamodule.split_seed=3: has no effect on images that come with their splits"),
    ("datamodule.split_seed=3", 4, ""),
    ("decision.false_negative_cost=5", None,
     "decision.false_negative_cost=5: has no effect without decision.threshold_criterion=cost"),
    ("finals.folds=3", None, "finals.folds=3: has no effect with 12 validation images, since finals.folds_below=12"),
    ("finals.folds=3", 3, ""),
])  # fmt: skip
def test_what_was_typed_without_an_effect_in_any_run_is_warned_of(two_colors, tmp_path, caplog, typed, folds, warning):
    data = data_module(two_colors, tmp_path)
    data.setup()
    of_runs = [typed] * (not typed.startswith("finals."))
    config = validate(composed(f"datamodule.root={two_colors}", "datamodule=image_folder", *of_runs))
    caplog.clear()
    warn_of_idle([typed], idle_in_runs(SimpleNamespace(folds_below=12), config, data, folds))
    assert [record.getMessage() for record in caplog.records] == [warning] * bool(warning)


def test_finalists_are_compared_by_the_folds_that_all_have(tmp_path):
    found = runs(tmp_path, folds=3)
    keys = {index: [RunKey(index, 1, fold) for fold in range(3)] for index in range(2)}
    for key in (key for each in keys.values() for key in each):
        end(found.folder(key), *(("pruned", USED_UP) if key == RunKey(1, 1, 1) else ("finished",)))
    found.settings.question = SimpleNamespace(good_enough=0.1, target=None, metric="accuracy")
    answerer = Answerer(None, found, keys)
    compared = answerer._of_same_images([0, 1])
    assert {index: [key.fold for key in each] for index, each in compared.items()} == {0: [0, 2], 1: [0, 2]}


@pytest.mark.parametrize("damaged", ["predictions_val.csv", "splits.csv"])
def test_a_damaged_table_is_made_again_by_the_same_command(damaged, tmp_path):
    """A run of a search is none of the user's: `stages=[test]` would not help."""
    found, key = runs(tmp_path), RunKey(0, 1)
    table = make_run(found.folder(key).path) / damaged
    found.folder(key).splits.write_text("path,label,split,group\n")
    assert len(read_outcomes(found, [key], "val").images) == 60
    table.write_bytes(table.read_bytes()[:-20])
    with pytest.raises(UserError, match=rf"{damaged}: .*; delete the folder .+, then rerun the same command") as raised:
        read_outcomes(found, [key], "val")
    assert "the stage test" not in str(raised.value)
    shutil.rmtree(str(raised.value).partition("delete the folder ")[2].partition(",")[0])
    assert not found.is_trained(key)  # so that it is trained
