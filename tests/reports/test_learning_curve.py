"""Learning curves from made-up runs, and the experiment's command."""

import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from common.atomic_io import write_csv
from common.run_folder import RunFolder
from common.run_record import BestEpoch, DataInfo, ModelInfo, RunInfo, RunRecord, write_record
from evaluation.intervals import Interval
from evaluation.paired_tests import paired_difference
from reports.learning_curve import Curves, Point, describe_curves, draw, read_curves
from reports.report import write_report
from tests.support.configs import composed
from tests.support.helpers import read_csv
from tests.support.parsed_html import Parsed


def make_run(
    folder, *, model="small", parameters=100, n_train=100, seed=1, accuracy=0.8, images=400, settings=None, **record
):
    """A finished run that is right on each test image with the given chance; the same images are hard for all."""
    folder.mkdir(parents=True)
    difficulty = (np.random.default_rng(0).permutation(images) + 0.5) / images  # as hard for every run
    difficulty = (difficulty + np.random.default_rng(seed).normal(0, 0.02, images)) % 1
    rows = [
        {"path": f"{i}.png", "fingerprint": f"{i:04}", "label": "a", "predicted": "a" if d < accuracy else "b",
         "p_a": "0.5", "p_b": "0.5"}
        for i, d in enumerate(difficulty)
    ]  # fmt: skip
    made = RunRecord(
        status="finished", run=RunInfo(seed=seed, settings=settings or {}), best=BestEpoch(epoch=1),
        data=DataInfo(n_train=n_train), model=ModelInfo(name=model, parameters=parameters),
    )  # fmt: skip
    made = replace(made, **record)
    made.folder = RunFolder(folder)
    write_csv(made.folder.predictions("test"), list(rows[0]), rows)
    write_record(made)


def make_runs(root, accuracies: dict[tuple[str, int], float]):
    for (model, n_train), accuracy in accuracies.items():
        for seed in (1, 2, 3):
            parameters = {"small": 100, "large": 1000}[model]
            make_run(root / f"{model}-{n_train}-{seed}", model=model, parameters=parameters, n_train=n_train, seed=seed,
                     accuracy=accuracy)  # fmt: skip
    return root


@pytest.mark.parametrize(
    ("epochs", "max_steps", "is_noted"), [((12, 6), None, False), ((6, 6), None, True), ((6, 6), 60, False)]
)
def test_a_gain_that_more_steps_may_explain_is_noted(tmp_path, epochs, max_steps, is_noted):
    for n_train, length, accuracy in ((100, epochs[0], 0.7), (200, epochs[1], 0.8)):
        settings = {"trainer.max_epochs": length, "trainer.max_steps": max_steps}
        make_run(tmp_path / str(n_train), n_train=n_train, accuracy=accuracy, settings=settings)
    text = "\n".join(describe_curves(read_curves(tmp_path)))
    assert ("More images were also trained for more steps" in text) == is_noted


def test_a_rising_curve_asks_for_more_images_and_an_equal_one_for_no_larger_network(tmp_path):
    root = make_runs(
        tmp_path,
        {("small", 100): 0.6, ("small", 200): 0.7, ("small", 400): 0.8, ("large", 400): 0.8, ("large", 200): 0.8},
    )
    curves = read_curves(root)
    assert [(p.n_train, p.seeds) for p in curves.points["small"]] == [(n, [1, 2, 3]) for n in (100, 200, 400)]
    assert curves.points["small"][2].accuracy == pytest.approx(0.8, abs=0.03)
    words = describe_curves(curves)
    assert len(words) == 3
    assert words[0].startswith("small: from 200 to 400 training images accuracy changes by +0.1")
    assert words[0].endswith("more images helped here")
    assert words[1].startswith("large: ") and words[1].endswith("more images showed no clear gain")
    assert words[2].startswith("large instead of small at 400: ") and words[2].endswith(
        "a larger network showed no clear gain"
    )


