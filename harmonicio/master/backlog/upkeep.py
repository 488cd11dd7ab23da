"""The backlog as people look at it and mend it: what waits can be put in another order, and dead letters replayed.

Rules:

- What is asked for comes in bounded pages and steps, so that the lock is never held for long, however much there is.
- A change is answered when it is on stable storage.
- Decided under the lock, read and written outside it, as everything of the backlog.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

from harmonicio.control.backlog_messages import (
    LISTED_TEXT_LENGTH,
    MAX_NAMED,
    MAX_PAGE,
    BacklogFill,
    BacklogView,
    DeadChange,
    DeadChoice,
    DeadLetterPage,
    DeadLetterView,
    NotChanged,
    PriorityChange,
    ShedMessage,
    WaitingMessage,
)
from harmonicio.control.messages import FailureView, OutcomeView
from harmonicio.core.clock import Clock
from harmonicio.core.errors import InvalidInput, NotFound, StorageError
from harmonicio.core.message import MAX_PRIORITY, MIN_PRIORITY, Failure
from harmonicio.master.backlog.base import BacklogStore, Callback
from harmonicio.master.backlog.clerk import Clerk
from harmonicio.master.backlog.dead_letters import DeadLetters
from harmonicio.master.backlog.entry import Death, Entry, Shed, State
from harmonicio.master.backlog.ledger import Ledger
from harmonicio.master.backlog.notifier import Notifier
from harmonicio.master.backlog.written import wait_until_written

#: Of what is dead and says nothing of why.
_UNKNOWN = Death(Failure("Unknown", "It was being given up, replayed or purged while it was looked at: look again."))

_STATES = {
    State.STORING: "waiting",
    State.READY: "waiting",
    State.DELAYED: "waiting",
    State.RESERVED: "reserved",
    State.SETTLING: "reserved",
    State.DEAD: "dead",
    State.UNBURYING: "dead",
    State.SHEDDING: "shed",
}

#: Asks the store to change some entries, and to call back.
Write = Callable[[Sequence[Entry], Callback], None]


class Upkeep:
    """What people see and change of the backlog. Every method may be called from any thread.

    Args:
        lock: Guards the ledger.
    """

    def __init__(
        self, lock: threading.Lock, ledger: Ledger, store: BacklogStore, clerk: Clerk, notifier: Notifier, clock: Clock
    ) -> None:
        self._lock = lock
        self._store = store
        self._clerk = clerk
        self._notifier = notifier
        self._clock = clock
        self._ledger = ledger
        self._books = ledger.books
        self._dead = DeadLetters(ledger.books)

    def __repr__(self) -> str:
        return f"<Upkeep: {self._dead!r}>"

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def outcome(self, stream: str, message: str) -> OutcomeView | None:
        """Return what is known of a message; None when nothing is, or not any more.

        Raises:
            StorageError: it cannot be read.
        """
        now = self._clock.monotonic()
        with self._lock:
            entry = self._books.entry(stream, message)
            state = "" if entry is None else _STATES[entry.state]
            is_finished = self._ledger.is_finished(stream, message, now)
            is_shed = self._ledger.is_shed(stream, message, now)
        if entry is not None:
            death = self._clerk.kept_death(entry) if state == "dead" else None
            return OutcomeView(message, state, entry.attempts, None if death is None else _view(death.failure))
        kept = self._clerk.kept_outcome(stream, message)
        if kept is not None:
            # Only shedding ends a message with a failure and leaves no dead letter.
            failure = None if kept.outcome.failure is None else _view(kept.outcome.failure)
            return OutcomeView(message, "shed" if failure else "done", kept.attempts, failure)
        if is_shed:
            return OutcomeView(message, "shed", 0)
        return OutcomeView(message, "done", 0) if is_finished else None

    def dead_letters(self, stream: str, after: str = "", limit: int = MAX_PAGE, error_type: str = "") -> DeadLetterPage:
        """Return a page of dead letters.

        Raises:
            InvalidInput: the cursor or the limit cannot be used.
            StorageError: they cannot be read.
        """
        entries, following, total = self._page(stream, after, _checked(limit))
        views = [self._view(entry, is_whole=False) for entry in entries]
        kept = tuple(view for view in views if error_type in ("", view.error_type))
        return DeadLetterPage(kept, total, following)

    def dead_letter(self, stream: str, message: str) -> DeadLetterView:
        """Return one dead letter, with all that is known of it.

        Raises:
            NotFound: there is none of this id.
            StorageError: it cannot be read.
        """
        with self._lock:
            found = self._dead.named(stream, [message])
        if not found:
            raise NotFound(
                f"Message {message!r} of stream {stream!r} is no dead letter.",
                hint=f"List them with: harmonicio dead ls {stream}",
            )
        return self._view(found[0], is_whole=True)

    def backlog(self, stream: str, limit: int) -> BacklogView:
        """Return a stream's figures with messages that wait, so many of each kind.

        Raises:
            InvalidInput: the limit cannot be used.
            StorageError: what was shed cannot be read.
        """
        _checked(limit)
        wall, now = self._clock.wall(), self._clock.monotonic()
        with self._lock:
            book = self._books.open(stream)
            figures = self._books.figures(stream, wall)
            following = tuple(_waiting(entry, wall, now) for entry in book.next_in_order(limit))
            oldest = tuple(_waiting(entry, wall, now) for entry in book.oldest(limit))
            fill = self._fill()
        records = self._store.shed_records(stream, limit)
        shed = tuple(_shed(each, wall) for each in records)
        return BacklogView(figures, following, oldest, shed, fill)

    def _fill(self) -> BacklogFill:
        budget = self._books.budget
        limits = budget.limits
        memory_bytes, memory_max_bytes = self._store.in_memory
        return BacklogFill(
            used_bytes=budget.used_bytes,
            max_bytes=limits.max_bytes,
            messages=budget.messages,
            max_messages=limits.max_messages,
            dead_bytes=budget.dead_bytes,
            dead_max_bytes=limits.dead_letter_bytes,
            memory_bytes=memory_bytes,
            memory_max_bytes=memory_max_bytes,
        )

    def _page(self, stream: str, after: str, limit: int) -> tuple[list[Entry], str, int]:
        """Return some entries, the cursor that goes on behind them, and how many there are in all."""
        with self._lock:
            entries = self._dead.page(stream, _sequence(after), limit + 1)
            total = self._dead.count(stream)
        following = str(entries[limit - 1].sequence) if len(entries) > limit else ""
        return entries[:limit], following, total

    def _view(self, entry: Entry, *, is_whole: bool) -> DeadLetterView:
        death = self._clerk.kept_death(entry) or _UNKNOWN
        failure = death.failure
        return DeadLetterView(
            stream=entry.stream,
            message=entry.message_id,
            priority=entry.priority,
            size_bytes=entry.size_bytes,
            error_type=failure.error_type,
            text=failure.text if is_whole else failure.text[:LISTED_TEXT_LENGTH],
            traceback=failure.traceback if is_whole else "",
            attempts=entry.attempts,
            crashes=entry.crashes,
            engine=death.engine,
            image=death.image,
            stream_version=death.stream_version,
            stored_at=entry.put_at,
            died_at=death.died_at,
            dead_for_s=max(0.0, self._clock.wall() - death.died_at) if death.died_at else 0.0,
        )

    # ── mending ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def prioritise(self, stream: str, messages: Sequence[str], priority: int) -> PriorityChange:
        """Give messages that wait another priority.

        Raises:
            InvalidInput: too many are named, or the priority cannot be used.
            StorageError: it could not be written: it counts, until the master is restarted.
            Unavailable: it is not written yet.
        """
        _check_named(messages)
        if not MIN_PRIORITY <= priority <= MAX_PRIORITY:
            hint = f"Use {MIN_PRIORITY} to {MAX_PRIORITY}; larger ones go first."
            raise InvalidInput(f"{priority} is not a priority.", hint=hint)
        with self._lock:
            answers = {each: self._books.prioritise(stream, each, priority) for each in dict.fromkeys(messages)}
        changed = [answer for answer in answers.values() if isinstance(answer, Entry)]
        refused = [NotChanged(message, why) for message, why in answers.items() if isinstance(why, str)]
        if changed:
            wait_until_written(partial(self._store.revise, changed))
        return PriorityChange(len(changed), tuple(refused))

    def replay(self, stream: str, choice: DeadChoice) -> DeadChange:
        """Let dead letters wait again: one step of those that are chosen.

        Raises:
            InvalidInput: the choice cannot be used.
            StorageError: it could not be written; nothing has changed.
            Unavailable: it is not written yet.
        """
        return self._change(stream, choice, self._store.revive, self._revived)

    def purge(self, stream: str, choice: DeadChoice) -> DeadChange:
        """Delete dead letters: one step of those that are chosen. Raises as :meth:`replay`."""
        return self._change(stream, choice, self._store.purge, self._purged)

    def _change(
        self, stream: str, choice: DeadChoice, write: Write, on_written: Callable[[list[Entry]], None]
    ) -> DeadChange:
        entries, following = self._chosen(stream, choice)
        with self._lock:
            # One that is not written yet would be written as dead behind the change.
            taken = self._dead.take(entry for entry in entries if not self._ledger.is_burying(entry))
        if taken:
            wait_until_written(partial(write, taken), partial(self._written, on_written, taken))
        changed = {entry.message_id for entry in taken}
        missing = tuple(each for each in dict.fromkeys(choice.messages) if each not in changed)
        return DeadChange(len(taken), missing, following)

    def _chosen(self, stream: str, choice: DeadChoice) -> tuple[list[Entry], str]:
        """Return the dead letters of one step, and where the next one begins."""
        _check(choice)
        if choice.messages:
            with self._lock:
                return self._dead.named(stream, choice.messages), ""
        entries, following, _ = self._page(stream, choice.after, MAX_PAGE)
        if choice.error_type:
            entries = [each for each in entries if self._error_type(each) == choice.error_type]
        return entries, following

    def _error_type(self, entry: Entry) -> str:
        death = self._clerk.kept_death(entry)
        return "" if death is None else death.failure.error_type

    def _written(
        self, on_written: Callable[[list[Entry]], None], taken: list[Entry], error: StorageError | None
    ) -> None:
        if error is None:
            on_written(taken)
            return
        with self._lock:
            self._dead.left(taken)
        for entry in taken:
            self._clerk.ask_again(entry)

    def _revived(self, taken: list[Entry]) -> None:
        with self._lock:
            self._dead.revived(taken)
        self._notifier.changed(taken[0].stream)
        self._clerk.room_freed()

    def _purged(self, taken: list[Entry]) -> None:
        with self._lock:
            self._dead.purged(taken)
        for entry in taken:
            self._clerk.ask_again(entry)
        self._clerk.room_freed()


def _view(failure: Failure) -> FailureView:
    return FailureView(failure.error_type, failure.text, failure.traceback, failure.retryable)


def _check(choice: DeadChoice) -> None:
    if (bool(choice.messages), bool(choice.error_type), choice.all).count(True) != 1:
        raise InvalidInput(
            "It is not said which dead letters are meant.",
            hint="Name messages, or a type of error, or say all: one of these.",
        )
    _check_named(choice.messages)


def _check_named(messages: Sequence[str]) -> None:
    if len(messages) > MAX_NAMED:
        raise InvalidInput(f"{len(messages)} messages are named.", hint=f"Name at most {MAX_NAMED} at a time.")


def _checked(limit: int) -> int:
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInput(f"A page cannot have {limit} entries.", hint=f"Use 1 to {MAX_PAGE}.")
    return limit


def _sequence(cursor: str) -> int:
    """Return the sequence after which a page begins."""
    if not cursor:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 20):
        raise InvalidInput(f"{cursor[:40]!r} is not the cursor of a page.", hint="Use the `next` of the page before.")
    return int(cursor)


def _waiting(entry: Entry, wall: float, now: float) -> WaitingMessage:
    is_delayed = entry.state is State.DELAYED
    return WaitingMessage(
        message=entry.message_id,
        state=entry.state.name.lower(),
        priority=entry.priority,
        size_bytes=entry.size_bytes,
        age_s=max(0.0, wall - entry.put_at),
        attempts=entry.attempts,
        crashes=entry.crashes,
        is_suspect=entry.is_suspect,
        engine=entry.engine,
        ready_in_s=max(0.0, entry.not_before - now) if is_delayed else 0.0,
    )


def _shed(record: Shed, wall: float) -> ShedMessage:
    shed_for_s = max(0.0, wall - record.shed_at)
    return ShedMessage(record.message_id, record.priority, record.size_bytes, record.shed_at, shed_for_s, record.why)
