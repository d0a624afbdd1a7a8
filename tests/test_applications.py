"""The README's applications as they are run: real servers, several processes and threads, signals.

``magic_link.py`` runs by itself; the Flask recipe under gunicorn and the FastAPI recipe under uvicorn, each with two
workers, where these are installed. Warnings are errors in all of them. Whenever a server was told to stop, its log
must be clean and its store closed.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, IncompleteRead
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode, urlsplit

import pytest
from servers import PATIENCE, wait_for
from test_readme import Forms

from tinyauthstore import SQLiteAdapter

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MANY, CLICKS = 200, 24
ADA = "ada@example.com"
T = TypeVar("T")


# --- the servers ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """An application of the README: where it is, what runs it, and how that is told to stop."""

    name: str
    mark: str  # what only its block has
    needs: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    tells: str = ""  # runs it so that every response names the process that it comes from
    stop: signal.Signals = signal.SIGTERM
    workers: int = 2


MAGIC_LINK = Kind(
    "magic_link", "def make_app(store, base_url", command=("told.py",), stop=signal.SIGINT, workers=1,
    tells="""
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background has none
runpy.run_path("magic_link.py", run_name="__main__")
""",
)  # fmt: skip
FLASK = Kind(
    "flask_app", "@app.before_request", ("flask", "gunicorn"),
    ("-m", "gunicorn", "--workers", "2", "--threads", "4", "--keep-alive", "30", "--bind", "127.0.0.1:{port}",
     "told:app"),
    """
from flask_app import app

@app.after_request
def tell(response):
    response.headers["X-Process"] = os.getpid()
    return response
""",
)  # fmt: skip
FASTAPI = Kind(
    "fastapi_app", "from fastapi import", ("fastapi", "uvicorn"),
    ("-m", "uvicorn", "--workers", "2", "--timeout-keep-alive", "30", "--port", "{port}", "told:app"),
    """
from fastapi_app import app

@app.middleware("http")
async def tell(request, go_on):
    response = await go_on(request)
    response.headers["X-Process"] = str(os.getpid())
    return response
""",
)  # fmt: skip
KINDS = (MAGIC_LINK, FLASK, FASTAPI)
TELL_OF_CLOSING = """
import os
import tinyauthstore
close = tinyauthstore.SQLiteAdapter.close
def told(store):
    close(store)
    print("closed in", os.getpid(), flush=True)
tinyauthstore.SQLiteAdapter.close = told
"""
NOT_OURS = re.compile(
    r"Exception ignored in: <socket.socket .*\n(?:Traceback .*\n(?: .*\n)*)?ResourceWarning: unclosed <socket.socket .*\n"
    r"|.*Worker \(pid:\d+\) was sent SIGKILL!.*\n"
)
"""In a log: not all servers close all of their sockets; gunicorn says who was killed."""


def source(kind: Kind) -> str:
    blocks = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    [found] = [block for block in blocks if kind.mark in block]
    return str(found)


@dataclass
class Server:
    """A server that runs: its port, and what it has written."""

    kind: Kind
    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    def written(self) -> str:
        return (self.folder / "out").read_text(encoding="utf-8") + (self.folder / "log").read_text(encoding="utf-8")

    def link_for(self, address: str) -> str:
        """Asks for a link, and reads what was printed instead of mailed, though the output is no terminal."""
        assert "A link is on its way" in Client(self).post("/link", email=address).body
        links = re.findall(rf"^To {re.escape(address)}: (.*)$", (self.folder / "out").read_text(), re.MULTILINE)
        url = urlsplit(links[-1])
        return f"{url.path}?{url.query}"

    def signed_in(self, address: str) -> Client:
        client = Client(self)
        assert client.click(client.get(self.link_for(address))).leads_to("/account")
        return client

    def must_have_closed(self) -> None:
        """Every process its store. Their sidecars may stay if two do so at the same moment: neither is the last."""
        assert len({*re.findall(r"^closed in (\d+)$", self.written(), re.MULTILINE)}) >= self.kind.workers
        if self.kind.workers == 1:
            assert list(self.folder.glob("auth.db?*")) == []

    def kill(self) -> None:
        """All of its processes, at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)


