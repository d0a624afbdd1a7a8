"""``backup`` and ``restore_backup``: whole, private, checked, and while everybody goes on."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sqlite3
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, furnish, run_python, start_python

from tinyauthstore import (
    BusyError, ClosedError, MemoryAdapter, ShelveAdapter, SplitAdapter, SQLiteAdapter, StorageError, User,
    backups,
)
from tinyauthstore.aio import AsyncAdapter

MAKERS: dict[str, Callable[..., Any]] = {
    "file": lambda folder, **options: SQLiteAdapter(folder / "auth.db", **options),
    "memory": lambda folder, **options: SQLiteAdapter(":memory:", **options),
    "shelf": lambda folder, **options: ShelveAdapter(folder / "auth", **options),
}


@dataclass(frozen=True, slots=True)
class Member(User):
    plan: str = "free"


@dataclass(frozen=True, slots=True)
class OtherMember(User):
    plan: int = 0


@pytest.fixture(params=MAKERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(kind: str, tmp_path: Path) -> Iterator[Any]:
    """A store with Ada and one of everything."""
    (tmp_path / "home").mkdir()
    with MAKERS[kind](tmp_path / "home", timeout=0.2) as store:
        furnish(store)
        yield store


def opened(kind: str, path: Path, **options: Any) -> Any:
    return ShelveAdapter(path, **options) if kind == "shelf" else SQLiteAdapter(path, **options)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def has_all_of_ada(store: Any) -> bool:
    return (
        store.check() == []
        and store.get_session_and_user("session").user.email == "ada@example.com"
        and len(store.list_accounts("ada")) == len(store.list_authenticators_by_user_id("ada")) == 1
    )


# --- backup -----------------------------------------------------------------------------------


def test_a_backup_is_a_whole_store_and_nothing_is_left_beside_it(kind: str, store: Any, tmp_path: Path) -> None:
    store.backup(tmp_path / "backup")
    store.delete_user("ada")
    assert names(tmp_path) == ["backup", "home"]
    with opened(kind, tmp_path / "backup") as backup:
        assert has_all_of_ada(backup)
        assert backup.use_verification_token(identifier="ada@example.com", token="token") is not None


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_backup_is_private_whatever_the_umask(kind: str, store: Any, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store.backup(tmp_path / "backup")
    finally:
        os.umask(before)
    for entry in (tmp_path / "backup", *(tmp_path / "backup").rglob("*")):
        assert stat.S_IMODE(entry.stat().st_mode) == (0o700 if entry.is_dir() else 0o600)


@pytest.mark.parametrize("there", ["file", "directory", "dangling link"])
def test_what_exists_is_never_overwritten(store: Any, tmp_path: Path, there: str) -> None:
    target = tmp_path / "backup"
    if there == "file":
        target.write_text("precious")
    elif there == "directory":
        target.mkdir()
    else:
        target.symlink_to(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="backup exists already; give a backup a name of its own") as caught:
        store.backup(target)
    assert caught.value.path == str(target)
    assert names(tmp_path) == ["backup", "home"]
    assert not target.is_file() or target.read_text() == "precious"


def test_a_backup_into_a_directory_that_does_not_exist_is_refused(store: Any, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="directory .*missing does not exist; create it first"):
        store.backup(tmp_path / "missing" / "backup")


def test_a_backup_while_others_write_is_one_committed_state(kind: str, store: Any, tmp_path: Path) -> None:
    """Each transaction adds two users; a backup never has one without the other."""
    stop, rounds = threading.Event(), [0]

    def write() -> None:
        while not stop.is_set():
            with store.transaction():
                store.create_user(id=f"left{rounds[0]}")
                store.create_user(id=f"right{rounds[0]}")
            rounds[0] += 1
            time.sleep(0.001)  # the others get their turn

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            store.backup(tmp_path / f"backup{number}")
    finally:
        stop.set()
        writer.join()
    for number in range(5):
        with opened(kind, tmp_path / f"backup{number}") as backup:
            found = [backup.get_user(f"{side}{i}") is not None for i in range(rounds[0]) for side in ("left", "right")]
            assert found == sorted(found, reverse=True) and sum(found) % 2 == 0
            assert has_all_of_ada(backup)


def test_a_backup_that_fails_leaves_nothing(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", fail)
    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(StorageError, match="backup could not be written: No space left"):
        store.backup(tmp_path / "backup")
    assert names(tmp_path) == ["home"]


PAUSED = """
import sys
from tinyauthstore import ShelveAdapter, SQLiteAdapter, backups
def wait(draft, target, publish=backups._publish):
    print("written", flush=True)
    sys.stdin.readline()
    publish(draft, target)
