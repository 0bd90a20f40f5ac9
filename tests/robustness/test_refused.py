"""A command that is refused changes nothing on disk; a run that has trained is not lost to one that fails."""

import contextlib
import os
import shutil
import signal
from pathlib import Path

import pytest

from common.errors import StopRequested, UserError
from common.run_folder import RunFolder
from common.run_record import RunRecord
from engine import cli
from tests.support.commands import kill_before_training
from tests.support.helpers import SIMPLE_CNN, at_step, content, make_images


def fails(error):
    def fail(*_, **__):
        raise error

    return fail


LONGER = "trainer.max_epochs=5"


@pytest.mark.parametrize(("more", "message"), [
    ([], "has finished 2 of trainer.max_epochs=2 epochs; to train longer: trainer.max_epochs=12"),
    ([LONGER, "optimizer.lr=-1"], "optimizer"),
    ([LONGER, "optimizer=sgd"], "has the state of torch.optim.Adam, which another optimizer cannot"),
    ([LONGER, "recipe=fast"], "recipe=fast with ckpt_path: a resumed run keeps its settings"),
    ([LONGER, "model.keep=3"], "keep"),
    ([LONGER, "trainer=ddp", "trainer.devices=0"], "trainer.devices=0: use 1 or more, or -1 for all GPUs"),
    (["stages=[test]", "datamodule.root=/nowhere"], "datamodule.root=/nowhere: no such folder"),
    *(pytest.param(*case, marks=pytest.mark.thorough) for case in (
        ([LONGER, "datamodule.root=/nowhere"], "datamodule.root=/nowhere: no such folder"),
        ([LONGER, "model.image_size=0"], "model.image_size=0: use 1 or more"),
        ([LONGER, "datamodule.batch_size=none"], "datamodule.batch_size=none: expected int"),
        ([LONGER, "teacher=/nowhere.ckpt"], "teacher=/nowhere.ckpt: no such checkpoint"),
        (["stages=[test]", "model.image_size=48"], "was trained with model.image_size=32, not 48"),
        (["stages=[test]", "model=simple_cnn", "model.image_size=32"], "belongs to another model: its network: "),
        (["stages=[test]", "debug=limit"], "debug=limit: a debug run, whose results would replace those of the run"),
    )),
])  # fmt: skip
def test_a_refused_command_leaves_a_finished_run_to_the_byte(train, made, more, message):
    before = content(made.path)
    checkpoint = made.best_checkpoint if "stages=[test]" in more else made.last_checkpoint
    ran = train(f"ckpt_path={checkpoint}", f"hydra.run.dir={made.path}", *more, small=False, to=made.path)
    assert ran.status == 1 and ran.err.startswith("ERROR: ") and message in ran.err, ran.err
    assert content(made.path) == before


@pytest.mark.parametrize("more", [
    ["seed=7"],
    [],
    pytest.param(["optimizer.lr=-1"], marks=pytest.mark.thorough),
    pytest.param(["datamodule.root=/nowhere"], marks=pytest.mark.thorough),
])  # fmt: skip
def test_nor_is_it_lost_where_its_folder_is_named(train, made, more):
    before = content(made.path)
    ran = train(*more, f"hydra.run.dir={made.path}", to=made.path)
    assert ran.status == 1 and "holds a finished run" in ran.err
    other = train(f"ckpt_path={made.last_checkpoint}", f"hydra.run.dir={made.path.with_name('new')}", small=False)
    assert other.status == 1 and not made.path.with_name("new").exists()
    assert content(made.path) == before


@pytest.mark.parametrize("where", [
    "datamodules.image_datamodule.ImageDataModule.setup",  # while images are read
    pytest.param("engine.run.stages.fit", marks=pytest.mark.thorough),
    pytest.param("lightning_modules.image_classifier.ImageClassifier.training_step", marks=pytest.mark.thorough),
])  # fmt: skip
@pytest.mark.parametrize("error", [KeyError("a defect"), StopRequested(signal.SIGTERM)])
def test_nor_by_what_ends_a_longer_training_before_its_first_step(train, made, monkeypatch, where, error):
    before = content(made.path)
    monkeypatch.setattr(where, fails(error))
    with pytest.raises(KeyError) if isinstance(error, KeyError) else contextlib.nullcontext():
        train(f"ckpt_path={made.last_checkpoint}", LONGER, small=False, to=made.path)
    assert content(made.path) == before


