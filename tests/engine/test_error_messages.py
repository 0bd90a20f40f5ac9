"""Mistakes at the command line, and the line that says what was meant."""

import errno
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError

import export as export_script
import predict as predict_script
import report as report_script
import search as search_script
import smallest as smallest_script
import train as train_script
from common.atomic_io import write_text
from engine.error_messages import user_message
from engine.hints import quoted
from engine.state import STATE
from tests.support.fake_checkpoints import make_checkpoint


@pytest.mark.parametrize(("script", "instead"), [
    ("predict.py", "out=DIR"), ("demo.py", "format.cache=DIR"), ("train.py", "hydra.run.dir=DIR (for a sweep, "),
])  # fmt: skip
def test_a_full_disk_names_the_setting_of_the_command(monkeypatch, script, instead):
    monkeypatch.setattr(STATE, "command", ["python", script])
    assert f"write elsewhere: {instead}" in user_message(OSError(errno.EROFS, "Read-only file system", "outputs"))


@pytest.mark.parametrize(("arguments", "words"), [
    (["epochs=3"], "did you mean trainer.max_epochs=3?"),
    (["model.head.seed=3"], "model.head.seed: no such key in model.head; allowed: dropout, hidden_dims. To add a setting that"),
    (["scheduler=none", "scheduler.x=3"], "no such key in scheduler, which has none. To add a setting that the file does not"),
    (["scheduler=none", "scheduler.factor=3"], "which has none; did you mean scheduler.factor=3 with scheduler=plateau?"),
    (["max_epochs=3"], "did you mean trainer.max_epochs=3?"),
    (["lr=0.1"], "did you mean optimizer.lr=0.1?"),
    (["learning_rate=0.1"], "did you mean optimizer.lr=0.1?"),
    (["batch_size=8"], "did you mean datamodule.batch_size=8?"),
    (["positive_class=1"], "did you mean decision.positive_class=1?"),
    (["image_size=64"], "did you mean model.image_size=64?"),
    (["table=x.csv"], "did you mean datamodule.table=x.csv?"),
    (["num_workers=2"], "did you mean datamodule.num_workers=2?"),
    (["gpus=1"], "did you mean trainer.devices=1?"),
    (["device=cpu"], "did you mean trainer.accelerator=cpu?"),
    (["early_stopping=7"], "did you mean callbacks.early_stopping.patience=7 with callbacks=early_stopping"),
    (["cache_limit_gib=7"], "did you mean datamodule.cache_max_gib=7?"),
    (["val_split=0.2"], "val_split: is not a setting: images without folders train, val and test are split 60/20/20;"),
    (["num_classes=3"], "num_classes: is not a setting: the classes are the folders of the images"),
    (["datamodule.val_split=0.2"], "datamodule.val_split: is not a setting: images without folders train, val and test"),
    (["model.num_classes=3"], "model.num_classes: is not a setting: the classes are the folders of the images"),
    (["datamodule=webdataset", "classes=[a,b]"], "did you mean datamodule.source.classes=[a,b]?"),
    (["output_dir=x"], "did you mean hydra.run.dir=x?"),
    (["patience=3"], "patience=3 with callbacks=early_stopping or scheduler.patience=3 with scheduler=plateau?"),
    (["weight_decay=1"], "did you mean optimizer.weight_decay=1 with optimizer="),
    (["Trainer.max_epochs=2"], "did you mean trainer.max_epochs=2?"),
    (["trainer.epochs=3"], "trainer.epochs: no such key in trainer; did you mean trainer.max_epochs=3?"),
    (["model.batch_size=3"], "no such key in model; did you mean datamodule.batch_size=3?"),
    (["optimizer.learning_rate=3"], "did you mean optimizer.lr=3?"),
    (["--epochs", "3"], "--epochs: settings have no dashes: did you mean trainer.max_epochs=VALUE"),
    (["=3"], "=3: a key is missing before =; KEY=VALUE"),
    (["model=resnet18", "model.backbone=vgg16"],
     "did you mean model.backbone=vgg16 with model=truncated? Allowed: freeze, image_size"),
    (["--lr=3"], "--lr: settings have no dashes: did you mean optimizer.lr=3"),
    (["-lr=3"], "-lr: settings have no dashes: did you mean optimizer.lr=3"),
    (["-model=resnet18"], "-model: settings have no dashes: did you mean model=resnet18"),
    (["--list"], "--list: no such flag or setting; see --help\n"),
    (["-patience=3"], "-patience: settings have no dashes: did you mean callbacks.early_stopping.patience=3 "),
    (["-M"], "-M: no such flag or setting; see --help\n"),
    (["model", "resnet18"], "model: an argument is KEY=VALUE: python train.py model=resnet18 "),
    (["model", "=", "resnet18"], "python train.py model=resnet18 "),
    (["seed=1", "datamodule.root", "/x"], "python train.py seed=1 datamodule.root=/x "),
    (["model = resnet18"], "model = resnet18: one = without spaces: model=resnet18\n"),
    (["model =a b"], "model =a b: one = without spaces: 'model=\"a b\"'\n"),
    (["trainer.max_epochs==5"], "trainer.max_epochs==5: one = without spaces: trainer.max_epochs=5\n"),
    (["trainer max_epochs=5"], "trainer max_epochs=5: a key has no spaces: trainer.max_epochs=VALUE\n"),
    (["trainer/max_epochs=5"], "trainer/max_epochs: no such key; did you mean trainer.max_epochs=5?"),
    (["trainer.max_epochs:5"], "python train.py trainer.max_epochs=5 "),
    (["ckpt=a.ckpt"], "ckpt: no such key; did you mean ckpt_path=a.ckpt?"),
    (["optimizer.lr=0,001"], "optimizer.lr=0,001: several values; a number has a point: optimizer.lr=0.001; they make"),
    (["model=convnext_tiny"], "vgg19. If it is one of timm: model=timm model.name=convnext_tiny\n"),
    (["model=resnet18,resnet50"], "add -m: python train.py -m model=resnet18,resnet50\n"),
    (["callbacks=early_stopping,ema"], "-m callbacks=early_stopping,ema; as a list: 'callbacks=[early_stopping,ema]'\n"),
    (["stages=cost,fit"], "-m stages=cost,fit; as a list: 'stages=[cost,fit]'; as one text: 'stages=\"cost,fit\"'\n"),
    (["seed=range(1,3)"], "add -m: python train.py -m 'seed=range(1,3)'"),
    (["seed=" + "9" * 5000], "a whole number in this command or its files has thousands of digits; use a smaller one\n"),
    (["~budget"], "~budget: no such setting in train.py, so there is nothing to remove\n"),
    (["~seed"], "~seed: cannot be removed; leave this out, or set seed=VALUE\n"),
    (["~datamodule.folds"], "~datamodule.folds: there is no such key, or it has no value already; leave this out\n"),
    (["+model=resnet18"], "+model: this group exists; choose its file without +: model=resnet18\n"),
    (["+seed=3"], "+seed: this key exists; set it without +: seed=3\n"),
    (["optimizer.lr=0.1", "+optimizer.lr=0.2"], "+optimizer.lr: this key exists; set it without +: optimizer.lr=0.2\n"),
    (["trainer=cuda"], "trainer=cuda: no such choice; did you mean gpu or cpu? Allowed: "),
    (["callbacks.ema.split=3"], "callbacks.ema.split: no such key in callbacks.ema; "),
    (["stages={a:1}"], "stages={a:1}: stages takes a list or a single value: stages=[A,B]\n"),
    (["augmentation=trivial_augment", "augmentation.transforms.2.p=1"],
     "transforms.2.p=1: augmentation.transforms has no item 2, since they count from 0; add one in a file, or give the "),
    (["augmentation=trivial_augment", "augmentation.transforms.Invert.p=1"],
     "augmentation.transforms.Invert.p=1: Invert is not the number of an item of augmentation.transforms, from 0 on\n"),
    (["stages.fit=true"], "stages.fit=true: fit is not the number of an item of stages, from 0 on\n"),
    (["model.head=[1]"], "model.head=[1]: model.head is a group of settings; model.head.hidden_dims=VALUE sets one\n"),
    (["-m", "scheduler=null,cosine"], "scheduler=null,cosine: no such choice; did you mean none or cosine?"),
    (["-m", "callbacks=[1],[2]"], "callbacks=[1],[2]: no such choice; allowed: default, early_stopping"),
    (["scheduler=[]"], "scheduler=[]: scheduler takes one choice; "),
    (["~model.name"], "model.name: Interpolation key 'model.name' not found; compare your model with a file of conf/model"),
    (["seed=${no.such}"], "no.such: Interpolation key 'no.such' not found\n"),  # there is no conf/no
    (["datamodule.root=${x}"], "Interpolation key 'x' not found; ${...} refers to another setting, as ${seed} does, "),
    (["datamodule.root=${x:1}"], "Unsupported interpolation type x; ${...} refers to another setting"),
    (["+model.depth=${model.dept}"], "model.dept: Interpolation key 'model.dept' not found; compare your model with"),
    (["-m", "seed=1,2", "--cfg", "job"], "-m, --cfg, --info and -sc exclude each other; use one of them (--cfg job shows"),
    (["-m", "seed=1,1"], "seed=1,1: 1 is given twice; give each value once"),
    (["-m", "optimizer.lr=0.1,1e-1"], "is given twice"),
    (["model=/x/mine.yaml"], "model: files are chosen by name, not by path: put mine.yaml into DIR/model, and use "
                             "--config-dir=DIR model=mine"),
    (["model=timm"], "model.name has no value; give it one: model.name=VALUE\n"),
    (["model=nope", "--help"], "model=nope: no such choice; allowed: densenet121"),
    (["resnet18"], "an argument is KEY=VALUE: python train.py model=resnet18 "),
    (["images"], "python train.py datamodule=image_folder datamodule.root=images "),
    (["datamodule=/data/x"], "a folder of images: datamodule=image_folder datamodule.root=/data/x"),
])  # fmt: skip
def test_of_train(in_process, tmp_path, arguments, words):
    key = "hydra.sweep.dir" if "-m" in arguments else "hydra.run.dir"
    status, _, error = in_process(train_script, *arguments, f"{key}={tmp_path}/${{model.name}}")
    assert status == 1 and error.startswith("ERROR: ") and error.count("\n") == 1 and words in error, error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("script", "arguments", "words"), [
    (predict_script, ["a.ckpt", "DIR"], "a.ckpt: an argument is KEY=VALUE: python predict.py ckpt=a.ckpt images=DIR "),
    (predict_script, ["../a.ckpt", "./DIR"], ": python predict.py ckpt=../a.ckpt images=./DIR "),
    (predict_script, ["/a.ckpt", "/tmp"], ": python predict.py ckpt=/a.ckpt images=/tmp "),
    (predict_script, ["/tmp", "/a.ckpt"], ": python predict.py images=/tmp ckpt=/a.ckpt "),
    (predict_script, ["ckpt=a.onnx", "x/[ab]*.jpg"], "python predict.py ckpt=a.onnx 'images=\"x/[ab]*.jpg\"' "),
    (predict_script, ["ckpt=a.ckpt", "images=x/[ab]*.jpg"], "two kinds of quotes: 'images=\"x/[ab]*.jpg\"'"),
    (export_script, ["format=onnx,web"], "format=onnx,web: several values; give one\n"),
    (predict_script, ["images=a,b"], "several values; as a list: 'images=[a,b]'; as one text: 'images=\"a,b\"'"),
    (smallest_script, ["~budget"], "~budget: cannot be removed; leave this out, or set budget.minutes=VALUE\n"),
    (smallest_script, ["~workers"], "~workers: cannot be removed; leave this out, or set workers=VALUE\n"),
    (smallest_script, ["candidates.image_size=[32]"], "no such key in candidates; did you mean image_sizes? Allowed: "),
    (search_script, ["model=simple_cnn"], "is a setting of the trials; pass it to them: 'base_overrides=\"model=simple_cnn\"'"),
    (search_script, ["datamodule.root=/a"], "pass it to them: 'base_overrides=\"datamodule.root=/a\"'"),
    (search_script, ["optimizer.lr=1"], "of the trials; pass it to them: 'base_overrides=\"optimizer.lr=1\"'"),
    (search_script, ["space={scheduler:[null,cosine]}"], "space: scheduler=null: no such choice; did you mean none or cosine?"),
    (search_script, ["default_space.optimizer.lr.low=1"], "cannot be changed by itself; give the whole space: 'space={"),
    (search_script, ["trails=1"], "trails: no such key; did you mean n_trials or "),
    (predict_script, ["ckpt_path={}"], "ckpt_path: no such key; "),
    (search_script, ["ckpt_path={}"], "ckpt_path: no such key; "),
    (predict_script, ["model=x"], "model: is not a setting of predict.py; --help lists"),
    (predict_script, ["epochs=3"], "epochs: no such key; allowed: batch_size"),
    (report_script, ["outputs/sweeps"], "python report.py runs=outputs/sweeps "),
])  # fmt: skip
def test_of_other_scripts(in_process, tmp_path, script, arguments, words):
    if "ckpt_path={}" in arguments:  # of which train.py takes the network
        arguments = [f"ckpt_path={make_checkpoint(tmp_path / 'a.ckpt', image_size=16)}"]
    status, _, error = in_process(script, *arguments)
    assert status == 1 and words in error and error.count("\n") == 1, error


