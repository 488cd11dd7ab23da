"""The log of an engine in parts, each after the mark that came with the one before.

What a mark means only the runtime knows that made it; one that is not understood (any more) is answered with what is
there. A part is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Of a log at most so many bytes at a time.
LOG_PART_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class LogPart:
    """What was written after a mark; without a mark the end of the log.

    Attributes:
        text: At most ``LOG_PART_BYTES`` characters; empty when nothing was written in time.
        mark: After which the next part begins.
        is_over: The engine has ended, and this is the last part.
    """

    text: str
    mark: str
    is_over: bool = False
