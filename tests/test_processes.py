"""Races and crashes between real processes: what must hold when several of them share one file."""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
import select
import shutil
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import support
from support import Crew, furnish, link, register

from tinyauthstore import BusyError, ConflictError, SQLiteAdapter, User
from tinyauthstore.testing import looked_up

CREW = 8
ROUNDS = 20
Steps = Generator[None, None, Any]

each_durability = pytest.mark.parametrize("durability", ["full", "normal"])
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")


@dataclass(frozen=True, slots=True)
class Member(User):
    plan: str = "free"


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    """16 processes, shared by the module; each test races them over a file of its own."""
    crew = Crew(16)
    yield crew
    crew.close()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "auth.db")


@pytest.fixture
def store(path: str) -> Iterator[SQLiteAdapter]:
    with SQLiteAdapter(path) as store:
        yield store


# --- one winner -------------------------------------------------------------------------------


def attempts(call: Callable[[int], Any]) -> list[Any]:
    """What ``call`` answered, or raised, in each round."""
    answers = []
    for i in range(ROUNDS):
        try:
            answers.append(call(i))
        except Exception as error:
            answers.append(error)
    return answers


def rounds(race: list[Any]) -> list[list[Any]]:
    """The answers of a race by round; AssertionError if a process never got that far."""
    assert [answers for answers in race if isinstance(answers, Exception)] == []
    return [list(answers) for answers in zip(*race)]


def redeem(number: int, path: str) -> Steps:
    with SQLiteAdapter(path) as store:
        yield
        return attempts(
            lambda i: store.use_verification_token(identifier="ada@example.com", token=f"token {i}")
        )


def test_one_verification_token_has_one_winner(crew: Crew, store: SQLiteAdapter, path: str) -> None:
    made = [
        store.create_verification_token(identifier="ada@example.com", token=f"token {i}")
        for i in range(ROUNDS)
    ]
    for token, answers in zip(made, rounds(crew.race(CREW, redeem, path))):
        assert Counter(answers) == {token: 1, None: CREW - 1}


def guess(number: int, path: str) -> Steps:
    with SQLiteAdapter(path) as store:
        yield
        return attempts(lambda i: store.use_verification_token(identifier="ada@example.com", token=f"{number} {i}"))


@pytest.mark.parametrize("left", [1, 0])
def test_every_wrong_guess_at_a_code_counts_in_whatever_process(
    crew: Crew, store: SQLiteAdapter, path: str, left: int
) -> None:
    code = store.create_verification_token(
        identifier="ada@example.com", token="code", attempts=CREW * ROUNDS + left
    )
    assert rounds(crew.race(CREW, guess, path)) == [[None] * CREW] * ROUNDS
    used = store.use_verification_token(identifier="ada@example.com", token="code")
    assert used == (dataclasses.replace(code, attempts=1) if left else None)


def send_code(number: int, path: str) -> Steps:
    with SQLiteAdapter(path) as store:
        yield
        codes = {"identifier": "ada@example.com", "attempts": 5}
        return attempts(lambda i: store.create_verification_token(token=f"{number} {i}", **codes))


def test_of_codes_sent_at_once_one_is_good(crew: Crew, store: SQLiteAdapter, path: str) -> None:
    sent = [code for answers in rounds(crew.race(CREW, send_code, path)) for code in answers]
    assert len(sent) == CREW * ROUNDS
    assert store.delete_verification_tokens("ada@example.com") == 1


def sign_up(number: int, path: str) -> Steps:
    with SQLiteAdapter(path) as store:
        yield
        spelling = [str.upper, str.lower, str.title][number % 3]
        return attempts(lambda i: store.create_user(email=spelling(f"ada{i}@example.com")))


def test_one_email_address_becomes_one_user(crew: Crew, store: SQLiteAdapter, path: str) -> None:
    for i, answers in enumerate(rounds(crew.race(CREW, sign_up, path))):
        (winner,) = [answer for answer in answers if isinstance(answer, User)]
        losers = [answer for answer in answers if answer is not winner]
        assert [(type(error), error.model, error.field) for error in losers] == (
            [(ConflictError, "User", "email")] * (CREW - 1)
        )
        assert store.get_user_by_email(f"ada{i}@example.com") == winner
    assert store.check() == []


