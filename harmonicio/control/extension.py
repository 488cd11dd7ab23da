"""What a master extension offers, found by name and never imported by the master.

Routes beside the master's own; a look at the options of the engine plugin of the same name when a stream is declared:
what no engine could use is refused before it takes the place of what works; and the outcomes that this plugin records,
for messages whose engine died before it could tell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from harmonicio.core.roles import Role


@dataclass(frozen=True, slots=True)
class ExtensionCall:
    """One request, from somebody who may make it.

    Attributes:
        names: The parameters in the path.
        body: JSON; None without one.
        engine: The engine that asks, as its ticket says; empty when it is somebody else.
    """

    names: Mapping[str, str]
    body: Any = None
    query: Mapping[str, str] = field(default_factory=dict)
    engine: str = ""


#: Returns plain JSON; raises errors of :mod:`harmonicio.core.errors` to answer with a problem.
ExtensionHandler = Callable[[ExtensionCall], Any]


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


@runtime_checkable
class ChecksPlugin(Extension, Protocol):
    """An extension that knows the options of the engine plugin of its name."""

    def check(self, options: Mapping[str, Any]) -> None:
        """Look at a declaration's table ``plugins.<name>``.

        What cannot be known at the master, such as files of the workers, is left to the engine.

        Raises:
            ConfigurationError: no engine could use it.
        """
        ...


@runtime_checkable
class RecordsOutcomes(Extension, Protocol):
    """An extension whose engine plugin records what became of a message before the engine answers."""

    def recorded(self, options: Mapping[str, Any], stream: str, message_id: str, size_bytes: int) -> Any:
        """Return the result of a message that was processed, nothing of which is left to do; None when none is known.

        Args:
            options: The declaration's table ``plugins.<name>``.

        Raises:
            StorageError: it cannot be looked up now.
        """
        ...
