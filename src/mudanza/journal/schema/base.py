"""What every schema has: the tables' common roof, their versions, and whose journal it is."""

from __future__ import annotations

from sqlalchemy import Column, Integer, MetaData, String, Table

REVISIONS = tuple(f"{number:04}" for number in range(1, 28))
"""Every schema there was, the oldest first; ``migrations`` makes each one of the one before."""
HEAD = REVISIONS[-1]

metadata = MetaData()

# What programs of schema 1 and 2 look at, to see that this is no database of theirs any more.
about = Table("about", metadata, Column("version", Integer, nullable=False))

# One row, made with the table: claims on VMs name it, so that controllers without a common database can tell whose
# they are.
identity = Table("identity", metadata, Column("journal", String, primary_key=True))
