"""Where a secret may be: in the hands of whoever was given it. Not in files, logs, reprs or errors."""

from __future__ import annotations

import base64
import gc
import hashlib
import hmac
import io
import logging
import pickle
import sqlite3
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support import furnish, link

from tinyauthstore import AuthStoreError, ConflictError, MemoryAdapter, SQLiteAdapter, connect
from tinyauthstore.testing import START

NAIVE = datetime(2026, 1, 2)
OPTIONS: dict[str, Any] = {"session_update_age": 0, "verification_max_age": 60, "purge_interval": 0}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "auth.db"


@pytest.fixture(params=["file", "sqlite", "memory"])
def store(request: pytest.FixtureRequest, path: Path) -> Iterator[Any]:
    if request.param == "memory":
        made: Any = MemoryAdapter(**OPTIONS)
    else:
        made = SQLiteAdapter(path if request.param == "file" else ":memory:", **OPTIONS)
    with made:
        yield made


def tokens_of_a_busy_day(store: Any) -> Iterator[str]:
    """Do with tokens all that can be done, and yield each, again after every step."""
    tokens: list[str] = []

    def said(*made: str) -> Iterator[str]:
        tokens.extend(made)
        yield from tokens

    ada = store.create_user(email="ada@example.com", name="Ada")
    for given in (None, "a-link-chosen-by-the-application", "314159"):
        made = store.create_verification_token(identifier="ada@example.com", token=given)
        yield from said(made.token)
    yield from said(store.use_verification_token(identifier="ada@example.com", token=made.token).token)
    sessions = [
        store.create_session(user_id=ada.id, session_token=given) for given in (None, None, "chosen-token")
    ]
    yield from said(*(session.session_token for session in sessions))
    first, second, third = (session.session_token for session in sessions)
    yield from said(store.get_session_and_user(first).session.session_token)
    yield from said(store.update_session(first, expires=START + timedelta(days=36500)).session_token)
    yield from said(store.touch_session(second).session_token)
    yield from said(store.rotate_session(first).session_token)
    yield from said(store.delete_session(second).session_token)
    with pytest.raises(ConflictError):
        store.create_session(user_id=ada.id, session_token=third)
    with pytest.raises(ZeroDivisionError), store.transaction():
        undone = store.create_session(user_id=ada.id)
        tokens.append(store.rotate_session(third).session_token)
        yield from said(undone.session_token)
        raise ZeroDivisionError
    yield from tokens
    store.update_session(third, expires=START - timedelta(days=1))
    store.purge_expired()
    yield from tokens
    store.restore(store.snapshot())
    yield from tokens
    store.delete_user(ada.id)
    yield from tokens


def shapes(token: str) -> list[bytes]:
    """The ways in which a token could lie in a file in the clear."""
    data = token.encode()
    return [data, data.hex().encode(), base64.b64encode(data).rstrip(b"="), token.encode("utf-16-le")]


def content(path: Path) -> bytes:
    """The bytes of the database and of every file beside it."""
    return b"".join(file.read_bytes() for file in sorted(path.parent.iterdir()))


# --- in files ---------------------------------------------------------------------------------


def test_no_raw_token_is_ever_in_the_file_or_its_sidecars(path: Path) -> None:
    tokens = set()
    with SQLiteAdapter(path, **OPTIONS) as store:
        for token in tokens_of_a_busy_day(store):
            tokens.add(token)
            lying = content(path)
            assert [shape for shape in shapes(token) if shape in lying] == []
        assert {file.name for file in path.parent.iterdir()} == {"auth.db", "auth.db-wal", "auth.db-shm"}
    assert len(tokens) >= 9
    assert [shape for token in tokens for shape in shapes(token) if shape in content(path)] == []


def test_no_raw_token_is_in_the_rollback_journal(path: Path) -> None:
    with SQLiteAdapter(path) as store:
        token = store.create_session(user_id=store.create_user().id).session_token
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in ("PRAGMA journal_mode = DELETE", "BEGIN", "DELETE FROM sessions"):
            connection.execute(statement)
        journal = path.with_name("auth.db-journal").read_bytes()
    assert hashlib.sha256(token.encode()).digest() in journal  # so it is the right place to look in
    assert token.encode() not in journal


