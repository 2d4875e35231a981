"""Which journal this is: controllers without a common database tell by it whose claim a VM carries."""

from __future__ import annotations

from sqlalchemy import Engine, select

from mudanza.journal.database import transaction
from mudanza.journal.schema import identity


def journal_id(engine: Engine) -> str:
    """Return the random id that the journal was given when it was made."""
    with transaction(engine) as connection:
        return str(connection.execute(select(identity.c.journal)).scalar_one())
