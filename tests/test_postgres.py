"""``examples/postgres.py`` keeps the contract, on a PostgreSQL server that is started for it."""

from __future__ import annotations

import dataclasses
import gc
import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from servers import PATIENCE, postgres_server
from support import Crew, apart, exit_code, fork, furnish, link

from tinyauthstore import (
    BusyError,
    ConflictError,
    InvalidFieldError,
    SQLiteAdapter,
    StorageError,
    TransferError,
    User,
)
from tinyauthstore.aio import AsyncAdapter
from tinyauthstore.models import SESSION, USER
from tinyauthstore.portable import copy, dump
from tinyauthstore.testing import (
    AdapterContract,
    Household,
    TransactionContract,
)

HERE = Path(__file__).parent
README = (HERE.parent / "README.md").read_text(encoding="utf-8")
psycopg = pytest.importorskip("psycopg", "3.2", reason="needs psycopg 3.2 or newer: pip install 'psycopg[binary]'")
sys.path.insert(0, str(HERE / "examples"))

from postgres import LOCK, PostgresAdapter, escaped, unescaped  # noqa: E402

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Where its socket is."""
    with postgres_server(wal_writer_delay="10s") as folder:  # so that nothing but a commit writes the log to disk
        yield folder


class Thrifty(PostgresAdapter):
    """Leaves its connections to the next store: a new one costs the server ten times what most tests do with it."""

    spare: ClassVar[dict[str, list[Any]]] = {}

    def _connect(self) -> Any:
        try:
            return self.spare[self._conninfo].pop()
        except (KeyError, IndexError):
            return super()._connect()

    def _release(self) -> None:
        resting = [one for one in [*self._idle, self._writer] if one is not None and self._rests(one)]
        self.spare.setdefault(self._conninfo, []).extend(resting)
        self._idle = [one for one in self._idle if one not in resting]
        self._writer = None if self._writer in resting else self._writer
        super()._release()


class Schemas:
    """Stores of one database, each with tables in a schema of its own. Making tables takes longer than most tests, so
    the next test finds those of the one before, empty."""

    def __init__(self, server: str) -> None:
        self._conninfo = f"host={server} user=postgres dbname=postgres"
        self._door = psycopg.connect(self._conninfo, autocommit=True)
        self._made = 0
        self._used = 0

    def begin(self) -> None:
        self._used = 0

    def sql(self, statement: str) -> list[Any]:
        """What the server answers to somebody else than the adapter, in the schema of the test's latest store."""
        self._door.execute(f"SET search_path = s{self._used}")
        cursor = self._door.execute(statement)
        return cursor.fetchall() if cursor.description else []

    @property
    def schema(self) -> str:
        return f"s{self._used}"

    def place(self) -> dict[str, Any]:
        """How another process opens the test's latest store."""
        return {"conninfo": f"{self._conninfo} options='-c search_path=s{self._used}'", "lock": LOCK + self._used}

    def again(self, **options: Any) -> PostgresAdapter:
        """The test's latest store, as another host opens it."""
        return PostgresAdapter(**self.place(), **options)

    def make(self, kind: type[PostgresAdapter] = PostgresAdapter, **options: Any) -> PostgresAdapter:
        """An empty store."""
        number = self._used = self._used + 1
        if number > self._made:
            self._door.execute(f"CREATE SCHEMA s{number}")
            with self.again() as store:
                store.create_all()
            self._made = number
        else:
            kinds = ("accounts", "sessions", "verification_tokens", "authenticators", "users")
            self._door.execute(";".join(f"DELETE FROM s{number}.{kind}" for kind in kinds))
        return kind(**self.place(), **options)

    def close(self) -> None:
        for connection in [self._door, *(one for spare in Thrifty.spare.values() for one in spare)]:
            connection.close()
        Thrifty.spare.clear()


@pytest.fixture(scope="module")
def schemas(server: str) -> Iterator[Schemas]:
    made = Schemas(server)
    yield made
    made.close()


@pytest.fixture
def database(schemas: Schemas) -> Schemas:
    schemas.begin()
    return schemas


