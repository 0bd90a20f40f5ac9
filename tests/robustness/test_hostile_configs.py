"""Untrusted configurations and runs: they name no code, read no secret and write nowhere else; each is refused by its key."""

import contextlib
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from common.atomic_io import write_text
from common.errors import UserError
from common.run_folder import RunFolder
from common.untrusted.saved_config import (
    is_allowed_target,
    read_saved_choices,
    read_saved_config,
    read_saved_name,
    read_saved_overrides,
    read_typed,
)
from engine.cli import CONF
from engine.run.resume import resume_config
from tests.support.helpers import content

NOTHING = OmegaConf.create({})  # a user's own configuration that trusts nothing else


NOT_LISTED = (
    "os.system", "builtins.eval", "builtins.exec", "subprocess.Popen", "functools.partial", "pathlib.Path.write_text",
    "hydra.utils.call", "hydra.utils.instantiate", "hydra.utils.get_method", "hydra.utils.get_class", "torch.load",
    "torch.hub.load", "torch.optim.optimizer.torch.hub.load", "engine.config.instantiate.hydra.utils.instantiate",
    "engine.config.instantiate.inspect.os.system", "engine.config.instantiate.importlib.import_module",
    "engine.run.job.os.system", "engine.run.job.run_job", "engine.cli.new_run_dir", "inference.export.export.export",
    "engine.log_handlers.sys.exit", "engine.config.instantiate.DictConfig", "callbacks.prediction_writer.L.Trainer",
    "common.atomic_io.write_text", "evaluation.decision.np.save", "datamodules.cache_folder.shutil.rmtree",
    "lightning_modules.weight_sources.urllib.request.urlopen", "lightning.pytorch.callbacks.callback.pl.Trainer",
    "lightning.Trainer.fit", "lightning.pytorch.loggers.os.system", "torch.optim.lr_scheduler.partial",
    "torch.nn.Module", "torch.nn.modules.loss.F.cross_entropy", "callbacks", "", "a..b",
    "callbacks.__builtins__.eval", "callbacks.\u202ebuild.x", "engine.config.instantiate.instantiate", 5,
    ["os.system"], None,
)  # fmt: skip


def saved(folder: Path, text: str, choices: str = "{model: simple_cnn}") -> RunFolder:
    """Make a run's folder whose configuration is a usual one with these lines below it."""
    (folder / ".hydra").mkdir(parents=True)
    usual = "seed: 1\nmodel: {name: simple_cnn}\ndatamodule: {root: x}\ntrainer: {max_epochs: 1}\ncallbacks: {}\n"
    lines = "" if text.startswith(("model:", "seed:", "callbacks:")) else usual
    write_text(folder / ".hydra" / "config.yaml", lines + text)
    write_text(folder / ".hydra" / "hydra.yaml", f"hydra: {{runtime: {{choices: {choices}}}}}")
    return RunFolder(folder)


@pytest.mark.parametrize("name", NOT_LISTED, ids=str)
def test_a_saved_configuration_names_no_code_at_any_depth(tmp_path, name, canary):
    evil = {"_target_": name, "command": f"touch {canary}"}
    for number, node in enumerate((
        evil,
        {"_target_": "torch.optim.Adam", "_partial_": True, "lr": evil},
        {"_target_": "lightning.Trainer", "plugins": [[{"deep": {"deeper": evil}}]]},
    )):  # fmt: skip
        run = saved(tmp_path / str(number), OmegaConf.to_yaml({"optimizer": node}))
        trusted = OmegaConf.create(
            {"optimizer": {"_target_": "torch.optim.Adam", "lr": {"_target_": "torch.optim.SGD"}}}
        )
        with pytest.raises(
            UserError, match=r"config\.yaml: optimizer\..*_target_ is .*; set it again, optimizer="
        ) as caught:
            read_saved_config(run, (), trusted)
        assert "neither in your conf/ nor a class of callbacks, " in str(caught.value) or "could write" in str(
            caught.value
        )


