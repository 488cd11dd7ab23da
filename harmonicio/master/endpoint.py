"""A route of the control plane as a plain record, so that routes are small functions that know nothing of the web.

A route's function gets the :class:`Master` and the :class:`Call`, and returns a record:

    routes = Routes("workers")

    @routes.post(paths.WORKERS, {Role.WORKER}, body=WorkerRegistration, answer=WorkerWelcome)
    def register(master: Master, call: Call) -> WorkerWelcome:
        "Introduce a worker."
        return master.register(call.body)

What it may raise, who may call it and how it is validated, counted and documented is the same for all routes and
stands in :mod:`harmonicio.master.app`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from harmonicio.core.lease import Address
from harmonicio.core.roles import Role
from harmonicio.master.master import Master
from harmonicio.master.tokens import Identity

#: Roles that may look at the cluster, beside administrators.
LOOKING = frozenset({Role.VIEWER, Role.SOURCE, Role.WORKER})
#: Roles that send messages; an engine sends on what its handler emits.
SENDING = frozenset({Role.SOURCE, Role.ENGINE})
ADMIN_ONLY: frozenset[Role] = frozenset()


@dataclass(frozen=True, slots=True)
class Call:
    """One request, checked: who asks, the names in its path, its query and its body.

    ``identity`` is ``None`` on public routes only; ``reached_at`` is the host at which the caller reached the master,
    empty when that is not known.
    """

    identity: Identity | None
    names: Mapping[str, str] = field(default_factory=dict)
    query: Any = None
    body: Any = None
    reached_at: str = ""

    def reaches(self, address: Address) -> Address:
        """Return another address of the master as this caller reaches it: who found one port finds the other there."""
        return replace(address, host=self.reached_at) if self.reached_at else address


Handler = Callable[[Master, Call], Any]
Note = Callable[[Any], Mapping[str, Any]]


def _nothing(body: Any) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path.

    Attributes:
        path: As in :mod:`harmonicio.control.paths`.
        roles: Who may call it, beside administrators; ``None`` means anybody, without a token.
        body, query: The record that each must be, or ``None``; ``Any`` takes every JSON value, or every query.
        answer: The type of what the handler returns; ``None`` for an empty answer.
        note: Returns what of a body goes into the audit log. Nothing that may be secret.
    """

    method: str
    path: str
    handler: Handler
    roles: frozenset[Role] | None
    answer: Any
    tag: str
    name: str
    text: str
    body: Any = None
    query: Any = None
    note: Note = _nothing

    @property
    def is_audited(self) -> bool:
        """Whether it goes into the audit log: what only administrators may change."""
        return self.roles == ADMIN_ONLY and self.method != "GET"

    def allows(self, identity: Identity | None) -> bool:
        """Whether this caller may use it. An engine acts for its own stream only (checked by the application)."""
        if self.roles is None:
            return True
        return identity is not None and (identity.role is Role.ADMIN or identity.role in self.roles)


class Routes:
    """Collects the endpoints of one noun."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self.endpoints: list[Endpoint] = []

    def __repr__(self) -> str:
        return f"<Routes {self._tag}: {len(self.endpoints)}>"

    def get(
        self, path: str, roles: Collection[Role] | None, *, answer: Any, query: Any = None
    ) -> Callable[[Handler], Handler]:
        return self._add("GET", path, roles, answer=answer, query=query)

    def post(
        self,
        path: str,
        roles: Collection[Role] | None,
        *,
        answer: Any = None,
        body: Any = None,
        note: Note = _nothing,
    ) -> Callable[[Handler], Handler]:
        return self._add("POST", path, roles, answer=answer, body=body, note=note)

    def put(
        self, path: str, roles: Collection[Role] | None, *, answer: Any = None, body: Any = None, note: Note = _nothing
    ) -> Callable[[Handler], Handler]:
        return self._add("PUT", path, roles, answer=answer, body=body, note=note)

    def delete(self, path: str, roles: Collection[Role] | None, *, query: Any = None) -> Callable[[Handler], Handler]:
        return self._add("DELETE", path, roles, answer=None, query=query)

    def _add(
        self,
        method: str,
        path: str,
        roles: Collection[Role] | None,
        *,
        answer: Any,
        body: Any = None,
        query: Any = None,
        note: Note = _nothing,
    ) -> Callable[[Handler], Handler]:
        def keep(handler: Handler) -> Handler:
            allowed = None if roles is None else frozenset(roles)
            name = f"{self._tag}.{handler.__name__}"
            text = inspect.getdoc(handler) or ""
            self.endpoints.append(
                Endpoint(
                    method, path, handler, allowed, answer, self._tag, name, text, body=body, query=query, note=note
                )
            )
            return handler

        return keep
