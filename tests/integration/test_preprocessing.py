"""Mean and std, interpolation and image size from the weights through training to prediction and export."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import predict as script
from common.run_folder import RunFolder
from inference.predictor import Predictor
from lightning_modules.checkpoint import load_network
from tests.support.helpers import SHARED, SIMPLE_CNN, read_csv

LITE0 = SHARED / "weights" / "tf_efficientnet_lite0.safetensors"
CUBIC = ("model.normalization=dataset", "model.interpolation=bicubic")


@pytest.fixture(scope="module")
def fine(tmp_path_factory):
    """Images of 97 x 61 whose fine stripes bilinear and bicubic show differently."""
    root, generator = tmp_path_factory.mktemp("fine"), np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6), ("test", 4)):
        for label in ("first", "last"):
            (root / split / label).mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 200, (61, 97, 3), dtype=np.uint8)
                pixels[:, :: 3 if label == "first" else 2] = 255
                Image.fromarray(pixels).save(root / split / label / f"{index}.png")
    return root


def probabilities(checkpoint, root, paths, *, mean, std, filter):
    """Compute with Pillow and a few lines what the network gives for images below a root."""
    network, described, _ = load_network(checkpoint)
    side = described["image_size"]
    images = [Image.open(root / path).convert("RGB").resize((side, side), filter) for path in paths]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    with torch.inference_mode():
        return network(((pixels - mean) / std).float()).softmax(1).numpy()


def check_everywhere(ran, root, in_process, tmp_path, mean, std):
    """Compare a run's own predictions, predict.py and an exported file with Pillow's bicubic, a mean and a std."""
    pytest.importorskip("onnxruntime")
    from inference.export.export import export
    from inference.export.onnx_file import OnnxFile

    run = RunFolder(ran.folder)
    rows = read_csv(run.predictions("val"))
    names = ["p_first", "p_last"]
    own = np.array([[float(row[name]) for name in names] for row in rows])
    paths = [row["path"] for row in rows]
    expected = probabilities(run.best_checkpoint, root, paths, mean=mean, std=std, filter=Image.Resampling.BICUBIC)
    assert np.abs(own - expected).max() < 1e-5
    for other in (
        {"mean": mean, "std": std, "filter": Image.Resampling.BILINEAR},
        {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "filter": Image.Resampling.BICUBIC},
    ):  # each of them matters here
        assert np.abs(own - probabilities(run.best_checkpoint, root, paths, **other)).max() > 1e-4
    out = tmp_path / "predicted.csv"
    given = [f"images={run.predictions('val')}", f"root={root}", f"out={out}", "device=cpu", "batch_size=8"]
    status, _, err = in_process(script, f"ckpt={run.best_checkpoint}", *given)
    assert (status, err) == (0, "")
    predicted = {row["path"]: row for row in read_csv(out)}
    assert all(predicted[row["path"]][name] == row[name] for row in rows for name in names)
    made = export(str(run.best_checkpoint), format=OnnxFile(), out=str(tmp_path / "made.onnx"))
    assert made.verification.largest_difference < 1e-5
    by_file = Predictor.from_checkpoint(made.path).predict([root / path for path in paths])
    assert np.abs(own - np.array([list(each.probabilities.values()) for each in by_file])).max() < 1e-5
    seen = ran.record.data.preprocessing
    assert seen.interpolation == "bicubic" and seen.mean == pytest.approx(mean, abs=1e-6)
    assert "Images are resized with bicubic interpolation, and normalized with mean" in run.model_card.read_text()


@pytest.mark.thorough
def test_training_prediction_and_export_see_the_same(train, in_process, fine, tmp_path):
    ran = train(*SIMPLE_CNN, "trainer.max_epochs=1", "optimizer.lr=0.01", *CUBIC, root=fine)
    assert ran.status == 0, ran.err
    images = [Image.open(file).resize((16, 16), Image.Resampling.BICUBIC) for file in sorted(fine.glob("train/*/*"))]
    pixels = np.stack(images).reshape(-1, 3) / 255
    check_everywhere(ran, fine, in_process, tmp_path, pixels.mean(0).tolist(), pixels.std(0).tolist())

    # The checkpoint's own are kept where it is evaluated or resumed, or starts another run
    moved = shutil.copy(ran.folder / "checkpoints" / "best.ckpt", tmp_path / "moved.ckpt")
    place, settings = tmp_path / "again", [*SIMPLE_CNN, "stages=[test]", f"ckpt_path={moved}"]
    again = train(*settings, f"hydra.run.dir={place}", root=fine, to=place)
    assert again.status == 0 and again.record.test.accuracy == ran.record.test.accuracy, again.err
    assert again.record.data.preprocessing.mean == ran.record.data.preprocessing.mean
    refused = train(*settings, "model.normalization=imagenet", f"hydra.run.dir={tmp_path / 'no'}", root=fine)
    assert refused.status == 1 and refused.err.count("\n") == 1 and not (tmp_path / "no").exists()
    assert "is not model.normalization=imagenet; remove model.normalization" in refused.err
    longer = train(f"ckpt_path={ran.folder}/checkpoints/last.ckpt", "trainer.max_epochs=2", small=False, to=ran.folder)
    assert longer.status == 0, longer.err
    assert longer.record.data.preprocessing == ran.record.data.preprocessing
    size = "model.image_size=auto"
    started = train("model=simple_cnn", size, f"model.weights={moved}", "trainer.max_epochs=1", root=fine)
    assert started.status == 0, started.err
    seen = started.record.data.preprocessing
    assert (seen.image_size, seen.interpolation) == (16, "bicubic") and "moved.ckpt was trained" in seen.source
    assert seen.mean == ran.record.data.preprocessing.mean


@pytest.mark.thorough
@pytest.mark.skipif(not LITE0.is_file(), reason="needs the real weights beside the project")
def test_lite0_is_used_as_it_was_trained(train, in_process, fine, tmp_path):
    pytest.importorskip("timm")
    from safetensors.torch import load_file

    weights = tmp_path / "lite0.pth"
    torch.save(load_file(LITE0), weights)
    model = ["model=timm", "model.name=tf_efficientnet_lite0", f"model.weights={weights}", "model.image_size=64"]
    ran = train(*model, "trainer.max_epochs=1", root=fine)
    assert ran.status == 0, ran.err
    assert (
        "64 x 64 pixels, bicubic, mean 0.5, std 0.5 (assumed: as timm's tf_efficientnet_lite0.in1k" in ran.err + ran.out
    )
    check_everywhere(ran, fine, in_process, tmp_path, [0.5] * 3, [0.5] * 3)
    described = json.loads((tmp_path / "run0" / "result.json").read_text())["data"]["preprocessing"]
    assert described["mean"] == described["std"] == [0.5, 0.5, 0.5]
