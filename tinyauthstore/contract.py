"""What a store does: Auth.js's adapter interface in Python, and what an application needs besides.

``Adapter`` is a ``Protocol`` built from smaller ones (``UserStore``, ``SessionStore``, ``VerificationStore``,
``AuthenticatorStore``), so a store of your own needs no base class and may leave out what it does not
support. Parameters beside ``**fields`` are positional only: a custom field may then have any name, even
``user_id``.

Times are aware UTC datetimes, ages are seconds. A look-up returns None for any string that it does not know,
however malformed: strangers send those. A value that is not a ``str`` is a programmer's mistake and raises
TypeError.

Every method may raise StorageError, BusyError and ClosedError. A store is not to be called from a signal's
handler (sqlite3's own objects are not, either); an exception that a handler raises, as Ctrl-C does, leaves
everything sound.
"""

from __future__ import annotations

import functools
import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from .models import Account, Authenticator, Counts, Purged, Session, SessionAndUser, User, VerificationToken

if TYPE_CHECKING:
    from typing import Self

Method = TypeVar("Method", bound=Callable[..., Any])


class UserStore(Protocol):
    """Users and their accounts at identity providers."""

    @abstractmethod
    def create_user(
        self, /, *, email: str | None = None, name: str | None = None, image: str | None = None,
        email_verified: datetime | None = None, id: str | None = None, **custom: Any
    ) -> User:
        """Create and return a user; ``new_id`` makes the ``id`` unless one is given.

        ConflictError if the e-mail address (in its normal form) or the id is taken, InvalidFieldError
        for a value that cannot be stored, TypeError for an unknown field.
        """

    @abstractmethod
    def get_user(self, user_id: str) -> User | None:
        """The user with that id, or None."""

    @abstractmethod
    def get_user_by_email(self, email: str) -> User | None:
        """The user whose address has the same normal form (NFC, lower case, trimmed), or None."""

    @abstractmethod
    def list_users(
        self, *, limit: int = 100, after: str | None = None, email_prefix: str | None = None
    ) -> Sequence[User]:
        """At most ``limit`` users by id, those after the id ``after``; ``[]`` if there are none.

        Ids are in the order of their code points, in every store. For the next page, ``after`` is the id of
        the last user of this one; that user may be gone by then. With ``email_prefix``, only users whose address
        begins with it, both in their normal forms; one that is blank leaves out those without an address.
        ValueError for a ``limit`` that is no int of at least 0.
        """

    @abstractmethod
    def get_user_by_account(self, *, provider: str, provider_account_id: str) -> User | None:
        """The user to whom that provider's account is linked, or None."""

    @abstractmethod
    def update_user(self, user_id: str, /, **changes: Any) -> User:
        """Change the fields given, keep the others, and return the user. None clears a field.

        Another ``email`` (by its normal form) clears ``email_verified`` unless that is given, too: nobody has
        proven the new address yet.
        NotFoundError for an unknown id, ConflictError if a new e-mail address is taken, InvalidFieldError
        and TypeError as in ``create_user``. ``id`` cannot change.
        """

    @abstractmethod
    def delete_user(self, user_id: str) -> User | None:
        """Delete and return the user, or None if there is none.

        The user's accounts, sessions and authenticators and the e-mail address's pending verification tokens
        are deleted in the same transaction. Source: OWASP ASVS 5.0, 7.4.2 (no session outlives its account).
        """

    @abstractmethod
    def link_account(
        self, response: Mapping[str, Any] | None = None, /, *, user_id: str, type: str, provider: str,
        provider_account_id: str, **tokens: Any
    ) -> Account:
        """Link a provider's account to a user and return it.

        ``response`` is the provider's whole token response; ``tokens`` are single fields, which come first.
        If the account is linked to the same user already, the fields given are changed and the others kept.
        ConflictError if it is linked to another user, NotFoundError for an unknown user, TypeError for a
        ``response`` that is no mapping. A value that belongs to no field, or does not fit its field, is kept
        in ``extra``; so is what ``response`` holds under ``user_id``, ``type``, ``provider`` or
        ``provider_account_id``. ``scope`` may be a list, ``expires_at`` a float or digits; if that is absent,
        it is computed of ``expires_in`` (seconds from now), which stays in ``extra``.
        """

    @abstractmethod
    def unlink_account(self, *, provider: str, provider_account_id: str) -> Account | None:
        """Remove and return the account, or None if there is none."""

    @abstractmethod
    def get_account(self, *, provider: str, provider_account_id: str) -> Account | None:
        """The linked account, or None."""

    @abstractmethod
    def list_accounts(self, user_id: str) -> Sequence[Account]:
        """The user's accounts, sorted by provider; ``[]`` if there are none."""