def digest_of(token: str, secret: bytes | None) -> bytes:
    """What the documentation says is stored of a token."""
    data = token.encode()
    return hashlib.sha256(data).digest() if secret is None else hmac.digest(secret, data, "sha256")


@pytest.mark.parametrize("secret", [None, b"pepper"], ids=["SHA-256", "HMAC"])
def test_a_token_lies_in_the_file_as_its_digest(path: Path, secret: bytes | None) -> None:
    with SQLiteAdapter(path, secret=secret) as store:
        session = store.create_session(user_id=store.create_user().id)
        link = store.create_verification_token(identifier="ada@example.com")
    for token in (session.session_token, link.token):
        assert digest_of(token, secret) in content(path)
        assert digest_of(token, b"pepper" if secret is None else None) not in content(path)


def test_what_was_deleted_leaves_no_byte_in_the_file(path: Path) -> None:
    with SQLiteAdapter(path) as store:
        ada = store.create_user(email="ada@example.com", name="Ada Lovelace")
        link(store, ada.id, access_token="an-access-token", id_token="an-id-token", claims={"a": "claim"})
        session = store.create_session(user_id=ada.id)
        rotated = store.rotate_session(session.session_token)
        assert rotated is not None
        made = store.create_verification_token(identifier="ada@example.com")
        gone = [b"ada@example.com", b"Lovelace", b"an-access-token", b"an-id-token", b"claim"]
        gone += [digest_of(token, None) for token in (rotated.session_token, made.token)]
        assert [trace for trace in gone if trace not in content(path)] == []
        store.delete_user(ada.id)
    assert [trace for trace in gone if trace in content(path)] == []


@pytest.mark.parametrize("token", ["session", "verification"])
def test_whoever_reads_the_file_can_sign_in_with_nothing_in_it(path: Path, token: str) -> None:
    with SQLiteAdapter(path) as store:
        session = store.create_session(user_id=store.create_user().id)
        made = store.create_verification_token(identifier="ada@example.com")
        digest = digest_of(session.session_token if token == "session" else made.token, None)
        forms = [
            digest.hex(),
            digest.hex().upper(),
            digest.decode("latin-1"),
            base64.b64encode(digest).decode(),
        ]
        forms += [
            base64.urlsafe_b64encode(digest).decode().rstrip("="),
            digest[:16].hex(),
            f"X'{digest.hex()}'",
        ]
        for form in forms:
            uses = (
                store.get_session_and_user, store.update_session, store.touch_session, store.rotate_session,
                store.delete_session,
            )  # fmt: skip
            assert [use(form) for use in uses] == [None] * 5
            assert store.use_verification_token(identifier="ada@example.com", token=form) is None
        assert store.get_session_and_user(session.id) is None
        assert store.get_session_and_user(session.session_token) is not None
        assert store.use_verification_token(identifier="ada@example.com", token=made.token) == made


# --- under a secret ---------------------------------------------------------------------------


@pytest.mark.parametrize("other", [None, "salt", b"pepper ", "Pepper"], ids=repr)
def test_under_another_secret_nothing_resolves(path: Path, other: Any) -> None:
    with SQLiteAdapter(path, secret="pepper") as store:
        session = store.create_session(user_id=store.create_user().id)
        made = store.create_verification_token(identifier="ada@example.com")
    with SQLiteAdapter(path, secret=other) as store:
        assert store.get_session_and_user(session.session_token) is None
        assert store.touch_session(session.session_token) is None
        assert store.rotate_session(session.session_token) is None
        assert store.delete_session(session.session_token) is None
        assert store.use_verification_token(identifier="ada@example.com", token=made.token) is None
    with SQLiteAdapter(path, secret=b"pepper") as store:
        assert store.get_session_and_user(session.session_token) is not None
        assert store.use_verification_token(identifier="ada@example.com", token=made.token) == made


def test_the_secret_itself_is_in_no_file_and_no_repr(path: Path) -> None:
    secret = "a-pepper-that-nobody-guesses"
    with SQLiteAdapter(path, secret=secret) as store:
        store.create_session(user_id=store.create_user().id)
        assert secret not in repr(store) + repr(store.snapshot())
        assert secret.encode() not in content(path)
    assert secret.encode() not in content(path)


