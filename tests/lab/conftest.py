"""What all lab tests share: one lab for the session, and waiting for a condition instead of for a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest

from mudanza.cli.lab import tell_mudanza
from mudanza.lab import requirements
from mudanza.lab.lab import Lab
from mudanza.model.errors import UsageError
from tests.lab.checking import Checker, sound_vm
from tests.lab.command import Mudanza

AWAIT_LIMIT = 30.0
"""Seconds a condition may take to come true."""
_AWAIT_INTERVAL = 0.05


@pytest.fixture(scope="session")
def needs_lab() -> None:
    """Skip where no lab can be built, saying why."""
    try:
        requirements.check()
    except UsageError as error:
        pytest.skip(f"{error} ({error.remedy})")


@pytest.fixture(scope="session")
def lab(needs_lab: None) -> Iterator[Lab]:
    """Three hosts with TLS. Whoever breaks something in it mends it; it dies with the test run, however that ends."""
    built = Lab.up(f"t{os.getpid()}", hosts=3, tied=True)
    yield built
    built.down()


@pytest.fixture(scope="session")
def mudanza(lab: Lab) -> Mudanza:
    """The command, knowing the lab's hosts."""
    tell_mudanza(lab)
    return Mudanza(lab)


@pytest.fixture(scope="session")
def check(lab: Lab, mudanza: Mudanza) -> Checker:
    """Checks moves and holds what is found against what is expected."""
    return Checker(lab, mudanza)


@pytest.fixture(scope="module")
def sound(lab: Lab) -> Iterator[str]:
    """A running VM at h1 that nothing is the matter with."""
    with sound_vm(lab) as name:
        yield name


def await_true(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds; fail after AWAIT_LIMIT, naming it."""
    deadline = time.monotonic() + AWAIT_LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {AWAIT_LIMIT:g} s: {what}"
        time.sleep(_AWAIT_INTERVAL)
