"""Schema 1: hosts, pairs of them, jobs and their steps."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the first tables."""
    about = op.create_table("about", sa.Column("version", sa.Integer, nullable=False))
    op.bulk_insert(about, [{"version": 1}])
    op.create_table(
        "host",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("uri", sa.String, nullable=False),
        sa.Column("peer_uri", sa.String),
        sa.Column("migration_address", sa.String),
        sa.Column("tls_name", sa.String),
        sa.Column("maintenance", sa.Boolean, nullable=False),
        sa.Column("tags", sa.Text, nullable=False),
    )
    op.create_table(
        "pair",
        sa.Column("source", sa.String, primary_key=True),
        sa.Column("target", sa.String, primary_key=True),
        sa.Column("tls", sa.String, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("seen_at", sa.Float, nullable=False),
    )
    op.create_table(
        "job",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("vm_uuid", sa.String, nullable=False),
        sa.Column("vm_name", sa.String, nullable=False),
        sa.Column("busy", sa.String, unique=True),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("target", sa.String, nullable=False),
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
        sa.Column("report", sa.Text, nullable=False),
    )
    op.create_table(
        "step",
        sa.Column("job", sa.Integer, sa.ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("n", sa.Integer, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("intent", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float),
    )
