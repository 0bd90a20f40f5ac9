"""The model card: every number is in the record, hostile texts stay texts, limits and licenses are named."""

import json
import re
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest

from common.run_record import (
    AtThreshold,
    AuditFinding,
    Baseline,
    BestEpoch,
    Binary,
    Calibrated,
    ClassScores,
    Decision,
    EceByChance,
    Latency,
    Proportion,
    RunRecord,
    Selective,
    Throughput,
)
from evaluation.intervals import proportion
from reports.model_card import model_card, write_card
from tests.support.fake_runs import change_record, make_run

NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?![\w.]*\d)")
FIXED = {"95", "3", "40", "84", "91", "93"}  # of intervals, and of what they cover with few errors or few images
HOSTILE = ("<script>alert(1)</script>", "a|b `x` [l](http://e)", "# line\nbreak")


def numbers_of(value) -> list[float]:
    """Every number of a record, those inside its texts too."""
    if isinstance(value, dict):
        return [x for item in value.items() for part in item for x in numbers_of(part)]
    if isinstance(value, (list, tuple)):
        return [x for item in value for x in numbers_of(item)]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return [float(value)]
    return [float(found.replace(",", "")) for found in NUMBER.findall(str(value))] if isinstance(value, str) else []


def printed_ends(value) -> list[float]:
    """Every end of an interval in a record as it is printed: rounded outward."""
    if isinstance(value, list):
        return [end for item in value for end in printed_ends(item)]
    if not isinstance(value, dict):
        return []
    pairs = [(value["low"], value["high"])] if "low" in value else list((value.get("intervals") or {}).values())
    ends = [end for low, high in pairs for end in (np.floor(1000 * low) / 1000, np.ceil(1000 * high) / 1000)]
    return ends + printed_ends(list(value.values()))


def without_origin(card: str, record: RunRecord, checkpoint: str) -> list[str]:
    """Numbers of a card that are no rounding of any number of the record."""
    known = numbers_of(asdict(record)) + numbers_of(checkpoint) + printed_ends(asdict(record))
    if decision := record.decision:  # 90% where delta is 0.1, and how many images without an error promise the target
        known += [np.ceil(1000 * (decision.confidence or 0)) / 1000]  # rounded up, since less promises nothing
        known += [100 * (1 - decision.delta), np.ceil(np.log(decision.delta) / np.log(decision.target_accuracy))]
    text = card.replace("range(1,6)", "").replace("\\", "")
    missing = []
    for shown in NUMBER.findall(text):
        digits = len(shown.partition(".")[2])
        value = float(shown.replace(",", ""))
        if shown not in FIXED and not any(f"{x:.{digits}f}" == f"{value:.{digits}f}" for x in known):
            missing.append(shown)
    return missing


def row(card: str, begins: str) -> str:
    return next(line for line in card.splitlines() if line.startswith(begins))


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """The record of a run that never ran, with numbers of its own everywhere."""
    folder = make_run(tmp_path_factory.mktemp("card") / "run", epochs=0, settings={"model.image_size": 48})
    share = Proportion(0.7143, 0.3589, 0.9178, 5, 7)
    at_half = AtThreshold(
        threshold=0.5,
        accuracy=share,
        sensitivity=share,
        specificity=replace(share, correct=6),
        balanced_accuracy=0.6,
        f1=0.7,
    )
    change_record(
        folder,
        test={
            "balanced_accuracy": 0.6543, "f1": 0.6432, "auroc": 0.7654, "ece": 0.1234, "test_evaluations": 3,
            "confusion": [[5, 2], [14, 59]],
            "baseline": Baseline("dog", 0.7654), "ece_by_chance": EceByChance(0.0543, 0.1357),
            "intervals": {"balanced_accuracy": (0.6111, 0.6999), "f1": (0.6222, 0.6888), "auroc": (0.7333, 0.7777)},
            "per_class": [
                ClassScores(name="cat", n=7, recall=share, f1=0.4321),
                ClassScores(name="dog", n=73, recall=share, precision=share),
            ],
            "calibrated": Calibrated(ece=0.0876, loss=0.4, brier=0.2),
            "binary": Binary(positive_class="dog", average_precision=0.5, at_half=at_half, at_threshold=at_half),
            "selective": Selective(0.9321, 0.5, 41, replace(share, n=41, correct=39)),
        },
    )  # fmt: skip
    made = RunRecord.read(folder)
    made.val.baseline = Baseline("cat", 0.5678)
    made.best = BestEpoch(epoch=17, monitor="val/accuracy", value=0.8765, checkpoint="best.ckpt")
    made.decision = Decision(
        temperature=1.37, confidence=0.9321, fitted_on=61, target_accuracy=0.97, delta=0.2, positive_class="dog",
        threshold_criterion="balanced_accuracy", threshold=0.4123,
    )  # fmt: skip
    made.throughput = Throughput(train_images_per_s=222.2)
    return made


