"""What the store in PostgreSQL costs beside a SQLite file: ``python tests/examples/postgres_speed.py [SECONDS]``.

Starts a PostgreSQL server of its own in the temporary directory, on the disk of which both wait for each commit. All
that is compared runs in turns, five rounds of it, and the medians are printed. Locks or retries: ``Serializable`` is
the road that ``postgres.py`` does not take.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import queue
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import psycopg  # noqa: E402
from postgres import PostgresAdapter  # noqa: E402
from servers import postgres_server  # noqa: E402

from tinyauthstore import SQLiteAdapter, StorageError  # noqa: E402
from tinyauthstore.portable import copy  # noqa: E402

USERS = 1000


class Serializable(PostgresAdapter):
    """No lock: a sign-in that the server refuses, because others were at work, is tried again."""

    def _begin(self, depth: int, patience: float) -> None:
        if depth:
            super()._begin(depth, patience)
            return
        self._savepoints, self._writer = 0, self._writer or self._connect()
        self._write("BEGIN ISOLATION LEVEL SERIALIZABLE")

    def create_session(self, **fields: Any) -> Any:
        while True:
            try:
                return super().create_session(**fields)
            except StorageError as error:
                if not isinstance(error.__cause__, psycopg.errors.SerializationFailure):
                    raise
                time.sleep(random.random() / 500)


KINDS: dict[str, Any] = {"lock": PostgresAdapter, "serializable": Serializable, "sqlite": SQLiteAdapter}


def work(kind: str, place: str, job: str, seconds: float, ready: Any, answers: Any) -> None:
    """In a process of its own: do the job for so long, and answer how often it was done."""
    with KINDS[kind](place, timeout=60) as store:
        ids = [user.id for user in store.list_users(limit=USERS)]
        tokens = [store.create_session(user_id=random.choice(ids)).session_token for _ in range(20)]
        for token in tokens * 2:
            store.get_session_and_user(token)
        ready.wait(60)
        done, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            if job == "sign-ins":
                store.create_session(user_id=random.choice(ids))
            else:
                store.get_session_and_user(tokens[done % len(tokens)])
            done += 1
        answers.put(done)


def rate(kind: str, place: str, job: str, processes: int, seconds: float) -> float:
    """How often a second the job is done by so many processes together."""
    context = multiprocessing.get_context("spawn")
    ready, answers = context.Barrier(processes), context.Queue()
    given = (kind, place, job, seconds, ready, answers)
    crew = [context.Process(target=work, args=given) for _ in range(processes)]
    for one in crew:
        one.start()
    try:
        return sum(answers.get(timeout=120) for _ in crew) / seconds
    except queue.Empty:
        raise SystemExit("a process has not answered") from None
    finally:
        for one in crew:
            one.join(10)
            one.kill()


def main(seconds: float = 2.0, *, rounds: int = 5, crowd: int = 8) -> None:
    with postgres_server(fsync="on") as server, tempfile.TemporaryDirectory() as folder:
        conninfo = f"host={server} user=postgres"
        places = {"lock": conninfo, "serializable": conninfo, "sqlite": f"{folder}/auth.db"}
        with SQLiteAdapter(places["sqlite"]) as old, PostgresAdapter(conninfo) as new:
            with old.transaction():
                for _ in range(USERS):
                    user_id = old.create_user().id
                    for _ in range(9):
                        old.create_session(user_id=user_id)
            new.create_all()
            begun = time.perf_counter()
            moved = sum(copy(old, new).records)
            took = time.perf_counter() - begun
            [[version]] = new._rows("SHOW server_version")
        print(f"CPython {platform.python_version()}, psycopg {psycopg.__version__}, PostgreSQL {version},", end=" ")
        print(f"SQLite {sqlite3.sqlite_version}; {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
        print(f"copy from SQLite: {moved / took:,.0f} records a second")
        for job, processes in (("sign-ins", 1), ("sign-ins", crowd), ("look-ups", 1), ("look-ups", crowd)):
            kinds = KINDS if job == "sign-ins" else ("lock", "sqlite")
            figures = [
                {kind: rate(kind, places[kind], job, processes, seconds) for kind in kinds} for _ in range(rounds)
            ]
            for kind in kinds:
                seen = [one[kind] for one in figures]
                to_sqlite = statistics.median(one[kind] / one["sqlite"] for one in figures)
                print(f"{job}, {processes} processes, {kind}: {statistics.median(seen):,.0f} a second", end="")
                print(f" ({min(seen):,.0f} to {max(seen):,.0f}), {to_sqlite:.3g} times SQLite", flush=True)


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
