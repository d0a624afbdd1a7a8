"""``ShelveAdapter``: what it keeps, how that lies on the disk, whom it lets in, and what it does in need."""

from __future__ import annotations

import errno
import gc
import json
import os
import pickle
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import support
from support import abandon, state

import tinyauthstore
from tinyauthstore import (
    Account,
    ClosedError,
    ConflictError,
    InvalidFieldError,
    LockedError,
    MemoryAdapter,
    Session,
    ShelveAdapter,
    StorageError,
    User,
    adapters,
    base,
    connect,
    journal,
    memory,
)

UTC = timezone.utc
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")
each_backend = pytest.mark.parametrize("backend", support.DBM_BACKENDS)
Patch = pytest.MonkeyPatch


@dataclass(frozen=True, slots=True)
class Member(User):
    plan: str = "free"
    points: int = 7
    joined: datetime | None = None
    key: bytes = b""
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Device(Session):
    agent: str | None = None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "auth"


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: Patch) -> None:
    """Nobody here cuts the power: waiting for the disk would prove nothing."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


def furnish(store: Any) -> None:
    """Ada and Grace, with some of everything, odd values among it."""
    with store.transaction():
        for name in ("ada", "grace"):
            store.create_user(id=name, email=f"{name.title()}@Example.com", name="\0 \N{SNOWMAN}", email_verified=NOW)
            for i in "12":
                store.link_account(
                    user_id=name, type="oauth", provider="github", provider_account_id=name + i, access_token="t",
                    expires_at=2**63 - 1, half_a_pair="\ud800", nested={"list": [1, 2.5, None, True]},
                )  # fmt: skip
                store.create_session(user_id=name, session_token=f"{name} {i}", expires=datetime.max.replace(tzinfo=UTC))
                store.create_verification_token(identifier=f"{name}@example.com", token=i)
                store.create_authenticator(
                    user_id=name, credential_id=name + i, provider_account_id=i, credential_public_key="key",
                    counter=2**32 - 1, credential_device_type="singleDevice", credential_backed_up=True,
                )  # fmt: skip


def reread(path: Path, **options: Any) -> dict[str, dict[Any, Any]]:
    """What another process would find after this one was killed now; AssertionError unless it is sound."""
    copy = path.with_name(f"{path.name}-copy")
    shutil.copytree(path, copy)
    try:
        with ShelveAdapter(copy, **options) as store:
            assert store.check() == []
            return state(store)
    finally:
        shutil.rmtree(copy)


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def files(path: Path) -> dict[str, bytes]:
    """Every file below ``path`` with its bytes, but for the lock's."""
    found = (entry for entry in sorted(path.rglob("*")) if entry.is_file() and entry.name != "lock")
    return {os.fspath(entry.relative_to(path)): entry.read_bytes() for entry in found}


def newest_journal(path: Path) -> Path:
    return max(path.glob("journal-??????"))


def newest_shelf(path: Path) -> Path:
    return max(path.glob("shelf-??????.*"))


def lines(path: Path) -> int:
    """How many transactions are in the journal."""
    return newest_journal(path).read_bytes().count(b"\n") - 1


# --- what is kept -----------------------------------------------------------------------------


@each_backend
def test_what_was_acknowledged_is_in_the_journal_before_the_next_call(path: Path, backend: Any) -> None:
    with ShelveAdapter(path, dbm=backend) as store:
        furnish(store)
        assert reread(path) == state(store)


@each_backend
def test_what_was_stored_comes_back_from_a_shelf_as_it_was(path: Path, backend: Any) -> None:
    with ShelveAdapter(path, dbm=backend) as store:
        furnish(store)
        before = state(store)
    assert lines(path) == 0
    with ShelveAdapter(path) as store:
        assert state(store) == before
        assert store.check() == []


def test_a_memory_adapter_holds_the_same_after_the_same_calls(path: Path) -> None:
    options: dict[str, Any] = {"clock": lambda: NOW}
    with ShelveAdapter(path, **options) as store, MemoryAdapter(**options) as memory:
        furnish(store)
        furnish(memory)
        assert state(store) == state(memory)


def test_a_shelf_of_many_pages_comes_back_whole(path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(journal, "PAGE", 3)
    with ShelveAdapter(path) as store:
        with store.transaction():
            for i in range(100):
                store.create_user(id=f"user {i}")
        before = state(store)
    monkeypatch.undo()
    assert reread(path) == before


def test_what_happened_after_the_shelf_was_written_counts_over_it(path: Path) -> None:
    with ShelveAdapter(path) as store:
        furnish(store)
    with ShelveAdapter(path) as store:
        store.delete_user("grace")
        store.update_user("ada", name="Ada Lovelace")
        store.rotate_session("ada 1")
        store.create_user(id="joan")
        assert reread(path) == state(store)


def test_an_ended_session_stays_dead(path: Path) -> None:
    with ShelveAdapter(path) as store:
        furnish(store)
        store.delete_session("ada 1")
    with ShelveAdapter(path) as store:
        store.delete_session("ada 2")
        store.use_verification_token(identifier="ada@example.com", token="1")
    with ShelveAdapter(path) as store:
        assert store.get_session_and_user("ada 1") is None
        assert store.get_session_and_user("ada 2") is None
        assert store.use_verification_token(identifier="ada@example.com", token="1") is None
        assert store.get_session_and_user("grace 1") is not None


def test_an_expired_session_is_purged_in_its_turn_after_reopening(path: Path) -> None:
    now = [NOW]
    with ShelveAdapter(path, clock=lambda: now[0]) as store:
        store.create_user(id="ada")
        for days in (1, 3, 2):
            store.create_session(user_id="ada", session_token=str(days), expires=NOW + timedelta(days=days))
    now[0] += timedelta(days=2)
    with ShelveAdapter(path, clock=lambda: now[0]) as store:
        assert store.purge_expired().sessions == 2
        assert store.get_session_and_user("3") is not None


def test_a_secret_is_needed_again_to_find_a_session(path: Path) -> None:
    with ShelveAdapter(path, secret="s") as store:
        furnish(store)
    with ShelveAdapter(path, secret="s") as store:
        assert store.get_session_and_user("ada 1") is not None
    with ShelveAdapter(path) as store:
        assert store.get_session_and_user("ada 1") is None


# --- transactions -----------------------------------------------------------------------------


def test_a_transaction_is_one_line_however_it_is_nested(path: Path) -> None:
    with ShelveAdapter(path) as store:
        with store.transaction():
            store.create_user(id="ada")
            with store.transaction():
                store.create_user(id="grace")
                store.create_session(user_id="ada")
            assert lines(path) == 0
        assert lines(path) == 1


def test_what_changes_nothing_writes_nothing(path: Path) -> None:
    with ShelveAdapter(path) as store:
        furnish(store)
        before = files(path)
        with store.transaction(), store.transaction():
            pass
        with pytest.raises(ConflictError):
            store.create_user(email="ada@example.com")
        store.delete_session("unknown")
        store.touch_session("ada 1")
        store.purge_expired()
        store.check()
        assert files(path) == before


def test_what_was_rolled_back_is_never_written(path: Path) -> None:
    with ShelveAdapter(path) as store:
        store.create_user(id="ada")
        with pytest.raises(ZeroDivisionError), store.transaction():
            store.create_user(id="grace")
            raise ZeroDivisionError
        with store.transaction():
            store.create_user(id="joan")
            with pytest.raises(ZeroDivisionError), store.transaction():
                store.delete_user("ada")
                raise ZeroDivisionError
        assert set(reread(path)["users"]) == {("ada",), ("joan",)}
    assert b"grace" not in b"".join(files(path).values())


def test_what_was_restored_is_there_after_a_crash(path: Path) -> None:
    with ShelveAdapter(path) as store:
        furnish(store)
        before = store.snapshot()
        store.delete_user("ada")
        store.create_user(id="joan")
        store.restore(before)
        assert reread(path) == state(store)
        assert store.get_user("ada") and not store.get_user("joan")


def test_a_store_closed_inside_a_transaction_keeps_nothing_of_it(path: Path) -> None:
    with ShelveAdapter(path) as store:
        store.create_user(id="ada")
        with pytest.raises(ClosedError), store.transaction():
            store.create_user(id="grace")
            store.close()
    assert set(reread(path)["users"]) == {("ada",)}


def test_the_writes_of_many_threads_are_all_there(path: Path) -> None:
    with ShelveAdapter(path, durability="normal") as store:

        def sign_up(i: int) -> None:
            store.create_user(id=f"user {i}")
            store.create_session(user_id=f"user {i}")
            if i % 3 == 0:
                store.delete_user(f"user {i}")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(sign_up, range(200)))
        assert len(state(store)["users"]) == 133
        assert reread(path) == state(store)


