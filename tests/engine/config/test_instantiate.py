from dataclasses import dataclass

import pytest
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from common.errors import UserError
from engine.config.instantiate import instantiate, setting_error
from engine.error_messages import user_message


class Broken:
    """A class that is not a library's, with a defect."""

    def __init__(self, n: int):
        list(zip([1], [1] * n, strict=True))


def built(target: str, **settings):
    return instantiate(OmegaConf.create({"key": {"_target_": target, **settings}}), "key")


def test_objects_and_functions_are_built():
    assert built("torch.optim.AdamW", _partial_=True, lr=0.1).keywords == {"lr": 0.1}
    assert built("torch.nn.CrossEntropyLoss", label_smoothing=0.5).label_smoothing == 0.5
    assert type(built("lightning.pytorch.profilers.SimpleProfiler")).__name__ == "SimpleProfiler"
    assert instantiate(OmegaConf.create({"key": {}}), "key") is None


def test_arguments_of_the_run_are_added():
    node = OmegaConf.create({"key": {"_target_": f"{__name__}.Broken"}})
    assert isinstance(instantiate(node, "key", n=1), Broken)


@dataclass
class Kept:
    """A callback that is a dataclass, say."""

    callback: object = None


def test_an_argument_of_the_run_that_is_a_dataclass_stays_what_it_is():
    given = Kept()
    assert (
        instantiate(OmegaConf.create({"key": {"_target_": f"{__name__}.Kept"}}), "key", callback=given).callback
        is given
    )


@pytest.mark.parametrize(
    "target", ["os.system", "builtins.eval", "subprocess.Popen", "shutil.rmtree", "importlib.import_module"]
)
def test_what_hydra_refuses_is_named(target):
    with pytest.raises(UserError, match=f"^key: Target '{target}' is blocklisted"):
        built(target)


def test_an_error_of_a_library_names_the_setting():
    with pytest.raises(UserError, match=r"^key\.margin=-1: .* margin to be greater than 0"):
        built("torch.nn.TripletMarginLoss", margin=-1)


def test_a_defect_of_another_class_keeps_its_traceback():
    with pytest.raises(InstantiationException) as caught:
        built(f"{__name__}.Broken", n=2)
    assert isinstance(caught.value.__cause__, ValueError) and user_message(caught.value) is None


@pytest.mark.parametrize(
    ("text", "settings", "expected"),
    [
        ("Invalid learning rate: -1.0", {"lr": -1, "eps": 0}, "key.lr=-1: Invalid learning rate: -1.0; use 0 or more"),
        ("Invalid eps: nan", {"lr": 1, "eps": float("nan")}, "key.eps=nan: Invalid eps: nan; use 0 or more"),
        ("Factor should be < 1.0.", {"factor": 2, "patience": 2}, "key.factor=2: Factor should be < 1.0."),
        ("bad beta at 1: 1.5", {"betas": [0.9, 1.5], "lr": 2}, "key.betas=[0.9, 1.5]: bad beta at 1: 1.5"),
        ("two of 3", {"a_": 3, "b": 3}, "key: two of 3"),
        ("`a` and `b` differ", {"a": 1, "b": 2}, "key: `a` and `b` differ"),
        ("`a=1` and `b` differ", {"a": 1, "b": 2}, "key.a=1: `a=1` and `b` differ"),
        ("something\n  else", {"a": None}, "key: something else"),
    ],
)
def test_the_setting_that_a_message_is_about(text, settings, expected):
    assert str(setting_error("key", settings, ValueError(text))) == expected
