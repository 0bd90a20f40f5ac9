"""Which room may import which: the contracts in pyproject.toml, and what is imported in the end."""

import re
import subprocess
import sys

from common.run_folder import PROJECT


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)


def test_the_rooms_import_in_one_direction():
    # in a process of its own: it disables the loggers of this one
    done = run("import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))")
    assert done.returncode == 0, done.stdout + done.stderr


def test_common_evaluation_and_reports_import_no_torch_and_no_hydra():
    rooms = ("common", "evaluation", "reports")
    files = [path.relative_to(PROJECT) for room in rooms for path in (PROJECT / room).rglob("*.py")]
    modules = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files]
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {modules}];"
        "print(sorted({'torch', 'torchvision', 'lightning', 'torchmetrics', 'hydra'} & sys.modules.keys()))"
    )
    done = run(code)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stdout + done.stderr


def test_what_tests_share_is_in_support():
    files = sorted((PROJECT / "tests").rglob("*.py"))
    assert len(files) > 200
    imports = {
        path: re.findall(r"^\s*(?:from|import) tests\.(?!support\b).*", path.read_text(), re.MULTILINE)
        for path in files
    }
    assert {path: lines for path, lines in imports.items() if lines} == {}
