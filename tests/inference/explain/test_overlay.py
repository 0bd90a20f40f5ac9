import base64
import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from inference.explain.overlay import OPACITY, SIDE, encode_jpeg, fit_for_page, overlay


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((1000, 500), (256, 128)), ((32, 16), (256, 128)), ((100, 200), (100, 200)), ((1, 1), (256, 256)), ((256, 9), (256, 9))],
)  # fmt: skip
def test_a_shown_image_keeps_its_proportions(size, wanted):
    image = Image.new("RGB", size, "red")
    made = fit_for_page(image)
    assert made.size == wanted and image.size == size and max(made.size) <= SIDE
    assert set(made.get_flattened_data() if hasattr(made, "get_flattened_data") else made.getdata()) == {(255, 0, 0)}


def test_small_images_keep_their_pixels():
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    np.testing.assert_array_equal(np.asarray(fit_for_page(Image.fromarray(pixels)))[::64, ::64], pixels)


def test_an_overlay_is_viridis_over_gray():
    image = Image.new("RGB", (40, 20), (10, 200, 60))
    heat = np.array([[0.0, 5.0]])  # nothing on the left, most on the right, whatever 5 means
    drawn = np.asarray(overlay(image, heat), float)
    assert drawn.shape == (20, 40, 3)
    gray = np.asarray(image.convert("L"))[0, 0]
    for x, share in ((0, 0.0), (39, 1.0)):
        wanted = OPACITY * 255 * np.array(matplotlib.colormaps["viridis"](share)[:3]) + (1 - OPACITY) * gray
        np.testing.assert_allclose(drawn[10, x], wanted, atol=1)
    assert (np.diff(drawn[10] @ [0.299, 0.587, 0.114]) >= -0.6).all()  # lightness rises with heat
    np.testing.assert_array_equal(overlay(image, heat), overlay(image, heat * 1000))


def test_no_heat_is_the_darkest_color_everywhere():
    drawn = np.asarray(overlay(Image.new("RGB", (8, 8), "white"), np.zeros((2, 2))))
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 1


def test_a_jpeg_comes_back():
    image = Image.new("RGB", (30, 20), (200, 10, 10))
    back = Image.open(io.BytesIO(base64.b64decode(encode_jpeg(image))))
    assert back.size == image.size
    np.testing.assert_allclose(np.asarray(back, float), np.asarray(image, float), atol=6)
