"""What goes into an exported file before the network, and what is silent while torch exports."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.decode import resize
from inference.export.preprocessing import native_resize, quiet


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
