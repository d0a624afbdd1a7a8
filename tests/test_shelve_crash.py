"""A store whose process is killed, with a real SIGKILL: at random moments, at every step of a checkpoint, and before
every single system call. What was acknowledged is there, nothing is there by half, and ``check()`` finds no fault.

The tests run in interpreters of their own, which have one thread and may fork.
"""

from __future__ import annotations

import atexit
import itertools
import os
import random
import select
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import support
from support import abandon, state

from tinyauthstore import MemoryAdapter, ShelveAdapter, journal

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")

each_backend = pytest.mark.parametrize("backend", support.DBM_BACKENDS)
each_durability = pytest.mark.parametrize("durability", ["full", "normal"])


# --- a life that can be told again ------------------------------------------------------------

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, timezone.utc)
turn = 0
OPTIONS: dict[str, Any] = {"clock": lambda: NOW, "new_token": lambda: f"rotated {turn}"}


def act(store: Any, i: int) -> None:
    """The ``i``-th thing that happens to a store, the same whenever it is told, and one transaction."""
    global turn
    turn = i
    name, last = f"user {i // 6}", f"user {i // 6 - 1}"
    email = f"user-{i // 6}@example.com"
    if i % 6 == 0:
        with store.transaction():
            store.create_user(id=name, email=email)
            with store.transaction():
                store.link_account(user_id=name, type="oauth", provider="github", provider_account_id=name)
                store.create_session(user_id=name, session_token=name)
            store.create_verification_token(identifier=email, token="token")
    elif i % 6 == 1:
        store.update_user(name, email=f"new-{email}", image="x" * (i % 50))
    elif i % 6 == 2:
        store.rotate_session(name)
    elif i % 6 == 3:
        store.use_verification_token(identifier=email, token="token")
    elif i % 6 == 4:
        store.create_session(user_id=name)
    elif i % 4 == 1:
        store.delete_user(last)
    else:
        store.revoke_sessions(name)


class Life:
    """What a store holds after so many acts, told by one in memory."""

    def __init__(self) -> None:
        self._memory, self._count = MemoryAdapter(**OPTIONS), 0
        atexit.register(self._memory.close)
        self._told: dict[int, dict[str, dict[Any, Any]]] = {0: {}}

    def after(self, count: int) -> dict[str, dict[Any, Any]]:
        if count not in self._told:
            for i in range(self._count, count):
                act(self._memory, i)
            self._told[count], self._count = state(self._memory), count
        return self._told[count]

    def settle(self, path: Path, acknowledged: int) -> int:
        """How many acts the store holds: those acknowledged, and perhaps the next, which was never by half."""
        held = found(path) if path.exists() else {}
        if held == self.after(acknowledged):
            return acknowledged
        assert held == self.after(acknowledged + 1)
        return acknowledged + 1


def found(path: Path) -> dict[str, dict[Any, Any]]:
    """What the next process would find; AssertionError unless it is sound. The store itself stays as it is."""
    copy = path.with_name("copy")
    shutil.copytree(path, copy)
    store = ShelveAdapter(copy, **OPTIONS)
    assert store.check() == []
    held = state(store)
    abandon(store)
    shutil.rmtree(copy)
    return held


def impatient() -> Callable[[], None]:
    """Checkpoints after a few writes, and no waiting for the disk; what is returned makes ``fsync`` real again."""
    fsync = os.fsync
    setattr(journal, "SMALLEST_LIMIT", 3000)
    setattr(journal, "PAGE", 5)
    setattr(os, "fsync", lambda file: None)
    journal.warn = lambda *message: None  # type: ignore[assignment]
    return lambda: setattr(os, "fsync", fsync)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Victim:
    """A child that lives on from act ``first``, and acknowledges each act through a pipe."""

    def __init__(self, body: Callable[[Callable[[], None]], object]) -> None:
        self._acks, acknowledge = os.pipe()
        self.count = 0

        def live() -> None:
            os.close(self._acks)
            body(lambda: self._say(acknowledge))

        self._process = support.fork(live)
        os.close(acknowledge)

    @staticmethod
    def _say(acknowledge: int) -> None:
        os.write(acknowledge, b".")

    def wait(self, count: int) -> None:
        """Until so many acts were acknowledged, or it is dead."""
        while self.count < count and (heard := os.read(self._acks, count - self.count)):
            self.count += len(heard)

    def end(self, *, kill: bool = False) -> int:
        """Its exit code, when all that it acknowledged was heard."""
        if kill:
            os.kill(self._process, signal.SIGKILL)
        self.wait(10**9)
        os.close(self._acks)
        return support.exit_code(self._process)


# --- at random moments ------------------------------------------------------------------------


def kill_at_random(path: Path, durability: Any, backend: Any, kills: int, seed: int) -> None:
    rng, life, acts, patiently = random.Random(seed), Life(), 0, impatient()

    def live(acknowledge: Callable[[], None]) -> None:
        patiently()
        with ShelveAdapter(path, durability=durability, dbm=backend, **OPTIONS) as store:
            for i in itertools.count(acts):
                act(store, i)
                acknowledge()

    for _ in range(kills):
        victim = Victim(live)
        victim.wait(rng.choice([0, 1, rng.randrange(40)]))
        select.select([], [], [], rng.uniform(0, 0.004))
        assert victim.end(kill=True) == -signal.SIGKILL
        acts = life.settle(path, acts + victim.count)
    assert acts > kills


@each_backend
@each_durability
@support.apart
def test_what_a_killed_process_had_acknowledged_is_there_and_nothing_by_half(
    tmp_path: Path, durability: str, backend: str
) -> None:
    kill_at_random(tmp_path / "auth", durability, backend, kills=20, seed=1)


