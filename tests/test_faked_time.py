"""Stores under freezegun and time-machine, whichever comes first: the package, the store or the freeze.

Each case has an interpreter of its own: what a module gets hold of when it is imported is what matters.
"""

from __future__ import annotations

import importlib.util
import textwrap
from pathlib import Path

import pytest
from support import run_python

TOOLS = {
    "": "",
    "freezegun": "from freezegun import freeze_time as fake",
    "time_machine": "import time_machine; fake = lambda time: time_machine.travel(time, tick=False)",
}

each_tool = pytest.mark.parametrize(
    "tool",
    [
        pytest.param(name, marks=pytest.mark.skipif(not importlib.util.find_spec(name), reason=f"no {name}"))
        for name in [*TOOLS][1:]
    ],
)

PRELUDE = """
import sys
import datetime as standard
from datetime import datetime, timedelta, timezone
plain, UTC = (datetime,), timezone.utc  # in a tuple, freezegun leaves it alone
{tool}
START = "2031-05-06 07:08:09"

def moment(*given):
    return plain[0](*given, tzinfo=UTC)

THEN = moment(2031, 5, 6, 7, 8, 9)
KINDS = {{
    "memory": lambda: adapters.MemoryAdapter(**options),
    "sqlite": lambda: adapters.SQLiteAdapter(sys.argv[1] + "/auth.db", **options),
    "shelve": lambda: adapters.ShelveAdapter(sys.argv[1] + "/auth", **options),
}}
options = {{}}

def package():
    global adapters
    from tinyauthstore import adapters

def models():
    "Custom models, whose annotations are what stands in datetime's place now."
    from dataclasses import dataclass, field
    from tinyauthstore import Session, User

    @dataclass(frozen=True, slots=True)
    class Member(User):
        since: standard.datetime | None = None
        seen: datetime = field(default_factory=lambda: standard.datetime(2030, 1, 1, tzinfo=UTC))

    @dataclass(frozen=True, slots=True)
    class Visit(Session):
        began: "datetime | None" = None

    options.update(user=Member, session=Visit)

def dates(record):
    values = [getattr(record, name) for name in record.__dataclass_fields__]
    return [value for value in values if isinstance(value, plain)]

def use(store, now=None):
    "A user, a session and a link, made at that time (None: the real one), all of whose datetimes are plain."
    close = now and (now, now) or (datetime.now(UTC), datetime.now(UTC) + timedelta(minutes=5))
    fields = {{"since": standard.datetime.now(UTC)}} if options else {{}}
    user = store.create_user(email_verified=standard.datetime.now(UTC), **fields)
    fields = {{"began": standard.datetime(2030, 1, 1, tzinfo=UTC)}} if options else {{}}
    session = store.create_session(user_id=user.id, **fields)
    far = standard.datetime.max.replace(tzinfo=UTC)
    link = store.create_verification_token(identifier="ada", expires=far)
    assert close[0] <= session.created_at <= close[1], (session, now)
    assert session.expires == session.created_at + timedelta(days=30)
    for _ in range(3):
        assert store.get_session_and_user(session.session_token) == (session, user)
    found = store.get_session_and_user(session.session_token)
    again = type(user).from_authjs(user.to_authjs())
    listed, = store.list_sessions(user.id)
    for record in (user, session, link, *found, again, listed):
        assert dates(record) and {{type(date) for date in dates(record)}} == set(plain), record
    assert store.use_verification_token(identifier="ada", token=link.token).expires == link.expires
    assert store.touch_session(session.session_token) is not None
    assert store.check() == [], store.check()
    return session.session_token
"""


def run(tool: str, body: str, *arguments: str | Path) -> None:
    run_python(PRELUDE.format(tool=TOOLS[tool]) + textwrap.dedent(body), *arguments)


