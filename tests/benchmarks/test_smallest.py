"""What the benchmark of smallest.py makes of a smallest.json made by hand; it trains nothing here."""

import csv
from argparse import Namespace

from benchmarks import smallest as benchmark
from common.smallest_record import Answer, Candidate, Costs, Measured, Question, SmallestRecord, Trained
from tests.support.helpers import make_images


def candidate(macs, probe, test=None):
    costs = Costs(parameters=1, macs=macs, file_kib=1, activation_kib=1, activation_int8_kib=1)
    trained = Trained(test=Measured(value=test, low=0.8, high=0.9)) if test else None
    probed = None if probe is None else Measured(value=probe)
    return Candidate(
        backbone="b", keep=f"k{macs}", image_size=64, pretrained=True, weights="file", costs=costs, probe=probed,
        trained=trained,
    )  # fmt: skip


def test_the_grid_is_what_lies_near_the_front_of_cost_and_probe():
    probes = [0.6, 0.59, 0.57, 0.8, None, 0.9, 0.85, 0.89]
    candidates = [candidate(10 - place, probe) for place, probe in enumerate(reversed(probes))]
    macs = lambda found: [candidates[i].costs.macs for i in found]  # noqa: E731
    assert macs(benchmark.near_front(candidates, "macs", 0.02, 9)) == [3, 4, 6, 8, 10]
    assert macs(benchmark.near_front(candidates, "macs", 0.02, 2)) == [3, 8, 10]  # both ends, and the best probed one
    candidates[-1].excluded = "above limits.macs"
    assert macs(benchmark.near_front(candidates, "macs", 0.02, 9))[0] == 4


def test_the_folder_val_is_test_where_there_is_no_other_and_done_parts_are_a_row(tmp_path):
    root = make_images(
        tmp_path / "data", {f"{split}/{color}": 2 for split in ("train", "val") for color in ("blue", "red")}
    )
    args = Namespace(folder=tmp_path / "runs", weights=["b=w.pth"], good_enough=0.02)
    case = benchmark.Case(f"colors={root}", args)
    with (case.folder / "colors.csv").open() as file:
        assert sorted(line["split"] for line in csv.DictReader(file)) == ["test"] * 4 + ["train"] * 4
    assert benchmark.table([case]) == "nothing is done yet"
    (case.folder / "smallest").mkdir()
    SmallestRecord(
        question=Question(cost=["macs"], metric="accuracy", good_enough=0.02), candidates=[candidate(2_000_000, 0.8, 0.85)],
        n_trained=5, answer=Answer(verdict="not_shown", chosen=0, reference=0),
    ).write(case.folder / "smallest")  # fmt: skip
    (case.folder / "times.csv").write_text("part,processor_s,wall_s,command\nsmallest,60,90,x\ngrid,600,700,y\n")
    row = benchmark.table([case]).splitlines()[-1]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "colors", "smallest.py", "b cut after k2000000, 64 px (not shown)", "2.0M", "0.850 (0.800 to 0.900)", "5",
        "1.0", "0.10", "-", "1.5",
    ]  # fmt: skip
