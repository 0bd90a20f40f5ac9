"""python train.py trainer=gpu and all that follows a run, on a real GPU: pytest -m gpu. Without a GPU these are skipped."""

import numpy as np
import pytest
import torch

import predict
import smallest
from common.run_folder import RunFolder
from lightning_modules.checkpoint import load_best
from lightning_modules.networks.simple_cnn import SimpleCNN
from tests.support.commands import run_script
from tests.support.helpers import SIMPLE_CNN, at_step, make_images, outcome

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here"),
]
FP32 = ("trainer=gpu", "trainer.precision=32-true", "trainer.max_epochs=3")
PLAIN = "trainer.cuda_graphs=false"
# 24 images in batches of 10: two full ones, which are replayed, and a short one, which is not
UNEVEN = ("datamodule.batch_size=10", "augmentation.color_jitter=0.2")


def test_the_same_command_gives_the_same_bits(train):
    one, other = (train(*UNEVEN, "trainer=gpu") for _ in range(2))
    assert one.status == other.status == 0, one.err
    assert outcome(one.folder) == outcome(other.folder)


@pytest.mark.parametrize(
    "settings",
    [
        (),
        FP32,
        ("trainer.precision=16-mixed",),
        ("trainer.precision=bf16-true",),
        ("trainer.gradient_clip_val=0.1", "optimizer=sgd"),
        ("callbacks.progressive_resizing.initial_scale=0.5", "trainer.max_epochs=4"),
        ("model.freeze=1", "callbacks.ema.enabled=true", "callbacks.recalibrate_batch_norm.enabled=true"),
        ("batch_transform=mixup",),
        SIMPLE_CNN,
        ("model=resnet18",),
        ("callbacks.freeze_batch_norm.enabled=true", "callbacks.linear_probe.steps=20", "model.freeze=1"),
        ("trainer.accumulate_grad_batches=2",),
    ],
    ids=" ".join,
)
def test_cuda_graphs_change_no_bit(train, pretrained, settings):
    weights = () if any(each.startswith("model=") for each in settings) else (f"model.weights={pretrained}",)
    replayed = train(*UNEVEN, "trainer=gpu", *weights, *settings)
    launched = train(*UNEVEN, "trainer=gpu", PLAIN, *weights, *settings)
    assert replayed.status == launched.status == 0, replayed.err
    is_captured = not any(each in " ".join(settings) for each in ("accumulate", "16-mixed"))
    assert ("CUDA graphs: not used" not in replayed.out + replayed.err) == is_captured
    assert outcome(replayed.folder) == outcome(launched.folder)


def test_images_kept_on_the_gpu_change_no_bit(train):
    kept, moved = train(*UNEVEN, "trainer=gpu"), train(*UNEVEN, "trainer=gpu", "datamodule.gpu_cache_gib=0")
    assert "are kept on the GPU" in kept.out and "are kept on the GPU" not in moved.out
    assert outcome(kept.folder) == outcome(moved.folder)


def test_the_loss_of_a_step_is_that_of_the_processor(train):
    settings = ("augmentation=none", "trainer.max_epochs=1", "trainer.max_steps=1", "model.head.dropout=[0,0]")
    on_gpu, on_cpu = (
        np.genfromtxt(RunFolder(train(*device, *settings).folder).metrics, delimiter=",", names=True)
        for device in (FP32, ("trainer=cpu",))
    )
    assert on_gpu["trainloss"] == pytest.approx(on_cpu["trainloss"], rel=0.005)  # convolutions in TF32 and in float32


def test_a_run_that_resumes_equals_one_that_never_stopped(train):
    whole, first = train(*UNEVEN, *FP32), train(*UNEVEN, *FP32, "trainer.max_epochs=1", "stages=[fit]")
    last = RunFolder(first.folder).last_checkpoint
    again = train(f"ckpt_path={last}", "trainer.max_epochs=3", "stages=[fit,test]", small=False, to=first.folder)
    assert again.status == 0, again.err
    assert outcome(whole.folder) == outcome(first.folder)


