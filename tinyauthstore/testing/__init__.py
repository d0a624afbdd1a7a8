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

The adapter may be asynchronous: where its methods are coroutine functions, whatever they return is awaited,
and ``transaction()`` is entered by ``async with``. If it must be made inside a running event loop, let a
coroutine function make it.

A test that needs a method which the adapter lacks is skipped, and says so (``pytest -rs``). So that nothing
is skipped by mistake, name those of ``GROUPS`` that the adapter supports: with ``capabilities = {"users",
"sessions"}`` in the class, all other groups are skipped, and a missing method of these is a failure.
``test_... = None`` in the class leaves out a single test.

A failing test's docstring gives the reason for the demand. Numbers such as [next-auth#6821] name the bug
report that led to it; "ASVS" is OWASP's Application Security Verification Standard 5.0. Times come
from ``FrozenClock``; nothing sleeps. Where the package is vendored, not installed, say
``pytest.register_assert_rewrite("tinyauthstore.testing")`` in ``conftest.py`` to see the values compared.
"""

try:
    import pytest  # noqa: F401
except ImportError as error:
    raise ImportError("tinyauthstore.testing needs pytest: pip install pytest") from error

# Besides what __all__ names: what extensions of the kit, such as this package's own tests, build on.
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
