"""``examples/postgres.py`` keeps the contract, on a PostgreSQL server that is started for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tinyauthstore.testing import AdapterContract

psycopg = pytest.importorskip("psycopg", reason="needs psycopg 3")
sys.path.insert(0, str(Path(__file__).with_name("examples")))

from postgres import LOCK, PostgresAdapter  # noqa: E402
from servers import postgres_server  # noqa: E402

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Where its socket is."""
    with postgres_server() as folder:
        yield folder


class Schemas:
    """Stores of one database, each with tables in a schema of its own. Making tables takes longer than most tests, so
    the next test finds those of the one before, empty."""

    def __init__(self, server: str) -> None:
        self._conninfo = f"host={server} user=postgres dbname=postgres"
        self._door = psycopg.connect(self._conninfo, autocommit=True)
        self._made = 0
        self._used = 0

    def conninfo(self, number: int) -> str:
        return f"{self._conninfo} options='-c search_path=s{number}'"

    def begin(self) -> None:
        self._used = 0

    def make(self, **options: Any) -> PostgresAdapter:
        number = self._used = self._used + 1
        if number > self._made:
            self._door.execute(f"CREATE SCHEMA s{number}")
            with PostgresAdapter(self.conninfo(number)) as store:
                store.create_all()
            self._made = number
        else:
            kinds = ("accounts", "sessions", "verification_tokens", "authenticators", "users")
            self._door.execute(";".join(f"DELETE FROM s{number}.{kind}" for kind in kinds))
        return PostgresAdapter(self.conninfo(number), lock=LOCK + number, **options)

    def close(self) -> None:
        self._door.close()


@pytest.fixture(scope="module")
def schemas(server: str) -> Iterator[Schemas]:
    made = Schemas(server)
    yield made
    made.close()


@pytest.fixture
def make(schemas: Schemas) -> Make:
    schemas.begin()
    return schemas.make


class TestPostgres(AdapterContract):
    @pytest.fixture
    def make_adapter(self, make: Make) -> Make:
        return make
