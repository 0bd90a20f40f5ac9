import importlib
import logging
import re
import shutil
import signal
import sys
from types import ModuleType, SimpleNamespace

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from common.errors import StopRequested, UserError
from common.progress import Progress
from common.run_folder import PROJECT
from engine import cli, log_handlers
from engine.cli import complete_overrides, job_dir_name, new_run_dir, safe_name
from tests.support.fake_checkpoints import make_checkpoint

DATA_PATHS = ("datamodule.root", "datamodule.table", "datamodule.splits")


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "OUTPUTS", tmp_path)
    new_run_dir.cache_clear()
    yield tmp_path
    new_run_dir.cache_clear()


def test_folders_of_a_refused_command_are_removed_with_those_around_them(outputs, monkeypatch):
    monkeypatch.setattr(cli.STATE, "made_folders", [])
    for _ in range(2):  # Hydra asks again where the first answer failed
        new_run_dir("resnet18")
        new_run_dir.cache_clear()
    cli.remove_empty(cli.STATE.made_folders)
    assert list(outputs.iterdir()) == []


def test_a_warning_says_what_to_set_where_python_reads_file_names_as_ascii(monkeypatch, caplog):
    for encoding in ("utf-8", "ascii"):
        monkeypatch.setattr("sys.getfilesystemencoding", lambda encoding=encoding: encoding)
        with cli.keep_error("report", OmegaConf.create()):
            assert ("file names are read as ascii" in caplog.text) == (encoding == "ascii")
    assert "set PYTHONUTF8=1" in caplog.text


@pytest.mark.parametrize(
    "verb, module",
    [("export", "inference.export.export"), ("demo", "inference.demo.app"), ("report", "reports.report")],
)
def test_a_command_that_imports_for_long_shows_that_it_is_starting(in_process, monkeypatch, tmp_path, verb, module):
    shown, typed = [], []
    if verb == "export":
        typed = [f"ckpt={tmp_path / 'a.ckpt'}"]  # a wrong one is refused before
        (tmp_path / "a.ckpt").touch()

    class Slow(ModuleType):
        def __getattr__(self, name):  # of `from module import run`, and what the import asks for
            shown.append(Progress._innermost._text)
            return lambda *_: shown.append(Progress._innermost)

    monkeypatch.setitem(sys.modules, module, Slow(module))
    assert in_process(importlib.import_module(verb), *typed) == (0, "", "")
    assert {*shown[:-1]} == {"starting"} and shown[-1] is None


@pytest.mark.parametrize("name", ["first", "team/first", "team/../../first"])
def test_a_refused_search_leaves_no_folder_of_its_name(outputs, monkeypatch, name):
    folder = outputs / "searches" / name
    (outputs / "kept").mkdir()
    folder.mkdir(parents=True)  # as Hydra does
    monkeypatch.setattr(cli, "SEARCHES", outputs / "searches")
    monkeypatch.setattr(cli.STATE, "made_folders", [])
    monkeypatch.setattr(cli.STATE, "failed", [])
    hydra = SimpleNamespace(run=SimpleNamespace(dir=str(folder)))
    monkeypatch.setattr(cli.HydraConfig, "get", lambda: hydra)
    with cli.keep_error("search", OmegaConf.create({"space": None, "objectives": None})):
        raise UserError("name: refused")
    cli.remove_empty(cli.STATE.made_folders)
    assert [each.name for each in outputs.iterdir()] == ["kept"]


@pytest.mark.parametrize(("arguments", "says"), [
    (["train.py", "-m", "seed=1,2"], "stopped. Resume with: python train.py -m seed=1,2\n"),
    (["search.py", "n_trials=3"], "stopped. Resume with: python search.py n_trials=3\n"),
    (["predict.py", "images=a.png"], "stopped\n"),
])  # fmt: skip
@pytest.mark.parametrize(("stop", "by", "status"), [
    (KeyboardInterrupt(), "stopped", 130), (StopRequested(signal.SIGTERM), "stopped by SIGTERM", 143),
])  # fmt: skip
def test_a_stopped_command_that_resumes_by_itself_says_so(
    tmp_path, monkeypatch, capsys, arguments, says, stop, by, status
):
    def end():
        raise stop

    for variable in (cli.TRACEBACK, "HYDRA_FULL_ERROR"):  # which are set for further processes of the command
        monkeypatch.setenv(variable, "0")
    for place, says_there in ((PROJECT, says), (tmp_path, says.replace("python ", f"python {PROJECT}/"))):
        monkeypatch.setattr("sys.argv", list(arguments))
        monkeypatch.chdir(place)
        with pytest.raises(SystemExit) as ended:
            cli.run_cli(end)
        assert ended.value.code == status and capsys.readouterr().err == says_there.replace("stopped", by)


