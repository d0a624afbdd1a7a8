"""Data out and in: dumps are whole, exact and private, and whatever is no dump leaves no trace in a store."""

from __future__ import annotations

import gc
import io
import json
import random
import sqlite3
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support import ANY_STORE, furnish, link, register
from test_equivalence import STEPS, Trial
from test_own_backend import DictAdapter

from tinyauthstore import (
    Account,
    ConflictError,
    Counts,
    MemoryAdapter,
    SplitAdapter,
    SQLiteAdapter,
    TransferError,
    User,
    layouts,
)
from tinyauthstore.encodings import integer_id, milliseconds
from tinyauthstore.models import ENTITIES
from tinyauthstore.portable import (
    BATCH,
    KEPT,
    LONGEST,
    NOT_ASKED_FOR,
    OAUTH,
    ORPHANS,
    ROUNDS,
    UNKNOWN,
    UNUSABLE,
    Moved,
    copy,
    dump,
    load,
)
from tinyauthstore.schema import Column, Schema, Table
from tinyauthstore.testing import CREATE, CUSTOM, GIVEN, FrozenClock

Make = Callable[..., Any]
NOTHING = Counts(0, 0, 0, 0, 0)

KINDS: dict[str, Make] = {
    **ANY_STORE,
    "own": lambda folder, **options: DictAdapter(**options),
    "file": lambda folder, **options: SQLiteAdapter(folder / "auth.db", durability="normal", **options),
    "mixed": lambda folder, **options: SplitAdapter(
        users=SQLiteAdapter(folder / "users.db", durability="normal", **options), sessions=MemoryAdapter(**options)
    ),
}


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Make]:
    """Makes a store of a kind, empty, in a folder of its own; it is closed after the test."""
    made: list[Any] = []

    def open_store(kind: str = "memory", **options: Any) -> Any:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(KINDS[kind](folder, **options))
        return made[-1]

    yield open_store
    for store in made:
        store.close()


@pytest.fixture
def full(open_store: Make) -> Any:
    """A store with one of everything."""
    store = open_store()
    furnish(store)
    return store


def dumped(store: Any, **options: Any) -> str:
    file = io.StringIO()
    dump(store, file, **options)
    return file.getvalue()


def loaded(store: Any, text: str, **options: Any) -> Moved:
    return load(store, io.StringIO(text), **options)


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def text_of(lines: list[Any]) -> str:
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)


def every_kind(test: Any) -> Any:
    return pytest.mark.parametrize("kind", KINDS)(test)


# --- out and in -------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("source", ["memory", "file"])
def test_what_was_dumped_and_loaded_is_dumped_to_the_same_bytes(open_store: Make, source: str, kind: str) -> None:
    first, second = open_store(source, **CUSTOM), open_store(kind, **CUSTOM)
    for number in range(3):
        user_id = first.create_user(id=f"zoë \0{number}", email=f"Zoë{number}@Example.com", **GIVEN).id
        for name, create in CREATE.items():
            if name != "user":
                create(first, user_id, **GIVEN) if name != "account" else link(first, user_id, f"{number}", **GIVEN)
            if name == "authenticator":
                first.update_authenticator("credential", word="changed")
                first.delete_authenticator("credential")
                register(first, user_id, f"key {number}", **GIVEN)
    text = dumped(first, oauth_tokens=True)
    moved = loaded(second, text)
    assert moved.records == first.count() == (3, 3, 3, 3, 3) and moved.left_out == {}
    assert dumped(second, oauth_tokens=True) == text
    assert second.check() == []


