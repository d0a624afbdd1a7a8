"""What each command of the command line does, over every kind of store.

``main`` is called in this process; what needs a process, a pipe or a terminal of its own is in ``test_cli``.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import functools
import hashlib
import hmac
import io
import json
import os
import random
import re
import resource
import shlex
import shutil
import signal
import sqlite3
import string
import sys
import unicodedata
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote

import pytest
from support import PATIENCE, furnish, start_python, state

from tinyauthstore import (
    Account, Authenticator, MemoryAdapter, Session, ShelveAdapter, SQLiteAdapter, User, VerificationToken, exports, layouts,
    portable,
)
from tinyauthstore.cli import main, output, targets
from tinyauthstore.reshape import Changes

FILES = Path(__file__).parent / "files"
ADA = "ada@example.com"


class Role(enum.Enum):
    ADMIN = "admin"
    MEMBER = "member"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Member(User):
    """One field of every kind."""

    plan: Literal["free", "pro"] = "free"
    role: Role = Role.MEMBER
    level: Literal[1, 2, 3] | None = None
    joined: datetime = dataclasses.field(default_factory=lambda: datetime(2026, 2, 1, 3, 4, 5, 678, UTC))
    since: datetime = datetime(2026, 2, 1, tzinfo=UTC)
    seen: datetime | None = None
    likes: dict[str, Any] = dataclasses.field(default_factory=dict)
    tags: list[Any] = dataclasses.field(default_factory=lambda: ["new"])
    note: str | None = None
    age: int | None = None
    ratio: float = 0.5
    on: bool = True
    blob: bytes = b"\0\xff"
    password_hash: str | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Device(Session):
    ip: str = "-"


MODELS: dict[str, Any] = {"user": Member, "session": Device}


class Run(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def objects(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Cli = Callable[..., Run]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command line in an empty directory. An error must be one line, and nothing may show a secret, but for
    what ``all`` records are written to."""
    monkeypatch.chdir(tmp_path)
    for name in (targets.URL, targets.SECRET):
        monkeypatch.delenv(name, raising=False)

    def run(line: str, status: int | None = 0, stdin: bytes | None = None, all: bool = False) -> Run:
        if stdin is not None:
            (tmp_path.parent / "stdin").write_bytes(stdin)
            monkeypatch.setattr("sys.stdin", (tmp_path.parent / "stdin").open())
        done = Run(main(shlex.split(line)), *capsys.readouterr())
        if stdin is not None:
            sys.stdin.close()
            monkeypatch.setattr("sys.stdin", io.StringIO())
        assert status in (None, done.status), (line, done)
        assert "Traceback" not in done.err and SECRET not in done.err + ("" if all else done.out)
        if done.status >= 2:
            assert re.fullmatch(r"(left out: .*\n)*tinyauthstore: [^\n]+\n", done.err), (line, done)
        return done

    monkeypatch.setattr("sys.stdin", io.StringIO())
    return run


SECRET = "-".join(["never", "to", "be", "told"])


def fill(store: Any) -> None:
    furnish(store)
    store.create_user(id="grace", email="grace@example.com", name="Grace Hopper")
    store.create_session(user_id="grace", session_token=SECRET)
    store.create_verification_token(identifier="grace@example.com", token=SECRET)
    store.link_account(
        user_id="grace", type="oidc", provider="google", provider_account_id="7", access_token=SECRET, more=SECRET
    )


def make_ours(target: str) -> None:
    with SQLiteAdapter(target) as store:
        fill(store)


def make_custom(target: str) -> None:
    with SQLiteAdapter(target, **MODELS) as store:
        fill(store)
        store.update_user("ada", plan="pro", likes={"tea": [1, None]}, password_hash=SECRET)


def make_shelf(target: str) -> None:
    with ShelveAdapter(target, **MODELS) as store:
        fill(store)


def make_theirs(name: str, target: str) -> None:
    shutil.copy(FILES / "authjs" / name, target)
    with SQLiteAdapter(target, synchronize=False, schema=layouts.detect(target)) as store:
        user = store.get_user_by_email(ADA)
        assert user is not None
        store.create_session(user_id=user.id, session_token=SECRET)


THEIRS = [path.name for path in sorted((FILES / "authjs").glob("*.sqlite"))]
KINDS: dict[str, Callable[[str], None]] = {
    "ours": make_ours, "custom": make_custom, "shelf": make_shelf,
    **{name: functools.partial(make_theirs, name) for name in THEIRS},
}  # fmt: skip
each_kind = pytest.mark.parametrize("kind", KINDS)

def files(folder: Path) -> dict[str, bytes | None]:
    """Every file, with its content, and directory below a folder."""
    found = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in found}


# --- every command, every kind of store -------------------------------------------------------

LOOKING = [
    "stats", "stats --json", "users", "users --json", "users --limit 1", f"show {ADA}", f"show {ADA} --json", "sessions",
    "sessions --json", f"sessions {ADA}", "check", "check --json", "migrate", "migrate --dry-run --json",
]  # fmt: skip
WRITING_ALL = ["dump", *(f"export {format}" for format in exports.FORMATS)]