def claim(number: int, path: str) -> Steps:
    with SQLiteAdapter(path) as store:
        user = store.create_user(id=f"user {number}")
        yield
        return attempts(lambda i: link(store, user.id, f"account {i}").user_id)


def test_one_provider_account_has_one_owner(crew: Crew, store: SQLiteAdapter, path: str) -> None:
    for i, answers in enumerate(rounds(crew.race(CREW, claim, path))):
        (owner,) = [answer for answer in answers if isinstance(answer, str)]
        losers = [answer for answer in answers if answer is not owner]
        assert [(type(error), error.model, error.field) for error in losers] == (
            [(ConflictError, "Account", "provider_account_id")] * (CREW - 1)
        )
        found = store.get_user_by_account(provider="github", provider_account_id=f"account {i}")
        assert found is not None and found.id == owner
    assert store.check() == []


def rotate(number: int, path: str) -> Steps:
    with SQLiteAdapter(path) as store:
        yield
        return attempts(lambda i: store.rotate_session(f"session {i}"))


def test_one_session_is_rotated_once(crew: Crew, store: SQLiteAdapter, path: str) -> None:
    ada = store.create_user()
    for i in range(ROUNDS):
        store.create_session(user_id=ada.id, session_token=f"session {i}")
    successors = set()
    for answers in rounds(crew.race(CREW, rotate, path)):
        (winner,) = [answer for answer in answers if answer is not None]
        successors.add(winner.id)
    assert {session.id for session in store.list_sessions(ada.id)} == successors
    assert len(successors) == ROUNDS


def grow(number: int, path: str) -> Steps:
    with SQLiteAdapter(path) as store:
        yield
        return attempts(lambda i: store.update_authenticator_counter("passkey", i + 1).counter)


def test_one_signature_counter_is_accepted_once(crew: Crew, store: SQLiteAdapter, path: str) -> None:
    register(store, store.create_user().id, "passkey", counter=0)
    answers = [answer for answers in rounds(crew.race(CREW, grow, path)) for answer in answers]
    accepted = [answer for answer in answers if isinstance(answer, int)]
    assert sorted(accepted) == sorted(set(accepted))
    assert max(accepted) == ROUNDS


def sign_out_or_use(number: int, path: str) -> Steps:
    with SQLiteAdapter(path, session_update_age=0) as store:
        use = [store.delete_session, store.touch_session, store.rotate_session][number % 3]
        yield
        return attempts(lambda i: use(f"session {i}"))


def test_no_use_of_a_session_resurrects_it_after_its_end(crew: Crew, store: SQLiteAdapter, path: str) -> None:
    ada = store.create_user()
    for i in range(ROUNDS):
        store.create_session(user_id=ada.id, session_token=f"session {i}")
    rounds(crew.race(CREW, sign_out_or_use, path))
    assert [i for i in range(ROUNDS) if store.get_session_and_user(f"session {i}") is not None] == []


# --- a crowd ----------------------------------------------------------------------------------


def write_200(number: int, path: str, durability: Any) -> Steps:
    with SQLiteAdapter(path, durability=durability) as store:
        yield
        for i in range(50):
            user = store.create_user(email=f"user{number}.{i}@example.com")
            link(store, user.id, f"account {number}.{i}")
            session = store.create_session(user_id=user.id)
            store.update_session(session.session_token, expires=session.created_at)
        return 200


@each_durability
def test_nobody_is_told_that_the_database_is_locked(
    crew: Crew, store: SQLiteAdapter, path: str, durability: str
) -> None:
    assert crew.race(CREW, write_200, path, durability) == [200] * CREW
    for number in range(CREW):
        for i in range(50):
            user = store.get_user_by_email(f"user{number}.{i}@example.com")
            assert user is not None
            assert [a.provider_account_id for a in store.list_accounts(user.id)] == [f"account {number}.{i}"]
    assert store.purge_expired().sessions <= CREW * 50
    assert store.check() == []


