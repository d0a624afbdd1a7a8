"""Which file a path means: links, directories that change, and files that somebody exchanges meanwhile."""

from __future__ import annotations

import errno
import logging
import os
import re
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support import apart, run_python

import tinyauthstore
from tinyauthstore import ShelveAdapter, SQLiteAdapter, StorageError, adapters, paths

ADA = "ada@example.com"

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")
needs_links = pytest.mark.skipif(os.name != "posix", reason="links, modes and owners are POSIX's")
only_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away"
)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def raw(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.fixture
def home() -> Iterator[None]:
    before = os.getcwd()
    yield
    os.chdir(before)


# --- links, working directories ---------------------------------------------------------------


@pytest.fixture
def link(tmp_path: Path) -> Path:
    """A link, in a directory of its own, to a file that does not exist yet."""
    for name in ("app", "data"):
        (tmp_path / name).mkdir()
    link = tmp_path / "app" / "auth.db"
    link.symlink_to(tmp_path / "data" / "real.db")
    return link


@needs_links
def test_a_links_target_is_created_privately_and_the_sidecars_lie_beside_it(link: Path) -> None:
    data = link.parent.parent / "data"
    before = os.umask(0)
    try:
        with SQLiteAdapter(link) as store:
            store.create_user(email=ADA)
            assert names(data) == ["real.db", "real.db-shm", "real.db-wal"]
            assert {entry.stat().st_mode & 0o777 for entry in data.iterdir()} == {0o600}
    finally:
        os.umask(before)
    assert names(link.parent) == ["auth.db"] and link.is_symlink()
    with SQLiteAdapter(data / "real.db", synchronize=False) as store:
        assert store.get_user_by_email(ADA) is not None


@needs_links
def test_a_shelf_behind_a_link_is_made_where_the_link_points(link: Path) -> None:
    with ShelveAdapter(link) as store:
        store.create_user(email=ADA)
    with ShelveAdapter(link.parent.parent / "data" / "real.db") as store:
        assert store.get_user_by_email(ADA) is not None


@needs_links
@needs_fork
@apart
def test_only_the_targets_directory_must_be_writable(tmp_path: Path) -> None:
    app, data = tmp_path / "app", tmp_path / "data"
    app.mkdir()
    data.mkdir()
    (app / "auth.db").symlink_to(data / "auth.db")
    for folder in (tmp_path, *tmp_path.parents):
        if os.getuid() == 0 and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    app.chmod(0o555)
    if os.getuid() == 0:
        os.chown(data, 12345, 12345)
        os.setgid(12345)
        os.setuid(12345)
    for _ in range(2):
        SQLiteAdapter(app / "auth.db").close()
    assert names(data) == ["auth.db"]


@needs_links
def test_a_link_that_is_changed_while_the_store_is_open_changes_nothing(link: Path) -> None:
    with SQLiteAdapter(link) as store:
        link.unlink()
        link.symlink_to(link.parent / "elsewhere.db")
        store.create_user(email=ADA)
        assert store.get_user_by_email(ADA) is not None
        assert store.check() == []
    assert not (link.parent / "elsewhere.db").exists()


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("adapter", [SQLiteAdapter, ShelveAdapter])
def test_a_relative_path_stays_what_it_was_when_the_working_directory_changes(
    adapter: Any, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    os.chdir(tmp_path)
    with adapter("auth") as store:
        os.chdir(elsewhere)
        store.create_user(email=ADA)
        assert store.check() == []
    assert names(elsewhere) == []
    with adapter(tmp_path / "auth") as store:
        assert store.get_user_by_email(ADA) is not None


@pytest.mark.usefixtures("home")
@pytest.mark.skipif(os.name != "posix", reason="this system does not remove a working directory")
@pytest.mark.parametrize("adapter", [SQLiteAdapter, ShelveAdapter])
def test_without_a_working_directory_a_relative_path_is_refused_in_words(adapter: Any, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    with pytest.raises(StorageError, match=r"auth is relative to the working directory, .* absolute path"):
        adapter("auth")
    with adapter(tmp_path / "auth") as store:
        store.create_user(email=ADA)
        assert store.check() == []


# --- a file that is exchanged while it is open ------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "auth.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteAdapter[Any, Any, Any, Any, Any]]:
    """A store with Ada and her session ``laptop``; beside it lies ``backup.db``, made by ``VACUUM INTO``."""
    with SQLiteAdapter(path) as store:
        store.create_user(id="ada", email=ADA)
        store.create_session(user_id="ada", session_token="laptop")
        raw(path, f"VACUUM INTO '{path.parent / 'backup.db'}'")
        yield store


def deleted(path: Path) -> None:
    for entry in path.parent.glob("auth.db*"):
        entry.unlink()


def moved(path: Path) -> None:
    path.rename(path.parent / "moved.db")


def replaced(path: Path) -> None:
    (path.parent / "backup.db").replace(path)


def copied_over(path: Path) -> None:
    time.sleep(0.02)  # writes look at the content once in 10 ms
    path.write_bytes((path.parent / "backup.db").read_bytes())


def emptied(path: Path) -> None:
    time.sleep(0.02)
    path.write_bytes(b"")


def without_wal(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def closed_outside_sqlite(path: Path) -> None:
    """This drops the locks of this process's connections, so the next one to close deletes the -wal."""
    path.read_bytes()
    raw(path, "PRAGMA user_version")
    run_python("import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA user_version'); c.close()", path)
    assert not Path(f"{path}-wal").exists()


ANYWHERE = {
    "deleted": (deleted, "was deleted or moved"),
    "moved": (moved, "was deleted or moved"),
    "replaced": (replaced, "was replaced by another file"),
    "without -wal": (without_wal, "has lost its -wal"),
}
WHERE_THERE_IS_PROC = {
    "copied over": (copied_over, r"was overwritten by something else .* restore_backup\(\)"),
    "emptied": (emptied, "was overwritten by something else"),
}
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
each_fate = pytest.mark.parametrize(
    "exchange, says",
    [
        *(pytest.param(*fate, id=name, marks=needs_links) for name, fate in ANYWHERE.items()),
        *(pytest.param(*fate, id=name, marks=on_linux) for name, fate in WHERE_THERE_IS_PROC.items()),
        pytest.param(closed_outside_sqlite, "has lost its -wal", id="closed outside SQLite", marks=on_linux),
    ],
)


@each_fate
def test_the_next_write_to_a_file_that_was_exchanged_is_refused(
    store: Any, path: Path, exchange: Callable[[Path], None], says: str
) -> None:
    exchange(path)
    for _ in range(2):
        with pytest.raises(StorageError, match=says) as caught:
            store.create_user(email="grace@example.com")
        assert caught.value.path == str(path)
    with pytest.raises(StorageError, match=says):
        store.get_user("ada")
    assert len(store.check()) == 1 and re.search(says, store.check()[0])


@each_fate
@pytest.mark.parametrize("keep", [True, False])
def test_a_look_up_in_a_file_that_was_exchanged_fails_within_a_second(
    store: Any, path: Path, monkeypatch: pytest.MonkeyPatch, keep: bool, exchange: Callable[[Path], None], says: str
) -> None:
    for _ in range(3 * keep):
        store.get_session_and_user("laptop")
    exchange(path)
    now = time.monotonic()
    for module in (adapters, paths):
        monkeypatch.setattr(module, "monotonic", lambda: now + 1.01)
    for look_up in (lambda: store.get_session_and_user("laptop"), lambda: store.get_user("ada")):
        with pytest.raises(StorageError, match=says):
            look_up()


@needs_links
def test_a_transaction_whose_file_was_replaced_inside_it_is_not_acknowledged(store: Any, path: Path) -> None:
    with pytest.raises(StorageError, match="was replaced"):
        with store.transaction():
            store.create_user(id="grace")
            replaced(path)


@needs_links
def test_a_store_whose_file_was_replaced_leaves_the_new_file_and_its_wal_alone_when_it_closes(
    store: Any, path: Path
) -> None:
    for name in ("-wal", "-shm"):
        Path(f"{path}{name}").unlink()
    replaced(path)
    with SQLiteAdapter(path) as new:
        new.create_user(id="grace")
        with pytest.raises(StorageError):
            store.create_user(id="lost")
        store.close()
        new.create_user(id="hedy")
        assert Path(f"{path}-wal").exists()
    with SQLiteAdapter(path) as new:
        assert [new.get_user(id) is not None for id in ("ada", "grace", "hedy", "lost")] == [True] * 3 + [False]
        assert new.check() == []


@needs_links
def test_nothing_is_created_where_a_file_was_deleted(store: Any, path: Path) -> None:
    deleted(path)
    with pytest.raises(StorageError):
        store.create_user()
    store.check()
    store.close()
    assert names(path.parent) == ["backup.db"]


@needs_links
def test_a_file_that_is_put_back_is_used_again(store: Any, path: Path) -> None:
    moved(path)
    with pytest.raises(StorageError):
        store.create_user()
    (path.parent / "moved.db").rename(path)
    store.create_user(id="grace")
    assert store.get_user("grace") is not None and store.check() == []


@on_linux
def test_a_backup_copied_over_a_file_whose_wal_was_left_by_a_killed_process_is_refused(path: Path) -> None:
    run_python(KILLED, path)
    copied_over(path)
    wal = Path(f"{path}-wal").read_bytes()
    for _ in range(2):
        with pytest.raises(StorageError, match="the -wal file beside it belongs to another file"):
            SQLiteAdapter(path)
        assert path.read_bytes() == (path.parent / "backup.db").read_bytes()
        assert Path(f"{path}-wal").read_bytes() == wal
    for name in ("-wal", "-shm"):
        Path(f"{path}{name}").unlink()
    with SQLiteAdapter(path) as store:
        assert store.check() == [] and store.get_user("ada") is not None


KILLED = """
import os, sqlite3, sys
from tinyauthstore import SQLiteAdapter

if (child := os.fork()) == 0:
    store = SQLiteAdapter(sys.argv[1])
    store.create_user(id="ada")
    connection = sqlite3.connect(sys.argv[1])
    connection.execute(f"VACUUM INTO '{os.path.dirname(sys.argv[1])}/backup.db'")
    store.delete_user("ada")
    os.kill(os.getpid(), 9)
os.waitpid(child, 0)
"""


@needs_fork
def test_the_last_commits_of_a_killed_process_are_read_as_before(path: Path) -> None:
    run_python(KILLED, path)
    assert Path(f"{path}-wal").stat().st_size > 0
    with SQLiteAdapter(path) as store:
        assert store.get_user("ada") is None and store.check() == []


# --- the size of the -wal ---------------------------------------------------------------------


def test_the_wal_shrinks_after_a_long_reader_has_gone(path: Path) -> None:
    def write_much() -> int:
        for _ in range(4):
            with store.transaction():
                for _ in range(40):
                    store.create_user(image="x" * 100_000)
        return os.path.getsize(f"{path}-wal")

    with SQLiteAdapter(path, durability="normal") as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM users").fetchall()
            assert write_much() > 14 << 20
        for user in range(3):
            store.create_user()
        assert write_much() < 14 << 20


# --- whose file -------------------------------------------------------------------------------


@needs_links
@pytest.mark.parametrize("mode, told", [(0o600, False), (0o664, False), (0o602, True), (0o666, True)])
def test_a_file_of_ours_that_everybody_may_write_is_told_of(
    path: Path, caplog: pytest.LogCaptureFixture, mode: int, told: bool
) -> None:
    SQLiteAdapter(path).close()
    path.chmod(mode)
    with caplog.at_level(logging.WARNING, "tinyauthstore"), SQLiteAdapter(path) as store:
        store.create_user()
    said = f"{path} may be written by every user of this machine (its mode is {mode:04o})"
    assert [record.getMessage().startswith(said) for record in caplog.records] == [True] * told


@only_root
def test_a_strangers_file_that_everybody_may_write_is_refused(path: Path) -> None:
    """Whoever put it there could read, and make up, everybody's sessions."""
    SQLiteAdapter(path).close()
    os.chown(path, 12345, 12345)
    path.chmod(0o666)
    with pytest.raises(StorageError, match=r"belongs to another user \(id 12345\).*chmod o-w") as caught:
        SQLiteAdapter(path)
    assert caught.value.path == str(path)
    assert names(path.parent) == ["auth.db"]


@only_root
def test_a_file_may_be_shared_with_another_user_by_a_group(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A front end and a back end on one server, each as a user of its own."""
    SQLiteAdapter(path).close()
    os.chown(path, 12345, 12345)
    path.chmod(0o660)
    with caplog.at_level(logging.WARNING, "tinyauthstore"), SQLiteAdapter(path) as store:
        store.create_user()
    assert caplog.records == []


# --- a shelf in a hostile place ---------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A shelf with Ada, closed; and one line in its journal."""
    with ShelveAdapter(tmp_path / "auth") as shelf:
        shelf.create_user(id="ada", email=ADA)
    return tmp_path / "auth"


def in_shelf(folder: Path) -> Path:
    return next(entry for entry in (folder / "shelf-000001.dumb").iterdir() if entry.suffix == ".dat")


PLACES: dict[str, Callable[[Path], Path]] = {
    "the lock": lambda folder: folder / "lock",
    "the journal": lambda folder: folder / "journal-000001",
    "the shelf": lambda folder: folder / "shelf-000001.dumb",
    "a file of the shelf": in_shelf,
}
in_each_place = pytest.mark.parametrize("place", PLACES)


@needs_links
@in_each_place
def test_a_link_in_a_shelf_is_refused_and_its_target_left_alone(folder: Path, tmp_path: Path, place: str) -> None:
    path, elsewhere = PLACES[place](folder), tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    before = elsewhere.read_bytes() if elsewhere.is_file() else names(elsewhere)
    with pytest.raises(StorageError, match=r"is a link, which a shelf never has") as caught:
        ShelveAdapter(folder)
    assert caught.value.path == str(path)
    assert before == (elsewhere.read_bytes() if elsewhere.is_file() else names(elsewhere))


@needs_links
@pytest.mark.parametrize("name", ["lock", "journal-000000"])
def test_a_link_that_a_stranger_put_into_an_empty_directory_is_not_followed(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("7\n")
    (tmp_path / "auth").mkdir(mode=0o700)
    (tmp_path / "auth" / name).symlink_to(victim)
    with pytest.raises(StorageError, match="is a link"):
        ShelveAdapter(tmp_path / "auth")
    assert victim.read_text() == "7\n"


@needs_links
@pytest.mark.parametrize("bits", [0o020, 0o002])
@pytest.mark.parametrize("place", [*PLACES, "the directory"])
def test_a_shelf_that_others_may_write_is_refused(folder: Path, place: str, bits: int) -> None:
    path = folder if place == "the directory" else PLACES[place](folder)
    mode = path.stat().st_mode
    path.chmod(mode | bits)
    with pytest.raises(StorageError, match=r"may be written by other users .*chmod -R go-w") as caught:
        ShelveAdapter(folder)
    assert caught.value.path == str(path)
    path.chmod(mode)
    ShelveAdapter(folder).close()


@only_root
@pytest.mark.parametrize("place", [*PLACES, "the directory"])
def test_a_shelf_of_another_user_is_refused(folder: Path, place: str) -> None:
    path = folder if place == "the directory" else PLACES[place](folder)
    os.chown(path, 12345, 12345)
    with pytest.raises(StorageError, match=r"belongs to another user \(id 12345\)") as caught:
        ShelveAdapter(folder)
    assert caught.value.path == str(path)


def without_lock(folder: Path) -> None:
    (folder / "lock").unlink()


def without_journal(folder: Path) -> None:
    next(folder.glob("journal-*")).unlink()


def moved_away(folder: Path) -> None:
    folder.rename(folder.parent / "moved")


def replaced_by_another(folder: Path) -> None:
    moved_away(folder)
    with ShelveAdapter(folder) as other:
        other.create_user(id="grace")


@needs_links
@pytest.mark.parametrize("exchange", [without_lock, without_journal, moved_away, replaced_by_another])
def test_the_next_write_to_a_shelf_that_was_exchanged_is_refused(
    folder: Path, exchange: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    with ShelveAdapter(folder) as shelf:
        shelf.create_user(id="hedy")
        exchange(folder)
        for _ in range(2):
            with pytest.raises(StorageError, match="was deleted, moved or replaced while the store had it open"):
                shelf.create_user(id="lost")
        assert shelf.get_user("lost") is None and len(shelf.check()) == 1
    assert caplog.text == ""
    if exchange is replaced_by_another:
        with ShelveAdapter(folder) as other:
            assert (other.get_user("grace") is None, other.get_user("hedy")) == (False, None)


@pytest.mark.parametrize("crafted", ["many heads", "nested lines"])
def test_a_crafted_journal_is_refused_in_no_time(folder: Path, crafted: str) -> None:
    size = 1 << 20
    if crafted == "many heads":
        data = b"00000000 499987 \n" * (size // 17)  # each line claims to end where another one does
    else:
        heads, length = [b"\n"], 0
        while length < size // 2:
            heads.append(b"%08x %d " % (0, length))
            length += len(heads[-1])
        data = b"".join(reversed(heads))
    with open(folder / "journal-000001", "ab") as journal:
        journal.write(b"damaged\n" + data)
    begun = time.process_time()
    try:
        ShelveAdapter(folder).close()
    except StorageError:
        pass
    assert time.process_time() - begun < 0.5


def test_whole_lines_after_a_damage_are_counted_even_if_the_newline_is_damaged(folder: Path) -> None:
    with ShelveAdapter(folder) as shelf:
        for number in range(4):
            shelf.create_user(id=f"user{number}")
        data = (folder / "journal-000001").read_bytes()
        lines = data.splitlines(keepends=True)
        damaged = b"".join([lines[0], lines[1][:-1] + b"x", *lines[2:]])
        copy = folder.parent / "copy"
        shelf.backup(copy)
    for name in ("lock", "journal-000001"):
        (copy / name).unlink(missing_ok=True)
    (copy / "journal-000001").write_bytes(damaged)
    with pytest.raises(StorageError, match="0 transactions before that and 3 lines after it are whole"):
        ShelveAdapter(copy)


@needs_links
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_directories_is_good_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    plain = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    for _ in range(2):
        with ShelveAdapter(tmp_path / "auth") as shelf:
            shelf.create_user()
            assert shelf.check() == []


def test_a_shelf_that_is_left_open_at_the_end_says_nothing_and_loses_nothing(tmp_path: Path) -> None:
    script = "import sys, tinyauthstore; s = tinyauthstore.ShelveAdapter(sys.argv[1]); s.create_user(id='ada')"
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "auth")],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(Path(tinyauthstore.__file__).parents[1])},
    )  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    with ShelveAdapter(tmp_path / "auth") as shelf:
        assert shelf.get_user("ada") is not None
