"""The README is true: its commands run, its files exist, what it says of settings is so."""

import contextlib
import functools
import importlib
import importlib.util
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from common.errors import UserError
from engine.config.data_overrides import complete_data
from inference.export.web.onnxruntime_web import VERSION, find_runtime
from tests.support.configs import compose_verb
from tests.support.fake_explained import make_explained_run
from tests.support.fake_runs import make_run
from tests.support.helpers import NOT_DRAWN, PROJECT, make_images, read_csv

README = (PROJECT / "README.md").read_text()
USAGE = (PROJECT / "docs" / "usage.md").read_text()
LINES = [line.strip() for line in README.splitlines() if re.match(r"    (python|tensorboard) ", line)]
COMMANDS = [line for line in LINES if line.startswith("python train.py ")]
OTHERS = [line for line in LINES if line not in COMMANDS]
VERBS = ("train", "smallest", "search", "report", "predict", "export", "demo")
NEEDS = {"search.py": "optuna", "export.py": "onnxscript", "demo.py": "onnxscript"}
SMALL = ["model.image_size=32", "trainer.max_epochs=1", "stages=[fit,test]"]


def test_the_two_set_up_commands_are_what_ci_runs():
    commands = re.findall(r"^(\d)\. `(.*)`", README, re.MULTILINE)
    assert commands == [
        ("1", 'pip install -e ".[samples]" && python train.py model=shufflenet_mod'),
        ("2", 'pip install -e ".[test]" && pytest'),
    ]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    counts = {f"{split}/{color}": 33 for split in ("train", "val", "test") for color in ("blue", "red")}
    return make_images(tmp_path_factory.mktemp("images"), counts, size=32)


@pytest.mark.parametrize("command", [
    pytest.param(command, marks=[pytest.mark.slow] if " -m " in command else [])
    for command in COMMANDS if "experiment=optimizers" not in command  # hours; test_docs.py composes it
])  # fmt: skip
def test_commands_run(command, train, finished_run, images, tmp_path):
    arguments = shlex.split(command, comments=True)[2:]
    if any("ckpt_path=" in a for a in arguments):
        made = shutil.copytree(finished_run.folder, tmp_path / "made")
        ran = train(f"ckpt_path={made}/checkpoints/last.ckpt", "trainer.max_epochs=3", small=False)
    else:
        chosen = [a for a in arguments if a != "datamodule.root=DIR"]
        sweep = [f"hydra.sweep.dir={tmp_path / 'sweep'}"] if "-m" in chosen else []
        data = ["datamodule=image_folder", f"datamodule.root={images}", f"datamodule.cache={tmp_path / 'cache'}"]
        ran = train(*chosen, *data, *SMALL, *NOT_DRAWN, "model.weights=null", *sweep, small=False)
    assert ran.status == 0, ran.err


def test_there_are_commands_to_run():
    assert len(COMMANDS) >= 6
    of = [shlex.split(command, comments=True)[1] for command in OTHERS]
    assert {"smallest.py", "search.py", "report.py", "predict.py", "export.py", "demo.py", "-m", "--logdir"} == set(of)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(c, marks=[pytest.mark.slow] if any(s in c for s in ("search.py", "export.py", "demo.py")) else [])
        for c in OTHERS
    ],
)
def test_other_commands_run(command, tmp_path, two_colors, images, in_process):
    program, *arguments = shlex.split(command, comments=True)
    if arguments[0] == "smallest.py":  # tests/engine/smallest runs it
        compose_verb("smallest", *complete_data(arguments[1:])[0])
        return
    needs = NEEDS.get(arguments[0])
    if needs and importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")
    checkpoint = make_explained_run(tmp_path / "run", two_colors)
    for name in ("RUN_A", "RUN_B"):
        make_run(tmp_path / "sweep" / name, choices={"model": name})
    filled = {
        "runs=outputs": f"runs={tmp_path}/sweep", "RUN/": f"{checkpoint.parent.parent}/", "RUN_A": tmp_path / "sweep/RUN_A",
        "RUN_B": tmp_path / "sweep/RUN_B", "=RUN": f"={tmp_path}/run", "=DIR": f"={two_colors}", "=NAME": "=found",
    }  # fmt: skip
    for placeholder, value in filled.items():
        arguments = [argument.replace(placeholder, str(value)) for argument in arguments]
    if program == "tensorboard":
        with serving([str(Path(sys.executable).with_name("tensorboard")), "--logdir", str(tmp_path), "--port"]) as ask:
            assert "TensorBoard" in ask("/") and ask("/data/runs") == "[]"
    elif arguments[:2] == ["-m", "reports.subsets"]:
        ran = subprocess.run(
            [sys.executable, *arguments[:2], str(with_subsets(tmp_path))], cwd=PROJECT, capture_output=True, text=True
        )
        assert ran.returncode == 0 and "| camera=old | 40 |" in ran.stdout, ran.stderr
    elif arguments[0] == "-m":
        ran = subprocess.run([sys.executable, *arguments], cwd=PROJECT, capture_output=True, text=True)
        assert ran.returncode == 0 and "which is better is not decided with 80 images" in ran.stdout
    elif arguments[0] == "demo.py":
        cache = PROJECT / "outputs" / ".cache"
        try:
            find_runtime(None, cache)
        except UserError as error:
            pytest.skip(str(error))
        given = [f"format.runtime={cache}/onnxruntime-web-{VERSION}", f"format.cache={tmp_path}/cache"]
        with serving([sys.executable, *arguments, *given], "port=") as ask:
            assert "Image classifier" in ask("/")
    else:
        one_shot(arguments, tmp_path, images, in_process)


