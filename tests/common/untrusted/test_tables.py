"""Tables: read as text, each mistake named with file and line."""

import pytest

from common.errors import UserError
from common.untrusted.tables import OwnTable, check_complete, check_size, describe_notes, iterate_csv
from tests.support.helpers import read_csv


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
    (b"", "line 1: column path is missing; found nothing"),
    (b"a,b\n1,2\n", "line 1: column path is missing; found a, b"),
    (b"path,a,a\n1,2,3\n", "line 1: column a appears twice; remove or rename one"),
    (b"path,a\n1,2\n1\n", "line 3: values are missing or too many"),
    (b"path,a\n1,2,3\n", "line 2: values are missing or too many"),
    (b'path,a\n1,"2\n', r"line 2: unexpected end of data; is the double quote \(\"\) that ends a value missing, here"),
    (b"path,a\n1," + b"x" * 200_000, r"line 2: field larger than field limit \(131072\); is the double quote"),
], ids=str)  # fmt: skip
def test_a_mistake_is_named_with_its_line(tmp_path, content, words):
    path = write(tmp_path, content)
    with pytest.raises(UserError, match=f"^{path}: {words}"):
        read_csv(path, ["path"])


def test_sizes_and_other_things_than_files(tmp_path):
    path = write(tmp_path, b"a,b\n")
    check_size(path, 4)
    with pytest.raises(UserError, match=f"^{path}: .* no run writes that"):
        check_size(path, 3)
    for other in (tmp_path, tmp_path / "gone.csv"):
        with pytest.raises(UserError, match=f"^{other}: no such file"):
            read_csv(other)
    with pytest.raises(UserError, match="which is more than"):
        next(iterate_csv(path, largest=3))
    check_complete(path)
    for cut in (b"a,b\n1", b""):
        with pytest.raises(UserError, match="cut off in its last line"):
            check_complete(write(tmp_path, cut))


ROWS = [{"path": "a b.png", "label": "x"}, {"path": "c.png", "label": "y"}]


@pytest.mark.parametrize(("content", "notes"), [
    (b"\xef\xbb\xbfpath,label\r\na b.png,x\r\nc.png,y\r\n", ""),
    (b"\xef\xbb\xbf\xef\xbb\xbfpath;label\na b.png;x\nc.png;y\n", "delimited by semicolons"),
    (b"path,label\ra b.png,x\rc.png,y", ""),
    ("path,label\na b.png,x\nc.png,y\n".encode("utf-16"), "text in UTF-16"),
    ("path\tlabel\na b.png\tx\nc.png\ty\n".encode("utf-16-le"), "text in UTF-16; delimited by tabs"),
    (b"path;label\na b.png;x\nc.png;y\n", "delimited by semicolons"),
    (b"sep=;\r\npath;label\r\na b.png;x\r\nc.png;y\r\n", "delimited by semicolons"),
    (b"path|label\n\na b.png|x\nc.png|y\n", "delimited by bars"),
    (b'path, label\na b.png, x\nc.png, "y"\n', "spaces after delimiters removed"),
    (b"path,label\na b.png, x\nc.png,y \n", "spaces around values removed (2 times)"),
    (b"Path, LABEL \na b.png,x\nc.png,y\n",
     "spaces after delimiters removed; column 'Path' as path; column 'LABEL ' as label"),
    (b",path,label\n0,a b.png,x\n1,c.png,y\n", "column without a name skipped"),
    (b"Unnamed: 0,path,label\n0,a b.png,x\n1,c.png,y\n", "column 'Unnamed: 0' skipped"),
    (b"path,label,,\na b.png,x,,\n,,,\nc.png,y,,\n,,,\n",
     "column without a name skipped (2 times); line without a value skipped (2 times)"),
    (b"path,label,note\na b.png,x,'as is'\nc.png,y,''\n", ""),  # quotes of columns that are not read mean nothing
], ids=str)  # fmt: skip
def test_tables_of_spreadsheets_and_programs_are_read(tmp_path, content, notes):
    table = OwnTable(write(tmp_path, content), ("path", "label"), ("split",))
    assert [{name: row[name] for name in ROWS[0]} for _, row in table] == ROWS
    assert describe_notes(table.notes) == notes


@pytest.mark.parametrize(("content", "words"), [
    (b"file,class\na,b\n",
     "line 1: columns path and label are missing; found file, class; rename the column file to path and class to label"),
    (b"Datei;Diagnose\na;krank\n",
     "line 1: columns path and label are missing; found Datei, Diagnose; rename the columns that hold them to path and label"),
    (b"id,cat,dog\na,1,0\n", "rename the column id to path, and add label, one value per image: the name of the column with"),
    (b"path,cat,dog\na,1.0,0.0\n", "add label with, in each line, the name of the column with the 1, one of cat, dog"),
    (b"sep=;\npath;cat;dog\na;1;0\n", "line 2: .*the column with the 1, one of cat, dog"),
    (b"# made by hand\npath,label\na,b\n", "line 1: .*remove the lines that begin with #"),
    (b"#path,label\na,b\n", "line 1: .*and the # before the names of the columns"),
    (b"path,label\na,b\n# the rest is new\n", "line 3: .* too many .*; remove the line: a CSV has no comments"),
    (b"'path','label'\n'a','b'\n", "line 1: values are in single quotes"),
    (b"path,label\n'a,b.png','x'\n", "line 2: values are in single quotes|values are missing or too many"),
    (b"a/b.png,x\nc.png,y\n", "write the names above it: path,label"),
    (b"Path,path,label\na,a,b\n", "line 1: column path appears twice; remove or rename one"),
    (b'path,label\n"a,b\nc,d\n', r"line 3: unexpected end of data; is the double quote .* missing, here or in a line above"),
    (b"path,label\na,b\nc\n", r"line 3: values are missing or too many \(1 for 2 columns\)$"),
    (b"path,label,weight\na,b,0,5\n", r"line 2: .* too many \(4 for 3 columns\); a value .* delimiter needs double quotes$"),
    (b"PK\x03\x04xl", "is a workbook or an archive, not a CSV"),
    (b"\x1f\x8b\x08path", "is compressed by gzip, not a CSV"),
    (b'{"path": "a.png", "label": "ant"}\n', "is JSON, not a CSV"),
    (b'[\n {"path": "a.png", "label": "ant"}]', "is JSON, not a CSV"),
    (b"\xff\xfep\0a", "line 1: .*(is not UTF-16|columns path and label are missing)"),
], ids=str)  # fmt: skip
def test_a_table_that_is_not_clear_is_refused_with_what_to_change(tmp_path, content, words):
    path = write(tmp_path, content)
    with pytest.raises(UserError, match=f"^{path}: {words}" if words.startswith("line") else words):
        list(OwnTable(path, ("path", "label")))