def test_splits_that_the_data_came_with_have_no_seed(tmp_path):
    for origin in ("given by the source", "drawn by datamodule.split_seed=7", None):
        settings = {"datamodule.split_seed": 7, "datamodule.table": None}
        folder = make_run(tmp_path / str(origin), settings=settings, data={"splits_from": origin})
        card = model_card(RunRecord.read(folder), "best.ckpt")
        data = card.partition("## Data")[2].partition("## Training")[0]
        lines = [line.replace("\\", "") for line in data.splitlines() if "split" in line]
        assert lines == ([f"- splits: {origin}"] if origin else [])


def test_the_settings_of_an_evaluation_are_not_those_of_the_training(tmp_path):
    """A checkpoint in the folder of its run has the settings of that run; those of another one are not known."""
    settings = {"optimizer.lr": 0.125, "model.keep": 5, "model.weights": "auto"}
    record = RunRecord.read(make_run(tmp_path / "run", settings=settings, epochs=0))
    record.best = None  # it trained nothing
    beside, moved = record.folder.checkpoints / "best.ckpt", tmp_path / "away" / "a" / "best.ckpt"
    for checkpoint, is_known in ((beside, True), (moved, False)):
        write_card(record, str(checkpoint))
        training = record.folder.model_card.read_text().partition("## Training")[2].partition("## Results")[0]
        assert ("lr 0.125" in training) is ("weights auto" in training) is ("\n- seed: " in training) is is_known
        assert "keep 5" in training
        assert ("- not known: the checkpoint was evaluated away from the folder of its run" in training) is not is_known


def test_every_number_of_a_made_up_run_is_in_its_record(record):
    card = model_card(record, "checkpoints/best.ckpt")
    assert len(NUMBER.findall(card)) > 90
    assert without_origin(card, record, "") == []
    assert without_origin(card.replace("0.8765", "0.8764"), record, "") == ["0.8764"]  # the check itself can fail


def test_each_result_is_in_its_place(record):
    card = model_card(record, "checkpoints/best.ckpt")
    assert row(card, "| balanced accuracy").startswith(
        "| balanced accuracy (95% interval) | 0.654 (0.611 to 0.700) | - |"
    )
    assert row(card, "| cat | 0.7") == "| cat | 0.714 (5 of 7, 0.358 to 0.918) | - | 0.432 | 7 |"
    assert "- chosen on validation images: epoch 17, for its val/accuracy of 0.8765" in card
    assert "images were evaluated 3 times with this model; only the first result is unbiased. result.json" in card
    assert (
        "(ECE) test: 0.123 (a perfectly calibrated network shows 0.054, up to 0.136, with 80 images): no miscalibration can "
        "be seen; with temperature 1.37: 0.088"
    ) in card
    assert row(card, "| accuracy of guessing") == (
        "| accuracy of guessing the most frequent class | 0.765 (dog) | 0.568 (cat) |"
    )
    assert "threshold for dog: 0.412 (best balanced accuracy on validation): sensitivity 0.714 (5 of 7" in card
    assert (
        "selective prediction: accuracy 0.97 with 80% confidence on images like those of validation: confidence &gt;= 0.933; "
        "this decides 41 of 80 test images, 0.714 (39 of 41"
    ) in card.replace("\\", "")
    assert "- fitted on 61 validation images, which also chose the epoch and so flatter; kept in the checkpoint" in card
    assert "Few test images, so little is known: cat (7)." in card
    assert "images: not known to this project" in card and "initialized randomly" in card
    accuracy = record.test.accuracy
    assert f"Accuracy test: **{accuracy.value:.4f} ({accuracy.correct} of 80, 95% interval" in card
    assert "; always 'dog': 0.7654**." in card
    assert (
        "**This network is no better than guessing as far as 80 images can tell: the interval of its accuracy" in card
    )
    assert "yet it tells classes apart: balanced accuracy 0.654 (0.611 to 0.700).**" in card
    better = replace(record, test=replace(record.test, baseline=Baseline("dog", 0.5)))
    better.folder = record.folder
    assert "guessing as far as" not in model_card(better, "x")


