"""The fixtures for other projects' tests, used as those projects use them: in suites of their own.

Such a suite finds the plugin by its entry point, as an installed package's, taken from ``pyproject.toml``.
"""

from __future__ import annotations

import gc
import json
import os
import re
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import run_python

import tinyauthstore
from tinyauthstore import MemoryAdapter, SQLiteAdapter, User, memory, pytest_plugin
from tinyauthstore.testing import FrozenClock, Undo, link

pytest_plugins = "pytester"

ROOT = Path(__file__).parents[1]
KINDS = pytest_plugin.KINDS
ADAPTER = {
    "memory": "MemoryAdapter()",
    "sqlite": "SQLiteAdapter(':memory:')",
    "sqlite-file": "SQLiteAdapter('/",
    "shelve": "ShelveAdapter('/",
}
"""How the store of each kind introduces itself."""

each_kind = pytest.mark.parametrize("kind", KINDS)

BASELINE = """
import pytest

fills = []

@pytest.fixture(scope="session")
def auth_baseline():
    def fill(store):
        fills.append(store)
        for name in ("ada", "grace"):
            user = store.create_user(email=f"{name}@example.com")
            store.create_session(user_id=user.id)
    return fill
"""
"""Two users with a session each, and a list of the stores that were filled."""

Suite = Callable[..., pytest.RunResult]
Passes = Callable[..., None]


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    """Runs a suite of one file, with arguments for pytest; what it leaves open or warns of fails the test."""
    metadata = pytester.mkdir("site") / "tinyauthstore-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tinyauthstore\nVersion: 0\n")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name, module in project["entry-points"]["pytest11"].items():
        (metadata / "entry_points.txt").write_text(f"[pytest11]\n{name} = {module}\n")
    monkeypatch.syspath_prepend(metadata.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (metadata.parent, ROOT))))  # in other processes

    def run(source: str, *arguments: str, runner: str = "runpytest_inprocess") -> pytest.RunResult:
        pytester.makepyfile(test_suite=source)
        given = ("--strict-markers", "-p", "no:cacheprovider", *arguments)
        with warnings.catch_warnings(record=True) as complaints:
            warnings.simplefilter("always")
            result: pytest.RunResult = getattr(pytester, runner)(*given)
            gc.collect()
        assert not [str(one.message) for one in complaints if one.category is ResourceWarning]
        assert "warnings summary" not in result.stdout.str()
        return result

    return run


@pytest.fixture
def passes(suite: Suite) -> Passes:
    """Runs a suite, of which every test must pass."""

    def run(source: str, *arguments: str, **how: Any) -> None:
        outcomes = suite(source, *arguments, **how).parseoutcomes()
        least = len(re.findall(r"\bdef test_", source))
        assert set(outcomes) == {"passed"} and outcomes["passed"] >= least > 0

    return run


# --- until it is used -------------------------------------------------------------------------


def test_loading_the_plugin_imports_nothing_but_itself_and_the_packages_face() -> None:
    script = """if True:
        import sys, pytest
        before = set(sys.modules)
        import tinyauthstore.pytest_plugin
        print(*sorted(set(sys.modules) - before))
    """
    assert run_python(script).split() == ["tinyauthstore", "tinyauthstore.pytest_plugin"]


def test_a_suite_that_asks_for_nothing_gets_nothing(passes: Passes) -> None:
    """Neither the package's modules nor what they import: a coverage tool that starts late misses nothing."""
    passes(
        """
        import sys

        def test_it():
            assert "sqlite3" not in sys.modules
            ours = [name for name in sys.modules if name.startswith("tinyauthstore.")]
            assert ours == ["tinyauthstore.pytest_plugin"]
        """,
        runner="runpytest_subprocess",
    )


def test_the_plugin_can_be_left_out(suite: Suite) -> None:
    result = suite("def test_it(auth_store): pass", "-p", "no:tinyauthstore")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("*fixture 'auth_store' not found*")


def test_without_the_plugin_there_is_no_option(suite: Suite) -> None:
    result = suite("def test_it(): pass", "-p", "no:tinyauthstore", "--auth-store=memory")
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_fixtures_of_the_same_name_are_the_suites_own(passes: Passes) -> None:
    passes("""
        import pytest

        @pytest.fixture
        def make_user():
            return "mine"

        def test_it(make_user):
            assert make_user == "mine"
    """)


# --- the package's face -----------------------------------------------------------------------


