"""python search.py, with fake runs where the search itself is tested, and real small ones where not."""

import copy
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import optuna
import pytest
import torch
from optuna.trial import TrialState
from sqlalchemy.pool import NullPool

from callbacks.epoch_logger import EpochLogger
from callbacks.terminate_on_nan import TerminateOnNaN
from common.errors import StopRequested
from common.run_record import DataInfo, ModelInfo, RunRecord, SplitMetrics
from engine.search import study
from engine.search.space import compose_train_config
from evaluation.intervals import proportion
from reports.load_runs import find_records, load_runs
from tests.support.helpers import NOT_DRAWN, PROJECT, Killed

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")  # of heartbeats and retries

EPOCHS = 4
COMPOSED = {}
RATE = "optimizer.lr:{low:1e-5,high:1e-1,log:true}"


def fake_run(accuracy, macs=lambda config: 1_000_000):
    """Replace train.run: the accuracy of 1,000 images depends on the settings, a quarter of it each epoch."""

    def run(config, record, callbacks=()):
        correct = round(1000 * accuracy(config))
        epoch_logger = EpochLogger()
        trainer = SimpleNamespace(callbacks=[epoch_logger], max_epochs=EPOCHS)
        record.data = DataInfo(name="made_up", classes=["a", "b"], select_on="val", n_val=1000, fingerprint="d")
        record.model = ModelInfo(name=config.model.name, macs=macs(config), parameters=10)
        for epoch in range(1, EPOCHS + 1):
            row = {"epoch": epoch, "train/loss": 1.0, "train/accuracy": 0.5, "val/loss": 1.0, "lr": 0.1}
            epoch_logger.rows.append({**row, "val/accuracy": correct / 1000 * epoch / EPOCHS})
            record.folder.write_metrics(epoch_logger.rows)
            for callback in callbacks:
                callback.on_train_epoch_end(trainer, None)
        record.val = SplitMetrics(accuracy=proportion(correct, 1000), loss=1.0)
        if "test" in config.stages:
            record.test = SplitMetrics(accuracy=proportion(correct, 1000), test_evaluations=1)

    return run


def near(rate):
    """0.9 at this learning rate, a tenth less for each decade."""
    return lambda config: 0.9 - 0.1 * abs(math.log10(config.optimizer.lr / rate))


def storage_of(folder, **options):
    """Open the database of a search, as another process would, with connections that close after each use."""
    return optuna.storages.RDBStorage(
        f"sqlite:///{folder / study.DATABASE}", engine_kwargs={"poolclass": NullPool}, **options
    )


class Searched(SimpleNamespace):
    """What `python search.py` left: status, out, err, folder."""

    @property
    def trials(self):
        return optuna.load_study(study_name=self.folder.name, storage=storage_of(self.folder)).trials

    def records(self, kind):
        return {path.parent.name: RunRecord.read(path) for path in sorted((self.folder / kind).glob("*/result.json"))}


def compose_once(overrides):
    """Compose each configuration once for all tests."""
    key = tuple(overrides)
    if key not in COMPOSED:
        COMPOSED[key] = compose_train_config(overrides)
    return copy.deepcopy(COMPOSED[key])


@pytest.fixture
def search(tmp_path, in_process, monkeypatch):
    """Run `python search.py ...` in this process; `run` replaces that of train.py, and pages are drawn where `pages`."""
    import search as script

    monkeypatch.setattr(study, "HEARTBEAT_S", 1)
    monkeypatch.setattr(study, "GRACE_S", 1)

    def call(*overrides, run=None, name="study", pages=False):
        with monkeypatch.context() as patched:
            if not pages:
                patched.setattr("engine.search.retrain._write_page", lambda *_, **__: "no page")
            if run is not None:
                patched.setattr(script, "run", run)
                patched.setattr("gc.collect", lambda: 0)  # most of the time of a fake run
                for place in ("engine.search.space", "engine.search.trial"):
                    patched.setattr(f"{place}.compose_train_config", compose_once)
            arguments = [f"hydra.run.dir={tmp_path / name}", f"name={name}", *overrides]
            status, out, err = in_process(script, *arguments)
            return Searched(status=status, out=out, err=err, folder=tmp_path / name)

    return call


