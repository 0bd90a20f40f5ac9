"""What the jobs of a sweep share: images are listed, opened and audited once a process."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest

import train as script
from datamodules import image_datamodule
from datamodules.memory import MOST, Memory
from tests.support.commands import SMALL_RUN
from tests.support.configs import data_module
from tests.support.helpers import NOT_DRAWN, SIMPLE_CNN


@pytest.fixture
def counted(monkeypatch):
    """Count how often images are listed, opened and audited."""
    calls = Counter()
    for name in ("read_source", "open_pixel_caches", "prepare_catalog"):
        usual = getattr(image_datamodule, name)
        monkeypatch.setattr(
            image_datamodule, name, lambda *a, _name=name, _usual=usual, **k: calls.update([_name]) or _usual(*a, **k)
        )
    return calls


def test_a_memory_keeps_the_last_used():
    memory, made = Memory(), []
    for number in [*range(MOST), 0, MOST]:  # 0 is used again, so that 1 goes
        memory.get(number, lambda: made.append(1))
    assert len(made) == MOST + 1
    memory.get(0, lambda: pytest.fail("made again"))
    memory.get(1, lambda: made.append(1))
    assert len(made) == MOST + 2


def test_other_rules_share_the_pixels_and_not_the_splits(two_colors, tmp_path, counted):
    memory, found = Memory(), []
    whole, half = ((None, None, 1), (None, None, 0.5))
    for (folds, fold, fraction), seed in (
        (whole, 1), (whole, 2), ((3, 0, 1), 1), ((3, 1, 1), 1), (half, 1), (half, 2)
    ):  # fmt: skip
        rules = {"folds": folds, "fold": fold, "train_fraction": fraction}
        data = data_module(two_colors, tmp_path, f"seed={seed}", **rules)
        data.memory = memory
        data.setup()
        found.append(data)
    assert counted == {
        "read_source": 1,
        "open_pixel_caches": 1,  # those of the run, and those that are compared
        "prepare_catalog": 5,
    }  # of whole train the seed is no rule
    splits = [data.catalog.splits.tolist() for data in found]
    assert splits[0] == splits[1] and len({tuple(each) for each in splits}) == 5
    assert len(found[4].catalog.excluded) == len(found[5].catalog.excluded) > 0 == len(found[0].catalog.excluded)
    assert all(np.array_equal(found[0].pixel_cache[3], data.pixel_cache[3]) for data in found)


@pytest.mark.thorough
def test_every_job_of_a_sweep_records_the_warnings_of_its_images(in_process, two_colors, tmp_path):
    root = shutil.copytree(two_colors, tmp_path / "images")
    (root / "train" / "red" / "broken.png").write_bytes(b"no image")
    arguments = [*SMALL_RUN, *SIMPLE_CNN, *NOT_DRAWN, f"datamodule.root={root}", "datamodule.on_unreadable=skip"]
    arguments += [f"datamodule.cache={tmp_path}/cache", "trainer.max_epochs=1", f"hydra.sweep.dir={tmp_path}/sweep"]
    status, _, err = in_process(script, "-m", *arguments, "seed=1,2")
    assert status == 0, err
    for number in (1, 2):
        folder = tmp_path / "sweep" / f"seed-{number}"
        recorded = json.loads((folder / "result.json").read_text())["run"]["warnings"]
        assert sum("broken.png" in text for text in recorded) == 1
        assert "broken.png" in (folder / "train.log").read_text()
        assert "cannot be read" in (folder / "MODEL_CARD.md").read_text()


@pytest.mark.thorough
def test_the_jobs_of_a_sweep_list_and_audit_once(in_process, two_colors, tmp_path, counted):
    arguments = (
        *SMALL_RUN,
        *SIMPLE_CNN,
        *NOT_DRAWN,
        f"datamodule.root={two_colors}",
        f"datamodule.cache={tmp_path}/cache",
    )
    status, _, err = in_process(
        script,
        "-m",
        *arguments,
        "trainer.max_epochs=1",
        "stages=[fit]",
        "seed=1,2",
        f"hydra.sweep.dir={tmp_path}/sweep",
    )
    assert status == 0, err
    assert counted == {"read_source": 1, "open_pixel_caches": 1, "prepare_catalog": 1}


def test_jobs_of_other_normalizations_share_the_images_and_the_statistics(two_colors, tmp_path, counted, monkeypatch):
    usual = image_datamodule.channel_statistics
    monkeypatch.setattr(
        image_datamodule, "channel_statistics", lambda images: counted.update(["statistics"]) or usual(images)
    )
    memory, means = Memory(), []
    for seed, given in ((1, {}), (1, {"mean": None, "std": None}), (2, {"mean": None, "std": None})):
        data = data_module(two_colors, tmp_path, f"seed={seed}", **given)
        data.memory = memory
        data.setup()
        means.append(data.mean)
    assert counted == {"read_source": 1, "open_pixel_caches": 1, "prepare_catalog": 1, "statistics": 1}
    assert means[0] != means[1] == means[2]
