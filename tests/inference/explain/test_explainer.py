import numpy as np
import pytest
import torch

from common.errors import UserError
from datamodules.normalize import as_batch, normalize
from inference.explain import explainer as module
from inference.explain.explainer import Explainer, FeatureIndex, open_images, unit
from inference.image_inputs import ImageInput
from inference.predictor import Predictor
from tests.support.fake_checkpoints import MEAN, STD, make_checkpoint, make_odd_images


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return Predictor.from_checkpoint(make_checkpoint(tmp_path_factory.mktemp("net") / "best.ckpt"), "cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    files = make_odd_images(folder, 37)
    files[5].write_text("no image any more")
    return [ImageInput(file.name, file, label="ants") for file in files]


def test_features_are_the_mean_of_the_last_map(model, images):
    explainer = Explainer(model)
    vectors, read = explainer.features(images)
    assert read == [*images[:5], *images[6:]] and vectors.shape == (36, 128)
    pixels = np.stack([explainer.model.description.pixels(image) for image in open_images(read, model.description)])
    with torch.inference_mode():
        maps = model.backend.network.features(normalize(as_batch(pixels), MEAN, STD))  # (36, 128, 6, 6)
    np.testing.assert_allclose(vectors, maps.mean((2, 3)), rtol=1e-4, atol=1e-6)
    explanation = explainer.explain(pixels)
    np.testing.assert_allclose(explanation.features, vectors, rtol=1e-4, atol=1e-6)
    predicted = [list(p.probabilities.values()) for p in model.predict([image_input.file for image_input in read])]
    np.testing.assert_allclose(explanation.probabilities, predicted, rtol=1e-4, atol=1e-6)
    assert explainer.map_size == "6 x 6 positions over an image of 48 x 48 pixels"
    assert explanation.heat.shape == (36, 6, 6)


def test_the_nearest_are_those_of_the_largest_cosine_without_itself(model, images):
    explainer = Explainer(model)
    index = FeatureIndex(explainer, images)
    assert (index.total, index.n_unread, len(index.images)) == (37, 1, 36)
    vectors, read = explainer.features(images)
    vectors = vectors.astype(np.float64)
    for k in (0, 17):
        cosines = {
            other.path: vectors[k] @ vectors[i] / np.linalg.norm(vectors[k]) / np.linalg.norm(vectors[i])
            for i, other in enumerate(read)
            if i != k
        }
        wanted = sorted(cosines, key=cosines.get, reverse=True)[:3]
        found = index.nearest(vectors[k], read[k])
        assert [each.image_input.path for each in found] == wanted
        assert [each.cosine for each in found] == pytest.approx([cosines[path] for path in wanted], abs=1e-5)
        copy = index.nearest(vectors[k], ImageInput("upload.png", read[k].file.with_name("upload.png")))
        assert copy[0].image_input == read[k] and copy[0].cosine == pytest.approx(1, abs=1e-6)  # a copy is shown


def test_of_many_training_images_some_are_used_evenly(model, images, monkeypatch):
    monkeypatch.setattr(module, "MOST_TRAINING", 10)
    index = FeatureIndex(Explainer(model), images)
    assert [image_input.path[:3] for image_input in index.images] == [f"{i:03}" for i in range(0, 37, 4)]
    assert FeatureIndex(Explainer(model), []).nearest(np.ones(128), None) == []


def test_features_of_zeros_have_no_direction():
    np.testing.assert_array_equal(unit(np.array([[0.0, 0], [3, 4]])), [[0, 0], [0.6, 0.8]])


def test_an_onnx_file_has_no_gradients():
    class Exported:
        description = None

    with pytest.raises(UserError, match=r"explain=true needs a checkpoint.*best\.ckpt"):
        Explainer(Predictor(Exported()))
