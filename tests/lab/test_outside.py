"""What a client on the controller's machine hears of a guest while it moves stands in the report."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab.command import Mudanza, SeatedMudanza

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

BEAT_PORT = 7000


@pytest.fixture(scope="module")
def seated(lab: Lab, mudanza: Mudanza) -> Mudanza:
    """The command where it reaches guests as well as hosts."""
    return SeatedMudanza(lab)


@pytest.fixture(scope="module")
def asked(lab: Lab) -> Iterator[Guest]:
    made = create_guest(lab, GuestSpec("asked", memory=128 * MIB, disk=0), on="h1")
    yield made
    made.remove()


def test_for_how_long_nobody_answered_is_reported(seated: Mudanza, asked: Guest) -> None:
    for there, probe in (("h2", f"ping:{asked.address}"), ("h1", f"tcp:{asked.address}:{BEAT_PORT}")):
        report = seated("migrate", "asked", "--to", there, "--probe", probe, "-o", "json").report
        assert report["blackout"] > 0, report
        assert report["silent_time"] >= report["blackout"] or not report["silences"], report
        assert not [warning for warning in report["warnings"] if "answered" in warning], report


def test_a_guest_that_does_not_answer_is_not_moved(seated: Mudanza, asked: Guest) -> None:
    before = asked.states()
    refused = seated("migrate", "asked", "--to", "h3", "--probe", f"tcp:{asked.address}:9", expect=3)
    assert "nobody answers" in refused.err
    assert asked.states() == before
    assert seated("jobs", "--vm", "asked", "--state", "unfinished", "-o", "json").data == []
