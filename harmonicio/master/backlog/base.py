"""What a backlog store does: it keeps entries, payloads and outcomes on stable storage.

Rules for every member:

- Whatever takes a callback returns at once and calls back, from a thread of the store, when what they ask for is
  on stable storage, or with the error when it is not; then nothing of a put is left behind. Callbacks must not block
  and must not put.
- The counters of an entry are read when they are written, so that the newest are kept, however calls overtake each
  other.
- A store that is closed calls back with an error, and does nothing where nobody waits for an answer.
- What concerns one entry takes effect in the order put, update, bury, revive, finish or shed, forget or purge,
  whatever else is under way.
- A store knows nothing of order, reservations or retries: that is the ledger's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from harmonicio.core.errors import StorageError
from harmonicio.core.message import Outcome
from harmonicio.core.printable import counted
from harmonicio.master.backlog.entry import Death, Entry, Finished, Shed
from harmonicio.master.backlog.outcome_codec import KeptOutcome

OUTCOMES_KEPT_S = 3600.0
#: So many repairs of one kind are told one by one: each question for the status answers them.
NAMED_REPAIRS = 10

#: Called with None when it is on stable storage, else with what went wrong.
Callback = Callable[[StorageError | None], None]


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """What a store may use beside the entries themselves.

    Attributes:
        hot_cache_bytes: Payloads kept in memory, so that they need not be read back.
        pending_bytes: Payload bytes in memory that wait to be written; more makes ``put`` block.
        outcome_bytes: Outcomes kept for those who ask later.
        max_finished_ids: Ids of finished messages kept to recognise duplicates after a restart.
        ballast_bytes: Disk space held back, so that messages can still leave a full disk.
        ballast_rest_s: After a failed write nothing new is taken for so long, which leaves that space to what leaves.
        max_shed_records: Records of messages that were shed, of less than 1 KB each; the oldest go first.
    """

    hot_cache_bytes: int = 256 * 1024**2
    pending_bytes: int = 128 * 1024**2
    outcome_bytes: int = 256 * 1024**2
    max_finished_ids: int = 400_000
    ballast_bytes: int = 8 * 1024**2
    ballast_rest_s: float = 1.0
    max_shed_records: int = 10_000


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a store has kept from an earlier run.

    Attributes:
        entries: Messages that wait, in the order of their sequences.
        dead: Dead letters, likewise; what the record of each death takes is said in them.
        finished: Messages finished not long ago, oldest first.
        repairs: What was found broken and what was done about it, in sentences.
    """

    entries: tuple[Entry, ...] = ()
    dead: tuple[Entry, ...] = ()
    finished: tuple[Finished, ...] = ()
    repairs: tuple[str, ...] = ()

    def summary(self) -> str:
        """Return in one sentence what was found."""
        repaired = counted(len(self.repairs), "thing was repaired", "things were repaired")
        return (
            f"At its start the backlog had {counted(len(self.entries), 'message')}, "
            f"{counted(len(self.dead), 'dead letter')} and {counted(len(self.finished), 'id')} of finished messages; "
            f"{repaired if self.repairs else 'nothing had to be repaired'}."
        )


def first_few(repairs: Sequence[str]) -> tuple[str, ...]:
    """Return repairs of messages, all of one kind, as they are told: of many only the first, and how many more."""
    more = len(repairs) - NAMED_REPAIRS
    return tuple(repairs) if more <= 0 else (*repairs[:NAMED_REPAIRS], f"So it was with {more} more.")


class PendingPayload(ABC):
    """Room for a payload that is about to arrive. It belongs to its maker until it is put or discarded."""

    #: Writable, exactly as long as the payload.
    buffer: memoryview
    #: Whether the bytes lie in a file rather than in memory.
    is_on_disk: bool

    @abstractmethod
    def discard(self) -> None:
        """Give the room back; nothing of the payload is left. May be repeated."""


class MemoryPayload(PendingPayload):
    """Room in memory: new, or what is given."""

    is_on_disk = False

    def __init__(self, size_bytes: int, buffer: memoryview | None = None) -> None:
        self.buffer = memoryview(bytearray(size_bytes)) if buffer is None else buffer

    def __repr__(self) -> str:
        return f"<MemoryPayload {len(self.buffer)} bytes>"

    def discard(self) -> None:
        # The buffer may still be in use by a connection that breaks: it ends with its last user.
        self.buffer = memoryview(bytearray())


