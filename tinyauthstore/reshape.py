"""How a SQLite file comes to fit the models that open it, and what shelves have in common with that.

``Changes`` compares the two. Whatever loses nothing it can ``make``, in the transaction of its caller:
tables, columns and indexes that are missing, a column that must allow None or no longer does, values for rows
from before a field, and what version 1 of the schema lacked. A column of another type is ``wrong``.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from .models import NORMAL_FORMS, USER, VERIFICATION_TOKEN, Field
from .rows import IN_PYTHON
from .encodings import codec_of
from .errors import warn
from .schema import USER_VERSION, quoted
from .statements import NOT_OUR_SHAPE, Compiled, Statements, Stored, kind_of

INSPECT = (
    'SELECT m.name, c.name, c.type, c."notnull", c.dflt_value'
    " FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type = 'table'"
    " UNION ALL SELECT tbl_name, 'index ' || name, '', 0, NULL FROM sqlite_schema WHERE type = 'index'"
)
"""Every table's columns, and its indexes, in one query."""

INDEXES_OVER = (
    "SELECT m.name, m.sql FROM sqlite_schema m WHERE m.type = 'index' AND m.tbl_name = ?"
    " AND m.sql IS NOT NULL AND EXISTS (SELECT 1 FROM pragma_index_info(m.name) i WHERE i.name = ?)"
)
"""The indexes, with the statements that make them, over a table's column."""

NOT_ASCII = "{0} GLOB '*[^ -~]*' OR length({0}) != length(CAST({0} AS BLOB))"
"""The SQL condition that a text is more than printable ASCII."""


