"""The rules of signing in: who it is, which session begins, and what ends. Functions of any ``Adapter``.

Each is one transaction: it does all that it says, or nothing if it raises. For an ``AsyncAdapter``:
``await store.run(sign_in_by_email, identifier=..., token=...)``.

``session_token`` is the cookie that the browser came with, or None: a sign-in ends that session and begins a new
one (ASVS 5.0, 7.2.4). ``**session`` are ``expires`` and custom fields of the new session.

Auth.js decides the same in ``handleLoginOrRegister``. Where we differ:

================================  ================================  ==============================================
case                              Auth.js                           here, and why
================================  ================================  ==============================================
unknown account, while somebody   is linked to them                 signs in as a new user: another site may have
is signed in                                                        forged the callback. ``link_account_to`` links
known account, while somebody     error, or the session goes on     its user is signed in, by a new session
is signed in
known account                     keeps its first tokens            gets the new ones, for the old ones expire
unknown account, known address    error; linked to the address's    error; under ``proves_email``, linked if the
                                  user if the provider              provider says that the address is proven and
                                  ``allowDangerousEmail-            the user has proven it here: either may be
                                  AccountLinking``                  somebody who does not own it
address of a new account's user   unproven                          proven if ``proves_email`` and the profile say so
first proof of the address of a   marks it                          marks it, and drops what was there before:
known user                                                          sessions, accounts, passkeys
later proofs                      move the time of the proof        change nothing
================================  ================================  ==============================================

The reason for dropping is in Sudhodanan and Paverd, "Pre-hijacked accounts" (USENIX Security 2022): an attacker may
register a victim's address first, and wait. Of the five attacks there, the classic-federated merge and the
non-verifying identity provider fail in ``sign_in_by_account``; the unexpired session, the trojan identifier and the
unexpired e-mail change end in ``sign_in_by_email``.

An address is here what a ``User`` may have as ``email`` and has an ``@``; the identifier of a token to sign in with is
one. The identifier of a change of address has blanks and no ``@``, which no address can be, so neither token passes
for the other. Identifiers for purposes of your own should have no ``@`` either.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NamedTuple

from .clock import real_time
from .contract import Adapter
from .errors import AccountNotLinkedError, InvalidFieldError
from .models import Account, Session, User, VerificationToken, email_key, fields_of

_USER = {f.name: f for f in fields_of(User)}
_NAMES = ("type", "provider", "provider_account_id")


class SignedIn(NamedTuple):
    """Who is signed in now, by which session (its ``session_token`` goes into the cookie), and whether they are new."""

    user: User
    session: Session
    is_new_user: bool


def sign_in_by_email(
    store: Adapter, /, *, identifier: str, token: str, session_token: str | None = None, **session: Any
) -> SignedIn | None:
    """Sign in whoever presents the token that was mailed to the address ``identifier``. None if there is no such token.

    The token is used up, and the address's user is found or created. If they existed and had not proven the address
    yet, their sessions, accounts, passkeys and pending change of address go: whoever registered the address without
    owning it may have left them. TypeError and InvalidFieldError for ``**session`` as in ``create_session``; the
    token can then be used again.
    """
    if isinstance(identifier, str) and _address(identifier) is None:
        return None  # a token for another purpose proves no address
    with store.transaction():
        used = store.use_verification_token(identifier=identifier, token=token)
        if used is None:
            return None
        known = store.get_user_by_email(used.identifier)
        user = known or store.create_user(email=_address(used.identifier))
        if known is not None and known.email_verified is None:
            _drop_ways_in(store, known.id)
        return _begin(store, user, session_token, session, is_new=known is None, proven=True)


def sign_in_by_account(
    store: Adapter, /, *, account: Mapping[str, Any], profile: Mapping[str, Any], proves_email: bool = False,
    session_token: str | None = None, **session: Any
) -> SignedIn:
    """Sign in whoever came back from an identity provider, after the application has verified the response.

    ``account`` has ``type``, ``provider``, ``provider_account_id`` and what else the token response held; ``profile``
    may have ``email``, ``email_verified`` (True, or when: an aware datetime; anything else, ``"true"`` included, is
    no proof), ``name`` and ``image``. What no user can have of it counts as absent: what a provider sends must not
    keep anybody from signing in.

    The account decides, never the address. Linked: its user, whatever the profile says now; the tokens are
    refreshed. Not linked, and nobody has the address: a new user. Not linked, and somebody has it:
    AccountNotLinkedError, and nothing was changed; unless ``proves_email`` (this provider is trusted to verify
    addresses), the profile says that it is proven, and the user has proven it here: then it is linked to them.

    TypeError if ``account`` lacks one of its three names. Source: ASVS 5.0, 6.8.1 and 10.5.2 (who somebody is, the
    provider and their id there tell, and no claim that may be given to somebody else).
    """
    key, tokens = _taken_apart(account)
    email, verified = profile.get("email"), profile.get("email_verified")
    email = _address(email) if isinstance(email, str) else None
    since = _fitting("email_verified", verified)  # None for True, too: then it is the store's time
    proven = email is not None and proves_email and (verified is True or since is not None)
    with store.transaction():
        user = store.get_user_by_account(provider=key["provider"], provider_account_id=key["provider_account_id"])
        is_new = False
        if user is None and email is not None:
            user = store.get_user_by_email(email)
            if user is not None and not (proven and user.email_verified is not None):
                raise AccountNotLinkedError(
                    f"another user has the e-mail address of this account at {key['provider']!a:.80}; they can sign in"
                    " as they did before, and link it then",
                    provider=key["provider"],
                )
        if user is None:
            is_new = True
            user = store.create_user(
                email=email, name=_fitting("name", profile.get("name")), image=_fitting("image", profile.get("image")),
                email_verified=since if proven else None,
            )
        store.link_account(tokens, user_id=user.id, **key)
        return _begin(store, user, session_token, session, is_new=is_new, proven=is_new and proven)


def link_account_to(store: Adapter, /, *, session_token: str, account: Mapping[str, Any]) -> Account | None:
    """Link the account to who is signed in by that session, and return it. None if nobody is.

    ``account`` as in ``sign_in_by_account``. ConflictError if it is another user's; their own again is refreshed.
    """
    key, tokens = _taken_apart(account)
    with store.transaction():
        found = store.get_session_and_user(session_token)
        return None if found is None else store.link_account(tokens, user_id=found.user.id, **key)


def sign_in_by_passkey(
    store: Adapter, /, *, credential_id: str, counter: int, backed_up: bool | None = None,
    session_token: str | None = None, **session: Any
) -> SignedIn | None:
    """Sign in whoever has that passkey, after the application has verified the assertion. None for an unknown one.

    ``counter`` and ``backed_up``, the signature counter and the backup state in the assertion, are stored; None keeps
    the state. CounterRegressionError, and nothing was changed, if the counter did not grow, unless 0 stays 0. Source:
    WebAuthn § 7.2.
    """
    with store.transaction():
        passkey = store.get_authenticator(credential_id)
        user = None if passkey is None else store.get_user(passkey.user_id)
        if user is None:
            return None
        changes = {} if backed_up is None else {"credential_backed_up": backed_up}
        store.update_authenticator(credential_id, counter=counter, **changes)
        return _begin(store, user, session_token, session)


def request_email_change(store: Adapter, /, *, session_token: str, email: str) -> VerificationToken | None:
    """A token that must be mailed to ``email``, and shown nowhere else. None if nobody is signed in by that session.

    Until it comes back, the address stays what it was. The latest request counts. Whether the address is taken is
    told by ``confirm_email_change``, to nobody who cannot read its mail. InvalidFieldError if it is no address. Let
    the user sign in again first, or whoever finds an open browser takes the account along (ASVS 5.0, 7.5.1).
    """
    address = _address(email) if isinstance(email, str) else None
    if address is None:
        raise _USER["email"].refusal(email)
    with store.transaction():
        if (found := store.get_session_and_user(session_token)) is None:
            return None
        identifier = _change_of(found.user.id)
        made = store.create_verification_token(identifier=identifier)  # for the store's own random token
        store.delete_verification_tokens(identifier)
        store.create_verification_token(
            identifier=identifier, token=_for_address(made.token, address), expires=made.expires
        )
        return made


def confirm_email_change(store: Adapter, /, *, session_token: str, email: str, token: str) -> SignedIn | None:
    """Change the signed-in user's address to ``email``, which is proven by the token that was mailed there.

    None if nobody is signed in by that session, or the token is not their latest for that address. The session gets a
    new token, the user's others end, and what was mailed to the old address works no more. ConflictError, and
    nothing was changed, if another user has the address by now. Tell the old address (ASVS 5.0, 6.3.7). Source: ASVS
    7.2.4 and 7.4.3.
    """
    with store.transaction():
        found = store.get_session_and_user(session_token)
        if found is None or (address := _address(email)) is None:
            return None
        user, bound = found.user, _for_address(token, address)
        if store.use_verification_token(identifier=_change_of(user.id), token=bound) is None:
            return None
        if (rotated := store.rotate_session(session_token)) is None:  # it has expired this very moment
            return None
        # The contract tells the store's time by new sessions only. This one ends with the others.
        now = store.create_session(user_id=user.id).created_at or real_time()
        user = store.update_user(user.id, email=address, email_verified=now)
        store.revoke_sessions(user.id, keep=rotated.session_token)
        if found.user.email is not None:
            store.delete_verification_tokens(found.user.email)
        return SignedIn(user, rotated, False)


def _begin(
    store: Adapter, user: User, ended: str | None, fields: dict[str, Any], *, is_new: bool = False, proven: bool = False
) -> SignedIn:
    """End the browser's session, begin the user's, and note when their address was proven unless it was before."""
    if ended is not None:
        store.delete_session(ended)
    session = store.create_session(user_id=user.id, **fields)
    if proven and user.email_verified is None:
        user = store.update_user(user.id, email_verified=session.created_at or real_time())
    return SignedIn(user, session, is_new)


def _drop_ways_in(store: Adapter, user_id: str) -> None:
    """End all by which somebody could be, or become, signed in as the user without reading their mail."""
    store.revoke_sessions(user_id)
    for account in store.list_accounts(user_id):
        store.unlink_account(provider=account.provider, provider_account_id=account.provider_account_id)
    for passkey in store.list_authenticators_by_user_id(user_id):
        store.delete_authenticator(passkey.credential_id)
    store.delete_verification_tokens(_change_of(user_id))


def _taken_apart(account: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The three names that make an account, and the rest. TypeError if one of the three is missing."""
    if missing := [name for name in _NAMES if name not in account]:
        raise TypeError(f"account= needs {', '.join(_NAMES)}; it lacks {', '.join(missing)}")
    return {name: account[name] for name in _NAMES}, {n: v for n, v in account.items() if n not in _NAMES}


def _fitting(name: str, value: Any) -> Any:
    """The value as a user's field of that name has it; None if no user can have it."""
    try:
        return _USER[name].check(value)
    except InvalidFieldError:
        return None


def _address(text: str) -> str | None:
    """The address without the blanks that a form may leave around it; None if it is none. TypeError if no str."""
    return text.strip() if "@" in text and _fitting("email", text) is not None else None


def _change_of(user_id: str) -> str:
    """The identifier of the user's pending change of address. Hashed, because an id may hold an ``@``, and identifiers
    that do are compared as addresses are: ``Ada@`` and ``ada@`` would be one user.
    """
    return f"change of address {sha256(user_id.encode()).hexdigest()}"


def _for_address(token: str, email: str) -> str:
    """What is stored of a token that was mailed to that address: with another address, it is another token."""
    return token + " " + sha256((email_key(email) or "").encode()).hexdigest()
