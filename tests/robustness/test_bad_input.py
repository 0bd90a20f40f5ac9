"""A user's mistakes: one message that names what is wrong and the next step, exit status 1, no traceback."""

import errno
import os
import signal
import subprocess
import sys

import pytest
import torch

from common import run_record
from common.errors import DISK_ERRORS, UserError
from engine import error_messages
from lightning_modules.image_classifier import ImageClassifier
from tests.support.helpers import PROJECT, make_images


def says(ran, *texts):
    assert ran.status == 1
    assert "Traceback" not in ran.out + ran.err
    message = [line for line in ran.err.splitlines() if line.startswith("ERROR: ")]
    assert len(message) == 1
    for text in texts:
        assert text in ran.err, ran.err
    return True


@pytest.mark.parametrize(("override", "texts"), [
    ("model=shuflenet_mod", ["model=shuflenet_mod", "did you mean shufflenet_mod"]),
    ("optimizer=adm", ["optimizer=adm", "did you mean adam"]),
    ("logger=[csv,nope]", ["logger=nope: no such choice", "tensorboard"]),
    ("datamodul=elpv", ["datamodul", "did you mean datamodule"]),
    ("optimizer.lrr=0.1", ["optimizer.lrr", "did you mean lr"]),
    ("sed=1", ["sed", "did you mean seed"]),
    ("optimizer._target_=os.system", ["optimizer.lr: no such setting"]),
    ("datamodule.batch_size=0", ["datamodule.batch_size=0", "1 or more"]),
    ("datamodule.batch_size=64", ["datamodule.batch_size=64 is larger than the train split (24"]),
    ("datamodule.batch_size=1", ["datamodule.batch_size=1: batch norm cannot learn from a single image", "image_size=32"]),
    ("augmentation.erasing=2", ["augmentation.erasing=2", "0 to 1"]),
    ("trainer.accelerator=x", ["trainer.accelerator=x", "Available names are"]),
    ("stages=[fitt]", [": fitt is not a stage", "did you mean fit"]),
    ("stages=[]", ["nothing to do"]),
    ("ckpt_path=nowhere/last.ckpt", ["ckpt_path=nowhere/last.ckpt", "no such checkpoint"]),
    ("model.weights=nowhere.pth", ["model.weights=nowhere.pth", "no such file"]),
    ("model.name=50", ["model.name=50: use a text with a letter, such as model.name=net_1"]),
    ("model.name=[a,b]", ["model.name=[a,b]: use a text with a letter"]),
    ("metrics=[1]", ["metrics=[1]: no such choice; did you mean none"]),
    ("scheduler._partial_=false", ["scheduler._partial_=false: must be true", "remove it"]),
    ("model.keep=9", ["model.keep=9", "use 1 to 7"]),
    ("model.backbone=resnet19", ["model.backbone=resnet19", "did you mean resnet18"]),
    ("datamodule.root=/a (b", ["cannot read the argument", "two kinds of quotes", "'datamodule.root=\"/a (b\"'"]),
    ("hydra.run.dir=/proc/nowhere", ["ERROR: /proc/nowhere: ", "hydra.run.dir=DIR"]),
    ("-m  seed=1,2  hydra.sweep.dir=/proc/nowhere", ["ERROR: /proc/nowhere: ", "hydra.sweep.dir=DIR"]),
])  # fmt: skip
def test_settings(train, override, texts):
    assert says(train(*override.split("  ")), *texts)


NAMES = "torchvision.transforms.v2"


@pytest.mark.parametrize(("transforms", "texts"), [
    (f"[{{_target_:{NAMES}.RandomAply}}]", ["augmentation.transforms[0]._target_", "did you mean RandomApply"]),
    (f"[{{_target_:{NAMES}.RandomHorizontalFlip,p:3}}]", ["augmentation.transforms[0].p=3.0: `p` should be"]),
    (f"[{{_target_:{NAMES}.Identity}},{{_target_:{NAMES}.Resize,size:8}}]",
     [f"augmentation.transforms[1] ({NAMES}.Resize): returns (3, 8, 8) uint8; an image of 32 x 32"]),
    ("[{_target_:tests.datamodules.test_transform_list.Fails,share:1}]",
     ["augmentation.transforms[0] (tests.datamodules.test_transform_list.Fails): raised KeyError"]),
    (f"[{{_target_:{NAMES}.functional.horizontal_flip}}]",
     [f"augmentation.transforms[0]._target_={NAMES}.functional.horizontal_flip: is a function that takes inpt",
      "add _partial_: true"]),
])  # fmt: skip
def test_augmentations(train, transforms, texts):
    assert says(train("augmentation=trivial_augment", f"augmentation.transforms={transforms}"), *texts)


