"""The file below a ``SQLiteAdapter``: its modes, its names, and every way in which it can be unusable."""

from __future__ import annotations

import os
import contextlib
import random
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support import apart, every_connection, every_statement, exit_code, fork, furnish, link, register, run_python

from tinyauthstore import (
    AuthStoreError, MemoryAdapter, ShelveAdapter, SQLiteAdapter, StorageError, User, connect,
)
from tinyauthstore.schema import USER_VERSION
from tinyauthstore.statements import compiled

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")


@dataclass(frozen=True, slots=True)
class Member(User):
    plan: str = "free"


@dataclass(frozen=True, slots=True)
class OtherMember(User):
    plan: int = 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "auth.db"


def raw(path: Path, *statements: str) -> list[Any]:
    """The rows of the last statement, run by a plain connection, which enforces no foreign keys."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return [connection.execute(statement).fetchall() for statement in statements][-1]


def furnished(path: Path) -> Path:
    """A sound file with Ada in it, closed."""
    with SQLiteAdapter(path) as store:
        furnish(store)
    return path


def refused(path: str | Path, match: str, **options: Any) -> StorageError:
    """The error with which a file is refused; it must say where, and must have left everything as it was."""
    place = os.path.abspath(path)
    before = surroundings(place)
    with pytest.raises(StorageError, match=match) as caught:
        SQLiteAdapter(path, **options)
    assert caught.value.path == place
    assert str(caught.value).startswith(place)
    assert surroundings(place) == before
    return caught.value


def surroundings(place: str) -> dict[str, bytes | None]:
    """The files beside ``place``, itself included, and what is in them."""
    folder = Path(place.replace("\0", "")).parent
    if not folder.is_dir() or folder == Path("/proc"):
        return {}
    return {str(entry): entry.read_bytes() if entry.is_file() else None for entry in folder.iterdir()}


# --- modes ------------------------------------------------------------------------------------


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in folder.iterdir()}


needs_modes = pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")


@needs_modes
@pytest.mark.parametrize("mask", [0o022, 0o000, 0o077], ids=oct)
def test_the_file_and_its_sidecars_are_for_their_owner_only(path: Path, mask: int) -> None:
    with umask(mask), SQLiteAdapter(path) as store:
        furnish(store)
        assert modes(path.parent) == dict.fromkeys(["auth.db", "auth.db-wal", "auth.db-shm"], 0o600)
    assert modes(path.parent) == {"auth.db": 0o600}


@needs_modes
def test_no_file_is_for_others_at_any_moment_of_its_creation(path: Path) -> None:
    seen: set[tuple[str, int]] = set()

    class Watched(sqlite3.Connection):
        def execute(self, *arguments: Any) -> sqlite3.Cursor:
            seen.update(modes(path.parent).items())
            return super().execute(*arguments)

    with umask(0), every_connection(Watched), SQLiteAdapter(path) as store:
        furnish(store)
    assert seen == {("auth.db", 0o600), ("auth.db-wal", 0o600), ("auth.db-shm", 0o600)}


@needs_modes
def test_a_journal_is_for_its_owner_only(path: Path) -> None:
    furnished(path)
    with umask(0), closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in ("PRAGMA journal_mode = DELETE", "BEGIN IMMEDIATE", "DELETE FROM users"):
            connection.execute(statement)
        assert modes(path.parent) == {"auth.db": 0o600, "auth.db-journal": 0o600}


@needs_modes
def test_an_existing_file_keeps_the_mode_that_its_owner_gave_it(path: Path) -> None:
    furnished(path).chmod(0o640)
    with SQLiteAdapter(path) as store:
        store.create_user()
    assert modes(path.parent) == {"auth.db": 0o640}


# --- names ------------------------------------------------------------------------------------

NAMES = [
    "plain.db", "zoë.db", "認証.db", "with space.db", "100%.db", "%41.db", "what?.db", "a?mode=ro.db",
    "a#b.db", "quote'.db", 'double".db', "semi;colon.db", "back\\slash.db",
    ":memory:.db", "-dash", "trailing ", "~",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_the_name_of_the_file(tmp_path: Path, name: str) -> None:
    furnished(tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    with SQLiteAdapter(str(tmp_path / name), synchronize=False) as store:
        assert store.get_user("ada") is not None


class Somewhere:
    """A path that is neither a str nor a Path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


@pytest.mark.parametrize("kind", [str, Path, Somewhere])
def test_a_path_may_be_anything_that_names_one(path: Path, kind: Callable[[Path], Any]) -> None:
    with SQLiteAdapter(kind(path)) as store:
        furnish(store)
    assert path.is_file()


