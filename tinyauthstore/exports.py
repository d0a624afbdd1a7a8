"""The same records as other systems load them in bulk, where Auth.js's official adapters then serve them.

Each class below is one system; its docstring says what the adapter there looks for. Sources: the code of the
adapters (nextauthjs/next-auth, packages/adapter-*), and what they wrote themselves (tests/files/remote).

Common to all: an e-mail address is written in its normal form, because Auth.js asks for lower case and the
adapters compare exactly. Times are exact to the millisecond, as JavaScript's are. A digest is never written in
the place of a token: whoever has an old copy of our file could present it as a cookie. Half a surrogate pair,
which UTF-8 cannot hold and only what a provider sent may contain, becomes "?".
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, BinaryIO, ClassVar, NamedTuple, NoReturn

from .base import brief
from .clock import UTC
from .errors import InvalidFieldError
from .models import (
    ACCOUNT, AUTHENTICATOR, AUTHJS_NAMES, ENTITIES, NORMAL_FORMS, NOT_IN_AUTHJS, SESSION, USER,
    VERIFICATION_TOKEN, Counts, Entity, Field, fields_of,
)
from .portable import Moved, _homes


def export(
    store: Any, file: BinaryIO, format: str, *, tool: str | None = None, into: str | None = None,
    warn: Callable[[str], object] | None = None,
) -> Moved:
    """Write every record that another system can take to ``file``. Returns how many moved, and what did not.

    ``format`` is one of ``FORMATS``. ``tool``: whose tables in PostgreSQL, one of ``TOOLS`` (None: ``pg``).
    ``into``: DynamoDB's table (None: ``next-auth``), or the adapter's ``baseKeyPrefix`` in Redis (None: none).
    ``warn`` is called with a sentence for each reason to leave something out, before the first byte is written;
    what it raises ends the export.

    The store is read twice, the first time only to learn what the target refuses: InvalidFieldError, before
    the first byte, names the first record without which the others would be wrong, and says how many there
    are; it comes in the middle if somebody adds such a record in between. ValueError for an unknown format or
    tool, or an option that is not the format's. TypeError for a store, or a part of a ``SplitAdapter``, that
    is no ``BaseAdapter``: ``copy`` it into one first.

    Memory is constant: users are written one by one, each with all that belongs to them, so that nothing
    refers to a user who is not there. What others change meanwhile may be in the export or not.
    """
    rehearsal, refused, first = _target(format, tool, into), 0, None
    for entity, record in _everything(store):
        try:
            rehearsal.take(entity, record)
        except InvalidFieldError as error:
            first, refused = first or error, refused + 1
    if first is not None:
        message = f"{first} (refused so: {refused}); nothing was written"
        raise InvalidFieldError(message, model=first.model, field=first.field, expected=first.expected)
    if warn is not None:
        for reason, count in rehearsal.left_out.items():
            warn(f"{count} {reason}")
    target = _target(format, tool, into)
    for data in _written(store, target):
        file.write(data)
    return Moved(Counts(**target.records), target.left_out)


# --- from a store to a target -----------------------------------------------------------------


def _records(home: Any, entity: Entity, user_id: str | None = None) -> Iterator[tuple[Entity, Any]]:
    """All records of a kind in its store, or one user's, each with its kind; None for each that has expired.

    A session or verification token has its token only if the store's keys are what Auth.js looks for, as in the
    files of other libraries: the token itself, or the digest that Auth.js makes of the one in a mail.
    """
    secret = None
    if entity.withheld:
        part = home._part(entity, "token")
        if part == "token" or (entity is VERIFICATION_TOKEN and isinstance(part, str)):
            secret = entity.withheld[0]
    found = home._walk(entity) if user_id is None else home._find(entity, user_id).items()
    for key, record in found:
        if secret is not None:
            record = dataclasses.replace(record, **{secret: key[-1]})
        yield entity, home._live(record) if entity.withheld else record


def _everything(store: Any) -> Iterator[tuple[Entity, Any]]:
    """Every user, each followed by what belongs to them; then the verification tokens."""
    homes = _homes(store)
    for _, user in _records(homes[USER], USER):
        yield USER, user
        for entity in (ACCOUNT, AUTHENTICATOR, SESSION):
            yield from _records(homes[entity], entity, user.id)
    yield from _records(homes[VERIFICATION_TOKEN], VERIFICATION_TOKEN)


def _written(store: Any, target: _Target) -> Iterator[bytes]:
    """The whole export, in pieces. All groups are written together, users first: others refer to them."""
    yield target.head.encode()
    batch: dict[str, list[bytes]] = {group: [] for group in target.groups}

    def flush() -> Iterator[bytes]:
        for group, items in batch.items():
            if items:
                yield target.pack(group, items)
            items.clear()

    for entity, record in _everything(store):
        for group, item in target.take(entity, record):
            if len(batch[group]) == target.size:
                yield from flush()
            batch[group].append(item)
    yield from flush()
    yield target.foot().encode()


# --- what all targets share -------------------------------------------------------------------

_WITHHELD = {
    SESSION: "only digests of their tokens are stored, which must never stand in the place of a token;"
    " these people sign in again",
    VERIFICATION_TOKEN: "only digests of them are stored; whoever waits for a mail asks for another",
}


_INFINITY = float("inf")


def _milliseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _iso(moment: datetime) -> str:
    """As JavaScript's ``toISOString`` writes it."""
    return f"{moment.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _json(value: Any) -> bytes:
    return _encode(value).encode("utf-8", "replace")


