"""What look-ups keep in memory is never older than what somebody was told is done.

The referee: each session goes through a fixed sequence of states, numbered from 0, so that the number alone
tells what a look-up must answer. A writer publishes the number on a board that all processes share AFTER the
store's call returned; a reader takes it BEFORE it looks up, and again afterwards. The answer must be that of
some state in between (or of the next one, which its writer has not published yet). An older one is stale.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import random
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, MutableSequence, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import pytest

from support import PATIENCE, Crew, apart, every_statement, exit_code, fork, run_python
from tinyauthstore import (
    ClosedError, MemoryAdapter, Session, SessionAndUser, SQLiteAdapter, StorageError, User, kept, paths,
    transactions,
)
from tinyauthstore.testing import FAR, START, FrozenClock, link, race, undone

Look = SessionAndUser[Any, Any] | None
Store = Any

needs_header = pytest.mark.skipif(sys.platform != "linux", reason="only Linux promises what reading it relies on")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")


@dataclass(frozen=True, slots=True)
class Device(Session):
    step: int = 0


# --- the referee ------------------------------------------------------------------------------

LIFE = 8
"""States that a session goes through before it is created again, under the same token."""

FIRST, SECOND = "first", "second"
"""The tokens of a session: before its rotation and after it."""

Answer = tuple[int, float, str] | None
"""The session's ``step``, its expiry in seconds before FAR, and its user's name."""


def truth(state: int, which: str) -> Answer:
    """What a look-up of that token of a session must answer in that state."""
    life, at = divmod(state, LIFE)
    if which != (FIRST if at < 4 else SECOND if at < 6 else None):
        return None

    def last(change: int) -> int:
        """The last state that a change of the kind which leads to state ``change`` has led to."""
        return (life if at >= change else life - 1) * LIFE + change

    step = max(life * LIFE, *(last(change) for change in (1, 5)))
    return step, float(max(life * LIFE, last(2))), str(last(3))


def told(found: Look) -> Answer:
    """A look-up's answer in the terms of ``truth``."""
    if found is None:
        return None
    session, user = found
    return session.step, (FAR - session.expires).total_seconds(), user.name


def names(number: int) -> tuple[str, dict[str, str]]:
    """The user of the session with that number, who has no other, and its tokens."""
    return f"user {number}", {which: f"{which} token {number}" for which in (FIRST, SECOND)}


def advance(store: Store, number: int, state: int) -> list[str]:
    """Lead the session with that number into ``state`` by one acknowledged change; stale answers met then."""
    owner, token = names(number)
    life, at = divmod(state, LIFE)
    expires = FAR - timedelta(seconds=state)
    if at == 0:
        store.create_session(user_id=owner, session_token=token[FIRST], step=state, expires=expires)
    elif at == 1:
        store.update_session(token[FIRST], step=state)
    elif at == 2:
        store.update_session(token[FIRST], expires=expires)
    elif at == 3:
        store.update_user(owner, name=str(state))
    elif at == 4:
        store.new_token.next = token[SECOND]
        store.rotate_session(token[FIRST])
    elif at == 5:
        seen = [undone(store, lambda: misled(store, owner, token[SECOND]))]
        with store.transaction():
            seen.append(undone(store, lambda: misled(store, owner, token[SECOND])))
            store.update_session(token[SECOND], step=state)
        return [f"{answer} inside a transaction" for answer in seen if answer != (-1, "nobody")]
    elif at == 6:
        [session] = store.list_sessions(owner)
        [
            lambda: store.delete_session(token[SECOND]),
            lambda: store.revoke_session(owner, session.id),
            lambda: store.revoke_sessions(owner),
            lambda: store.update_session(token[SECOND], expires=START),
            lambda: store.delete_user(owner),
        ][life % 5]()
    else:
        store.purge_expired()
        if store.get_user(owner) is None:
            store.create_user(id=owner, name=str(state - 4))
    return []


def misled(store: Store, owner: str, token: str) -> Any:
    """Changes that must not last, and what a look-up answers while they do."""
    store.update_session(token, step=-1)
    store.update_user(owner, name="nobody")
    found = store.get_session_and_user(token)
    return found and (found.session.step, found.user.name)


class NextToken(threading.local):
    """A ``new_token`` that each thread sets before it asks for one."""

    next = ""

    def __call__(self) -> str:
        return self.next


class Settings(NamedTuple):
    """A game's size: how many sessions there are, threads in a process, and look-ups of each thread."""

    sessions: int = 8
    threads: int = 6
    look_ups: int = 1500
    pause: int = 40  # look-ups between two changes by the same thread


class Score(NamedTuple):
    """Of one thread, or of many: look-ups, those that found a session, those answered with the very object
    that the last one got (so it was kept), changes made, and the stale answers."""

    look_ups: int = 0
    found: int = 0
    kept: int = 0
    changes: int = 0
    stale: tuple[str, ...] = ()

    @classmethod
    def total(cls, scores: Sequence[Any]) -> Score:
        """The sum; whatever a thread or a process raised is raised again."""
        for error in scores:
            if isinstance(error, Exception):
                raise error
        return cls(*(sum(column, type(column[0])()) for column in zip(*scores)))


def open_referred(open_store: Callable[..., Any], **options: Any) -> Store:
    """A store on which ``play`` can be played."""
    new_token = NextToken()
    store = open_store(session=Device, new_token=new_token, **options)
    store.new_token = new_token
    return store


def set_up(store: Store, settings: Settings) -> None:
    """All sessions in state 0."""
    for number in range(settings.sessions):
        store.create_user(id=names(number)[0], name=str(3 - LIFE))
        advance(store, number, 0)


