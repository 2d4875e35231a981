"""A day of CPU use of a thousand VMs, as CoMon measured it on PlanetLab and Beloglazov and Buyya published it, and the
hosts of their experiments. The days are no part of this repository: see ``the_day``."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mudanza.model.errors import UsageError
from mudanza.model.watts import PowerModel

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]
Bools = NDArray[np.bool_]

WHERE = "MUDANZA_PLANETLAB"
"""The environment's variable that says where a day is."""
READINGS, EVERY = 288, 300.0
"""Readings in a day, and seconds between two."""
VM_TYPES = ((2500, 870), (2000, 1740), (1000, 1740), (500, 613))
"""MIPS and MiB; in equal blocks of the list."""
HOSTS, HOST_MEMORY = 800, 4096
HOST_TYPES = (
    # Two CPUs each: HP ProLiant ML110 G4 and G5, with what SPECpower measured at 0, 10, … 100 %.
    (1860.0, PowerModel((86, 89.4, 92.6, 96, 99.5, 102, 106, 108, 112, 114, 117))),
    (2660.0, PowerModel((93.7, 97, 101, 105, 110, 116, 121, 125, 129, 133, 135))),
)
HOST_CPUS = 2
PER_SECOND = 62.5
"""MiB of memory that a move carries: half of 1 Gbit/s, as the published experiments have it."""


@dataclass(frozen=True, slots=True)
class Day:
    """What VMs want and hosts have. CPUs in MIPS, memory in MiB."""

    name: str
    wants: Floats
    """VMs x readings."""
    vm_mips: Floats
    vm_memory: Floats
    host_mips: Floats
    """Of all CPUs of a host."""
    host_cpu: Floats
    """Of one of them: a VM that is promised more is not placed there at the start."""
    host_memory: Floats
    models: tuple[PowerModel, ...]

    @property
    def hosts(self) -> int:
        """How many hosts there are."""
        return len(self.host_mips)

    @property
    def readings(self) -> int:
        """How many readings there are of each VM."""
        return int(self.wants.shape[1])


def the_day(hosts: int = HOSTS, vms: int | None = None) -> Day:
    """Return the day that the environment names, or the first VMs of it on fewer hosts. Raises UsageError where
    there is none."""
    told = os.environ.get(WHERE)
    if not told:
        raise UsageError(
            f"no trace is named: {WHERE} is not set",
            remedy=f"{WHERE}=FILE scripts/bench power: a directory, or a .tar.gz of one, with a file for each VM and a "
            "whole per cent of CPU use in each line, every five minutes for a day",
        )
    return day_of(Path(told), hosts, vms)


def day_of(source: Path, hosts: int = HOSTS, vms: int | None = None) -> Day:
    """Read a day: a directory, or a ``.tar.gz`` of one. Raises UsageError for anything else."""
    try:
        found = sorted(_files(source))
        use = np.array([_read(name, text) for name, text in found], dtype=np.float64) / 100.0
    except (OSError, tarfile.TarError) as error:
        raise UsageError(f"the trace {source} cannot be read: {error}", remedy=f"name another one: {WHERE}") from error
    if not len(use):
        raise UsageError(f"the trace {source} has no files", remedy=f"name another one: {WHERE}")
    return made_of(source.name, use[:vms], hosts)


def made_of(name: str, use: Floats, hosts: int) -> Day:
    """Return the published set-up for what VMs used (shares of their CPU, VMs x readings)."""
    block = -(-len(use) // len(VM_TYPES))
    mips, memory = (np.array([kind[each] for kind in VM_TYPES], float).repeat(block)[: len(use)] for each in (0, 1))
    kinds = [HOST_TYPES[number % len(HOST_TYPES)] for number in range(hosts)]
    cpu = np.array([mips for mips, _ in kinds])
    return Day(
        name, use * mips[:, None], mips, memory, cpu * HOST_CPUS, cpu, np.full(hosts, float(HOST_MEMORY)),
        tuple(model for _, model in kinds),
    )  # fmt: skip


def _files(source: Path) -> Iterator[tuple[str, str]]:
    if source.is_dir():
        yield from ((str(each), each.read_text()) for each in source.rglob("*") if each.is_file())
        return
    with tarfile.open(source) as archive:
        for member in archive:
            opened = archive.extractfile(member) if member.isfile() else None
            if opened is not None:
                yield member.name, opened.read().decode()


def _read(name: str, text: str) -> list[int]:
    try:
        found = [int(line) for line in text.split()[:READINGS]]
    except ValueError as error:
        raise UsageError(f"{name} of the trace has a line that is no whole number: {error}") from error
    if len(found) < READINGS:
        raise UsageError(f"{name} of the trace has {len(found)} readings, and a day is {READINGS}")
    return found
