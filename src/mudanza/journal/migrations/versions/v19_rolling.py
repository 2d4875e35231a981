"""Schema 19: commands that are run on one host after the other, what fence devices say when they are tested, and where
VMs that are kept up ran last, and after whom they are started."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "rolling",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("asked", sa.Text, nullable=False),
        sa.Column("asked_by", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("wish_by", sa.String, nullable=False),
    )
    op.create_table(
        "rolling_host",
        sa.Column("rolling", sa.Integer, sa.ForeignKey("rolling.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("n", sa.Integer, primary_key=True),
        sa.Column("host", sa.String, nullable=False),
        sa.Column("stage", sa.String, nullable=False),
        sa.Column("before", sa.Text, nullable=False),
        sa.Column("boot", sa.String, nullable=False),
        sa.Column("begun_at", sa.Float),
        sa.Column("exit_code", sa.Integer),
        sa.Column("output", sa.Text, nullable=False),
        sa.Column("taken", sa.BigInteger, nullable=False),
        sa.Column("said", sa.Text, nullable=False),
    )
    op.add_column("kept_up", sa.Column("ran_on", sa.String, nullable=False, server_default=sa.text("''")))
    op.add_column("kept_up", sa.Column("after", sa.Text, nullable=False, server_default="[]"))
    op.create_table(
        "fence_test",
        sa.Column("host", sa.String, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("fault", sa.Text, nullable=False),
    )
