"""Hundreds of malformed inputs: each is read, or named in one line; none is lost, hangs or ends in a traceback."""

import contextlib
import functools
import logging
import time
import warnings

import pytest
import torch
from omegaconf import open_dict

from common.run_folder import RunFolder
from common.run_record import RunRecord
from datamodules.decode import UnreadableImageError, open_image
from datamodules.image_stats import ImageStats
from datamodules.pixel_cache import Look
from datamodules.sources.csv_table import CsvTable
from datamodules.sources.image_folder import ImageFolder
from datamodules.sources.source import read_source
from engine import cli, error_messages
from engine.config.instantiate import instantiate
from engine.config.validate import validate
from engine.run import stages
from engine.run.loggers import open_loggers
from inference.image_inputs import ImageInputs
from lightning_modules.checkpoint import epochs_done, load_network
from reports.aggregate import aggregate
from reports.load_runs import find_records, load_runs
from reports.report import write_report
from tests.support import malformed
from tests.support.configs import compose_verb
from tests.support.fake_checkpoints import make_checkpoint
from tests.support.fake_runs import make_run
from tests.support.helpers import make_images, open_pixel_cache

LONGEST_S = 10.0


@contextlib.contextmanager
def quickly(what: str):
    started = time.perf_counter()
    yield
    assert time.perf_counter() - started < LONGEST_S, what


def named(call, *words: str) -> str:
    """The message for the user that a call ends in; it has these words and no end of them."""
    with quickly(str(words)), pytest.raises(Exception) as caught:
        call()
    message = error_messages.user_message(caught.value)
    assert message is not None, repr(caught.value)
    assert all(word in message for word in words), (words, message)
    assert len(message) < 3000 and message.isprintable(), message
    return message


@pytest.mark.filterwarnings("ignore")  # Pillow's, of files that it can read in part
def test_images(tmp_path):
    made = malformed.images()
    for folder in ("a", "b"):
        (tmp_path / "root" / folder).mkdir(parents=True)
        for name, content in made.items():
            (tmp_path / "root" / folder / name).write_bytes(content)
    catalog = read_source(ImageFolder(root=tmp_path / "root"))
    assert sorted(catalog.paths) == sorted(f"{folder}/{name}" for folder in ("a", "b") for name in made)
    with quickly("all images together"):
        store = open_pixel_cache(catalog.files, Look(16), tmp_path / "cache")
    read = [path for path, error in zip(catalog.paths, store.stats.errors, strict=True) if not error]
    for file, error, size in zip(catalog.files, store.stats.errors, store.stats.sizes.tolist(), strict=True):
        assert (str(file) in error and "not a readable image (" in error) if error else min(size) > 0
        assert len(error) < 600 and error.isprintable(), error
    for name in ("huge.png", "large.png"):
        with pytest.raises(UnreadableImageError, match=r"exceeds the limit of 200,000,000"):
            open_image(tmp_path / "root" / "a" / name)
    beside = {"text.png", "profile.png"}  # bombs that are no pixels: these are read without them
    assert {f"a/{name}" for name in beside} <= set(read)
    must = {
        name
        for name in made.keys() - beside
        if "_cut_0.02" in name or "_" not in name or name.startswith(("gif_of", "half_a"))
    }
    assert not must & {path[2:] for path in read}
    assert {f"a/{name}" for name in made if "_is_" in name} <= set(read)  # the content decides, not the name
    for name in ("eps.jpg", "pdf.jpg", "svg.png", "wmf.bmp", "icon.png", "ppm.bmp"):
        with pytest.raises(UnreadableImageError, match=rf"{name}.*not a known image format; known are JPEG, PNG"):
            open_image(tmp_path / "root" / "a" / name)


def test_tables(tmp_path):
    make_images(tmp_path, {"a": 3, "b": 3}, size=8)
    cases = malformed.tables()
    for content, words in cases:
        (tmp_path / "table.csv").write_bytes(content)
        if not words:
            assert len(read_source(CsvTable(table=tmp_path / "table.csv"))) == 2
            continue
        named(lambda: read_source(CsvTable(table=tmp_path / "table.csv")), "table.csv", words)
        with contextlib.suppress(ValueError), quickly(words):
            list(ImageInputs(str(tmp_path / "table.csv")))  # of predict.py, which asks for less


def test_checkpoints(tmp_path, caplog):
    base = make_checkpoint(tmp_path / "base.ckpt", image_size=16)
    usual = load_network(base).network.state_dict()
    path = tmp_path / "odd.ckpt"
    unnoticed = 0
    for what, content, wrong in malformed.checkpoints(base):
        path.write_bytes(content)
        if wrong:
            named(lambda: load_network(path), "odd.ckpt")
            continue
        try:
            with quickly(what):
                loaded = load_network(path).network.state_dict()
        except ValueError as error:
            assert wrong is None and "odd.ckpt" in str(error), what
        else:  # a byte that is not a part of any record
            assert all(torch.equal(loaded[name], tensor) for name, tensor in usual.items()), what
            unnoticed += wrong is None
    assert unnoticed <= 3  # of 30 flipped bytes
    for epoch in malformed.ODD:
        torch.save({"epoch": epoch}, path)
        named(lambda: epochs_done(path), "odd.ckpt", "epoch")
    state = torch.load(base, weights_only=True)
    next(iter(state["state_dict"].values()))[0] = float("nan")
    torch.save(state, path)
    load_network(path)
    assert "27 of its weights are NaN" in caplog.text


