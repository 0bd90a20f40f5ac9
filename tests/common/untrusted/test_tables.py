"""Tables: read as text, each mistake named with file and line."""

import pytest

from common.errors import UserError
from common.untrusted.tables import check_complete, check_size, iterate_csv, read_csv


def write(tmp_path, content: bytes):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    return path


def test_rows_have_their_line_and_stay_text(tmp_path):
    path = write(
        tmp_path, b'\xef\xbb\xbfa,b\n1,"x\ny"\n,caf\xe9\n'
    )  # a byte order mark, a value of two lines, no UTF-8
    assert list(iterate_csv(path, ["b", "a"])) == [(3, {"a": "1", "b": "x\ny"}), (4, {"a": "", "b": "caf\udce9"})]
    assert read_csv(write(tmp_path, b"a,b\n")) == []


@pytest.mark.parametrize(("content", "words"), [
    (b"", "line 0: column path is missing; found nothing"),
    (b"a,b\n1,2\n", "line 1: column path is missing; found a, b"),
    (b"path,a,a\n1,2,3\n", "line 1: column a appears twice"),
    (b"path,a\n1,2\n1\n", "line 3: values are missing or too many"),
    (b"path,a\n1,2,3\n", "line 2: values are missing or too many"),
    (b'path,a\n1,"2\n', "line 2: unexpected end of data"),
    (b"path,a\n1," + b"x" * 200_000, "line 2: field larger than field limit"),
], ids=str)  # fmt: skip
def test_a_mistake_is_named_with_its_line(tmp_path, content, words):
    path = write(tmp_path, content)
    with pytest.raises(UserError, match=f"^{path}: {words}"):
        read_csv(path, ["path"])


def test_sizes_and_other_things_than_files(tmp_path):
    path = write(tmp_path, b"a,b\n")
    check_size(path, 4)
    with pytest.raises(UserError, match=f"^{path}: .* is the most; no run writes that"):
        check_size(path, 3)
    for other in (tmp_path, tmp_path / "gone.csv"):
        with pytest.raises(UserError, match=f"^{other}: no such file"):
            read_csv(other)
    with pytest.raises(UserError, match="is the most"):
        next(iterate_csv(path, largest=3))
    check_complete(path)
    for cut in (b"a,b\n1", b""):
        with pytest.raises(UserError, match="cut off in its last line"):
            check_complete(write(tmp_path, cut))
