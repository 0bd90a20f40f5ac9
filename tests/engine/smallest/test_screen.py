"""The screen over small images, with the weights of a small network in place of pretrained ones."""

import json
import logging
import math
import multiprocessing
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

import common.progress
from common.errors import UserError
from common.smallest_record import Candidate, Costs, Measured
from datamodules import cache_build
from engine.cli import CONF
from engine.config.instantiate import instantiate
from engine.config.validate import validate
from engine.log_handlers import ScreenFormatter
from engine.search.space import compose_run
from engine.smallest import feature_cache, progress, screen
from engine.smallest.progress import Progress
from lightning_modules.cut_costs import cut_costs
from lightning_modules.networks.truncated import build_backbone
from tests.support.configs import composed
from tests.support.helpers import make_images

SIZES = (16, 32)


def candidates(backbone: str = "simple_cnn", sizes: tuple[int, ...] = SIZES, **changed) -> list[Candidate]:
    """Return every cut of a backbone at each size."""
    found = []
    for index, size in enumerate(sizes):
        for cost in cut_costs(backbone, sizes).cuts:
            costs = Costs(
                parameters=cost.parameters, macs=cost.macs[index], file_kib=1, activation_kib=1, activation_int8_kib=1
            )
            given = {"pretrained": True, "weights": "file", **changed}
            found.append(Candidate(backbone=backbone, keep=cost.keep, image_size=size, costs=costs, **given))
    return found


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "simple.pth"
    torch.save(build_backbone("simple_cnn").state_dict(), path)
    return path


def arguments(root: Path, place: Path) -> list[str]:
    return [
        "datamodule=image_folder", f"datamodule.root={root}", "recipe=fast", "logger=none", "trainer=cpu",
        "datamodule.batch_size=4", f"datamodule.cache={place / 'cache'}",
    ]  # fmt: skip


@pytest.fixture
def screened(tmp_path, two_colors, weights):
    """Screen candidates in a folder of this test; return the candidates and the passes."""

    def run(
        given=None,
        *overrides,
        root=two_colors,
        folds=None,
        metric="accuracy",
        left=None,
        minutes=None,
        folder="a",
        **files,
    ):
        given = given or candidates()
        GlobalHydra.instance().clear()
        of_runs = [*arguments(root, tmp_path), *overrides]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = validate(compose_run([*of_runs, "model=simple_cnn", "model.image_size=16", "model.weights=null"]))
            with Progress() as of_search:
                passes = screen.Screen(
                    given,
                    {"simple_cnn": str(weights), **files},
                    tmp_path / folder,
                    folds=folds and screen.read_folds(config, folds),
                    metric=metric,
                    budget_minutes=minutes,
                    remaining_s=left if callable(left) else lambda: left,
                    overrides=of_runs,
                    progress=of_search,
                ).run()
        return given, passes

    return run


@pytest.fixture
def forward_passes(monkeypatch):
    """Count the passes over the images that are not taken from the disk."""
    done, usual = [], screen.Screen._forward

    def counted(self, key, *arguments):
        done.append(key)
        return usual(self, key, *arguments)

    monkeypatch.setattr(screen.Screen, "_forward", counted)
    return done


def probes(given: list[Candidate]) -> list:
    return [candidate.probe for candidate in given]


def test_every_pretrained_cut_gets_a_probe_by_one_pass_a_size_the_cheapest_first(screened, forward_passes, caplog):
    given = [*candidates(), *candidates("squeezenet1_1", (32,), pretrained=False)]
    given[0].excluded = "above limits.macs"
    with caplog.at_level(logging.INFO):
        _, passes = screened(given)
    assert forward_passes == [("simple_cnn", 16), ("simple_cnn", 32)]
    assert [(each.image_size, each.images, each.skipped) for each in passes] == [(16, 36, None), (32, 36, None)]
    assert all(each.seconds > 0 and each.macs == max(c.costs.macs for c in given if c.image_size == each.image_size
                                                     and c.backbone == "simple_cnn") for each in passes)  # fmt: skip
    assert [candidate.stage for candidate in given] == ["candidate", *["screened"] * 5, *["candidate"] * len(given[6:])]
    assert all(each.value > 0.9 and each.n == 12 and each.low < each.value for each in probes(given[1:6]))  # two colors
    assert "screen: simple_cnn at 16 px: 2 cuts in" in caplog.text and "cut after" in caplog.text