@each_kind
def test_looking_changes_nothing_and_leaves_nothing(kind: str, cli: Cli, tmp_path: Path) -> None:
    KINDS[kind]("store")
    before = files(tmp_path)
    for command in LOOKING:
        cli(f"-s store {command}")
    for command in WRITING_ALL if kind in ("ours", "prisma.sqlite") else WRITING_ALL[:2]:
        done = cli(f"-s store {command}", None, all=True)
        refused = done.status == 1 and "nothing was written" in done.err  # MongoDB, and some tools, have ids of their own
        assert refused or done.status == 0 and re.search("^(dumped|exported) ", done.err, re.MULTILINE)
    assert files(tmp_path) == before


@each_kind
def test_each_command_that_writes_does_so(kind: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(targets.URL, "store")
    KINDS[kind]("store")
    before = cli("stats --json").objects[0]
    if kind.startswith("better"):
        monkeypatch.setenv(targets.SECRET, "better-auth-secret")
    made = cli(f"sign-in {ADA} --json").objects[0]
    assert made["id"] in cli(f"sessions {ADA}").out
    assert cli(f"revoke {made['id']} --yes").out == "ended 1 session\n"
    assert made["id"] not in cli(f"sessions {ADA}").out
    assert cli("backup backup").err == "wrote backup\n"
    assert cli(f"revoke {ADA} --yes --json").objects[0]["sessions"] >= 1
    assert cli(f"delete-user {ADA} --yes").out.startswith("deleted ")
    cli(f"show {ADA}", 1)
    cli("purge --yes")
    cli("compact")
    assert cli("check").out == "sound\n"
    assert "restored backup: " in cli("restore backup --yes").err
    after = cli("stats --json").objects[0]
    assert {**after, "bytes": 0} == {**before, "bytes": 0}


@each_kind
def test_a_store_is_copied_with_all_that_another_can_hold(kind: str, cli: Cli) -> None:
    KINDS[kind]("store")
    counts = cli("-s store stats --json").objects[0]
    for target in ("new.db", "shelve:new"):
        told = cli(f"-s store copy {target}")
        copied = cli(f"-s {target} stats --json").objects[0]
        assert "cannot stand for each other" not in told.err
        for name in ("users", "accounts", "sessions", "authenticators"):
            assert copied[name] == counts[name], name
        assert {*copied["custom_fields"]} == {*counts["custom_fields"]}


@each_kind
def test_a_dump_of_any_store_has_no_token(kind: str, cli: Cli) -> None:
    KINDS[kind]("store")
    dumped = cli("-s store dump", all=True)
    assert dumped.objects[-1]["end"]["users"] >= 2
    assert [one for one in dumped.objects[1:-1] if SECRET in str(one) and "password_hash" not in one["fields"]] == []


@pytest.mark.parametrize("kind", ["ours", "shelf"])
def test_a_dump_that_is_loaded_and_dumped_is_the_same(kind: str, cli: Cli, tmp_path: Path) -> None:
    with (SQLiteAdapter if kind == "ours" else ShelveAdapter)("store") as store:
        furnish(store)
    cli("-s store dump one.jsonl --oauth-tokens")
    cli("-s shelve:new init")
    assert cli("-s shelve:new load one.jsonl --json").objects[0]["records"]["users"] == 1
    cli("-s shelve:new dump two.jsonl --oauth-tokens")
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    assert (tmp_path / "one.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_dump_is_loaded_from_standard_input(cli: Cli) -> None:
    make_ours("store")
    dumped = cli("-s store dump").out
    cli("-s new.db init")
    assert cli("-s new.db load", stdin=dumped.encode()).err.startswith("loaded 2 users, 2 accounts, 2 sessions")


def test_people_stay_signed_in_when_a_store_is_copied(cli: Cli) -> None:
    make_ours("store")
    token = cli(f"-s store sign-in {ADA} --json").objects[0]["value"]
    cli("-s store copy shelve:new")
    with ShelveAdapter("new") as store:
        assert store.get_session_and_user(token)


# --- which store ------------------------------------------------------------------------------


def test_the_store_may_be_named_before_or_after_the_command_or_in_the_environment(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_ours("store")
    lines = ["-s store users", "users -s store", "users --store=store", "-s nowhere users -s store", "--store sqlite:///store users"]
    found = {cli(line).out for line in lines}
    monkeypatch.setenv(targets.URL, "store")
    assert found == {cli("users").out}
    monkeypatch.setenv(targets.URL, "nowhere")
    assert found == {cli("-s store users").out}


def test_without_a_store_it_is_said_how_one_is_named(cli: Cli) -> None:
    assert cli("users", 2).err == "tinyauthstore: which store? Say -s TARGET, such as -s auth.db, or set $TINYAUTHSTORE_URL\n"


def test_a_new_store_is_a_file_or_with_a_slash_a_shelf(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    inode = (tmp_path / "empty").stat().st_ino
    made = {"a.db": SQLiteAdapter, "b/": ShelveAdapter, "shelve:c": ShelveAdapter, "sqlite:///d": SQLiteAdapter, "empty": ShelveAdapter}
    for target, kind in made.items():
        path = targets.place(target)[1].rstrip("/")
        assert cli(f"-s {target} init").out == f"made {tmp_path / path}\n"
        with kind(path) as store:
            assert store.count().users == 0
    assert (tmp_path / "empty").stat().st_ino == inode  # whoever made it chose its place and owner
    assert (tmp_path / "a.db").stat().st_mode & 0o777 == 0o600


WRONG = {
    "frob": 2,
    "": 2,
    "-s store": 2,
    "-s": 2,
    "-s store users extra": 2,
    "-s store users --limit 0": 2,
    "-s store users --limit x": 2,
    "-s nowhere.db users": 3,
    "-s nowhere/x.db users": 3,
    "-s nowhere/x.db init": 3,
    "-s folder users": 3,
    "-s begun users": 3,
    "-s empty users": 3,
    "-s text users": 3,
    "layouts text": 3,
    "layouts shelf": 3,
    "layouts nowhere": 3,
    "-s empty.db users": 3,
    "-s damaged users": 3,
    "-s /dev/null users": 3,
    "-s shelve:store users": 3,
    "-s sqlite:///shelf users": 3,
    "-s store init": 2,
    "-s shelf init": 2,
    "-s memory: init": 2,
    "-s memory: backup x": 2,
    "-s memory: compact": 2,
    "-s store backup text": 2,
    "-s store backup nowhere/x": 3,
    "-s store restore nowhere --yes": 3,
    "-s store restore text --yes": 3,
    "-s store restore damaged --yes": 3,
    "-s store restore shelf --yes": 3,
    "-s nowhere.db restore nowhere": 3,
    "-s store dump text": 2,
    "-s store dump nowhere/x": 3,
    "-s store load nowhere": 3,
    "-s store load text": 2,
    "-s empty.db load text": 3,
    "-s store copy store": 2,
    "-s store copy ./store": 2,
    "-s store copy sqlite:///store --merge": 2,
    "-s store copy shelf": 2,
    "-s store copy nowhere/x": 3,
    "-s store export frob": 2,
    "-s store export redis --tool pg": 2,
    "-s store export mongodb --into x": 2,
    "-s store show": 2,
    "-s store show nobody": 1,
    "-s store sessions nobody": 1,
    "-s store sign-in nobody": 1,
    "-s store revoke nobody --yes": 1,
    "-s store delete-user nobody --yes": 1,
    "-s store delete-user ada": 2,
    "-s store revoke ada": 2,
    "-s store purge": 2,
    "-s store restore store": 2,
    "-s postgres://ada:hunter2@host/db users": 2,
    "-s ada:hunter2@host users": 2,
    "-s sqlite:///store?password=hunter2 users": 2,
    "-s store?password=hunter2 users": 2,
    "-s store copy sqlite:///x?password=hunter2": 2,
    "-s store users sqlite:///x?password=hunter2": 2,
    "-s store users postgres://ada:hunter2@host": 2,
    "demo sqlite:///x?password=hunter2": 2,
}
"""Command lines that must fail, and their exit statuses."""


@pytest.fixture(scope="module")
def odd_things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    make_ours(str(folder / "store"))
    make_shelf(str(folder / "shelf"))
    (folder / "folder").mkdir()
    (folder / "folder" / "x").touch()
    (folder / "begun").mkdir()
    (folder / "begun" / "lock").touch()  # what is left if a process is killed while it makes a shelf
    (folder / "empty").mkdir()
    (folder / "empty.db").touch()
    (folder / "text").write_text("no database, and no dump\n" * 100)
    (folder / "damaged").write_bytes((folder / "store").read_bytes()[:5000])
    return folder


@pytest.mark.parametrize("line", WRONG)
def test_whatever_is_wrong_is_one_line_with_its_status_and_changes_nothing(
    line: str, cli: Cli, odd_things: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(odd_things)
    before = files(odd_things)
    done = cli(line, WRONG[line])
    assert done.err.startswith("tinyauthstore: ") and done.err.count("\n") == 1
    assert "hunter2" not in done.err
    assert files(odd_things) == before


def test_a_shelf_that_is_taken_for_a_file_is_told_how_to_name(cli: Cli) -> None:
    make_shelf("shelf")
    assert cli("-s sqlite:///shelf users", 3).err.endswith("shelf is a directory, and no SQLite file; a shelf is shelve:shelf\n")


def test_an_option_is_called_as_it_is_on_the_command_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    make_ours("store")
    make_shelf("shelf")
    assert "give an empty one, or --merge" in cli("-s store copy shelf", 2).err
    cli("-s store dump dump.jsonl")
    cli("-s new.db init")
    monkeypatch.setenv(targets.SECRET, SECRET)  # which the fixture looks for
    told = cli("-s new.db load dump.jsonl", 2).err
    assert "another $TINYAUTHSTORE_SECRET" in told and "--no-sessions" in told
    loaded = cli("-s new.db load dump.jsonl --no-sessions").err
    assert loaded.startswith("loaded 2 users, 2 accounts, 1 authenticator\n") and "by --no-sessions\n" in loaded


def test_merging_keeps_what_is_there(cli: Cli) -> None:
    make_ours("store")
    cli("-s store dump dump.jsonl --oauth-tokens")
    cli(f"-s store delete-user {ADA} --yes")
    told = cli("-s store load dump.jsonl --merge --json").objects[0]
    assert told["records"]["users"] == 1 and told["left_out"]["records that the store has already"] >= 1


# --- what is there ----------------------------------------------------------------------------


def test_pages_of_users_are_all_users_once(cli: Cli) -> None:
    with SQLiteAdapter("store") as store:
        ids = sorted(store.create_user(email=f"u{i}@example.com").id for i in range(7))
    seen: list[str] = []
    after = ""
    for _ in range(9):
        page = cli(f"-s store users --limit 3 {after}")
        seen += [line.split()[0] for line in page.out.splitlines()[1:]]
        if "more" not in page.err:
            break
        after = page.err.rpartition("more: ")[2]
    assert seen == ids


def test_a_full_page_is_told_from_the_last_one(cli: Cli) -> None:
    make_ours("store")
    assert cli("-s store users --limit 2").err == ""
    assert cli("-s store users --limit 1").err == "1 user; more: --after ada\n"
    assert cli("-s store sessions --limit 2").err == ""
    assert cli("-s store sessions --limit 1").err == "1 session; more: --limit 10, or name a user\n"


def test_users_are_found_by_how_their_address_begins(cli: Cli) -> None:
    make_ours("store")
    assert [user["id"] for user in cli("-s store users --prefix gr --json").objects] == ["grace"]
    assert cli("-s store users --prefix zz").err == "no users\n"


def test_an_empty_store_is_told_in_words(cli: Cli) -> None:
    cli("-s store init")
    assert cli("-s store users") == (0, "", "no users\n")
    assert cli("-s store sessions") == (0, "", "no sessions\n")


def test_a_user_is_shown_with_all_that_is_theirs_but_no_secret(cli: Cli) -> None:
    make_custom("store")
    shown = cli(f"-s store show {ADA}").out
    for told in ("plan            pro", 'likes           {"tea": [1, null]}', "(not shown)", "account         github 1 (oauth)",
                 "passkey         1", "session         "):  # fmt: skip
        assert told in shown
    told = cli("-s store show ada --json").objects[0]
    assert {"sessions", "accounts", "authenticators", "plan"} <= told.keys()
    assert not {"password_hash", "session_token"} & {*told, *told["sessions"][0]}


def test_times_are_told_exactly_and_relatively(cli: Cli) -> None:
    now = datetime.now(UTC)
    with SQLiteAdapter("store") as store:
        user = store.create_user(email=ADA, email_verified=now - timedelta(days=3))
        store.create_session(user_id=user.id, expires=now + timedelta(hours=5, minutes=1))
    shown = cli(f"-s store show {ADA}").out
    assert f"{now - timedelta(days=3):%Y-%m-%d %H:%M} (3 d ago)" in shown
    assert f"{now + timedelta(hours=5, minutes=1):%Y-%m-%d %H:%M} (in 5 h)" in shown
    assert f"{now + timedelta(hours=5, minutes=1):%Y-%m-%d} (in 5 h)" in cli("-s store sessions").out


def test_damage_that_is_found_is_status_1(cli: Cli) -> None:
    make_ours("store")
    with sqlite3.connect("store") as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("DELETE FROM users WHERE id = 'ada'")
    connection.close()
    done = cli("-s store check", 1)
    assert done.out and re.fullmatch(r"\d+ problems? found\n", done.err)
    assert all(found.keys() == {"problem"} for found in cli("-s store check --json", 1).objects)


def test_the_layout_of_a_file_is_named(cli: Cli, tmp_path: Path) -> None:
    make_theirs("prisma.sqlite", "theirs.db")
    make_ours("store")  # in WAL mode
    before = files(tmp_path)
    assert "layouts.prisma " in cli("layouts theirs.db").out
    assert cli("layouts store").out.splitlines()[1].startswith("tinyauthstore  users, accounts, ")
    assert files(tmp_path) == before
    assert cli("layouts theirs.db --json").objects[0]["name"] == "layouts.prisma"
    assert [found["name"] for found in cli("layouts --json").objects] == [f"layouts.{name}" for name in layouts.NAMES]


# --- tables -----------------------------------------------------------------------------------

HOSTILE = "\x1b[31mred\x1b[0m\x07\r\n\t\u202eltr\x9b2J"


def columns(text: str) -> int:
    """The columns that a terminal gives a text: wide characters two, combining ones none."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.category(c) in ("Mn", "Me") for c in text)


def test_tables_are_aligned_and_fit_whatever_names_have(cli: Cli) -> None:
    names = ["Ada", HOSTILE, "山田太郎" * 20, "e\u0301" * 60, "x" * 300, "한국어 이름", None, "👩‍💻"]
    with SQLiteAdapter("store") as store:
        for number, name in enumerate(names):
            user = store.create_user(email=f"{'long.' * number}{number}@example.com", name=name)
            store.create_session(user_id=user.id)
    for command in ("users", "sessions", "show 1@example.com", "show long.long.long.long.4@example.com", "stats"):
        lines = cli(f"-s store {command}", None).out.splitlines()
        assert [line for line in lines if columns(line) > 80] == []
        assert [c for line in lines for c in line if unicodedata.category(c) in ("Cc", "Cf")] == []
    head, *rows = cli("-s store users").out.splitlines()
    place = head.index("NAME")
    for line in rows:
        starts = [end for end in range(len(line)) if columns(line[:end]) == place]
        assert line[starts[0] - 2 : starts[0]] == "  " and line[starts[0]] != " ", line


def test_ids_are_whole_in_tables(cli: Cli) -> None:
    with SQLiteAdapter("store") as store:
        user = store.create_user(email=f"{'long.' * 40}@example.com", name="x" * 200)
        session = store.create_session(user_id=user.id)
    assert f"\n{user.id}  long." in cli("-s store users").out
    assert f"\n{session.id}  long." in cli("-s store sessions").out


@pytest.mark.parametrize("text, room, cut", [("abcdef", 6, "abcdef"), ("abcdefg", 6, "abc..."), ("日本語語", 7, "日本..."),
                                             ("e\u0301e\u0301", 2, "e\u0301e\u0301"), ("a\x1bb", 9, "a\\x1bb"), ("ab", 1, ".")])  # fmt: skip
def test_text_is_cut_by_the_columns_that_it_takes(text: str, room: int, cut: str) -> None:
    assert output.cut(text, room) == cut


# --- signing in -------------------------------------------------------------------------------


@pytest.mark.parametrize("options, name", [("", "session"), ("--site https://x.example", "__Host-session"), ("--name sid", "sid")])
def test_a_session_in_a_file_of_ours_is_printed_as_a_cookie(options: str, name: str, cli: Cli) -> None:
    make_ours("store")
    done = cli(f"-s store sign-in {ADA} {options}")
    printed, _, token = done.out.strip().partition("=")
    assert printed == name
    with SQLiteAdapter("store") as store:
        assert store.get_session_and_user(token)
    assert "This token signs in as ada@example.com until" in done.err and token not in done.err


@pytest.mark.parametrize("file", [name for name in THEIRS if "better" not in name])
@pytest.mark.parametrize("site, prefix", [("http://localhost:3000", ""), ("https://x.example", "__Secure-")])
def test_a_session_in_a_file_of_auth_js_has_its_cookie(file: str, site: str, prefix: str, cli: Cli) -> None:
    make_theirs(file, "theirs.db")
    name, _, token = cli(f"-s theirs.db sign-in {ADA} --site {site}").out.strip().partition("=")
    assert name == f"{prefix}authjs.session-token"
    assert token.encode() in Path("theirs.db").read_bytes()  # the plain value, as Auth.js looks it up


def test_a_session_in_a_file_of_better_auth_has_a_signed_cookie(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    make_theirs("better-auth.sqlite", "theirs.db")
    before = Path("theirs.db").read_bytes()
    assert "$TINYAUTHSTORE_SECRET" in cli(f"-s theirs.db sign-in {ADA}", 2).err
    assert Path("theirs.db").read_bytes() == before
    monkeypatch.setenv(targets.SECRET, "better-auth-secret")
    name, _, value = cli(f"-s theirs.db sign-in {ADA} --site https://x.example").out.strip().partition("=")
    token, _, signature = unquote(value).partition(".")
    mac = hmac.digest(b"better-auth-secret", token.encode(), hashlib.sha256)
    assert (name, signature) == ("__Secure-better-auth.session_token", base64.b64encode(mac).decode())
    assert token.encode() in Path("theirs.db").read_bytes()


# --- files that others made, or have open -----------------------------------------------------


@pytest.mark.parametrize("file", ["plain-v1.sqlite", "custom-v1.sqlite", "plain-v1.shelf", "custom-v1.shelf"])
def test_an_older_store_is_changed_by_migrate_alone(file: str, cli: Cli, tmp_path: Path) -> None:
    shutil.copytree(FILES / file, "old") if file.endswith("shelf") else shutil.copy(FILES / file, "old")
    before = files(tmp_path)
    assert "other normal forms of addresses" in cli("-s old migrate --dry-run", 1).out
    cli("-s old migrate", None)  # nobody is there to agree
    for command in ("stats", "users", "check"):
        told = cli(f"-s old {command}", 0 if file.endswith("shelf") else 3).err
        assert file.endswith("shelf") or "`tinyauthstore migrate -s old` adds that" in told
    assert files(tmp_path) == before
    assert "done\n" in cli("-s old migrate --yes").err
    assert cli("-s old migrate").out == "nothing to change\n"
    assert cli("-s old check").out == "sound\n"


def test_columns_that_nothing_is_read_from_are_told_when_a_store_is_dumped(cli: Cli) -> None:
    make_theirs("better-auth.sqlite", "theirs.db")
    assert "no field here is read from" in cli("-s theirs.db dump dump.jsonl").err
    assert "account.password" in cli("-s theirs.db copy new.db").err
    assert "no field" not in cli("-s new.db dump new.jsonl").err


def test_a_backup_that_is_looked_at_stays_as_it_was(cli: Cli, tmp_path: Path) -> None:
    make_ours("store")
    cli("-s store backup backup")
    before = files(tmp_path)
    for command in ("stats", "users", "dump", "check"):
        cli(f"-s backup {command}")
    assert files(tmp_path) == before


def test_a_shelf_with_a_journal_that_is_looked_at_stays_as_it_was(cli: Cli, tmp_path: Path) -> None:
    shutil.copytree(FILES / "journal-v2.shelf", "shelf")
    (tmp_path / "shelf" / "lock").write_bytes(b"")  # whoever opens it writes its number there, and wipes it off
    before = files(tmp_path)
    assert b"users" in (before["shelf/journal-000001"] or b"")
    for command in ("stats", "users", "dump", "check"):
        cli(f"-s shelf {command}", all=True)
    assert files(tmp_path) == before


@each_kind
def test_a_lost_store_is_restored_from_its_backup(kind: str, cli: Cli) -> None:
    KINDS[kind]("store")
    before = cli("-s store dump --oauth-tokens", all=True).out
    cli("-s store backup backup")
    shutil.rmtree("store") if os.path.isdir("store") else os.unlink("store")
    assert "as a new store" in cli("-s store restore backup").err
    assert cli("-s store dump --oauth-tokens", all=True).out == before


def test_a_shelf_that_another_process_has_open_names_that_process(cli: Cli) -> None:
    make_shelf("shelf")
    script = "import sys, tinyauthstore as t\ns = t.ShelveAdapter(sys.argv[1])\nprint(1, flush=True); sys.stdin.read(); s.close()"
    with start_python(script, os.path.abspath("shelf")) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        for command in ("users", "purge --yes", "dump"):
            assert f"is open in process {process.pid}" in cli(f"-s shelf {command}", 3).err
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("kind", ["ours", "drizzle.sqlite"])
def test_a_file_that_another_process_keeps_locked_is_out_of_reach(
    kind: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    KINDS[kind]("store")
    plain: Any = sqlite3.connect
    monkeypatch.setattr(targets, "SQLiteAdapter", functools.partial(SQLiteAdapter, timeout=0.05))
    connection = plain("store", isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(sqlite3, "connect", lambda *given, **options: plain(*given, **{"timeout": 0.05} | options))
    for command in ("purge --yes", f"sign-in {ADA}") if kind == "ours" else ("users", "purge --yes"):
        assert cli(f"-s store {command}", 3).err.endswith("store is locked by another process; try again when that is done\n")
    connection.close()


def test_a_backup_under_load_is_sound_and_has_what_was_acknowledged_before(cli: Cli) -> None:
    make_ours("store")
    script = """
import itertools, sys, tinyauthstore
with tinyauthstore.SQLiteAdapter(sys.argv[1], durability="normal") as store:
    for number in itertools.count():
        user = store.create_user(email=f"{number}@example.com")
        store.create_session(user_id=user.id)
        print(user.id, flush=True)
"""
    with start_python(script, os.path.abspath("store")) as process:
        assert process.stdout is not None
        try:
            for round_ in range(3):
                acknowledged = [process.stdout.readline().strip() for _ in range(40)]
                cli(f"-s store backup backup{round_}")
                with SQLiteAdapter(f"backup{round_}") as backup:
                    assert backup.check() == []
                    assert [user for user in acknowledged if backup.get_user(user) is None] == []
                    assert backup.count().sessions >= 40
            assert process.poll() is None
        finally:
            process.kill()


# --- custom fields ----------------------------------------------------------------------------

PALETTE: list[tuple[Any, Callable[[random.Random], Any]]] = [
    (str, lambda r: "".join(r.choices(string.printable + "é日\u2028", k=r.randrange(9)))),
    (int, lambda r: r.choice([0, -1, 2**63 - 1, -(2**63), r.randrange(10**6)])),
    (float, lambda r: r.choice([0.0, -0.5, 1e300, 0.1, r.random()])),
    (bool, lambda r: r.random() < 0.5),
    (bytes, lambda r: r.randbytes(r.randrange(9))),
    (datetime, lambda r: datetime(r.randrange(1, 9999), 2, 3, 4, 5, 6, r.randrange(10**6), UTC)),
    (dict[str, Any], lambda r: {"a": [r.random(), None, {"b": "\u2028"}]}),
    (list[Any], lambda r: [r.randrange(9), "x", [True]]),
    (Literal["a", "b'c", ""], lambda r: r.choice(["a", "b'c", ""])),
    (Literal[1, -7], lambda r: r.choice([1, -7])),
    (Role, lambda r: r.choice([*Role])),
]


def some_model(record: type, dice: random.Random) -> tuple[type, dict[str, Callable[[], Any]]]:
    """A model with some fields of its own, and what makes values for them."""
    fields: list[Any] = []
    makers: dict[str, Callable[[], Any]] = {}
    for number in range(dice.randrange(1, 7)):
        hint, make = dice.choice(PALETTE)
        name = f"{dice.choice(['field', 'Field', 'token', 'order', 'group'])}_{number}"
        default, optional = make(dice), dice.random() < 0.5
        how = dice.randrange(3)
        if how == 0 and optional:
            option = dataclasses.field(default=None)
        elif how == 1 or isinstance(default, (dict, list)):
            option = dataclasses.field(default_factory=functools.partial(lambda value: value, default))
        else:
            option = dataclasses.field(default=default)
        fields.append((name, hint | None if optional else hint, option))
        makers[name] = lambda make=make, optional=optional: None if optional and dice.random() < 0.3 else make(dice)
    return dataclasses.make_dataclass(record.__name__, fields, bases=(record,), frozen=True, slots=True, kw_only=True), makers


@pytest.mark.parametrize("seed", range(5))
def test_dump_load_and_copy_lose_nothing_of_any_custom_field(seed: int, cli: Cli) -> None:
    dice = random.Random(seed)
    records = {"user": User, "account": Account, "session": Session, "verification_token": VerificationToken, "authenticator": Authenticator}
    chosen = {name: some_model(record, dice) for name, record in records.items() if dice.random() < 0.8}
    models: dict[str, Any] = {name: model for name, (model, _) in chosen.items()}

    def given(name: str) -> dict[str, Any]:
        return {field: make() for field, make in chosen[name][1].items() if dice.random() < 0.8} if name in chosen else {}

    first = SQLiteAdapter if dice.random() < 0.5 else ShelveAdapter
    with first("store", **models) as store:
        for number in range(4):
            user = store.create_user(email=f"u{number}@example.com", **given("user"))
            store.create_session(user_id=user.id, **given("session"))
            account = {"user_id": user.id, "type": "oidc", "provider": "google", "provider_account_id": str(number)}
            store.link_account(**account, **given("account"), claim=[number])
            store.create_verification_token(identifier=f"u{number}@example.com", **given("verification_token"))
            store.create_authenticator(
                user_id=user.id, credential_id=str(number), provider_account_id="p", credential_public_key="k", counter=0,
                credential_device_type="singleDevice", credential_backed_up=False, **given("authenticator"),
            )  # fmt: skip
    for kind, target in ((SQLiteAdapter, "sqlite:///loaded.db"), (ShelveAdapter, "shelve:loaded")):
        kind(targets.place(target)[1], **models).close()
    cli("-s store dump dump.jsonl --oauth-tokens")
    for line in ("-s store copy sqlite:///copied.db", "-s store copy shelve:copied", "-s shelve:copied copy sqlite:///again.db",
                 "-s copied.db copy shelve:again", "-s loaded.db load dump.jsonl", "-s shelve:loaded load dump.jsonl"):  # fmt: skip
        assert "left out" not in cli(line).err
    with first("store", **models) as source, MemoryAdapter(**models) as there:
        portable.copy(source, there)
        wanted = state(there)
    for name in ("copied", "again", "loaded"):
        for kind, path in ((SQLiteAdapter, f"{name}.db"), (ShelveAdapter, name)):
            with kind(path, **models) as store, MemoryAdapter(**models) as there:
                portable.copy(store, there)
                assert state(there) == wanted, path


def test_a_dump_with_fields_that_the_store_lacks_is_refused_with_a_remedy(cli: Cli) -> None:
    make_custom("store")
    cli("-s store dump dump.jsonl")
    cli("-s new.db init")
    told = cli("-s new.db load dump.jsonl", 1).err
    assert "line 2 " in told and "'plan'" in told
    assert "let your application open it once, which adds them, or use `copy`" in told
    with SQLiteAdapter("new.db", **MODELS):
        pass
    cli("-s new.db load dump.jsonl")


@pytest.mark.parametrize("kind", ["custom", "shelf"])
def test_the_application_opens_what_the_command_line_made_of_its_store(kind: str, cli: Cli) -> None:
    KINDS[kind]("store")
    cli("-s store copy new.db")
    assert cli("-s new.db migrate").out == "nothing to change\n"
    with SQLiteAdapter("new.db", **MODELS) as store:
        assert store.get_user("ada").role is Role.MEMBER
    assert cli("-s new.db migrate").out == "nothing to change\n"


def test_a_field_of_a_kind_that_is_not_known_is_refused_by_name(cli: Cli) -> None:
    make_custom("store")
    connection = sqlite3.connect("store")
    connection.execute("UPDATE custom_fields SET kind = 'decimal' WHERE field = 'note'")
    connection.commit()
    connection.close()
    assert "User.note holds values of a kind that this version does not know: decimal" in cli("-s store users", 3).err


def test_whatever_nobody_thought_of_is_one_line_without_its_text(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(SECRET)

    make_ours("store")
    monkeypatch.setattr(SQLiteAdapter, "count", fail)
    assert re.search("RuntimeError in test_cli_commands.py, line [0-9]+, which should not be", cli("-s store stats", 3).err)


# --- nothing half done ------------------------------------------------------------------------


def interrupt(*_: object) -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("line", ["-s store dump new.jsonl", "-s store copy new.db", "-s store copy shelve:new",
                                  "-s store copy there.db", "-s there.db load dump.jsonl", "-s store export redis new.resp"])  # fmt: skip
def test_control_c_leaves_nothing_half_done(line: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_ours("store")
    cli("-s store dump dump.jsonl")
    cli("-s there.db init")
    before = files(tmp_path)
    monkeypatch.setattr(output.Progress, "__call__", interrupt)
    assert cli(line, 130, all=True).err.endswith("tinyauthstore: interrupted; nothing is half done\n")
    assert files(tmp_path).keys() == before.keys()
    assert cli("-s there.db users").err == "no users\n"


def test_control_c_undoes_a_migration(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(FILES / "custom-v1.sqlite", "old")
    make = Changes.make

    def half(self: Any) -> None:
        make(self)
        interrupt()

    told = cli("-s old migrate --dry-run", 1).out
    with monkeypatch.context() as patch:
        patch.setattr(Changes, "make", half)
        assert main(["-s", "old", "migrate", "--yes"]) == 130
    assert {*files(tmp_path)} == {"old"}
    assert cli("-s old migrate --dry-run", 1, all=True).out.endswith(told)


@pytest.fixture
def little_room() -> Iterator[None]:
    """No file may become larger than 100,000 bytes: a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("line", ["dump new", "backup new", "copy new.db", "copy shelve:new", "export redis new", "compact", "copy there.db"])
def test_a_full_disk_is_one_line_and_leaves_nothing(line: str, cli: Cli, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with SQLiteAdapter("store") as store, store.transaction():
        for number in range(400):
            store.create_user(email=f"{number}@example.com", name="x" * 500)
    cli("-s there.db init")
    before = files(tmp_path)
    request.getfixturevalue("little_room")
    done = cli(f"-s store {line}", 3)
    assert "new.db.tinyauthstore" not in done.err and ".tinyauthstore.tmp" not in done.err
    assert {*files(tmp_path)} == {*before}
    assert cli("-s there.db users").err == "no users\n"


# --- questions and progress -------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("answer, gone", [("y\n", True), ("yes\n", True), ("\n", False), ("no\n", False), ("", False)])
def test_what_ends_something_is_asked_on_a_terminal(answer: str, gone: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    make_ours("store")
    for name, stream in (("stdin", Terminal(answer)), ("stderr", Terminal())):
        monkeypatch.setattr(f"sys.{name}", stream)
    assert main(["-s", "store", "delete-user", "ada"]) == 0
    assert "Delete ada@example.com, with accounts, sessions and passkeys? [y/N] " in sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert ("nothing was changed" in sys.stderr.getvalue()) != gone  # type: ignore[attr-defined]
    with SQLiteAdapter("store") as store:
        assert (store.get_user("ada") is None) == gone


def test_progress_is_told_after_a_second_on_a_terminal_and_wiped_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "PROGRESS_AFTER", 0.01)
    monkeypatch.setattr("sys.stderr", Terminal())
    with output.Progress("dump", "records") as progress:
        progress(1234)
        while "1,234 records" not in sys.stderr.getvalue():  # type: ignore[attr-defined]
            pass
    told = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"\rdump: 1,234 records, [\d,]+ a second, 0 s", told)
    last = told.split("\r")
    assert last[-1] == "" and last[-2].strip() == ""


def test_what_is_told_meanwhile_stands_in_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "PROGRESS_AFTER", 0.01)
    monkeypatch.setattr("sys.stderr", Terminal())
    with output.Progress("export"):
        while "export: 0 s" not in sys.stderr.getvalue():  # type: ignore[attr-defined]
            pass
        output.tell("left out: something")
    assert "\r           \rleft out: something\n" in sys.stderr.getvalue()  # type: ignore[attr-defined]


def test_no_progress_is_told_in_a_pipe_or_before_a_second_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())
    with output.Progress("dump") as progress:
        progress(1)
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]
    monkeypatch.setattr(output, "PROGRESS_AFTER", 0)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with output.Progress("dump") as progress:
        progress(1)
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


@pytest.mark.parametrize("terminal, environment, bold", [(True, {}, True), (False, {}, False), (True, {"NO_COLOR": "1"}, False),
                                                         (True, {"TERM": "dumb"}, False), (True, {"NO_COLOR": ""}, True)])  # fmt: skip
def test_colour_is_for_terminals_that_want_it(
    terminal: bool, environment: dict[str, str], bold: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", Terminal() if terminal else io.StringIO())
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (output.bold("ID") != "ID") == bold


# --- help -------------------------------------------------------------------------------------

COMMANDS = ["init", "migrate", "stats", "users", "show", "sessions", "check", "sign-in", "revoke", "delete-user", "purge", "backup", "restore",
            "compact", "dump", "load", "copy", "export", "layouts", "demo"]  # fmt: skip


def test_help_lists_these_commands(cli: Cli) -> None:
    assert re.findall(r"^    ([a-z-]+) ", cli("--help").out, re.MULTILINE) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_and_its_example_runs(command: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    told = cli(f"{command} --help").out
    assert [line for line in (told + cli("--help").out).splitlines() if len(line) > 80] == []
    [example] = re.findall(r"^  tinyauthstore (.*)", told.partition("example:\n")[2], re.MULTILINE)
    make_theirs("prisma.sqlite", "app.db")
    if command != "init":
        make_ours("auth.db")
        cli("-s auth.db backup auth-backup.db") if command == "restore" else None
        cli("-s auth.db dump dump.jsonl") if command == "load" else None
        cli("-s new.db init") if command == "load" else None
    cli(example)
