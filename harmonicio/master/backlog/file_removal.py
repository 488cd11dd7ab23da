"""Removes payload files that are not needed any more, one behind the other, on one thread at a time.

Each removal lets go of the interpreter and has to get it back from the threads that send; several at once would only
take it from one another, and wait for one another in the kernel, where a folder is changed by one at a time.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor

_log = logging.getLogger(__name__)


class FileRemoval:
    """What is to be removed, and whether somebody is at it.

    Args:
        executor: Has a thread for it; when it has been shut down, it is done at once.
        remove: Removes one file; what it raises is logged, and the next one's turn comes.
    """

    def __init__(self, executor: Executor, remove: Callable[[int], None]) -> None:
        self._executor = executor
        self._remove = remove
        self._lock = threading.Lock()
        self._sequences: deque[int] = deque()
        self._is_busy = False

    def __repr__(self) -> str:
        return f"<FileRemoval: {len(self._sequences)} files left>"

    def soon(self, sequences: Iterable[int]) -> None:
        """Remove these when those before are gone."""
        with self._lock:
            self._sequences.extend(sequences)
            if self._is_busy or not self._sequences:
                return
            self._is_busy = True
        try:
            self._executor.submit(self._work)
        except RuntimeError:
            self._work()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._sequences:
                    self._is_busy = False
                    return
                sequence = self._sequences.popleft()
            try:
                self._remove(sequence)
            except Exception:  # noqa: BLE001  the others must still go; it is logged
                _log.exception("The payload file of message %d was not removed", sequence)
