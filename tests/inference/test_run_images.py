import pytest

from inference.image_inputs import ImageInputs
from inference.run_images import RunImages, is_run, resolve_images, split_images
from tests.support.fake_explained import make_explained_run
from tests.support.fake_runs import make_run


@pytest.fixture
def checkpoint(tmp_path, two_colors):
    return make_explained_run(tmp_path / "run", two_colors)


def test_a_run_stands_for_its_test_images(checkpoint, tmp_path, two_colors):
    run = tmp_path / "run"
    found = resolve_images(str(run), None)
    assert isinstance(found, RunImages) and len(found) == 14 and len(list(found)) == len(list(found)) == 14
    assert {source.split for source in found} == {"test"} and found.images_folder == two_colors
    assert all(source.file.is_file() and source.label == source.file.parent.name for source in found)
    assert isinstance(resolve_images(str(two_colors), None), ImageInputs) and not is_run(two_colors)
    assert len(resolve_images(f"{run}/splits.csv", None)) == 50


def test_without_a_test_figure_it_stands_for_validation(checkpoint, tmp_path, two_colors):
    make_run(tmp_path / "run", epochs=0, n={"val": 9}, data={"root": str(two_colors)})  # its test split stayed closed
    found = resolve_images(str(tmp_path / "run"), None)
    assert found.split == "val" and len(found) == 12


def test_the_images_of_a_checkpoint_s_run_or_why_there_are_none(checkpoint, tmp_path, two_colors):
    found, reason = split_images(checkpoint, "train")
    assert len(found) == 24 and reason == ""
    elsewhere = tmp_path / "elsewhere" / "net.ckpt"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(checkpoint.read_bytes())
    assert split_images(elsewhere, "train") == ([], "the checkpoint does not lie in a run's folder with its splits.csv")
    make_run(tmp_path / "run", epochs=0, data={"root": str(tmp_path / "moved")})
    found, reason = split_images(checkpoint, "train")
    assert not found and "are not at" in reason and "root=DIR" in reason
    assert len(split_images(checkpoint, "train", str(two_colors))[0]) == 24
    (tmp_path / "empty").mkdir()
    found, reason = split_images(checkpoint, "train", str(tmp_path / "empty"))
    assert not found and "are not where they were" in reason