class SessionStore(Protocol):
    """Signed-in devices. To every method an expired session is absent, whether it has been purged or not."""

    @abstractmethod
    def create_session(
        self, /, *, user_id: str, session_token: str | None = None, expires: datetime | None = None,
        **custom: Any
    ) -> Session:
        """Create and return a session; ``new_token`` makes its token unless one is given.

        ``expires`` defaults to ``session_max_age`` from now and is never later than
        ``session_absolute_age`` allows. NotFoundError for an unknown user, ConflictError if the token is
        taken. Source: ASVS 7.2.3 (which demands 128 random bits; a generated token has 256).
        """

    @abstractmethod
    def get_session_and_user(self, session_token: str) -> SessionAndUser[Session, User] | None:
        """The live session with its user, or None if it is unknown, expired or malformed."""

    @abstractmethod
    def update_session(self, session_token: str, /, **changes: Any) -> Session | None:
        """Change ``expires`` or custom fields of a live session and return it; None if there is none.

        An update never inserts, so a signed-out session stays dead.
        """

    @abstractmethod
    def touch_session(
        self, session_token: str, *, max_age: float | timedelta | None = None
    ) -> Session | None:
        """Extend a live session on use and return it; None if there is none.

        ``expires`` becomes now + ``max_age`` (seconds or a timedelta; None: ``session_max_age``), at most
        once in ``session_update_age``, and never later than ``session_absolute_age`` after its creation. It
        never becomes earlier. A ``max_age`` belongs to this session ("remember me"), so give it at every
        touch; its update age is a thirtieth of it, if ``session_update_age`` is not shorter. ValueError for a
        ``max_age`` that is no age. Source: ASVS 7.3.1, 7.3.2 (inactivity and absolute limits); Auth.js's
        ``maxAge`` and ``updateAge``.
        """

    @abstractmethod
    def rotate_session(self, session_token: str) -> Session | None:
        """Give a live session a new token and return it; None if there is none.

        User, custom fields, age and expiry stay the same; the old token stops working in the same
        transaction. Source: ASVS 7.2.4 (a new token at every change of privilege).
        """

    @abstractmethod
    def delete_session(self, session_token: str) -> Session | None:
        """Delete and return the session; None if there is no live one, as at a second call."""

    @abstractmethod
    def list_sessions(self, user_id: str) -> Sequence[Session]:
        """The user's live sessions, newest first, without their tokens; ``[]`` if there are none."""

    @abstractmethod
    def revoke_session(self, user_id: str, session_id: str) -> bool:
        """End the user's session with that public ``id``; False if this user has no such live session."""

    @abstractmethod
    def revoke_sessions(self, user_id: str, *, keep: str | None = None) -> int:
        """End the user's sessions except the one whose token is ``keep``. Returns how many live ones ended.

        Source: ASVS 7.4.3 (after a change of factor, offer to end all other sessions).
        """


class VerificationStore(Protocol):
    """Single-use tokens: magic links, e-mail codes."""

    @abstractmethod
    def create_verification_token(
        self, /, *, identifier: str, token: str | None = None, expires: datetime | None = None,
        attempts: int | None = None, **custom: Any
    ) -> VerificationToken:
        """Create and return a token for ``identifier``. The same pair again replaces the earlier one.

        ``expires`` defaults to ``verification_max_age`` from now. ``attempts``: this is a short code, which replaces
        the identifier's earlier codes, and so many wrong tokens for the identifier kill it; None: a token that is too
        long to be guessed. InvalidFieldError if it is less than 1. Source: ASVS 6.5.5 (at most 10 minutes), 6.6.3 (no guessing).
        """

    @abstractmethod
    def use_verification_token(self, *, identifier: str, token: str) -> VerificationToken | None:
        """Consume the token and return it, once, to exactly one caller; None to everybody else.

        An expired token is consumed too, but None is returned. A token that is none of the identifier's takes one of
        ``attempts`` from its code, in the same transaction; if that is undone, because something around this call
        raises, so is the counting. Tokens that are no codes suffer nothing.
        """

    @abstractmethod
    def delete_verification_tokens(self, identifier: str) -> int:
        """Delete all tokens of ``identifier``. Returns how many live ones were deleted."""