def play(
    store: Store, board: MutableSequence[int], settings: Settings, owned: Sequence[int], seed: int
) -> Score:
    """Look up any session, now and then change one of those ``owned`` by this thread."""
    dice = random.Random(seed)
    last: dict[str, Look] = {}
    found = kept = changes = 0
    stale: list[str] = []
    for turn in range(settings.look_ups):
        if owned and turn % settings.pause == 0:
            mine = dice.choice(owned)
            stale += advance(store, mine, board[mine] + 1)
            board[mine] += 1  # only now is it acknowledged
            changes += 1
        number, which = dice.randrange(settings.sessions), dice.choice((FIRST, SECOND))
        token = names(number)[1][which]
        before = board[number]
        look = store.get_session_and_user(token)
        after = board[number] + 1
        if told(look) not in (truth(state, which) for state in range(before, after + 1)):
            stale.append(f"{token}: {told(look)} in the states {before} to {after}, {truth(before, which)}")
        found += look is not None
        kept += look is not None and look is last.get(token)
        last[token] = look
    return Score(settings.look_ups, found, kept, changes, tuple(stale))


def play_in_threads(
    store: Store, board: MutableSequence[int], settings: Settings, process: int = 0, processes: int = 1
) -> Score:
    """``play`` by many threads of this process, which own every ``processes``th session."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        mine = range(process, settings.sessions, processes)
        return Score.total(
            race(
                settings.threads,
                lambda i: play(store, board, settings, mine[i :: settings.threads], process * 1000 + i),
            )
        )
    finally:
        sys.setswitchinterval(interval)


@contextmanager
def shared_board(path: str) -> Iterator[MutableSequence[int]]:
    """The numbers in a file, 64 bits each, which all processes that map it share."""
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        with memoryview(memory) as raw, raw.cast("Q") as numbers:
            yield numbers  # type: ignore[misc]


SABOTAGE: dict[str, Callable[[pytest.MonkeyPatch], Any]] = {
    "none": lambda patch: None,
    "no validation": lambda patch: [
        patch.setattr(kept.Watch, name, lambda watch: True) for name in ("quiet", "unchanged")
    ],
    "no eviction": lambda patch: patch.setattr(kept.Kept, "evict", lambda kept, key: None),
    "no descriptor": lambda patch: patch.setattr(kept, "_descriptor_of", lambda path, open_files: (-1, None)),
}
"""What is taken out of the adapter before a game, by the names of tests."""

each_validation = pytest.mark.parametrize("sabotage", ["none", "no descriptor"], ids=["header", "pragma"])
"""The WAL index is at hand to look whether anybody has committed; or it is not, as on other systems than Linux."""


def member(
    process: int, processes: int, path: str, board: str, settings: Settings, sabotage: str
) -> Generator[None, None, Score]:
    """A process of ``compete``."""
    with ExitStack() as stack:
        SABOTAGE[sabotage](stack.enter_context(pytest.MonkeyPatch.context()))
        options: dict[str, Any] = {"durability": "normal", "timeout": PATIENCE}
        store = stack.enter_context(open_referred(lambda **more: SQLiteAdapter(path, **options, **more)))
        numbers = stack.enter_context(shared_board(board))
        yield
        return play_in_threads(store, numbers, settings, process, processes)


PROCESSES = 4


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    crew = Crew(PROCESSES)
    yield crew
    crew.close()


def compete(crew: Crew, folder: Path, settings: Settings, sabotage: str = "none") -> Score:
    """The score of ``PROCESSES`` processes with many threads each, over one file."""
    path, board = str(folder / "auth.db"), folder / "board"
    with open_referred(lambda **options: SQLiteAdapter(path, **options)) as store:
        set_up(store, settings)
    board.write_bytes(bytes(8 * settings.sessions))
    score = Score.total(crew.race(PROCESSES, member, PROCESSES, path, str(board), settings, sabotage))
    with SQLiteAdapter(path, session=Device) as store:
        assert store.check() == []
    return score


def assert_fair(score: Score, settings: Settings, processes: int = 1) -> None:
    """Nothing stale, in a game that gave every opportunity for it."""
    assert score.stale == ()
    assert score.look_ups == settings.look_ups * settings.threads * processes
    assert score.kept > score.look_ups // 100
    assert score.found > score.kept and score.changes > settings.sessions


# --- processes and threads --------------------------------------------------------------------


@each_validation
def test_no_process_ever_serves_what_any_other_was_told_is_changed(
    crew: Crew, tmp_path: Path, sabotage: str
) -> None:
    assert_fair(compete(crew, tmp_path, Settings(), sabotage), Settings(), PROCESSES)


@pytest.mark.soak
@each_validation
def test_hundreds_of_thousands_of_look_ups_beside_writers_give_no_stale_answer(
    crew: Crew, tmp_path: Path, sabotage: str
) -> None:
    settings = Settings(threads=8, look_ups=12_500)
    score = compete(crew, tmp_path, settings, sabotage)
    print(f"\n{score}")
    assert_fair(score, settings, PROCESSES)


@pytest.mark.parametrize("sabotage", ["no validation", "no eviction"])
def test_the_referee_sees_stale_answers_once_the_cache_is_broken(
    crew: Crew, tmp_path: Path, sabotage: str
) -> None:
    score = compete(crew, tmp_path, Settings(), sabotage)
    assert len(score.stale) > 10


def on_file(folder: Path, **options: Any) -> Store:
    return SQLiteAdapter(folder / "auth.db", durability="normal", **options)


def by_pragma(folder: Path, **options: Any) -> Store:
    """A store that cannot read the WAL index, and asks SQLite at each look-up."""
    store = on_file(folder, **options)
    store._watch.stop()
    return store


STORES: dict[str, Callable[..., Any]] = {
    "file": on_file,
    "pragma": by_pragma,
    "sqlite": lambda folder, **options: SQLiteAdapter(":memory:", **options),
    "memory": lambda folder, **options: MemoryAdapter(**options),
}
each_store = pytest.mark.parametrize("kind", STORES)


def compete_in_threads(kind: str, folder: Path, settings: Settings) -> Score:
    """The score of many threads on one store of that kind."""
    with open_referred(lambda **options: STORES[kind](folder, **options)) as store:
        set_up(store, settings)
        return play_in_threads(store, [0] * settings.sessions, settings)


@each_store
def test_no_thread_is_served_what_another_changed_through_the_same_store(kind: str, tmp_path: Path) -> None:
    assert_fair(compete_in_threads(kind, tmp_path, Settings()), Settings())


@each_store
def test_the_referee_sees_stale_answers_in_one_store_that_does_not_evict(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SABOTAGE["no eviction"](monkeypatch)
    assert len(compete_in_threads(kind, tmp_path, Settings()).stale) > 10


# --- what the tests below look at -------------------------------------------------------------

TOKENS = ("ada's laptop", "ada's phone", "grace's phone")
LAPTOP, PHONE, OTHERS = TOKENS


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "auth.db"


@contextmanager
def household(kind: str, folder: Path, **options: Any) -> Iterator[Store]:
    """A store with three sessions, none kept, each looked up once: the next look-up keeps it."""
    new_tokens = map("token {}".format, itertools.count())
    given = {"session": Device, "clock": FrozenClock(), "new_token": lambda: next(new_tokens)}
    with STORES[kind](folder, **given | options) as store:
        store.create_user(id="ada", email="ada@example.com", name="Ada")
        store.create_user(id="grace", email="grace@example.com", name="Grace")
        for token in TOKENS:
            store.create_session(user_id=token.partition("'")[0], session_token=token)
        looks(store)
        yield store


def looks(store: Store) -> dict[str, Any]:
    """The answer for each token. One that was kept is the same object as before."""
    return {token: store.get_session_and_user(token) for token in TOKENS}


def session_of(store: Store, token: str) -> Any:
    found = store.get_session_and_user(token)
    assert found is not None
    return found.session


def raw(path: Path, sql: str) -> list[Any]:
    """Have a stranger's connection write to the file, or read from it."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(sql).fetchall()