def test_seeds_whose_halves_are_not_equally_large_are_one_point(tmp_path):
    """Where groups are not divided: half of the images is 98 to 102 of them."""
    for fraction, sizes in ((0.5, (98, 102, 101)), (1, (200, 200, 200))):
        for seed, n in enumerate(sizes, 1):
            data = DataInfo(n_train=n, fingerprint=f"{n}", fingerprint_full="all")
            settings = {"datamodule.train_fraction": fraction}
            make_run(
                tmp_path / f"{fraction}-{seed}", seed=seed, settings=settings, data=data, accuracy=0.6 + fraction / 5
            )
    curves = read_curves(tmp_path)
    assert [(p.n_train, p.seeds) for p in curves.points["small"]] == [(100, [1, 2, 3]), (200, [1, 2, 3])]
    assert describe_curves(curves)[0].startswith("small: from 100 to 200 training images accuracy changes by ")


def test_a_better_larger_network_helps_and_a_worse_one_harms(tmp_path):
    better = make_runs(tmp_path / "better", {("small", 100): 0.6, ("large", 100): 0.8})
    assert [words.endswith(": a larger network helped here") for words in describe_curves(read_curves(better))] == [
        True
    ]
    worse = make_runs(tmp_path / "worse", {("small", 100): 0.8, ("large", 100): 0.6})
    assert describe_curves(read_curves(worse))[0].endswith("a larger network made it worse here")


def test_bounds_of_a_gain_are_rounded_outwards():
    """One image fewer of 3,000 read `-0.000`."""
    right = np.ones((1, 3000), bool)
    right[0, 0] = False
    points = [
        Point("small", 100, n_train, [1], line, Interval(0, 1), None)
        for n_train, line in ((9, ~right | right), (18, right))
    ]
    gain = re.search(
        r"by (\S+) \(95% interval (\S+) to (\S+),", describe_curves(Curves("test", {"small": points}, []))[0]
    )
    exact = paired_difference(0, 1, 3000)  # which the exact test, p = 1, lets reach to 0
    low, high = float(gain[2]), float(gain[3])
    assert gain[1] == "+0.000" and exact.low - 0.001 < low <= exact.low and exact.high <= high < exact.high + 0.001


@pytest.mark.parametrize("select_on", ["val", "test"])
def test_images_that_chose_the_epoch_are_reported_to_flatter(tmp_path, select_on):
    for n_train in (100, 200):
        for seed in (1, 2, 3):
            folder = tmp_path / f"{n_train}-{seed}"
            make_run(folder, n_train=n_train, seed=seed, data=DataInfo(n_train=n_train, select_on=select_on))
            if select_on == "val":  # which is all that there is
                RunFolder(folder).predictions("test").rename(RunFolder(folder).predictions("val"))
    name = {"val": "validation"}.get(select_on, select_on)
    _, flattered = describe_curves(read_curves(tmp_path))
    assert flattered == f"The {name} images also chose the epoch, so accuracies are too good"


