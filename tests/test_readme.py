"""The README is true: its commands run, its files exist, what it says of settings is so."""

import re
import shlex

import pytest
import torch

from tests.helpers import PROJECT, make_pictures

README = (PROJECT / "README.md").read_text()
COMMANDS = [line.strip() for line in README.splitlines() if line.startswith("    python train.py ")]
SMALL = ["model.image_size=32", "trainer.max_epochs=1", "stages=[fit,test]"]


def test_the_two_set_up_commands_are_what_ci_runs():
    commands = re.findall(r"^(\d)\. `(.*)`", README, re.MULTILINE)
    assert commands == [
        ("1", 'pip install -e ".[samples]" && python train.py model=shufflenet_mod'),
        ("2", 'pip install -e ".[test]" && pytest'),
    ]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    counts = {f"{split}/{colour}": 33 for split in ("train", "val", "test") for colour in ("blue", "red")}
    return make_pictures(tmp_path_factory.mktemp("pictures"), counts, size=32)


def takes_long(command):
    """Several runs; the suite without slow tests has one sweep of them."""
    return " -m " in command and "batch_size" not in command


@pytest.mark.parametrize(
    "command", [pytest.param(c, marks=[pytest.mark.slow] if takes_long(c) else []) for c in COMMANDS]
)
def test_commands_run(command, train, pictures, tmp_path, request):
    _, _, *arguments = shlex.split(command, comments=True)
    if "trainer=ddp" in arguments:
        pytest.skip("test_train.py runs it in processes of its own")
    if any(
        a.startswith(("experiment=backbones", "experiment=learning_curve", "experiment=optimizers")) for a in arguments
    ):
        pytest.skip("long; test_configs.py composes it, test_learning_curve.py runs a short one")
    if any("ckpt_path=" in a for a in arguments):
        made = train(root=pictures, to=tmp_path / "made")
        kind = "best" if "stages=[test]" in arguments else "last"
        arguments = [a for a in arguments if "ckpt_path" not in a] + [
            f"ckpt_path={made.folder}/checkpoints/{kind}.ckpt"
        ]
        more = [f"hydra.run.dir={tmp_path / 'again'}"] if kind == "best" else ["trainer.max_epochs=3"]
        assert train(*arguments, *more, small=False).status == 0
        return
    if any("weights=FILE" in a for a in arguments):
        made = train("trainer.max_epochs=1", root=pictures, to=tmp_path / "made")
        arguments = [a.replace("FILE", f"{made.folder}/checkpoints/best.ckpt") for a in arguments]
    if "datamodule.table=labels_to_check.csv" in arguments:
        splits = train("trainer.max_epochs=1", root=pictures, to=tmp_path / "made").folder / "splits.csv"
        arguments = [a.replace("labels_to_check.csv", str(splits)) for a in arguments]
    chosen = [a for a in arguments if not a.startswith(("datamodule=", "datamodule.root=", "trainer.max_epochs="))]
    sweep = [f"hydra.sweep.dir={tmp_path / 'sweep'}"] if "-m" in chosen else []
    weights = [] if any("weights" in a for a in chosen) else ["model.weights=null"]
    cache = f"datamodule.cache={tmp_path / 'cache'}"
    ran = train(
        *chosen, "datamodule=image_folder", f"datamodule.root={pictures}", *SMALL, *weights, *sweep, cache, small=False
    )
    needs_gpu = "trainer=gpu" in chosen and not torch.cuda.is_available()
    assert ran.status == (1 if needs_gpu else 0), ran.err


def test_there_are_commands_to_run():
    assert len(COMMANDS) >= 8


def test_every_choice_of_every_group_is_in_the_settings_table():
    table = README[README.index("## Settings") : README.index("## What a run leaves")]
    for file in (PROJECT / "conf").glob("*/*.yaml"):
        if file.stem != "default":
            assert f"`{file.stem}`" in table, f"{file.parent.name}={file.stem}"


def test_files_that_it_shows_exist():
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (PROJECT / path).exists(), path
