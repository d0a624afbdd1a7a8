"""Exports hold what Auth.js's official adapters look for.

Three witnesses: what the adapters wrote themselves (``files/remote``, of the same people), the servers that load an
export (Redis and PostgreSQL, where they are installed), and the adapters, asked in Node (where ``tests/node`` or
``$TINYAUTHSTORE_NODE`` has their packages) what was loaded.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from servers import postgres_server, wait_for
from support import (
    PATIENCE,
    link,
    make_any,  # noqa: F401
    node_folder,
)

from tinyauthstore import (
    InvalidFieldError,
    MemoryAdapter,
    Session,
    SplitAdapter,
    SQLiteAdapter,
    User,
    layouts,
)
from tinyauthstore.exports import FORMATS, TOOLS, export
from tinyauthstore.models import SESSION, VERIFICATION_TOKEN, Counts
from tinyauthstore.portable import Moved, dump

HERE = Path(__file__).parent
WITNESSES = HERE / "files" / "remote"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = datetime(2031, 3, 4, 5, 6, 7, 89_123, tzinfo=UTC)
VERIFIED = datetime(2024, 1, 2, 3, 4, 5, 678_912, tzinfo=UTC)
ADA, GRACE = "aaaaaaaa-0000-4000-8000-000000000001", "aaaaaaaa-0000-4000-8000-000000000002"

TARGETS = [*((format, None) for format in FORMATS if format != "postgres"), *(("postgres", tool) for tool in TOOLS)]
every_target = pytest.mark.parametrize(("format", "tool"), TARGETS, ids=lambda one: one or "")
DOCUMENTS = [format for format in FORMATS if format != "postgres"]

HOSTILE = "'); DROP TABLE users; -- \" \\ \\' $1 `x` :name \r\n\t\x01 é 🦄 \u2028 $$ */"
"""A text that ends most quotations, comments and lines."""


# --- stores -----------------------------------------------------------------------------------


class InTheClear(MemoryAdapter):
    """A store whose records carry their tokens, as those in other people's files do."""

    def __init__(self, **options: Any) -> None:
        self.tokens: dict[bytes, str] = {}
        super().__init__(clock=lambda: NOW, purge_interval=None, **options)

    def _digest(self, token: str) -> bytes:
        digest = super()._digest(token)
        self.tokens[digest] = token
        return digest

    def _with_token(self, entity: Any, key: Any, record: Any) -> Any:
        field = {SESSION: "session_token", VERIFICATION_TOKEN: "token"}.get(entity)
        return dataclasses.replace(record, **{field: self.tokens[key[-1]]}) if field else record

    def _walk(self, entity: Any) -> Iterator[Any]:
        for key, record in super()._walk(entity):
            yield key, self._with_token(entity, key, record)

    def _find(self, entity: Any, group: str) -> dict[Any, Any]:
        found = super()._find(entity, group)
        return {key: self._with_token(entity, key, record) for key, record in found.items()}


def fill(store: Any, ada: str = ADA, grace: str = GRACE) -> Any:
    """The people of ``files/remote``, but for Ada's spelling and what is finer than a millisecond."""
    store.create_user(
        id=ada, name="Ada Lovelace", email="Ada@Example.com", image="https://example.com/ada.png",
        email_verified=VERIFIED,
    )  # fmt: skip
    store.create_user(id=grace, email="grace@example.com")
    accounts = [
        (ada, "oauth", "github", "1001", "bearer", "read:user user:email"),
        (ada, "oidc", "google", "g#2:002", "Bearer", "openid"),
        (grace, "oauth", "github", "1003", "bearer", "read:user"),
    ]
    for i, (user_id, kind, provider, account_id, token_type, scope) in enumerate(accounts, 1):
        store.link_account(
            user_id=user_id, type=kind, provider=provider, provider_account_id=account_id, scope=scope,
            refresh_token=f"rt-{i}", access_token=f"at-{i}", id_token=f"idt-{i}", session_state=f"st-{i}",
            expires_at=1893455999 + i, token_type=token_type,
            **({"refresh_token_expires_in": 15897600} if i == 1 else {}),
        )  # fmt: skip
    store.create_session(user_id=ada, session_token="sess-ada", expires=LATER)
    store.create_session(user_id=grace, session_token="sess-grace", expires=LATER)
    store.create_verification_token(identifier="Ada@Example.com", token="vt-hash-1", expires=LATER)
    store.create_authenticator(
        user_id=ada, credential_id="Y3JlZC0x", provider_account_id="Y3JlZC0x", counter=7,
        credential_public_key="cHVibGljLWtleQ==", credential_device_type="multiDevice",
        credential_backed_up=True, transports="internal,hybrid",
    )  # fmt: skip
    return store


@pytest.fixture
def clear() -> Iterator[InTheClear]:
    """A store that has its tokens, empty."""
    with InTheClear() as store:
        yield store


@pytest.fixture
def store() -> Iterator[MemoryAdapter]:
    """A store as they are: with digests. Empty."""
    with MemoryAdapter(clock=lambda: NOW) as store:
        yield store


# --- reading exports --------------------------------------------------------------------------


def export_of(store: Any, format: str, **options: Any) -> tuple[bytes, Moved]:
    file = io.BytesIO()
    said = export(store, file, format, **options)
    return file.getvalue(), said


def commands(data: bytes) -> list[list[bytes]]:
    """The commands of a RESP stream."""
    rest, found = io.BytesIO(data), []
    while head := rest.readline():
        found.append([])
        for _ in range(int(head[1:])):
            size = int(rest.readline()[1:])
            found[-1].append(rest.read(size))
            assert rest.read(2) == b"\r\n"
    return found


def in_redis(data: bytes) -> dict[str, Any]:
    """What the keys hold that a RESP stream sets: JSON objects as such."""
    assert {command[0] for command in commands(data)} <= {b"SET"}
    pairs = {key.decode(): value.decode() for _, key, value in commands(data)}
    return {key: json.loads(value) if value[0] == "{" else value for key, value in pairs.items()}


def in_dynamodb(data: bytes, table: str = "next-auth") -> list[dict[str, Any]]:
    """The items of the requests."""
    lines = [json.loads(line)[table] for line in data.splitlines()]
    assert all(0 < len(requests) <= 25 for requests in lines)
    return [request["PutRequest"]["Item"] for requests in lines for request in requests]


