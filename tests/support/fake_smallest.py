"""Records of smallest.py as they come: one a verdict, with a margin or a target, of few and of 312 candidates."""

from dataclasses import replace
from math import exp, log

from common.run_record import Deployed, ExportCost, ExportMetrics, Latency, Proportion
from common.smallest_record import Answer, Candidate, Costs, Measured, Pair, Question, SmallestRecord, Trained

SIZES = (96, 128, 192, 256)
NAMES = (
    "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "mobilenet_v3_small", "mobilenet_v2", "mnasnet0_5", "squeezenet1_1",
    "efficientnet_b0", "resnet18", "tf_efficientnet_lite0", "lcnet_050", "lcnet_075", "tinynet_e", "mobilenetv4_conv_small_050",
    "repghostnet_050", "mobilenetv3_small_100", "edgenext_xx_small", "mnasnet1_0",
)  # fmt: skip
LARGEST = {"resnet18": (1.1e7, 2.4e9), "shufflenet_v2_x0_5": (3.4e5, 5.4e7), "mobilenet_v3_small": (9e5, 8e7)}
COMMANDS = [
    "python predict.py ckpt=outputs/smallest/solar/best.ckpt images=DIR",
    "python export.py ckpt=outputs/smallest/solar/best.ckpt",
    "python demo.py ckpt=outputs/smallest/solar/best.ckpt",
]


def measured(value: float, n: int = 444, seeds: int = 1, half: float | None = None) -> Measured:
    half = 1.96 * (value * (1 - value) / n) ** 0.5 if half is None else half
    return Measured(value=value, low=max(0.0, value - half), high=min(1.0, value + half), n=n, n_seeds=seeds)


def deployed(cost: float, format: str = "onnx_int8", n: int = 444) -> Deployed:
    """A file whose accuracy on validation is 0.93 and costs so much, with an interval of 0.006 on each side."""
    right = round(0.93 * n)
    return Deployed(
        format=format, file="runs/a/checkpoints/best_int8.onnx", bytes=430_000,
        latency=replace(latency(2.1), latency_p95_ms=2.4),
        val=ExportMetrics(
            images=f"{n} validation images", n=n, largest_difference=0.031, changed=3,
            accuracy=Proportion(right / n, 0.902, 0.951, right, n),
            cost=ExportCost(cost, cost - 0.006, cost + 0.006, "within 0.01" if cost < 0.005 else "not within 0.01"),
            balanced_cost=ExportCost(0.005, -0.004, 0.014, f"not shown to be within 0.01 by {n} images"),
        ),
    )  # fmt: skip


def latency(ms: float) -> Latency:
    return Latency(batch_size=1, latency_p50_ms=ms, device="cpu", threads=1, cores=2, load_1min=0.4)


def candidates(backbones=NAMES, sizes=SIZES, cuts: int = 5, pretrained=lambda name: True) -> list[Candidate]:
    """Cuts of backbones at several sizes: deeper ones and larger images cost more and are better, with a wobble."""
    made = []
    for b, name in enumerate(backbones):
        parameters, macs = LARGEST.get(name, (1e6 * (1 + b % 5), 1e8 * (1 + b % 7)))
        for size in sizes:
            for cut in range(cuts):
                depth = (cut + 1) / cuts
                share = exp(-5 * (1 - depth))
                wobble = 0.012 * (((b * 7 + cut * 3 + size) % 11) / 5 - 1)
                grown = 0.93 - 0.33 * (1 - depth) ** 1.5 - 0.0004 * (256 - size) - 0.006 * (b % 6)
                n, m = round(parameters * share), round(macs * (0.15 + 0.85 * depth**2) * (size / 256) ** 2 * depth)
                a = 0.012 * size**2 * (1 + b % 4) * min(1.0, 0.4 + depth)
                costs = Costs(parameters=n, macs=m, file_kib=n * 4 / 1024, activation_kib=a, activation_int8_kib=a / 4)
                made.append(
                    Candidate(
                        backbone=name, keep=f"features.{3 * cut + 2}", image_size=size, whole=cut == cuts - 1,
                        pretrained=pretrained(name), weights="torchvision IMAGENET1K_V1" if pretrained(name) else "random",
                        costs=costs, probe=measured(grown + wobble), stage="screened",
                    )
                )  # fmt: skip
    return made


def index_of(record: SmallestRecord, backbone: str, cut: int, size: int) -> int:
    (found,) = [
        i for i, c in enumerate(record.candidates)
        if (c.backbone, c.keep, c.image_size) == (backbone, f"features.{3 * cut + 2}", size)
    ]  # fmt: skip
    return found


