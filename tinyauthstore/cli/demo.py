"""``demo``: a walk through the contract that prints what a store answers.

It prints plain ASCII of at most 80 columns, and never a whole token.
"""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import textwrap
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from .. import __version__
from ..adapters import connect, path_in
from ..clock import is_datetime, real_time
from ..contract import Adapter
from ..errors import AuthStoreError
from ..models import Account, Session, SessionAndUser, User, VerificationToken

WIDTH = 80


class DemoClock:
    """The real time, plus the days that the demo lets pass."""

    def __init__(self) -> None:
        self.passed = timedelta(0)

    def __call__(self) -> datetime:
        """Now, UTC."""
        return real_time() + self.passed


def run_demo(target: str | None) -> None:
    """Run the demo on ``target`` (None: a temporary SQLite file) and print it.

    ValueError if the target exists already, or is none that ``connect`` takes.
    """
    clock = DemoClock()
    with _demo_target(target) as (opened, note), connect(opened, clock=clock) as store:
        _say(f"tinyauthstore {__version__}, Python {platform.python_version()}, {store!r}")
        _say(note)
        _tell(store, clock)


@contextlib.contextmanager
def _demo_target(target: str | None) -> Iterator[tuple[str, str]]:
    """What to open, and a note on it. ValueError if it exists: the demo must not purge anybody's data."""
    if target is None:
        with tempfile.TemporaryDirectory(prefix="tinyauthstore-") as folder:
            yield f"sqlite:///{folder}/auth.db", "A temporary file, gone when the demo ends."
        return
    path = path_in(target)
    if path and os.path.exists(path):
        raise ValueError(
            f"{path} exists already, and the demo would purge it as if a month had passed;"
            " name one that does not exist yet"
        )
    yield target, f"What the demo leaves stays in {path}." if path not in ("", ":memory:") else "In memory."


def _tell(store: Adapter, clock: DemoClock) -> None:
    _title("Sign-up by magic link")
    _say("Ada types her address. The store makes a token for the link in the mail:")
    link = _call(store, "create_verification_token", identifier="Ada@Example.com")
    _say("She opens the link. The token is used up in the moment it is checked:")
    _call(store, "use_verification_token", identifier="Ada@Example.com", token=link.token)
    _say("Nobody has that address yet, so she is new:")
    _call(store, "get_user_by_email", "Ada@Example.com")
    ada = _call(store, "create_user", email="Ada@Example.com", name="Ada", email_verified=clock())
    _say("The same link again (a mail scanner, a second click, a thief) is refused:")
    _call(store, "use_verification_token", identifier="Ada@Example.com", token=link.token)
    _say("One address is one user, however it is spelled:")
    _call(store, "get_user_by_email", " ada@EXAMPLE.com ")
    _call(store, "create_user", email="ada@example.com")

    _title("A linked OAuth account")
    _say("Ada links an identity provider. What we have no field for is kept as well:")
    account = {"user_id": ada.id, "type": "oidc", "provider": "google", "provider_account_id": "1138"}
    _call(store, "link_account", **account, access_token="ya29.first", locale="en")
    _say("Signing in with it later refreshes its tokens and finds Ada:")
    _call(store, "link_account", **account, access_token="ya29.second")
    _call(store, "get_user_by_account", provider="google", provider_account_id="1138")

    _title("Two devices")
    _say("Each device gets a session. Its token goes into the cookie; the store keeps a digest of it:")
    laptop = _call(store, "create_session", user_id=ada.id)
    phone = _call(store, "create_session", user_id=ada.id)
    _say("Every request then asks whose token this is:")
    _call(store, "get_session_and_user", laptop.session_token)
    _say("A token that nobody has, and whatever else a stranger sends, is nobody's:")
    _call(store, "get_session_and_user", "'; DROP TABLE users; --")

    _title("Sessions in use")
    _say("Two days pass. A session that is used is extended, once a day at most:")
    clock.passed += timedelta(days=2)
    _call(store, "touch_session", laptop.session_token)
    _say("When Ada confirms who she is, the session gets a new token, and the old one is dead:")
    fresh = _call(store, "rotate_session", laptop.session_token)
    _call(store, "get_session_and_user", laptop.session_token)
    _call(store, "get_session_and_user", fresh.session_token)

    _title("A lost phone")
    _say("Ada looks at her devices. The ids are safe to show: they sign nobody in:")
    devices = _call(store, "list_sessions", ada.id)
    lost = next(device for device in devices if device.id == phone.id)
    _say("She ends the session of the phone. It is dead at its very next request:")
    _call(store, "revoke_session", ada.id, lost.id)
    _call(store, "get_session_and_user", phone.session_token)

    _title("A month later")
    _say("Nobody came back. What has expired counts as absent at once, and is purged for good:")
    _call(store, "create_verification_token", identifier="ada@example.com")
    clock.passed += timedelta(days=31)
    _call(store, "get_session_and_user", fresh.session_token)
    _call(store, "purge_expired")
    _say("The store finds nothing wrong with itself:")
    _call(store, "check")

    _title("How fast is that?")
    token = store.create_session(user_id=ada.id).session_token
    _say(f"   {_microseconds_per_look_up(store, token):.1f} microseconds for a look-up by session token.")
    print()
    _say("That was most of the contract; the README has all of it, and help(tinyauthstore.Adapter).")