@pytest.fixture
def store(database: Schemas) -> Iterator[PostgresAdapter]:
    with database.make() as store:
        yield store


@pytest.fixture
def other(store: PostgresAdapter, database: Schemas) -> Iterator[PostgresAdapter]:
    """The same store, as another host has it open; it waits for others for a fifth of a second."""
    with database.again(timeout=0.2) as other:
        yield other


# --- the kit ----------------------------------------------------------------------------------


class OnPostgres:
    @pytest.fixture
    def make_adapter(self, database: Schemas) -> Make:
        return lambda **options: database.make(Thrifty, **options)


class TestPostgres(OnPostgres, TransactionContract):
    """The core, at every run of the suite."""


@pytest.mark.soak
class TestWholeContract(OnPostgres, AdapterContract):
    """All of it, which takes five times as long."""


@pytest.mark.soak
class TestAwaited(TransactionContract):
    @pytest.fixture
    def make_adapter(self, database: Schemas) -> Make:
        return lambda **options: AsyncAdapter(database.make(Thrifty, **options))


def wait_for_a_waiter(database: Schemas) -> None:
    """Until somebody waits for a lock."""
    deadline = time.monotonic() + PATIENCE
    while not database.sql("SELECT 1 FROM pg_locks WHERE NOT granted"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- several hosts ----------------------------------------------------------------------------


def test_reads_wait_for_no_writer(store: PostgresAdapter, other: PostgresAdapter) -> None:
    """And do not see what it has not committed."""
    furnish(store)
    with store.transaction():
        store.update_user("ada", name="Unfinished")
        assert other.get_session_and_user("session").user.name == "Ada"
        assert store.get_session_and_user("session").user.name == "Unfinished"


def test_a_revoked_session_is_dead_on_every_host_at_once(store: PostgresAdapter, other: PostgresAdapter) -> None:
    furnish(store)
    for _ in range(3):
        assert other.get_session_and_user("session") is not None
    store.revoke_sessions("ada")
    assert other.get_session_and_user("session") is None


def test_a_writer_waits_for_another_hosts_transaction(store: PostgresAdapter, database: Schemas) -> None:
    """And sees what that committed."""
    with database.again() as other, ThreadPoolExecutor() as pool:
        with other.transaction():
            other.create_user(email="ada@example.com")
            late = pool.submit(store.create_user, email="ada@example.com")
            wait_for_a_waiter(database)
        with pytest.raises(ConflictError):
            late.result(PATIENCE)


def test_waiting_in_vain_is_a_busy_error(store: PostgresAdapter, other: PostgresAdapter) -> None:
    """Nothing is changed, and nothing is left behind."""
    with store.transaction():
        with pytest.raises(BusyError) as caught:
            other.create_user(id="ada")
    assert isinstance(caught.value.__cause__, psycopg.errors.LockNotAvailable)
    assert other.get_user("ada") is None
    assert other.create_user(id="ada")


def test_a_timeout_of_zero_does_not_wait_for_ever(store: PostgresAdapter, database: Schemas) -> None:
    """In PostgreSQL, a timeout of 0 means none."""
    with database.again(timeout=0) as other, store.transaction(), pytest.raises(BusyError):
        other.create_user()


def test_hosts_that_create_the_tables_at_once_are_fine(server: str, database: Schemas) -> None:
    database.sql("CREATE SCHEMA at_once")
    conninfo = f"host={server} user=postgres options='-c search_path=at_once'"

    def open_and_create(_: int) -> int:
        with PostgresAdapter(conninfo) as store:
            store.create_all()
            return len(store.create_user().id)

    with ThreadPoolExecutor(6) as pool:
        assert [*pool.map(open_and_create, range(6))] == [36] * 6


def test_two_schemas_with_locks_of_their_own_write_at_the_same_time(database: Schemas) -> None:
    with database.make(timeout=0.2) as one, database.make(timeout=0.2) as two:
        with one.transaction(), two.transaction():
            assert one.create_user() and two.create_user()


# --- thirty-two at once -----------------------------------------------------------------------

THREADS = 8
Steps = Generator[None, None, Any]


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    crew = Crew(4)
    yield crew
    crew.close()


def _race(i: int, place: dict[str, Any], name: str) -> Steps:
    """What each of this process's eight stores answers."""
    stores = [PostgresAdapter(**place, timeout=PATIENCE) for _ in range(THREADS)]
    barrier = threading.Barrier(THREADS)

    def run(n: int) -> Any:
        barrier.wait(PATIENCE)
        try:
            return RACES[name](stores[n], i * THREADS + n)
        except ConflictError:
            return None

    yield
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            return [*pool.map(run, range(THREADS))]
    finally:
        for store in stores:
            store.close()


RACES: dict[str, Callable[[Any, int], Any]] = {
    "sign-up": lambda store, n: store.create_user(email="new@example.com"),
    "link": lambda store, n: link(store, f"user-{n}", "new"),
    "magic link": lambda store, n: store.use_verification_token(identifier="ada@example.com", token="token"),
    "rotation": lambda store, n: store.rotate_session("session"),
}
"""What one of thirty-two wins; the others are told None or of a conflict."""


SLOW = ("link", "rotation")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.soak] * (name in SLOW)) for name in RACES])
def test_of_thirty_two_connections_in_four_processes_one_wins(
    crew: Crew, store: PostgresAdapter, database: Schemas, name: str
) -> None:
    furnish(store)
    for n in range(4 * THREADS):
        store.create_user(id=f"user-{n}")
    answers = [*itertools.chain(*crew.race(4, _race, database.place(), name))]
    assert len(answers) == 32
    assert len([answer for answer in answers if answer is not None]) == 1, answers
    assert store.check() == []


