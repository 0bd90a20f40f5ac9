import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from datamodules.decode import decode_pixels, fingerprint, open_image, read_image, resize
from evaluation.calibration import with_temperature
from inference import predictor
from inference.predictor import Predictor, abstained, decided, reason_to_abstain
from lightning_modules.checkpoint import as_safetensors
from tests.support.fake_checkpoints import DECISION, make_checkpoint, make_odd_images
from tests.support.fake_explained import make_labeled_run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("run") / "best.ckpt")


@pytest.fixture(scope="module")
def model(checkpoint):
    return Predictor.from_checkpoint(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_odd_images(tmp_path_factory.mktemp("images"), 14)


def test_three_lines_from_predict(checkpoint, files):
    from predict import Predictor

    model = Predictor.from_checkpoint(checkpoint)
    predictions = model.predict(files)
    assert [p.path for p in predictions] == [str(file) for file in files]
    assert all(p.predicted == max(p.probabilities, key=p.probabilities.get) for p in predictions)
    assert len({p.probabilities["ants"] for p in predictions}) == len(files)


def test_the_safetensors_file_of_a_run_predicts_as_its_checkpoint(checkpoint, model, files, tmp_path):
    path = tmp_path / "best.safetensors"
    path.write_bytes(as_safetensors(torch.load(checkpoint, weights_only=True)))
    assert Predictor.from_checkpoint(path, device="cpu").predict(files) == model.predict(files)


def test_an_image_is_the_same_as_path_image_array_and_tensor(model, files):
    for file in files:
        image = open_image(file)
        array = np.asarray(image)
        tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
        ways = [str(file), file, Image.open(file), image, array, tensor]
        found = [model.predict(way) for way in ways]
        assert all(len(predictions) == 1 for predictions in found)
        assert len({tuple(predictions[0].probabilities.values()) for predictions in found}) == 1, file
        assert {predictions[0].fingerprint for predictions in found[3:]} == {fingerprint(image)}
        own = read_image(file).fingerprint()  # of 16 bits: that of the values, whatever they become
        assert {predictions[0].fingerprint for predictions in found[:3]} == {own}
        assert (own == fingerprint(image)) == (read_image(file).mode != "I;16")


def test_the_folder_of_a_run_means_its_test_images_as_in_the_command(model, files, tmp_path):
    splits = ["test" if n < 2 else "train" for n in range(len(files))]
    run = make_labeled_run(tmp_path, files[0].parent, files, ["bees"] * len(files), splits)
    Image.new("RGB", (9, 9)).save(run.path / "contact_sheet.png")
    assert [found.path for found in model.predict(run.path)] == [file.name for file in files[:2]]


def test_gray_arrays_and_whole_batches(model):
    gray = np.random.default_rng(0).integers(0, 256, (30, 20), dtype=np.uint8)
    as_colors = model.predict(np.stack([gray] * 3, axis=2))
    for same in (gray, gray[..., None], torch.from_numpy(gray)[None]):
        assert model.predict(same)[0].probabilities == as_colors[0].probabilities
    batch = np.random.default_rng(1).integers(0, 256, (5, 30, 20, 3), dtype=np.uint8)
    one_by_one = [model.predict(image)[0].fingerprint for image in batch]
    assert [p.fingerprint for p in model.predict(batch)] == one_by_one
    assert [p.fingerprint for p in model.predict(torch.from_numpy(batch).permute(0, 3, 1, 2))] == one_by_one


NO_IMAGES = [np.zeros((3, 8, 8), np.uint8), np.zeros((4, 4), bool), [3], [np.zeros(4)]]


@pytest.mark.parametrize("item", NO_IMAGES)
def test_what_is_no_image(model, item):
    with pytest.raises(UserError, match=r"cannot be used; arrays are \(H, W\), \(H, W, 3\) in the order RGB"):
        model.predict(item)


def test_of_several_the_one_that_is_no_image_is_named(model):
    fine = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(UserError, match=r"^images\[2\]: an image of shape \(3, 8, 8\)"):
        model.predict([fine, fine, np.zeros((3, 8, 8), np.uint8)])


def test_a_pil_image_or_tensor_that_cannot_be_decoded_is_named(model, tmp_path):
    """Pillow decodes a file when its pixels are asked for; NumPy has no bfloat16."""
    torch = pytest.importorskip("torch")
    fine = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(fine).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:4000])
    with Image.open(tmp_path / "cut.png") as cut, (tmp_path / "whole.png").open("rb", buffering=0) as file:
        for item, reason in (
            (cut, "a PngImageFile cannot be decoded"),
            (torch.zeros(3, 8, 8, dtype=torch.bfloat16), "a Tensor cannot be decoded"),
            (file, "an image of shape"),
        ):
            with pytest.raises(UserError, match=rf"^images\[1\]: {reason}"):
                model.predict([fine, item])