@pytest.fixture
def shown(monkeypatch) -> list[tuple[str, str]]:
    """The level and the text of each line on the screen."""
    monkeypatch.setattr(progress, "SHOWN", set())  # of this process, whose earlier tests have shown the same
    lines, handler = [], logging.Handler()
    handler.setFormatter(ScreenFormatter())
    monkeypatch.setattr(handler, "emit", lambda record: lines.append((record.levelname, record.getMessage())))
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])  # without a screen that another test has left
    monkeypatch.setattr(logging.getLogger(), "level", logging.INFO)
    return lines


def test_images_are_counted_while_they_are_read_in_every_pass(screened, shown, monkeypatch):
    monkeypatch.setattr(common.progress, "SILENCE_S", 0.05)
    monkeypatch.setattr(common.progress, "POLL_S", 0.02)
    usual = cache_build.scan_image
    monkeypatch.setattr(cache_build, "scan_image", lambda *given: time.sleep(0.02) or usual(*given))
    screened()
    (first, second), texts = (
        (re.compile(rf"screen: simple_cnn at {size} px: ") for size in SIZES),
        [t for _, t in shown],
    )
    ends = [next(place for place, text in enumerate(texts) if done.match(text)) for done in (first, second)]
    counted = [re.fullmatch(r"reading the images: \d+ of 50 images, .*", text) is not None for text in texts]
    assert any(counted[: ends[0]]) and any(counted[ends[0] : ends[1]])


def test_what_is_known_of_the_images_is_shown_once(screened, shown, two_colors, tmp_path):
    root = shutil.copytree(two_colors, tmp_path / "images", ignore=shutil.ignore_patterns("test"))
    screened(root=root, folds=2)
    warnings = [text for level, text in shown if level == "WARNING"]
    assert sum("no test folder" in text for text in warnings) == 1 and len(set(warnings)) == len(warnings)
    assert all(text.startswith("screen: ") for level, text in shown if level == "INFO")


@pytest.mark.thorough
def test_test_images_are_not_looked_at(screened, two_colors, tmp_path):
    root = shutil.copytree(two_colors, tmp_path / "images")
    here, _ = screened(root=root)
    for file in root.glob("test/*/*"):
        Image.new("RGB", (48, 48), (200, 60, 40)).save(file)
    assert probes(screened(root=root, folder="b")[0]) == probes(here)


@pytest.mark.thorough
def test_the_same_command_reads_the_results_and_another_metric_the_features(screened, forward_passes, tmp_path):
    given, passes = screened()
    again, same = screened()
    assert (probes(given), passes) == (probes(again), same) and len(forward_passes) == 2
    other, of_other = screened(metric="balanced_accuracy")
    assert len(forward_passes) == 2 and [each.seconds for each in of_other] == [each.seconds for each in passes]
    assert probes(other)[0].low is None
    folded, _ = screened(folds=3, folder="b")
    assert len(forward_passes) == 2 and {each.n for each in probes(folded)} == {36}
    for file in (tmp_path / "cache" / "features").iterdir():
        file.write_bytes(file.read_bytes()[:-100])
    for file in (tmp_path / "a" / "screen").glob("*-16.json"):
        file.write_text("{")
    damaged, _ = screened()
    assert probes(damaged) == probes(given) and forward_passes[2:] == [("simple_cnn", 16), ("simple_cnn", 32)]


