"""Keys at the top level that reach no code, and a trainer that is none."""

import pytest
from omegaconf import OmegaConf, open_dict

import train as train_script
from common.errors import UserError
from engine.config.top_level import check_top_level
from engine.config.validate import validate
from tests.support.configs import composed


def with_keys(**keys):
    config = composed()
    with open_dict(config):
        for key, value in keys.items():  # by itself, since a key may hold dots
            config[key] = OmegaConf.merge(config.get(key) or {}, value) if isinstance(value, dict) else value
        return config


@pytest.mark.parametrize(("keys", "message"), [
    ({"max_epochs": 3}, "max_epochs=3: no such setting; did you mean trainer.max_epochs=3?"),
    ({"callback": {"ema": {"enabled": True}}}, "callback={ema:{enabled:true}}: no such setting; did you mean callbacks"),
    ({"optimiser": {"lr": 1}}, "optimiser={lr:1}: no such setting; did you mean optimizer"),
    ({"trainer.max_epochs": 3}, "trainer.max_epochs: a file names the group and the setting apart: trainer: {max_epochs:"),
    ({"experiment": {"optimizer": {"lr": 1}}}, "experiment: its file changes nothing, since it does not begin with the line"),
    ({"recipe": "fast"}, "recipe=fast: chooses no file; in a file, the list `defaults` does that: - override /recipe: NAME"),
    ({"debug": "fast"}, "debug=fast: chooses no file; "),
    ({"hydra/launcher": "joblib"}, "hydra/launcher=joblib: chooses no file; "),
])  # fmt: skip
def test_a_key_that_reaches_no_code_is_refused(keys, message):
    with pytest.raises(UserError) as caught:
        validate(with_keys(**keys))
    assert str(caught.value).startswith(message)


def test_a_run_of_an_earlier_version_that_took_such_a_key_resumes():
    wrong = with_keys(optimiser={"lr": 1}, ckpt_path="RUN/checkpoints/last.ckpt")
    assert validate(wrong).optimizer.lr == composed().optimizer.lr


def test_keys_that_other_settings_refer_to_are_the_user_s():
    check_top_level(
        with_keys(size=64, model={"image_size": "${size}"}, optimizer={"lr": "${rates.low}"}, rates={"low": 0.1})
    )


@pytest.mark.parametrize("sweeps", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_a_trainer_that_a_file_sets_to_a_value_is_named(in_process, tmp_path, sweeps, named):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text("# @package _global_\ntrainer: cpu\n")
    place = f"hydra.{'sweep' if sweeps else 'run'}.dir={tmp_path}/out"
    arguments = [f"--config-dir={tmp_path}/conf", "experiment=mine", *[place] * named, *["-m", "seed=1,2"] * sweeps]
    status, _, error = in_process(train_script, *arguments)
    assert status == 1 and error == "ERROR: trainer=cpu: choose a file of conf/trainer: trainer=NAME\n"
    assert not (tmp_path / "out").exists()
