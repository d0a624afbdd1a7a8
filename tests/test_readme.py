"""What the README prints is run, and what its tables say is compared with the code.

Each Python block runs in a fresh module and an empty directory, and then all of them in one directory, in any
order. The blocks that need Flask, FastAPI, Starlette or webauthn run only where these are installed. The application of the README is driven as a browser does.
"""

from __future__ import annotations

import ast
import asyncio
import atexit
import base64
import hashlib
import html
import http.client
import inspect
import io
import json
import os
import random
import re
import runpy
import sqlite3
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast
from urllib.parse import parse_qs, urlencode, urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from guests import Partial
from support import run_python

import tinyauthstore
from tinyauthstore import (
    Adapter,
    ClosedError,
    ConflictError,
    MemoryAdapter,
    ShelveAdapter,
    SplitAdapter,
    SQLiteAdapter,
    StorageError,
    base,
    connect,
    encodings,
    errors,
    forks,
    layouts,
    schema,
)
from tinyauthstore.aio import AsyncAdapter
from tinyauthstore.cli import main
from tinyauthstore.testing import DAY, SessionContract
from tinyauthstore.testing import GROUPS as KIT

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LOCALHOST = "http://localhost:8000"
HTTPS = "https://app.example.com"
ADA, GRACE = "ada@example.com", "grace@example.com"


# --- reading the README -----------------------------------------------------------------------


class Block(NamedTuple):
    """A fenced Python block and the line of the README on which its code begins."""

    line: int
    source: str


BLOCKS = [
    Block(README.count("\n", 0, match.start(1)) + 1, match[1])
    for match in re.finditer(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
]
TESTING = [block for block in BLOCKS if "\ndef test_" in block.source]
"""Those that only pytest can run."""


def block_with(text: str) -> Block:
    """The one block that contains ``text``."""
    [block] = [block for block in BLOCKS if text in block.source]
    return block


MAGIC_LINK = block_with("def make_app(store, base_url")
"""The application, from which the recipes for frameworks import, too."""


def each_block(blocks: list[Block]) -> pytest.MarkDecorator:
    """Run the test once with each of them."""
    return pytest.mark.parametrize("block", blocks, ids=[f"line-{block.line}" for block in blocks])


def section(heading: str) -> str:
    """The text below a heading of the second level, up to the next one."""
    _, found, rest = README.partition(f"\n## {heading}\n")
    assert found, f"the README has no section {heading!r}"
    return rest.partition("\n## ")[0]


def tables(text: str) -> list[list[str]]:
    """The lines of every table in ``text``."""
    return [table.splitlines() for table in re.findall(r"(?:^\|.*\n)+", text + "\n", re.MULTILINE)]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row in ``text``, heads and rules left out."""
    lines = [line for table in tables(text) for line in table[2:]]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def code(cell: str) -> list[str]:
    """The code spans of a cell."""
    return re.findall(r"`([^`]+)`", cell)


def own_methods(protocol: type) -> set[str]:
    """The public methods that a protocol itself declares."""
    return {name for name, value in vars(protocol).items() if callable(value) and not name.startswith("_")}


def parameters(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    """Name, kind and default of every parameter but ``self``."""
    found = list(inspect.signature(function).parameters.values())[1:]
    return [(p.name, p.kind, p.default) for p in found]


def written_parameters(signature: str) -> list[tuple[str, Any, Any]]:
    """The same of a signature as the README writes it: ``get_user(user_id)``."""
    head, _, rest = signature.partition("(")
    namespace: dict[str, Any] = {}
    exec(f"def {head}(self, {rest}: ...".replace("(self, )", "(self)"), namespace)
    return parameters(namespace[head])


# --- running it -------------------------------------------------------------------------------

RunBlock = Callable[[Block], types.ModuleType]


def skip_without_its_framework(block: Block) -> None:
    """Skip the test where what the block needs is not installed, be it a framework's test client's client."""
    for node in ast.walk(ast.parse(block.source)):
        source = node.module if isinstance(node, ast.ImportFrom) else None
        if source == "postgres":
            pytest.skip("tests/test_postgres.py runs it, which has a server")
        if source and source.partition(".")[0] in ("flask", "fastapi", "starlette", "webauthn"):
            with warnings.catch_warnings(action="ignore"):
                try:
                    pytest.importorskip(source)
                except RuntimeError as error:  # Starlette's way to name a library that it lacks
                    pytest.skip(str(error))


@pytest.fixture
def run_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunBlock]:
    """Runs a block as a module of its own in an empty directory, then does what Python does at exit.

    A block must close its stores itself: one that is still open afterwards fails the test.
    """
    at_exit: list[Callable[[], Any]] = []
    modules: list[types.ModuleType] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(atexit, "register", at_exit.append)
    umask = os.umask(0o022)

    def run(block: Block, name: str | None = None) -> types.ModuleType:
        skip_without_its_framework(block)
        if "import magic_link\n" in block.source and "magic_link" not in sys.modules:
            run(MAGIC_LINK, "magic_link")
        module = types.ModuleType(name or f"readme_line_{block.line}_{len(modules)}")
        modules.append(module)
        monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look there
        # The blank lines make a traceback point into the README.
        source = "\n" * (block.line - 1) + block.source
        exec(compile(source, str(ROOT / "README.md"), "exec"), vars(module))
        return module

    yield run
    os.umask(umask)
    for function in reversed(at_exit):
        function()
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, (SQLiteAdapter, MemoryAdapter)):
                with pytest.raises(ClosedError):
                    value.get_user("anybody")


@each_block([block for block in BLOCKS if block not in TESTING])
def test_every_python_block_runs_and_leaves_nothing_but_databases_and_an_export(
    block: Block, run_block: RunBlock, tmp_path: Path
) -> None:
    run_block(block)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".db", ".db-wal", ".db-shm", ".out"}


@pytest.mark.parametrize("seed", range(3))
def test_all_blocks_run_in_one_directory_in_any_order(seed: int, run_block: RunBlock) -> None:
    """As those of a reader who tries them one after the other; most are about one file."""
    blocks = [block for block in BLOCKS if block not in TESTING]
    random.Random(seed).shuffle(blocks)
    for block in blocks:
        with suppress(pytest.skip.Exception):
            run_block(block)


HEADINGS = re.findall(r"^##+ (.*)$", re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
LINKS = re.compile(r"\[([^]]+)\]\(#([^)]*)\)")


def anchor(heading: str) -> str:
    """What GitHub calls the heading in links."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_the_contents_name_every_section_that_follows_as_it_is_called() -> None:
    listed = [name for name, _ in LINKS.findall(section("Contents"))]
    after = re.findall(r"^## (.*)$", README.partition("\n## Contents\n")[2], re.MULTILINE)
    assert {*after} <= {*listed} and len(listed) == len({*listed})
    assert all(anchor(name) == target for name, target in LINKS.findall(section("Contents")) if name in after)


def test_every_link_inside_the_readme_leads_to_a_heading() -> None:
    anchors = [anchor(heading) for heading in HEADINGS]
    assert len(anchors) == len({*anchors})
    assert {target for _, target in LINKS.findall(README)} - {*anchors} == set()


def test_the_example_has_ten_lines_and_can_be_run_again(run_block: RunBlock) -> None:
    example = BLOCKS[0]
    assert len([line for line in example.source.splitlines() if line]) == 10
    run_block(example)
    assert run_block(example).ada.email == "Ada@example.com"


def test_the_two_commands_are_the_only_ones_shown_for_a_shell() -> None:
    assert re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL) == [
        "python -m tinyauthstore demo\n",
        "python -m pip install -e '.[test]' && python -m pytest\n",
    ]