def create_file(number: int, path: str) -> Steps:
    yield
    with SQLiteAdapter(path, user=Member) as store:
        return store.create_user(email=f"user{number}@example.com").plan


def test_sixteen_processes_may_create_the_same_new_file(crew: Crew, tmp_path: Path) -> None:
    for i in range(5):
        path = str(tmp_path / f"auth{i}.db")
        assert crew.race(16, create_file, path) == ["free"] * 16
        with SQLiteAdapter(path, user=Member, synchronize=False) as store:
            assert all(store.get_user_by_email(f"user{number}@example.com") for number in range(16))
            assert store.check() == []


def test_sixteen_processes_may_extend_the_same_file_by_a_field(crew: Crew, tmp_path: Path) -> None:
    for i in range(5):
        path = str(tmp_path / f"auth{i}.db")
        with SQLiteAdapter(path) as store:
            ada = store.create_user(email="ada@example.com")
        assert crew.race(16, create_file, path) == ["free"] * 16
        with SQLiteAdapter(path, user=Member, synchronize=False) as extended:
            found = extended.get_user(ada.id)
            assert found is not None and (found.email, found.plan) == ("ada@example.com", "free")


# --- what one does, the others see ------------------------------------------------------------

ENDINGS: dict[str, Callable[[SQLiteAdapter, Any], object]] = {
    "deleted": lambda store, session: store.delete_session(session.session_token),
    "revoked": lambda store, session: store.revoke_session(session.user_id, session.id),
    "all revoked": lambda store, session: store.revoke_sessions(session.user_id),
    "rotated": lambda store, session: store.rotate_session(session.session_token),
    "expired": lambda store, session: store.update_session(session.session_token, expires=session.created_at),
    "without its user": lambda store, session: store.delete_user(session.user_id),
}


def end(number: int, path: str, session: Any, ending: str) -> Steps:
    with SQLiteAdapter(path) as store:
        yield
        return ENDINGS[ending](store, session) not in (None, False, 0)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_session_ended_in_one_process_is_dead_at_the_next_look_up_in_another(
    crew: Crew, store: SQLiteAdapter, path: str, ending: str
) -> None:
    session = store.create_session(user_id=store.create_user().id)
    for _ in range(3):
        assert store.get_session_and_user(session.session_token) is not None
    assert crew.race(1, end, path, session, ending) == [True]
    assert store.get_session_and_user(session.session_token) is None


def rename(number: int, path: str, user_id: str) -> Steps:
    with SQLiteAdapter(path) as store:
        yield
        return store.update_user(user_id, name="Ada Lovelace")


def test_a_user_changed_in_one_process_is_seen_changed_in_another(
    crew: Crew, store: SQLiteAdapter, path: str
) -> None:
    session = looked_up(store, store.create_session(user_id=store.create_user(name="Ada").id))
    (renamed,) = crew.race(1, rename, path, session.user_id)
    found = store.get_session_and_user(session.session_token)
    assert found is not None and found.user == renamed


