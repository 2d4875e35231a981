"""Schema 21: what restore points are like, what else of a VM they have, and what their data weighed on the way."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("protection", sa.Column("freeze_every", sa.Integer))
    op.add_column("protection", sa.Column("compress", sa.String, nullable=False, server_default=sa.text("'auto'")))
    op.add_column("protection", sa.Column("carriage", sa.Text, nullable=False, server_default="{}"))
    crash, nothing = sa.text("'crash'"), sa.text("''")
    op.add_column("restore_point", sa.Column("consistency", sa.String, nullable=False, server_default=crash))
    op.add_column("restore_point", sa.Column("firmware", sa.Text, nullable=False, server_default=nothing))
    op.add_column("restore_point", sa.Column("sent", sa.BigInteger))
    op.add_column("restore_point", sa.Column("why_not", sa.Text, nullable=False, server_default=nothing))