@pytest.fixture
def base_overrides(two_colors, tmp_path):
    """Arguments of train.py for real runs on small images."""
    return " ".join([
        f"datamodule=image_folder datamodule.root={two_colors} model.image_size=32 datamodule.batch_size=8 trainer=cpu",
        f"trainer.max_epochs=3 model=simple_cnn logger=none datamodule.cache={tmp_path / 'cache'}", *NOT_DRAWN,
    ])  # fmt: skip


def test_one_objective_finds_the_best_and_retrains_it(search):
    ran = search(f"space={{{RATE}}}", "n_trials=4", "seeds=[1,2]", run=fake_run(near(1e-3)), pages=True)
    assert ran.status == 0, ran.err
    assert len(ran.trials) == 4 and {t.state.name for t in ran.trials} <= {"COMPLETE", "PRUNED"}
    best = max((t for t in ran.trials if t.state == TrialState.COMPLETE), key=lambda t: t.value)
    rate = f"{best.params['optimizer.lr']:.4g}"
    retrained, trials = ran.records("retrained").values(), ran.records("trials").values()
    assert sorted(r.run.seed for r in retrained) == [1, 2] and all(r.test for r in retrained)
    assert {r.run.settings["optimizer.lr"] for r in retrained} == {float(rate)}
    assert len(trials) == 4 and not any(r.test for r in trials) and {r.run.seed for r in trials} == {48763}
    loaded = load_runs(find_records(str(ran.folder)))
    assert len(loaded.runs) == 6 and not loaded.excluded
    assert "one run, selected among" in ran.out and "retrained with seeds 1 and 2" in ran.out
    commands = [shlex.split(line) for line in ran.out.splitlines() if line.startswith("    python ")]
    checkpoints = [ran.folder / "retrained" / f"lr-{rate}_seed-{seed}" / "checkpoints" / "best.ckpt" for seed in (1, 2)]
    assert commands == [
        ["python", "train.py", f"optimizer.lr={rate}"], ["python", "predict.py", f"ckpt={checkpoints[0]}", "images=DIR"],
        ["python", "export.py", f"ckpt={checkpoints[0]}"], ["python", "smallest.py"],
    ]  # fmt: skip
    assert all(f"        trained: {path}\n" in ran.out for path in checkpoints)
    for page in (ran.folder / "report.html", ran.folder / "trials" / "report.html"):
        assert page.is_file() and f": {page}\n" in ran.out


def test_the_screen_after_a_trial(search):
    ran = search(f"space={{{RATE}}}", "n_trials=2", "seeds=[1]", "pruning=null", run=fake_run(near(1e-3)))
    lines = [line for line in ran.out.splitlines() if line.startswith("Trial ")]
    values = [t.value for t in ran.trials]
    assert lines[0].startswith("Trial 1 of 2: optimizer.lr=")
    correct = round(values[0] * 1000)
    assert f"Trial 1 of 2: finished, val accuracy {values[0]:.4f} ({correct} of 1,000, 95% interval" in lines[1]
    assert "; best so far val accuracy" in lines[1] and lines[1].endswith(" left")
    assert f"best so far val accuracy {max(values):.4f} by optimizer.lr=" in lines[3] and "left" not in lines[3]


@pytest.mark.thorough
def test_the_same_command_skips_what_is_finished_even_without_its_database(search):
    arguments = ("space={model.keep:[3,4,5]}", "seeds=[1]")
    accuracy = fake_run(lambda config: config.model.keep / 10)
    once = search(*arguments, "n_trials=2", run=accuracy)
    once_trials = once.trials
    before = {path: path.read_bytes() for path in once.folder.glob("*/*/result.json")}

    def never(*_, **__):
        raise AssertionError("was run again")

    ran = search(*arguments, "n_trials=2", run=never)
    assert ran.status == 0 and "The study has 2 trials: 2 finished" in ran.out and "already finished" in ran.out
    (once.folder / study.DATABASE).unlink()
    ran = search(*arguments, "n_trials=2", run=never)
    assert ran.status == 0 and [t.value for t in ran.trials] == [t.value for t in once_trials]
    assert {path: path.read_bytes() for path in ran.folder.glob("*/*/result.json")} == before
    more = search(*arguments, run=accuracy)
    assert [t.params for t in more.trials[:2]] == [t.params for t in once_trials] and len(more.trials) == 3


