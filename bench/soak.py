"""Moves guests about at random until told to stop, cancels some moves, and checks after each that nothing was lost.

Prints one line a move and the counts at the end; exits 1 when anything was violated.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from mudanza.cli.lab import CONFIG, tell_mudanza
from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest, virsh
from mudanza.lab.lab import Lab
from mudanza.lab.watch import Watch
from mudanza.model.units import MIB

MOVE_LIMIT = 300.0
"""Seconds one move may take."""
GUESTS = (
    GuestSpec("still", memory=128 * MIB, disk=64 * MIB, beat=0.1),
    GuestSpec("busy", memory=256 * MIB, disk=128 * MIB, write_rate=8 * MIB, working_set=32 * MIB, beat=0.1),
    GuestSpec("writer", memory=128 * MIB, disk=128 * MIB, disk_write_rate=4 * MIB, beat=0.1),
    GuestSpec("shared", memory=128 * MIB, disk=64 * MIB, pool="shared", beat=0.1),
)
ENDED_WELL = {0: "moved", 4: "cancelled"}


def main() -> int:
    """Run for the minutes asked."""
    parser = argparse.ArgumentParser(prog="scripts/soak")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=None, help="repeat a run's choices")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.randrange(10**6)
    print(f"seed {seed}", flush=True)
    lab = Lab.up(f"soak{os.getpid() % 100000}", hosts=3, tied=True)
    try:
        tell_mudanza(lab)
        guests = [create_guest(lab, spec, on="h1") for spec in GUESTS]
        return _soak(lab, guests, time.monotonic() + arguments.minutes * 60, random.Random(seed))
    finally:
        lab.down()


def _soak(lab: Lab, guests: Sequence[Guest], until: float, chance: random.Random) -> int:
    counts: Counter[str] = Counter()
    while time.monotonic() < until:
        guest = chance.choice(guests)
        here = next(host for host, state in guest.states().items() if state == "running")
        there = chance.choice([host for host in lab.hosts if host != here])
        cancel_after = chance.uniform(0.5, 6) if chance.random() < 0.3 else None
        with Watch(lab, guest.address) as watch:
            code = _move(lab, guest, there, cancel_after)
        outcome = ENDED_WELL.get(code, f"exit {code}")
        violations = list(_violations(lab, guest, there if code == 0 else here, watch))
        if code not in ENDED_WELL:
            violations.append(outcome)
        counts.update([outcome, *["violations"] * len(violations)])
        dark = f"{watch.series.blackout * 1000:.0f} ms dark"
        print(f"{guest.name}: {here} → {there}: {outcome}, {dark} {violations or ''}", flush=True)
    print(
        f"{sum(counts[each] for each in ENDED_WELL.values())} moves: {dict(counts)}; violations {counts['violations']}"
    )
    return 1 if counts["violations"] else 0


def _move(lab: Lab, guest: Guest, there: str, cancel_after: float | None) -> int:
    environment = {**os.environ, "MUDANZA_CONFIG": str(lab.directory / CONFIG)}
    argv = [sys.executable, "-m", "mudanza", "migrate", guest.uuid, "--to", there]
    with subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        try:
            process.wait(cancel_after or MOVE_LIMIT)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            process.wait(MOVE_LIMIT)
        if process.returncode not in ENDED_WELL and process.stderr:
            print(process.stderr.read().decode(), flush=True)
        return process.returncode


def _violations(lab: Lab, guest: Guest, expected: str, watch: Watch) -> Iterator[str]:
    states = guest.states()
    if states != {expected: "running"}:
        yield f"expected it on {expected} only: {states}"
    if not watch.series.every_beat_arrived:
        yield f"{watch.series.beats_lost} beats lost, {watch.series.beats_repeated} repeated"
    if watch.series.boots != 1:
        yield "it rebooted"
    guest.verify()
    guest.verify_memory()
    for host in lab.hosts:
        virsh(lab.cell(host), "pool-refresh", "default")
        if host != expected and guest.name in virsh(lab.cell(host), "vol-list", "default"):
            yield f"a volume was left on {host}"


if __name__ == "__main__":
    sys.exit(main())
