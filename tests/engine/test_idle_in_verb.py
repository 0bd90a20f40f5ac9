"""Settings of the verbs besides train.py that have no effect."""

import pytest
from hydra.core.hydra_config import HydraConfig

from common.idle import warn_of_idle
from engine.idle_in_verb import idle_in_verb
from tests.support.configs import compose_verb


@pytest.mark.parametrize(("verb", "typed", "warning"), [
    ("predict", ["explain_most=9"], "explain_most=9: has no effect without explain=true"),
    ("predict", ["explain_most=9", "explain=true"], ""),
    ("predict", ["ckpt=a.ONNX", "register=[a.B]"], "register=[a.B]: has no effect with the exported file ckpt=a.ONNX"),
    ("predict", ["ckpt=a.ckpt", "register=[a.B]"], ""),
    ("smallest", ["workers=3"], "workers=3: has no effect without hydra/launcher=joblib, ray or submitit_slurm"),
    ("smallest", ["workers=3", "hydra/launcher=joblib"], ""),
    ("smallest", ["finals.folds=3", "datamodule.folds=5"], "finals.folds=3: has no effect with datamodule.folds"),
    ("smallest", ["finals.folds=3"], ""),
    ("search", ["n_retrain=2"], "n_retrain=2: has no effect with one objective"),
    ("search", ["n_retrain=2", "objectives=[val.accuracy,model.macs]"], ""),
    ("search", ["pruning.n_warmup_epochs=2", "objectives=[model.macs]"],
     "pruning.n_warmup_epochs=2: has no effect without a single objective that is measured after each epoch"),
    ("search", ["pruning.n_warmup_epochs=2"], ""),
    ("search", ["objectives=[]"], ""),  # refused by the search itself
    ("search", ["space={model.keep:[3,4]}", "default_space.optimizer=[adam]"],
     "default_space.optimizer=[adam]: has no effect with space"),
    ("export", ["threshold=0.5"], ""),
    ("predict", ["+model.image_size=3"], "+model.image_size=3: has no effect in predict.py, which has no such setting"),
    ("export", ["format=web", "format.runtime=a"], ""),
    ("export", ["+treshold=0.5"], "+treshold=0.5: has no effect in export.py, which has no such setting"),
    ("report", ["+tilte=a"], "+tilte=a: has no effect in report.py, which has no such setting"),
    ("demo", ["+share=true"], "+share=true: has no effect in demo.py, which has no such setting"),
])  # fmt: skip
def test_what_was_typed_without_an_effect_is_warned_of(caplog, verb, typed, warning):
    config = compose_verb(verb, *typed)
    HydraConfig.instance().set_config(config)
    try:
        warn_of_idle(typed, idle_in_verb(verb, config))
    finally:
        HydraConfig.instance().cfg = None
    assert [record.getMessage() for record in caplog.records] == [warning] * bool(warning)
