"""The records by which the log of an engine comes from its worker to whoever reads it.

    reader ── GET engine's log, after a mark ──► master ◄── GET desired, held ── worker
                                                   │ ──────── LogWish ────────────► │ looks, until there is something
    reader ◄──────────── LogPart ───────────────── │ ◄─────── LogAnswer ─────────── │

A log is read in parts, each after the mark that came with the one before. What a mark means only the runtime knows that
made it; one that is not understood (any more) is answered with what is there. A part is bounded, and so is the time for
which it is waited for; nothing of a log is kept on its way.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Of a log at most so many bytes at a time.
LOG_PART_BYTES = 64 * 1024
MAX_MARK_LENGTH = 100
#: How long an engine may be waited for to write something.
MAX_LOG_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class LogPart:
    """``GET /engines/{engine}/log?after=MARK&wait_s=S``: what was written after the mark.

    Without a mark it is the end of the log. The request is held until there is something, for ``wait_s`` at most.

    Attributes:
        text: At most ``LOG_PART_BYTES`` characters; empty when nothing was written in time.
        mark: After which the next part begins.
        is_over: The engine has ended, and this is the last part.
    """

    text: str
    mark: str
    is_over: bool = False


@dataclass(frozen=True, slots=True)
class LogWish:
    """What a worker is asked for: an engine's log after a mark, as soon as there is something, within ``wait_s``."""

    wish: str
    engine: str
    after: str = ""
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LogAnswer:
    """``POST /workers/{worker}/logs``: the part that was wished for, or code, text and hint of what is in the way."""

    wish: str
    part: LogPart | None = None
    code: str = ""
    text: str = ""
    hint: str = ""
