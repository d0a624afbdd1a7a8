"""A store that is open while its process forks; and threads that share one.

The hazard, measured: SQLite in a forked child believes to hold the locks of its parent, which the kernel
did not pass on. When the parent then closes, it finds nobody else, removes the -wal file, and what the
child goes on writing is lost without an error. So a store closes its connections before every fork.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, Gate, apart, exit_code, fork, run_python, start_python

from tinyauthstore import MemoryAdapter, SQLiteAdapter, StorageError, forks

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")

STRANGER = """
import sys
from tinyauthstore import SQLiteAdapter

with SQLiteAdapter(sys.argv[1]) as store:
    for line in sys.stdin:
        order, name = line.split()
        if order == "create":
            store.create_user(id=name)
        print(store.get_user(name) is not None, flush=True)
"""


class Stranger:
    """Another process that has the file open, and knows nothing of this one."""

    def __init__(self, path: Path) -> None:
        self._process = start_python(STRANGER, path)

    def create(self, name: str) -> None:
        assert self._ask("create", name)

    def sees(self, name: str) -> bool:
        return self._ask("find", name)

    def close(self) -> None:
        _, complaints = self._process.communicate(timeout=PATIENCE)
        assert (self._process.returncode, complaints) == (0, "")

    def _ask(self, order: str, name: str) -> bool:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(order, name, file=self._process.stdin, flush=True)
        return self._process.stdout.readline() == "True\n"


def create_elsewhere(path: Path, name: str) -> None:
    """Have another process open the file, write, and close it."""
    stranger = Stranger(path)
    stranger.create(name)
    stranger.close()


def users(path: Path, *expected: str) -> set[str]:
    """Which of ``expected`` the file holds; AssertionError if it is damaged."""
    with SQLiteAdapter(path, synchronize=False) as store:
        assert store.check() == []
        return {name for name in expected if store.get_user(name) is not None}


def make_reader(store: SQLiteAdapter) -> None:
    """Have the store open its second connection: by looking something up while it is busy."""
    with ThreadPoolExecutor(1) as pool, store.transaction():
        pool.submit(store.get_user, "before").result(PATIENCE)


# --- fork -------------------------------------------------------------------------------------


@needs_fork
@pytest.mark.parametrize("reading", [False, True], ids=["one connection", "two connections"])
@apart
def test_child_and_parent_both_go_on_and_no_write_is_lost(tmp_path: Path, reading: bool) -> None:
    path = tmp_path / "auth.db"
    store = SQLiteAdapter(path)
    store.create_user(id="before")
    if reading:
        make_reader(store)
    child_wrote, stranger_wrote, child_wrote_again, stranger_wrote_again = (Gate() for _ in range(4))

    def body() -> None:
        assert store.get_user("before") is not None
        store.create_user(id="child")
        child_wrote.open()
        stranger_wrote.wait()
        assert store.get_user("stranger") is not None
        store.create_user(id="child-again")
        child_wrote_again.open()
        stranger_wrote_again.wait()
        assert store.get_user("stranger-again") is not None
        store.close()

    child = fork(body)
    child_wrote.wait()
    assert store.get_user("child") is not None
    store.create_user(id="parent")
    store.close()  # the parent first, while the child goes on
    stranger = Stranger(path)
    stranger.create("stranger")
    stranger_wrote.open()
    child_wrote_again.wait()
    assert stranger.sees("child-again")
    stranger.create("stranger-again")
    stranger_wrote_again.open()
    assert exit_code(child) == 0
    everybody = {"before", "child", "parent", "stranger", "child-again", "stranger-again"}
    assert {name for name in everybody if stranger.sees(name)} == everybody
    stranger.close()
    assert users(path, *everybody) == everybody


@needs_fork
@apart
def test_the_child_may_end_first(tmp_path: Path) -> None:
    path = tmp_path / "auth.db"
    with SQLiteAdapter(path) as store:
        store.create_user(id="before")
        assert exit_code(fork(lambda: (store.create_user(id="child"), store.close()))) == 0
        create_elsewhere(path, "stranger")
        store.create_user(id="parent")
    everybody = {"before", "child", "stranger", "parent"}
    assert users(path, *everybody) == everybody


@needs_fork
@apart
def test_a_child_that_never_touches_the_store_harms_nobody(tmp_path: Path) -> None:
    path = tmp_path / "auth.db"
    store = SQLiteAdapter(path)
    store.create_user(id="before")
    if os.fork() == 0:
        store.close()
        return  # to the end of the interpreter, with all its clean-up
    create_elsewhere(path, "stranger")
    store.create_user(id="parent")
    assert exit_code(-1) == 0
    store.create_user(id="parent, later")
    store.close()
    everybody = {"before", "stranger", "parent", "parent, later"}
    assert users(path, *everybody) == everybody


@needs_fork
@apart
def test_children_and_grandchildren_all_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "auth.db"

    def write(who: str) -> None:
        for i in range(20):
            store.create_user(id=f"{who} {i}")

    def child(who: str) -> None:
        grandchild = fork(lambda: write(f"grandchild {who}"))
        write(who)
        assert exit_code(grandchild) == 0

    with SQLiteAdapter(path, timeout=PATIENCE) as store:
        children = [fork(partial(child, who)) for who in "abc"]
        write("parent")
        assert [exit_code(process) for process in children] == [0, 0, 0]
    writers = ["parent", *"abc", *(f"grandchild {who}" for who in "abc")]
    everybody = {f"{who} {i}" for who in writers for i in range(20)}
    assert users(path, *everybody) == everybody


@needs_fork
@pytest.mark.parametrize("kind", ["sqlite", "memory"])
@apart
def test_a_store_in_memory_is_copied_into_the_child(tmp_path: Path, kind: str) -> None:
    parent_wrote = Gate()

    def body() -> None:
        assert store.get_user("before") is not None
        store.create_user(id="child")
        parent_wrote.wait()
        assert store.get_user("child") is not None
        assert store.get_user("parent") is None
        assert store.check() == []

    with SQLiteAdapter(":memory:") if kind == "sqlite" else MemoryAdapter() as store:
        store.create_user(id="before")
        child = fork(body)
        store.create_user(id="parent")
        parent_wrote.open()
        assert exit_code(child) == 0
        assert store.get_user("before") is not None
        assert store.get_user("child") is None


@needs_fork
@pytest.mark.parametrize("kind", ["sqlite", "memory"])
@apart
def test_a_transaction_in_memory_is_copied_too(tmp_path: Path, kind: str) -> None:
    with SQLiteAdapter(":memory:") if kind == "sqlite" else MemoryAdapter() as store:
        try:
            with store.transaction():
                store.create_user(id="inside")
                child = os.fork()
                if child:
                    raise ZeroDivisionError  # the parent takes back what the child then commits
        except ZeroDivisionError:
            assert store.get_user("inside") is None
            assert exit_code(child) == 0
        else:
            assert store.get_user("inside") is not None
            assert store.create_user(id="child").id == "child"


REFUSED: dict[str, Callable[[SQLiteAdapter], object]] = {
    "get_user": lambda store: store.get_user("before"),
    "get_session_and_user": lambda store: store.get_session_and_user("session"),
    "list_sessions": lambda store: store.list_sessions("before"),
    "create_user": lambda store: store.create_user(id="child"),
    "delete_user": lambda store: store.delete_user("before"),
    "purge_expired": lambda store: store.purge_expired(),
    "snapshot": lambda store: store.snapshot(),
    "check": lambda store: store.check(),
}


def refuses_all(store: SQLiteAdapter) -> bool:
    """Whether each use of the store says that a transaction of the parent's stands in the way."""
    for use in REFUSED.values():
        with pytest.raises(StorageError, match="forked while a transaction was open"):
            use(store)
    return True


