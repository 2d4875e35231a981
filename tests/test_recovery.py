"""A guest whose memory is on two hosts: neither copy is ever ended, and only what QEMU has paused is resumed."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import cast

import pytest

from mudanza.journal.job import Job
from mudanza.migration.live.passage import allowed_postcopy, as_stored, order_on_record, without_postcopy
from mudanza.migration.live.recovery import Recovery, recover
from mudanza.migration.settle import Act, Verdict, settle
from mudanza.migration.transfer import POSTCOPY_REASONS, Order
from mudanza.model.migration import Side, Sighting
from mudanza.model.policy import PostCopy
from mudanza.model.vm import VmState

UNSEEN = Sighting(Side.UNSEEN)
ABSENT = Sighting(Side.ABSENT)


def paused(reason: str) -> Sighting:
    return Sighting(Side.PRESENT, VmState.PAUSED, reason)


def running(reason: str) -> Sighting:
    return Sighting(Side.PRESENT, VmState.RUNNING, reason)


OFF = Sighting(Side.PRESENT, VmState.SHUTOFF, "crashed")


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (paused("post-copy"), running("post-copy"), Recovery.WAIT),
        (paused("post-copy failed"), running("post-copy"), Recovery.RESUME),
        (paused("post-copy failed"), paused("post-copy failed"), Recovery.RESUME),
        (paused("post-copy"), running("post-copy failed"), Recovery.WAIT),
        (paused("post-copy failed"), UNSEEN, Recovery.WAIT),
        (UNSEEN, paused("post-copy failed"), Recovery.WAIT),
        (ABSENT, running("migrated"), Recovery.OVER),
        (running("booted"), ABSENT, Recovery.OVER),
        (paused("post-copy failed"), ABSENT, Recovery.OVER),
        (OFF, paused("post-copy failed"), Recovery.OVER),
    ],
)
def test_what_is_done_about_it(source: Sighting, target: Sighting, expected: Recovery) -> None:
    assert recover(source, target) is expected


def test_nothing_is_resumed_but_what_both_hosts_have() -> None:
    states = [UNSEEN, ABSENT, OFF, *(make(reason) for make in (paused, running) for reason in sorted(POSTCOPY_REASONS))]
    for source, target in product(states, states):
        if recover(source, target) is Recovery.RESUME:
            assert source.side is target.side is Side.PRESENT
            assert source.reason == "post-copy failed"


@pytest.mark.parametrize(("source", "target"), [(paused("post-copy failed"), ABSENT), (paused("post-copy"), OFF)])
def test_a_guest_that_ended_with_its_qemu_is_never_run_from_old_memory(source: Sighting, target: Sighting) -> None:
    found = settle(source, target)
    assert found.verdict is Verdict.DOWN_THERE
    assert found.acts == (Act.DROP_SOURCE_COPY,)


ORDER = Order(
    "qemu+tls://h2/system",
    {"destination_xml": "<domain/>", "bandwidth": 9, "bandwidth.postcopy": 9, "tls.destination": "h2"},
    ("LIVE", "POSTCOPY", "TLS"),
)


def test_where_post_copy_cannot_be_the_same_is_ordered_without() -> None:
    plain = without_postcopy(ORDER)
    assert plain.flags == ("LIVE", "TLS")
    assert set(plain.parameters) == {"destination_xml", "bandwidth", "tls.destination"}


def test_what_the_journal_keeps_is_enough_to_resume() -> None:
    def job(*flags: str) -> Job:
        intent = as_stored(Order(ORDER.peer_uri, ORDER.parameters, flags))
        return cast(Job, SimpleNamespace(steps_named=lambda _: (SimpleNamespace(intent=intent),)))

    kept = order_on_record(job("LIVE", "POSTCOPY", "POSTCOPY_RESUME"))
    assert kept is not None
    assert (kept.peer_uri, kept.flags) == (ORDER.peer_uri, ("LIVE", "POSTCOPY"))
    assert kept.parameters == {"bandwidth": 9, "bandwidth.postcopy": 9, "tls.destination": "h2"}
    assert order_on_record(job("LIVE")) is None, "what has memory in one place is not resumed"


def test_a_guest_that_stays_paused_is_not_prepared_for_it() -> None:
    assert allowed_postcopy(PostCopy.ALLOW, was_paused=True) is PostCopy.NEVER
    assert allowed_postcopy(PostCopy.ALLOW, was_paused=False) is PostCopy.ALLOW
    assert allowed_postcopy(PostCopy.ALLOW, was_paused=False, excluded=True) is PostCopy.NEVER
