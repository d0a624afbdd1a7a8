"""Other processes at work: started fresh (never forked), told what to do through a pipe."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any

from tinyauthstore import SQLiteAdapter

from .workshop import MONTH, NOW, token

SPAWN = multiprocessing.get_context("spawn")


@contextmanager
def helper(target: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    """A process that runs ``target(pipe, *arguments)``; yields our end of the pipe when it says "ready".

    It ends when it is sent None.
    """
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_deaf, args=(target, theirs, *arguments), daemon=True)
    process.start()
    theirs.close()  # the child has its own: if it dies, recv() fails here instead of waiting for ever
    try:
        ours.recv()
        yield ours
        ours.send(None)
        process.join()
    finally:
        process.kill()
        process.join()
        process.close()
        ours.close()


def _deaf(target: Callable[..., None], *arguments: Any) -> None:
    """Run in the child, leaving Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    target(*arguments)


def write_steadily(pipe: Connection, path: Path, rate: float) -> None:
    """Commit ``rate`` times a second, until a message comes; sends back how many it really did a second."""
    # "normal", so that disks with a slow fsync reach the rate too: readers are concerned with commits.
    with SQLiteAdapter(path, durability="normal", purge_interval=None) as store:
        pipe.send("ready")
        start, done = perf_counter(), 0
        while not pipe.poll(max(0.0, start + (done + 1) / rate - perf_counter()) if rate else None):
            store.update_session(token(0), expires=NOW + MONTH * (1 + done % 2))
            done += 1
        pipe.send(done / (perf_counter() - start))
        pipe.recv()
        pipe.recv()
