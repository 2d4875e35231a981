"""The call that moves a VM: made of what was judged, and only as long as that is how things are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mudanza.migration.unchanged import assert_unchanged
from mudanza.model.errors import BlockedError
from mudanza.model.migration import Side, Sighting
from mudanza.model.vm import VmState
from tests import factories

XML = "<domain><devices><disk><source file='/images/a'/><target dev='vda'/></disk></devices></domain>"
VM = replace(factories.vm(), xml=XML)
RUNNING = Sighting(Side.PRESENT, VmState.RUNNING, "booted")


def test_what_was_judged_may_go() -> None:
    assert_unchanged(VM, RUNNING, XML)


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (Sighting(Side.PRESENT, VmState.PAUSED, "user"), "is paused"),
        (Sighting(Side.PRESENT, VmState.SHUTOFF, "shutdown"), "is shut off"),
        (Sighting(Side.ABSENT), "is gone"),
        (Sighting(Side.UNSEEN), "does not answer"),
    ],
)
def test_a_vm_in_another_state_than_the_judged_one_may_not(seen: Sighting, words: str) -> None:
    with pytest.raises(BlockedError, match=words):
        assert_unchanged(VM, seen, XML)


def test_a_vm_resumed_meanwhile_may_not_arrive_paused() -> None:
    with pytest.raises(BlockedError, match="was paused"):
        assert_unchanged(replace(VM, state=VmState.PAUSED), RUNNING, XML)


@pytest.mark.parametrize(
    "now",
    [
        XML.replace("/images/a", "/images/b"),
        XML.replace("</devices>", "<disk><source file='/images/new'/><target dev='vdb'/></disk></devices>"),
    ],
)
def test_a_disk_nobody_judged_may_not_go_along(now: str) -> None:
    with pytest.raises(BlockedError, match="disks"):
        assert_unchanged(VM, RUNNING, now)