@pytest.mark.parametrize("path", ["", b"auth.db", "file:auth.db", "file:///auth.db?mode=memory"], ids=repr)
def test_what_does_not_name_a_file_is_a_value_error(
    path: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="path must name a file"):
        SQLiteAdapter(path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", [None, 5, object()], ids=["None", "int", "object"])
def test_what_is_no_path_at_all_is_a_type_error(path: Any) -> None:
    with pytest.raises(TypeError):
        SQLiteAdapter(path)


def test_a_relative_path_survives_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    connections = []

    class Counted(sqlite3.Connection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            connections.append(self)

    monkeypatch.chdir(here)
    with every_connection(Counted), SQLiteAdapter("auth.db") as store:
        furnish(store)
        monkeypatch.chdir(there)
        with store.transaction():
            assert in_another_thread(lambda: store.get_user("ada")) is not None
        assert len(connections) == 2  # so the second was opened after the change
    assert os.listdir(there) == []
    assert os.listdir(here) == ["auth.db"]


def in_another_thread(call: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


# --- places where there can be no database ----------------------------------------------------


def no_directory(folder: Path) -> str:
    return str(folder / "missing" / "auth.db")


def a_directory(folder: Path) -> str:
    (folder / "directory").mkdir()
    return str(folder / "directory")


def below_a_file(folder: Path) -> str:
    (folder / "file").write_text("no directory")
    return str(folder / "file" / "auth.db")


def a_link_to_itself(folder: Path) -> str:
    (folder / "link").symlink_to(folder / "link")
    return str(folder / "link")


def a_pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe")
    return str(folder / "pipe")


PLACES: dict[str, tuple[Callable[[Path], str], str, type[Exception] | None]] = {
    "no directory": (no_directory, r"directory .*missing does not exist; create it", FileNotFoundError),
    "a directory": (a_directory, "is not a file; give the path of a file", None),
    "below a file": (below_a_file, "Not a directory", NotADirectoryError),
    "a link to itself": (a_link_to_itself, "cannot be opened: Too many levels", OSError),
    "a pipe": (a_pipe, "is not a file; give the path of a file", None),
    "a device": (lambda folder: "/dev/null", "is not a file; give the path of a file", None),
    "no place for files": (lambda folder: "/proc/auth.db", "cannot be opened", OSError),
    "a name too long": (lambda folder: str(folder / ("a" * 300)), "name too long", OSError),
    "a NUL": (lambda folder: str(folder / "auth\0.db"), "null", ValueError),
    "a lone surrogate": (lambda folder: str(folder / "\ud800.db"), "cannot be opened", ValueError),
}


@pytest.mark.skipif(os.name != "posix", reason="POSIX's places and messages")
@pytest.mark.parametrize("synchronize", [True, False])
@pytest.mark.parametrize("place", PLACES)
def test_a_place_where_no_file_can_be_is_refused(tmp_path: Path, place: str, synchronize: bool) -> None:
    make, says, cause = PLACES[place]
    if place == "no place for files" and not synchronize:
        says = "does not exist; synchronize=True would create it"
    elif place == "a name too long" and not synchronize:
        says = "cannot be opened"
    error = refused(make(tmp_path), says, synchronize=synchronize)
    assert isinstance(error.__cause__, cause or type(None))


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="this system has no /proc")
@pytest.mark.parametrize("place", ["a link to itself", "no place for files"])
def test_nobody_is_advised_to_do_what_was_just_done(tmp_path: Path, place: str) -> None:
    error = refused(PLACES[place][0](tmp_path), "cannot be opened", synchronize=True)
    assert "synchronize=True" not in str(error)


def as_nobody(act: Callable[[], None]) -> None:
    """Run ``act`` in a child without the rights of the superuser, for whom nothing is out of reach."""

    def body() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        act()

    assert exit_code(fork(body)) == 0


READ_ONLY: dict[str, tuple[int, int]] = {
    "an unreadable file": (0o000, 0o777),
    "a read-only file": (0o444, 0o777),
    "a read-only directory": (0o666, 0o555),
}


@needs_fork
@pytest.mark.parametrize("synchronize", [True, False])
@pytest.mark.parametrize("what", READ_ONLY)
@apart
def test_a_place_without_the_right_to_write_is_refused(tmp_path: Path, what: str, synchronize: bool) -> None:
    file_mode, folder_mode = READ_ONLY[what]
    # Not in tmp_path: that lies in a directory which nobody may enter.
    with tempfile.TemporaryDirectory() as folder:
        path = furnished(Path(folder) / "auth.db")
        content = path.read_bytes()
        path.chmod(file_mode)
        os.chmod(folder, folder_mode)

        def act() -> None:
            with pytest.raises(StorageError, match="is not writable for this user") as caught:
                SQLiteAdapter(path, synchronize=synchronize)
            assert caught.value.path == str(path)

        as_nobody(act)
        os.chmod(folder, 0o700)
        assert os.listdir(folder) == ["auth.db"]
        assert path.read_bytes() == content


@needs_fork
@apart
def test_a_new_file_in_a_directory_without_the_right_to_write_is_refused(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "auth.db")
        os.chmod(folder, 0o555)

        def act() -> None:
            with pytest.raises(StorageError, match="Permission denied") as caught:
                SQLiteAdapter(path)
            assert caught.value.path == path
            assert isinstance(caught.value.__cause__, PermissionError)

        as_nobody(act)
        assert os.listdir(folder) == []


@needs_fork
@apart
def test_a_full_disk_undoes_the_write_and_the_store_goes_on_when_there_is_room_again(tmp_path: Path) -> None:
    import resource

    with SQLiteAdapter(tmp_path / "auth.db") as store:
        furnish(store)
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        size = os.path.getsize(tmp_path / "auth.db-wal") + 10_000
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, unlimited[1]))
        with pytest.raises(StorageError, match="could not be used: .*(full|I/O)") as caught:
            with store.transaction():
                store.create_user(id="small")
                store.create_user(id="large", name="a" * 100_000)
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        assert caught.value.path == str(tmp_path / "auth.db")
        assert store.get_user("small") is None
        assert store.get_user("ada") is not None
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        assert store.create_user(id="large", name="a" * 100_000) == store.get_user("large")
        assert store.check() == []


