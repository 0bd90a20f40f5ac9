"""From a page to its runs: links that resolve, also after a move; commands a shell reads back; the overview."""

import base64
import errno
import os
import shlex
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from common.run_folder import RunFolder
from reports.report import write_report
from reports.run_links import LARGEST_SHOWN, overview
from tests.support.fake_runs import judged, make_run
from tests.support.helpers import in_chromium, needs_chromium
from tests.support.parsed_html import Parsed

ODD = 'keep=4, it\'s a "#50%" <b>'


@pytest.fixture
def runs(tmp_path):
    """Two networks, the smaller as good as the larger, with checkpoints and cards; folders with odd names."""
    for name, macs in (("large", 4e8), (ODD, 1e6)):
        folder = RunFolder(make_run(tmp_path / "runs" / name, choices={"model": name}, wrong={"val": {1}, "test": {1}},
                                    cost=(macs, macs / 10, 9), n={"val": 900, "test": 1000}))  # fmt: skip
        folder.checkpoints.mkdir()
        for path in (folder.best_checkpoint, folder.model_card):
            path.write_text("")
    return tmp_path / "runs"


def links(page):
    """Return the files and folders that a page links to."""
    hrefs = [attributes["href"] for tag, attributes in Parsed(page.read_text()).tags if tag == "a"]
    assert hrefs and all(href.startswith(("./", "#")) and not urlsplit(href).netloc for href in hrefs)
    return [page.parent / unquote(urlsplit(href).path) for href in hrefs if href.startswith("./")]


@pytest.mark.thorough
def test_links_resolve_beside_the_runs_elsewhere_and_after_a_move(runs, tmp_path):
    page = write_report(str(runs)).page
    found = {path.resolve().relative_to(runs).as_posix() for path in links(page)}
    each = {f"{name}/{file}" for name in ("large", ODD) for file in ("", "MODEL_CARD.md", "checkpoints/best.ckpt")}
    assert found == {path.rstrip("/") for path in each}
    elsewhere = write_report(str(runs), out=str(tmp_path / "a" / "b")).page
    assert all(path.exists() for path in links(elsewhere))
    moved = shutil.move(runs, tmp_path / "moved")
    assert all(path.exists() for path in links(moved / "report.html"))


def test_the_commands_name_the_network_of_the_answer_and_survive_shell_and_hydra(runs):
    (group,) = judged(runs).groups
    assert group.named_row.runs[0].folder.path.name == ODD  # the smaller one, first at equal accuracy
    page = Parsed(write_report(str(runs)).page.read_text())
    commands = [text for tag, text in page.text if tag == "pre"][:2]
    checkpoint = runs / ODD / "checkpoints" / "best.ckpt"
    for command, words in zip(commands, (["predict.py", "images=DIR"], ["export.py"]), strict=True):
        python, script, override, *rest = shlex.split(command)
        assert [python, script, *rest] == ["python", *words]
        parsed = OverridesParser.create().parse_override(override)
        assert (parsed.key_or_group, parsed.value()) == ("ckpt", str(checkpoint))


@pytest.mark.parametrize("settings", [
    {"model.network": "my.Net", "model.head.name": "my.Head"},
    {"model.network": "truncated", "model.backbone": "my.Net", "model.head.name": "my.Head"},
])  # fmt: skip
def test_the_commands_register_network_backbone_and_head_of_the_user_s_own(settings, tmp_path):
    folder = RunFolder(make_run(tmp_path / "own", settings=settings, wrong={"val": {1}, "test": {1}}))
    folder.checkpoints.mkdir()
    folder.best_checkpoint.write_text("")
    page = Parsed(write_report(str(tmp_path)).page.read_text())
    commands = [text for tag, text in page.text if tag == "pre"][:2]
    assert [shlex.split(command)[-1] for command in commands] in (
        ["register=[my.Net,my.Head]"] * 2,
        ["register=[my.Head,my.Net]"] * 2,
    )


