"""A guest is given addresses that last, and its own ones again: by its agent, upon files of the test's own."""

from __future__ import annotations

import base64
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import libvirt
import pytest

from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.domains import Domains
from mudanza.journal.database import open_database
from mudanza.journal.protections import Protections
from mudanza.model.errors import HypervisorError, MigrationFailedError
from mudanza.model.migration import Side, Sighting
from mudanza.model.protection import Readdressed, Standing
from mudanza.model.recovery import Machine
from mudanza.model.vm import VmState
from mudanza.protection.addressing import Back, readdress, take_back
from mudanza.protection.choosing import given_elsewhere, home_with_others
from mudanza.protection.in_guest import UNDO
from mudanza.protection.lasting import Card
from mudanza.protection.own_addresses import OwnAddresses
from mudanza.protection.windows_addresses import PROGRAM
from tests.test_protection import VALUES
from tests.test_recovery_plans import protected

MAC = "52:54:00:00:00:01"
CARD = Card(MAC, "10.9.0.5/24", "10.9.0.1", ("10.9.0.53",))
MACHINE = Machine(limit=30.0)
HOME = "10.1.0.5/24"
OURS = re.compile(r"/(sys/class|run/systemd|etc|var/lib)/")
IP = """
case "$*" in
  "-o addr show dev ens3 scope global")
    while read -r each; do echo "2: ens3    inet $each brd 10.255.255.255 scope global ens3"; done <"$ROOT/has" ;;
  "addr flush dev ens3 scope global") : >"$ROOT/has" ;;
  "addr add "*" dev ens3") echo "$3" >>"$ROOT/has" ;;
esac
"""
NMCLI = """
case "$*" in
  "-t -f RUNNING general") [ ! -e "$ROOT/manager" ] || echo running; exit 0 ;;
  "-g GENERAL.STATE device show ens3") cat "$ROOT/manager"; exit 0 ;;
  "-w 30 connection up uuid "*) sed -n 's/^address1=\\([^,]*\\).*/\\1/p' "$ROOT"/etc/NetworkManager/*/* >"$ROOT/has" ;;
  "-w 30 device connect ens3") echo HOME >"$ROOT/has" ;;
esac
""".replace("HOME", HOME)
NETWORKCTL = """
[ "$1" != reconfigure ] || sed -n 's/^Address=//p' "$ROOT"/etc/systemd/network/05-* 2>/dev/null >"$ROOT/has"
[ -s "$ROOT/has" ] || echo HOME >"$ROOT/has"
""".replace("HOME", HOME)
IFUP = """
cat "$ROOT/etc/network/interfaces" "$ROOT"/etc/network/interfaces.d/* 2>/dev/null |
  sed -n 's|^ *address \\([^/]*\\).*|\\1/24|p' >"$ROOT/has"
"""
PROGRAMS = {"ip": IP, "nmcli": NMCLI, "networkctl": NETWORKCTL, "ifup": IFUP, "ifdown": ': >"$ROOT/has"\n'}
INTERFACES = f"auto ens3\niface ens3 inet static\n    address {HOME}\n"