def _names(value: Any, depth: int = 0) -> Iterator[tuple[str, int]]:
    """The names at every depth of a JSON value, each with its depth, which begins at 1."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield name, depth + 1
            yield from _names(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            yield from _names(item, depth + 1)


_OURS = {one: frozenset(AUTHJS_NAMES.get(f.name, f.name) for f in fields_of(one.record)) for one in ENTITIES}
"""What Auth.js calls the fields that it knows."""


@functools.lru_cache(maxsize=256)
def _rewritten(model: Any) -> list[tuple[str, str]]:
    """The fields that are written otherwise than ``to_authjs`` has them: our name of each, and Auth.js's."""
    fields = [f for f in fields_of(model) if f.name in NORMAL_FORMS or f.kind.name == "datetime"]
    return [(f.name, AUTHJS_NAMES.get(f.name, f.name)) for f in fields]


def _value(record: Any, name: str) -> Any:
    """A field's value, an address in its normal form."""
    value, normal = getattr(record, name), NORMAL_FORMS.get(name)
    return value if value is None or normal is None else normal(value)


def _key(entity: Entity, record: Any) -> str:
    return _encode([entity.name, *(_value(record, name) for name in entity.key)])


def _uuid(entity: Entity, record: Any) -> str:
    """An id for what has none here: the same in every export, so that a second one doubles nothing."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, _key(entity, record)))


class _Target:
    """One system, during one pass over the store: what it takes, and how that is written."""

    groups: tuple[str, ...] = ("",)
    size = 500  # items of a group that are written at once
    head = ""
    passkeys = False
    own: frozenset[str] = frozenset()  # names that no field may have which Auth.js does not know

    def __init__(self, name: str) -> None:
        self.name = name
        self.records = {entity.plural: 0 for entity in ENTITIES}
        self.left_out: Counter[str] = Counter()

    def make(self, entity: Entity, record: Any) -> Iterator[tuple[str, bytes]]:
        """What is to be written of a record, each item with its group. InvalidFieldError if it is refused."""
        raise NotImplementedError

    def pack(self, group: str, items: list[bytes]) -> bytes:
        """Items of a group, as they are loaded."""
        raise NotImplementedError

    def foot(self) -> str:
        return ""

    def date(self, name: str, moment: datetime) -> Any:
        return _iso(moment)

    def unfit(self, name: str, depth: int) -> bool:
        """Whether a field that Auth.js does not know must not have that name (depth 1), or have it inside."""
        return False

    def take(self, entity: Entity, record: Any) -> list[tuple[str, bytes]]:
        """What ``make`` makes, counted; ``[]`` for a record that stays behind, counted too."""
        if record is None:
            why = "they have expired"
        elif entity.withheld and not getattr(record, entity.withheld[0]):
            why = _WITHHELD[entity]
        elif entity is AUTHENTICATOR and not self.passkeys:
            why = f"Auth.js's adapter for {self.name} has no place for passkeys"
        else:
            items = list(self.make(entity, record))
            self.records[entity.plural] += 1
            return items
        self.leave(entity, why)
        return []

    def leave(self, entity: Entity, why: str, fields: int = 0) -> None:
        """Count a record that stays behind, or so many of its fields."""
        self.left_out[f"{'fields of ' * (fields > 0)}{entity.plural.replace('_', ' ')}: {why}"] += fields or 1

    def refuse(self, entity: Entity, record: Any, field: str, expected: str) -> NoReturn:
        whose = getattr(record, "user_id", None) or getattr(record, "id", None) or record.identifier
        model = entity.record.__name__
        raise InvalidFieldError(
            f"{model}.{field} of {brief(whose)}: {self.name} takes {expected}",
            model=model, field=field, expected=expected,
        )

    def fields(self, entity: Entity, record: Any) -> dict[str, Any]:
        """The record as Auth.js has it, without the fields that must stay behind."""
        model: Any = type(record)
        fields: dict[str, Any] = record.to_authjs()
        for name in [name for name in fields if name not in _OURS[entity]]:
            why = ""
            if name in self.own or any(self.unfit(*inner) for inner in _names({name: fields[name]})):
                why = f"{self.name} or its adapter would misread their names"
            elif fields[name] in (_INFINITY, -_INFINITY):
                why = "JSON has no infinite numbers"
            if why:
                del fields[name]
                self.leave(entity, why, 1)
        for own, name in _rewritten(model):
            value = _value(record, own)
            if name in fields and own in NORMAL_FORMS:
                fields[name] = value
            elif name in fields and isinstance(value, datetime):
                fields[name] = self.date(name, value)
        return fields


# --- documents --------------------------------------------------------------------------------


class _Redis(_Target):
    """Plain strings, none of which expires: JSON under ``user:ID`` and the like, and keys that lead there.

    ``by-user-id`` leads to one account and one session only, as in the adapter. Users' keys begin as all others
    do, and a colon parts a provider from its account's id; hence what is refused. Upstash's client reads what
    it gets as JSON if it can, so an id that is JSON would not come back as it is.
    """

    own = frozenset({"id"})

    def __init__(self, name: str, prefix: str) -> None:
        super().__init__(name)
        self.prefix = f"{prefix}user:"

    def make(self, entity: Entity, record: Any) -> Iterator[tuple[str, bytes]]:
        fields, kind = self.fields(entity, record), entity.name
        if entity is USER:
            key, kind = record.id, "email"
            if key.startswith(("email:", "account:", "session:", "token:")) or _is_json(key):
                self.refuse(entity, record, "id", "no JSON, and nothing like email:... or account:...")
        elif entity is ACCOUNT:
            if ":" in record.provider or record.provider == "by-user-id":
                self.refuse(entity, record, "provider", "no colon, and not by-user-id")
            fields["id"] = f"{record.provider}:{record.provider_account_id}"
            key = f"account:{fields['id']}"
        elif entity is SESSION:
            key = f"session:{record.session_token}"
        else:
            key = f"token:{fields['identifier']}:{record.token}"
        yield self._set(key, _json(fields))
        if entity is USER and fields["email"] is not None:
            yield self._set(f"email:{fields['email']}", record.id.encode())
        if entity in (ACCOUNT, SESSION):
            yield self._set(f"{kind}:by-user-id:{record.user_id}", (self.prefix + key).encode())

    def _set(self, key: str, value: bytes) -> tuple[str, bytes]:
        parts = (b"SET", (self.prefix + key).encode(), value)
        return "", b"*3\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)

    def pack(self, group: str, items: list[bytes]) -> bytes:
        return b"".join(items)


def _is_json(text: str) -> bool:
    """Whether Upstash's client makes something else of a text; it keeps numbers, but the adapter ignores 0."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return not (isinstance(value, (int, float)) and value)


