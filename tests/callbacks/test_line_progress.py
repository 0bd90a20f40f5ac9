"""How far an epoch is, where there is no bar."""

from types import SimpleNamespace

import pytest

from callbacks.line_progress import LineProgress


class Images(SimpleNamespace):
    validated_split = "val"

    def n_used(self, split: str) -> int:
        return {"train": 1112, "test": 30}[split]

    def validated_rows(self) -> range:
        return range(153)


@pytest.fixture
def trainer():
    data = Images(batch_size=10)
    return SimpleNamespace(current_epoch=2, max_epochs=12, world_size=2, datamodule=data)


@pytest.fixture
def callback():
    found = LineProgress(is_shown=True)
    yield found
    found.teardown(None, None, "")


def shown(callback) -> tuple[str, str]:
    return callback._progress._text, callback._progress.how_far


def test_an_epoch_and_its_validations(trainer, callback):
    callback.setup(trainer, None, "fit")
    assert shown(callback) == ("starting the training", "") and callback._progress.then_every_s is None
    callback.on_train_epoch_start(trainer, None)
    assert callback._progress.then_every_s == 60
    callback.on_train_batch_end(trainer, None, None, None, 20)
    assert shown(callback) == ("epoch 3/12", "420 of 1,112 images")
    callback.on_validation_start(trainer, None)
    callback.on_validation_batch_end(trainer, None, None, None, 7)
    assert shown(callback) == ("epoch 3/12, val", "153 of 153 images")
    callback.on_validation_end(trainer, None)
    callback.on_train_batch_end(trainer, None, None, None, 55)
    assert shown(callback) == ("epoch 3/12", "1,112 of 1,112 images")


def test_an_evaluation_shows_a_line_every_few_seconds(trainer, callback):
    callback.setup(trainer, None, "validate")
    callback.on_validation_start(trainer, None)
    assert shown(callback)[0] == "evaluation on val" and callback._progress.then_every_s is None
    callback.on_validation_end(trainer, None)
    callback.setup(trainer, None, "test")
    callback.on_test_start(trainer, None)
    callback.on_test_batch_end(trainer, None, None, None, 0)
    assert shown(callback) == ("evaluation on test", "20 of 30 images")


def test_beside_a_bar_nothing_is_shown(trainer):
    callback = LineProgress(is_shown=False)
    callback.setup(trainer, None, "fit")
    callback.on_train_epoch_start(trainer, None)
    assert shown(callback)[0] == ""
    callback.on_exception(trainer, None, KeyboardInterrupt())
    assert callback._progress is None
