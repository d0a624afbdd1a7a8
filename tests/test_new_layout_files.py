"""A new file in another library's layout is declared as that library's own tool would have made it.

The tools compare what they find with what they would make: drizzle-kit, Prisma's ``db push`` and TypeORM's
``synchronize`` drop or remake what is another. Here the official adapters' sample files stand for them.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tinyauthstore import SQLiteAdapter, layouts

SAMPLES = Path(__file__).parent / "files" / "authjs"


def declared(path: Path, what: str) -> dict[str, Any]:
    """Of each table: its columns, its keys to other tables, its indexes, or the names of its constraints."""
    with closing(sqlite3.connect(path)) as connection:

        def run(sql: str, *parameters: str) -> list[Any]:
            return connection.execute(sql, parameters).fetchall()

        tables = {
            name: sql
            for name, sql in run("SELECT name, sql FROM sqlite_schema WHERE type = 'table'")
            if not name.startswith(("sqlite_", "__"))
        }
        if what == "columns":
            sql = 'SELECT name, lower(type), "notnull" OR pk, dflt_value, pk FROM pragma_table_info(?)'
            return {table: set(run(sql, table)) for table in tables}
        if what == "foreign keys":
            sql = 'SELECT "table", "from", "to", on_update, on_delete FROM pragma_foreign_key_list(?)'
            return {table: set(run(sql, table)) for table in tables}
        if what == "names of constraints":
            return {table: set(re.findall(r'CONSTRAINT "([^"]+)"', sql)) for table, sql in tables.items()}
        sql = 'SELECT name, "unique", origin FROM pragma_index_list(?)'
        return {
            table: {
                (
                    name if origin == "c" else origin,
                    unique,
                    *run("SELECT name FROM pragma_index_info(?)", name),
                )
                for name, unique, origin in run(sql, table)
            }
            for table in tables
        }


@pytest.fixture
def new_file(layout: str, tmp_path: Path) -> Path:
    path = tmp_path / "new.sqlite"
    SQLiteAdapter(path, schema=getattr(layouts, layout)).close()
    return path


def sample(layout: str) -> Path:
    return SAMPLES / f"{layout.replace('_', '-')}.sqlite"


COMPARED = ("drizzle", "prisma", "typeorm", "better_auth")
"""What has a tool that compares."""


@pytest.mark.parametrize("layout", [*COMPARED, "kysely", "sequelize", "d1"])
@pytest.mark.parametrize("what", ["indexes", "foreign keys"])
def test_a_new_file_has_the_library_s_indexes_and_keys(layout: str, what: str, new_file: Path) -> None:
    assert declared(new_file, what) == declared(sample(layout), what)


@pytest.mark.parametrize("layout", COMPARED)
@pytest.mark.parametrize("what", ["columns", "names of constraints"])
def test_a_new_file_has_just_the_columns_that_the_library_s_tool_expects(
    layout: str, what: str, new_file: Path
) -> None:
    assert declared(new_file, what) == declared(sample(layout), what)


@pytest.mark.parametrize("layout", ["better_auth"])
def test_an_index_goes_by_its_column_s_new_name(layout: str, tmp_path: Path) -> None:
    renamed = layouts.better_auth.renamed(columns=layouts.snake_case)
    SQLiteAdapter(tmp_path / "new.sqlite", schema=renamed).close()
    assert declared(tmp_path / "new.sqlite", "indexes")["session"] >= {
        ("session_userId_idx", 0, ("user_id",))
    }
