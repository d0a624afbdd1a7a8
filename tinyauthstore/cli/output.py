"""What the command line prints: tables, times, progress, questions.

Everything fits the terminal's width, 80 columns where there is none, and is cut with "..." where it does not. What
could steer a terminal is escaped. Colour is for terminals only, and not where NO_COLOR is set.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from ..clock import is_datetime, real_time
from ..models import Record, fields_of

PROGRESS_AFTER = 1.0
"""Seconds after which somebody who waits is told how far it is."""

# --- text that fits ---------------------------------------------------------------------------


def width() -> int:
    """How many columns a line may have."""
    return shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else 80


def clean(text: object) -> str:
    """Text on one line, in which what could steer a terminal, or cannot be seen, is escaped."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else repr(c)[1:-1] for c in text)


def columns(text: str) -> int:
    """How many columns of a terminal a text takes: two for East Asian wide characters, none for combining ones."""
    return len(text) if text.isascii() else sum(map(_columns_of, text))


def _columns_of(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: object, room: int) -> str:
    """``text``, cleaned, in at most ``room`` columns."""
    text = clean(text)
    if columns(text) <= room:
        return text
    dots, kept = "..."[: max(room, 0)], 0
    for end, character in enumerate(text):
        kept += _columns_of(character)
        if kept > room - len(dots):
            return text[:end] + dots
    return text


def padded(text: str, size: int) -> str:
    return text + " " * (size - columns(text))


def bold(text: str) -> str:
    plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain else f"\033[1m{text}\033[0m"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], flexible: Sequence[int]) -> None:
    """Print rows under a head, aligned. ``flexible``: the columns that are cut first if a line would be too long."""
    cells = [[clean(cell) for cell in row] for row in rows]
    room = width()
    widths = [min(max(map(columns, column)), room) for column in zip(head, *cells)]
    for cuttable in (flexible, range(len(widths))):
        while sum(widths) + 2 * (len(widths) - 1) > room:
            widest = max(cuttable, key=lambda i: widths[i])
            if widths[widest] <= 8:
                break
            widths[widest] -= 1
    print(bold("  ".join(map(padded, head, widths)).rstrip()))
    for row in cells:
        print("  ".join(padded(cut(cell, size), size) for cell, size in zip(row, widths)).rstrip())


def listing(rows: Iterable[tuple[str, object]]) -> None:
    """Print a value in each line, after its name."""
    rows = [(cut(name, 20), value) for name, value in rows]
    size = max(columns(name) for name, _ in rows)
    for name, value in rows:
        print(f"{padded(name, size)}  {cut(value, width() - size - 2)}".rstrip())


# --- values -----------------------------------------------------------------------------------


def when(moment: datetime | None) -> str:
    """A time in UTC, to the minute, with how far it is: ``2026-02-01 03:04 (in 30 d)``. "-" for None."""
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M} ({distance(moment)})"


def day(moment: datetime) -> str:
    """The same without hours and minutes, for tables that have no room: ``2026-02-01 (in 30 d)``."""
    return f"{moment:%Y-%m-%d} ({distance(moment)})"


def distance(moment: datetime) -> str:
    """``in 3 h``, ``2 d ago``, ``now``."""
    seconds = (moment - real_time()).total_seconds()
    size = abs(seconds)
    for unit, length in (("y", 365 * 86400), ("d", 86400), ("h", 3600), ("min", 60)):
        if size >= length:
            return f"in {size / length:.0f} {unit}" if seconds > 0 else f"{size / length:.0f} {unit} ago"
    return "now"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def hidden(record: Record) -> set[str]:
    """The fields that are secrets, as their model says by ``repr=False``."""
    declared: Any = type(record)
    return {f.name for f in fields(declared) if not f.repr}


def shown(record: Record) -> dict[str, Any]:
    """A record's fields as JSON has them, without secrets."""
    secret = hidden(record)
    return {
        f.name: None if (value := getattr(record, f.name)) is None else f.kind.to_json(value)
        for f in fields_of(type(record))
        if f.name not in secret
    }


def json_line(value: Any) -> None:
    """Print one object a line."""
    print(json.dumps(shown(value) if isinstance(value, Record) else value, default=_simple))


def _simple(value: Any) -> Any:
    return value.isoformat() if is_datetime(value) else str(value)


# --- beside the output ------------------------------------------------------------------------

IN_OPTIONS = {
    "merge=True": "--merge",
    "sessions=False": "--no-sessions",
    "secret=": "$TINYAUTHSTORE_SECRET",
    "into=": "--into",
    "open the store with a model that has": "let your application open it once, which adds them, or use `copy`",
}
"""What the options of functions, which errors name, are called here."""


def in_options(text: str) -> str:
    """A message of the package's as somebody at a command line knows it."""
    for option, here in IN_OPTIONS.items():
        text = text.replace(option, here)
    return text


def tell(text: str) -> None:
    """Say something beside the output, on standard error; where both go to one place, after it."""
    sys.stdout.flush()
    Progress.wipe()
    print(clean(text), file=sys.stderr, flush=True)


class Progress:
    """A line on the terminal, for whoever waits longer than a second: what, how much, how long. None in a pipe.

    It is called with how much is done. The line is wiped off when the block ends, or something else is told.
    """

    drawn = 0
    """How long the line is that stands on the terminal."""

    @classmethod
    def wipe(cls) -> None:
        if cls.drawn:
            print("\r" + " " * cls.drawn + "\r", end="", file=sys.stderr, flush=True)
            cls.drawn = 0

    def __init__(self, what: str, unit: str = "") -> None:
        self._what, self._unit, self._count, self._over = what, unit, 0, threading.Event()
        self._thread = threading.Thread(target=self._draw, daemon=True) if sys.stderr.isatty() else None

    def __call__(self, count: int) -> None:
        self._count = count

    def __enter__(self) -> Progress:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _draw(self) -> None:
        begin, wait = time.monotonic(), PROGRESS_AFTER
        while not self._over.wait(wait):
            passed = time.monotonic() - begin
            done = f"{self._count:,} {self._unit}, {self._count / passed:,.0f} a second, " if self._count else ""
            line = f"{self._what}: {done}{passed:.0f} s"
            print(f"\r{line:{Progress.drawn}}", end="", file=sys.stderr, flush=True)
            wait, Progress.drawn = 0.2, max(Progress.drawn, len(line))
        self.wipe()


def agreed(question: str, yes: bool, refuse: Callable[[str], Exception]) -> bool:
    """Whether the person says yes. ``refuse`` makes the error if there is no terminal to ask on."""
    if yes:
        return True
    if not (sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()):
        raise refuse(f"{question} There is nobody to ask here: say --yes")
    print(f"{clean(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    tell("nothing was changed")
    return False