def test_every_public_name_is_there_at_the_first_asking() -> None:
    script = """if True:
        import sys, tinyauthstore
        name = sys.argv[1]
        assert "tinyauthstore.adapters" not in sys.modules
        assert getattr(tinyauthstore, name).__name__ == name and name in vars(tinyauthstore)
    """
    for name in ("User", "ConflictError", "MemoryAdapter"):  # of three modules
        assert run_python(script, name) == ""


def test_all_public_names_are_listed_before_they_are_loaded() -> None:
    script = "import tinyauthstore; print(set(tinyauthstore.__all__) - set(dir(tinyauthstore)) or 'none')"
    assert run_python(script) == "none\n"


def test_a_star_brings_all_public_names() -> None:
    script = """if True:
        import tinyauthstore
        from tinyauthstore import *
        print(set(tinyauthstore.__all__) - set(globals()))
    """
    assert run_python(script) == "set()\n"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'tinyauthstore' has no attribute 'UserStoer'"):
        getattr(tinyauthstore, "UserStoer")


# --- which store ------------------------------------------------------------------------------


def test_a_store_is_in_memory_unless_asked_otherwise(passes: Passes) -> None:
    passes("def test_it(auth_store): assert repr(auth_store) == 'MemoryAdapter()'")


@each_kind
def test_the_option_chooses_the_kind(passes: Passes, kind: str) -> None:
    source = f"def test_it(auth_store): assert repr(auth_store).startswith({ADAPTER[kind]!r})"
    passes(source, f"--auth-store={kind}")


def test_the_ini_file_chooses_the_kind(pytester: pytest.Pytester, passes: Passes) -> None:
    pytester.makeini("[pytest]\nauth_store = sqlite\n")
    passes("def test_it(auth_store): assert 'SQLite' in repr(auth_store)", "--strict-config")


def test_the_option_overrules_the_ini_file(pytester: pytest.Pytester, passes: Passes) -> None:
    pytester.makeini("[pytest]\nauth_store = sqlite\n")
    passes("def test_it(auth_store): assert 'Memory' in repr(auth_store)", "--auth-store=memory")


def test_the_marker_overrules_the_option(passes: Passes) -> None:
    passes(
        """
        import pytest

        @pytest.mark.auth_store("sqlite")
        def test_it(auth_store):
            assert "SQLite" in repr(auth_store)
        """,
        "--auth-store=memory",
    )


def test_a_bad_option_is_refused_with_the_list_of_good_ones(suite: Suite) -> None:
    result = suite("def test_it(): pass", "--auth-store=mongo")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(f"*is one of {', '.join(KINDS)}; got 'mongo'*")


def test_a_bad_ini_option_is_refused_with_the_list_of_good_ones(
    pytester: pytest.Pytester, suite: Suite
) -> None:
    pytester.makeini("[pytest]\nauth_store = SQLite\n")
    result = suite("def test_it(): pass")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(f"*is one of {', '.join(KINDS)}; got 'SQLite'*")