@pytest.mark.parametrize("choice", ["callbacks=slow_donw", "callbacks=[ema,slow_donw]"])
def test_files_of_the_user_s_own_are_among_the_choices_of_one_and_of_several(in_process, tmp_path, choice):
    (folder := tmp_path / "callbacks").mkdir()
    (folder / "slow_down.yaml").write_text("slow_down: {_target_: lightning.pytorch.callbacks.Timer}\n")
    status, _, error = in_process(train_script, f"--config-dir={tmp_path}", choice)
    assert status == 1 and "callbacks=slow_donw: no such choice; did you mean slow_down? " in error, error


@pytest.mark.parametrize(
    "path", ["a/[ab]*.jpg", "a b.jpg", "a,b", "a=b", "a(1).jpg", "it's", 'x"y', "ü/数.png", "[a]", "$x"]
)
def test_a_quoted_value_is_read_back_as_it_was(path):
    (word,) = shlex.split(quoted("images", path))
    value = OverridesParser.create().parse_override(word).value()
    assert value == (["a"] if path == "[a]" else path)


def test_what_slurm_does_not_take_is_one_line():
    refused = type("FailedJobError", (RuntimeError,), {})("sbatch: error: Invalid generic resource (gres)\n")
    message = user_message(refused)
    assert message.startswith("SLURM rejected the jobs: sbatch: error: Invalid generic resource (gres);")
    assert "hydra.launcher.gpus_per_node=null" in message and "\n" not in message


