"""What goes into an exported file before the network, and what is silent while torch exports."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.decode import resize
from inference.backends import ModelDescription
from inference.export import onnx_file, pillow_resize
from inference.export.preprocessing import Preprocessing, example_images, native_resize, quiet


def test_the_exporter_is_silent_and_the_other_threads_are_not(capsys):
    with quiet():
        print("of the exporter")
        other = threading.Thread(target=print, args=("how far it is",))
        other.start()
        other.join()
    assert capsys.readouterr().out == "how far it is\n"


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_runtime_s_own_resize_differs_from_pillow_s_by_one_gray_level_at_most(interpolation):
    generator = np.random.default_rng(0)
    for size in ((48, 48), (97, 31), (31, 97), (640, 480), (480, 641)):
        coarse = Image.fromarray(generator.integers(64, 192, (5, 5, 3), dtype=np.uint8))
        image = coarse.resize(
            size, Image.Resampling.BICUBIC
        )  # without edges, beyond which bicubic would leave 0 to 255
        found = native_resize(torch.tensor(np.asarray(image))[None], 48, interpolation)[0].permute(1, 2, 0)
        assert np.abs(found.numpy() - np.asarray(resize(image, 48, "squash", interpolation))).max() <= 1, size


@pytest.mark.thorough
def test_resizing_is_exported_with_pillow_before_13(monkeypatch):
    runtime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(pillow_resize, "TALL_FIRST_DOWN", False)
    monkeypatch.setattr(onnx_file, "GRAPHS", {})
    description = ModelDescription(["a", "b"], 16, [0.0] * 3, [1.0] * 3, decision=None)
    graph = onnx_file.preprocessing_graph(description)
    session = runtime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for shape in (tuple(example_images().shape), (1, 90, 20, 3), (2, 20, 90, 3)):
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        (found,) = session.run(None, {session.get_inputs()[0].name: images})
        expected = Preprocessing(description)(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