@pytest.mark.parametrize("target", [{"type": "sqlite"}, {"type": "redis", "database": "auth.db"}], ids=repr)
def test_a_refused_target_of_connect_does_not_tell_the_secret(target: dict[str, Any]) -> None:
    secret = "a-pepper-that-nobody-guesses"
    with pytest.raises(ValueError) as caught:
        connect({**target, "secret": secret})
    assert secret not in told(caught.value)


# --- in memory --------------------------------------------------------------------------------

OPAQUE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.FrameType)


def held(root: object) -> set[bytes]:
    """Every str and bytes that can be reached from an object, without the code that it runs."""
    seen: dict[int, object] = {}
    pending = [root]
    while pending:
        found = pending.pop()
        if id(found) not in seen and not isinstance(found, OPAQUE):
            seen[id(found)] = found
            pending += gc.get_referents(found)
    texts = [found for found in seen.values() if isinstance(found, (str, bytes))]
    return {text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text for text in texts}


def test_a_store_in_memory_and_its_snapshots_hold_digests_only() -> None:
    with MemoryAdapter(**OPTIONS, cache_size=0) as store:  # what is kept of look-ups was just presented
        for token in tokens_of_a_busy_day(store):
            assert [shape for shape in shapes(token) if shape in held(store) | held(store.snapshot())] == []
        session = store.create_session(user_id=store.create_user(email="ada@example.com").id)
        made = store.create_verification_token(identifier="ada@example.com")
        for holder in (store, store.snapshot()):
            assert {digest_of(session.session_token, None), digest_of(made.token, None)} <= held(holder)
            assert b"ada@example.com" in held(holder)


def test_the_token_of_a_session_that_ended_is_nowhere_in_the_store_that_looked_it_up() -> None:
    with MemoryAdapter(**OPTIONS) as store:
        session = store.create_session(user_id=store.create_user().id)
        for _ in range(3):
            assert store.get_session_and_user(session.session_token) is not None
        assert session.session_token.encode() in held(store)
        store.delete_session(session.session_token)
        assert [shape for shape in shapes(session.session_token) if shape in held(store)] == []


# --- in what is printed -----------------------------------------------------------------------


def test_no_repr_shows_a_secret(store: Any) -> None:
    ada = store.create_user(email="ada@example.com")
    oauth = {
        "access_token": "an-access",
        "refresh_token": "a-refresh",
        "id_token": "an-id",
        "session_state": "a-state",
    }
    account = link(store, ada.id, **oauth, oauth_token_secret="an-extra")
    session = store.create_session(user_id=ada.id)
    made = store.create_verification_token(identifier="ada@example.com")
    found = store.get_session_and_user(session.session_token)
    shown = [
        account, store.get_account(provider="github", provider_account_id="1"), store.list_accounts(ada.id),
        session, found, store.list_sessions(ada.id), store.update_session(session.session_token), made,
        store.use_verification_token(identifier="ada@example.com", token=made.token), store, store.snapshot(),
    ]  # fmt: skip
    printed = "".join(f"{one!r} {one} {one!a}" for one in shown)
    secrets = [session.session_token, made.token, *oauth.values(), "an-extra"]
    assert [secret for secret in secrets if secret in printed] == []
    assert session.id in printed
    assert account.provider_account_id in printed