class Collision(Exception):
    """Two users of version 1, with these ids, would have one address."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(
            f"cannot be converted to version {USER_VERSION}: the users {one!r} and {other!r} would have the"
            " same e-mail address; change or delete one of them with the version that wrote the file"
        )


def tell_rekeyed(path: str, users: Sequence[str]) -> None:
    """Log the ids of the users, if any, whose addresses are looked up otherwise than before."""
    if users:
        warn(
            "%s was converted to version %d: the e-mail addresses of these users are looked up by another"
            " normal form than before: %s",
            path, USER_VERSION, ", ".join(map(repr, users)),
        )  # fmt: skip


def email_key_of_version_1(email: str) -> str | None:
    """The normal form that version 1 gave an address: NFKC. SQLite files have it; shelves do not."""
    try:
        email.encode()
    except UnicodeEncodeError:
        return None
    lower = unicodedata.normalize("NFKC", email).lower()
    return unicodedata.normalize("NFKC", lower).strip() or None


class Present(NamedTuple):
    """A column that the file has."""

    name: str
    sql_type: str
    not_null: bool
    default: str | None


class Changes:
    """What a file lacks, in words (``missing``), and what cannot be mended (``wrong``).

    ``run`` executes a statement and returns its rows.
    """

    def __init__(self, schema: Compiled, run: Callable[..., list[Any]]) -> None:
        self._run = run
        self.missing: list[str] = []
        self.wrong: list[str] = []
        self.steps: list[Callable[[], object]] = []
        self._rekeyed: list[str] = []
        self._present = {(row[0], row[1].lower()): row for row in run(INSPECT)}  # by table and name
        self._tables = {table for table, _ in self._present}
        # In a file that is somebody else's, a table of theirs may have a name that ours should get.
        self._theirs = {name for (name,) in run(NOT_OUR_SHAPE)} if schema.foreign else set[str]()
        version = USER_VERSION if schema.foreign else run("PRAGMA user_version")[0][0]
        self._converted = bool(self._tables) and version < USER_VERSION
        if self._converted:
            what = "the types of custom fields, other normal forms of addresses"
            self.missing.append(
                f"what version {USER_VERSION} of the schema added to version {version} ({what})"
            )
        self._kinds_table, self._select_kinds = schema.kinds, schema.select_kinds
        ours = [table for table in schema.tables.values() if table.ours]
        if ours and schema.kinds not in self._tables:
            self._add(None if self._converted else f"table {schema.kinds}", schema.create_kinds)
        for table in ours:
            self._compare(table)
            if self._converted and table.entity in (USER, VERIFICATION_TOKEN):
                self.steps.append(functools.partial(self._rekey, table))

    def make(self) -> None:
        """Add and convert it all. Collision if two users would have one address: then roll back."""
        for step in self.steps:
            step()

    def tell(self, path: str) -> None:
        """Log whose look-ups have changed. To be called when the changes are committed."""
        tell_rekeyed(path, self._rekeyed)

    def _add(self, what: str | None, *statements: str) -> None:
        self.steps += [functools.partial(self._run, sql) for sql in statements]
        if what is not None:
            self.missing.append(what)

    # -- what is missing

    def _compare(self, table: Statements) -> None:
        name = table.name
        if name not in self._tables:
            self._mend(f"table {name}", functools.partial(self._create, table))
            return
        lost = [column.name for column in table.columns if (name, column.name.lower()) not in self._present]
        if lost and name in self._theirs:
            self.wrong.append(f"table {name} lacks {', '.join(lost)}, and is not ours to extend: name ours otherwise")
            return
        for column in table.columns:
            row = self._present.get((name, column.name.lower()))
            if row is None:
                self._add(f"column {name}.{column.name} ({column.definition})", table.add_column(column))
                if (f := column.custom) is not None:
                    self._add(None, table.record_kind(f))
                    if column.each_its_own:
                        self.steps.append(functools.partial(self._fill, table, f, f.name))
                continue
            _, spelt, sql_type, not_null, default = row
            if column.custom is not None:
                present = Present(spelt, sql_type, not_null, default)
                self._compare_custom(table, column, column.custom, present)
            elif sql_type != column.sql_type:
                self.wrong.append(
                    f"column {name}.{column.name} is {sql_type}, the model needs {column.sql_type}"
                )
        for index, statement in table.indexes().items():
            if (name, f"index {index}".lower()) not in self._present:
                self._add(f"index {index}", statement)

    @functools.cached_property
    def _kinds(self) -> dict[tuple[str, str], str]:
        """What is recorded of custom fields; asked for when a model has one."""
        if self._kinds_table not in self._tables:
            return {}
        kinds = self._run(self._select_kinds)
        return {(table, field.lower()): kind for table, field, kind in kinds}

    def _compare_custom(self, table: Statements, column: Stored, f: Field, present: Present) -> None:
        name, where = table.name, f"column {table.name}.{present.name}"
        field, recorded = (
            f"{f.model.__name__}.{f.name}",
            self._kinds.get((table.name, f.name.lower())),
        )
        kind = recorded.partition(" ")[0] if recorded else None
        if present.sql_type != column.sql_type or kind not in (None, f.kind.name):
            known = f"{IN_PYTHON.get(kind, kind)} ({present.sql_type})" if kind else present.sql_type
            wanted = f"{IN_PYTHON[f.kind.name]} ({column.sql_type})"
            self.wrong.append(f"{where} holds {known}, {field} is {wanted}")
            return
        if recorded != kind_of(f):
            misfit = table.misfit(f)
            if misfit and self._run(f"SELECT 1 FROM {quoted(name)} WHERE {misfit} LIMIT 1"):
                self.wrong.append(f"{where} holds other values than {field} has, which is {f.kind.expected}")
                return
            told = None if recorded or self._converted else f"the type of {where}"
            self._add(told, table.record_kind(f))
        rebuild = functools.partial(self._rebuild, table, column, f, present)
        if column.not_null and not present.not_null:
            self._mend(f"NOT NULL in {where}, as {field} cannot be None", rebuild)
        elif present.not_null and f.optional:
            self._mend(f"room for None in {where}, which {field} may be", rebuild)
        elif present.default != column.default and not f.factory:
            self._mend(f"the default {column.default or 'NULL'} of {where}", rebuild)
        elif present.default is not None and column.each_its_own:
            self._mend(f"a value of its own for each row in {where}", rebuild)
        elif (
            column.each_its_own
            and not f.optional
            and self._run(f"SELECT 1 FROM {quoted(name)} WHERE {quoted(f.name)} IS NULL LIMIT 1")
        ):
            fill = functools.partial(self._fill, table, f, f.name)
            self._mend(f"values of {where} in rows that a store without {field} wrote", fill)

    def _mend(self, what: str, step: Callable[[], object]) -> None:
        self.missing.append(what)
        self.steps.append(step)

    # -- mending

    def _create(self, table: Statements) -> None:
        for statement in table.create():
            self._run(statement)

    def _rebuild(self, table: Statements, column: Stored, f: Field, present: Present) -> None:
        """Put a column with another definition into the old one's place; all else about the table stays.

        SQLite cannot alter a column. Building the whole table anew would lose other people's triggers, and
        what they said of their columns; dropping the old one would, by cascade, empty the other tables.
        """
        name, draft, value = quoted(table.name), f"{f.name} new", quoted(present.name)
        indexes = self._run(INDEXES_OVER, (table.name, present.name))
        if column.not_null:
            value = f"COALESCE({value}, {quoted(draft)})"
        for index, _ in indexes:
            self._run(f"DROP INDEX {quoted(index)}")
        self._run(table.add_column(column._replace(name=draft)))
        self._run(f"UPDATE {name} SET {quoted(draft)} = {value}")
        if column.each_its_own and not f.optional:
            self._fill(table, f, draft)
        self._run(f"ALTER TABLE {name} DROP COLUMN {quoted(present.name)}")
        self._run(f"ALTER TABLE {name} RENAME COLUMN {quoted(draft)} TO {quoted(f.name)}")
        for _, sql in indexes:
            self._run(sql)

    def _fill(self, table: Statements, f: Field, column: str) -> None:
        """Give each row that has no value there one of its own."""
        name, encode = quoted(table.name), codec_of(f.kind).encode
        keys, which = (
            ", ".join(map(quoted, table.key)),
            " AND ".join(f"{quoted(part)} = ?" for part in table.key),
        )
        assert f.default is not None
        for key in self._run(f"SELECT {keys} FROM {name} WHERE {quoted(column)} IS NULL"):
            value = f.check(f.default())
            value = encode(value) if encode is not None and value is not None else value
            self._run(f"UPDATE {name} SET {quoted(column)} = ? WHERE {which}", (value, *key))

    def _rekey(self, table: Statements) -> None:
        """Compute the normal forms again. Those of ASCII are what they were."""
        if table.entity is USER:
            self._rekey_users()
        elif table.name in self._tables:
            normal = NORMAL_FORMS["identifier"]
            rows = "SELECT identifier_key, token_digest, identifier FROM verification_tokens WHERE "
            for old, digest, identifier in self._run(rows + NOT_ASCII.format("identifier")):
                if (new := normal(identifier)) is None:  # nobody can ask for it any more
                    which = "DELETE FROM verification_tokens WHERE identifier_key = ? AND token_digest = ?"
                    self._run(which, (old, digest))
                elif new != old:
                    change = "UPDATE OR REPLACE verification_tokens SET identifier_key = ?"
                    self._run(f"{change} WHERE identifier_key = ? AND token_digest = ?", (new, old, digest))

    def _rekey_users(self) -> None:
        changed = [*self._changed_users()] if "users" in self._tables else []
        for user_id, _ in changed:
            self._run("UPDATE users SET email_key = NULL WHERE id = ?", (user_id,))
        for user_id, new in changed:
            for (other,) in self._run("SELECT id FROM users WHERE email_key = ?", (new,)):
                raise Collision(other, user_id)
            self._run("UPDATE users SET email_key = ? WHERE id = ?", (new, user_id))
        self._rekeyed = [user_id for user_id, _ in changed]

    def _changed_users(self) -> Iterator[tuple[str, str | None]]:
        rows = "SELECT id, email, email_key FROM users WHERE "
        for user_id, email, old in self._run(rows + NOT_ASCII.format("email")):
            if (new := NORMAL_FORMS["email"](email)) != old:
                yield user_id, new