def test_a_rank_that_no_launcher_has_set_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.delenv(cli.TRACEBACK, raising=False)
    monkeypatch.setattr("sys.argv", ["train.py", "datamodule.root=images"])
    with pytest.raises(SystemExit):
        cli.run_cli(lambda: None)
    assert capsys.readouterr().err.startswith("ERROR: LOCAL_RANK=0: is set, but neither torchrun nor srun has started ")


def test_a_current_folder_that_was_removed_is_named(tmp_path, monkeypatch, capsys):
    removed = tmp_path / "removed"
    removed.mkdir()
    monkeypatch.chdir(removed)
    removed.rmdir()
    monkeypatch.setattr("sys.argv", ["train.py"])
    with pytest.raises(SystemExit, match="1"):
        cli.run_cli(pytest.fail)
    assert capsys.readouterr().err == "ERROR: the current folder was removed; change to another one: cd DIR\n"


def test_an_installation_without_settings_says_how_to_install(tmp_path, monkeypatch, capsys):
    conf = tmp_path / "site-packages" / "conf"
    monkeypatch.setattr(cli, "CONF", conf)
    monkeypatch.setattr("sys.argv", ["train.py"])
    with pytest.raises(SystemExit, match="1"):
        cli.run_cli(pytest.fail)
    message = (
        f"ERROR: {conf}: no such folder; pip install without -e does not copy it; run in a clone: pip install -e .\n"
    )
    assert capsys.readouterr().err == message


def test_two_runs_of_one_second_get_two_folders(monkeypatch):
    monkeypatch.setattr(cli.time, "strftime", lambda _: "2026-01-01_00-00-00")
    first = new_run_dir("resnet18")
    assert new_run_dir("resnet18") == first  # one process, one folder
    new_run_dir.cache_clear()
    assert new_run_dir("resnet18") == f"{first}-2"
    assert new_run_dir(50) == first.replace("resnet18", "50")  # model.name=50, which the checks of settings refuse


@pytest.mark.parametrize("text", ["a b", "ä=1,2", "x" * 200, "../../etc", "a/b", "", "-m", "数", "1"])
def test_names_are_safe_and_distinct(text):
    name = safe_name(text)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,89}", name)
    assert name not in map(safe_name, (f"{text}!", f"{text}.", f"{text}-", f".{text}"))


def test_jobs_are_named_by_what_is_swept():
    overrides = ["experiment=batch_sizes", "datamodule.batch_size=16", "optimizer.lr=0.1", "seed=1"]
    assert job_dir_name(overrides, ["experiment", "seed"]) == "batch_size-16_lr-0.1"


def sweep_of(*arguments):
    added = OverridesParser.create().parse_overrides(complete_overrides(list(arguments))[len(arguments) :])
    return next(o.value() for o in added if o.key_or_group == "hydra.sweep.dir").rsplit("/", 1)[1]


