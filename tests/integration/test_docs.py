"""The map of the house is true: every file that the docs name exists, and no walk is longer than it should be."""

import re

import pytest

from common.run_folder import PROJECT

EXTENDING = (PROJECT / "docs" / "extending.md").read_text()
PAGES = [PROJECT / "CONTRIBUTING.md", PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    named = set(re.findall(r"`((?:[a-z_]+/)+[\w.-]*)`", page.read_text()))
    gone = sorted(
        path for path in named if not path.startswith(("outputs/", "checkpoints/")) and not (PROJECT / path).exists()
    )
    assert not gone


def test_every_walk_passes_through_at_most_ten_files():
    walks = EXTENDING[EXTENDING.index("## Three walks") :].split("\n**")[1:]
    lengths = [len(re.findall(r"^\d+\. `", walk, re.MULTILINE)) for walk in walks]
    assert len(lengths) == 3 and max(lengths) <= 10


def test_every_file_of_a_walk_is_imported_by_one_before_it():
    """A walk is a chain: each module is named in the source, or in the configuration, of a file before it in its list."""
    for walk in EXTENDING[EXTENDING.index("## Three walks") :].split("\n**")[1:2]:
        files = re.findall(r"^\d+\. `([\w/.-]+)`", walk, re.MULTILINE)
        texts = [(PROJECT / file).read_text() for file in files]
        for place, file in enumerate(files[1:], 1):
            module = file.removesuffix(".py").replace("/", ".")
            package, _, last = module.rpartition(".")
            pattern = rf"{re.escape(module)}\b|from {re.escape(package)} import [^\n]*\b{last}\b"
            assert any(re.search(pattern, text) for text in texts[:place]), file