def test_the_record_has_device_and_memory(train):
    ran = train("trainer=gpu", "stages=[cost,fit,test]", drawn=True)
    assert ran.status == 0, ran.err
    assert ran.record.run.device == torch.cuda.get_device_name()
    assert ran.record.throughput.peak_memory_mib["gpu"] > 1
    assert {each.device for each in ran.record.model.latency} == {"cuda"}


def test_predictions_are_those_of_the_run_on_both_devices(train, two_colors, tmp_path):
    ran = train(*FP32)
    best = RunFolder(ran.folder).best_checkpoint
    tables = []
    for device in ("cuda", "cpu"):
        file = tmp_path / f"{device}.csv"
        status, _, err = run_script(
            predict, f"ckpt={best}", f"images={two_colors}/test", f"device={device}", f"out={file}"
        )
        assert status == 0, err
        tables.append(np.genfromtxt(file, delimiter=",", names=True, dtype=None, encoding="utf-8"))
    names = [name for name in tables[0].dtype.names if tables[0].dtype[name].kind == "f"]
    assert names
    for name in names:
        np.testing.assert_allclose(tables[0][name], tables[1][name], atol=2e-3)


def test_a_checkpoint_of_a_gpu_is_read_without_one(train):
    ran = train(*FP32)
    classifier, _, _ = load_best(RunFolder(ran.folder).best_checkpoint)
    assert {parameter.device.type for parameter in classifier.parameters()} == {"cpu"}


@pytest.mark.parametrize(
    "model",
    ["densenet121", "efficientnet_b0", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small",
     "regnet_y_400mf", "resnet18", "shufflenet_mod", "shufflenet_v1", "shufflenet_v2_x1_0", "simple_cnn", "squeezenet1_1",
     "timm", "truncated", "vgg16"],
)  # fmt: skip
def test_every_network_trains_deterministically(train, model):
    more = {"timm": ["model.name=tf_efficientnet_lite0"], "vgg16": ["optimizer.lr=1e-5"]}.get(model, [])
    ran = train(f"model={model}", "trainer=gpu", "model.image_size=64", "trainer.max_epochs=1", *more)
    assert ran.status == 0, ran.err
    assert "CUDA graphs: not used" not in ran.out + ran.err


def test_a_batch_too_large_for_the_memory_is_one_line(train, monkeypatch):
    def too_much():
        torch.empty(2**50, device="cuda")

    at_step(monkeypatch, 1, too_much)
    ran = train("trainer=gpu")
    assert ran.status == 1 and "smaller datamodule.batch_size" in ran.err and "Traceback" not in ran.err


def test_a_network_that_waits_for_the_gpu_trains_without_graphs(train, monkeypatch):
    usual = SimpleCNN.forward

    def waits(self, x):
        if x.is_cuda:
            x.sum().item()
        return usual(self, x)

    monkeypatch.setattr(SimpleCNN, "forward", waits)
    ran = train("trainer=gpu", *SIMPLE_CNN)
    assert ran.status == 0, ran.err
    assert "CUDA graphs: not used, since the step of a batch cannot be captured" in ran.out + ran.err


def test_smallest_py_answers(tmp_path, pretrained):
    counts = {
        f"{split}/{color}": n for split, n in (("train", 24), ("val", 12), ("test", 12)) for color in ("blue", "red")
    }
    root = make_images(tmp_path / "images", counts, size=32)
    status, _, err = run_script(
        smallest, f"datamodule.root={root}", f"datamodule.cache={tmp_path}/cache", "budget.minutes=2", "trainer=gpu",
        "candidates.image_sizes=[32]", "candidates.cuts={shufflenet_v2_x0_5: [maxpool, stage2.1, stage3.3]}",
        "candidates.backbones=[shufflenet_v2_x0_5]", f"candidates.weights.shufflenet_v2_x0_5={pretrained}",
        f"hydra.run.dir={tmp_path}/answer",
    )  # fmt: skip
    assert status == 0, err
