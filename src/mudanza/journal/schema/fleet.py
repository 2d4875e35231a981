"""What is wanted of the cluster as a whole: loads, plans, rounds of balance, and maintenance that rolls."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, ForeignKey, Integer, String, Table, Text

from mudanza.journal.schema.base import metadata

# One row: what the operator wants of places, all of it.
rules = Table(
    "rules",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("wanted", Text, nullable=False),  # JSON
)

# What somebody used between two looks: of a host all that was used on it, of a VM its own. CPU-seconds per second,
# bytes, bytes per second.
reading = Table(
    "reading",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String, nullable=False),  # ``host`` or ``vm``
    Column("subject", String, nullable=False),  # the host's name or the VM's UUID
    Column("name", String, nullable=False),  # the VM's name then
    Column("host", String, nullable=False),  # where it was
    Column("at", Float, nullable=False, index=True),  # of the second look
    Column("span", Float, nullable=False),
    Column("cpus", Float, nullable=False),
    Column("memory", Float, nullable=False),
    Column("disk", Float),
    Column("network", Float),
    Column("steal", Float, nullable=False),
    # Readings that were folded into this one: over how many seconds, and how often each figure had which size (JSON,
    # see `folding`); NULL: it stands for itself. The figures above are the means then, `at` and `span` go over all.
    Column("fold", Float),
    Column("folded", Text),
)

# A plan that is carried out. Who holds it decides what is to be begun; what is begun is a job of its own.
plan = Table(
    "plan",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String, nullable=False),
    Column("subject", String, nullable=False),  # the host it is about, if it is about one
    Column("document", Text, nullable=False),  # JSON: the plan as it was shown
    Column("asked", Text, nullable=False),  # JSON: the policy
    Column("asked_by", String, nullable=False),
    Column("state", String, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("owner", String, nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("outcome", Text, nullable=False),  # one sentence
    Column("exit_code", Integer),
    # Written by others than the owner: ``pause``, ``cancel`` or, after a pause, ``go on``.
    Column("wish", String),
    Column("wish_by", String),
)

plan_move = Table(
    "plan_move",
    metadata,
    Column("plan", Integer, ForeignKey("plan.id", ondelete="CASCADE"), primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("vm_uuid", String, nullable=False),
    Column("vm_name", String, nullable=False),
    Column("source", String, nullable=False),
    Column("target", String, nullable=False),
    Column("about", Text, nullable=False),  # JSON: the planned move
    Column("waits_for", Text, nullable=False),  # JSON: numbers of moves
    Column("state", String, nullable=False),
    Column("job", Integer),
    Column("outcome", Text, nullable=False),
    Column("exit_code", Integer),
    Column("began_at", Float),
    Column("ended_at", Float),
)

# VMs that left a host for its maintenance, and are to come home.
away = Table(
    "away",
    metadata,
    Column("vm_uuid", String, primary_key=True),
    Column("vm_name", String, nullable=False),
    Column("host", String, nullable=False),  # home
    Column("runs", Boolean, nullable=False),  # whether it ran when it left
    Column("at", Float, nullable=False),
)

# Who does what only one controller may do at a time.
duty = Table(
    "duty",
    metadata,
    Column("name", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("since", Float, nullable=False),
)

# What each look of a continuous balance came to.
balance_round = Table(
    "balance_round",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False, index=True),
    Column("asked", Boolean, nullable=False),  # whether something was to be moved
    Column("imbalance", Float),
    Column("plan", Integer),
    Column("said", Text, nullable=False),  # one sentence
)

# A command that is run on one host after the other, each emptied before and filled again after.
rolling = Table(
    "rolling",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("asked", Text, nullable=False),  # JSON
    Column("asked_by", String, nullable=False),
    Column("state", String, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("outcome", Text, nullable=False),  # one sentence
    Column("wish_by", String, nullable=False),  # who wants it stopped
    Column("ordered", Integer),  # the order by which a daemon carries it out: its row in the audit
)

rolling_host = Table(
    "rolling_host",
    metadata,
    Column("rolling", Integer, ForeignKey("rolling.id", ondelete="CASCADE"), primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("host", String, nullable=False),
    Column("stage", String, nullable=False),
    Column("before", Text, nullable=False),  # JSON: what it was like; empty: nothing was done to it yet
    Column("boot", String, nullable=False),
    Column("begun_at", Float),  # since when the command is known to run there
    Column("exit_code", Integer),
    Column("output", Text, nullable=False),
    Column("taken", BigInteger, nullable=False),  # bytes of the output that were read
    Column("said", Text, nullable=False),  # what is the matter, one sentence
)
