"""Runs whose training images are streamed: to the end, resumed, on two processes, and what they refuse."""

import os
import signal

import numpy as np
import pytest

import predict
from common.run_record import RunRecord
from tests.support.helpers import NOT_DRAWN, SIMPLE_CNN, at_step, free_port, outcome, read_csv
from tests.support.processes import TRAIN, start, wait
from tests.support.shards import make_folder, write_chunks, write_tar, write_tars

pytest.importorskip("litdata", reason="needs the extra streaming")
pytest.importorskip("webdataset", reason="needs the extra streaming")
SMALL = [*SIMPLE_CNN, "model.weights=null", "trainer=cpu", "trainer.max_epochs=2", "datamodule.batch_size=8"]
STAGES = "stages=[fit,test]"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(write_tars, id="webdataset"),
        pytest.param(write_chunks, id="litdata", marks=pytest.mark.thorough),
    ],
)
def settings(request, images, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("shards"), images, each=17)


def test_a_run_in_the_middle_of_an_epoch_resumes_to_the_same_bits(train, settings, tmp_path, monkeypatch):
    cache = f"datamodule.cache={tmp_path / 'cache'}"
    given = [*settings, *SMALL, STAGES, *NOT_DRAWN, cache]
    straight = train(*given, small=False)
    assert straight.status == 0, straight.err
    record = straight.record
    assert (record.data.n_train, record.data.n_val, record.data.n_test) == (34, 12, 9)
    assert [finding.kind for finding in record.data.audit] == ["streamed"] and "images were not checked" in straight.out
    assert "python export.py" in straight.out and "smallest" not in straight.out  # which refuses such images
    assert {row["split"] for row in read_csv(straight.folder / "splits.csv")} == {"val", "test"}
    at_step(monkeypatch, 7, lambda: os.kill(os.getpid(), signal.SIGTERM))  # of 10, in the second epoch
    stopped = train(*given, small=False)
    assert stopped.status != 0 and "datamodule.source.train" in stopped.err
    last = f"ckpt_path={stopped.folder}/checkpoints/last.ckpt"
    resumed = train(last, *settings, cache, STAGES, small=False, to=stopped.folder)
    assert resumed.status == 0, resumed.err
    assert outcome(straight.folder) == outcome(stopped.folder)
    assert ("are read again without decoding" in resumed.out) == ("webdataset" in settings[0])


@pytest.mark.thorough
def test_all_that_a_run_draws_and_each_recipe_of_the_head_have_images(
    train, in_process, settings, pretrained, tmp_path
):
    ran = train(*settings, "recipe=fast", f"model.weights={pretrained}", "model=shufflenet_mod", "model.image_size=32",
                "trainer=cpu", "trainer.max_epochs=1", "datamodule.batch_size=8", f"datamodule.cache={tmp_path / 'cache'}",
                small=False)  # fmt: skip
    assert ran.status == 0, ran.err
    assert "linear probe: " in ran.out and "of 34 images" in ran.out
    assert (ran.folder / "contact_sheet.png").is_file() and (ran.folder / "MODEL_CARD.md").is_file()
    best, out = ran.folder / "checkpoints" / "best.ckpt", tmp_path / "explained"
    status, printed, err = in_process(
        predict, f"ckpt={best}", f"images={ran.folder}", "explain=true", f"out={out}", "device=cpu"
    )
    assert status == 0 and f"Labels to check: {out / 'labels_to_check.csv'}" in printed, err
    assert {row["split"] for row in read_csv(out / "labels_to_check.csv")} == {"val", "test"}
    assert "correct labels in the shards" in printed and "then train on them" not in printed


@pytest.mark.thorough
def test_a_loss_that_weighs_classes_gets_their_counts(train, settings, tmp_path):
    ran = train(*settings, *SMALL, "loss=weighted_cross_entropy", "debug=fast", f"datamodule.cache={tmp_path / 'cache'}",
                *NOT_DRAWN, small=False)  # fmt: skip
    assert ran.status == 0, ran.err
    assert (
        "limited to 8 of 34 train, 8 of 12 val, 8 of 9 test images, for train the first in each epoch's stream"
        in ran.out
    )