def test_the_shown_session_is_what_the_command_line_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """But for ids and dates."""
    [shown] = re.findall(r"^```console\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    with SQLiteAdapter("auth.db") as store:
        for id, name, email in (("8c1d7b1e-6c88-4c1b-a2a5-1d8a0c9e7f10", "Ada", "Ada@example.com"),
                                ("2f4cb0a5-6a5f-4f07-9c40-0a1de33d4c55", "Grace", GRACE)):  # fmt: skip
            store.create_user(id=id, name=name, email=email)
            store.create_session(user_id=id)
    printed = ""
    for line in re.findall(r"^\$ tinyauthstore (.*)", shown, re.MULTILINE):
        assert main(line.split()) == 0
        printed += f"$ tinyauthstore {line}\n{''.join(capsys.readouterr())}"
    assert _without_chance(printed) == _without_chance(shown)


def _without_chance(text: str) -> str:
    return re.sub(r"\b[0-9a-f]{32}\b|\b\d{4}-\d\d-\d\d\b", lambda found: "#" * len(found[0]), text)


def test_the_table_of_commands_has_each_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    named = {text.split()[0] for first, _ in rows(section("The command line")) for text in code(first)}
    assert main(["--help"]) == 0
    assert named == {*re.findall(r"^    ([a-z-]+) ", capsys.readouterr().out, re.MULTILINE)}


def test_the_charts_are_there_and_the_table_has_their_figures() -> None:
    """In the first column, where a row has the name of a bar."""
    drawn = (ROOT / "benchmarks" / "charts.svg").read_text(encoding="utf-8")
    shown = [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", drawn)]
    ratios = {name: text.split()[0] for name, text in zip(shown, shown[1:]) if re.fullmatch(r"[\d.]+ +\(.*\)", text)}
    rows = [re.split(r" *\| *", line)[1:3] for line in section("Speed").splitlines() if line.startswith("| ")]
    compared = {name.partition(":")[0]: figure for name, figure in rows if name.partition(":")[0] in ratios}
    assert len(compared) == 5
    assert compared == {name: ratios[name] for name in compared}
    assert "CPython 3.11.7, SQLite 3.40.1" in " ".join(shown)
    assert "](benchmarks/charts.svg)" in section("Speed")
    assert "`python -m benchmarks --peers --svg benchmarks/charts.svg`" in section("Speed")


RUN_PYTEST = """
import os, sys, pytest
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # installed, the plugin would come twice
plugins = ["-p", "no:cacheprovider", "-p", "tinyauthstore.pytest_plugin"]
sys.exit(pytest.main(["-q", *plugins, "-W", "ignore:Using `httpx`", "--strict-markers", *sys.argv[1:]]))
"""


@each_block(TESTING)
def test_what_the_readme_shows_of_testing_passes_under_pytest(block: Block, tmp_path: Path) -> None:
    skip_without_its_framework(block)
    (tmp_path / "test_recipe.py").write_text(block.source, encoding="utf-8")
    printed = run_python(RUN_PYTEST, tmp_path)
    assert f"{block.source.count('def test_')} passed" in printed


def test_the_readme_tells_how_to_test_with_flask_starlette_asyncio_a_marker_and_a_baseline() -> None:
    assert section("Testing your application").count("```python\n") == len(TESTING) == 5


def test_the_kit_as_the_readme_has_it_tests_all_that_is_asked_for(tmp_path: Path) -> None:
    """Sessions and users, and nothing else; a method that is missing would be a failure."""
    (tmp_path / "test_recipe.py").write_text(block_with("class TestMyAdapter").source, encoding="utf-8")
    passed, skipped = re.findall(r"(\d+) passed, (\d+) skipped", run_python(RUN_PYTEST, tmp_path))[0]
    assert int(passed) > 100 and int(skipped) > 100


def test_the_fixtures_table_names_exactly_the_fixtures(tmp_path: Path) -> None:
    listed = run_python(RUN_PYTEST, "--fixtures", tmp_path)
    table = [code(row[0])[0] for row in rows(section("Testing your application"))]
    names = re.findall(r"^(\w+).* -- .*pytest_plugin\.py", listed, re.MULTILINE)
    assert sorted(names) == sorted(spelling.partition("(")[0] for spelling in table)
    assert all(spelling in listed for spelling in table)


# --- the tables -------------------------------------------------------------------------------

GROUPS = re.findall(r"^\*\*.*?\(`(\w+)`", section("The contract"), re.MULTILINE)


def contract_of(group: str) -> dict[str, str]:
    """The signatures in the table of one protocol, by method."""
    text = re.split(rf"^\*\*.*?\(`{group}`", section("The contract"), flags=re.MULTILINE)[1]
    signatures = [code(row[0])[0] for row in rows("\n".join(tables(text)[0]))]
    return {signature.partition("(")[0]: signature for signature in signatures}


def test_every_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    counts = [{line.count("|") for line in table} for table in tables(README)]
    assert len(counts) > 10 and all(len(found) == 1 for found in counts)


def test_the_contract_names_every_part_of_the_adapter() -> None:
    assert {getattr(tinyauthstore, name) for name in GROUPS} == {
        cls for cls in Adapter.__mro__ if cls.__module__ == Adapter.__module__
    }


@pytest.mark.parametrize("group", GROUPS)
def test_the_contract_table_names_exactly_the_public_methods(group: str) -> None:
    assert set(contract_of(group)) == own_methods(getattr(tinyauthstore, group))


@pytest.mark.parametrize(
    "group, method", [(group, method) for group in GROUPS for method in contract_of(group)]
)
def test_the_contract_table_has_each_signature_right(group: str, method: str) -> None:
    code_says = parameters(getattr(Adapter, method))
    assert written_parameters(contract_of(group)[method]) == code_says
    for adapter in (SQLiteAdapter, MemoryAdapter):
        assert parameters(getattr(adapter, method)) == code_says


def keywords(function: Callable[..., Any]) -> dict[str, Any]:
    """The parameters that can be given by keyword only, with their defaults."""
    found = parameters(function)
    return {name: default for name, kind, default in found if kind is inspect.Parameter.KEYWORD_ONLY}


def constructor_options() -> dict[str, Any]:
    """Every keyword that ``SQLiteAdapter`` or what it inherits from takes, with its default."""
    constructors = [vars(cls)["__init__"] for cls in (SQLiteAdapter, base.BaseAdapter)]
    return {name: default for made_by in constructors for name, default in keywords(made_by).items()}


def test_the_options_table_names_exactly_the_options_with_their_defaults() -> None:
    options = [(code(name)[0], code(default)[0]) for name, default, _ in rows(section("Options"))]
    assert {name: ast.literal_eval(default) for name, default in options} == constructor_options()


def test_the_last_options_are_those_of_sqlite_alone() -> None:
    names = [code(row[0])[0] for row in rows(section("Options"))]
    shared = keywords(base.BaseAdapter.__init__)
    own = [name for name in keywords(SQLiteAdapter.__init__) if name not in shared]
    assert names[-len(own) :] == own


def error_classes() -> dict[str, type]:
    return {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == errors.__name__
    }


def test_the_errors_table_names_exactly_the_errors_and_what_they_extend() -> None:
    table = {code(row[0])[0]: code(row[1]) for row in rows(section("Errors"))}
    assert table == {name: [base.__name__ for base in cls.__bases__] for name, cls in error_classes().items()}


@pytest.mark.parametrize("name", error_classes())
def test_the_errors_table_names_exactly_what_an_error_carries(name: str) -> None:
    [carried] = [code(row[3]) for row in rows(section("Errors")) if code(row[0]) == [name]]
    assert carried == list(vars(error_classes()[name]("text")))


def test_the_records_table_names_exactly_the_fields() -> None:
    text = section("The contract").partition("**The records**")[2]
    public = [getattr(tinyauthstore, name) for name in tinyauthstore.__all__]
    records = {cls.__name__: [f.name for f in fields(cls)] for cls in public if hasattr(cls, "to_authjs")}
    assert {code(row[0])[0]: code(row[1]) for row in rows(text)} == records


CONNECT_TARGETS = [code(row[0])[0] for row in rows(section("Which store").partition("`connect(")[2])]


@pytest.mark.parametrize("spelling", CONNECT_TARGETS)
def test_connect_opens_each_target_of_the_table(
    spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target = ast.literal_eval(spelling.replace("/var/lib/app", str(tmp_path)))
    kind = re.findall("sqlite|shelve|memory", str(target))[0]
    with connect(target) as store:
        assert type(store) is {"sqlite": SQLiteAdapter, "shelve": ShelveAdapter, "memory": MemoryAdapter}[kind]
        made = [name for name in ("auth.db", "auth") if (tmp_path / name).exists()]
        assert made == ([] if "memory" in str(target) else ["auth" if kind == "shelve" else "auth.db"])


def test_connect_lists_every_kind_of_target_in_its_refusal() -> None:
    with pytest.raises(ValueError) as refusal:
        connect("postgres://")
    starts = ['"sqlite:///auth.db"', '"sqlite:////', '"sqlite:///:memory:"']
    starts += ['"shelve:auth"', '"shelve:///', '"memory:"', '{"type": "sqlite"']
    for start, spelling in zip(starts, CONNECT_TARGETS, strict=True):
        assert start in str(refusal.value) and spelling.startswith(start)


@pytest.mark.parametrize("name", tinyauthstore.__all__)
def test_every_public_name_exists_and_has_a_docstring_of_its_own(name: str) -> None:
    text = inspect.cleandoc(getattr(tinyauthstore, name).__doc__ or "")
    # A dataclass and a named tuple without one get their signature as a docstring.
    assert text and not text.startswith(f"{name}(")


@pytest.mark.parametrize("name", tinyauthstore.__all__)
def test_the_readme_mentions_every_public_name(name: str) -> None:
    assert re.search(rf"`[^`\n]*\b{name}\b[^`\n]*`", README)


# --- claims in the prose ----------------------------------------------------------------------


def test_synchronize_false_names_both_missing_columns_as_the_comment_says(
    run_block: RunBlock, capsys: pytest.CaptureFixture[str]
) -> None:
    run_block(block_with("synchronize=False).close()"))
    printed = capsys.readouterr().out
    assert re.search(r"lacks column users\.plan .*; column users\.settings ", printed)


def test_a_custom_field_with_another_type_is_refused_by_the_columns_name(run_block: RunBlock) -> None:
    run_block(block_with("synchronize=False).close()"))

    @dataclass(frozen=True, slots=True)
    class Member(tinyauthstore.User):
        plan: int = 0

    with pytest.raises(StorageError, match="column users.plan"):
        SQLiteAdapter("members.db", user=Member)


def test_the_backup_is_as_private_as_the_original(run_block: RunBlock, tmp_path: Path) -> None:
    run_block(block_with("restore_backup"))
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("auth.db", "backup.db")} == {0o600}


def test_the_sidecars_are_there_while_a_store_is_open_and_go_when_it_is_closed(tmp_path: Path) -> None:
    sidecars = [tmp_path / "auth.db-wal", tmp_path / "auth.db-shm"]
    with SQLiteAdapter(tmp_path / "auth.db") as store:
        store.create_user(email=ADA)
        assert all(path.exists() for path in sidecars)
    assert not any(path.exists() for path in sidecars)


def test_under_another_secret_the_file_is_sound_and_every_token_unknown(tmp_path: Path) -> None:
    with SQLiteAdapter(tmp_path / "auth.db", secret="first") as store:
        token = store.create_session(user_id=store.create_user(email=ADA).id).session_token
    with SQLiteAdapter(tmp_path / "auth.db", secret="second") as store:
        assert store.check() == []
        assert store.get_session_and_user(token) is None
    with SQLiteAdapter(tmp_path / "auth.db", secret="first") as store:
        assert store.get_session_and_user(token) is not None


LOOKALIKES = [
    "\N{FULLWIDTH LATIN SMALL LETTER A}da@example.com",
    "\N{CIRCLED LATIN SMALL LETTER A}da@example.com",
    "ada@example\N{IDEOGRAPHIC FULL STOP}com",
]


def test_a_spelling_of_the_security_notes_finds_the_user() -> None:
    assert "ADA@example.com" in README
    with MemoryAdapter() as store:
        assert store.create_user(email=ADA) == store.get_user_by_email("ADA@example.com")


def test_the_lookalike_of_the_security_notes_is_another_user() -> None:
    assert LOOKALIKES[0] in README
    with MemoryAdapter() as store:
        store.create_user(email=ADA)
        assert store.get_user_by_email(LOOKALIKES[0]) is None


def test_a_link_sent_to_an_old_address_works_until_it_is_deleted() -> None:
    with MemoryAdapter() as store:
        ada = store.create_user(email=ADA)
        first, second = (store.create_verification_token(identifier=ADA) for _ in range(2))
        store.update_user(ada.id, email=GRACE)
        assert store.use_verification_token(identifier=ADA, token=first.token) is not None
        assert store.delete_verification_tokens(ADA) == 1
        assert store.use_verification_token(identifier=ADA, token=second.token) is None


# --- a browser --------------------------------------------------------------------------------


class Forms(HTMLParser):
    """The forms on a page: where each one goes, and the fields it sends."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            assert given["method"] == "post"
            self.found.append((given["action"], {}))
        elif tag == "input":
            self.found[-1][1][given["name"]] = given.get("value", "")


@dataclass
class Page:
    """A response, as a browser sees it."""

    status: int
    headers: list[tuple[str, str]]
    body: str

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def forms(self, action: str) -> list[dict[str, str]]:
        return [given for target, given in Forms(self.body).found if target == action]


@dataclass
class Browser:
    """Keeps cookies by the rules, says where a POST comes from, sends forms as the page has them."""

    app: Callable[..., Any]
    base_url: str = LOCALHOST
    agent: str = "Firefox"
    cookies: dict[str, str] = field(default_factory=dict)

    def request(self, method: str, target: str, body: bytes = b"", **environ: Any) -> Page:
        url = urlsplit(target)
        environ = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": url.path,
            "QUERY_STRING": url.query,
            "wsgi.url_scheme": urlsplit(self.base_url).scheme,
            "HTTP_HOST": urlsplit(self.base_url).netloc,
            "HTTP_USER_AGENT": self.agent,
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_COOKIE": "; ".join(f"{name}={value}" for name, value in self.cookies.items()),
            **environ,
        }
        setup_testing_defaults(environ)
        environ["wsgi.input"] = io.BytesIO(body)
        answer: list[Any] = []
        result: Any = validator(self.app)(environ, cast(Any, lambda *given: answer.extend(given)))
        try:
            text = b"".join(result).decode()
        finally:
            result.close()
        page = Page(int(answer[0].split()[0]), answer[1], text)
        for value in (value for name, value in page.headers if name.lower() == "set-cookie"):
            self.keep(value)
        return page

    def keep(self, cookie: str) -> None:
        pair, *attributes = cookie.split("; ")
        name, _, value = pair.partition("=")
        if name.startswith("__Host-"):
            assert {"Secure", "Path=/"} <= set(attributes) and "Domain" not in cookie
        assert self.base_url.startswith("https") or "Secure" not in attributes
        self.cookies.pop(name, None)
        if "Max-Age=0" not in attributes:
            self.cookies[name] = value

    def get(self, target: str, **environ: Any) -> Page:
        return self.request("GET", target, **environ)

    def post(self, path: str, given: Mapping[str, str], **environ: Any) -> Page:
        kind, text = "application/x-www-form-urlencoded", urlencode(given)
        ours = {"HTTP_ORIGIN": self.base_url, "HTTP_SEC_FETCH_SITE": "same-origin", "CONTENT_TYPE": kind}
        return self.request("POST", path, text.encode(), **(ours | environ))

    def submit(self, page: Page, action: str, typed: Mapping[str, str] = {}, number: int = 0) -> Page:
        """Sends the form of that page which goes to ``action``, filled in with what is typed."""
        return self.post(action, {**page.forms(action)[number], **typed})


# --- the application of the README ------------------------------------------------------------


@dataclass
class Site:
    """The README's application on a store of its own, with the mail it sent."""

    module: types.ModuleType
    store: SQLiteAdapter = field(init=False)
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    mail: list[tuple[str, str]] = field(default_factory=list)
    base_url: str = LOCALHOST

    def browser(self, **options: Any) -> Browser:
        app = self.module.make_app(self.store, self.base_url, lambda *sent: self.mail.append(sent))
        return Browser(app, self.base_url, **options)

    def link_for(self, browser: Browser, address: str = ADA) -> str:
        """Asks for a link on the first page and takes it from the mail."""
        assert browser.submit(browser.get("/"), "/link", {"email": address}).status == 200
        assert self.mail[-1][1].startswith(self.base_url + "/")
        return self.mail[-1][1].removeprefix(self.base_url)

    def signed_in(self, address: str = ADA, **options: Any) -> Browser:
        """A browser that has gone through the whole sign-in."""
        browser = self.browser(**options)
        page = browser.submit(browser.get(self.link_for(browser, address)), "/confirm")
        assert (page.status, page.header("Location")) == (303, "/account")
        return browser


@pytest.fixture
def site(run_block: RunBlock, tmp_path: Path) -> Iterator[Site]:
    module = run_block(MAGIC_LINK)
    site = Site(module)
    with SQLiteAdapter(tmp_path / "app.db", session=module.Device, clock=lambda: site.now) as site.store:
        yield site


def is_signed_in(browser: Browser) -> bool:
    page = browser.get("/account")
    assert page.status in (200, 303)
    return page.status == 200


def session_cookie(page: Page) -> list[str]:
    """The parts of the cookie that the page sets; the first is the name."""
    pair, *attributes = (page.header("Set-Cookie") or "").split("; ")
    return [pair.partition("=")[0], *sorted(attributes)]


def test_a_link_is_mailed_to_the_address_and_not_shown(site: Site) -> None:
    browser = site.browser()
    page = browser.submit(browser.get("/"), "/link", {"email": ADA})
    [(address, link)] = site.mail
    assert address == ADA
    [token] = parse_qs(urlsplit(link).query)["token"]
    assert token not in page.body and not browser.cookies


def test_a_confirmed_link_signs_in_and_shows_the_protected_page(site: Site) -> None:
    browser = site.signed_in()
    assert f"Hello, {ADA}" in browser.get("/account").body
    user = site.store.get_user_by_email(ADA)
    assert user is not None and user.email_verified is not None


def test_opening_a_link_any_number_of_times_does_not_use_it_up(site: Site) -> None:
    scanner, browser = site.browser(), site.browser()
    link = site.link_for(browser)
    for method in ("GET", "GET", "HEAD"):
        page = scanner.request(method, link)
        assert page.status == 200 and (page.body == "") is (method == "HEAD")
    assert not scanner.cookies and not is_signed_in(scanner)
    assert browser.submit(browser.get(link), "/confirm").status == 303


def test_a_used_link_is_refused(site: Site) -> None:
    first, second = site.browser(), site.browser()
    link = site.link_for(first)
    first.submit(first.get(link), "/confirm")
    assert second.submit(second.get(link), "/confirm").status == 403
    assert not second.cookies and is_signed_in(first)


def test_an_expired_link_is_refused(site: Site) -> None:
    browser = site.browser()
    link = site.link_for(browser)
    site.now += timedelta(minutes=10)
    assert browser.submit(browser.get(link), "/confirm").status == 403
    assert not is_signed_in(browser) and site.store.get_user_by_email(ADA) is None


def sessions_of(store: Any, email: str = ADA) -> list[Any]:
    user = store.get_user_by_email(email)
    return [] if user is None else store.list_sessions(user.id)


def test_a_second_click_whose_cookie_has_come_changes_nothing(site: Site) -> None:
    browser = site.browser()
    page = browser.get(site.link_for(browser))
    first = browser.submit(page, "/confirm")
    kept = dict(browser.cookies)
    second = browser.submit(page, "/confirm")
    assert (first.status, second.status, browser.cookies) == (303, 303, kept)
    assert len(sessions_of(site.store)) == 1 and is_signed_in(browser)


def test_a_second_click_takes_over_the_session_whose_cookie_was_lost(site: Site) -> None:
    browser = site.browser()
    page = browser.get(site.link_for(browser))
    lost: list[dict[str, str]] = []
    for _ in range(3):
        browser.cookies = {}  # clicking again makes a browser give up the answer to the first click
        assert browser.submit(page, "/confirm").status == 303
        lost.append(browser.cookies)
    assert len(sessions_of(site.store)) == 1 and is_signed_in(browser)
    for browser.cookies in lost[:-1]:
        assert not is_signed_in(browser)


def test_once_the_cookie_has_come_back_the_page_signs_nobody_in(site: Site) -> None:
    browser = site.browser()
    page = browser.get(site.link_for(browser))
    browser.submit(page, "/confirm")
    assert is_signed_in(browser)
    browser.cookies = {}
    assert browser.submit(page, "/confirm").status == 403


def test_a_session_that_has_ended_is_not_taken_over(site: Site) -> None:
    browser = site.browser()
    page = browser.get(site.link_for(browser))
    browser.submit(page, "/confirm")
    site.store.revoke_sessions(sessions_of(site.store)[0].user_id)
    assert browser.submit(page, "/confirm").status == 403


def test_a_used_link_does_not_lead_into_somebody_elses_account(site: Site) -> None:
    ada, grace = site.browser(), site.signed_in(GRACE)
    link = site.link_for(ada)
    ada.submit(ada.get(link), "/confirm")
    assert grace.submit(grace.get(link), "/confirm").status == 403
    assert f"Hello, {GRACE}" in grace.get("/account").body


def test_the_store_does_not_know_what_a_second_click_sends(site: Site) -> None:
    browser = site.browser()
    page = browser.get(site.link_for(browser))
    browser.submit(page, "/confirm")
    [session] = sessions_of(site.store)
    assert session.clicked and not {session.clicked} & {*page.forms("/confirm")[0].values()}


def test_signing_out_everywhere_ends_every_session_and_takes_the_cookie_away(site: Site) -> None:
    phone, laptop = site.signed_in(), site.signed_in()
    page = laptop.submit(laptop.get("/account"), "/sign-out-everywhere")
    assert (page.status, page.header("Location"), laptop.cookies) == (303, "/", {})
    assert not is_signed_in(phone) and sessions_of(site.store) == []


def test_who_registered_the_address_first_is_out_when_its_owner_comes(site: Site) -> None:
    early = site.store.create_session(user_id=site.store.create_user(email=ADA).id)
    assert is_signed_in(site.signed_in())
    assert site.store.get_session_and_user(early.session_token) is None


def test_a_link_for_one_address_signs_nobody_else_in(site: Site) -> None:
    browser = site.browser()
    given = browser.get(site.link_for(browser)).forms("/confirm")[0]
    assert browser.post("/confirm", {**given, "email": GRACE}).status == 403
    assert not is_signed_in(browser)


def test_a_sign_in_that_fails_half_way_leaves_the_link_usable(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = site.browser()
    link = site.link_for(browser)
    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(site.store, "_new_token", lambda: (_ for _ in ()).throw(OSError))
        browser.submit(browser.get(link), "/confirm")
    assert site.store.get_user_by_email(ADA) is None
    assert browser.submit(browser.get(link), "/confirm").status == 303


def test_over_http_on_localhost_the_cookie_has_every_flag_but_secure(site: Site) -> None:
    browser = site.browser()
    page = browser.submit(browser.get(site.link_for(browser)), "/confirm")
    assert session_cookie(page) == ["session", "HttpOnly", "Max-Age=34560000", "Path=/", "SameSite=Lax"]


def test_over_https_the_cookie_is_secure_and_has_the_host_prefix(site: Site) -> None:
    site.base_url = HTTPS
    browser = site.browser()
    page = browser.submit(browser.get(site.link_for(browser)), "/confirm")
    assert session_cookie(page) == [
        "__Host-session",
        "HttpOnly",
        "Max-Age=34560000",
        "Path=/",
        "SameSite=Lax",
        "Secure",
    ]
    assert is_signed_in(browser)


@pytest.mark.parametrize("base_url", [LOCALHOST, HTTPS])
def test_signing_out_ends_the_session_and_takes_the_cookie_away(site: Site, base_url: str) -> None:
    site.base_url = base_url
    browser = site.signed_in()
    kept = dict(browser.cookies)
    page = browser.submit(browser.get("/account"), "/sign-out")
    assert (page.status, page.header("Location"), browser.cookies) == (303, "/", {})
    browser.cookies = kept
    assert not is_signed_in(browser)


def test_a_second_device_is_listed_and_can_be_ended_from_the_first(site: Site) -> None:
    phone = site.signed_in(agent="Phone")
    site.now += timedelta(minutes=1)
    laptop = site.signed_in(agent="Laptop")
    page = laptop.get("/account")
    assert re.findall(r"<p>(\w+), since ([\d :-]+) UTC([^<]*)</p>", page.body) == [
        ("Laptop", "2026-01-01 00:01", " (this one)"),
        ("Phone", "2026-01-01 00:00", ""),
    ]
    assert laptop.submit(page, "/revoke", number=1).status == 303
    assert (is_signed_in(laptop), is_signed_in(phone)) == (True, False)


def test_nobody_ends_the_session_of_somebody_else(site: Site) -> None:
    ada, grace = site.signed_in(ADA), site.signed_in(GRACE)
    [foreign] = ada.get("/account").forms("/revoke")
    assert grace.post("/revoke", foreign).status == 303
    assert is_signed_in(ada) and is_signed_in(grace)


def test_signing_in_again_ends_the_session_that_the_browser_had(site: Site) -> None:
    browser = site.signed_in(ADA)
    before = browser.cookies["session"]
    browser.submit(browser.get(site.link_for(browser, GRACE)), "/confirm")
    assert f"Hello, {GRACE}" in browser.get("/account").body
    assert site.store.get_session_and_user(before) is None


def test_a_session_in_use_is_extended_and_an_unused_one_ends(site: Site) -> None:
    browser = site.signed_in()
    for _ in range(3):
        site.now += timedelta(days=29)
        assert is_signed_in(browser)
    site.now += timedelta(days=30)
    assert not is_signed_in(browser)


STRANGE_COOKIES = [
    "",
    "session",
    "session=",
    "session=unknown",
    "=; ;;session=\xff\xfe",
    "session=" + "x" * 100_000,
    'session="quoted"; session',
    "other=1; session = 2",
]


@pytest.mark.parametrize("cookie", STRANGE_COOKIES, ids=range(len(STRANGE_COOKIES)))
@pytest.mark.parametrize("method, path", [("GET", "/account"), ("POST", "/revoke"), ("POST", "/sign-out")])
def test_an_unknown_cookie_leads_to_the_first_page(site: Site, method: str, path: str, cookie: str) -> None:
    page = site.browser().request(method, path, HTTP_COOKIE=cookie, HTTP_ORIGIN=LOCALHOST)
    assert (page.status, page.header("Location"), page.header("Set-Cookie")) == (303, "/", None)


def test_known_and_unknown_addresses_get_the_same_answer(site: Site) -> None:
    site.signed_in(ADA)
    browser = site.browser()
    first = browser.get("/")
    known, unknown = (browser.submit(first, "/link", {"email": email}) for email in (ADA, GRACE))
    assert known == unknown and [address for address, _ in site.mail[-2:]] == [ADA, GRACE]


@pytest.mark.parametrize("typed", ["ADA@example.com", "ada@Example.COM "])
def test_the_mail_for_a_known_user_goes_to_the_stored_address(site: Site, typed: str) -> None:
    site.signed_in(ADA)
    site.link_for(site.browser(), typed)
    assert site.mail[-1][0] == ADA


@pytest.mark.parametrize("typed", LOOKALIKES, ids=ascii)
def test_whoever_has_a_lookalike_mailbox_does_not_get_into_the_account(site: Site, typed: str) -> None:
    ada = site.signed_in(ADA)
    browser = site.browser()
    browser.submit(browser.get(site.link_for(browser, typed)), "/confirm")
    assert site.mail[-1][0] == typed
    assert f"Hello, {ADA}" not in browser.get("/account").body
    assert f"Hello, {ADA}" in ada.get("/account").body


NO_ADDRESSES = [
    "", " ", "ada", "ada@example.com\r\nBcc: grace@example.com", "ada@example.com, grace@example.com",
    "ada @example.com", "ada@exa\0mple.com", "ada@example.com\u2028x", "a" * 250 + "@b.io",
]  # fmt: skip


@pytest.mark.parametrize("typed", NO_ADDRESSES, ids=range(len(NO_ADDRESSES)))
def test_what_is_no_single_address_gets_no_mail(site: Site, typed: str) -> None:
    assert site.browser().post("/link", {"email": typed}).status == 400
    assert site.mail == []


FOREIGN = {
    "another site": {"HTTP_SEC_FETCH_SITE": "cross-site", "HTTP_ORIGIN": "https://evil.example"},
    "a sister domain": {"HTTP_SEC_FETCH_SITE": "same-site", "HTTP_ORIGIN": "https://blog.example.com"},
    "an old browser elsewhere": {"HTTP_SEC_FETCH_SITE": "", "HTTP_ORIGIN": "https://evil.example"},
    "a sandboxed frame": {"HTTP_SEC_FETCH_SITE": "", "HTTP_ORIGIN": "null"},
    "our name as a prefix": {"HTTP_SEC_FETCH_SITE": "", "HTTP_ORIGIN": LOCALHOST + ".evil.example"},
    "nobody knows": {"HTTP_SEC_FETCH_SITE": "", "HTTP_ORIGIN": ""},
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
def test_a_post_from_elsewhere_changes_nothing(site: Site, headers: dict[str, str]) -> None:
    browser = site.signed_in()
    page = browser.get("/account")
    link = browser.get(site.link_for(browser, GRACE)).forms("/confirm")[0]
    sent = len(site.mail)
    posts: list[tuple[str, dict[str, str]]] = [
        ("/link", {"email": GRACE}),
        ("/confirm", link),
        ("/revoke", page.forms("/revoke")[0]),
        ("/sign-out", {}),
        ("/sign-out-everywhere", {}),
    ]
    assert [browser.post(path, given, **headers).status for path, given in posts] == [403] * 5
    assert len(site.mail) == sent and f"Hello, {ADA}" in browser.get("/account").body


def test_an_old_browser_that_sends_only_its_origin_is_believed(site: Site) -> None:
    browser = site.signed_in()
    assert browser.post("/sign-out", {}, HTTP_SEC_FETCH_SITE="").status == 303
    assert not is_signed_in(browser)


@pytest.mark.parametrize("path", ["/link?email=ada@example.com", "/revoke", "/sign-out", "/sign-out-everywhere", "/nowhere"])
def test_nothing_is_changed_by_a_get(site: Site, path: str) -> None:
    browser = site.signed_in()
    sent = len(site.mail)
    assert browser.get(path).status == 404
    assert is_signed_in(browser) and len(site.mail) == sent


def test_the_host_header_does_not_get_into_the_link(site: Site) -> None:
    given = dict.fromkeys(("HTTP_HOST", "HTTP_X_FORWARDED_HOST", "SERVER_NAME"), "evil.example")
    site.browser().post("/link", {"email": ADA}, **given)
    assert site.mail[0][1].startswith(LOCALHOST + "/confirm?")


def test_every_redirect_is_a_constant(site: Site) -> None:
    browser = site.browser()
    link = site.link_for(browser) + "&next=https://evil.example"
    given = browser.get(link).forms("/confirm")[0] | {"next": "https://evil.example"}
    seen = [
        browser.post("/confirm", given),
        browser.post("/revoke", {"id": "none", "next": "//evil.example"}),
        browser.post("/sign-out?next=//evil.example", {}),
        browser.get("/account?next=//evil.example"),
    ]
    assert [page.header("Location") for page in seen] == ["/account", "/account", "/", "/"]


SCRIPT = "\"'><script>alert(1)</script>"


def test_what_came_from_outside_is_escaped_on_every_page(site: Site) -> None:
    browser = site.signed_in(f"{SCRIPT}@example.com", agent=SCRIPT)
    hidden = {"email": SCRIPT, "token": SCRIPT}
    pages = [browser.get("/account"), browser.get("/confirm?" + urlencode(hidden))]
    for page in pages:
        assert "&lt;script&gt;" in page.body and "<script" not in page.body
    [sent] = pages[1].forms("/confirm")
    assert len(sent.pop("page")) == 43 and sent == hidden


def test_every_page_forbids_scripts_caches_frames_and_foreign_referrers(site: Site) -> None:
    browser = site.browser()
    for page in (browser.get("/"), browser.get("/nowhere"), browser.get(site.link_for(browser))):
        policy = page.header("Content-Security-Policy") or ""
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert page.header("Cache-Control") == "no-store"
        assert page.header("Referrer-Policy") == "same-origin"


@pytest.mark.parametrize("length", ["", "0", "1000000000"])
def test_no_claimed_length_makes_it_read_more_than_a_form(site: Site, length: str) -> None:
    given = {"padding": "x" * 20_000, "email": ADA}
    assert site.browser().post("/link", given, CONTENT_LENGTH=length).status == 400
    assert site.mail == []


@pytest.mark.parametrize("length", ["-1", "+5", "abc", "1_0", "5.0", "\xb2", "1000000000", "9" * 5000])
def test_what_is_no_length_is_a_bad_request(site: Site, length: str) -> None:
    """Servers pass on what the client sent; the validator would not."""
    environ: dict[str, Any] = {"REQUEST_METHOD": "POST", "PATH_INFO": "/link", "CONTENT_LENGTH": length,
                               "HTTP_ORIGIN": LOCALHOST}  # fmt: skip
    setup_testing_defaults(environ)
    statuses: list[str] = []
    site.browser().app(environ, lambda status, headers: statuses.append(status))
    assert statuses == ["400 Bad Request"]


def test_started_as_a_script_the_application_prints_the_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Server:
        """Serves one form, then gets a Ctrl-C."""

        def __init__(self, host: str, port: int, app: Callable[..., Any], kind: type) -> None:
            assert issubclass(kind, WSGIServer)
            self.browser = Browser(app, f"http://{host}:{port}")

        def __enter__(self) -> Server:
            return self

        def __exit__(self, *raised: object) -> None:
            pass

        def serve_forever(self) -> None:
            self.browser.submit(self.browser.get("/"), "/link", {"email": ADA})
            raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("wsgiref.simple_server.make_server", Server)
    (tmp_path / "magic_link.py").write_text(MAGIC_LINK.source, encoding="utf-8")
    runpy.run_path("magic_link.py", run_name="__main__")
    hint, mail = capsys.readouterr().out.splitlines()
    assert hint == f"Open {LOCALHOST} in a browser. Ctrl-C ends it."
    start = re.escape(f"To {ADA}: {LOCALHOST}/confirm?email=ada%40example.com&token=")
    assert re.fullmatch(start + r"[\w-]{43}", mail)


class Quiet(WSGIRequestHandler):
    """No access log in the test's output."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_the_whole_flow_works_through_a_real_server(site: Site) -> None:
    with make_server("127.0.0.1", 0, site.browser().app, handler_class=Quiet) as server:
        site.base_url = f"http://127.0.0.1:{server.server_port}"
        server.set_app(site.browser().app)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            statuses = []
            cookie = ""

            def ask(method: str, path: str, given: Mapping[str, str] = {}) -> http.client.HTTPResponse:
                connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
                headers = {"Origin": site.base_url, "Cookie": cookie}
                connection.request(method, path, urlencode(given) if method == "POST" else None, headers)
                response = connection.getresponse()
                response.read()
                connection.close()
                statuses.append(response.status)
                return response

            ask("POST", "/link", {"email": ADA})
            link = urlsplit(site.mail[0][1])
            ask("GET", f"{link.path}?{link.query}")
            given = {name: values[0] for name, values in parse_qs(link.query).items()}
            cookie = (ask("POST", "/confirm", given).getheader("Set-Cookie") or "").partition(";")[0]
            for method, path in (("GET", "/account"), ("POST", "/sign-out"), ("GET", "/account")):
                ask(method, path)
            assert statuses == [200, 200, 303, 200, 303, 303]
        finally:
            server.shutdown()
            thread.join()


# --- the recipes ------------------------------------------------------------------------------


def as_wsgi(asgi: Callable[..., Any]) -> Callable[..., Any]:
    """An ASGI application for ``Browser``, one request to an event loop. (Starlette's own test client
    needs a library more, and which one depends on its version.)"""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        names = {name: name.removeprefix("HTTP_").replace("_", "-").lower().encode() for name in environ}
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "root_path": "",
            "method": environ["REQUEST_METHOD"], "scheme": environ["wsgi.url_scheme"],
            "path": environ["PATH_INFO"], "query_string": environ["QUERY_STRING"].encode(),
            "headers": [(names[name], value.encode("latin-1")) for name, value in environ.items()
                        if name.startswith(("HTTP_", "CONTENT_"))],
        }  # fmt: skip
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        asyncio.run(asgi(scope, receive, send))
        headers = [(name.decode(), value.decode("latin-1")) for name, value in sent[0]["headers"]]
        start_response(f"{sent[0]['status']} as ASGI says", headers)
        return [message["body"] for message in sent[1:]]

    return app


def with_lifespan(recipe: Any) -> Callable[..., Any]:
    """The application with its lifespan around each request, each of which has an event loop of its own."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        async with recipe.lifespan(recipe.app) as state:
            await recipe.app({**scope, "state": state}, receive, send)

    return app


OpenRecipe = Callable[[RunBlock], Browser]


def open_flask(run_block: RunBlock) -> Browser:
    """A browser on the application of the Flask recipe."""
    recipe: Any = run_block(block_with("@app.before_request"))
    return Browser(recipe.app, HTTPS)


def open_fastapi(run_block: RunBlock) -> Browser:
    """The same of the FastAPI recipe."""
    recipe: Any = run_block(block_with("from fastapi import"))
    return Browser(as_wsgi(with_lifespan(recipe)), HTTPS)


RECIPES = pytest.mark.parametrize("open_recipe", [open_flask, open_fastapi])


def confirm_page(browser: Browser, capsys: pytest.CaptureFixture[str], address: str = ADA) -> Page:
    """Asks for a link on the first page, and opens what the application printed instead of mailing it."""
    capsys.readouterr()
    assert browser.submit(browser.get("/"), "/link", {"email": address}).status == 200
    start, _, link = capsys.readouterr().out.strip().partition(HTTPS)
    assert start == f"To {address}: "
    return browser.get(link)


def left_with(page: Page) -> tuple[int, str | None]:
    """The status, and where the page leads to."""
    return page.status, page.header("Location")


@RECIPES
def test_a_recipe_signs_in_shows_the_protected_page_and_signs_out(
    open_recipe: OpenRecipe, run_block: RunBlock, capsys: pytest.CaptureFixture[str]
) -> None:
    browser = open_recipe(run_block)
    assert left_with(browser.get("/account")) == (303, "/")
    assert left_with(browser.submit(confirm_page(browser, capsys), "/confirm")) == (303, "/account")
    page = browser.get("/account")
    assert f"Hello, {ADA}" in page.body and "Firefox, since" in page.body
    kept = dict(browser.cookies)
    assert left_with(browser.submit(page, "/sign-out")) == (303, "/")
    assert browser.cookies == {}
    browser.cookies = kept
    assert left_with(browser.get("/account")) == (303, "/")


@RECIPES
def test_a_recipe_refuses_what_is_no_address(open_recipe: OpenRecipe, run_block: RunBlock) -> None:
    browser = open_recipe(run_block)
    assert [browser.post("/link", given).status for given in ({}, {"email": "ada"})] == [400, 400]


@RECIPES
def test_a_second_click_in_a_recipe_takes_over_what_the_first_began(
    open_recipe: OpenRecipe, run_block: RunBlock, capsys: pytest.CaptureFixture[str]
) -> None:
    browser = open_recipe(run_block)
    page = confirm_page(browser, capsys)
    browser.submit(page, "/confirm")
    lost, browser.cookies = browser.cookies, {}
    assert left_with(browser.submit(page, "/confirm")) == (303, "/account")
    assert browser.get("/account").body.count(", since") == 1
    browser.cookies = lost
    assert left_with(browser.get("/account")) == (303, "/")


@RECIPES
def test_a_recipe_shows_who_is_signed_in_their_account_and_others_that_the_link_was_used(
    open_recipe: OpenRecipe, run_block: RunBlock, capsys: pytest.CaptureFixture[str]
) -> None:
    browser = open_recipe(run_block)
    page = confirm_page(browser, capsys)
    browser.submit(page, "/confirm")
    kept = dict(browser.cookies)
    assert left_with(browser.submit(page, "/confirm")) == (303, "/account")
    assert browser.cookies == kept and browser.get("/account").status == 200
    browser.cookies = {}
    refused = browser.submit(page, "/confirm")
    assert refused.status == 403 and "This link was used" in refused.body and not browser.cookies


@RECIPES
def test_a_recipe_sets_and_clears_the_cookie_with_every_flag(
    open_recipe: OpenRecipe, run_block: RunBlock, capsys: pytest.CaptureFixture[str]
) -> None:
    browser = open_recipe(run_block)
    pages = [browser.submit(confirm_page(browser, capsys), "/confirm"), browser.post("/sign-out", {})]
    pages += [browser.submit(confirm_page(browser, capsys), "/confirm"), browser.post("/sign-out-everywhere", {})]
    for page, age in zip(pages, (34560000, 0, 34560000, 0)):
        name, *attributes = session_cookie(page)
        assert name == "__Host-session"
        given = {flag.lower() for flag in attributes if not flag.lower().startswith("expires=")}
        assert given == {"httponly", "path=/", "secure", "samesite=lax", f"max-age={age}"}


@RECIPES
def test_a_recipe_refuses_a_post_from_elsewhere(
    open_recipe: OpenRecipe, run_block: RunBlock, capsys: pytest.CaptureFixture[str]
) -> None:
    browser = open_recipe(run_block)
    page = confirm_page(browser, capsys)
    [link] = page.forms("/confirm")
    for headers in FOREIGN.values():
        assert browser.post("/confirm", link, **headers).status == 403
    assert browser.post("/confirm", link, HTTP_SEC_FETCH_SITE="").status == 303
    for path in ("/link", "/revoke", "/sign-out", "/sign-out-everywhere"):
        for headers in FOREIGN.values():
            assert browser.post(path, {"email": GRACE}, **headers).status == 403
    assert browser.get("/account").status == 200 and capsys.readouterr().out == ""


@RECIPES
def test_signing_in_again_through_a_recipe_ends_the_session_before(
    open_recipe: OpenRecipe, run_block: RunBlock, capsys: pytest.CaptureFixture[str]
) -> None:
    browser = open_recipe(run_block)
    browser.submit(confirm_page(browser, capsys), "/confirm")
    before = dict(browser.cookies)
    browser.submit(confirm_page(browser, capsys), "/confirm")
    assert browser.get("/account").body.count(", since") == 1
    browser.cookies = before
    assert left_with(browser.get("/account")) == (303, "/")


@RECIPES
def test_a_recipe_ends_one_device_or_all(
    open_recipe: OpenRecipe, run_block: RunBlock, capsys: pytest.CaptureFixture[str]
) -> None:
    browser = open_recipe(run_block)
    cookies = []
    for _ in range(3):
        browser.cookies = {}
        browser.submit(confirm_page(browser, capsys), "/confirm")
        cookies.append(browser.cookies)
    page = browser.get("/account")
    assert left_with(browser.submit(page, "/revoke", number=1)) == (303, "/account")
    assert browser.get("/account").body.count(", since") == 2
    assert left_with(browser.submit(page, "/sign-out-everywhere")) == (303, "/")
    for browser.cookies in cookies:
        assert left_with(browser.get("/account")) == (303, "/")


@RECIPES
def test_every_page_of_a_recipe_forbids_scripts_caches_frames_and_foreign_referrers(
    open_recipe: OpenRecipe, run_block: RunBlock, capsys: pytest.CaptureFixture[str]
) -> None:
    browser = open_recipe(run_block)
    for page in (browser.get("/"), confirm_page(browser, capsys), browser.post("/link", {"email": "ada"})):
        assert "default-src 'none'" in (page.header("Content-Security-Policy") or "")
        assert (page.header("Cache-Control"), page.header("Referrer-Policy")) == ("no-store", "same-origin")


@pytest.mark.parametrize("mark, limit", [("@app.before_request", 70), ("from fastapi import", 80)])
def test_a_recipe_is_short(mark: str, limit: int) -> None:
    assert len([line for line in block_with(mark).source.splitlines() if line]) < limit


def test_the_starlette_view_answers_from_the_store(run_block: RunBlock) -> None:
    recipe: Any = run_block(block_with("async def account(request)"))
    with SQLiteAdapter("auth.db") as store:
        token = store.create_session(user_id=store.create_user(email=ADA).id).session_token

    browser = Browser(as_wsgi(with_lifespan(recipe)), HTTPS)
    assert browser.get("/account").status == 401
    browser.cookies["__Host-session"] = token
    assert json.loads(browser.get("/account").body) == {"email": ADA}


def test_the_click_works_in_an_async_store_as_the_readme_says(run_block: RunBlock) -> None:
    assert "await store.run(magic_link.click, form, cookie)" in section("FastAPI and Starlette")
    magic_link: Any = run_block(MAGIC_LINK)

    async def click_twice() -> None:
        async with AsyncAdapter(SQLiteAdapter("auth.db", session=magic_link.Device)) as store:
            made = await store.create_verification_token(identifier=ADA)
            form = {"email": ADA, "token": made.token, "page": "random"}
            first, second = [await store.run(magic_link.click, form, "") for _ in range(2)]
            assert await store.get_session_and_user(first.session_token) is None
            found = await store.get_session_and_user(second.session_token)
            assert found is not None and found.user.email == ADA
            assert await store.run(magic_link.click, {**form, "page": "another"}, "") is None

    asyncio.run(click_twice())


def test_the_table_on_asyncio_says_how_much_is_read_at_once() -> None:
    assert f"more than {base.AT_ONCE} records" in section("asyncio")


def test_the_operations_say_how_long_a_fork_waits() -> None:
    assert f"`fork()` waits at most {forks.PATIENCE:g} seconds" in section("Operations")


# --- an adapter of one's own ------------------------------------------------------------------


class FakeRedis:
    """The commands of a Redis client that the README's sessions need, over a dict."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._values: dict[str, tuple[str, int]] = {}
        self._sets: dict[str, set[str]] = {}

    def get(self, key: str) -> str | None:
        value, end = self._values.get(key, (None, 0))
        return value if end > self._clock().timestamp() * 1000 else None

    def getdel(self, key: str) -> str | None:
        value = self.get(key)
        self._values.pop(key, None)
        return value

    def delete(self, key: str) -> int:
        return int(self.getdel(key) is not None)

    def set(self, key: str, value: str, *, pxat: int, nx: bool = False, xx: bool = False) -> bool | None:
        there = self.get(key) is not None
        if nx and there or xx and not there:
            return None
        self._values[key] = value, pxat
        return True

    def sadd(self, key: str, member: str) -> None:
        self._sets.setdefault(key, set()).add(member)

    def smembers(self, key: str) -> set[str]:
        return {*self._sets.get(key, ())}


MakeSplit = Callable[..., Any]


@pytest.fixture
def make_split(run_block: RunBlock) -> Iterator[MakeSplit]:
    """Users in memory, and sessions as the README has them in Redis."""
    users = []

    def make(clock: Callable[[], datetime] = lambda: datetime.now(UTC), **ages: Any) -> SplitAdapter:
        sessions: Any = run_block(block_with("class RedisSessions"))
        users.append(MemoryAdapter())
        return SplitAdapter(users=users[-1], sessions=sessions.RedisSessions(FakeRedis(clock), clock=clock, **ages))

    yield make
    for store in users:
        store.close()


class TestRedisSessions(SessionContract):
    """All that the contract asks of sessions, but for what the README says is left to the reader."""

    @pytest.fixture
    def make_adapter(self, make_split: MakeSplit) -> MakeSplit:
        def make(session_max_age: Any = 30 * DAY, session_update_age: Any = DAY, **options: Any) -> Any:
            clock = {name: options.pop(name) for name in [*options] if name == "clock"}
            others = {*options} - {"verification_max_age", "purge_interval"}
            if others or session_update_age != DAY or session_max_age == timedelta.max:
                pytest.skip("an option that it does not have")
            age = session_max_age if isinstance(session_max_age, timedelta) else timedelta(seconds=session_max_age)
            # Without transaction(), which does not reach the sessions.
            return Partial(KIT["users"] | KIT["sessions"], make_split(max_age=age, **clock))

        return make

    def test_a_touch_with_what_is_no_age_is_refused(self) -> None:  # type: ignore[override]
        pytest.skip("the README says that this is left out")

    def test_a_touch_may_give_this_session_an_age_of_its_own(self) -> None:  # type: ignore[override]
        pytest.skip("it looks a microsecond before the end, which the README leaves out")


def test_a_token_that_another_user_has_shows_up_in_nobodys_list(make_split: MakeSplit) -> None:
    """Not even if somebody has tried to start a session with it."""
    store = make_split()
    ada, grace = store.create_user(), store.create_user()
    session = store.create_session(user_id=ada.id, session_token="taken")
    with pytest.raises(ConflictError):
        store.create_session(user_id=grace.id, session_token="taken")
    assert store.list_sessions(grace.id) == []
    assert store.revoke_sessions(grace.id) == 0
    assert [one.id for one in store.list_sessions(ada.id)] == [session.id]


def test_the_redis_has_no_token(make_split: MakeSplit) -> None:
    store = make_split()
    store.create_session(user_id=store.create_user().id, session_token="a token")
    redis = store._sessions.redis
    assert "a token" not in repr([redis._values, redis._sets])


def test_the_verbs_of_a_backend_are_exactly_those_of_the_table() -> None:
    verbs = {span for cells in rows(section("Your own adapter")) for span in code(cells[0])}
    asked = {name: method for name, method in vars(base.BaseAdapter).items()
             if getattr(method, "__isabstractmethod__", False)}
    assert {verb.partition("(")[0] for verb in verbs} == asked.keys()
    for verb in verbs:
        assert written_parameters(verb) == parameters(asked[verb.partition("(")[0]])


def test_what_the_readme_says_of_a_backend_is_there() -> None:
    text = section("Your own adapter")
    for name in re.findall(r"`(_\w+)`", text):
        assert hasattr(base.BaseAdapter, name)
    for path in re.findall(r"`((?:tests|tinyauthstore)/[\w/]+\.py)`", text):
        assert (ROOT / path).is_file()


# --- signing in -------------------------------------------------------------------------------


class Google(BaseHTTPRequestHandler):
    """The provider's end of the code flow: it knows one code, and who set out with which challenge."""

    claims: ClassVar[Mapping[str, Any]] = {}
    challenge = ""
    asked: ClassVar[list[dict[str, str]]] = []

    def do_POST(self) -> None:
        form = parsed(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.asked.append(form)
        digest = base64url(hashlib.sha256(form["code_verifier"].encode()).digest())
        id_token = ".".join(base64url(json.dumps(part).encode()) for part in ({}, self.claims, {}))
        good = digest == self.challenge and form["code"] == "the code"
        answer = {"access_token": "ya29", "expires_in": 3599, "scope": "openid", "id_token": id_token}
        self.send_response(200 if good else 400)
        self.end_headers()
        self.wfile.write(json.dumps(answer if good else {"error": "invalid_grant"}).encode())

    def log_message(self, *args: Any) -> None:
        pass


def parsed(query: str) -> dict[str, str]:
    """The last value of each name."""
    return {name: values[-1] for name, values in parse_qs(query).items()}


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@dataclass
class Flow:
    """The recipe for Google, and a browser that has been at Google and comes back."""

    recipe: Any
    provider: type[Google]
    kept: str = ""
    query: dict[str, str] = field(default_factory=dict)

    def claims(self, **claims: Any) -> None:
        end = int(datetime.now(UTC).timestamp()) + 3600
        issued = {"iss": "https://accounts.google.com", "aud": self.recipe.CLIENT["client_id"], "exp": end}
        person = {"sub": "110169", "email": "ada@gmail.com", "email_verified": True, "name": "Ada", "picture": "a.png"}
        self.provider.claims = {**issued, **person, **claims}

    def set_out(self) -> None:
        url, self.kept = self.recipe.set_out()
        assert url.startswith("https://accounts.google.com/")
        asked = parsed(urlsplit(url).query)
        assert asked.items() >= self.recipe.CLIENT.items() and asked["code_challenge_method"] == "S256"
        assert self.kept.partition(".")[2] not in url
        self.provider.challenge = asked["code_challenge"]
        self.query = {"state": asked["state"], "code": "the code"}


@pytest.fixture
def flow(run_block: RunBlock) -> Iterator[Flow]:
    recipe: Any = run_block(block_with("def come_back"))
    provider = type("Provider", (Google,), {"asked": []})
    with HTTPServer(("127.0.0.1", 0), provider) as server:
        recipe.TOKEN = f"http://127.0.0.1:{server.server_port}/token"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            flow = Flow(recipe, provider)
            flow.claims()
            flow.set_out()
            yield flow
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def memory() -> Iterator[MemoryAdapter]:
    with MemoryAdapter() as store:
        yield store


def test_who_comes_back_from_google_is_signed_in_and_the_session_before_ends(flow: Flow, memory: MemoryAdapter) -> None:
    before = memory.create_session(user_id=memory.create_user().id).session_token
    signed_in = flow.recipe.come_back(memory, flow.query, flow.kept, before)
    user = signed_in.user
    assert signed_in.is_new_user and (user.email, user.name, user.image) == ("ada@gmail.com", "Ada", "a.png")
    assert user.email_verified is not None  # Google runs that mailbox
    account = memory.get_account(provider="google", provider_account_id="110169")
    assert account is not None and account.access_token == "ya29" and account.expires_at is not None
    assert memory.get_session_and_user(before) is None
    [form] = flow.provider.asked
    assert form["client_secret"] == flow.recipe.CLIENT_SECRET and form["grant_type"] == "authorization_code"
    flow.set_out()
    assert flow.recipe.come_back(memory, flow.query, flow.kept).user == user


@pytest.mark.parametrize("wrong", [{"state": "forged"}, {"code": None}, {"state": ""}], ids=str)
def test_who_did_not_set_out_from_here_is_not_signed_in(flow: Flow, memory: MemoryAdapter, wrong: Any) -> None:
    query = {name: value for name, value in {**flow.query, **wrong}.items() if value is not None}
    assert flow.recipe.come_back(memory, query, flow.kept) is None
    assert flow.recipe.come_back(memory, {"code": "the code", "state": ""}, "") is None
    assert flow.provider.asked == []


@pytest.mark.parametrize("wrong", [{"aud": "another"}, {"iss": "https://evil.example/accounts.google.com"}, {"exp": 1}], ids=str)
def test_a_token_that_is_not_for_us_signs_nobody_in(flow: Flow, memory: MemoryAdapter, wrong: Any) -> None:
    flow.claims(**wrong)
    assert flow.recipe.come_back(memory, flow.query, flow.kept) is None
    assert memory.count().users == 0


def test_a_code_that_google_refuses_is_an_error_as_the_readme_says(flow: Flow, memory: MemoryAdapter) -> None:
    with pytest.raises(OSError, match="HTTP Error 400") as refused:
        flow.recipe.come_back(memory, {**flow.query, "code": "another"}, flow.kept)
    cast(Any, refused.value).close()


@pytest.mark.parametrize("claims, proven", [({}, False), ({"hd": "example.com"}, True)], ids=["outside", "hosted"])
def test_a_mailbox_that_google_does_not_run_is_not_proven_by_google(
    flow: Flow, memory: MemoryAdapter, claims: Any, proven: bool
) -> None:
    flow.claims(email=ADA, **claims)
    user = flow.recipe.come_back(memory, flow.query, flow.kept).user
    assert (user.email_verified is not None) == proven


class Passkey:
    """An authenticator in software, and the browser around it."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec

        self.key = ec.generate_private_key(ec.SECP256R1())
        self.id, self.counter = os.urandom(16), 0

    def _answer(self, kind: str, options: str, origin: str, **response: bytes) -> dict[str, Any]:
        response["clientDataJSON"] = self._client_data(kind, options, origin)
        encoded = {name: base64url(data) for name, data in response.items()}
        return {"id": base64url(self.id), "rawId": base64url(self.id), "type": "public-key", "response": encoded,
                "clientExtensionResults": {}}  # fmt: skip

    def _client_data(self, kind: str, options: str, origin: str) -> bytes:
        given = {"type": f"webauthn.{kind}", "challenge": json.loads(options)["challenge"], "origin": origin}
        return json.dumps(given).encode()

    def _data(self, flags: int) -> bytes:
        self.counter += 1
        return hashlib.sha256(b"app.example.com").digest() + bytes([flags]) + self.counter.to_bytes(4, "big")

    def create(self, options: str, origin: str = HTTPS) -> dict[str, Any]:
        from webauthn.helpers import encode_cbor

        public = self.key.public_key().public_numbers()
        cose = encode_cbor({1: 2, 3: -7, -1: 1, -2: public.x.to_bytes(32, "big"), -3: public.y.to_bytes(32, "big")})
        data = self._data(0x45) + bytes(16) + len(self.id).to_bytes(2, "big") + self.id + cose
        attestation = encode_cbor({"fmt": "none", "attStmt": {}, "authData": data})
        return self._answer("create", options, origin, attestationObject=attestation)

    def get(self, options: str, origin: str = HTTPS) -> dict[str, Any]:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        data, client_data = self._data(0x05), self._client_data("get", options, origin)
        signature = self.key.sign(data + hashlib.sha256(client_data).digest(), ec.ECDSA(hashes.SHA256()))
        return self._answer("get", options, origin, authenticatorData=data, signature=signature)


class Registered(NamedTuple):
    recipe: Any
    passkey: Passkey
    user: tinyauthstore.User

    def attempt(self, store: Any, **where: str) -> tuple[str, dict[str, Any]]:
        """A challenge, and what the browser answers."""
        challenge = self.recipe.new_challenge(store)
        return challenge, self.passkey.get(self.recipe.sign_in_options(challenge), **where)


@pytest.fixture
def registered(run_block: RunBlock, memory: MemoryAdapter) -> Registered:
    recipe: Any = run_block(block_with("from webauthn import"))
    user, challenge = memory.create_user(email=ADA), recipe.new_challenge(memory)
    passkey = Passkey()
    answer = passkey.create(recipe.registration_options(memory, user, challenge))
    assert recipe.register(memory, user, challenge, answer).credential_id == base64url(passkey.id)
    assert recipe.register(memory, user, challenge, answer) is None  # a challenge works once
    return Registered(recipe, passkey, user)


def test_a_registered_passkey_signs_in_once_for_each_challenge(registered: Registered, memory: MemoryAdapter) -> None:
    challenge, answer = registered.attempt(memory)
    assert registered.recipe.sign_in(memory, challenge, answer).user == registered.user
    assert registered.recipe.sign_in(memory, challenge, answer) is None
    [kept] = memory.list_authenticators_by_user_id(registered.user.id)
    assert (kept.counter, kept.credential_device_type) == (2, "single_device")


def test_a_passkey_that_is_there_is_not_offered_again(registered: Registered, memory: MemoryAdapter) -> None:
    options = json.loads(registered.recipe.registration_options(memory, registered.user, "challenge"))
    assert [one["id"] for one in options["excludeCredentials"]] == [base64url(registered.passkey.id)]


def test_an_unknown_passkey_signs_nobody_in(registered: Registered, memory: MemoryAdapter) -> None:
    challenge, answer = registered.attempt(memory)
    memory.delete_authenticator(base64url(registered.passkey.id))
    assert registered.recipe.sign_in(memory, challenge, answer) is None
    assert registered.recipe.sign_in(memory, registered.recipe.new_challenge(memory), {}) is None


def test_a_forged_answer_is_the_librarys_exception(registered: Registered, memory: MemoryAdapter) -> None:
    from webauthn.helpers.exceptions import WebAuthnException

    challenge, answer = registered.attempt(memory, origin="https://evil.example")
    with pytest.raises(WebAuthnException):
        registered.recipe.sign_in(memory, challenge, answer)
    challenge, answer = registered.attempt(memory)
    with pytest.raises(WebAuthnException):
        registered.recipe.sign_in(memory, registered.recipe.new_challenge(memory), answer)
    assert memory.list_sessions(registered.user.id) == []


@pytest.mark.parametrize("remember, days", [(False, 1), (True, 90)])
def test_a_remembered_device_lives_longer_and_is_touched_by_its_own_age(
    run_block: RunBlock, remember: bool, days: int, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe: Any = run_block(block_with("class Device(Session):\n    agent: str = \"\"\n    days"))
    assert re.fullmatch(r"Firefox 20\d\d.* this one\n", capsys.readouterr().out)
    now = datetime.now(UTC)
    with MemoryAdapter(session=recipe.Device, clock=lambda: now) as store:
        link = store.create_verification_token(identifier=ADA)
        signed_in = recipe.sign_in(store, link.identifier, link.token, "Phone" * 100, remember)
        assert len(signed_in.session.agent) == 200
        assert abs(signed_in.session.expires - now - timedelta(days=days)) < timedelta(seconds=30)
        now += timedelta(days=days) * 0.9
        assert recipe.look_up(store, signed_in.session.session_token) is not None
        [device] = store.list_sessions(signed_in.user.id)
        assert device.expires == now + timedelta(days=days)
        now += timedelta(days=days)
        assert recipe.look_up(store, signed_in.session.session_token) is None


# --- other people's files ---------------------------------------------------------------------


def test_every_codec_that_the_readme_names_is_there() -> None:
    table = tables(section("An existing users table"))[0]
    names = {span.partition("(")[0] for row in rows("\n".join(table)) for span in code(row[1])}
    assert {"integer_id", "iso", "blank"} < names and all(hasattr(encodings, name) for name in names)


def test_the_readme_names_every_layout() -> None:
    [_, *found] = rows(section("Next.js in front, Python behind"))[0]
    names = {span.rpartition(".")[2] for span in code(found[0])} | {"better_auth"}
    known = {name for name, value in vars(layouts).items() if isinstance(value, schema.Schema) and value is not schema.OURS}
    assert names <= known and all(name in section("Next.js in front, Python behind") for name in known)


def test_the_application_of_the_existing_table_reads_what_was_written(run_block: RunBlock) -> None:
    """A login and a date, as it has them in its own rows."""
    run_block(block_with("app_users = Table("))
    with closing(sqlite3.connect("legacy.db")) as theirs:
        [row] = theirs.execute("SELECT no, login, mail, full_name, confirmed FROM app_users").fetchall()
        [created] = theirs.execute("SELECT created FROM app_users").fetchone()
    assert row == (1, ADA, ADA, "Ada", None)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", created)


@pytest.mark.parametrize("text, layout", [("layouts.drizzle", "drizzle"), ("layouts.better_auth)", "better_auth")])
def test_the_files_of_the_recipes_for_nextjs_are_told_apart(text: str, layout: str, run_block: RunBlock) -> None:
    for block in BLOCKS:
        if text in block.source:
            run_block(block)
    assert layouts.detect("better.db" if layout == "better_auth" else "app.db").name == getattr(layouts, layout).name
