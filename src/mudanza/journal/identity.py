"""Which journal this is, by which controllers without a common database tell whose claim a VM carries; and which
controller."""

from __future__ import annotations

import os
import socket
import uuid

from sqlalchemy import Engine, select

from mudanza.journal.database import reading
from mudanza.journal.schema import identity


def new_owner() -> str:
    """Return a name for this controller that no other one has: its host, its process, and a random word."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def journal_id(engine: Engine) -> str:
    """Return the random id that the journal was given when it was made."""
    with reading(engine) as connection:
        return str(connection.execute(select(identity.c.journal)).scalar_one())
