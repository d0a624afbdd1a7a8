"""tinyauthstore: users, accounts, sessions, verification tokens and passkeys in one small file.

Auth.js's adapter contract for Python, on the standard library alone::

    from tinyauthstore import SQLiteAdapter

    with SQLiteAdapter("auth.db") as store:
        ada = store.create_user(email="ada@example.com")
        session = store.create_session(user_id=ada.id)
        found = store.get_session_and_user(session.session_token)

``Adapter`` is the contract; ``SQLiteAdapter``, ``ShelveAdapter`` and ``MemoryAdapter`` implement it. ``BaseAdapter``
is where a backend of your own begins.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .adapters import MemoryAdapter, ShelveAdapter, SQLiteAdapter, connect
    from .base import BaseAdapter
    from .contract import (
        Adapter,
        AuthenticatorStore,
        SessionStore,
        Snapshot,
        UserStore,
        VerificationStore,
    )
    from .errors import (
        AccountNotLinkedError,
        AuthStoreError,
        BusyError,
        ClosedError,
        ConflictError,
        CounterRegressionError,
        InvalidFieldError,
        LockedError,
        NotFoundError,
        StorageError,
        TransferError,
    )
    from .models import (
        Account,
        Authenticator,
        Counts,
        Purged,
        Session,
        SessionAndUser,
        User,
        VerificationToken,
    )
    from .split import SplitAdapter

__version__ = "0.2.0"

__all__ = [
    "Account",
    "AccountNotLinkedError",
    "Adapter",
    "AuthStoreError",
    "Authenticator",
    "AuthenticatorStore",
    "BaseAdapter",
    "BusyError",
    "ClosedError",
    "ConflictError",
    "CounterRegressionError",
    "Counts",
    "InvalidFieldError",
    "LockedError",
    "MemoryAdapter",
    "NotFoundError",
    "Purged",
    "SQLiteAdapter",
    "Session",
    "SessionAndUser",
    "SessionStore",
    "ShelveAdapter",
    "Snapshot",
    "SplitAdapter",
    "StorageError",
    "TransferError",
    "User",
    "UserStore",
    "VerificationStore",
    "VerificationToken",
    "connect",
]

if not TYPE_CHECKING:
    # The names are imported when the first of them is used (PEP 562). Wherever this package is installed,
    # pytest loads ``pytest_plugin``, and with it this module; suites that use no store must not wait for it.

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import adapters, base, contract, errors, models, split

        modules = (models, errors, contract, split, base, adapters)
        known = {name: value for module in modules for name, value in vars(module).items()}
        globals().update((public, known[public]) for public in __all__)
        return known[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
