"""The command line, ``tinyauthstore COMMAND``: a window into any store, and ways in and out.

``commands.py`` has a function for each command, ``targets.py`` opens the store, ``output.py`` prints, ``demo.py`` is
the tour. Exit statuses: 0 fine; 1 something was found, or what was asked for was not; 2 wrong use; 3 the store or a
file is out of reach; 130 interrupted.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from .. import __version__
from ..errors import (
    AuthStoreError, BusyError, ConflictError, InvalidFieldError, NotFoundError, StorageError, TransferError,
)

FOUND, WRONG, OUT_OF_REACH, INTERRUPTED = 1, 2, 3, 130

Add = Callable[..., argparse.ArgumentParser]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status; an error is one line on standard error."""
    try:
        sys.stderr = sys.stderr or open(os.devnull, "w")  # closed (2>&-); print() would take standard output
        if sys.stdout is None:
            return _failed("standard output is closed", OUT_OF_REACH)
        _print_anything()
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader has seen enough: `tinyauthstore users | head`
        _forget_output()
        return 0
    except KeyboardInterrupt:
        _forget_output()
        return _failed("interrupted; nothing is half done", INTERRUPTED)
    except BusyError as error:
        return _failed(f"{error.path} is locked by another process; try again when that is done", OUT_OF_REACH)
    except StorageError as error:
        return _failed(error, OUT_OF_REACH)
    except (NotFoundError, TransferError, ConflictError, InvalidFieldError) as error:
        return _failed(error, WRONG if isinstance(error, TransferError) and not error.line else FOUND)
    except (AuthStoreError, ValueError, TypeError) as error:
        return _failed(error, WRONG)
    except OSError as error:
        if error.filename is None:  # it may be standard output's
            _forget_output()
        where = f"{error.filename}: " if error.filename else ""
        return _failed(f"{where}{error.strerror or error}", OUT_OF_REACH)
    except Exception as error:  # its text may hold anything
        *_, place = traceback.walk_tb(error.__traceback__)
        where = f"{os.path.basename(place[0].f_code.co_filename)}, line {place[1]}"
        return _failed(f"{type(error).__name__} in {where}, which should not be; please report it", OUT_OF_REACH)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        given = _parser().parse_args(arguments)
    except SystemExit as done:  # --help, --version
        return int(done.code or 0)
    return given.run(given) or 0


def _failed(error: object, status: int) -> int:
    from ..adapters import TARGETS
    from .output import clean, in_options

    text = str(error).replace(f"\n{TARGETS}", " sqlite:///auth.db, shelve:auth and memory:")
    print(f"tinyauthstore: {clean(in_options(text))}", file=sys.stderr)
    return status