def _microseconds_per_look_up(store: Adapter, token: str) -> float:
    """The median over 20 rounds of looking up one session, measured here and now."""
    rounds = []
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(250):
            if store.get_session_and_user(token) is None:
                raise AuthStoreError("the session that was just created is gone")
        rounds.append((time.perf_counter() - start) / 250 * 1e6)
    return sorted(rounds)[len(rounds) // 2]


# --- printing ---------------------------------------------------------------------------------


def _title(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}")


def _say(text: str) -> None:
    print(textwrap.fill(text, WIDTH))


def _call(store: Adapter, method: str, *arguments: Any, **fields: Any) -> Any:
    """The method's answer, or None for an AuthStoreError. Prints the call, and the answer or error."""
    given = [_masked(argument) for argument in arguments]
    given += [f"{name}={_masked(value, name)}" for name, value in fields.items()]
    _print_indented(f"{method}({', '.join(given)})", 3)
    try:
        answer = getattr(store, method)(*arguments, **fields)
    except AuthStoreError as error:
        _print_indented(f"-> {type(error).__name__}: {error}", 6)
        return None
    for line in _described(answer):
        _print_indented(f"-> {line}", 6)
    return answer


def _print_indented(text: str, indent: int) -> None:
    print(textwrap.fill(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (indent + 3)))


def _masked(value: Any, name: str = "") -> str:
    """An argument as it may be shown: what looks like a secret is cut to its first six characters."""
    if is_datetime(value):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, str) and (name.endswith("token") or len(value) > 30):
        return f'"{_short(value)}"'
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _short(text: str) -> str:
    return f"{text[:6]}..."


def _described(answer: Any) -> list[str]:
    """The store's answer in plain language, one line for each record."""
    if isinstance(answer, SessionAndUser):
        return [f"{_described(answer.session)[0]}; {_described(answer.user)[0]}"]
    if isinstance(answer, list):
        return [line for item in answer for line in _described(item)] or ["[] (none)"]
    if isinstance(answer, User):
        return [f"User {_short(answer.id)}: {answer.name}, {answer.email}"]
    if isinstance(answer, Account):
        return [
            f"Account {answer.provider} {answer.provider_account_id}, access_token"
            f" {_masked(answer.access_token, 'token')}, extra {answer.extra}"
        ]
    if isinstance(answer, Session):
        token = f", token {_masked(answer.session_token, 'token')}" if answer.session_token else ""
        return [f"Session {_short(answer.id)}{token}, until {answer.expires:%Y-%m-%d %H:%M} UTC"]
    if isinstance(answer, VerificationToken):
        until = f"until {answer.expires:%Y-%m-%d %H:%M} UTC"
        return [f"VerificationToken {_masked(answer.token, 'token')} for {answer.identifier}, {until}"]
    return [repr(answer)]
