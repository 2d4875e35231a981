"""Schema 18: what hosts draw and how they are woken, and each time that one was to be switched off or on."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "host_power",
        sa.Column("host", sa.String, primary_key=True),
        sa.Column("watts", sa.Text, nullable=False),
        sa.Column("mac", sa.String),
        sa.Column("keep_on", sa.Boolean, nullable=False),
    )
    op.create_table(
        "switching",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("host", sa.String, nullable=False),
        sa.Column("wish", sa.String, nullable=False),
        sa.Column("asked_by", sa.String, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float),
        sa.Column("done", sa.Boolean, nullable=False),
        sa.Column("said", sa.Text, nullable=False),
        sa.Column("closed", sa.Boolean, nullable=False),
    )