def test_what_is_no_augmentation_by_itself_is_put_in_a_list(train):
    ran = train("~augmentation", f"+augmentation._target_={NAMES}.TrivialAugmentWide")
    assert says(
        ran, f"augmentation._target_={NAMES}.TrivialAugmentWide: not an augmentation by itself", "trivial_augment.yaml"
    )


def test_a_transform_that_fails_later_in_a_loader_process(train, monkeypatch):
    monkeypatch.setattr("datamodules.transform_list.TRIES", 0)
    fails = "[{_target_:tests.datamodules.test_transform_list.Fails,share:0.05}]"
    ran = train("augmentation=trivial_augment", f"augmentation.transforms={fails}", "datamodule.num_workers=2",
                "trainer.max_epochs=5", "model=simple_cnn", "model.image_size=16")  # fmt: skip
    assert says(ran, "augmentation.transforms[0] (tests.datamodules.test_transform_list.Fails): raised KeyError")
    assert ran.record.status == "failed" and "augmentation.transforms[0]" in ran.record.reason


def test_a_long_argument_is_cut(train):
    ran = train(f"datamodule.root=(b{'x' * 5000}")
    assert says(ran, "cannot read the argument", "two kinds of quotes") and len(ran.err) < 500


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(train):
    assert says(train("trainer=gpu"), "trainer=gpu", "no CUDA device", "trainer=cpu")


def test_a_root_that_is_not_there_or_not_given(train, tmp_path):
    assert says(train(root=tmp_path / "nowhere"), "nowhere: no such folder", "DIR/{train,val,test}/CLASS")
    assert says(
        train("datamodule=image_folder", small=False), "ERROR: datamodule.root has no value", "datamodule.root=DIR"
    )


def test_a_file_that_is_no_image_is_named(train, tmp_path):
    root = make_images(tmp_path / "data", {"blue": 10, "red": 10})
    (root / "red" / "letter.jpg").write_text("Dear reader")
    (root / "blue" / "cut.png").write_bytes((root / "blue" / "000.png").read_bytes()[:300])
    assert says(train(root=root), "2 of 22 files", "letter.jpg", "cut.png", "repair or remove")


def test_a_sample_package_that_is_not_installed(train, monkeypatch):
    from datamodules.sources import elpv

    monkeypatch.setattr(elpv.importlib.util, "find_spec", lambda name: None)
    assert says(
        train("datamodule=elpv", small=False),
        "elpv-dataset",
        'pip install -e ".[samples]"',
        "images: datamodule.root=DIR",
    )


def test_checkpoints_that_are_none(train, tmp_path, made):
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    assert says(train("stages=[test]", f"ckpt_path={tmp_path / 'text.ckpt'}"), "text.ckpt", "not a checkpoint")
    torch.save({"a.weight": torch.zeros(2)}, tmp_path / "plain.ckpt")
    assert says(train("stages=[test]", f"ckpt_path={tmp_path / 'plain.ckpt'}"), "model.weights=FILE")
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(made.best_checkpoint.read_bytes()[:50_000])
    assert says(train("stages=[test]", f"ckpt_path={cut}"), "cut.ckpt", "damaged")


def test_a_teacher_that_is_none_is_refused_before_an_image_is_read(train, tmp_path):
    (text := tmp_path / "text.ckpt").write_text("no checkpoint")
    for teacher, words in ((tmp_path / "nowhere.ckpt", "no such checkpoint"), (text, "not a checkpoint")):
        ran = train(f"teacher={teacher}")
        assert says(ran, f"teacher={teacher}", words) and "train 24" not in ran.out + ran.err