@pytest.mark.thorough
def test_a_trial_behind_the_others_is_pruned_and_is_no_failure(search):
    ran = search(
        "space={optimizer.lr:[1e-3,1e-2,1e-05]}", "n_trials=30", "seeds=[1]", "seed=3",
        "pruning={n_startup_trials:1,n_warmup_epochs:2}",
        run=fake_run(lambda config: 0.1 if config.optimizer.lr < 2e-5 else 0.8),
    )  # fmt: skip
    assert ran.status == 0, ran.err
    record = ran.records("trials")["lr-1e-05"]
    assert record.status == "pruned" and record.val is None
    assert record.reason.startswith("after epoch 2: val accuracy 0.0500, median of ")
    assert record.reason.endswith("at that epoch 0.4000")
    pruned = [t for t in ran.trials if t.state == TrialState.PRUNED]
    assert [t.params["optimizer.lr"] for t in pruned] == ["1e-05"]
    assert list(pruned[0].intermediate_values) == [1, 2]  # not before two epochs, and not after
    assert "pruned, after epoch 2" in ran.out and "failed" not in ran.out and "ERROR" not in ran.out + ran.err
    assert len(ran.trials) == 3 and "The space has only 3 points, so there are no more trials" in ran.out


@pytest.mark.thorough
def test_a_nan_loss_prunes_the_trial_and_is_no_failure(search):
    def run(config, record, callbacks=()):
        if config.model.keep == 4:
            trainer = SimpleNamespace(
                global_step=6, is_last_batch=True, current_epoch=0, world_size=1, is_global_zero=True,
                default_root_dir="nowhere",
                optimizers=[SimpleNamespace(param_groups=[{"lr": 9.0}])],
                datamodule=SimpleNamespace(catalog=SimpleNamespace(paths=["a.png"])),
            )  # fmt: skip
            batch, check = {"rows": torch.tensor([0])}, TerminateOnNaN()
            check.on_train_batch_start(trainer, None, batch, 0)
            trainer.global_step = 7
            check.on_train_batch_end(trainer, None, {"loss": torch.tensor(math.nan)}, batch, 0)
        fake_run(lambda _: 0.7)(config, record, callbacks)

    ran = search("space={model.keep:[3,4]}", "objectives=[val.accuracy,model.macs]", "seeds=[1]", run=run)
    assert ran.status == 0, ran.err
    record = ran.records("trials")["keep-4"]
    assert record.status == "pruned" and record.reason.startswith("the loss is NaN at step 7 (epoch 1")
    assert sorted(t.state.name for t in ran.trials) == ["COMPLETE", "PRUNED"]


@pytest.mark.thorough
def test_two_objectives_have_a_front_and_its_ends_are_retrained(search):
    macs = {2: 300, 3: 200, 4: 500, 5: 100, 6: 50}
    accuracy = {2: 0.8, 3: 0.7, 4: 0.75, 5: 0.65, 6: 0.5}  # 4 is worse than 2 in both
    ran = search(
        "space={model.keep:[2,3,4,5,6]}", "n_trials=60", "objectives=[val.accuracy,model.macs]", "seeds=[1]", "n_retrain=2",
        run=fake_run(lambda config: accuracy[config.model.keep], lambda config: macs[config.model.keep]),
    )  # fmt: skip
    assert ran.status == 0, ran.err
    assert {r.model.macs for r in ran.records("trials").values()} == set(macs.values())
    assert sorted(ran.records("retrained")) == [f"keep-{keep}_seed-1" for keep in (2, 6)]  # of 2, 3, 5 and 6
    assert "front of the search has 4 members" in ran.out and "n_retrain=4 retrains all of them" in ran.out
    assert ran.out.count("python train.py model.keep=") == 2
    assert [t.state for t in ran.trials] == [TrialState.COMPLETE] * 5


