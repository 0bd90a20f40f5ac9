"""docs/extending.md is run as it is: its package and its YAML files are written out, and used from training to the report."""

import json
import re
import shutil
import sys
from collections import Counter
from itertools import pairwise

import pytest

from common.run_folder import PROJECT
from lightning_modules.networks.heads import OWN
from tests.support.helpers import make_images

BLOCKS = re.findall(
    r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", (PROJECT / "docs" / "extending.md").read_text(), re.S | re.M
)
CHOSEN = (
    "model=tiny",
    "datamodule=cells",
    "loss=poly",
    "metrics=kappa",
    "callbacks=weight_norms",
    "optimizer=sign_momentum",
)
ONLY_YAML = ("optimizer=nadam", "scheduler=steps")


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write the package and the folder of the page; return the folder. Its modules are forgotten at the end."""
    for name, text in BLOCKS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n{text}")
    (tmp_path / "my_package" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("my_package")]:
        del sys.modules[name]


@pytest.fixture
def cells(tmp_path):
    """40 images, red_*.png and blue_*.png in one folder."""
    made = make_images(tmp_path / "made", {"red": 20, "blue": 20}, size=32)
    (tmp_path / "cells").mkdir()
    for file in made.glob("*/*.png"):
        shutil.copy(file, tmp_path / "cells" / f"{file.parent.name}_{file.name}")
    return tmp_path / "cells"


def test_each_door_is_one_file_and_its_yaml_of_ten_to_thirty_lines():
    lengths = {name: text.count("\n") for name, text in BLOCKS}
    pairs = [(name, after) for name, after in pairwise(lengths) if name.endswith(".py")]
    assert all(settings.endswith(".yaml") for _, settings in pairs) and len(pairs) == 10
    assert all(10 <= lengths[code] + lengths[settings] <= 30 for code, settings in pairs), lengths


@pytest.mark.thorough
def test_the_user_s_own_classes_from_training_to_the_report(own, cells, train, in_process, tmp_path):
    import export
    import predict
    import report

    mine = f"--config-dir={own / 'my_conf'}"
    first = train(mine, *CHOSEN, "logger=[tensorboard,json_lines]", "augmentation=solarize", root=cells)
    assert first.status == 0, first.err
    record = first.record
    assert (record.data.name, record.data.license, record.data.classes) == ("cells", "CC0", ["blue", "red"])
    assert record.data.n_train + record.data.n_val + record.data.n_test == 40
    assert -1 <= record.test.further["kappa"] <= 1 and "kappa" in first.out
    assert len((first.folder / "weight_norms.txt").read_text().splitlines()) == 2
    assert "kappa" in (first.folder / "MODEL_CARD.md").read_text()
    lines = [json.loads(line) for line in (first.folder / "log.jsonl").read_text().splitlines()]
    assert "model.width" in lines[0]["settings"] and [line["step"] for line in lines if "val/loss" in line] == [1, 2]

    last, best = (first.folder / "checkpoints" / name for name in ("last.ckpt", "best.ckpt"))
    without = train(f"ckpt_path={last}", "trainer.max_epochs=3", small=False)
    assert without.status == 1 and "from your own configuration files; add --config-dir=DIR" in without.err, without.err
    resumed = train(mine, f"ckpt_path={last}", "trainer.max_epochs=3", small=False, to=first.folder)
    assert resumed.status == 0, resumed.err
    assert len((first.folder / "weight_norms.txt").read_text().splitlines()) == 3

    OWN.clear()  # another process would know none
    status, out, err = in_process(predict, f"ckpt={best}", f"images={cells}", f"out={tmp_path / 'labels'}")
    assert status == 1 and "if it is yours: register=[my_package.networks.Tiny]" in err, (out, err)
    register = "register=[my_package.networks.Tiny]"
    status, out, err = in_process(predict, f"ckpt={best}", f"images={cells}", f"out={tmp_path / 'labels'}", register)
    assert status == 0 and len((tmp_path / "labels" / "predictions.csv").read_text().splitlines()) == 41, err
    following = [
        line for line in first.out.splitlines() if line.startswith(("    python predict", "    python export"))
    ]
    assert len(following) == 2 and all(line.endswith(f"'{register}'") for line in following)
    status, out, err = in_process(export, f"ckpt={best}", f"out={tmp_path / 'net.onnx'}", register)
    assert status == 0 and "0 of 11 predictions differ" in out, err
    out_file = f"out={tmp_path / 'net.npz'}"
    status, out, err = in_process(export, mine, f"ckpt={best}", out_file, register, "format=npz", "preprocessing=false")
    assert status == 0 and "0 of 11 predictions differ" in out and (tmp_path / "net.npz").is_file(), (out, err)
    status, out, err = in_process(report, f"runs={first.folder}", f"out={tmp_path / 'page'}")
    assert status == 0 and "kappa" in (tmp_path / "page" / "report.html").read_text(), err


def test_a_network_that_raises_in_predict_is_one_line(own, cells, train, in_process, tmp_path):
    import predict

    ran = train(f"--config-dir={own / 'my_conf'}", "model=tiny", "datamodule=cells", "stages=[fit]", root=cells)
    exec("def forward(self, x):\n    return x.missing", vars(sys.modules["my_package.networks"]))
    OWN["my_package.networks.Tiny"].forward = sys.modules["my_package.networks"].forward
    best = f"ckpt={ran.folder / 'checkpoints' / 'best.ckpt'}"
    register = "register=[my_package.networks.Tiny]"
    status, _, err = in_process(predict, best, f"images={cells}", f"out={tmp_path / 'labels'}", register)
    assert status == 1 and err.startswith(
        "ERROR: register.0=my_package.networks.Tiny: AttributeError: 'Tensor' object"
    ), err
    assert len(err.splitlines()) == 1


@pytest.mark.thorough
def test_a_head_of_the_user_s_own_and_optimizer_and_schedule_of_torch_by_yaml_only(
    own, cells, train, in_process, tmp_path
):
    import predict

    mine = f"--config-dir={own / 'my_conf'}"
    ran = train(mine, "model=cosine", "datamodule=cells", *ONLY_YAML, "stages=[fit]", root=cells)
    assert ran.status == 0, ran.err
    arguments = [f"ckpt={ran.folder / 'checkpoints' / 'best.ckpt'}", f"images={cells}", f"out={tmp_path / 'labels'}"]
    OWN.clear()
    status, _, err = in_process(predict, *arguments)
    assert status == 1 and "the head 'my_package.heads.CosineHead' is not one of this project" in err, err
    status, _, err = in_process(predict, *arguments, "register=[my_package.heads.CosineHead]")
    assert status == 0, err


@pytest.mark.thorough
def test_a_backbone_of_the_user_s_own_is_cut_and_is_a_candidate(own, cells, train, in_process, tmp_path):
    """Its two convolutions, 224 and 584 parameters, and a head for two classes, 18."""
    import export
    import predict
    import smallest

    name, register = "my_package.networks.Tiny", "register=[my_package.networks.Tiny]"
    cut = ["model=truncated", f"model.backbone={name}", "model.keep=body"]
    ran = train(f"datamodule.root={cells_by_class(cells)}", *cut, "stages=[cost,fit]", "trainer.max_epochs=2")
    assert ran.status == 0 and "RANDOM WEIGHTS" in ran.out, (ran.out, ran.err)
    assert ran.record.model.parameters == (3 * 9 + 1) * 8 + (8 * 9 + 1) * 8 + (8 + 1) * 2
    best = f"ckpt={ran.folder / 'checkpoints' / 'best.ckpt'}"
    arguments = [best, f"images={cells}", f"out={tmp_path / 'labels'}"]
    following = [line for line in ran.out.splitlines() if line.startswith(("    python predict", "    python export"))]
    assert all(line.endswith(f"'{register}'") for line in following)
    OWN.clear()  # another process would know none
    status, _, err = in_process(predict, *arguments)
    assert status == 1 and err.endswith(f"if it is yours: {register}\n") and len(err.splitlines()) == 1, err
    status, _, err = in_process(predict, *arguments, register)
    assert status == 0, err

    folder = tmp_path / "search"
    status, out, err = in_process(
        smallest, f"datamodule.root={tmp_path / 'classes'}", f"candidates.backbones=[{name}]", "candidates.image_sizes=[32]",
        f"hydra.run.dir={folder}", "budget.minutes=null", "seeds=[1]", "finals.folds_below=0", "trainer.max_epochs=2",
        "datamodule.num_workers=0",
        f"datamodule.cache={tmp_path / 'cache'}", "trainer=cpu",
    )  # fmt: skip
    assert status == 0 and f"{name} starts from random weights" in out and f"'{register}'" in out, (out, err)
    OWN.clear()
    status, out, err = in_process(export, f"ckpt={folder / 'best.ckpt'}", f"out={tmp_path / 'a.onnx'}", register)
    assert status == 0, err


def cells_by_class(cells):
    """Sort the images into DIR/CLASS by the beginning of their names; return DIR."""
    folder = cells.parent / "classes"
    for file in cells.iterdir():
        (folder / file.name.split("_")[0]).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / file.name.split("_")[0] / file.name)
    return folder


RAISES = [
    (
        "data.py",
        "for file in",
        "raise KeyError('lost'); yield\n        for file in",
        "datamodule.source=my_package.data.Cells",
    ),
    (
        "networks.py",
        "return self.head(self.pool(",
        "return self.head(self.pol(",
        "model.network=my_package.networks.Tiny",
    ),
    (
        "callbacks.py",
        "norm = sum(",
        "norm = 1 / (1 - trainer.current_epoch) + sum(",
        "callbacks.weight_norms=my_package.callbacks.WeightNorms",
    ),
    ("losses.py", "return losses +", "return logits @ losses +", "loss=my_package.losses.PolyLoss"),
    (
        "metrics.py",
        "k = probabilities",
        "assert labels is None, 'why'\n    k = probabilities",
        "metrics.kappa=my_package.metrics.kappa",
    ),
]


@pytest.mark.parametrize(("file", "old", "new", "words"), RAISES, ids=[case[0] for case in RAISES])
def test_what_the_user_s_own_class_raises_is_one_line(own, cells, train, file, old, new, words):
    path = own / "my_package" / file
    path.write_text(path.read_text().replace(old, new, 1))
    ran = train(f"--config-dir={own / 'my_conf'}", *CHOSEN, root=cells)
    group = words.split("=")[0].split(".")[0]
    yaml = next(choice for choice in CHOSEN if choice.startswith(group)).split("=")[1]
    assert ran.status == 1 and ran.err.count("ERROR:") == 1 and "Traceback" not in ran.err, ran.err
    assert f"ERROR: {words} in {own / 'my_conf' / group / yaml}.yaml: " in ran.err and f"({file}, line " in ran.err, (
        ran.err
    )
    kept = (ran.folder / "checkpoints" / "last.ckpt").is_file()  # nothing that was trained is lost
    assert kept == ran.folder.exists()  # and nothing is left where nothing was
    assert not kept or (ran.record.status == "failed" and words in ran.record.reason)
    assert kept == (file == "callbacks.py") == ("Resume with: python train.py --config-dir=" in ran.err), ran.err


def test_the_error_of_a_class_that_was_typed_names_no_file(own, cells, train):
    path = own / "my_package" / "networks.py"
    path.write_text(path.read_text().replace("        super()", "        raise KeyError('part')\n        super()", 1))
    name = "my_package.networks.Tiny"
    ran = train("model=truncated", f"model.backbone={name}", "model.keep=body", root=cells_by_class(cells))
    assert ran.status == 1 and f"ERROR: model.backbone={name}: KeyError: 'part' (networks.py, line " in ran.err, ran.err


BAD = [  # file of the page, what is replaced in it, and the message
    ("losses.py", 'reduction="none"', 'reduction="mean"', r"loss=my_package.losses.PolyLoss: gives \(\) for two images"),
    ("losses.py", "return losses +", "return losses.detach() +", "nothing would be learned"),
    ("metrics.py", "return (np", "return 'good' if len(labels) else (np",
     "metrics.kappa=my_package.metrics.kappa: gives 'good'; it must give a number"),
    ("networks.py", "nn.Linear(width, num_classes)", "nn.Linear(width, 5)",
     r"model.network=my_package.networks.Tiny: gives \(1, 5\) for one image"),
    ("networks.py", "return self.head(self.pool(self.body(x)).flatten(1))",
     "return self.head(self.pool(self.body(x)).flatten(1))[:1]",
     r"model.network=my_package.networks.Tiny: gives \(1, 2\) for two images"),
    ("networks.py", "return self.head(self.pool(self.body(x)).flatten(1))",
     "return self.head(self.pool(self.body(x)).flatten(1)).long()",
     r"model.network=my_package.networks.Tiny: gives logits of torch.int64, not torch.float32"),
    ("networks.py", "self.head = nn.Linear(width, num_classes)",
     "self.head = nn.Linear(width, num_classes)\n        self.requires_grad_(False)",
     r"model.network=my_package.networks.Tiny: has no weights to train"),
    ("networks.py", "self.head = nn.Linear(width, num_classes)",
     "self.head = nn.LazyLinear(num_classes)", r"model.network=my_package.networks.Tiny: has lazy layers"),
    ("networks.py", "self.head = nn.Linear(width, num_classes)",
     "self.head = nn.Linear(width, num_classes)\n        self.head.weight.data = self.head.weight.data.cfloat()",
     r"model.network=my_package.networks.Tiny: has complex weights \(head.weight\)"),
    ("networks.py", "    def forward", "    def get_extra_state(self):\n        return {}\n\n    def forward",
     r"model.network=my_package.networks.Tiny: has a state that is not a tensor \(_extra_state\)"),
    ("networks.py", ".flatten(1))\n", ".flatten(1)).half()\n",
     r"model.network=my_package.networks.Tiny: gives logits of torch.float16, not torch.float32"),
    ("networks.py", "    def forward(self, x):\n",
     "        self.register_buffer('seen', self.head.weight.new_zeros(0, 3))\n\n    def forward(self, x):\n"
     "        if self.training:\n            self.seen = self.seen.new_zeros(len(self.seen) + len(x), 3)\n",
     r"model.network=my_package.networks.Tiny: its seen had the shape \(0, 3\) before training and has \(\d+, 3\) now"),
    ("losses.py", "    def forward", "    def get_extra_state(self):\n        return {}\n\n    def forward",
     "loss: its _extra_state is not a tensor, so its checkpoints could not be loaded"),
    ("callbacks.py", "    def on_train_epoch_end", "    def on_save_checkpoint(self, trainer, pl_module, checkpoint):\n"
     "        checkpoint['kept'] = Path('x')\n\n    def on_train_epoch_end",
     "a callback: its on_save_checkpoint, at 'kept', gives .*, which a checkpoint cannot hold"),
    ("callbacks.py", "    def on_train_epoch_end", "    def on_save_checkpoint(self, trainer, pl_module, checkpoint):\n"
     "        checkpoint['kept'] = lambda: 1\n\n    def on_train_epoch_end",
     "a callback: its on_save_checkpoint, at 'kept', gives .*, which a checkpoint cannot hold"),
    ("optimizers.py", "    @torch.no_grad()", "    def state_dict(self):\n"
     "        return super().state_dict() | {'kept': object()}\n\n    @torch.no_grad()",
     "the optimizer: its state_dict gives .*, which a checkpoint cannot hold"),
    ("networks.py", ".flatten(1))\n", ".flatten(1)).detach()\n",
     "model.network=my_package.networks.Tiny: its logits do not depend on its weights in training"),
    ("callbacks.py", "    def on_train_epoch_end", "    def state_dict(self):\n        return {'kept': Path('x')}\n\n"
     "    def on_train_epoch_end", "the callback WeightNorms: its state_dict gives .*, which a checkpoint cannot hold"),
    ("losses.py", "class PolyLoss(nn.Module)", "class PolyLoss", "loss=my_package.losses.PolyLoss: is not a torch.nn.Module"),
    ("metrics.py", "probabilities: np.ndarray) -> float:", "probabilities, other) -> float:",
     r"metrics.kappa=my_package.metrics.kappa: does not take labels \(n,\) and probabilities \(n, K\): missing a required"),
    ("data.py", "def images(self):", "def images(self):\n        return None\n\n    def other(self):",
     r"datamodule.source=my_package.data.Cells: its images\(\) returns a NoneType"),
    ("data.py", "yield ImageRow(", "if False:\n                yield ImageRow(",
     "datamodule.source=my_package.data.Cells: lists no images"),
    ("networks.py", "num_classes: int,", "num_classes: int, depth: int,",
     "model.network=my_package.networks.Tiny: missing a required argument: 'depth'; it gets num_classes and, by name,"),
    ("networks.py", "    def __init__", "    __hash__ = None\n\n    def __init__",
     r"model.network=my_package.networks.Tiny: cannot be hashed, which torch requires; use @dataclass\(eq=False\)"),
    ("losses.py", "    def __init__", "    __hash__ = None\n\n    def __init__",
     "loss=my_package.losses.PolyLoss: cannot be hashed, which torch requires"),
    ("optimizers.py", "def step(self, closure):", "def step(self):",
     "optimizer=my_package.optimizers.SignMomentum: its step needs the argument closure"),
    ("optimizers.py", "loss = closure()", "loss = None",
     "optimizer=my_package.optimizers.SignMomentum: its step does not call the closure"),
    ("losses.py", "logits, labels):", "logits, labels, extra):",
     r"loss=my_package.losses.PolyLoss in .*/loss/poly.yaml: TypeError: PolyLoss.forward\(\) missing 1 required"),
    ("data.py", "def images(self):", "def images(self, root):",
     r"datamodule.source=my_package.data.Cells in .*/cells.yaml: TypeError: Cells.images\(\) missing 1 required"),
    ("callbacks.py", "trainer, pl_module):", "trainer):",
     r"callbacks.weight_norms=my_package.callbacks.WeightNorms in .*: TypeError: WeightNorms.on_train_epoch_end\(\) takes 2"),
    ("losses.py", "losses = ", "raise SystemExit(3)\n        losses = ",
     "loss=my_package.losses.PolyLoss in .*: SystemExit: 3"),
]  # fmt: skip


def one_of_each_file(cases) -> list:
    """Mark all but the first case of a file thorough."""
    seen = Counter()
    marked = []
    for file, *rest, words in cases:
        seen[file] += 1
        marks = [pytest.mark.thorough] if seen[file] > 1 else []
        marked.append(pytest.param(file, *rest, words, marks=marks, id=words[:30]))
    return marked


@pytest.mark.parametrize(("file", "old", "new", "words"), one_of_each_file(BAD))
def test_what_does_not_do_its_part_is_refused_before_training(own, cells, train, file, old, new, words):
    path = own / "my_package" / file
    path.write_text(path.read_text().replace(old, new, 1))
    if words == "nothing would be learned":
        path.write_text(path.read_text().replace("(1 - (-losses).exp())", "(1 - (-losses.detach()).exp())"))
    ran = train(f"--config-dir={own / 'my_conf'}", *CHOSEN, root=cells)
    assert ran.status == 1 and re.search(words, ran.err) and len(ran.err.splitlines()) == 1, ran.err
    assert not (ran.folder / "checkpoints").exists()


def test_early_stopping_on_a_metric_that_no_callback_logs_names_those_that_are_logged(own, cells, train):
    mine, early = f"--config-dir={own / 'my_conf'}", "callbacks=[early_stopping,weight_norms]"
    path = own / "my_package" / "callbacks.py"
    path.write_text(path.read_text() + '        pl_module.log("norm", norm)\n')
    monitor, mode = "callbacks.early_stopping.monitor=norn", "callbacks.early_stopping.mode=max"
    ran = train(mine, *CHOSEN[:2], early, monitor, mode, "stages=[fit]", root=cells)
    assert ran.status == 1 and ran.err.count("ERROR:") == 1 and "Traceback" not in ran.err, ran.err
    assert f"ERROR: {monitor}: nothing logged it; did you mean norm? Allowed: norm, train/accuracy" in ran.err, ran.err


def test_lbfgs_which_cannot_train_convolutions_is_refused_in_one_line(own, cells, train):
    (own / "my_conf" / "optimizer" / "lbfgs.yaml").write_text("_target_: torch.optim.LBFGS\nlr: 0.1\n")
    ran = train(
        f"--config-dir={own / 'my_conf'}", "datamodule=cells", "model=simple_cnn", "optimizer=lbfgs", "scheduler=none",
        root=cells,
    )  # fmt: skip
    assert ran.status == 1 and len(ran.err.splitlines()) == 1, ran.err
    assert "ERROR: optimizer=torch.optim.LBFGS: cannot flatten the gradients of convolutions" in ran.err, ran.err
    assert not (ran.folder / "checkpoints").exists()


def test_a_callback_that_interrupts_ends_the_run_as_ctrl_c_does(own, cells, train):
    path = own / "my_package" / "callbacks.py"
    path.write_text(path.read_text().replace("norm = sum(", "raise KeyboardInterrupt\n        norm = sum(", 1))
    ran = train(f"--config-dir={own / 'my_conf'}", *CHOSEN, root=cells)
    assert ran.status == 130 and ran.err == "stopped by SIGINT; no checkpoint was written yet\n", ran.err


@pytest.mark.thorough
def test_a_loss_that_keeps_weights_and_a_metric_that_fails_once_cost_nothing_else(own, cells, train):
    """The loss has a buffer, the metric raises on resamples only; the network is measured all the same."""
    path = own / "my_package" / "losses.py"
    buffered = 'self.epsilon = epsilon\n        self.register_buffer("kept", torch.ones(2))'
    path.write_text("import torch\n" + path.read_text().replace("self.epsilon = epsilon", buffered))
    path = own / "my_package" / "metrics.py"
    fails = (
        "    1 / (len(set(map(tuple, probabilities))) == len(labels))\n    k = prob"  # where an image is drawn twice
    )
    path.write_text(path.read_text().replace("    k = prob", fails))
    first = train(f"--config-dir={own / 'my_conf'}", *CHOSEN, "trainer.max_epochs=1", root=cells)
    assert first.status == 0 and "WARNING: test: metrics.kappa=my_package.metrics.kappa" in first.out, (
        first.err + first.out
    )
    assert first.record.test.further == {"kappa": None} and first.record.test.accuracy.n == 9
    last = f"ckpt_path={first.folder / 'checkpoints' / 'last.ckpt'}"
    resumed = train(f"--config-dir={own / 'my_conf'}", last, "trainer.max_epochs=2", small=False, to=first.folder)
    assert resumed.status == 0, resumed.err