def train(record: SmallestRecord, index: int, *, val: Measured | None, test: Measured | None = None, seeds=(1,), stage="final",
          ended="finished", reason=None, epochs=16) -> None:  # fmt: skip
    candidate = record.candidates[index]
    candidate.stage = stage
    candidate.costs.latency = latency(0.05 + log(1 + candidate.costs.macs / 1e6) ** 2 / 8)
    runs = [f"runs/{candidate.backbone}-{candidate.image_size}-{seed}" for seed in seeds]
    candidate.trained = Trained(
        runs=runs, seeds=list(seeds), epochs=epochs, ended=ended, reason=reason, val=val, test=test
    )


def smallest_record(n_backbones: int = 17, seeds: int = 3, n: int = 444, cost=("macs",), **question) -> SmallestRecord:
    """A finished search whose answer is shown: 312 candidates of 17 backbones, a race of nine, two finalists."""
    record = SmallestRecord(
        status="finished", name="solar-1f3a",
        command=["python", "smallest.py", "datamodule.root=my images", "budget.minutes=30"],
        question=Question(
            cost=list(cost), metric="accuracy", good_enough=0.02, budget_minutes=30, seeds=[1, 2, 3][:seeds],
        ),
        data={"name": "solar", "classes": ["functional", "defective"], "n_train": 1334, "n_val": n, "n_test": n + 1,
              "majority_val": 0.679, "majority_test": 0.681, "folds": None},
        machine={"processor": "AMD EPYC 7B13", "cores": 2, "load_1min": 0.4},
        seconds={"screen": 210.0, "race": 520.0, "finals": 310.0, "proof": 41.0},
        n_trained=14, candidates=candidates(NAMES[:n_backbones]),
    )  # fmt: skip
    record.question = replace(record.question, **question)
    del record.candidates[312:]
    which = tuple(range(1, seeds + 1))
    chosen, reference = index_of(record, "mobilenet_v3_small", 2, 128), index_of(record, "resnet18", 4, 192)
    runner_up = index_of(record, "mobilenet_v2", 2, 128)
    train(record, reference, val=measured(0.936, n, seeds), test=measured(0.935, n + 1, seeds), seeds=which)
    train(record, chosen, val=measured(0.933, n, seeds), test=measured(0.931, n + 1, seeds), seeds=which)
    train(record, runner_up, val=measured(0.934, n, seeds), seeds=which)
    for backbone, cut, size, value, epochs in (
        ("shufflenet_v2_x0_5", 1, 96, 0.846, 4), ("shufflenet_v2_x0_5", 3, 128, 0.892, 4), ("mobilenet_v2", 3, 96, 0.913, 8),
        ("squeezenet1_1", 4, 192, 0.905, 4), ("efficientnet_b0", 3, 128, 0.921, 8), ("mnasnet0_5", 3, 192, 0.918, 16),
    ):  # fmt: skip
        index = index_of(record, backbone, cut, size)
        done = epochs == 16
        reason = (
            f"after epoch {epochs}, behind by accuracy and cost: val accuracy {value:.4f}, best at that epoch 0.9360"
        )
        train(record, index, val=measured(value, n), stage="raced", epochs=epochs, ended="finished" if done else "pruned",
              reason=None if done else reason)  # fmt: skip
    pair = Pair(
        split="test", difference=-0.004, at_least=-0.0168, p_value=0.012, n=n + 1, n_seeds=seeds, of_settings=seeds >= 3,
        smallest_margin=0.0168, level=0.025 if seeds >= 3 else 0.05,
    )  # fmt: skip
    record.answer = Answer(
        verdict="shown" if seeds >= 3 else "shown_as_trained", chosen=chosen, reference=reference, n_finalists=2, test=pair,
        val=replace(pair, split="val", difference=-0.003, at_least=-0.0159, n=n, level=0.05), commands=COMMANDS,
    )  # fmt: skip
    return record


def shown_as_trained() -> SmallestRecord:
    return smallest_record(seeds=1)


def not_shown() -> SmallestRecord:
    record = smallest_record(seeds=1, n=152)
    pair = replace(record.answer.test, difference=-0.012, at_least=-0.0307, p_value=0.21, smallest_margin=0.0307,
                   would_decide="about 610 test images")  # fmt: skip
    record.answer = replace(record.answer, verdict="not_shown", test=pair)
    return record


def without_test(record: SmallestRecord, **answer) -> SmallestRecord:
    record.answer = replace(record.answer, test=None, **answer)
    for candidate in record.candidates:
        if candidate.trained:
            candidate.trained.test = None
    return record


def not_shown_on_validation() -> SmallestRecord:
    record = not_shown()
    val = replace(record.answer.test, split="val", n=152, would_decide="about 700 validation images")
    record.data["n_test"] = 0
    return without_test(record, val=val, verdict="chosen_not_proved")


