"""What the frames of a fixed camera share is taken out, by least squares written out and by a scene that is a formula."""

import numpy as np
import pytest

from datamodules.fixed_camera import Scene, normalize

SIDE = 64
Y, X = np.mgrid[:SIDE, :SIDE].astype(float)
WAVES = np.random.default_rng(0).normal(size=(6, 3)) * (0.25, 0.25, 3)


def at(y, x, object_at=None):
    """Return the scene at these coordinates, in pixels; with an object, a dark round spot of four pixels, at one of them."""
    gray = 120 + sum(12 * np.sin(a * y + b * x + phase) for a, b, phase in WAVES)
    if object_at is not None:
        gray = gray - 60 * np.exp(-((y - object_at[0]) ** 2 + (x - object_at[1]) ** 2) / 16)
    return gray


def moved(down=0.0, right=0.0, turned=0.0, cropped=0.0, object_at=None):
    """Return a frame whose camera was moved by pixels and turned by radians, and whose border was cropped by a share."""
    y, x = Y - SIDE / 2, X - SIDE / 2
    inside = (
        (1 - cropped) * (y * np.cos(turned) - x * np.sin(turned)),
        (1 - cropped) * (y * np.sin(turned) + x * np.cos(turned)),
    )
    return at(inside[0] + SIDE / 2 - down, inside[1] + SIDE / 2 - right, object_at)


def of_frames(*frames):
    return normalize(np.stack(frames))


@pytest.fixture(scope="module")
def scene():
    return Scene(of_frames(*[moved()] * 3))


def test_normalized_frames_are_blurred_and_have_neither_brightness_nor_contrast():
    """By the sum over neighbors up to two pixels away, the next one inside in place of those outside."""
    frame = np.random.default_rng(1).integers(0, 256, (20, 20)).astype(np.uint8)
    weights = np.exp(-(np.arange(-2, 3) ** 2) / (2 * 0.6**2))
    padded = np.pad(frame.astype(float), 2, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5))
    expected = np.einsum("yxij,i,j->yx", windows, weights, weights)
    expected -= expected.mean()
    expected /= np.linalg.norm(expected)
    (found,) = normalize(frame[None])
    assert found == pytest.approx(expected, abs=1e-6) and found.dtype == np.float32
    brighter, darker, even = normalize(np.stack([frame * 3.0 + 40, frame / 50.0, frame * 0 + 9]))
    assert brighter == pytest.approx(found, abs=1e-5) and darker == pytest.approx(found, abs=1e-5) and not even.any()


def test_what_is_left_is_the_residual_of_least_squares():
    """Of the scene, its derivatives, and light from the sides, all but the outermost sixteenth."""
    frames = of_frames(*(moved(object_at=(20 + 3 * n, 30)) for n in range(5)))
    left, length = Scene(frames).take_out(frames)
    mean = frames.mean(axis=0).astype(float)
    y, x = Y / SIDE - 0.5, X / SIDE - 0.5
    down, right = np.gradient(mean)
    shares = [mean, mean**2, np.ones_like(mean), x, y]
    shares += [factor * each for factor in (x, y) for each in (mean, down, right)] + [down, right]
    inner = (slice(4, -4), slice(4, -4))
    basis = np.stack([each[inner].ravel() for each in shares], axis=1)
    for frame, found, size in zip(frames, left, length, strict=True):
        flat = frame[inner].ravel().astype(float)
        residual = flat - basis @ np.linalg.lstsq(basis, flat, rcond=None)[0]
        assert size == pytest.approx(np.linalg.norm(residual), rel=1e-3)
        assert found == pytest.approx(residual / np.linalg.norm(residual), abs=2e-3)


@pytest.mark.parametrize("change", [
    {"down": 1.5}, {"down": -1.5}, {"right": 2.5}, {"right": -2.5}, {"turned": 0.05}, {"cropped": 0.05},
    {"down": -1.0, "right": 0.7, "turned": -0.02, "cropped": 0.02},
])  # fmt: skip
def test_a_frame_is_moved_back_to_where_the_scene_is(scene, change):
    left, back = (scene.take_out(of_frames(moved(**change)), move_back=way)[1][0] for way in (False, True))
    assert back < left / 4
    (half,) = scene.take_out(of_frames(moved(**change)) / 2, move_back=True)[1]
    assert half == pytest.approx(back / 2, rel=1e-3)  # a frame that shows less of the scene is moved as far


def test_of_a_frame_without_anything_nothing_is_left(scene):
    for move_back in (False, True):
        left, length = scene.take_out(np.zeros((1, SIDE, SIDE), np.float32), move_back=move_back)
        assert not left.any() and not length.any()


def test_a_frame_is_moved_back_by_a_twentieth_of_a_side_at_most(scene):
    """One that is another scene would otherwise be drawn into this one."""
    frame = of_frames(moved(object_at=(30, 30)))
    for numbers in ((9, 0, 0, -9, 0, 0), (0, 0, 99, 0, 99, 0)):
        by = np.array([numbers], float)
        nearer = by.clip(-3.2, 3.2)
        assert np.array_equal(scene._moved_back(frame, by), scene._moved_back(frame, nearer))
    by_three = scene._moved_back(frame, np.array([[3.0, 0, 0, -2, 0, 0]]))
    assert by_three[0, 10:50, 10:50] == pytest.approx(frame[0, 12:52, 7:47], abs=1e-6)  # right by 3, up by 2


def test_an_object_is_what_is_left_where_the_camera_moved_too(scene):
    place, change = (24, 38), {"down": 1.5, "right": -1.0, "turned": 0.02}
    still, other, shaken = of_frames(
        moved(object_at=place), moved(object_at=(44, 22)), moved(**change, object_at=place) * 1.3 + 20
    )
    left = scene.take_out(np.stack([still, other, shaken]), move_back=True)[0]
    assert left[0] @ left[2] > 0.95 and abs(left[0] @ left[1]) < 0.3
