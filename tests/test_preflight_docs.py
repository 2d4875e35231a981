"""The table of findings in the documentation is what the code says, and each of them is provoked by an example."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from tests.test_preflight_examples import EXAMPLES

ROOT = Path(__file__).parent.parent
ROW = re.compile(r"^\| `([a-z-]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
LEVELS = {
    frozenset({"blocker"}): "blocker",
    frozenset({"warning"}): "warning",
    frozenset({"blocks_live"}): "blocker (cold: warning)",
}


def findings_in_the_code() -> Mapping[str, frozenset[str]]:
    """Read which codes the preflight room can give, and by which of its three words for a finding."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in (ROOT / "src/mudanza/preflight").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                word = node.func.id
                if word in ("blocker", "warning", "blocks_live"):
                    code = node.args[1 if word == "blocks_live" else 0]
                    assert isinstance(code, ast.Constant), f"{path.name}:{node.lineno}: the code must be a literal"
                    found[str(code.value)].add(word)
    return {code: frozenset(words) for code, words in found.items()}


def rows_in_the_docs() -> list[tuple[str, str, str, str]]:
    return ROW.findall((ROOT / "docs/preflight.md").read_text(encoding="utf-8"))


def test_the_docs_name_each_finding_once_with_its_level() -> None:
    rows = rows_in_the_docs()
    assert len({code for code, *_ in rows}) == len(rows)
    assert {code: level for code, level, *_ in rows} == {
        code: LEVELS[words] for code, words in findings_in_the_code().items()
    }


def test_each_finding_has_an_example() -> None:
    assert {code for code, _, _ in EXAMPLES} == set(findings_in_the_code())
