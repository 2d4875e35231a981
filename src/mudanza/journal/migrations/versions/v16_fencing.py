"""Schema 16: what switches hosts' power, the proofs that hosts are off, and what VMs were defined as."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "fence_device",
        sa.Column("host", sa.String, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("level", sa.Integer, nullable=False),
        sa.Column("agent", sa.String, nullable=False),
        sa.Column("options", sa.Text, nullable=False),
        sa.Column("secrets", sa.Text, nullable=False),
    )
    op.create_table(
        "fencing",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("host", sa.String, nullable=False),
        sa.Column("by", sa.String, nullable=False),
        sa.Column("asked_by", sa.String, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float),
        sa.Column("proven", sa.Boolean, nullable=False),
        sa.Column("said", sa.Text, nullable=False),
        sa.Column("void_at", sa.Float),
        sa.Column("void_because", sa.Text, nullable=False),
    )
    op.create_table(
        "remembered",
        sa.Column("vm_uuid", sa.String, primary_key=True),
        sa.Column("host", sa.String, nullable=False, index=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("definition", sa.Text, nullable=False),
    )
    op.create_table(
        "kept_up",
        sa.Column("vm_uuid", sa.String, primary_key=True),
        sa.Column("vm_name", sa.String, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("most", sa.Integer, nullable=False),
        sa.Column("autostart", sa.Boolean, nullable=False),
        sa.Column("asked_by", sa.String, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
