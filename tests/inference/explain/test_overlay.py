import matplotlib
import numpy as np
import pytest
from PIL import Image

from inference.explain.overlay import OPACITY, overlay


def test_an_overlay_is_viridis_over_gray():
    image = Image.new("RGB", (40, 20), (10, 200, 60))
    heat = np.array([[0.0, 5.0]])  # nothing on the left, most on the right, whatever 5 means
    drawn = np.asarray(overlay(image, heat, 32), float)
    assert drawn.shape == (20, 40, 3)
    gray = np.asarray(image.convert("L"))[0, 0]
    for x, share in ((0, 0.0), (39, 1.0)):
        wanted = OPACITY * 255 * np.array(matplotlib.colormaps["viridis"](share)[:3]) + (1 - OPACITY) * gray
        np.testing.assert_allclose(drawn[10, x], wanted, atol=1)
    assert (np.diff(drawn[10] @ [0.299, 0.587, 0.114]) >= -0.6).all()  # lightness rises with heat
    np.testing.assert_array_equal(overlay(image, heat, 32), overlay(image, heat * 1000, 32))


def test_colors_lie_on_what_the_network_saw():
    image = Image.new("RGB", (90, 30), (120, 120, 120))
    heat = np.zeros((6, 6))
    heat[:, 3:] = 1  # the right half of the network's square
    yellow, violet = (
        np.asarray(overlay(Image.new("RGB", (9, 9), (120,) * 3), h, 24))[4, 4] for h in (heat + 1, heat * 0)
    )
    yellow = np.asarray(overlay(image, np.ones((6, 6)), 24))[0, 0]
    cropped = np.asarray(overlay(image, heat, 24, "crop"))
    assert (cropped[:, :30] == 120).all() and (cropped[:, 60:] == 120).all()  # outside of the central 30 x 30
    assert (cropped[:, 32] == violet).all() and (cropped[:, 58] == yellow).all()
    # with pad the image is rows 8 to 16 of 24: the two of six of the heat in the middle
    heat = np.zeros((6, 6))
    heat[:2] = heat[4:] = 1
    padded = np.asarray(overlay(image, heat, 24, "pad"))
    assert (padded[14:16] == violet).all() and padded.shape == (30, 90, 3)
    heat = 1 - heat
    assert (np.asarray(overlay(image, heat, 24, "pad"))[14:16] == yellow).all()
    tall = np.asarray(overlay(image.transpose(Image.Transpose.ROTATE_90), heat.T, 24, "pad"))
    assert (tall[:, 14:16] == yellow).all()


@pytest.mark.parametrize("size", [(256, 1), (1, 256), (3, 2)])
def test_of_a_very_long_image_at_least_one_pixel_was_seen(size):
    """The central square of a thumbnail of 256 x 1 pixels is less than a pixel wide after rounding."""
    image = Image.new("RGB", size, (120, 120, 120))
    drawn = np.asarray(overlay(image, np.ones((2, 2)), 24, "crop"))
    assert drawn.shape == (size[1], size[0], 3)
    assert (drawn != 120).any(axis=-1).sum() == min(size) ** 2


def test_no_heat_is_the_darkest_color_everywhere():
    drawn = np.asarray(overlay(Image.new("RGB", (8, 8), "white"), np.zeros((2, 2)), 32))
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 1
