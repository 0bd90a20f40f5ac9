import contextlib
import hashlib
import logging
import os

import pytest
import torch

from common.errors import UserError
from common.locks import locked
from lightning_modules import weight_sources
from lightning_modules.network_errors import register_by_name
from lightning_modules.networks.registry import build_network, torchvision_model
from lightning_modules.pretrained_weights import digest_of_file, load_initial_weights
from tests.support.fake_checkpoints import Payload
from tests.support.helpers import FINAL, SHARED, served

BACKBONE = "shufflenet_v2_x0_5"


@pytest.fixture
def network():
    return build_network(num_classes=2, **FINAL)


@pytest.fixture
def unreachable(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise weight_sources.urllib.error.URLError(OSError("no route"))

    monkeypatch.setattr(weight_sources.urllib.request, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


def load(network, policy, tmp_path, name=BACKBONE):
    arguments = {"network": "torchvision", "name": name}
    return load_initial_weights(network, policy, arguments=arguments, download_to=tmp_path)


def backbone_is(network, state):
    return all(torch.equal(tensor, state[name]) for name, tensor in network.backbone.state_dict().items())


def test_null_keeps_the_random_weights(network, tmp_path):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert load(network, None, tmp_path) == "random"
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


class OwnNetwork(torch.nn.Module):
    """A network of the user's own for so many classes only, which sets its weights unless they are to be random."""

    def __init__(self, *, num_classes: int, only: int, random: bool):
        super().__init__()
        assert num_classes == only
        self.body, self.fc = torch.nn.Linear(9, 8), torch.nn.Linear(8, num_classes)
        if not random:
            torch.nn.init.eye_(self.body.weight)


@pytest.mark.parametrize("random", [True, False])
@pytest.mark.parametrize(("policy", "classes", "n"), [("auto", ["a", "b", "c"], 3), (None, None, 2)])
def test_weights_that_a_network_sets_itself_are_not_random(tmp_path, caplog, random, policy, classes, n):
    name = f"{__name__}.OwnNetwork"
    register_by_name([name], "model.network")
    arguments = {"network": name, "random": random, "only": n}
    network, state = build_network(num_classes=n, **arguments), torch.get_rng_state()
    found = load_initial_weights(network, policy, arguments=arguments, classes=classes, download_to=tmp_path)
    assert found.startswith("random") == ("RANDOM WEIGHTS" in caplog.text) == random
    assert random or found == "set by the network itself"
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("wrapper", ["", "module.", "network."])
def test_a_state_dict_of_the_whole_backbone_fills_the_backbone(network, tmp_path, caplog, wrapper):
    state = torchvision_model(name=BACKBONE, num_classes=1000).state_dict()
    torch.save({wrapper + name: tensor for name, tensor in state.items()}, tmp_path / "w.pth")
    with caplog.at_level(logging.INFO):
        assert load(network, str(tmp_path / "w.pth"), tmp_path) == "file w.pth"
    assert backbone_is(network, state)
    assert "330 of 334" in caplog.text and "random: head (4)" in caplog.text and "conv5 (6), fc (2)" in caplog.text


def test_a_cut_backbone_and_a_checkpoint_fit_as_well(network, tmp_path):
    other = build_network(num_classes=5, **FINAL)
    torch.save(other.backbone.state_dict(), tmp_path / "backbone.pth")
    load(network, str(tmp_path / "backbone.pth"), tmp_path)
    assert backbone_is(network, other.backbone.state_dict())
    third = build_network(num_classes=2, **FINAL)
    torch.save({"state_dict": {f"network.{k}": v for k, v in third.state_dict().items()}}, tmp_path / "best.ckpt")
    load(network, str(tmp_path / "best.ckpt"), tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), third.state_dict().values(), strict=True)
    )


def test_a_part_that_stays_random_is_a_warning(network, tmp_path, caplog):
    torch.save(network.backbone.conv1.state_dict(prefix="conv1."), tmp_path / "part.pth")
    load(network, str(tmp_path / "part.pth"), tmp_path)
    assert caplog.records[-1].levelno == logging.WARNING and "backbone.stage2" in caplog.text


@pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="needs the real weights beside the project")
def test_the_real_weights_fit_completely(network, tmp_path, caplog):
    path = SHARED / "weights" / "shufflenet_v2_x0_5_trunk.pth"
    with caplog.at_level(logging.INFO):
        load(network, str(path), tmp_path)
    assert "330 of 334" in caplog.text and "not used: nothing" in caplog.text
    assert backbone_is(network, torch.load(path, weights_only=True))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        *(
            (text, r"not a weights file \(neither a torch archive nor safetensors, or cut off\); use a state dict")
            for text in (b"", b"not weights", b"PK\3\4" + bytes(500))
        ),
        ({"layer.weight": torch.zeros(2)}, "none of its weights fit"),
        (
            {
                "conv1.0.weight": torch.zeros(9, 3, 3, 3),
                "stage2.0.branch1.0.weight": torch.zeros(9, 1, 3, 3),
            },  # none fits
            r"backbone.conv1.0.weight has the shape \(9, 3, 3, 3\) there and \(24, 3, 3, 3\) here",
        ),
        ([1, 2], "no state dict"),
    ],
)
def test_files_that_do_not_fit_are_refused(network, tmp_path, content, message):
    path = tmp_path / "w.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=message):
        load(network, str(path), tmp_path)


