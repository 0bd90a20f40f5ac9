"""Checkpoints as backends; ONNX files, which take time to make, in test_export.py."""

import sys

import numpy as np
import pytest
import torch

from inference.backends import ModelDescription, open_backend, softmax
from tests.support.fake_checkpoints import DECISION, MEAN, STD, make_checkpoint


def test_a_checkpoint_answers_as_its_network_does(tmp_path):
    backend = open_backend(make_checkpoint(tmp_path / "best.ckpt"), "cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    normalized = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    with torch.no_grad():
        logits = backend.network(torch.tensor(normalized, dtype=torch.float32).permute(0, 3, 1, 2))
    np.testing.assert_allclose(backend(pixels), softmax(logits.numpy()), atol=1e-6)
    assert backend(pixels).std(axis=0).max() > 0.01  # the images do get different answers


def test_a_description_survives_as_texts():
    description = ModelDescription(["ä", 'b"'], 32, MEAN, STD, DECISION)
    assert ModelDescription.from_metadata(description.as_metadata()) == description
    assert ModelDescription.from_metadata(description._replace(decision=None).as_metadata()).decision is None
    with pytest.raises(KeyError):
        ModelDescription.from_metadata({"classes": "[]"})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "gpu", "xla"])
def test_a_device_that_is_not_here(tmp_path, device):
    with pytest.raises(ValueError, match=f"device={device}: not here .*use auto, cpu"):
        open_backend(make_checkpoint(tmp_path / "best.ckpt"), device)


def test_onnxruntime_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "best.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"onnxruntime is not installed; install it with pip install -e '\.\[onnx\]'"):
        open_backend(tmp_path / "best.onnx")


def test_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match=r"a\.onnx: no such checkpoint; make it with python export\.py"):
        open_backend(tmp_path / "a.onnx")
    with pytest.raises(ValueError, match=r"a\.ckpt: no such checkpoint"):
        open_backend(tmp_path / "a.ckpt")
    pytest.importorskip("onnxruntime")
    (tmp_path / "b.onnx").write_text("no graph")
    with pytest.raises(ValueError, match=r"b\.onnx: not an ONNX file of export\.py"):
        open_backend(tmp_path / "b.onnx")
