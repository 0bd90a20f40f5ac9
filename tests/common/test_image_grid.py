"""Images beside images: each where it belongs, in its own colors, under a title that fits."""

import io

import numpy as np
import pytest
from PIL import Image

from common.image_grid import CELL, GAP, HEADING, TITLE, encode_png, fit_title, font, grid, rows_of_images

RED, BLUE = np.zeros((30, 30, 3), np.uint8), np.zeros((30, 30, 3), np.uint8)
RED[..., 0], BLUE[..., 2] = 255, 255


def cell(sheet: np.ndarray, row: int, column: int, margin: int) -> np.ndarray:
    top, left = GAP + row * (TITLE + CELL + GAP) + TITLE, margin + column * (CELL + GAP)
    return sheet[top : top + CELL, left : left + CELL]


def test_each_image_is_in_its_row_and_column():
    sheet = rows_of_images([("first", [(RED, "a"), (BLUE, "b")]), ("second", [(BLUE, "c")])])
    assert (cell(sheet, 0, 0, HEADING) == [255, 0, 0]).all()
    assert (cell(sheet, 0, 1, HEADING) == [0, 0, 255]).all()
    assert (cell(sheet, 1, 0, HEADING) == [0, 0, 255]).all()
    assert (cell(sheet, 1, 1, HEADING) == 255).all()  # white: there is none
    assert (sheet[:, :HEADING] < 128).any()  # the headings
    assert not (sheet[:, HEADING - GAP : HEADING] < 128).any()  # end before the images


def test_an_image_keeps_its_shape_in_the_middle_of_its_cell():
    wide = np.zeros((100, 200, 3), np.uint8)
    found = cell(grid([(wide, "")]), 0, 0, GAP)
    dark = np.argwhere((found == 0).all(axis=-1))
    assert dark.min(0).tolist() == [36, 0]  # 144 / 2 high
    assert dark.max(0).tolist() == [107, 143]


def test_small_images_are_shown_pixel_by_pixel_and_floats_are_shares_of_255():
    maps = np.array([[0.0, 1.0], [0.5, 0.2]])
    found = cell(grid([(maps, "channel 3")]), 0, 0, GAP)
    half = CELL // 2
    quarters = [found[:half, :half], found[:half, half:], found[half:, :half], found[half:, half:]]
    assert [np.unique(quarter).tolist() for quarter in quarters] == [[0], [255], [128], [51]]


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (5, (2, 3)), (16, (4, 4))])
def test_a_grid_is_about_as_wide_as_high(count, shape):
    rows, columns = shape
    sheet = grid([(RED, "red")] * count)
    assert sheet.shape == (GAP + rows * (TITLE + CELL + GAP), GAP + columns * (CELL + GAP), 3)


@pytest.mark.parametrize("title", ["x" * 300, "$\\frac{1}{0}$", "a\nb\u202e.jpg", "ä 图", ""])
def test_untrusted_titles_take_one_line(title):
    line = fit_title(title)
    assert font(11).getlength(line) <= CELL
    assert "\n" not in line
    assert "\u202e" not in line
    assert fit_title("short.jpg") == "short.jpg"
    grid([(RED, title)])


@pytest.mark.parametrize("letter", "aä…×Ж")
def test_the_font_has_the_letters_of_file_names_and_titles(letter):
    assert bytes(font(11).getmask(letter)) != bytes(font(11).getmask("\uffff"))  # the box of a missing glyph


def test_a_png_holds_the_pixels():
    sheet = grid([(RED, "red")])
    assert (np.asarray(Image.open(io.BytesIO(encode_png(sheet)))) == sheet).all()
