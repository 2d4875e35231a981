"""Who may ask the daemon, what they have asked, and what is counted and told."""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Integer, String, Table, Text

from mudanza.journal.schema.base import metadata

# Keys of those who ask the daemon from elsewhere.
token = Table(
    "token",
    metadata,
    Column("name", String, primary_key=True),
    Column("hash", String, nullable=False, unique=True),  # SHA-256 of what opens
    Column("scopes", Text, nullable=False),  # JSON lists
    Column("hosts", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("made_at", Float, nullable=False),
    Column("made_by", String, nullable=False),
    Column("expires_at", Float),
    Column("revoked_at", Float),
    Column("used_at", Float),
)

# Who has logged in to the daemon's pages.
session = Table(
    "session",
    metadata,
    Column("hash", String, primary_key=True),  # SHA-256 of what opens
    Column("name", String, nullable=False),
    Column("token", String),  # the hash of the one it was begun with, and ends with
    Column("scopes", Text, nullable=False),  # JSON lists
    Column("hosts", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("made_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
)

# What somebody has asked for under a key of their own, so that asking again does it no second time.
request = Table(
    "request",
    metadata,
    Column("asker", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("digest", String, nullable=False),  # of what was asked for
    Column("job", Integer, nullable=False),
    Column("at", Float, nullable=False, index=True),
)

# What has been counted and measured of jobs that ended, since the journal was made; never less than it was.
tally = Table(
    "tally",
    metadata,
    Column("name", String, primary_key=True),
    Column("labels", String, primary_key=True),  # JSON
    # The upper edge of a bucket, which counts what is above the edge before; ``sum``; or ``count``.
    Column("edge", String, primary_key=True),
    Column("value", Float, nullable=False),
)

# What others may want to hear of, written together with what it tells of.
happening = Table(
    "happening",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False, index=True),
    Column("kind", String, nullable=False),
    Column("subject", String, nullable=False),  # a VM's or a host's name, or a plan's number
    Column("said", Text, nullable=False),  # one sentence
    Column("about", Text, nullable=False),  # JSON
    Column("given_at", Float),  # when its deliveries were written down; NULL: nobody has looked at it
)

# What one receiver is to be told of one happening.
delivery = Table(
    "delivery",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("happening", Integer, ForeignKey("happening.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("webhook", String, nullable=False),
    Column("state", String, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("next_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("answer", Text, nullable=False),  # what the last try came to, in words
)
