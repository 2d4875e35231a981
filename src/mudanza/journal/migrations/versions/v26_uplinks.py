"""Schema 26: hosts that were closed to newcomers because their guests have lost their network."""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "uplink_loss",
        sa.Column("host", sa.String, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("networks", sa.Text, nullable=False),
        sa.Column("closed", sa.Boolean, nullable=False),
    )
