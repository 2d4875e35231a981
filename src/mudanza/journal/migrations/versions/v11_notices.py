"""Schema 11: figures of jobs that ended, what others want to hear of, and who is still to be told."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "tally",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("labels", sa.String, primary_key=True),
        sa.Column("edge", sa.String, primary_key=True),
        sa.Column("value", sa.Float, nullable=False),
    )
    op.create_table(
        "happening",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.Float, nullable=False, index=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("said", sa.Text, nullable=False),
        sa.Column("about", sa.Text, nullable=False),
        sa.Column("given_at", sa.Float),
    )
    op.create_table(
        "delivery",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column(
            "happening", sa.Integer, sa.ForeignKey("happening.id", ondelete="CASCADE"), nullable=False, index=True
        ),
        sa.Column("webhook", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("next_at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float),
        sa.Column("answer", sa.Text, nullable=False),
    )
