import re
from dataclasses import dataclass, field

import pytest

from common.checks import LARGEST_NUMBER
from common.errors import UserError
from common.untrusted.json_files import read_json, to_type


@dataclass
class Inner:
    size: int


@dataclass
class Outer:
    inner: Inner
    sizes: list[int] = field(default_factory=list)


def test_an_object_of_at_most_the_allowed_bytes_is_read(tmp_path):
    path = tmp_path / "a.json"
    text = f'{{"a": [{LARGEST_NUMBER - 1}, {1 - LARGEST_NUMBER}, 1e300, true, null], "b": {{}}, "c": []}}'
    path.write_text(text)
    found = {"a": [LARGEST_NUMBER - 1, 1 - LARGEST_NUMBER, 1e300, True, None], "b": {}, "c": []}
    assert read_json(path, len(text)) == found
    with pytest.raises(UserError, match=re.escape(str(path))):
        read_json(path, len(text) - 1)


@pytest.mark.parametrize("content", [
    f'{{"a": {LARGEST_NUMBER}}}', f'{{"a": [1, {{"b": [-{LARGEST_NUMBER}]}}]}}', '{"a": NaN}', '{"a": 1', "", '{"a": "\\xff"}',
    pytest.param('{"a":' + "[" * 100_000 + "]" * 100_000 + "}", id="deep"),
])  # fmt: skip
def test_what_is_not_a_whole_record_is_named_with_what_to_do(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"a\.json: not a whole record \(.+\); rerun it, or delete the folder$"):
        read_json(path, 10**6)
    with pytest.raises(UserError, match=r"a\.json: not a whole record \(.+\); ask its author$"):
        read_json(path, 10**6, "ask its author")


@pytest.mark.parametrize(("content", "kind"), [("[1]", "list"), ("5", "int"), ("null", "NoneType")])
def test_what_is_not_an_object_is_named_by_its_kind(tmp_path, content, kind):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=rf"not a whole record \(a {kind}, not an object\); ask its author$"):
        read_json(tmp_path / "a.json", 99, "ask its author")


@pytest.mark.parametrize(("content", "words"), [
    ({"inner": {"size": "x"}}, "inner.size: Expected int, got str, which no run writes; rerun it, or delete the folder"),
    ({"inner": {}}, "inner: Object missing required field size, which no run writes"),
    ({"inner": {"size": 1}, "sizes": [1, 2.5]}, "sizes[1]: Expected int, got float"),
    ({}, "the record: Object missing required field inner"),
])  # fmt: skip
def test_a_value_of_another_type_is_named_by_file_and_key(tmp_path, content, words):
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'a.json'}: {words}")):
        to_type(content, Outer, tmp_path / "a.json")


def test_unknown_keys_are_skipped():
    assert to_type({"inner": {"size": 1, "b": 2}, "a": 3}, Outer, None) == Outer(Inner(1))