@pytest.mark.parametrize("version", ["0.6.0", "now"])
def test_what_may_change_when_a_search_resumes_repeats_no_pass(screened, tmp_path, version):
    given, passes = screened(candidates(sizes=(16,)), "datamodule.cache_max_gib=9")
    (file,) = (tmp_path / "a" / "screen").glob("*.json")
    if version == "0.6.0":
        content = json.loads(file.read_text())
        content["question"]["overrides"] = [*content["question"]["overrides"], "datamodule.cache_max_gib=9"]
        file.write_text(json.dumps(content))
    before = file.stat().st_mtime_ns
    again, same = screened(candidates(sizes=(16,)), f"datamodule.cache={tmp_path / 'other'}", "++overview=false")
    assert (probes(again), same, file.stat().st_mtime_ns) == (probes(given), passes, before)
    screened(candidates(sizes=(16,)), "optimizer.lr=0.5")
    assert file.stat().st_mtime_ns != before


def test_features_are_of_the_same_pixels_weights_and_machine(screened, forward_passes, weights, tmp_path, monkeypatch):
    part = {name: each for name, each in torch.load(weights).items() if not name.startswith("features.block3")}
    torch.save(part, tmp_path / "part.pth")  # the last convolution is in no file
    first, last = (
        screened(candidates(sizes=(16,)), folder=folder, simple_cnn=str(tmp_path / "part.pth"))[0] for folder in "ab"
    )
    assert probes(first) == probes(last) and len(forward_passes) == 1
    given = candidates(sizes=(16,))
    screened(given, "datamodule.cache_format=jpeg", folder="c", simple_cnn=str(tmp_path / "part.pth"))
    assert len(forward_passes) == 2
    monkeypatch.setattr(screen, "processor_name", lambda: "a faster one")
    screened(given, folder="d", simple_cnn=str(tmp_path / "part.pth"))
    assert len(forward_passes) == 3


@pytest.mark.parametrize("further", [[], ["datamodule.train_fraction=0.5"]], ids=["all", "thinned"])
def test_folds_are_those_of_runs_and_groups_are_respected(screened, monkeypatch, two_colors, tmp_path, further):
    root = shutil.copytree(two_colors, tmp_path / "images")
    for number in range(1, 6):  # copies of one image, in train and val
        shutil.copyfile(root / "train/red/000.png", root / f"train/red/{number:03}.png")
    shutil.copyfile(root / "train/red/000.png", root / "val/red/000.png")
    seen = []
    monkeypatch.setattr(screen, "probe", lambda *a, **options: seen.append((*a, options)) or Measured(value=0.5))
    screened(candidates(sizes=(16,)), *further, root=root, folds=3)
    _, labels, parts, options = seen[0]
    for fold, part in enumerate(parts):
        of_fold = [f"datamodule.fold={fold}", "datamodule.folds=3", *further]
        config = validate(composed(*arguments(root, tmp_path), *of_fold))
        data = instantiate(config, "datamodule", augmentation=instantiate(config, "augmentation"))
        data.setup()
        images = {split: data.catalog.rows(split) for split in ("train", "val")}
        assert [len(part.train), len(part.val)] == [len(rows) for rows in images.values()]
        assert sorted(labels[part.val]) == sorted(data.catalog.labels[images["val"]])
    assert sorted(np.concatenate([part.val for part in parts])) == list(range(36))
    copies = np.flatnonzero(options["groups"] == np.bincount(options["groups"]).argmax())
    assert len(copies) == 7 and sum(bool(np.isin(copies, part.val).any()) for part in parts) == 1