def test_the_figure_is_labeled(tmp_path):
    figure = draw(read_curves(make_runs(tmp_path, {("small", 100): 0.6, ("small", 1200): 0.7})))
    axes = figure.axes[0]
    assert axes.get_title() == "Learning curve, 400 test images, 3 seeds"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["100", "1,200"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["small (100 parameters)"]


@pytest.mark.parametrize("n", [3, 50])
def test_many_networks_are_drawn_at_their_number_of_images_beside_a_whole_legend(n):
    right = np.ones((1, 9), bool)
    made = {
        f"n{i}": [Point(f"n{i}", i, images, [1], right, Interval(0.7, 1.0), None) for images in (100, 200)]
        for i in range(n)
    }
    figure = draw(Curves("test", made, []))
    (axes,) = figure.axes
    lines = [container.lines[0].get_xdata() for container in axes.containers]
    assert len(lines) == n
    assert all(places == pytest.approx([100, 200], rel=0.05) for places in lines)
    assert len({tuple(places) for places in lines}) == n
    FigureCanvasAgg(figure).draw()
    (legend,) = [*figure.legends, *filter(None, [axes.get_legend()])]
    assert [text.get_text() for text in legend.get_texts()] == [f"n{i} ({i} parameters)" for i in range(n)]
    box, page = legend.get_window_extent(), figure.bbox
    assert box.y0 >= page.y0 and box.y1 <= page.y1
    assert n == 3 or not box.overlaps(axes.get_window_extent())


def test_a_legend_of_long_names_stays_within_the_axes():
    names = ["mobilenetv4_hybrid_medium.with_another_long_name", "mobilenetv4_hybrid_medium.with_another_longer_name"]
    point = Point("", 1_000_000, 100, [1], np.ones((1, 9), bool), Interval(0.7, 1.0), None)
    figure = draw(Curves("test", {name: [point._replace(model=name)] for name in names}, []), (5.2, 3.7))
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    box, frame = axes.get_legend().get_window_extent(), axes.get_window_extent()
    assert frame.x0 <= box.x0 and box.x1 <= frame.x1


def test_what_cannot_be_drawn_is_an_error(tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"no result\.json in it or below"):
        read_curves(tmp_path / "none")
    make_run(tmp_path / "failed" / "a", status="failed")
    make_run(tmp_path / "failed" / "b", best=None)  # only measured
    with pytest.raises(ValueError, match="no finished run to draw"):
        read_curves(tmp_path / "failed")
    make_run(tmp_path / "some" / "a", seed=1)
    make_run(tmp_path / "some" / "b", seed=1, n_train=200, images=300)
    with pytest.raises(ValueError, match="were tested on different images"):
        read_curves(tmp_path / "some")
    for fold in (0, 1):  # whose test images are not evaluated: the message was that these differ
        folder = tmp_path / "folds" / str(fold)
        make_run(folder, images=300 + fold, data=DataInfo(n_train=100, fold=fold, folds=2))
        RunFolder(folder).predictions("test").rename(RunFolder(folder).predictions("val"))
    with pytest.raises(ValueError, match=r"each fold has its own; use one fold, or datamodule\.folds=null"):
        read_curves(tmp_path / "folds")
    make_run(tmp_path / "seeds" / "a", seed=1)
    make_run(tmp_path / "seeds" / "b", seed=2, n_train=200)
    with pytest.raises(ValueError, match="small: no seed was run with 200 and with 100"):
        describe_curves(read_curves(tmp_path / "seeds"))


def test_what_is_excluded_is_reported(tmp_path):
    root = make_runs(tmp_path, {("small", 100): 0.6, ("small", 200): 0.7})
    make_run(root / "odd", model=None, parameters=None)
    (root / "cut").mkdir()
    (root / "cut" / "result.json").write_text('{"schema": 2,')
    make_run(root / "stopped", status="failed")
    _, unfinished, *excluded = describe_curves(read_curves(root))
    assert unfinished == f"excluded: {root / 'stopped'}: not finished"
    assert excluded[0].startswith(f"excluded: {root / 'cut' / 'result.json'}: not a whole record")
    assert excluded[1:] == ["excluded: odd: its record lacks parameters or training images"]


@pytest.mark.slow
def test_the_experiment_ends_with_the_answer(train, tmp_path):
    sweep = tmp_path / "sweep"
    ran = train(
        "-m", "experiment=learning_curve", "datamodule.train_fraction=0.5,1", "model=shufflenet_mod", "seed=1,2",
        f"hydra.sweep.dir={sweep}",
    )  # fmt: skip
    assert ran.status == 0, ran.err
    assert "from 12 to 24 training images accuracy changes by" in ran.out
    assert (sweep / "learning_curve.png").stat().st_size > 10_000
    rows = read_csv(sweep / "table.csv")  # one table, though the training images differ
    assert [row["rank"] for row in rows] == ["1", "2"] and {row["n_train"] for row in rows} == {"12", "24"}
    assert len({row["data"] for row in rows}) == 2 and len({row["data_val_test"] for row in rows}) == 1


def test_a_part_of_the_images_is_trained_for_as_many_steps():
    epochs = {
        f: composed("experiment=learning_curve", f"datamodule.train_fraction={f}").trainer.max_epochs
        for f in (1, 0.125)
    }
    assert epochs == {1: 12, 0.125: 96}


def test_the_page_of_a_sweep_over_training_images_has_its_curve_and_sentences(tmp_path):
    for model, parameters in (("small", 100), ("large", 1000)):
        for fraction, n_train in ((0.5, 100), (1, 200)):
            about = RunInfo(seed=1, settings={"datamodule.train_fraction": fraction}, choices={"model": model})
            make_run(tmp_path / f"{model}-{n_train}", model=model, parameters=parameters, run=about,
                     data=DataInfo(n_train=n_train, fingerprint=f"d{n_train}", fingerprint_val_test="t"))  # fmt: skip
    page = Parsed(write_report(str(tmp_path)).page.read_text())
    labels = [a["aria-label"] for tag, a in page.tags if tag == "svg" and "aria-label" in a]
    assert any(label.startswith("Learning curve: ") for label in labels)
    words = page.words()
    assert "Would more images help?" in words and "small (100 parameters)" in words
    for sentence in describe_curves(read_curves(tmp_path)):
        assert sentence in words.replace("\u00a0", " ")
    (tmp_path / "small-200" / "predictions.csv").unlink()
    assert "There is no learning curve: " in Parsed(write_report(str(tmp_path)).page.read_text()).words()


def test_runs_of_other_settings_are_no_seeds(tmp_path):
    """They counted as seeds: of each seed one run twice, the other not at all."""
    for rate in (0.1, 0.01):
        for n_train in (100, 200):
            for seed in (1, 2, 3):
                about = RunInfo(seed=seed, settings={"optimizer.lr": rate})
                make_run(tmp_path / f"{rate}-{n_train}-{seed}", seed=seed, n_train=n_train, run=about)
    with pytest.raises(
        ValueError,
        match="small: runs on 100 training images differ in lr; the runs of a learning curve may differ only",
    ):
        read_curves(tmp_path)
    for setting, field in (("model.weights", "weights_digest"), ("teacher", "teacher_digest")):
        for seed, digest in ((1, "before"), (2, None), (3, "after")):  # None: of a version without it
            make_run(tmp_path / setting / str(seed), seed=seed)
            record = RunRecord.read(tmp_path / setting / str(seed))
            setattr(record.model, field, digest)
            write_record(record)
        with pytest.raises(
            ValueError, match=f"differ in the content of the file of {setting}; the runs of a learning curve"
        ):
            read_curves(tmp_path / setting)
        setattr(record.model, field, "before")  # of the last seed
        write_record(record)
        assert [point.seeds for point in read_curves(tmp_path / setting).points["small"]] == [[1, 2, 3]]
    make_run(tmp_path / "twice" / "a", seed=1)
    make_run(tmp_path / "twice" / "b", seed=1)
    with pytest.raises(ValueError, match="small: runs on 100 training images have the same seed"):
        read_curves(tmp_path / "twice")


def test_what_is_drawn_are_the_accuracies_and_their_intervals(tmp_path):
    curves = read_curves(make_runs(tmp_path, {("small", 100): 0.6, ("small", 200): 0.7, ("large", 200): 0.9}))
    drawn = draw(curves).axes[0].containers
    assert len(drawn) == 2
    for (line, _, (bars,)), points in zip(drawn, curves.points.values(), strict=True):
        assert line.get_ydata() == pytest.approx([point.accuracy for point in points])
        ends = [(low, high) for (_, low), (_, high) in bars.get_segments()]
        assert np.array(ends) == pytest.approx(np.array([point.interval for point in points]))


def test_cuts_of_one_backbone_are_a_curve_each(tmp_path):
    """They have its name, and were one curve that went there and back."""
    for parameters, accuracies in ((100, (0.6, 0.7)), (1000, (0.7, 0.9))):
        for n_train, accuracy in zip((100, 200), accuracies, strict=True):
            make_run(tmp_path / f"{parameters}-{n_train}", parameters=parameters, n_train=n_train, accuracy=accuracy)
    curves = read_curves(tmp_path)
    found = {name: [(p.parameters, p.n_train) for p in points] for name, points in curves.points.items()}
    small, large = "small with 100 parameters", "small with 1,000 parameters"
    assert found == {small: [(100, 100), (100, 200)], large: [(1000, 100), (1000, 200)]}
    first, second, third, _ = describe_curves(curves)
    assert first.startswith(f"{small}: from 100 to 200 training images accuracy changes by +0.")
    assert second.startswith(f"{large}: from 100 to 200 training images accuracy changes by +0.")
    assert third.startswith(f"{large} instead of {small} at 200: +0.")
    legend = draw(curves).axes[0].get_legend().get_texts()
    assert [text.get_text() for text in legend] == ["small (100 parameters)", "small (1,000 parameters)"]
