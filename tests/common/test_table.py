"""One table in every form, read back by what reads that form."""

import csv
import io

from common.table import Cell, Column, Table

TABLE = Table.of(["name", "n"], [["=1+1", 3.0], ["a|b", None], ["-2", 0.1]])


def test_csv_is_read_back_with_full_digits_and_without_formulas():
    assert list(csv.reader(io.StringIO(TABLE.as_csv()))) == [["name", "n"], ["'=1+1", "3"], ["a|b", ""], ["-2", "0.1"]]


def test_text_is_aligned_left_and_numbers_right():
    lines = Table.of(["a", "count"], [["longer", 1], ["b", 22]]).as_text()
    assert lines == ["a       count", "longer      1", "b          22"]


def test_markdown_has_as_many_cells_in_each_line():
    lines = Table([*TABLE.columns, Column("x")], [["a|b", 1, Cell("0.5", 0.5, "0.4 to 0.6", best=True)]]).as_markdown()
    assert lines[1] == "|---|---:|---:|" and lines[2] == r"| a\|b | 1 | **0.5 (0.4 to 0.6)** |"


def test_columns_of_numbers_without_any_are_dropped_and_texts_stay():
    none = Column("none", lambda row: Cell("-", None))
    empty, doubled = none._replace(is_text=True), Column("doubled", lambda row: Cell(str(2 * row), 2 * row))
    table = Table.filled([none, empty, doubled], [1, 2])
    assert table.titles == ["none", "doubled"] and [[str(c) for c in line] for line in table.lines] == [
        ["-", "2"],
        ["-", "4"],
    ]


def test_latex_escapes_its_own_letters():
    assert Table.of(["a_b", "n"], [["50%", "1 ± 2"]]).as_latex()[2:5] == [
        r"a\_b & n \\",
        r"\midrule",
        r"50\% & 1 $\pm$ 2 \\",
    ]
