"""Bearer tokens: who asks, and in which role.

A secret reads ``hio_<role>_<43 letters>`` (32 random bytes); only its SHA-256 is kept, and digests are compared in
constant time, all of them, whichever matches. Engines have no token here: they present the ticket that their
controller signed (:class:`~harmonicio.master.ticket_office.TicketOffice`).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from dataclasses import dataclass

from harmonicio.control.messages import TokenRequest, TokenView
from harmonicio.control.settings_files import write_token_file
from harmonicio.core.clock import Clock
from harmonicio.core.errors import Conflict, InvalidInput, NotAllowed, NotFound
from harmonicio.core.names import check_name
from harmonicio.core.roles import Role
from harmonicio.master.folder import DataFolder
from harmonicio.master.store import MasterStore, StoredToken

MAX_TOKENS = 1_000
MAX_SECRET_LENGTH = 200
MARK_LENGTH = 16
FIRST_ROLES = (Role.ADMIN, Role.SOURCE, Role.WORKER, Role.VIEWER)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a request comes from.

    ``worker``, ``engine`` and ``stream`` are known of engines only. ``token`` marks the token that was presented: no
    other one has ever had the same mark, also not one of the same name.
    """

    name: str
    role: Role
    token: str = ""
    worker: str = ""
    engine: str = ""
    stream: str = ""


class TokenBook:
    """All tokens, in memory and in the store. Safe to use from several threads."""

    def __init__(self, store: MasterStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = store.tokens()

    def __repr__(self) -> str:
        return f"<TokenBook {len(self._tokens)} tokens>"

    def make_first(self, folder: DataFolder) -> None:
        """On the first start, make one token for each role and write it to its file.

        Raises:
            ConfigurationError: a file cannot be written.
            StorageError: the database cannot be written.
        """
        with self._lock:
            if self._tokens:
                return
            given = {role: _new_secret(role) for role in FIRST_ROLES}
            for role, secret in given.items():
                write_token_file(folder.token_file(role), secret)
            self._store.put_tokens(self._stored(role.value, role, secret) for role, secret in given.items())
            self._tokens = self._store.tokens()

    def identify(self, secret: str) -> Identity:
        """Return who holds this secret.

        Raises:
            NotAllowed: no token has it.
        """
        digest = _digest(secret[:MAX_SECRET_LENGTH])
        found = None
        for token in self._tokens:
            if hmac.compare_digest(token.digest, digest):
                found = token
        if found is None:
            raise NotAllowed(
                "This token is not known here.",
                hint="Use one of this master: the first are in its folder tokens; harmonicio token create makes more.",
            )
        return Identity(found.name, found.role, _mark(found))

    def is_known(self, mark: str) -> bool:
        """Whether the token with this mark has not been revoked."""
        return any(_mark(token) == mark for token in self._tokens)

    def create(self, request: TokenRequest) -> TokenView:
        """Make a token; the answer is the only place where its secret is ever shown.

        Raises:
            InvalidInput: the name or role cannot be used.
            Conflict: there is a token of this name, or there are too many.
        """
        name, role = check_name("token", request.name), _check_role(request.role)
        with self._lock:
            if any(token.name == name for token in self._tokens):
                raise Conflict(f"There is a token {name!r} already.", hint="Revoke it first, or choose another name.")
            if len(self._tokens) >= MAX_TOKENS:
                raise Conflict(f"There are {MAX_TOKENS} tokens already.", hint="Revoke those that nobody uses.")
            secret = _new_secret(role)
            stored = self._stored(name, role, secret)
            self._store.put_tokens([stored])
            self._tokens = self._store.tokens()
        return TokenView(name, role, stored.created_at, secret)

    def revoke(self, name: str) -> None:
        """Delete a token: its secret is refused from now on.

        Raises:
            NotFound: there is no such token.
            Conflict: it is the last administrator's token, without which nobody could make another.
        """
        with self._lock:
            token = next((token for token in self._tokens if token.name == name), None)
            if token is None:
                raise NotFound(f"There is no token {name!r}.")
            if token.role is Role.ADMIN and sum(other.role is Role.ADMIN for other in self._tokens) == 1:
                raise Conflict(f"Token {name!r} is the last one of an administrator.", hint="Make another one first.")
            self._store.drop_token(name)
            self._tokens = self._store.tokens()

    def views(self) -> tuple[TokenView, ...]:
        return tuple(TokenView(token.name, token.role, token.created_at) for token in self._tokens)

    def _stored(self, name: str, role: Role, secret: str) -> StoredToken:
        return StoredToken(name, role, _digest(secret), self._clock.wall())


def _new_secret(role: Role) -> str:
    return f"hio_{role}_{secrets.token_urlsafe(32)}"


def _mark(token: StoredToken) -> str:
    """Return what may be told of a token; nobody finds its secret by that."""
    return token.digest.hex()[:MARK_LENGTH]


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _check_role(role: str) -> Role:
    known = [item for item in Role if item.can_have_token]
    if role not in known:
        raise InvalidInput(f"{role[:80]!r} is not a role of a token.", hint=f"Use one of {', '.join(known)}.")
    return Role(role)