def test_a_trial_that_fails_is_shown_and_retried_by_the_same_command(search):
    def breaks(config, record, callbacks=()):
        runs.append(config.model.keep)
        if config.model.keep == 4:
            raise RuntimeError("made to fail")
        fake_run(lambda _: 0.7)(config, record, callbacks)

    arguments = ("space={model.keep:[3,4]}", "n_trials=4", "seeds=[1]")
    runs = []
    ran = search(*arguments, run=breaks)
    assert ran.status == 1 and "keep-4" in ran.err and "Rerun the same command" in ran.err
    assert sorted(runs) == [3, 3, 4]  # 3 once more with its seed
    assert ran.records("trials")["keep-4"].status == "failed" and ran.records("retrained")["keep-3_seed-1"].test
    assert "failed (RuntimeError('made to fail'))" in ran.out
    mended = search(*arguments, run=fake_run(lambda _: 0.7))
    assert mended.status == 0 and mended.records("trials")["keep-4"].status == "finished"
    assert "1 finished, 0 pruned, 0 running, 1 to retry" in mended.out
    assert next(line for line in mended.out.splitlines() if line.startswith("Trial ")).endswith(": model.keep=4")


def test_a_metric_that_is_not_measured_fails_the_trial(search):
    arguments = ("space={model.keep:[3]}", "objectives=[val.auroc]")
    ran = search(*arguments, run=fake_run(lambda _: 0.7))
    assert "failed (objectives: val.auroc is not a number in the record (None))" in ran.out
    assert "no trial finished, so there is nothing to retrain" in ran.out


