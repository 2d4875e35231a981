"""Schema 12: what was on each host when it was last seen."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "sighting",
        sa.Column("host", sa.String, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("seen", sa.Text, nullable=False),
    )
