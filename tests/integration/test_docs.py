"""The docs are true: every file, link, command, choice and message that they name exists."""

import importlib.util
import re
import shlex

import pytest

from common.flags import split_flags
from common.run_folder import FIGURES, PROJECT, RunFolder
from engine.config.data_overrides import complete_data
from tests.support.configs import compose_verb

DOCS = {page.name: page.read_text() for page in sorted((PROJECT / "docs").glob("*.md"))}
PAGES = [PROJECT / "CONTRIBUTING.md", PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
VERBS = ("train", "smallest", "search", "report", "predict", "export", "demo")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    named = set(re.findall(r"`((?:[a-z_]+/)+[\w.-]*)`", page.read_text()))
    no_files = (
        "outputs/",
        "checkpoints/",
        "runs/",
        "val/",
        "test/",
        "hydra/",
    )  # of runs, metrics and groups of Hydra's
    gone = sorted(path for path in named if not path.startswith(no_files) and not (PROJECT / path).exists())
    assert not gone


def code_of(text: str) -> str:
    """The lines of a page that are code: fenced, or indented by four blanks."""
    fenced = "".join(found[2] for found in FENCED.finditer(text) if found[1] in ("", "bash"))
    indented = "\n".join(line[4:] for line in FENCED.sub("", text).splitlines() if line.startswith("    "))
    return f"{fenced}\n{indented}"


def commands() -> list[tuple[str, str]]:
    """Each command of the docs that is one of this project, with its page."""
    found = {}
    for name, text in DOCS.items():
        for line in code_of(text).replace("\\\n", " ").splitlines():
            if match := re.match(
                r"(?:[A-Z_]+=\S+ )*(?:python|torchrun .*?) ?(-m [\w.]+\b.*|\w+\.py\b.*)$", line.strip()
            ):
                found.setdefault(match[1], name)
    return sorted(found.items())


def test_there_are_commands_of_every_verb():
    programs = {command.split()[0].removesuffix(".py") for command, _ in commands()}
    assert set(VERBS) <= programs and len(commands()) > 80


@pytest.mark.parametrize(("command", "page"), commands())
def test_a_command_composes(command, page):
    program, *arguments = shlex.split(command, comments=True)
    if program == "-m":
        assert importlib.util.find_spec(arguments[0]) is not None
        return
    verb = program.removesuffix(".py")
    assert verb in VERBS
    flags, overrides = split_flags(arguments)
    if any(flag.startswith("--networks") for flag in flags):
        return  # test_networks_help.py runs it
    if any(flag.startswith("--config-dir") for flag in flags):
        return  # with files that test_extending.py makes
    assert set(flags) <= {"-m", "--help", "--cfg", "job"}
    if any("submitit" in each for each in overrides) and not importlib.util.find_spec(
        "hydra_plugins.hydra_submitit_launcher"
    ):
        pytest.skip("hydra_submitit_launcher is not installed")
    if "-m" in flags:  # of each swept setting its first value
        overrides = [
            re.sub(r"^([\w.]+=)'?(?:range\((\d+),.*\)|([^\[\]{},]+),.*)$", r"\1\2\3", each) for each in overrides
        ]
    compose_verb(verb, *complete_data(overrides)[0])


def test_every_link_leads_to_a_page_and_its_heading():
    """As mkdocs build --strict, also where mkdocs is not installed."""
    slug = {
        name: {
            re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title.replace("`", "")).strip().lower())
            for title in re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
        }
        for name, text in DOCS.items()
    }
    wrong = []
    readme = (PROJECT / "README.md").read_text()
    for name, text in {"README.md": readme.replace("](docs/", "]("), **DOCS}.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            page, _, anchor = target.partition("#")
            if "://" in target or (PROJECT / "docs" / page).suffix not in ("", ".md"):
                continue
            if name == "README.md" and (PROJECT / page).exists():
                continue
            if (page or name) not in DOCS or (anchor and anchor not in slug[page or name]):
                wrong.append(f"{name}: {target}")
    assert not wrong


def test_the_site_has_every_page_once():
    listed = re.findall(r"([\w-]+\.md)$", (PROJECT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(DOCS)


def test_every_choice_of_every_group_is_in_the_table_of_groups():
    text = DOCS["configuration.md"]
    table = text[text.index("## The groups") : text.index("## What wins over what")]
    files = [file for file in (PROJECT / "conf").glob("*/*.yaml") if file.parent.name != "hydra"]
    assert [f"{file.parent.name}={file.stem}" for file in files if f"`{file.stem}`" not in table] == []


def test_every_file_of_a_run_is_in_the_table_of_what_it_leaves():
    folder = RunFolder(PROJECT)
    table = DOCS["usage.md"].partition("## What a run leaves")[2]
    left = [folder.record, folder.best_checkpoint, folder.best_weights, folder.last_checkpoint, folder.metrics, folder.splits,
            folder.predictions("test"), folder.predictions("val"), folder.summary, folder.model_card, folder.lock,
            *map(folder.figure, FIGURES)]  # fmt: skip
    assert [path.name for path in left if path.name not in table] == []


def test_every_message_of_the_troubleshooting_page_is_one_of_the_code():
    blocks = FENCED.findall(DOCS["troubleshooting.md"])
    messages = "".join(text for kind, text in blocks if kind == "text").splitlines()
    assert len(messages) >= 20
    rooms = ("common", "evaluation", "datamodules", "lightning_modules", "callbacks", "engine", "inference", "reports")
    code = "\n".join(path.read_text() for room in rooms for path in (PROJECT / room).rglob("*.py"))
    code = re.sub(r"[\"']\s*\n\s*f?[\"']", "", code)  # one literal over several lines
    for message in messages:
        parts = [part for each in message.split("...") if re.search(r"[a-z]{4}", part := each.strip(" :;,.()"))]
        assert parts and max(map(len, parts)) > 8, message
        assert [part for part in parts if part not in code] == [], message


def test_a_release_has_one_version_and_one_date():
    (version,) = re.findall(r'^version = "(.*)"', (PROJECT / "pyproject.toml").read_text(), re.MULTILINE)
    released = re.findall(r"^## (\d\S+) - (\S+)", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    cited = (PROJECT / "CITATION.cff").read_text()
    assert released == (version, re.search(r'date-released: "(.*)"', cited)[1])
    assert f"\nversion: {version}\n" in cited and f"\n## {version}, {released[1]}\n" in DOCS["release-notes.md"]


EXTENDING = DOCS["extending.md"]


def test_every_walk_passes_through_at_most_ten_files():
    walks = EXTENDING[EXTENDING.index("## Three walks") :].split("\n**")[1:]
    lengths = [len(re.findall(r"^\d+\. `", walk, re.MULTILINE)) for walk in walks]
    assert len(lengths) == 3 and max(lengths) <= 10


def test_every_file_of_a_walk_is_imported_by_one_before_it():
    """A walk is a chain: each module is named in the source, or in the configuration, of a file before it in its list."""
    for walk in EXTENDING[EXTENDING.index("## Three walks") :].split("\n**")[1:2]:
        files = re.findall(r"^\d+\. `([\w/.-]+)`", walk, re.MULTILINE)
        texts = [(PROJECT / file).read_text() for file in files]
        for place, file in enumerate(files[1:], 1):
            module = file.removesuffix(".py").replace("/", ".")
            package, _, last = module.rpartition(".")
            pattern = rf"{re.escape(module)}\b|from {re.escape(package)} import [^\n]*\b{last}\b"
            assert any(re.search(pattern, text) for text in texts[:place]), file
