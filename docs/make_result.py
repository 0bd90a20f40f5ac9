"""Make docs/result.md from the docstrings of the record: python -m docs.make_result > docs/result.md"""

import ast
import inspect
from dataclasses import fields, is_dataclass

from common import run_record
from common.run_record import SCHEMA, RunRecord


def result_page() -> str:
    """Return the page: a table for each section, a line a field with its type and docstring."""
    lines = [
        "# result.json",
        "",
        f"The record of a run, schema {SCHEMA}. Made by `python -m docs.make_result > docs/result.md`.",
        "",
    ]
    kinds = [
        kind for kind in vars(run_record).values() if is_dataclass(kind) and kind.__module__ == run_record.__name__
    ]
    for kind in sorted(kinds, key=lambda kind: kind is not RunRecord):  # the record first, then as they are written
        summary = " ".join(inspect.getdoc(kind).split())
        lines += [f"## {kind.__name__}", "", summary, "", "| field | type | |", "|---|---|---|"]
        for name, annotation, text in _documented_fields(kind):
            section = next((k for k in kinds if k.__name__ == annotation.split(" ")[0]), None)
            text = " ".join(text.split()) or (inspect.getdoc(section).split("\n")[0] if section else "")
            shown = annotation.replace("|", "\\|")
            lines.append(f"| `{name}` | {shown} | {text} |")
        lines.append("")
    return "\n".join(lines)


def _documented_fields(kind: type) -> list[tuple[str, str, str]]:
    """Return name, annotation and docstring of each field of a dataclass, from its source."""
    body = ast.parse(inspect.getsource(kind)).body[0].body
    found = []
    for node, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign):
            documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            found.append((node.target.id, ast.unparse(node.annotation), following.value.value if documented else ""))
    assert [name for name, _, _ in found] == [field.name for field in fields(kind)]
    return found


if __name__ == "__main__":
    print(result_page(), end="")
