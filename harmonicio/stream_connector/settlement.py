"""What becomes of messages that have come to rest: counted, told to who waits, let go of by the spool.

      settled at an engine, at the master or nowhere ──► final ──► counted; a failure that nobody awaits is noted
                        └─► stored ──► remembered until its final outcome is known

All but :meth:`Settlement.tidy` is called with the connector's lock held.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from harmonicio.core.message import Outcome, OutcomeKind
from harmonicio.stream_connector.delivery import Delivery, DeliveryState, state_after
from harmonicio.stream_connector.dispatch import Dispatch
from harmonicio.stream_connector.failures import Failures
from harmonicio.stream_connector.figures import Figures, Tally
from harmonicio.stream_connector.lanes import Parcel, Settled
from harmonicio.stream_connector.results import Results
from harmonicio.stream_connector.spool.spool import Entry, Spool

_DONE = DeliveryState.DONE
#: Tells in place of ``Delivery.settle`` who holds a delivery what has become of it: so a simulation listens.
_teller: Callable[[Delivery, DeliveryState, Outcome | None, str], None] | None = None


class Settlement:
    """The ends of one connector's messages.

    Args:
        spool: Where they are kept until they are safe.
        keeps_outcomes: Without, what becomes of a message after it is safe is neither remembered nor raised.

    Attributes:
        on_rejected: Called with what was rejected for good; must not block.
    """

    def __init__(self, spool: Spool | None, *, keeps_outcomes: bool) -> None:
        self._spool = spool
        self._keeps_outcomes = keeps_outcomes
        self._leaving: deque[tuple[Entry, str]] = deque()
        self.tally = Tally()
        self.results = Results()
        self.failures = Failures()
        self.on_rejected: Callable[[Delivery], None] = lambda delivery: None

    def __repr__(self) -> str:
        return f"<Settlement: {self.tally!r}, {self.results!r}>"

    @property
    def is_tidy(self) -> bool:
        """Whether there is nothing to do without the lock."""
        return not self._leaving and not self.failures.has_unlogged

    @property
    def where_unsafe(self) -> str:
        """Where a message is that was not safe when the connector was closed."""
        return "" if self._spool is None else f"It stays in the spool {self._spool.folder} for the next connector."

    def figures(self, dispatch: Dispatch, lease_requests: int) -> Figures:
        """Return what has been done so far."""
        return self.tally.figures(dispatch, lease_requests, 0 if self._spool is None else self._spool.kept)

    def settle(self, settled: Settled) -> None:
        """Parcels have come to rest: at an engine, at the master or nowhere."""
        parcels, outcome = settled.parcels, settled.outcome
        route = "backlog" if settled.is_backlog else "engine"
        for parcel in parcels:
            if parcel.slot is not None:
                parcel.let_go()
        if self._spool is not None:
            for parcel in parcels:
                self._leave_spool(parcel.entry, outcome)
        if outcome.kind is OutcomeKind.DONE:
            for parcel in parcels:
                _tell(parcel.delivery, _DONE, outcome, route)
            self.tally.via_engine += len(parcels)
            self.tally.processed += len(parcels)
        elif outcome.kind is OutcomeKind.REJECTED:
            self.tally.refused += len(parcels)
            for parcel in parcels:
                self.finish(parcel.delivery, outcome, route)
        else:
            self.tally.via_backlog += len(parcels)
            for parcel in parcels:
                self._stored(parcel, route)

    def _leave_spool(self, entry: Entry | None, outcome: Outcome) -> None:
        if entry is None:
            return
        trouble = outcome.text or str(outcome.reason) if outcome.kind is OutcomeKind.REJECTED else ""
        self._leaving.append((entry, trouble))

    def _stored(self, parcel: Parcel, route: str) -> None:
        _tell(parcel.delivery, DeliveryState.STORED, None, route)
        if parcel.failure is not None and not parcel.failure.retryable:
            self.finish(parcel.delivery, Outcome(OutcomeKind.FAILED, failure=parcel.failure))
        elif self._keeps_outcomes:
            self.results.stored(parcel.delivery)

    def finish(self, delivery: Delivery, outcome: Outcome | None, route: str = "") -> None:
        """The final outcome of a message is known; None: nobody knows it any more."""
        _tell(delivery, state_after(outcome), outcome, route)
        if delivery.state is DeliveryState.DONE:
            self.tally.processed += 1
            return
        if delivery.state is DeliveryState.REJECTED:
            self.tally.rejected += 1
            self.on_rejected(delivery)
        else:
            self.tally.failed += 1
        if self._keeps_outcomes:
            self.failures.add(delivery)

    def tidy(self) -> None:
        """Let go of what has left the spool, and log failures; without the lock, by any thread, one after another."""
        while self._spool is not None and self._leaving:
            try:
                leaving = self._leaving.popleft()
            except IndexError:
                break  # Another thread has it.
            try:
                self._spool.settle([leaving])
            except BaseException:  # Ctrl-C: what is safe must not count as unsafe for that.
                self._leaving.appendleft(leaving)
                raise
        self.failures.log()


def _tell(delivery: Delivery, state: DeliveryState, outcome: Outcome | None, route: str) -> None:
    if _teller is None:
        delivery.settle(state, outcome, route)
    else:
        _teller(delivery, state, outcome, route)
