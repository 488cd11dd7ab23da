"""The words of the backlog: an entry, its states, a reservation, and what the ledger decides.

The life of one entry:

                 stored              reserve                  finish                 settled
    STORING ───────────────► READY ───────────► RESERVED ───────────────► SETTLING ──────────► GONE, remembered 24 h
       │                     ▲   ▲                │    │
       │ abandon             │   └── release ─────┤    │ attempts or crashes used up, or not retryable: bury
       ▼                     │ due    expire      │    ▼
      GONE                DELAYED ◄── fail ───────┘   DEAD
                                                       ▲ │ replay ──► UNBURYING ──► READY
       stored, given up by its source ─────────────────┘ └ purge ───► UNBURYING ──► GONE

One whose engines died may have been processed by the last one: DEAD ──► SETTLING, when the record of that is found.
What is READY or DELAYED may be shed: SHEDDING ──► GONE; :mod:`~harmonicio.master.backlog.shedding` says when.

STORING, SETTLING, UNBURYING and SHEDDING are the times in which the store writes: a message can be reserved only after
it is on stable storage, and is forgotten only after its outcome is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from harmonicio.core.message import Failure
from harmonicio.core.stream import SHED, StreamDeclaration

#: What an entry costs beside its payload and header section: its row, its index entries and its place in memory.
ENTRY_OVERHEAD_BYTES = 512
#: A reservation outlives the stream's time-out by this much, in which the controller's kill takes effect.
RESERVATION_MARGIN_S = 30.0
#: How long the id of a finished message stays taken.
FINISHED_KEPT_S = 24 * 3600.0


class State(IntEnum):
    STORING = 0
    READY = 1
    DELAYED = 2
    RESERVED = 3
    SETTLING = 4
    DEAD = 5
    GONE = 6
    UNBURYING = 7
    SHEDDING = 8


#: An entry in one of these states still has to be processed.
WAITING = (State.READY, State.DELAYED, State.RESERVED, State.SETTLING)
#: One in one of these is a dead letter to everybody.
BURIED = (State.DEAD, State.UNBURYING)


class Entry:
    """One message in the backlog.

    Only the ledger writes to it. Stores may read its counters at any time: they write what is newest.

    Attributes:
        sequence: Its number in the order of arrival; unique for the life of a store.
        priority: Larger goes first.
        digest: See :mod:`harmonicio.master.backlog.digest`; empty when the payload was not read.
        section: The header section as it came over the wire, to be passed on unchanged.
        attempts: Executions that counted.
        crashes: Engine crashes that counted.
        is_suspect: It was outstanding when an engine's connection broke.
        put_at: Wall-clock seconds.
        not_before: Monotonic seconds before which it is not given out again.
        is_put_off: Nobody has taken it since an engine's host had no room for it.
        times_put_off: How often that happened, since the master was started.
        times_unreadable: Tries to read its payload that have failed in a row, and ``unreadable_since``: the first one.
        engine: Which had it last, and ``last_words``: how an engine ended that had it. Neither outlives the master.
        death_bytes: What the record of its death takes, while it is dead.
        is_timed_out: Its last attempt that counted was stopped for taking too long; does not outlive the master.
    """

    __slots__ = (
        "attempts",
        "crashes",
        "death_bytes",
        "digest",
        "engine",
        "is_put_off",
        "is_suspect",
        "is_timed_out",
        "last_words",
        "message_id",
        "not_before",
        "priority",
        "put_at",
        "section",
        "sequence",
        "size_bytes",
        "state",
        "stream",
        "times_put_off",
        "times_unreadable",
        "unreadable_since",
    )

    def __init__(
        self,
        stream: str,
        message_id: str,
        sequence: int,
        size_bytes: int,
        *,
        priority: int = 0,
        digest: bytes = b"",
        section: bytes = b"",
        attempts: int = 0,
        crashes: int = 0,
        is_suspect: bool = False,
        put_at: float = 0.0,
    ) -> None:
        self.stream = stream
        self.message_id = message_id
        self.sequence = sequence
        self.size_bytes = size_bytes
        self.priority = priority
        self.digest = digest
        self.section = section
        self.attempts = attempts
        self.crashes = crashes
        self.is_suspect = is_suspect
        self.put_at = put_at
        self.not_before = 0.0
        self.is_put_off = False
        self.times_put_off = 0
        self.times_unreadable = 0
        self.unreadable_since = 0.0
        self.engine = ""
        self.last_words = ""
        self.is_timed_out = False
        self.death_bytes = 0
        self.state = State.STORING

    def __repr__(self) -> str:
        return f"<Entry {self.sequence} {self.stream}/{self.message_id!r} {self.state.name}, attempts={self.attempts}>"

    @property
    def cost_bytes(self) -> int:
        """What the entry takes from the backlog's budget."""
        return cost_bytes(self.size_bytes) + len(self.section) + self.death_bytes

    def as_stored(self) -> Entry:
        """Return a copy of what a store keeps of it: nothing that only this run knows is in it."""
        return Entry(
            self.stream,
            self.message_id,
            self.sequence,
            self.size_bytes,
            priority=self.priority,
            digest=self.digest,
            section=self.section,
            attempts=self.attempts,
            crashes=self.crashes,
            is_suspect=self.is_suspect,
            put_at=self.put_at,
        )