# --- somebody else's write --------------------------------------------------------------------

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN " + sys.argv[2])
connection.execute("UPDATE users SET name = 'not yet'")
print("held", flush=True)
sys.stdin.readline()
connection.execute("ROLLBACK")
connection.close()
"""


@contextmanager
def held(path: str, kind: str = "IMMEDIATE") -> Iterator[None]:
    """While another process, which is none of ours, sits in a write transaction."""
    with support.start_python(HOLD, path, kind) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            yield
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.wait(support.PATIENCE) == 0
        finally:
            process.kill()


@pytest.mark.parametrize("kind", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_reader_is_not_blocked_by_another_process_that_writes(path: str, kind: str) -> None:
    with SQLiteAdapter(path, timeout=0) as store:
        ada = store.create_user(name="Ada")
        session = store.create_session(user_id=ada.id)
        with held(path, kind):
            found = store.get_session_and_user(session.session_token)
            assert found is not None and found.user == ada
            assert store.list_sessions(ada.id) != []


def test_a_store_opens_while_another_process_writes(path: str) -> None:
    with SQLiteAdapter(path) as store:
        ada = store.create_user(name="Ada")
    with held(path), SQLiteAdapter(path, timeout=0) as store:
        assert store.get_user(ada.id) == ada


def test_a_writer_gives_up_after_timeout_and_says_so(path: str) -> None:
    with SQLiteAdapter(path, timeout=0.3) as store:
        ada = store.create_user(name="Ada")
        with held(path):
            start = time.monotonic()
            with pytest.raises(BusyError, match=r"0\.3 seconds.*timeout=") as caught:
                store.update_user(ada.id, name="Ada Lovelace")
            assert 0.3 <= time.monotonic() - start < 3
            assert caught.value.path == path
            assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
            assert store.get_user(ada.id) == ada
        assert store.update_user(ada.id, name="Ada Lovelace").name == "Ada Lovelace"


# --- a sudden end -----------------------------------------------------------------------------

SIGN_UP_UNTIL_KILLED = """
import os, sys
from tinyauthstore import SQLiteAdapter

path, durability, run = sys.argv[1:]
store = SQLiteAdapter(path, durability=durability)
for i in range(10**9):
    name = f"{run}.{i}"
    with store.transaction():
        user = store.create_user(id=name, email=f"{name}@example.com")
        with store.transaction():
            store.link_account(user_id=name, type="oauth", provider="github", provider_account_id=name)
            store.create_session(user_id=name, session_token=name)
        store.create_verification_token(identifier=user.email, token=name)
    os.write(1, f"{name}\\n".encode())
    if i % 3 == 2:
        store.delete_user(name)
        os.write(1, f"gone {name}\\n".encode())
"""


def until_killed(path: str, durability: str, run: int, moment: float) -> list[str]:
    """What a process had acknowledged when it was killed, ``moment`` seconds after its first word."""
    with support.start_python(SIGN_UP_UNTIL_KILLED, path, durability, str(run)) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            first = process.stdout.readline()
            select.select(
                [process.stderr], [], [], moment
            )  # nothing will come: a pause that ends early on errors
        finally:
            process.kill()
        acknowledged, complaints = process.stdout.read(), process.stderr.read()
    assert (process.returncode, complaints) == (-signal.SIGKILL, "")
    return (first + acknowledged).splitlines()


def kill_writers(path: str, durability: Any, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    expected: set[str] = set()
    for run in range(kills):
        lines = until_killed(path, durability, run, rng.uniform(0, 0.05))
        gone = {line.removeprefix("gone ") for line in lines if line.startswith("gone ")}
        expected |= {line for line in lines if not line.startswith("gone ")} - gone
        with SQLiteAdapter(path, durability=durability) as store:
            assert store.check() == []
            present = whole_users(store, path)
            unknown = expected ^ present  # the last act, if it was done and not yet acknowledged
            assert len(unknown) <= 1 and all(name.startswith(f"{run}.") for name in unknown), (
                seed,
                run,
                unknown,
            )
            expected = present


def whole_users(store: SQLiteAdapter, path: str) -> set[str]:
    """The ids of all users; AssertionError if one of them, or what is somebody's, is there by half."""
    connection = sqlite3.connect(path)
    users, *others = (
        {name for (name,) in connection.execute(query)}
        for query in (
            "SELECT id FROM users",
            "SELECT user_id FROM accounts",
            "SELECT user_id FROM sessions",
            "SELECT replace(identifier, '@example.com', '') FROM verification_tokens",
        )
    )
    connection.close()
    assert others == [users] * 3
    assert all(store.get_session_and_user(name) is not None for name in users)
    return users


@each_durability
def test_what_a_killed_writer_had_acknowledged_is_there_and_nothing_by_half(
    path: str, durability: str
) -> None:
    kill_writers(path, durability, kills=15, seed=1)


@pytest.mark.soak
@each_durability
def test_two_hundred_killed_writers_lose_nothing(tmp_path: Path, durability: str) -> None:
    for batch in range(10):
        kill_writers(str(tmp_path / f"{batch}.db"), durability, kills=20, seed=batch)


