"""Schema 27: by which order a daemon has maintenance roll over hosts, so that the next one goes on with it."""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    """Add the column."""
    op.add_column("rolling", sa.Column("ordered", sa.Integer))