def interrupted(after: int, call: Callable[[], object]) -> bool:
    """Whether ``call`` was struck by Ctrl-C, which comes where Python lets signals in: after so many calls."""
    modules, left = {adapters.__file__, memory.__file__, base.__file__, journal.__file__}, after

    def strike(frame: Any, event: str, argument: Any) -> None:
        nonlocal left
        if event in ("call", "c_return") and frame.f_code.co_filename in modules:
            left -= 1
            if left < 0:
                sys.setprofile(None)
                raise KeyboardInterrupt

    sys.setprofile(strike)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)
    return False


def test_an_interrupt_anywhere_in_a_write_leaves_memory_and_files_agreed(path: Path) -> None:
    def write() -> None:
        with store.transaction():
            store.update_user("ada", email="lovelace@example.com")
            store.delete_user("grace")
        store.rotate_session("session")

    for after in range(10_000):
        shutil.rmtree(path, ignore_errors=True)
        store = ShelveAdapter(path)
        store.create_user(id="ada", email="ada@example.com")
        store.create_user(id="grace")
        store.create_session(user_id="grace")
        store.create_session(user_id="ada", session_token="session")
        struck = interrupted(after, write)
        assert store.check() == [], after
        assert (store.get_user_by_email("lovelace@example.com") is None) == (store.get_user("grace") is not None)
        store.create_user(id="joan")
        before = state(store)
        abandon(store)
        with ShelveAdapter(path) as store:
            assert state(store) == before, after
        if not struck:
            break
    assert 100 < after < 1000


# --- models -----------------------------------------------------------------------------------

FULL: dict[str, Any] = {
    "plan": "gold", "points": -1, "joined": NOW, "key": b"\0\xff", "settings": {"dark": True, "list": [1]},
}  # fmt: skip


@each_backend
def test_fields_of_custom_models_come_back_as_they_were(path: Path, backend: Any) -> None:
    with ShelveAdapter(path, dbm=backend, user=Member, session=Device) as store:
        ada = store.create_user(**FULL)
        token = store.create_session(user_id=ada.id, agent="Firefox").session_token
        assert reread(path, user=Member, session=Device) == state(store)
    with ShelveAdapter(path, user=Member, session=Device) as store:
        found = store.get_session_and_user(token)
        assert found is not None and found.user == ada and found.session.agent == "Firefox"


def test_keyword_only_fields_come_back_in_their_own_place(path: Path) -> None:
    @dataclass(frozen=True, slots=True)
    class Middle(User):
        first: str = field(default="", kw_only=True)
        second: str = ""

    with ShelveAdapter(path, user=Middle) as store:
        ada = store.create_user(first="1", second="2")
    with ShelveAdapter(path, user=Middle) as store:
        assert store.get_user(ada.id) == ada


def test_a_field_that_the_file_lacks_takes_its_default(path: Path) -> None:
    with ShelveAdapter(path) as store:
        store.create_user(id="ada")
    with ShelveAdapter(path, user=Member) as store:
        ada = store.get_user("ada")
        assert ada == Member(id="ada", settings={})
        assert ada is not None and isinstance(ada, Member)


def with_plan(path: Path) -> None:
    """A store whose users have a plan, left."""
    with ShelveAdapter(path, user=Member) as store:
        for name in ("ada", "grace"):
            store.create_user(id=name, plan="gold")


def plan(path: Path, user_id: str = "ada") -> str:
    """The user's plan, for a store that knows plans."""
    with ShelveAdapter(path, user=Member) as store:
        user = store.get_user(user_id)
        assert user is not None
        return user.plan


def test_a_field_that_the_model_does_not_name_survives_writes_and_checkpoints(path: Path) -> None:
    with_plan(path)
    for name in ("Ada", "Ada Lovelace"):
        with ShelveAdapter(path) as store:
            store.update_user("ada", name=name)
            assert reread(path, user=Member)["users"]["ada",].plan == "gold"
    assert plan(path) == plan(path, "grace") == "gold"


def test_a_rotated_session_keeps_the_fields_that_its_model_does_not_name(path: Path) -> None:
    with ShelveAdapter(path, session=Device) as store:
        store.create_user(id="ada")
        store.create_session(user_id="ada", session_token="old", agent="Firefox")
    with ShelveAdapter(path, new_token=lambda: "new") as store:
        store.rotate_session("old")
    with ShelveAdapter(path, session=Device) as store:
        found = store.get_session_and_user("new")
        assert found is not None and found.session.agent == "Firefox"


def test_a_deleted_users_unnamed_fields_do_not_come_back_with_a_namesake(path: Path) -> None:
    with_plan(path)
    with ShelveAdapter(path) as store:
        with store.transaction():
            store.delete_user("ada")
            store.create_user(id="ada")
        store.delete_user("grace")
        store.create_user(id="grace")
    assert plan(path) == plan(path, "grace") == "free"


def test_unnamed_fields_come_back_with_what_is_rolled_back_or_restored(path: Path) -> None:
    with_plan(path)
    with ShelveAdapter(path) as store:
        with pytest.raises(ZeroDivisionError), store.transaction():
            store.delete_user("ada")
            raise ZeroDivisionError
        before = store.snapshot()
        store.delete_user("grace")
        store.restore(before)
        assert store.check() == []
    assert plan(path) == plan(path, "grace") == "gold"


@pytest.mark.parametrize("close", [True, False], ids=["shelf", "journal"])
def test_a_field_that_does_not_fit_is_named_and_nothing_is_touched(path: Path, close: bool) -> None:
    @dataclass(frozen=True, slots=True)
    class Counted(User):
        plan: int = 0

    store = ShelveAdapter(path, user=Member)
    store.create_user(plan="a secret plan")
    store.close() if close else abandon(store)
    before = files(path)
    with pytest.raises(StorageError, match=r"users.plan holds str, Counted.plan is int") as caught:
        ShelveAdapter(path, user=Counted)
    assert caught.value.path == os.fspath(path)
    assert "secret" not in str(caught.value)
    assert files(path) == before
    with ShelveAdapter(path, user=Member) as again:
        assert again.check() == []