@pytest.mark.soak
@each_backend
@each_durability
@pytest.mark.parametrize("seed", range(2, 7))
@support.apart
def test_hundreds_of_kills_lose_nothing(tmp_path: Path, durability: str, backend: str, seed: int) -> None:
    kill_at_random(tmp_path / "auth", durability, backend, kills=50, seed=seed)


# --- at every step of a checkpoint ------------------------------------------------------------

STEPS: dict[str, tuple[Any, str]] = {
    "write the shelf": (journal, "write_shelf"),
    "write a value": (journal.Shelf, "__setitem__"),
    "sync the shelf": (journal, "sync_files"),
    "create the journal": (journal.Journal, "create"),
    "publish": (journal, "publish"),
    "sync the directory": (journal, "sync_directory"),
    "take it up": (journal.Files, "_take_up"),
    "close the old journal": (journal.Journal, "close"),
    "sweep": (journal.Files, "_sweep"),
    "remove": (journal, "remove"),
}


def mortal(step: str, when: str) -> None:
    """From now on, this process dies at that step, before or after it is done."""
    owner, name = STEPS[step]
    done: Any = getattr(owner, name)

    def do(*arguments: Any, **options: Any) -> Any:
        if when == "before":
            die()
        done(*arguments, **options)
        die()

    setattr(owner, name, do)


@each_backend
@support.apart
def test_a_process_killed_at_any_step_of_a_checkpoint_loses_nothing(tmp_path: Path, backend: Any) -> None:
    impatient()
    path, life, acts = tmp_path / "auth", Life(), 0
    for step, when, closing in itertools.product(STEPS, ["before", "after"], [False, True]):

        def live(acknowledge: Callable[[], None]) -> None:
            journal.SMALLEST_LIMIT = 10**9 if closing else 1
            with ShelveAdapter(path, dbm=backend, **OPTIONS) as store:
                mortal(step, when)
                for i in range(acts, acts + 3) if closing else itertools.count(acts):
                    act(store, i)
                    acknowledge()

        victim = Victim(live)
        assert victim.end() == -signal.SIGKILL, (step, when, closing)
        assert (victim.count == 3) == closing
        acts = life.settle(path, acts + victim.count)


# --- before every system call -----------------------------------------------------------------

FATAL = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}
"""Audit events: they tell of what C code does, too."""


def short_lived(calls: int) -> None:
    """From now on, this process dies when it has made so many calls that change a file or a directory."""
    left = calls

    def call() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            die()

    def hear(event: str, arguments: Any) -> None:
        if event in FATAL or event == "open" and arguments[2] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            call()

    def before(done: Any) -> Any:
        return lambda *arguments: (call(), done(*arguments))[1]

    sys.addaudithook(hear)
    setattr(os, "write", before(os.write))
    setattr(os, "fsync", before(os.fsync))


def deaths(original: Path, path: Path, body: Callable[[], object]) -> Iterator[int]:
    """How many acts were acknowledged by each of the processes that did ``body`` and died a call later than the last.

    Each begins with a copy of ``original``; the last one lives long enough.
    """
    for calls in itertools.count():
        shutil.rmtree(path, ignore_errors=True)
        if original.exists():
            shutil.copytree(original, path)

        def live(acknowledge: Callable[[], None]) -> None:
            setattr(journal, "told", acknowledge)
            short_lived(calls)
            body()

        victim = Victim(live)
        code = victim.end()
        assert code in (0, -signal.SIGKILL)
        yield victim.count
        if code == 0:
            return


def lives(path: Path, backend: Any) -> dict[str, tuple[int, Callable[[], object]]]:
    """What processes do, and how many acts went before."""

    def new_store() -> None:
        with ShelveAdapter(path, dbm=backend, **OPTIONS) as store:
            act(store, 0)
            journal.told()  # type: ignore[attr-defined]
            act(store, 1)
            journal.told()  # type: ignore[attr-defined]

    def go_on() -> None:
        with ShelveAdapter(path, dbm=backend, **OPTIONS) as store:
            act(store, 8)
            journal.told()  # type: ignore[attr-defined]
            store._checkpoint()
            act(store, 9)
            journal.told()  # type: ignore[attr-defined]

    return {"a new store": (0, new_store), "a store that crashed": (8, go_on)}


def crashed(path: Path, backend: Any) -> None:
    """A store of 8 acts, 4 of them in the journal, whose process died in a ninth and in a checkpoint."""
    with ShelveAdapter(path, dbm=backend, **OPTIONS) as store:
        for i in range(4):
            act(store, i)
    store = ShelveAdapter(path, **OPTIONS)
    for i in range(4, 8):
        act(store, i)
    abandon(store)
    with (path / "journal-000001").open("ab") as file:
        file.write(b'12345678 100 [["users","')
    shutil.copytree(path / f"shelf-000001.{backend}", path / f"shelf-000002.{backend}.tmp")
    shutil.copytree(path / f"shelf-000001.{backend}", path / f"shelf-000000.{backend}")


@each_backend
@pytest.mark.parametrize("kind", ["a new store", "a store that crashed"])
@support.apart
def test_a_process_killed_before_any_system_call_loses_nothing(tmp_path: Path, kind: str, backend: Any) -> None:
    impatient()
    path, original = tmp_path / "auth", tmp_path / "original"
    acts, body = lives(path, backend)[kind]
    if acts:
        crashed(original, backend)
    life, counts = Life(), []
    for count in deaths(original, path, body):
        counts.append(count)
        life.settle(path, acts + count)
    assert sorted(counts) == counts and set(counts) == {0, 1, 2}
    assert len(counts) > 20