def test_a_folder_that_cannot_be_made_names_the_setting_of_the_caches_too(monkeypatch):
    monkeypatch.setattr(STATE, "command", ["python", "train.py"])
    with pytest.raises(FileNotFoundError) as error:
        Path("/proc/nowhere").mkdir()
    assert user_message(error.value) == (
        "/proc/nowhere: cannot be created; write elsewhere: hydra.run.dir=DIR (for a sweep, hydra.sweep.dir=DIR; for the "
        "caches, datamodule.cache=DIR)"
    )


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    (tmp_path / "result.json").mkdir()
    with pytest.raises(IsADirectoryError) as error:
        write_text(tmp_path / "result.json", "{}")
    assert user_message(error.value).startswith(f"{tmp_path / 'result.json'}: is a folder, but must be a file; ")


@pytest.mark.parametrize("arguments", [["hydra.run.dir={}"], ["-m", "seed=1,2", "hydra.sweep.dir={}"]])
def test_a_file_in_the_place_of_a_folder_is_named(in_process, tmp_path, arguments):
    file = tmp_path / "file"
    file.write_text("kept")
    status, _, error = in_process(train_script, *(each.format(file) for each in arguments))
    assert (status, file.read_text()) == (1, "kept") and error.count("\n") == 1
    assert error.startswith(
        f"ERROR: {file}: is a file, not a folder; write elsewhere: hydra.run.dir=DIR (for a sweep, "
    ), error