class AuthenticatorStore(Protocol):
    """Passkeys (WebAuthn credentials)."""

    @abstractmethod
    def create_authenticator(
        self, /, *, user_id: str, credential_id: str, provider_account_id: str, credential_public_key: str,
        counter: int, credential_device_type: str, credential_backed_up: bool, transports: str | None = None,
        **custom: Any
    ) -> Authenticator:
        """Register and return an authenticator.

        ConflictError if the credential is registered already, NotFoundError for an unknown user.
        """

    @abstractmethod
    def get_authenticator(self, credential_id: str) -> Authenticator | None:
        """The authenticator with that credential id, or None."""

    @abstractmethod
    def list_authenticators_by_user_id(self, user_id: str) -> Sequence[Authenticator]:
        """The user's authenticators, sorted by credential id; ``[]`` if there are none."""

    @abstractmethod
    def update_authenticator_counter(self, credential_id: str, counter: int) -> Authenticator:
        """Store a higher signature counter and return the authenticator.

        CounterRegressionError if it is not higher, unless both are 0; NotFoundError for an unknown
        credential. Source: WebAuthn § 6.1.1.
        """

    @abstractmethod
    def update_authenticator(self, credential_id: str, /, **changes: Any) -> Authenticator:
        """Change the fields given, keep the others, and return the authenticator. None clears a field.

        A ``counter`` must be higher than the stored one, as in ``update_authenticator_counter``: whoever changes a
        name beside it must not undo what tells a cloned passkey. NotFoundError for an unknown credential,
        InvalidFieldError and TypeError as in ``create_user``. ``credential_id`` and ``user_id`` cannot change.
        """

    @abstractmethod
    def delete_authenticator(self, credential_id: str) -> Authenticator | None:
        """Remove and return the authenticator, or None if there is none."""


class Adapter(UserStore, SessionStore, VerificationStore, AuthenticatorStore, Protocol):
    """Everything that this package's stores do."""

    @abstractmethod
    def count(self) -> Counts:
        """How many records of each kind there are now, expired ones left out; zeros for an empty store.

        Each kind is counted by itself: if somebody writes meanwhile, two numbers may tell of two moments.
        """

    @abstractmethod
    def purge_expired(self, *, limit: int | None = None) -> Purged:
        """Remove expired sessions and tokens, at most ``limit`` of each. Returns how many of each."""

    @abstractmethod
    def transaction(self) -> AbstractContextManager[Self]:
        """A block whose writes all happen or, if it raises, do not; inside another one, it is a savepoint."""

    @abstractmethod
    def snapshot(self) -> Snapshot:
        """The whole state, for ``restore``; meant for tests."""

    @abstractmethod
    def restore(self, snapshot: Snapshot) -> None:
        """Put back the state that ``snapshot`` returned. TypeError if another kind of store returned it."""

    @abstractmethod
    def check(self) -> list[str]:
        """The problems found in the stored data, in words; ``[]`` if there are none."""

    @abstractmethod
    def close(self) -> None:
        """Close the store, and undo its open transaction. A second call does nothing.

        After it, every other method raises ClosedError.
        """

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Snapshot:
    """A store's whole state at one moment, for ``restore``. Only such a store knows the form of ``state``."""

    __slots__ = ("made_by", "state")

    def __init__(self, made_by: tuple[Any, ...], state: Any) -> None:
        self.made_by = made_by
        self.state = state


def by_name(method: Method) -> Method:
    """Decorate a method that takes its fields by name: a call with one by position, as in
    ``create_user("a@b.c")``, raises a TypeError that names the remedy, ``create_user(email=...)``.
    """
    parameters = [*inspect.signature(method).parameters.values()][1:]
    allowed = sum(p.kind is p.POSITIONAL_ONLY for p in parameters)

    @functools.wraps(method)
    def checked(self: Any, /, *given: Any, **fields: Any) -> Any:
        if len(given) > allowed:
            named = [p for p in inspect.signature(method).parameters.values() if p.kind is p.KEYWORD_ONLY]
            needed = [p for p in named if p.default is p.empty] or named[:1]
            call = f"{method.__name__}({', '.join(f'{p.name}=...' for p in needed)})"
            raise TypeError(f"{method.__name__}() takes its fields by name: {call}")
        return method(self, *given, **fields)

    return cast(Method, checked)


def like(method: Method) -> Callable[[Callable[..., Any]], Method]:
    """Give a function that passes its arguments on to ``method`` that one's name, signature and docstring."""

    def decorate(function: Callable[..., Any]) -> Method:
        functools.update_wrapper(function, method, updated=())  # its __dict__ may hold __isabstractmethod__
        function.__doc__ = inspect.getdoc(method)
        return cast(Method, function)

    return decorate


def refuse_to_copy(store: object, _: object) -> Any:
    """The ``__reduce_ex__`` of every store: TypeError from ``copy`` and ``pickle``."""
    raise TypeError(
        f"{store!r} cannot be copied or pickled: it is a connection, not data. Open another store, or take a snapshot()"
    )