# --- what a write evicts ----------------------------------------------------------------------


def restored(store: Store) -> None:
    store.restore(store.snapshot())


Write = Callable[[Any], Any]
WRITES: dict[str, tuple[Write, tuple[str, ...]]] = {
    "touch_session": (lambda store: store.touch_session(LAPTOP), (LAPTOP,)),
    "update_session": (lambda store: store.update_session(LAPTOP, step=1), (LAPTOP,)),
    "rotate_session": (lambda store: store.rotate_session(LAPTOP), (LAPTOP,)),
    "delete_session": (lambda store: store.delete_session(LAPTOP), (LAPTOP,)),
    "revoke_session": (
        lambda store: store.revoke_session("ada", session_of(store, LAPTOP).id), (LAPTOP,)
    ),
    "revoke_sessions": (lambda store: store.revoke_sessions("ada"), (LAPTOP, PHONE)),
    "revoke_sessions but one": (lambda store: store.revoke_sessions("ada", keep=PHONE), (LAPTOP,)),
    "update_user": (lambda store: store.update_user("ada", name="Lovelace"), (LAPTOP, PHONE)),
    "delete_user": (lambda store: store.delete_user("ada"), (LAPTOP, PHONE)),
    "restore": (restored, TOKENS),
}
HARMLESS: dict[str, Write] = {
    "create_user": lambda store: store.create_user(id="eve"),
    "create_session": lambda store: store.create_session(user_id="ada", session_token="ada's tablet"),
    "link_account": lambda store: link(store, "ada"),
    "create_verification_token": lambda store: store.create_verification_token(identifier="ada@example.com"),
    "revocation of nothing": lambda store: store.revoke_session("grace", session_of(store, LAPTOP).id),
    "touch of a fresh session": lambda store: store.touch_session(OTHERS),
    "purge of nothing": lambda store: store.purge_expired(),
}
each_write = pytest.mark.parametrize("write", WRITES)


@contextmanager
def touchable(kind: str, folder: Path, **options: Any) -> Iterator[tuple[Store, dict[str, Look]]]:
    """A store whose every touch writes, and the answers that it now keeps."""
    clock = FrozenClock()
    with household(kind, folder, clock=clock, session_update_age=0, **options) as store:
        clock.tick(seconds=1)
        store.touch_session(OTHERS)
        yield store, looks(store)


@each_store
@each_write
def test_a_write_evicts_what_it_touches_and_nothing_else(kind: str, write: str, tmp_path: Path) -> None:
    call, touched = WRITES[write]
    with touchable(kind, tmp_path) as (store, before):
        call(store)
        after = looks(store)
    if (write, kind) == ("restore", "memory"):
        touched = ()  # nothing had changed since the snapshot, and that is all that is put back there
    assert {token for token in TOKENS if after[token] is not before[token]} == set(touched)


@each_store
@pytest.mark.parametrize("write", HARMLESS)
def test_a_write_elsewhere_evicts_nothing(kind: str, write: str, tmp_path: Path) -> None:
    with touchable(kind, tmp_path) as (store, before):
        HARMLESS[write](store)
        after = looks(store)
    assert [token for token in TOKENS if after[token] is not before[token]] == []