class PayloadLease:
    """A payload to be read, as a context: the view ends with it."""

    def __init__(self, view: memoryview, close: Callable[[], None] | None = None) -> None:
        self.view = view
        self._close = close

    def __repr__(self) -> str:
        return f"<PayloadLease {self.view.nbytes} bytes>" if self._close else "<PayloadLease>"

    def __enter__(self) -> PayloadLease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back what the view needed. May be repeated."""
        close, self._close = self._close, None
        self.view = memoryview(b"")
        if close is not None:
            close()


def damaged(text: str) -> StorageError:
    """Return the error of a payload that is lost: reading it again would not help."""
    error = StorageError(text, hint="The message becomes a dead letter; the others are served.")
    error.retryable = False
    return error


class BacklogStore(ABC):
    """The durable side of the backlog."""

    @abstractmethod
    def recover(self) -> Recovery:
        """Open the store and return what it has kept. Called once, before anything else.

        Raises:
            StorageError: the store cannot be opened or read.
            Unavailable: the host has no threads for it.
            Conflict: another process has it open.
        """

    @abstractmethod
    def new_payload(self, sequence: int, size_bytes: int, *, to_disk: bool) -> PendingPayload:
        """Return room for the payload of the entry that will have this sequence.

        Args:
            to_disk: Receive it straight into a file, as far as the store has files and the payload is not small.

        Raises:
            StorageError: there is no room.
        """

    @abstractmethod
    def put(self, entry: Entry, payload: PendingPayload, on_stored: Callback, death: Death | None = None) -> None:
        """Store an entry, as a dead letter when there is a death; the payload belongs to the store from here on.

        With it goes the outcome of a message of the same id that was shed: it is there again, so it has not ended.
        Blocks while too much waits to be written. Whatever goes wrong is told to ``on_stored``, which is called once.
        """

    @abstractmethod
    def read(self, entry: Entry) -> PayloadLease:
        """Return the payload of a stored entry.

        Raises:
            StorageError: it cannot be read; not ``retryable`` when it is not what was stored.
        """

    def read_ahead(self, entry: Entry) -> None:  # noqa: B027  what is fast to read needs no notice
        """The payload of a stored entry will be read soon: have it fetched, without waiting for it."""

    @abstractmethod
    def update(self, entry: Entry) -> None:
        """Write the entry's counters and priority some time soon."""

    @abstractmethod
    def revise(self, entries: Sequence[Entry], on_done: Callback) -> None:
        """Write the entries' counters and priorities, and say when that is done."""

    @abstractmethod
    def bury(self, entry: Entry, death: Death, on_done: Callback) -> None:
        """Make a dead letter of a stored entry."""

    @abstractmethod
    def revive(self, entries: Sequence[Entry], on_done: Callback) -> None:
        """Make dead letters wait again, all or none of them, with no attempts and no crashes."""

    @abstractmethod
    def finish(self, entries: Sequence[Entry], outcome: Outcome, on_done: Callback) -> None:
        """Replace stored entries by their outcome; nothing is kept of one that is not there (any more)."""

    @abstractmethod
    def shed(self, entry: Entry, record: Shed, outcome: Outcome, on_done: Callback) -> None:
        """Replace a stored entry by its outcome and by the record of its shedding; likewise."""

    @abstractmethod
    def forget(self, entry: Entry, on_done: Callback) -> None:
        """Remove a stored entry without an outcome."""

    @abstractmethod
    def purge(self, entries: Sequence[Entry], on_done: Callback) -> None:
        """Remove dead letters, all or none of them, without an outcome."""

    @abstractmethod
    def drop_stream(self, stream: str, before_sequence: int, on_done: Callback) -> None:
        """Remove all of a stream that arrived before this sequence, and all of its outcomes and records."""

    @abstractmethod
    def outcome(self, stream: str, message_id: str) -> KeptOutcome | None:
        """Return the outcome of a finished message, kept for an hour as far as the budget goes; else None.

        Raises:
            StorageError: it cannot be read.
        """

    @abstractmethod
    def death(self, entry: Entry) -> Death | None:
        """Return why a dead letter was given up; None when the entry is not buried.

        Raises:
            StorageError: it cannot be read.
        """

    @abstractmethod
    def shed_records(self, stream: str, limit: int) -> tuple[Shed, ...]:
        """Return the latest records of what was shed of a stream, the last one first.

        Raises:
            StorageError: they cannot be read.
        """

    @abstractmethod
    def prune(self, wall: float) -> None:
        """Let go of outcomes and ids whose time is over; called every few seconds."""

    @property
    def is_intact(self) -> bool:
        """Whether an open store still works: a thread of its own may have ended."""
        return True

    @property
    def in_memory(self) -> tuple[int, int]:
        """Return how many payload bytes are in memory beside the disk, and how many there may be."""
        return 0, 0

    def make_room(self) -> None:  # noqa: B027  what holds nothing back has nothing to give up
        """The disk is full: give up what is held back, so that others who keep something there can write, too.

        Raises:
            StorageError: it cannot be given up.
        """

    @abstractmethod
    def close(self) -> None:
        """Write what waits, then give everything back. May be repeated."""
