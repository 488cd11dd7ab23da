"""For who may answer only when a change is on stable storage: asks a store for it, and waits."""

from __future__ import annotations

import threading
from collections.abc import Callable

from harmonicio.core.errors import StorageError, Unavailable
from harmonicio.master.backlog.base import Callback

#: How long a change may take to be written until its caller is told to look again.
WRITTEN_WITHIN_S = 30.0


def wait_until_written(write: Callable[[Callback], None], on_done: Callback = lambda _: None) -> None:
    """Have a change written and wait for it; the change goes on if nobody waits any more.

    Args:
        write: Asks the store for it, and has it call back.
        on_done: What else is to be done then, before the wait is over.

    Raises:
        StorageError: it could not be written, or what was to be done then has failed.
        Unavailable: it is not written yet.
    """
    is_over = threading.Event()
    errors: list[StorageError] = []

    def done(error: StorageError | None) -> None:
        errors.extend([] if error is None else [error])
        try:
            on_done(error)
        except Exception as bug:
            errors.append(StorageError(f"The change is written, and an error came after that: {bug}"))
            raise
        finally:
            is_over.set()

    write(done)
    if not is_over.wait(WRITTEN_WITHIN_S):
        raise Unavailable("The backlog's disk is slow: the change goes on.", hint="Look again in a minute.")
    if errors:
        raise errors[0]