backups._publish = wait
with {"file": SQLiteAdapter, "shelf": ShelveAdapter}[sys.argv[1]](sys.argv[2]) as store:
    store.backup(sys.argv[3])
"""


@contextmanager
def paused(kind: str, folder: Path, name: str) -> Iterator[subprocess.Popen[str]]:
    """A process that is backing up a store of its own to ``name``, and goes on when it gets a line."""
    (folder / "other").mkdir(exist_ok=True)
    with start_python(PAUSED, kind, folder / "other" / "store", folder / name) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        yield process
        process.kill()


on_disk = pytest.mark.parametrize("kind", ["file", "shelf"])
needs_flock = pytest.mark.skipif(os.name != "posix", reason="no directory can be locked here")


@needs_flock
@on_disk
def test_what_a_killed_backup_left_is_removed_by_the_next_one(kind: str, store: Any, tmp_path: Path) -> None:
    with paused(kind, tmp_path, "a.backup") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    [left] = tmp_path.glob("a.backup*")
    assert left.match("a.backup.*.tinyauthstore.tmp") and stat.S_IMODE(left.stat().st_mode) == 0o700
    assert os.listdir(left) == ["a.backup"]
    theirs = [tmp_path / "b.abcdefgh.tmp", tmp_path / "c.tinyauthstore.tmp", tmp_path / "d.12345678.tinyauthstore.tmp"]
    for path in theirs[:2]:
        path.mkdir(mode=0o700)
    theirs[2].touch()
    store.backup(tmp_path / "b.backup")
    assert not left.exists() and all(path.exists() for path in theirs)
    with opened(kind, tmp_path / "b.backup") as copy:
        assert has_all_of_ada(copy)


@needs_flock
@on_disk
def test_a_backup_under_way_in_another_process_is_left_alone(kind: str, store: Any, tmp_path: Path) -> None:
    with paused(kind, tmp_path, "a.backup") as process:
        store.backup(tmp_path / "b.backup")
        store.restore_backup(tmp_path / "b.backup")
        assert process.communicate("go on\n", timeout=PATIENCE) == ("", "")
        assert process.returncode == 0
    assert names(tmp_path) == ["a.backup", "b.backup", "home", "other"]
    opened(kind, tmp_path / "a.backup").close()


@needs_flock
@on_disk
def test_a_backup_whose_directory_is_swept_as_soon_as_it_is_made_makes_another(
    kind: str, store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it could lock the first one, or between its opening and its lock."""
    made: list[str] = []
    lock = backups._locked

    def late(folder: str) -> int:
        made.append(folder)
        if len(made) == 1:
            os.rmdir(folder)
        descriptor = lock(folder)
        if len(made) == 2:
            os.rmdir(folder)
        return descriptor

    monkeypatch.setattr(backups, "_locked", late)
    store.backup(tmp_path / "backup")
    assert len(made) == 3 and names(tmp_path) == ["backup", "home"]


