"""python search.py, with runs that are made up where it is the search that is tested, and real small ones where not."""

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

from callbacks.epoch_logger import EpochLogger
from callbacks.terminate_on_nan import TerminateOnNaN
from common.atomic_io import write_csv
from common.run_record import read_record
from engine.search import study
from evaluation.intervals import accuracy_entry
from reports.load_runs import find_records, load_runs
from tests.support.helpers import PROJECT

EPOCHS = 4
RATE = "optimizer.lr:{low:1e-5,high:1e-1,log:true}"


def made_up(accuracy, macs=lambda config: 1_000_000):
    """Stands in for train.run: the accuracy of 1,000 images follows from the settings, a quarter of it each epoch."""

    def run(config, record, callbacks=()):
        correct = round(1000 * accuracy(config))
        kept = EpochLogger()
        trainer = SimpleNamespace(callbacks=[kept], max_epochs=EPOCHS)
        record.data = {
            "name": "made_up",
            "classes": ["a", "b"],
            "select_on": "val",
            "n_val": 1000,
            "fingerprint": "d",
        }
        record.model = {"name": config.model.name, "macs": macs(config), "parameters": 10}
        for epoch in range(1, EPOCHS + 1):
            kept.rows.append({"epoch": epoch, "val/accuracy": correct / 1000 * epoch / EPOCHS, "val/loss": 1.0})
            write_csv(record.folder / "metrics.csv", ("epoch", "val/accuracy", "val/loss"), kept.rows)
            for callback in callbacks:
                callback.on_train_epoch_end(trainer, None)
        record.val = {"accuracy": accuracy_entry(correct, 1000), "loss": 1.0}
        if "test" in config.stages:
            record.test = {"accuracy": accuracy_entry(correct, 1000), "test_evaluations": 1}

    return run


def near(rate):
    """0.9 at this learning rate, a tenth less for each decade."""
    return lambda config: 0.9 - 0.1 * abs(math.log10(config.optimizer.lr / rate))


class Searched(SimpleNamespace):
    """What `python search.py` left: status, out, err, folder."""

    @property
    def trials(self):
        storage = optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(self.folder / study.JOURNAL))
        )
        return optuna.load_study(study_name=self.folder.name, storage=storage).trials

    def records(self, kind):
        return {p.parent.name: read_record(p) for p in sorted((self.folder / kind).glob("*/result.json"))}


@pytest.fixture
def search(tmp_path, in_process, monkeypatch):
    """Runs `python search.py ...` in this process; `run` stands in for train.py's, and drawing pages takes long."""
    import search as script

    def call(*overrides, run=None, name="study", pages=False):
        with monkeypatch.context() as patched:
            if not pages:
                patched.setattr("engine.search.retrain._write", lambda *_, **__: "no page")
            if run is not None:
                patched.setattr(script, "run", run)
            given = [f"hydra.run.dir={tmp_path / name}", f"name={name}", *overrides]
            return Searched(**dict(zip(("status", "out", "err"), in_process(script, *given), strict=True)),
                            folder=tmp_path / name)  # fmt: skip

    return call


@pytest.fixture
def base(two_colors, tmp_path):
    """train.py's arguments of real runs on small images."""
    return (
        f"datamodule=image_folder datamodule.root={two_colors} model.image_size=32 datamodule.batch_size=8 trainer=cpu "
        f"trainer.max_epochs=3 model=simple_cnn logger=none datamodule.cache={tmp_path / 'cache'} "
        "~callbacks.contact_sheet ~callbacks.image_logger ~callbacks.feature_maps"
    )


@pytest.fixture
def real(search, base):
    """A search over real runs."""
    return lambda *overrides, **options: search(f'base="{base}"', *overrides, **options)


