"""Schema 17: VMs that are protected at one instant."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("protection", sa.Column("group", sa.String, nullable=False, server_default=sa.text("''")))
    op.add_column("restore_point", sa.Column("instant", sa.String, nullable=False, server_default=sa.text("''")))
