"""Moves guests about at random under random faults until told to stop, and checks after each that nothing was lost.

Prints one line a move and the counts at the end; exits 1 when anything was violated. The faults and the checks are
those of the crash matrix; here chance decides what meets what, and when.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import create_guest
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab.command import Mudanza
from tests.lab.conftest import know_by_ssh
from tests.lab.matrix.cells import KILLED, Cell
from tests.lab.matrix.faults import FAULTS, NOTHING
from tests.lab.matrix.moments import Moment
from tests.lab.matrix.playing import Player
from tests.lab.matrix.subjects import LiveSubject, whereabouts

GUESTS = (
    GuestSpec("busy", memory=192 * MIB, disk=64 * MIB, write_rate=8 * MIB, working_set=32 * MIB, beat=0.1),
    GuestSpec("writer", memory=128 * MIB, disk=96 * MIB, disk_write_rate=MIB, beat=0.1),
    GuestSpec("shared", memory=128 * MIB, disk=64 * MIB, pool="shared", beat=0.1),
)
PLACES = {"default": "/var/lib/libvirt/images", "shared": "/srv/shared"}
BOOT_LIMIT = 300.0
"""Seconds a guest may take to come up; the machine may have others to serve."""
QUIET_SHARE = 0.25
"""Of the moves nothing is broken in."""
COLD_SHARE = 0.15
LATEST = 9.0
"""Seconds after its decision at which a move is hit at the latest: most are over by then."""
LONGEST = 25.0
"""Seconds a fault lasts that does not last until the command has ended."""
ANY_END = frozenset({0, 4, 5, 6, KILLED})


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
        # By ssh from the lab's seat: what is cut off, the controller loses too.
        mudanza = know_by_ssh(lab, lab.directory)
        subjects = [_subject(lab, spec) for spec in GUESTS]
        return _soak(lab, mudanza, subjects, time.monotonic() + arguments.minutes * 60, random.Random(seed))
    finally:
        lab.down()


def _subject(lab: Lab, spec: GuestSpec) -> LiveSubject:
    guest = create_guest(lab, spec, on="h1", limit=BOOT_LIMIT)
    path = f"{PLACES[spec.pool]}/{spec.volume}"
    return LiveSubject(lab, guest, path, options=(), autostart=False)


def _soak(lab: Lab, mudanza: Mudanza, subjects: Sequence[LiveSubject], until: float, chance: random.Random) -> int:
    counts: Counter[str] = Counter(dict.fromkeys(("moves", "faults", "violations", "lost writes"), 0))
    while time.monotonic() < until:
        subject = chance.choice(subjects)
        player, what = _cast(lab, mudanza, subject, chance)
        counts["moves"] += 1
        counts["faults"] += "nothing" not in what
        try:
            seen = player.play()
            player.start_again()
            subject.guest.await_answer()
            outcome = seen.words
        except Exception as error:  # whatever it is: it is counted, told, and the run is over
            traceback.print_exc()
            counts["violations"] += 1
            counts["lost writes"] += "on the disk" in str(error) or "bad ring" in str(error)
            outcome = f"VIOLATION: {error}"
        print(f"{what}: {outcome}", flush=True)
        if counts["violations"]:
            break  # what comes after it would be about a world that is broken already
    print(", ".join(f"{what} {count}" for what, count in counts.items()))
    return 1 if counts["violations"] or counts["lost writes"] else 0


def _cast(lab: Lab, mudanza: Mudanza, subject: LiveSubject, chance: random.Random) -> tuple[Player, str]:
    """Choose where a guest goes, how, and what happens to it; return that, and the same in words."""
    (here,) = whereabouts(subject)
    there = chance.choice([host for host in lab.hosts if host != here])
    kind = "cold, running" if chance.random() < COLD_SHARE else "live"
    name = chance.choice(sorted(FAULTS))
    fault = FAULTS[name]
    if chance.random() < QUIET_SHARE:
        name, fault = "nothing", NOTHING
    elif fault.lasts is None and fault.mend is not NOTHING.mend and chance.random() < 0.5:
        fault = replace(fault, lasts=chance.uniform(1, LONGEST))
    moment = Moment(after=chance.uniform(0, LATEST))
    subject.options = ("--mode", "cold", "--shutdown-limit", "60s") if kind != "live" else ("--mode", "live")
    killing = "QEMU" in name
    cell = Cell(kind, name, "at random", ANY_END, frozenset({0, 4, 6}), off=None if killing else False)
    player = Player(cell, lab, mudanza, subject, target=there, fault=fault, moment=moment)
    lasts = f" for {fault.lasts:.1f} s" if fault.lasts else ""
    return player, f"{subject.name} {here} → {there}, {kind}: {name} after {moment.after:.1f} s{lasts}"


if __name__ == "__main__":
    sys.exit(main())