def test_the_same_sweep_has_the_same_folder():
    typed = ("-m", "datamodule.batch_size=8,16", "seed=1")
    assert sweep_of(*typed) == sweep_of(*typed) != sweep_of("-m", "datamodule.batch_size=8,32", "seed=1")
    assert sweep_of(*typed, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2") == sweep_of(*typed)
    assert re.fullmatch(r"batch_size-[0-9a-f]{8}", sweep_of(*typed))
    assert sweep_of(*typed, "good_enough=0.1", "deploy=onnx", "datamodule.cache=/x") == sweep_of(*typed)
    assert sweep_of(*typed, "seeds=2") != sweep_of(*typed)  # its jobs have other names


def test_an_experiment_with_other_data_or_settings_is_another_sweep():
    plain = [sweep_of("experiment=batch_sizes", *more) for more in ([], ["-m"], ["seeds=1"], ["hydra/launcher=joblib"])]
    assert set(plain) == {"batch_sizes"}
    others = [["datamodule.root=/a"], ["datamodule.root=/b"], ["model.image_size=64"], ["stages=[cost]"], ["seed=1"]]
    names = {sweep_of("experiment=batch_sizes", *more) for more in others}
    assert len(names) == len(others) and all(re.fullmatch(r"batch_sizes-[0-9a-f]{8}", name) for name in names)
    assert sweep_of("datamodule.root=/a", "-m", "experiment=batch_sizes") in names  # in any order


def test_further_seeds_of_the_user_s_own_experiment_are_of_the_same_sweep(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseeds: 3\n")
    (tmp_path / "experiment" / "plain.yaml").write_text("# @package _global_\nseed: 3\n")
    for name, same in (("mine", True), ("mine.yaml", True), ("plain", False)):
        typed = (f"--config-dir={tmp_path}", f"experiment={name}", "-m")
        assert (sweep_of(*typed) == sweep_of(*typed, "seeds=5")) == same
    assert sweep_of("experiment=batch_sizes.yaml", "seeds=1") == sweep_of("experiment=batch_sizes.yaml")


def test_a_file_of_the_user_s_own_that_would_not_be_read_is_refused(tmp_path):
    (tmp_path / "optimizer").mkdir()
    own, usual = tmp_path / "optimizer" / "sgd.yaml", cli.CONF / "optimizer" / "sgd.yaml"
    shutil.copyfile(usual, own)
    complete_overrides([f"--config-dir={tmp_path}", "optimizer=sgd"])
    own.write_text(usual.read_text().replace("lr: 0.05", "lr: 0.07"))
    with pytest.raises(
        UserError, match=r"^--config-dir=.*: optimizer/sgd.yaml has the name of a file of conf/.*rename it"
    ):
        complete_overrides([f"--config-dir={tmp_path}", "optimizer=sgd"])


def test_the_flag_of_a_sweep_may_be_anywhere():
    assert complete_overrides(["seed=1,2", "-m"])[:2] == ["-m", "seed=1,2"]


def test_a_given_folder_is_kept():
    given = [a for a in complete_overrides(["hydra.sweep.dir=/x"]) if a.startswith("hydra.sweep.dir=")]
    assert given == ["hydra.sweep.dir=/x"]


def test_the_network_of_a_checkpoint_away_from_its_run_is_in_no_folder_name(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])
    checkpoint = make_checkpoint(tmp_path / "best.ckpt")
    completed = complete_overrides(["-m", "seed=1,2", f"ckpt_path={checkpoint}", "hydra.sweep.dir=/x"])
    overrides = OverridesParser.create().parse_overrides(completed[1:])
    same = next(each.value() for each in overrides if each.key_or_group.endswith("exclude_keys"))
    task = [each.input_line for each in overrides if not each.key_or_group.startswith("hydra")]
    assert "model=simple_cnn" in task and job_dir_name(["seed=1", *task[1:]], same) == "seed-1"


def test_a_sweep_over_checkpoints_away_from_their_runs_is_of_one_network(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])
    a, b, other = (make_checkpoint(tmp_path / f"{size}.ckpt", image_size=size // 10) for size in (481, 482, 321))
    assert "model=simple_cnn" in complete_overrides(["-m", f"ckpt_path={a},{b}"])
    assert f"ckpt_path={a},{other}" in complete_overrides(["-m", f"ckpt_path={a},{other}", "model=simple_cnn"])
    beside = tmp_path / "run" / "checkpoints" / "best.ckpt"  # of a run, whose folder has the settings
    make_checkpoint(beside)
    (beside.parent.parent / ".hydra").mkdir()
    (beside.parent.parent / ".hydra" / "config.yaml").touch()
    for each in (other, "null", beside):
        with pytest.raises(
            UserError, match=f"^ckpt_path={a},{each}: some of these checkpoints are not in the folders of"
        ):
            complete_overrides(["-m", f"ckpt_path={a},{each}"])


def test_a_folder_with_quotes_and_spaces_can_be_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "OUTPUTS", tmp_path / 'with "quotes", = and ünïcode')
    assert sweep_of("-m", "seed=1,2").startswith("seed-")


def test_warnings_of_python_are_one_line_of_the_log(caplog):
    with caplog.at_level(logging.WARNING):
        log_handlers.log_python_warning("two\n  lines", UserWarning, "f.py", 3)
    assert caplog.messages == ["two lines (UserWarning)"]


@pytest.mark.parametrize(("argument", "message"), [
    ("augmentation=[study,none]", "augmentation takes one choice; callbacks, logger, metrics take"),
    ("callbacks=[ema,ema]", r"callbacks=\[ema,ema\]: names a file twice"),
    ("optimizer=null", "optimizer=null: no such choice; .*adamw"),
    ("+hydra.sweeper.params.seed=[1,2]", r"^\+hydra.sweeper.params.seed=\[1,2\]: is set by files; type .* -m seed=1,2$"),
    ("-p datamodule", "^-p: shows a part of the settings: python train.py --cfg job -p datamodule$"),
    ("-pdatamodule", "^-p: shows a part of the settings: python train.py --cfg job -p datamodule$"),
    ("--package=datamodule", "^-p: shows a part of the settings: python train.py --cfg job -p datamodule$"),
    ("-sc", "^-sc: needs the name of a shell: python train.py -sc install=bash$"),
])  # fmt: skip
def test_arguments_for_which_hydra_has_no_message_are_refused(argument, message):
    with pytest.raises(UserError, match=message):
        complete_overrides(argument.split(" "))


@pytest.mark.parametrize("flags", [["-cjob", "-p", "model"], ["-call"], ["-cjob", "-pmodel.head"], ["-iall"]])
def test_what_hydra_shows_may_be_joined_with_its_flag(flags):
    assert complete_overrides([*flags, "seed=2"])[: len(flags)] == flags


@pytest.mark.parametrize(("script", "instead"), [
    ("predict.py", "out=DIR"), ("export.py", "out=DIR"), ("report.py", "out=DIR"), ("demo.py", "format.cache=DIR"),
])  # fmt: skip
@pytest.mark.parametrize("key", ["hydra.run.dir", "hydra.sweep.dir"])
def test_a_command_without_a_folder_of_a_run_takes_none(monkeypatch, tmp_path, script, instead, key):
    monkeypatch.setattr("sys.argv", [script])
    with pytest.raises(UserError, match=f"{key}={tmp_path}: {script} has no run folder; .* {instead}$"):
        complete_overrides([f"{key}={tmp_path}"])


@pytest.mark.parametrize("script", ["search.py", "smallest.py"])
def test_a_search_takes_no_folder_of_a_sweep(monkeypatch, script):
    monkeypatch.setattr("sys.argv", [script])
    with pytest.raises(
        UserError, match=rf"^hydra.sweep.dir=/x: is for a sweep .*; for {script} use hydra.run.dir=DIR$"
    ):
        complete_overrides(["hydra.sweep.dir=/x"])


FOR_SWEEP = "is for a sweep (-m); for a single run use hydra.run.dir=DIR"
FOR_RUN = "is for a single run; for a sweep use hydra.sweep.dir=DIR"


@pytest.mark.parametrize(("arguments", "key", "message"), [
    (["-m", "seed=1,2"], "hydra.run.dir", FOR_RUN), (["--multirun", "seed=1,2"], "hydra.run.dir", FOR_RUN),
    (["experiment=optimizers"], "hydra.run.dir", FOR_RUN), (["hydra.mode=MULTIRUN"], "hydra.run.dir", FOR_RUN),
    ([], "hydra.sweep.dir", FOR_SWEEP), (["experiment=final_model"], "hydra.sweep.dir", FOR_SWEEP),
])  # fmt: skip
def test_a_folder_that_the_mode_ignores_is_refused(train, tmp_path, arguments, key, message):
    """An experiment sets the mode in its file: what a command line with one says is not enough to know it."""
    ran = train(*arguments, f"{key}={tmp_path / 'out'}", small=False)
    assert (ran.status, ran.err) == (1, f"ERROR: {key}={tmp_path / 'out'}: {message}\n")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "key", ["hydra.run.dir", "hydra.sweep.dir", "ckpt_path", "teacher", "root", "runs", *DATA_PATHS]
)
def test_a_path_without_a_value_is_not_the_current_folder(key):
    for empty in ("", "''", '" "'):
        with pytest.raises(UserError, match=rf"^{key}=: has no value \(is a shell variable unset\?\)"):
            complete_overrides(["seed=1", f"{key}={empty}"])


