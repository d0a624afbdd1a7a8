"""Which file a path means: links, directories that change, and files that somebody exchanges meanwhile."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support import apart

from tinyauthstore import ShelveAdapter, SQLiteAdapter, StorageError

ADA = "ada@example.com"

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")
needs_links = pytest.mark.skipif(os.name != "posix", reason="links, modes and owners are POSIX's")


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