@needs_fork
@apart
def test_a_child_forked_inside_a_transaction_is_refused_and_the_parent_commits(tmp_path: Path) -> None:
    path = tmp_path / "auth.db"
    with SQLiteAdapter(path) as store:
        store.create_user(id="before")
        with store.transaction():
            store.create_user(id="inside")
            assert exit_code(fork(lambda: refuses_all(store))) == 0
            store.create_user(id="inside, later")
        create_elsewhere(path, "stranger")
        store.create_user(id="after")
    everybody = {"before", "inside", "inside, later", "stranger", "after"}
    assert users(path, *everybody) == everybody


@needs_fork
@pytest.mark.parametrize("size", [1, 100_000], ids=["small", "larger than the cache"])
@apart
def test_a_child_that_leaves_its_parents_transaction_harms_it_in_no_way(tmp_path: Path, size: int) -> None:
    # A large transaction lies in the -wal file before it is committed, and its index in memory that both
    # processes share: even closing the inherited connection, at the child's very end, would erase that.
    path, parent = tmp_path / "auth.db", os.getpid()
    everybody = {f"user-{i}" for i in range(50)}
    store = SQLiteAdapter(path)
    try:
        with store.transaction():
            for name in everybody:
                store.create_user(id=name, name="a" * size)
            child = os.fork()
            if child:
                assert exit_code(child) == 0  # it has gone through all of its clean-up by now
                assert {name for name in everybody if store.get_user(name)} == everybody
    except StorageError:
        if os.getpid() == parent:
            raise
    else:
        assert os.getpid() == parent
        assert users(path, *everybody) == everybody
    store.close()


