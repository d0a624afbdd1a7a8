"""The conformance kit: what ``tinyauthstore.Adapter`` promises, as tests that any adapter's author inherits::

    import pytest
    from tinyauthstore.testing import AdapterContract

    class TestMyAdapter(AdapterContract):
        @pytest.fixture
        def make_adapter(self):
            return MyAdapter  # called with options, such as clock=; makes a new, empty adapter

An adapter without options overrides the fixture ``adapter`` instead, with one new, empty adapter; tests
that need options are then skipped. To leave out a single option, call ``pytest.skip`` where it is given.
Either way the adapter is closed after the test.

It may be asynchronous: where its methods are coroutine functions, all that they return is awaited, and
``transaction()`` is entered by ``async with``. One that must be made inside a running event loop is made by
a coroutine function.

A test that needs a method which the adapter lacks is skipped, and says so (``pytest -rs``). So that nothing
is skipped by mistake, name what is kept, of ``GROUPS``: ``capabilities = {"users", "sessions"}`` in the
class skips all other groups, and makes a missing method of these a failure. ``test_... = None`` there
leaves out a single test.

A failing test's docstring gives the reason for the demand. Numbers such as [next-auth#6821] name the bug
report that it goes back to, "ASVS" is OWASP's Application Security Verification Standard 5.0. Times come
from ``FrozenClock``; nothing sleeps. Where the package is vendored, not installed, say
``pytest.register_assert_rewrite("tinyauthstore.testing")`` in ``conftest.py`` to see the values compared.
"""

try:
    import pytest  # noqa: F401
except ImportError as error:
    raise ImportError("tinyauthstore.testing needs pytest: pip install pytest") from error

# Besides what __all__ names: what those who extend the kit, as this package's own tests do, build on.
from .border import (  # noqa: F401
    CALLS,
    CREATE,
    CUSTOM,
    DEFAULTS,
    GIVEN,
    READ,
    RECORDS,
    CustomModelContract,
    StrangerContract,
    TimeContract,
    fields,
    told,
)
from .records import AccountContract, AuthenticatorContract, UserContract
from .store import AdapterContract, ConcurrencyContract, LifecycleContract, TransactionContract
from .tokens import ON_A_SESSION, SessionContract, VerificationContract  # noqa: F401
from .tools import (  # noqa: F401
    DAY,
    FAR,
    GROUPS,
    INDIA,
    METHODS,
    NAIVE,
    NOTHING,
    OTHER_ADDRESS,
    SAME_ADDRESS,
    START,
    SURROGATE,
    UTC,
    Contract,
    FrozenClock,
    Household,
    Loop,
    Subject,
    Undo,
    link,
    looked_up,
    race,
    register,
    undone,
)

__all__ = [
    "GROUPS",
    "AccountContract",
    "AdapterContract",
    "AuthenticatorContract",
    "ConcurrencyContract",
    "CustomModelContract",
    "FrozenClock",
    "LifecycleContract",
    "SessionContract",
    "StrangerContract",
    "TimeContract",
    "TransactionContract",
    "UserContract",
    "VerificationContract",
]