def test_a_pass_that_does_not_fit_is_skipped_in_words_and_stays_so(screened, forward_passes, tmp_path):
    left = iter([1000.0] * 5)
    given, passes = screened(left=lambda: next(left, 0.001), minutes=1)
    assert passes[0].skipped is None and "budget.minutes=1" in passes[1].skipped and passes[1].seconds is None
    assert [each.stage for each in given] == ["screened"] * 3 + ["candidate"] * 3
    stored = json.loads((tmp_path / "a" / "screen" / "simple_cnn-32.json").read_text())
    assert stored["expected_s"] > stored["left_s"] == 0.001
    _, again = screened(left=1000.0, minutes=1)  # the decision was written down
    assert again == passes and len(forward_passes) == 1
    _, more = screened(left=1000.0, minutes=2)
    assert more[1].skipped is None


def test_too_little_time_for_any_pass_is_an_error_that_names_the_minutes(screened, monkeypatch, tmp_path):
    monkeypatch.setattr(screen, "MEASURED_S", 0.0)
    with pytest.raises(
        UserError, match=r"budget\.minutes=0\.001: .*simple_cnn at 16 px.*use budget\.minutes=1(\.[1-9])? or more"
    ):
        screened(left=-0.1, minutes=0.001)
    assert not list((tmp_path / "a" / "screen").glob("*.json"))


def test_the_minutes_that_are_named_are_more_than_those_that_were_too_few(screened, monkeypatch):
    """Three seconds are left before the weights are read; while the images are passed, the whole budget is over by 10 s."""
    monkeypatch.setattr(screen, "MEASURED_S", 0.0)
    left = iter([3.0])
    with pytest.raises(UserError, match=r"budget\.minutes=1\.8: .*use budget\.minutes=3\.[3-9] or more"):
        screened(left=lambda: next(left, -0.65 * 108 - 10), minutes=1.8)


def test_the_first_pass_pays_for_no_slow_start_but_the_minutes_for_all_passes_do(screened, monkeypatch):
    """Of ten minutes, starting took four, more than the share of the screen; of the other six, the pass may take 35%."""
    monkeypatch.setattr(screen, "MEASURED_S", 0.0)
    named, usual = [], screen.Screen.run
    monkeypatch.setattr(screen.Screen, "run", lambda self: (usual(self), named.append(self.enough_minutes()))[0])
    _, passes = screened(left=(0.35 * 10 - 4) * 60, minutes=10)
    assert passes[0].skipped is None and "has only 0.0 s left of budget.minutes=10" in passes[1].skipped
    assert named[0] > 4 / 0.35


def test_a_pass_is_expected_to_take_what_its_macs_took_in_calm_passes_of_its_backbone(tmp_path):
    """Passes of 200 images; what comes on top of their seconds is the mean of all of them."""
    sizes = {("a", 16): 1, ("b", 16): 2, ("a", 32): 4, ("b", 32): 8, ("c", 32): 16}  # million MACs
    given = [
        Candidate(backbone=backbone, keep=keep, image_size=size, pretrained=True, weights="file", costs=Costs(
            parameters=1, macs=macs * share, file_kib=1, activation_kib=1, activation_int8_kib=1))
        for (backbone, size), macs in sizes.items() for keep, share in (("half", 500_000), ("whole", 1_000_000))
    ]  # fmt: skip
    left = [None]
    found = screen.Screen(
        given, {}, tmp_path, folds=None, metric="accuracy", budget_minutes=None, remaining_s=lambda: left[0], overrides=[],
        progress=Progress(),
    )  # fmt: skip

    def add(key, seconds, further, reading, flag=None):
        done = screen.Pass(
            backbone=key[0], image_size=key[1], images=200, seconds=seconds, macs=found.macs[key], flag=flag
        )
        found.results[key] = screen.PassResult(question={}, done=done, further_s=further, reading_s=reading)

    def expected(*keys):
        return [found._expected_s(key) for key in keys]

    assert list(found.macs) == list(sizes) and expected(("a", 16)) == [None]
    assert found._rest_s(("a", 16), 3.0) == 3.0 * (2 + 4 + 8 + 16)  # nothing is known but the pass itself
    add(("a", 16), 1.0, 0.5, 3.0)
    add(("b", 16), None, 9.0, 9.0)  # skipped, which shows nothing
    assert expected(("a", 32), ("b", 32)) == [0.5 + 3 + 4 * 1.0, 0.5 + 3 + 8 * 1.0]
    add(("b", 16), 1.0, 1.5, 0.0)  # on the images that the pass before it has read
    assert expected(("a", 32), ("b", 32)) == [1 + 3 + 4 * 1.0, 1 + 3 + 8 * 0.5]
    assert expected(("c", 32)) == [pytest.approx(1 + 3 + 16 * 2 / 3)]  # one that was not timed: as all of them
    found.images[32, "bilinear", False] = None  # read
    assert expected(("a", 32), ("b", 32)) == [1 + 4 * 1.0, 1 + 8 * 0.5]
    assert found._rest_s(("a", 32), 7.0) == pytest.approx(1 + 8 * 0.5 + 1 + 16 * 2 / 3)
    left[0] = 2.5
    assert found._rest_s(("a", 32), 7.0) == 2.5
    add(("a", 16), 5.0, 0.5, 3.0, flag="busy")
    assert expected(("a", 32), ("b", 32)) == [1 + 4 * 0.5, 1 + 8 * 0.5]  # of b, which nothing disturbed
    add(("b", 16), 1.0, 1.5, 0.0, flag="busy")
    assert expected(("a", 32), ("b", 32)) == [1 + 4 * 5.0, 1 + 8 * 0.5]


