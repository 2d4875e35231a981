"""Hosts, the ways between them, and jobs with all that they did."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Float, ForeignKey, Integer, String, Table, Text, text

from mudanza.journal.schema.base import metadata

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

# What gets across between two hosts, as it was last measured. Bytes per second.
measured_link = Table(
    "measured_link",
    metadata,
    Column("source", String, primary_key=True),
    Column("target", String, primary_key=True),
    Column("one", Float, nullable=False),  # by one connection
    Column("several", Float, nullable=False),  # by so many side by side:
    Column("connections", Integer, nullable=False),
    Column("measured_at", Float, nullable=False),
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
