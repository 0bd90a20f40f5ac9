"""A folder or a table on the command line chooses its data source, and its path becomes a whole one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from common.run_folder import PROJECT, RunFolder
from engine.config.data_overrides import complete_data, expand_home


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    return tmp_path


def completed(*arguments):
    return complete_data([expand_home(argument) for argument in arguments])[0]


@pytest.mark.parametrize(("typed", "chosen"), [
    (["datamodule.root=/a"], "image_folder"), (["+datamodule.root=/a"], "image_folder"),
    (["++datamodule.root=/a"], "image_folder"),
    (["datamodule.root=/a", "datamodule.table=/t.csv"], "csv"), (["datamodule.table=/t.csv"], "csv"),
    (["datamodule.source.path=ORG/NAME"], "huggingface"),
    (["datamodule.source.dataset=CIFAR10", "datamodule.root=/a"], "torchvision"),
    (["datamodule.root=/a,/b", "seed=1"], "image_folder"), (["experiment=batch_sizes", "datamodule.root=/a"], "image_folder"),
    (["ckpt_path=/weights.ckpt", "datamodule.root=/a"], "image_folder"),
])  # fmt: skip
def test_a_folder_or_a_table_chooses_its_source(typed, chosen):
    arguments, sentence = complete_data(typed)
    assert arguments == [*(each.lstrip("+") for each in typed), f"datamodule={chosen}"]
    assert sentence.startswith(f"datamodule={chosen}, since ")


@pytest.mark.parametrize("typed", [
    ["seed=1"], ["datamodule=csv", "datamodule.table=/t.csv"], ["datamodule=image_folder", "datamodule.root=/a"],
    ["datamodule=elpv", "datamodule.table=/t.csv"], ["datamodule=image_folder,csv", "datamodule.root=/a"],
    ["datamodule=mine", "+datamodule.root=/a"], ["datamodule.root=(b"],
])  # fmt: skip
def test_a_source_that_is_given_stays(typed):
    assert complete_data(typed) == (typed, "")


def test_the_source_of_a_run_stays(here):
    run = RunFolder(here)
    run.hydra.mkdir()
    run.config.write_text("datamodule: {}\n")
    run.choices.write_text("hydra:\n  runtime:\n    choices:\n      datamodule: csv\n")
    typed = [f"ckpt_path={run.last_checkpoint}", "datamodule.root=/a"]
    assert complete_data(typed) == (typed, "")


@pytest.mark.parametrize("typed", [
    ["datamodule=elpv", "+datamodule.root=/a"], ["datamodule=elpv", "datamodule.root=/a"],
    ["experiment=elpv_paper", "+datamodule.root=/a"], ["experiment=elpv_paper.yaml", "datamodule.root=/a"],
])  # fmt: skip
def test_a_folder_for_a_source_with_images_of_its_own_is_refused(typed):
    with pytest.raises(
        UserError,
        match=r"datamodule.root=/a: datamodule=elpv.* takes no root; for your images: datamodule=image_folder",
    ):
        complete_data(typed)


@pytest.mark.parametrize(("text", "chosen"), [
    ("defaults:\n  - override /datamodule: elpv  # cells\n", True), ("defaults: [{override /datamodule: elpv}]\n", True),
    ("defaults: [base, {override /datamodule: elpv, override /model: resnet18}]\n", True),
    ("hydra: {sweeper: {params: {seed: '1,2'}}}\n# override /datamodule: elpv\n", False), ("datamodule: {fold: 1}\n", False),
])  # fmt: skip
def test_an_experiment_of_the_user_s_own_chooses_its_source(here, text, chosen):
    (here / "experiment").mkdir()
    (here / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}")
    typed = ["experiment=mine", "datamodule.table=/t.csv"]
    added = [] if chosen else ["datamodule=csv"]
    assert complete_data(typed, str(here))[0] == [*typed, *added]


@pytest.mark.parametrize(("typed", "whole"), [
    ("datamodule.root=a/b", "datamodule.root=HERE/a/b"), ("datamodule.root=.", "datamodule.root=HERE"),
    ("datamodule.root=2024", "datamodule.root=HERE/2024"), ("datamodule.table=t.csv", "datamodule.table=HERE/t.csv"),
    ('datamodule.root="a b"', 'datamodule.root="HERE/a b"'), ("datamodule.root=~/x", "datamodule.root=/home/me/x"),
    ("datamodule.root=~", "datamodule.root=/home/me"), ("datamodule.root='~/a b'", 'datamodule.root="/home/me/a b"'),
    ("datamodule.root=~/a b", 'datamodule.root="/home/me/a b"'), ("ckpt_path=~/x.ckpt", "ckpt_path=/home/me/x.ckpt"),
    ("images=[~/a,b,~/c]", "images=[/home/me/a,b,/home/me/c]"), ("x=a~b", "x=a~b"),
    ("datamodule.root=null", "datamodule.root=null"),
    ("datamodule.root=${oc.env:DATA}", "datamodule.root=${oc.env:DATA}"), ("root=a", "root=a"),
])  # fmt: skip
def test_paths_become_whole_and_the_home_folder_is_found(here, typed, whole):
    assert completed("datamodule=csv", typed)[1] == whole.replace("HERE", str(here))


def test_names_that_are_no_utf8_are_refused_in_letters_that_can_be_shown(here, monkeypatch):
    (here / "\udce9").mkdir()
    with pytest.raises(UserError, match=r"^datamodule.root=/\?: a name in it is not UTF-8; rename"):
        complete_data(["datamodule.root=/\udce9"])
    monkeypatch.chdir(here / "\udce9")
    with pytest.raises(UserError, match="not UTF-8"):
        complete_data([f"datamodule.root={Path('x')}"])


def test_names_in_utf8_are_not_blamed_where_python_reads_ascii():
    code = "import sys; from engine.config.data_overrides import complete_data; complete_data(sys.argv[1:])"
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, "datamodule.root=/café".encode()]
    ran = subprocess.run(command, cwd=PROJECT, env=ascii_only, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "a name in it is UTF-8, but Python reads names as ascii here; set PYTHONUTF8=1" in ran.stderr


@pytest.mark.parametrize(("typed", "read"), [
    ("datamodule.range=0,4095", "datamodule.range=[0,4095]"), ("+datamodule.range=-1e3,4.5", "+datamodule.range=[-1e3,4.5]"),
    ("datamodule.range=auto", "datamodule.range=auto"), ("datamodule.range=[0,1],[0,2]", "datamodule.range=[0,1],[0,2]"),
])  # fmt: skip
def test_a_range_of_values_is_no_sweep(typed, read):
    assert completed(typed) == [read]
