"""The field's words, in code, screen texts and docs: the old vocabulary of the project is gone."""

import re
import subprocess

import pytest

from common.run_folder import PROJECT

# old word -> what the project calls it now
OLD = {
    r"go(es|ing)? on": "resume, continue",
    r"gone on": "resumed",
    r"anew": "again, from scratch",
    r"alone": "only, by itself",
    r"told|said": "shown, logged, reported",
    r"of ours": "the project's",
    r"strangers?('s)?": "untrusted",
    r"no number": "NaN",
    r"pictures?": "image",
    r"stands? (in|there)": "is in, appears",
    r"be had": "available",
}
SUFFIXES = {".py", ".yaml", ".yml", ".toml", ".md", ".html", ".css", ".js", ".jinja"}
THIS = "tests/integration/test_words.py"


def texts() -> list[str]:
    """Tracked files that people read."""
    listed = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a clone of the repository")
    files = [name for name in listed.stdout.splitlines() if name != THIS and (PROJECT / name).is_file()]
    return [name for name in files if (PROJECT / name).suffix in SUFFIXES]


def test_old_words_are_gone():
    words = re.compile(rf"(?<![A-Za-z])({'|'.join(f'(?:{old})' for old in OLD)})(?![A-Za-z])", re.IGNORECASE)
    found = []
    for name in texts():
        for number, line in enumerate((PROJECT / name).read_text(encoding="utf-8").splitlines(), 1):
            if name == "CHANGELOG.md":
                line = re.sub(r"`[^`]*`", "", line)  # settings that were renamed keep their old names there
            if name == "CONTRIBUTING.md" and line.startswith("| "):
                continue  # its table of words, with the old ones beside them
            if old := words.search(line.replace("_", " ")):
                word = next(new for each, new in OLD.items() if re.fullmatch(each, old[0], re.IGNORECASE))
                found.append(f"{name}:{number}: write {word}: {line.strip()[:100]}")
    assert not found, f"{len(found)} lines:\n" + "\n".join(found[:40])
