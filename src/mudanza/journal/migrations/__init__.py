"""How the database came to be what it is, one schema after the other, carried out by Alembic."""
