"""Schema 25: which guests were given other addresses where their VMs came up."""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    """Add the column."""
    op.add_column("protection", sa.Column("readdressed", sa.Text, nullable=False, server_default=sa.text("''")))
