"""Untrusted folders: nothing is waited for, followed without end or removed; and how the source may open files."""

import ast
import os

import pytest

from common.errors import UserError
from datamodules.decode import UnreadableImageError, open_image
from datamodules.near_duplicates import compared_look
from datamodules.pixel_cache import Look
from datamodules.prepare import prepare_catalog
from datamodules.sources.image_folder import ImageFolder, walk_images
from datamodules.sources.source import read_source
from tests.support.helpers import PROJECT, make_images, open_pixel_cache


def test_what_is_no_file_is_not_waited_for(tmp_path):
    root = make_images(tmp_path / "root", {"a": 2, "b": 2}, size=8)
    os.mkfifo(root / "a" / "pipe.png")
    (root / "a" / "zero.png").symlink_to("/dev/zero")
    (root / "a" / "folder.png").mkdir()
    (root / "b" / "gone.png").symlink_to(tmp_path / "gone")
    catalog = read_source(ImageFolder(root=root))
    assert len(catalog) == 7
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(UnreadableImageError, match=rf"{name}.*not a file but a folder, pipe or device"):
            open_image(root / "a" / name)


def test_a_dangling_link_is_an_unreadable_file(tmp_path):
    root = make_images(tmp_path / "root", {"a": 6, "b": 6}, size=8)
    (root / "b" / "gone.png").symlink_to(tmp_path / "gone")
    (root / "b" / "self.png").symlink_to(root / "b" / "self.png")

    def prepared(**rules):
        catalog = read_source(ImageFolder(root=root))
        pixels = open_pixel_cache(catalog.files, compared_look(None), tmp_path / "cache")
        prepare_catalog(catalog, pixels, seed=0, **rules)
        return catalog

    with pytest.raises(UserError, match=r"2 of 14 files cannot be read.*on_unreadable=skip") as error:
        prepared()
    lines = str(error.value).splitlines()
    assert (
        len(lines) == 3
        and f"{root}/b/gone.png: not a readable image (a link to a file that does not exist)" in lines[1]
    )
    catalog = prepared(on_unreadable="skip")
    reasons = {catalog.paths[row]: reason for row, reason in catalog.excluded.items()}
    assert "does not exist" in reasons["b/gone.png"] and "symbolic links" in reasons["b/self.png"]
    make_images(tmp_path / "late", {"a": 1}, size=8)
    (tmp_path / "gone").symlink_to(tmp_path / "late" / "a" / "000.png")  # repaired: another cache
    catalog = prepared(on_unreadable="skip")
    assert [catalog.paths[row] for row in catalog.excluded] == ["b/self.png"]


def test_circular_links_are_followed_once(tmp_path, caplog):
    root = make_images(tmp_path / "root", {"a": 2, "b": 2}, size=8)
    for name in ("x", "y", "z"):
        (root / "a" / name).symlink_to(root / "a")
    (root / "b" / "elsewhere").symlink_to(make_images(tmp_path / "other", {"c": 3}, size=8))
    assert len(read_source(ImageFolder(root=root))) == 7
    assert sum("was read already" in message for message in caplog.messages) == 3


def test_a_link_to_the_whole_in_a_class_adds_no_images(tmp_path, caplog):
    root = make_images(tmp_path / "images", {"ant": 3, "bee": 2}, size=8)
    (root / "ant" / "loop").symlink_to(root)
    assert [path.relative_to(root).parts[0] for path in walk_images(root / "ant")] == ["ant"] * 3
    assert "ant/loop: skipped" in caplog.text
    assert len(list(walk_images(root / "ant" / "loop"))) == 5  # asked for by itself


def test_the_cache_removes_only_what_it_has_made(tmp_path):
    root = make_images(tmp_path / "root", {"a": 1}, size=8)
    (tmp_path / "home" / "holiday").mkdir(parents=True)
    (tmp_path / "home" / "holiday" / "photo.png").write_bytes(b"mine")
    (tmp_path / "home" / "0123456789abcdef01234567").symlink_to(tmp_path / "home" / "holiday")
    cache = open_pixel_cache([root / "a" / "000.png"], Look(8), tmp_path / "home", limit_gib=0)
    assert len(cache) == 1 and (tmp_path / "home" / "holiday" / "photo.png").read_bytes() == b"mine"


NOWHERE = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.load_all", "yaml.unsafe_load",
    "yaml.full_load", "hydra.utils.call", "hydra.utils.get_object", "hydra.utils.get_method", "hydra.utils.get_class",
}  # fmt: skip
IN_ONE_FILE = {
    "hydra.utils.instantiate": ("engine/config/instantiate.py",),
    "importlib.import_module": (
        "common/untrusted/saved_config.py",
        "common/targets.py",
    ),  # of names that are no constants
    "pkgutil.resolve_name": ("common/targets.py",),
    "torch.load": ("common/untrusted/tensors.py",),
    "torch.export.load": ("inference/export/torch_export.py",),  # what it has just written
}
KEYWORDS = {"torch.load": ("weights_only", "True"), "np.load": ("allow_pickle", "False")}


def test_the_source_opens_no_file_as_code():
    found = set()
    for path in sorted(p for place in ("*.py", "*/*.py", "*/*/*.py") for p in PROJECT.glob(place)):
        name = path.relative_to(PROJECT).as_posix()
        if name.startswith(("tests/", "benchmarks/", "outputs/")):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                modules = [*(alias.name for alias in node.names), getattr(node, "module", "") or ""]
                assert not {m.split(".")[0] for m in modules} & {"pickle", "shelve", "marshal", "joblib", "dill"}, name
            if isinstance(node, ast.Call):
                called, keywords = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
                found.add(called)
                assert called not in NOWHERE and keywords.get("shell") != "True", f"{name}: {called}"
                constant = called == "importlib.import_module" and isinstance(node.args[0], ast.Constant)
                assert constant or name in IN_ONE_FILE.get(called, (name,)), f"{name}: {called}"
                if called in KEYWORDS:
                    assert KEYWORDS[called] in keywords.items(), f"{name}: {called}"
    assert found >= IN_ONE_FILE.keys() | KEYWORDS.keys()  # otherwise this test looks for names that do not exist