def _print_anything() -> None:
    """Let no name that a terminal's encoding lacks end a command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _forget_output() -> None:
    """Let what is still to be printed go nowhere, so that the interpreter does not complain at its end."""
    with suppress(OSError, AttributeError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


class Parser(argparse.ArgumentParser):
    """Its errors are one line."""

    def error(self, message: str) -> NoReturn:
        from .targets import Wrong

        # What was typed in the wrong place may be a URL, and have a password in it.
        message = re.sub(r"(?<=\?)[^\s']+|(?<=://)[^\s/@']+(?=@)", "...", message)
        message = re.sub(r"(COMMAND: invalid choice: .*?) \(choose from .*", r"\1", message)
        raise Wrong(f"{message}; see {self.prog} --help")


@functools.cache
def _parser() -> argparse.ArgumentParser:
    from . import commands
    from .targets import FORMS

    # -s may stand before the command or after it, where it must not wipe out what stood before.
    store = {"metavar": "TARGET", "help": "the store; default: $TINYAUTHSTORE_URL"}
    after = Parser(add_help=False)
    after.add_argument("-s", "--store", default=argparse.SUPPRESS, **store)  # type: ignore[arg-type]
    parser = Parser(
        prog="tinyauthstore",
        description="Users, sessions, linked accounts, links and passkeys in one small file.",
        epilog=f"{FORMS}\n\nExit status: 0 fine, 1 something found or not found, 2 wrong use, 3 store\nout of reach.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tinyauthstore {__version__}")
    parser.add_argument("-s", "--store", default=None, **store)  # type: ignore[arg-type]
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, run: Any, what: str, example: str, *, needs_store: bool = True) -> argparse.ArgumentParser:
        command = subparsers.add_parser(
            name,
            help=what,
            description=f"{what[0].upper()}{what[1:]}.",
            epilog=f"example:\n  {example}",
            parents=[after] if needs_store else [],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        return command

    _add_making(add, commands)
    _add_looking(add, commands)
    _add_ending(add, commands)
    _add_files(add, commands)
    _add_others(add, commands)
    return parser


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="one JSON object a line")


def _yes(command: argparse.ArgumentParser) -> None:
    command.add_argument("-y", "--yes", action="store_true", help="do not ask; needed where there is no terminal")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text[:19]) < 2**62):
        raise argparse.ArgumentTypeError(f"a number from 1 on, not {text[:40]!r}")
    return int(text)


def _add_making(add: Add, commands: Any) -> None:
    add("init", commands.init, "make a new store", "tinyauthstore -s auth.db init")
    migrate = add(
        "migrate", commands.migrate, "say what an older store lacks, and add it", "tinyauthstore -s auth.db migrate"
    )
    migrate.add_argument("-n", "--dry-run", action="store_true", help="only say it; exit status 1 if there is something")
    _yes(migrate)
    _json(migrate)


def _add_looking(add: Add, commands: Any) -> None:
    _json(add("stats", commands.stats, "how much is there", "tinyauthstore -s auth.db stats"))
    users = add("users", commands.users, "list users, by id", "tinyauthstore -s auth.db users --prefix ada")
    users.add_argument("--limit", type=_count, default=100, metavar="N", help="at most N (default: 100)")
    users.add_argument("--after", metavar="ID", help="those after this id: the next page")
    users.add_argument("--prefix", metavar="TEXT", help="those whose address begins so")
    _json(users)
    show = add("show", commands.show, "show a user", "tinyauthstore -s auth.db show ada@example.com")
    show.add_argument("user", metavar="USER", help="an id or an address")
    _json(show)
    sessions = add("sessions", commands.sessions, "list live sessions", "tinyauthstore -s auth.db sessions")
    sessions.add_argument("user", metavar="USER", nargs="?", help="an id or an address; default: everybody")
    sessions.add_argument("--limit", type=_count, default=100, metavar="N", help="at most N (default: 100)")
    _json(sessions)
    _json(add("check", commands.check, "look for damage", "tinyauthstore -s auth.db check"))


def _add_ending(add: Add, commands: Any) -> None:
    sign_in = add(
        "sign-in", commands.sign_in, "make a session and print its cookie, for development",
        "tinyauthstore -s auth.db sign-in ada@example.com",
    )  # fmt: skip
    sign_in.add_argument("user", metavar="USER", help="an id or an address")
    sign_in.add_argument("--name", help="the cookie's name (default: by the store's layout)")
    sign_in.add_argument("--site", metavar="URL", help="where the cookie is for: says how to set it there")
    revoke = add(
        "revoke", commands.revoke, "end a session, or all sessions of a user",
        "tinyauthstore -s auth.db revoke ada@example.com --yes",
    )  # fmt: skip
    revoke.add_argument("what", metavar="USER|SESSION", help="a user's id or address, or a session's id")
    delete = add(
        "delete-user", commands.delete_user, "delete a user and all that belongs to them",
        "tinyauthstore -s auth.db delete-user ada@example.com --yes",
    )  # fmt: skip
    delete.add_argument("user", metavar="USER", help="an id or an address")
    purge = add("purge", commands.purge, "remove what has expired", "tinyauthstore -s auth.db purge --yes")
    for command in (revoke, delete, purge):
        _yes(command)
    for command in (sign_in, revoke, delete, purge):
        _json(command)


def _add_files(add: Add, commands: Any) -> None:
    from .. import exports

    backup = add(
        "backup", commands.backup, "copy the store to a new file, while others use it",
        "tinyauthstore -s auth.db backup auth-backup.db",
    )  # fmt: skip
    backup.add_argument("file", metavar="FILE", help="must not exist; of a shelf, a directory is made")
    restore = add(
        "restore", commands.restore, "replace all that the store holds by a backup, or make it anew from one",
        "tinyauthstore -s auth.db restore auth-backup.db --yes",
    )  # fmt: skip
    restore.add_argument("file", metavar="FILE", help="what `backup` wrote")
    _yes(restore)
    add("compact", commands.compact, "rewrite the file without unused room", "tinyauthstore -s auth.db compact")
    dump = add("dump", commands.dump, "write all records as JSON Lines", "tinyauthstore -s auth.db dump dump.jsonl")
    dump.add_argument("file", metavar="FILE", nargs="?", default="-", help="a new file (default: standard output)")
    dump.add_argument("--oauth-tokens", action="store_true", help="with the accounts' OAuth tokens and extra")
    load = add("load", commands.load, "read what `dump` wrote", "tinyauthstore -s new.db load dump.jsonl")
    load.add_argument("file", metavar="FILE", nargs="?", default="-", help="default: standard input")
    copy = add("copy", commands.copy, "copy all into another store", "tinyauthstore -s auth.db copy shelve:auth")
    copy.add_argument("target", metavar="TARGET", help="a store, or the name of a new one")
    for command in (load, copy):
        command.add_argument("--merge", action="store_true", help="into a store that is not empty")
        _json(command)
    for command in (dump, load, copy):
        command.add_argument("--no-sessions", action="store_true", help="leave out sessions and verification tokens")
    export = add(
        "export", commands.export, "write all records for another system",
        "tinyauthstore -s auth.db export postgres users.sql",
    )  # fmt: skip
    export.add_argument("format", metavar="FORMAT", help=f"one of {', '.join(exports.FORMATS)}")
    export.add_argument("file", metavar="FILE", nargs="?", default="-", help="a new file (default: standard output)")
    export.add_argument("--tool", help=f"whose tables in postgres: {', '.join(exports.TOOLS)} (default: pg)")
    export.add_argument("--into", metavar="NAME", help="DynamoDB's table, or the prefix of keys in Redis")


def _add_others(add: Add, commands: Any) -> None:
    from ..adapters import TARGETS
    from .demo import run_demo

    layouts = add(
        "layouts", commands.list_layouts, "list the layouts of other libraries, or name a file's",
        "tinyauthstore layouts app.db", needs_store=False,
    )  # fmt: skip
    layouts.add_argument("file", metavar="FILE", nargs="?", help="a SQLite file")
    _json(layouts)
    demo = add(
        "demo", lambda given: run_demo(given.target),
        "sign somebody up, in, and out again, and show what the store answers", "tinyauthstore demo", needs_store=False,
    )  # fmt: skip
    demo.description = "Walks through the whole contract on a real store, in about a second."
    demo.epilog = f"example:\n  tinyauthstore demo\n\nTARGET is what connect() takes:\n{TARGETS}"
    demo.add_argument(
        "target", metavar="TARGET", nargs="?", help="a new, empty store; default: a temporary SQLite file"
    )