@contextmanager
def running(kind: Kind, folder: Path, *options: str) -> Iterator[Server]:
    """The server, in that folder. It is stopped afterwards, unless it was killed, and must leave all in order."""
    missing = [name for name in kind.needs if find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for written in {MAGIC_LINK, kind}:
        (folder / f"{written.name}.py").write_text(source(written).replace("8000", str(port)), encoding="utf-8")
    (folder / "told.py").write_text(TELL_OF_CLOSING + kind.tells, encoding="utf-8")
    command = [sys.executable, "-W", "error", *(part.format(port=port) for part in kind.command), *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "PYTHON"))}
    environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= dict.fromkeys(("HOME", "XDG_RUNTIME_DIR"), str(folder))  # gunicorn puts a socket there
    with open(folder / "out", "wb") as out, open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=out, stderr=log, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    server = Server(kind, folder, port, process)
    try:
        wait_for(lambda: answers(server), process)
        yield server
        if process.poll() is None:
            process.send_signal(kind.stop)
            process.wait(PATIENCE)
            server.must_have_closed()
        log = NOT_OURS.sub("", server.written())
        assert not re.search("Traceback|Warning|Exception|Error|ERROR|CRITICAL", log)
    except BaseException:
        print(server.written())
        raise
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait(PATIENCE)


def answers(server: Server) -> bool:
    try:
        return Client(server).get("/").status == 200
    except OSError:
        return False


# --- browsers ---------------------------------------------------------------------------------


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: str

    def leads_to(self, path: str) -> bool:
        return self.status == 303 and self.headers["Location"] == path


@dataclass
class Client:
    """Keeps its cookie, and its connection if it is told to."""

    server: Server
    cookie: str = ""
    keeps: HTTPConnection | None = None
    process: str = field(default="", init=False)

    def ask(self, method: str, path: str, **form: str) -> Answer:
        connection = self.keeps or HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE)
        headers = {"Cookie": self.cookie, "User-Agent": "Firefox", "Sec-Fetch-Site": "same-origin",
                   "Content-Type": "application/x-www-form-urlencoded"}  # fmt: skip
        try:
            connection.request(method, path, urlencode(form) if method == "POST" else None, headers)
            response = connection.getresponse()
            answer = Answer(response.status, response.headers, response.read().decode())
            if "Content-Length" not in answer.headers:  # the server was killed; http.client takes that for the end
                raise IncompleteRead(b"")
        finally:
            if self.keeps is None:
                connection.close()
        self.process = answer.headers.get("X-Process", "")
        if cookie := answer.headers.get("Set-Cookie"):
            self.cookie = cookie.partition(";")[0]
        return answer

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)

    def post(self, path: str, **form: str) -> Answer:
        return self.ask("POST", path, **form)

    def click(self, page: Answer) -> Answer:
        """The one button on the page."""
        assert page.status == 200, page
        [(path, form)] = Forms(page.body).found
        return self.post(path, **form)

    def account(self) -> str | None:
        """The page for who is signed in; None for others."""
        answer = self.get("/account")
        assert answer.status == 200 or answer.leads_to("/")
        return answer.body if answer.status == 200 else None


def at_once(count: int, function: Callable[[int], T]) -> list[T]:
    """What ``function(i)`` returned in each of so many threads, which set off together."""
    barrier = threading.Barrier(count)
    results: dict[int, T] = {}
    errors: list[Exception] = []

    def run(i: int) -> None:
        barrier.wait(PATIENCE)
        try:
            results[i] = function(i)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE * 2)
    assert errors == [] and len(results) == count
    return [results[i] for i in range(count)]


@contextmanager
def no_writes(server: Server, seconds: float = 0.3) -> Iterator[None]:
    """For that long, whoever wants to write must wait, so that they collide afterwards."""
    held = threading.Event()

    def hold() -> None:
        with SQLiteAdapter(server.folder / "auth.db") as store, store.transaction():
            store.create_user()
            held.set()
            time.sleep(seconds)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(PATIENCE)
    yield
    thread.join()


def devices(client: Client) -> int:
    return (client.account() or "").count(", since ")


# --- what all of them do ----------------------------------------------------------------------