def test_one_objective_finds_the_best_and_trains_it_again(search):
    ran = search(f"space={{{RATE}}}", "trials=12", run=made_up(near(1e-3)), pages=True)
    assert ran.status == 0, ran.err
    assert [t.state for t in ran.trials].count(TrialState.RUNNING) == 0 and len(ran.trials) == 12
    complete = [t for t in ran.trials if t.state == TrialState.COMPLETE]
    best = max(complete, key=lambda t: t.value)
    assert abs(math.log10(best.params["optimizer.lr"]) + 3) < 0.5
    again = ran.records("trained_again")
    assert sorted(r["run"]["seed"] for r in again.values()) == [1, 2, 3] and all(r["test"] for r in again.values())
    assert {r["run"]["settings"]["optimizer.lr"] for r in again.values()} == {
        float(f"{best.params['optimizer.lr']:.4g}")
    }
    trials = ran.records("trials")
    assert len(trials) == 12 and not any(r["test"] for r in trials.values())
    assert {r["run"]["seed"] for r in trials.values()} == {48763}
    assert (
        len(load_runs(find_records(str(ran.folder))).runs) == 15
        and not load_runs(find_records(str(ran.folder))).excluded
    )
    assert "one run, chosen among" in ran.out and "trained again with seeds 1, 2 and 3" in ran.out
    command = shlex.split(next(line for line in ran.out.splitlines() if line.startswith("    python train.py")))
    assert command == ["python", "train.py", f"optimizer.lr={best.params['optimizer.lr']:.4g}"]
    for page in (ran.folder / "report.html", ran.folder / "trials" / "report.html"):
        assert page.is_file() and f": {page}\n" in ran.out


def test_what_it_says_after_a_trial(search):
    ran = search(f"space={{{RATE}}}", "trials=2", "seeds=[1]", "pruning=null", run=made_up(near(1e-3)))
    lines = [line for line in ran.out.splitlines() if line.startswith("Trial ")]
    values = [t.value for t in ran.trials]
    assert lines[0].startswith("Trial 1 of 2: optimizer.lr=")
    first = accuracy_entry(round(values[0] * 1000), 1000)
    assert f"Trial 1 of 2: finished, val accuracy {values[0]:.4f} ({first['correct']} of 1000, 95% interval" in lines[1]
    assert "; best so far val accuracy" in lines[1] and lines[1].endswith(" left")
    assert f"best so far val accuracy {max(values):.4f} by optimizer.lr=" in lines[3] and "left" not in lines[3]


def test_the_same_command_finds_it_done_and_more_trials_go_on(search):
    once = search(f"space={{{RATE}}}", "trials=2", "seeds=[1]", run=made_up(near(1e-3)))
    before = {p: p.read_bytes() for p in once.folder.glob("*/*/result.json")}

    def never(*_, **__):
        raise AssertionError("was run again")

    ran = search(f"space={{{RATE}}}", "trials=2", "seeds=[1]", run=never)
    assert ran.status == 0 and "The study has 2 trials: 2 finished" in ran.out and "done before" in ran.out
    assert {p: p.read_bytes() for p in ran.folder.glob("*/*/result.json")} == before
    more = search(f"space={{{RATE}}}", "trials=3", "seeds=[1]", run=made_up(near(1e-3)))
    whole = search(f"space={{{RATE}}}", "trials=3", "seeds=[1]", run=made_up(near(1e-3)), name="whole")
    assert [t.params for t in more.trials] == [t.params for t in whole.trials]


def test_a_trial_behind_the_others_is_pruned_and_is_no_failure(search):
    planted = "optimizer.lr=1e-05"
    accuracy = lambda config: 0.1 if config.optimizer.lr < 2e-5 else 0.8  # noqa: E731
    space = "space={optimizer.lr:[1e-3,1e-2,1e-05]}"
    arguments = (space, "trials=30", "seeds=[1]", "pruning={startup_trials:1,warmup_epochs:2}", "seed=3")
    ran = search(*arguments, run=made_up(accuracy))
    assert ran.status == 0, ran.err
    record = ran.records("trials")[planted.replace("optimizer.", "").replace("=", "-")]
    assert record["status"] == "pruned" and record["val"] is None
    assert record["reason"].startswith("after epoch 2: val accuracy 0.0500, median of ")
    assert record["reason"].endswith("at that epoch 0.4000")
    pruned = [t for t in ran.trials if t.state == TrialState.PRUNED]
    assert [t.params["optimizer.lr"] for t in pruned] == ["1e-05"]
    assert list(pruned[0].intermediate_values) == [1, 2]  # not before two epochs, and not after
    assert "pruned, after epoch 2" in ran.out and "failed" not in ran.out and "ERROR" not in ran.out + ran.err
    assert (
        len(study.effective_trials(ran.trials)) == 3
        and "The space has 3 points, so there are no more trials" in ran.out
    )


