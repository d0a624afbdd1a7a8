"""What can go wrong, as one small family: catch ``AuthStoreError`` and you have caught all of it.

Every error carries its evidence as attributes, survives ``pickle`` (so it crosses process
boundaries), and never contains a session token, a verification token or an OAuth token.
"""

from __future__ import annotations


class AuthStoreError(Exception):
    """The base of all errors below. Misuse raises TypeError, ValueError or RuntimeError instead."""


class ConflictError(AuthStoreError):
    """Another record already has that value; nothing was changed.

    ``model`` is the record's class name (``"User"``), ``field`` the field that must be unique.
    """

    def __init__(self, message: str = "", *, model: str = "", field: str = "") -> None:
        super().__init__(message)
        self.model = model
        self.field = field


class AccountNotLinkedError(ConflictError):
    """Somebody signs in by an account that is linked to nobody, but a user has its address; nothing was changed.

    ``provider`` is the account's. The address is not kept. Raised by ``signin.sign_in_by_account``.
    """

    def __init__(
        self, message: str = "", *, model: str = "User", field: str = "email", provider: str = ""
    ) -> None:
        super().__init__(message, model=model, field=field)
        self.provider = provider


class NotFoundError(AuthStoreError, LookupError):
    """The record that a write refers to does not exist; nothing was changed.

    ``model`` is the record's class name, ``key`` the id that was asked for (never a token).
    """

    def __init__(self, message: str = "", *, model: str = "", key: str = "") -> None:
        super().__init__(message)
        self.model = model
        self.key = key


class InvalidFieldError(AuthStoreError, ValueError):
    """A value cannot be stored in that field; nothing was changed.

    ``model`` and ``field`` say where, ``expected`` what would have been accepted. The refused value
    is not kept: it may be a secret.
    """

    def __init__(self, message: str = "", *, model: str = "", field: str = "", expected: str = "") -> None:
        super().__init__(message)
        self.model = model
        self.field = field
        self.expected = expected


class CounterRegressionError(AuthStoreError):
    """An authenticator's signature counter did not grow: the passkey may have been cloned.

    ``stored`` and ``given`` are the two counters; the stored one is kept. Source: WebAuthn § 6.1.1
    (0 → 0 is legal: many authenticators do not count).
    """

    def __init__(self, message: str = "", *, stored: int = 0, given: int = 0) -> None:
        super().__init__(message)
        self.stored = stored
        self.given = given


class TransferError(AuthStoreError, ValueError):
    """What was to be loaded or copied is damaged, or does not fit the store; nothing was changed.

    ``line`` is the number of a dump's line, from 1; 0 if it is about no single one.
    """

    def __init__(self, message: str = "", *, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


class ClosedError(AuthStoreError):
    """The store was used after ``close()``."""


class StorageError(AuthStoreError):
    """The file (or the disk below it) cannot be used; ``path`` says which.

    ``missing`` tells in words what ``synchronize=True`` would add to it; empty if that is not the matter. The
    exception of ``sqlite3`` or of the operating system is kept as ``__cause__``.
    """

    def __init__(self, message: str = "", *, path: str = "") -> None:
        super().__init__(message)
        self.path = path
        self.missing: tuple[str, ...] = ()


class BusyError(StorageError):
    """Another transaction, of this or another process, outlasted ``timeout`` seconds; nothing was changed.

    Raised at once if that transaction belongs to another task of the same thread: waiting would stop it.
    """


class LockedError(StorageError):
    """A store that may be open only once is open already, in this or another process."""


def warn(message: str, *values: object) -> None:
    """Log a warning under the package's name, for what nobody would hear of otherwise."""
    import logging  # here, because few processes have a reason, and all would wait for the import

    logging.getLogger("tinyauthstore").warning(message, *values)