@pytest.mark.parametrize("arguments", [["hydra.run.dir={}"], ["-m", "seed=1,2", "hydra.sweep.dir={}"]])
def test_a_link_to_a_disk_that_is_not_mounted_is_named(in_process, tmp_path, arguments):
    (link := tmp_path / "outputs").symlink_to(tmp_path / "scratch")
    status, _, error = in_process(train_script, *(each.format(link) for each in arguments))
    assert (status, list(tmp_path.iterdir())) == (1, [link]) and error.count("\n") == 1
    assert error.startswith(f"ERROR: {link}: is a link to a folder that does not exist; write elsewhere: "), error


@pytest.mark.parametrize("argument", ["hydra.run.dir={}/run", "ckpt_path={}", "datamodule.root={}"])
def test_a_link_that_leads_back_to_itself_is_one_line(in_process, tmp_path, argument):
    (link := tmp_path / "loop").symlink_to(link)
    run = [] if "run.dir" in argument else [f"hydra.run.dir={tmp_path / 'run'}"]
    status, _, error = in_process(train_script, argument.format(link), *run)
    assert (status, list(tmp_path.iterdir())) == (1, [link]) and error.count("\n") == 1
    assert error.startswith("ERROR: ") and str(link) in error, error


@pytest.mark.parametrize(
    ("place", "folder"), [("models/tiny.yaml", ""), ("model/tiny.yml", ""), ("model/tiny.yaml", "model")]
)
def test_a_file_of_the_user_s_own_in_the_wrong_place_is_named(in_process, tmp_path, place, folder):
    (file := tmp_path / place).parent.mkdir()
    file.write_text("name: tiny\n")
    status, _, error = in_process(train_script, f"--config-dir={tmp_path / folder}", "model=tiny")
    wanted = f"; {file} is not read: its place is DIR/model/tiny.yaml, with --config-dir=DIR\n"
    assert status == 1 and error.startswith("ERROR: model=tiny: no such choice") and error.endswith(wanted), error


