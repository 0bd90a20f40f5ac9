import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.decode import resize
from inference.export.pillow_resize import resize_tensor, taps

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


def test_weights_by_hand():
    # Two pixels become one: a triangle of 2 pixels to either side of 1 and of 3
    indices, weights = taps(4, 2, 4, 2, "bilinear")
    assert indices.tolist()[0][:4] == [0, 1, 2, 3] and weights.shape == (2, 5)
    share = np.array([0.75, 0.75, 0.25]) / 1.75  # pixel centers at 0.5, 1.5, 2.5; at 3.5 the triangle has ended
    assert weights[0].tolist() == [round(s * 2**22) for s in share] + [0, 0]


def test_cubic_weights_by_hand():
    _, weights = taps(4, 8, 4, 8, "bicubic")  # the center of the fourth is at 1.75, of the pixels at 0.5, 1.5, ...
    a = -0.5
    near, far = lambda x: (a + 2) * x**3 - (a + 3) * x**2 + 1, lambda x: a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    assert weights[3, :4].tolist() == [round(w * 2**22) for w in (far(1.25), near(0.25), near(0.75), far(1.75))]
