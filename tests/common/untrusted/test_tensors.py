"""Files of tensors: loaded whole and without code; what is wrong is stated."""

import zipfile

import pytest
import torch

from common.errors import UserError
from common.untrusted import tensors
from common.untrusted.tensors import load_tensors


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


@pytest.mark.parametrize(("name", "words"), [
    ("LARGEST", "^0.0 GiB; at most .* can be read"), ("LARGEST_PICKLE", "MiB that are not tensors"),
])  # fmt: skip
def test_sizes_have_a_limit(path, monkeypatch, name, words):
    monkeypatch.setattr(tensors, name, 10)
    with pytest.raises(UserError, match=words):
        load_tensors(path)
