"""The tables of steps in the documentation name every step that the code writes into the journal, and no other."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
WRITERS = ("intend", "note", "perform", "_step", "step", "_attempt")
"""What journals a step, by its first argument."""


def steps_in_the_code() -> Iterator[str]:
    for room in ("migration", "protection", "availability", "operations", "cli"):
        for path in (ROOT / "src/mudanza" / room).rglob("*.py"):
            module = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and _called(node) in WRITERS and node.args:
                    yield from _name(node.args[0], module)
    yield "adopt"  # written with the job itself


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _name(argument: ast.expr, module: str) -> Iterator[str]:
    if isinstance(argument, ast.Constant):
        yield str(argument.value)
    elif isinstance(argument, ast.Name) and argument.id.isupper():
        yield getattr(importlib.import_module(module), argument.id)


def test_every_step_has_a_row_and_every_row_a_step() -> None:
    text = (ROOT / "docs/steps.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+`) \|", text, re.MULTILINE)
    named = {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)}
    assert named == set(steps_in_the_code())
