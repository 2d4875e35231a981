"""A PostgreSQL database whose clock is the simulation's.

Leases are measured by the database's own clock, in which a simulated hour is a moment. The product asks for it in one
way only, ``clock_timestamp()``. So this database has a function of that name, which PostgreSQL finds before its own,
and each transaction tells it first what time it is: no transaction of the product's lasts longer than that instant
of virtual time. (SQLite has no clock but its program's: there it is ``mudanza.clock`` that the simulation replaces.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, create_engine, event, make_url

from mudanza import clock

_TOLD = "time told to this transaction"
_CLOCK = """
CREATE SCHEMA simulation;
CREATE FUNCTION simulation.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql
    AS $$ SELECT to_timestamp(current_setting('simulation.now')::float8) $$;
"""


@contextmanager
def simulated_time_in(database: str) -> Iterator[None]:
    """Have a new, empty PostgreSQL database live by ``mudanza.clock`` while the block runs."""
    url = make_url(database)
    engine = create_engine(url.set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        connection.exec_driver_sql(_CLOCK)
        connection.exec_driver_sql(f'ALTER DATABASE "{url.database}" SET search_path = public, simulation, pg_catalog')
    engine.dispose()

    def tell_the_time(connection: Connection) -> None:
        if connection.engine.url.database == url.database:
            told = connection.info[_TOLD] = clock.time()
            connection.exec_driver_sql("SELECT set_config('simulation.now', %s, true)", (repr(told),))

    def see_that_none_has_passed(connection: Connection) -> None:
        if connection.engine.url.database == url.database:
            assert connection.info[_TOLD] == clock.time(), "time has passed within a transaction"

    hooks = {"begin": tell_the_time, "commit": see_that_none_has_passed}
    for name, hook in hooks.items():
        event.listen(Engine, name, hook)
    try:
        yield
    finally:
        for name, hook in hooks.items():
            event.remove(Engine, name, hook)