def test_a_loss_that_is_no_number_is_the_settings_fault_and_no_failure(search):
    def run(config, record, callbacks=()):
        if config.model.keep == 4:
            trainer = SimpleNamespace(
                global_step=7, is_last_batch=True, current_epoch=0, world_size=1, is_global_zero=True,
                optimizers=[SimpleNamespace(param_groups=[{"lr": 9.0}])],
                datamodule=SimpleNamespace(catalog=SimpleNamespace(paths=["a.png"])),
            )  # fmt: skip
            batch = {"rows": torch.tensor([0])}
            TerminateOnNaN().on_train_batch_end(trainer, None, {"loss": torch.tensor(math.nan)}, batch, 0)
        made_up(lambda _: 0.7)(config, record, callbacks)

    for objectives in ("[val.accuracy]", "[val.accuracy,model.macs]"):
        ran = search(
            "space={model.keep:[3,4]}", f"objectives={objectives}", "seeds=[1]", run=run, name=f"n{len(objectives)}"
        )
        assert ran.status == 0, ran.err
        record = ran.records("trials")["keep-4"]
        assert record["status"] == "pruned" and record["reason"].startswith("the loss is nan at step 7 (epoch 1")
        assert sorted(t.state.name for t in study.effective_trials(ran.trials)) == ["COMPLETE", "PRUNED"]


def test_two_objectives_have_a_front_and_its_ends_are_trained_again(search):
    macs = {3: 300, 4: 200, 5: 500, 6: 100, 7: 50}
    accuracy = {3: 0.8, 4: 0.7, 5: 0.75, 6: 0.65, 7: 0.5}  # 5 is beaten by 3
    ran = search(
        "space={model.keep:[3,4,5,6,7]}", "trials=60", "objectives=[val.accuracy,model.macs]", "seeds=[1]", "retrain=3",
        run=made_up(lambda config: accuracy[config.model.keep], lambda config: macs[config.model.keep]),
    )  # fmt: skip
    assert ran.status == 0, ran.err
    assert {r["model"]["macs"] for r in ran.records("trials").values()} == set(macs.values())
    again = [f"keep-{keep}_seed-1" for keep in (3, 6, 7)]  # of 3, 4, 6 and 7
    assert sorted(ran.records("trained_again")) == again
    assert "front of the search has 4 members" in ran.out and "retrain=4 takes them all" in ran.out
    assert ran.out.count("python train.py model.keep=") == 3 and not any(
        t.state == TrialState.PRUNED for t in ran.trials
    )


def test_a_trial_that_fails_is_told_and_run_again_by_the_same_command(search):
    def breaks(config, record, callbacks=()):
        if config.model.keep == 4:
            raise RuntimeError("made to fail")
        made_up(lambda _: 0.7)(config, record, callbacks)

    arguments = ("space={model.keep:[3,4]}", "trials=4", "seeds=[1]")
    ran = search(*arguments, run=breaks)
    assert ran.status == 1 and "keep-4" in ran.err and "The same command runs them again" in ran.err
    assert read_record(ran.folder / "trials" / "keep-4" / "result.json")["status"] == "failed"
    assert "failed (RuntimeError('made to fail'))" in ran.out
    mended = search(*arguments, run=made_up(lambda _: 0.7))
    assert mended.status == 0 and mended.records("trials")["keep-4"]["status"] == "finished"
    assert mended.out.count("keep-3: done before") == 0


