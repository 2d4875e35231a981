"""Ganeti's ``hbal`` and ``hsqueeze`` as peers: a cluster as text, their programs unpacked beside us, what they say."""

from __future__ import annotations

import os
import re
import resource
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mudanza.model.cluster import Cluster
from mudanza.model.units import MIB

PACKAGES = ("ganeti-htools-3.0", "libpcre3")
_GROUP = "11111111-1111-4111-8111-111111111111"
_DISK = 10_000_000
"""MiB: of storage there is always enough, for all of it is shared."""


@dataclass(frozen=True, slots=True)
class Told:
    """What hbal said. Scores are its own: the sum of standard deviations of free memory and of vCPUs for each CPU."""

    before: float
    after: float
    moves: int
    seconds: float
    """Of CPU."""


@dataclass(frozen=True, slots=True)
class Squeezed:
    """What hsqueeze said."""

    hosts: int
    """That may be switched off."""
    moves: int
    seconds: float
    """Of CPU."""


def unpack(place: Path) -> Path:
    """Fetch and unpack Debian's packages, without installing them; return where its programs are. Raises
    CalledProcessError."""
    subprocess.run(("apt-get", "-q", "download", *PACKAGES), cwd=place, check=True, capture_output=True)
    for package in place.glob("*.deb"):
        subprocess.run(("dpkg", "-x", package, place / "root"), check=True)
    return place / "root/usr/lib/ganeti/3.0/usr/bin"


def balance(programs: Path, cluster: Cluster, file: Path) -> Told:
    """Let hbal plan for a cluster, and return what it came to."""
    text, seconds = _run(programs / "hbal", cluster, file, "--ignore-dynu", "-v")
    return read(text, seconds)


def squeeze(programs: Path, cluster: Cluster, file: Path) -> Squeezed:
    """Let hsqueeze say which nodes can be switched off, nothing being left free on the others."""
    text, seconds = _run(programs / "hsqueeze", cluster, file, "--target-resources=0", "-C")
    off, moves = re.findall(r"gnt-node power -f off", text), re.findall(r"gnt-instance migrate", text)
    return Squeezed(len(off), len(moves), seconds)


def _run(program: Path, cluster: Cluster, file: Path, *options: str) -> tuple[str, float]:
    """Run a program on a cluster; return what it printed, and how many seconds of CPU it took."""
    file.write_text(as_text(cluster))
    libraries = next(program.parents[6].rglob("libpcre.so.3")).parent
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        (program, "-t", file, *options),
        env={**os.environ, "LD_LIBRARY_PATH": str(libraries)},
        capture_output=True,
        text=True,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def read(text: str, seconds: float) -> Told:
    """Read hbal's output. Raises ValueError for one that is not understood."""
    if found := re.search(r"Cluster score improved from ([0-9.]+) to ([0-9.]+)", text):
        moves = re.search(r"Solution length=(\d+)", text)
        if moves:
            return Told(float(found[1]), float(found[2]), int(moves[1]), seconds)
    raise ValueError(f"hbal said:\n{text[-2000:]}")


def as_text(cluster: Cluster) -> str:
    """Return the cluster as htools read it, every instance on shared storage."""
    nodes = []
    for host in cluster.hosts:
        used = sum(vm.memory for vm in cluster.vms_on(host.name)) // MIB
        total = host.memory_total // MIB
        figures = (total, 0, total - used, _DISK, _DISK, host.cpus, "N", _GROUP, 1, "", "N", 0, 0, "1.0")
        nodes.append("|".join(map(str, (host.name, *figures))))
    instances = [
        "|".join(
            map(str, (vm.name, vm.memory // MIB, 1024, vm.vcpus, "running", "Y", vm.host, "", "rbd", "", 1, "-", "N"))
        )
        for vm in cluster.vms
    ]
    policy = "|8192,2,1024,1,1,1|128,1,1024,1,1,1;1048576,64,1048576,16,8,12|rbd|64.0|64.0"
    sections = (f"default|{_GROUP}|preferred||", "\n".join(nodes), "\n".join(instances), "", policy)
    return "\n\n".join(sections) + "\n"