@pytest.fixture(scope="module", params=KINDS, ids=[kind.name for kind in KINDS])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for the tests of this module that leave it running; what it left is looked at in the end."""
    with running(request.param, tmp_path_factory.mktemp("app")) as server:
        yield server


def test_somebody_signs_up_by_a_link_and_out_again(server: Server) -> None:
    scanner, browser = Client(server), Client(server)
    link = server.link_for(ADA)
    assert scanner.ask("HEAD", link).body == "" and scanner.get(link).status == 200
    answer = browser.click(browser.get(link))
    assert answer.leads_to("/account")
    flags = answer.headers["Set-Cookie"].lower()
    assert "httponly" in flags and "samesite=lax" in flags and "max-age=34560000" in flags
    assert flags.startswith("__host-") is ("secure" in flags) is (server.kind is not MAGIC_LINK)
    assert f"Hello, {ADA}" in (browser.account() or "") and scanner.account() is None
    kept = browser.cookie
    assert browser.post("/sign-out").leads_to("/")
    browser.cookie = kept
    assert browser.account() is None


def test_many_requests_at_once_are_all_answered(server: Server) -> None:
    """Half of them from somebody who is signed in."""
    cookies = [server.signed_in("many@example.com").cookie, "session=unknown; __Host-session=unknown"]
    clients = [Client(server, cookies[i % 2]) for i in range(MANY)]
    pages = at_once(MANY, lambda i: clients[i].account())
    assert [page is not None for page in pages] == [True, False] * (MANY // 2)


def test_one_link_used_by_many_at_once_signs_in_exactly_one(server: Server) -> None:
    """Each has opened it on a page of their own; some are known to be with different processes."""
    ways = connections(server)
    clients = [Client(server, keeps=way) for way in ways] + [Client(server) for _ in range(MANY - len(ways))]
    [(path, form)] = Forms(clients[0].get(server.link_for("once@example.com")).body).found
    with no_writes(server):
        answered = at_once(MANY, lambda i: clients[i].post(path, **{**form, "page": f"{form['page']}{i}"}))
    assert sorted(answer.status for answer in answered) == [303] + [403] * (MANY - 1)
    assert all("This link was used" in answer.body for answer in answered if answer.status == 403)
    assert {client.process for client in clients} == {client.process for client in clients[: len(ways)]}
    [winner] = [client for client in clients if client.cookie]
    assert devices(winner) == 1
    for way in ways:
        way.close()


def test_clicks_on_one_page_at_once_all_sign_in_and_leave_one_session(server: Server) -> None:
    """A browser gives up the answer, and the cookie in it, to all but the last."""
    page = Client(server).get(server.link_for("clicks@example.com"))
    ways = connections(server)
    clients = [Client(server, keeps=way) for way in ways] + [Client(server) for _ in range(CLICKS - len(ways))]
    with no_writes(server):
        answered = at_once(CLICKS, lambda i: clients[i].click(page))
    assert all(answer.leads_to("/account") for answer in answered)
    [alive] = [client for client in clients if client.account()]
    assert devices(alive) == 1
    assert alive.click(page).leads_to("/account") and devices(alive) == 1
    for way in ways:
        way.close()


def test_a_click_after_a_lost_answer_signs_in_through_every_process(server: Server) -> None:
    for i in range(4):
        link = server.link_for(f"lost{i}@example.com")
        browser = Client(server)
        page = browser.get(link)
        browser.click(page)
        browser.cookie = ""
        assert browser.click(page).leads_to("/account")
        assert devices(browser) == 1


def test_signing_out_everywhere_counts_in_every_process_at_the_very_next_request(server: Server) -> None:
    ways = connections(server)
    for address in ("here@example.com", "there@example.com"):
        clients = [Client(server, server.signed_in(address).cookie, way) for way in ways for _ in range(2)]
        assert [devices(client) for client in clients for _ in range(3)] == [len(clients)] * len(clients) * 3
        assert clients[-1].post("/sign-out-everywhere").leads_to("/")
        for client in clients:
            assert client.account() is None
        ways.reverse()
    for way in ways:
        way.close()


def connections(server: Server) -> list[HTTPConnection]:
    """A connection to each of the server's processes, kept open."""
    found: dict[str, HTTPConnection] = {}
    others = []
    deadline = time.monotonic() + PATIENCE
    while len(found) < server.kind.workers:
        assert time.monotonic() < deadline
        client = Client(server, keeps=HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE))
        assert client.keeps is not None
        client.get("/")
        if found.setdefault(client.process, client.keeps) is not client.keeps:
            others.append(client.keeps)  # held, so that the next one goes elsewhere
    for other in others:
        other.close()
    return list(found.values())


def test_a_connection_that_asks_for_nothing_keeps_nobody_waiting(server: Server) -> None:
    """Browsers open some ahead of need."""
    with socket.create_connection(("127.0.0.1", server.port)), socket.create_connection(("127.0.0.1", server.port)):
        client = Client(server, keeps=HTTPConnection("127.0.0.1", server.port, timeout=5))
        assert client.get("/").status == 200
        client.keeps.close()


