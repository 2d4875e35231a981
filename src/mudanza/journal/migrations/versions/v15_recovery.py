"""Schema 15: test failovers, stale disks that replicas begin with, and plans for recovery."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Add the tables and the column."""
    op.add_column("protection", sa.Column("seed", sa.Text, nullable=False, server_default="{}"))
    op.create_table(
        "trial",
        sa.Column("protection", sa.Integer, sa.ForeignKey("protection.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("point", sa.Integer, nullable=False),
        sa.Column("uuid", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("host", sa.String, nullable=False),
        sa.Column("begun_at", sa.Float, nullable=False),
        sa.Column("before", sa.Text, nullable=False),
        sa.Column("times", sa.Text, nullable=False),
    )
    op.create_table(
        "recovery_plan",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("made_by", sa.String, nullable=False),
        sa.Column("made_at", sa.Float, nullable=False),
    )