def mean_of_seeds() -> SmallestRecord:
    """Three seeds, of which one is of the race: the proof is of the trained networks of one seed."""
    record = smallest_record()
    record.answer = replace(
        record.answer,
        verdict="shown_as_trained",
        test=replace(record.answer.test, n_seeds=1, of_settings=False, level=0.05),
    )
    return record


def too_far() -> SmallestRecord:
    """The difference itself is larger than the margin, so that more images would not decide."""
    record = not_shown()
    pair = replace(record.answer.test, difference=-0.026, at_least=-0.0534, smallest_margin=0.0534, would_decide=None)
    record.answer = replace(record.answer, test=pair)
    return record


def not_proved() -> SmallestRecord:
    record = smallest_record()
    record.data["n_test"] = 0
    return without_test(record, verdict="chosen_not_proved")


def target(shown: bool = True) -> SmallestRecord:
    record = smallest_record(target=0.9 if shown else 0.92)
    pair = replace(record.answer.test, at_least=0.9078, smallest_margin=0.9078)
    pair = pair if shown else replace(pair, p_value=0.17, would_decide="about 1,900 test images")
    record.answer = replace(
        record.answer,
        verdict="shown" if shown else "not_shown",
        test=pair,
        val=replace(pair, split="val", at_least=0.9231),
    )
    return record


def folds() -> SmallestRecord:
    record = smallest_record(n_backbones=9, seeds=1)
    record.data |= {"folds": 4, "n_train": 260, "n_val": 86, "n_test": 115}
    record.notes = ["86 validation images are fewer than 300: the finals are a cross-validation of 4 folds."]
    return record


def two_costs() -> SmallestRecord:
    record = smallest_record(cost=("macs", "activation_kib"), limits={"activation_kib": 2048.0})
    best, front = 0.0, []
    for index in sorted(range(len(record.candidates)), key=lambda i: record.candidates[i].costs.macs):
        trained = record.candidates[index].trained
        if trained and trained.val.value > best:
            best, front = trained.val.value, [*front, index]
    record.front = front
    return record


def only_one() -> SmallestRecord:
    record = smallest_record()
    record.candidates = [record.candidates[record.answer.reference]]
    record.n_trained = 3
    itself = replace(record.answer.test, difference=0.0, at_least=0.0, p_value=0.0, smallest_margin=0.0)
    record.answer = Answer(verdict="none", chosen=0, reference=0, test=itself, val=itself, commands=COMMANDS)
    return record


def reference_itself() -> SmallestRecord:
    record = smallest_record()
    record.answer = replace(record.answer, chosen=record.answer.reference, val=None, test=None)
    return record


def limited() -> SmallestRecord:
    """Some above a limit, some random, some slow ones without a latency, timed under load; hostile names."""
    record = smallest_record(cost=("latency_ms",), limits={"latency_ms": 5.0, "file_kib": 4096.0})
    for index, candidate in enumerate(record.candidates):
        if candidate.costs.file_kib > 4096 and index != record.answer.reference:
            candidate.excluded = f"file {candidate.costs.file_kib:,.0f} KiB, above limits.file_kib=4096"
            candidate.probe = candidate.trained = None
            candidate.stage = "candidate"
        if candidate.backbone in ("tinynet_e", "lcnet_050"):
            candidate.pretrained, candidate.weights = False, "random"
    record.candidates[record.answer.chosen].costs.latency.flag = "other processes used 1.6 of 2 cores"
    record.data |= {"name": "<b>mine</b>", "classes": ["<script>alert(1)</script>", '"><img src=x onerror=alert(2)>']}
    record.notes = ["tinynet_e: no pretrained weights: <i>offline</i>; it starts from random ones."]
    record.command = ["python", "smallest.py", 'datamodule.root="<script>alert(3)</script>"', "cost=latency_ms"]
    return record


def exported() -> SmallestRecord:
    """Of its finalists as onnx_int8 one has lost accuracy, and one could not be exported."""
    record = smallest_record(deploy="onnx_int8")
    for index, cost in ((record.answer.chosen, 0.004), (record.answer.reference, None)):
        record.candidates[index].deployed = deployed(cost) if cost is not None else Deployed(
            format="onnx_int8", error="KeyError: <b>no operator</b>"
        )  # fmt: skip
    return record


ALL = {
    "shown": smallest_record, "shown_as_trained": shown_as_trained, "not_shown": not_shown,
    "mean_of_seeds": mean_of_seeds, "too_far": too_far,
    "not_shown_on_validation": not_shown_on_validation, "not_proved": not_proved, "target": target,
    "target_not_shown": lambda: target(shown=False), "folds": folds, "two_costs": two_costs,
    "only_one": only_one, "reference_itself": reference_itself, "limited": limited, "exported": exported,
}  # fmt: skip
