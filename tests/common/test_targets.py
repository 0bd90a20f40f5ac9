import sys

import pytest

from common.errors import UserError
from common.targets import resolve_target


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import no_such_package",
            r"=own_faults\.nets\.Tiny: cannot be imported \(No module named 'no_such_package'\)",
        ),
        (
            "from os import no_such_name",
            r"=own_faults\.nets\.Tiny: cannot be imported \(cannot import name 'no_such_name'",
        ),
        (
            "import own_faults.circle\nclass Tiny: ...",
            r"=own_faults\.nets\.Tiny: cannot be imported \(cannot import name 'Tiny' from partially initialized module "
            r"'own_faults\.nets'.*\); correct its imports",
        ),
        ("class Tiny(:", r"=own_faults\.nets\.Tiny: \S+nets\.py, line 1: invalid syntax"),
        (None, "=own_faults.nets.Tiny: own_faults has no module nets; check the name"),
    ],
)
def test_why_a_module_of_the_user_s_own_cannot_be_imported_is_named(tmp_path, monkeypatch, text, message):
    folder = tmp_path / "own_faults"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "circle.py").write_text("from own_faults.nets import Tiny")
    if text is not None:
        (folder / "nets.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_faults", raising=False)
    with pytest.raises(UserError, match="model.network" + message):
        resolve_target("own_faults.nets.Tiny", "model.network")


def test_a_mistyped_name_lists_the_classes_of_the_module_and_the_functions_that_it_defines(tmp_path, monkeypatch):
    (tmp_path / "own_names.py").write_text(
        "from math import sin\nfrom json import dumps\ndef kappa(): ...\nclass Kap: ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_names", raising=False)
    with pytest.raises(UserError, match=r"not found in own_names; did you mean kappa or Kap\? Allowed: Kap, kappa$"):
        resolve_target("own_names.kapa", "metrics.kappa")
