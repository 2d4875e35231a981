"""Schema 22: where a copy of the journal is kept, and whether it has been taken over there."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    """Add the tables, and the one row."""
    op.create_table(
        "standby",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("directory", sa.String, nullable=False),
        sa.Column("every", sa.Float, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("taken_at", sa.Float),
        sa.Column("size", sa.BigInteger),
        sa.Column("tried_at", sa.Float),
        sa.Column("said", sa.Text, nullable=False),
        sa.Column("made_by", sa.String, nullable=False),
        sa.Column("made_at", sa.Float, nullable=False),
    )
    reign = op.create_table(
        "reign",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("replaced", sa.Text, nullable=False),
        sa.Column("looked_at", sa.Float, nullable=False),
    )
    op.bulk_insert(reign, [{"id": 1, "number": 0, "replaced": "", "looked_at": 0.0}])
