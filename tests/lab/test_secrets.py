"""A display's password travels with its VM, and is written down nowhere on the way."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from lxml import etree

from mudanza.lab.guest import Guest, virsh
from mudanza.lab.lab import Lab
from tests.lab.command import Mudanza, Result
from tests.lab.test_migrate import MakeGuest, make_guest

__all__ = ["make_guest"]

pytestmark = pytest.mark.lab

PASSWORD = "0pensesm"
# The handshake of RFC 6143, as a viewer makes it: DES with the bits of each byte of the password turned round. Three
# times the same key make DES of triple DES, which openssl still has.
VIEWER = r"""
import json, socket, subprocess, sys
asked = json.loads(sys.stdin.readline())
key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in asked["password"].encode().ljust(8, b"\0")[:8]).hex() * 3
with socket.create_connection(("127.0.0.1", asked["port"]), 10) as line:
    take = line.makefile("rb").read
    line.sendall(take(12))
    assert b"\2" in take(take(1)[0]), "it wants no password"
    line.sendall(b"\2")
    words = ["openssl", "enc", "-des-ede3-ecb", "-nopad", "-K", key]
    line.sendall(subprocess.run(words, input=take(16), capture_output=True, check=True).stdout)
    print(int.from_bytes(take(4), "big") == 0)
"""


def lets_in(lab: Lab, host: str, name: str, password: str) -> bool:
    """Whether the guest's display at a host takes that password."""
    xml = virsh(lab.cell(host), "dumpxml", name)
    port = int(str(etree.fromstring(xml).xpath("string(devices/graphics/@port)")))
    asked = json.dumps({"port": port, "password": password}) + "\n"
    return lab.cell(host).run(["/usr/bin/python3", "-c", VIEWER], stdin=asked).stdout.strip() == "True"


def with_password(lab: Lab, guest: Guest) -> None:
    """Give a guest's display a password, and start it with that."""
    cell = lab.cell("h1")
    root = etree.fromstring(virsh(cell, "dumpxml", "--inactive", guest.name))
    display = root.find("devices/graphics")
    assert display is not None
    display.set("passwd", PASSWORD)
    virsh(cell, "define", "/dev/stdin", stdin=etree.tostring(root, encoding="unicode"))
    virsh(cell, "destroy", guest.name)
    virsh(cell, "start", guest.name)
    guest.await_answer()


class Watch:
    """Looks at the arguments of every process, as long as it is open."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            for place in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    words = place.read_bytes()
                except OSError:
                    continue
                if PASSWORD.encode() in words:
                    self.seen.add(words)


def assert_kept_nowhere(mudanza: Mudanza, lab: Lab, said: Result, watch: Watch) -> None:
    assert PASSWORD not in said.out + said.err
    job = mudanza("jobs", "-o", "json").data[0]
    assert "passwd='*****'" in str(job["steps"]) or 'passwd="*****"' in str(job["steps"]), "the definition is kept"
    for file in Path(mudanza.config).parent.rglob("mudanza.db*"):
        assert PASSWORD.encode() not in file.read_bytes(), file
    assert list(Path(mudanza.config).parent.rglob("mudanza.db")), "there is a journal to look at"
    assert not watch.seen


def test_a_password_travels_live_and_cold_and_is_written_down_nowhere(
    lab: Lab, mudanza: Mudanza, make_guest: MakeGuest
) -> None:
    guest = make_guest("shown", vnc=True)
    with_password(lab, guest)
    assert (lets_in(lab, "h1", "shown", PASSWORD), lets_in(lab, "h1", "shown", "*****")) == (True, False)
    with Watch() as watch:
        live = mudanza("migrate", "shown", "--to", "h2", "-o", "json")
    assert_kept_nowhere(mudanza, lab, live, watch)
    assert (lets_in(lab, "h2", "shown", PASSWORD), lets_in(lab, "h2", "shown", "*****")) == (True, False)
    with Watch() as watch:
        cold = mudanza("migrate", "shown", "--to", "h1", "--mode", "cold", "-o", "json")
    assert_kept_nowhere(mudanza, lab, cold, watch)
    assert guest.states() == {"h1": "running"}
    assert (lets_in(lab, "h1", "shown", PASSWORD), lets_in(lab, "h1", "shown", "*****")) == (True, False)
