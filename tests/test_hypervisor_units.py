"""The small parts of the hypervisor room that need no libvirt: URIs, calls with a limit, libvirt's numbers."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import libvirt
import pytest

from mudanza.hypervisor.bounded import Deadline, Task, all_of, bounded, for_each
from mudanza.hypervisor.connection import message
from mudanza.hypervisor.console import MOST_WAITING, Console
from mudanza.hypervisor.own.ghost import disk_name
from mudanza.hypervisor.own.throwaway import STALE_AFTER, is_abandoned, is_throwaway, throwaway_name
from mudanza.hypervisor.states import operation_name, reason_name, state_name
from mudanza.hypervisor.uris import controller_uri, migration_uri, peer_uri, transport
from mudanza.model.host import HostEntry
from mudanza.model.vm import VmState


@pytest.mark.parametrize(
    ("uri", "peer"),
    [
        ("qemu+tls://h1/system", "qemu+tls://h1/system"),
        ("qemu://h1/system", "qemu://h1/system"),
        ("qemu+tcp://h1:16510/system", "qemu+tcp://h1:16510/system"),
        ("qemu+tls://[fd00::1]/system", "qemu+tls://[fd00::1]/system"),
        ("qemu+tls://h1/system?pkipath=/home/me/pki&no_verify=1", "qemu+tls://h1/system?no_verify=1"),
        ("qemu+ssh://root@h1/system", "qemu+ssh://root@h1/system?no_tty=1"),
        (
            "qemu+ssh://root@h1/system?keyfile=/home/me/key&command=/x&socket=/s&known_hosts=/k",
            "qemu+ssh://root@h1/system?no_tty=1",
        ),
        ("qemu+ssh://root@h1/system?netcat=nc%20x&no_tty=1", "qemu+ssh://root@h1/system?netcat=nc%20x&no_tty=1"),
        ("qemu:///system", None),
        ("qemu+unix:///system?socket=/run/x", None),
        ("qemu+tls://localhost/system", None),
        ("qemu+tls://127.0.0.1/system", None),
        ("qemu+ssh://root@[::1]/system", None),
        ("qemu+ext://h1/system?command=/usr/bin/way-in", None),
        ("test:///default", None),
    ],
)
def test_what_of_a_uri_means_something_on_other_hosts(uri: str, peer: str | None) -> None:
    assert peer_uri(HostEntry("h1", uri)) == peer


def test_a_peer_uri_the_operator_gave_is_taken_as_it_is() -> None:
    assert peer_uri(HostEntry("h1", "qemu:///system", peer_uri="qemu+tls://x/system")) == "qemu+tls://x/system"


@pytest.mark.parametrize(
    ("uri", "opened"),
    [
        ("qemu+ssh://h1/system", "qemu+ssh://h1/system?no_tty=1"),
        ("qemu+ssh://h1/system?keyfile=/k", "qemu+ssh://h1/system?keyfile=/k&no_tty=1"),
        ("qemu+ssh://h1/system?no_tty=1", "qemu+ssh://h1/system?no_tty=1"),
        ("qemu+tls://h1/system", "qemu+tls://h1/system"),
        ("qemu:///system", "qemu:///system"),
    ],
)
def test_ssh_gets_no_terminal_to_prompt_on(uri: str, opened: str) -> None:
    assert controller_uri(uri) == opened


@pytest.mark.parametrize(
    ("uri", "way"),
    [
        ("qemu:///system", "unix"),
        ("qemu+unix:///system?socket=/x", "unix"),
        ("qemu://h1/system", "tls"),
        ("qemu+ssh://h1/system", "ssh"),
        ("qemu+libssh2://h1/system", "libssh2"),
    ],
)
def test_transports(uri: str, way: str) -> None:
    assert transport(uri) == way


@pytest.mark.parametrize(
    ("address", "uri"),
    [
        (None, None),
        ("h2", "tcp://h2"),
        ("10.0.0.2", "tcp://10.0.0.2"),
        ("fd00::2", "tcp://[fd00::2]"),
    ],
)
def test_where_data_travels_to(address: str | None, uri: str | None) -> None:
    assert migration_uri(HostEntry("h2", "qemu+tls://h2/system", migration_address=address)) == uri


def test_a_call_that_ends_gives_its_result() -> None:
    assert bounded(lambda: "done", 10) == "done"


def test_a_call_that_fails_fails_here() -> None:
    with pytest.raises(ZeroDivisionError):
        bounded(lambda: 1 // 0, 10)


def test_a_call_that_hangs_is_left_to_itself() -> None:
    release = threading.Event()
    task = Task(lambda: release.wait(60))
    with pytest.raises(TimeoutError, match=r"no answer within 0\.01 s"):
        task.wait(0.01)
    assert not task.ended
    release.set()
    assert task.wait(10) is True


def test_outcomes_come_in_order_whatever_becomes_of_them() -> None:
    release = threading.Event()

    def work(number: int) -> int:
        if number == 1:
            raise ValueError("one")
        if number == 2:
            release.wait(60)
        return number * 10

    outcomes = for_each(work, [0, 1, 2, 3], workers=2, timeout=2.0)
    release.set()
    assert (outcomes[0], outcomes[3]) == (0, 30)
    assert isinstance(outcomes[1], ValueError)
    assert isinstance(outcomes[2], TimeoutError)


def test_nothing_to_do_is_done_at_once() -> None:
    assert for_each(lambda item: item, [], workers=4, timeout=0) == []
    assert all_of([], timeout=0) == []


def test_what_hangs_does_not_hold_up_the_end_of_the_program() -> None:
    script = """