# --- files that are not ours, or not any more -------------------------------------------------


def foreign(*statements: str) -> Callable[[Path], None]:
    return lambda path: raw(path, *statements) and None


def of_a_newer_version(path: Path) -> None:
    raw(furnished(path), f"PRAGMA user_version = {USER_VERSION + 1}")


def truncated(path: Path) -> None:
    content = furnished(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def scribbled_header(path: Path) -> None:
    content = furnished(path).read_bytes()
    path.write_bytes(random.Random(1).randbytes(100) + content[100:])


def scribbled_schema(path: Path) -> None:
    content = furnished(path).read_bytes()
    path.write_bytes(content[:100] + random.Random(1).randbytes(3996) + content[4096:])


ANOTHERS = "is the database of another application"
DAMAGED = "is damaged or no SQLite database .*; restore a backup, or choose another path"

FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "another application's": (foreign("CREATE TABLE notes (text)"), ANOTHERS + r".*tables: notes"),
    "another application's users": (foreign("CREATE TABLE users (id, email)"), ANOTHERS),
    "another application's, in WAL mode": (
        foreign("PRAGMA journal_mode = WAL", "CREATE TABLE notes (text)"), ANOTHERS
    ),
    "another application's, still empty": (foreign("PRAGMA application_id = 5"), ANOTHERS),
    "another application's, versioned": (foreign("PRAGMA user_version = 5"), ANOTHERS),
    "of a newer version": (of_a_newer_version, "newer tinyauthstore .*upgrade the package"),
    "a word": (lambda path: path.write_text("ada\n"), DAMAGED),
    "a text": (lambda path: path.write_text("ada@example.com\n" * 1000), DAMAGED),
    "noise": (lambda path: path.write_bytes(random.Random(1).randbytes(10_000)), DAMAGED),
    "zeros": (lambda path: path.write_bytes(bytes(10_000)), DAMAGED),
    "a header and no more": (lambda path: path.write_bytes(b"SQLite format 3\0"), DAMAGED),
    "truncated": (truncated, DAMAGED),
    "scribbled over its header": (scribbled_header, DAMAGED),
    "scribbled over its schema": (scribbled_schema, DAMAGED),
}  # fmt: skip


@pytest.mark.parametrize("synchronize", [True, False])
@pytest.mark.parametrize("what", FILES)
def test_a_file_that_is_no_sound_store_is_refused_and_left_as_it_was(
    path: Path, what: str, synchronize: bool
) -> None:
    make, says = FILES[what]
    make(path)
    error = refused(path, says, synchronize=synchronize)
    assert isinstance(error.__cause__, sqlite3.DatabaseError if says is DAMAGED else type(None))