@pytest.mark.thorough
def test_records_and_tables_of_runs(tmp_path):
    make_run(tmp_path / "good", n={"val": 6, "test": 6}, epochs=2)
    text = (tmp_path / "good" / "result.json").read_text()
    made = malformed.records(text)
    for index, odd in enumerate(made):
        make_run(tmp_path / f"record{index}", n={"val": 6, "test": 6}, epochs=2)
        (tmp_path / f"record{index}" / "result.json").write_bytes(odd.encode())
    usual = (tmp_path / "good" / "predictions.csv").read_text()
    head, *lines = usual.splitlines(keepends=True)
    spoiled = [
        "", head, usual[:-1], usual[:-20], usual.replace("path,", "file,"), usual.replace("p_dog", "p_cat"), "\0" * 100,
        usual.replace("cat,cat", "cow,cat"), usual.replace("0.", "nan", 1), usual.replace("0.", "-", 1), usual + '"x\n',
        usual.replace("0.", "1e9", 1), usual + "a,b\n", head + lines[0] * 2, usual.encode("utf-16").decode("latin-1"),
        usual + "x" * 200_000 + "\n", usual.replace(",", ";"), head.replace("\n", ",p_cat\n") + "".join(lines),
    ]  # fmt: skip
    epochs = (tmp_path / "good" / "metrics.csv").read_text()
    curves = ["", "epoch\n", "\0", epochs[:-9], epochs.replace("1,", "x,", 1), epochs.replace("1,", "1e300,", 1),
              epochs.replace("1,", "-5,", 1), epochs + '"', epochs + "1" * 200_000 + "\n"]  # fmt: skip
    for name, contents in (("predictions.csv", spoiled), ("predictions_val.csv", spoiled), ("metrics.csv", curves)):
        for index, content in enumerate(contents):
            run = make_run(
                tmp_path / f"{name}{index}", seed=index, choices={"model": name}, n={"val": 6, "test": 6}, epochs=2
            )
            (run / name).write_text(content)
    with quickly("the report of all of them"), warnings.catch_warnings():
        warnings.simplefilter("error")
        written = write_report(str(tmp_path))
    paths = find_records(str(tmp_path))
    data = aggregate(load_runs(paths))
    shown = sum(len(row.runs) for group in data.groups for row in group.rows) + len(data.unfinished)
    assert shown + len(data.excluded) == len(paths)
    assert all("result.json" in why or "the same settings" in why or "a debug run" in why for _, why in data.excluded)
    assert len(written.excluded) == len(data.excluded) and all(len(why) < 600 for why in written.excluded)


def test_a_damaged_pixel_cache_is_rebuilt(tmp_path, caplog):
    root = make_images(tmp_path / "root", {"a": 3}, size=8)
    files = sorted(root.glob("*/*"))
    expected = [open_pixel_cache(files, Look(8), tmp_path / "cache")[row] for row in range(3)]
    (place,) = (tmp_path / "cache").iterdir()
    usual = {name: (place / name).read_bytes() for name in ("pixels.npy", "stats.npz")}
    count = 0
    for name, content in usual.items():
        for odd in (b"", content[:-1], content[: len(content) // 2], b"x" * len(content)):
            (place / name).write_bytes(odd)
            with caplog.at_level(logging.WARNING):
                store = open_pixel_cache(files, Look(8), tmp_path / "cache")
            assert all((store[row] == expected[row]).all() for row in range(3))
            count += 1
    assert sum("building it again" in message for message in caplog.messages) == count
    with pytest.raises(ValueError, match="damaged"):
        ImageStats.load(place / "stats.npz", rows=4)


@pytest.fixture
def checked(tmp_path):
    """Compose, check and build all that a run is made of, as train.py does before it trains."""
    root = make_images(tmp_path / "root", {f"{s}/{c}": 4 for s in ("train", "val", "test") for c in ("a", "b")}, size=8)
    usual = [
        "datamodule=image_folder",
        f"datamodule.root={root}",
        f"datamodule.cache={tmp_path}/cache",
        "model.weights=null",
    ]
    usual += ["model.image_size=32", "datamodule.batch_size=4", "trainer=cpu", f"hydra.run.dir={tmp_path}/run"]
    record = RunRecord.begin(RunFolder(tmp_path / "run"), command=[], overrides=[], writes=False)

    def check(overrides: list[str]) -> None:
        cli.complete_overrides([*usual, *overrides])
        config = compose_verb("train", *cli.complete_overrides(usual), *overrides)
        with open_dict(config):
            del config.hydra
        config = validate(config)
        data = instantiate(config, "datamodule", augmentation=instantiate(config, "augmentation"))
        rules = instantiate(config, "decision")
        data.setup()
        rules.check(data.catalog.classes)
        stages.build_model(config, data)
        with open_loggers(config, record) as loggers:
            callbacks = stages.all_callbacks(config, record, stages.configured_callbacks(config), [])
            stages.build_trainer(config, record, stages.Process(), loggers, callbacks)

    return check


@pytest.mark.thorough
def test_settings(checked):
    checked([])
    for overrides in malformed.settings():
        key = overrides[-1].lstrip("+~").partition("=")[0]
        message = named(functools.partial(checked, overrides))
        assert any(word in message for word in key.split(".")) and "site-packages" not in message, message