class _DynamoDB(_Target):
    """One table; each line is the requests of one ``batch-write-item``, which takes 25.

    In the sort key ``#`` parts a provider from its account's id. DynamoDB may delete an item at its
    ``expires``, so only the end of a session or token goes by that name. AWS's limits: 2048 bytes in a
    partition key, 1024 in a sort key, 400 kB in an item, 32 levels, no empty name, 38 digits (beyond these, a
    number becomes text).
    """

    size = 25
    own = frozenset({"pk", "sk", "GSI1PK", "GSI1SK", "id", "type", "expires"})

    def __init__(self, name: str, table: str) -> None:
        super().__init__(name)
        self.table = _json(table)

    def date(self, name: str, moment: datetime) -> Any:
        return _milliseconds(moment) / 1000 if name == "expires" else _iso(moment)

    def unfit(self, name: str, depth: int) -> bool:
        return not name or depth > 30

    def make(self, entity: Entity, record: Any) -> Iterator[tuple[str, bytes]]:
        item, found = self.fields(entity, record), ()  # type: tuple[dict[str, Any], tuple[str, ...]]
        pk = sk = f"USER#{record.id if entity is USER else getattr(record, 'user_id', '')}"
        if entity is USER and item["email"] is not None:
            found = (f"USER#{item['email']}",) * 2
        elif entity is ACCOUNT:
            if "#" in record.provider:
                self.refuse(entity, record, "provider", "no #")
            found = (f"ACCOUNT#{record.provider}", f"ACCOUNT#{record.provider_account_id}")
            sk, item["id"] = f"{found[0]}#{record.provider_account_id}", _uuid(entity, record)
        elif entity is SESSION:
            sk = f"SESSION#{record.session_token}"
            found = (sk, sk)
        elif entity is VERIFICATION_TOKEN:
            pk, sk = f"VT#{item['identifier']}", f"VT#{record.token}"
        if entity is not ACCOUNT:
            item["type"] = "VT" if entity is VERIFICATION_TOKEN else entity.name.upper()
        item |= zip(("pk", "sk", "GSI1PK", "GSI1SK"), (pk, sk, *found))
        data = _json({"PutRequest": {"Item": {name: _attribute(value) for name, value in item.items()}}})
        long = [key for key, limit in zip((pk, sk, *found), (2048, 1024) * 2) if len(key.encode()) > limit]
        if long or len(data) > 400_000:
            self.refuse(entity, record, entity.key[-1], "keys of at most 1024 bytes and items of 400 kB")
        yield "", data

    def pack(self, group: str, items: list[bytes]) -> bytes:
        return b"{%b:[%b]}\n" % (self.table, b",".join(items))


