"""Images in the run's folder and in TensorBoard: the same pixels, drawn once where jobs of a sweep show the same."""

import io
from types import SimpleNamespace

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.contact_sheet import _draw
from callbacks.image_logger import save_figure
from common.image_grid import encode_png, rows_of_images
from engine.run.loggers import TensorBoard


def test_a_figure_is_a_file_and_an_image_of_tensorboard(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    logger = TensorBoard(str(tmp_path))
    save_figure(
        SimpleNamespace(default_root_dir=str(tmp_path), loggers=[logger], current_epoch=3), "maps", encode_png(pixels)
    )
    logger.experiment.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (event,) = events.Images("visuals/maps")
    assert (event.step, event.width, event.height) == (3, 7, 5)
    for file in (io.BytesIO(event.encoded_image_string), tmp_path / "maps.png"):
        assert (np.asarray(Image.open(file)) == pixels).all()


def test_the_contact_sheet_of_the_job_before_is_taken_only_where_it_shows_the_same():
    pixels = np.zeros((4, 4, 3), np.uint8)
    rows = [("a, train: 1", [(pixels, "a.png")])]
    first = _draw(rows)
    assert first == encode_png(rows_of_images(rows)) and _draw([("a, train: 1", [(pixels.copy(), "a.png")])]) is first
    for other in ([("a, val: 1", [(pixels, "a.png")])], [("a, train: 1", [(pixels, "b.png")])]):
        assert _draw(other) == encode_png(rows_of_images(other)) != first
    pixels[0, 0] = 255
    assert _draw(rows) == encode_png(rows_of_images(rows)) != first