INSIDE = """
import sys
from tinyauthstore import SQLiteAdapter

with SQLiteAdapter(sys.argv[1]) as store, store.transaction():
    store.create_user(id="ada", email="ada@example.com")
    store.create_session(user_id="ada", session_token="session")
    store.delete_user("grace")
    print("inside", flush=True)
    sys.stdin.readline()
"""


def test_of_a_transaction_whose_process_was_killed_nothing_is_there(store: SQLiteAdapter, path: str) -> None:
    grace = store.create_user(id="grace", email="grace@example.com")
    with support.start_python(INSIDE, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "inside\n"
        process.kill()
    assert store.get_user("ada") is None
    assert store.get_user_by_email("ada@example.com") is None
    assert store.get_session_and_user("session") is None
    assert store.get_user("grace") == grace
    assert store.create_user(id="ada", email="ada@example.com").id == "ada"  # its lock died with it
    assert store.check() == []


# --- a sudden end before each single statement ------------------------------------------------


class Mortal(sqlite3.Connection):
    """A connection whose process is killed before a chosen statement."""

    left = 0

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        Mortal.left -= 1
        if Mortal.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().execute(*arguments)


def deaths(path: str, act: Callable[[SQLiteAdapter], object]) -> Iterator[int]:
    """Open ``path`` and ``act`` in children, of which the n-th is killed before its n-th statement.

    Yields n after each death, and ends with the first child that lives long enough.
    """

    def body() -> None:
        Mortal.left = statement
        with support.every_connection(Mortal), SQLiteAdapter(path) as store:
            act(store)

    for statement in itertools.count():
        code = support.exit_code(support.fork(body))
        if code == 0:
            return
        assert code == -signal.SIGKILL
        yield statement


def wipe(store: SQLiteAdapter) -> None:
    with SQLiteAdapter(":memory:") as empty:
        store.restore(empty.snapshot())


ACTS: dict[str, Callable[[SQLiteAdapter], object]] = {
    "create_user": lambda store: store.create_user(id="grace", email="grace@example.com"),
    "update_user": lambda store: store.update_user("ada", email="lovelace@example.com", name="Ada"),
    "delete_user": lambda store: store.delete_user("ada"),
    "link_account": lambda store: link(store, "ada", "1", id_token="id"),
    "rotate_session": lambda store: store.rotate_session("session"),
    "revoke_sessions": lambda store: store.revoke_sessions("ada"),
    "delete_verification_tokens": lambda store: store.delete_verification_tokens("ada@example.com"),
    "restore": wipe,
}


def contents(path: str) -> dict[str, list[Any]]:
    """Every row of every table, without the tokens' digests and the sessions' ids made of them."""
    connection = sqlite3.connect(path)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    rows = {table: sorted(connection.execute(f"SELECT * FROM {table}"), key=repr) for table in tables}
    connection.close()
    return rows


@needs_fork
@support.apart
def test_a_write_killed_before_any_of_its_statements_is_all_there_or_not_at_all(tmp_path: Path) -> None:
    original, path = str(tmp_path / "original.db"), str(tmp_path / "auth.db")
    with SQLiteAdapter(original) as store:
        furnish(store)
        store.create_session(user_id="ada")
        store.create_verification_token(identifier="ada@example.com")
    before = contents(original)
    for name, act in ACTS.items():
        shutil.copy(original, path)
        died = 0
        for died in deaths(path, act):
            with SQLiteAdapter(path) as store:
                assert store.check() == [], (name, died)
            assert contents(path) == before, (name, died)
        assert died > 5, name
        assert contents(path) != before, name
        os.remove(path)


@needs_fork
@support.apart
def test_a_new_file_whose_creator_was_killed_before_any_statement_opens(tmp_path: Path) -> None:
    path, died = str(tmp_path / "auth.db"), 0
    for died in deaths(path, lambda store: None):
        with SQLiteAdapter(path) as store:
            furnish(store)
            assert store.check() == [], died
        os.remove(path)
    assert died > 20