class Guest:
    """A guest whose files are below a directory, and whose agent runs things upon them."""

    host = "h2"

    def __init__(self, root: Path) -> None:
        self.root, self.ran = root, dict[int, Any]()
        (root / "etc").mkdir()
        self.system, self.silent, self.programs = "debian", False, list[list[str]]()
        self.state, self.asked = VmState.RUNNING, 0
        self.no_line = False
        card = root / "sys/class/net/ens3"
        (card / "device").mkdir(parents=True)
        (card / "address").write_text(f"{MAC}\n")
        (card / "ifindex").write_text("2\n")
        (root / "has").write_text(f"{HOME}\n")
        (root / "bin").mkdir()
        for name, text in PROGRAMS.items():
            program = root / "bin" / name
            program.write_text(f'#!/bin/sh\nROOT={root}\necho "{name} $*" >>"$ROOT/told"\n{text}')
            program.chmod(0o755)

    def put(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def files(self) -> dict[str, str]:
        places = [self.root / "etc", self.root / "var"]
        found = [path for place in places for path in place.rglob("*") if path.is_file()]
        return {f"/{path.relative_to(self.root)}": path.read_text() for path in found}

    @property
    def has(self) -> list[str]:
        return (self.root / "has").read_text().split()

    @property
    def told(self) -> list[str]:
        """What was said to who looks after the card, but for what only looks."""
        lines = (self.root / "told").read_text().splitlines()
        return [line for line in lines if not line.startswith(("ip -o", "nmcli -t", "nmcli -g"))]

    # As of Domains.

    def sighting(self, _uuid: str) -> Sighting:
        return Sighting(Side.PRESENT, self.state)

    def ask_agent(self, _uuid: str, command: Mapping[str, Any], *, timeout: int) -> Any:
        assert timeout
        self.asked += 1
        if self.no_line:
            raise HypervisorError("h2", "QEMU guest agent is not configured", code=libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED)
        arguments = command.get("arguments", {})
        match command["execute"]:
            case _ if self.silent:
                raise HypervisorError("h2", "Guest agent is not responding")
            case "guest-ping":
                return {}
            case "guest-get-osinfo":
                return {"id": self.system} if self.system else None
            case "guest-exec":
                self.ran[len(self.ran)] = self._run(arguments)
                return {"pid": len(self.ran) - 1}
        return self.ran[arguments["pid"]]

    def _run(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        self.programs.append([arguments["path"], *arguments["arg"]])
        if arguments["path"] == PROGRAM:
            return {"exited": True, "exitcode": 0}
        words = [OURS.sub(rf"{self.root}/\1/", word) for word in arguments["arg"]]
        done = subprocess.run(
            [arguments["path"], *words],
            input=base64.b64decode(arguments.get("input-data", "")),
            capture_output=True,
            check=False,
            env={**os.environ, "PATH": f"{self.root}/bin:/usr/bin:/bin"},
        )
        out = done.stdout.replace(str(self.root).encode(), b"")
        told = {"out-data": base64.b64encode(out).decode(), "err-data": base64.b64encode(done.stderr).decode()}
        return {"exited": True, "exitcode": done.returncode, **told}


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


def give(guest: Guest, card: Card = CARD) -> str:
    [given] = readdress(cast(Domains, guest), "u", MACHINE, (card,))
    return str(given)


def back(guest: Guest) -> Back:
    return take_back(cast(Domains, guest), "u", [MAC], 30.0)


def by_hand(guest: Guest) -> None:
    """Run what a person runs in the guest."""
    kept = (guest.root / UNDO.lstrip("/")).read_text()
    subprocess.run(["sh", "-c", OURS.sub(rf"{guest.root}/\1/", kept)], check=True)


WAYS = [
    ("NetworkManager", "manager", "100 (connected)\n", "/etc/NetworkManager/system-connections/mudanza-525400000001"),
    ("systemd-networkd", "run/systemd/netif/links/2", "ADMIN_STATE=configured\n", "/etc/systemd/network/05-mudanza-"),
    ("ifupdown", "etc/network/interfaces", INTERFACES, "/etc/network/interfaces.d/mudanza-ens3"),
]


@pytest.mark.parametrize(("way", "sign", "text", "file"), WAYS, ids=[way for way, *_ in WAYS])
def test_it_is_written_where_it_is_read_at_boot_and_taken_back(
    guest: Guest, way: str, sign: str, text: str, file: str
) -> None:
    guest.put(sign, text)
    before = guest.files()
    for _ in range(2):
        assert give(guest) == f"10.9.0.5/24 (by {way})"
        assert guest.has == ["10.9.0.5/24"]
    [made] = [path for path in guest.files() if path.startswith(file)]
    assert "10.9.0.5" in guest.files()[made]
    assert not [line for line in guest.told if line.startswith("ip ")], "who looks after the card has done it"
    for came in (Back.DONE, Back.NOTHING):
        assert back(guest) is came
        assert guest.files() == before
        assert guest.has == [HOME]


@pytest.mark.parametrize(("way", "sign", "text", "file"), WAYS, ids=[way for way, *_ in WAYS])
def test_a_person_can_have_its_files_as_they_were_before(
    guest: Guest, way: str, sign: str, text: str, file: str
) -> None:
    """By the script that the guest keeps for it, where no agent does so: the guest reads them when it boots."""
    guest.put(sign, text)
    before = guest.files()
    assert give(guest) == f"10.9.0.5/24 (by {way})"
    by_hand(guest)
    assert guest.files() == before
    assert back(guest) is Back.NOTHING


def test_where_nobody_is_known_it_holds_until_the_guest_reboots(guest: Guest) -> None:
    guest.put("etc/resolv.conf", "nameserver 10.1.0.53\n")
    assert give(guest) == "10.9.0.5/24 (until it reboots)"
    assert guest.has == ["10.9.0.5/24"]
    assert guest.told[-1] == "ip route replace default via 10.9.0.1 dev ens3"
    assert guest.files() == {"/etc/resolv.conf": "nameserver 10.9.0.53\n"}
    assert back(guest) is Back.NOTHING


@pytest.mark.parametrize("sign", ["master", "manager"])
def test_a_card_that_is_not_looked_after_by_itself_gets_nothing_written(guest: Guest, sign: str) -> None:
    guest.put("manager", "10 (unmanaged)\n" if sign == "manager" else "100 (connected)\n")
    if sign == "master":
        (guest.root / "sys/class/net/ens3/master").mkdir()
    assert give(guest) == "10.9.0.5/24 (until it reboots)"
    assert not list((guest.root / "var").rglob("*"))


def test_its_own_program_is_run_in_place_of_all_of_it(guest: Guest) -> None:
    guest.put("manager", "100 (connected)\n")
    guest.put("etc/mudanza/readdress", f'#!/bin/sh\necho "$*" >{guest.root}/words\n')
    (guest.root / "etc/mudanza/readdress").chmod(0o755)
    assert give(guest) == "10.9.0.5/24 (by /etc/mudanza/readdress)"
    assert (guest.root / "words").read_text() == f"ens3 {MAC} 10.9.0.5/24 10.9.0.1 10.9.0.53\n"
    assert guest.has == [HOME]
    assert back(guest) is Back.BY_OWN, "it has to take that back itself"
    assert not list((guest.root / "var").rglob("*addresses*"))


def test_who_does_nothing_is_gone_past(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mudanza.protection.addressing._NOT_HIS", 0)
    guest.put("etc/network/interfaces", INTERFACES)
    (guest.root / "bin/ifup").write_text("#!/bin/sh\nexit 1\n")
    assert give(guest) == "10.9.0.5/24 (by ifupdown)"
    assert guest.has == ["10.9.0.5/24"]


def test_windows_is_told_by_its_powershell(guest: Guest) -> None:
    guest.system = "mswindows"
    assert give(guest) == "10.9.0.5/24 (by Windows)"
    assert back(guest) is Back.DONE
    assert [words[0] for words in guest.programs] == [PROGRAM] * 2


def test_a_card_that_is_not_there_is_said(guest: Guest) -> None:
    with pytest.raises(MigrationFailedError, match="no card has the address 52:54:00:00:00:02"):
        give(guest, replace(CARD, mac="52:54:00:00:00:02"))


# Whose addresses they are.


class Hosts:
    """Connections to one host, with one guest."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    def domains(self, _name: str) -> Guest:
        return self.guest


GIVEN = Readdressed("h2", (MAC,), 30.0)


class Home:
    """A VM that has come up at h1, whose guest was given addresses at h2."""

    def __init__(
        self, guest: Guest, store: Protections, *, seed: Mapping[str, str], given: Readdressed = GIVEN
    ) -> None:
        self.guest, self.store, self.said = guest, store, list[str]()
        guest.put("etc/network/interfaces", INTERFACES)
        give(guest)
        self.made = protected(store, "db")
        store.readdressed(self.made.id, given)
        store.turn(self.made.id, "h1", "/replica", seed)
        store.change(self.made.id, standing=Standing.FAILED_OVER)

    def see_to(self, **how: bool) -> list[str]:
        """Have it be seen to; return what was said."""
        said = list[str]()
        OwnAddresses(cast(Connections, Hosts(self.guest)), self.store, said.append).see_to("db", **how)
        return said

    @property
    def given(self) -> Readdressed | None:
        return self.store.of("db").readdressed


@pytest.fixture
def store(tmp_path: Path) -> Protections:
    return Protections(open_database(str(tmp_path / "mudanza.db")))


SEED = {"vda": "/images/db.qcow2"}
BEGUN = "db: it gets its own addresses on h1 as soon as its guest's agent answers"


def test_a_guest_gets_its_own_addresses_again_at_home_only(guest: Guest, store: Protections) -> None:
    the = Home(guest, store, seed=SEED)
    store.turn(the.made.id, "h2", "/replica", {})
    assert the.see_to() == [], "it is protected the other way, and nobody knows it to be at home"
    store.change(the.made.id, standing=Standing.FAILED_OVER)
    assert the.see_to(home=True) == [], "it is where they are for"
    assert guest.has == ["10.9.0.5/24"]
    store.turn(the.made.id, "h1", "/replica", SEED)
    assert given_elsewhere(store.all_of("db")) is None, "it is there still, and protected the other way"
    store.change(the.made.id, standing=Standing.FAILED_OVER)
    assert the.see_to() == [BEGUN, "db has its own addresses again"], "it has been there before"
    assert (guest.has, the.given) == ([HOME], None)
    assert the.see_to() == []


def test_elsewhere_it_keeps_them_unless_somebody_says_that_it_is_home(guest: Guest, store: Protections) -> None:
    the = Home(guest, store, seed={})
    [said] = the.see_to()
    assert said.startswith("! db keeps the addresses that it was given at h2: nobody has said that h1 is its home")
    assert UNDO in said
    assert (guest.has, the.given) == (["10.9.0.5/24"], GIVEN)
    assert the.see_to(home=True)[-1] == "db has its own addresses again"
    assert (guest.has, the.given) == ([HOME], None)


def test_a_guest_whose_agent_does_not_answer_is_told_of_and_seen_to_later(guest: Guest, store: Protections) -> None:
    the = Home(guest, store, seed={}, given=replace(GIVEN, limit=0.0))
    guest.silent = True
    begun, said = the.see_to(home=True)
    assert begun == BEGUN
    assert said.startswith("! db has the addresses still that it was given at h2: its guest has the addresses of")
    assert f"By hand, in its guest, as root: sh {UNDO}, and then reboot it" in said
    assert home_with_others(store.all_of("db")) == "h1", "by that word it is at home from now on"
    store.turn(the.made.id, "h2", "/replica", SEED)
    assert home_with_others(store.all_of("db")) == "h1", "and protected the other way by now"
    guest.silent = False
    assert the.see_to() == [BEGUN, "db has its own addresses again"]
    assert the.given is None


def test_a_guest_without_a_line_to_an_agent_is_not_waited_for(guest: Guest, store: Protections) -> None:
    the = Home(guest, store, seed=SEED, given=replace(GIVEN, limit=3600.0))
    guest.asked, guest.no_line = 0, True
    assert "QEMU guest agent is not configured" in the.see_to()[-1]
    assert guest.asked == 1
    guest.state = VmState.SHUTOFF
    assert "it does not run there" in the.see_to()[-1]
    assert guest.asked == 1


def test_what_was_not_written_is_gone_since_it_booted_or_when_it_does(guest: Guest, store: Protections) -> None:
    the = Home(guest, store, seed=SEED)
    by_hand(guest)
    assert the.see_to(at_once=True) == [
        "! db: nobody looks after its cards, and its addresses for h2 hold until it reboots"
    ]
    store.readdressed(the.made.id, GIVEN)
    assert the.see_to()[-1] == "db has its own addresses since it was started on h1: none for h2 were written"


def test_a_protection_that_is_given_up_hands_on_what_is_known_of_addresses(guest: Guest, store: Protections) -> None:
    the = Home(guest, store, seed=SEED)
    other = store.make({**VALUES, "vm_uuid": the.made.vm_uuid, "vm_name": "db", "target": "h3"})
    store.remove(the.made.id)
    assert store.get(other.id).readdressed == GIVEN