def test_a_form_from_elsewhere_and_a_bad_length_are_refused(server: Server) -> None:
    def status(*headers: str) -> int:
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
            lines = ["POST /link HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
            connection.sendall("\r\n".join(lines).encode())
            return int(connection.makefile("rb").readline().split()[1])

    assert status("Sec-Fetch-Site: cross-site", "Content-Length: 0") == 403
    for length in ("abc", "-1", "9" * 5000):
        assert status("Sec-Fetch-Site: same-origin", f"Content-Length: {length}") in (400, 413)


def test_the_application_says_where_it_is(server: Server) -> None:
    if server.kind is not MAGIC_LINK:
        pytest.skip("other servers say it in words of their own")
    hint = (server.folder / "out").read_text().splitlines()[0]
    assert hint == f"Open http://localhost:{server.port} in a browser. Ctrl-C ends it."


# --- signals ----------------------------------------------------------------------------------

EACH_KIND = pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])


@pytest.mark.soak
@EACH_KIND
def test_sessions_and_links_survive_a_restart(kind: Kind, tmp_path: Path) -> None:
    with running(kind, tmp_path) as server:
        cookie, link = server.signed_in(ADA).cookie, server.link_for(ADA)
    with running(kind, tmp_path) as server:
        client, other = Client(server, cookie), Client(server)
        assert f"Hello, {ADA}" in (client.account() or "")
        assert other.click(other.get(link)).leads_to("/account")
        assert devices(client) == 2


@pytest.mark.soak
def test_a_store_that_was_opened_before_the_workers_were_forked_works_in_all_of_them(tmp_path: Path) -> None:
    with running(FLASK, tmp_path, "--preload") as server:
        test_one_link_used_by_many_at_once_signs_in_exactly_one(server)
        test_signing_out_everywhere_counts_in_every_process_at_the_very_next_request(server)


@pytest.mark.soak
@EACH_KIND
def test_who_was_told_that_they_are_signed_in_is_so_after_a_kill(kind: Kind, tmp_path: Path) -> None:
    told: list[str] = []

    def sign_in(server: Server, link: str) -> None:
        client = Client(server)
        try:
            if client.click(client.get(link)).leads_to("/account"):
                told.append(client.cookie)
        except (OSError, HTTPException):
            pass  # it was killed

    with running(kind, tmp_path) as server:
        links = [server.link_for(f"{i}@example.com") for i in range(60)]
        threads = [threading.Thread(target=sign_in, args=(server, link)) for link in links]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(told) >= 10, server.process)
        server.kill()
        for thread in threads:
            thread.join(PATIENCE)
    with running(kind, tmp_path) as server:
        assert all("Hello, " in (Client(server, cookie).account() or "") for cookie in told)
    with SQLiteAdapter(tmp_path / "auth.db") as store:
        assert store.check() == []


@pytest.mark.soak
@EACH_KIND
def test_told_to_stop_it_answers_what_it_has_begun(kind: Kind, tmp_path: Path) -> None:
    """With an answer of its own or none, never with an error of its store, which it closes last."""
    statuses: list[int] = []

    def keep_asking(server: Server, cookie: str) -> None:
        try:
            while server.process.poll() is None:
                statuses.append(Client(server, cookie).get("/account").status)
        except (OSError, HTTPException):
            pass

    if kind is MAGIC_LINK:
        pytest.skip("it ends at once; its threads may be in the midst of a request")
    with running(kind, tmp_path) as server:
        cookie = server.signed_in(ADA).cookie
        threads = [threading.Thread(target=keep_asking, args=(server, cookie)) for _ in range(16)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(statuses) > 100, server.process)
        server.process.terminate()
        for thread in threads:
            thread.join(PATIENCE)
        server.process.wait(PATIENCE)
        server.must_have_closed()
    assert set(statuses) == {200}


@pytest.mark.soak
@pytest.mark.parametrize("kind", [FLASK, FASTAPI], ids=["flask_app", "fastapi_app"])
def test_a_worker_that_was_killed_is_replaced_by_one_that_knows_everybody(kind: Kind, tmp_path: Path) -> None:
    if kind is FASTAPI and find_spec("uvicorn") and [*map(int, version("uvicorn").split(".")[:2])] < [0, 30]:
        pytest.skip("uvicorn replaces workers since 0.30")
    with running(kind, tmp_path) as server:
        client = server.signed_in(ADA)
        assert client.account()
        old = client.process
        os.kill(int(old), signal.SIGKILL)

        def replaced() -> bool:
            try:
                ways = connections(server)
            except (OSError, HTTPException):
                return False
            seen = set()
            for way in ways:
                one = Client(server, client.cookie, way)
                assert one.account()
                seen.add(one.process)
                way.close()
            return old not in seen

        wait_for(replaced, server.process)
        assert client.post("/sign-out").leads_to("/")
