"""What is read from source says what an import would say."""

import importlib
import inspect
import re

import pytest

from engine.config.instantiate import matches_type, type_name
from engine.config.signatures import signature
from tests.support.helpers import PROJECT

NAMED = sorted({
    name for file in (PROJECT / "conf").rglob("*.yaml") for name in re.findall(r"_target_: ([\w.]+)", file.read_text())
})  # fmt: skip
TARGETS = [*NAMED, "torch.nn.CrossEntropyLoss", "torch.optim.NAdam", "lightning.pytorch.callbacks.EarlyStopping"]
VALUES = ("fast", "val/loss", "auto", 0, 1, 2.5, True, None, [], [1], [0.9, 0.99], ["a"], {}, {"a": 1})


def imported(target: str) -> inspect.Signature:
    module, _, name = target.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    try:
        return inspect.signature(found, eval_str=True)
    except NameError:
        return inspect.signature(found)


@pytest.mark.parametrize("target", TARGETS)
def test_names_are_the_same_and_nothing_is_refused_that_fits(target):
    read, known = signature(target), imported(target)
    if read is None:
        assert "__init__" not in vars(
            getattr(importlib.import_module(target.rpartition(".")[0]), target.split(".")[-1])
        )
        return
    assert [(p.name, p.kind is p.VAR_KEYWORD) for p in read.parameters.values()] == [
        (p.name, p.kind is p.VAR_KEYWORD) for p in known.parameters.values()
    ]
    for name, parameter in read.parameters.items():
        for value in VALUES:
            right = matches_type(value, known.parameters[name].annotation)
            said = matches_type(value, parameter.annotation)
            assert said or not right, (name, value)
            if not said:
                words, others = (type_name(p.annotation).split(" or ") for p in (parameter, known.parameters[name]))
                assert sorted(words) == sorted(others)  # typing keeps the order of a union that it met first
            ours = target.startswith(("datamodules.", "reports.", "callbacks.", "lightning_modules."))
            plain = "Any" not in str(parameter.annotation)
            assert said == right or not (ours and plain), (name, value)


def test_types_are_known_where_it_matters():
    assert not matches_type("fast", signature("torch.optim.Adam").parameters["lr"].annotation)
    assert not matches_type(2.5, signature("lightning.Trainer").parameters["max_epochs"].annotation)
    assert not matches_type("val/f1", signature("callbacks.checkpoint.BestCheckpoint").parameters["monitor"].annotation)


@pytest.mark.parametrize(
    "name", ["os.system", "nowhere.Thing", "torch.optim.Nothing", "../../x.y", "x./etc/x.Y", "", "Adam", 3]
)
def test_what_is_not_there_or_no_name_is_not_known(name):
    assert signature(name) is None