def test_a_signal_ends_the_search_and_the_same_command_retries_the_trial(search):
    def stopped(config, record, callbacks=()):
        raise StopRequested(signal.SIGTERM)

    arguments = ("space={model.keep:[3,4]}", "n_trials=4", "seeds=[1]")
    ran = search(*arguments, run=stopped)
    assert ran.status == 128 + signal.SIGTERM and "stopped by SIGTERM. Resume with: python search.py" in ran.err
    assert [t.state.name for t in ran.trials] == ["FAIL", "WAITING"]
    resumed = search(*arguments, run=fake_run(lambda _: 0.7))
    assert resumed.status == 0 and [t.state.name for t in resumed.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert resumed.trials[1].params == resumed.trials[0].params
    assert "Trial 1 of 2: finished" in resumed.out


@pytest.mark.slow
def test_the_last_process_retrains_and_a_killed_one_is_replaced(search, tmp_path):
    """Another process has a trial: first it lives, then it is killed."""
    arguments = ("space={model.keep:[3,4]}", "n_trials=4", "seeds=[1]")
    other = {}

    def killed(config, record, callbacks=()):
        raise Killed

    with pytest.raises(Killed):
        search(*arguments, run=killed)
    living = storage_of(tmp_path / "study", heartbeat_interval=1, grace_period=1)
    number = optuna.load_study(study_name="study", storage=living).trials[0]._trial_id
    with optuna.storages._heartbeat.get_heartbeat_thread(number, living):
        time.sleep(1.5)
        other = search(*arguments, run=fake_run(lambda _: 0.7))
    assert other.status == 0 and not other.records("retrained"), other.err
    assert "1 trial is still running in another process; the process that finishes last retrains the best" in other.out
    assert sorted(t.state.name for t in other.trials) == ["COMPLETE", "RUNNING"]
    last = search(*arguments, run=fake_run(lambda _: 0.7))
    assert last.status == 0 and sorted(t.state.name for t in last.trials) == ["COMPLETE", "COMPLETE", "FAIL"]
    assert len(last.records("trials")) == 2 and len(last.records("retrained")) == 1


@pytest.mark.thorough
def test_a_trial_that_another_process_takes_over_still_counts(search):
    """The heartbeats of a process had stopped, as those of a computer that slept."""

    def run(config, record, callbacks=()):
        if not taken_over:
            taken_over.append(True)
            storage = storage_of(record.folder.path.parent.parent)
            optuna.load_study(study_name="study", storage=storage).tell(0, state=TrialState.FAIL)
        runs.append(config.model.keep)
        fake_run(lambda _: 0.7)(config, record, callbacks)

    taken_over, runs = [], []
    ran = search("space={model.keep:[3,4]}", "seeds=[1]", run=run)
    assert ran.status == 0, ran.err
    assert len(runs) == 3 and sorted(t.state.name for t in ran.trials) == ["COMPLETE", "COMPLETE", "FAIL"]
    assert "its heartbeats had stopped" in ran.out


@pytest.mark.slow
def test_a_killed_trial_resumes_and_nothing_finished_runs_twice(search, base_overrides, monkeypatch):
    arguments = (
        f'base_overrides="{base_overrides}"', "space={optimizer.lr:[1e-3,3e-3,1e-2]}", "n_trials=3", "seeds=[1]", "seed=5",
    )  # fmt: skip
    epochs = []
    on_train_epoch_start = EpochLogger.on_train_epoch_start

    def counting(self, trainer, pl_module):
        epochs.append((os.path.basename(trainer.default_root_dir), trainer.current_epoch + 1))  # noqa: PTH119
        on_train_epoch_start(self, trainer, pl_module)

    def killed(self, trainer, pl_module):
        counting(self, trainer, pl_module)
        if len({name for name, _ in epochs}) == 2 and trainer.current_epoch == 2:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(EpochLogger, "on_train_epoch_start", killed)
        with pytest.raises(Killed):
            search(*arguments)
    first = epochs.copy()
    epochs.clear()
    monkeypatch.setattr(EpochLogger, "on_train_epoch_start", counting)
    ran = search(*arguments)
    assert ran.status == 0, ran.err
    finished, interrupted = first[0][0], first[-1][0]
    assert f"{interrupted}: interrupted; resuming from checkpoints/last.ckpt" in ran.out
    assert [epoch for name, epoch in epochs if name == interrupted] == [3]
    assert finished != interrupted and finished not in {name for name, _ in epochs}
    failed = next(t for t in ran.trials if t.state == TrialState.FAIL)
    retried = next(t for t in ran.trials if t.number > failed.number and t.params == failed.params)
    assert list(failed.intermediate_values) == [1, 2] and list(retried.intermediate_values) == [1, 2, 3]
    assert len(ran.trials) == 4 and len(ran.records("trials")) == 3
    assert all(r.status in ("finished", "pruned") for r in ran.records("trials").values())
    folder = ran.folder / "trials" / interrupted
    assert (folder / ".hydra" / "config.yaml").is_file() and "resuming from" in (folder / "train.log").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["space={optimizer.lrr:[1,2]}"], "space: optimizer.lrr: no such key in optimizer; did you mean lr"),
        (["n_trials=" + "9" * 400], "n_trials: its whole number has more than 64 bits"),
        (["n_trials=0"], "n_trials=0: use 1 or more"),
        (["n_trials=many"], "n_trials=many: expected int"),
        (["seeds=3"], "seeds=3: expected [int, ...]"),
        (["storage=3"], "storage=3: expected str or null"),
        (["name=a/b"], "name=a/b: use letters"),
        (["seeds=[]"], "seeds=[]: give a list"),
        (["seeds=[1,-1]"], "seeds=[1, -1]: give a list of whole numbers from 0 to 4294967295"),
        (["seeds=[1,1]"], "list each seed once"),
        (["good_enough=0"], "good_enough=0: use a difference in accuracy above 0"),
        (["pruning={n_startup_trials:-1}"], "pruning={'n_startup_trials': -1"),
        (["+trails=3"], "trails: no such key; did you mean n_trials"),
        (["base_overrides=optimizer.lr=0.1"], "cannot read the argument"),
        (["storage=postgresql+psycopg://me:secret@127.0.0.1/x"], "PGPASSWORD"),
        (["space={model.keep:[3]}", "storage=postgresql+psycopg://me@127.0.0.1:9/x"], "127.0.0.1:9/x: not available"),
        (["-m"], "search.py does not sweep"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(search, arguments, words):
    ran = search(*arguments, run=fake_run(near(1e-3)))
    assert ran.status == 1 and words in ran.err, ran.err
    assert ran.err.startswith("ERROR: ") and len(ran.err.splitlines()) == 1 and "Traceback" not in ran.out
    assert "secret" not in ran.err and not (ran.folder / "trials").exists()


def test_an_experiment_of_the_user_s_own_chooses_its_data_source_as_in_train_py(search, tmp_path):
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    text = "# @package _global_\ndefaults:\n  - override /datamodule: elpv\n"
    (tmp_path / "conf" / "experiment" / "cells.yaml").write_text(text)
    ran = search(f"--config-dir={tmp_path / 'conf'}", "base_overrides='experiment=cells datamodule.root=/images'")
    assert ran.status == 1 and "datamodule.root=/images: datamodule=elpv brings its own images" in ran.err, ran.err


@pytest.mark.thorough
def test_a_refused_search_leaves_no_log_of_the_data_that_it_took_or_of_its_warnings(search, two_colors):
    data, twice = f"datamodule.root={two_colors}", ["n_startup_trials=2", "n_startup_trials=3"]
    ran = search(f"base_overrides='{data} optimizer.lr=0.1'", f"space={{{RATE}}}", *twice, run=fake_run(near(1e-3)))
    assert ran.status == 1 and "optimizer.lr is in base_overrides and in space" in ran.err and not ran.folder.exists()
    assert "n_startup_trials=2: overridden by" in ran.out
    arguments = [f"base_overrides='{data}'", "n_trials=1", "seeds=[1]"]
    ran = search("space={model.keep:[3,4]}", *arguments, run=fake_run(lambda _: 0.7))
    assert ran.status == 0 and "datamodule=image_folder, since datamodule.root is given" in ran.out, ran.err
    before = (ran.folder / "search.log").read_bytes()
    assert search("space={model.keep:[3,4,5]}", *arguments, *twice, run=fake_run(lambda _: 0.7)).status == 1
    assert b"since datamodule.root is given" in before and (ran.folder / "search.log").read_bytes() == before


def test_without_optuna(search, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ran = search()
    assert ran.status == 1 and len(ran.err.splitlines()) == 1
    assert 'search.py: optuna is not installed; install it with pip install -e ".[search]"' in ran.err


def test_a_folder_that_cannot_be_written(search, tmp_path):
    (tmp_path / "file").write_text("")
    ran = search(f"hydra.run.dir={tmp_path / 'file' / 'study'}")
    assert ran.status == 1 and "a part of this path is a file" in ran.err and len(ran.err.splitlines()) == 1


@pytest.mark.slow
def test_two_processes_share_a_search_and_a_killed_one_is_retried(base_overrides, tmp_path):
    command = [
        sys.executable, str(PROJECT / "search.py"), f"hydra.run.dir={tmp_path / 'shared'}", "name=shared", "n_trials=8",
        f'base_overrides="{base_overrides}"', f"space={{{RATE}}}", "seeds=[1]",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    folder = tmp_path / "shared"

    def start():
        return subprocess.Popen(
            command, env=environment, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    first, second = start(), start()
    while not list(folder.glob("trials/*/checkpoints/last.ckpt")):
        time.sleep(0.1)
        assert first.poll() is None or second.poll() is None
    first.send_signal(signal.SIGKILL)
    first.communicate()
    third = start()
    outputs = [process.communicate(timeout=200)[0] for process in (second, third)]
    assert (second.returncode, third.returncode) == (0, 0), outputs
    ran = Searched(folder=folder)
    ended = [t for t in ran.trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(ended) == 8 and [t.state for t in ran.trials if t not in ended] == [TrialState.FAIL]  # of the killed one
    logs = {name: (folder / "trials" / name / "train.log").read_text() for name in ran.records("trials")}
    assert len(logs) == 8
    assert all(text.count("epoch 1/3") == 1 for text in logs.values())  # no folder was run twice
    assert sum("resuming from" in text or "restarting" in text for text in logs.values()) <= 1
    assert (folder / "report.html").is_file() and sum("Best settings, retrained" in out for out in outputs) >= 1
