"""Schema 5: how busy hosts and VMs are, plans that are carried out, and VMs that are to come home."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "reading",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("host", sa.String, nullable=False),
        sa.Column("at", sa.Float, nullable=False, index=True),
        sa.Column("span", sa.Float, nullable=False),
        sa.Column("cpus", sa.Float, nullable=False),
        sa.Column("memory", sa.Float, nullable=False),
        sa.Column("disk", sa.Float),
        sa.Column("network", sa.Float),
        sa.Column("steal", sa.Float, nullable=False),
    )
    op.create_table(
        "plan",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("asked", sa.Text, nullable=False),
        sa.Column("asked_by", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("lease_until", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("exit_code", sa.Integer),
        sa.Column("wish", sa.String),
        sa.Column("wish_by", sa.String),
    )
    op.create_table(
        "plan_move",
        sa.Column("plan", sa.Integer, sa.ForeignKey("plan.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("n", sa.Integer, primary_key=True),
        sa.Column("vm_uuid", sa.String, nullable=False),
        sa.Column("vm_name", sa.String, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("target", sa.String, nullable=False),
        sa.Column("about", sa.Text, nullable=False),
        sa.Column("waits_for", sa.Text, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("job", sa.Integer),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("exit_code", sa.Integer),
        sa.Column("began_at", sa.Float),
        sa.Column("ended_at", sa.Float),
    )
    op.create_table(
        "away",
        sa.Column("vm_uuid", sa.String, primary_key=True),
        sa.Column("vm_name", sa.String, nullable=False),
        sa.Column("host", sa.String, nullable=False),
        sa.Column("runs", sa.Boolean, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