@pytest.mark.parametrize("images", [None, 3, True])
def test_what_cannot_hold_images_is_refused(model, images):
    with pytest.raises(UserError, match="is not an image: give a path, a PIL image, an array"):
        model.predict(images)


def test_the_keys_of_a_dict_are_no_images(model):
    with pytest.raises(UserError, match=r"^dict is not an image: .*; for its values: list\(images.values\(\)\)$"):
        model.predict({"a": np.zeros((4, 4, 3), np.uint8)})


def test_images_beyond_the_range_of_the_training_images_are_counted(model, caplog):
    """A quarter of the values of every second image is brighter than any training image."""
    ranged = Predictor(model.backend)
    inside = np.full((8, 8), 900, np.uint16)
    beyond = inside.copy()
    beyond[:4, :4] = 1001
    for of_all, warned in ((False, True), (True, False)):  # a range that was given also clips training images
        caplog.clear()
        ranged.description = replace(model.description, range=[0.0, 1000.0, of_all])
        ranged.predict([inside, beyond] * 10)
        text = "10 of 20 images have more than 5% of their values outside the range of the training images (0 to 1000)"
        assert (text in caplog.text) == warned
    caplog.clear()
    ranged.description = replace(model.description, range=[0.0, 1000.0, False])
    ranged.predict([inside])
    assert not caplog.records


def test_images_of_8_bits_are_counted_if_those_of_training_had_more(model, tmp_path, caplog):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    images = [tmp_path / "a.jpg", np.full((8, 8), 900, np.uint16), Image.new("L", (8, 8))]
    warned = Predictor(model.backend)
    for trained in (None, [0.0, 1000.0, False], [0.0, 1000.0, True]):
        caplog.clear()
        warned.description = replace(model.description, range=trained)
        warned.predict(images)
        text = "2 of 3 images have 8 bits per channel, but the network was trained on images of more (0 to 1000 became"
        assert (text in caplog.text) == (trained == [0.0, 1000.0, False])


def test_only_images_that_can_be_read_are_warned_of_for_their_range(model, tmp_path, caplog):
    path = tmp_path / "nan.tif"
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(path)
    [unreadable] = Predictor(model.backend).predict([path])
    assert unreadable.error and not caplog.records
    Predictor(model.backend).predict([np.full((8, 8), 900, np.uint16)] * 2)
    assert [text.partition(" because")[0] for text in caplog.messages] == [
        "images of more than 8 bits per channel are read with 0 as black and 65,535 as white,"
    ]


@pytest.mark.parametrize("item", [np.zeros((4, 4, 3)), torch.zeros(3, 4, 4), np.zeros((4, 4), np.int32)])
def test_values_of_more_bits_need_a_range_in_the_checkpoint(model, item):
    with pytest.raises(UserError, match="whose black and white are not known"):
        model.predict(item)
    ranged = Predictor(model.backend)
    ranged.description = replace(model.description, range=[-1.0, 3.0, False])
    quarter = Image.new("RGB", (4, 4), (64, 64, 64))  # zero, a quarter of the way
    assert ranged.predict(item)[0].probabilities == model.predict(quarter)[0].probabilities


def test_unreadable_files_keep_their_place(model, files, tmp_path):
    bad = tmp_path / "letter.jpg"
    bad.write_text("Dear reader")
    found = model.predict([bad, files[0], tmp_path / "gone.png", files[1], bad], batch_size=2)
    assert [bool(p.error) for p in found] == [True, False, True, False, True]
    assert "letter.jpg: not a readable image" in found[0].error and found[0].predicted is None
    assert [p.probabilities for p in found if not p.error] == [p.probabilities for p in model.predict(files[:2])]
    assert all(p.error for p in model.predict([bad] * 100, batch_size=1))
    with pytest.raises(UserError, match="no such file or folder"):
        model.predict(tmp_path / "gone.png")