@each_tool
@pytest.mark.parametrize("kind", ["sqlite", *(pytest.param(kind, marks=pytest.mark.soak) for kind in ("memory", "shelve"))])
@pytest.mark.parametrize(
    "frozen_first, own",
    [(False, ""), (False, "before"), (False, "inside"), (True, ""), (True, "inside")],
    ids=lambda value: {True: "imported while frozen", False: "imported before"}.get(value, f"models {value}"),
)
def test_a_store_follows_the_faked_time_whenever_it_was_opened(
    tool: str, kind: str, frozen_first: bool, own: str, tmp_path: Path
) -> None:
    run(
        tool,
        f"""
        open_store, frozen_first, own = KINDS[{kind!r}], {frozen_first}, {own!r}
        def inside(store):
            token = use(store, THEN)
            with fake("2031-06-05 07:08:08"):
                assert store.get_session_and_user(token) is not None
            with fake("2031-06-06 07:08:10"):  # 30 days after the touch
                assert store.get_session_and_user(token) is None

        if not frozen_first:
            package()
            if own == "before":
                models()
            with open_store() as store:  # opened before
                token = use(store)
                with fake(START):
                    assert store.get_session_and_user(token) is None
                    inside(store)
                use(store)
        with fake(START):
            if frozen_first:
                package()
            if own == "inside":
                models()
            store = open_store()  # opened inside
            inside(store)
        with store:
            use(store)
        with open_store() as store:  # opened after
            use(store)
            with fake(START):
                inside(store)
            use(store)
        if own != "inside":
            models()
            with adapters.MemoryAdapter(**options) as store:
                use(store)
        """,
        tmp_path,
    )


@each_tool
def test_a_look_up_after_the_freeze_is_at_the_real_time(tool: str) -> None:
    """A session made in a frozen past has expired, one made in a frozen future has not."""
    run(
        tool,
        """
        package()
        made = []
        with adapters.MemoryAdapter() as store:
            for time in ("2001-01-01", "2101-01-01"):
                with fake(time):
                    ada = store.create_user()
                    made.append(store.create_session(user_id=ada.id).session_token)
                    assert store.get_session_and_user(made[-1]) is not None
            assert [store.get_session_and_user(token) is None for token in made] == [True, False]
        """,
    )


def test_a_class_that_a_test_put_in_datetimes_place_is_followed() -> None:
    """The recipe for pytest's monkeypatch: a subclass with a ``now`` of its own."""
    run(
        "",
        """
        package()
        class Fixed(datetime):
            @classmethod
            def now(cls, zone=None):
                return cls(2031, 5, 6, 7, 8, 9, tzinfo=zone)

        with adapters.MemoryAdapter() as store:
            standard.datetime = Fixed
            models()
            with adapters.MemoryAdapter(**options) as own:
                token = use(own, THEN)
                standard.datetime = datetime
                assert own.get_session_and_user(token) is not None
                standard.datetime = Fixed
            options.clear()
            use(store, THEN)
            standard.datetime = datetime
            use(store)
        """,
    )


def test_another_subclass_is_no_type_of_a_field() -> None:
    """Values come back as plain datetimes, so such an annotation would not be true."""
    run_python("""if True:
        from dataclasses import dataclass
        from datetime import date, datetime
        from tinyauthstore import InvalidFieldError, MemoryAdapter, User

        class Moment(datetime):
            pass

        for kind in (Moment, date):
            @dataclass(frozen=True, slots=True)
            class Member(User):
                since: kind | None = None
            try:
                MemoryAdapter(user=Member)
            except InvalidFieldError as error:
                assert error.field == "since"
            else:
                raise AssertionError(kind)
    """)


@each_tool
def test_a_wait_ends_in_frozen_time(tool: str, tmp_path: Path) -> None:
    """freezegun stops ``time.monotonic`` as well: a wait for another's transaction would never end."""
    run(
        tool,
        """
        import threading
        from tinyauthstore import BusyError, SQLiteAdapter
        path = sys.argv[1] + "/auth.db"
        with SQLiteAdapter(path, timeout=0.1) as one, SQLiteAdapter(path, timeout=0.1) as other, fake(START):
            with one.transaction():
                one.create_user()
                refused = []
                def write(store):
                    try:
                        store.create_user()
                    except BusyError as error:
                        refused.append(error)
                write(other)
                thread = threading.Thread(target=write, args=[one])
                thread.start()
                thread.join()
                assert len(refused) == 2
        """,
        tmp_path,
    )