@pytest.mark.parametrize(("setting", "words"), [
    ("model.normalization=dataset", "model.normalization=dataset: mean and std of streamed training images"),
    ("trainer.overfit_batches=1", "trainer.overfit_batches cannot be used with streamed training images"),
    ("deploy=onnx_int8", "deploy=onnx_int8: needs training images, and this run streams them"),
    ("datamodule.batch_size=35", "datamodule.batch_size=35 is larger than the train split (34 images)"),
])  # fmt: skip
def test_what_is_refused_is_one_line(train, settings, tmp_path, setting, words):
    ran = train(*settings, *SMALL, setting, f"datamodule.cache={tmp_path / 'cache'}", small=False)
    errors = [line for line in ran.err.splitlines() if line.startswith("ERROR")]
    assert ran.status == 1 and len(errors) == 1 and words in errors[0] and "Traceback" not in ran.err


def test_fewer_shards_than_processes_are_one_line_before_the_others_start(train, settings, tmp_path):
    if "webdataset" not in settings[0]:
        pytest.skip("litdata divides the images of its chunks")
    ran = train(*settings, *SMALL, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=3", "datamodule.batch_size=4",
                f"datamodule.cache={tmp_path / 'cache'}", small=False)  # fmt: skip
    assert ran.status == 1 and ran.err.count("ERROR: ") == 1
    assert "2 shards for 3 processes; each needs at least one" in ran.err
    assert "starting the training" not in ran.out and not ran.folder.exists()


def test_smallest_refuses_a_stream(in_process, settings, tmp_path):
    import smallest

    status, _, err = in_process(smallest, *settings, f"hydra.run.dir={tmp_path / 'out'}")
    assert status == 1 and "streams its training images, but smallest.py computes features of all of them" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_image_that_the_second_process_cannot_read_ends_both_with_one_message_and_a_record(images, tmp_path):
    """It is in the first batch of its shard, while the first process waits in the step of that batch."""
    settings = write_tars(tmp_path / "shards", images, each=17)
    second = int(np.random.default_rng((1, 0)).permutation(2)[1])  # the shard of process 1 in the first epoch
    samples = [{"png": b"none", "cls": b"blue"}] * 17
    write_tar(tmp_path / "shards" / "train" / f"{second:03}.tar", samples)
    folder = tmp_path / "outputs" / "run"
    command = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}", TRAIN, *settings, *SMALL,
               "trainer=ddp", "trainer.accelerator=cpu", "seed=1", STAGES, "datamodule.source.classes=[blue,green,red]",
               "datamodule.source.train_images=34", *NOT_DRAWN, f"datamodule.cache={tmp_path / 'cache'}",
               f"hydra.run.dir={folder}"]  # fmt: skip
    ((status, _, err),) = wait(start(*command))
    assert status == 1 and err.count("ERROR: ") == 1, err
    assert "ERROR: process 1: " in err and "no image of a whole batch can be read" not in err
    assert not list(folder.glob("**/.result.json*"))
    assert not (folder / "result.json").exists() or RunRecord.read(folder).status == "failed"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_train_on_every_image_and_end_alike(settings, tmp_path):
    folder = tmp_path / "outputs" / "run"
    command = [TRAIN, *settings, *SMALL, "trainer=ddp", "trainer.accelerator=cpu",
               "trainer.devices=2", "datamodule.batch_size=5", STAGES, *NOT_DRAWN, "trainer.max_epochs=2",
               f"datamodule.cache={tmp_path / 'cache'}", f"hydra.run.dir={folder}"]  # fmt: skip
    ((status, out, err),) = wait(start(*command))
    assert status == 0, err
    record = RunRecord.read(folder)
    assert record.run.processes == 2 and record.data.n_train == 34 and out.count("epoch 2/2") == 1
    assert [epoch.images for epoch in record.throughput.epochs] == [34, 34]
