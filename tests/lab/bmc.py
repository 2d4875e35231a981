"""BMCs of a lab's hosts, on its switch: OpenIPMI's simulator, which speaks IPMI 1.5 and 2.0 as those of real boards do.
What it switches, it does by the lab's fence agent, whose moods are its own so."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from mudanza.lab import fence_agent, layout, network
from mudanza.lab.cell import Cell
from mudanza.lab.lab import Lab
from mudanza.lab.process import ProcessId
from tests.lab.conftest import await_true

USER, PASSWORD = "admin", "not-for-all"
FIRST_PORT = 6231
PROGRAMS = {"fence_ipmilan": "fence-agents", "ipmitool": "ipmitool", "ipmi_sim": "openipmi"}
"""What it takes, and the Debian packages that have it; ``scripts/setup --soak`` installs them."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_LEVELS = ("callback", "user", "operator", "admin")
_AUTHS = "\n".join(f"    allowed_auths_{level} none md2 md5 straight" for level in _LEVELS)
_LAN = """\
name "{host}"
set_working_mc 0x20
  startlan 1
    addr {address} {port}
    priv_limit admin
{auths}
    guid {guid}
  endlan
  chassis_control "{chassis}"
  user 2 true "{user}" "{password}" admin 10 none md2 md5 straight
"""
_BOARD = """\
mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02
mc_set_guid 0x20 {guid}
mc_enable 0x20
"""
# A BMC answers at once, and the power is off a moment later.
_CHASSIS = """\
#!/bin/sh
tell() {{ printf 'action=%s\\nlab={lab}\\nplug={host}\\n' "$1" | {agent}; }}
case "$*" in
  "get power")
    tell status >/dev/null 2>&1
    case $? in 0) echo power:1 ;; 2) echo power:0 ;; *) exit 1 ;; esac ;;
  "set power 0") tell off </dev/null >/dev/null 2>&1 & ;;
  "set power 1") tell on </dev/null >/dev/null 2>&1 & ;;
  *) echo "it cannot do $*"; exit 1 ;;
esac
"""


@dataclass(frozen=True)
class Bmc:
    """The BMC of one host."""

    host: str
    address: str
    port: int
    process: ProcessId

    def words(self, secret: str, *more: str) -> tuple[str, ...]:
        """Return what ``mudanza fence set HOST DEVICE`` is told of it. ``more``: further options."""
        told = (f"ip={self.address}", f"ipport={self.port}", f"username={USER}", *more)
        options = [word for each in told for word in ("--option", each)]
        return ("--agent", "fence_ipmilan", *options, "--secret", f"password={secret}")

    def hang(self) -> None:
        """Have it stand still: it takes what comes, and answers nothing."""
        self.process.stop()


@contextmanager
def bmcs(lab: Lab, guids: dict[str, str], place: Path) -> Iterator[dict[str, Bmc]]:
    """Have BMCs for these hosts, each with the GUID that it sends, in hexadecimal, as it sends it."""
    if missing := [package for name, package in PROGRAMS.items() if shutil.which(name, path=_PATH) is None]:
        pytest.fail(f"there is no {', '.join(missing)}: scripts/setup --soak installs it")
    switch = lab.cell(layout.SWITCH)
    seat = Cell.create(layout.MANAGEMENT, within=switch)
    made: list[subprocess.Popen[bytes]] = []
    found: dict[str, Bmc] = {}
    try:
        network.plug(switch, seat)
        network.configure_seat(seat)
        address = layout.address(layout.MANAGEMENT)
        for port, (host, guid) in enumerate(guids.items(), start=FIRST_PORT):
            files = _files(lab, host, address, port, guid, place / host)
            # In the lab's network alone: what it runs switches hosts from outside.
            enter = ["nsenter", "--target", str(seat.pid), "--net", "--", "setpriv", "--pdeathsig", "KILL", "--"]
            said = (place / f"{host}.said").open("wb")
            made.append(subprocess.Popen([*enter, "ipmi_sim", *files, "-n"], stdout=said, stderr=said))
            found[host] = Bmc(host, address, port, ProcessId.of(made[-1].pid))
        for each in found.values():
            await_true(partial(_answers, lab, each), f"the BMC of {each.host} answers")
        yield found
    finally:
        for process in made:
            process.kill()
            process.wait()
        seat.kill()


def _files(lab: Lab, host: str, address: str, port: int, guid: str, place: Path) -> list[str]:
    """Write what a simulator reads; return its arguments."""
    place.mkdir()
    chassis, lan, board = place / "chassis", place / "lan.conf", place / "board.emu"
    agent = fence_agent.install(lab) / fence_agent.NAME
    chassis.write_text(_CHASSIS.format(lab=lab.name, host=host, agent=agent))
    chassis.chmod(0o755)
    values = {"host": host, "address": address, "port": port, "auths": _AUTHS, "guid": guid, "chassis": chassis}
    lan.write_text(_LAN.format(user=USER, password=PASSWORD, **values))
    board.write_text(_BOARD.format(guid=guid))
    return ["-c", str(lan), "-f", str(board), "-s", str(place)]


def _answers(lab: Lab, bmc: Bmc) -> bool:
    where = ["-H", bmc.address, "-p", str(bmc.port), "-U", USER, "-E"]
    asked = ["ipmitool", "-I", "lanplus", *where, "-N", "1", "-R", "1", "mc", "info"]
    done = lab.cell(layout.CONTROLLER).run(asked, check=False, env={"IPMI_PASSWORD": PASSWORD})
    return done.returncode == 0


def as_smbios(uuid: str) -> str:
    """Return a UUID in the order of bytes that SMBIOS keeps it in."""
    raw = bytes.fromhex(uuid.replace("-", ""))
    return (raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:]).hex()


def as_ipmi(uuid: str) -> str:
    """Return a UUID in the order of bytes that the IPMI specification has it sent in: the last one first."""
    return bytes.fromhex(uuid.replace("-", ""))[::-1].hex()


def as_written(uuid: str) -> str:
    """Return a UUID in the order in which people write it."""
    return uuid.replace("-", "")
