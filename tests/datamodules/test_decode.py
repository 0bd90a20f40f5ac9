import errno
import os

import numpy as np
import pytest
from PIL import Image, ImageOps
from torchvision.transforms import functional as F

from common.errors import UserError
from datamodules.decode import (
    FIRST_OF_SEVERAL,
    UnreadableImageError,
    decode_pixels,
    fingerprint,
    open_image,
    place,
    read_image,
    resize,
    to_rgb,
)

GRADIENT = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)


@pytest.mark.parametrize(
    "name", ["a.png", "a.JPG", "a.webp", "a.bmp", "a.tif", "a.gif", "a.avif", "a.jp2", "mit Leerzeichen 🙂.png"]
)
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_common_formats_and_modes_become_rgb(tmp_path, name, mode):
    image = Image.fromarray(GRADIENT).convert(mode)
    lossy = name.endswith(("JPG", "webp", "avif"))
    if (lossy or name.endswith("jp2")) and mode in ("P", "1"):
        image = image.convert("RGB")
    image.save(tmp_path / name, **({"quality": 100} if lossy else {}))
    opened = open_image(tmp_path / name)
    assert opened.mode == "RGB" and opened.size == (8, 8)
    tolerance = 12 if lossy else 0
    assert np.abs(np.asarray(opened).astype(int) - np.asarray(image.convert("RGB")).astype(int)).max() <= tolerance


@pytest.mark.parametrize(("name", "options", "dtype"), [
    ("a.tif", {}, np.uint8), ("a.tif", {}, np.uint16), ("a.gif", {}, np.uint8), ("a.webp", {}, np.uint8),
    ("a.png", {}, np.uint8), ("a.avif", {}, np.uint8), ("a.jpg", {"format": "MPO"}, np.uint8),
])  # fmt: skip
def test_the_first_of_several_pages_is_read_and_the_others_are_known_of(tmp_path, name, options, dtype):
    """But for a phone's JPEG with others beside the photo."""
    first, second = (
        Image.fromarray(each.astype(dtype) * (257 if dtype == np.uint16 else 1)) for each in (GRADIENT, GRADIENT.T)
    )
    for more in ([], [second]):
        first.save(tmp_path / name, save_all=True, append_images=more, **options)
        decoded = read_image(tmp_path / name)
        assert decoded.mode.endswith(FIRST_OF_SEVERAL) == bool(more and not options)
        pixels = np.asarray(decoded.rgb())[..., 0].astype(int)
        assert np.abs(pixels - GRADIENT).max() < np.abs(pixels - GRADIENT.T).max() / 4


def test_alpha_is_laid_over_white():
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    assert np.asarray(to_rgb(image)).tolist() == [[[255, 255, 255], [10, 20, 30]]]


@pytest.mark.parametrize("alpha", [[0, 0], [128, 128], [255, 255], [0, 200]])
def test_an_array_with_alpha_is_the_pil_image_of_its_pixels(alpha):
    array = np.array([[[10, 20, 30, value] for value in alpha]], np.uint8)
    decoded, expected = decode_pixels(array), decode_pixels(Image.fromarray(array))
    assert decoded.fingerprint() == expected.fingerprint()
    assert np.array_equal(decoded.rgb(), to_rgb(Image.fromarray(array)))


def test_an_image_without_pixels_is_refused():
    with pytest.raises(UserError, match="an image of 0 x 5 pixels cannot be used"):
        decode_pixels(Image.new("RGB", (0, 5)))
    with pytest.raises(UserError, match=r"an image of shape \(0, 5, 3\) and uint8 cannot be used; arrays are"):
        decode_pixels(np.zeros((0, 5, 3), np.uint8))


def test_sixteen_bits_are_scaled_and_not_cut():
    image = Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16))
    assert np.asarray(decode_pixels(image).rgb())[0, :, 0].tolist() == [0, 1, 128, 255]


def test_cmyk_is_read(tmp_path):
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    assert np.asarray(open_image(tmp_path / "a.jpg"))[0, 0, 0] > 200


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (8, 4))
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(tmp_path / "a.jpg", exif=exif)
    assert open_image(tmp_path / "a.jpg").size == (4, 8)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n broken"])