def test_of_many_classes_those_of_the_fewest_images_are_named(record):
    scores = [replace(record.test.per_class[0], name=f"c{i:02}", n=29 - i) for i in range(20)]
    many = replace(record, test=replace(record.test, per_class=scores))
    many.folder = record.folder
    card = model_card(many, "x")
    assert "so little is known: c19 (10), c18 (11), c17 (12), " in card and "c09 (20) and 9 more." in card


def test_what_coverage_caveat_and_a_missing_promise_mean_is_shown(record):
    sure = replace(record, test=replace(record.test, accuracy=proportion(79, 80), selective=None))
    sure.decision, sure.folder = replace(record.decision, confidence=None, fitted_on=20), record.folder
    card = model_card(sure, "x")
    assert "\nWith fewer than 3 errors the 95% interval of accuracy can cover as little as 84%.\n" in card
    assert (
        "- selective prediction: accuracy 0.97 cannot be promised with 20 validation images (at least 53 without an error are "
        "needed), so it abstains from every image"
    ) in card


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("imagenet (ResNet18_Weights.IMAGENET1K_V1)", "trained on ImageNet, whose terms"),
        ("file weights.pth", "initialized from a file: its terms are not known"),
        ("random (auto: imagenet not available)", "initialized randomly"),
        ("checkpoint RUN/best.ckpt", "its model card lists"),
        (None, "its model card lists"),
    ],
)
def test_licenses(record, weights, words):
    data = replace(record.data, license="CC BY-NC-SA 4.0, not for commercial use")
    other = replace(record, data=data, model=replace(record.model, weights=weights))
    other.folder = record.folder
    lines = model_card(other, "x").splitlines()
    assert "- images: CC BY-NC-SA 4.0, not for commercial use" in lines
    assert words in next(line for line in lines if line.startswith("- weights: "))


def test_hostile_names_stay_text_in_one_line(tmp_path):
    audit = [AuditFinding(kind="x", leak=True, text="<img src=x> | in\n# train")]
    data = {"root": "a`b\n# c", "name": "<b>", "audit": audit}
    record = RunRecord.read(make_run(tmp_path / "run", epochs=0, classes=HOSTILE, data=data))
    checkpoint = 'a"\n```\n# out'
    card = model_card(record, checkpoint)
    assert "<script" not in card and "<img" not in card and "<b>" not in card
    assert r"a\|b \`x\` \[l\](http://e)" in card
    headings = [line for line in card.splitlines() if line.startswith("#")]
    assert all(line.startswith(("# Model card: ", "## ")) for line in headings) and len(headings) == 9
    tables = [line for line in card.splitlines() if line.startswith("| ")]
    plain = [re.sub(r"\\.", "", line) for line in tables]
    assert {line.count("|") for line in plain} == {4, 5}  # two splits; three classes
    loads = next(line for line in card.splitlines() if "from_checkpoint" in line)
    assert json.loads(loads.partition("(")[2].rpartition(")")[0]) == 'a" ``` # out'
    assert sum(line.startswith("```") for line in card.splitlines()) == 4  # two fences, each closed


def test_limits_name_a_missing_test_result_and_a_selection_on_test(tmp_path):
    closed = RunRecord.read(make_run(tmp_path / "a", epochs=0, n={"val": 60}, data={"folds": 5, "fold": 2}))
    card = model_card(closed, "x")
    fold = "one fold of a cross-validation (datamodule.folds=5 datamodule.fold=2)"
    assert f"{fold}, which does not use the test split" in card.replace("\\", "")
    tested = RunRecord.read(make_run(tmp_path / "c", epochs=0, data={"folds": 5, "fold": 2}))  # as smallest.py does
    assert tested.test and f"- {fold}\n" in model_card(tested, "x").replace("\\", "")
    assert "There is no test result" in card and "**The epoch was chosen on these images.**" in card
    selected = RunRecord.read(make_run(tmp_path / "b", epochs=0, data={"select_on": "test"}))
    assert "all results here are too good" in model_card(selected, "x")
    for split, name in (("test", "test"), ("train", "training")):
        selected.best = BestEpoch(epoch=3, monitor=f"{split}/accuracy", value=0.9)
        assert f"chosen on {name} images: epoch 3, for its {split}/accuracy of 0.9000" in model_card(selected, "x")
    selected.test = selected.val = None
    assert "Nothing was measured." in model_card(selected, "x")