def _attribute(value: Any) -> dict[str, Any]:
    """A JSON value as DynamoDB has it."""
    if value is None or isinstance(value, bool):
        return {"NULL": True} if value is None else {"BOOL": value}
    if isinstance(value, (int, float)):
        return {"N" if value == 0 or 1e-130 < abs(value) < 1e38 else "S": repr(value)}
    if isinstance(value, dict):
        return {"M": {name: _attribute(item) for name, item in value.items()}}
    return {"L": [_attribute(item) for item in value]} if isinstance(value, list) else {"S": value}


class _MongoDB(_Target):
    """A script whose lines stand alone, so it may be cut between any two of them.

    Ids are ObjectIds, or the adapter throws. A user's becomes the first 24 hexadecimal digits of its SHA-256,
    which an application can compute for its own collections, too. In Extended JSON a name with ``$`` says
    what a value is; in JavaScript ``__proto__`` does.
    """

    groups = ("users", "accounts", "sessions", "verification_tokens")
    own = frozenset({"_id", "id"})
    head = (
        "// The adapter makes no index. Advisable, each unique: users.email (of those that have one),\n"
        "// accounts.provider with accounts.providerAccountId, sessions.sessionToken.\n"
    )

    def date(self, name: str, moment: datetime) -> Any:
        return {"$date": _iso(moment)}

    def unfit(self, name: str, depth: int) -> bool:
        return name[:1] == "$" or "\0" in name or name == "__proto__"

    def make(self, entity: Entity, record: Any) -> Iterator[tuple[str, bytes]]:
        fields = self.fields(entity, record)
        if "userId" in fields:
            fields["userId"] = _object_id(record.user_id)
        key = fields.pop("id") if entity is USER else _key(entity, record)
        yield entity.plural, _json({"_id": _object_id(key), **fields})

    def pack(self, group: str, items: list[bytes]) -> bytes:
        return b'db.getCollection("%b").insertMany(EJSON.deserialize([%b]));\n' % (
            group.encode(), b",".join(items)
        )  # fmt: skip


def _object_id(text: str) -> dict[str, str]:
    return {"$oid": hashlib.sha256(text.encode()).hexdigest()[:24]}


