"""What the command line prints: tables, times, progress, questions.

Everything fits the terminal's width, 80 columns where there is none, and is cut with "..." where it does not.
Colour is for terminals only, and not where NO_COLOR is set.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from ..clock import is_datetime, real_time
from ..models import Record, fields_of

PROGRESS_AFTER = 1.0
"""Seconds after which somebody who waits is told how far it is."""


def width() -> int:
    """How many columns a line may have."""
    return shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else 80


def cut(text: str, room: int) -> str:
    """``text`` on one line, in at most ``room`` columns; what cannot be printed is escaped."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= room else text[: max(room - 3, 0)] + "..."[: max(room, 0)]


def bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


def table(head: Sequence[str], rows: Iterable[Sequence[str]], flexible: Sequence[int]) -> None:
    """Print rows under a head, aligned. ``flexible``: the columns that are cut if a line would be too long."""
    cells = [[cut(cell, 10_000) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells)]
    while sum(widths) + 2 * (len(widths) - 1) > width():
        widest = max(flexible, key=lambda i: widths[i])
        if widths[widest] <= 8:
            break
        widths[widest] -= 1
    print(bold("  ".join(name.ljust(size) for name, size in zip(head, widths)).rstrip()))
    for row in cells:
        print("  ".join(cut(cell, size).ljust(size) for cell, size in zip(row, widths)).rstrip())


def when(moment: datetime | None) -> str:
    """A time in UTC, to the minute, with how far it is: ``2026-02-01 03:04 (in 30 d)``. "-" for None."""
    if moment is None:
        return "-"
    return f"{moment:%Y-%m-%d %H:%M} ({distance((moment - real_time()).total_seconds())})"


def distance(seconds: float) -> str:
    """``in 3 h``, ``2 d ago``, ``now``."""
    size = abs(seconds)
    for unit, length in (("y", 365 * 86400), ("d", 86400), ("h", 3600), ("min", 60)):
        if size >= length:
            return f"in {size / length:.0f} {unit}" if seconds > 0 else f"{size / length:.0f} {unit} ago"
    return "now"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def shown(record: Record) -> dict[str, Any]:
    """A record's fields as JSON has them, without secrets."""
    declared: Any = type(record)
    secret = {f.name for f in fields(declared) if not f.repr}
    kinds = {f.name: f.kind for f in fields_of(type(record))}
    return {
        name: None if (value := getattr(record, name)) is None else kind.to_json(value)
        for name, kind in kinds.items()
        if name not in secret
    }


def json_line(value: Any) -> None:
    """Print one object a line."""
    print(json.dumps(shown(value) if isinstance(value, Record) else value, default=_simple))


def _simple(value: Any) -> Any:
    return value.isoformat() if is_datetime(value) else str(value)


def tell(text: str) -> None:
    """Say something beside the output: on standard error."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """A line on the terminal that counts, for whoever waits longer than a second. Nothing in a pipe."""

    def __init__(self, what: str) -> None:
        self._what, self._begin, self._last, self._drawn = what, time.monotonic(), 0.0, False

    def __call__(self, count: int) -> None:
        now = time.monotonic()
        if sys.stderr.isatty() and now - self._begin > PROGRESS_AFTER and now - self._last > 0.1:
            rate = count / (now - self._begin)
            print(f"\r{count:,} {self._what}, {rate:,.0f} a second", end="", file=sys.stderr, flush=True)
            self._last, self._drawn = now, True

    def done(self) -> None:
        """Wipe the line off."""
        if self._drawn:
            print("\r" + " " * 60 + "\r", end="", file=sys.stderr, flush=True)


def agreed(question: str, yes: bool, refuse: Callable[[str], Exception]) -> bool:
    """Whether the person says yes. ``refuse`` makes the error if there is no terminal to ask on."""
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise refuse(f"{question} There is nobody to ask here: say --yes")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
