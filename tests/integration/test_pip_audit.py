"""What the audit of .ci/run says of an answer, and of none."""

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

from tests.support.helpers import PROJECT


@pytest.fixture
def audit():
    spec = importlib.util.spec_from_file_location("audit", PROJECT / ".ci" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GOOD = {"name": "a", "version": "1", "vulns": []}
BAD = {
    "name": "b",
    "version": "2",
    "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}, {"id": "CVE-2", "fix_versions": []}],
}
UNKNOWN = {"name": "c", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(("found", "status", "texts"), [
    ([GOOD], 0, ["1 of 1 packages were checked, 0 have"]),
    ([GOOD, BAD], 1, ["b 2: CVE-1, fixed in 3", "CVE-2, fixed in no version yet", "2 of 2 packages were checked, 1 have"]),
    ([GOOD, UNKNOWN], 0, ["1 of 2 packages were checked, 0 have", "knows nothing of the other 1"]),
    ([UNKNOWN], 0, ["0 of 1 packages were checked"]),
    (None, 0, ["no package was checked, since the service cannot be asked from here (ERROR: no route)"]),
])  # fmt: skip
def test_what_is_printed(audit, monkeypatch, capsys, found, status, texts):
    def run(command, **_):
        if found is not None:
            Path(command[command.index("--output") + 1]).write_text(json.dumps({"dependencies": found}))
        return subprocess.CompletedProcess(command, 1, "", "Traceback\nERROR: no route\n")

    monkeypatch.setattr(audit.subprocess, "run", run)
    assert audit.main("packages") == status
    printed = capsys.readouterr().out
    assert all(text in printed for text in texts), printed