class _PouchDB(_Target):
    """Each line is a request for ``_bulk_docs``; the first makes the indexes, which the adapter names.

    Documents of all kinds lie in one database, and the adapter finds each by its fields alone: an account
    with an ``email`` would pass for a user. So no document has a field that another kind is found by. CouchDB
    keeps names and ids that begin with ``_`` to itself.
    """

    indexes: ClassVar = {
        "nextAuthUserByEmail": ("email",),
        "nextAuthAccountByProviderId": ("provider", "providerAccountId"),
        "nextAuthSessionByToken": ("sessionToken",),
        "nextAuthVerificationRequestByToken": ("identifier", "token"),
    }
    own = frozenset(name for names in indexes.values() for name in names)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        designs = []
        for index, names in self.indexes.items():
            view = {"map": {"fields": dict.fromkeys(names, "asc")}, "reduce": "_count"}
            view["options"] = {"def": {"fields": names}}
            designs.append({"_id": f"_design/{index}", "language": "query", "views": {index: view}})
        self.head = self.pack("", [*map(_json, designs)]).decode()

    def unfit(self, name: str, depth: int) -> bool:
        return depth == 1 and name[:1] == "_"

    def make(self, entity: Entity, record: Any) -> Iterator[tuple[str, bytes]]:
        fields = self.fields(entity, record)
        if entity is USER:
            if record.id[:1] == "_":
                self.refuse(entity, record, "id", "none that begins with _")
            key = fields.pop("id")
        else:
            key = f"{entity.name.upper().replace('_', '-')}_{_uuid(entity, record)}"
        yield "", _json({"_id": key, **fields})

    def pack(self, group: str, items: list[bytes]) -> bytes:
        return b'{"docs":[%b]}\n' % b",".join(items)


# --- PostgreSQL -------------------------------------------------------------------------------


class Tool(NamedTuple):
    """Whose tables in PostgreSQL: what ``_Postgres`` must know of them.

    ``tables``: of users, accounts, sessions, verification tokens and, if there is one, passkeys. ``ids``: of
    users, ``text``, ``uuid`` or ``number``. ``date``: how one is written. ``row_ids``: whose tables need an
    ``id`` of their own from us. ``short``: the fields of at most 255 characters. ``small``: whether numbers
    have 32 bits.
    """

    tables: tuple[str, ...]
    ids: str
    date: Callable[[datetime], str]
    row_ids: tuple[Entity, ...] = ()
    short: frozenset[str] = frozenset()
    small: bool = False
    snake_case: bool = False
    email_required: bool = False