def test_a_new_folder_is_left_by_none(train, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "OUTPUTS", tmp_path / "outputs")
    cli.new_run_dir.cache_clear()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for folder in ("a/b/run", "mine"):
        ran = train("optimizer.lr=-1", f"hydra.run.dir={tmp_path / folder}")
        assert ran.status == 1 and not (tmp_path / "a").exists()
    assert content(tmp_path / "mine") == {"notes.txt": b"mine"}
    empty = tmp_path / "empty"
    empty.mkdir()
    ran = train("hydra.run.dir=${new_run_dir:${model.name}}", root=empty)
    cli.new_run_dir.cache_clear()
    assert ran.status == 1 and not (tmp_path / "outputs").exists()


@pytest.mark.thorough
def test_a_run_among_the_images_is_refused(train, two_colors, tmp_path):
    """With splits a folder beside them is no class; without, any folder is."""
    with_splits = Path(shutil.copytree(two_colors, tmp_path / "with"))
    without = Path(shutil.copytree(two_colors / "train", tmp_path / "without"))
    for folder, root in ((with_splits / "train" / "run", with_splits), (without / "run", without), (without, without)):
        before = content(root)
        ran = train(f"hydra.run.dir={folder}", root=root, to=folder)
        assert ran.status == 1 and f"hydra.run.dir={folder}: lies among the images of datamodule.root={root}" in ran.err
        assert content(root) == before and not (root / "run").exists()
    beside = train(f"hydra.run.dir={with_splits / 'runs' / 'a'}", root=with_splits)
    assert beside.status == 0, beside.err
    again = train(root=with_splits)
    assert again.status == 0, again.err


@pytest.mark.parametrize(("arguments", "message"), [
    (["datamodule.folds=3"],
     "the number of the fold that is val: add datamodule.fold=0 (up to 2), or for all of them -m 'datamodule.fold=range(0,3)'"),
    (["datamodule.splits=/nowhere.csv"], "datamodule.splits=/nowhere.csv: /nowhere.csv: no such file; "),
    (["datamodule.folds=1", "datamodule.fold=0"], "datamodule.folds=1: use 2 or more, up to the number of images"),
])  # fmt: skip
def test_impossible_folds_and_splits_are_refused_before_an_image_is_read(train, tmp_path, arguments, message):
    ran = train(*arguments, f"datamodule.cache={tmp_path / 'cache'}")
    assert ran.status == 1 and message in ran.err and len(ran.err.splitlines()) == 1
    assert not (tmp_path / "cache").exists() and not ran.folder.exists()


@pytest.mark.parametrize(("arguments", "message"), [
    (["optimizer=adam,nope"], "optimizer=nope: no such choice; allowed: adagrad, adam, "),
    (["optimizer.nope=1,2"], "optimizer.nope: no such key in optimizer; "),
    (["seed=1,2", "hydra.sweep.subdir=job"], "hydra.sweep.subdir=job: is the same folder for all jobs"),
    (["optimizer.lr=1e-3,abc"], "optimizer.lr=abc: expected float"),
    (["optimizer.lr=interval(1,2)"], "an interval has no values to run"),
])  # fmt: skip
def test_a_refused_sweep_leaves_no_folder(train, tmp_path, arguments, message):
    folder = tmp_path / "sweeps" / "mine"
    ran = train("-m", *arguments, f"hydra.sweep.dir={folder}", to=folder)
    assert ran.status == 1 and ran.err.startswith("ERROR: ") and message in ran.err and len(ran.err.splitlines()) == 1
    assert not folder.parent.exists()


@pytest.mark.thorough
def test_evaluated_again_in_its_own_folder_a_run_keeps_what_it_was_trained_with(train, made, tmp_path):
    before, config = made_record(made), content(made.hydra)
    weights = content(made.checkpoints)
    command = ("stages=[test]", f"ckpt_path={made.best_checkpoint}", f"hydra.run.dir={made.path}")
    for n in (2, 3):
        ran = train(*command, "datamodule.batch_size=4", small=False, to=made.path)
        assert ran.status == 0, ran.err
        now = made_record(made)
        assert now.test.test_evaluations == n and now.test.accuracy == before.test.accuracy
        for part in ("best", "model", "throughput", "decision", "status"):
            assert getattr(now, part) == getattr(before, part), part
        assert vars(now.run) | {"warnings": []} == vars(before.run) | {"warnings": []}
        assert content(made.hydra) == config and content(made.checkpoints) == weights
    other = make_images(tmp_path / "other", {f"{s}/{c}": 6 for s in ("train", "val", "test") for c in ("blue", "red")})
    ran = train(*command, f"datamodule.root={other}", small=False, to=made.path)
    assert ran.status == 1 and "its val and test images are not those of the run; " in ran.err, ran.err
    assert made_record(made).test.test_evaluations == 3
    longer = train(f"ckpt_path={made.last_checkpoint}", "trainer.max_epochs=3", small=False, to=made.path)
    assert longer.status == 0 and made_record(made).test.test_evaluations == 4, longer.err