def test_of_several_seeds_the_best_on_validation_is_used_and_all_are_linked(tmp_path):
    for seed, missed in ((1, 9), (2, 3), (3, 5)):
        folder = RunFolder(make_run(tmp_path / f"s{seed}", seed=seed, wrong={"val": set(range(missed))}))
        folder.checkpoints.mkdir()
        folder.best_checkpoint.write_text("")
        Image.new("RGB", (8, 8)).save(folder.figure("overview"))
    page = Parsed(write_report(str(tmp_path)).page.read_text())
    assert "seed 2, the best of its 3 runs by validation" in page.words().lower()
    assert "At a glance: resnet18, seed 2" in page.words()
    assert any(f"ckpt={tmp_path / 's2'}/checkpoints/best.ckpt" in text for tag, text in page.text if tag == "pre")
    hrefs = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert {f"./s{seed}/checkpoints/best.ckpt" for seed in (1, 2, 3)} <= set(hrefs)


def test_a_folder_of_checkpoints_that_cannot_be_read_has_no_link_and_is_not_offered(tmp_path, monkeypatch):
    for seed, missed in ((1, 2), (2, 3)):
        folder = RunFolder(make_run(tmp_path / f"s{seed}", seed=seed, wrong={"val": set(range(missed))}))
        folder.checkpoints.mkdir()
        folder.best_checkpoint.write_text("")
    stat, closed = os.stat, tmp_path / "s1" / "checkpoints"

    def closed_stat(path, *args, **options):
        if closed in Path(os.fsdecode(path)).parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", closed_stat)
        page = write_report(str(tmp_path)).page.read_text()
    assert f"ckpt={tmp_path / 's2'}/checkpoints/best.ckpt" in page
    assert "s1/checkpoints" not in page and 'href="./s1/"' in page


def test_of_many_seeds_the_number_is_shown_and_the_first_are_linked(tmp_path):
    for seed in range(15):
        make_run(tmp_path / f"s{seed}", seed=seed, n={"val": 8}, epochs=0)
    page = write_report(str(tmp_path)).page
    files = "".join(page.read_text().split('data-label="files">')[1].split("</td>")[0].split("\n"))
    assert "<summary>15 runs</summary>" in files and files.count("<a ") == 12
    assert files.rstrip().endswith("<div>and 3 more</div></details>")


def test_without_a_checkpoint_or_an_accuracy_above_guessing_nothing_is_offered(tmp_path):
    make_run(tmp_path / "a")
    assert "Use " not in write_report(str(tmp_path)).page.read_text().split("<main>")[1]


def test_the_overview_is_shown_small_and_a_damaged_one_is_not(runs, tmp_path):
    path = runs / ODD / "overview.png"
    Image.new("RGB", (1600, 900), "white").save(path)
    page = Parsed(write_report(str(runs)).page.read_text())
    (image,) = [a for tag, a in page.tags if tag == "img" and a["alt"].startswith("Overview")]
    assert image["src"] == f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    noise = np.random.default_rng(0).integers(0, 256, (900, 1600, 3), np.uint8)
    Image.fromarray(noise // 8).save(path)
    assert path.stat().st_size > LARGEST_SHOWN and overview(path).startswith("data:image/jpeg;base64,")
    for content in (b"", b"<svg onload='alert(1)'/>", path.read_bytes()[:5000]):
        path.write_bytes(content)
        assert overview(path) is None
    assert overview(tmp_path / "none.png") is None
    Image.new("RGB", (8, 8)).save(tmp_path / "private.png")
    path.unlink()
    path.symlink_to(tmp_path / "private.png")
    assert overview(path) is None


@pytest.mark.thorough
@needs_chromium
def test_in_a_browser_commands_are_copied_and_tips_open_without_a_mouse(runs):
    page_file = write_report(str(runs)).page
    with in_chromium(page_file) as (page, _, messages):
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        command = page.locator("pre.copy code").first.inner_text()
        page.locator("pre.copy button").first.click()
        page.wait_for_function("document.querySelector('pre.copy button').textContent === 'Copied'")
        assert page.evaluate("navigator.clipboard.readText()") == command
        assert page.locator("#tip").is_hidden()
        page.locator("svg .tip").first.focus()
        assert page.locator("#tip").inner_text() == page.locator("svg .tip").first.get_attribute("aria-label")
        page.set_viewport_size({"width": 390, "height": 844})
        page.locator("#tip").wait_for(state="hidden")  # the browser reports the new size a frame later
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        wide = "[...document.querySelectorAll('.wide')].filter(each => each.scrollWidth > each.clientWidth).length"
        assert page.evaluate(wide) == 0  # cards, and no table that scrolls
        assert messages == []
