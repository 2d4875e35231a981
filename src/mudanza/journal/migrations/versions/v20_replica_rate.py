"""Schema 20: what a replica's rounds may take of the link, and how often all of it is compared."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("protection", sa.Column("bandwidth", sa.BigInteger))
    op.add_column("protection", sa.Column("verify_every", sa.Float))
    op.add_column("protection", sa.Column("verified_at", sa.Float))
