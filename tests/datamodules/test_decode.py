import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import functional as F

from datamodules.decode import UnreadableImageError, fingerprint, open_image, resize, to_rgb

GRADIENT = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "a.webp", "a.bmp", "a.tif", "a.gif", "mit Leerzeichen 🙂.png"])
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_common_formats_and_modes_become_rgb(tmp_path, name, mode):
    image = Image.fromarray(GRADIENT).convert(mode)
    if name.endswith(("JPG", "webp")) and mode in ("P", "1"):
        image = image.convert("RGB")
    image.save(tmp_path / name, **({"quality": 100} if name.endswith(("JPG", "webp")) else {}))
    opened = open_image(tmp_path / name)
    assert opened.mode == "RGB" and opened.size == (8, 8)
    tolerance = 12 if name.endswith(("JPG", "webp")) else 0
    assert np.abs(np.asarray(opened).astype(int) - np.asarray(image.convert("RGB")).astype(int)).max() <= tolerance


def test_alpha_is_laid_over_white():
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    assert np.asarray(to_rgb(image)).tolist() == [[[255, 255, 255], [10, 20, 30]]]


def test_sixteen_bits_are_scaled_and_not_cut():
    image = Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16))
    assert np.asarray(to_rgb(image))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_cmyk_is_read(tmp_path):
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    assert np.asarray(open_image(tmp_path / "a.jpg"))[0, 0, 0] > 200


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (8, 4))
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(tmp_path / "a.jpg", exif=exif)
    assert open_image(tmp_path / "a.jpg").size == (4, 8)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(open_image(tmp_path / "a.gif"))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n broken"])
def test_what_is_no_image_is_named(tmp_path, content):
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(UnreadableImageError, match=r"bad\.png"):
        open_image(tmp_path / "bad.png")


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    Image.new("RGB", (64, 64)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 63)
    with pytest.raises(UnreadableImageError, match=r"bomb\.png.*exceeds limit"):
        open_image(tmp_path / "bomb.png")


def test_resize_is_torchvision_s():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8))
    assert np.array_equal(np.asarray(resize(image, 24)), np.asarray(F.resize(image, [24, 24])))


def test_fingerprint_tells_size_and_pixels_apart():
    black = [fingerprint(Image.new("RGB", size)) for size in ((2, 8), (8, 2), (4, 4))]
    assert len(set(black)) == 3
    assert fingerprint(Image.new("RGB", (2, 8))) == black[0]
