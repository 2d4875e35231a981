"""The tables. Times are the database's own clock, in seconds since the epoch."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)

REVISIONS = ("0001", "0002", "0003", "0004")
"""Every schema there was, the oldest first; ``migrations`` makes each one of the one before."""
HEAD = REVISIONS[-1]

metadata = MetaData()

# What programs of schema 1 and 2 look at, to see that this is no database of theirs any more.
about = Table("about", metadata, Column("version", Integer, nullable=False))

# One row, made with the table: claims on VMs name it, so that controllers without a common database can tell whose
# they are.
identity = Table("identity", metadata, Column("journal", String, primary_key=True))

host = Table(
    "host",
    metadata,
    Column("name", String, primary_key=True),
    Column("uri", String, nullable=False),
    Column("peer_uri", String),
    Column("migration_address", String),
    Column("tls_name", String),
    Column("maintenance", Boolean, nullable=False, default=False),
    Column("tags", Text, nullable=False, default="[]"),
)

pair = Table(
    "pair",
    metadata,
    Column("source", String, primary_key=True),
    Column("target", String, primary_key=True),
    Column("tls", String, nullable=False),
    Column("detail", Text, nullable=False, default=""),
    Column("seen_at", Float, nullable=False),
)

job = Table(
    "job",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String, nullable=False),
    Column("vm_uuid", String, nullable=False),
    Column("vm_name", String, nullable=False),
    # The VM's UUID until the job has ended, then NULL: the database itself keeps the promise of one job per VM.
    Column("busy", String, unique=True),
    Column("source", String, nullable=False),
    Column("target", String, nullable=False),
    Column("asked", Text, nullable=False),  # JSON: the options
    Column("asked_by", String, nullable=False),
    Column("state", String, nullable=False),
    Column("epoch", Integer, nullable=False, default=1),
    Column("owner", String, nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("outcome", Text, nullable=False, default=""),  # one sentence
    Column("exit_code", Integer),
    Column("report", Text, nullable=False, default=""),  # JSON
    # Written by others than the owner: who wants it cancelled, and since when.
    Column("cancel_asked_by", String),
    Column("cancel_asked_at", Float),
    Column("queued_at", Float),  # NULL: whoever asked for it began at once
    Column("plan", Integer),  # the plan it belongs to
    # What its writer may have meant: see `protocol`.
    Column("protocol", Integer, nullable=False, server_default="1"),
    Column("written_by", String, nullable=False, server_default=text("''")),
)
step = Table(
    "step",
    metadata,
    Column("job", Integer, ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("name", String, nullable=False),
    Column("intent", Text, nullable=False),  # JSON, written before the act
    Column("outcome", Text),  # JSON, written after it; NULL: nobody knows whether it was done
    Column("at", Float, nullable=False),
    Column("ended_at", Float),
)
event = Table(
    "event",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job", Integer, ForeignKey("job.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("owner", String, nullable=False),
    Column("state", String, nullable=False),
    Column("detail", Text, nullable=False),
)
# Rows are added and never changed: a row with `ends` says how what that row asked for has ended.
audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("ends", Integer),
    Column("at", Float, nullable=False),
    Column("who", Text, nullable=False),  # JSON
    Column("command", Text, nullable=False),  # JSON: its words
    Column("exit_code", Integer),
    Column("outcome", Text, nullable=False),
)