def test_nothing_is_logged_or_printed(
    store: Any, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    caplog.set_level(0)
    logging.getLogger().addHandler(handler)
    try:
        tokens = set(tokens_of_a_busy_day(store))
        store.close()
        logging.getLogger("tinyauthstore").error("the end")
    finally:
        logging.getLogger().removeHandler(handler)
    printed = stream.getvalue() + caplog.text + "".join(capsys.readouterr())
    assert "the end" in printed
    assert [token for token in tokens if token in printed] == []


# --- in errors --------------------------------------------------------------------------------


def told(error: BaseException) -> str:
    """All that an error and those behind it say: to a log, to a debugger's summary, to another process."""
    texts, pending, seen = [], [error], set()
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        texts += [str(one), repr(one), repr(one.args), repr(vars(one)), *traceback.format_exception(one)]
        pending += [other for other in (one.__cause__, one.__context__) if other is not None]
        if isinstance(one, AuthStoreError):
            texts.append(pickle.dumps(one).decode("latin-1"))
    return "\n".join(texts)


SECRET = "-".join(["not", "for", "your", "eyes"])  # never whole in a line of source that a traceback quotes
LONG = SECRET * 1000

MISTAKES: dict[str, Callable[[Any], object]] = {
    "a taken token": lambda store: [store.create_session(user_id="ada", session_token=SECRET) for _ in "12"],
    "an unknown user": lambda store: store.create_session(user_id="nobody", session_token=SECRET),
    "a token too long": lambda store: store.create_session(user_id="ada", session_token=LONG),
    "an empty token": lambda store: store.create_session(user_id="ada", session_token=""),
    "half a character": lambda store: store.create_session(user_id="ada", session_token=SECRET + "\ud800"),
    "bytes": lambda store: store.create_session(user_id="ada", session_token=SECRET.encode()),
    "a naive datetime": lambda store: store.create_session(
        user_id="ada", session_token=SECRET, expires=NAIVE
    ),
    "an unknown field": lambda store: store.create_session(
        user_id="ada", session_token=SECRET, colour=SECRET
    ),
    "a look-up with bytes": lambda store: store.get_session_and_user(SECRET.encode()),
    "an unknown field in an update": lambda store: store.update_session(SECRET, colour=SECRET),
    "a fixed field in an update": lambda store: store.update_session("session", user_id=SECRET),
    "a wrong type in an update": lambda store: store.update_session("session", expires=SECRET),
    "keeping bytes": lambda store: store.revoke_sessions("ada", keep=SECRET.encode()),
    "a verification token too long": lambda store: store.create_verification_token(
        identifier="ada@example.com", token=LONG
    ),
    "a verification token in bytes": lambda store: store.use_verification_token(
        identifier="ada@example.com", token=SECRET.encode()
    ),
    "a verification token without an identifier": lambda store: store.create_verification_token(
        identifier="", token=SECRET
    ),
    "an account of nobody": lambda store: link(store, "nobody", access_token=SECRET, extra={"a": SECRET}),
    "an account of another": lambda store: link(store, "grace", access_token=SECRET, refresh_token=SECRET),
    "an account without a provider": lambda store: link(store, "ada", provider="", id_token=SECRET),
    "a token as an id": lambda store: store.create_user(id=LONG),
    "a restore of a token": lambda store: store.restore(SECRET),
    "a store that is closed": lambda store: (store.close(), store.get_session_and_user(SECRET)),
    "a write to a store that is closed": lambda store: (
        store.close(), store.create_session(user_id="ada", session_token=SECRET)
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_no_error_tells_a_secret(store: Any, mistake: str) -> None:
    furnish(store)
    store.create_user(id="grace")
    with pytest.raises((AuthStoreError, TypeError)) as caught:
        MISTAKES[mistake](store)
    assert SECRET not in told(caught.value)


SABOTAGE = {
    "no table": "DROP TABLE sessions",
    "no such column": "ALTER TABLE sessions RENAME COLUMN expires TO expired",
    "a trigger": "CREATE TRIGGER no BEFORE INSERT ON sessions BEGIN SELECT raise(ABORT, 'no'); END",
    "a value out of range": f"UPDATE sessions SET expires = {2**62}",
    "no JSON": 'UPDATE accounts SET extra = \'{"token": "not-for-your-eyes\'',
    "a lock": "BEGIN IMMEDIATE",
}


@pytest.mark.parametrize("sabotage", SABOTAGE)
def test_no_error_of_the_file_tells_a_secret(path: Path, sabotage: str) -> None:
    with SQLiteAdapter(path, timeout=0) as store:
        furnish(store)
        store.update_session("session", expires=START + timedelta(days=36500))
        store.rotate_session("session")
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute(SABOTAGE[sabotage])
            errors = []
            for use in (
                lambda: store.create_session(user_id="ada", session_token=SECRET),
                lambda: store.list_sessions("ada"),
                lambda: link(store, "ada", access_token=SECRET),
            ):
                try:
                    use()
                except AuthStoreError as error:
                    errors.append(error)
    assert errors != []
    assert [error for error in errors if SECRET in told(error)] == []


def test_the_search_for_secrets_in_errors_would_find_one() -> None:
    hidden = KeyError(SECRET)
    try:
        try:
            raise hidden
        except KeyError:
            raise ConflictError("taken") from None
    except ConflictError as error:
        assert SECRET in told(error)
