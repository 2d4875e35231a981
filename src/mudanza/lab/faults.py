"""Things that go wrong with real hosts, to order."""

from __future__ import annotations

import inspect
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mudanza.lab import host as hosts
from mudanza.lab import layout, network, pki
from mudanza.lab.fence_agent import fence_mood
from mudanza.lab.lab import Lab
from mudanza.lab.process import LabError, ProcessId
from mudanza.model.errors import UsageError
from mudanza.model.units import MIB, parse_rate, parse_size

FILL_NAME = ".fill"
"""The file that takes up a pool's space."""
_FAST_FILL_MARGIN = 16 * MIB
_FILL_TOLERANCE = MIB

MIGRATION_PORTS = (49152, 49215)
"""The first and the last port that libvirt lets QEMU take migrations in at (its qemu.conf)."""
_TAKEN = "/run/ports-taken"
"""On a host: the number of the process that holds these ports."""
_TAKE_PORTS = """
import os, socket, sys
first, last, note = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
held = []
for family, anywhere in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):
    for port in range(first, last + 1):
        try:
            each = socket.socket(family)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            each.bind((anywhere, port))
            each.listen()
            held.append(each)
        except OSError:
            pass  # somebody else has it, or there is no IPv6: taken in any case
if (child := os.fork()) == 0:
    os.setsid()
    for number in range(3):
        os.dup2(os.open(os.devnull, os.O_RDWR), number)
    while True:
        __import__("signal").pause()
with open(note, "w") as file:
    file.write(str(child))
"""


def kill_host(lab: Lab, host: str) -> None:
    """Kill a host with everything on it."""
    lab.stop_host(host)


def boot_host(lab: Lab, host: str) -> None:
    """Start a dead host again, with its disks and its libvirt configuration as they were."""
    lab.boot_host(host)


def cut(lab: Lab, host: str) -> None:
    """Pull a host's (or a seat's) wire out of the switch."""
    network.set_link(lab.cell(layout.SWITCH), lab.cell(host).name, up=False)


def heal(lab: Lab, host: str) -> None:
    """Plug the wire in again."""
    network.set_link(lab.cell(layout.SWITCH), lab.cell(host).name, up=True)


def part(lab: Lab, host: str, other: str) -> None:
    """Let nothing through between two hosts; the seats see them both."""
    for name in (host, other):
        network.set_isolated(lab.cell(layout.SWITCH), lab.cell(name).name, isolated=True)


def join(lab: Lab, host: str, other: str) -> None:
    """Let them reach each other again."""
    for name in (host, other):
        network.set_isolated(lab.cell(layout.SWITCH), lab.cell(name).name, isolated=False)


def lose_uplink(lab: Lab, host: str) -> None:
    """Take the carrier off a host's second bridge: guests on network lan2 are cut off, the host itself is not."""
    network.set_patch(lab.cell(host), up=False)


def regain_uplink(lab: Lab, host: str) -> None:
    """Give it back."""
    network.set_patch(lab.cell(host), up=True)


def slow(lab: Lab, host: str, rate: int | None) -> None:
    """Cap the wire of a host or seat, both ways, in bytes per second; none lifts the cap."""
    lab.set_uplink(host, rate)


def slow_each(lab: Lab, host: str, rate: int | None) -> None:
    """Cap each TCP connection that leaves a host by itself, in bytes per second; none lifts the cap."""
    network.set_flow_rate(lab.cell(host), rate)


def kill_daemon(lab: Lab, host: str) -> None:
    """Kill a host's libvirtd; its guests run on."""
    _daemon(lab, host).kill()


def stop_daemon(lab: Lab, host: str) -> None:
    """Let a host's libvirtd stand still: it accepts connections and never answers."""
    _daemon(lab, host).stop()


def cont_daemon(lab: Lab, host: str) -> None:
    """Let it go on."""
    _daemon(lab, host).signal(signal.SIGCONT)


def start_daemon(lab: Lab, host: str) -> None:
    """Start a host's libvirtd after its death.

    Raises UsageError if there is one.
    """
    if hosts.daemon_process(lab.cell(host)) is not None:
        raise UsageError(f"{hosts.DAEMON} is there on {host}", remedy="cont-daemon lets a stopped one go on")
    hosts.start_daemon(lab.cell(host))


def kill_qemu(lab: Lab, host: str, vm: str) -> None:
    """Kill a guest's QEMU, by the guest's name or UUID."""
    _qemu(lab, host, vm).kill()


def stop_qemu(lab: Lab, host: str, vm: str) -> None:
    """Let a guest's QEMU stand still, without libvirt knowing."""
    _qemu(lab, host, vm).stop()


def cont_qemu(lab: Lab, host: str, vm: str) -> None:
    """Let it go on."""
    _qemu(lab, host, vm).signal(signal.SIGCONT)


def fill(lab: Lab, host: str, pool: str = "default", leave: int = 0) -> None:
    """Fill a pool's filesystem until LEAVE bytes are free; again with another figure changes it.

    Raises UsageError for a pool that has no filesystem of its own.
    """
    unfill(lab, host, pool)
    directory, cell = hosts.DISKS[pool], lab.cell(host)
    wanted = _free(lab, host, pool) - leave
    if wanted > _FAST_FILL_MARGIN:
        size = str(wanted - _FAST_FILL_MARGIN)
        cell.run(["fallocate", "--length", size, f"{directory}/{FILL_NAME}"])
    # The filesystem's own bookkeeping takes an unknown part of the rest, so this may well end in "no space".
    rest = max(0, _free(lab, host, pool) - leave)
    append = 'head --bytes="$1" /dev/zero >>"$2"; sync --file-system "$2"'
    cell.run(["sh", "-c", append, "sh", str(rest), f"{directory}/{FILL_NAME}"], check=False)
    if (free := _free(lab, host, pool)) > leave + _FILL_TOLERANCE:
        raise LabError(f"pool {pool} of {host} did not fill: {free} bytes are free, {leave} were wanted")


