"""A check that is killed in the middle leaves what it made for itself; the next one takes it away, at once."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mudanza.lab.cell import Cell
from mudanza.lab.guest import virsh
from mudanza.lab.lab import Lab
from tests.lab.checking import another_controller
from tests.lab.command import Mudanza, Running
from tests.lab.conftest import await_true

pytestmark = pytest.mark.lab

SILENT_PORT = 16599
SILENT_SERVER = f"""import socket, time
listening = socket.create_server(("", {SILENT_PORT}))
callers = []
while True:
    callers.append(listening.accept())"""


@contextmanager
def silent_server(cell: Cell) -> Iterator[None]:
    """Let somebody on a host take every call and never say a word."""
    process = cell.popen(["sh", "-c", f"exec python3 -c '{SILENT_SERVER}'"])
    try:
        listening = ["sh", "-c", f"grep -q :{SILENT_PORT:04X} /proc/net/tcp"]
        await_true(lambda: cell.run(listening, check=False).returncode == 0, "the server listens")
        yield
    finally:
        process.kill()
        process.wait()


def traces(lab: Lab) -> list[str]:
    """Return everything of a check's own that is on the hosts."""
    found = []
    for host in ("h1", "h2"):
        cell = lab.cell(host)
        found += virsh(cell, "list --all --name; pool-list --all --name").split()
        found += cell.run(["find", "/var/lib/libvirt", "/srv", "/etc/libvirt", "-type", "f"]).stdout.split("\n")
    return [each for each in found if "mudanza-" in each]


def domains(lab: Lab, host: str) -> str:
    return virsh(lab.cell(host), "list", "--all", "--name")


def test_killed_while_a_login_hangs(lab: Lab, mudanza: Mudanza, sound: str, tmp_path: Path) -> None:
    deaf = {"peer_uri": f"qemu+tcp://h2:{SILENT_PORT}/system"}
    own = another_controller(mudanza, tmp_path, {"deaf": deaf})
    with silent_server(lab.cell("h2")):
        checking = own.start("check", sound, "--to", "deaf")
        await_true(lambda: "mudanza-probe-" in domains(lab, "h1"), "the login is tried")
        checking.send(signal.SIGKILL)
        checking.end(-signal.SIGKILL)
        assert traces(lab)
    mudanza("check", sound, "--to", "h2")
    assert traces(lab) == []


def stopped_in_rehearsal(lab: Lab, mudanza: Mudanza, sound: str) -> Running:
    """Return a check that stands still in the middle of its rehearsal, which lasts some tenths of a second."""
    found: list[Running] = []

    def is_rehearsing() -> bool:
        return "mudanza-rehearsal-" in domains(lab, "h1")

    def stop_one() -> bool:
        checking = mudanza.start("check", sound, "--to", "h2")
        await_true(lambda: checking.has_ended or is_rehearsing(), "the rehearsal has begun")
        if not checking.has_ended:
            checking.send(signal.SIGSTOP)
        if is_rehearsing():
            found.append(checking)
            return True
        checking.send(signal.SIGCONT)
        checking.end()
        return False

    await_true(stop_one, "a check is stopped while it rehearses", limit=120)
    return found[0]


def test_killed_during_a_rehearsal(lab: Lab, mudanza: Mudanza, sound: str) -> None:
    checking = stopped_in_rehearsal(lab, mudanza, sound)
    checking.send(signal.SIGKILL)
    checking.end(-signal.SIGKILL)
    assert traces(lab)
    mudanza("check", sound, "--to", "h2")
    assert traces(lab) == []


MISSED_AFTER = 5.0
"""Seconds after which a marker has come and gone unseen: it lies there for some hundredths of a second."""
WAIT_FOR_MARKER = f"""import os, time
until = time.monotonic() + {MISSED_AFTER}
while time.monotonic() < until:
    if any(name.startswith("mudanza-marker-") for name in os.listdir("/srv/shared")):
        break
print("there", flush=True)"""


def test_killed_with_a_marker_in_place(lab: Lab, mudanza: Mudanza, sound: str) -> None:
    await_true(lambda: kill_at_marker(lab, mudanza, sound), "a check is killed while its marker lies there")
    mudanza("check", sound, "--to", "h2")
    assert traces(lab) == []


def kill_at_marker(lab: Lab, mudanza: Mudanza, sound: str) -> bool:
    """Kill a check when its marker is seen; return whether the kill came before it was taken away again."""
    watch = lab.cell("h1").popen(["python3", "-c", WAIT_FOR_MARKER], stdout=subprocess.PIPE)
    assert watch.stdout is not None
    checking = mudanza.start("check", sound, "--to", "h2")
    watch.stdout.readline()
    checking.send(signal.SIGKILL)
    checking.end(None)
    watch.wait()
    return any("mudanza-marker-" in each for each in traces(lab))


def test_interrupted(lab: Lab, mudanza: Mudanza, sound: str) -> None:
    """Ctrl-C leaves nothing in the first place."""
    checking = stopped_in_rehearsal(lab, mudanza, sound)
    checking.send(signal.SIGINT)
    checking.send(signal.SIGCONT)
    checking.end(130)
    assert traces(lab) == []
