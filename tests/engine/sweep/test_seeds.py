"""The seeds of a sweep: an axis of its own, and a line that says what they take and what they can show."""

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from common.errors import UserError
from common.run_record import RunRecord
from engine.cli import CONF
from engine.sweep.progress import count_jobs
from engine.sweep.seeds import check_single_run, complete_sweep
from tests.support.configs import compose_verb
from tests.support.helpers import SIMPLE_CNN


def config(*task, params=None, of_hydra=(), **settings):
    hydra = {"sweeper": {"params": params}, "overrides": {"task": list(task), "hydra": list(of_hydra)}}
    return OmegaConf.create(
        {"seed": 48763, "seeds": None, "good_enough": 0.02, "stages": ["fit"], **settings, "hydra": hydra}
    )


def jobs(completed):
    """Return the jobs that Hydra makes of a configuration, as texts."""
    params = [f"{key}={value}" for key, value in (completed.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*params, *completed.hydra.overrides.task])
    return [" ".join(job) for job in BasicSweeper.split_arguments(overrides, None)[0]]


def test_all_settings_run_with_one_seed_before_the_next():
    sweep = config("optimizer.lr=1,2", params={"model": "a,b"}, seeds=3)
    complete_sweep(sweep)
    expected = [f"seed={s} model={m} optimizer.lr={r}" for s in (48763, 48764, 48765) for m in "ab" for r in (1, 2)]
    assert jobs(sweep) == expected and count_jobs(sweep) == 12


@pytest.mark.parametrize(
    ("settings", "task", "seeds"),
    [
        ({"seeds": 1}, [], ["48763"]),
        ({"seeds": [1, 2, 5]}, [], ["1", "2", "5"]),
        ({"seeds": 3, "seed": 1}, [], ["1", "2", "3"]),
        ({"seeds": 3}, ["seed=7,8"], ["7", "8"]),  # the command line wins over an experiment's file
        ({"seeds": 3}, ["seed=7"], ["7"]),
        ({"seeds": 3, "stages": ["cost"]}, [], ["48763"]),  # no seed changes a cost
        ({"seeds": [5, 6], "stages": "cost"}, [], ["5"]),
    ],
)
def test_which_seeds(settings, task, seeds):
    sweep = config(*task, params={"model": "a,b"}, **settings)
    complete_sweep(sweep)
    assert sorted({word for job in jobs(sweep) for word in job.split() if word.startswith("seed=")}) == [
        f"seed={seed}" for seed in seeds
    ]
    assert count_jobs(sweep) == 2 * len(seeds)


def test_without_seeds_the_jobs_are_as_they_were():
    sweep = config("model=a,b")
    complete_sweep(sweep)
    assert sweep == config("model=a,b") and jobs(sweep) == ["model=a", "model=b"]


@pytest.mark.parametrize(
    ("settings", "task", "line"),
    [
        ({"seeds": 3}, ["model=range(1,7)"],
         "Sweep: 18 runs: 6 settings x 3 seeds (48763 to 48765), since one seed cannot show that a setting is worse; "
         "seeds=1 makes it 6 runs"),
        ({"seeds": 1}, ["model=range(1,7)"],
         "Sweep: 6 runs: one seed per setting: the page compares these trained networks, not the settings; "
         "seeds=3 compares the settings, with 18 runs"),
        ({}, ["model=a,b"],
         "Sweep: 2 runs: one seed per setting: the page compares these trained networks, not the settings; "
         "seeds=3 compares the settings, with 6 runs"),
        ({"seeds": [1, 2, 5]}, ["model=a,b"],
         "Sweep: 6 runs: 2 settings x 3 seeds (1, 2 and 5), since one seed cannot show that a setting is worse; "
         "seeds=1 makes it 2 runs"),
        ({}, ["model=a,b", "seed=1,2,3"],
         "Sweep: 6 runs: 2 settings x 3 seeds (1 to 3), since one seed cannot show that a setting is worse"),
        ({"seeds": 2}, ["model=a,b"],
         "Sweep: 4 runs: 2 settings x 2 seeds (48763 and 48764); 3 are needed before the page calls a setting worse"),
        ({}, ["seed=range(1,6)"], "Sweep: 5 runs: 1 setting x 5 seeds (1 to 5)"),
        ({}, ["model=a,b", "datamodule.folds=5", "datamodule.fold=range(0,5)"], "Sweep: 10 runs: 2 settings x 5 folds"),
        ({"seeds": 3}, ["datamodule.fold=range(0,5)"], "Sweep: 15 runs: 1 setting x 5 folds x 3 seeds (48763 to 48765)"),
        ({"seeds": 3, "stages": ["cost"]}, ["model=a,b"],
         "Sweep: 2 runs, with one seed, since a network's cost does not depend on it"),
        ({}, ["model=a"], "Sweep: 1 run"),
    ],
)  # fmt: skip
def test_the_line_before_the_first_job(settings, task, line):
    assert complete_sweep(config(*task, **settings)) == line


