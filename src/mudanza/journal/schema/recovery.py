"""VMs with replicas, plans for bringing them back, and copies of the journal itself."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from mudanza.journal.schema.base import metadata

# A VM's replica at another host, and what became of the last round.
protection = Table(
    "protection",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("vm_uuid", String, nullable=False),
    Column("vm_name", String, nullable=False),
    Column("target", String, nullable=False),
    Column("directory", String, nullable=False),  # of the replica, at the target
    Column("every", Float, nullable=False),
    Column("keep", Integer, nullable=False),
    Column("scratch", BigInteger, nullable=False),
    Column("standing", String, nullable=False),
    Column(
        "epoch", Integer, nullable=False
    ),  # goes up whenever the VM comes up elsewhere by failover: of all its replicas
    Column("autostart", Boolean, nullable=False),  # as it was before
    Column("checkpoint", String, nullable=False),  # libvirt's, at the newest restore point
    Column("rounds", Integer, nullable=False),
    Column("made_by", String, nullable=False),
    Column("made_at", Float, nullable=False),
    Column("tried_at", Float),
    Column("said", Text, nullable=False),
    Column("seed", Text, nullable=False, server_default="{}"),  # JSON: a disk → the stale image at the target
    Column("group", String, nullable=False, server_default=text("''")),  # whose rounds it shares; empty: nobody's
    Column("bandwidth", BigInteger),  # bytes per second
    Column("verify_every", Float),
    Column("verified_at", Float),
    Column("freeze_every", Integer),  # rounds
    Column("compress", String, nullable=False, server_default=text("'auto'")),
    Column("carriage", Text, nullable=False, server_default="{}"),  # JSON: what was measured of the way
    Column("readdressed", Text, nullable=False, server_default=text("''")),  # JSON: who has which addresses; or empty
    Column("test_every", Float),
    Column("test_limit", Float, nullable=False, server_default=text("300")),
    Column("tested_at", Float),
    Column("tested", Text, nullable=False, server_default=text("''")),  # what came of it
    Column("paused_by", String, nullable=False, server_default=text("''")),  # who wants no rounds; empty: nobody
    UniqueConstraint("vm_uuid", "target", name="protection_one_at_each_host"),
)

# A row is written when the point is whole at the target; it is given up before anything of it is touched there.
restore_point = Table(
    "restore_point",
    metadata,
    Column("protection", Integer, ForeignKey("protection.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("taken_at", Float, nullable=False),
    Column("disks", Text, nullable=False),  # JSON: the guest's name for a disk → its image and size
    Column("definition", Text, nullable=False),
    Column("carried", BigInteger, nullable=False),
    Column("given_up", Boolean, nullable=False, default=False),  # its images go into those of the one after it
    Column("instant", String, nullable=False, server_default=text("''")),  # which points of a group have in common
    Column("consistency", String, nullable=False, server_default=text("'crash'")),
    Column("firmware", Text, nullable=False, server_default=text("''")),  # JSON: archive and digest; empty: none
    Column("sent", BigInteger),  # bytes that left the source
    Column("why_not", Text, nullable=False, server_default=text("''")),
    Column("epoch", Integer, nullable=False, server_default=text("0")),  # the VM's, then
)

# A test failover: it is written down before anything of it is made, and keeps the points that it stands on.
trial = Table(
    "trial",
    metadata,
    Column("protection", Integer, ForeignKey("protection.id", ondelete="CASCADE"), primary_key=True),
    Column("point", Integer, nullable=False),
    Column("uuid", String, nullable=False),  # of the double
    Column("name", String, nullable=False),
    Column("host", String, nullable=False),
    Column("begun_at", Float, nullable=False),
    Column("before", Text, nullable=False),  # JSON: what → how it was
    Column("times", Text, nullable=False),  # JSON: what → seconds until then
)

# In which order VMs are brought back.
recovery_plan = Table(
    "recovery_plan",
    metadata,
    Column("name", String, primary_key=True),
    Column("text", Text, nullable=False),  # TOML
    Column("made_by", String, nullable=False),
    Column("made_at", Float, nullable=False),
)

# Where the journal and the settings are sent, so that they outlive this machine.
standby = Table(
    "standby",
    metadata,
    Column("name", String, primary_key=True),  # a host's, or ssh://…
    Column("directory", String, nullable=False),
    Column("every", Float, nullable=False),
    Column("generation", Integer, nullable=False),  # the newest that is there, by its word
    Column("taken_at", Float),  # the instant that it is of
    Column("size", BigInteger),
    Column("tried_at", Float),
    Column("said", Text, nullable=False, default=""),  # why the last one was not sent; empty: it was
    Column("made_by", String, nullable=False),
    Column("made_at", Float, nullable=False),
)

# One row: how often this journal has been taken over at another machine, and whether that has happened since, so that
# nothing is done any more by this copy of it.
reign = Table(
    "reign",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("replaced", Text, nullable=False, default=""),  # how that was found out; empty: it was not
    Column("looked_at", Float, nullable=False, default=0.0),
)