def test_a_folder_is_enough_to_train_on_and_is_recorded_whole(train, two_colors, monkeypatch, tmp_path):
    (tmp_path / "images").symlink_to(two_colors)
    monkeypatch.chdir(tmp_path)
    small = (
        "model=simple_cnn",
        "model.image_size=16",
        "trainer=cpu",
        "stages=[cost]",
        f"datamodule.cache={tmp_path}/cache",
    )
    ran = train("+datamodule.root=images", *small, small=False)
    assert ran.status == 0, ran.err
    assert "datamodule=image_folder, since datamodule.root is given" in (ran.folder / "train.log").read_text()
    assert (ran.record.data.root, ran.record.data.classes) == (str(tmp_path / "images"), ["blue", "red"])
    assert ran.record.run.settings["datamodule.root"] == str(tmp_path / "images")
    sweep = tmp_path / "sweep"
    ran = train(
        "-m", "datamodule.root=images", "datamodule.batch_size=4,8", *small, f"hydra.sweep.dir={sweep}", small=False
    )
    assert ran.status == 0, ran.err
    assert {path.name for path in sweep.iterdir() if path.is_dir()} == {"batch_size-4", "batch_size-8"}
    refused = train("datamodule=elpv", "+datamodule.root=images", *small, to=tmp_path / "refused", small=False)
    assert refused.status == 1 and "datamodule=elpv brings its own images" in refused.err
    assert not refused.folder.exists()
