"""Files of tensors: loaded whole and without code; what is wrong is stated."""

import zipfile

import pytest
import torch
from safetensors.torch import save_file

from common.errors import UserError
from common.untrusted import tensors
from common.untrusted.tensors import is_safetensors, load_tensors, read_safetensors


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.arange(1000.0), "b": [1, "x"]}, path)
    return path


@pytest.mark.parametrize("mmap", [False, True])
def test_plain_values_and_tensors_are_loaded(path, mmap):
    found = load_tensors(path, mmap=mmap)
    assert torch.equal(found["a"], torch.arange(1000.0)) and found["b"] == [1, "x"]


def test_files_before_torch_1_6_only_where_they_are_allowed(path):
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(load_tensors(path, archives_only=False)["a"], torch.ones(2))
    with pytest.raises(UserError, match=r"^not a torch archive, or cut off"):
        load_tensors(path)


def test_a_flipped_byte_is_found_by_its_checksum(path):
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        record = next(r for r in archive.infolist() if r.filename.endswith("data/0"))
    content[record.header_offset + 1000] ^= 255
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"^damaged: .*data/0' does not match its checksum"):
        load_tensors(path)


@pytest.mark.parametrize(("name", "length", "rest", "expected"), [
    ("cached", 2, b"{}", True),
    ("cached", 9, b"{}", True),  # of a file of ten bytes
    ("cached", 10, b"{}", False),
    ("cached", 0, b"{}", False),
    ("cached", 2, b"[]", False),
    ("w.SafeTensors", 10, b"", True),
])  # fmt: skip
def test_safetensors_are_known_by_suffix_or_by_their_first_bytes(tmp_path, name, length, rest, expected):
    (tmp_path / name).write_bytes(length.to_bytes(8, "little") + rest)
    assert is_safetensors(tmp_path / name) is expected


def test_safetensors_are_read_with_their_texts_or_only_these(tmp_path):
    save_file({"a": torch.arange(3.0)}, tmp_path / "cached", {"note": "x"})
    weights, texts = read_safetensors(tmp_path / "cached")
    assert torch.equal(weights["a"], torch.arange(3.0)) and texts == {"note": "x"}
    assert torch.equal(load_tensors(tmp_path / "cached")["a"], torch.arange(3.0))
    assert read_safetensors(tmp_path / "cached", tensors=False) == ({}, {"note": "x"})
    save_file({"a": torch.zeros(3, dtype=torch.uint16)}, tmp_path / "cached")
    with pytest.raises(UserError, match=r"^'a' holds U16; the types of weights are"):
        read_safetensors(tmp_path / "cached")


def test_records_are_read_for_their_checksums_only_where_that_is_asked_for_and_safe(path, tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda _: pytest.fail("reads all records"))
    load_tensors(path, mmap=True)
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(2**20))
    with pytest.raises(UserError, match="is compressed"):
        load_tensors(tmp_path / "bomb.pt")


@pytest.mark.parametrize(("name", "words"), [
    ("LARGEST", "^0.0 GiB; at most .* can be read"), ("LARGEST_PICKLE", "MiB that are not tensors"),
])  # fmt: skip
def test_sizes_have_a_limit(path, monkeypatch, name, words):
    monkeypatch.setattr(tensors, name, 10)
    with pytest.raises(UserError, match=words):
        load_tensors(path)
