"""Schema 24: several replicas of one VM, each at a host of its own; which are paused, or tried on schedule."""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    """Add the columns, and let a VM be in the table once for each host instead of once."""
    nothing = sa.text("''")
    op.add_column("protection", sa.Column("test_every", sa.Float))
    limit = sa.Column("test_limit", sa.Float, nullable=False, server_default=sa.text("300"))
    op.add_column("protection", limit)
    op.add_column("protection", sa.Column("tested_at", sa.Float))
    op.add_column("protection", sa.Column("tested", sa.Text, nullable=False, server_default=nothing))
    op.add_column("protection", sa.Column("paused_by", sa.String, nullable=False, server_default=nothing))
    op.add_column("restore_point", sa.Column("epoch", sa.Integer, nullable=False, server_default=sa.text("0")))
    # What a VM that has come up elsewhere stands on was taken before; all other points under the epoch it is under.
    op.execute(
        "UPDATE restore_point SET epoch = (SELECT CASE WHEN protection.standing = 'on' THEN protection.epoch "
        "ELSE protection.epoch - 1 END FROM protection WHERE protection.id = restore_point.protection)"
    )
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("protection_vm_uuid_key", "protection", type_="unique")
        op.create_unique_constraint("protection_one_at_each_host", "protection", ["vm_uuid", "target"])
        return
    # SQLite can only make the table anew, and with the old one would go whatever refers to it.
    op.execute("CREATE TEMPORARY TABLE kept_point AS SELECT * FROM restore_point")
    op.execute("CREATE TEMPORARY TABLE kept_trial AS SELECT * FROM trial")
    op.execute("DELETE FROM restore_point")
    op.execute("DELETE FROM trial")
    with op.batch_alter_table("protection", recreate="always", copy_from=_protection()):
        pass
    op.execute("INSERT INTO restore_point SELECT * FROM kept_point")
    op.execute("INSERT INTO trial SELECT * FROM kept_trial")
    op.execute("DROP TABLE kept_point")
    op.execute("DROP TABLE kept_trial")


def _protection() -> sa.Table:
    """Return the table as it is from now on."""
    nothing = sa.text("''")
    return sa.Table(
        "protection",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("vm_uuid", sa.String, nullable=False),
        sa.Column("vm_name", sa.String, nullable=False),
        sa.Column("target", sa.String, nullable=False),
        sa.Column("directory", sa.String, nullable=False),
        sa.Column("every", sa.Float, nullable=False),
        sa.Column("keep", sa.Integer, nullable=False),
        sa.Column("scratch", sa.BigInteger, nullable=False),
        sa.Column("standing", sa.String, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("autostart", sa.Boolean, nullable=False),
        sa.Column("checkpoint", sa.String, nullable=False),
        sa.Column("rounds", sa.Integer, nullable=False),
        sa.Column("made_by", sa.String, nullable=False),
        sa.Column("made_at", sa.Float, nullable=False),
        sa.Column("tried_at", sa.Float),
        sa.Column("said", sa.Text, nullable=False),
        sa.Column("seed", sa.Text, nullable=False, server_default="{}"),
        sa.Column("group", sa.String, nullable=False, server_default=nothing),
        sa.Column("bandwidth", sa.BigInteger),
        sa.Column("verify_every", sa.Float),
        sa.Column("verified_at", sa.Float),
        sa.Column("freeze_every", sa.Integer),
        sa.Column("compress", sa.String, nullable=False, server_default=sa.text("'auto'")),
        sa.Column("carriage", sa.Text, nullable=False, server_default="{}"),
        sa.Column("test_every", sa.Float),
        sa.Column("test_limit", sa.Float, nullable=False, server_default=sa.text("300")),
        sa.Column("tested_at", sa.Float),
        sa.Column("tested", sa.Text, nullable=False, server_default=nothing),
        sa.Column("paused_by", sa.String, nullable=False, server_default=nothing),
        sa.UniqueConstraint("vm_uuid", "target", name="protection_one_at_each_host"),
    )