def made_record(folder: RunFolder) -> RunRecord:
    return RunRecord.read(folder)


@pytest.mark.thorough
def test_a_longer_training_that_fails_keeps_the_number_of_test_evaluations(train, made, monkeypatch):
    monkeypatch.setattr("engine.run.stages.evaluate_val", fails(UserError("val: damaged")))
    command = (f"ckpt_path={made.last_checkpoint}", "trainer.max_epochs=3")
    ran = train(*command, small=False, to=made.path)
    now = ran.record
    assert (ran.status, now.status, now.test.test_evaluations) == (1, "failed", 1)
    assert now.best is not None and now.data.n_train == 24
    monkeypatch.undo()
    again = train(*command, small=False, to=made.path)  # the same command
    assert again.status == 0 and again.record.test.test_evaluations == 2, again.err


@pytest.mark.thorough
def test_a_job_that_is_refused_when_its_sweep_runs_again(train, tmp_path):
    sweep = tmp_path / "sweep"
    command = ("-m", "seed=1,2", f"hydra.sweep.dir={sweep}", "trainer.max_epochs=1", *SIMPLE_CNN)
    assert train(*command).status == 0
    before = {name: content(sweep / name) for name in ("seed-1", "seed-2")}
    for wrong, jobs in (("optimizer.lr=-1", 0), ("datamodule.batch_size=9999", 2)):  # only the jobs see the images
        ran = train(*command, wrong)
        assert ran.status == 1 and ran.out.count("ERROR: seed-") == jobs and ("2 jobs failed" in ran.err) == bool(jobs)
        assert {name: content(sweep / name) for name in before} == before and not list(tmp_path.glob("*.replaced"))
    assert train(*command, "optimizer.lr=0.1").status == 0  # another training, beside which the first ones are kept
    kept = {folder.name.rpartition("-")[0]: content(folder) for folder in (tmp_path / "sweep.replaced").iterdir()}
    for name, files in before.items():
        assert kept[name] == {path: each for path, each in files.items() if path != "train.log"}


@pytest.mark.thorough
def test_what_a_killed_command_could_not_put_back_the_next_one_does(train, made, tmp_path):
    before = content(made.path)
    command = [f"ckpt_path={made.last_checkpoint}", "trainer.max_epochs=4"]
    kill_before_training(tmp_path, *command)
    assert made_record(made).status == "running"
    ran = train(command[0], small=False, to=made.path)  # nothing left to train
    assert ran.status == 1 and "has finished 2 of trainer.max_epochs=2" in ran.err
    after = content(made.path)
    assert {k: v for k, v in after.items() if k != "train.log"} == {k: v for k, v in before.items() if k != "train.log"}


def test_a_run_without_a_readable_record_is_kept_beside(train, made):
    weights = content(made.checkpoints)
    made.record.write_text("{")
    ran = train("trainer.max_epochs=1", f"hydra.run.dir={made.path}", *SIMPLE_CNN, to=made.path)
    assert ran.status == 0 and ran.record.status == "finished", ran.err
    assert content(made.path.with_name("made.replaced") / "unreadable" / "checkpoints") == weights