@dataclass(frozen=True, slots=True)
class Renumbered(Device):
    """A model that makes ids of its own."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", "an id of its own")


@each_store
@each_write
@pytest.mark.parametrize("model", [Device, Renumbered])
def test_after_a_write_the_answers_are_those_of_a_store_that_keeps_nothing(
    kind: str, write: str, model: type[Session], tmp_path: Path
) -> None:
    answers = []
    for size in (10, 0):
        folder = tmp_path / str(size)
        folder.mkdir()
        with touchable(kind, folder, cache_size=size, session=model) as (store, _):
            WRITES[write][0](store)
            answers.append(looks(store))
    assert answers[0] == answers[1]


@each_store
def test_a_rotated_session_is_served_under_its_new_token_only(kind: str, tmp_path: Path) -> None:
    with household(kind, tmp_path) as store:
        old = looks(store)[LAPTOP]
        new = store.rotate_session(LAPTOP)
        assert store.get_session_and_user(LAPTOP) is None
        assert store.get_session_and_user(new.session_token) == SessionAndUser(new, old.user)


@each_store
def test_a_session_created_under_the_token_of_an_expired_one_is_served(
    kind: str, tmp_path: Path, clock: FrozenClock
) -> None:
    with household(kind, tmp_path, clock=clock, session_max_age=60, purge_interval=None) as store:
        looks(store)
        clock.tick(seconds=60)
        made = store.create_session(user_id="grace", session_token=LAPTOP)
        assert session_of(store, LAPTOP) == made


@each_store
def test_a_purged_session_stays_gone_even_if_the_clock_is_put_back(
    kind: str, tmp_path: Path, clock: FrozenClock
) -> None:
    with household(kind, tmp_path, clock=clock, session_max_age=60) as store:
        looks(store)
        clock.tick(seconds=60)
        assert store.purge_expired().sessions == len(TOKENS)
        clock.tick(seconds=-60)
        assert looks(store) == dict.fromkeys(TOKENS)


@each_store
def test_a_session_rotated_to_the_token_of_a_purged_one_is_served(
    kind: str, tmp_path: Path, clock: FrozenClock
) -> None:
    with household(kind, tmp_path, clock=clock, session_max_age=60, new_token=lambda: LAPTOP) as store:
        store.update_session(OTHERS, expires=FAR)
        looks(store)
        clock.tick(seconds=60)
        store.purge_expired()
        rotated = store.rotate_session(OTHERS)
        assert session_of(store, LAPTOP) == rotated


@each_store
def test_a_purge_evicts_only_what_it_removed(kind: str, tmp_path: Path, clock: FrozenClock) -> None:
    with household(kind, tmp_path, clock=clock, session_max_age=60) as store:
        store.update_session(OTHERS, expires=FAR)
        before = looks(store)
        clock.tick(seconds=60)
        store.purge_expired()
        assert store.get_session_and_user(OTHERS) is before[OTHERS]


def test_a_user_is_deleted_though_a_session_cannot_be_read(tmp_path: Path, path: Path) -> None:
    with household("file", tmp_path) as store:
        raw(path, "UPDATE sessions SET expires = 9e18 WHERE user_id = 'ada'")
        store.get_session_and_user(OTHERS)
        store.delete_user("ada")
        assert store.list_sessions("ada") == []


# --- transactions -----------------------------------------------------------------------------


@each_store
@each_write
@pytest.mark.parametrize("nested", [False, True], ids=["transaction", "savepoint"])
def test_a_rollback_leaves_nothing_kept_that_it_wrote(
    kind: str, write: str, nested: bool, tmp_path: Path
) -> None:
    def written(store: Store) -> dict[str, Look]:
        WRITES[write][0](store)
        return looks(store)

    with touchable(kind, tmp_path) as (store, before):
        outer = store.transaction() if nested else contextlib.nullcontext()
        with outer:
            inside = undone(store, lambda: written(store))
            undone_answers = looks(store)
        after = looks(store)
    assert write == "restore" or inside != before
    assert undone_answers == after == before


@each_store
def test_nothing_read_inside_a_transaction_is_kept(kind: str, tmp_path: Path) -> None:
    with household(kind, tmp_path) as store:
        with store.transaction():
            inside = looks(store)
        after = looks(store)
    assert [token for token in TOKENS if after[token] is inside[token]] == []


@each_store
def test_what_was_kept_before_a_transaction_is_served_after_it(kind: str, tmp_path: Path) -> None:
    with household(kind, tmp_path) as store:
        before = looks(store)
        with store.transaction():
            store.update_session(LAPTOP, step=1)
            inside = looks(store)
        assert inside[OTHERS] == before[OTHERS]
        assert inside[LAPTOP].session.step == 1
        assert store.get_session_and_user(OTHERS) is before[OTHERS]


@each_store
def test_a_session_created_and_rolled_back_is_not_served(kind: str, tmp_path: Path) -> None:
    def created(store: Store) -> Look:
        store.create_session(user_id="ada", session_token="ada's tablet")
        return [store.get_session_and_user("ada's tablet") for _ in range(3)][-1]

    with household(kind, tmp_path) as store:
        assert undone(store, lambda: created(store)) is not None
        assert store.get_session_and_user("ada's tablet") is None


# --- what runs --------------------------------------------------------------------------------

READ = "SELECT"
ASK = "PRAGMA data_version"


def statements(ran: list[str]) -> AbstractContextManager[None]:
    """Meanwhile, every connection that is opened notes what runs on it: the pragma, or the first word."""
    return every_statement(lambda sql: ran.append(sql if sql == ASK else sql.split()[0]))


@pytest.mark.parametrize(
    ("kind", "size", "keeping", "asking", "hit"),
    [
        pytest.param("file", 10, [READ], [ASK], [], marks=needs_header),
        ("file", 0, [READ], [READ], [READ]),
        ("pragma", 10, [READ], [ASK], [ASK]),
        ("sqlite", 10, [READ], [], []),
        ("sqlite", 0, [READ], [READ], [READ]),
        ("memory", 10, [], [], []),
    ],
)
def test_a_repeated_look_up_runs_the_least_that_proves_it(
    kind: str, size: int, keeping: list[str], asking: list[str], hit: list[str], tmp_path: Path
) -> None:
    ran: list[str] = []
    with statements(ran), household(kind, tmp_path, cache_size=size) as store:
        for expected in (keeping, asking, hit, hit):
            ran.clear()
            found = store.get_session_and_user(LAPTOP)
            assert (ran, told(found)) == (expected, (0, (FAR - found.session.expires).total_seconds(), "Ada"))


@pytest.mark.parametrize(
    ("kind", "again"), [pytest.param("file", [], marks=needs_header), ("pragma", [ASK] * 3)]
)
def test_another_connections_commit_costs_one_more_read_of_each_session(
    kind: str, again: list[str], tmp_path: Path, path: Path
) -> None:
    ran: list[str] = []
    with statements(ran), household(kind, tmp_path) as store:
        looks(store)
        raw(path, "UPDATE users SET name = 'Hopper' WHERE id = 'grace'")
        counts = []
        for _ in range(2):
            ran.clear()
            looks(store)
            counts.append(list(ran))
    assert counts == [[ASK, READ, READ, READ], again]


@pytest.mark.parametrize("kind", ["file", "pragma"])
def test_what_another_connections_commit_left_alone_is_not_decoded_again(
    kind: str, tmp_path: Path, path: Path
) -> None:
    with household(kind, tmp_path) as store:
        before = looks(store)
        raw(path, "UPDATE users SET name = 'Hopper' WHERE id = 'grace'")
        after = looks(store)
    assert [token for token in TOKENS if after[token] is not before[token]] == [OTHERS]


@pytest.mark.parametrize("kind", ["file", "pragma"])
def test_a_session_that_is_read_again_pushes_out_no_other(kind: str, tmp_path: Path, path: Path) -> None:
    with household(kind, tmp_path, cache_size=len(TOKENS)) as store:
        looks(store)
        raw(path, "UPDATE users SET name = 'Hopper' WHERE id = 'grace'")
        store.get_session_and_user(OTHERS)
        assert set(store._kept.places) == set(TOKENS)


@pytest.mark.parametrize("kind", ["file", "pragma"])
def test_a_kept_session_is_read_again_once_however_many_others_were_looked_up(
    kind: str, tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "FEW_KEYS", 3)
    with household(kind, tmp_path, cache_size=3) as store:
        looks(store)
        store.get_session_and_user(store.create_session(user_id="ada").session_token)
        raw(path, "UPDATE users SET name = 'Hopper'")
        again, after = looks(store), looks(store)
    assert [token for token in TOKENS if again[token] is not after[token]] == []


@pytest.mark.parametrize("kind", ["file", "pragma"])
def test_what_another_connection_deleted_leaves_no_trace(kind: str, tmp_path: Path, path: Path) -> None:
    with household(kind, tmp_path) as store:
        looks(store)
        raw(path, "DELETE FROM sessions WHERE user_id = 'ada'")
        looks(store)
        assert list(store._kept.places) == [OTHERS]


@needs_header
def test_a_write_of_ones_own_costs_one_question_and_no_read_of_other_sessions(tmp_path: Path) -> None:
    ran: list[str] = []
    with statements(ran), household("file", tmp_path) as store:
        for _ in range(2):
            store.update_session(LAPTOP, step=1)
            looks(store)
        store.update_session(LAPTOP, step=2)
        ran.clear()
        looks(store)
    assert ran == [READ, ASK]


# --- the header of the WAL index --------------------------------------------------------------


def questions(store: Store, ran: list[str]) -> list[str]:
    """What runs for three look-ups of a session that is kept."""
    looks(store)
    looks(store)
    ran.clear()
    for _ in range(3):
        store.get_session_and_user(LAPTOP)
    return list(ran)


@needs_header
def test_it_is_read_of_a_file_behind_a_symbolic_link_too(tmp_path: Path, path: Path) -> None:
    ran: list[str] = []
    (tmp_path / "real").mkdir()
    path.symlink_to(tmp_path / "real" / "store.db")
    (tmp_path / "real" / "store.db").touch()
    with statements(ran), household("file", tmp_path) as store:
        assert questions(store, ran) == []


@needs_header
def test_it_is_read_again_after_a_fork(tmp_path: Path) -> None:
    run_python(AFTER_A_FORK, tmp_path / "auth.db")


AFTER_A_FORK = """
import os, sys
from support import every_statement
from tinyauthstore import SQLiteAdapter

