"""Schema 13: protected VMs, and the instants that they can come back to."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "protection",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("vm_uuid", sa.String, nullable=False, unique=True),
        sa.Column("vm_name", sa.String, nullable=False),
        sa.Column("target", sa.String, nullable=False),
        sa.Column("directory", sa.String, nullable=False),
        sa.Column("every", sa.Float, nullable=False),
        sa.Column("keep", sa.Integer, nullable=False),
        sa.Column("scratch", sa.BigInteger, nullable=False),
        sa.Column("standing", sa.String, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("autostart", sa.Boolean, nullable=False),
        sa.Column("checkpoint", sa.String, nullable=False),
        sa.Column("rounds", sa.Integer, nullable=False),
        sa.Column("made_by", sa.String, nullable=False),
        sa.Column("made_at", sa.Float, nullable=False),
        sa.Column("tried_at", sa.Float),
        sa.Column("said", sa.Text, nullable=False),
    )
    op.create_table(
        "restore_point",
        sa.Column("protection", sa.Integer, sa.ForeignKey("protection.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("taken_at", sa.Float, nullable=False),
        sa.Column("disks", sa.Text, nullable=False),
        sa.Column("definition", sa.Text, nullable=False),
        sa.Column("carried", sa.BigInteger, nullable=False),
        sa.Column("given_up", sa.Boolean, nullable=False),
    )