def test_what_another_applications_crash_left_in_its_wal_file_survives_the_refusal(path: Path) -> None:
    # Not byte for byte: SQLite moves it into the file itself, as it would for the next one of its owners.
    with closing(sqlite3.connect(path.with_name("live.db"), isolation_level=None)) as connection:
        for statement in ("PRAGMA journal_mode = WAL", "CREATE TABLE notes AS SELECT 'kept' AS text"):
            connection.execute(statement)
        for suffix in ("", "-wal"):
            shutil.copy(path.with_name(f"live.db{suffix}"), f"{path}{suffix}")
    with pytest.raises(StorageError, match=ANOTHERS):
        SQLiteAdapter(path)
    assert raw(path, "SELECT text FROM notes") == [("kept",)]


USES: list[Callable[[SQLiteAdapter], object]] = [
    lambda store: store.get_user("user 1"),
    lambda store: store.get_user_by_email("user2@example.com"),
    lambda store: store.get_user_by_account(provider="github", provider_account_id="3"),
    lambda store: store.list_accounts("user 4"),
    lambda store: store.get_session_and_user("session 5"),
    lambda store: store.list_sessions("user 6"),
    lambda store: store.touch_session("session 7"),
    lambda store: store.rotate_session("session 8"),
    lambda store: store.revoke_sessions("user 9"),
    lambda store: store.use_verification_token(identifier="user10@example.com", token="token 10"),
    lambda store: store.list_authenticators_by_user_id("user 11"),
    lambda store: store.update_authenticator_counter("12", 1000),
    lambda store: store.update_user("user 13", name="renamed"),
    lambda store: link(store, "user 14", "14", scope="new"),
    lambda store: store.delete_user("user 15"),
    lambda store: store.create_user(email="new@example.com"),
    lambda store: store.create_session(user_id="user 1"),
    lambda store: store.purge_expired(),
    lambda store: store.restore(store.snapshot()),
    lambda store: store.check(),
]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a sound file of some forty pages."""
    path = tmp_path_factory.mktemp("large") / "auth.db"
    with SQLiteAdapter(path, durability="normal") as store:
        for i in range(100):
            store.create_user(id=f"user {i}", email=f"user{i}@example.com", name="a" * 200)
            link(store, f"user {i}", str(i), claims={"nested": [1, 2]})
            register(store, f"user {i}", str(i))
            store.create_session(user_id=f"user {i}", session_token=f"session {i}")
            store.create_verification_token(identifier=f"user{i}@example.com", token=f"token {i}")
    return path.read_bytes()


def use_up(path: Path) -> list[Exception]:
    """What went wrong when the file was opened and everything was done to it."""
    errors: list[Exception] = []
    content = path.read_bytes()
    try:
        store = SQLiteAdapter(path, durability="normal")
    except Exception as error:
        assert path.read_bytes() == content
        return [error]
    with store:
        for use in USES:
            try:
                use(store)
            except Exception as error:
                errors.append(error)
    return errors


@pytest.mark.parametrize("seed", range(60))
def test_whatever_is_scribbled_over_a_file_no_foreign_error_comes_out(
    path: Path, large: bytes, seed: int
) -> None:
    rng = random.Random(seed)
    content = bytearray(large)
    for _ in range(rng.choice([1, 5, 30, 200])):
        size = rng.choice([1, 2, 8, 100, 4096])
        start = rng.randrange(100 if rng.random() < 0.9 else 0, len(content) - size)
        content[start : start + size] = rng.choice([rng.randbytes(size), bytes(size), b"\xff" * size])
    path.write_bytes(content)
    assert [repr(error) for error in use_up(path) if not isinstance(error, AuthStoreError)] == []


@pytest.mark.parametrize("seed", range(20))
def test_a_truncated_file_is_found_out(path: Path, large: bytes, seed: int) -> None:
    rng = random.Random(seed)
    size = rng.randrange(1, len(large)) if seed % 2 else 4096 * rng.randrange(1, len(large) // 4096)
    path.write_bytes(large[:size])
    errors = use_up(path)
    assert {type(error) for error in errors} == {StorageError}
    assert all(str(path) in str(error) for error in errors)


def test_a_column_of_another_type_is_refused_by_name(path: Path) -> None:
    with SQLiteAdapter(path, user=Member):
        pass
    error = refused(path, r"column users.plan holds str .TEXT., OtherMember.plan is int .INTEGER.", user=OtherMember)
    assert error.__cause__ is None


def test_a_file_is_opened_whenever_another_process_makes_it_meanwhile(tmp_path: Path) -> None:
    """An opening takes some twenty statements; somebody else may be faster before any one of them."""
    plain: Any = sqlite3.connect

    class Interrupted(sqlite3.Connection):
        left = 0

        def execute(self, *arguments: Any) -> sqlite3.Cursor:
            Interrupted.left -= 1
            if Interrupted.left == -1:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(sqlite3, "connect", plain)
                    try:
                        SQLiteAdapter(path, timeout=0).close()
                    except StorageError:  # where ours holds the lock already
                        busy.append(statement)
            return super().execute(*arguments)

    busy: list[int] = []
    for statement in range(1000):
        path = tmp_path / f"{statement}.db"
        Interrupted.left = statement
        with every_connection(Interrupted):
            SQLiteAdapter(path).close()
        if Interrupted.left >= 0:
            break
    assert statement - len(busy) >= 8  # or nothing would have been tried


# --- synchronize=False ------------------------------------------------------------------------


def test_synchronize_false_makes_no_file(path: Path) -> None:
    error = refused(path, "does not exist; synchronize=True would create it", synchronize=False)
    assert isinstance(error.__cause__, FileNotFoundError)


def test_synchronize_false_names_the_tables_that_an_empty_file_lacks(path: Path) -> None:
    path.touch()
    error = refused(path, "open it once with synchronize=True to add that", synchronize=False)
    tables = ["users", "accounts", "sessions", "verification_tokens", "authenticators"]
    assert all(f"table {table}" in str(error) for table in tables)


def test_synchronize_false_names_the_column_that_a_file_lacks(path: Path) -> None:
    furnished(path)
    error = refused(path, "lacks column users.plan ", user=Member, synchronize=False)
    assert "table" not in str(error)


def test_synchronize_false_names_the_index_that_a_file_lacks(path: Path) -> None:
    raw(furnished(path), "DROP INDEX users_email_key")
    refused(path, "lacks index users_email_key;", synchronize=False)


def test_synchronize_false_opens_what_is_complete(path: Path) -> None:
    with SQLiteAdapter(furnished(path), synchronize=False) as store:
        assert store.get_user("ada") is not None
        assert store.update_user("ada", name="Lovelace").name == "Lovelace"


def test_synchronize_true_mends_a_lost_index(path: Path) -> None:
    raw(furnished(path), "DROP INDEX users_email_key")
    with SQLiteAdapter(path) as store:
        assert store.get_user_by_email("ada@example.com") is not None
    assert raw(path, "SELECT 1 FROM sqlite_schema WHERE name = 'users_email_key'") == [(1,)]


# --- rows that somebody else wrote ------------------------------------------------------------

BAD_ROWS: dict[str, tuple[str, Callable[[SQLiteAdapter], object]]] = {
    "no JSON": ("accounts SET extra = 'no JSON'", lambda store: store.list_accounts("ada")),
    "truncated JSON": ("accounts SET extra = '{\"a\": '", lambda store: store.list_accounts("ada")),
    "JSON of another shape": ("accounts SET extra = '[1]'", lambda store: link(store, "ada")),
    "JSON null": ("accounts SET extra = 'null'", lambda store: link(store, "ada")),
    "JSON too deep": (
        f"accounts SET extra = '{'[' * 100_000}{']' * 100_000}'", lambda store: store.list_accounts("ada")
    ),
    "a date out of range": (
        f"sessions SET expires = {2**62}", lambda store: store.get_session_and_user("session")
    ),
    "a date before all time": (
        f"users SET email_verified = {-(2**62)}", lambda store: store.get_user("ada")
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_ROWS)
def test_a_row_that_is_not_ours_is_a_storage_error(path: Path, what: str) -> None:
    update, use = BAD_ROWS[what]
    raw(furnished(path), "UPDATE " + update)
    with SQLiteAdapter(path) as store, pytest.raises(StorageError) as caught:
        use(store)
    assert caught.value.path == str(path)
    assert str(path) in str(caught.value)
    assert update.split()[0] in str(caught.value)


@pytest.mark.parametrize("what", BAD_ROWS)
def test_check_lists_a_row_that_is_not_ours(path: Path, what: str) -> None:
    raw(furnished(path), "UPDATE " + BAD_ROWS[what][0])
    with SQLiteAdapter(path) as store:
        assert [problem for problem in store.check() if BAD_ROWS[what][0].split()[0] in problem] != []


def test_sessions_of_which_one_has_no_date_are_listed(path: Path) -> None:
    with SQLiteAdapter(furnished(path)) as store:
        store.create_session(user_id="ada")
        first = "(SELECT min(token_digest) FROM sessions)"
        raw(path, f"UPDATE sessions SET created_at = NULL WHERE token_digest = {first}")
        assert len(store.list_sessions("ada")) == 2


PLANTED = {
    "a session without its user": ("DELETE FROM users", "session"),
    "an account without its user": ("UPDATE accounts SET user_id = 'nobody'", "account"),
    "an authenticator without its user": ("UPDATE authenticators SET user_id = 'nobody'", "authenticator"),
    "another e-mail key": ("UPDATE users SET email_key = 'eve@example.com'", "email_key"),
    "no e-mail key": ("UPDATE users SET email_key = NULL", "email_key"),
    "an e-mail key in capitals": ("UPDATE users SET email_key = 'ADA@EXAMPLE.COM'", "email_key"),
    "a key of no e-mail": ("UPDATE users SET email = NULL", "email_key"),
    "another identifier key": (
        "UPDATE verification_tokens SET identifier_key = 'eve@example.com'", "identifier_key"
    ),
    "a blank e-mail": ("UPDATE users SET email = ' '", "email"),
    "an empty id": ("UPDATE accounts SET provider = ''", "provider"),
    "a code without attempts left": ("UPDATE verification_tokens SET attempts = 0", "attempts"),
    "a negative number of attempts": ("UPDATE verification_tokens SET attempts = -1", "attempts"),
    "too many attempts": (f"UPDATE verification_tokens SET attempts = {2**32}", "attempts"),
    "a negative counter": ("UPDATE authenticators SET counter = -1", "counter"),
}  # fmt: skip


@pytest.mark.parametrize("what", PLANTED)
def test_check_finds_what_was_planted(path: Path, what: str) -> None:
    statement, names = PLANTED[what]
    raw(furnished(path), statement)
    with SQLiteAdapter(path) as store:
        problems = store.check()
    assert [problem for problem in problems if names in problem] != []


def test_check_finds_an_index_that_differs_from_its_table(path: Path) -> None:
    furnished(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "DROP INDEX sessions_expires; CREATE INDEX sessions_expires ON sessions (created_at);"
            " PRAGMA writable_schema = ON;"
            " UPDATE sqlite_schema SET sql = replace(sql, 'created_at', 'expires') WHERE name = 'sessions_expires'"
        )
    with SQLiteAdapter(path) as store:
        assert store.check() == ["index sessions_expires differs from its table sessions: REINDEX mends that"]


def test_check_finds_a_damaged_page(path: Path, large: bytes) -> None:
    content = bytearray(large)
    content[-4096 * 5 :] = random.Random(1).randbytes(4096 * 5)
    path.write_bytes(content)
    with SQLiteAdapter(path) as store:
        assert store.check() != []


def test_check_finds_nothing_in_a_sound_file(path: Path, large: bytes) -> None:
    path.write_bytes(large)
    with SQLiteAdapter(path) as store:
        assert store.check() == []


# --- no file ----------------------------------------------------------------------------------


class Elder(sqlite3.Connection):
    """Of a Python whose SQLite cannot serialize."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("serialize", "deserialize"):
            raise AttributeError(name)
        return super().__getattribute__(name)