def test_wall_time_and_warnings(tmp_path):
    shown = [*(f"warning {n}" for n in range(22)), "<b>\nlong " + "x" * 400]
    run = {"warnings": shown[::-1], "wall_time_s": 4321.06}
    card = model_card(RunRecord.read(make_run(tmp_path / "a", epochs=0, run=run)), "x")
    assert "- wall time of the whole run 4,321.1 s" in card
    warnings = card.partition("## Warnings\n\n")[2].partition("\n\n")[0].splitlines()
    assert len(warnings) == 21 and warnings[1] == "- warning 21" and warnings[-1] == "- and 3 more"
    assert "<b>" not in warnings[0] and len(warnings[0]) < 320 and warnings[0].endswith("…")
    none = model_card(RunRecord.read(make_run(tmp_path / "b", epochs=0)), "x")
    assert "## Warnings\n\nNone.\n" in none


def test_the_card_of_a_trained_run(finished_run, two_colors, tmp_path):
    record = RunRecord.read(shutil.copytree(finished_run.folder, tmp_path / "run"))
    write_card(record, None)
    card = record.folder.model_card.read_text(encoding="utf-8")
    assert card == (finished_run.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert without_origin(card, record, record.best.checkpoint) == []
    assert record.data.license is None
    assert f"- wall time of the whole run {record.run.wall_time_s:,.1f} s" in card
    accuracy = record.test.accuracy
    assert (
        f"({accuracy.correct} of {accuracy.n}, 95% interval" in card
        and "evaluated once with this model. result" in card
    )
    lines = re.search(r"```python\n(.*?)```", card, re.S).group(1).replace('["a.jpg", "b.png"]', "images")
    names = {"images": [str(file) for file in sorted((two_colors / "test" / "red").glob("*.png"))[:2]]}
    exec(compile(lines, "card", "exec"), names)
    assert names["model"].classes == ["blue", "red"] and names["model"].predict(names["images"])[1].predicted


def test_nested_classes_are_shown_by_name_and_settings(tmp_path):
    step = {"_target_": "torchvision.transforms.v2.RandomHorizontalFlip", "p": 0.25}
    settings = {"augmentation.transforms": [step, {"_target_": "my.Own"}], "model.head.dropout": [0.2, 0.02]}
    card = model_card(RunRecord.read(make_run(tmp_path / "run", epochs=0, settings=settings)), "best.ckpt").replace(
        "\\", ""
    )
    assert "augmentation: transforms [RandomHorizontalFlip (p 0.25), Own]" in card and "dropout [0.2, 0.02]" in card


def test_a_disturbed_latency_is_shown_with_its_load_and_its_reason(tmp_path):
    folder = make_run(tmp_path / "run")
    found = {"device": "cpu", "threads": 2, "repeats": 5, "cores": 2}
    latency = [
        Latency(batch_size=1, latency_p50_ms=5.3, load_1min=0.4, **found),
        Latency(
            batch_size=16, latency_p50_ms=106.0, load_1min=3.2, flag="other processes used 1.6 of 2 cores", **found
        ),
    ]
    change_record(folder, model={"latency": latency})
    lines = [line for line in model_card(RunRecord.read(folder), "best.ckpt").splitlines() if "latency" in line]
    assert lines == [
        "- latency at batch size 1: p50 5.3 ms (cpu, 2 threads, n = 5, load average 0.4 on 2 cores)",
        "- latency at batch size 16: p50 106.0 ms (cpu, 2 threads, n = 5, load average 3.2 on 2 cores); unreliable: other "
        "processes used 1.6 of 2 cores",
    ]


def test_the_use_of_a_network_or_head_of_ones_own_names_it(tmp_path):
    def card(settings: dict) -> str:
        return model_card(
            RunRecord.read(make_run(tmp_path / str(len(settings)), epochs=0, settings=settings)), "best.ckpt"
        )

    assert "register" not in card({})
    own = card({"model.head.name": "my_package.heads.Cosine"})
    assert 'Predictor.from_checkpoint("best.ckpt", register=["my_package.heads.Cosine"])' in own
    assert "`python predict.py ckpt=FILE images=DIR 'register=[my_package.heads.Cosine]'`" in own
    assert "`python export.py ckpt=FILE 'register=[my_package.heads.Cosine]'`" in own
    assert (
        "register" not in card({"model.head.name": "a.b`](http://e)", "model.network": "tiny"}).partition("## Data")[0]
    )