def settles():
    for _ in range(4):
        ran.clear()
        assert store.get_session_and_user(token)
    assert ran == []

ran = []
with every_statement(ran.append), SQLiteAdapter(sys.argv[1]) as store:
    ada = store.create_user(id="ada")
    token = store.create_session(user_id="ada").session_token
    settles()
    if (child := os.fork()) == 0:
        settles()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    settles()
"""


def test_it_is_that_of_the_file_which_was_opened_whatever_the_path_means_by_then(tmp_path: Path) -> None:
    folder, other = tmp_path / "current", tmp_path / "other"
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
    folder.symlink_to("v1")
    other.symlink_to("v2")
    with household("file", folder) as store:
        other.replace(folder)
        with household("file", folder):
            looks(store)
            looks(store)
            raw(tmp_path / "v1" / "auth.db", "DELETE FROM sessions")
            assert looks(store) == dict.fromkeys(TOKENS)


@needs_header
def test_it_is_not_that_of_a_file_which_took_the_place_while_the_store_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = iter([(1, 1), (1, 2)])
    monkeypatch.setattr(SQLiteAdapter, "_file", lambda store: next(files))
    with household("file", tmp_path) as store:
        assert store._watch._descriptor == -1


@needs_header
def test_it_is_not_searched_among_very_many_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "MANY_DESCRIPTORS", 3)
    with household("file", tmp_path) as store:
        assert store._watch._descriptor == -1


def test_with_two_descriptors_of_it_neither_is_trusted_to_be_sqlites(tmp_path: Path, path: Path) -> None:
    ran: list[str] = []
    with household("file", tmp_path), ExitStack() as until_then:
        other = os.open(f"{path}-shm", os.O_RDONLY)
        until_then.callback(os.close, other)  # after the store below: it drops its locks
        with statements(ran), STORES["file"](tmp_path, session=Device, clock=FrozenClock()) as store:
            assert questions(store, ran) == [ASK] * 3


def test_one_that_cannot_be_read_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> bytes:
        raise OSError("Bad file descriptor")

    ran: list[str] = []
    with statements(ran), household("file", tmp_path) as store:
        looks(store)
        monkeypatch.setattr(os, "pread", fails, raising=False)
        assert questions(store, ran) == [ASK] * 3


@needs_header
def test_a_descriptor_that_comes_to_mean_another_file_is_no_proof(tmp_path: Path, path: Path) -> None:
    """Somebody closed it behind SQLite's back, and the next file that was opened got its number."""
    delete = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('DELETE FROM sessions'); c.commit(); c.close()"
    with household("file", tmp_path) as store, tempfile.TemporaryFile() as other:
        other.write(bytes(4096))
        other.flush()
        looks(store)
        looks(store)
        [number] = [
            int(name) for name in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{name}") and os.path.samefile(f"/proc/self/fd/{name}", f"{path}-shm")
        ]  # fmt: skip
        saved = os.dup(number)
        os.dup2(other.fileno(), number)
        try:
            assert None not in [*looks(store).values(), *looks(store).values()]
            run_python(delete, path)
            assert looks(store) == dict.fromkeys(TOKENS)
        finally:
            os.dup2(saved, number)
            os.close(saved)