SETTINGS = ("foreign_keys", "secure_delete", "temp_store", "trusted_schema", "synchronous", "encoding")


def made(store: Any) -> list[Any]:
    """All that there is in a store's database, and the settings that make it ours."""
    found = store._connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name").fetchall()
    return [*found, *(store._connection.execute(f"PRAGMA {name}").fetchall() for name in SETTINGS)]


@pytest.mark.parametrize("kind", [sqlite3.Connection, Elder])
@pytest.mark.parametrize("model", [User, Member])
def test_every_store_in_memory_is_made_like_a_file(path: Path, model: type[User], kind: type) -> None:
    compiled.cache_clear()  # so that the first one here is the first for its models
    with every_connection(kind), SQLiteAdapter(path, user=model) as in_a_file:
        for _ in range(3):
            with SQLiteAdapter(":memory:", user=model) as store:
                assert made(store) == made(in_a_file)


def test_a_store_in_memory_that_is_not_the_first_is_sound() -> None:
    for _ in range(3):
        with SQLiteAdapter(":memory:") as store:
            furnish(store)
            assert store.check() == []


def test_only_the_first_store_in_memory_runs_ddl() -> None:
    ran: list[str] = []
    compiled.cache_clear()
    counts = []
    with every_statement(ran.append):
        for _ in range(3):
            ran.clear()
            SQLiteAdapter(":memory:").close()
            counts.append(sum(sql.startswith("CREATE TABLE") for sql in ran))
    assert counts == [6, 0, 0]


