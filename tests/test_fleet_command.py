"""What people are asked before a host is emptied."""

from __future__ import annotations

import sys

import pytest
import typer

from mudanza.cli.fleet import ask
from mudanza.model.carrying import CannotGo


@pytest.mark.parametrize(
    ("answer", "may_shut_down", "chosen"),
    [
        ("s", True, CannotGo.SHUTDOWN),
        # Nobody would shut them down for a drain, nor start them after it: they would be taken for gone.
        ("s", False, CannotGo.REFUSE),
        ("Cold", False, CannotGo.COLD),
        ("l", True, CannotGo.STAY),
        ("", True, CannotGo.REFUSE),
    ],
)
def test_an_answer_is_one_of_those_that_were_offered(
    monkeypatch: pytest.MonkeyPatch, answer: str, may_shut_down: bool, chosen: CannotGo
) -> None:
    questions: list[str] = []

    def prompt(question: str, **_: object) -> str:
        questions.append(question)
        return answer

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(typer, "prompt", prompt)
    assert ask(0, may_shut_down=may_shut_down) is chosen
    assert ("[s]hut" in questions[0]) is may_shut_down


def test_where_nobody_can_answer_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    assert ask(0, may_shut_down=True) is CannotGo.REFUSE
