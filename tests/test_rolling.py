"""A command at a host by itself, what follows from how it stands, and what is written down of it."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudanza.fleet.rolling import Next, as_before, decide, in_order, unwell
from mudanza.hypervisor.host_command import MOST_AT_ONCE, HostCommand, seen_or_none
from mudanza.journal.database import Database, open_database
from mudanza.journal.rollings import LEFT_OUT, MOST, Rollings
from mudanza.model.errors import BlockedError, HypervisorError, UsageError
from mudanza.model.host import Host, HostEntry, Network, Pool
from mudanza.model.rolling import Before, CommandState, Lap, Order, RollingState, Seen, Stage
from mudanza.operations.rolling import whole
from tests.program import Program

LIMIT = 20.0
BOOT, ANEW = "boot/1", "boot/2"
ORDER = Order(("h1",), "true", "true", limit=60.0)
REBOOT = replace(ORDER, reboot=True)
LAP = Lap(1, "h1", Stage.COMMAND, boot=BOOT)
BEGUN = replace(LAP, begun=True, for_seconds=5.0)
LATE = replace(BEGUN, for_seconds=61.0)


def seen(state: CommandState, code: int | None = None, boot: str = BOOT) -> Seen:
    return Seen(boot, state, code)


# What follows.


@pytest.mark.parametrize(
    ("order", "lap", "found", "what"),
    [
        (ORDER, LAP, seen(CommandState.READY), Next.BEGIN),
        (ORDER, BEGUN, seen(CommandState.RUNS), Next.WAIT),
        (ORDER, LATE, seen(CommandState.RUNS), Next.END),
        (ORDER, BEGUN, seen(CommandState.ENDED, 0), Next.GO_ON),
        (ORDER, LATE, seen(CommandState.ENDED, 0), Next.GO_ON),
        (ORDER, BEGUN, seen(CommandState.ENDED, 1), Next.FAULT),
        (ORDER, BEGUN, None, Next.WAIT),
        (ORDER, LATE, None, Next.SILENT),
        (ORDER, LAP, None, Next.WAIT),
        (REBOOT, BEGUN, seen(CommandState.ENDED, 0), Next.WAIT),
        (REBOOT, LATE, seen(CommandState.ENDED, 0), Next.FAULT),
        (REBOOT, BEGUN, seen(CommandState.ENDED, 1), Next.FAULT),
        # It has started anew: its disk tells.
        (ORDER, LAP, seen(CommandState.READY, boot=ANEW), Next.AGAIN),
        (REBOOT, LAP, seen(CommandState.READY, boot=ANEW), Next.AGAIN),
        (ORDER, LAP, seen(CommandState.ENDED, 0, ANEW), Next.GO_ON),
        (REBOOT, BEGUN, seen(CommandState.ENDED, 0, ANEW), Next.GO_ON),
        (REBOOT, BEGUN, seen(CommandState.ENDED, 1, ANEW), Next.FAULT),
        (REBOOT, BEGUN, seen(CommandState.LOST, boot=ANEW), Next.GO_ON),
        (REBOOT, BEGUN, seen(CommandState.ABSENT, boot=ANEW), Next.GO_ON),
        # Nobody can know how far it got, and it is not begun a second time.
        (ORDER, BEGUN, seen(CommandState.LOST, boot=ANEW), Next.FAULT),
        (ORDER, BEGUN, seen(CommandState.ABSENT, boot=ANEW), Next.FAULT),
        (ORDER, BEGUN, seen(CommandState.READY, boot=ANEW), Next.FAULT),
        (ORDER, BEGUN, seen(CommandState.ABSENT), Next.FAULT),
        (ORDER, BEGUN, seen(CommandState.READY), Next.FAULT),
        (ORDER, LAP, seen(CommandState.ABSENT), Next.FAULT),
        (ORDER, BEGUN, seen(CommandState.LOST), Next.FAULT),
        (REBOOT, LAP, seen(CommandState.ABSENT, boot=ANEW), Next.FAULT),
        (REBOOT, LAP, seen(CommandState.LOST, boot=ANEW), Next.FAULT),
    ],
)
def test_what_is_done_about_a_command(order: Order, lap: Lap, found: Seen | None, what: Next) -> None:
    verdict = decide(order, lap, found)
    assert verdict.next is what
    assert bool(verdict.said) is (what not in (Next.BEGIN, Next.WAIT))


def test_a_host_that_is_silent_is_waited_for_as_long_as_its_command_may_take() -> None:
    assert decide(ORDER, LAP, None, 59.0).next is Next.WAIT
    assert "it has not answered for 1 min" in decide(ORDER, LAP, None, 61.0).said
    assert decide(ORDER, BEGUN, None, 61.0).next is Next.WAIT, "that counts from when its command began"


@given(
    order=st.sampled_from([ORDER, REBOOT]),
    lap=st.sampled_from([LAP, BEGUN, LATE]),
    found=st.builds(Seen, st.sampled_from([BOOT, ANEW]), st.sampled_from(CommandState), st.sampled_from([None, 0, 1])),
)
def test_a_command_is_begun_only_where_it_is_certain_that_it_was_not(order: Order, lap: Lap, found: Seen) -> None:
    verdict = decide(order, lap, found)
    if verdict.next in (Next.BEGIN, Next.AGAIN):
        assert (found.state, lap.begun) == (CommandState.READY, False)
        assert (verdict.next is Next.BEGIN) == (found.boot == BOOT)
    if verdict.next is Next.GO_ON and not lap.begun:
        assert (found.state, found.exit_code) == (CommandState.ENDED, 0)


def host(*, pool: bool = True, network: bool = True, error: str | None = None) -> Host:
    pools = (Pool("default", "dir", "/p", pool, 1, 1), Pool("never", "dir", "/n", False, 1, 1))
    return Host(HostEntry("h1", "qemu:///system"), error, pools=pools, networks=(Network("lan", network, "nat", None),))


def test_a_host_is_well_when_it_is_as_before() -> None:
    before = as_before(host(), closed=False)
    assert before == Before(("default",), ("lan",), closed=False)
    assert unwell(before, host()) == ""
    assert unwell(before, host(pool=False, network=False)) == (
        "not active as before: pool default; not active as before: network lan"
    )
    assert "no route" in unwell(before, host(error="no route"))


def test_the_controllers_own_host_is_the_last() -> None:
    assert in_order(("h2", "h1", "h3"), "h2") == ("h1", "h3", "h2")
    assert in_order(("h2", "h1"), None) == ("h2", "h1")


@pytest.mark.parametrize(
    ("text", "interpreter"),
    [
        ("apt-get update", ("sh",)),
        ("#!/usr/bin/python3\nprint()", ("/usr/bin/python3",)),
        ("#! /usr/bin/env -S bash -x\n", ("/usr/bin/env", "-S bash -x")),
        ("#!\ntrue", ("sh",)),
    ],
)
def test_a_script_names_who_reads_it(text: str, interpreter: tuple[str, ...]) -> None:
    assert replace(ORDER, text=text).interpreter == interpreter


def test_an_order_is_read_back_as_it_was() -> None:
    order = replace(REBOOT, hosts=("h1", "h2"))
    assert Order.from_data(order.as_data() | {"later": 1}) == order


def test_a_character_that_has_half_come_waits_for_its_other_half() -> None:
    assert whole("aé".encode()[:-1], last=False) == ("a", 1)
    assert whole("aé".encode(), last=False) == ("aé", 3)
    assert whole("aé".encode()[:-1], last=True) == ("a�", 2)


# At a host; here without ssh between.


@pytest.fixture
def command(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[HostCommand]:
    program = tmp_path / "ssh"
    program.write_text('#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    entry = HostEntry("h1", f"qemu+ssh://h1/system?command={quote(str(program))}")
    made = HostCommand(entry, f"test-{os.getpid()}-{abs(hash(request.node.name))}")
    made.forget()
    yield made
    made.stop()
    made.forget()


def until(command: HostCommand, state: CommandState, after: int = 0) -> Seen:
    end = time.monotonic() + LIMIT
    while (found := command.look(after)).state is not state:
        assert time.monotonic() < end, f"it is {found.state}"
        time.sleep(0.05)
    return found


def begin(command: HostCommand, text: str, interpreter: tuple[str, ...] = ("sh",)) -> str:
    boot = command.prepare(text)
    command.begin(interpreter)
    return boot


def test_a_command_runs_by_itself_and_says_how_it_ended(command: HostCommand) -> None:
    assert command.look(0).state is CommandState.ABSENT
    boot = begin(command, "echo it runs; echo 'and it''s bad' >&2; exit 3")
    found = until(command, CommandState.ENDED)
    assert (found.exit_code, found.output) == (3, b"it runs\nand its bad\n")
    assert command.look(8).output == b"and its bad\n"
    assert found.boot == boot
    with pytest.raises(HypervisorError):
        command.begin(("sh",))
    assert command.look(0).output == found.output
    command.forget()
    assert command.look(0).state is CommandState.ABSENT


def test_a_command_that_is_ready_has_not_begun(command: HostCommand) -> None:
    with pytest.raises(HypervisorError):
        command.begin(("sh",))
    assert command.look(0).state is CommandState.ABSENT
    command.prepare("echo one")
    assert command.look(0).state is CommandState.READY
    boot = command.prepare("echo two")
    assert command.look(0) == Seen(boot, CommandState.READY)
    command.begin(("sh",))
    assert until(command, CommandState.ENDED).output == b"two\n"


def test_of_two_who_begin_it_at_once_one_does(command: HostCommand) -> None:
    command.prepare("echo it runs; sleep 0.3")
    with ThreadPoolExecutor(2) as both:
        for each in [both.submit(command.begin, ("sh",)) for _ in range(2)]:
            with suppress(HypervisorError):  # where the other one was quicker by more than a moment
                each.result()
    assert until(command, CommandState.ENDED).output == b"it runs\n"


def test_a_script_is_read_by_whom_it_names(command: HostCommand) -> None:
    text = "#!/usr/bin/env python3\nimport sys\nprint(sys.argv[0][-6:])"
    begin(command, text, ("/usr/bin/env", "python3"))
    assert until(command, CommandState.ENDED).output == b"script\n"


def test_it_goes_on_when_who_began_it_is_gone_and_can_be_ended(command: HostCommand, tmp_path: Path) -> None:
    go = tmp_path / "go"
    begin(command, f"until [ -e {go} ]; do sleep 0.05; done; echo over; sleep 1000")
    assert command.look(0).state is CommandState.RUNS  # each look is a login of its own
    go.touch()
    end = time.monotonic() + LIMIT
    while not command.look(0).output:
        assert time.monotonic() < end
    command.stop()
    assert until(command, CommandState.LOST).output == b"over\n"


def test_much_is_read_piece_by_piece(command: HostCommand) -> None:
    begin(command, f"head -c {MOST_AT_ONCE + 10} /dev/zero")
    found = until(command, CommandState.ENDED)
    assert len(found.output) == MOST_AT_ONCE
    assert len(command.look(MOST_AT_ONCE).output) == 10


def test_our_own_machine_is_known(command: HostCommand) -> None:
    assert command.is_here()


def test_a_host_that_does_not_let_us_in_says_nothing() -> None:
    assert seen_or_none(HostCommand(HostEntry("h9", "qemu+ssh://h9/system?command=/bin/false"), "x"), 0) is None
    with pytest.raises(BlockedError, match="not reached by ssh"):
        HostCommand(HostEntry("h9", "qemu:///system"), "x").prepare("true")


# In the journal.


@pytest.fixture
def engine(database: str) -> Database:
    return open_database(database)


def test_it_is_kept_how_far_each_host_is(engine: Database) -> None:
    rollings = Rollings(engine)
    duty = rollings.take()
    number = rollings.begin(replace(ORDER, hosts=("h1", "h2")), "ana", duty)
    with pytest.raises(BlockedError, match="h2 is part of rolling maintenance"):
        rollings.begin(replace(ORDER, hosts=("h2",)), "bo", duty)
    before = Before(("default",), (), closed=True)
    rollings.enter(number, 1, Stage.COMMAND, duty, before=before, boot=BOOT)
    assert not rollings.get(number).lap(1).begun
    rollings.begun(number, 1, duty)
    rollings.printed(number, rollings.get(number).lap(1), "password=geheim é", 17, duty)
    rollings.ended(number, 1, 4, duty)
    lap = rollings.get(number).lap(1)
    assert (lap.begun, lap.before, lap.boot, lap.exit_code) == (True, before, BOOT, 4)
    assert (lap.output, lap.taken) == ("password=***** é", 17)
    assert 0.0 <= lap.for_seconds < LIMIT
    rollings.stop(number, 1, "h1: it failed", duty)
    assert (rollings.get(number).state, rollings.get(number).outcome) == (RollingState.STOPPED, "h1: it failed")
    rollings.go_on(number, duty)
    rollings.enter(number, 1, Stage.DONE, duty)
    found = rollings.get(number)
    assert (found.done, found.current) == (1, found.lap(2))
    rollings.wish_stopped(number, "bo")
    assert rollings.get(number).wish_by == "bo"
    rollings.finish(number, RollingState.GIVEN_UP, "no more", duty)
    with pytest.raises(UsageError, match="is given up: no more"):
        rollings.go_on(number, duty)
    with pytest.raises(UsageError, match="already"):
        rollings.wish_stopped(number, "bo")
    assert [each.id for each in rollings.latest(9)] == [number]
    assert rollings.forget(-1.0) == 1
    assert rollings.latest(9) == ()


def test_of_what_is_printed_the_beginning_is_kept(engine: Database) -> None:
    rollings = Rollings(engine)
    duty = rollings.take()
    number = rollings.begin(ORDER, "ana", duty)
    for _ in range(3):
        rollings.printed(number, rollings.get(number).lap(1), "x" * MOST, MOST, duty)
    lap = rollings.get(number).lap(1)
    assert lap.output == "x" * MOST + LEFT_OUT
    assert lap.taken == 3 * MOST


def test_only_one_controller_has_maintenance_roll(engine: Database) -> None:
    duty = Rollings(engine).take()
    with pytest.raises(BlockedError, match="maintenance rolls over hosts by another controller"):
        Rollings(engine).take()
    duty.let_go()
    Rollings(engine).take()


# The command.


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("rolling", 2, "say what is to be run on each host"),
        ("rolling --command true --script x", 2, "say what is to be run on each host"),
        ("rolling --script /nowhere", 2, "/nowhere cannot be read"),
        ("rolling --command true --cannot-go-live ask", 2, "nobody is asked at every host"),
        ("rolling --command true", 2, "no host is known"),
        ("rolling --command true --hosts h9", 2, "h9"),
        ("rolling --command true --hosts h1,h1", 2, "a host is named twice"),
        ("rolling --resume 7", 2, "there is no rolling maintenance 7"),
        ("rolling stop 7", 2, "there is no rolling maintenance 7"),
        ("rolling give-up 7", 2, "there is no rolling maintenance 7"),
        ("rolling show 7", 2, "there is no rolling maintenance 7"),
        ("rolling show", 0, "no maintenance has rolled yet"),
    ],
)
def test_what_cannot_be_is_said(mudanza: Program, words: str, code: int, said: str) -> None:
    done = mudanza(*words.split())
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


def test_a_host_without_ssh_is_refused_before_anything_is_begun(mudanza: Program) -> None:
    mudanza("host", "add", "h1", "qemu+tls://h1.example/system", "--force")
    done = mudanza("rolling", "--command", "true", "--dry-run")
    assert (done.returncode, "not reached by ssh" in done.stderr) == (3, True), done.stderr
