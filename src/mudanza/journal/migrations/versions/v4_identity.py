"""Schema 4: each journal has a random id, by which claims on VMs tell whose they are."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Give this journal its id."""
    identity = op.create_table("identity", sa.Column("journal", sa.String, primary_key=True))
    op.bulk_insert(identity, [{"journal": secrets.token_hex(16)}])
