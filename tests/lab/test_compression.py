"""Where a guest changes little of many pages, compression gets it across without post-copy; elsewhere that shows."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab.command import Mudanza

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

LINK = 12 * MIB
SET = 48 * MIB


BUSY = GuestSpec("busy", memory=160 * MIB, disk=0, beat=0.1, working_set=SET, write_rate=3 * LINK)
"""It dirties pages three times as fast as the link carries them."""


@contextmanager
def on_slow_links(lab: Lab, spec: GuestSpec) -> Iterator[Guest]:
    """Have a guest, and links that carry little."""
    made = create_guest(lab, spec, on="h1")
    for host in ("h1", "h2"):
        lab.set_uplink(host, LINK)
    try:
        yield made
    finally:
        for host in ("h1", "h2"):
            lab.set_uplink(host, None)
        made.remove()


@pytest.fixture
def little(lab: Lab) -> Iterator[Guest]:
    """A guest that changes one word of each page."""
    with on_slow_links(lab, replace(BUSY, name="little", changes_little=True)) as made:
        yield made


@pytest.mark.soak
def test_it_arrives_by_precopy_only_where_it_is_compressed(mudanza: Mudanza, little: Guest) -> None:
    def moved(to: str, *how: str) -> dict[str, Any]:
        report = mudanza("migrate", "little", "--to", to, "--max-downtime", "1s", *how, "-o", "json").report
        little.verify_memory()
        return report

    without = moved("h2", "--compression", "off")
    assert without["postcopy_time"] is not None
    assert without["compression"] is None
    packed = moved("h1", "--compression", "xbzrle", "--post-copy", "never")
    assert packed["postcopy_time"] is None
    assert packed["compression"]["paid_off"]
    assert packed["compression"]["pages"] > 0
    assert packed["compression"]["bytes"] < packed["compression"]["pages"] * 4096 / 4
    assert little.states() == {"h1": "running"}


@pytest.mark.soak
def test_one_that_is_compressed_and_encrypted_can_be_cancelled_all_the_same(lab: Lab, mudanza: Mudanza) -> None:
    with on_slow_links(lab, BUSY) as busy:
        running = mudanza.start(
            "migrate", "busy", "--to", "h2", "--compression", "xbzrle", "--post-copy", "never", "--tls", "require",
            "-o", "json",
        )  # fmt: skip
        running.until_event(lambda event: event.get("iteration", 0) >= 4, "the fourth pass")
        running.send(signal.SIGINT)
        running.end(4)
        assert busy.states() == {"h1": "running"}
        mudanza("migrate", "busy", "--to", "h2", "--policy", "now")
        assert busy.states() == {"h2": "running"}
        busy.verify_memory()
