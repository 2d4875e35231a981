"""Every act that cannot be undone is done by ``JobHandle.perform``, and every word a job may have is known."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mudanza
from mudanza.journal.protocol import KINDS, STEPS

SOURCE = Path(mudanza.__file__).parent
CANNOT_BE_UNDONE = frozenset(
    {"create", "define", "define_saved", "delete", "destroy", "forget", "pivot", "resume", "set_autostart", "start"}
    | {"undefine"}
)
HELD_BY_HAND = frozenset(
    {
        # Forced off at the end of a long wait: one step, made sure of right before.
        ("migration/power.py", "domains.destroy"),
        # Things of our own with names of their own, which nobody but their maker starts.
        ("migration/freight/carriage.py", "carrier.start"),
        ("migration/relocation/freight.py", "carrier.start"),
        ("migration/relocation/freight.py", "jobs.pivot"),
        # Ours, and a step of its own each.
        ("migration/cold/work.py", "self.hand_over.define"),
        ("migration/cold/work.py", "self.hand_over.start"),
        ("migration/cold/undo.py", "hand_over.start"),
        ("migration/relocation/off.py", "self._hand_over.start"),
    }
)


def acts(tree: ast.AST) -> Iterator[str]:
    """Return the calls that act at once, and are not handed over as something to be done."""

    def walk(node: ast.AST, functions: int, *, later: bool) -> Iterator[str]:
        called = node.func if isinstance(node, ast.Call) and not later else None
        if isinstance(called, ast.Attribute) and called.attr in CANNOT_BE_UNDONE:
            yield ast.unparse(called)
        inner = functions + isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inner, later=later or isinstance(node, ast.Lambda) or inner > 1)

    return walk(tree, 0, later=False)


def test_what_cannot_be_undone_is_handed_to_perform() -> None:
    found = {
        (str(path.relative_to(SOURCE)), what)
        for room in ("migration", "protection", "availability")
        for path in (SOURCE / room).rglob("*.py")
        for what in acts(ast.parse(path.read_text()))
    }
    assert found == HELD_BY_HAND


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ("def f(d):\n d.destroy(1)", ["d.destroy"]),
        ("def f(d, h):\n h.perform('x', {}, lambda: d.destroy(1))", []),
        ("def f(d, h):\n def act():\n  d.destroy(1)\n h.perform('x', {}, act)", []),
        ("class A:\n def f(self):\n  self.d.undefine()", ["self.d.undefine"]),
    ],
)
def test_an_act_beside_it_is_seen(code: str, seen: list[str]) -> None:
    assert list(acts(ast.parse(code))) == seen


def names_of_steps(path: Path) -> Iterator[str]:
    """Return the names of steps that are written somewhere in a module."""
    tree = ast.parse(path.read_text())
    texts = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value.value, str)
    }
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        if node.func.attr in ("intend", "perform", "note", "_step", "step", "_attempt"):
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value
            elif isinstance(first, ast.Name) and first.id in texts:
                yield texts[first.id]


def test_the_protocol_knows_every_step_that_is_written() -> None:
    written = {
        name
        for room in ("migration", "protection", "availability", "operations", "cli")
        for path in (SOURCE / room).rglob("*.py")
        for name in names_of_steps(path)
    }
    written |= {"create volume", "adopt"}  # make_volume's, and written with the job itself
    assert written - STEPS == set()
    assert STEPS - written == set(), "a step that nobody writes any more stays known, and is listed here as such"


def test_the_protocol_knows_every_kind() -> None:
    assert {"live", "cold", "relocate"} <= KINDS