def test_a_store_in_memory_is_no_deserialized_one() -> None:
    """Such a one cannot grow beyond 1 GiB; it has a name of its own."""
    for _ in range(2):
        with SQLiteAdapter(":memory:") as store:
            assert store._connection.execute("PRAGMA database_list").fetchall() == [(0, "main", "")]


def test_a_failure_to_make_a_store_in_memory_is_a_storage_error() -> None:
    class Failing(sqlite3.Connection):
        def backup(self, *given: Any, **options: Any) -> None:
            raise sqlite3.OperationalError("out of memory")

    SQLiteAdapter(":memory:").close()
    with every_connection(Failing), pytest.raises(StorageError, match="out of memory"):
        SQLiteAdapter(":memory:")


def test_stores_in_memory_share_nothing() -> None:
    with SQLiteAdapter(":memory:") as first, SQLiteAdapter(":memory:") as second:
        furnish(first)
        with SQLiteAdapter(":memory:") as third:
            assert [store.get_user("ada") for store in (second, third)] == [None, None]
        furnish(second)
        first.delete_user("ada")
        assert second.get_user("ada") is not None


# --- connect ----------------------------------------------------------------------------------

FILE_TARGETS: dict[str, Callable[[Path], Any]] = {
    "relative URL": lambda path: f"sqlite:///{path.name}",
    "absolute URL": lambda path: f"sqlite:///{path}",
    "mapping": lambda path: {"type": "sqlite", "database": str(path)},
    "mapping with an option": lambda path: {"type": "sqlite", "database": str(path), "synchronize": True},
}


