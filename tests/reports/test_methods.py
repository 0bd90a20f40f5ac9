"""The paragraph for the methods section of a paper: each statement follows from the records, and none from what is usual."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest

from common.image_grid import encode_png
from common.run_folder import RunFolder
from common.run_record import RunRecord
from common.search_record import SearchRecord, SearchTrial
from common.text import format_interval
from evaluation.figures import confusion_matrix, figure_pixels
from evaluation.intervals import accuracy_interval, format_accuracy, proportion
from reports.methods import as_methods
from reports.report import write_report
from tests.support.fake_runs import change_record, judged, make_run

RECIPE = {
    "trainer.max_epochs": 40, "datamodule.batch_size": 16, "optimizer._target_": "torch.optim.AdamW", "optimizer.lr": 0.01,
    "optimizer.weight_decay": 0.05, "scheduler._target_": "lightning_modules.optim.cosine", "teacher": None,
    "callbacks.linear_probe.steps": 0, "callbacks.ema.enabled": False, "model.freeze": None, "stages": ["fit", "test"],
}  # fmt: skip
CHOICES = {"model": "resnet18", "optimizer": "adamw", "scheduler": "cosine"}


def written(folder) -> str:
    return as_methods(judged(folder)).replace("\\", "")


def test_one_training_states_what_its_record_does(tmp_path):
    data = {"splits_from": "given by the source", "range": [100, 4095.5, False]}
    folder = make_run(tmp_path / "a", seed=7, settings=RECIPE, choices=CHOICES, data=data)
    change_record(folder, best={"epoch": 3, "monitor": "val/loss"})
    record, text = RunRecord.read(RunFolder(folder)), written(folder)
    found = record.test.accuracy
    for part in (
        "The data set pets has 2 classes (cat and dog). There are 200 training, 60 validation and 80 test images.",
        "Splits: given by the source.", "resnet18 with 143,528 parameters. Initial weights: random.",
        "In images with more than 8 bits per channel, the values 100 to 4095.5, or where the file states them the "
        "values of its window or bits, became 0 to 255.", "upright by EXIF, alpha over white, the first of several frames.",
        "It was trained for 40 epochs. A batch has 16 images.", "Optimizer: AdamW (lr 0.01, weight_decay 0.05).",
        "Schedule: cosine.", "It was trained with 1 seed (7).", "the weights of the epoch with the best val/loss were kept",
        "The test images were evaluated once for each trained network.",
        f"Test accuracy is {found.value:.3f} ({format_interval(found.low, found.high)}, n = 80).", "Wilson 1927",
        "Software: python 3.11.7, torch 2.14.1, code at commit 000000000000; device: cpu.",
    ):  # fmt: skip
        assert part in text, part
    for word in (
        "fold",
        "group",
        "early",
        "up to",
        "Linear probe",
        "Ema",
        "Distillation",
        "Searle",
        "Holm",
        "Kish",
        "frozen",
    ):
        assert word not in text, word


def test_seeds_settings_and_their_comparison(tmp_path):
    for seed in (1, 2, 3):
        for name, accuracy in (("a", 0.9), ("b", 0.6), ("c", 0.5)):
            make_run(tmp_path / f"{name}{seed}", seed=seed, settings=RECIPE, choices={"model": name}, accuracy=accuracy)
    text = written(tmp_path)
    row = judged(tmp_path).groups[0].rows[0]
    low, high = accuracy_interval(row.outcomes["test"].correct)
    assert f"Test accuracy is 0.900 (mean of 3 seeds, {format_interval(low, high)}, n = 80)." in text
    for part in ("its window or the bits that it states became 0 to 255.",
                 "with 3 seeds (1, 2 and 3)", "the best of 3 settings, which differ in model, by validation accuracy",
                 "Searle", "(seeds and images as random effects, and Student's t interval of the seeds' means and Tango's",
                 "Student's t interval of the seeds' means and the first interval on the scale of log odds.",
                 "Settings were compared on the same test images",
                 "Holm 1979 (Scand. J. Stat. 6:65-70), times half the number of settings"):  # fmt: skip
        assert part in text, part
    assert "Wilson" not in text and "McNemar" not in text and "Kish" not in text


@pytest.mark.parametrize("seeds", [(1,), (1, 2, 3)])
@pytest.mark.parametrize("sizes", [[1] * 80, [2] + [1] * 78, [4] * 20])
def test_the_tests_that_compared_settings_are_named(tmp_path, seeds, sizes):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    table = "\n".join(["path,label,split,group", *(f"0/test/{i:05}.png,cat,test,{of}" for i, of in enumerate(groups))])
    for name, wrong in (("a", {5}), ("b", {5, 20, 45})):
        for seed in seeds:
            folder = make_run(tmp_path / f"{name}{seed}", seed=seed, settings=RECIPE, choices={"model": name},
                              wrong={"val": wrong, "test": wrong})  # fmt: skip
            (folder / "splits.csv").write_text(table)
    what = "Settings" if len(seeds) >= 3 else "Trained networks"
    text = written(tmp_path).partition(f"{what} were compared on the same test images (")[2]
    pair = judged(tmp_path).groups[0].rows[1].comparison.pair
    exact = max(sizes) == 1 and len(seeds) == 1
    assert ("McNemar" in text) == exact == (pair.p_value == binomtest(0, 2).pvalue and pair.spread.below is None)
    assert ("Tango 1998" in text) == (exact or pair.spread.below is not None) == (max(sizes) < 4)
    assert ("Kish 1965" in text) == (max(sizes) == 2) and ("groups" in text) == (max(sizes) > 1)
    assert ("mean counts" in text) == (max(sizes) < 4 and len(seeds) > 1)
    assert ("as random effects" in text) == (len(seeds) > 1) and "p-values" not in text  # one needs no correction


def test_rows_with_one_seed_and_with_several_in_common_name_both_tests(tmp_path):
    for name, seeds in (("a", (1, 2, 3)), ("b", (1, 2, 3)), ("c", (2,))):
        for seed in seeds:
            make_run(tmp_path / f"{name}{seed}", seed=seed, settings=RECIPE, choices={"model": name},
                     wrong={"val": set(range(ord(name) - 90)), "test": set(range(ord(name) - 96))})  # fmt: skip
    text = written(tmp_path)
    assert "(over several seeds: seeds and images as random effects, and Student's t" in text
    assert "; over one seed: McNemar's exact test and Tango" in text and "Holm 1979" in text


@pytest.mark.parametrize(("settings", "words"), [
    ({"callbacks.early_stopping.patience": 5, "callbacks.early_stopping.monitor": "val/loss"},
     "for up to 40 epochs. Training ends early if val/loss does not improve for 5 epochs."),
    ({"model.freeze": True}, "Only its head was trained."),
    ({"model.freeze": 4}, "Only its head was trained in the first 4 epochs."),
    ({"callbacks.linear_probe.steps": 200}, "Its head was trained first, for 200 steps on features"),
    ({"callbacks.ema.enabled": True}, "A moving average of its weights (EMA) was evaluated"),
    ({"teacher": "big.ckpt"}, "the outputs of the teacher big.ckpt."),
    ({"stages": ["test"]}, "It was not trained in this run."),
    ({"callbacks.progressive_resizing.initial_scale": 0.5}, "began at a share of 0.5 of this size"),
    ({"trainer.accumulate_grad_batches": 4}, "Each step takes the gradients of 4 batches."),
    ({"trainer.gradient_clip_val": 0.5}, "Gradients are clipped at 0.5 (norm)."),
    ({"datamodule.sampler": "balanced"}, "All classes are drawn with equal probability."),
])  # fmt: skip
def test_a_change_of_the_recipe_is_stated(tmp_path, settings, words):
    make_run(tmp_path / "plain", settings=RECIPE, choices=CHOICES)
    assert words not in written(tmp_path)
    text = written(make_run(tmp_path / "changed", settings={**RECIPE, **settings}, choices=CHOICES))
    assert words in text and ("trained for" in text) == (settings.get("stages") is None)


def test_a_probe_that_was_skipped_is_not_stated(tmp_path):
    warning = "callbacks.linear_probe: skipped, since the backbone is not pretrained"
    settings = {**RECIPE, "callbacks.linear_probe.steps": 200}
    assert "trained first" not in written(make_run(tmp_path / "a", settings=settings, run={"warnings": [warning]}))


def test_folds_groups_and_repeated_or_missing_evaluations(tmp_path):
    for fold in range(3):
        settings = {**RECIPE, "datamodule.fold": fold}
        make_run(tmp_path / "f" / str(fold), settings=settings, n={"val": 60}, data={"folds": 5, "fold": fold})
    text = written(tmp_path / "f")
    assert "Each fold has 200 training and 60 validation images." in text
    assert "3 of 5 folds of a cross-validation were trained for each seed." in text
    for fold in (0, 1):
        settings = {**RECIPE, "datamodule.fold": fold}
        make_run(
            tmp_path / "f" / f"two{fold}", seed=2, settings=settings, n={"val": 60}, data={"folds": 5, "fold": fold}
        )
    assert "2 to 3 of 5 folds of a cross-validation were trained for each seed." in written(tmp_path / "f")
    assert "No test images were evaluated." in text and "Test accuracy" not in text

    folder = make_run(tmp_path / "g", settings=RECIPE)
    lines = [f"0/test/{image:05}.png,cat,test,{image // 4}" for image in range(80)]
    (folder / "splits.csv").write_text("\n".join(["path,label,split,group", *lines]))
    change_record(folder, test={"test_evaluations": 3})
    text = written(folder)
    assert "The test images form 20 groups." in text and "Kish 1965" in text and "Fleiss" in text
    assert "evaluated up to 3 times for each trained network" in text


def test_the_figure_is_the_confusion_matrix_of_the_best_row_over_its_seeds(tmp_path):
    for seed in (1, 2):
        for name, accuracy in (("a", 0.9), ("b", 0.6)):
            make_run(tmp_path / f"{name}{seed}", seed=seed, choices={"model": name}, accuracy=accuracy)
    write_report(str(tmp_path))
    counts = sum(np.array(RunRecord.read(RunFolder(tmp_path / f"a{seed}")).test.confusion) for seed in (1, 2))
    expected = encode_png(
        figure_pixels(confusion_matrix(counts.tolist(), ["cat", "dog"], "test images of 2 runs"), 200)
    )
    assert (tmp_path / "confusion.png").read_bytes() == expected
    costs = make_run(tmp_path / "costs", n={"val": 0, "test": 0})
    write_report(str(costs))
    assert not (costs / "confusion.png").exists() and (costs / "methods.md").is_file()


def test_what_was_not_measured_or_recorded_is_not_stated(tmp_path):
    for name in ("a", "b"):
        make_run(
            tmp_path / name, choices={"model": name}, n={"train": 1}, data={"fingerprint": None}, run={"device": None}
        )
    text = written(tmp_path)
    assert "The network is a" in text and "best of" not in text and "device" not in text


def test_settings_that_a_search_selected_are_stated_of_its_retrained_runs(tmp_path):
    trials = [SearchTrial(state=state, values=[0.8]) for state in ("finished", "pruned", "finished")]
    for kind in ("trials", "retrained", "other"):
        make_run(tmp_path / kind / "lr-0.1", settings={**RECIPE, "optimizer.lr": 0.1}, choices=CHOICES)
    assert "search" not in written(tmp_path / "retrained")
    SearchRecord(name="s", objectives=["val.accuracy"], maximize=[True], trials=trials).write(tmp_path)
    assert "Its settings were selected in a search of 3 trials by val.accuracy." in written(tmp_path / "retrained")
    assert "search" not in written(tmp_path / "trials") + written(tmp_path / "other")


def test_a_checkpoint_that_was_only_evaluated_has_no_training(tmp_path):
    folder = make_run(tmp_path / "a", settings={**RECIPE, "stages": ["test"]}, choices=CHOICES)
    change_record(folder, model={"weights": None})
    text = written(folder)
    assert "It was not trained in this run." in text and "nitial weights" not in text and "seed" not in text


def test_a_test_evaluation_of_some_seeds_is_not_one_of_all(tmp_path):
    make_run(tmp_path / "1", seed=1, settings=RECIPE)
    make_run(tmp_path / "2", seed=2, settings=RECIPE, n={"val": 60})
    assert "The test images were evaluated once for 1 of 2 trained networks." in written(tmp_path)


def test_a_record_of_anything_is_text(tmp_path):
    folder = make_run(tmp_path / "a", settings=RECIPE, choices=CHOICES)
    record = json.loads((folder / "result.json").read_text())
    record["run"]["settings"] |= {key: {"x": ["<script>"]} for key in RECIPE}
    (folder / "result.json").write_text(json.dumps(record))
    text = as_methods(judged(folder))
    assert "<script" not in text and format_accuracy(proportion(64, 80))[:5] in text
