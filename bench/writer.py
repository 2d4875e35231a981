"""A guest that writes to its disk at two thirds of the link moves live: what a client sees, beside ``virsh migrate``.

Both copy the disk along, peer to peer over TLS, over the same capped link. ``virsh migrate --copy-storage-all`` mirrors
in the background, and is cancelled when it has not ended after VIRSH_LIMIT.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from statistics import median

from bench.figures import Figure
from mudanza.cli.lab import CONFIG, tell_mudanza
from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest, virsh
from mudanza.lab.lab import Lab
from mudanza.lab.watch import Watch
from mudanza.model.units import MIB

RATE = 12 * MIB
"""Bytes per second that each host's uplink takes."""
SPEC = GuestSpec("writer", memory=128 * MIB, disk=128 * MIB, disk_write_rate=8 * MIB, beat=0.05)
VIRSH_LIMIT = 90.0
OURS_LIMIT = 300.0


def measure(runs: int) -> Sequence[Figure]:
    """Measure ``runs`` moves of ours and one of virsh's."""
    lab = Lab.up(f"bench{os.getpid() % 100000}", hosts=2, tied=True)
    try:
        tell_mudanza(lab)
        guest = create_guest(lab, SPEC, on="h1")
        for host in lab.hosts:
            lab.set_uplink(host, RATE)
        virsh_took, virsh_dark = _with_virsh(lab, guest)
        ours = [_with_mudanza(lab, guest) for _ in range(runs)]
        guest.verify()
        took, dark = median(each[0] for each in ours), median(each[1] for each in ours)
        return [
            Figure("mudanza migrate, median", took, "s", goal="done", met=True, peer=virsh_took),
            Figure("blackout, median", dark * 1000, "ms", peer=None if virsh_dark is None else virsh_dark * 1000),
            Figure("virsh gave up after", VIRSH_LIMIT if virsh_took is None else 0.0, "s"),
        ]
    finally:
        lab.down()


def _where(guest: Guest) -> tuple[str, str]:
    here = next(host for host, state in guest.states().items() if state == "running")
    return here, "h2" if here == "h1" else "h1"


def _with_mudanza(lab: Lab, guest: Guest) -> tuple[float, float]:
    _, there = _where(guest)
    argv = [sys.executable, "-m", "mudanza", "migrate", guest.uuid, "--to", there]
    environment = {**os.environ, "MUDANZA_CONFIG": str(lab.directory / CONFIG)}
    with Watch(lab, guest.address) as watch:
        begun = time.monotonic()
        subprocess.run(argv, env=environment, check=True, capture_output=True, timeout=OURS_LIMIT)
        took = time.monotonic() - begun
    return took, watch.series.blackout


def _with_virsh(lab: Lab, guest: Guest) -> tuple[float | None, float | None]:
    """Return how long it took and how long the guest was dark; None for a move that did not end in time."""
    here, there = _where(guest)
    argv = ["virsh", "-c", lab.uri(here), "migrate", guest.uuid, lab.peer_uri(there), "--live", "--p2p", "--tls"]
    argv += ["--persistent", "--undefinesource", "--copy-storage-all", "--migrateuri", f"tcp://{there}"]
    with Watch(lab, guest.address) as watch, subprocess.Popen(argv, stdout=subprocess.DEVNULL) as process:
        begun = time.monotonic()
        try:
            process.wait(VIRSH_LIMIT)
        except subprocess.TimeoutExpired:
            virsh(lab.cell(here), "domjobabort", guest.uuid)
            process.wait(OURS_LIMIT)
            virsh(lab.cell(there), "vol-delete", "--pool", "default", SPEC.volume)
            return None, None
        took = time.monotonic() - begun
    virsh(lab.cell(here), "vol-delete", "--pool", "default", SPEC.volume)
    return took, watch.series.blackout
