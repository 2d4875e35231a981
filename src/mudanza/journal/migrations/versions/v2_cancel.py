"""Schema 2: others than its owner may ask for a job to be cancelled."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add who wants a job cancelled, and since when."""
    op.add_column("job", sa.Column("cancel_asked_by", sa.String))
    op.add_column("job", sa.Column("cancel_asked_at", sa.Float))
    op.execute("UPDATE about SET version = 2")