def test_a_record_without_a_field_that_it_must_have_is_refused(path: Path) -> None:
    with ShelveAdapter(path) as store:
        store.create_user(id="ada")
    append(path, [["sessions", ["00" * 32], {"user_id": "ada"}]])
    with pytest.raises(StorageError, match="Session.expires is missing"):
        ShelveAdapter(path)


def append(path: Path, transaction: Any) -> None:
    """Add a line to the journal of a store that is closed."""
    with newest_journal(path).open("ab") as file:
        file.write(journal.line(transaction))


NONSENSE = {
    "a table of no model": ["frogs", ["1"], {}],
    "a key that is no digest": ["sessions", ["xyz"], {"user_id": "ada"}],
    "a key without its parts": ["accounts", [], {}],
    "fields that are none": ["users", ["grace"], 7],
    "an unknown moment": ["users", ["grace"], {"email_verified": "yesterday"}],
}


@pytest.mark.parametrize("change", NONSENSE.values(), ids=NONSENSE)
def test_a_row_of_nonsense_is_a_storage_error(path: Path, change: Any) -> None:
    with ShelveAdapter(path) as store:
        store.create_user(id="ada")
    append(path, [change])
    with pytest.raises(StorageError, match=re.escape(f"{path} holds, among its {change[0]}, a row that does not fit")):
        ShelveAdapter(path)


# --- on the disk ------------------------------------------------------------------------------


@each_backend
def test_files_and_directories_are_private_whatever_the_umask(path: Path, backend: Any) -> None:
    old = os.umask(0)
    try:
        with ShelveAdapter(path, dbm=backend) as store:
            furnish(store)
        with newest_journal(path).open("ab") as file:
            file.write(b"torn")
        with ShelveAdapter(path) as store:
            store.create_user()
            entries = [path, *path.rglob("*")]
            modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in entries}
            expected = {entry.name: 0o700 if entry.is_dir() else 0o600 for entry in entries}
    finally:
        os.umask(old)
    assert modes == expected
    assert {"lock", "journal-000001", "journal-000001.torn", f"shelf-000001.{backend}"} < modes.keys()


@each_backend
def test_no_file_ever_holds_a_token(path: Path, backend: Any, monkeypatch: Patch) -> None:
    monkeypatch.setattr(journal, "remove", lambda path: None)  # every generation stays to be looked at
    tokens = iter(f"a-secret-{i}" for i in range(100))
    with ShelveAdapter(path, dbm=backend, new_token=lambda: next(tokens)) as store:
        ada = store.create_user(email="ada@example.com")
        session = store.create_session(user_id=ada.id)
        link = store.create_verification_token(identifier="ada@example.com")
        store._checkpoint()
        store.rotate_session(session.session_token)
        store.use_verification_token(identifier="ada@example.com", token=link.token)
        store._checkpoint()
        store.create_session(user_id=ada.id)
    everything = b"".join(files(path).values())
    assert len(list(path.glob("shelf-*"))) == 3
    assert b"ada@example.com" in everything
    assert b"a-secret" not in everything and b"6132736563726574" not in everything


def test_a_closed_store_is_one_shelf_one_empty_journal_and_a_lock(path: Path) -> None:
    with ShelveAdapter(path) as store:
        assert names(path) == ["journal-000000", "lock"]
        store.create_user()
    assert names(path) == ["journal-000001", "lock", "shelf-000001.dumb"]
    assert files(path)["journal-000001"].endswith(b'{"tinyauthstore":"journal","version":2,"generation":1}\n')


def test_a_store_that_was_only_read_is_not_written(path: Path) -> None:
    with ShelveAdapter(path) as store:
        furnish(store)
    before = files(path)
    with ShelveAdapter(path) as store:
        assert store.get_session_and_user("ada 1")
    assert files(path) == before


def test_an_empty_directory_is_taken_and_made_private(path: Path) -> None:
    path.mkdir(mode=0o755)
    with ShelveAdapter(path) as store:
        store.create_user()
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


@pytest.mark.parametrize("foreign", ["notes.txt", "lock", "shelf-000001", "shelf-000001.dumb.tmp", "journal-1"])
def test_somebody_elses_directory_is_refused_and_left_alone(path: Path, foreign: str) -> None:
    path.mkdir(mode=0o755)
    (path / foreign).write_text("something else")
    with pytest.raises(StorageError, match=rf"{path} is a directory of something else \(it has {foreign}") as caught:
        ShelveAdapter(path)
    assert caught.value.path == os.fspath(path)
    assert names(path) == [foreign]
    assert (path / foreign).read_text() == "something else"
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_other_files_beside_a_store_of_ours_are_left_alone(path: Path) -> None:
    for _ in range(2):
        with ShelveAdapter(path) as store:
            store.create_user()
        (path / "notes.txt").write_text("mine")
    with ShelveAdapter(path) as store:
        assert len(state(store)["users"]) == 2
    assert (path / "notes.txt").read_text() == "mine"


def test_a_file_is_no_store(path: Path) -> None:
    path.write_text("mine")
    with pytest.raises(StorageError, match=f"{path} cannot be opened: it is a file; a shelf is a directory"):
        ShelveAdapter(path)
    assert path.read_text() == "mine"


def test_a_missing_parent_is_named(path: Path) -> None:
    with pytest.raises(StorageError, match=f"the directory {path} does not exist; create it first"):
        ShelveAdapter(path / "auth")


@pytest.mark.parametrize("bad", ["", b"auth", "a\0b"], ids=repr)
def test_a_path_that_cannot_be_one_is_refused(bad: Any) -> None:
    with pytest.raises((ValueError, StorageError)) as caught:
        ShelveAdapter(bad)
    assert type(caught.value) in (ValueError, StorageError)


def test_options_that_are_none_are_refused_before_anything_is_made(path: Path) -> None:
    bad: list[dict[str, Any]] = [{"durability": "most"}, {"dbm": "bsd"}, {"session_max_age": -1}, {"user": int}]
    for options in bad:
        with pytest.raises((ValueError, TypeError), match="|".join(options)):
            ShelveAdapter(path, **options)
    assert not path.exists()


def test_a_store_has_a_name_that_says_where_it_is(path: Path) -> None:
    with ShelveAdapter(path) as store:
        assert repr(store) == f"ShelveAdapter('{path}')"


def test_who_uses_no_shelf_does_not_load_one() -> None:
    script = "import sys, tinyauthstore; print([name for name in ('shelve', 'pickle', 'dbm') if name in sys.modules])"
    assert support.run_python(script) == "[]\n"


# --- damage -----------------------------------------------------------------------------------