@on_disk
def test_a_backup_whose_directories_are_all_swept_gives_up(
    kind: str, store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swept(folder: str) -> int:
        os.rmdir(folder)
        raise FileNotFoundError(folder)

    monkeypatch.setattr(backups, "_locked", swept)
    with pytest.raises(StorageError, match="removed at once"):
        store.backup(tmp_path / "backup")
    assert names(tmp_path) == ["home"]


@on_disk
def test_a_backup_needs_no_locks_of_directories(
    kind: str, store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems have none. Then what was left by others is not touched."""
    def refuse(folder: str) -> int:
        raise OSError(errno.EBADF, "no such locks")

    left = tmp_path / "a.12345678.tinyauthstore.tmp"
    left.mkdir(mode=0o700)
    monkeypatch.setattr(backups, "_locked", refuse)
    store.backup(tmp_path / "backup")
    assert names(tmp_path) == [left.name, "backup", "home"]


def test_a_damaged_file_is_not_backed_up(tmp_path: Path) -> None:
    with SQLiteAdapter(tmp_path / "auth.db") as store:
        furnish(store)
    with closing(sqlite3.connect(tmp_path / "auth.db")) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET rootpage = 3 WHERE name = 'sessions'")
        connection.commit()
    with SQLiteAdapter(tmp_path / "auth.db") as store:
        with pytest.raises(StorageError, match="backup is damaged") as caught:
            store.backup(tmp_path / "backup")
    assert caught.value.path == str(tmp_path / "backup")
    assert names(tmp_path) == ["auth.db"]


# --- restore_backup ---------------------------------------------------------------------------


def test_restoring_brings_back_what_there_was_and_removes_what_came_since(store: Any, tmp_path: Path) -> None:
    store.backup(tmp_path / "backup")
    store.get_session_and_user("session")
    store.delete_user("ada")
    store.create_user(id="grace")
    token = store.create_session(user_id="grace").session_token
    for _ in range(3):
        assert store.get_session_and_user(token)
    store.restore_backup(tmp_path / "backup")
    assert has_all_of_ada(store)
    assert store.get_session_and_user(token) is None and store.get_user("grace") is None
    store.create_user(id="hedy")
    assert names(tmp_path) == ["backup", "home"]


def test_what_was_restored_is_there_after_the_store_was_closed(kind: str, tmp_path: Path) -> None:
    if kind == "memory":
        pytest.skip("it ends with its store")
    with MAKERS[kind](tmp_path) as store:
        furnish(store)
        store.backup(tmp_path / "backup")
        store.delete_user("ada")
        store.restore_backup(tmp_path / "backup")
    with MAKERS[kind](tmp_path) as store:
        assert has_all_of_ada(store)


def test_a_backup_can_be_restored_twice_and_is_not_changed(store: Any, tmp_path: Path) -> None:
    def content() -> dict[str, bytes]:
        found = [tmp_path / "backup", *(tmp_path / "backup").rglob("*")]
        return {str(entry): entry.read_bytes() for entry in found if entry.is_file()}

    store.backup(tmp_path / "backup")
    before = content()
    for _ in range(2):
        store.delete_user("ada")
        store.restore_backup(tmp_path / "backup")
        assert has_all_of_ada(store)
    assert content() == before


def test_other_processes_see_a_restored_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "auth.db"
    with SQLiteAdapter(path) as store:
        furnish(store)
        store.backup(tmp_path / "backup.db")
        store.create_user(id="grace")
        store.create_session(user_id="grace", session_token="hers")
        for _ in range(3):
            assert store.get_session_and_user("hers")
        store.delete_user("ada")
        run_python(RESTORE, path, tmp_path / "backup.db")
        assert store.get_session_and_user("hers") is None
        assert has_all_of_ada(store)
        store.create_user(id="hedy")
    with SQLiteAdapter(path) as store:
        assert has_all_of_ada(store) and store.get_user("hedy") is not None


RESTORE = """
import sys
from tinyauthstore import SQLiteAdapter

with SQLiteAdapter(sys.argv[1]) as store:
    store.restore_backup(sys.argv[2])
"""


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE users (id TEXT)")


def damaged(path: Path) -> None:
    for file in [path] if path.is_file() else [*path.rglob("*.dat")]:
        data = bytearray(file.read_bytes())
        data[len(data) // 2 :] = b"\xff" * (len(data) - len(data) // 2)
        file.write_bytes(data)


@pytest.mark.parametrize("what", ["nothing", "empty", "text", "another application's", "damaged", "directory"])
def test_what_is_no_backup_of_ours_is_refused_and_nothing_changes(store: Any, tmp_path: Path, what: str) -> None:
    path = tmp_path / "backup"
    if what == "empty":
        path.touch()
    elif what == "text":
        path.write_text("no backup at all" * 1000)
    elif what == "another application's":
        foreign(path)
    elif what == "damaged":
        store.backup(path)
        damaged(path)
    elif what == "directory":
        path.mkdir()
    with pytest.raises(StorageError) as caught:
        store.restore_backup(path)
    assert caught.value.path == str(path) and str(caught.value).startswith(str(path))
    assert has_all_of_ada(store)
    assert names(tmp_path) == ["home"] if what == "nothing" else ["backup", "home"]


def test_a_backup_with_other_models_is_refused(kind: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with MAKERS[kind](tmp_path / "one", user=Member) as one:
        one.create_user(id="ada", plan="pro")
        one.backup(tmp_path / "backup")
    with MAKERS[kind](tmp_path / "two", user=OtherMember) as two:
        two.create_user(id="grace")
        with pytest.raises(StorageError, match="no backup for this store; nothing was changed"):
            two.restore_backup(tmp_path / "backup")
        assert two.get_user("grace") is not None and two.check() == []


def test_a_backup_from_before_a_field_was_added_gets_the_field(kind: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with MAKERS[kind](tmp_path / "one") as one:
        one.create_user(id="ada")
        one.backup(tmp_path / "backup")
    with MAKERS[kind](tmp_path / "two", user=Member) as two:
        two.restore_backup(tmp_path / "backup")
        assert two.get_user("ada").plan == "free"
        assert two.update_user("ada", plan="pro").plan == "pro"


@pytest.mark.parametrize("kind", ["file", "shelf"])
def test_the_types_of_fields_that_the_models_lack_go_into_a_backup_and_back(kind: str, tmp_path: Path) -> None:
    home = {name: tmp_path / name for name in ("one", "two")}
    for folder in home.values():
        folder.mkdir()
    with MAKERS[kind](home["one"], user=Member) as one:
        one.create_user(id="ada", plan="pro")
    with MAKERS[kind](home["one"]) as one:
        one.backup(tmp_path / "backup")
    with MAKERS[kind](home["two"]) as two:
        two.restore_backup(tmp_path / "backup")
    for path in (tmp_path / "backup", Path(one.path), Path(two.path)):
        with pytest.raises(StorageError, match="holds str"):
            opened(kind, path, user=OtherMember)
        with opened(kind, path, user=Member) as store:
            assert store.get_user("ada").plan == "pro"


def test_a_file_made_by_vacuum_with_other_pages_is_a_backup_too(tmp_path: Path) -> None:
    with SQLiteAdapter(tmp_path / "auth.db") as store:
        furnish(store)
        with closing(sqlite3.connect(tmp_path / "auth.db")) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA page_size = 1024")
            connection.execute(f"VACUUM INTO '{tmp_path / 'backup.db'}'")
        with closing(sqlite3.connect(tmp_path / "backup.db")) as connection:
            connection.execute("PRAGMA page_size = 8192")
            connection.execute("VACUUM")
        store.delete_user("ada")
        store.restore_backup(tmp_path / "backup.db")
        assert has_all_of_ada(store)


def test_restoring_waits_for_another_processs_transaction_and_gives_up(tmp_path: Path) -> None:
    with SQLiteAdapter(tmp_path / "auth.db", timeout=0.1) as store:
        furnish(store)
        store.backup(tmp_path / "backup.db")
        with closing(sqlite3.connect(tmp_path / "auth.db", isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            with pytest.raises(BusyError, match="stayed locked by another process"):
                store.restore_backup(tmp_path / "backup.db")
            store.backup(tmp_path / "second.db")
            connection.execute("ROLLBACK")
        store.restore_backup(tmp_path / "backup.db")
        assert has_all_of_ada(store)


@pytest.mark.parametrize("method", ["backup", "restore_backup"])
def test_neither_works_inside_a_transaction_nor_on_a_closed_store(store: Any, tmp_path: Path, method: str) -> None:
    if method == "restore_backup":
        store.backup(tmp_path / "backup")
    with store.transaction(), pytest.raises(RuntimeError, match=rf"{method}\(\) .* outside of transaction"):
        getattr(store, method)(tmp_path / "backup")
    store.close()
    with pytest.raises(ClosedError):
        getattr(store, method)(tmp_path / "backup")


# --- asyncio, other stores --------------------------------------------------------------------


def test_both_are_awaited_on_an_async_adapter(store: Any, tmp_path: Path) -> None:
    async def main() -> None:
        adapter = AsyncAdapter(store)
        await adapter.backup(tmp_path / "backup")
        await adapter.delete_user("ada")
        await adapter.restore_backup(tmp_path / "backup")
        assert await adapter.get_user("ada") is not None
        await adapter.close()

    asyncio.run(main())


def test_an_async_adapter_lies_where_its_store_does(store: Any) -> None:
    assert AsyncAdapter(store).path == store.path


def test_what_lies_nowhere_or_in_several_places_has_no_path() -> None:
    """A SplitAdapter's stores each have their own."""
    with MemoryAdapter() as memory, SQLiteAdapter(":memory:") as users, SplitAdapter(users=users) as split:
        for store in (memory, split):
            for asked in (store, AsyncAdapter(store)):
                with pytest.raises(AttributeError, match=f"'{type(store).__name__}' object has no attribute 'path'"):
                    asked.path  # noqa: B018
        assert AsyncAdapter(users).path == users.path == ":memory:"


def test_stores_that_are_in_memory_or_several_have_neither() -> None:
    for name in ("backup", "restore_backup"):
        assert not hasattr(MemoryAdapter, name) and not hasattr(SplitAdapter, name)
