"""What was measured, as a table for people, as JSON for programs, and where it was measured."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sqlite3
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tinyauthstore import SQLiteAdapter, __version__

from .measure import PASSES, Bar, Row, Section
from .workshop import Plan, users_of

WIDTHS = {"what": 36, "ratio": 5, "time": 7, "spread": 13, "bar": 9, "": 4}
"""The columns of a table, with a space between them: they fit into 80 characters."""

WIDTH = sum(WIDTHS.values()) + len(WIDTHS) - 1


@dataclass
class Report:
    """A whole run."""

    environment: dict[str, Any]
    sections: list[Section] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        """The rows of all sections."""
        return [row for section in self.sections for row in section.rows]

    def to_json(self) -> str:
        """Every figure of every round, and what follows from them."""
        sections = []
        for section in self.sections:
            rows = [
                dataclasses.asdict(row)
                | {"figure": row.figure if row.figures else None, "ratio": row.ratio, "passed": row.passed}
                for row in section.rows
            ]
            sections.append({**dataclasses.asdict(section), "rows": rows})
        return json.dumps({"environment": self.environment, "sections": sections}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that ``to_json`` wrote."""
        document = json.loads(text)
        sections = []
        for section in document["sections"]:
            rows = []
            for row in section["rows"]:
                values = {f.name: row[f.name] for f in dataclasses.fields(Row)}
                rows.append(Row(**{**values, "bar": Bar(**row["bar"]) if row["bar"] else None}))
            sections.append(Section(**{**section, "rows": rows}))
        return cls(document["environment"], sections)


# --- the table --------------------------------------------------------------------------------


def number(value: float) -> str:
    """Two or three digits that mean something."""
    for limit, form in ((100, ",.0f"), (10, ".1f"), (0.1, ".2f")):
        if value >= limit:
            return format(value, form)
    return format(value, ".3f")


UNITS = {
    "ns": ((1e9, "s"), (1e6, "ms"), (1e3, "us"), (1, "ns")),
    "bytes": ((1e6, "MB"), (1e3, "kB"), (1, "B")),
}


def scale(value: float, unit: str) -> tuple[float, str]:
    """The step of a unit in which ``value`` is easy to read, and its name."""
    return next((step for step in UNITS[unit] if value >= step[0]), UNITS[unit][-1])


def quantity(value: float, unit: str = "ns", *, round: bool = False) -> str:
    """Nanoseconds or bytes, in a unit that fits; a round number without what stands behind its point."""
    step, name = scale(value, unit)
    return f"{format(value / step, 'g') if round else number(value / step)} {name}"


def bar_text(bar: Bar) -> str:
    """``<= 0.5``, ``<= 50 us``, ``>= 10``."""
    limit = quantity(bar.limit, round=True) if bar.of == "time" else f"{bar.limit:g}"
    return f"{'>=' if bar.at_least else '<='} {limit}"


def spread(row: Row) -> str:
    """The smallest and the largest of the rounds: of the ratios, or for a floor of its own figures."""
    values = row.ratios or [figure / scale(row.figure, row.unit)[0] for figure in row.figures]
    return f"{number(min(values))}..{number(max(values))}" if len(set(values)) > 1 else ""


def verdict(row: Row) -> str:
    """``pass`` or ``MISS``; nothing where there is no bar."""
    return {True: "pass", False: "MISS", None: ""}[row.passed]


def table(section: Section) -> Iterator[str]:
    """The lines of a section: the ratio to the floor first, the absolute figure second."""
    first = section.rows[0]
    yield section.title
    yield _line("" if section.floor == first.name else f"to {section.floor}", *list(WIDTHS)[1:])
    for row in section.rows:
        if not row.figures:
            yield _line(row.name, row.note)
            continue
        ratio = number(row.ratio) if row.ratio is not None else "floor" if row is first else "-"
        bar = bar_text(row.bar) if row.bar else ""
        yield _line(row.name, ratio, quantity(row.figure, row.unit), spread(row), bar, verdict(row))


def _line(name: str, *cells: str) -> str:
    what, *widths = WIDTHS.values()
    padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths)]
    return " ".join([f"  {name:<{what - 2}}", *padded]).rstrip()


def summary(report: Report) -> Iterator[str]:
    """How many bars were met, and which were not."""
    judged = [(section, row) for section in report.sections for row in section.rows if row.passed is not None]
    missed = [(section, row) for section, row in judged if not row.passed]
    yield f"Bars: {len(judged) - len(missed)} of {len(judged)} met" + (", missed:" if missed else ".")
    for section, row in missed:
        assert row.bar is not None
        reached = quantity(row.figure) if row.bar.of == "time" else number(row.ratio or 0)
        told = f"{reached} where {bar_text(row.bar)} was wanted: {row.name} ({section.title})"
        yield from textwrap.wrap(told, WIDTH, initial_indent="  ", subsequent_indent="    ")


# --- the place --------------------------------------------------------------------------------


def environment(folder: Path, plan: Plan) -> dict[str, Any]:
    """Where and with what this is measured: asked of a real store in that folder, not assumed."""
    with SQLiteAdapter(folder / "probe") as store:
        asked = {name: store._run(f"PRAGMA {name}")[0][0] for name in ("journal_mode", "synchronous")}
    return {
        "tinyauthstore": __version__,
        "measured": datetime.now(UTC).strftime("%Y-%m-%d"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
        "journal_mode": asked["journal_mode"],
        "synchronous": {0: "off", 1: "normal", 2: "full", 3: "extra"}[asked["synchronous"]],
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "filesystem": _filesystem(folder),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "sessions": plan.sessions,
        "users": users_of(plan.sessions),
        "plan": dataclasses.asdict(plan),
    }


def environment_lines(environment: dict[str, Any], width: int = WIDTH) -> list[str]:
    """The same to be read, in lines that fit."""
    plan, load = environment["plan"], environment["load"]
    text = (
        f"tinyauthstore {environment['tinyauthstore']}, {environment['python']}, SQLite"
        f" {environment['sqlite']} (journal_mode={environment['journal_mode']},"
        f" synchronous={environment['synchronous']}),"
        f" {environment['system']}, {environment['cpus']} x {environment['cpu']}, files on"
        f" {environment['filesystem']}{'' if load is None else f', load {load} at the start'}."
        f" {environment['sessions']:,} sessions of {environment['users']:,} users unless a row says"
        f" otherwise; medians of {plan['rounds']} rounds ({plan['few_rounds']} of what takes long),"
        f" {plan['look_ups']:,} keys {PASSES} times or {plan['writes']:,} writes in each;"
        " spread: smallest..largest round."
    )
    return textwrap.wrap(text, width)


def _cpu() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "CPU"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "CPU")


def _filesystem(folder: Path) -> str:
    """The kind of file system below the files: an fsync on tmpfs costs, and means, nothing."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "an unknown file system"
    above = [(len(point), kind) for _, point, kind, *_ in mounts if folder.resolve().is_relative_to(point)]
    return max(above)[1] if above else "an unknown file system"
