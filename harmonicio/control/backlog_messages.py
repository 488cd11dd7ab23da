"""The records by which people look at the backlog and mend it: dead letters, what waits, and changes of both.

Lists come in pages: each names the cursor after which the next one begins, and an empty cursor ends them. A change of
many messages comes in steps likewise, so that no request takes long. Payloads never travel here.
"""

from __future__ import annotations

from dataclasses import dataclass

from harmonicio.control.messages import BacklogFigures

#: Entries that one page shows at most, and that one step of a change looks at.
MAX_PAGE = 500
#: Messages that one request may name.
MAX_NAMED = 1_000
#: In a list the text of an error is cut to this; the letter itself has all of it.
LISTED_TEXT_LENGTH = 300


@dataclass(frozen=True, slots=True)
class DeadLetterView:
    """``GET /streams/{stream}/dead/{message}``: a message that was given up.

    Attributes:
        error_type, text, traceback: Why; in a list the text is cut and the traceback left out.
        attempts, crashes: That were counted.
        engine: Had it last, as far as the master knows; ``image`` is the digest of the image that it ran.
        stream_version: Of the declaration that counted when it died; 0 when that is not known.
        stored_at, died_at: Seconds since the epoch; ``died_at`` is 0 when an earlier release has buried it.
        dead_for_s: Since it died.
    """

    stream: str
    message: str
    priority: int
    size_bytes: int
    error_type: str
    text: str
    traceback: str
    attempts: int
    crashes: int
    engine: str
    image: str
    stream_version: int
    stored_at: float
    died_at: float
    dead_for_s: float


@dataclass(frozen=True, slots=True)
class DeadLetterPage:
    """``GET /streams/{stream}/dead?after=CURSOR&limit=N&error_type=T``: dead letters in the order of their arrival.

    ``total`` counts all of the stream, whatever their error. A page may have fewer letters than there are to come.
    """

    letters: tuple[DeadLetterView, ...]
    total: int
    next: str = ""


@dataclass(frozen=True, slots=True)
class DeadChoice:
    """``POST /streams/{stream}/dead/replay`` and ``…/dead/purge``: which dead letters.

    Those that are named, those of one type of error, or ``all``: exactly one of these. ``after`` goes on where the
    step before has ended.
    """

    messages: tuple[str, ...] = ()
    error_type: str = ""
    all: bool = False
    after: str = ""


@dataclass(frozen=True, slots=True)
class DeadChange:
    """One step of a replay or a purge, which is on stable storage now.

    Attributes:
        changed: How many dead letters it was.
        missing: Messages that were named and are no dead letters, or are being changed by somebody else.
        next: Where the next step goes on; empty after the last one.
    """

    changed: int
    missing: tuple[str, ...] = ()
    next: str = ""


@dataclass(frozen=True, slots=True)
class WaitingMessage:
    """One message that waits in the backlog.

    Attributes:
        state: ``storing``, ``ready``, ``delayed`` (tried again in ``ready_in_s``), ``reserved`` or ``settling``.
        age_s: Since it was stored.
        is_suspect: It was outstanding when an engine's connection broke, and runs alone.
        engine: Has it now, or had it last.
    """

    message: str
    state: str
    priority: int
    size_bytes: int
    age_s: float
    attempts: int
    crashes: int
    is_suspect: bool = False
    engine: str = ""
    ready_in_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ShedMessage:
    """The record of a message that had to make room. ``shed_at`` is seconds since the epoch."""

    message: str
    priority: int
    size_bytes: int
    shed_at: float
    shed_for_s: float
    why: str


@dataclass(frozen=True, slots=True)
class BacklogFill:
    """How full the backlog is, of all streams together: bytes and messages, each with what there may be.

    Attributes:
        used_bytes: Payloads, metadata and a share for each row, on disk; ``dead_bytes`` of it are dead letters.
        memory_bytes: Payloads that are in memory as well, so that they need not be read back.
    """

    used_bytes: int = 0
    max_bytes: int = 0
    messages: int = 0
    max_messages: int = 0
    dead_bytes: int = 0
    dead_max_bytes: int = 0
    memory_bytes: int = 0
    memory_max_bytes: int = 0


@dataclass(frozen=True, slots=True)
class BacklogView:
    """``GET /streams/{stream}/backlog?limit=N``: the figures, what goes next, what has waited for longest.

    ``shed`` is what was shed, the latest first; ``fill`` is that of all streams.
    """

    figures: BacklogFigures
    next: tuple[WaitingMessage, ...]
    oldest: tuple[WaitingMessage, ...]
    shed: tuple[ShedMessage, ...] = ()
    fill: BacklogFill = BacklogFill()


@dataclass(frozen=True, slots=True)
class PriorityRequest:
    """``POST /streams/{stream}/backlog/priority``: give messages that wait another priority."""

    messages: tuple[str, ...]
    priority: int


@dataclass(frozen=True, slots=True)
class NotChanged:
    """A message that was not changed, and why."""

    message: str
    why: str


@dataclass(frozen=True, slots=True)
class PriorityChange:
    """How many messages have the priority now, on stable storage, and which have not."""

    changed: int
    refused: tuple[NotChanged, ...] = ()
