"""The project at a path with spaces and letters beyond ASCII, started from another folder."""

import os
import shutil
import subprocess
import sys

import pytest

from common.run_record import RunRecord
from tests.support.helpers import PROJECT

PARTS = ("train.py", "report.py", "conf", "common", "evaluation", "lightning_modules", "datamodules", "callbacks")
PARTS += ("reports", "engine")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_it_runs_there(tmp_path, two_colors):
    project = tmp_path / "mein Projekt, ü = 数"
    project.mkdir()
    for part in PARTS:
        copy = shutil.copytree if (PROJECT / part).is_dir() else shutil.copy
        copy(PROJECT / part, project / part)
    images = tmp_path / "Bilder ä, und mehr"
    shutil.copytree(two_colors, images)
    command = [sys.executable, str(project / "train.py"), "datamodule=image_folder", f'datamodule.root="{images}"']
    command += ["model.image_size=32", "datamodule.batch_size=8", "trainer=cpu", "trainer.max_epochs=1"]
    command += ["model.weights=null"]
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    ran = subprocess.run([*command, "-m", "seed=1,2"], check=False, **options)
    assert ran.returncode == 0, ran.stderr
    sweep = next((project / "outputs" / "sweeps").iterdir())
    assert (sweep / "report.html").is_file() and sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [project.name, images.name]
    )
    records = [RunRecord.read(path) for path in sweep.glob("*/result.json")]
    assert [record.status for record in records] == ["finished"] * 2
    last = next(sweep.glob("seed-1/checkpoints/last.ckpt"))
    resume = [sys.executable, str(project / "train.py"), f'ckpt_path="{last}"', "trainer.max_epochs=2"]
    ran = subprocess.run(resume, check=False, **options)
    assert ran.returncode == 0 and "epoch 2/2" in ran.stdout, ran.stderr
    again = [sys.executable, str(project / "report.py"), f'runs="{sweep}"']
    assert subprocess.run(again, check=False, **options).returncode == 0
