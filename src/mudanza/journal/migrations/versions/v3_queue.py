"""Schema 3: a queue, the story of each job, who asked for what, who wrote a job; and no passwords any more."""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

from mudanza.journal.secrets import without_secrets

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add columns and tables, and take passwords out of what earlier versions wrote."""
    op.add_column("job", sa.Column("queued_at", sa.Float))
    op.add_column("job", sa.Column("plan", sa.Integer))
    # A program of schema 2 that is still at work names none of these when it writes.
    op.add_column("job", sa.Column("protocol", sa.Integer, nullable=False, server_default="1"))
    op.add_column("job", sa.Column("written_by", sa.String, nullable=False, server_default=sa.text("''")))
    op.create_table(
        "event",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("job", sa.Integer, sa.ForeignKey("job.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("ends", sa.Integer),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("command", sa.Text, nullable=False),
        sa.Column("exit_code", sa.Integer),
        sa.Column("outcome", sa.Text, nullable=False),
    )
    _hide_secrets()
    op.execute("UPDATE about SET version = 3")  # which earlier versions look at, and refuse


def _hide_secrets() -> None:
    step = sa.table("step", *(sa.column(name) for name in ("job", "n", "intent", "outcome")))
    connection = op.get_bind()
    for row in connection.execute(sa.select(step)).all():
        clean = {name: _clean(getattr(row, name)) for name in ("intent", "outcome")}
        if clean != {"intent": row.intent, "outcome": row.outcome}:
            connection.execute(sa.update(step).where(step.c.job == row.job, step.c.n == row.n).values(**clean))


def _clean(text: str | None) -> str | None:
    if text is None:
        return None
    before: Any = json.loads(text)
    after = without_secrets(before)
    return text if after == before else json.dumps(after)