@needs_fork
@apart
def test_no_write_is_lost_in_a_new_store_of_a_child_forked_inside_a_transaction(tmp_path: Path) -> None:
    path = tmp_path / "auth.db"
    store = SQLiteAdapter(path)
    child_opened, parent_closed = Gate(), Gate()

    def body() -> None:
        try:
            with SQLiteAdapter(path, timeout=0.1) as new:
                child_opened.open()
                parent_closed.wait()
                new.create_user(id="child")
        except StorageError:  # refusing is as good
            child_opened.open()
        else:
            assert users(path, "child") == {"child"}

    with store.transaction():
        store.create_user(id="inside")
        child = fork(body)
    child_opened.wait()
    store.close()
    create_elsewhere(path, "stranger")
    parent_closed.open()
    code = exit_code(child)
    expected = {"inside", "stranger"}
    assert users(path, *expected) == expected
    assert code == 0


@needs_fork
@apart
def test_a_fork_waits_for_the_write_of_another_thread(tmp_path: Path) -> None:
    path = tmp_path / "auth.db"
    inside, forking = threading.Event(), threading.Event()
    everybody = {str(i) for i in range(50)}

    def write() -> None:
        with store.transaction():
            inside.set()
            forking.wait(PATIENCE)
            for name in sorted(everybody):
                store.create_user(id=name)

    def body() -> None:
        assert all(store.get_user(name) is not None for name in everybody)
        store.create_user(id="child")

    with SQLiteAdapter(path) as store, ThreadPoolExecutor(1) as pool:
        written = pool.submit(write)
        inside.wait(PATIENCE)
        forking.set()
        assert exit_code(fork(body)) == 0
        written.result(PATIENCE)
    assert users(path, "child", *everybody) == {"child", *everybody}


STORES: dict[str, Callable[[Path], Any]] = {
    "file": lambda folder: SQLiteAdapter(folder / "auth.db", durability="normal"),
    "sqlite": lambda folder: SQLiteAdapter(":memory:"),
    "memory": lambda folder: MemoryAdapter(),
}


def fork_beside_a_transaction(store: Any, body: Callable[[], object]) -> None:
    """Run ``body`` in a child while another thread stays in a transaction for longer than a fork waits."""
    forks.PATIENCE = 0.1
    inside, forked = threading.Event(), threading.Event()

    def write() -> None:
        with store.transaction():
            store.create_user(id="inside")
            inside.set()
            forked.wait(PATIENCE)

    with ThreadPoolExecutor(1) as pool:
        store.create_user(id="before")
        written = pool.submit(write)
        inside.wait(PATIENCE)
        child = fork(body)
        forked.set()
        written.result(PATIENCE)
        assert exit_code(child) == 0


@needs_fork
@pytest.mark.parametrize("kind", STORES)
@apart
def test_a_fork_does_not_wait_for_ever_and_the_child_does_not_hang(tmp_path: Path, kind: str) -> None:
    with STORES[kind](tmp_path) as store:
        fork_beside_a_transaction(store, lambda: refuses_all(store))
        assert store.get_user("inside") is not None


@needs_fork
@pytest.mark.parametrize("kind", STORES)
@apart
def test_the_child_of_a_child_that_is_refused_is_refused_too(tmp_path: Path, kind: str) -> None:
    def body() -> None:
        assert exit_code(fork(lambda: refuses_all(store))) == 0

    with STORES[kind](tmp_path) as store:
        fork_beside_a_transaction(store, body)
        assert store.get_user("inside") is not None


AT_FORK = """
import os, sys

late = []
os.register_at_fork(before=lambda: late.append(SQLiteAdapter(sys.argv[2])))  # after the package's own hook

from support import exit_code, fork
from tinyauthstore import SQLiteAdapter, StorageError

def body():
    store.create_user(id="child")
    try:
        late[0].create_user(id="child")
    except StorageError:  # its connection is the parent's
        os.write(1, b"refused")

store = SQLiteAdapter(sys.argv[1])
assert exit_code(fork(body)) == 0
store.create_user(id="parent")
late[0].create_user(id="parent")
late[0].close()
store.close()
"""


@needs_fork
def test_a_store_that_opens_while_the_process_forks_harms_no_other(tmp_path: Path) -> None:
    assert run_python(AT_FORK, tmp_path / "auth.db", tmp_path / "late.db") == "refused"
    assert users(tmp_path / "auth.db", "child", "parent") == {"child", "parent"}
    assert users(tmp_path / "late.db", "child", "parent") == {"parent"}


_inherited: SQLiteAdapter


def _work(number: int) -> bool:
    """What a worker of the pool below does with the store that it has from its parent."""
    _inherited.create_user(id=str(number))
    return _inherited.get_user("before") is not None and _inherited.get_user(str(number)) is not None