import threading
from mudanza.hypervisor.bounded import bounded, for_each
try:
    bounded(threading.Event().wait, 0.1)
except TimeoutError:
    print("left behind")
for_each(lambda _: threading.Event().wait(), [1, 2], workers=2, timeout=0.1)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "left behind\n"


def test_a_deadline_never_goes_below_nothing() -> None:
    assert 9 < Deadline(10).left <= 10
    assert Deadline(0).left == 0
    assert Deadline(-1).left == 0


def test_every_number_of_the_installed_libvirt_has_a_word() -> None:
    names = [name for name in dir(libvirt) if name.startswith("VIR_DOMAIN_JOB_OPERATION_")]
    words = {name: operation_name(getattr(libvirt, name)) for name in names if not name.endswith("_STR")}
    assert words.pop("VIR_DOMAIN_JOB_OPERATION_UNKNOWN") == "unknown"
    assert "unknown" not in words.values()
    for state in (VmState.RUNNING, VmState.PAUSED, VmState.SHUTOFF):
        prefix = f"VIR_DOMAIN_{state.name}_"
        reasons = {name: reason_name(state, getattr(libvirt, name)) for name in dir(libvirt) if name.startswith(prefix)}
        assert reasons.pop(f"{prefix}UNKNOWN") == "unknown"
        assert "unknown" not in reasons.values(), reasons


@pytest.mark.parametrize(
    ("state", "number", "word"),
    [
        (VmState.PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION, "migrating"),
        (VmState.PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED, "post-copy failed"),
        (VmState.PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP, "starting up"),
        (VmState.RUNNING, libvirt.VIR_DOMAIN_RUNNING_MIGRATED, "migrated"),
        (VmState.RUNNING, libvirt.VIR_DOMAIN_RUNNING_POSTCOPY, "post-copy"),
        (VmState.SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED, "migrated"),
        (VmState.SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_DAEMON, "daemon"),
        (VmState.CRASHED, libvirt.VIR_DOMAIN_CRASHED_PANICKED, "panicked"),
        (VmState.RUNNING, 999, "unknown"),
        (VmState.NOSTATE, 0, "unknown"),
    ],
)
def test_reasons(state: VmState, number: int, word: str) -> None:
    assert reason_name(state, number) == word


