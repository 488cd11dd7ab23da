"""What a master extension offers: routes beside the master's own, found by name and never imported by the master."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from harmonicio.core.roles import Role

#: Called with the path's parameters, the JSON body (None without one) and the query; returns plain JSON.
#: It raises errors of :mod:`harmonicio.core.errors` to answer with a problem.
ExtensionHandler = Callable[[Mapping[str, str], Any, Mapping[str, str]], Any]


@dataclass(frozen=True, slots=True)
class ExtensionRoute:
    """One route.

    Attributes:
        path: As in :mod:`harmonicio.control.paths`, with ``{parts}``.
        method: ``GET``, ``POST`` …
        roles: Who may call it, besides administrators.
    """

    path: str
    method: str
    roles: frozenset[Role]
    handler: ExtensionHandler


class Extension(Protocol):
    """Made by ``create(data_folder)``; closed with the master."""

    @property
    def routes(self) -> tuple[ExtensionRoute, ...]: ...

    def close(self) -> None: ...