def test_listed_classes_are_those_that_conf_names():
    named = {name for file in CONF.rglob("*.yaml") for name in re.findall(r"_target_: (\w[\w.]+)", file.read_text())}
    # Not of Hydra's own part and of export.py, which are never read; a run's conf/logger is never taken from it
    elsewhere = ("engine.", "hydra_plugins.", "inference.", "lightning.pytorch.loggers.")
    ours = {name for name in named if not name.startswith(elsewhere)}
    assert len(ours) > 15 and all(map(is_allowed_target, ours))
    assert all(map(is_allowed_target, ("torch.nn.CrossEntropyLoss", "lightning.pytorch.callbacks.EarlyStopping")))


def test_torchvision_s_transforms_are_listed_and_nothing_that_they_could_call(tmp_path):
    transforms = ("RandomHorizontalFlip", "TrivialAugmentWide", "MixUp", "Lambda")
    assert all(is_allowed_target(f"torchvision.transforms.v2.{name}") for name in transforms)
    others = ("functional.resize", "query_size", "InterpolationMode", "functional._utils.Callable", "_utils.Transform")
    assert not any(is_allowed_target(f"torchvision.transforms.v2.{name}") for name in others)
    assert not any(
        map(is_allowed_target, ("torchvision.io.write_file", "torchvision.transforms.v2", "torchvision.datasets.MNIST"))
    )
    for evil in (
        {"_target_": "os.system", "_partial_": True},
        {"_target_": "hydra.utils.get_method", "path": "os.system"},
    ):
        step = {"_target_": "torchvision.transforms.v2.Lambda", "lambd": evil}
        listed = {"_target_": "datamodules.transform_list.TransformList", "transforms": [step]}
        for group, node in (("augmentation", listed), ("batch_transform", step)):
            run = saved(tmp_path / f"{group}{evil['_target_']}", OmegaConf.to_yaml({group: node}))
            with pytest.raises(UserError, match=rf"{group}\..*lambd\._target_ is .*neither in your conf/"):
                read_saved_config(run, (), NOTHING)


def test_a_class_of_the_user_s_own_conf_is_trusted_at_its_key_only(tmp_path):
    run = saved(tmp_path / "run", "loss: {_target_: my.Loss, gamma: 2}")
    assert read_saved_config(run, (), OmegaConf.create({"loss": {"_target_": "my.Loss"}})).loss.gamma == 2
    for other in ({"loss": {"_target_": "my.Other"}}, {"optimizer": {"_target_": "my.Loss"}}, {"loss": "my.Loss"}):
        with pytest.raises(UserError, match=r"loss\._target_ is 'my\.Loss'"):
            read_saved_config(run, (), OmegaConf.create(other))
    assert read_saved_config(run, ["loss"], NOTHING).loss._target_ is None  # the command line sets it
    mine = OmegaConf.create({"a": {"b": "my.Loss"}, "loss": {"_target_": "${a.b}"}})
    indirect = saved(tmp_path / "indirect", 'a: {b: os.system}\nloss: {_target_: "${a.b}"}')
    with pytest.raises(UserError, match=r"loss\._target_ is"):
        read_saved_config(indirect, (), mine)


@pytest.mark.parametrize("model", [
    {"network": "os.system"}, {"network": "truncated", "head": {"name": "os.system"}}, {"network": "${evil}"},
    {"network": "truncated", "head": {"name": "${evil}"}}, {"network": "${evil}.${evil}"},
    {"network": "truncated", "head": "${indirect}"},
])  # fmt: skip
def test_a_network_or_head_of_somebody_s_own_is_not_imported(tmp_path, model):
    values = {"evil": "os.system", "indirect": {"name": "os.system"}, "model": {"name": "x"} | model}
    usual = "seed: 1\ndatamodule: {root: x}\ntrainer: {max_epochs: 1}\ncallbacks: {}\nevil:"
    run = saved(tmp_path / "run", OmegaConf.to_yaml(values).replace("evil:", usual, 1))
    with pytest.raises(
        UserError, match=r"model\.(network|head|head\.name) is .*, a class that your conf/ does not name"
    ):
        read_saved_config(run, (), OmegaConf.create({"model": {"network": "truncated"}}))
    mine = saved(tmp_path / "mine", "")
    (mine.config).write_text(mine.config.read_text().replace("name: simple_cnn", "network: my.Net"))
    assert read_saved_config(mine, (), OmegaConf.create({"model": {"network": "my.Net"}})).model.network == "my.Net"