def test_seconds_of_another_machine_are_scaled_to_this_one(screened, forward_passes, tmp_path, caplog):
    """The other one took 10 times as long for each pass. Features of the cheapest pass are on disk, with the time here."""
    _, passes = screened()
    for file in (tmp_path / "a" / "screen").glob("*.json"):
        result = json.loads(file.read_text())
        result["done"]["seconds"] *= 10
        file.write_text(json.dumps(result | {"machine": "another processor, 1 thread"}))
    with caplog.at_level(logging.INFO):
        _, again = screened()
    assert [each.seconds for each in again] == [pytest.approx(each.seconds) for each in passes]
    assert "this machine takes 0.1 times as long as the one that screened before, another processor, 1" in caplog.text
    assert len(forward_passes) == 2


def test_the_minutes_for_all_passes_by_hand(tmp_path):
    """Of 10 minutes the screen has 210 s; 60 s and 40 s were left when passes of 100 s and 200 s did not fit."""
    found = screen.Screen(
        [], {}, tmp_path, folds=None, metric="accuracy", budget_minutes=10, remaining_s=lambda: None, overrides=[],
        progress=Progress(),
    )  # fmt: skip
    assert found.enough_minutes() is None
    for number, (expected_s, left_s) in enumerate(((None, 0.0), (100.0, 60.0), (200.0, 40.0))):
        done = screen.Pass(backbone="a", image_size=number, images=9, macs=1.0, skipped="it would take too long")
        found.results["a", number] = screen.PassResult(
            question={}, done=done, budget_minutes=10, expected_s=expected_s, left_s=left_s
        )
    assert 25 < (170 + 1.2 * 300) / 0.35 / 60 < 26 == found.enough_minutes()