@pytest.mark.parametrize(
    ("settings", "task", "words"),
    [
        ({"seeds": 0}, [], "seeds=0: give how many, e.g. seeds=3 for 48763 and the next two, or a list"),
        ({"seeds": "many"}, [], "seeds=many: give how many"),
        ({"seeds": True}, [], "seeds=true: give how many"),
        ({"seeds": []}, [], r"seeds=\[\]: give how many"),
        ({"seeds": [1, 1]}, [], r"seeds=\[1,1\]: give how many"),
        ({"seeds": [-1]}, [], r"seeds=\[-1\]: give how many"),
        ({"seeds": 3, "seed": 2**32 - 2}, [], "seeds=3: give how many"),
        ({"seeds": 3}, ["seeds=3", "seed=1,2"], "seed=1,2 with seeds=3: give one of them"),
        ({}, ["seeds=1,2"], "seeds=1,2: applies to the whole sweep and cannot be swept; give the seeds in brackets"),
        ({}, ["good_enough=0.01,0.02"], "good_enough=0.01,0.02: applies to the whole sweep"),
        ({"seeds": 2**32}, [], "seeds=4294967296: give how many"),
        ({"good_enough": 0}, [], "good_enough=0: use a difference in accuracy above 0 and below 1"),
        ({"good_enough": 1.5}, [], "good_enough=1.5: use"),
        ({"good_enough": "x"}, [], "good_enough=x: use"),
        ({}, ["optimizer.lr=interval(0,1)"], r"optimizer.lr=interval\(0,1\): an interval has no values to run"),
        ({}, ["model.keep=range(4,4)"], r"model.keep=range\(4,4\): has no value; a range ends before"),
    ],
)
def test_what_is_refused(settings, task, words):
    with pytest.raises(UserError, match=words):
        complete_sweep(config(*task, **settings))


def test_a_single_run_has_one_seed_and_no_launcher():
    check_single_run(config("model=a"))
    for refused, words in (
        (config("seeds=3", seeds=3), r"seeds=3: a single run has one seed: use seed=48763; for several seeds, add -m"),
        (config("good_enough=0.1", good_enough=0.1), "good_enough: is for the page of a sweep: add -m"),
        (
            config(of_hydra=["hydra.run.dir=a", "hydra/launcher=joblib"]),
            r"^hydra/launcher=joblib: a launcher starts .* add -m",
        ),
        (config(of_hydra=["+hydra.launcher.n_jobs=2"]), r"^\+hydra.launcher.n_jobs=2: a launcher starts .* add -m"),
    ):
        with pytest.raises(UserError, match=words):
            check_single_run(refused)


EXPERIMENTS = {
    "backbones": (48763, 3), "batch_sizes": (48763, 3), "learning_rates": (48763, 3), "optimizers": (48763, 3),
    "plateau": (48763, 3), "truncation": (48763, 3), "shufflenet_v1_v2": (1, 3), "learning_curve": (1, 3),
    "elpv_paper": (1, 5),
}  # fmt: skip


def test_every_experiment_that_sweeps_is_known():
    texts = {file.stem: file.read_text(encoding="utf-8") for file in (CONF / "experiment").glob("*.yaml")}
    assert {name for name, text in texts.items() if "mode: MULTIRUN" in text} == set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_seeds_of_the_experiments(name):
    first, n = EXPERIMENTS[name]
    completed = compose_verb("train", f"experiment={name}")
    settings = count_jobs(completed)
    line = complete_sweep(completed)
    assert completed.hydra.sweeper.params.seed == ",".join(str(seed) for seed in range(first, first + n))
    assert count_jobs(completed) == n * settings and line.startswith(f"Sweep: {n * settings} runs: ")
    assert next(iter(completed.hydra.sweeper.params)) == "seed"


@pytest.mark.thorough
def test_a_sweep_with_seeds_is_one_row_and_resumes_in_its_folders(train, tmp_path):
    command = ("-m", "optimizer=adam,sgd", "seeds=2", "seed=5", *SIMPLE_CNN, "trainer.max_epochs=1")
    refused = train(*command, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert refused.status == 1 and refused.err.startswith("ERROR: seed=5 with seeds=2: ")
    assert not (tmp_path / "sweep").exists()

    command = ("-m", "optimizer=adam,sgd", "seeds=2", *SIMPLE_CNN, "trainer.max_epochs=1")
    ran = train(*command, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert ran.status == 0, ran.err
    assert "Sweep: 4 runs: 2 settings x 2 seeds (48763 and 48764)" in ran.out
    names = [
        "seed-48763_optimizer-adam",
        "seed-48763_optimizer-sgd",
        "seed-48764_optimizer-adam",
        "seed-48764_optimizer-sgd",
    ]
    assert [line.split(": ")[1] for line in ran.out.splitlines() if line.startswith("Job ")] == names
    records = {name: RunRecord.read(tmp_path / "sweep" / name) for name in names}
    assert [record.run.seed for record in records.values()] == [48763, 48763, 48764, 48764]
    for record in records.values():
        assert not {"seeds", "good_enough"} & set(record.run.settings)
    table = (tmp_path / "sweep" / "table.csv").read_text().splitlines()
    assert len(table) == 3 and "setting good_enough" not in table[0] and "seeds" in table[0]  # one row a setting

    again = train(*command, "good_enough=0.1", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert again.status == 0 and again.out.count("already finished, skipping") == 4
    single = train("seeds=2", *SIMPLE_CNN, to=tmp_path / "single")
    assert single.status == 1 and "add -m" in single.err and not (tmp_path / "single").exists()
    odd = train(*command, "good_enough=2", f"hydra.sweep.dir={tmp_path / 'odd'}")
    assert odd.status == 1 and "good_enough=2: use" in odd.err and not (tmp_path / "odd").exists()