@pytest.mark.parametrize("form", FILE_TARGETS)
def test_connect_opens_the_file_that_is_named(path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    with connect(FILE_TARGETS[form](path)) as store:
        assert type(store) is SQLiteAdapter
        furnish(store)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("name", [name for name in NAMES if "?" not in name])
def test_connect_takes_a_name_literally(tmp_path: Path, name: str) -> None:
    connect(f"sqlite:///{tmp_path / name}").close()
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("sqlite:///:memory:", SQLiteAdapter),
        ({"type": "sqlite", "database": ":memory:", "synchronize": True}, SQLiteAdapter),
        ("memory:", MemoryAdapter),
        ({"type": "memory"}, MemoryAdapter),
    ],
)
def test_connect_opens_a_store_in_memory(
    target: Any, kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with connect(target) as store:
        assert type(store) is kind
        furnish(store)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "target", ["sqlite:///:memory:", "memory:", {"type": "memory", "new_id": lambda: "other"}]
)
def test_connect_passes_options_on_and_those_of_the_call_win(target: Any) -> None:
    with connect(target, new_id=lambda: "chosen", user=Member) as store:
        assert store.create_user() == Member(id="chosen", plan="free")


BAD_TARGETS = [
    "", "auth.db", "sqlite", "sqlite:", "sqlite:auth.db", "sqlite://auth.db", "sqlite:///",
    "sqlite3:///auth.db", "sqlite:///auth.db?mode=ro", "postgresql://localhost/auth", "memory", ":memory:",
    "memory:auth", "Memory:", {}, {"type": "sqlite"}, {"type": "sqlite", "database": None},
    {"type": "sqlite", "database": b"auth.db"}, {"type": "redis", "database": "auth.db"},
    {"database": "auth.db"}, {"type": "memory", "database": "auth.db"}, None, 5, b"memory:",
    Path("auth.db"), ["memory:"],
]  # fmt: skip