def test_a_folder_of_the_user_s_own_that_does_not_exist_is_named(in_process, tmp_path):
    status, _, error = in_process(train_script, f"--config-dir={tmp_path / 'no'}", "model=tiny")
    assert status == 1 and error.startswith(f"ERROR: --config-dir={tmp_path / 'no'}: no such folder; give the"), error


def test_a_name_among_the_defaults_of_a_file_of_the_user_s_own_is_not_taken_for_a_path(in_process, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tiny.yaml").write_text("defaults: [base/comon@_here_]\nname: tiny\n")
    status, _, error = in_process(train_script, f"--config-dir={tmp_path}", "model=tiny")
    assert status == 1 and error == "ERROR: model/base/comon: no such file; the defaults of model=tiny name it\n", error


@pytest.mark.parametrize(("content", "message"), [
    ("defaults: [{override /model: resnet18}]\n", "experiment=week: its file must begin with the line # @package _global_\n"),
    ("# @package _global_\ndefaults: [{/model: resnet18}]\n", "write - override /model: resnet18\n"),
    ("defaults:\n", "ERROR: experiment/week.yaml: defaults must be a list with one choice in each item, as defaults: [override "
                    "/model: resnet18]\n"),
    ("defaults: [{override /model: resnet18, a: b}]\n", "[override /model: resnet18]\n"),
    ("defaults: [3]\n", "chosen here: defaults must be a list with one choice in each item, as defaults: [override /model: "
                        "resnet18]\n"),
    ("# @package _global_\n- seed: 3\n", "experiment/week.yaml: holds a list where settings are needed, one KEY: VALUE in each "
                                         "line\n"),
])  # fmt: skip
def test_what_an_experiment_of_the_user_s_own_lacks_is_named(in_process, tmp_path, content, message):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "week.yaml").write_text(content)
    status, _, error = in_process(train_script, f"--config-dir={tmp_path}", "experiment=week")
    assert status == 1 and error.endswith(message) and error.count("\n") == 1, error


def test_a_key_that_a_file_of_the_user_s_own_lacks_is_one_line():
    config = OmegaConf.create({"model": {"name": "tiny"}})
    with pytest.raises(ConfigAttributeError) as caught:
        _ = config.model.freeze
    assert (
        user_message(caught.value) == "model.freeze: Missing key freeze; compare your model with a file of conf/model"
    )