def cost_bytes(size_bytes: int) -> int:
    """Return what a message of this size takes from the backlog's budget, beside its header section."""
    return size_bytes + ENTRY_OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class Reservation:
    """One message held by one engine attempt; ``token`` is never used again, so late outcomes are recognised.

    It ends ``timeout_s`` after it was made, or after its engine last completed a message if that is later. ``holder``
    is one connection of the engine.
    """

    token: int
    entry: Entry
    holder: str
    attempt: int
    made_at: float
    timeout_s: float


class Verdict(StrEnum):
    """What became of a message by one event.

    READY      it waits again, perhaps after a delay
    RESERVED   nothing but its counters changed: somebody else holds it now
    SETTLING   it is finished; its outcome is to be written
    DEAD       it is given up; the dead letter is to be written
    LATE       the reservation had been given up before; nothing changed
    """

    READY = "ready"
    RESERVED = "reserved"
    SETTLING = "settling"
    DEAD = "dead"
    LATE = "late"


@dataclass(frozen=True, slots=True)
class Decision:
    """One verdict of the ledger.

    Attributes:
        has_changed: Counters of the entry differ from what the store has.
        failure: Why the message is dead. An engine that was given up before may have done the work: that is looked for.
    """

    verdict: Verdict
    entry: Entry
    has_changed: bool = False
    failure: Failure | None = None


class PutVerdict(StrEnum):
    """What the ledger says of a message that wants in.

    NEW        it is entered; have it stored
    STORING    the same message is being stored: the answer is the same as to that one
    KNOWN      the same message waits, is dead, or was finished not long ago
    CONFLICT   another message has this id
    LEAVING    the same message is just being shed: sent again after that, it is a new one
    """

    NEW = "new"
    STORING = "storing"
    KNOWN = "known"
    CONFLICT = "conflict"
    LEAVING = "leaving"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a stream treats messages that do not succeed; if it ``is_ordered``, those behind them wait.

    Where it ``sheds``, what waits makes room for others. ``version`` is that of the declaration which says so.
    """

    max_attempts: int = 3
    max_crashes: int = 3
    reservation_timeout_s: float = 600.0 + RESERVATION_MARGIN_S
    is_ordered: bool = False
    version: int = 0
    sheds: bool = False

    @classmethod
    def of(cls, declaration: StreamDeclaration) -> RetryPolicy:
        """Return the policy that a stream's declaration asks for."""
        return cls(
            declaration.max_attempts,
            declaration.max_crashes,
            declaration.timeout_s + RESERVATION_MARGIN_S,
            declaration.ordered,
            declaration.version,
            declaration.when_full == SHED,
        )


@dataclass(frozen=True, slots=True)
class Charge:
    """What the end of an engine counts against a message that it had; ``words`` say how it ended."""

    attempts: int = 0
    crashes: int = 0
    engine: str = ""
    words: str = ""

    def after(self, before: Charge | None) -> Charge:
        """Return this charge together with those before it."""
        if before is None:
            return self
        return Charge(self.attempts + before.attempts, self.crashes + before.crashes, self.engine, self.words)


@dataclass(frozen=True, slots=True)
class Death:
    """Why a message was given up, and who had it last.

    Attributes:
        died_at: Wall-clock seconds; 0 when an earlier release has buried it.
        engine: Had it last, as far as the master knows; ``image`` is the digest of what that ran.
        stream_version: Of the declaration that counted then.
    """

    failure: Failure
    died_at: float = 0.0
    engine: str = ""
    image: str = ""
    stream_version: int = 0


@dataclass(frozen=True, slots=True)
class Shed:
    """The record of a message that was shed: what it was, when and why. ``shed_at`` is wall clock."""

    stream: str
    message_id: str
    priority: int
    size_bytes: int
    shed_at: float
    why: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A message that was processed or shed, as far as its duplicates are to be recognised.

    ``finished_at`` is wall clock.
    """

    stream: str
    message_id: str
    digest: bytes
    finished_at: float
    is_shed: bool = False
