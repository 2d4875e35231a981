"""What a rehearsal that does not end in time says: of the way in the clear something, of encryption nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from mudanza.hypervisor.connection import HostConnection
from mudanza.hypervisor.probing import rehearsal
from mudanza.model.errors import HostUnreachableError, HypervisorError
from mudanza.model.host import HostEntry
from mudanza.model.migration import Answer
from tests import factories

LATE = HostUnreachableError("h1", "no answer within 30 s")
REFUSED = HypervisorError("h1", "unable to connect to server at 'h2:49152': Connection refused")


class Host:
    """A host with which every call goes this way."""

    def __init__(self, trouble: Exception, *, answers: bool = True) -> None:
        self._trouble = trouble
        self._answers = answers

    def ask(self, _function: Callable[[Any], Any], *, timeout: float) -> None:
        raise self._trouble

    def answers(self) -> bool:
        return self._answers


@pytest.mark.parametrize(
    ("host", "tls", "answer"),
    [
        (Host(LATE), True, Answer.UNKNOWN),
        (Host(LATE), False, Answer.NO),
        (Host(LATE, answers=False), True, Answer.UNKNOWN),
        (Host(LATE, answers=False), False, Answer.UNKNOWN),
        (Host(REFUSED), True, Answer.NO),
        (Host(REFUSED), False, Answer.NO),
    ],
)
def test_what_takes_too_long_says_nothing_of_encryption(
    monkeypatch: pytest.MonkeyPatch, host: Host, tls: bool, answer: Answer
) -> None:
    monkeypatch.setattr(rehearsal, "TRY_TIMEOUT", 0.0)
    connection = cast(HostConnection, host)
    here, there = (factories.host(name, entry=HostEntry(name, f"qemu+tls://{name}/system")) for name in ("h1", "h2"))
    probe = rehearsal.rehearse(connection, connection, here, there, factories.vm(), tls=tls)
    assert probe.answer is answer
    assert probe.detail