@pytest.mark.parametrize("seed", range(6))
def test_whatever_a_store_went_through_its_dump_makes_an_equal_one(open_store: Make, seed: int) -> None:
    for kind in ("sqlite", "memory", "shelve"):
        trial = Trial(seed, lambda **options: MemoryAdapter(**options))
        options = trial.own()
        store = MemoryAdapter(**options)
        trial.stores = [store]
        for _ in range(STEPS // 2):
            trial.act()
        while trial.open:
            trial.leave()
        text = dumped(store, oauth_tokens=True)
        other = open_store(kind, **options)
        loaded(other, text)
        assert dumped(other, oauth_tokens=True) == text
        assert other.count() == store.count() and other.list_users() == store.list_users()
        store.close()


@every_kind
def test_who_was_signed_in_is_signed_in_where_the_dump_was_loaded(open_store: Make, full: Any, kind: str) -> None:
    other = open_store(kind)
    loaded(other, dumped(full))
    assert other.get_session_and_user("session").user == full.get_user("ada")
    assert other.use_verification_token(identifier="ada@example.com", token="token") is not None


def test_a_dump_is_written_as_bytes_where_the_file_takes_bytes(open_store: Make, full: Any) -> None:
    file, store = io.BytesIO(), open_store()
    dump(full, file)
    assert file.getvalue() == dumped(full).encode("ascii")
    file.seek(0)
    load(store, file)
    assert dumped(store) == dumped(full)


def test_lines_may_end_as_on_windows(open_store: Make, full: Any) -> None:
    store = open_store()
    load(store, io.StringIO(dumped(full).replace("\n", "\r\n"), newline=""))
    assert dumped(store) == dumped(full)


def test_every_line_is_strict_json_even_if_a_float_is_infinite(open_store: Make) -> None:
    store, other = open_store(**CUSTOM), open_store(**CUSTOM)
    store.create_user(id="ada", ratio=float("inf"), maybe_ratio=float("-inf"), word="1e999")
    text = dumped(store)
    for line in text.splitlines():
        json.loads(line, parse_constant=pytest.fail)
    loaded(other, text)
    assert other.get_user("ada") == store.get_user("ada")


def test_what_has_expired_is_dumped_too(open_store: Make) -> None:
    clock = FrozenClock()
    store = open_store(clock=clock, purge_interval=None)
    furnish(store)
    before = dumped(store)
    clock.tick(days=100)
    assert dumped(store) == before


def test_a_dump_shows_one_moment_while_others_write(open_store: Make) -> None:
    for kind in ("file", "memory", "shelve"):
        store = open_store(kind)
        for number in range(600):
            store.create_user(id=f"{number:03}")

        class Busy(io.StringIO):
            def write(self, text: str) -> int:
                if "kind" not in text:  # the header: nothing has been read yet
                    return super().write(text)
                with suppress(ConflictError):
                    store.create_session(user_id="000", session_token="late")
                    store.create_user(id="999")
                store.delete_user("599")
                return super().write(text)

        file = Busy()
        assert dump(store, file).records == (600, 0, 0, 0, 0)
        assert loaded(open_store(), file.getvalue()).records == (600, 0, 0, 0, 0)


@every_kind
def test_a_transaction_around_it_sees_its_own_writes_and_outlives_a_refusal(open_store: Make, kind: str) -> None:
    store, full = open_store(kind), open_store()
    furnish(full)
    with store.transaction():
        store.create_user(id="grace")
        assert [line["key"] for line in lines_of(dumped(store))[1:-1]] == [["grace"]]
        for move in (lambda: loaded(store, dumped(full)[:-5], merge=True), lambda: loaded(store, dumped(full))):
            with pytest.raises(TransferError):
                move()
        assert loaded(store, dumped(full), merge=True).records == (1, 1, 1, 1, 1)
        assert copy(full, store, merge=True).left_out == {KEPT: 5}
    assert store.count() == (2, 1, 1, 1, 1)


def test_progress_is_told(open_store: Make) -> None:
    store, steps = open_store(), [BATCH, 2 * BATCH, 2 * BATCH + 7]
    with store.transaction():
        for number in range(steps[-1]):
            store.create_user(id=f"{number:04}")
    seen: dict[str, list[int]] = {"dump": [], "load": [], "copy": []}
    text = dumped(store, progress=seen["dump"].append)
    loaded(open_store(), text, progress=seen["load"].append)
    copy(store, open_store(), progress=seen["copy"].append)
    assert seen == {"dump": steps, "load": steps, "copy": steps}


# --- what is secret ---------------------------------------------------------------------------

SECRETS = {"access_token": "hunter2-a", "refresh_token": "hunter2-r", "id_token": "hunter2-i", "session_state": "hunter2-s"}


@every_kind
def test_no_token_is_in_a_dump(open_store: Make, kind: str) -> None:
    store = open_store(kind, secret="hunter2 is the secret")
    store.create_user(id="ada", email="ada@example.com")
    link(store, "ada", **SECRETS, device_secret="hunter2-d")
    store.create_session(user_id="ada", session_token="hunter2-session")
    store.create_verification_token(identifier="ada@example.com", token="hunter2-link")
    file = io.StringIO()
    moved = dump(store, file)
    assert "hunter2" not in file.getvalue()
    assert moved == Moved(Counts(1, 1, 1, 1, 0), {OAUTH: 1})


def test_oauth_tokens_are_in_a_dump_that_was_asked_for_them(open_store: Make, full: Any) -> None:
    link(full, "ada", **SECRETS)
    other = open_store()
    loaded(other, dumped(full, oauth_tokens=True))
    assert other.list_accounts("ada") == full.list_accounts("ada")


def test_an_account_without_its_tokens_is_whole_otherwise(open_store: Make, full: Any) -> None:
    link(full, "ada", **SECRETS, scope="read")
    other = open_store()
    loaded(other, dumped(full))
    assert other.list_accounts("ada") == [Account("ada", "oauth", "github", "1", scope="read")]


def test_a_dump_can_do_without_sessions(open_store: Make, full: Any) -> None:
    file, other = io.StringIO(), open_store(secret="another")
    assert dump(full, file, sessions=False) == Moved(Counts(1, 1, 0, 0, 1), {NOT_ASKED_FOR: 2, OAUTH: 1})
    assert loaded(other, file.getvalue()) == Moved(Counts(1, 1, 0, 0, 1), {})


@pytest.mark.parametrize("ours, theirs", [(None, "s"), ("s", None), ("s", "t")])
def test_digests_that_nobody_would_recognise_are_refused(open_store: Make, ours: Any, theirs: Any) -> None:
    store, other = open_store(secret=ours), open_store(secret=theirs)
    furnish(store)
    for move in (lambda **o: loaded(other, dumped(store), **o), lambda **o: copy(store, other, **o)):
        with pytest.raises(TransferError, match="secret=") as caught:
            move()
        assert other.count() == NOTHING and str(ours) not in str(caught.value).split()
        assert move(sessions=False).records == (1, 1, 0, 0, 1)
        other.delete_user("ada")


def test_the_same_secret_recognises_them(open_store: Make) -> None:
    store, other = open_store(secret="s"), open_store("sqlite", secret="s")
    furnish(store)
    loaded(other, dumped(store))
    assert other.get_session_and_user("session") is not None


def test_the_check_value_of_a_secret_is_slow_and_short(open_store: Make) -> None:
    """Or a dump would be a means to try secrets with, millions a second."""
    header = lines_of(dumped(open_store(secret="s")))[0]
    [made] = {json.dumps(one) for one in header["digests"].values()}
    assert len(bytes.fromhex(json.loads(made)["secret"])) == 4
    assert ROUNDS >= 100_000


@pytest.mark.parametrize("clear", ["source", "target"])
def test_a_digest_never_takes_the_place_of_a_token(open_store: Make, full: Any, clear: str) -> None:
    other = open_store()
    (full if clear == "source" else other)._token_storage = lambda entity: "clear"
    records, left_out = loaded(other, dumped(full))
    assert records == other.count() == (1, 1, 0, 0, 1)
    assert clear == "source" and not left_out or left_out[UNUSABLE] == 2


# --- what is no dump --------------------------------------------------------------------------


def spoilt(change: Callable[[list[Any]], object]) -> Callable[[str], str]:
    def spoil(text: str) -> str:
        lines = lines_of(text)
        change(lines)
        return text_of(lines)

    return spoil


def at(kind: str, lines: list[Any]) -> int:
    return next(number for number, line in enumerate(lines) if line.get("kind") == kind)


def field(kind: str, name: str, value: Any) -> Callable[[str], str]:
    return spoilt(lambda lines: lines[at(kind, lines)]["fields"].update({name: value}))


def key(kind: str, value: Any) -> Callable[[str], str]:
    return spoilt(lambda lines: lines[at(kind, lines)].update(key=value))


HUGE = "x" * 10_000_000
USER, ACCOUNT, SESSION, TOKEN, PASSKEY = (entity.plural for entity in ENTITIES)

HOSTILE: dict[str, tuple[Callable[[str], str], int | None]] = {
    "nothing": (lambda text: "", 1),
    "another file": (lambda text: "SQLite format 3\0", 1),
    "no header": (lambda text: text.partition("\n")[2], 1),
    "a header that is a list": (spoilt(lambda lines: lines.__setitem__(0, [])), 1),
    "a header without digests": (spoilt(lambda lines: lines[0].pop("digests")), 1),
    "a newer version": (spoilt(lambda lines: lines[0].update(tinyauthstore=2)), 1),
    "a version that is a truth": (spoilt(lambda lines: lines[0].update(tinyauthstore=True)), 1),
    "cut between lines": (lambda text: "".join(text.splitlines(True)[:-1]), 8),
    "cut inside a line": (lambda text: text[:-8], 8),
    "cut after the header": (lambda text: text.partition("\n")[0] + "\n", 2),
    "a line lost": (spoilt(lambda lines: lines.pop(2)), 7),
    "a line twice": (spoilt(lambda lines: lines.insert(2, lines[2])), 4),
    "lines in another order": (spoilt(lambda lines: lines.insert(1, lines.pop(2))), 3),
    "kinds in another order": (spoilt(lambda lines: lines.insert(1, lines.pop(at(PASSKEY, lines)))), 3),
    "something after the end": (lambda text: text + text, 8),
    "an end with more": (spoilt(lambda lines: lines[-1].update(more=1)), 8),
    "an end that counts more": (spoilt(lambda lines: lines[-1]["end"].update(users=3)), 8),
    "an empty line": (lambda text: text.replace("\n", "\n\n", 1), 2),
    "half a line": (spoilt(lambda lines: lines.__setitem__(2, lines[2]["key"])), 3),
    "two objects in a line": (lambda text: text.replace("}}\n", "}} {}\n", 1), 2),
    "no text": (lambda text: text.replace('"kind":"accounts"', '"kind":"acc\0unts"'), 4),
    "nested beyond reason": (lambda text: text.replace('"name":"Ada"', '"name":' + "[" * 100_000), 2),
    "a number beyond reason": (lambda text: text.replace('"name":"Ada"', '"name":' + "1" * 100_000), 2),
    "an unknown kind": (spoilt(lambda lines: lines[1].update(kind="admins")), 2),
    "a kind that is a list": (spoilt(lambda lines: lines[1].update(kind=[])), 2),
    "a record with more": (spoilt(lambda lines: lines[1].update(more=1)), 2),
    "a record without fields": (spoilt(lambda lines: lines[1].pop("fields")), 2),
    "fields in a list": (spoilt(lambda lines: lines[1].update(fields=[])), 2),
    "an unknown field": (field(USER, "is_admin", True), 2),
    "a key of two parts": (key(USER, ["ada", "ada"]), 2),
    "a key of no parts": (key(USER, []), 2),
    "a key that is a text": (key(USER, "a"), 2),
    "a key that is a number": (key(USER, [5]), 2),
    "an empty key": (key(USER, [""]), 2),
    "half a character in a key": (key(USER, ["ada\ud800"]), 2),
    "a huge key": (key(USER, [HUGE]), 2),
    "a huge address": (field(USER, "email", HUGE), 2),
    "a huge name": (field(USER, "name", HUGE), 2),
    "no address": (field(USER, "email", "a b@example.com"), 2),
    "a number for a name": (field(USER, "name", 5), 2),
    "a list for a name": (field(USER, "name", ["Ada"]), 2),
    "half a character in a name": (field(USER, "name", "\ud800"), 2),
    "a naive datetime": (field(USER, "email_verified", "2026-01-02T03:04:05"), 2),
    "a number for a datetime": (field(USER, "email_verified", 1_700_000_000), 2),
    "an address of another": (field(USER, "email", "Grace@example.com"), 3),
    "no user": (field(ACCOUNT, "user_id", None), 4),
    "no expiry": (field(SESSION, "expires", None), 5),
    "a digest that is too short": (key(SESSION, ["00"]), 5),
    "a digest that is too long": (key(SESSION, ["00" * 33]), 5),
    "a digest that is none": (key(SESSION, ["x" * 64]), 5),
    "a session's token": (field(SESSION, "session_token", "hunter2"), 5),
    "a session's id": (field(SESSION, "id", "hunter2"), 5),
    "an identifier of blanks": (field(TOKEN, "identifier", ""), 6),
    "a huge identifier": (field(TOKEN, "identifier", HUGE), 6),
    "a negative counter": (field(PASSKEY, "counter", -1), 7),
    "a counter that is a truth": (field(PASSKEY, "counter", True), 7),
    "a flag that is a number": (field(PASSKEY, "credential_backed_up", 1), 7),
    "a missing field": (spoilt(lambda lines: lines[at(PASSKEY, lines)]["fields"].pop("counter")), 7),
}
"""How a dump is spoilt, and the line that the error names."""


@pytest.fixture(scope="module")
def sound() -> str:
    """A dump with a line for Ada, Grace and one of everything of Ada's."""
    with MemoryAdapter() as store:
        furnish(store)
        store.create_user(id="grace", email="grace@example.com")
        return dumped(store)


@pytest.mark.parametrize("kind", ["memory", "sqlite", "shelve", "mixed"])
@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_dump_is_refused_by_line_without_a_trace(
    open_store: Make, sound: str, case: str, kind: str
) -> None:
    spoil, line = HOSTILE[case]
    store = open_store(kind)
    for merge in (False, True):
        with pytest.raises(TransferError) as caught:
            loaded(store, spoil(sound), merge=merge)
        assert caught.value.line == line and f"line {line} " in str(caught.value)
        assert len(str(caught.value)) < 300 and "hunter2" not in str(caught.value)
        assert dumped(store) == dumped(open_store())
        if kind == "mixed":
            assert store._sessions.count() == NOTHING
    assert loaded(store, sound).records == (2, 1, 1, 1, 1), "and the store is as good as new"


def test_no_error_holds_what_stands_in_the_line(open_store: Make, sound: str) -> None:
    for case in HOSTILE:
        with pytest.raises(TransferError) as caught:
            loaded(open_store(), HOSTILE[case][0](sound.replace("ada@example.com", "hunter2@example.com")))
        error: BaseException | None = caught.value
        while error is not None:
            assert "hunter2" not in repr(vars(error)) + repr(error.args)
            error = error.__cause__ or error.__context__


def test_the_line_is_named_wherever_it_stands(open_store: Make) -> None:
    store = open_store()
    with store.transaction():
        for number in range(1300):
            store.create_user(id=f"{number:04}", email=f"{number}@example.com")
    text = dumped(store)
    for kind in ("memory", "sqlite"):
        for number in (0, 99, 100, 101, 1299):
            lines = text.splitlines(True)
            lines[number + 1] = lines[number + 1].replace('"name":null', '"name":5')
            with pytest.raises(TransferError) as caught:
                loaded(open_store(kind), "".join(lines))
            assert caught.value.line == number + 2
        lines = text.splitlines(True)
        lines[1300] = lines[1300].replace("1299@", "7@")
        with pytest.raises(TransferError, match="email") as caught:
            loaded(open_store(kind), "".join(lines))
        assert caught.value.line == 1301


def test_random_damage_is_refused_or_loads_a_sound_store(open_store: Make, sound: str) -> None:
    for seed in range(300):
        chance = random.Random(seed)
        text = list(sound)
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(len(text))
            text[place] = chance.choice(["", chance.choice('{}[]",:0aé\n\0'), text[place] * 2])
        with MemoryAdapter() as store:
            try:
                loaded(store, "".join(text))
            except TransferError:
                assert store.count() == NOTHING
            assert store.check() == []


def test_a_store_that_is_not_empty_is_refused(open_store: Make, full: Any) -> None:
    for kind in ("memory", "sqlite", "shelve", "split"):
        store = open_store(kind)
        store.create_verification_token(identifier="x")
        for move in (lambda: loaded(store, dumped(full)), lambda: copy(full, store)):
            with pytest.raises(TransferError, match="merge=True"):
                move()
        assert store.count() == (0, 0, 0, 1, 0)


def test_a_record_too_long_for_a_line_is_refused_when_it_is_dumped(open_store: Make) -> None:
    store = open_store()
    store.create_user(id="ada", name="x" * LONGEST)
    with pytest.raises(TransferError, match="users"):
        dumped(store)
    store.update_user("ada", name="x" * (LONGEST - 200))
    assert loaded(open_store(), dumped(store)).records.users == 1


def test_a_field_that_the_model_lacks_is_refused_by_name(open_store: Make) -> None:
    store = open_store(**CUSTOM)
    store.create_user(id="ada")
    for move in (lambda: loaded(open_store(), dumped(store)), lambda: copy(store, open_store())):
        with pytest.raises(TransferError, match="User has no field 'word'"):
            move()


def test_a_field_that_the_dump_lacks_takes_its_default(open_store: Make, full: Any) -> None:
    store = open_store("sqlite", **CUSTOM)
    loaded(store, dumped(full))
    assert store.get_user("ada").word == CUSTOM["user"](id="x").word


def test_an_error_of_the_file_undoes_the_load_and_comes_through(open_store: Make, sound: str) -> None:
    class Torn(io.StringIO):
        def readline(self, size: int | None = -1, /) -> str:  # type: ignore[override]
            if self.tell() > 500:
                raise OSError("torn")
            return super().readline(-1 if size is None else size)

    store = open_store("sqlite")
    with pytest.raises(OSError, match="torn"):
        load(store, Torn(sound))
    assert store.count() == NOTHING


def test_the_collector_works_again_afterwards(open_store: Make, sound: str) -> None:
    assert gc.isenabled()
    with pytest.raises(TransferError):
        loaded(open_store(), "")
    assert gc.isenabled()


# --- merging ----------------------------------------------------------------------------------


@every_kind
def test_merging_adds_what_is_missing_and_leaves_what_is_there(open_store: Make, full: Any, kind: str) -> None:
    store = open_store(kind)
    store.create_user(id="ada", email="ADA@example.com", name="mine")
    store.create_user(id="grace")
    assert loaded(store, dumped(full), merge=True) == Moved(Counts(0, 1, 1, 1, 1), {KEPT: 1})
    assert (store.get_user("ada").name, store.count()) == ("mine", (2, 1, 1, 1, 1))
    assert store.get_session_and_user("session") is not None
    assert loaded(store, dumped(full), merge=True) == Moved(NOTHING, {KEPT: 5})


TAKEN: dict[str, Callable[[Any], object]] = {
    "the id, by another address": lambda store: store.create_user(id="ada", email="other@example.com"),
    "the id, by no address": lambda store: store.create_user(id="ada"),
    "the address, by another id": lambda store: store.create_user(id="other", email="Ada@example.com"),
    "the account": lambda store: link(store, store.create_user(id="other").id),
    "the passkey": lambda store: register(store, store.create_user(id="other").id),
    "the session": lambda store: store.create_session(user_id=store.create_user(id="other").id, session_token="session"),
}


@pytest.mark.parametrize("case", TAKEN)
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_merging_never_hands_one_persons_account_to_another(
    open_store: Make, full: Any, case: str, kind: str
) -> None:
    """Two applications may both have a user "1"."""
    store = open_store(kind)
    TAKEN[case](store)
    before = dumped(store, oauth_tokens=True)
    for move in (lambda: loaded(store, dumped(full), merge=True), lambda: copy(full, store, merge=True)):
        with pytest.raises(TransferError, match="that of another one"):
            move()
        assert dumped(store, oauth_tokens=True) == before


@pytest.mark.parametrize("kind", ["memory", "sqlite", "shelve", "mixed"])
def test_a_record_whose_user_is_nowhere_is_left_out_and_counted(
    open_store: Make, sound: str, kind: str
) -> None:
    store = open_store(kind)
    lines = lines_of(sound)
    del lines[1]
    lines[-1]["end"]["users"] = 1
    assert loaded(store, text_of(lines)) == Moved(Counts(1, 0, 0, 1, 0), {ORPHANS: 3})
    assert store.check() == [] and store.get_session_and_user("session") is None


# --- copying ----------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("source", ["memory", "file", "mixed"])
def test_a_copy_has_all_that_the_source_has(open_store: Make, source: str, kind: str) -> None:
    first, second = open_store(source), open_store(kind)
    furnish(first)
    link(first, "ada", **SECRETS)
    assert copy(first, second) == Moved(Counts(1, 1, 1, 1, 1), {})
    assert dumped(second, oauth_tokens=True) == dumped(first, oauth_tokens=True)
    assert second.get_session_and_user("session").user == first.get_user("ada")


def test_a_copy_can_do_without_oauth_tokens(open_store: Make, full: Any) -> None:
    other = open_store()
    assert copy(full, other, oauth_tokens=False).left_out == {OAUTH: 1}
    assert other.list_accounts("ada")[0].extra == {}


def test_a_store_is_not_copied_into_itself(open_store: Make, full: Any) -> None:
    part = SplitAdapter(users=open_store("sqlite"), sessions=full)
    for source, target in ((full, full), (full, part), (part, full)):
        with pytest.raises(ValueError, match="no part in common"):
            copy(source, target, merge=True)


class Other:
    """Somebody's adapter: the contract's methods and nothing else."""

    def __init__(self, store: Any, *without: str) -> None:
        for name in dir(store):
            if not name.startswith("_") and name not in without and callable(getattr(store, name)):
                setattr(self, name, getattr(store, name))


@pytest.mark.parametrize("foreign", ["source", "target", "both"])
def test_other_peoples_adapters_are_copied_by_the_contract_alone(open_store: Make, full: Any, foreign: str) -> None:
    link(full, "ada", "2", **SECRETS)
    store = open_store("sqlite")
    source = full if foreign == "target" else Other(full)
    target = store if foreign == "source" else Other(store)
    assert copy(source, target) == Moved(Counts(1, 2, 0, 0, 1), {UNKNOWN: 2})
    assert dumped(store, oauth_tokens=True, sessions=False) == dumped(full, oauth_tokens=True, sessions=False)
    assert store.get_session_and_user("session") is None
    with pytest.raises(TransferError):
        copy(source, target)
    assert copy(source, target, merge=True) == Moved(NOTHING, {KEPT: 4, UNKNOWN: 2})


def test_what_a_target_has_no_methods_for_is_left_out_and_counted(open_store: Make, full: Any) -> None:
    names = [name for name in dir(full) if "authenticator" in name]
    assert copy(full, Other(open_store(), *names)).left_out["passkeys: the target has no place for them"] == 1
    assert copy(Other(full, "count", *names), open_store()) == Moved(Counts(1, 1, 0, 0, 0), {})


def test_oauth_tokens_can_be_left_out_by_the_contract_too(open_store: Make, full: Any) -> None:
    link(full, "ada", **SECRETS, scope="read")
    other = open_store()
    assert copy(Other(full), other, oauth_tokens=False).left_out[OAUTH] == 1
    assert other.list_accounts("ada") == [Account("ada", "oauth", "github", "1", scope="read")]


def test_many_users_of_somebodys_adapter_are_copied(open_store: Make) -> None:
    source, target = open_store(), open_store("sqlite")
    for number in range(1100):
        source.create_user(id=f"{number:04}")
    assert copy(Other(source), target).records.users == 1100
    assert target.list_users(limit=2000) == source.list_users(limit=2000)


def test_a_copy_by_the_contract_is_undone_where_there_are_transactions(open_store: Make, full: Any) -> None:
    source, store = open_store(), open_store("sqlite")
    source.create_user(id="a")
    source.create_user(id="b", email="taken@example.com")
    store.create_user(id="c", email="taken@example.com")
    with pytest.raises(ConflictError):
        copy(source, Other(store), merge=True)
    assert store.list_users() == [User("c", "taken@example.com")]


def test_merging_by_the_contract_takes_no_one_for_another(open_store: Make) -> None:
    source, store = open_store(), open_store()
    source.create_user(id="1", email="ada@example.com")
    store.create_user(id="1", email="grace@example.com")
    with pytest.raises(ConflictError):
        copy(Other(source), store, merge=True)


def test_a_dump_of_somebodys_adapter_is_refused_with_the_remedy(full: Any, open_store: Make) -> None:
    for call in (lambda: dumped(Other(full)), lambda: loaded(Other(full), "")):
        with pytest.raises(TypeError, match="copy"):
            call()


# --- many -------------------------------------------------------------------------------------


def grown(count: int) -> str:
    """A dump with so many users, each with a session."""
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    users = [{"kind": USER, "key": [f"{n:06}"], "fields": {"email": f"u{n}@example.com"}} for n in range(count)]
    sessions = [
        {
            "kind": SESSION, "key": [f"{n:064x}"],
            "fields": {"user_id": f"{n:06}", "expires": (moment + timedelta(seconds=n)).isoformat()},
        }
        for n in range(count)
    ]  # fmt: skip
    digests = dict.fromkeys([SESSION, TOKEN], {"digest": "sha256"})
    counts = {entity.plural: 0 for entity in ENTITIES} | {USER: count, SESSION: count}
    return text_of([{"tinyauthstore": 1, "digests": digests}, *users, *sessions, {"end": counts}])


@pytest.mark.parametrize("way", ["load", "dump", "copy"])
def test_five_times_the_records_take_no_more_memory(tmp_path: Path, way: str) -> None:
    peaks = []
    for count in (600, 3_000):
        path = tmp_path / f"{count}.jsonl"
        path.write_text(grown(count))
        with SQLiteAdapter(tmp_path / f"{count}.db", durability="normal") as store, path.open() as file:
            if way != "load":
                load(store, file)
            with SQLiteAdapter(tmp_path / f"{count}-2.db", durability="normal") as target:
                with (tmp_path / "out").open("w") as out:
                    gc.collect()
                    tracemalloc.start()
                    if way == "load":
                        moved = load(store, file)
                    elif way == "dump":
                        moved = dump(store, out)
                    else:
                        moved = copy(store, target)
                    peaks.append(tracemalloc.get_traced_memory()[1])
                    tracemalloc.stop()
        assert moved.records == (count, 0, count, 0, 0)
    assert peaks[1] < 1.3 * peaks[0] + 200_000, peaks


# --- other libraries' files -------------------------------------------------------------------


@pytest.mark.parametrize("layout", layouts.NAMES)
@pytest.mark.parametrize(
    "make",
    [
        MemoryAdapter,
        lambda: SQLiteAdapter(":memory:", secret="x"),
        lambda: SQLiteAdapter(":memory:", schema=layouts.drizzle),
        lambda: SQLiteAdapter(":memory:", schema=layouts.prisma),
        lambda: SQLiteAdapter(":memory:", schema=layouts.better_auth),
    ],
    ids=["memory", "SQLite with a secret", "drizzle", "prisma", "better_auth"],
)
def test_who_is_signed_in_to_another_librarys_file_stays_so_in_a_copy(layout: str, make: Callable[[], Any]) -> None:
    """Its tokens are in the clear, so any store can make of them what it keeps. Where sessions must have begun, one
    of which the source does not tell when begins now."""
    with SQLiteAdapter(":memory:", schema=getattr(layouts, layout)) as source, make() as target:
        user = source.create_user(email="ada@example.com")
        session = source.create_session(user_id=user.id)
        link = source.create_verification_token(identifier="ada@example.com")
        moved = copy(source, target)
        assert (moved.records, moved.left_out) == (source.count(), {})
        found = target.get_session_and_user(session.session_token)
        assert (found.user, found.session.id) == (user, target.list_sessions(user.id)[0].id)
        assert target.use_verification_token(identifier="ada@example.com", token=link.token) is not None


def test_no_digest_becomes_a_token_of_another_librarys_file() -> None:
    """Who has an old copy of our file would have its cookies."""
    with MemoryAdapter() as source, SQLiteAdapter(":memory:", schema=layouts.drizzle) as target:
        user = source.create_user(email="ada@example.com")
        source.create_session(user_id=user.id)
        moved = copy(source, target)
        assert moved.records == target.count() == Counts(1, 0, 0, 0, 0)
        assert [*moved.left_out.values()] == [1]


def test_no_dump_makes_tokens_of_another_librarys_file_whatever_it_says_of_its_digests() -> None:
    """What stands for tokens in the clear inside ``copy`` is no word that a dump may use."""
    with MemoryAdapter() as source, SQLiteAdapter(":memory:", schema=layouts.drizzle) as target:
        user = source.create_user(email="ada@example.com")
        source.create_session(user_id=user.id)
        text = io.StringIO()
        dump(source, text)
        forged = text.getvalue().replace('"sessions":{"digest":"sha256"}', '"sessions":{"digest":"none"}')
        assert forged != text.getvalue()
        assert load(target, io.StringIO(forged)).left_out == {UNUSABLE: 1}
        assert target.list_sessions(user.id) == []


def test_a_dump_of_ids_that_are_numbers_is_loaded(tmp_path: Path) -> None:
    """In the order of keys, which are texts, "10" comes before "9"; identifiers come in that of their normal forms."""
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.executescript("CREATE TABLE people (no INTEGER PRIMARY KEY, mail TEXT); CREATE TABLE links (who, hash, until)")
    links = {"identifier": "who", "token": "hash", "expires": Column("until", milliseconds)}
    people = Table("people", {"id": Column("no", integer_id), "email": "mail"}, makes_ids=True)
    schema = Schema(people, verification_token=Table("links", links))
    with SQLiteAdapter(tmp_path / "app.db", schema=schema) as source, MemoryAdapter() as target:
        for number in range(11):
            source.create_session(user_id=source.create_user(email=f"{number}@example.com").id)
        for identifier in ("ada@example.com", "Bob@example.com"):
            source.create_verification_token(identifier=identifier)
        text = io.StringIO()
        dump(source, text)
        assert load(target, io.StringIO(text.getvalue())).records == source.count() == Counts(11, 0, 11, 2, 0)


def test_what_a_file_of_another_library_cannot_hold_is_a_transfer_error_and_nothing_is_copied() -> None:
    """Kysely's users have addresses."""
    with MemoryAdapter() as source, SQLiteAdapter(":memory:", schema=layouts.kysely) as target:
        source.create_user(email="ada@example.com")
        source.create_user(name="Nobody")
        with pytest.raises(TransferError, match=r"users: User\.email"):
            copy(source, target)
        assert target.list_users() == []