@needs_fork
@apart
def test_a_pool_of_forked_processes_uses_its_parents_store(tmp_path: Path) -> None:
    global _inherited
    path = tmp_path / "auth.db"
    with SQLiteAdapter(path, timeout=PATIENCE) as _inherited:
        _inherited.create_user(id="before")
        with multiprocessing.get_context("fork").Pool(4) as pool:
            assert pool.map(_work, range(100), chunksize=1) == [True] * 100
            pool.close()
            pool.join()
        _inherited.create_user(id="after")
    everybody = {"before", "after", *map(str, range(100))}
    assert users(path, *everybody) == everybody


# --- threads ----------------------------------------------------------------------------------


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    with STORES[request.param](tmp_path) as store:
        yield store


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def mistaken_identities(store: Any, me: int, crowd: int) -> list[tuple[str, str]]:
    """Who was asked for and who came instead, while this thread looks up everybody and changes itself."""
    wrong = []
    for i in range(150):
        other = (me + i) % crowd
        found = store.get_session_and_user(f"session {other}")
        users = [found.user, store.get_user(f"{other}"), store.get_user_by_email(f"user{other}@example.com")]
        users.append(
            store.update_user(f"{me}", name=f"name {me}") if i % 10 == 0 else store.get_user(f"{me}")
        )
        for number, user in zip([other, other, other, me], users):
            if (user.id, user.email, user.name) != (
                f"{number}",
                f"user{number}@example.com",
                f"name {number}",
            ):
                wrong.append((f"{number}", repr(user)))
        if found.session.user_id != f"{other}":
            wrong.append((f"{other}", repr(found.session)))
    return wrong


def test_eight_threads_on_one_store_never_see_another_users_row(store: Any, eager_switching: None) -> None:
    for i in range(8):
        store.create_user(id=f"{i}", email=f"user{i}@example.com", name=f"name {i}")
        store.create_session(user_id=f"{i}", session_token=f"session {i}")
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda me: mistaken_identities(store, me, 8), range(8)))
    assert results == [[]] * 8


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
def test_two_stores_in_memory_know_nothing_of_each_other(tmp_path: Path, kind: str) -> None:
    with STORES[kind](tmp_path) as one, STORES[kind](tmp_path) as other:
        ada = one.create_user(email="ada@example.com")
        assert other.get_user(ada.id) is None
        assert other.create_user(email="ada@example.com").id != ada.id
        assert other.delete_user(ada.id) is None
        assert one.get_user(ada.id) == ada


@contextmanager
def asked_in_a_transaction(store: Any, question: Callable[[], Any]) -> Iterator[Future[Any]]:
    """A transaction in this thread, in which Ada is called Lovelace, and a question from another one."""
    with ThreadPoolExecutor(1) as pool, store.transaction():
        store.update_user("ada", name="Lovelace")
        yield pool.submit(question)


LOOK_UPS: dict[str, Callable[[Any], Any]] = {
    "get_user": lambda store: store.get_user("ada").name,
    "get_user_by_email": lambda store: store.get_user_by_email("ada@example.com").name,
    "get_user_by_account": lambda store: (
        store.get_user_by_account(provider="github", provider_account_id="1").name
    ),
    "get_session_and_user": lambda store: store.get_session_and_user("session").user.name,
}


def add_ada(store: Any) -> None:
    store.create_user(id="ada", email="ada@example.com", name="Ada")
    store.create_session(user_id="ada", session_token="session")
    store.link_account(user_id="ada", type="oauth", provider="github", provider_account_id="1")


@pytest.mark.parametrize("look_up", LOOK_UPS)
def test_a_look_up_in_a_file_neither_waits_for_another_threads_transaction_nor_sees_into_it(
    tmp_path: Path, look_up: str
) -> None:
    with STORES["file"](tmp_path) as store:
        add_ada(store)
        with asked_in_a_transaction(store, lambda: LOOK_UPS[look_up](store)) as answer:
            assert answer.result(5) == "Ada"
        assert LOOK_UPS[look_up](store) == "Lovelace"


def test_a_write_in_another_thread_waits_for_the_transaction(store: Any) -> None:
    add_ada(store)
    with asked_in_a_transaction(store, lambda: store.update_user("ada", image="portrait.png")) as answer:
        assert not wait([answer], timeout=0.05).done
    assert (answer.result().name, answer.result().image) == ("Lovelace", "portrait.png")


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
@pytest.mark.parametrize("look_up", LOOK_UPS)
def test_a_look_up_in_memory_waits_and_never_sees_what_is_rolled_back(
    tmp_path: Path, kind: str, look_up: str
) -> None:
    with STORES[kind](tmp_path) as store:
        add_ada(store)
        with pytest.raises(ZeroDivisionError):
            with asked_in_a_transaction(store, lambda: LOOK_UPS[look_up](store)) as answer:
                assert not wait([answer], timeout=0.02).done
                raise ZeroDivisionError
        assert answer.result() == "Ada"
