"""How many files this process may have open at once: as many as its host allows.

The usual limit is 1,024, for the sake of programs that call ``select``, which knows no descriptor beyond. Master and
engines have a socket for each connection and wait otherwise, so they raise their own. Programs that they start may be
of the other kind: those get the usual limit.
"""

from __future__ import annotations

import contextlib
import logging
import resource

_log = logging.getLogger(__name__)

#: Soft and hard limit of before, once it was raised.
_usual: tuple[int, int] | None = None


def raise_own() -> None:
    """Let this process have as many files open as its hard limit allows; where its host forbids that, as before."""
    global _usual
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError) as error:  # The hard limit is above what the kernel allows (fs.nr_open).
            _log.debug("The limit of open files stays at %d: %s", soft, error)
        else:
            _usual = soft, hard


def give_usual(pid: int) -> None:
    """Give a child that was started a moment ago the limit that this process had before it raised its own."""
    if _usual is not None:
        with contextlib.suppress(ProcessLookupError):  # It has ended already.
            resource.prlimit(pid, resource.RLIMIT_NOFILE, _usual)
