"""Files that change while a run trains are named where they are read in every epoch; pixels that are kept stay the same."""

import shutil

import pytest

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
