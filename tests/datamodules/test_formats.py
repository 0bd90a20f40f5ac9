"""Files beyond Pillow's reach: 16-bit color, TIFF, DICOM, HEIC; and broken ones, with their reason."""

import io
import struct
import sys
import zlib
from importlib.util import find_spec

import numpy as np
import pytest
import tifffile
from PIL import Image

from common.errors import UserError
from datamodules.decode import (
    FIRST_OF_SEVERAL,
    UnreadableImageError,
    decode_pixels,
    fingerprint,
    open_image,
    read_content,
    read_image,
    to_rgb,
)
from datamodules.deep_pixels import DeepPixels, ValueRange
from datamodules.formats import read_tiff
from datamodules.pixel_cache import Look
from tests.support.helpers import open_pixel_cache

VALUES = np.random.default_rng(0).integers(0, 4096, (20, 30, 3)).astype(np.uint16)
OF_12_BITS = ValueRange(0, 4095)


def png(values, *chunks):
    """Return the content of a PNG of 16 bits a channel, with chunks of (type, data) after its header."""
    height, width, channels = values.shape
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits_keeps_its_values(tmp_path, channels):
    values = np.concatenate([VALUES, np.full_like(VALUES[..., :1], 65535)], axis=2)
    values = {1: values[..., :1], 2: values[..., [0, 3]], 3: values[..., :3], 4: values}[channels]
    (tmp_path / "a.png").write_bytes(png(values))
    with Image.open(tmp_path / "a.png") as opened:  # as the Python API gets it
        decoded = decode_pixels(opened)
    assert decoded.fingerprint() == read_image(tmp_path / "a.png").fingerprint() and decoded.size == (30, 20)
    pixels = np.asarray(open_image(tmp_path / "a.png", value_range=OF_12_BITS)).astype(float)
    expected = np.broadcast_to((values[..., :1] if channels < 3 else values[..., :3]) * (255 / 4095), pixels.shape)
    assert np.abs(pixels - expected).max() <= 0.5001


@pytest.mark.parametrize("channels", [1, 3])
def test_png_of_16_bits_keeps_its_alpha(channels):
    values = np.concatenate([VALUES[..., :channels], VALUES[::-1, :, :1] * np.uint16(16)], axis=2)
    decoded = read_content(png(values), "content").source
    assert decoded.has_alpha and np.array_equal(decoded.values, values)