def with_subsets(tmp_path) -> Path:
    """A run of 80 images whose table names the camera of each."""
    folder = make_run(tmp_path / "cameras")
    rows = read_csv(folder / "predictions.csv")
    lines = [f"{row['path']},{row['label']},test,{'old' if i % 2 else 'new'}" for i, row in enumerate(rows)]
    (folder / "splits.csv").write_text("\n".join(["path,label,split,camera", *lines]) + "\n")
    return folder


def one_shot(arguments, tmp_path, images, in_process):
    """Runs a verb that comes to its end, and looks at what it left."""
    small = {
        "search.py": [
            f"hydra.run.dir={tmp_path}/found", "seeds=[1]", "n_trials=2", "n_retrain=1",
            f"base_overrides=\"datamodule=image_folder datamodule.root={images} model.weights=null "
            f"datamodule.cache={tmp_path}/cache {' '.join(SMALL[:2])}\"",
        ],
        "report.py": [],
        "predict.py": [f"out={tmp_path}/labels", "device=cpu"],
        "export.py": [f"out={tmp_path}/made"],
    }  # fmt: skip
    given = [argument for argument in arguments[1:] if not argument.startswith(("base_overrides=", "n_trials="))]
    status, _, err = in_process(importlib.import_module(arguments[0].removesuffix(".py")), *given, *small[arguments[0]])
    assert (status, err) == (0, ""), err
    if arguments[0] == "predict.py":
        explained = "explain=true" in arguments
        assert len(read_csv(tmp_path / "labels" / "predictions.csv")) == (14 if explained else 50)
        assert (tmp_path / "labels" / "labels_to_check.csv").exists() == explained
    exported = "made/index.html" if "format=web" in arguments else "made/best.onnx"
    left = {"report.py": "sweep/report.html", "export.py": exported, "search.py": "found"}.get(arguments[0])
    assert left is None or (tmp_path / left).exists()


@contextlib.contextmanager
def serving(command: list[str], port_option: str = ""):
    """A server in a process of its own; gives what asks it for a path."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*command, f"{port_option}{port}"]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)
        yield lambda path: urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30).read().decode()
        if port_option:  # ours ends on Ctrl-C; how long TensorBoard takes is its own matter
            process.send_signal(signal.SIGINT)
            process.wait(20)
    finally:
        process.kill()
        process.communicate()


def test_the_lines_of_python_run(tmp_path, two_colors):
    text = re.search(r"^```python\n(from predict import Predictor.*?)^```", USAGE, re.MULTILINE | re.DOTALL).group(1)
    checkpoint = make_explained_run(tmp_path / "run", two_colors)
    files = sorted(map(str, (two_colors / "test" / "red").glob("*.png")))
    for placeholder, value in (
        ("RUN/checkpoints/best.ckpt", str(checkpoint)),
        ("a.jpg", files[0]),
        ("b.png", files[1]),
    ):
        assert placeholder in text
        text = text.replace(placeholder, value)
    names = {}
    exec(compile(f"{text}\nanswers = model.predict({files!r})", "usage.md", "exec"), names)
    assert len(names["answers"]) == 7 and {answer.predicted for answer in names["answers"]} <= {"blue", "red"}


def overrides_in_text() -> list[str]:
    """Each piece of code within a line that is nothing but settings, or a command."""
    texts = [README, *(path.read_text() for path in sorted((PROJECT / "docs").glob("*.md")))]
    prose = "\n".join(line for text in texts for line in text.splitlines() if not line.startswith("    "))
    found = []
    for code in re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", prose):
        text = re.sub(r"^python (\w+)\.py ", "", " ".join(code.split()))
        text = re.sub(r"=(\S+) \|.*", r"=\1", text)  # the first of several values
        if re.fullmatch(r"(-m )?('?[a-z][\w./]*=\S+'? ?)+", text) and "GROUP" not in text and "=True" not in text:
            found.append(text.strip())
    return sorted(set(found))


@functools.cache
def keys_of(verb: str) -> set[str]:
    return set(compose_verb(verb))


@pytest.mark.parametrize("text", overrides_in_text())
def test_settings_within_the_text_are_such(text):
    given = [part.replace("=N", "=1") for part in shlex.split(text) if part != "-m"]
    parsed = OverridesParser.create().parse_overrides(given)
    given = [
        f"{o.key_or_group}={next(iter(o.sweep_string_iterator()))}" if o.is_sweep_override() else o.input_line
        for o in parsed
    ]
    given, _ = complete_data(given)  # as of the command line
    if "hydra.launcher.ray." in text and "hydra/launcher=ray" not in given:
        given.insert(0, "hydra/launcher=ray")  # whose settings they are
    reasons, first = [], {re.split("[./@]", o.key_or_group)[0] for o in parsed}
    for verb in sorted(VERBS, key=lambda verb: not first <= keys_of(verb)):
        try:
            compose_verb(verb, *given)
            return
        except Exception as error:  # of each verb; one has to know the setting
            reasons.append(f"{verb}: {error}")
    plugin = "hydra_submitit_launcher"
    if re.search(r"hydra[./]launcher.submitit", text) and importlib.util.find_spec(f"hydra_plugins.{plugin}") is None:
        pytest.skip(f"{plugin} is not installed")
    raise AssertionError("\n".join(reasons))


def test_files_that_it_and_the_documents_show_exist():
    for page in (PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")):
        for path in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / path).exists(), f"{page}: {path}"