@pytest.mark.parametrize("kind", ["file", "pragma"])
def test_a_commit_just_after_the_version_was_asked_for_is_seen_by_the_next_look_up(
    kind: str, tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with household(kind, tmp_path) as store:
        looks(store)
        ask = store._watch._data_version
        rival = iter(["DELETE FROM sessions"])

        def overtaken() -> int:
            answer: int = ask()
            for statement in rival:
                raw(path, statement)
            return answer

        monkeypatch.setattr(store._watch, "_data_version", overtaken)
        assert store.get_session_and_user(LAPTOP) is not None
        assert store.get_session_and_user(LAPTOP) is None


# --- size -------------------------------------------------------------------------------------


@each_store
def test_no_more_than_cache_size_are_kept_and_the_newest_are(kind: str, tmp_path: Path) -> None:
    with household(kind, tmp_path, cache_size=3) as store:
        tokens = [store.create_session(user_id="ada").session_token for _ in range(6)]
        for _ in range(2):  # the first time keeps nothing
            first = {token: store.get_session_and_user(token) for token in tokens}
        again = {token: store.get_session_and_user(token) for token in reversed(tokens)}
    assert [token for token in tokens if again[token] is first[token]] == tokens[-3:]


@each_store
def test_what_was_pushed_out_leaves_no_trace(kind: str, tmp_path: Path) -> None:
    with household(kind, tmp_path, cache_size=1) as store:
        looks(store)
        assert list(store._kept.places) == [OTHERS]


@each_store
def test_what_was_pushed_out_is_kept_again_and_still_evicted(kind: str, tmp_path: Path) -> None:
    with household(kind, tmp_path, cache_size=1) as store:
        looks(store)
        kept = store.get_session_and_user(LAPTOP)
        assert store.get_session_and_user(LAPTOP) is kept
        store.update_session(LAPTOP, step=1)
        assert session_of(store, LAPTOP).step == 1


@each_store
def test_a_session_is_kept_from_its_second_look_up_on(kind: str, tmp_path: Path) -> None:
    with household(kind, tmp_path) as store:
        token = store.create_session(user_id="ada").session_token
        first, second, third = (store.get_session_and_user(token) for _ in range(3))
    assert first == second == third
    assert first is not second is third


@pytest.mark.parametrize(("few", "size", "remembered"), [(3, 1, True), (2, 1, False), (1, 3, True), (1, 2, False)])
@each_store
def test_so_many_that_were_looked_up_once_are_remembered_as_few_or_as_are_kept(
    kind: str, few: int, size: int, remembered: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "FEW_KEYS", few)
    with household(kind, tmp_path, cache_size=size) as store:  # three were
        second, third = (store.get_session_and_user(LAPTOP) for _ in range(2))
    assert (second is third) is remembered


@each_store
def test_a_cache_size_of_0_keeps_nothing(kind: str, tmp_path: Path) -> None:
    with household(kind, tmp_path, cache_size=0) as store:
        first, again = looks(store), looks(store)
    assert first == again
    assert [token for token in TOKENS if first[token] is again[token]] == []


@pytest.mark.parametrize("size", [-1, 1.0, "5", True, None])
def test_a_cache_size_that_is_no_count_is_refused(size: Any) -> None:
    with pytest.raises(ValueError, match="cache_size"):
        MemoryAdapter(cache_size=size)


# --- absence and expiry -----------------------------------------------------------------------

SIGN_IN = """
import sys
from tinyauthstore import SQLiteAdapter
with SQLiteAdapter(sys.argv[1]) as store:
    store.create_session(user_id="ada", session_token=sys.argv[2])
"""


def test_a_token_that_another_process_creates_after_it_was_looked_up_is_found_at_once(
    tmp_path: Path, path: Path
) -> None:
    with household("file", tmp_path) as store:
        assert [store.get_session_and_user("ada's tablet") for _ in range(3)] == [None] * 3
        run_python(SIGN_IN, path, "ada's tablet")
        assert session_of(store, "ada's tablet").user_id == "ada"


@each_store
def test_a_token_created_after_it_was_looked_up_is_found_at_once(kind: str, tmp_path: Path) -> None:
    with household(kind, tmp_path) as store:
        assert [store.get_session_and_user("ada's tablet") for _ in range(3)] == [None] * 3
        made = store.create_session(user_id="ada", session_token="ada's tablet")
        assert session_of(store, "ada's tablet") == made


@each_store
def test_a_kept_session_expires_to_the_microsecond(kind: str, tmp_path: Path, clock: FrozenClock) -> None:
    with household(kind, tmp_path, clock=clock, session_max_age=60) as store:
        kept = looks(store)[LAPTOP]
        clock.tick(seconds=60, microseconds=-1)
        assert store.get_session_and_user(LAPTOP) is kept
        clock.tick(microseconds=1)
        assert store.get_session_and_user(LAPTOP) is None


@each_store
def test_a_lowered_absolute_age_counts_for_kept_sessions(
    kind: str, tmp_path: Path, clock: FrozenClock
) -> None:
    with household(kind, tmp_path, clock=clock) as store:
        old = store.snapshot()
    (tmp_path / "new").mkdir()
    with STORES[kind](tmp_path / "new", clock=clock, session=Device, session_absolute_age=60) as store:
        store.restore(old)
        for _ in range(3):
            assert session_of(store, LAPTOP).expires == START + timedelta(seconds=60)
        clock.tick(seconds=60, microseconds=-1)
        assert session_of(store, LAPTOP).session_token == LAPTOP
        clock.tick(microseconds=1)
        assert store.get_session_and_user(LAPTOP) is None


# --- other connections ------------------------------------------------------------------------

STRANGERS: dict[str, tuple[str, Callable[[Look], Any], Any]] = {
    "a new name": ("UPDATE users SET name = 'Lovelace'", lambda found: found and found.user.name, "Lovelace"),
    "a custom field": ("UPDATE sessions SET step = 7", lambda found: found and found.session.step, 7),
    "expiry": ("UPDATE sessions SET expires = 1", lambda found: found, None),
    "revocation": ("DELETE FROM sessions", lambda found: found, None),
    "a deleted user": ("DELETE FROM users", lambda found: found, None),
}


@pytest.mark.parametrize("what", STRANGERS)
def test_another_connections_commit_is_seen_at_once(what: str, tmp_path: Path, path: Path) -> None:
    sql, part, expected = STRANGERS[what]
    with household("file", tmp_path) as store:
        assert part(looks(store)[LAPTOP]) != expected
        raw(path, sql)
        assert part(store.get_session_and_user(LAPTOP)) == expected


def test_another_stores_commit_is_seen_however_the_two_take_turns(tmp_path: Path) -> None:
    """Kept, missed and written in every order: the version under which a thing was kept may be an old one."""
    with household("file", tmp_path) as here, STORES["file"](
        tmp_path, session=Device, clock=FrozenClock()
    ) as there:
        acts: list[Callable[[int], Any]] = [
            lambda step: there.update_session(LAPTOP, step=step),
            lambda step: here.update_session(LAPTOP, step=step),
            lambda step: here.update_session(OTHERS, step=step),
            lambda step: here.get_session_and_user(OTHERS),
            lambda step: here.get_session_and_user(LAPTOP),
        ]
        step = 0
        for order in itertools.product(acts, repeat=4):
            for act in order:
                act(step := step + 1)
            assert session_of(here, LAPTOP) == session_of(there, LAPTOP)


def test_a_strangers_rollback_changes_nothing(tmp_path: Path, path: Path) -> None:
    with household("file", tmp_path) as store:
        before = looks(store)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM sessions")
            assert looks(store) == before
            connection.execute("ROLLBACK")
        assert looks(store) == before


def test_the_connection_used_while_the_store_is_busy_keeps_nothing(tmp_path: Path) -> None:
    with household("file", tmp_path) as store:
        with store.transaction():
            [busy] = race(1, lambda i: looks(store))
        after = looks(store)
    assert busy == after
    assert [token for token in TOKENS if busy[token] is after[token]] == []


def test_what_is_read_beside_an_open_transaction_is_not_served_after_its_commit(tmp_path: Path) -> None:
    with household("file", tmp_path) as store:
        before = looks(store)
        with store.transaction():
            store.delete_session(LAPTOP)
            assert race(1, lambda i: store.get_session_and_user(LAPTOP)) == [before[LAPTOP]]
        assert store.get_session_and_user(LAPTOP) is None


# --- models -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Basket(Session):
    items: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Member(User):
    roles: list[str] = field(default_factory=list)


@each_store
def test_no_two_answers_share_a_dict_of_the_session(kind: str, tmp_path: Path) -> None:
    with household(kind, tmp_path, session=Basket) as store:
        for _ in range(3):
            session = session_of(store, LAPTOP)
            assert session.items == {}
            session.items["apple"] = 1


@each_store
def test_no_two_answers_share_a_list_of_the_user(kind: str, tmp_path: Path) -> None:
    with household(kind, tmp_path, user=Member) as store:
        for _ in range(3):
            user = looks(store)[LAPTOP].user
            assert user.roles == []
            user.roles.append("admin")


@dataclass(frozen=True, slots=True)
class Reader(User):
    plan: str = "free"
    score: float | None = None


@each_store
def test_sessions_of_a_custom_model_of_plain_values_are_kept(kind: str, tmp_path: Path) -> None:
    with household(kind, tmp_path, user=Reader) as store:
        store.update_user("ada", plan="paid", score=0.5)
        kept = looks(store)[LAPTOP]
        assert store.get_session_and_user(LAPTOP) is kept
        assert kept.user == Reader("ada", "ada@example.com", "Ada", plan="paid", score=0.5)


@each_store
def test_a_change_of_a_custom_field_is_served_at_once(kind: str, tmp_path: Path) -> None:
    with household(kind, tmp_path, user=Reader) as store:
        looks(store)
        store.update_user("ada", plan="paid")
        store.update_session(LAPTOP, step=5)
        found = store.get_session_and_user(LAPTOP)
        assert (found.session.step, found.user.plan) == (5, "paid")


# --- fork, close, interruption ----------------------------------------------------------------


def rename(path: Path, times: int) -> None:
    """Have a store of its own commit that many changes of Ada's name."""
    with SQLiteAdapter(path, session=Device) as store:
        for i in range(times):
            store.update_user("ada", name=f"Ada {times}.{i}")


@needs_fork
@pytest.mark.parametrize("keeping", ["before", "after"], ids="kept {} the fork".format)
@apart
def test_neither_side_of_a_fork_serves_what_the_other_changed(tmp_path: Path, keeping: str) -> None:
    """Whatever the number of commits: the versions of two connections are not to be compared."""
    with household("file", tmp_path) as store:
        for times in range(1, 6):
            looks(store)
            child = fork(lambda: rename(tmp_path / "auth.db", times))
            if keeping == "after":
                looks(store)
            assert exit_code(child) == 0
            assert store.get_session_and_user(LAPTOP).user.name == f"Ada {times}.{times - 1}"


@needs_fork
@apart
def test_a_child_serves_nothing_that_its_parent_kept_and_then_changed(tmp_path: Path) -> None:
    def in_child() -> None:
        os.read(entry, 1)
        assert store.get_session_and_user(LAPTOP) is None
        assert store.get_session_and_user(OTHERS).user.name == "Hopper"

    with household("file", tmp_path) as store:
        looks(store)
        entry, gate = os.pipe()
        child = fork(in_child)
        looks(store)
        store.delete_session(LAPTOP)
        store.update_user("grace", name="Hopper")
        os.write(gate, b".")
        assert exit_code(child) == 0


@needs_fork
@pytest.mark.parametrize("kind", ["sqlite", "memory"])
@apart
def test_after_a_fork_each_side_of_a_store_in_memory_serves_its_own_copy(tmp_path: Path, kind: str) -> None:
    def in_child() -> None:
        store.delete_session(LAPTOP)
        assert store.get_session_and_user(LAPTOP) is None

    with household(kind, tmp_path) as store:
        before = looks(store)
        assert exit_code(fork(in_child)) == 0
        assert looks(store) == before


@each_store
def test_a_closed_store_serves_nothing_that_it_kept(kind: str, tmp_path: Path) -> None:
    with household(kind, tmp_path) as store:
        looks(store)
    with pytest.raises(ClosedError):
        store.get_session_and_user(LAPTOP)


def test_a_reopened_file_serves_what_was_changed_meanwhile(tmp_path: Path, path: Path) -> None:
    with household("file", tmp_path) as store:
        looks(store)
    raw(path, "DELETE FROM sessions WHERE user_id = 'ada'")
    with SQLiteAdapter(path, session=Device, clock=FrozenClock()) as store:
        assert {token for token, found in looks(store).items() if found is None} == {LAPTOP, PHONE}


def every_line(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """0, 1, 2, ... without end, each with a new directory: the caller leaves when nothing happened at that line."""
    for line in itertools.count():
        folder = tmp_path / str(line)
        folder.mkdir()
        yield line, folder


@pytest.mark.parametrize("door", ["_rows", "_row"])
def test_an_exception_that_is_kept_does_not_keep_a_statement_open(tmp_path: Path, door: str) -> None:
    """Its frames would hold the cursor, and the connection would see the past until they are gone."""
    for line, folder in every_line(tmp_path):
        with household("file", folder) as store:
            call = {"_rows": store.get_user, "_row": store.get_session_and_user}[door]
            with interrupted(line, {getattr(SQLiteAdapter, door).__code__}) as where:
                call({"_rows": "ada", "_row": LAPTOP}[door])
            raw(folder / "auth.db", "UPDATE users SET name = 'Lovelace'")
            assert [store.get_user("ada").name, store.get_session_and_user(LAPTOP).user.name] == ["Lovelace"] * 2
        if not where:
            break
    assert line > 1


class Interrupted(BaseException):
    """As a signal's handler raises it: between any two lines."""


LOOKING_UP = {
    value.__code__
    for owner in (kept.Kept, kept.Watch, kept.Place, transactions.Turn)
    for value in vars(owner).values()
    if hasattr(value, "__code__")
} | {adapter._get_session_and_user.__code__ for adapter in (SQLiteAdapter, MemoryAdapter)}
"""All lines of which each matters to what is kept."""


@contextmanager
def interrupted(line: int, codes: set[CodeType] = LOOKING_UP) -> Iterator[list[str]]:
    """Raises ``Interrupted`` before that line that runs in ``codes``, and swallows it; yields where. The exception
    lives on until the end of the next one."""
    try:
        with signalled({line: interrupt}, codes.__contains__) as where:
            yield where
    except Interrupted as error:
        alive[:] = [error]


def interrupt() -> None:
    raise Interrupted


alive: list[BaseException] = []


@contextmanager
def signalled(
    handlers: dict[int, Callable[[], Any]], counts: Callable[[CodeType], bool] = LOOKING_UP.__contains__
) -> Iterator[list[str]]:
    """Calls each of ``handlers`` before the line with that number of all that run in code which ``counts``; yields
    where."""
    lines, where = itertools.count(), []

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line" and counts(frame.f_code) and (handler := handlers.get(next(lines))):
            where.append(frame.f_code.co_name)
            handler()
        return trace if event == "line" or counts(frame.f_code) else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield where
    finally:
        sys.settrace(before)


@each_store
@pytest.mark.parametrize("what", ["keep", "evict"])
def test_an_interruption_leaves_nothing_kept_that_no_write_evicts(
    kind: str, what: str, tmp_path: Path
) -> None:
    for line, folder in every_line(tmp_path):
        with household(kind, folder, cache_size=1) as store:
            store.get_session_and_user(PHONE)
            if what == "evict":
                store.get_session_and_user(LAPTOP)
            with interrupted(line) as where:
                if what == "keep":
                    store.get_session_and_user(LAPTOP)
                else:
                    store.update_session(LAPTOP, step=1)
            for step in (2, 3):
                for token in (LAPTOP, PHONE):
                    store.update_session(token, step=step)
                    assert session_of(store, token).step == step
        if not where:
            break
    assert line > 2


@pytest.mark.parametrize("kind", ["file", "pragma"])
def test_an_interruption_of_the_validation_proves_nothing(kind: str, tmp_path: Path) -> None:
    for line, folder in every_line(tmp_path):
        with household(kind, folder) as store:
            looks(store)
            looks(store)
            raw(folder / "auth.db", "DELETE FROM sessions")
            with interrupted(line) as where:
                assert store.get_session_and_user(LAPTOP) is None
            assert looks(store) == dict.fromkeys(TOKENS)
        if not where:
            break
    assert line > 5


def assert_evictable(store: Store) -> None:
    """What is served after a write, to any of the sessions, is what was written."""
    for step in (100, 101):
        for token in TOKENS:
            if store.update_session(token, step=step) is not None:
                assert session_of(store, token).step == step
        if store.get_user("ada") is not None:
            renamed = store.update_user("ada", name=str(step))
            assert {found.user for found in looks(store).values() if found} <= {renamed, store.get_user("grace")}


@needs_fork
@apart
def test_a_child_of_a_transaction_serves_nothing_that_was_kept(tmp_path: Path) -> None:
    def in_child() -> None:
        with pytest.raises(StorageError, match="forked"):
            store.get_session_and_user(LAPTOP)

    with household("file", tmp_path) as store:
        looks(store)
        looks(store)
        with store.transaction():
            child = fork(in_child)
        assert exit_code(child) == 0


@pytest.mark.parametrize("kind", ["file", "pragma"])
def test_after_a_rollback_that_was_interrupted_writes_last(kind: str, tmp_path: Path) -> None:
    """By a second signal that was pending: what the first one left open is not taken for somebody's transaction."""
    for line, folder in every_line(tmp_path):
        with household(kind, folder) as store:
            with contextlib.suppress(LookupError), interrupted(line, {SQLiteAdapter._rollback.__code__}) as where:
                with store.transaction():
                    store.update_user("ada", name="Lovelace")
                    raise LookupError
            store.update_user("grace", name="Hopper")
            named = raw(folder / "auth.db", "SELECT name FROM users ORDER BY id")
        if not where:
            break
        assert named == [("Ada",), ("Hopper",)]
    assert line > 1