WANDB = {"_target_": "lightning.pytorch.loggers.WandbLogger", "project": "mine", "offline": True, "tags": ["a"]}
TRACKED = {
    "_target_": "lightning.pytorch.loggers.MLFlowLogger",
    "tracking_uri": "${project:outputs/x}",
    "run_name": "${model.name}",
}


@pytest.mark.parametrize(("change", "words"), [
    ({"wandb": WANDB | {"project": "theirs"}}, "logger.wandb.project is 'theirs'"),
    ({"wandb": WANDB | {"offline": False}}, "logger.wandb.offline is 'False'"),
    ({"wandb": {key: value for key, value in WANDB.items() if key != "offline"}}, "logger.wandb.offline is 'None'"),
    ({"wandb": WANDB | {"entity": "theirs"}}, "logger.wandb.entity is 'theirs'"),
    ({"wandb": WANDB | {"tags": ["b"]}}, "logger.wandb.tags.0 is 'b'"),
    ({"wandb": WANDB | {"_target_": "lightning.pytorch.loggers.CSVLogger"}}, "logger.wandb._target_ is"),
    ({"wandb": None}, "logger.wandb is 'None'"),
    ({"mlflow": TRACKED | {"tracking_uri": "http://theirs"}}, "logger.mlflow.tracking_uri is 'http://theirs'"),
    ({"other": WANDB}, "logger.other is"),
    ({"wandb": {}}, "logger.wandb"),
])  # fmt: skip
def test_a_saved_logger_sends_and_writes_only_where_the_user_s_own_does(tmp_path, change, words):
    own = {"wandb": WANDB, "mlflow": TRACKED}
    composed = OmegaConf.create({"logger": own, "model": {"name": "simple_cnn"}})
    same = saved(tmp_path / "same", OmegaConf.to_yaml({"logger": own}))
    assert read_saved_config(same, (), composed).logger == composed.logger
    run = saved(tmp_path / "run", OmegaConf.to_yaml({"logger": own | change}))
    again = words.split()[0] if words.count(".") > 1 else "logger"  # one setting, or all loggers
    match = rf"config\.yaml: {re.escape(words)}.*could send or write elsewhere; set it again, {re.escape(again)}=\.\.\."
    with pytest.raises(UserError, match=match):
        read_saved_config(run, (), composed)
    read_saved_config(run, ["logger"], composed)  # the command line sets it again
    other_name = OmegaConf.create({"logger": own, "model": {"name": "resnet18"}})
    with pytest.raises(UserError, match=r"logger\.mlflow\.run_name"):  # an interpolation leads to a value of the run
        read_saved_config(same, (), other_name)


def test_saved_choices_of_several_files_are_plain_names(tmp_path):
    run = saved(tmp_path / "run", "")
    task = [
        "logger=[tensorboard, csv]",
        "callbacks=[../evil]",
        "stages=[fit]",
        "optimizer=[a,b c]",
        "x=[a]",
        5,
        "seed=3",
    ]
    settings = {"hydra": {"runtime": {"choices": {"model": "resnet18"}}, "overrides": {"task": task}}}
    write_text(run.choices, OmegaConf.to_yaml(settings))
    assert read_saved_choices(run) == {"model": "resnet18", "logger": "[tensorboard,csv]"}
    assert read_saved_overrides(run) == [each for each in task if each != 5]
    record = SimpleNamespace(folder=run, run=SimpleNamespace(overrides=["seed=4"]))
    assert read_typed(record) == [*read_saved_overrides(run), "seed=4"]  # the last one of a key applies
    run.config.write_text(run.config.read_text() + "logger: {wandb: {}}")
    assert read_saved_choices(run)["logger"] == "[tensorboard,csv]"