@pytest.mark.thorough
def test_a_checkpoint_of_another_network_or_other_classes(train, tmp_path, made):
    last = made.last_checkpoint
    assert says(
        train(f"ckpt_path={last}", "model.keep=4", "trainer.max_epochs=3", small=False), "another model", "keep"
    )
    root = make_images(tmp_path / "data", dict.fromkeys(("blue", "red", "green"), 10))
    assert says(train("stages=[test]", f"ckpt_path={last}", f"datamodule.root={root}", small=False), "blue, green, red")


def test_an_output_folder_that_cannot_be_made(train, tmp_path):
    (tmp_path / "file").write_text("")
    assert says(train(f"hydra.run.dir={tmp_path / 'file' / 'run'}"), str(tmp_path / "file"), "hydra.run.dir=DIR")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_no_space_and_no_permission_for_the_record(train, monkeypatch, number):
    def refuse(path, *_):
        raise OSError(number, "refused", str(path))

    monkeypatch.setattr(run_record, "write_json", refuse)
    ran = train()
    assert says(ran, "result.json", "hydra.run.dir=DIR") and not (ran.folder / "checkpoints").exists()


def defect():
    list(zip([1], [], strict=True))


def mistake():
    raise UserError("model.keep=9: use 1 to 7")


def test_a_defect_deep_inside_a_run_keeps_its_traceback(train, monkeypatch):
    monkeypatch.setattr(ImageClassifier, "training_step", lambda *_: defect())
    with pytest.raises(ValueError, match="zip\\(\\) argument 2 is shorter") as caught:
        train("stages=[fit]", "trainer.max_epochs=1")
    assert any(entry.name == "defect" for entry in caught.traceback)
    monkeypatch.setattr(ImageClassifier, "training_step", lambda *_: mistake())
    assert says(train("stages=[fit]", "trainer.max_epochs=1"), "ERROR: model.keep=9: use 1 to 7")


@pytest.mark.parametrize(("error", "message"), [
    (ValueError("x"), None),
    (KeyError("x"), None),
    (RuntimeError("shape '[3, 3]' is invalid for input of size 2"), None),
    (UserError("seed=x: use a number"), "seed=x: use a number"),
    (OSError(errno.ENOSPC, "x", "/a/b"), f"/a/b: {DISK_ERRORS[errno.ENOSPC]}"),
    (OSError(errno.EFBIG, "x", "/a/b"), f"/a/b: {DISK_ERRORS.get(errno.EFBIG)}"),
    (OSError(errno.ENAMETOOLONG, "x", "/a/b"), "/a/b: this name is too long for the file system; use a shorter path"),
    (ConnectionError("x"), None),
], ids=repr)  # fmt: skip
def test_only_errors_of_the_user_have_a_message(error, message):
    assert error_messages.user_message(error) == message
    outer = RuntimeError("outer")
    outer.__cause__ = error
    assert error_messages.user_message(outer) == message


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"), "smaller datamodule.batch_size"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "datamodule.batch_size"),
    ],
)
def test_out_of_memory_names_the_settings(error, text):
    message = error_messages.user_message(error)
    assert text in message and "\n" not in message


def test_limits_of_the_system_are_named():
    """The system itself refuses, in a process of its own; it refuses root no process, so the test becomes another user."""
    code = """if True:
        import multiprocessing.popen_fork, os, resource, subprocess, threading
        from engine.error_messages import user_message
        def show(do):
            try:
                do()
            except Exception as error:
                print(user_message(error))
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
        except OSError:
            raise SystemExit("this container has no other user")
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        show(multiprocessing.get_context("fork").Process(target=print).start)
        show(threading.Thread(target=print).start)
        show(lambda: subprocess.run(["true"]))
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        show(lambda: open(os.fsencode("table")))
    """
    ran = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    if "has no other user" in ran.stderr:
        pytest.skip(ran.stderr.strip())
    *of_processes, of_files = ran.stdout.splitlines()
    assert of_processes == [error_messages.NO_PROCESS] * 3
    assert of_files.startswith("table: this process has too many open files; raise the limit (ulimit -n)")


class EndsItsWorker(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)  # as the system does where memory is short


def test_a_killed_loader_worker_is_named():
    with pytest.raises(RuntimeError) as caught:
        next(iter(torch.utils.data.DataLoader(EndsItsWorker(), num_workers=1)))
    message = error_messages.user_message(caught.value)
    assert message.startswith("a loader worker has ended early") and "datamodule.num_workers" in message
    assert "\n" not in message