@pytest.mark.parametrize("target", BAD_TARGETS, ids=repr)
def test_connect_refuses_anything_else_with_the_list_of_good_forms(
    target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as caught:
        connect(target)
    good = ['"sqlite:///auth.db"', '"sqlite:////', '"sqlite:///:memory:"', '"memory:"', '{"type": "sqlite"']
    assert [form for form in good if form not in str(caught.value)] == []
    assert os.listdir(tmp_path) == []


def test_connect_reports_an_unusable_file_as_the_constructor_does(path: Path) -> None:
    path.write_text("no database")
    with pytest.raises(StorageError, match=DAMAGED):
        connect(f"sqlite:///{path}")


def test_connect_refuses_an_unknown_option(path: Path) -> None:
    with pytest.raises(TypeError, match="colour"):
        connect({"type": "memory", "colour": "blue"})


# --- options ----------------------------------------------------------------------------------

AGES = [
    "session_max_age",
    "session_update_age",
    "session_absolute_age",
    "verification_max_age",
    "purge_interval",
]
BAD_AGES = [-1, -0.5, timedelta(-1), "60", True, float("nan"), float("inf"), 1e300, 10**400, [60]]
BAD_OPTIONS: list[tuple[str, Any]] = [
    *((name, value) for name in AGES for value in BAD_AGES),
    *((name, None) for name in ("session_max_age", "verification_max_age")),
    *(("secret", value) for value in ("", b"", 5, ["secret"], "\ud800")),
    *(("cache_size", value) for value in (-1, 1.0, "5", True, None)),
    *(("clock", value) for value in (datetime.now, lambda: 0, lambda: None)),
]
BAD_FILE_OPTIONS: list[tuple[str, Any]] = [
    *(("durability", value) for value in ("", "FULL", "fast", None, 2)),
    *(("timeout", value) for value in (-1, "5", None, True, float("nan"))),
]


def refused_option(make: Callable[..., Any], option: str, value: Any) -> None:
    """AssertionError unless that value is a ValueError which names the option."""
    with pytest.raises(ValueError) as caught:
        make(**{option: value})
    assert option in str(caught.value)


@pytest.mark.parametrize(("option", "value"), BAD_OPTIONS + BAD_FILE_OPTIONS)
def test_a_bad_option_is_refused_by_name_and_makes_no_file(path: Path, option: str, value: Any) -> None:
    refused_option(lambda **options: SQLiteAdapter(path, **options), option, value)
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize(("option", "value"), BAD_OPTIONS)
def test_a_bad_option_is_refused_in_memory_too(option: str, value: Any) -> None:
    refused_option(MemoryAdapter, option, value)


@pytest.mark.parametrize("option", ["user", "account", "session", "verification_token", "authenticator"])
@pytest.mark.parametrize("value", [dict, 5, "User", StorageError], ids=repr)
def test_a_model_that_extends_no_record_is_a_type_error(option: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{option}= takes a subclass of"):
        MemoryAdapter(**{option: value})


@pytest.mark.parametrize("option", ["synchronise", "durability"])
def test_an_unknown_option_is_a_type_error(option: str) -> None:
    with pytest.raises(TypeError, match=option):
        MemoryAdapter(**{option: "full"})  # type: ignore[misc]


# --- a Python without a usable SQLite ---------------------------------------------------------

WITHOUT = """
import sys
sys.modules[sys.argv[1]] = None  # what an import finds where the module was not built

import tinyauthstore
from tinyauthstore import MemoryAdapter, SQLiteAdapter, StorageError, connect

with MemoryAdapter() as store:
    assert store.get_user(store.create_user().id) is not None
for open_it in (lambda: SQLiteAdapter("auth.db"), lambda: connect("sqlite:///:memory:")):
    try:
        open_it()
    except StorageError as error:
        print(error)
"""


@pytest.mark.parametrize("module", ["sqlite3", "_sqlite3"])
def test_a_python_without_sqlite3_lacks_only_the_sqlite_adapter(module: str) -> None:
    messages = run_python(WITHOUT, module).splitlines()
    assert len(messages) == 2
    for message in messages:
        assert "SQLite 3.37.0 or newer" in message
        assert "none" in message
        assert "MemoryAdapter" in message


def test_an_sqlite_that_is_too_old_is_refused_by_its_version(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.36.0")
    with pytest.raises(StorageError, match=r"SQLite 3\.37\.0 or newer.*SQLite 3\.36\.0"):
        SQLiteAdapter(path)
    assert os.listdir(path.parent) == []


# --- where it lies ----------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [SQLiteAdapter, ShelveAdapter])
def test_a_store_says_where_it_lies_and_cannot_be_moved(
    adapter: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with adapter(Path("auth.db")) as store:
        monkeypatch.chdir("/")
        assert type(store.path) is str and os.path.samefile(store.path, tmp_path / "auth.db")
        with pytest.raises(AttributeError):
            store.path = "elsewhere"
    assert os.path.isabs(store.path)  # closed, too


def test_a_store_in_memory_lies_in_memory() -> None:
    with SQLiteAdapter(":memory:") as store:
        assert store.path == ":memory:"