@pytest.mark.parametrize("given", ["'mongo'", "'memory', 'sqlite'", "['memory']"])
def test_a_bad_marker_is_refused_with_the_list_of_good_ones(suite: Suite, given: str) -> None:
    result = suite(f"import pytest\n@pytest.mark.auth_store({given})\ndef test_it(auth_store): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(f"*is one of {', '.join(KINDS)}; got*")


def test_an_unknown_option_in_a_marker_is_refused_by_name(suite: Suite) -> None:
    result = suite("import pytest\n@pytest.mark.auth_store(sesion_max_age=1)\ndef test_it(auth_store): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("*TypeError*'sesion_max_age'*")


def test_there_is_a_shelve_kind_as_soon_as_there_is_its_adapter() -> None:
    assert ("shelve" in KINDS) is hasattr(tinyauthstore, "ShelveAdapter")


def test_the_marker_gives_options_and_the_closer_one_wins(passes: Passes) -> None:
    passes("""
        from dataclasses import dataclass
        from datetime import timedelta
        import pytest
        from tinyauthstore import User

        @dataclass(frozen=True, slots=True)
        class Member(User):
            plan: str = "free"

        pytestmark = pytest.mark.auth_store(user=Member, session_max_age=1)

        @pytest.mark.auth_store(session_max_age=2)
        class TestMembers:
            def test_class_and_module(self, auth_user, auth_clock, make_session):
                assert auth_user.plan == "free"
                assert make_session().expires == auth_clock() + timedelta(seconds=2)

            @pytest.mark.auth_store(session_max_age=3)
            def test_function(self, auth_clock, make_session):
                assert make_session().expires == auth_clock() + timedelta(seconds=3)
    """)


def test_the_marker_is_listed(suite: Suite) -> None:
    suite("", "--markers").stdout.fnmatch_lines("@pytest.mark.auth_store(kind, [*][*]options): *")


# --- a store for each test --------------------------------------------------------------------


@each_kind
def test_nothing_of_one_test_is_there_in_the_next(passes: Passes, kind: str) -> None:
    body = """
        assert [auth_store.get_user(f"user-{i}") for i in (1, 2)] == [None, None]
        assert auth_store.get_session_and_user("token-1") is None
        assert (auth_user := make_user()).id == "user-1"
        assert make_session(auth_user).session_token == "token-1"
    """
    heads = [f"def test_{i}(auth_store, make_user, make_session):" for i in (1, 2)]
    passes("\n".join(head + body.replace("\n        ", "\n    ") for head in heads), f"--auth-store={kind}")


@each_kind
def test_a_store_is_closed_after_its_test(passes: Passes, kind: str) -> None:
    passes(
        """
        import pytest
        from tinyauthstore import ClosedError

        kept = []

        def test_1(auth_store):
            kept.append(auth_store)

        def test_2():
            with pytest.raises(ClosedError):
                kept[0].get_user("user-1")
        """,
        f"--auth-store={kind}",
    )


def test_a_test_may_close_its_store(passes: Passes) -> None:
    passes("def test_it(auth_store): auth_store.close()")


def test_files_lie_apart_and_leave_tmp_path_alone(pytester: pytest.Pytester, passes: Passes) -> None:
    """So do those of two workers of pytest-xdist, which gives each a base of its own."""
    passes(
        """
        import pytest

        @pytest.mark.parametrize("time", [1, 2, 3])
        def test_it(auth_store, tmp_path, time):
            assert not [*tmp_path.iterdir()]
        """,
        "--auth-store=sqlite-file", "--basetemp=base",
    )  # fmt: skip
    found = {path.resolve().parent.parent for path in pytester.path.rglob("auth.db")}
    assert found == {pytester.path / "base"} and len([*pytester.path.rglob("auth.db")]) == 3


def test_two_workers_share_nothing(passes: Passes) -> None:
    pytest.importorskip("xdist")
    test = "def test_{}(auth_user): assert auth_user.id == 'user-3'\n"
    source = BASELINE + "".join(map(test.format, range(20)))
    passes(source, "-n2", "--auth-store=sqlite-file", runner="runpytest_subprocess")


def test_a_fixture_that_lasts_longer_is_refused_by_both_names(suite: Suite) -> None:
    result = suite("""
        import pytest

        @pytest.fixture(scope="class")
        def app(auth_store):
            return auth_store

        def test_it(app): pass
    """)
    result.assert_outcomes(errors=1)
    mismatch = "ScopeMismatch:*function scoped fixture auth_store*class scoped*"
    result.stdout.fnmatch_lines([mismatch, "*def app(*"])


# --- time, ids and tokens ---------------------------------------------------------------------


def test_the_clock_is_utc_and_stands_still(passes: Passes) -> None:
    passes("""
        from datetime import timezone

        def test_it(auth_clock):
            assert auth_clock().tzinfo is timezone.utc
            assert auth_clock() == auth_clock()
    """)


def test_a_tick_ends_a_session(passes: Passes) -> None:
    passes("""
        def test_it(auth_store, auth_clock, signed_in):
            auth_clock.tick(days=30, microseconds=-1)
            assert auth_store.get_session_and_user(signed_in.session.session_token) is not None
            auth_clock.tick(microseconds=1)
            assert auth_store.get_session_and_user(signed_in.session.session_token) is None
    """)


def test_a_tick_is_forgotten_after_the_test(passes: Passes) -> None:
    passes("""
        from datetime import timedelta

        seen = []

        def test_1(auth_clock):
            seen.append(auth_clock())
            auth_clock.tick(days=31)

        def test_2(auth_clock):
            assert timedelta(0) <= auth_clock() - seen[0] < timedelta(days=1)
    """)


def test_without_a_baseline_each_test_begins_at_the_real_time(passes: Passes) -> None:
    passes("""
        import time

        def test_1(auth_clock): time.sleep(1)

        def test_2(auth_clock): assert -1 < auth_clock().timestamp() - time.time() + 1 <= 1
    """)


def test_the_clock_begins_at_the_real_time_in_whole_seconds(passes: Passes) -> None:
    passes("""
        from datetime import datetime, timedelta, timezone

        def test_it(auth_clock, signed_in):
            assert timedelta(0) <= datetime.now(timezone.utc) - auth_clock() < timedelta(seconds=60)
            assert auth_clock().microsecond == 0
            assert signed_in.session.created_at == auth_clock()
    """)


def test_in_a_long_run_the_clock_begins_at_the_real_time_again(passes: Passes) -> None:
    """Where there is a baseline: it is filled again. Until then, the tests share a start, and one filling."""
    passes(BASELINE + """
from datetime import timedelta
from tinyauthstore import clock

now = clock.plain(2031, 5, 6, 7, 8, 9, 123456)
starts = []

@pytest.fixture
def auth_clock(monkeypatch, request):
    monkeypatch.setattr(clock, "real_time", lambda: now)
    return request.getfixturevalue("auth_clock")

@pytest.mark.parametrize("passed", [590, 5, 5, 590, -590, 0, 0])
def test_it(auth_clock, auth_store, passed):
    global now
    starts.append(auth_clock())
    assert auth_store.get_session_and_user("token-1").session.created_at == auth_clock()
    now += timedelta(seconds=passed)

def test_the_starts():
    assert [(start - starts[0]).total_seconds() for start in starts] == [0, 0, 0, 600, 600, 600, 600]
    assert len(fills) == 2
""")


START = "2031-05-06T09:08:09.000001+02:00"
THEN = "datetime(2031, 5, 6, 7, 8, 9, 1, timezone.utc)"


def test_the_ini_file_and_a_closer_marker_say_when_the_clock_begins(
    pytester: pytest.Pytester, passes: Passes
) -> None:
    pytester.makeini(f"[pytest]\nauth_clock = {START}\n")
    source = f"""
        from datetime import datetime, timezone
        import pytest

        def test_ini(auth_clock):
            assert auth_clock() == {THEN} and auth_clock().tzinfo is timezone.utc

        @pytest.mark.auth_clock("2032-01-01T00:00:00Z")
        class TestMarked:
            def test_class(self, auth_clock, signed_in):
                assert auth_clock().year == signed_in.session.created_at.year == 2032

            @pytest.mark.auth_clock(datetime(2033, 1, 1, tzinfo=timezone.utc))
            def test_function(self, auth_clock):
                assert auth_clock().year == 2033
    """
    passes(source, "--strict-config")


@pytest.mark.parametrize("given", ["soon", "2031-05-06", "2031-05-06T07:08:09", "9999-12-31T23:59:59-01:00"])
def test_a_start_that_is_no_moment_is_refused(pytester: pytest.Pytester, suite: Suite, given: str) -> None:
    result = suite(f"import pytest\n@pytest.mark.auth_clock({given!r})\ndef test_it(auth_clock): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(f"auth_clock (ini option or marker) is *; got '{given}'")
    pytester.makeini(f"[pytest]\nauth_clock = {given}\n")
    result = suite("def test_it(): pass")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(f"*auth_clock (ini option or marker) is *; got '{given}'*")


@pytest.mark.parametrize("given", ["", "1, 2", "start=1"])
def test_the_clocks_marker_takes_one_argument(suite: Suite, given: str) -> None:
    result = suite(f"import pytest\n@pytest.mark.auth_clock({given})\ndef test_it(auth_clock): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("@pytest.mark.auth_clock takes one argument*")


def test_in_a_frozen_test_the_clock_begins_at_the_frozen_time_and_no_other_test_does(passes: Passes) -> None:
    pytest.importorskip("freezegun")
    source = """
        import pytest
        from freezegun import freeze_time

        @pytest.fixture
        def frozen():
            with freeze_time("2091-05-06"):
                yield

        def test_1(frozen, auth_clock, signed_in):
            assert auth_clock().year == 2091 == signed_in.session.expires.year

        def test_2(auth_clock):
            assert auth_clock().year < 2091

        @freeze_time("2091-05-06")
        def test_3(auth_store, auth_user, make_session):
            assert auth_store.get_session_and_user(make_session().session_token).user == auth_user
    """
    passes(source, runner="runpytest_subprocess")


def test_a_client_keeps_a_cookie_that_expires_with_the_session(passes: Passes) -> None:
    """It goes by the real time. The standard library's jar is what httpx's and Starlette's clients have."""
    passes("""
        from email.message import Message
        from email.utils import format_datetime
        from http.cookiejar import CookieJar
        from urllib.request import Request

        class Response:
            def __init__(self, cookie):
                self.headers = Message()
                self.headers["Set-Cookie"] = cookie

            def info(self):
                return self.headers

        def test_it(signed_in):
            jar, expires = CookieJar(), format_datetime(signed_in.session.expires, usegmt=True)
            response = Response(f"{signed_in.cookie}; Expires={expires}")
            jar.extract_cookies(response, Request("http://localhost.local"))
            assert [cookie.value for cookie in jar] == [signed_in.session.session_token]
    """)


def test_an_application_in_another_process_sees_the_session(passes: Passes) -> None:
    source = """
        import subprocess, sys
        import pytest

        SCRIPT = '''if True:
            import sys
            from tinyauthstore import SQLiteAdapter
            with SQLiteAdapter(sys.argv[1]) as store:
                print(store.get_session_and_user(sys.argv[2]).user.id)
        '''

        @pytest.mark.auth_store(session_max_age=3600)
        def test_it(auth_store, signed_in):
            given = [auth_store.path, signed_in.session.session_token]
            assert subprocess.check_output([sys.executable, "-c", SCRIPT, *given]).split() == [b"user-1"]
    """
    passes(source, "--auth-store=sqlite-file")


def test_the_marker_can_ask_for_real_time_ids_and_tokens(passes: Passes) -> None:
    passes("""
        from datetime import datetime, timezone
        import pytest

        @pytest.mark.auth_store(clock=None, new_id=None, new_token=None)
        def test_it(auth_user, make_session):
            before = datetime.now(timezone.utc)
            session = make_session()
            assert before <= session.created_at <= datetime.now(timezone.utc)
            assert len(session.session_token) == 43 and len(auth_user.id) == 36
    """)


def test_a_clock_of_the_suite_is_the_stores(passes: Passes) -> None:
    passes("""
        from datetime import datetime, timezone
        import pytest
        from tinyauthstore.testing import FrozenClock

        @pytest.fixture
        def auth_clock():
            return FrozenClock(datetime(2031, 1, 1, tzinfo=timezone.utc))

        def test_it(make_session):
            assert make_session().created_at.year == 2031
    """)


def test_ids_and_tokens_count_up(passes: Passes) -> None:
    passes("""
        def test_it(auth_store, make_user, make_session):
            assert [make_user().id, auth_store.create_user().id] == ["user-1", "user-2"]
            session = make_session(make_user())
            link = auth_store.create_verification_token(identifier="ada@example.com")
            assert (session.session_token, link.token) == ("token-1", "token-2")
            assert auth_store.check() == []
    """)


def test_threads_get_different_ids(passes: Passes) -> None:
    passes("""
        import sys
        from concurrent.futures import ThreadPoolExecutor

        def test_it(auth_store):
            sys.setswitchinterval(1e-6)
            with ThreadPoolExecutor(8) as pool:
                made = [*pool.map(lambda i: auth_store.create_user().id, range(400))]
            assert sorted(made) == sorted(f"user-{i}" for i in range(1, 401))
    """)


# --- who is there -----------------------------------------------------------------------------


def test_a_made_user_has_an_address_of_its_own_unless_one_is_given(passes: Passes) -> None:
    passes("""
        def test_it(auth_store, make_user):
            given = [{}, {"id": "ada"}, {"email": "grace@example.com"}, {"email": None}]
            made = [make_user(**fields) for fields in given]
            addresses = ["user-1@example.com", "ada@example.com", "grace@example.com", None]
            assert [user.email for user in made] == addresses
            assert [auth_store.get_user(user.id) for user in made] == made
    """)


def test_where_no_user_is_named_it_is_auth_user(passes: Passes) -> None:
    passes("""
        def test_it(auth_store, auth_user, make_session, sign_in, signed_in):
            for session in (make_session(), sign_in().session, signed_in.session):
                assert auth_store.get_session_and_user(session.session_token) == (session, auth_user)
            assert sign_in().user == signed_in.user == auth_user
    """)


def test_sessions_are_made_for_a_given_user_with_given_fields(passes: Passes) -> None:
    passes("""
        from datetime import timedelta

        def test_it(auth_clock, make_user, make_session, sign_in):
            grace, end = make_user(), auth_clock() + timedelta(hours=1)
            made = make_session(grace, expires=end), sign_in(grace, expires=end).session
            assert [(session.user_id, session.expires) for session in made] == [(grace.id, end)] * 2
            assert grace.id == "user-1"  # nobody else was made
    """)


def test_who_is_signed_in_has_a_cookie_ready(passes: Passes) -> None:
    passes("""
        def test_it(signed_in, sign_in):
            token = signed_in.session.session_token
            assert (signed_in.cookie, signed_in.cookies) == (f"session={token}", {"session": token})
            other = sign_in(cookie_name="sid")
            assert other.cookie == "sid=" + other.session.session_token != "sid=" + token
    """)


@pytest.mark.parametrize(
    "cookie_name, url, domain, secure",
    [
        ("session", "http://localhost:8000", "localhost", False),
        ("session", "https://app.example.com/sign-in", "app.example.com", True),
        ("__Host-session", "http://127.0.0.1", "127.0.0.1", True),
    ],
)
def test_the_storage_state_is_what_playwright_takes(
    cookie_name: str, url: str, domain: str, secure: bool
) -> None:
    """Playwright's docs, ``browser.newContext``: all of a cookie's attributes, expires in seconds or -1."""
    with MemoryAdapter(new_token=lambda: "token") as store:
        ada = store.create_user()
        signed_in = pytest_plugin.SignedIn(ada, store.create_session(user_id=ada.id), cookie_name, url)
    cookie = {
        "name": cookie_name, "value": "token", "domain": domain, "path": "/", "expires": -1,
        "httpOnly": True, "secure": secure, "sameSite": "Lax",
    }  # fmt: skip
    assert signed_in.storage_state == {"cookies": [cookie], "origins": []}


@pytest.mark.parametrize("url", ["localhost:8000", "", "http://", "ftp://example.com"])
def test_a_url_without_a_host_is_refused(suite: Suite, url: str) -> None:
    result = suite(f"def test_it(sign_in): sign_in(url={url!r})")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(f"*ValueError: url must be like *; got {url!r}")


def test_no_token_is_in_the_repr_of_who_is_signed_in(passes: Passes) -> None:
    """pytest prints a test's arguments when it fails."""
    passes("def test_it(signed_in): assert signed_in.session.session_token not in repr(signed_in)")


def test_a_store_of_the_suite_is_used_by_the_other_fixtures(passes: Passes) -> None:
    passes("""
        import pytest
        from tinyauthstore import MemoryAdapter, SplitAdapter

        @pytest.fixture
        def auth_store(auth_clock):
            users, sessions = MemoryAdapter(clock=auth_clock), MemoryAdapter(clock=auth_clock)
            with SplitAdapter(users=users, sessions=sessions) as store:
                yield store

        def test_it(auth_store, signed_in):
            assert auth_store.get_session_and_user(signed_in.session.session_token).user == signed_in.user
    """)


# --- awaited ----------------------------------------------------------------------------------


@each_kind
def test_the_same_store_can_be_awaited(passes: Passes, kind: str) -> None:
    source = """
        import asyncio, threading
        import pytest
        from tinyauthstore import ClosedError

        kept = []

        def test_1(auth_store, async_auth_store, signed_in):
            async def main():
                found = await async_auth_store.get_session_and_user(signed_in.session.session_token)
                assert found.user == signed_in.user
                async with async_auth_store.transaction():
                    await async_auth_store.create_user(id="grace")
            asyncio.run(main())
            assert auth_store.get_user("grace") is not None
            kept.append(async_auth_store)

        def test_2():
            async def main():
                for call in (kept[0].get_user("grace"), kept[0].create_user(), kept[0].check()):
                    with pytest.raises(ClosedError):
                        await call
            asyncio.run(main())
            assert not [one for one in threading.enumerate() if one.name.startswith("tinyauthstore")]
    """
    passes(source, f"--auth-store={kind}")


def test_awaiting_a_store_with_a_baseline_costs_no_filling(passes: Passes) -> None:
    """Nor does a test that leaves a transaction open, with its task destroyed."""
    passes(BASELINE + """
import asyncio

left = []

@pytest.mark.parametrize("time", [1, 2, 3])
def test_it(async_auth_store, time):
    async def main():
        assert await async_auth_store.get_user("left open") is None
        assert await async_auth_store.delete_user("user-1") is not None

    async def leave_open():
        left.append(async_auth_store.transaction())
        await left[-1].__aenter__()
        await async_auth_store.create_user(id="left open")

    asyncio.run(main())
    asyncio.run(leave_open())

def test_the_state_is_the_baseline(auth_store):
    assert auth_store.get_user("user-1") is not None and auth_store.get_user("left open") is None
    assert len(fills) == 1
""")


def test_a_test_may_close_its_awaited_store(passes: Passes) -> None:
    passes(BASELINE + """
import asyncio

@pytest.mark.parametrize("time", [1, 2])
def test_it(async_auth_store, time):
    asyncio.run(async_auth_store.close())
""")


def test_a_store_is_awaited_in_the_loop_of_anyios_plugin(passes: Passes) -> None:
    pytest.importorskip("anyio")
    source = """
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        async def test_it(async_auth_store, signed_in):
            assert await async_auth_store.get_session_and_user(signed_in.session.session_token) is not None
            assert (await async_auth_store.create_user()).id == "user-2"
    """
    passes(source, runner="runpytest_subprocess")


def test_a_store_is_awaited_in_the_loop_of_pytest_asyncio(passes: Passes) -> None:
    """Also by fixtures; each test and its fixtures have a loop of their own."""
    pytest.importorskip("pytest_asyncio")
    source = """
        import pytest, pytest_asyncio

        @pytest_asyncio.fixture
        async def grace(async_auth_store):
            user = await async_auth_store.create_user(id="grace")
            yield user
            assert await async_auth_store.delete_user("grace") == user

        @pytest.mark.asyncio
        @pytest.mark.parametrize("time", [1, 2])
        async def test_it(async_auth_store, auth_store, grace, signed_in, time):
            assert await async_auth_store.get_session_and_user(signed_in.session.session_token) is not None
            async with async_auth_store.transaction():
                assert await async_auth_store.get_user("grace") == grace
            assert auth_store.get_user("grace") == grace
    """
    passes(source, runner="runpytest_subprocess")


# --- a baseline -------------------------------------------------------------------------------


@each_kind
def test_every_test_begins_with_the_baseline_and_it_is_filled_once(passes: Passes, kind: str) -> None:
    source = BASELINE + """
@pytest.mark.parametrize("time", [1, 2, 3])
def test_it(auth_store, make_user, time):
    assert auth_store.get_user_by_email("ada@example.com") is not None
    assert auth_store.get_session_and_user("token-1") is not None
    auth_store.delete_user("user-1")
    auth_store.update_user("user-2", name="Grace")
    assert make_user(name="new").id == "user-3"
    auth_store.create_session(user_id="user-3")

def test_the_state_is_the_baseline(auth_store):
    assert [auth_store.get_user(f"user-{i}").name for i in (1, 2)] == [None, None]
    assert auth_store.get_user("user-3") is None
    assert [len(auth_store.list_sessions(f"user-{i}")) for i in (1, 2)] == [1, 1]
    assert auth_store.check() == []
    assert len(fills) == 1
"""
    passes(source, f"--auth-store={kind}")


def test_the_next_id_and_token_are_those_after_the_baseline_in_each_test(passes: Passes) -> None:
    test = """
def test_{}(make_user, make_session):
    assert (make_user().id, make_session().session_token) == ('user-3', 'token-3')
"""
    passes(BASELINE + test.format(1) + test.format(2))


def test_a_shared_store_follows_the_clock_of_the_test(passes: Passes) -> None:
    passes(BASELINE + """
def test_1(auth_store, auth_clock):
    auth_clock.tick(days=30)
    assert auth_store.get_session_and_user("token-1") is None

def test_2(auth_store, auth_clock):
    assert auth_store.get_session_and_user("token-1").session.created_at == auth_clock()
    assert len(fills) == 1
""")


def test_each_combination_of_options_has_a_baseline_of_its_own(passes: Passes) -> None:
    passes(BASELINE + """
class Test:
    def test_1(self, auth_store): assert auth_store is fills[0]

    @pytest.mark.auth_store("sqlite")
    def test_2(self, auth_store): assert auth_store is fills[1]

    @pytest.mark.auth_store("sqlite", session_max_age=1)
    def test_3(self, auth_store): assert auth_store is fills[2]

class TestAgain(Test):
    def test_4(self): assert len(fills) == 3
""")


def test_a_class_may_have_a_baseline_of_its_own(passes: Passes) -> None:
    passes(BASELINE + """
def test_1(auth_store): pass

def leave_empty(store): pass

class TestEmpty:
    @pytest.fixture
    def auth_baseline(self):
        return leave_empty

    def test_2(self, auth_store):
        assert auth_store.get_user("user-1") is None

class TestNone:
    @pytest.fixture
    def auth_baseline(self):
        return None

    def test_3(self, auth_store):
        assert auth_store.get_user("user-1") is None
        assert auth_store is not fills[0]

def test_4(auth_store):
    assert auth_store.get_user("user-1") is not None
""")


def test_a_baseline_is_filled_at_the_time_of_the_tests_clock(passes: Passes) -> None:
    passes(BASELINE + """
from datetime import timedelta

def test_1(auth_store): pass

class TestLater:
    @pytest.fixture
    def auth_clock(self, auth_clock):
        auth_clock.tick(days=365)
        return auth_clock

    def test_2(self, auth_store):
        assert auth_store.get_session_and_user("token-1") is not None

def test_3(auth_store, auth_clock):
    assert auth_store.get_session_and_user("token-1").session.created_at == auth_clock()
""")


def test_a_shared_store_that_a_test_closed_is_filled_anew(passes: Passes) -> None:
    passes(BASELINE + """
def test_1(auth_store): auth_store.close()
def test_2(auth_store): assert auth_store.get_user("user-1") is not None
def test_3(auth_store): assert len(fills) == 2
""")


def test_a_baseline_that_is_no_function_is_refused(suite: Suite) -> None:
    result = suite(BASELINE.replace("return fill", "return [1]") + "def test_it(auth_store): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("auth_baseline must return a function that takes a store and fills it*[[]1]")


def test_a_baseline_that_fails_fails_each_test_and_leaves_no_store_open(suite: Suite) -> None:
    source = BASELINE.replace("for name", "raise LookupError('no seeds')\n        for name") + """
from tinyauthstore import ClosedError

def test_1(auth_store): pass
def test_2(auth_store): pass

def test_3():
    for store in fills:
        with pytest.raises(ClosedError):
            store.get_user("user-1")
"""
    result = suite(source, "--auth-store=sqlite")
    result.assert_outcomes(errors=2, passed=1)
    result.stdout.fnmatch_lines("*LookupError: no seeds")


# --- what it costs ----------------------------------------------------------------------------


def test_the_first_fixtures_load_no_kit(passes: Passes) -> None:
    source = """
        import sys

        def test_it(auth_store, auth_clock, auth_user):
            assert not {"tinyauthstore.testing", "tinyauthstore.aio"} & {*sys.modules}
    """
    passes(source, runner="runpytest_subprocess")


def crowd(store: Any, count: int = 100) -> None:
    """That many users, with two sessions and an account each."""
    for i in range(count):
        user = store.create_user(id=f"user {i}", email=f"{i}@example.com")
        link(store, user.id, str(i), plan={})
        for _ in range(2):
            store.create_session(user_id=user.id)


def test_a_restore_in_memory_touches_only_what_was_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    changes: list[Any] = []
    change = memory._Records.set

    def counted(*given: Any) -> Any:
        changes.append(given)
        return change(*given)

    with MemoryAdapter() as store:
        crowd(store)
        before = store.snapshot()
        for _ in range(2):
            store.delete_user("user 7")
            store.update_user("user 8", name="Grace")
            store.create_user(id="new")
            with monkeypatch.context() as patch:
                patch.setattr(memory._Records, "set", counted)
                store.restore(before)
                assert len(changes) == 4 + 2 + 1  # a user, an account, two sessions; out and in; out
                store.restore(before)
                assert len(changes) == 7
            changes.clear()
        assert store.snapshot().state == before.state
        assert store.check() == []


@pytest.mark.parametrize("adapter", [MemoryAdapter, lambda **options: SQLiteAdapter(":memory:", **options)])
def test_what_a_restore_brings_back_expired_is_purged_again(adapter: Any) -> None:
    """Or whether a test's first write purges would depend on the tests before."""
    clock = FrozenClock()
    with adapter(clock=clock, session_max_age=1) as store:
        ada: User = store.create_user()
        store.create_session(user_id=ada.id)
        before = store.snapshot()
        clock.tick(seconds=60)
        for _ in range(2):
            store.restore(before)
            store.create_session(user_id=ada.id)
            assert store.purge_expired().sessions == 0


def test_a_restore_can_be_rolled_back() -> None:
    with MemoryAdapter() as store:
        empty = store.snapshot()
        crowd(store, 3)
        full = store.snapshot()
        for now, then in ((full, empty), (empty, full)):
            store.restore(now)
            with pytest.raises(Undo), store.transaction():
                store.restore(then)
                raise Undo
            assert store.snapshot().state == now.state
            assert store.check() == []


TIMED = """
import json, statistics, time
import pytest

took = {}

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    start = time.thread_time()  # what others do meanwhile does not count
    result = yield
    took.setdefault(item.originalname, []).append(time.thread_time() - start)
    return result

def pytest_unconfigure():
    with open("took.json", "w") as file:
        json.dump({name: statistics.median(times) for name, times in took.items()}, file)
"""


@pytest.mark.parametrize("baseline", ["", BASELINE], ids=["a fresh store", "a baseline"])
def test_a_store_in_memory_adds_little_to_a_test(
    pytester: pytest.Pytester, suite: Suite, baseline: str
) -> None:
    """About 100 us, the most of it what pytest itself spends on any fixtures. Ten times that is a fault."""
    pytester.makeconftest(TIMED + baseline)
    suite("""
        import pytest

        @pytest.mark.parametrize("time", range(200))
        class TestTimes:
            def test_without(self, time): pass
            def test_with(self, time, auth_store): pass
    """)
    took = json.loads(Path("took.json").read_text())
    assert took["test_with"] - took["test_without"] < 1e-3
