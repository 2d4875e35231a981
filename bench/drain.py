"""A host with four guests is drained over a capped uplink: how long that takes, over what its bytes take by themselves.

The bytes are those that the switch saw leave the host meanwhile; disks are on storage that all hosts see.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence

from bench.figures import Figure
from mudanza.cli.lab import CONFIG, tell_mudanza
from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import create_guest
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB

GUESTS = 4
AT_ONCE = 4
"""Moves from the host: guests that are calm may share its uplink, and what one leaves of it another one takes."""
RATE = 24 * MIB
"""Bytes per second that the drained host's uplink takes."""
GOAL = 1.15
LIMIT = 300.0


def measure(_runs: int) -> Sequence[Figure]:
    """Drain once."""
    lab = Lab.up(f"bench{os.getpid() % 100000}", hosts=3, tied=True)
    try:
        tell_mudanza(lab)
        specs = [
            GuestSpec(f"g{n}", memory=448 * MIB, disk=64 * MIB, pool="shared", beat=0.1, working_set=256 * MIB)
            for n in range(GUESTS)
        ]
        guests = [create_guest(lab, spec, on="h1") for spec in specs]
        _run(lab, "check", guests[0].uuid, "--to", "h2")
        _run(lab, "check", guests[0].uuid, "--to", "h3")  # the first use of a pair rehearses TLS, once
        lab.set_uplink("h1", RATE)
        before = lab.switch_bytes()["h1"]
        begun = time.monotonic()
        _run(lab, "drain", "h1", "--out", str(AT_ONCE), "--into", str(AT_ONCE))
        took = time.monotonic() - begun
        sent = lab.switch_bytes()["h1"].received - before.received
        for guest in guests:
            guest.verify()
        least = sent / RATE
        return [
            Figure("the host's bytes over its uplink", least, "s"),
            Figure("mudanza drain", took, "s"),
            Figure("ratio", took / least, "ratio", goal=f"≤ {GOAL}", met=took / least <= GOAL),
        ]
    finally:
        lab.down()


def _run(lab: Lab, *words: str) -> None:
    environment = {**os.environ, "MUDANZA_CONFIG": str(lab.directory / CONFIG)}
    argv = [sys.executable, "-m", "mudanza", *words]
    done = subprocess.run(argv, env=environment, check=False, capture_output=True, text=True, timeout=LIMIT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit {done.returncode}: {done.stderr}")
