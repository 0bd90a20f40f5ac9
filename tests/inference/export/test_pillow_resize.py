import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.decode import resize
from inference.export.pillow_resize import resize_tensor

SIZES = [  # width, height
    (37, 53), (256, 256), (257, 255), (500, 375), (48, 1031), (1, 1), (2, 300), (31, 16), (640, 17), (7, 350), (350, 7), (99, 2)
]  # fmt: skip


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [1, 32, 48, 224, 256])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_every_bit_is_pillow_s(width, height, size, fit, interpolation):
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[: height // 2] = np.where(pixels[: height // 2] > 127, 255, 0)  # the ends of the range too
    expected = np.asarray(resize(Image.fromarray(pixels), size, fit, interpolation))
    found = resize_tensor(torch.from_numpy(pixels)[None], size, fit, interpolation)[0].numpy()
    assert np.array_equal(found, expected)


def test_images_of_a_batch_do_not_mix():
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 40, 30, 3), dtype=np.uint8))
    together, *single = (resize_tensor(each, 16, "squash", "bilinear") for each in (pixels, *pixels[:, None]))
    assert torch.equal(together, torch.cat(single))