@pytest.mark.thorough
def test_an_interrupted_run_is_as_it_was_after_what_is_refused_and_resumes(train, two_colors, tmp_path, monkeypatch):
    root = Path(shutil.copytree(two_colors, tmp_path / "data"))
    command = (*SIMPLE_CNN, f"hydra.run.dir={tmp_path / 'run'}")
    with monkeypatch.context() as patched:
        at_step(patched, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert train(*command, root=root).status == 143
    folder = RunFolder(tmp_path / "run")
    (folder.checkpoints / "mine.ckpt").write_text("no checkpoint")
    before = content(folder.path)
    root.rename(tmp_path / "moved")
    last = f"ckpt_path={folder.last_checkpoint}"
    for refused, words in (
        (train(*command, root=root), "no such folder"),
        (train(*command, "seed=5", root=root), "with other settings: "),
        (train(last, small=False, to=folder.path), "no such folder"),
        (train(f"ckpt_path={folder.checkpoints / 'mine.ckpt'}", small=False), "not a checkpoint"),
        (train(last, f"datamodule.root={tmp_path / 'moved'}", "optimizer.lr=-1", small=False), "optimizer.lr=-1"),
    ):
        assert refused.status == 1 and words in refused.err, refused.err
        assert content(folder.path) == before
    (tmp_path / "moved").rename(root)
    assert train(*command, root=root).status == 0 and made_record(folder).status == "finished"


@pytest.mark.thorough
def test_a_checkpoint_is_not_evaluated_on_what_it_was_trained_on(train, tmp_path):
    """Another seed of the splits would make training images test images; the run's own splits are kept by name."""
    root = make_images(tmp_path / "data", {"blue": 20, "red": 20}, size=16)
    first = train(*SIMPLE_CNN, f"datamodule.root={root}", "trainer.max_epochs=1", to=tmp_path / "first")
    assert first.status == 0, first.err
    run = RunFolder(first.folder)
    again = (
        f"ckpt_path={run.best_checkpoint}",
        "stages=[test]",
        "datamodule.split_seed=2",
        f"hydra.run.dir={tmp_path}/again",
    )
    copied = shutil.copytree(root, tmp_path / "copied")
    copied = f"datamodule.root={copied}"
    starts = (*SIMPLE_CNN, "datamodule.split_seed=2", f"model.weights={run.path}", f"hydra.run.dir={tmp_path}/again")
    for arguments in (again, (*again, copied), (*starts, f"datamodule.root={root}"), (*starts, copied)):
        refused = train(*arguments, small=arguments[0] != again[0], to=tmp_path / "again")
        assert refused.status == 1 and not (tmp_path / "again").exists()
        assert "test images are training images of its run" in refused.err, refused.err
        assert f"datamodule.splits={run.path}" in refused.err
    in_other = (*starts[:-1], f"hydra.run.dir={tmp_path}/starts")
    assert train(*in_other, copied, f"datamodule.splits={run.path}", to=tmp_path / "starts").status == 0
    kept = train(*again, f"datamodule.splits={run.path}", small=False, to=tmp_path / "again")
    assert kept.status == 0, kept.err
    assert kept.record.test.accuracy == first.record.test.accuracy


@pytest.mark.thorough
def test_training_images_are_known_by_other_paths(train, tmp_path):
    """A table above their folder, and a folder of links to them, list the same files by other paths."""
    root = make_images(tmp_path / "data", {"blue": 20, "red": 20}, size=16)
    first = train(*SIMPLE_CNN, f"datamodule.root={root}", "trainer.max_epochs=1", to=tmp_path / "first")
    run = RunFolder(first.folder)
    other = {"train": "test", "val": "val", "test": "train"}
    rows = [(row["path"], row["label"], other[row["split"]]) for row in run.read_splits()]
    (tmp_path / "links").mkdir()
    for number, (path, _, _) in enumerate(rows):
        (tmp_path / "links" / f"{number}.png").symlink_to(root / path)
    above = [f"data/{path},{label},{split}" for path, label, split in rows]
    linked = [f"links/{number}.png,{label},{split}" for number, (_, label, split) in enumerate(rows)]
    again = (f"ckpt_path={run.best_checkpoint}", "stages=[test]", f"hydra.run.dir={tmp_path}/again", "datamodule=csv",
             "datamodule.batch_size=4")  # fmt: skip
    n, table = sum(split == "test" for _, _, split in rows), tmp_path / "table.csv"
    for lines in (above, linked):
        table.write_text("\n".join(["path,label,split", *lines, ""]))
        given = f"datamodule.table={table}"
        for refused in (
            train(*SIMPLE_CNN, given, f"model.weights={run.path}", root=tmp_path),
            train(*again, given, small=False, to=tmp_path / "again"),
        ):
            assert refused.status == 1, refused.err
            assert f"{n} of the {n} test images are training images of its run" in refused.err, refused.err
    advice = refused.err.partition("keep the images and splits of its run: ")[2].split()
    kept = train(*again, *advice, small=False, to=tmp_path / "again")
    assert kept.status == 0 and kept.record.test.accuracy == first.record.test.accuracy, kept.err
