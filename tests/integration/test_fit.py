"""datamodule.fit from training to prediction: a checkpoint carries it, and nothing else is mixed with it."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import predict as script
from common.run_folder import RunFolder
from inference.predictor import Predictor
from tests.support.helpers import SIMPLE_CNN, read_csv


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """Images of 96 x 48 and 48 x 96: noise with a bright left or right (upper or lower) end, which a crop cuts off."""
    root, generator = tmp_path_factory.mktemp("sides"), np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6), ("test", 4)):
        for label in ("first", "last"):
            (root / split / label).mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 120, (48, 96, 3), dtype=np.uint8)
                pixels[:, slice(0, 20) if label == "first" else slice(76, 96)] += 130
                pixels = pixels if index % 2 else pixels.swapaxes(0, 1)
                Image.fromarray(pixels).save(root / split / label / f"{index}.png")
    return root


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_training_and_prediction_see_the_same_pixels(train, in_process, sides, tmp_path, fit):
    ran = train(*SIMPLE_CNN, "trainer.max_epochs=1", f"datamodule.fit={fit}", "stages=[fit,test]", root=sides)
    assert ran.status == 0 and not [text for text in ran.record.run.warnings if "squash" in text], ran.err
    run = RunFolder(ran.folder)
    # Near duplicates are looked for in pixels of another size
    arrays = [np.load(each / "pixels.npy") for each in (tmp_path / "cache" / "pixels").iterdir()]
    (stored,) = (each for each in arrays if each.shape[1] == ran.record.data.preprocessing.image_size)
    dark = (stored == 0).all(axis=3).mean(axis=(1, 2))  # (images,), shares of black pixels
    assert (dark == 0.5).all() if fit == "pad" else (dark < 0.01).all()  # half of the square is border

    assert Predictor.from_checkpoint(run.best_checkpoint, "cpu").description.fit == fit
    assert torch.load(run.best_checkpoint, weights_only=True)["hyper_parameters"]["fit"] == fit
    for split in ("val", "test"):
        out = tmp_path / f"{split}.csv"
        given = [f"images={run.predictions(split)}", f"root={sides}", f"out={out}", "device=cpu", "batch_size=8"]
        status, _, err = in_process(script, f"ckpt={run.best_checkpoint}", *given)
        assert (status, err) == (0, "")
        own = {row["path"]: row for row in read_csv(run.predictions(split))}
        for row in read_csv(out):
            assert row["fingerprint"] == own[row["path"]]["fingerprint"]
            assert [row[name] for name in ("p_first", "p_last")] == [own[row["path"]][n] for n in ("p_first", "p_last")]
    assert {"crop": "the largest square in the center", "pad": "padded with black"}[fit] in run.model_card.read_text()


@pytest.mark.thorough
def test_a_checkpoint_of_another_fit_or_size_is_refused(train, sides, tmp_path):
    ran = train(*SIMPLE_CNN, "trainer.max_epochs=1", "datamodule.fit=pad", "stages=[fit]", root=sides)
    place = tmp_path / "again"
    best = f"ckpt_path={ran.folder}/checkpoints/best.ckpt"
    again = train(best, "stages=[test]", f"hydra.run.dir={place}", small=False, to=place)
    assert again.status == 0 and again.record.test, again.err  # with the run's own settings
    moved = shutil.copy(ran.folder / "checkpoints" / "best.ckpt", tmp_path / "moved.ckpt")
    place = tmp_path / "other"
    settings = [*SIMPLE_CNN, "stages=[test]", f"ckpt_path={moved}", f"hydra.run.dir={place}"]
    other = train(*settings, root=sides)
    assert other.status == 1 and other.err == (
        f"ERROR: ckpt_path={moved}: was trained with datamodule.fit=pad, not squash; use datamodule.fit=pad\n"
    )
    other = train(*settings, "datamodule.fit=pad", "model.image_size=24", root=sides)
    assert other.status == 1 and "trained with model.image_size=16, not 24; use model.image_size=16" in other.err
    same = train(*settings, "datamodule.fit=pad", root=sides, to=place)
    assert same.status == 0 and same.record.test.accuracy == again.record.test.accuracy, same.err

    student = train(*SIMPLE_CNN, "stages=[fit]", f"teacher={moved}", "datamodule.fit=crop", root=sides)
    assert (
        student.status == 1
        and "was trained with datamodule.fit=pad, but this run has crop; use a teacher" in student.err
    )
    squashed = train(*SIMPLE_CNN, "stages=[fit]", "trainer.max_epochs=1", root=sides)
    assert [
        text
        for text in squashed.record.run.warnings
        if text.startswith("half of the images are at least 2 times as long")
    ]
    wrong = train(*SIMPLE_CNN, "datamodule.fit=strech", root=sides)
    assert wrong.status == 1 and "datamodule.fit=strech: expected squash or crop or pad" in wrong.err
