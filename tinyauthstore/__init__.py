"""tinyauthstore: users, accounts, sessions, verification tokens and passkeys in one small file.

Auth.js's adapter contract for Python, on the standard library alone::

    from tinyauthstore import SQLiteAdapter

    with SQLiteAdapter("auth.db") as store:
        ada = store.create_user(email="ada@example.com")
        session = store.create_session(user_id=ada.id)
        found = store.get_session_and_user(session.session_token)

``Adapter`` is the contract; ``SQLiteAdapter``, ``ShelveAdapter`` and ``MemoryAdapter`` keep it.
"""

from .adapters import (
    Adapter,
    AuthenticatorStore,
    MemoryAdapter,
    SessionStore,
    ShelveAdapter,
    Snapshot,
    SplitAdapter,
    SQLiteAdapter,
    UserStore,
    VerificationStore,
    connect,
)
from .errors import (
    AuthStoreError,
    BusyError,
    ClosedError,
    ConflictError,
    CounterRegressionError,
    InvalidFieldError,
    LockedError,
    NotFoundError,
    StorageError,
)
from .models import (
    Account,
    Authenticator,
    Purged,
    Session,
    SessionAndUser,
    User,
    VerificationToken,
)

__version__ = "0.1.0"

__all__ = [
    "Account",
    "Adapter",
    "AuthStoreError",
    "Authenticator",
    "AuthenticatorStore",
    "BusyError",
    "ClosedError",
    "ConflictError",
    "CounterRegressionError",
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
    "User",
    "UserStore",
    "VerificationStore",
    "VerificationToken",
    "connect",
]