def test_states() -> None:
    assert state_name(libvirt.VIR_DOMAIN_RUNNING) is VmState.RUNNING
    assert state_name(libvirt.VIR_DOMAIN_SHUTOFF) is VmState.SHUTOFF
    assert state_name(libvirt.VIR_DOMAIN_PMSUSPENDED) is VmState.PMSUSPENDED
    assert state_name(999) is VmState.NOSTATE
    assert state_name(-1) is VmState.NOSTATE


def test_what_qemu_said_is_put_in_one_line() -> None:
    prefix = "2026-11-23T13:15:59.307952Z qemu-system-x86_64: "
    error = libvirt.libvirtError("")
    error.err = (1, 10, f"unexpected end: {prefix}no\n{prefix}bad", 2, None, None, None, -1, -1)
    assert message(error) == "unexpected end: no; bad"


@pytest.mark.parametrize(("number", "name"), [(0, "sda"), (25, "sdz"), (26, "sdaa"), (51, "sdaz"), (52, "sdba")])
def test_disks_of_a_ghost(number: int, name: str) -> None:
    assert disk_name(number) == name


@pytest.mark.parametrize("purpose", ["probe", "rehearsal", "marker"])
def test_what_is_made_now_is_ours_and_not_abandoned(purpose: str) -> None:
    name = throwaway_name(purpose)
    assert is_throwaway(name)
    assert not is_abandoned(name)


@pytest.mark.parametrize(
    "name",
    ["mudanza-probe-mine", "mudanza-probe-00000001-0000abcd", f"my-{throwaway_name('probe')}", throwaway_name("web")],
    ids=["somebody's", "too short", "something before", "for something else"],
)
def test_only_names_of_our_own_making_are_taken_for_ours(name: str) -> None:
    assert not is_throwaway(name)
    assert not is_abandoned(name)


def renamed(*, age: float = 0.0, seat: str = "", pid: int | None = None) -> str:
    *words, _, own_seat, own_pid, unique = throwaway_name("probe").split("-")
    when = f"{int(time.time() - age):08x}"
    return "-".join((*words, when, seat or own_seat, own_pid if pid is None else f"{pid:x}", unique))


def a_dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_dead_process_of_this_machine_made_is_abandoned_at_once() -> None:
    name = renamed(pid=a_dead_process())
    assert is_throwaway(name)
    assert is_abandoned(name)
    assert is_abandoned(renamed(pid=2**80))


def test_what_another_controller_made_is_abandoned_when_it_is_old() -> None:
    dead = a_dead_process()
    assert not is_abandoned(renamed(seat="0" * 8, pid=dead))
    assert not is_abandoned(renamed(seat="0" * 8, pid=dead, age=STALE_AFTER - 10))
    old = renamed(seat="0" * 8, pid=dead, age=STALE_AFTER + 10)
    assert is_abandoned(old)
    assert not is_throwaway(old)


def test_what_a_living_process_made_is_abandoned_when_it_is_old() -> None:
    assert is_abandoned(renamed(age=STALE_AFTER + 10))


class Flood:
    """A console's stream on which more comes than anybody receives."""

    def __init__(self, pieces: int) -> None:
        self.left = [b"%d" % number for number in range(pieces)]

    def eventAddCallback(self, _events: int, _callback: object, _opaque: object) -> None:  # noqa: N802 - libvirt's
        return

    def recv(self, _most: int) -> bytes | int:
        return self.left.pop(0) if self.left else -2


def test_a_guest_that_floods_its_console_costs_no_memory_without_end() -> None:
    console = Console("h1", None, Flood(MOST_WAITING + 10))
    console._on_event(None, libvirt.VIR_STREAM_EVENT_READABLE, None)
    received = [console.receive() for _ in range(MOST_WAITING)]
    assert received[0] == b"10"
    assert received[-1] == b"%d" % (MOST_WAITING + 9)
    assert console._came.empty()