def _timestamp(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(" ", "milliseconds")


def _with_zone(moment: datetime) -> str:
    return f"{_timestamp(moment)}+00"


_USERS = ("users", "accounts", "sessions", "verification_tokens")
_KEYS = frozenset({"name", "email", "type", "provider", "provider_account_id", "session_token"})
_PG = Tool((*_USERS[:3], "verification_token"), "number", _with_zone, short=_KEYS)
_ALL = frozenset(f.name for entity in ENTITIES for f in fields_of(entity.record))

TOOLS = {
    "pg": _PG,
    "pg-uuid": _PG._replace(ids="uuid"),  # made with uuid in the place of SERIAL: users keep their ids
    "typeorm": Tool(
        _USERS, "uuid", lambda moment: str(_milliseconds(moment)), (ACCOUNT, SESSION, VERIFICATION_TOKEN)
    ),
    "sequelize": Tool(
        _USERS, "uuid", _with_zone, (ACCOUNT, SESSION), _ALL - {"id_token"}, small=True, snake_case=True
    ),
    "prisma": Tool(
        ("User", "Account", "Session", "VerificationToken", "Authenticator"), "text", _timestamp,
        small=True, email_required=True,
    ),
    "drizzle": Tool(
        ("user", "account", "session", "verificationToken", "authenticator"), "text", _timestamp, small=True
    ),
}  # fmt: skip
"""The tools that Auth.js has adapters for, with the tables that its documentation or the adapter makes."""

_NUMBERS = "tinyauthstore_users (id, number)"
"""The table that the export itself makes, where users get numbers: who has which."""

_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class _Postgres(_Target):
    """One transaction that fills the tables which a tool has made, and which are empty.

    What a column cannot hold stays behind; it is refused if it is required or identifies. Where users get
    numbers, these begin at 1, and the sequence goes on after them.
    """

    def __init__(self, name: str, tool: Tool) -> None:
        super().__init__(name)
        self.tool, self.users = tool, 0
        self.passkeys = len(tool.tables) == len(ENTITIES)
        self.head = "SET client_encoding TO 'UTF8';\nSET standard_conforming_strings TO on;\nBEGIN;\n"
        self.into: dict[Entity, tuple[str, list[Field]]] = {}
        for entity, table in zip(ENTITIES, tool.tables):
            left = {"extra"} if entity is ACCOUNT else NOT_IN_AUTHJS.get(entity.name, ())
            fields = [f for f in fields_of(entity.record) if f.name not in left]
            names = [f.name if tool.snake_case else AUTHJS_NAMES.get(f.name, f.name) for f in fields]
            names = ["id"] * (entity in tool.row_ids) + names
            columns = ", ".join(f'"{name}"' for name in names)
            self.into[entity] = f'"{table}" ({columns})', fields
        self.groups = tuple(group for group, _ in self.into.values())
        if tool.ids == "number":
            columns = "id text PRIMARY KEY, number integer NOT NULL UNIQUE"
            self.head += f"CREATE TABLE tinyauthstore_users ({columns});\n"
            self.groups += (_NUMBERS,)

    def make(self, entity: Entity, record: Any) -> Iterator[tuple[str, bytes]]:
        group, fields = self.into[entity]
        values = {f.name: self._column(entity, record, f) for f in fields}
        if entity is USER:
            if self.tool.ids == "uuid" and not _UUID.fullmatch(record.id):
                self.refuse(entity, record, "id", "a UUID in lower case")
            if self.tool.email_required and record.email is None:
                self.refuse(entity, record, "email", "an address")
            self.users += 1
        if self.tool.ids == "number" and entity is not VERIFICATION_TOKEN:
            values["id" if entity is USER else "user_id"] = self.users
            if entity is USER:
                yield _NUMBERS, _row([record.id, self.users])
        row_id = [_uuid(entity, record)] if entity in self.tool.row_ids else []
        yield group, _row([*row_id, *values.values()])
        model: Any = type(record)
        known = {f.name for f in fields_of(entity.record)}
        custom = [f.name for f in fields_of(model) if f.name not in known]
        homeless = [name for name in custom if getattr(record, name) is not None]
        if homeless := [*homeless, *getattr(record, "extra", ())]:
            self.leave(entity, f"the tables of {self.name} have no column for them", len(homeless))

    def _column(self, entity: Entity, record: Any, f: Field) -> Any:
        value, expected = _value(record, f.name), ""
        if isinstance(value, datetime):
            return self.tool.date(value)
        if isinstance(value, str) and "\0" in value:
            expected = "no NUL"
        elif isinstance(value, str) and len(value) > 255 and f.name in self.tool.short:
            expected = "at most 255 characters"
        elif isinstance(value, int) and self.tool.small and not -(2**31) <= value < 2**31:
            expected = "a number of 32 bits"
        if expected and (not f.optional or f.name == "email"):
            self.refuse(entity, record, f.name, expected)
        if expected:
            self.leave(entity, f"in {f.name}, {self.name} takes {expected}", 1)
        return None if expected else value

    def pack(self, group: str, items: list[bytes]) -> bytes:
        return b"INSERT INTO %b VALUES\n%b;\n" % (group.encode(), b",\n".join(items))

    def foot(self) -> str:
        if self.tool.ids != "number" or not self.users:
            return "COMMIT;\n"
        return f"SELECT setval(pg_get_serial_sequence('users', 'id'), {self.users});\nCOMMIT;\n"


def _row(values: list[Any]) -> bytes:
    return f"({', '.join(map(_literal, values))})".encode()


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return "NULL" if value is None else str(value).lower()  # a number, true or false


# --- the choice -------------------------------------------------------------------------------

FORMATS = ("redis", "dynamodb", "mongodb", "pouchdb", "postgres")


def _target(format: str, tool: str | None, into: str | None) -> _Target:
    """A target for one pass. ValueError as in ``export``."""
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; known: {', '.join(FORMATS)}")
    if tool is not None and (format != "postgres" or tool not in TOOLS):
        raise ValueError(f"unknown tool {tool!r} for {format}; postgres has {', '.join(TOOLS)}")
    if into is not None and format not in ("redis", "dynamodb"):
        raise ValueError(f"into= is for redis and dynamodb, not for {format}")
    if format == "redis":
        return _Redis(format, into or "")
    if format == "dynamodb":
        return _DynamoDB(format, into or "next-auth")
    if format == "postgres":
        return _Postgres(tool or "pg", TOOLS[tool or "pg"])
    return _MongoDB(format) if format == "mongodb" else _PouchDB(format)
