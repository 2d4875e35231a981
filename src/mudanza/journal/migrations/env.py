"""What Alembic runs: the upgrade within the transaction of whoever has opened the database and locked it."""

from alembic import context

from mudanza.journal.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