def test_a_run_s_list_of_choices_may_be_missing_or_damaged(tmp_path, caplog):
    run = saved(tmp_path / "run", "")
    for task in (5, "seed=3", {"a": 1}, None):
        write_text(run.choices, OmegaConf.to_yaml({"hydra": {"runtime": {"choices": {}}, "overrides": {"task": task}}}))
        assert read_saved_choices(run) == {} == dict.fromkeys(read_saved_overrides(run))
    for choices in (5, "model", ["model"], None):
        write_text(run.choices, OmegaConf.to_yaml({"hydra": {"runtime": {"choices": choices}}}))
        with pytest.raises(
            UserError, match=r"hydra\.yaml: hydra\.runtime\.choices is missing; use the checkpoint of another"
        ):
            read_saved_choices(run)
    run.choices.unlink()
    assert not caplog.messages and read_saved_choices(run) == {} and read_saved_overrides(run) == []
    assert caplog.messages == [f"{run.choices} is missing, so it is unknown which file of each group the run used"]


@pytest.mark.parametrize(("saved_loggers", "choice"), [
    ("logger: {tensorboard: {}, csv: {}}", "[tensorboard,csv]"), ("logger: {../evil: {}}", None), ("logger: {}", None),
    ("logger: 5", None), ("logger: abc", None), ("logger: [a, b]", None), ("logger: null", None), ("logger: {5: {}}", "[5]"),
])  # fmt: skip
def test_loggers_that_a_file_has_chosen_are_known_by_their_names(tmp_path, saved_loggers, choice):
    assert read_saved_choices(saved(tmp_path / "run", saved_loggers)).get("logger") == choice


@pytest.mark.parametrize(("change", "words"), [
    ("datamodule: {source: {_target_: datamodules.sources.huggingface.HuggingFace, path: theirs/images}}",
     "datamodule.source.path is 'theirs/images', not as in your conf/, and could read or fetch elsewhere"),
    ("datamodule: {source: {_target_: datamodules.sources.huggingface.HuggingFace, path: '${evil}'}}\nevil: x",
     "datamodule.source.path is"),
    ("datamodule: {source: {_target_: datamodules.sources.torchvision_dataset.TorchvisionDataset, arguments: {size: 9}}}",
     "datamodule.source.arguments.size is '9'"),
    ("augmentation: {_target_: datamodules.transform_list.TransformList, transforms: [{_target_: "
     "torchvision.transforms.v2.Resize, size: [60000, 60000]}]}", "augmentation.transforms.0.size.0 is 60000, but at most 4"),
    ("batch_transform: {_target_: torchvision.transforms.v2.Pad, padding: -60000}", "batch_transform.padding is -60000"),
])  # fmt: skip
def test_a_saved_configuration_reads_and_fetches_only_what_the_user_s_own_names(tmp_path, change, words):
    run = saved(tmp_path / "run", "")
    lines = run.config.read_text().replace(
        "datamodule: {root: x}\n", "" if "datamodule" in change[:11] else "datamodule: {root: x}\n"
    )
    run.config.write_text(lines + change)
    mine = {"_target_": "datamodules.sources.huggingface.HuggingFace", "path": "???"}
    with pytest.raises(UserError, match=re.escape(words)):
        read_saved_config(run, (), OmegaConf.create({"datamodule": {"source": mine}}))