def in_mongodb(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    """The documents that a script inserts, each with its collection."""
    found = []
    for line in data.decode().split("\n"):
        if line and not line.startswith("//"):
            call = re.fullmatch(r'db\.getCollection\("(\w+)"\)\.insertMany\(EJSON\.deserialize\((.*)\)\);', line)
            assert call, line
            found += [(call[1], document) for document in json.loads(call[2])]
    return found


def in_pouchdb(data: bytes) -> list[dict[str, Any]]:
    """The documents of the requests."""
    return [document for line in data.splitlines() for document in json.loads(line)["docs"]]


def in_sql(text: str) -> dict[str, list[dict[str, str]]]:
    """The rows that are inserted, by table: literals, without their quotes. For simple texts only."""
    found: dict[str, list[dict[str, str]]] = {}
    pattern = r'^INSERT INTO (?:public\.)?"?(\w+)"? \(([^)]*)\) VALUES\s(.*?);$'
    for table, columns, rows in re.findall(pattern, text, re.MULTILINE | re.DOTALL):
        names = columns.replace('"', "").split(", ")
        for row in rows.split("\n"):
            inner = row.strip().rstrip(",").removeprefix("(").removesuffix(")")
            [values] = csv.reader([inner], quotechar="'", skipinitialspace=True)
            found.setdefault(table, []).append(dict(zip(names, values, strict=True)))
    return found


def documents(data: bytes, format: str) -> list[dict[str, Any]]:
    """Everything that an export of documents holds, as plain JSON."""
    if format == "redis":
        return [one for one in in_redis(data).values() if isinstance(one, dict)]
    if format == "dynamodb":
        return [{name: plain(value) for name, value in item.items()} for item in in_dynamodb(data)]
    if format == "mongodb":
        return [document for _, document in in_mongodb(data)]
    return [document for document in in_pouchdb(data) if not document["_id"].startswith("_design/")]


def plain(attribute: dict[str, Any]) -> Any:
    """What a value of DynamoDB's stands for."""
    [(kind, value)] = attribute.items()
    if kind == "M":
        return {name: plain(one) for name, one in value.items()}
    if kind == "L":
        return [plain(one) for one in value]
    return {"N": lambda: json.loads(value), "NULL": lambda: None}.get(kind, lambda: value)()


def lines_of(name: str) -> list[str]:
    """A file of ``files/remote``, without its first line, which says how it came about."""
    return (WITNESSES / f"{name}.txt").read_text(encoding="utf-8").splitlines()[1:]


# --- the same as the adapters wrote -----------------------------------------------------------


def test_redis_holds_what_the_adapter_wrote(clear: Any) -> None:
    theirs = {
        head.split(" ", 2)[2]: json.loads(value) if value.strip()[0] == "{" else value.strip()
        for head, value in zip(lines_of("upstash-redis")[::2], lines_of("upstash-redis")[1::2])
    }
    fill(clear, theirs["user:email:ada@example.com"], theirs["user:email:grace@example.com"])
    data, _ = export_of(clear, "redis")
    assert in_redis(data) == theirs


def test_dynamodb_holds_what_the_adapter_wrote(clear: Any) -> None:
    theirs = [json.loads(line) for line in lines_of("dynamodb")]
    users = {item["email"]["S"]: item["id"]["S"] for item in theirs if item["type"] == {"S": "USER"}}
    fill(clear, users["ada@example.com"], users["grace@example.com"])
    ours = in_dynamodb(export_of(clear, "dynamodb")[0])
    for item in (*ours, *theirs):
        if "provider" in item:
            assert re.fullmatch("[0-9a-f-]{36}", item.pop("id")["S"])  # its own, a random one
    assert sorted(ours, key=str_of_sorted) == sorted(theirs, key=str_of_sorted)


def str_of_sorted(item: Any) -> str:
    return json.dumps(item, sort_keys=True)


def test_mongodb_holds_what_the_adapter_wrote(clear: Any) -> None:
    def told(collection: str, document: dict[str, Any], owners: dict[str, str]) -> str:
        """A document with its own id taken away, its user's replaced, numbers and dates in one form."""
        assert re.fullmatch("[0-9a-f]{24}", document.pop("_id")["$oid"])
        if "userId" in document:
            document["userId"] = owners[document["userId"]["$oid"]]
        for name, value in document.items():
            if isinstance(value, dict) and "$numberInt" in value:
                document[name] = int(value["$numberInt"])
            elif isinstance(value, dict) and isinstance(value["$date"], dict):
                moment = datetime.fromtimestamp(int(value["$date"]["$numberLong"]) / 1000, UTC)
                document[name] = {"$date": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")}
        return str_of_sorted([collection, document])

    fill(clear)
    theirs = [(one, json.loads(rest)) for one, rest in (line.split(" ", 1) for line in lines_of("mongodb"))]
    both = []
    for pairs in (theirs, in_mongodb(export_of(clear, "mongodb")[0])):
        owners = {doc["_id"]["$oid"]: doc["email"] for collection, doc in pairs if collection == "users"}
        both.append(sorted(told(*pair, owners) for pair in pairs))
    assert both[0] == both[1]


def test_pouchdb_holds_what_the_adapter_wrote_indexes_included(clear: Any) -> None:
    theirs = [json.loads(line) for line in lines_of("pouchdb")]
    users = {one["email"]: one["_id"] for one in theirs if one["_id"].startswith("USER_")}
    fill(clear, users["ada@example.com"], users["grace@example.com"])
    ours = in_pouchdb(export_of(clear, "pouchdb")[0])
    for document in (*ours, *theirs):
        document.pop("_rev", None)
        document.pop("id", None)  # "ignored-1": what createUser was given
        kind, _, row_id = document["_id"].partition("_")
        if kind not in ("USER", ""):
            assert re.fullmatch("[0-9a-f-]{36}", row_id)
            document["_id"] = kind
    assert sorted(ours, key=str_of_sorted) == sorted(theirs, key=str_of_sorted)


@pytest.mark.parametrize("tool", ["pg", "typeorm", "sequelize", "prisma"])
def test_tables_hold_what_the_adapter_wrote(clear: Any, tool: str) -> None:
    theirs = in_sql("\n".join(lines_of({"pg": "pg"}.get(tool, f"{tool}-postgres"))))
    users = {row["email"]: row["id"] for row in theirs.get("users") or theirs["User"]}
    fill(clear, *([ADA, GRACE] if tool == "pg" else users.values()))
    ours = in_sql(export_of(clear, "postgres", tool=tool)[0].decode())
    numbers = ours.pop("tinyauthstore_users", [])
    assert numbers == ([{"id": ADA, "number": "1"}, {"id": GRACE, "number": "2"}] if tool == "pg" else [])
    assert ours.keys() == theirs.keys()
    for table, rows in ours.items():
        for row in (*rows, *theirs[table]):
            if table not in ("users", "User"):
                row.pop("id", None)
        assert sorted(rows, key=str_of_sorted) == sorted(theirs[table], key=str_of_sorted)


# --- what moves, and what does not ------------------------------------------------------------


@every_target
def test_a_digest_never_stands_in_the_place_of_a_token(store: Any, format: str, tool: str | None) -> None:
    fill(store)
    data, said = export_of(store, format, tool=tool)
    for token in ("sess-ada", "sess-grace", "vt-hash-1"):
        digest = store._digest(token)
        for form in (token, digest.hex(), digest[:16].hex()):
            assert form.encode() not in data
    reasons = {reason.partition(":")[0]: count for reason, count in said.left_out.items()}
    assert (reasons["sessions"], reasons["verification tokens"]) == (2, 1)
    assert (said.records.sessions, said.records.verification_tokens) == (0, 0)


@every_target
def test_whatever_is_in_the_store_is_counted_once(clear: Any, format: str, tool: str | None) -> None:
    _, (moved, left) = export_of(fill(clear), format, tool=tool)
    passkeys = int(tool in ("prisma", "drizzle"))
    assert moved == Counts(
        users=2, accounts=3, sessions=2, verification_tokens=1, authenticators=passkeys
    )  # fmt: skip
    reasons = {reason.partition(":")[0]: count for reason, count in left.items()}
    unknown = {"fields of accounts": 1} if format == "postgres" else {}
    assert reasons == unknown | ({} if passkeys else {"authenticators": 1})


@every_target
def test_a_session_that_has_expired_stays(clear: Any, format: str, tool: str | None) -> None:
    clear.create_user(id=ADA)
    if tool == "prisma":
        clear.update_user(ADA, email="ada@example.com")
    clear.create_session(user_id=ADA, session_token="old-session", expires=NOW)
    clear.create_verification_token(identifier="x", token="old-token", expires=NOW)
    data, said = export_of(clear, format, tool=tool)
    assert b"old-" not in data
    assert said.left_out == {"sessions: they have expired": 1, "verification tokens: they have expired": 1}


@every_target
def test_an_empty_store_is_an_empty_export(store: Any, format: str, tool: str | None) -> None:
    data, said = export_of(store, format, tool=tool)
    assert not any(said.records) and said.left_out == {}
    assert b"VALUES" not in data and b"setval" not in data and b"insertMany" not in data


@every_target
def test_the_same_store_gives_the_same_bytes(clear: Any, format: str, tool: str | None) -> None:
    """So a second export doubles nothing where the target tells ids apart."""
    fill(clear)
    assert export_of(clear, format, tool=tool) == export_of(clear, format, tool=tool)


@pytest.mark.parametrize("format", DOCUMENTS)
def test_an_address_is_written_as_authjs_asks_for_it(store: Any, format: str) -> None:
    store.create_user(email=" ZOË@Example.com ")
    [user] = [one for one in documents(export_of(store, format)[0], format) if "email" in one]
    assert user["email"] == "zoë@example.com"


def test_sql_has_an_address_as_authjs_asks_for_it(store: Any) -> None:
    store.create_user(email=" ZOË@Example.com ")
    assert "'zoë@example.com'" in export_of(store, "postgres")[0].decode()


@pytest.mark.parametrize("format", DOCUMENTS)
def test_what_a_provider_sent_moves_along(store: Any, format: str) -> None:
    sent = {"team": HOSTILE, "list": [1, None, True, {"_deep": [1.5]}], "not-before-policy": 0, "": {}}
    store.create_user(id=ADA)
    link(store, ADA, **(sent if format != "dynamodb" else {k: v for k, v in sent.items() if k}))
    [account] = [one for one in documents(export_of(store, format)[0], format) if "provider" in one]
    assert {name: account[name] for name in sent if name in account} == {
        name: value for name, value in sent.items() if name or format != "dynamodb"
    }


@dataclass(frozen=True, slots=True)
class Member(User):
    plan: str = "free"
    since: datetime | None = None
    photo: bytes = b""


@dataclass(frozen=True, slots=True)
class Device(Session):
    agent: str = ""


@pytest.mark.parametrize("format", DOCUMENTS)
def test_custom_fields_are_fields_of_documents(format: str) -> None:
    with InTheClear(user=Member, session=Device) as store:
        store.create_user(id=ADA, plan="gold", since=VERIFIED, photo=b"\0")
        store.create_session(user_id=ADA, session_token="s", agent="Netscape")
        found = documents(export_of(store, format)[0], format)
    [user] = [one for one in found if "plan" in one]
    [session] = [one for one in found if "agent" in one]
    since = {"$date": "2024-01-02T03:04:05.678Z"} if format == "mongodb" else "2024-01-02T03:04:05.678Z"
    assert (user["plan"], user["since"], user["photo"], session["agent"]) == ("gold", since, "AA==", "Netscape")


@pytest.mark.parametrize("tool", TOOLS)
def test_tables_have_no_column_for_custom_fields(tool: str) -> None:
    with InTheClear(user=Member, session=Device) as store:
        store.create_user(id=ADA, email="ada@example.com", plan="gold", since=VERIFIED)
        store.create_user(id=GRACE, email="grace@example.com")  # since nothing: nothing is lost
        store.create_session(user_id=ADA, session_token="s", agent="Netscape")
        link(store, ADA, team="red", tier=1)
        data, said = export_of(store, "postgres", tool=tool)
    why = f"the tables of {tool} have no column for them"
    assert said.left_out == {
        f"fields of users: {why}": 5, f"fields of sessions: {why}": 1, f"fields of accounts: {why}": 2
    }  # fmt: skip
    assert b"gold" not in data and b"Netscape" not in data and b"red" not in data


@pytest.mark.parametrize(
    ("format", "extra"),
    [
        ("pouchdb", {"_id": "USER_x", "_rev": "1"}),
        ("pouchdb", {"email": "grace@example.com"}),  # getUserByEmail would find the account, and call it a user
        ("pouchdb", {"sessionToken": "x", "identifier": "x", "token": "x"}),
        ("mongodb", {"_id": "x", "id": "x"}),
        ("mongodb", {"$where": "1"}),
        ("mongodb", {"a": [{"b": {"$oid": "0" * 24}}]}),
        ("mongodb", {"__proto__": {"a": 1}}),
        ("mongodb", {"a": {"b\0": 1}}),
        ("dynamodb", {"pk": "USER#x", "sk": "x", "GSI1PK": "USER#x", "GSI1SK": "USER#x"}),
        ("dynamodb", {"expires": 1893456000}),  # DynamoDB would delete the account then
        ("dynamodb", {"": "empty"}),
        ("dynamodb", {"a": [{"": 1}]}),
        ("dynamodb", {"id": "x"}),
        ("redis", {"id": "x"}),
    ],
)  # fmt: skip
def test_a_field_that_would_be_misread_stays(store: Any, format: str, extra: dict[str, Any]) -> None:
    store.create_user(id=ADA)
    link(store, ADA, **extra)
    data, said = export_of(store, format)
    [account] = [one for one in documents(data, format) if "provider" in one]
    kept = {name: value for name, value in account.items() if name in extra}
    assert not any(kept.get(name) == value for name, value in extra.items())
    why = f"fields of accounts: {format} or its adapter would misread their names"
    assert (said.left_out, said.records.accounts) == ({why: len(extra)}, 1)


def test_a_custom_field_that_would_be_misread_stays() -> None:
    """DynamoDB's items have their kind in ``type``."""

    @dataclass(frozen=True, slots=True)
    class Worker(User):
        type: str = "freelance"

    with MemoryAdapter(user=Worker) as store:
        store.create_user(id=ADA)
        data, said = export_of(store, "dynamodb")
    assert in_dynamodb(data)[0]["type"] == {"S": "USER"}
    assert said.left_out == {"fields of users: dynamodb or its adapter would misread their names": 1}


@pytest.mark.parametrize("format", DOCUMENTS)
def test_an_infinite_number_stays(format: str) -> None:
    @dataclass(frozen=True, slots=True)
    class Saver(User):
        quota: float = float("inf")

    with MemoryAdapter(user=Saver) as store:
        store.create_user(id=ADA)
        data, said = export_of(store, format)
    assert b"Infinity" not in data
    assert said.left_out == {"fields of users: JSON has no infinite numbers": 1}


def test_a_value_that_is_nested_deeper_than_dynamodb_goes_stays(store: Any) -> None:
    deep: Any = {}
    for _ in range(40):
        deep = {"a": deep}
    store.create_user(id=ADA)
    link(store, ADA, deep=deep)
    data, said = export_of(store, "dynamodb")
    assert b"deep" not in data and sum(said.left_out.values()) == 1


@pytest.mark.parametrize("number", [10**38, -(10**40), 1e127, 1e-140])
def test_a_number_that_dynamodb_refuses_becomes_text(store: Any, number: Any) -> None:
    store.create_user(id=ADA)
    link(store, ADA, number=number)
    [item] = [one for one in in_dynamodb(export_of(store, "dynamodb")[0]) if "number" in one]
    assert item["number"] == {"S": repr(number)}


@pytest.mark.parametrize("format", DOCUMENTS)
def test_half_a_character_harms_nothing(store: Any, format: str) -> None:
    """No UTF-8 holds it: CouchDB refuses the whole request."""
    store.create_user(id=ADA)
    link(store, ADA, half="a\ud800b")
    [account] = [one for one in documents(export_of(store, format)[0], format) if "half" in one]
    assert account["half"] == "a?b"


@pytest.mark.parametrize("format", DOCUMENTS)
def test_a_user_without_address_has_no_key_for_one(store: Any, format: str) -> None:
    """The adapters write "undefined" or "null" into it, for all such users."""
    store.create_user(id=ADA)
    data, _ = export_of(store, format)
    if format == "redis":
        assert in_redis(data).keys() == {f"user:{ADA}"}
    elif format == "dynamodb":
        assert in_dynamodb(data)[0].keys().isdisjoint({"GSI1PK", "GSI1SK"})
    assert b"undefined" not in data and b"None" not in data


# --- what is refused --------------------------------------------------------------------------

LONG = "x" * 256
NO_UUID = "Ada"
REFUSED: list[tuple[str, str | None, dict[str, Any], dict[str, Any]]] = [
    *(("redis", None, {"id": user_id}, {}) for user_id in ("email:x", "account:a:1", "session:x", "token:x")),
    *(("redis", None, {"id": user_id}, {}) for user_id in ('"ada"', "null", "0", "false", "[]")),
    ("redis", None, {}, {"provider": "a:b"}),
    ("redis", None, {}, {"provider": "by-user-id"}),
    ("dynamodb", None, {}, {"provider": "a#b"}),
    ("dynamodb", None, {"id": "x" * 1100}, {}),
    ("dynamodb", None, {"email": "x" * 1100 + "@example.com"}, {}),
    ("dynamodb", None, {}, {"provider_account_id": "é" * 520}),
    ("dynamodb", None, {}, {"big": "x" * 400_000}),
    ("pouchdb", None, {"id": "_design/x"}, {}),
    *(("postgres", tool, {"id": NO_UUID}, {}) for tool in ("typeorm", "sequelize", "pg-uuid")),
    *(("postgres", "typeorm", {"id": odd}, {}) for odd in (ADA.upper(), f"{{{ADA}}}", ADA.replace("-", ""), ADA + "0")),
    *(("postgres", tool, {"id": "a\0b"}, {}) for tool in ("pg", "prisma", "drizzle")),
    ("postgres", "prisma", {"email": None}, {}),
    *(("postgres", tool, {"email": LONG + "@a.b"}, {}) for tool in ("pg", "sequelize")),
    *(("postgres", tool, {}, {"provider_account_id": LONG}) for tool in ("pg", "sequelize")),
    ("postgres", "typeorm", {}, {"provider": "a\0b"}),
]  # fmt: skip


@pytest.mark.parametrize(("format", "tool", "user", "account"), REFUSED)
def test_what_a_target_refuses_is_said_before_the_first_byte(
    store: Any, format: str, tool: str | None, user: Any, account: Any
) -> None:
    user = {"id": ADA, "email": "ada@example.com"} | user
    store.create_user(**user)
    account = {"provider": "github", "provider_account_id": "1", "access_token": "secret-1"} | account
    store.link_account(user_id=user["id"], type="oauth", refresh_token="secret-2", **account)
    file = io.BytesIO()
    with pytest.raises(InvalidFieldError) as caught:
        export(store, file, format, tool=tool)
    assert file.getvalue() == b""
    assert ascii(user["id"][:60])[1:-1] in str(caught.value)
    assert "nothing was written" in str(caught.value) and "secret" not in str(caught.value)
    assert caught.value.model in ("User", "Account") and caught.value.field and caught.value.expected


def test_what_is_refused_is_found_behind_all_batches_too(store: Any) -> None:
    for i in range(1_200):
        store.create_user(id=f"{i:04}")
    store.create_user(id="email:x")
    file = io.BytesIO()
    with pytest.raises(InvalidFieldError):
        export(store, file, "redis")
    assert file.getvalue() == b""


def test_all_that_is_refused_is_counted(store: Any) -> None:
    for user_id in ("a", "b", ADA, "c"):
        store.create_user(id=user_id)
    with pytest.raises(InvalidFieldError, match=r"User\.id of 'a': typeorm takes a UUID.* \(refused so: 3\)"):
        export(store, io.BytesIO(), "postgres", tool="typeorm")


def test_ids_that_are_numbers_are_fine_in_redis(store: Any) -> None:
    """Upstash's client reads them as numbers, and makes the same text of them again."""
    store.create_user(id="42", email="ada@example.com")
    assert in_redis(export_of(store, "redis")[0])["user:email:ada@example.com"] == "42"


def test_a_token_that_is_too_long_for_its_column_stays(store: Any) -> None:
    """A JWT often is, and Sequelize's columns have 255 characters. The account moves all the same."""
    store.create_user(id=ADA)
    link(store, ADA, access_token=LONG, refresh_token="r", id_token=LONG, expires_at=2**31)
    data, said = export_of(store, "postgres", tool="sequelize")
    [row] = in_sql(data.decode())["accounts"]
    assert (row["access_token"], row["refresh_token"], row["id_token"]) == ("NULL", "r", LONG)
    assert (row["expires_at"], said.records.accounts) == ("NULL", 1)
    assert said.left_out == {
        "fields of accounts: in access_token, sequelize takes at most 255 characters": 1,
        "fields of accounts: in expires_at, sequelize takes a number of 32 bits": 1,
    }


def test_a_name_that_no_column_can_hold_stays(store: Any) -> None:
    store.create_user(id=ADA, name="a\0b", image="c\0d")
    data, said = export_of(store, "postgres")
    assert b"\0" not in data and b"(1, NULL, NULL, NULL, NULL)" in data
    assert sum(said.left_out.values()) == 2


# --- the call ---------------------------------------------------------------------------------


def test_a_warning_comes_before_the_first_byte(store: Any) -> None:
    file, said = io.BytesIO(), []
    export(fill(store), file, "redis", warn=lambda line: said.append((line, file.tell())))
    assert [(line.split(": ")[0], position) for line, position in said] == [
        ("1 authenticators", 0), ("2 sessions", 0), ("1 verification tokens", 0)
    ]  # fmt: skip


def test_a_warning_that_raises_ends_the_export(store: Any) -> None:
    file = io.BytesIO()

    def refuse(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(fill(store), file, "redis", warn=refuse)
    assert file.getvalue() == b""


@pytest.mark.parametrize(
    ("format", "options", "message"),
    [
        ("fauna", {}, "known: redis, dynamodb, mongodb, pouchdb, postgres"),
        ("postgres", {"tool": "kysely"}, "pg, pg-uuid, typeorm, sequelize, prisma, drizzle"),
        ("redis", {"tool": "pg"}, "unknown tool 'pg' for redis"),
        ("mongodb", {"into": "x"}, "for redis and dynamodb"),
    ],
)
def test_a_wrong_choice_is_named_with_the_right_ones(
    store: Any, format: str, options: Any, message: str
) -> None:
    file = io.BytesIO()
    with pytest.raises(ValueError, match=message):
        export(store, file, format, **options)
    assert file.getvalue() == b""


def test_a_store_of_another_make_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="BaseAdapter"):
        export(object(), io.BytesIO(), "redis")


def test_the_table_of_dynamodb_can_have_another_name(store: Any) -> None:
    fill(store)
    assert in_dynamodb(export_of(store, "dynamodb", into='my "table"')[0], 'my "table"')


def test_redis_keys_can_have_a_prefix(clear: Any) -> None:
    fill(clear)
    theirs, ours = (in_redis(export_of(clear, "redis", into=into)[0]) for into in (None, "app:"))
    assert {f"app:{key}" for key in theirs} == ours.keys()
    assert ours[f"app:user:account:by-user-id:{GRACE}"] == "app:user:account:github:1003"


def test_a_split_store_is_exported_as_one() -> None:
    with (
        SplitAdapter(users=MemoryAdapter(), sessions=InTheClear(), verification=InTheClear()) as split,
        InTheClear() as whole,
    ):
        for store in (split, whole):
            fill(store)
        assert export_of(split, "redis") == export_of(whole, "redis")


@pytest.mark.parametrize("name", layouts.NAMES)
def test_sessions_of_a_file_that_has_their_tokens_move(name: str) -> None:
    """Those of other libraries; a signed-in visitor stays so."""
    schema = getattr(layouts, name)
    with SQLiteAdapter(":memory:", schema=schema, clock=lambda: NOW) as store:
        ada = store.create_user(email="ada@example.com", name="Ada")
        store.create_session(user_id=ada.id, session_token="sess-ada", expires=LATER)
        link(store, ada.id)
        data, said = export_of(store, "redis")
    found = in_redis(data)
    assert found["user:session:sess-ada"] == {
        "sessionToken": "sess-ada", "userId": ada.id, "expires": "2031-03-04T05:06:07.089Z"
    }  # fmt: skip
    assert found["user:account:github:1"]["userId"] == found["user:email:ada@example.com"] == ada.id
    assert (said.records.sessions, said.left_out) == (1, {})


def test_a_link_that_authjs_has_mailed_moves_as_authjs_stores_it() -> None:
    schema = layouts.drizzle
    schema = schema.replace(verification_token=schema.verification_token.replace(tokens="authjs"))
    with SQLiteAdapter(":memory:", schema=schema, secret="s", clock=lambda: NOW) as store:
        store.create_verification_token(identifier="ada@example.com", token="mailed")
        data, _ = export_of(store, "redis")
    assert f"user:token:ada@example.com:{layouts.authjs_token('mailed', 's')}" in in_redis(data)


def test_every_kind_of_store_gives_the_same_export(make: Any) -> None:
    with MemoryAdapter(clock=lambda: NOW) as plain:
        assert export_of(fill(make(clock=lambda: NOW)), "pouchdb") == export_of(fill(plain), "pouchdb")


def test_a_request_to_dynamodb_has_at_most_25_items(store: Any) -> None:
    for i in range(60):
        store.create_user(id=f"{i:02}")
    lines = export_of(store, "dynamodb")[0].splitlines()
    assert [line.count(b"PutRequest") for line in lines] == [25, 25, 10]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files with few and with many users, each with an account."""
    made = []
    for users in (2_500, 7_500):  # pages have 1,000, and two of them overlap
        made.append(tmp_path_factory.mktemp("files") / f"{users}.db")
        with SQLiteAdapter(made[-1], durability="normal") as store, store.transaction():
            for i in range(users):
                user = store.create_user(id=f"00000000-0000-4000-8000-{i:012}", email=f"{i}@example.com")
                link(store, user.id, f"{i}", access_token="x" * 100)
    return made


@pytest.mark.soak
@pytest.mark.parametrize("format", FORMATS)
def test_memory_does_not_grow_with_the_store(files: list[Path], format: str) -> None:
    peaks = []
    for file in (files[0], *files):  # the first time, what is made once is made
        with SQLiteAdapter(file) as store, open(os.devnull, "wb") as nowhere:
            tracemalloc.start()
            export(store, nowhere, format)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[2] < 1.2 * peaks[1]


def test_nothing_is_held_back_until_the_end(store: Any) -> None:
    """A batch at a time is written, whatever the number of records."""
    for i in range(2_100):
        store.create_user(id=f"{i:04}")
    sizes: list[int] = []

    class Pieces:
        def write(self, data: bytes) -> None:
            sizes.append(data.count(b'"_id"'))

    export(store, Pieces(), "pouchdb")  # type: ignore[arg-type]
    assert sizes == [4, 500, 500, 500, 500, 100, 0]


# --- Node -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder from which Node finds the adapters, with ``ask.mjs`` in it."""
    return node_folder(tmp_path_factory.mktemp("node"), "@auth", "ask.mjs")


def ask(node: Path, adapter: str, place: str, **plan: Any) -> dict[str, Any]:
    """The answers of an official adapter; see ``ask.mjs``."""
    plan = {
        "emails": ["ada@example.com", "grace@example.com", "nobody@example.com"],
        "accounts": [
            {"provider": provider, "providerAccountId": account_id}
            for provider, account_id in (
                ("github", "1001"), ("google", "g#2:002"), ("github", "1003"), ("github", "1002")
            )
        ],
        "sessions": ["sess-ada", "sess-grace", "nobody"],
        "token": {"identifier": "ada@example.com", "token": "vt-hash-1"},
        "passkeys": ["Y3JlZC0x"],
        "expires": LATER.isoformat(),
        "newId": "aaaaaaaa-0000-4000-8000-000000000009",
    } | plan  # fmt: skip
    environment = {**os.environ, "TZ": "America/New_York", "NODE_ENV": "production"}
    ran = subprocess.run(
        ["node", "ask.mjs", adapter, place], cwd=node, input=json.dumps(plan), capture_output=True, text=True,
        env=environment, timeout=PATIENCE,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def check(answers: dict[str, Any], ada: str | None = None, grace: str | None = None) -> None:
    """That the people of ``fill`` are there, each whole, and that the adapter can go on with them."""
    until = "2031-03-04T05:06:07.089Z"
    seen = [
        one and tuple(one.get(name) for name in ("name", "email", "image", "emailVerified"))
        for one in answers["users"]
    ]
    lovelace = ("Ada Lovelace", "ada@example.com", "https://example.com/ada.png", "2024-01-02T03:04:05.678Z")
    assert seen == [lovelace, (None, "grace@example.com", None, None), None]
    assert answers["found"] == answers["users"][:2]
    if ada is not None:
        assert [str(one["id"]) for one in answers["found"]] == [ada, grace]
    owners = [one and one["email"] for one in answers["owners"]]
    assert owners == ["ada@example.com", "ada@example.com", "grace@example.com", None]
    sessions = [
        one and (one["session"]["sessionToken"], one["session"]["expires"], one["user"]["email"])
        for one in answers["sessions"]
    ]
    assert sessions == [
        ("sess-ada", until, "ada@example.com"), ("sess-grace", until, "grace@example.com"), None
    ]  # fmt: skip
    used, again = answers["tokens"]
    assert (used["identifier"], used["token"], used["expires"], again) == (
        "ada@example.com", "vt-hash-1", until, None
    )  # fmt: skip
    after = answers["after"]
    assert after["name"] == "changed" and after["added"] == after["addedFound"]


@pytest.mark.parametrize("format", ["dynamodb", "mongodb", "pouchdb"])
def test_the_official_adapter_reads_documents(
    clear: Any, node: Path, tmp_path: Path, format: str
) -> None:
    """In DynamoDB's stand-in dynalite, in PouchDB itself, and what mongosh would make of the script."""
    (tmp_path / "export").write_bytes(export_of(fill(clear), format)[0])
    answers = ask(node, format, str(tmp_path / "export"))
    ids = () if format == "mongodb" else (ADA, GRACE)
    check(answers, *ids)
    assert answers["after"]["deleted"] is (format != "pouchdb")  # whose adapter deletes nobody


def test_an_application_can_compute_the_ids_in_mongodb(store: Any) -> None:
    """By the first 24 digits of SHA-256: ``printf %s ada | sha256sum``."""
    store.create_user(id="ada")
    [(_, user)] = in_mongodb(export_of(store, "mongodb")[0])
    assert user["_id"] == {"$oid": "fdee430d40bd57deeac186cd"}


# --- Redis ------------------------------------------------------------------------------------


class Redis(NamedTuple):
    """A server of our own."""

    path: str
    """Of its socket, which Node uses."""
    port: int

    def load(self, data: bytes) -> str:
        """What ``redis-cli --pipe`` says of an export, into an empty database."""
        self.ask("flushall")
        return self.ask("--pipe", data=data).decode()

    def ask(self, *command: str, data: bytes = b"") -> bytes:
        ran = subprocess.run(
            ["redis-cli", "-s", self.path, "--raw", *command], input=data, capture_output=True, timeout=PATIENCE,
            check=True,
        )  # fmt: skip
        return ran.stdout


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    if shutil.which("redis-server") is None or shutil.which("redis-cli") is None:
        pytest.skip("needs redis-server and redis-cli")
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:  # pytest's own may be too long for a socket
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            made = Redis(f"{folder}/s", free.getsockname()[1])
        options = ["--port", f"{made.port}", "--unixsocket", made.path, "--save", "", "--dir", folder]
        with subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL) as server:
            try:
                wait_for(lambda: os.path.exists(made.path), server)
                yield made
            finally:
                server.terminate()


@pytest.mark.parametrize("prefix", [None, pytest.param("app:", marks=pytest.mark.soak)])
def test_the_official_adapter_reads_redis(clear: Any, redis: Redis, node: Path, prefix: str | None) -> None:
    said = redis.load(export_of(fill(clear), "redis", into=prefix)[0])
    assert "errors: 0, replies: 15" in said
    answers = ask(node, "redis", redis.path, prefix=prefix or "")
    check(answers, ADA, GRACE)
    assert answers["after"]["deleted"] is True


def test_redis_keeps_any_text_exactly(store: Any, redis: Redis) -> None:
    store.create_user(id=HOSTILE, name=HOSTILE)
    redis.load(export_of(store, "redis")[0])
    found = json.loads(redis.ask("get", f"user:{HOSTILE}"))
    assert (found["id"], found["name"]) == (HOSTILE, HOSTILE)


# --- PostgreSQL -------------------------------------------------------------------------------

DRIZZLE = """
CREATE TABLE "user" (id text PRIMARY KEY, name text, email text UNIQUE, "emailVerified" timestamp, image text);
CREATE TABLE account ("userId" text NOT NULL REFERENCES "user"(id) ON DELETE CASCADE, type text NOT NULL,
  provider text NOT NULL, "providerAccountId" text NOT NULL, refresh_token text, access_token text, expires_at integer,
  token_type text, scope text, id_token text, session_state text, PRIMARY KEY (provider, "providerAccountId"));
CREATE TABLE session ("sessionToken" text PRIMARY KEY, "userId" text NOT NULL REFERENCES "user"(id) ON DELETE CASCADE,
  expires timestamp NOT NULL);
CREATE TABLE "verificationToken" (identifier text NOT NULL, token text NOT NULL, expires timestamp NOT NULL,
  PRIMARY KEY (identifier, token));
CREATE TABLE authenticator ("credentialID" text NOT NULL UNIQUE, "userId" text NOT NULL REFERENCES "user"(id)
  ON DELETE CASCADE, "providerAccountId" text NOT NULL, "credentialPublicKey" text NOT NULL, counter integer NOT NULL,
  "credentialDeviceType" text NOT NULL, "credentialBackedUp" boolean NOT NULL, transports text,
  PRIMARY KEY ("userId", "credentialID"));
"""
"""As @auth/drizzle-adapter 1.11.3 defines them (lib/pg.js)."""


def tables(tool: str) -> str:
    """The statements that make a tool's tables: those that the tool itself made."""
    if tool == "drizzle":
        return DRIZZLE
    lines = lines_of("pg" if tool.startswith("pg") else f"{tool}-postgres")
    made = "\n".join(line for line in lines if not line.startswith(("\\", "INSERT ", "COMMENT ")))
    made = re.sub(r"public\.(?!uuid_)", "", made)
    if tool == "pg-uuid":
        made = re.sub(r"^(CREATE SEQUENCE|ALTER SEQUENCE|ALTER .* nextval)[^;]*;\n", "", made, flags=re.MULTILINE)
        made = re.sub(r'\bid integer NOT NULL', "id uuid DEFAULT gen_random_uuid() NOT NULL", made)
        made = made.replace('"userId" integer', '"userId" uuid')
    return made


def fresh(tool: str, name: str = "fresh") -> str:
    """The statements that make a tool's tables, empty, in a schema of their own, and go on in it."""
    return (
        f'SET client_min_messages TO error; DROP SCHEMA IF EXISTS "{name}" CASCADE; CREATE SCHEMA "{name}";\n'
        f'SET search_path TO "{name}", public; {tables(tool)}\n'
    )


def rows(query: str) -> str:
    """The statement that prints the rows of a query as a line of JSON."""
    return f"SELECT json_agg(t)::jsonb FROM ({query}) t;\n"


@dataclass
class Postgres:
    """A server of our own, on a socket in ``folder``."""

    folder: str

    def run(self, *parts: str | bytes, expect: int = 0) -> Any:
        """What psql prints, from JSON; or what it complains of, if it is expected to fail."""
        command = ["psql", "-h", self.folder, "-U", "postgres", "-XqAt", "-v", "ON_ERROR_STOP=1", "-f", "-"]
        data = b"".join(part.encode() if isinstance(part, str) else part for part in parts)
        ran = subprocess.run(command, input=data, capture_output=True, timeout=PATIENCE)
        assert ran.returncode == expect, ran.stderr.decode()
        if expect:
            return ran.stderr.decode()
        return [json.loads(line) for line in ran.stdout.splitlines() if line[:1] in b"[{"]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    if not shutil.which("psql"):
        pytest.skip("needs psql")
    with postgres_server() as folder:
        yield Postgres(folder)


@pytest.fixture(scope="module")
def loaded(postgres: Postgres) -> dict[str, Any]:
    """The people of ``fill`` in the tables of every tool; how many rows each table has. Each tool has a schema, and
    a role of the same name that sees just this."""
    script: list[str | bytes] = []
    with InTheClear() as store:
        fill(store)
        for tool, its in TOOLS.items():
            script += [fresh(tool, tool), export_of(store, "postgres", tool=tool)[0]]
            counts = ", ".join(f'(SELECT count(*) FROM "{table}") AS "{table}"' for table in its.tables)
            script += [rows(f"SELECT {counts}"), f'CREATE ROLE "{tool}" LOGIN SUPERUSER;\n']
            script += [f'ALTER ROLE "{tool}" SET search_path TO "{tool}", public;\n']
    answers = postgres.run(*script)
    return {tool: counts for tool, [counts] in zip(TOOLS, answers, strict=True)}


@pytest.mark.parametrize("tool", TOOLS)
def test_postgresql_takes_every_tools_tables(loaded: dict[str, Any], tool: str) -> None:
    """With all their constraints, as the tools made them."""
    assert loaded[tool] == dict(zip(TOOLS[tool].tables, (2, 3, 2, 1, 1)))


# TypeORM and Sequelize take a second each to start, and the same server and tables are asked without them below.
SLOW = [pytest.param(tool, marks=pytest.mark.soak) for tool in ("pg-uuid", "typeorm", "sequelize")]


@pytest.mark.parametrize("tool", ["pg", "drizzle", *SLOW])
def test_the_official_adapter_reads_postgresql(
    postgres: Postgres, loaded: dict[str, Any], node: Path, tool: str
) -> None:
    adapter = "pg" if tool == "pg-uuid" else tool
    answers = ask(node, adapter, "postgres", host=postgres.folder, user=tool)
    check(answers, *(("1", "2") if tool == "pg" else (ADA, GRACE)))
    if tool == "pg":
        assert answers["after"]["added"] == 3
    if tool == "drizzle":
        [passkey] = answers["passkeys"]
        assert (passkey["userId"], passkey["counter"], passkey["credentialBackedUp"]) == (ADA, 7, True)


@pytest.mark.parametrize("tool", ["pg", "typeorm"])
def test_postgresql_keeps_any_text_exactly(store: Any, postgres: Postgres, tool: str) -> None:
    text = HOSTILE[:200]
    store.create_user(id=ADA, name=text, image=text)
    link(store, ADA, text, access_token=text, scope=text)
    users, accounts = TOOLS[tool].tables[:2]
    [[user], [account]] = postgres.run(
        fresh(tool), export_of(store, "postgres", tool=tool)[0],
        rows(f'SELECT * FROM "{users}"'), rows(f'SELECT * FROM "{accounts}"'),
    )  # fmt: skip
    assert (user["name"], user["image"]) == (text, text)
    assert (account["providerAccountId"], account["access_token"], account["scope"]) == (text, text, text)


@pytest.mark.parametrize("tool", ["pg", "drizzle"])  # pg has numbers, drizzle has foreign keys
def test_many_users_with_all_that_is_theirs_come_in_an_order_that_postgresql_takes(
    store: Any, postgres: Postgres, tool: str
) -> None:
    """In several statements for each table; every account's user is there before it."""
    for i in range(1_300):
        store.create_user(id=f"{i * 7919 % 1300:05}", name=f"{i}")
        for j in range(i % 4):
            link(store, f"{i * 7919 % 1300:05}", f"{i}-{j}")
    users, accounts = TOOLS[tool].tables[:2]
    [[answer]] = postgres.run(
        fresh(tool), export_of(store, "postgres", tool=tool)[0],
        rows(
            f"""SELECT count(*), count(*) FILTER (WHERE split_part("providerAccountId", '-', 1) = u.name) AS own
            FROM {accounts} JOIN "{users}" u ON u.id = "userId" """
        ),
    )  # fmt: skip
    assert answer == {"count": 1_950, "own": 1_950}


def test_the_next_user_gets_the_next_number(store: Any, postgres: Postgres) -> None:
    fill(store)
    added = "WITH added AS (INSERT INTO users (name) VALUES ('Joan') RETURNING id) SELECT json_agg(added) FROM added;"
    assert postgres.run(fresh("pg"), export_of(store, "postgres")[0], added) == [[{"id": 3}]]


def test_a_table_says_who_has_which_number(store: Any, postgres: Postgres) -> None:
    """An application leads its own tables from the old ids to the new ones."""
    for name in ("ada", "grace", "joan"):
        store.create_user(id=HOSTILE + name, name=name)
    query = "SELECT t.id, name FROM tinyauthstore_users t JOIN users u ON u.id = t.number"
    [found] = postgres.run(fresh("pg"), export_of(store, "postgres")[0], rows(query))
    assert {one["id"]: one["name"] for one in found} == {HOSTILE + n: n for n in ("ada", "grace", "joan")}


def test_tables_that_are_not_empty_stay_as_they_are(clear: Any, postgres: Postgres) -> None:
    """All or nothing: a script that fails anywhere has changed nothing."""
    script = export_of(fill(clear), "postgres", tool="drizzle")[0]
    taken = "INSERT INTO account VALUES ('x', 'oauth', 'github', '1003');\n"
    taken = f"""INSERT INTO "user" (id) VALUES ('x');\n{taken}"""
    said = postgres.run(fresh("drizzle"), taken, script, expect=3)
    assert "account_pkey" in said
    [[left]] = postgres.run('SET search_path TO fresh;', rows('SELECT count(*) FROM "user"'))
    assert left == {"count": 1}


def test_half_a_script_changes_nothing(clear: Any, postgres: Postgres) -> None:
    """As the end of a full disk or a broken pipe leaves it."""
    script = export_of(fill(clear), "postgres")[0]
    postgres.run(fresh("pg"), script[: script.rindex(b"COMMIT")])
    [[left]] = postgres.run("SET search_path TO fresh;", rows("SELECT count(*) FROM users"))
    assert left == {"count": 0}


def test_a_column_of_your_own_in_prismas_tables_needs_a_default(clear: Any, postgres: Postgres) -> None:
    """Its documentation has ``updatedAt``, which Prisma's client fills and the database does not."""
    script = export_of(fill(clear), "postgres", tool="prisma")[0]
    own = 'ALTER TABLE "User" ADD "updatedAt" timestamp(3) NOT NULL;\n'
    assert '"updatedAt"' in postgres.run(fresh("prisma"), own, script, expect=3)
    mended = 'ALTER TABLE "User" ALTER "updatedAt" SET DEFAULT now();\n'
    [[found]] = postgres.run(fresh("prisma"), own, mended, script, rows('SELECT count(*) FROM "User"'))
    assert found == {"count": 2}


# --- the commands of the README ---------------------------------------------------------------


def command(format: str) -> str:
    """How the README's table of formats says that one is loaded."""
    readme = (HERE.parent / "README.md").read_text(encoding="utf-8")
    [found] = re.findall(rf"^\| `{format}` \|[^|]*\| `([^`]+)` \|", readme, re.MULTILINE)
    return str(found)


def run_as_shown(folder: Path, format: str, data: bytes, **environment: str) -> str:
    """What the README's command prints that loads an export, in a folder that has it."""
    (folder / "users.out").write_bytes(data)
    ran = subprocess.run(
        ["sh", "-c", command(format)], cwd=folder, env={**os.environ, **environment}, capture_output=True,
        timeout=PATIENCE, check=True,
    )  # fmt: skip
    return ran.stdout.decode()


def test_the_command_for_redis_loads_it(clear: Any, redis: Redis, tmp_path: Path) -> None:
    redis.ask("flushall")
    url = f"redis://127.0.0.1:{redis.port}"
    assert "errors: 0" in run_as_shown(tmp_path, "redis", export_of(fill(clear), "redis")[0], REDIS_URL=url)
    assert redis.ask("dbsize").strip() == b"14"


def test_the_command_for_postgres_loads_it(clear: Any, postgres: Postgres, tmp_path: Path) -> None:
    postgres.run(fresh("pg"))
    where = {"PGHOST": postgres.folder, "PGUSER": "postgres", "PGOPTIONS": "-c search_path=fresh"}
    run_as_shown(tmp_path, "postgres", export_of(fill(clear), "postgres")[0], **where)
    [[found]] = postgres.run("SET search_path TO fresh;", rows("SELECT count(*) FROM accounts"))
    assert found == {"count": 3}


def test_the_command_for_dynamodb_gives_aws_each_request(clear: Any, tmp_path: Path) -> None:
    for i in range(60):
        clear.create_user(id=f"{i:02}", name="\\n \\ %s -n $HOME")
    (tmp_path / "aws").write_text('#!/bin/sh\necho "$1 $2 $3"\ncat "${4#file://}" >> sent; echo >> sent\n')
    (tmp_path / "aws").chmod(0o755)
    data = export_of(clear, "dynamodb")[0]
    said = run_as_shown(tmp_path, "dynamodb", data, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert said == "dynamodb batch-write-item --request-items\n" * 3
    assert (tmp_path / "sent").read_bytes() == data


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_command_for_couchdb_posts_each_request(clear: Any, tmp_path: Path) -> None:
    got: list[tuple[str, str | None, bytes]] = []

    class CouchDB(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, self.headers["Content-Type"], body))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    data = export_of(fill(clear), "pouchdb")[0]
    with HTTPServer(("127.0.0.1", 0), CouchDB) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            run_as_shown(tmp_path, "pouchdb", data, COUCHDB_URL=f"http://127.0.0.1:{server.server_port}/users")
        finally:
            server.shutdown()
            thread.join()
    assert got == [("/users/_bulk_docs", "application/json", line) for line in data.splitlines()]


@pytest.mark.parametrize("format", FORMATS)
def test_the_readme_has_a_command_for_every_format(format: str) -> None:
    assert "users.out" in command(format)


def test_the_readme_names_every_tool() -> None:
    readme = (HERE.parent / "README.md").read_text(encoding="utf-8")
    assert all(f"`{tool}`" in readme for tool in TOOLS)


def test_the_javascript_of_the_readme_feeds_a_dump_to_an_official_adapter(
    store: Any, postgres: Postgres, node: Path, tmp_path: Path
) -> None:
    """Drizzle's, which makes ids of its own and has a place for passkeys."""
    readme = (HERE.parent / "README.md").read_text(encoding="utf-8")
    [script] = re.findall(r"^```js\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    (node / "load.mjs").write_text(script)
    (node / "adapter.mjs").write_text(
        """import pg from "pg"
        import { drizzle } from "drizzle-orm/node-postgres"
        import { DrizzleAdapter } from "@auth/drizzle-adapter"
        export const adapter = DrizzleAdapter(drizzle(new pg.Pool({ allowExitOnIdle: true })))"""
    )
    postgres.run(fresh("drizzle"))
    dumped = io.StringIO()
    dump(fill(store), dumped, oauth_tokens=True)
    where = {"PGHOST": postgres.folder, "PGUSER": "postgres", "PGOPTIONS": "-c search_path=fresh"}
    ran = subprocess.run(
        ["node", "load.mjs"], cwd=node, env={**os.environ, **where, "TZ": "Asia/Tokyo"}, input=dumped.getvalue(),
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    ids = dict(map(json.loads, ran.stdout.splitlines()))
    assert [*ids] == [ADA, GRACE]
    users, accounts, passkeys = postgres.run(
        "SET search_path TO fresh;", rows('SELECT * FROM "user" ORDER BY email'),
        rows('SELECT * FROM account ORDER BY "providerAccountId"'), rows("SELECT * FROM authenticator"),
    )  # fmt: skip
    [[ada, grace], [first, *others], [passkey]] = users, accounts, passkeys
    assert ada == {
        "id": ids[ADA], "name": "Ada Lovelace", "email": "ada@example.com", "image": "https://example.com/ada.png",
        "emailVerified": "2024-01-02T03:04:05.678",
    }  # fmt: skip
    assert (grace["id"], grace["emailVerified"], grace["name"]) == (ids[GRACE], None, None)
    assert (first["userId"], first["access_token"], first["expires_at"]) == (ids[ADA], "at-1", 1893456000)
    assert [one["userId"] for one in others] == [ids[GRACE], ids[ADA]]
    assert passkey == {
        "credentialID": "Y3JlZC0x", "userId": ids[ADA], "providerAccountId": "Y3JlZC0x", "counter": 7,
        "credentialPublicKey": "cHVibGljLWtleQ==", "credentialDeviceType": "multiDevice",
        "credentialBackedUp": True, "transports": "internal,hybrid",
    }  # fmt: skip