@pytest.mark.parametrize(("left", "seconds", "flag", "takes", "took", "end"), [
    (15.0, 420.0, None, "7 min", r"6\.0 s", "$"),
    (15.0, 420.0, "others", r"7 min 00 s \(others\)", r"6\.0 s", ", or repeat the command when the machine is idle$"),
    (-399.0, 6.0, None, r"6\.0 s", "7 min 00 s", ", or repeat the command, which finds the images read$"),
    (15.0, 6.0, None, r"6\.0 s", r"6\.0 s", "$"),
])  # fmt: skip
def test_the_minutes_that_are_named_by_hand(screened, monkeypatch, left, seconds, flag, takes, took, end):
    """Of a minute the screen has 21 s; what is not left of them was spent on the images; a fifth of all is to spare.

    The pass gets 35% of the rest. After it, in what is left without 30 s, a head has to be trained in 35%: 6 s and two passes
    up to its cut, whose first layers take a fifth of a pass.
    """

    def too_long(*_):
        raise screen.DoesNotFit(seconds, flag)

    monkeypatch.setattr(screen.Screen, "_features", too_long)
    macs = [each.costs.macs for each in candidates(sizes=(16,))]
    head_s = 6 + 2 * seconds * (0.2 + 0.8 * min(macs) / max(macs))
    least = 1.2 * (21 - left + max(seconds / 0.35, seconds + 30 + head_s / 0.35)) / 60
    named = re.escape(f"{math.ceil(least * 10) / 10:g}")
    with pytest.raises(
        UserError,
        match=rf"takes about {takes}.* 35% of the budget .* took {took}; use budget\.minutes={named} or more{end}",
    ):
        screened(left=left, minutes=1)


def test_the_line_on_a_pass_has_its_best_cut_and_all_of_its_seconds(tmp_path):
    found = screen.Screen(
        [], {}, tmp_path, folds=None, metric="balanced_accuracy", budget_minutes=None, remaining_s=lambda: None,
        overrides=[], progress=Progress(),
    )  # fmt: skip
    done = screen.Pass(backbone="a", image_size=16, images=9, macs=1.0, seconds=70.0, flag="busy")
    probes = {"x": Measured(value=0.7), "y": Measured(value=0.9, low=0.81239, high=0.94321), "z": Measured(value=0.8)}
    result = screen.PassResult(question={}, done=done, forward_s=70.0, reading_s=40.0, further_s=15.0, probes=probes)
    line = (
        "screen: a at 16 px: 3 cuts in 2 min 05 s{}; best probe: cut after y, balanced accuracy 0.900 (0.812 to 0.944)"
    )
    assert found._line(result) == line.format(" (busy)")
    result.forward_s, result.further_s = 0.0, 85.0  # from the disk, which is not what the machine was busy during
    assert found._line(result) == line.format("")


@pytest.mark.thorough
def test_what_cannot_be_loaded_is_skipped_in_words_and_tried_again(screened, tmp_path):
    given = [*candidates(), *candidates("squeezenet1_1", (32,))]
    other = tmp_path / "other.pth"
    torch.save({"other.weight": torch.zeros(1)}, other)
    _, passes = screened(given, squeezenet1_1=str(other))
    skipped = {each.backbone: each.skipped for each in passes if each.skipped}
    assert list(skipped) == ["squeezenet1_1"] and "none of its weights fit this network" in skipped["squeezenet1_1"]
    assert given[0].probe and not given[-1].probe
    torch.save(build_backbone("squeezenet1_1").state_dict(), other)
    assert not any(each.skipped for each in screened(given, squeezenet1_1=str(other))[1])


@pytest.mark.thorough
def test_disk_that_is_full_and_no_cache_do_no_harm(screened, monkeypatch):
    expected, _ = screened()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_cache.np, "savez", full)
    monkeypatch.setattr(screen, "write_json", full)
    found, _ = screened(None, "datamodule.cache_max_gib=1", folder="b", metric="accuracy")
    assert probes(found) == probes(expected)


def test_least_recently_used_features_are_removed(tmp_path):
    features = [np.ones((10, 10), np.float32)]
    for number in range(3):
        cache = feature_cache.FeatureCache(tmp_path, [number], 1000 / 2**30)
        cache.save(features, 1.0, "busy")
        os.utime(cache.path, (number, number))
    assert len(list(tmp_path.iterdir())) == 1 and cache.load([(10, 10)])[1:] == (1.0, "busy")
    assert cache.load([(10, 11)]) is None
    content = cache.path.read_bytes()
    for place in range(content.index(b"PK\1\2"), len(content)):  # each byte of the directory of the archive
        cache.path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        found = cache.load([(10, 10)])
        assert found is None or (found[0][0] == 1).all()
    feature_cache.FeatureCache(tmp_path, ["none"], 0.0).save(features, 1.0)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.thorough
