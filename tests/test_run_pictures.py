import pytest

from callbacks.explaining.run_pictures import RunPictures, is_run, pictures_of, split_of
from callbacks.predicting.sources import Pictures
from tests.made_up_explained import make_explained_run
from tests.made_up_runs import make_run


@pytest.fixture
def checkpoint(tmp_path, two_colours):
    return make_explained_run(tmp_path / "run", two_colours)


def test_a_run_stands_for_its_test_pictures(checkpoint, tmp_path, two_colours):
    run = tmp_path / "run"
    found = pictures_of(str(run), None)
    assert isinstance(found, RunPictures) and len(found) == 14 and len(list(found)) == len(list(found)) == 14
    assert {picture.split for picture in found} == {"test"} and found.pictures_folder == two_colours
    assert all(picture.file.is_file() and picture.label == picture.file.parent.name for picture in found)
    assert isinstance(pictures_of(str(two_colours), None), Pictures) and not is_run(two_colours)
    assert len(pictures_of(f"{run}/splits.csv", None)) == 50


def test_without_a_test_figure_it_stands_for_validation(checkpoint, tmp_path, two_colours):
    make_run(tmp_path / "run", epochs=0, n={"val": 9}, data={"root": str(two_colours)})  # its test split stayed closed
    found = pictures_of(str(tmp_path / "run"), None)
    assert found.split == "val" and len(found) == 12


def test_the_pictures_of_a_checkpoint_s_run_or_why_there_are_none(checkpoint, tmp_path, two_colours):
    found, reason = split_of(checkpoint, "train")
    assert len(found) == 24 and reason == ""
    elsewhere = tmp_path / "elsewhere" / "net.ckpt"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(checkpoint.read_bytes())
    assert split_of(elsewhere, "train") == ([], "the checkpoint does not lie in a run's folder with its splits.csv")
    make_run(tmp_path / "run", epochs=0, data={"root": str(tmp_path / "moved")})
    found, reason = split_of(checkpoint, "train")
    assert not found and "are not at" in reason and "root=DIR" in reason
    assert len(split_of(checkpoint, "train", str(two_colours))[0]) == 24
    (tmp_path / "empty").mkdir()
    found, reason = split_of(checkpoint, "train", str(tmp_path / "empty"))
    assert not found and "are not where they were" in reason