def test_what_is_no_image_is_named(tmp_path, content):
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(UnreadableImageError, match=r"bad\.png"):
        open_image(tmp_path / "bad.png")


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    Image.new("RGB", (64, 64)).save(tmp_path / "bomb.png")
    for limit in (64 * 63, 64 * 31):  # Pillow refuses only what exceeds twice its limit, which it then names
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(
            UnreadableImageError, match=rf"bomb\.png: .*(64 x 64|4,096) pixels, .* limit of {limit:,}\)"
        ):
            open_image(tmp_path / "bomb.png")


def test_resize_is_torchvision_s():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8))
    assert np.array_equal(np.asarray(resize(image, 24)), np.asarray(F.resize(image, [24, 24])))


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(1, 256, (height, width, 3), dtype=np.uint8))


def halved(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((image.width // 2, image.height // 2), Image.Resampling.BILINEAR))


def test_crop_scales_the_shorter_side_and_takes_the_center():
    wide, tall = noise(96, 48), noise(48, 72)  # to 24 pixels a side: both sides are halved, then the ends are cut off
    assert np.array_equal(np.asarray(resize(wide, 24, "crop")), halved(wide)[:, 12:36])
    assert np.array_equal(np.asarray(resize(tall, 24, "crop")), halved(tall)[6:30])
    for size in ((97, 31), (31, 97), (500, 10), (3, 2), (1, 50), (640, 481)):
        image = noise(*size)
        assert np.array_equal(np.asarray(resize(image, 24, "crop")), np.asarray(ImageOps.fit(image, (24, 24), 2))), size


def test_pad_scales_the_longer_side_and_centers_it_between_black_borders():
    for image, inside in ((noise(48, 24), np.s_[6:18, :]), (noise(24, 48), np.s_[:, 6:18])):
        expected = np.zeros((24, 24, 3), np.uint8)
        expected[inside] = halved(image)
        assert np.array_equal(np.asarray(resize(image, 24, "pad")), expected)


@pytest.mark.parametrize(("width", "height", "shorter"), [
    (97, 31, 8), (31, 97, 8), (500, 10, 1), (10, 500, 1), (3, 2, 16), (1, 1, 24), (1, 50, 1), (640, 481, 18), (49, 48, 24),
])  # fmt: skip
def test_pad_of_odd_sizes(width, height, shorter):
    """`shorter`: 24 / longer side * shorter side, rounded, and one pixel at least."""
    padded = np.asarray(resize(noise(width, height), 24, "pad"))
    lit = padded.any(axis=2)
    rows, columns = (np.flatnonzero(lit.any(axis=axis)) for axis in (1, 0))
    assert padded.shape == (24, 24, 3) and lit.sum() == len(rows) * len(columns)  # a rectangle; all around it is black
    assert sorted((len(rows), len(columns))) == [shorter, 24] and (len(columns) == 24) == (width >= height)
    for filled in (rows, columns):
        assert abs(filled[0] - (23 - filled[-1])) <= 1


def test_squares_are_the_same_with_every_fit():
    for side in (24, 7, 100):
        image = noise(side, side)
        pixels = [np.asarray(resize(image, 24, fit)) for fit in ("squash", "crop", "pad")]
        assert np.array_equal(pixels[0], pixels[1]) and np.array_equal(pixels[0], pixels[2])
        assert place(side, side, 24, "crop") == place(side, side, 24, "pad") == place(side, side, 24, "squash")


@pytest.mark.parametrize("size", [(4096, 1200), (1200, 4096)])
def test_a_reduced_jpeg_still_has_twice_the_pixels_of_what_is_cropped_from_it(tmp_path, size):
    noise(*size).save(tmp_path / "a.jpg")
    opened = open_image(tmp_path / "a.jpg", 256)
    assert opened.size == (size[0] // 2, size[1] // 2) and min(opened.size) >= 2 * 256


def test_fingerprint_tells_size_and_pixels_apart():
    black = [fingerprint(Image.new("RGB", size)) for size in ((2, 8), (8, 2), (4, 4))]
    assert len(set(black)) == 3
    assert fingerprint(Image.new("RGB", (2, 8))) == black[0]


def test_the_reason_of_the_system_is_named_where_the_file_cannot_even_be_looked_at(tmp_path):
    """Root may look at every file, but at none of such a name; a folder that may not be entered is another such reason."""
    with pytest.raises(UnreadableImageError, match=f"not a readable image \\({os.strerror(errno.ENAMETOOLONG)}\\)"):
        open_image(tmp_path / ("long" * 100 + ".png"))