def test_a_pass_of_another_process_is_waited_for(screened, forward_passes, tmp_path):
    given, _ = screened()
    folder = tmp_path / "a" / "screen"
    result = (folder / "simple_cnn-16.json").read_text()
    (folder / "simple_cnn-16.json").unlink()
    lock = FileLock(folder / ".simple_cnn-16.lock", thread_local=False)
    lock.acquire()

    def finish():
        (folder / "simple_cnn-16.json").write_text(result)
        lock.release()

    threading.Timer(1.0, finish).start()
    again, _ = screened()
    assert probes(again) == probes(given) and len(forward_passes) == 2


def _killed_in_second_pass(run) -> None:
    usual = screen.Screen._forward

    def killed(self, key, *arguments):
        if key[1] == 32:
            os.kill(os.getpid(), signal.SIGKILL)
        return usual(self, key, *arguments)

    screen.Screen._forward = killed
    run()


@pytest.mark.thorough
def test_killed_in_a_pass_only_that_one_is_done_again(screened, forward_passes, tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_killed_in_second_pass, args=(screened,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    given, passes = screened()
    assert forward_passes == [("simple_cnn", 32)] and len(passes) == 2
    assert all(each.probe for each in given)
    assert json.loads((tmp_path / "a" / "screen" / "simple_cnn-32.json").read_text())["done"]["skipped"] is None


def test_how_far_a_pass_is_can_be_shown_at_any_time(screened, monkeypatch):
    shown, usual = [], Progress.set

    def keep(self, *texts):
        shown.append(": ".join(texts))
        usual(self, *texts)

    monkeypatch.setattr(Progress, "set", keep)
    screened()
    assert "screen: pass 2 of 2, simple_cnn at 32 px: 16 of 36 images, about 1 s left" in shown
    assert "screen: pass 2 of 2, simple_cnn at 32 px: reading the images" in shown


def test_many_images_a_part_with_every_class_is_used(screened, monkeypatch, caplog):
    monkeypatch.setattr(screen, "MOST_TRAIN", 9)
    monkeypatch.setattr(screen, "MOST_VAL", 5)
    with caplog.at_level(logging.INFO):
        given, passes = screened()
    assert passes[0].images == 14 and probes(given)[0].n == 5
    assert caplog.text.count("probes use 9 of 24 images of train and 5 of 12 of val") == 1


@pytest.mark.thorough
def test_images_of_16_bits_and_twenty_classes(screened, tmp_path):
    generator = np.random.default_rng(0)
    for number in range(20):
        for split, count in (("train", 3), ("val", 2)):
            (tmp_path / "deep" / split / f"c{number:02}").mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 200, (24, 24)) + 180 * number
                Image.fromarray(pixels.astype(np.uint16)).save(
                    tmp_path / "deep" / split / f"c{number:02}" / f"{index}.png"
                )
    given, _ = screened(candidates(sizes=(16,)), root=tmp_path / "deep")
    assert probes(given)[0].n == 40 and max(each.value for each in probes(given)) > 0.5


def test_a_split_without_a_class_is_an_error_that_names_it(screened, tmp_path):
    make_images(
        tmp_path / "few", {"train/red": 6, "train/blue": 6, "train/green": 4, "val/red": 4, "val/blue": 4}, size=16
    )
    with pytest.raises(UserError, match="only in train: green"):
        screened(root=tmp_path / "few")
    make_images(tmp_path / "two", {"train/red": 6, "train/blue": 1, "val/red": 6, "val/blue": 1}, size=16)
    with pytest.raises(UserError, match="no image of class blue"):
        screened(root=tmp_path / "two", folds=4)
