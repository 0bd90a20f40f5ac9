import numpy as np
import pytest
import torch

from callbacks.explaining import explainer as module
from callbacks.explaining.explainer import Explainer, Gallery, open_all, unit
from callbacks.predicting.sources import Picture
from datamodules.normalise import as_batch, normalise
from predict import Classifier
from tests.made_up_checkpoint import MEAN, STD, make_checkpoint, make_odd_pictures


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return Classifier.from_checkpoint(make_checkpoint(tmp_path_factory.mktemp("net") / "best.ckpt"), "cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    files = make_odd_pictures(folder, 37)
    files[5].write_text("no picture any more")
    return [Picture(file.name, file, label="ants") for file in files]


def test_features_are_the_mean_of_the_last_map(model, pictures):
    explainer = Explainer(model)
    vectors, read = explainer.features(pictures)
    assert read == [*pictures[:5], *pictures[6:]] and vectors.shape == (36, 128)
    pixels = np.stack([explainer.pixels(image) for image in open_all(read, 48)])
    with torch.inference_mode():
        maps = model.backend.network.features(normalise(as_batch(pixels), MEAN, STD))  # (36, 128, 6, 6)
    np.testing.assert_allclose(vectors, maps.mean((2, 3)), rtol=1e-4, atol=1e-6)
    seen = explainer.look(pixels)
    np.testing.assert_allclose(seen.features, vectors, rtol=1e-4, atol=1e-6)
    said = [list(p.probabilities.values()) for p in model.predict([picture.file for picture in read])]
    np.testing.assert_allclose(seen.probabilities, said, rtol=1e-4, atol=1e-6)
    assert explainer.map_size == [6, 6] and seen.heat.shape == (36, 6, 6)


def test_the_nearest_are_those_of_the_largest_cosine_without_itself(model, pictures):
    explainer = Explainer(model)
    gallery = Gallery(explainer, pictures)
    assert (gallery.total, gallery.unread, len(gallery.pictures)) == (37, 1, 36)
    vectors, read = explainer.features(pictures)
    vectors = vectors.astype(np.float64)
    for k in (0, 17):
        cosines = {
            other.path: vectors[k] @ vectors[i] / np.linalg.norm(vectors[k]) / np.linalg.norm(vectors[i])
            for i, other in enumerate(read)
            if i != k
        }
        wanted = sorted(cosines, key=cosines.get, reverse=True)[:3]
        found = gallery.nearest(vectors[k], read[k])
        assert [each.picture.path for each in found] == wanted
        assert [each.cosine for each in found] == pytest.approx([cosines[path] for path in wanted], abs=1e-5)
        copy = gallery.nearest(vectors[k], Picture("upload.png", read[k].file.with_name("upload.png")))
        assert copy[0].picture == read[k] and copy[0].cosine == pytest.approx(1, abs=1e-6)  # a copy is no accident


def test_of_many_training_pictures_some_are_taken_evenly(model, pictures, monkeypatch):
    monkeypatch.setattr(module, "MOST_TRAINING", 10)
    gallery = Gallery(Explainer(model), pictures)
    assert [picture.path[:3] for picture in gallery.pictures] == [f"{i:03}" for i in range(0, 37, 4)]
    assert Gallery(Explainer(model), []).nearest(np.ones(128), None) == []


def test_features_of_zeros_have_no_direction():
    np.testing.assert_array_equal(unit(np.array([[0.0, 0], [3, 4]])), [[0, 0], [0.6, 0.8]])