def test_images_go_through_the_network_in_batches_and_in_order(model, files):
    sizes = []

    class Counting:
        description = model.description

        def __call__(self, pixels):
            sizes.append(len(pixels))
            return model.backend(pixels)

    found = Predictor(Counting()).predict(files, batch_size=4)
    assert sizes == [4, 4, 4, 2]
    together = np.stack([np.asarray(resize(open_image(file), 48)) for file in files[:4]])
    assert [list(p.probabilities.values()) for p in found[:4]] == model.backend(together).astype(float).tolist()


def test_reading_is_only_a_few_batches_ahead(model, monkeypatch):
    read, lock = [], threading.Lock()

    def decode(item, size):
        time.sleep(0.001 * (item % 3))  # out of order, if order could be lost
        with lock:
            read.append(item)
        return decode_pixels(Image.new("RGB", (8, 8), (item, 0, 0)))

    monkeypatch.setattr(predictor, "decode_item", decode)
    stream = model.stream(iter(range(200)), batch_size=5)
    assert next(stream)[0] == 0
    assert len(read) <= 5 + 2 * 5 + 1
    assert [item for item, _ in stream] == list(range(1, 200))
    abandoned = model.stream(iter(range(200)), batch_size=5)
    next(abandoned)
    abandoned.close()  # ends its threads
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor") and t.is_alive()]


def test_the_decision_by_hand():
    assert decided({"ants": 0.61, "bees": 0.39}, DECISION) == "ants"
    assert decided({"ants": 0.60, "bees": 0.40}, DECISION) == "bees"  # predicted would be ants
    assert abstained({"ants": 0.6, "bees": 0.4}, DECISION) is False
    assert abstained({"ants": 0.59, "bees": 0.41}, DECISION) is True
    assert abstained({"ants": 0.99, "bees": 0.01}, replace(DECISION, confidence=None)) is True
    assert decided({"ants": 0.6, "bees": 0.4}, None) is None is abstained({"ants": 0.6, "bees": 0.4}, None)
    of_three = replace(DECISION, positive_class=None, threshold_criterion=None, threshold=None)
    probabilities = {"a": 0.7, "b": 0.2, "c": 0.1}
    assert decided(probabilities, of_three) is None and abstained(probabilities, of_three) is False


def test_a_threshold_of_one_s_own_decides(checkpoint, files):
    model = Predictor.from_checkpoint(checkpoint, device="cpu")
    before = model.predict(files)
    values = sorted(each.probabilities["bees"] for each in before)
    threshold = (values[3] + values[4]) / 2
    model.set_threshold(threshold)
    after = model.predict(files)
    assert [each.decided == "bees" for each in after] == [each.probabilities["bees"] > threshold for each in before]
    assert sum(each.decided == "bees" for each in after) == 10 and model.decision.temperature == DECISION.temperature
    assert [each.predicted for each in after] == [each.predicted for each in before]


@pytest.mark.parametrize(
    "decision", [None, replace(DECISION, positive_class=None, threshold_criterion=None, threshold=None)]
)
def test_a_threshold_without_a_positive_class_is_refused(checkpoint, decision):
    model = Predictor.from_checkpoint(checkpoint, device="cpu")
    model.description = replace(model.description, classes=["a", "b", "c"], decision=decision)
    with pytest.raises(UserError, match=r"threshold=0.3: is for a network with two classes .*; this one has 3 classes"):
        model.set_threshold(0.3)


def test_why_it_abstains():
    assert reason_to_abstain(DECISION) == "confidence below 0.600, too low for accuracy 0.95"
    assert reason_to_abstain(replace(DECISION, confidence=None)) == "accuracy 0.95 is promised for no image"


def test_nan_of_a_damaged_network_is_an_error_of_its_image(model, files, monkeypatch):
    usual = model.predict(files[:3])

    def damaged(pixels):
        probabilities = backend(pixels)
        probabilities[1] = np.nan
        return probabilities

    backend = model.backend
    monkeypatch.setattr(model, "backend", damaged)
    found = model.predict(files[:3])
    assert found[1].error == "the network gives NaN for it" and found[1].predicted is None is found[1].calibrated
    assert [found[0], found[2]] == [usual[0], usual[2]]


def test_calibrated_is_with_the_temperature(model, files):
    found = model.predict(files[0])[0]
    p = np.array([list(found.probabilities.values())])
    assert list(found.calibrated.values()) == with_temperature(p, 1.5)[0].tolist()
    assert model.decision == DECISION and model.classes == ["ants", "bees"] and model.image_size == 48
