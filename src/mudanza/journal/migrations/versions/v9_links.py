"""Schema 9: what gets across between two hosts, as it was measured."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the table of measured links."""
    op.create_table(
        "measured_link",
        sa.Column("source", sa.String, primary_key=True),
        sa.Column("target", sa.String, primary_key=True),
        sa.Column("one", sa.Float, nullable=False),
        sa.Column("several", sa.Float, nullable=False),
        sa.Column("connections", sa.Integer, nullable=False),
        sa.Column("measured_at", sa.Float, nullable=False),
    )