def unfill(lab: Lab, host: str, pool: str = "default") -> None:
    """Give the space back."""
    if pool not in hosts.DISKS:
        raise UsageError(
            f"pool {pool!r} has no filesystem of its own to fill", remedy=f"use {' or '.join(hosts.DISKS)}"
        )
    lab.cell(host).run(["rm", "--force", "--", f"{hosts.DISKS[pool]}/{FILL_NAME}"])


def take_ports(lab: Lab, host: str) -> None:
    """Take every port on which a host's QEMU could let a migration in."""
    program = ["python3", "-c", _TAKE_PORTS, *(str(port) for port in MIGRATION_PORTS), _TAKEN]
    lab.cell(host).run(program)


def free_ports(lab: Lab, host: str) -> None:
    """Give them back."""
    lab.cell(host).run(["sh", "-c", '[ ! -e "$1" ] || { kill "$(cat "$1")"; rm "$1"; }', "sh", _TAKEN])


def strange_certificates(lab: Lab, host: str) -> None:
    """Let a host's QEMU have certificates, for migrations, of an authority that the others do not know."""
    pki_directory, right = _certificates(lab, host)
    if right.exists():
        return
    with tempfile.TemporaryDirectory(dir=lab.directory) as scratch:
        authority = pki.Authority(lab.cell(layout.SWITCH), Path(scratch, "authority"))
        authority.create()
        pki.install(authority, Path(scratch), host, layout.address(host))
        pki_directory.rename(right)
        shutil.copytree(Path(scratch, "pki/qemu"), pki_directory)
    for key in right.iterdir():
        owner = key.stat()
        os.chown(pki_directory / key.name, owner.st_uid, owner.st_gid)


def right_certificates(lab: Lab, host: str) -> None:
    """Give it the right ones again."""
    strange, right = _certificates(lab, host)
    if right.exists():
        shutil.rmtree(strange)
        right.rename(strange)


def _certificates(lab: Lab, host: str) -> tuple[Path, Path]:
    """Return where a host has QEMU's certificates, and where it has the right ones while it has others."""
    if not lab.tls:
        raise UsageError(f"the lab {lab.name} has no certificates", remedy="build one with them: mudanza lab up")
    directory = hosts.HostFiles(lab.directory, lab.cell(host).name).root / "etc/pki"
    return directory / "qemu", directory / "qemu.right"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that can be ordered by name, with its arguments as words."""

    name: str
    function: Callable[..., None]

    @property
    def usage(self) -> str:
        """Its arguments: ``HOST [POOL] [LEAVE]``."""
        parameters = self._parameters()
        return " ".join(p.name.upper() if p.default is p.empty else f"[{p.name.upper()}]" for p in parameters)

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        return (self.function.__doc__ or "").partition("\n")[0]

    def apply(self, lab: Lab, arguments: Sequence[str]) -> None:
        """Cause it (``h1 10mbit`` for slow; ``h2 fast 1MiB`` for fill). Raises UsageError for what does not fit."""
        parameters = self._parameters()
        least = sum(parameter.default is parameter.empty for parameter in parameters)
        if not least <= len(arguments) <= len(parameters):
            raise UsageError(
                f"{self.name} does not take {len(arguments)} arguments", remedy=f"use: {self.name} {self.usage}"
            )
        words = zip(parameters, arguments, strict=False)
        self.function(lab, *(_READERS.get(parameter.name, str)(word) for parameter, word in words))

    def _parameters(self) -> list[inspect.Parameter]:
        return list(inspect.signature(self.function).parameters.values())[1:]


def _read_rate(word: str) -> int | None:
    return None if word == "none" else parse_rate(word)


_READERS: Mapping[str, Callable[[str], object]] = {"rate": _read_rate, "leave": parse_size}

ALL: Mapping[str, Fault] = {
    (name := function.__name__.replace("_", "-")): Fault(name, function)
    for function in (
        kill_host, boot_host, cut, heal, part, join, lose_uplink, regain_uplink, slow, slow_each,
        kill_daemon, stop_daemon, cont_daemon, start_daemon, kill_qemu, stop_qemu, cont_qemu, fill, unfill,
        take_ports, free_ports, strange_certificates, right_certificates, fence_mood,
    )
}  # fmt: skip
"""Every fault by name."""


def _daemon(lab: Lab, host: str) -> ProcessId:
    process = hosts.daemon_process(lab.cell(host))
    if process is None:
        raise UsageError(f"{hosts.DAEMON} is dead on {host}", remedy="start-daemon starts it")
    return process


def _qemu(lab: Lab, host: str, vm: str) -> ProcessId:
    """Find a guest's QEMU by what libvirt put on its command line (where commas are doubled)."""
    name = f"guest={vm.replace(',', ',,')},"
    for process in lab.cell(host).processes():
        options = dict(zip(process.argv, process.argv[1:], strict=False))
        if options.get("-uuid") == vm or options.get("-name", "").startswith(name):
            return process.id
    raise UsageError(f"no QEMU runs a VM {vm!r} on {host}", remedy="see what runs there: mudanza vms")


def _free(lab: Lab, host: str, pool: str) -> int:
    said = lab.cell(host).run(["df", "--block-size=1", "--output=avail", "--", hosts.DISKS[pool]])
    return int(said.stdout.split()[-1])