# --- lost connections -------------------------------------------------------------------------


def lose_all(database: Schemas) -> None:
    """End every connection but the test's own, as a restart of the server does."""
    others = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
    database.sql(f"SELECT pg_terminate_backend(pid) {others}")
    deadline = time.monotonic() + PATIENCE
    while database.sql(f"SELECT 1 {others}"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_connections_lost_between_calls_are_opened_again(store: PostgresAdapter, database: Schemas) -> None:
    furnish(store)
    lose_all(database)
    assert store.get_session_and_user("session") is not None
    assert store.create_user()


def test_a_transaction_whose_connection_is_lost_fails_as_a_whole(store: PostgresAdapter, database: Schemas) -> None:
    """Also if what failed inside was caught; and the store goes on."""
    with pytest.raises(StorageError), store.transaction():
        store.create_user(id="first")
        lose_all(database)
        with pytest.raises(StorageError):
            store.create_user(id="second")
        with pytest.raises(StorageError):
            store.get_user("first")
    assert [store.get_user(user_id) for user_id in ("first", "second")] == [None, None]
    assert store.create_user()


def test_a_host_that_falls_silent_inside_a_transaction_is_put_out(
    store: PostgresAdapter, database: Schemas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or nobody else could ever write again."""
    monkeypatch.setattr("postgres.LONGEST", 100)
    with database.again() as silent:
        with pytest.raises(StorageError) as caught, silent.transaction():
            silent.create_user(id="ada")
            store.create_user(id="grace")  # which has to wait
    assert not isinstance(caught.value, BusyError)
    assert [user.id for user in store.list_users()] == ["grace"]


def test_a_server_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        PostgresAdapter(f"host={tmp_path} user=postgres password=secret")
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)
    assert "secret" not in str(caught.value)


# --- transactions -----------------------------------------------------------------------------


def test_a_commit_that_the_server_turned_into_a_rollback_raises(store: PostgresAdapter) -> None:
    """PostgreSQL calls that a success."""
    with pytest.raises(StorageError, match="InFailedSqlTransaction"), store.transaction():
        store.create_user(id="ada")
        with pytest.raises(StorageError):
            store._write("SELECT 1/0")
    assert store.get_user("ada") is None


def test_what_was_acknowledged_is_on_the_disk(store: PostgresAdapter, database: Schemas) -> None:
    """Although the lock was given back before."""
    for _ in range(5):
        [[before]] = database.sql("SELECT pg_current_wal_insert_lsn()")
        store.create_user()
        assert database.sql(f"SELECT pg_current_wal_flush_lsn() > '{before}'") == [(True,)]


def test_a_transaction_that_writes_nothing_waits_for_no_disk(store: PostgresAdapter, database: Schemas) -> None:
    """As with a link that is used up. The server may write something of its own, but not each time."""

    def written() -> Any:
        return database.sql("SELECT pg_current_wal_insert_lsn()")

    waited = []
    for _ in range(5):
        before = written()
        store.use_verification_token(identifier="ada@example.com", token="token")
        waited.append(written() != before)
    assert not all(waited)


class Alarm(Exception):
    pass


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """An exception comes from a signal's handler after so many seconds, and out of the block."""

    def ring(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        with pytest.raises(Alarm):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_exception_from_a_signals_handler_leaves_no_lock(store: PostgresAdapter, other: PostgresAdapter) -> None:
    """It comes while this host waits for another one; the next write works."""
    with other.transaction(), alarm(0.1):
        store.create_user(id="ada")
    assert store.get_user("ada") is None
    assert store.create_user(id="ada")


def test_an_exception_from_a_signals_handler_leaves_no_busy_connection(store: PostgresAdapter) -> None:
    """It comes in the middle of a look-up; the next one works."""
    with alarm(0.1):
        store._rows("SELECT pg_sleep(10)")
    assert store.get_user("ada") is None


def test_another_isolation_level_of_the_database_changes_nothing(store: PostgresAdapter, database: Schemas) -> None:
    """At a higher level, who waited for a sign-up would not see it."""
    strict = database.place()
    strict["conninfo"] = strict["conninfo"].replace("-c", "-c default_transaction_isolation=serializable -c")
    with PostgresAdapter(**strict) as late, ThreadPoolExecutor() as pool:
        with store.transaction():
            store.create_user(email="ada@example.com")
            answer = pool.submit(late.create_user, email="ada@example.com")
            wait_for_a_waiter(database)
        with pytest.raises(ConflictError):
            answer.result(PATIENCE)


# --- values -----------------------------------------------------------------------------------


def test_escaped_text_comes_back_and_keeps_its_order() -> None:
    texts = ["".join(letters) for length in range(5) for letters in itertools.product("\0\1\2a", repeat=length)]
    assert [unescaped(escaped(text)) for text in texts] == texts
    assert sorted(texts) == sorted(texts, key=escaped)
    assert not any("\0" in escaped(text) for text in texts)


def test_whatever_a_provider_sends_comes_back(store: PostgresAdapter) -> None:
    """NUL and half a character, as text, as a name and inside of ``extra``."""
    store.create_user(id="ada")
    made = link(store, "ada", access_token="a\0b\1", **{"odd\0": ["\ud800", "\0", {"\udfff": 10**40}]})
    assert store.get_account(provider="github", provider_account_id="1") == made
    assert made.extra == {"odd\0": ["\ud800", "\0", {"\udfff": 10**40}]}


def test_a_key_that_no_index_takes_is_refused(store: PostgresAdapter) -> None:
    """By name, and what stands around it goes on."""
    long = "".join(random.Random(1).choices("0123456789abcdefghijklmnopqrstuvwxyz", k=4096))
    with store.transaction():
        store.create_user(id="ada")
        with pytest.raises(InvalidFieldError) as caught:
            store.create_user(id=long)
    assert (caught.value.model, caught.value.field) == ("User", "id")
    assert long[:20] not in str(caught.value)
    assert store.get_user(long) is None
    assert store.get_user("ada") is not None


@dataclasses.dataclass(frozen=True, slots=True)
class Member(User):
    plan: str = "free"
    score: float = 0.0


def test_a_field_that_the_model_gets_later_has_its_default(store: PostgresAdapter, database: Schemas) -> None:
    store.create_user(id="ada")
    with database.again(user=Member) as later:
        assert later.get_user("ada") == Member("ada", plan="free")
        later.update_user("ada", plan="paid", score=float("-inf"))
        assert later.get_user("ada") == Member("ada", plan="paid", score=float("-inf"))
    assert store.get_user("ada") == User("ada")


def test_no_error_quotes_a_value(store: PostgresAdapter, database: Schemas) -> None:
    """Not even one that comes of a table that somebody else has changed."""
    database.sql("ALTER TABLE users ADD CONSTRAINT no_grace CHECK (name <> 'Grace Hopper')")
    try:
        with pytest.raises(StorageError, match="CheckViolation, SQLSTATE 23514") as caught:
            store.create_user(name="Grace Hopper")
    finally:
        database.sql("ALTER TABLE users DROP CONSTRAINT no_grace")
    assert "Grace" not in str(caught.value)
    assert isinstance(caught.value.__cause__, psycopg.errors.CheckViolation)


# --- moving -----------------------------------------------------------------------------------


def test_a_store_moves_in_and_out_again_and_everybody_stays_signed_in(store: PostgresAdapter, tmp_path: Path) -> None:
    """Digests, codes, passkeys and extra fields included."""
    with SQLiteAdapter(tmp_path / "old.db") as old, SQLiteAdapter(tmp_path / "new.db") as new:
        home = Household(old)
        link(old, "ada", "odd", team="\0\ud800")
        old.create_verification_token(identifier="ada@example.com", token="123456", attempts=3)
        before, files = home.state(), [io.BytesIO() for _ in range(3)]
        assert copy(old, store).records == old.count()
        assert copy(store, new).records == old.count()
        for one, file in zip((old, store, new), files):
            dump(one, file, oauth_tokens=True)
            home.store = home.ada.store = home.grace.store = one
            assert home.state() == before
            assert one.get_session_and_user("ada-1-session") is not None
        assert files[0].getvalue() == files[1].getvalue() == files[2].getvalue()


def test_what_conflicts_in_a_copy_is_named_and_nothing_is_copied(store: PostgresAdapter, tmp_path: Path) -> None:
    """Although the records come by the hundred."""
    with SQLiteAdapter(tmp_path / "old.db") as old:
        for n in range(20):
            old.create_user(id=f"{n:02}", email=f"{n}@example.com")
        store.create_user(id="another", email="7@example.com")
        with pytest.raises(TransferError, match="07"):
            copy(old, store, merge=True)
    assert [user.id for user in store.list_users()] == ["another"]


def test_a_copy_shows_one_moment_while_others_write(store: PostgresAdapter, other: PostgresAdapter) -> None:
    furnish(store)
    with store._view() as walk:
        users = [record.id for _, record in walk(USER)]
        other.delete_user("ada")
        assert users == [record.user_id for _, record in walk(SESSION)] == ["ada"]
    assert store.list_users() == []


def test_the_readmes_way_of_moving_signs_nobody_out(
    store: PostgresAdapter, database: Schemas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block under *When one machine is not enough*, in a folder with a store."""
    [block] = re.findall(r"^```python\n([^`]*AUTH_DATABASE.*?)^```$", README, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUTH_DATABASE", database.place()["conninfo"])
    with SQLiteAdapter("auth.db") as old:
        furnish(old)
    exec(block, {})
    assert store.get_session_and_user("session") is not None
    assert store.count() == (1, 1, 1, 1, 1)


NODE_SCRIPT = """
import pg from "pg"
import PostgresAdapter from "@auth/pg-adapter"
const pool = new pg.Pool({ host: process.argv[2], user: "postgres", options: `-c search_path=${process.argv[3]}` })
const adapter = PostgresAdapter(pool)
console.log(JSON.stringify([
  await adapter.getUser("ada"), await adapter.getUserByEmail("ada@example.com"),
  await adapter.getUserByAccount({ provider: "github", providerAccountId: "1" }),
]))
await pool.end()
"""


def test_auth_js_own_adapter_reads_users_and_accounts(
    store: PostgresAdapter, server: str, database: Schemas, tmp_path: Path
) -> None:
    packages = Path(os.environ.get("TINYAUTHSTORE_NODE", HERE / "node")) / "node_modules"
    if shutil.which("node") is None or not (packages / "@auth" / "pg-adapter").is_dir():
        pytest.skip("needs Node and @auth/pg-adapter: `npm install` in tests/node, or TINYAUTHSTORE_NODE")
    furnish(store)
    (tmp_path / "node_modules").symlink_to(packages.resolve())
    (tmp_path / "ask.mjs").write_text(NODE_SCRIPT)
    asked = ["node", "ask.mjs", server, database.schema]
    answers = json.loads(subprocess.run(asked, cwd=tmp_path, check=True, capture_output=True, timeout=PATIENCE).stdout)
    assert [(one["id"], one["email"], one["name"]) for one in answers] == [("ada", "ada@example.com", "Ada")] * 3


@pytest.mark.soak
def test_the_readmes_command_that_measures_runs() -> None:
    """With a few sign-ins and look-ups, to see that it does."""
    script = f"import sys; sys.path.insert(0, {str(HERE / 'examples')!r}); import postgres_speed as speed; "
    command = [sys.executable, "-W", "error", "-c", script + "speed.main(0.1, rounds=1, crowd=2)"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=4 * PATIENCE).stdout
    assert len(re.findall(r" a second \(.* times SQLite$", printed, re.MULTILINE)) == 10
    assert "`python tests/examples/postgres_speed.py`" in README


# --- fork() -----------------------------------------------------------------------------------

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")


@needs_fork
def test_a_forked_child_and_its_parent_both_go_on(store: PostgresAdapter, database: Schemas, tmp_path: Path) -> None:
    furnish(store)
    _fork_and_go_on(tmp_path, place=database.place())
    assert sorted(user.id for user in store.list_users()) == ["ada", "child", "parent"]


@apart
def _fork_and_go_on(tmp_path: Path, place: dict[str, Any]) -> None:
    def go_on(name: str) -> None:
        for _ in range(20):
            assert store.get_session_and_user("session").user.id == "ada"
            store.update_user("ada", name=name)
        store.create_user(id=name)
        gc.collect()

    with PostgresAdapter(**place, timeout=PATIENCE) as store:
        store.update_user("ada", name="both connections are open")
        child = fork(lambda: go_on("child"))
        go_on("parent")
        assert exit_code(child) == 0


@needs_fork
def test_a_transaction_open_at_a_fork_is_the_parents(store: PostgresAdapter, database: Schemas, tmp_path: Path) -> None:
    """The child can neither go on with it nor end it."""
    _fork_inside(tmp_path, place=database.place())
    assert [user.id for user in store.list_users()] == ["ada", "grace"]


@apart
def _fork_inside(tmp_path: Path, place: dict[str, Any]) -> None:
    with PostgresAdapter(**place) as store:
        child = 0

        def refuse() -> None:
            with pytest.raises(StorageError, match="forked"):
                store.create_user(id="child")

        with store.transaction():
            store.create_user(id="ada")
            child = fork(refuse)
            assert exit_code(child) == 0
            store.create_user(id="grace")


# --- closing ----------------------------------------------------------------------------------


def test_its_name_shows_no_password(server: str) -> None:
    with PostgresAdapter(f"postgresql://postgres:secret@/postgres?host={server}") as store:
        assert repr(store) == f"PostgresAdapter('postgresql://{server}/postgres')"


def test_a_closed_store_leaves_no_connection(database: Schemas) -> None:
    """Nor does a look-up that ends after it was closed."""
    store = database.make(timeout=1.5)
    store.create_user(id="ada")
    begun, closed = threading.Event(), threading.Event()

    def slowly(*given: Any) -> Any:
        begun.set(), closed.wait(PATIENCE)
        return PostgresAdapter._run(store, *given)

    with ThreadPoolExecutor() as pool:
        store._run = slowly
        late = pool.submit(store.get_user, "ada")
        begun.wait(PATIENCE)
        store.close()
        closed.set()
        assert late.exception(PATIENCE) is None
    assert store._idle == []


def test_expired_sessions_are_purged_oldest_first(store: PostgresAdapter) -> None:
    """A batch at a time."""
    user_id, now = store.create_user().id, store._now()
    for hours in (3, 1, 2):
        store.create_session(user_id=user_id, session_token=str(hours), expires=now + timedelta(hours=hours))
    assert store._purge(SESSION, now + timedelta(days=1), 2) == 2
    assert store.get_session_and_user("3") is not None
