"""Schema 23: whether devices switch the hosts that they are said to, how VMs are kept up, and when guests answered."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    """Add the tables and the columns."""
    op.create_table(
        "fence_match",
        sa.Column("host", sa.String, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("verdict", sa.String, nullable=False),
        sa.Column("said", sa.Text, nullable=False),
        sa.Column("asked_by", sa.String, nullable=False),
    )
    op.create_table(
        "answered",
        sa.Column("job", sa.Integer, sa.ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("at", sa.Float),
        sa.Column("said", sa.Text, nullable=False),
    )
    op.add_column("fencing", sa.Column("silent", sa.Float))
    op.add_column("kept_up", sa.Column("from_replica", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("kept_up", sa.Column("max_loss", sa.Float))
    op.add_column("kept_up", sa.Column("on_hang", sa.String, nullable=False, server_default="tell"))
    op.add_column("kept_up", sa.Column("hang_after", sa.Float, nullable=False, server_default="120"))
    op.add_column("kept_up", sa.Column("answers", sa.Text, nullable=False, server_default=sa.text("''")))
