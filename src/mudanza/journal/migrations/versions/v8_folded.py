"""Schema 8: readings that stand for several."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add what is kept of several readings that were folded into one; all there are stand for themselves."""
    op.add_column("reading", sa.Column("fold", sa.Float))
    op.add_column("reading", sa.Column("folded", sa.Text))