@pytest.mark.slow
def test_a_killed_trial_goes_on_and_nothing_finished_runs_twice(real, monkeypatch):
    class Killed(BaseException):
        pass

    arguments = ("space={optimizer.lr:[1e-3,3e-3,1e-2]}", "trials=3", "seeds=[1]", "seed=5")
    begun = []
    whole = EpochLogger.on_train_epoch_start

    def counting(self, trainer, pl_module):
        begun.append((os.path.basename(trainer.default_root_dir), trainer.current_epoch + 1))  # noqa: PTH119
        whole(self, trainer, pl_module)

    def killed(self, trainer, pl_module):
        counting(self, trainer, pl_module)
        if len({name for name, _ in begun}) == 2 and trainer.current_epoch == 2:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(EpochLogger, "on_train_epoch_start", killed)
        with pytest.raises(Killed):
            real(*arguments)
    first = begun.copy()
    begun.clear()
    monkeypatch.setattr(EpochLogger, "on_train_epoch_start", counting)
    ran = real(*arguments)
    assert ran.status == 0, ran.err
    stopped = first[-1][0]
    assert f"{stopped}: was stopped, goes on from checkpoints/last.ckpt" in ran.out
    assert [epoch for name, epoch in begun if name == stopped] == [3]
    finished = first[0][0]
    assert finished != stopped and finished not in {name for name, _ in begun}
    freed, again = ran.trials[1], next(t for t in ran.trials if t.user_attrs.get(study.AGAIN) == 1)
    assert freed.state == TrialState.FAIL and again.params == freed.params
    assert list(freed.intermediate_values) == [1, 2] and list(again.intermediate_values) == [1, 2, 3]
    assert len(study.effective_trials(ran.trials)) == 3
    assert all(r["status"] in ("finished", "pruned") for r in ran.records("trials").values())
    assert (ran.folder / "trials" / stopped / ".hydra" / "config.yaml").is_file()
    assert "goes on from" in (ran.folder / "trials" / stopped / "train.log").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["space={}"], "space: nothing to search"),
        (["space={optimizer.lrr:[1,2]}"], "space: optimizer.lrr: no such key in optimizer; did you mean lr"),
        (["space={optimizer:[adm]}"], "space: optimizer=adm: no such choice; did you mean adam"),
        (["space={optimizer.lr:{low:2,high:1}}"], "low is above high"),
        (["space={optimizer.lr:{low:0,high:1.0,log:true}}"], "with log, low has to be above 0"),
        (["objectives=[val.accurac]"], "objectives=val.accurac: no such objective; did you mean val.accuracy"),
        (["objectives=[test.accuracy]"], "the test split stays closed"),
        (["trials=0"], "trials=0: use 1 or more"),
        (["trials=many"], "trials='many': expected int"),
        (["name=a/b"], "name=a/b: use letters"),
        (["seeds=[]"], "seeds=[]: give at least one"),
        (["seeds=[1,1]"], "none twice"),
        (["pruning={startup_trials:-1}"], "pruning={'startup_trials': -1"),
        (["+trails=3"], "trails: no such key; did you mean trials"),
        (["trails=3"], "did you mean trials"),
        (["base=optimizer.lr=0.1"], "cannot read the argument"),
        (["'base=\"model=rsnet18\"'"], "rsnet18"),
        (["storage=postgresql+psycopg://me:secret@127.0.0.1/x"], "PGPASSWORD"),
        (["space={model.keep:[3]}", "storage=postgresql+psycopg://me@127.0.0.1:9/x"], "127.0.0.1:9/x: cannot be reached"),
        (["space={model.keep:[3]}", "storage=nonsense"], "storage=nonsense: not a URL"),
        (["-m"], "search.py does not sweep"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(search, arguments, words):
    ran = search(*(argument.strip("'") for argument in arguments), run=made_up(near(1e-3)))
    assert ran.status == 1 and words in ran.err, ran.err
    assert ran.err.startswith("ERROR: ") and len(ran.err.splitlines()) == 1 and "Traceback" not in ran.out
    assert "secret" not in ran.err and not (ran.folder / "trials").exists()


def test_a_study_of_the_same_name_and_another_space(search):
    search("space={model.keep:[3,4]}", "trials=1", "seeds=[1]", run=made_up(lambda _: 0.7))
    ran = search("space={model.keep:[3,4,5]}", "trials=2", run=made_up(lambda _: 0.7))
    assert (
        ran.status == 1
        and "space model.keep=[3,4,5] for [3,4]" in ran.err
        and "name=OTHER" in ran.err
        and len(ran.err.splitlines()) == 1
    )


def test_without_optuna(search, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ran = search()
    assert ran.status == 1 and 'pip install -e ".[search]"' in ran.err and len(ran.err.splitlines()) == 1


def test_a_folder_that_cannot_be_written(search, tmp_path):
    (tmp_path / "file").write_text("")
    ran = search(f"hydra.run.dir={tmp_path / 'file' / 'study'}")
    assert ran.status == 1 and "a part of this path is a file" in ran.err and len(ran.err.splitlines()) == 1


@pytest.mark.slow
def test_two_processes_share_a_search_and_a_killed_one_is_taken_up(base, tmp_path):
    command = [
        sys.executable, str(PROJECT / "search.py"), f"hydra.run.dir={tmp_path / 'shared'}", "name=shared", "trials=8",
        f'base="{base}"', f"space={{{RATE}}}", "seeds=[1]",
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
    trials = study.effective_trials(ran.trials)
    assert len(trials) == 8 and all(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in trials)
    names = [t.user_attrs[study.FOLDER] for t in trials]
    assert sorted(names) == sorted(ran.records("trials")) and len(set(names)) == 8
    logs = {name: (folder / "trials" / name / "train.log").read_text() for name in names}
    assert all(text.count("epoch 1/3") == 1 for text in logs.values())  # no folder was run twice
    assert sum("goes on from" in text or "begins anew" in text for text in logs.values()) <= 1
    assert (folder / "report.html").is_file() and sum("Best settings, trained again" in out for out in outputs) >= 1
