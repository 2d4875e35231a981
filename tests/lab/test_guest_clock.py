"""A guest's own agent sets its clock after a live move, where the move, or whatever else, has put it back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest, virsh
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab.command import Mudanza
from tests.lab.conftest import await_true

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

LINK = 12 * MIB
NO_AGENT = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"


def ask_agent(lab: Lab, host: str, guest: Guest, command: str, **arguments: int) -> object:
    question = json.dumps({"execute": command, "arguments": arguments})
    return json.loads(virsh(lab.cell(host), "qemu-agent-command", guest.uuid, question))["return"]


def answers(lab: Lab, host: str, guest: Guest) -> bool:
    question = '{"execute":"guest-ping"}'
    return bool(virsh(lab.cell(host), "qemu-agent-command", guest.uuid, question, check=False).strip())


@pytest.fixture
def ticking(lab: Lab) -> Iterator[Guest]:
    spec = GuestSpec("ticking", memory=128 * MIB, disk=0, working_set=24 * MIB, guest_agent=True)
    made = create_guest(lab, spec, on="h1")
    await_true(lambda: answers(lab, "h1", made), "the guest's agent answers")
    lab.set_uplink("h1", LINK)
    yield made
    lab.set_uplink("h1", None)
    made.remove()


def test_one_that_was_put_back_is_set_to_what_it_would_have_been(lab: Lab, mudanza: Mudanza, ticking: Guest) -> None:
    running = mudanza.start("migrate", "ticking", "--to", "h2", "-o", "json")
    running.until("copying memory")
    now = ask_agent(lab, "h1", ticking, "guest-get-time")
    assert isinstance(now, int)
    ask_agent(lab, "h1", ticking, "guest-set-time", time=now - 5 * 10**9)
    asked = time.time()
    report = running.end().report
    assert -6 < report["clock_drift"] < -4.9, report
    assert abs(report["clock_left"]) < 0.05, report
    assert "set by its agent" in report["guest_clock"]
    then = ask_agent(lab, "h2", ticking, "guest-get-time")
    assert isinstance(then, int)
    assert abs((then - now) / 1e9 - (time.time() - asked)) < 2


@pytest.mark.soak
def test_where_it_is_to_be_left_nobody_looks(lab: Lab, mudanza: Mudanza, ticking: Guest) -> None:
    report = mudanza("migrate", "ticking", "--to", "h2", "--guest-clock", "leave", "-o", "json").report
    assert (report["guest_clock"], report["clock_drift"]) == ("", None)


@pytest.mark.soak
def test_no_agent_and_one_that_does_not_answer_are_said_and_no_error(lab: Lab, mudanza: Mudanza) -> None:
    for devices, words in (("", "it has no guest agent"), (NO_AGENT, "its agent does not answer")):
        made = create_guest(lab, GuestSpec("quiet", memory=128 * MIB, disk=0, devices=devices), on="h1")
        try:
            ended = mudanza("migrate", "quiet", "--to", "h2")
            assert ended.out.count(words) == 1, ended.out
        finally:
            made.remove()
