"""Where streams are declared, scaled, restarted and deleted: one change at a time, each kept before it counts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

from harmonicio.core.errors import Conflict, StorageError, Unavailable
from harmonicio.core.lease import Claims
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.backlog.backlog import Backlog
from harmonicio.master.declaration_version import next_declaration
from harmonicio.master.state import MasterState
from harmonicio.master.store import MasterStore

MAX_STREAMS = 1_000


class StreamDesk:
    """Changes streams. Every method may be called from any thread.

    Args:
        deciding: Holds the lock of the state for one decision, and gives the time.
        end_connectors: Ends the connections of sources whose tickets are meant.
        check_plugins: Looks at the plugins of a declaration; raises ConfigurationError.
    """

    def __init__(
        self,
        state: MasterState,
        store: MasterStore,
        backlog: Backlog,
        deciding: Callable[[], AbstractContextManager[float]],
        end_connectors: Callable[[Callable[[Claims], bool]], None],
        check_plugins: Callable[[StreamDeclaration], None],
    ) -> None:
        self._state = state
        self._store = store
        self._backlog = backlog
        self._deciding = deciding
        self._end_connectors = end_connectors
        self._check_plugins = check_plugins
        self._declaring = threading.RLock()

    def __repr__(self) -> str:
        return f"<StreamDesk of {self._state!r}>"

    def declared(self, stream: str) -> StreamDeclaration:
        """Return a stream's declaration.

        Raises:
            NotFound: it is not declared.
        """
        with self._deciding():
            return self._state.stream(stream)

    def declare(self, given: StreamDeclaration) -> StreamDeclaration:
        """Take a declaration; return it with its version.

        Raises:
            InvalidInput: a value of it cannot be used; what was declared before stays.
            Conflict: there are too many streams.
        """
        given.checked()
        self._check_plugins(given)
        with self._declaring:
            with self._deciding():
                streams = self._state.streams()
            current = streams.get(given.name)
            if current is None and len(streams) >= MAX_STREAMS:
                raise Conflict(f"There are {MAX_STREAMS} streams already.", hint="Delete those that nobody uses.")
            declaration = next_declaration(given, current, self._store.last_version(given.name))
            if declaration != current:
                self._keep(declaration)
        if current is not None and current.ordered != declaration.ordered:
            # Those that come again get the credit of such a stream.
            self._end_connectors(lambda claims: claims.stream == declaration.name)
        return declaration

    def scale(self, stream: str, engines: int) -> None:
        """Want another number of engines of a stream.

        Raises:
            NotFound: the stream is not declared.
            InvalidInput: the number cannot be used.
        """
        with self._declaring:
            self.declare(replace(self.declared(stream), engines=engines))

    def restart(self, stream: str) -> None:
        """Have engines of a stream replaced, which load their handler anew: the same declaration gets a new version.

        Raises:
            NotFound: the stream is not declared.
        """
        with self._declaring:
            self._keep(replace(self.declared(stream), version=self._store.last_version(stream) + 1))

    def _keep(self, declaration: StreamDeclaration) -> None:
        self._store.put_stream(declaration)
        self._backlog.declare(declaration)
        with self._deciding() as now:
            self._state.put_stream(declaration, now)

    def delete(self, stream: str, *, is_forced: bool) -> None:
        """Forget a stream, its messages and dead letters.

        Raises:
            NotFound: it is not declared.
            Conflict: there are messages or dead letters of it, and the deletion is not forced.
            StorageError: it cannot be written; the stream is still there. What was left of its messages is said: all of
                them, or none when only its declaration could not be deleted.
            Unavailable: it is not written yet that its messages are gone; the stream is still there.
        """
        with self._declaring:
            declaration = self.declared(stream)
            try:
                self._backlog.drop_stream(stream, is_forced=is_forced)
                self._drop_declaration(stream)
            except (StorageError, Unavailable):
                self._backlog.declare(declaration)
                raise
            with self._deciding() as now:
                self._state.drop_stream(stream, now)
        self._end_connectors(lambda claims: claims.stream == stream)

    def _drop_declaration(self, stream: str) -> None:
        try:
            self._store.drop_stream(stream)
        except StorageError as error:
            raise StorageError(
                f"The messages of stream {stream!r} are deleted, its declaration is still there: {error.text}",
                hint="Delete it again.",
            ) from error