GARBAGE: dict[str, Callable[[bytes], bytes]] = {
    "garbage": lambda data: bytes(i * 7919 % 251 for i in range(len(data))),
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "cut short": lambda data: data[: len(data) // 2],
    "a pickle": lambda data: pickle.dumps({"users": 1}),
}



@pytest.fixture
def leak() -> Iterator[None]:
    """Python 3.13's dbm.sqlite3 leaves its connection open where the file is no database: found here, not later."""
    yield
    gc.collect()


leaky = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@leaky
@each_backend
@pytest.mark.parametrize("damage", GARBAGE)
def test_a_damaged_shelf_is_named_with_a_remedy_and_nothing_is_touched(
    path: Path, backend: Any, damage: str, leak: None
) -> None:
    with ShelveAdapter(path, dbm=backend) as store:
        furnish(store)
    sound, shelf, refused = files(path), newest_shelf(path), 0
    for name in [name for name in sound if name.startswith("shelf")]:
        (path / name).write_bytes(GARBAGE[damage](sound[name]))
        damaged = files(path)
        try:
            with ShelveAdapter(path) as store:
                assert len(state(store)["users"]) == 2  # a file that the backend can do without
        except StorageError as error:
            refused += 1
            assert error.path == os.fspath(shelf)
            assert str(error).startswith(f"{shelf} cannot be read as a shelf of ours") and "restore a backup" in str(error)
            assert damaged.items() <= files(path).items()  # SQLite may have put its -shm beside its file
        (path / name).write_bytes(sound[name])
    assert refused >= 1
    with ShelveAdapter(path) as store:
        assert store.check() == []


def test_no_changed_byte_of_a_shelf_goes_unnoticed(path: Path) -> None:
    with ShelveAdapter(path) as store:
        store.create_user(id="ada", name="Ada")
    shelf, noticed = newest_shelf(path), 0
    sound = list(journal.read_shelf(os.fspath(shelf), "dumb", 1))
    for file in (shelf / "shelf.dat", shelf / "shelf.dir"):
        data = file.read_bytes()
        for i in range(len(data)):
            file.write_bytes(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
            try:
                assert list(journal.read_shelf(os.fspath(shelf), "dumb", 1)) == sound, (file, i)  # padding
            except StorageError as error:
                assert "restore a backup" in str(error)
                noticed += 1
        file.write_bytes(data)
    assert noticed > 200


@each_backend
@pytest.mark.parametrize("key", ["users/000000", "sessions/000001", "manifest"])
def test_a_missing_page_is_missed(path: Path, backend: Any, key: str, monkeypatch: Patch) -> None:
    monkeypatch.setattr(journal, "PAGE", 3)
    with ShelveAdapter(path, dbm=backend) as store:
        furnish(store)
    with journal.Shelf(os.fspath(newest_shelf(path)), backend, "w") as shelf:
        del shelf[key]
    with pytest.raises(StorageError, match=f"'?{key}'? is missing.*restore a backup"):
        ShelveAdapter(path)


MANIFESTS: dict[str, Any] = {
    "another generation": {"version": 2, "generation": 2, "page": 500, "counts": {}},
    "no version that ever was": {"version": 0, "generation": 1, "page": 500, "counts": {}},
    "no counts": {"version": 2, "generation": 1, "page": 500},
    "other counts": {"version": 2, "generation": 1, "page": 500, "counts": {"users": 1}},
    "no manifest": [],
}


@pytest.mark.parametrize("manifest", MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_that_is_another_shelfs_is_refused(path: Path, manifest: Any) -> None:
    with ShelveAdapter(path) as store:
        furnish(store)
    with journal.Shelf(os.fspath(newest_shelf(path)), "dumb", "w") as shelf:
        shelf["manifest"] = manifest
    with pytest.raises(StorageError, match="cannot be read as a shelf of ours"):
        ShelveAdapter(path)


def test_a_shelf_of_a_newer_version_is_refused_with_both_numbers(path: Path) -> None:
    with ShelveAdapter(path) as store:
        furnish(store)
    with journal.Shelf(os.fspath(newest_shelf(path)), "dumb", "w") as shelf:
        shelf["manifest"] = {"version": 3}
    with pytest.raises(StorageError, match=r"newer tinyauthstore \(format 3, this one knows 2\); upgrade"):
        ShelveAdapter(path)


class Trap:
    """Unpickled, it creates a file."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> Any:
        return os.mkdir, (os.fspath(self.sprung),)


@leaky
@each_backend
@pytest.mark.parametrize("key", ["manifest", "users/000000"])
def test_a_planted_pickle_is_not_run(path: Path, backend: Any, key: str, leak: None) -> None:
    with ShelveAdapter(path, dbm=backend) as store:
        furnish(store)
    trap, sprung = pickle.dumps(Trap(path.with_name("sprung"))), path.with_name("sprung")
    with journal.Shelf(os.fspath(newest_shelf(path)), backend, "w") as shelf:
        shelf.dict[key.encode()] = trap
    with pytest.raises(StorageError, match=f"{key} is damaged"):
        ShelveAdapter(path)
    for file in newest_shelf(path).iterdir():
        file.write_bytes(trap)
    with pytest.raises(StorageError):
        ShelveAdapter(path)
    assert not sprung.exists()
    pickle.loads(trap)
    assert sprung.exists()  # the trap works


def test_a_planted_expression_in_dumbs_index_is_not_run(path: Path) -> None:
    with ShelveAdapter(path) as store:
        furnish(store)
    sprung = path.with_name("sprung")
    with (newest_shelf(path) / "shelf.dir").open("a") as file:
        file.write(f"'x', __import__('os').mkdir({os.fspath(sprung)!r})\n")
    with pytest.raises(StorageError, match="cannot be read as a shelf"):
        ShelveAdapter(path)
    assert not sprung.exists()


@pytest.mark.parametrize("through", ["shelf", "journal"])
def test_a_shelf_that_is_gone_is_missed(path: Path, through: str) -> None:
    with ShelveAdapter(path) as store:
        furnish(store)
    if through == "journal":
        store = ShelveAdapter(path)
        store.create_user()
        abandon(store)
    shutil.rmtree(newest_shelf(path))
    before = files(path)
    with pytest.raises(StorageError, match="journal-000001 continues a shelf that is not there; restore"):
        ShelveAdapter(path)
    assert files(path) == before


def test_a_journal_that_is_gone_is_reported(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ShelveAdapter(path) as store:
        furnish(store)
    newest_journal(path).unlink()
    with ShelveAdapter(path) as store:
        assert store.check() == []
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("tinyauthstore", "WARNING")
    assert "journal-000001 is missing" in record.getMessage()


def crashed(path: Path, newcomers: Sequence[str] = ("joan", "mary", "lise")) -> list[set[str]]:
    """A store as a killed process leaves it: a shelf with Ada, and sign-ups since. The users after each."""
    who = [{"ada"}]
    with ShelveAdapter(path) as store:
        store.create_user(id="ada", name="Ada")
    store = ShelveAdapter(path)
    for name in newcomers:
        with store.transaction():
            store.create_user(id=name)
            store.create_session(user_id=name, session_token=name)
        who.append(who[-1] | {name})
    abandon(store)
    return who


def test_a_store_whose_journal_is_cut_at_any_byte_has_every_whole_transaction(path: Path) -> None:
    who = crashed(path, ("joan", "mary"))
    file, before = newest_journal(path), files(path)
    data = file.read_bytes()
    for cut in range(len(data) + 1):
        os.truncate(file, cut)
        store = ShelveAdapter(path)
        users = {key for (key,) in state(store)["users"]}
        assert users == who[max(data[:cut].count(b"\n") - 1, 0)], cut
        assert [name for name in users - {"ada"} if store.get_session_and_user(name) is None] == [], cut
        torn = data[data.rfind(b"\n", 0, cut) + 1 : cut]
        assert files(path).pop(f"{file.name}.torn", b"") == torn, cut
        store.create_user(id="late")
        assert store.check() == [], cut
        abandon(store)
        for name in set(files(path)) - set(before):
            (path / name).unlink()
        file.write_bytes(data)
        assert files(path) == before


def test_a_torn_journal_is_reported_in_the_log(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    crashed(path)
    file = newest_journal(path)
    os.truncate(file, file.stat().st_size - 5)
    end = file.read_bytes().rfind(b"\n") + 1
    torn = file.stat().st_size - end
    ShelveAdapter(path).close()
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("tinyauthstore", "WARNING")
    told = f"{file} ended, from byte {end} on, in {torn} bytes that are no whole line"
    assert record.getMessage().startswith(told) and f"kept in {file}.torn" in record.getMessage()


def test_of_the_torn_ends_of_several_crashes_the_last_is_kept(path: Path) -> None:
    for i in range(3):
        with ShelveAdapter(path) as store:
            store.create_user()
        with newest_journal(path).open("ab") as file:
            file.write(b"torn %d" % i)
    ShelveAdapter(path).close()
    assert [(name, data) for name, data in files(path).items() if name.endswith("torn")] == [
        ("journal-000003.torn", b"torn 2")
    ]


def test_a_journal_damaged_in_its_middle_is_refused_and_nothing_is_touched(path: Path) -> None:
    crashed(path)
    file = newest_journal(path)
    data = bytearray(file.read_bytes())
    begin = data.index(b"\n", data.index(b"\n") + 1) + 1
    data[begin + 20] ^= 1
    file.write_bytes(data)
    before = files(path)
    with pytest.raises(StorageError, match=f"damaged at byte {begin}: 1 transactions before that and 1 lines") as caught:
        ShelveAdapter(path)
    assert caught.value.path == os.fspath(file)
    assert files(path) == before


def test_what_a_crash_left_of_other_generations_is_swept_away(path: Path) -> None:
    crashed(path)
    shutil.copytree(newest_shelf(path), path / "shelf-000000.dumb")
    shutil.copytree(newest_shelf(path), path / "shelf-000002.dumb.tmp")
    (path / "journal-000000").write_bytes(b"of no interest")
    (path / "journal-000002").write_bytes(journal._header(2))
    with ShelveAdapter(path) as store:
        assert len(state(store)["users"]) == 4
        assert names(path) == ["journal-000001", "lock", "shelf-000001.dumb"]


def test_a_store_can_be_read_by_hand(path: Path) -> None:
    import dbm.dumb

    who = crashed(path)[-1]
    users: dict[str, Any] = {}
    with dbm.dumb.open(os.fspath(newest_shelf(path) / "shelf"), "r") as shelf:
        for key, fields in json.loads(shelf[b"users/000000"].split(b" ", 2)[2]):
            users[key[0]] = fields
    for line in newest_journal(path).read_text().splitlines()[1:]:
        for plural, key, fields in json.loads(line.split(" ", 2)[2]):
            if plural == "users":
                users[key[0]] = fields
    assert set(users) == who
    assert users["ada"] == {"email": None, "name": "Ada", "image": None, "email_verified": None}


def test_a_session_whose_user_was_lost_in_mending_is_nobodys_and_found_by_check(path: Path) -> None:
    store = ShelveAdapter(path)
    store.create_user(id="joan")
    store.create_session(user_id="joan", session_token="joan")
    abandon(store)
    header, _, *rest = newest_journal(path).read_bytes().splitlines(keepends=True)
    newest_journal(path).write_bytes(header + b"".join(rest))
    with ShelveAdapter(path) as store:
        assert store.get_session_and_user("joan") is None
        (problem,) = store.check()
        assert "its user 'joan' does not exist" in problem


# --- check() ----------------------------------------------------------------------------------


def test_check_looks_at_the_files(path: Path) -> None:
    crashed(path)
    with ShelveAdapter(path) as store:
        assert store.check() == []
        file = next(newest_shelf(path).glob("*.dat"))
        data = file.read_bytes()
        file.write_bytes(data.replace(b'"Ada"', b'"Eve"'))
        (problem,) = store.check()
        assert problem.startswith(f"{newest_shelf(path)} cannot be read")
        file.write_bytes(data)
        assert store.check() == []


@pytest.mark.parametrize("act", ["cut", "extended", "removed"])
def test_check_finds_a_journal_that_somebody_else_touched(path: Path, act: str) -> None:
    crashed(path)
    with ShelveAdapter(path) as store:
        file = newest_journal(path)
        if act == "cut":
            os.truncate(file, file.stat().st_size - 1)
        elif act == "extended":
            append(path, [["users", ["nobody"], {}]])
        else:
            file.unlink()
        assert store.check() == [f"{file} was changed, or removed, by somebody else"]


def test_check_compares_the_files_with_memory(path: Path) -> None:
    with ShelveAdapter(path) as store:
        store.create_user(id="ada")
        store.create_user(id="grace")
        store._files.append([["users", ["ada"], {"name": "Ada"}], ["users", ["joan"], {}]])
        assert store.check() == [f"{path}: 2 users are not in its files as they are in memory"]


def test_check_inside_a_transaction_knows_what_is_not_written_yet(path: Path) -> None:
    with ShelveAdapter(path) as store:
        furnish(store)
        with store.transaction():
            store.create_user(id="joan")
            store.update_user("joan", name="Joan")
            store.update_user("ada", name="Ada Lovelace")
            store.delete_user("grace")
            assert store.check() == []


# --- backends ---------------------------------------------------------------------------------


@pytest.fixture
def gnu(monkeypatch: Patch) -> None:
    """A ``dbm.gnu`` for every Python: two backends are needed to go from one to the other."""
    if "gnu" not in support.DBM_BACKENDS:
        import dbm.dumb

        monkeypatch.setitem(sys.modules, "dbm.gnu", dbm.dumb)


def test_a_store_keeps_its_backend_unless_another_is_chosen(path: Path, gnu: None) -> None:
    with ShelveAdapter(path, dbm="gnu") as store:
        furnish(store)
    assert newest_shelf(path).name == "shelf-000001.gnu"
    with ShelveAdapter(path) as store:
        store.create_user()
        before = state(store)
    assert newest_shelf(path).name == "shelf-000002.gnu"
    ShelveAdapter(path, dbm="dumb").close()
    assert newest_shelf(path).name == "shelf-000003.dumb"
    assert reread(path) == before


@pytest.fixture
def no_ndbm(monkeypatch: Patch) -> None:
    monkeypatch.setitem(sys.modules, "dbm.ndbm", None)


def test_a_backend_that_this_python_lacks_is_named_before_anything_is_made(path: Path, no_ndbm: None) -> None:
    with pytest.raises(StorageError, match=r"needs dbm\.ndbm, which this Python lacks.*install it.*python3-gdbm"):
        ShelveAdapter(path, dbm="ndbm")
    assert not path.exists()


def test_a_store_whose_backend_this_python_lacks_says_what_to_do(path: Path, no_ndbm: None) -> None:
    with ShelveAdapter(path) as store:
        furnish(store)
    newest_shelf(path).rename(path / "shelf-000001.ndbm")
    before = files(path)
    with pytest.raises(StorageError, match=r"shelf-000001\.ndbm needs dbm\.ndbm.*dbm=\"dumb\" under a Python that has"):
        ShelveAdapter(path)
    assert files(path) == before


OTHER_PYTHON = """
import os, sys
from tinyauthstore import ShelveAdapter
assert sys.version_info[:2] != {version!r}
with ShelveAdapter(sys.argv[1]) as store:
    assert store.check() == []
    assert store.get_session_and_user("ada 1").user.name == "\\0 \\N{{SNOWMAN}}"
    print(store.create_user(email="joan@example.com").id)
"""


def other_python() -> str | None:
    """Another version of Python that runs: one installed beside this one, or on the PATH."""
    folders = [*Path(sys.base_prefix).parent.glob("*/bin"), *map(Path, os.get_exec_path())]
    for folder in folders:
        for minor in range(11, 20):
            python = folder / f"python3.{minor}"
            if (3, minor) != sys.version_info[:2] and python.exists():
                if support.subprocess.run([python, "--version"], capture_output=True).returncode == 0:
                    return os.fspath(python)
    return None


def test_a_store_written_under_one_python_opens_under_another(path: Path) -> None:
    other = other_python()
    if other is None:
        pytest.skip("this machine has no second Python of 3.11 or later")
    with ShelveAdapter(path) as store:
        furnish(store)
    script = OTHER_PYTHON.format(version=sys.version_info[:2])
    finished = support.subprocess.run(
        [other, "-c", script, path], capture_output=True, text=True, timeout=support.PATIENCE,
        env={"PYTHONPATH": os.fspath(Path(tinyauthstore.__file__).parent.parent), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert finished.stderr == ""
    with ShelveAdapter(path) as store:
        joan = store.get_user_by_email("joan@example.com")
        assert joan is not None and joan.id == finished.stdout.strip()
        assert store.check() == []


# --- one process at a time --------------------------------------------------------------------


def test_a_second_adapter_of_one_process_is_refused(path: Path) -> None:
    with ShelveAdapter(path) as store:
        store.create_user(id="ada")
        with pytest.raises(LockedError, match="is open in this very process") as caught:
            ShelveAdapter(path.parent / "." / "auth")
        assert caught.value.path == os.fspath(path)
        store.create_user(id="grace")
    with ShelveAdapter(path) as store:
        assert set(state(store)["users"]) == {("ada",), ("grace",)}


OPEN = """
import sys
from tinyauthstore import LockedError, ShelveAdapter
try:
    ShelveAdapter(sys.argv[1]).close()
except LockedError as error:
    print(error)
"""


def test_another_process_is_refused_and_told_who_holds_the_store(path: Path) -> None:
    with ShelveAdapter(path):
        told = support.run_python(OPEN, path)
    assert told.startswith(f"{path} is open in process {os.getpid()}; a shelf belongs to one process at a time")
    assert "cannot be read beside it either" in told and "SQLiteAdapter" in told
    assert support.run_python(OPEN, path) == ""


def test_a_backup_made_by_the_holder_lets_nobody_in(path: Path) -> None:
    with ShelveAdapter(path) as store:
        furnish(store)
        reread(path)
        assert support.run_python(OPEN, path).startswith(f"{path} is open in process {os.getpid()}")


HOLD = """
import sys
from tinyauthstore import ShelveAdapter
store = ShelveAdapter(sys.argv[1])
store.create_user(id="ada")
print("held", flush=True)
sys.stdin.readline()
"""


def test_a_killed_holder_holds_no_longer(path: Path) -> None:
    with support.start_python(HOLD, path) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"is open in process {process.pid};"):
            ShelveAdapter(path)
        process.kill()
    with ShelveAdapter(path) as store:
        assert store.get_user("ada") is not None


def test_a_store_that_could_not_be_opened_is_not_held(path: Path, monkeypatch: Patch) -> None:
    crashed(path)
    with monkeypatch.context() as bad:
        bad.setattr(journal, "read_shelf", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ShelveAdapter(path)
    ShelveAdapter(path).close()


def test_many_threads_that_open_a_new_store_together_get_one(path: Path) -> None:
    opened, refused = [], []

    def open_it(i: int) -> None:
        try:
            opened.append(ShelveAdapter(path))
        except LockedError as error:
            refused.append(error)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(open_it, range(8)))
    assert (len(opened), len(refused)) == (1, 7)
    opened[0].close()


CALLS: dict[str, Callable[[Any], object]] = {
    "a look-up": lambda store: store.get_session_and_user("ada 1"),
    "a write": lambda store: store.create_user(),
    "a transaction": lambda store: store.transaction().__enter__(),
    "check": lambda store: store.check(),
    "snapshot": lambda store: store.snapshot(),
    "with": lambda store: store.__enter__(),
}


@needs_fork
@support.apart
def test_a_forked_child_is_refused_whatever_it_asks_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "auth"
    store = ShelveAdapter(path)
    furnish(store)
    before, parent = files(path), os.getpid()

    def use_it() -> None:
        for call in CALLS.values():
            with pytest.raises(LockedError, match=f"is open in process {parent}, from which this one was forked"):
                call(store)
        with pytest.raises(LockedError, match=f"is open in process {parent};"):
            ShelveAdapter(path)
        store.close()
        with pytest.raises(ClosedError):
            store.create_user()

    assert support.exit_code(support.fork(use_it)) == 0
    assert files(path) == before
    store.create_user(id="joan")
    assert reread(path) == state(store)
    store.close()


FORK_AND_LEAVE = """
import os, sys
from tinyauthstore import ShelveAdapter
store = ShelveAdapter(sys.argv[1])
store.create_user(id="ada")
with store.transaction():
    store.create_user(id="grace")
    child = os.fork()
    if child == 0:
        sys.exit()  # through the whole clean-up of an interpreter
    assert os.waitpid(child, 0)[1] == 0
print(*sorted(os.listdir(sys.argv[1])))
store.close()
"""


@needs_fork
def test_a_forked_child_that_ends_leaves_its_parents_store_alone(path: Path) -> None:
    assert support.run_python(FORK_AND_LEAVE, path) == "journal-000000 lock\n"
    with ShelveAdapter(path) as store:
        assert set(state(store)["users"]) == {("ada",), ("grace",)}


@needs_fork
@support.apart
def test_a_forked_childs_discarded_copy_is_not_closed_and_no_leak(tmp_path: Path) -> None:
    stores = [ShelveAdapter(tmp_path / "auth")]
    stores[0].create_user(id="ada")
    before = files(tmp_path)

    def discard() -> None:
        stores.clear()
        gc.collect()
        assert files(tmp_path) == before

    assert support.exit_code(support.fork(discard)) == 0
    stores[0].close()


@needs_fork
@support.apart
def test_a_child_may_open_the_store_when_its_parent_has_closed_it(tmp_path: Path) -> None:
    path = tmp_path / "auth"
    store = ShelveAdapter(path)
    store.create_user(id="ada")
    closed = support.Gate()

    def take_over() -> None:
        closed.wait()
        with ShelveAdapter(path) as mine:
            assert mine.get_user("ada") is not None
            gc.collect()
            assert support.run_python(OPEN, path).startswith(f"{path} is open in process {os.getpid()}")

    child = support.fork(take_over)
    store.close()
    closed.open()
    assert support.exit_code(child) == 0


# --- checkpoints ------------------------------------------------------------------------------


@pytest.fixture
def often(monkeypatch: Patch) -> None:
    """Checkpoints as soon as the journal is longer than the shelf, however small that is."""
    monkeypatch.setattr(journal, "SMALLEST_LIMIT", 2000)


@pytest.fixture
def rows_written(monkeypatch: Patch) -> list[int]:
    """How many rows each shelf got."""
    counts: list[int] = []
    write = journal.write_shelf

    def counted(folder: str, backend: str, generation: int, tables: Any) -> None:
        tables = {plural: list(rows) for plural, rows in tables.items()}
        counts.append(sum(map(len, tables.values())))
        write(folder, backend, generation, tables)

    monkeypatch.setattr(journal, "write_shelf", counted)
    return counts


def test_checkpoints_cost_each_write_the_same_however_large_the_store_grows(
    path: Path, often: None, rows_written: list[int]
) -> None:
    costs = []
    with ShelveAdapter(path, durability="normal") as store:
        for size in (200, 400, 800, 1600):
            while len(state(store)["users"] if store.get_user("0") else []) < size:
                first = len(state(store).get("users", {}))
                for i in range(first, first + 200):
                    store.create_user(id=str(i))
            costs.append(sum(rows_written) / size)
    assert len(rows_written) >= 6
    assert max(costs) < 3


def test_the_disk_holds_three_times_the_live_data_at_most(path: Path, often: None, monkeypatch: Patch) -> None:
    used: list[int] = []

    def measure() -> int:
        return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())

    publish = journal.publish

    def measured(draft: str, shelf: str) -> None:
        used.append(measure())
        publish(draft, shelf)

    monkeypatch.setattr(journal, "publish", measured)
    with ShelveAdapter(path, durability="normal") as store:
        with store.transaction():
            for i in range(100):
                store.create_user(id=str(i), name="x" * 100)
        store._checkpoint()
        live = measure()
        used.clear()
        for i in range(1000):
            store.update_user(str(i % 100), name="y" * 100)
            assert measure() < 2.1 * live
    assert len(used) > 5
    assert max(used) < 3.2 * live


def test_nothing_is_lost_from_one_checkpoint_to_the_next(path: Path, often: None, rows_written: list[int]) -> None:
    with ShelveAdapter(path, durability="normal") as store:
        for i in range(300):
            store.create_user(id=str(i))
            if i % 3 == 0:
                store.delete_user(str(i - 3))
            if i % 20 == 0:
                assert reread(path) == state(store), i
    assert len(rows_written) > 5


def synced_calls(path: Path, durability: Any, monkeypatch: Patch) -> list[str]:
    """In which order a checkpoint writes, renames and syncs, by the names that it syncs or renames."""
    calls: list[str] = []
    fsync, rename = os.fsync, os.rename

    def name(file: int) -> str:
        return os.path.basename(os.readlink(f"/proc/self/fd/{file}"))

    with ShelveAdapter(path, durability=durability) as store:
        furnish(store)
        with monkeypatch.context() as spy:
            spy.setattr(os, "fsync", lambda file: (calls.append(f"sync {name(file)}"), fsync(file)))
            spy.setattr(journal, "publish", lambda old, new: (calls.append("publish"), rename(old, new)))
            store._checkpoint()
    return calls


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc to tell files apart")
@pytest.mark.parametrize("durability", ["full", "normal"])
def test_a_shelf_is_on_the_disk_before_it_counts_and_counts_before_the_old_one_goes(
    path: Path, durability: str, monkeypatch: Patch
) -> None:
    calls = synced_calls(path, durability, monkeypatch)
    before, after = calls[: calls.index("publish")], calls[calls.index("publish") + 1 :]
    assert {"sync shelf.dat", "sync shelf.dir", "sync shelf-000001.dumb.tmp", "sync journal-000001"} <= set(before)
    assert after == ["sync auth"]


@pytest.mark.parametrize("durability, expected", [("full", 1), ("normal", 0)])
def test_only_full_durability_waits_for_the_disk_at_each_write(
    path: Path, durability: Any, expected: int, monkeypatch: Patch
) -> None:
    synced: list[int] = []
    with ShelveAdapter(path, durability=durability) as store, monkeypatch.context() as spy:
        spy.setattr(os, "fsync", synced.append)
        with store.transaction():
            store.create_user()
            store.create_user()
        assert len(synced) == expected


# --- a disk in need ---------------------------------------------------------------------------


def fails(code: int) -> Callable[..., Any]:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return fail


def test_a_write_that_finds_the_disk_full_never_happened(path: Path, monkeypatch: Patch) -> None:
    with ShelveAdapter(path) as store:
        furnish(store)
        before = state(store)
        with monkeypatch.context() as full:
            full.setattr(os, "write", fails(errno.ENOSPC))
            for _ in range(2):
                with pytest.raises(StorageError, match="could not grow, and nothing was changed.*No space") as caught:
                    store.delete_user("ada")
                assert caught.value.path == os.fspath(newest_journal(path))
            assert store.get_session_and_user("ada 1") is not None
        assert state(store) == before
        assert store.check() == []
        store.delete_user("ada")
        assert reread(path) == state(store) != before


def test_after_a_sync_that_failed_a_store_can_be_read_and_opened_again(path: Path, monkeypatch: Patch) -> None:
    with ShelveAdapter(path) as store:
        furnish(store)
        before = state(store)
        with monkeypatch.context() as bad:
            bad.setattr(os, "fsync", fails(errno.EIO))
            with pytest.raises(StorageError, match="could not be synced"):
                store.delete_user("ada")
        for _ in range(2):
            with pytest.raises(StorageError, match="until the store is opened again"):
                store.create_user()
        assert store.get_session_and_user("ada 1") is not None
        (problem,) = store.check()
        assert "could not be synced" in problem
        assert reread(path) == before
    with ShelveAdapter(path) as store:
        assert state(store) == before
        store.create_user()


STEPS = {
    "the shelf is written": (journal, "write_shelf"),
    "the shelf is synced": (journal, "sync_files"),
    "the journal is created": (journal.Journal, "create"),
    "the shelf is published": (journal, "publish"),
}
"""What a checkpoint does before its shelf counts."""


@pytest.mark.parametrize("step", STEPS)
def test_a_checkpoint_that_fails_costs_a_line_in_the_log_and_is_tried_again(
    path: Path, often: None, monkeypatch: Patch, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    with ShelveAdapter(path, durability="normal") as store:
        with monkeypatch.context() as full:
            attempts: list[int] = []
            fail = fails(errno.ENOSPC)
            full.setattr(*STEPS[step], lambda *arguments, **options: (attempts.append(1), fail()))
            for i in range(150):
                store.create_user(id=str(i))
            assert names(path) == ["journal-000000", "lock"]
        assert 2 <= len(attempts) <= 10
        told = [record.getMessage() for record in caplog.records]
        assert len(told) == len(attempts)
        assert all("could not be written: " in line and "the journal goes on, nothing is lost" in line for line in told)
        assert reread(path) == state(store)
        for i in range(150, 900):
            store.create_user(id=str(i))
        assert any(name.startswith("shelf") for name in names(path))
        assert reread(path) == state(store)


def test_a_shelf_that_could_not_be_closed_is_not_written_to_later(path: Path, monkeypatch: Patch) -> None:
    import dbm.dumb

    commits: list[int] = []

    def commit(database: Any) -> None:
        if database._index is not None:  # it has not been closed
            commits.append(1)
            fails(errno.ENOSPC)()

    with ShelveAdapter(path) as store:
        furnish(store)
        with monkeypatch.context() as full:
            full.setattr(dbm.dumb._Database, "_commit", commit)
            full.setattr(dbm.dumb._Database, "sync", commit)
            store._checkpoint()
            gc.collect()
        assert commits == [1]
        assert names(path) == ["journal-000000", "lock"]


@pytest.mark.parametrize("step", STEPS)
def test_a_close_that_cannot_write_a_shelf_loses_nothing(
    path: Path, monkeypatch: Patch, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    with monkeypatch.context() as full:
        store = ShelveAdapter(path)
        furnish(store)
        before = state(store)
        full.setattr(*STEPS[step], fails(errno.ENOSPC))
        store.close()
    assert "nothing is lost" in caplog.text
    assert names(path) == ["journal-000000", "lock"]
    with ShelveAdapter(path) as store:
        assert state(store) == before


def test_after_a_shelf_that_counts_could_not_be_synced_nothing_is_written_to_the_old_journal(
    path: Path, monkeypatch: Patch
) -> None:
    with ShelveAdapter(path) as store:
        furnish(store)
        before = state(store)
        with monkeypatch.context() as bad:
            bad.setattr(journal, "sync_directory", lambda folder: folder == os.fspath(path) and fails(errno.EIO)())
            store._checkpoint()
        with pytest.raises(StorageError, match="is superseded by .*shelf-000001.dumb.*opened again"):
            store.create_user()
        assert reread(path) == before
    with ShelveAdapter(path) as store:
        assert state(store) == before
        assert store.check() == []
        store.create_user()


def test_a_draft_that_could_not_be_removed_is_in_nobodys_way(path: Path) -> None:
    with ShelveAdapter(path) as store:
        furnish(store)
        (path / "shelf-000001.dumb.tmp").mkdir()
        (path / "shelf-000001.dumb.tmp" / "rest").touch()
        store._checkpoint()
        assert [entry.name for entry in newest_shelf(path).iterdir() if entry.name == "rest"] == []
        assert newest_shelf(path).name == "shelf-000001.dumb"


@pytest.mark.parametrize("after", ["before", "after"])
def test_an_interrupted_checkpoint_loses_nothing(path: Path, monkeypatch: Patch, after: str) -> None:
    publish = journal.publish

    def interrupt(draft: str, shelf: str) -> None:
        if after == "after":
            publish(draft, shelf)
        raise KeyboardInterrupt

    with ShelveAdapter(path) as store:
        furnish(store)
        before = state(store)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(journal, "publish", interrupt)
            store._checkpoint()
        assert reread(path) == before
        if after == "before":
            store.create_user()
            before = state(store)
        assert reread(path) == before


def test_what_cannot_be_swept_away_costs_a_line_in_the_log(
    path: Path, monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    with ShelveAdapter(path) as store:
        furnish(store)
        with monkeypatch.context() as bad:
            bad.setattr(os, "unlink", fails(errno.EACCES))
            store._checkpoint()
        assert "journal-000000 is no longer needed, and could not be removed" in caplog.text
        assert reread(path) == state(store)
    assert names(path) == ["journal-000001", "lock", "shelf-000001.dumb"] or len(names(path)) == 4
    ShelveAdapter(path).close()
    assert names(path) == ["journal-000001", "lock", "shelf-000001.dumb"]


# --- left open --------------------------------------------------------------------------------


def test_a_store_left_open_warns_and_keeps_everything(path: Path) -> None:
    store = ShelveAdapter(path)
    store.create_user(id="ada")
    with pytest.warns(ResourceWarning, match="was left open; close"):
        del store
    with ShelveAdapter(path) as store:
        assert store.get_user("ada") is not None


def test_a_store_that_could_not_be_opened_does_not_warn(path: Path) -> None:
    path.write_text("")
    with pytest.raises(StorageError):
        ShelveAdapter(path)
    gc.collect()


def test_a_refused_value_is_in_no_file(path: Path) -> None:
    with ShelveAdapter(path) as store, pytest.raises(InvalidFieldError):
        store.create_user(name="a secret \ud800")
    assert b"a secret" not in b"".join(files(path).values())


# --- connect ----------------------------------------------------------------------------------


def test_a_url_with_three_slashes_is_an_absolute_path(path: Path) -> None:
    with connect(f"shelve://{path}", clock=lambda: NOW) as store:
        assert repr(store) == f"ShelveAdapter('{path}')"
        assert store.create_session(user_id=store.create_user().id).created_at == NOW


@pytest.mark.parametrize("target", ["shelve:auth", "shelve:./auth", {"type": "shelve", "database": "auth"}])
def test_a_path_without_slashes_is_relative(tmp_path: Path, target: Any, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    with connect(target) as store:
        assert repr(store) == f"ShelveAdapter('{tmp_path / 'auth'}')"


def test_a_mapping_takes_options(path: Path, gnu: None) -> None:
    with connect({"type": "shelve", "database": os.fspath(path), "dbm": "gnu", "user": Member}) as store:
        assert isinstance(store.create_user(), Member)
    assert newest_shelf(path).suffix == ".gnu"


@pytest.mark.parametrize(
    "target",
    ["shelve:", "shelve://", "shelve://host/auth", "shelve:///auth?mode=ro", {"type": "shelve"}, {"type": ["shelve"], "database": "auth"}, "shelve"],
    ids=str,
)
def test_a_bad_target_is_refused_with_the_good_forms(target: Any) -> None:
    with pytest.raises(ValueError, match=r"good forms are\n(.*\n)*.*\"shelve:///var/lib/app/auth\""):
        connect(target)


def test_where_sqlite_is_missing_the_shelf_is_named(monkeypatch: Patch) -> None:
    monkeypatch.setattr(adapters, "sqlite3", None)
    with pytest.raises(StorageError, match="this Python has none; ShelveAdapter"):
        tinyauthstore.SQLiteAdapter(":memory:")


NO_SQLITE = """
import sys
sys.modules["sqlite3"] = sys.modules["_sqlite3"] = None
from tinyauthstore import ShelveAdapter
with ShelveAdapter(sys.argv[1]) as store:
    store.create_user(id="ada")
with ShelveAdapter(sys.argv[1]) as store:
    print(store.get_user("ada").id)
"""


def test_a_python_without_sqlite_can_keep_a_shelf(path: Path) -> None:
    assert support.run_python(NO_SQLITE, path) == "ada\n"


def test_an_account_of_a_custom_model_keeps_what_its_provider_sent(path: Path) -> None:
    @dataclass(frozen=True, slots=True)
    class Linked(Account):
        locale: str | None = None

    with ShelveAdapter(path, account=Linked) as store:
        store.create_user(id="ada")
        account = store.link_account(
            user_id="ada", type="oidc", provider="p", provider_account_id="1", locale="en", claims={"a": [1]}
        )
        assert (account.locale, account.extra) == ("en", {"claims": {"a": [1]}})
    with ShelveAdapter(path, account=Linked) as store:
        assert store.list_accounts("ada") == [account]
