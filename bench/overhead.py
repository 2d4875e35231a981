"""Our whole command, from the shell and back, over ``virsh migrate``'s on the same pair of hosts, by turns.

Both move the same idle guest with its local disk, peer to peer over TLS. Ours also reads and checks both hosts, keeps a
journal, asks both hosts afterwards and deletes the source's disk; for virsh the disk is removed between the runs,
outside the measured time.
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
from mudanza.model.units import MIB

GOAL = 2.0
"""Ratio of medians: a move of two seconds may take two more to be read, checked, journalled and settled."""
COMMAND_LIMIT = 120.0


def measure(runs: int) -> Sequence[Figure]:
    """Measure ``runs`` moves with each tool."""
    lab = Lab.up(f"bench{os.getpid() % 100000}", hosts=2, tied=True)
    try:
        tell_mudanza(lab)
        guest = create_guest(lab, GuestSpec("idle", memory=256 * MIB, beat=0.1), on="h1")
        ours, theirs = [], []
        _with_mudanza(lab, guest, "h2")  # the first use of a pair rehearses TLS, once
        _with_mudanza(lab, guest, "h1")
        here, there = "h1", "h2"
        for _ in range(runs):  # each tool there and back in turn, so that both go both ways
            ours.append(_with_mudanza(lab, guest, there))
            theirs.append(_with_virsh(lab, guest, there, here))
            theirs.append(_with_virsh(lab, guest, here, there))
            ours.append(_with_mudanza(lab, guest, here))
        ratio = median(ours) / median(theirs)
        return [
            Figure("mudanza migrate, median", median(ours), "s", peer=median(theirs)),
            Figure("mudanza migrate, worst", max(ours), "s", peer=max(theirs)),
            Figure("extra time, median", median(ours) - median(theirs), "s"),
            Figure("overhead", ratio, "ratio", goal=f"≤ {GOAL}", met=ratio <= GOAL),
        ]
    finally:
        lab.down()


def _with_mudanza(lab: Lab, guest: Guest, target: str) -> float:
    environment = {**os.environ, "MUDANZA_CONFIG": str(lab.directory / CONFIG)}
    return _timed([sys.executable, "-m", "mudanza", "migrate", guest.uuid, "--to", target], environment)


def _with_virsh(lab: Lab, guest: Guest, source: str, target: str) -> float:
    argv = ["virsh", "-c", lab.uri(source), "migrate", guest.uuid, lab.peer_uri(target), "--live", "--p2p", "--tls"]
    argv += ["--persistent", "--undefinesource", "--copy-storage-all", "--migrateuri", f"tcp://{target}"]
    took = _timed(argv, dict(os.environ))
    for volume in virsh(lab.cell(source), "vol-list", "default").splitlines():
        if volume.strip():
            virsh(lab.cell(source), "vol-delete", "--pool", "default", volume.split()[0])
    return took


def _timed(argv: Sequence[str], environment: dict[str, str]) -> float:
    begun = time.monotonic()
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=COMMAND_LIMIT, check=False)
    took = time.monotonic() - begun
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)} failed: {done.stderr}")
    return took