@pytest.mark.parametrize("options", [
    {"photometric": "rgb"}, {"photometric": "rgb", "compression": "zlib"}, {"photometric": "rgb", "bigtiff": True},
    {"photometric": "rgb", "planarconfig": "separate"}, {"photometric": "rgb", "byteorder": ">"},
], ids=["plain", "zlib", "big", "planes", "big-endian"])  # fmt: skip
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.float32])
def test_tiff_of_deep_color(tmp_path, options, dtype):
    planes = options.get("planarconfig") == "separate"
    tifffile.imwrite(
        tmp_path / "a.tif", np.moveaxis(VALUES, -1, 0).astype(dtype) if planes else VALUES.astype(dtype), **options
    )
    pixels = np.asarray(open_image(tmp_path / "a.tif", value_range=OF_12_BITS)).astype(float)
    assert np.abs(pixels - VALUES * (255 / 4095)).max() <= 0.5001


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint32, np.int32, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_tiff_of_any_gray_numbers(tmp_path, dtype, byteorder):
    low = 0 if np.dtype(dtype).kind == "u" else -1024
    values = (VALUES[..., 0].astype(np.int64) // 2 + low).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, byteorder=byteorder)
    pixels = np.asarray(open_image(tmp_path / "a.tif", value_range=ValueRange(low, low + 2047))).astype(float)
    assert np.abs(pixels[..., 0] - (values.astype(float) - low) * (255 / 2047)).max() <= 0.5001


def test_tiff_of_unsigned_32_bits_has_no_negative_values(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", VALUES[..., 0].astype(np.uint32) << 20)
    assert np.array_equal(read_image(tmp_path / "a.tif").source.values, VALUES[..., 0].astype(np.int64) << 20)


def test_tiff_of_12_bits_states_its_range(tmp_path):
    """Written as bytes, of which three are two values, with the tags of 12 bits."""
    values = VALUES[..., 0].astype(int)
    values[0, :2] = 0, 4095
    first, second = values[:, ::2], values[:, 1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=2).reshape(20, 45)
    tifffile.imwrite(tmp_path / "a.tif", packed.astype(np.uint8))
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        file.pages[0].tags[256].overwrite(30)
        file.pages[0].tags[258].overwrite(12)
    pixels = np.asarray(open_image(tmp_path / "a.tif", value_range=ValueRange(0, 9)))[..., 0]
    assert np.array_equal(pixels, (values * (255 / 4095)).round())
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        file.pages[0].tags[262].overwrite(0)  # white is zero: beyond Pillow
    try:
        seen = np.asarray(open_image(tmp_path / "a.tif"))[..., 0]
    except UnreadableImageError as error:
        assert 'a TIFF of 1 x 12 bits, which needs another package: pip install -e ".[tiff]"' in str(error)
    else:  # with the extra
        assert np.array_equal(seen, 255 - pixels)


def test_tiff_of_one_bit_read_without_pillow(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", VALUES[..., 0] > 2000, photometric="minisblack")
    seen = read_tiff(tmp_path / "a.tif")
    assert np.array_equal(seen.to_image(*seen.range_of(None)), (VALUES[..., 0] > 2000) * 255)


def test_tiff_whose_white_is_zero(tmp_path):
    for name, photometric in (("black", "minisblack"), ("white", "miniswhite")):
        tifffile.imwrite(tmp_path / f"{name}.tif", VALUES[..., 0], photometric=photometric)
    black, white = (
        np.asarray(open_image(tmp_path / f"{name}.tif", value_range=OF_12_BITS)) for name in ("black", "white")
    )
    assert np.array_equal(black, 255 - white)


def test_what_a_file_states_of_its_bits_comes_first(tmp_path):
    """JPEG 2000 of 12 bits; a range of the data set is for files that state none, one of the user's for all."""
    values = (VALUES[..., 0] // 16).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.jp2")
    decoded = read_image(tmp_path / "a.jp2")
    assert decoded.source.stated is None  # of 16 bits, as this writer says
    stating = decoded._replace(source=DeepPixels(values, stated=(0.0, 510.0)))
    assert np.array_equal(
        np.asarray(stating.rgb(ValueRange(0, 9))), np.asarray(stating.rgb(ValueRange(0, 510, of_all=True)))
    )
    assert not np.array_equal(np.asarray(stating.rgb()), np.asarray(stating.rgb(ValueRange(0, 255, of_all=True))))


def test_jpeg_2000_of_12_bits_has_its_range_from_a_file_its_content_and_pillow(tmp_path):
    """One of 16 bits, of which the marker SIZ is changed to 12; its values lie 2**15 - 2**11 higher, by which it is shifted."""
    content = io.BytesIO()
    Image.fromarray(VALUES[..., 0] + np.uint16(2**15 - 2**11)).save(content, "JPEG2000")
    content = bytearray(content.getvalue())
    content[content.index(b"\xff\x4f\xff\x51") + 42] = 12 - 1
    (tmp_path / "a.jp2").write_bytes(content)
    found = [read_image(tmp_path / "a.jp2"), read_content(bytes(content), "content")]
    for source in (tmp_path / "a.jp2", io.BytesIO(content)):
        with Image.open(source) as opened:
            found.append(decode_pixels(opened))
    expected = (VALUES[..., 0] * (16 * 255 / 65535)).round()
    assert all(np.array_equal(np.asarray(each.rgb(ValueRange(0, 9)))[..., 0], expected) for each in found)


def dicom(path, values, **elements):
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    header.SOPClassUID, header.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    header.Rows, header.Columns = values.shape[:2]
    header.SamplesPerPixel = 3 if values.ndim == 3 else 1
    header.PhotometricInterpretation = "RGB" if values.ndim == 3 else "MONOCHROME2"
    if values.ndim == 3:
        header.PlanarConfiguration = 0
    header.BitsAllocated = header.BitsStored = 8 * values.dtype.itemsize
    header.PixelRepresentation = int(values.dtype.kind == "i")
    for name, value in elements.items():
        setattr(header, name, value)
    header.HighBit = header.BitsStored - 1
    header.PixelData = values.tobytes()
    header.save_as(path, enforce_file_format=True)
    return path


CT = (VALUES[..., 0].astype(np.int16) - 1024, {"RescaleSlope": 1, "RescaleIntercept": 0})


def test_dicom_with_its_window(tmp_path):
    """C.11.2.1.2: center 40 and width 400 reach from -160 to 239 Hounsfield units; of two windows the first."""
    stored = (CT[0] + 1024).astype(np.uint16)
    path = dicom(
        tmp_path / "ct", stored, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=[40, 500], WindowWidth=[400, 2000]
    )
    expected = ((CT[0].clip(-160, 239) + 160.0) * (255 / 399)).round()
    assert np.array_equal(np.asarray(open_image(path))[..., 0], expected)
    assert np.array_equal(np.asarray(open_image(path, value_range=ValueRange(0, 9)))[..., 0], expected)
    bone = np.asarray(open_image(path, value_range=ValueRange(-1000, 1000, of_all=True)))[..., 0]
    assert np.array_equal(bone, ((CT[0].clip(-1000, 1000) + 1000.0) * (255 / 2000)).round())


@pytest.mark.parametrize(("function", "slope", "center", "width"), [
    ("LINEAR_EXACT", 0.001, 0.5, 1.0), ("LINEAR_EXACT", 1, 2000, 9), ("LINEAR", 1, 2000, 9), ("LINEAR", 0.01, 20, 1.5),
    ("SIGMOID", 1, 2000, 900), ("SIGMOID", 0.001, 1, 0.4), ("SIGMOID", 1, -9, 1),
])  # fmt: skip
def test_the_window_of_dicom_is_pydicom_s(tmp_path, function, slope, center, width):
    """Of small units, such as uptake in PET, a width of 1 is a window: C.11.2.1.3.2."""
    from pydicom import dcmread, pixels

    units = {"RescaleSlope": slope, "RescaleIntercept": 0}
    window = {"VOILUTFunction": function, "WindowCenter": center, "WindowWidth": width}
    path = dicom(tmp_path / "a", VALUES[..., 0], BitsStored=12, **units, **window)
    expected = pixels.apply_windowing(VALUES[..., 0] * slope, dcmread(path)) / (4095 * slope) * 255
    assert np.abs(np.asarray(open_image(path))[..., 0] - expected).max() <= 0.5001


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")  # by pydicom, as the test writes it
@pytest.mark.parametrize("window", [("nan", 9), (9, "inf"), ("inf", 9)])
@pytest.mark.parametrize("function", ["LINEAR", "SIGMOID"])
def test_a_window_of_dicom_that_is_not_finite_is_none(tmp_path, window, function):
    stated = {"VOILUTFunction": function, "WindowCenter": window[0], "WindowWidth": window[1]}
    path = dicom(tmp_path / "a", VALUES[..., 0], BitsStored=12, **stated)
    assert np.array_equal(np.asarray(open_image(path))[..., 0], (VALUES[..., 0] * (255 / 4095)).round())


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
def test_a_cache_of_version_0_4_does_not_keep_such_a_window(tmp_path, monkeypatch):
    path = dicom(tmp_path / "a", VALUES[..., 0], BitsStored=12, WindowCenter="nan", WindowWidth=9)
    with monkeypatch.context() as of_0_4:
        of_0_4.setattr("datamodules.pixel_cache.VERSION", 9)
        of_0_4.setattr("datamodules.formats._window", lambda _: (np.nan, np.nan))
        assert not open_pixel_cache([path], Look(8), tmp_path / "cache")[0].any()
    assert open_pixel_cache([path], Look(8), tmp_path / "cache")[0].any()


@pytest.mark.parametrize(("name", "dtype"), [("FloatPixelData", np.float32), ("DoubleFloatPixelData", np.float64)])
@pytest.mark.parametrize("window", [{}, {"VOILUTFunction": "LINEAR_EXACT", "WindowCenter": 0.5, "WindowWidth": 1}])
def test_dicom_of_floats(tmp_path, name, dtype, window):
    """Parametric maps, whose files state no bits (PS3.3 C.7.6.24)."""
    from pydicom import dcmread

    header = dcmread(dicom(tmp_path / "a", VALUES[..., 0], **window))
    del header.PixelData, header.BitsStored, header.HighBit, header.PixelRepresentation
    header.BitsAllocated = 8 * np.dtype(dtype).itemsize
    setattr(header, name, (VALUES[..., 0] / 4095).astype(dtype).tobytes())
    header.save_as(tmp_path / "a")
    pixels = np.asarray(open_image(tmp_path / "a", value_range=ValueRange(0, 9 if window else 1)))[..., 0]
    assert np.abs(pixels - VALUES[..., 0] * (255 / 4095)).max() <= 0.5001


@pytest.mark.parametrize("bits", [8, 16])
def test_dicom_of_a_table_of_units_has_the_bits_of_its_entries(tmp_path, bits):
    """C.11.1.1.1: not those of what is stored, which are places in the table."""
    from pydicom.dataset import Dataset

    table = Dataset()
    table.LUTDescriptor = [4096, 0, bits]
    entries = np.linspace(0, 2**bits - 1, 4096).round().astype(np.uint16)[::-1]
    table.add_new("LUTData", "OW", entries.tobytes())
    path = dicom(tmp_path / "a", VALUES[..., 0], BitsStored=12, ModalityLUTSequence=[table])
    pixels = np.asarray(open_image(path, value_range=ValueRange(0, 65535)))[..., 0]
    assert np.abs(pixels - (4095 - VALUES[..., 0].astype(float)) * (255 / 4095)).max() <= 1


@pytest.mark.parametrize("of_each", [(), ("window",), ("window", "units")])
def test_enhanced_dicom_with_the_units_and_the_window_of_its_first_frame(tmp_path, of_each):
    """They are in functional groups there (PS3.3 C.7.6.16), of all frames or of each; the pixels are those of a usual file."""
    from pydicom.dataset import Dataset

    stored, found = (CT[0] + 1024).astype(np.uint16), []
    groups = {"units": ("PixelValueTransformationSequence", {"RescaleSlope": 1, "RescaleIntercept": -1024}),
              "window": ("FrameVOILUTSequence", {"WindowCenter": [40, 500], "WindowWidth": [400, 2000]})}  # fmt: skip
    shared, *frames = (Dataset() for _ in range(3))
    for name, (sequence, values) in groups.items():
        for number, frame in enumerate(frames if name in of_each else [shared]):
            item = Dataset()
            for key, value in values.items():
                setattr(item, key, value if not number else 1)
            setattr(frame, sequence, [item])
    both = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": frames}
    usual = {key: value for _, values in groups.values() for key, value in values.items()}
    for name, elements in (("enhanced", both | {"NumberOfFrames": 2, "Rows": len(stored)}), ("usual", usual)):
        path = dicom(tmp_path / name, np.concatenate([stored, stored]) if name == "enhanced" else stored, **elements)
        found.append([
            np.asarray(open_image(path, value_range=given))
            for given in (None, ValueRange(-1000, 400, of_all=True))
        ])  # fmt: skip
    assert np.array_equal(found[0], found[1])


def test_dicom_without_a_window(tmp_path):
    """12 of 16 bits stored are its range; 16 of 16 say nothing, and negative values are values."""
    path = dicom(tmp_path / "xray.dcm", VALUES[..., 0], BitsStored=12)
    assert np.array_equal(np.asarray(open_image(path))[..., 0], (VALUES[..., 0] * (255 / 4095)).round())
    decoded = read_image(dicom(tmp_path / "ct.dcm", CT[0]))
    assert decoded.source.stated is None and decoded.source.spread()[0] < -1000
    inverted = dicom(tmp_path / "inverted.dcm", VALUES[..., 0], BitsStored=12, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(np.asarray(open_image(inverted)), 255 - np.asarray(open_image(path)))


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize(("slope", "intercept"), [(2, -1024), (-1, 5), (0.5, 1000)])
def test_the_stored_bits_of_dicom_are_a_range_in_its_own_units(tmp_path, slope, intercept, signed):
    stored = VALUES[..., 0].astype(np.int16) - 2048 * signed
    path = dicom(tmp_path / "a", stored, BitsStored=12, PixelRepresentation=signed, RescaleSlope=slope,
                 RescaleIntercept=intercept)  # fmt: skip
    pixels = np.asarray(open_image(path, value_range=ValueRange(0, 9)))[..., 0]
    expected = VALUES[..., 0] * (255 / 4095)
    assert np.abs(pixels - (expected if slope > 0 else 255 - expected)).max() <= 0.5001


@pytest.mark.parametrize("units", [{"RescaleSlope": 2}, {"RescaleIntercept": -1024}])
def test_of_dicom_a_slope_without_an_intercept_does_not_count(tmp_path, units):
    """Neither for the values, which pydicom scales, nor for their range; one requires the other (PS3.3 C.11.1)."""
    path = dicom(tmp_path / "a", VALUES[..., 0], BitsStored=12, **units)
    assert np.array_equal(np.asarray(open_image(path))[..., 0], (VALUES[..., 0] * (255 / 4095)).round())


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
@pytest.mark.parametrize(("slope", "intercept"), [("inf", 0), ("nan", 0), (1, "-inf")])
def test_units_of_dicom_that_are_not_finite_are_named(tmp_path, slope, intercept):
    path = dicom(tmp_path / "a", VALUES[..., 0], RescaleSlope=slope, RescaleIntercept=intercept)
    message = f"RescaleSlope {slope} and RescaleIntercept {intercept}, not finite numbers"
    with pytest.raises(UnreadableImageError, match=rf"^{path}: .*{message}"):
        open_image(path)


def test_dicom_of_8_bits_and_in_color(tmp_path):
    gray, color = (VALUES[..., 0] // 16).astype(np.uint8), (VALUES // 16).astype(np.uint8)
    assert np.array_equal(np.asarray(open_image(dicom(tmp_path / "gray.dcm", gray)))[..., 1], gray)
    assert np.array_equal(np.asarray(open_image(dicom(tmp_path / "color.dcm", color))), color)
    for name in ("gray.dcm", "color.dcm"):
        assert read_image(tmp_path / name).fingerprint() == fingerprint(open_image(tmp_path / name))  # no deep pixels
    window = {"WindowCenter": 100.5, "WindowWidth": 101}
    seen = np.asarray(open_image(dicom(tmp_path / "window.dcm", gray, **window)))[..., 1]
    assert np.array_equal(seen, ((gray.astype(float).clip(50, 150) - 50) * 2.55).round())
    whole = {"WindowCenter": 127.5, "WindowWidth": 255, "VOILUTFunction": "SIGMOID"}
    seen = np.asarray(open_image(dicom(tmp_path / "sigmoid.dcm", gray, **whole)))[..., 1]
    assert np.array_equal(seen, (255 / (1 + np.exp(-4 * (gray - 127.5) / 255))).round())


@pytest.mark.parametrize(("stored", "entries", "nominal"), [
    (np.uint8, np.uint16, 16), (np.uint16, np.uint8, 8), (np.uint8, np.uint8, 8), (np.uint8, np.uint8, 16),
    (np.uint16, np.uint16, 8),
])  # fmt: skip
def test_dicom_of_a_palette_has_the_bits_of_its_colors(tmp_path, stored, entries, nominal):
    """Not those of its pixels, which are numbers of colors (PS3.3 C.7.6.3.1.5)."""
    color = np.array([[0, 64, 255], [200, 128, 0], [10, 90, 30], [255, 1, 7]])
    table = (color * (257 if (entries, nominal) == (np.uint16, 16) else 1)).astype(entries)
    numbers = np.array([[2, 1, 0], [0, 3, 1]])
    elements = {"PhotometricInterpretation": "PALETTE COLOR"}
    for channel, name in enumerate(("Red", "Green", "Blue")):
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [4, 0, nominal]
        elements[f"{name}PaletteColorLookupTableData"] = table[:, channel].tobytes()
    path = dicom(tmp_path / "palette", numbers.astype(stored), **elements)
    assert np.array_equal(np.asarray(open_image(path)), color[numbers])


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.uint16])
@pytest.mark.parametrize(("channels", "options"), [(1, {}), (3, {}), (3, {"planarconfig": "separate"})])
def test_further_pages_of_a_tiff_are_known_of_and_smaller_versions_of_the_first_are_none(
    tmp_path, dtype, channels, options
):
    """Also of those that Pillow does not read."""
    values = VALUES[..., :channels].squeeze().astype(dtype)
    values = np.moveaxis(values, -1, 0) if options else values
    options = {"photometric": "rgb" if channels == 3 else "minisblack", **options}
    for name, subfile_types in (("one", []), ("pyramid", [1, 1]), ("mask", [4]), ("stack", [0]), ("both", [1, 0])):
        with tifffile.TiffWriter(tmp_path / name) as file:
            file.write(values, metadata=None, **options)
            for kind in subfile_types:
                of_kind = {} if kind == 4 else options
                further = VALUES[..., 0] > 2000 if kind == 4 else values[..., ::2, :]
                file.write(further, metadata=None, subfiletype=kind, **of_kind)
        assert read_image(tmp_path / name).mode.endswith(FIRST_OF_SEVERAL) == (0 in subfile_types), name


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_further_frames_of_a_dicom_file_are_known_of(tmp_path, dtype, channels):
    frames = (VALUES[..., :channels] // 16).squeeze().astype(dtype)
    both = dicom(tmp_path / "two", np.concatenate([frames, frames[::-1]]), Rows=len(frames), NumberOfFrames=2)
    one = dicom(tmp_path / "one", frames, NumberOfFrames=1)
    assert read_image(both).mode == f"DICOM{FIRST_OF_SEVERAL}" and read_image(one).mode == "DICOM"
    assert read_image(both).fingerprint() == read_image(one).fingerprint()


@pytest.mark.parametrize("options", [{}, {"planarconfig": "separate"}])
def test_a_page_of_deep_color_that_pillow_is_at_keeps_its_values(tmp_path, options):
    pages = np.stack([VALUES, VALUES[::-1]])
    stored = np.moveaxis(pages, -1, 1) if options else pages
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", **options)
    with Image.open(tmp_path / "a.tif") as opened:
        for number, values in enumerate(pages):
            opened.seek(number)
            assert np.array_equal(decode_pixels(opened).source.values, values)


def test_heic(tmp_path):
    pytest.importorskip("pillow_heif").register_heif_opener()
    image = Image.new("RGB", (64, 48), (200, 60, 40))
    image.save(tmp_path / "a.heic", quality=95)
    opened = open_image(tmp_path / "a.heic")
    assert opened.size == (64, 48) and np.abs(np.asarray(opened).astype(int) - (200, 60, 40)).max() < 8


@pytest.mark.parametrize(("package", "extra", "content"), [
    ("pillow_heif", "heif", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"), ("pydicom", "dicom", b"\0" * 128 + b"DICM"),
])  # fmt: skip
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, package, extra, content):
    from datamodules import formats

    formats.register_heif.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "IMG_1").write_bytes(content)
    with pytest.raises(
        UnreadableImageError, match=rf'IMG_1: not a readable image \(a .* image.*pip install -e "\.\[{extra}\]"'
    ):
        open_image(tmp_path / "IMG_1")
    formats.register_heif.cache_clear()


@pytest.mark.parametrize("block", [b"garbage!", b"", b"II*\0" + b"\xff" * 20, b"Exif\0\0II"])
def test_a_broken_exif_block_of_a_png_is_as_one_of_a_jpeg(tmp_path, block):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 4), "red").save(buffer, "PNG")
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
    content = buffer.getvalue()
    (tmp_path / "a.png").write_bytes(content[:33] + chunk + content[33:])
    assert open_image(tmp_path / "a.png").size == (8, 4)


TURNED = {  # by TIFF's tag 274: what is done with the rows of the file
    1: lambda values: values, 2: np.fliplr, 3: lambda values: np.rot90(values, 2), 4: np.flipud,
    5: lambda values: values.swapaxes(0, 1), 6: lambda values: np.rot90(values, -1),
    7: lambda values: np.rot90(values, 2).swapaxes(0, 1), 8: np.rot90,
}  # fmt: skip


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    ("dtype", "channels"), [(np.uint8, 1), (np.uint8, 4), (np.uint16, 1), (np.uint16, 3), (float, 1)]
)
def test_a_tiff_is_turned_once_from_its_file_its_content_and_pillow(tmp_path, dtype, channels, compression):
    """Pillow maps uncompressed ones in the wrong shape, turns all as it loads them, and knows none of 64 bits."""
    gray = (VALUES[..., 0] // 16).astype(np.uint8)
    values = np.dstack([gray, 255 - gray, gray // 2, np.full_like(gray, 255)])[..., :channels].squeeze()
    stored = (values.astype(int) * (257 if dtype == np.uint16 else 1)).astype(dtype)
    kind = {"photometric": "rgb"} if channels > 1 else {}
    kind |= {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    full = ValueRange(0, 255 if dtype is float else 65535)
    for number, turned in TURNED.items():
        path = tmp_path / f"{number}.tif"
        tifffile.imwrite(path, stored, compression=compression, extratags=[(274, 3, 1, number, True)], **kind)
        expected = turned(values if channels > 1 else np.dstack([values] * 3))[..., :3]
        found = [read_image(path), read_content(path.read_bytes(), "content")]
        if dtype is not float:
            for source in (path, io.BytesIO(path.read_bytes())):
                with Image.open(source) as opened:
                    found.append(decode_pixels(opened))
        assert all(np.array_equal(np.asarray(each.rgb(full)), expected) for each in found), number


def test_deep_images_are_turned_by_their_exif(tmp_path):
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"[6:]
    (tmp_path / "a.png").write_bytes(png(VALUES, (b"eXIf", exif)))
    turned = np.asarray(open_image(tmp_path / "a.png", value_range=OF_12_BITS)).astype(float)
    assert turned.shape == (30, 20, 3) and np.abs(turned - np.rot90(VALUES, -1) * (255 / 4095)).max() <= 0.5001


@pytest.mark.parametrize(("tag", "size"), [(256, "0 x 30"), (257, "40 x 0")])
def test_a_tiff_of_no_pixels_is_refused(tmp_path, tag, size):
    """Which newer versions of tifffile read as an array of nothing."""
    file = tmp_path / "a.tif"
    tifffile.imwrite(file, np.zeros((30, 40), np.uint16))
    with tifffile.TiffFile(file, mode="r+") as tiff:
        tiff.pages[0].tags[tag].overwrite(0)
    with pytest.raises(UnreadableImageError, match=f"a TIFF of 1 x 16 bits and {size} pixels"):
        read_image(file, 16)


def test_a_tiff_that_cannot_be_read_has_its_reason(tmp_path, caplog):
    tifffile.imwrite(tmp_path / "complex.tif", np.zeros((4, 4), np.complex64))
    tifffile.imwrite(
        tmp_path / "spectral.tif", np.zeros((8, 8, 7), np.float32), photometric="minisblack", planarconfig="contig"
    )
    tifffile.imwrite(tmp_path / "satellite.tif", np.zeros((8, 8, 13), np.uint8), planarconfig="contig")
    (tmp_path / "cut.tif").write_bytes((tmp_path / "complex.tif").read_bytes()[:60])
    tifffile.imwrite(tmp_path / "float.tif", VALUES.astype(np.float32), photometric="rgb")
    (tmp_path / "lzw.tif").write_bytes(_with_compression((tmp_path / "float.tif").read_bytes()))
    tifffile.imwrite(tmp_path / "lab.tif", VALUES, photometric="cielab")
    tifffile.imwrite(tmp_path / "photo.tif", (VALUES // 16).astype(np.uint8), photometric="rgb")
    (tmp_path / "webp.tif").write_bytes(_with_compression((tmp_path / "photo.tif").read_bytes(), 50001))
    install = None if find_spec("imagecodecs") else r'pip install -e "\.\[tiff\]"'
    for name, reason in (
        ("complex", "a TIFF of 1 x 64 bits of complex64, which are not gray values"),
        ("spectral", "a TIFF of 7 x 32 bits, but an image may have at most 4 channels"),
        ("satellite", "a TIFF of 13 x 8 bits, but an image may have at most 4 channels"),
        ("lab", "a TIFF of 3 x 16 bits of cielab; convert it to gray or RGB"),
        ("cut", "corrupted IFD structure"), ("lzw", f"compressed by LZW.*{install}" if install else "LZW"),
        ("webp", f"compressed by WEBP.*{install}" if install else "(?i:webp)"),
    ):  # fmt: skip
        with pytest.raises(UnreadableImageError, match=rf"{name}\.tif: not a readable image \(.*{reason}"):
            open_image(tmp_path / f"{name}.tif")
    assert not caplog.records  # Pillow and tifffile log some reasons, as errors of no file


def _with_compression(content, number=5):
    """Return a TIFF whose tag 259 says so: LZW by default."""
    tag = struct.pack("<HHI", 259, 3, 1)
    place = content.index(tag) + len(tag)
    return content[:place] + struct.pack("<H", number) + content[place + 2 :]


def test_not_a_number_is_named(tmp_path):
    values = np.zeros((4, 4), np.float32)
    values[0, 0] = np.nan
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(UnreadableImageError, match=r"a\.tif: .*some of its pixels are NaN"):
        open_image(tmp_path / "a.tif", value_range=OF_12_BITS)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("layout", [{"planarconfig": "contig"}, {"planarconfig": "separate"}])
def test_a_further_channel_of_a_tiff_is_alpha_only_where_the_file_says_so(tmp_path, dtype, layout):
    """Near infrared beside RGB, a mask beside gray: left out, in every layout. A transparent corner becomes white."""
    further = np.zeros((20, 30, 1), np.uint16)
    further[10:] = 65535
    gray, color = VALUES[..., :1], VALUES
    axis = 0 if layout["planarconfig"] == "separate" else -1
    for name, values, photometric in (("gray", gray, "minisblack"), ("color", color, "rgb")):
        content = np.moveaxis(np.concatenate([values, further], axis=2), -1, axis).astype(dtype)
        for kind in ("unspecified", "unassalpha"):
            path = tmp_path / f"{name}_{kind}.tif"
            tifffile.imwrite(path, content, photometric=photometric, extrasamples=[kind], **layout)
            pixels = np.asarray(open_image(path, value_range=OF_12_BITS)).astype(float)
            expected = np.broadcast_to(values * (255 / 4095), (20, 30, 3))
            assert np.abs(pixels - expected)[10:].max() <= 1.0001, (name, kind)
            assert (pixels[:10] == 255).all() == (kind == "unassalpha") or dtype == np.float32, (name, kind)
            if kind == "unspecified":
                assert np.abs(pixels - expected).max() <= 1.0001


def test_alpha_of_one_value_says_nothing():
    """Opaque is 255 in an array of any integers, 4095 in one of 12 bits."""
    for dtype, opaque in ((np.int64, 255), (np.uint16, 4095), (np.uint16, 65535), (np.float64, 1.0)):
        array = np.concatenate([VALUES, np.full((20, 30, 1), opaque)], axis=2).astype(dtype)
        pixels = np.asarray(decode_pixels(array).rgb(OF_12_BITS)).astype(float)
        assert np.abs(pixels - VALUES * (255 / 4095)).max() <= 0.5001


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("layout", ["contig", "separate"])
@pytest.mark.parametrize("kind", ["assocalpha", "unassalpha"])
def test_colors_that_are_multiplied_with_alpha_are_laid_over_white_once(tmp_path, dtype, layout, kind):
    colors, alpha = VALUES / 4095, np.ones((20, 30, 1))
    alpha[:10], alpha[0] = 0.5, 0
    content = np.concatenate([colors * (alpha if kind == "assocalpha" else 1), alpha], axis=2)
    if dtype != np.float32:
        content = (content * np.iinfo(dtype).max).round()
    content = np.moveaxis(content, -1, 0) if layout == "separate" else content
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, content.astype(dtype), photometric="rgb", extrasamples=[kind], planarconfig=layout)
    pixels = np.asarray(open_image(path, value_range=ValueRange(0, 1 if dtype == np.float32 else 65535))).astype(float)
    assert np.abs(pixels - 255 * (colors * alpha + 1 - alpha)).max() <= 1.1


@pytest.mark.parametrize("bits", [4, 12])
def test_alpha_has_the_bits_of_the_file(bits):
    """Opaque is 4095 in a TIFF of 12 bits, whose values are in 16: white shows through at half of that."""
    most = 2**bits - 1
    alpha = np.full((20, 30, 1), most)
    alpha[10:] = (most + 1) // 2
    array = np.concatenate([VALUES >> (12 - bits), alpha], axis=2).astype(np.uint8 if bits < 8 else np.uint16)
    pixels = np.asarray(to_rgb(DeepPixels(array, (0.0, most), has_alpha=True).to_image(0, most))).astype(float)
    expected = array[..., :3] * (255 / most)
    expected[10:] += (255 - expected[10:]) * (1 - alpha[-1, 0, 0] / most)
    assert np.abs(pixels - expected).max() <= 1.5


def test_signed_bytes_and_cmyk_of_16_bits(tmp_path):
    signed = np.linspace(-128, 127, 600).reshape(20, 30).astype(np.int8)
    tifffile.imwrite(tmp_path / "signed.tif", signed)
    pixels = np.asarray(open_image(tmp_path / "signed.tif", value_range=ValueRange(-128, 127)))[..., 0]
    assert np.array_equal(pixels, signed.astype(int) + 128)
    inks = np.concatenate([VALUES * 16, np.zeros((20, 30, 1), np.uint16)], axis=2)
    tifffile.imwrite(tmp_path / "inks.tif", inks, photometric="separated", extrasamples=[])
    expected = Image.frombytes("CMYK", (30, 20), (inks >> 8).astype(np.uint8).tobytes()).convert("RGB")
    assert np.abs(np.asarray(open_image(tmp_path / "inks.tif")).astype(int) - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize("name", ["a.png", "gray.png", "a.tif", "white.tif"])
def test_an_opened_image_is_what_its_file_is(tmp_path, name):
    """Also one that came over the network; of 16-bit color that was decoded already the lower bits are lost."""
    if name.endswith("png"):
        (tmp_path / name).write_bytes(png(VALUES if name == "a.png" else VALUES[..., :1]))
    else:
        values, photometric = (VALUES, "rgb") if name == "a.tif" else (VALUES[..., 0], "miniswhite")
        tifffile.imwrite(tmp_path / name, values, photometric=photometric)
    expected = np.asarray(open_image(tmp_path / name, value_range=OF_12_BITS))
    with Image.open(io.BytesIO((tmp_path / name).read_bytes())) as image:
        decoded = decode_pixels(image)
    assert np.array_equal(np.asarray(decoded.rgb(OF_12_BITS)), expected)
    assert decoded.fingerprint() == read_image(tmp_path / name).fingerprint()
    if name == "a.tif":
        with Image.open(io.BytesIO((tmp_path / name).read_bytes())) as image:
            image.load()
            with pytest.raises(UserError, match="already decoded to 8 bits; give its path or its array"):
                decode_pixels(image)


@pytest.mark.parametrize(
    ("chunk", "crc"), [(b"tEXta\0b", 1), (b"iCCPa\0\x07abc", 0), (b"gAMA\0", 0), (b"zTXta\0\0xx", 0)]
)
def test_what_is_damaged_beside_the_pixels_of_a_png_does_not_matter(tmp_path, chunk, crc):
    buffer = io.BytesIO()
    Image.fromarray((VALUES // 16).astype(np.uint8)).save(buffer, "PNG")
    content = buffer.getvalue()
    damaged = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk) ^ crc)
    (tmp_path / "a.png").write_bytes(content[:33] + damaged + content[33:])
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png")), VALUES // 16)
    deep = png(VALUES)
    assert np.array_equal(read_content(deep[:33] + damaged + deep[33:], "deep").source.values, VALUES)
    (tmp_path / "cut.png").write_bytes(content[:33] + damaged + content[33:-40])
    with pytest.raises(UnreadableImageError, match=r"cut\.png: not a readable image"):
        open_image(tmp_path / "cut.png")
