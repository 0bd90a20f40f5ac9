import matplotlib
import numpy as np
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


def test_no_heat_is_the_darkest_color_everywhere():
    drawn = np.asarray(overlay(Image.new("RGB", (8, 8), "white"), np.zeros((2, 2)), 32))
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 1