@pytest.mark.parametrize(("key", "value", "is_refused"), [
    ("network", "theirs.Net", True), ("backbone", "theirs.Net", True), ("backbone", "theirs.nets.tiny", True),
    ("backbone", "${evil}", True), ("backbone", "resnet18.a1_in1k", False), ("backbone", "resnet18", False),
])  # fmt: skip
def test_a_saved_configuration_names_no_code_for_a_network(tmp_path, key, value, is_refused):
    run = saved(tmp_path / "run", "evil: theirs.Net\n")
    lines = run.config.read_text().replace("{name: simple_cnn}", f"{{name: x, {key}: '{value}'}}")
    run.config.write_text(lines)
    expected = pytest.raises(UserError, match=rf"model\.{key} is .*, a class that your conf/ does not name")
    with expected if is_refused else contextlib.nullcontext():
        read_saved_config(run, (), OmegaConf.create({"model": {key: "vgg16"}}))
    if "$" not in value:
        read_saved_config(run, (), OmegaConf.create({"model": {key: value}}))  # the user's own names the same


LAUGHS = "\n".join(
    f"a{n}: [{', '.join([f'*b{n - 1}'] * 9) if n else 'lol'}]".replace(": [", f": &b{n} [") for n in range(10)
)
DOUBLED = "\n".join(f'a{n}: "${{a{n + 1}}}${{a{n + 1}}}"' for n in range(40)) + "\na40: lol"


@pytest.mark.parametrize(("text", "words"), [
    ("optimizer: !!python/object/apply:os.system ['touch CANARY']", ["the tag", "os.system"]),
    ("optimizer: !!python/object/new:subprocess.Popen [[touch, CANARY]]", ["the tag"]),
    ("optimizer: !!python/name:os.system", ["the tag"]),
    ("optimizer: !!python/object/apply:pathlib.PosixPath [/etc]", ["the tag"]),
    (LAUGHS, ["an anchor"]),
    (DOUBLED, ["a0 grows without end"]),
    ('a: "${b}"\nb: "${a}"', ["grows without end"]),
    ("a: " + "[" * 1000 + "]" * 1000, ["nested deeper"]),
    ("a: " + "x" * 100_000, ["64 KiB"]),
    ('model: {name: "${oc.env:SECRET}"}', ["datamodule is 'None'"]),
    ('optimizer: {lr: "${oc.env:SECRET}"}', ["optimizer.lr", "oc.env:SECRET", "reaches outside", "optimizer=..."]),
    ('a: [{b: "x ${oc.decode:${oc.env:SECRET}}"}]', ["a.0.b", "reaches outside"]),
    ('a: "\\\\${oc.env:SECRET}"', ["a is", "reaches outside"]),
    ('a: "${${b}:SECRET}"\nb: oc.env', ["a is", "reaches outside"]),
    ('a: "${new_run_dir:evil}"', ["a is", "reaches outside"]),
    ('a: "${hydra:runtime.cwd}"', ["a is", "reaches outside"]),
    ('a: "${project:${oc.env:SECRET}}"', ["a is", "reaches outside"]),
    ("logger: {csv: {_target_: lightning.pytorch.loggers.CSVLogger}}", ["logger.csv is", "elsewhere", "logger=..."]),
    ("a: {_target_: lightning.pytorch.callbacks.ModelCheckpoint, filename: ../../x}", ["a.filename", "could write"]),
    ("a: {1: 2}", ["a.1", "not a plain name"]),
    ("'a b': 2", ["not a plain name"]),
    ("model: 5", ["model is '5'"]),
    ("loss: 5", ["loss is '5' and not a mapping", "loss=..."]),
    ("optimizer: [1]", ["optimizer is '[1]' and not a mapping", "optimizer=..."]),
    ("seed: true\nmodel: {}\ndatamodule: {}\ntrainer: {}\ncallbacks: {}", ["seed is 'True' and not a whole number"]),
    ("seed: 1\nmodel: [1]\n", ["model is"]),
    ("callbacks: null", ["model is"]),
    ("[1, 2]", ["cannot be read"]),
    ("a: \0", ["cannot be read"]),
    ("a: {", ["cannot be read"]),
    ("a: " + "9" * 5000, ["cannot be read"]),
])  # fmt: skip
def test_a_saved_configuration_is_untrusted(tmp_path, canary, monkeypatch, text, words):
    monkeypatch.setenv("SECRET", "swordfish")
    with pytest.raises(ValueError, match=r"config\.yaml") as caught:
        read_saved_config(saved(tmp_path / "run", text.replace("CANARY", str(canary))), (), NOTHING)
    assert all(word in str(caught.value) for word in words) and "swordfish" not in str(caught.value), caught.value


