"""``python -m benchmarks``: measure, print a table, and where asked write JSON and a drawing."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from . import svg
from .groups import GROUPS
from .report import Report, environment, environment_lines, summary, table
from .workshop import FULL, QUICK, Plan, Workshop


def main(arguments: Sequence[str] | None = None, plan: Plan | None = None) -> int:
    """Run the command line; the exit status is 0, or with ``--strict`` 1 where a bar was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="What tinyauthstore costs, against floors measured in the same run.",
        epilog="Files are made in the temporary directory (TMPDIR): its disk is the one that is measured.",
    )
    parser.add_argument("--quick", action="store_true", help="less than a minute, instead of less than ten")
    parser.add_argument("--json", metavar="FILE", type=_new_file, help="write every figure of every round")
    parser.add_argument("--svg", metavar="FILE", type=_new_file, help="draw two charts")
    parser.add_argument(
        "--peers", action="store_true", help="also measure other libraries that are installed"
    )
    parser.add_argument(
        "--only", metavar="GROUP", nargs="+", choices=GROUPS, help=f"only these groups: {', '.join(GROUPS)}"
    )
    parser.add_argument("--strict", action="store_true", help="exit with status 1 if a bar is missed")
    parser.add_argument(
        "--from",
        dest="earlier",
        metavar="FILE",
        type=Path,
        help="measure nothing; print and draw what an earlier --json FILE holds",
    )
    given = parser.parse_args(arguments)
    try:
        if given.earlier is not None:
            report = _shown(given.earlier)
        else:
            groups = given.only or [name for name in GROUPS if name != "peers" or given.peers]
            report = _measured(groups, plan or (QUICK if given.quick else FULL))
        print("\n".join(["", *summary(report)]), flush=True)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if given.json is not None:
        given.json.write_text(report.to_json(), encoding="utf-8")
    if given.svg is not None:
        given.svg.write_text(svg.drawing(report), encoding="utf-8")
    return int(given.strict and any(row.passed is False for row in report.rows))


def _new_file(text: str) -> Path:
    """A path that can be written to: better known before measuring for ten minutes than after."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: not a file in a directory that exists")
    return path


def _shown(earlier: Path) -> Report:
    report = Report.from_json(earlier.read_text(encoding="utf-8"))
    print("\n".join(environment_lines(report.environment)))
    for section in report.sections:
        print("\n".join(["", *table(section)]))
    return report


def _measured(groups: Sequence[str], plan: Plan) -> Report:
    """Run the groups, printing each table as soon as it is there."""
    progress = _Progress()
    with tempfile.TemporaryDirectory(prefix="tinyauthstore-benchmarks-") as name:
        folder = Path(name)
        report = Report(environment(folder, plan))
        print("\n".join(environment_lines(report.environment)), flush=True)
        shop = Workshop(plan, folder, progress.show)
        for group in groups:
            with shop:
                progress.show(group)
                for section in GROUPS[group](shop):
                    progress.clear()
                    print("\n".join(["", *table(section)]), flush=True)
                    report.sections.append(dataclasses.replace(section, group=group))
                    progress.show(group)
        progress.clear()
    return report


class _Progress:
    """One line on a terminal's standard error that says what is being done; nothing in a pipe."""

    def __init__(self) -> None:
        self._on = sys.stderr.isatty()

    def show(self, step: str) -> None:
        if self._on:
            print(f"\r\x1b[K{step} ...", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._on:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
