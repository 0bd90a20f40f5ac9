"""Files that change while a run trains are named where they are read in every epoch; pixels that are kept stay the same."""

import shutil

import pytest

from callbacks.epoch_logger import EpochLogger
from common.run_folder import RunFolder
from common.run_record import RunRecord
from engine.run import stages


@pytest.mark.parametrize(("limit_gib", "warned"), [(0, True), pytest.param(50, False, marks=pytest.mark.thorough)])
def test_images_replaced_during_a_run_are_named(train, two_colors, tmp_path, monkeypatch, limit_gib, warned):
    root = shutil.copytree(two_colors, tmp_path / "images")
    replaced = sorted((root / "test" / "blue").iterdir())
    fit = stages.fit

    def fit_and_replace(*arguments):
        done = fit(*arguments)
        for file in replaced:
            shutil.copyfile(next((root / "test" / "red").iterdir()), file)
        return done

    monkeypatch.setattr(stages, "fit", fit_and_replace)
    ran = train(f"datamodule.cache_max_gib={limit_gib}", "trainer.max_epochs=1", root=root)
    assert ran.status == 0, ran.err
    text = f"7 of 50 files were changed since they were checked, such as {replaced[0]}, and images are decoded in every"
    assert [text in warning for warning in ran.record.run.warnings if "changed" in warning] == [True] * warned
    assert (text in ran.out) == warned


@pytest.mark.parametrize(
    "moment",
    [
        "first epoch",
        pytest.param("after the last epoch", marks=pytest.mark.thorough),
        "before TensorBoard makes it again",
    ],
)
def test_a_run_whose_folder_is_removed_ends_with_an_error(train, tmp_path, monkeypatch, moment):
    run = tmp_path / "run"
    owner, name = {
        "first epoch": (EpochLogger, "on_train_epoch_start"),
        "after the last epoch": (stages, "fit"),
        "before TensorBoard makes it again": (stages, "build_model"),
    }[moment]
    usual = getattr(owner, name)

    def remove_too(*arguments):
        done = usual(*arguments)
        shutil.rmtree(run)
        return done

    monkeypatch.setattr(owner, name, remove_too)
    ran = train("trainer.max_epochs=1", "logger=tensorboard", f"hydra.run.dir={run}")
    assert ran.status == 1 and "Traceback" not in ran.err, ran.err
    assert f"ERROR: {run}: this folder was removed or moved while this command ran" in ran.err
    assert not (run / "result.json").is_file() or RunRecord.read(RunFolder(run)).status == "failed"
