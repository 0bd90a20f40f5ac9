"""--help of every verb, and what comes without torch."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from engine import help
from engine.config.data_overrides import complete_data
from tests.support.configs import compose_verb
from tests.support.helpers import PROJECT

CONF = PROJECT / "conf"
VERBS = ("train", "search", "smallest", "report", "predict", "export", "demo")
HEAVY = ("torch", "lightning", "torchvision", "scipy", "matplotlib", "optuna")


@pytest.fixture
def shown(in_process):
    """Return what `python VERB.py --help` prints."""

    def show(verb: str) -> str:
        status, out, err = in_process(importlib.import_module(verb), "--help")
        assert (status, err) == (0, "")
        return out

    return show


def examples(text: str, verb: str) -> list[list[str]]:
    """Return the overrides of each line of `Most used`, without the explanation behind them."""
    lines = text.split("Most used:", 1)[1].split("\n\n")[1].splitlines()
    commands = [shlex.split(re.split(r"\s{3,}", line.strip())[0]) for line in lines]
    return [command[2:] if command[:2] == ["python", f"{verb}.py"] else command for command in commands]


@pytest.mark.thorough
def test_every_file_of_every_group_is_listed(shown):
    texts = [" ".join(shown(verb).split()) for verb in ("train", "export", "smallest")]
    for folder in (place for place in CONF.iterdir() if place.is_dir() and place.name != "hydra"):
        files = sorted(file.stem for file in folder.glob("*.yaml"))
        listed = rf"\b{folder.name} " + r"\*?, ".join(files) + r"\b"
        assert sum(bool(re.search(listed, text)) for text in texts) == 1, folder.name
    text = texts[0]
    assert "shufflenet_mod*" in text and "adam_1e-3*" in text and "hydra/launcher basic*, joblib" in text


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "train"])
@pytest.mark.thorough
def test_every_setting_is_listed_with_its_value(shown, verb):
    text = shown(verb)
    settings = OmegaConf.to_container(OmegaConf.load(CONF / f"{verb}.yaml"))
    for key in set(settings) - {"defaults", "hydra", "worker"}:  # a launcher numbers its workers
        value = settings[key]
        start = "" if isinstance(value, dict) else "null" if value is None else str(value).lower()
        (line,) = re.findall(rf"^  {key}: *(.*)$", text, re.MULTILINE)
        assert line.lower().startswith(start) or isinstance(value, (list, str, float)), line


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.thorough
def test_every_example_composes(shown, verb):
    text = shown(verb)
    assert "Hydra" not in text and max(map(len, text.splitlines())) <= help.WIDTH
    assert examples(text, verb)
    for overrides in examples(text, verb):
        given, _ = complete_data([text for text in overrides if text != "-m"])
        if "-m" in overrides:
            parsed = OverridesParser.create().parse_overrides(given)
            assert any(override.is_sweep_override() for override in parsed)
            given = [
                f"{o.key_or_group}={next(iter(o.sweep_string_iterator()))}" if o.is_sweep_override() else o.input_line
                for o in parsed
            ]
        compose_verb(verb, *given)


def test_files_of_the_users_own_are_listed_among_the_others(tmp_path):
    conf, own = shutil.copytree(CONF, tmp_path / "conf"), tmp_path / "own" / "optimizer"
    own.mkdir(parents=True)
    for name in ("between", "sgd"):  # conf/ has the second, too
        (own / f"{name}.yaml").write_text("")
        (conf / "optimizer" / f"{name}.yaml").write_text("")
    assert help.help_groups(CONF, "train", str(own.parent)) == help.help_groups(conf, "train")


def test_a_new_file_and_a_new_group_are_listed(tmp_path):
    conf = shutil.copytree(CONF, tmp_path / "conf")
    (conf / "optimizer" / "zeroth.yaml").write_text("")
    (conf / "verdict").mkdir()
    (conf / "verdict" / "harsh.yaml").write_text("")
    defaults = (conf / "train.yaml").read_text()
    (conf / "train.yaml").write_text(
        defaults.replace("  - experiment: null", "  - verdict: null\n  - experiment: null")
    )
    before, after = help.help_groups(CONF, "train"), help.help_groups(conf, "train")
    assert "zeroth" not in before and "sgd_momentum, zeroth\n" in after and re.search("verdict +harsh\n", after)
    (conf / "report.yaml").write_text(
        "defaults:\n  - _self_\n\nprice: 3  # in $\nworker: null   # set by the launcher\n\nhydra:\n  job: {}\n"
    )
    assert help.help_settings(conf, "report") == "  price: 3  # in $$"  # as string.Template takes it


def run(*command: str, **environment: str) -> subprocess.CompletedProcess:
    kept = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    return subprocess.run(
        [sys.executable, *command], cwd=PROJECT, env=kept | environment, capture_output=True, text=True
    )


CASES = [
    *((verb, ["--help"], 0) for verb in VERBS),
    ("train", ["sed=1"], 1), ("train", ["model=shuflenet_mod"], 1), ("predict", ["ckpt=x"], 1),
]  # fmt: skip
NEED_SCIPY = [("export", [], 1), ("report", ["runs=/nowhere"], 1)]  # their errors do


@pytest.mark.thorough
def test_help_and_errors_of_the_command_line_import_nothing_heavy(tmp_path):
    code = f"""
import importlib, sys
from hydra.core.global_hydra import GlobalHydra
from engine import cli
from engine.state import STATE

for verb, arguments, status in {CASES + NEED_SCIPY!r}:
    GlobalHydra.instance().clear()
    STATE.failed.clear()
    where = ["hydra.run.dir={tmp_path}/run"] if status else []
    sys.argv[:] = [verb + ".py", *arguments, *where]
    found = 0
    try:
        cli.run_cli(importlib.import_module(verb).main)
    except SystemExit as error:
        found = error.code
    loaded = [name for name in {HEAVY!r} if name in sys.modules]
    print("CASE", verb, arguments, found == status, loaded)
"""
    done = run("-c", code)
    lines = [line for line in done.stdout.splitlines() if line.startswith("CASE")]
    free, with_scipy = lines[: len(CASES)], lines[len(CASES) :]
    assert len(lines) == len(CASES) + len(NEED_SCIPY) and all("True []" in line for line in free), (
        done.stdout + done.stderr
    )
    assert all("True []" in line or "True ['scipy']" in line for line in with_scipy), lines


@pytest.mark.thorough
def test_names_are_completed():
    def completed(line: str) -> list[str]:
        done = run("train.py", "-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert "model" in completed("python train.py mod")
    assert completed("python train.py model=resn") == ["model=resnet18", "model=resnet50"]
    assert "datamodule.batch_size=" in completed("python train.py datamodule.bat")
    installed = run("train.py", "-sc", "install=bash")
    assert installed.returncode == 0 and "complete -o nospace" in installed.stdout
