"""Print the lowest version of each package that pyproject.toml allows, as constraints for pip: python .ci/lowest.py > FILE"""

import itertools
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())["project"]
texts = itertools.chain(project["dependencies"], *project["optional-dependencies"].values())
lowest = {
    required.name: bound.version
    for required in map(Requirement, texts)
    for bound in required.specifier
    if bound.operator == ">="
}
print("\n".join(f"{name}=={version}" for name, version in lowest.items()))