def test_imagenet_that_is_not_available_is_an_error_with_three_ways_out(network, tmp_path, unreachable):
    with pytest.raises(
        UserError, match=r"model.weights=null.*model.weights=FILE.*put the file of https://.*pth"
    ) as error:
        load(network, "imagenet", tmp_path)
    assert str(tmp_path) in str(error.value)


def test_auto_falls_back_to_random_with_a_warning(network, tmp_path, unreachable, caplog):
    with caplog.at_level(logging.INFO, "lightning_modules.pretrained_weights"):
        assert load(network, "auto", tmp_path).startswith("random")
    warning, advice = caplog.records  # two lines; the error of model.weights=imagenet, of above, has the rest
    assert warning.levelno == logging.WARNING and warning.getMessage() == (
        "RANDOM WEIGHTS: those of shufflenet_v2_x0_5 cannot be downloaded (download.pytorch.org: no route). "
        "Expect a lower accuracy"
    )
    assert advice.getMessage() == (
        "  model.weights=imagenet explains how to get them; pretrained without a download: model=truncated "
        "model.backbone=tf_efficientnet_lite0 model.keep=blocks.5.0"  # of a package, extra samples
    )


def test_a_file_in_the_cache_is_used_if_it_is_what_its_name_says(network, tmp_path, unreachable, monkeypatch):
    state = torchvision_model(name=BACKBONE, num_classes=1000).state_dict()
    published = weight_sources.TORCHVISION_WEIGHTS[BACKBONE]
    torch.save(state, tmp_path / "own.pth")
    digest = hashlib.sha256((tmp_path / "own.pth").read_bytes()).hexdigest()[:10]
    (tmp_path / "own.pth").rename(tmp_path / f"shufflenet-{digest}.pth")
    monkeypatch.setattr(published.value, "url", f"https://localhost/shufflenet-{digest}.pth")
    assert load(network, "imagenet", tmp_path).startswith("imagenet (ShuffleNet_V2_X0_5_Weights")
    assert backbone_is(network, state)
    state["fc.bias"] += 1  # as trained by somebody: it fits as well
    torch.save(state, tmp_path / f"shufflenet-{digest}.pth")
    for policy in ("auto", "imagenet"):
        with pytest.raises(UserError, match=rf"damaged \(ValueError: its sha256 does not begin with {digest}"):
            load(network, policy, tmp_path)


@pytest.mark.parametrize(("content", "message"), [
    ("weights", None), ("code", r"damaged \(.*\); remove it to download it again"),
    ("other", r"damaged \(RuntimeError: invalid hash value .*\); run again to download it again"),
])  # fmt: skip
def test_a_download_is_checked_executes_nothing_and_is_of_one_process(
    network, tmp_path, monkeypatch, capfd, content, message
):
    state, folder, taken = torchvision_model(name=BACKBONE, num_classes=1000).state_dict(), tmp_path / "own", []
    (tmp_path / "server").mkdir()
    saved, made = (
        Payload(os.system, f"touch {tmp_path / 'owned'}") if content == "code" else state,
        tmp_path / "server" / "made",
    )
    torch.save(saved, made)
    digest = "0" * 8 if content == "other" else hashlib.sha256(made.read_bytes()).hexdigest()[:8]
    published = made.rename(made.with_name(f"shufflenet-{digest}.pth"))
    usual = torch.hub.load_state_dict_from_url

    def download(*arguments, **options):
        with locked(folder / f"{published.name}.lock") as is_free:
            taken.append(not is_free)
        return usual(*arguments, **options)

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with served(published.parent) as server, contextlib.ExitStack() as refused:
        monkeypatch.setattr(weight_sources.TORCHVISION_WEIGHTS[BACKBONE].value, "url", server.url + published.name)
        if message:
            refused.enter_context(pytest.raises(UserError, match=rf"^{folder / published.name}: {message}$"))
        load(network, "imagenet", folder)
    assert taken == [True] and capfd.readouterr().err == "" and not (tmp_path / "owned").exists()
    if not message:
        assert backbone_is(network, state) and [path.name for path in folder.iterdir()] == [published.name]


def test_the_digest_of_a_file_of_weights_is_that_of_b2sum(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("best.ckpt", "auto", "imagenet"):
        (tmp_path / name).write_bytes(b"weights")
    for policy in ("best.ckpt", "."):
        assert digest_of_file(policy) == "8eaa55a578eb0f70"  # printf weights | b2sum -l 64
    for policy in ("auto", "imagenet", None, "timm/resnet18.a1_in1k"):
        assert digest_of_file(policy) is None


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\3\4" + bytes(99)], ids=len)
def test_a_damaged_file_in_the_cache_is_named(network, tmp_path, unreachable, content):
    path = tmp_path / weight_sources.TORCHVISION_WEIGHTS[BACKBONE].url.rsplit("/", 1)[1]
    path.write_bytes(content)
    for policy in ("auto", "imagenet"):
        with pytest.raises(UserError, match=rf"{path}: damaged .*; remove it") as error:
            load(network, policy, tmp_path)
        assert "\n" not in str(error.value)


def test_weights_of_another_network_are_refused_though_some_fit(tmp_path):
    torch.save(torchvision_model(name="resnet18", num_classes=1000).state_dict(), tmp_path / "resnet18.pth")
    network = torchvision_model(name="resnet50", num_classes=2)
    before = network.conv1.weight.clone()
    with pytest.raises(
        UserError, match=r"is from another network: layer1\.0\.conv1\.weight has the shape \(64, 64, 3, 3\)"
    ):
        load(network, str(tmp_path / "resnet18.pth"), tmp_path, "resnet50")
    assert torch.equal(network.conv1.weight, before)