def doubled(times):
    """Return lines in which each value is twice the next one; the last has two characters."""
    return "".join(f'a{n}: "${{a{n + 1}}}${{a{n + 1}}}"\n' for n in range(times)) + f"a{times}: xx"


@pytest.mark.parametrize(("allowed", "refused"), [
    ("a: " + "[" * 19 + "]" * 19, "a: " + "[" * 20 + "]" * 20), ("\n".join(f"a{n}: [[{n}]]" for n in range(50)), None),
    (doubled(12), doubled(14)),
])  # fmt: skip
def test_a_saved_configuration_may_be_wide_and_is_neither_deep_nor_long(tmp_path, allowed, refused):
    read_saved_config(saved(tmp_path / "allowed", allowed), (), NOTHING)
    if refused:
        with pytest.raises(UserError, match=r"nested deeper than 20|a0 grows without end"):
            read_saved_config(saved(tmp_path / "refused", refused), (), NOTHING)


def test_a_module_whose_name_begins_like_a_listed_one_is_not_imported(tmp_path, monkeypatch, canary):
    (tmp_path / "callbacks_of_theirs.py").write_text(f"open({str(canary)!r}, 'w')\nclass Theirs: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_allowed_target("callbacks_of_theirs.Theirs")


def test_a_run_without_a_name_is_called_run(tmp_path):
    run = saved(tmp_path / "run", "model: {}\nseed: 1\ndatamodule: {}\ntrainer: {}\ncallbacks: {}\n")
    assert read_saved_name(run, ()) == "run"


def test_keys_that_the_command_line_sets_again_are_not_checked(tmp_path):
    folder = saved(tmp_path / "run", 'optimizer: {lr: "${oc.env:SECRET}"}\nloss: {_target_: x, save_dir: /tmp}')
    assert read_saved_config(folder, ["optimizer.lr", "loss"], NOTHING).optimizer.lr is None
    assert read_saved_name(folder, ["optimizer.lr", "loss"]) == "simple_cnn"
    for other in (["optimizer"], ["optimizer", "los"], ["optimizer", "loss._target"]):
        with pytest.raises(ValueError, match=r"loss\._target_"):
            read_saved_config(folder, other, NOTHING)
    with pytest.raises(ValueError, match=r"optimizer\.lr"):
        read_saved_name(folder, [])


@pytest.mark.parametrize("name", ["../../evil", "/etc/x", "a b", "a=b", "x,y", "adam]", "..", "", "-m"])
def test_a_saved_choice_is_a_plain_name(tmp_path, name):
    with pytest.raises(ValueError, match="not the name of a file in conf/optimizer"):
        read_saved_choices(saved(tmp_path / "run", "", f"{{optimizer: '{name}', model: resnet18}}"))
    allowed = "{model: resnet18, ckpt_path: evil, stages: '[test]', hydra/launcher: evil, hydra: evil, scheduler: null}"
    assert read_saved_choices(saved(tmp_path / "other", "", allowed)) == {"model": "resnet18"}


def test_the_cache_is_that_of_the_command(tmp_path):
    theirs = "datamodule: {cache: /theirs, cache_max_gib: 0, gpu_cache_gib: 0, root: x}"
    folder = saved(tmp_path / "run", f"seed: 1\nmodel: {{name: x}}\n{theirs}\ntrainer: {{}}\ncallbacks: {{}}\n")
    folder.checkpoints.mkdir()
    folder.last_checkpoint.touch()
    mine = {"cache": "/mine", "cache_max_gib": 50, "gpu_cache_gib": 8, "root": None}
    config = OmegaConf.create({"ckpt_path": str(folder.last_checkpoint), "stages": ["fit"], "datamodule": mine})
    assert resume_config(config, [], RunFolder(tmp_path))[0].datamodule == {**mine, "root": "x"}


@pytest.mark.thorough
def test_resuming_an_untrusted_run(train, tmp_path, monkeypatch, canary):
    monkeypatch.setenv("SECRET", "swordfish")
    fit = "stages=[fit]"
    ran = train("trainer.max_epochs=1", fit, "logger=none")
    last, config = ran.folder / "checkpoints" / "last.ckpt", ran.folder / ".hydra" / "config.yaml"
    hydra = ran.folder / ".hydra" / "hydra.yaml"
    usual, chosen = config.read_text(), hydra.read_text()
    mine = tmp_path / "mine" / "pixels" / "holiday"
    mine.mkdir(parents=True)
    (mine / "photo.png").write_bytes(b"mine")
    kept = content(tmp_path / "mine")
    for old, new, words in (
        (
            "_target_: torch.optim.Adam",
            "_target_: os.system\n  command: touch CANARY",
            "optimizer._target_ is 'os.system'",
        ),
        ("lr: 0.003", "lr: ${oc.env:SECRET}", "optimizer.lr is '${oc.env:SECRET}'"),
    ):
        assert old in usual, old
        config.write_text(usual.replace(old, new.replace("CANARY", str(canary))))
        on = train(f"ckpt_path={last}", fit, "trainer.max_epochs=2", small=False)
        assert on.status == 1 and "Traceback" not in on.err and words in on.err, on.err
        assert on.err.count("ERROR: ") == 1 and "swordfish" not in on.out + on.err
    config.write_text(usual)
    hydra.write_text(chosen.replace("optimizer: adam_1e-3", f"optimizer: ../../..{tmp_path}/evil"))
    assert "is not the name of a file in conf/optimizer" in train(f"ckpt_path={last}", fit, small=False).err
    hydra.write_text(chosen)
    log = ran.folder / "train.log"
    log.unlink()
    log.symlink_to(mine / "photo.png")
    assert "train.log: is a link" in train(f"ckpt_path={last}", fit, small=False).err
    log.unlink()

    usual = usual.replace("cache_max_gib: 50", "cache_max_gib: 0")
    config.write_text(usual)
    state = torch.load(last, weights_only=True)
    for callback in state["callbacks"].values():
        if "best_model_path" in callback:
            outside = f"{callback['dirpath']}/../../mine/pixels/holiday"
            callback |= dict.fromkeys(("best_model_path", "kth_best_model_path", "last_model_path"), outside)
            callback["best_k_models"] = {outside: torch.tensor(-1.0)} if callback["best_k_models"] else {}
            callback["best_model_score"] = torch.tensor(-1.0)  # so that the next epoch is better, and Lightning removes
    torch.save(state, last)
    on = train(f"ckpt_path={last}", fit, "trainer.max_epochs=2", small=False, to=ran.folder)
    assert on.status == 0, on.err
    assert on.record.best.checkpoint == str(ran.folder / "checkpoints" / "best.ckpt")
    assert content(tmp_path / "mine") == kept
    assert not any(b"swordfish" in each for each in content(tmp_path).values())
    for name in ("optimizer_states", "callbacks"):
        torch.save(state | {name: "odd"}, last)
        on = train(f"ckpt_path={last}", fit, "trainer.max_epochs=3", small=False, to=ran.folder)
        assert on.status == 1 and f"{last}: its {name} is 'odd', so its training cannot be resumed" in on.err, on.err


def test_what_changes_is_shown_as_it_is_typed(tmp_path):
    folder = saved(
        tmp_path / "run", "seed: 1\nteacher: x.ckpt\nmodel: {name: x}\ndatamodule: {}\ntrainer: {}\ncallbacks: {}\n"
    )
    folder.checkpoints.mkdir()
    folder.last_checkpoint.touch()
    config = {"ckpt_path": str(folder.last_checkpoint), "stages": ["fit"], "teacher": None, "datamodule": {}}
    assert resume_config(OmegaConf.create(config), ["teacher=null"], folder)[1] == ["teacher=null"]
