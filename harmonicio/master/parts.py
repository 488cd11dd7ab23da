"""What the master needs of its parts that have rooms of their own: the backlog and the data port."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from harmonicio.control.messages import BacklogFigures, EngineExit, OutcomeView
from harmonicio.core.lease import Address, Claims
from harmonicio.core.stream import StreamDeclaration


class BacklogPart(Protocol):
    """Messages that wait at the master, and what became of them. Safe to use from several threads."""

    def declare(self, declaration: StreamDeclaration) -> None:
        """A stream is declared, or declared anew: treat its messages by this from now on."""
        ...

    def drop_stream(self, stream: str, *, is_forced: bool) -> None:
        """A stream is deleted: delete its dead letters, and refuse what still comes for it.

        Args:
            is_forced: Delete the messages that are to be processed, too.

        Raises:
            Conflict: messages of it wait or are on their way, and the deletion is not forced; nothing has changed.
        """
        ...

    def figures(self, stream: str) -> BacklogFigures: ...

    def outcome(self, stream: str, message: str) -> OutcomeView | None:
        """Return what is known of a message; ``None`` when nothing is, or not any more."""
        ...

    def engine_exited(self, ended: EngineExit) -> None:
        """A controller tells how an engine ended; this decides whether a suspect counts a crash."""
        ...

    def tick(self) -> None:
        """Called about four times a second: let reservations expire."""
        ...

    def close(self) -> None: ...


class DataPortPart(Protocol):
    """The listening end of the backlog's data connections."""

    @property
    def address(self) -> Address: ...

    @property
    def received_bytes(self) -> int:
        """Every byte that has reached the port since the start, also what is no payload."""
        ...

    def end_connectors(self, is_revoked: Callable[[Claims], bool]) -> None:
        """End the connections of sources whose tickets are revoked; what was stored for them stays stored."""
        ...

    def start(self) -> None: ...

    def close(self) -> None: ...
