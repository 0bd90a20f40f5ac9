"""What a pass over val or test leaves for the metrics, and in its table."""

from types import SimpleNamespace

import numpy as np
import torch

from callbacks.prediction_writer import PredictionWriter
from common.predictions_csv import Predictions, read_predictions
from common.run_folder import RunFolder


def test_logits_and_groups_are_collected_in_the_order_of_the_catalog(tmp_path):
    catalog = SimpleNamespace(
        labels=np.array([0, 1, 1, 0]), paths=["a", "b", "c", "d"], groups=["cow", "", "cow", ""], splits=["test"] * 4
    )
    stats = SimpleNamespace(fingerprints=["3", "1", "2", "0"])
    trainer = SimpleNamespace(
        datamodule=SimpleNamespace(catalog=catalog, pixel_cache=SimpleNamespace(stats=stats)),
        default_root_dir=str(tmp_path), world_size=1, is_global_zero=True, state=SimpleNamespace(fn="test"),
    )  # fmt: skip
    logits = torch.tensor([[20.0, -20.0], [-1.0, 1.0], [-30.0, 30.0], [2.0, 1.0]])
    writer = PredictionWriter()

    def run() -> Predictions:
        for rows in ([2, 0], [3, 1]):
            batch = {"rows": torch.tensor(rows), "logits": logits[rows], "probabilities": logits[rows].softmax(1)}
            writer.on_test_batch_end(trainer, None, batch, None, 0)
        writer.on_test_epoch_end(trainer, SimpleNamespace(classes=["x", "y"]))
        return writer.predictions["test"]

    found = run()
    assert found.logits.dtype == np.float64 and (found.logits == logits.numpy()).all()
    assert found.groups.tolist() == [0, 1, 0, 2]
    table = read_predictions(RunFolder(tmp_path), "test")
    assert table.logits is None and table.groups is None and table.paths == ["d", "b", "c", "a"]
    catalog.groups = ["", "", "", "cow"]
    assert run().groups is None  # no group has two images
