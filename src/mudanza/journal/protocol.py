"""What this version of mudanza understands of a job: programs of several versions may share one journal.

A controller goes on only with a job of which it knows every word: a step it does not know may have done anything.
"""

from __future__ import annotations

from mudanza import __version__
from mudanza.journal.job import Job
from mudanza.model.errors import BlockedError

PROTOCOL = 2
"""Raised whenever a word in the journal gets another meaning, so that earlier versions keep off. 1: up to schema 2."""
QUEUED_MOVE = "move"
"""The kind of a job of which nobody has decided yet how it will be done."""
MOVES = frozenset({"live", "cold", "relocate"})
"""Kinds of jobs that bring a VM, or its disks, from one place to another."""
RESTART = "restart"
"""The kind of a job that starts a VM elsewhere whose host is lost."""
FAILOVER = "failover"
"""The kind of a job that brings a VM up from its replica."""
KINDS = MOVES | {
    QUEUED_MOVE,
    RESTART,
    "cpu",
    "protect",
    FAILOVER,
    "reprotect",
    "set apart",
    "test failover",
    "recovery",
    "cold start",
    "site stop",
}
STEPS = frozenset(
    {
        "abort",
        "activate",
        "adopt",
        "ask",
        "autostart",
        "await",
        "begin backup",
        "bring up",
        "cancel",
        "carry",
        "carry TPM",
        "carry point",
        "claim",
        "close",
        "compare",
        "compare blocks",
        "copy",
        "create volume",
        "decide",
        "define",
        "define saved",
        "delete volume",
        "disarm",
        "drop checkpoints",
        "drop forgotten copies",
        "drop replica",
        "end backup",
        "forget points",
        "freeze",
        "go on",
        "hold",
        "hook",
        "let go",
        "name base",
        "own addresses",
        "pause",
        "pin point",
        "place firmware",
        "pivot",
        "post-copy",
        "prove",
        "put history back",
        "readdress",
        "rearm",
        "release claim",
        "release source",
        "reset",
        "remember history",
        "retire copy",
        "run script",
        "set apart",
        "set aside",
        "set clock",
        "set history aside",
        "settle",
        "shut down",
        "shut group down",
        "start",
        "stood still",
        "take back",
        "take off double",
        "thaw",
        "thawed",
        "thin points",
        "through",
        "transfer",
        "unpin point",
        "wake hosts",
    }
)


def refuse_unknown(job: Job) -> None:
    """Raise BlockedError (exit code 3: nothing was touched) for a job that another version must go on with."""
    unknown = []
    if job.protocol > PROTOCOL:
        unknown.append(f"protocol {job.protocol}")
    if job.kind not in KINDS:
        unknown.append(f"the kind {job.kind!r}")
    unknown += [f"the step {name!r}" for name in sorted({step.name for step in job.steps} - STEPS)]
    if not unknown:
        return
    writer = f"mudanza {job.written_by}" if job.written_by else "another version of mudanza"
    raise BlockedError(
        f"job {job.id} was written by {writer} and has what this one ({__version__}) does not know: "
        f"{', '.join(unknown)}",
        remedy=f"nothing was touched; go on with it there, or with a version that is as new: "
        f"mudanza job resume {job.id}",
    )
