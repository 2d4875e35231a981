"""Checking a move by the command: what it finds is exactly what is expected, and no host is touched."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from mudanza.hypervisor.own.throwaway import is_abandoned
from mudanza.lab.cell import Cell
from mudanza.lab.guest import virsh
from mudanza.lab.lab import Lab
from tests.lab.command import Mudanza
from tests.lab.domains import card, defined, disks, domain_xml, image
from tests.lab.troubles import POOLS

IMAGES = "/var/lib/libvirt/images"
FAST = "/var/lib/libvirt/fast"
SHARED = "/srv/shared"
CLAIM = "https://mudanza.dev/xmlns/claim/1/"
"""How the XML namespace of every claim begins."""
AT_ONCE = 5
"""Checks that run side by side: they wait for QEMU more than they compute."""

Row = tuple[str, str, str, str]
"""A finding's code, level and subject, and words of its message."""
B, W = "blocker", "warning"
Settings = Mapping[str, str | bool | None]
PROVOKED: set[str] = set()
"""The codes of all rows that tests expect."""


def expect(*rows: Row) -> tuple[Row, ...]:
    PROVOKED.update(code for code, *_ in rows)
    return rows


@dataclass(frozen=True)
class Case:
    """A move to be checked, and all there is to be found."""

    vm: str
    rows: tuple[Row, ...]
    options: tuple[str, ...] = ()
    to: str = "h2"
    by: Mudanza | None = None
    mode: str = "live"

    @property
    def blocked(self) -> bool:
        return any(level == B for _, level, *_ in self.rows)


class Checker:
    """Checks moves side by side."""

    def __init__(self, lab: Lab, mudanza: Mudanza) -> None:
        self._lab = lab
        self._mudanza = mudanza

    def __call__(self, *cases: Case, dead: Sequence[str] = (), files: bool = True) -> None:
        """``dead``: hosts that cannot be looked at; ``files``: whether those of the hosts stand still."""
        alive = [host for host in self._lab.hosts if host not in dead]
        with _untouched(self._lab, alive, files=files), ThreadPoolExecutor(AT_ONCE) as pool:
            told = list(pool.map(self._findings, cases))
        for case, found in zip(cases, told, strict=True):
            _assert_these(found, case)

    def _findings(self, case: Case) -> list[dict[str, str]]:
        by = case.by or self._mudanza
        command = ("check", "--mode", case.mode, "--to", case.to, "-o", "json", *case.options, "--", case.vm)
        (target,) = by(*command, expect=3 if case.blocked else 0).data["targets"]
        assert (target["target"], target["possible"]) == (case.to, not case.blocked)
        found: list[dict[str, str]] = target["findings"]
        return found


def _assert_these(found: list[dict[str, str]], case: Case) -> None:
    told = Counter((each["code"], each["level"], each["subject"]) for each in found)
    wanted = Counter((code, level, subject) for code, level, subject, _ in case.rows)
    assert told == wanted, f"{case.vm}: not said: {list(wanted - told)}; said: {list(told - wanted)}"
    for code, _, subject, words in case.rows:
        said = [each["message"] for each in found if (each["code"], each["subject"]) == (code, subject)]
        assert any(words in message for message in said), f"{code}: {words!r} is not in {said}"
    assert all(each["remedy"] for each in found)


@contextmanager
def _untouched(lab: Lab, hosts: Sequence[str], *, files: bool) -> Iterator[None]:
    before = {host: _world(lab.cell(host), files=files) for host in hosts}
    yield
    for host in hosts:
        after = _world(lab.cell(host), files=files)
        gone = {line for line in before[host] - after if not _is_litter(line)}
        assert not gone | (after - before[host]), f"touched on {host}: gone {gone}, come {after - before[host]}"


def _is_litter(line: str) -> bool:
    """Whether it tells of a thing that a controller killed by an earlier test has left: any check takes it away."""
    found = re.search(r"mudanza-[a-z]+-[0-9a-f-]+", line)
    return found is not None and is_abandoned(found[0])


def _world(cell: Cell, *, files: bool) -> set[str]:
    """Return everything of a host that a check might touch, a line each."""
    lists = [
        "list --all",
        "list --all --uuid --name",
        "pool-list --all",
        "net-list --all",
        "nwfilter-list",
        "secret-list",
    ]
    told = cell.run(["virsh", "-q", "-c", "qemu:///system", "; ".join(lists)], check=False).stdout
    if not files:
        return _lines(told)
    # Volumes are files; libvirt's list of them may be old, and a check brings it up to date.
    places = ["/etc/libvirt", "/var/lib/libvirt", "/srv"]
    return _lines(told + cell.run(["find", *places, "-type", "f", "-printf", "%p %s %T@\n"]).stdout)


def _lines(told: str) -> set[str]:
    """Return what is told, a line each; how far its columns lie apart depends on the others."""
    return {" ".join(line.split()) for line in told.splitlines()}


def exported(mudanza: Mudanza) -> dict[str, dict[str, Any]]:
    """Return the hosts a controller knows, without what switches their power: another one may not have its agents."""
    hosts: dict[str, dict[str, Any]] = tomllib.loads(mudanza("export").out)["hosts"]
    return {name: {key: value for key, value in each.items() if key != "fence"} for name, each in hosts.items()}


def another_controller(mudanza: Mudanza, directory: Path, h2_as_well: Mapping[str, Settings]) -> Mudanza:
    """Return a controller with a database of its own, impatient, that knows h2 by further names as well.

    ``h2_as_well``: what is different under each of these names; None takes a setting away.
    """
    hosts = exported(mudanza)
    for name, settings in h2_as_well.items():
        merged = {**hosts["h2"], **settings}
        hosts[name] = {key: value for key, value in merged.items() if value is not None}
    config, cluster = directory / "config.toml", directory / "hosts.toml"
    config.write_text(f'database = "{directory}/own.db"\n[limits]\nconnect = "3s"\nread = "10s"\n')
    cluster.write_text(tomli_w.dumps({"hosts": hosts}))
    own = Mudanza(mudanza.lab, config)
    own("import", str(cluster))
    return own


def claimed(lab: Lab, host: str, vm: str) -> bool:
    """Whether anything of the VM on that host, as it runs or as it starts next, carries a claim."""
    words = (("dumpxml", vm), ("dumpxml", vm, "--inactive"))
    return any(CLAIM in virsh(lab.cell(host), *command, check=False) for command in words)


def refresh(*cells: Cell) -> None:
    """Let libvirt see the volumes that were made behind its back."""
    for cell in cells:
        virsh(cell, "; ".join(f"pool-refresh {name}" for name in POOLS))


def make(stack: ExitStack, cell: Cell, path: str, size: str = "8M", *, backing: str = "") -> str:
    """Make an image that goes with the stack, and return its path."""
    stack.callback(cell.run, ["rm", "--", path])
    return image(cell, path, size, backing=backing)


@contextmanager
def sound_vm(lab: Lab) -> Iterator[str]:
    """Have a running VM at h1 that nothing is the matter with."""
    h1 = lab.cell("h1")
    with ExitStack() as stack:
        stack.callback(refresh, h1)
        paths = [make(stack, h1, f"{IMAGES}/sound.qcow2"), make(stack, h1, f"{SHARED}/sound.qcow2")]
        refresh(h1)
        devices = (
            disks(*paths)
            + card("network", 1, "<source network='lan'/>", "<rom enabled='no'/>")
            + "<graphics type='vnc' autoport='yes' listen='0.0.0.0'/>"
            + "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>"
        )
        stack.enter_context(defined(h1, domain_xml("sound", devices), "start"))
        yield "sound"
