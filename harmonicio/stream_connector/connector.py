"""The stream connector, as a source application sees it.

It has two threads, however many engines it sends to: one for the sockets, one for what may wait for the master;
and one more for each connection while it is dialled. They start when it is entered, or at the first send.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any, Literal, Self

from harmonicio.core.buffers import buffer_payload
from harmonicio.core.errors import HarmonicIOError, InvalidInput, OutcomeExpired, OutcomeTimeout, UndeliveredError
from harmonicio.core.forks import this_process
from harmonicio.core.message import MAX_MESSAGE_BYTES
from harmonicio.core.names import check_name
from harmonicio.stream_connector.allocation import Allocation
from harmonicio.stream_connector.arena_slots import ArenaSlots
from harmonicio.stream_connector.arguments import Tls, resolved
from harmonicio.stream_connector.delivery import Delivery, DeliveryState
from harmonicio.stream_connector.dispatch import Dispatch
from harmonicio.stream_connector.exchange import Exchange
from harmonicio.stream_connector.figures import Figures
from harmonicio.stream_connector.lanes import Parcel
from harmonicio.stream_connector.leasing import LeaseClient, Leasing
from harmonicio.stream_connector.outgoing import Outgoing, check_arguments
from harmonicio.stream_connector.progress import Progress
from harmonicio.stream_connector.settlement import Settlement
from harmonicio.stream_connector.sources import file_payload
from harmonicio.stream_connector.spool.spool import Spool

Level = Literal["safe", "processed"]

_log = logging.getLogger(__name__)

CLOSE_WITHIN_S = 60.0
#: Who waits longer than this when the connector closes is told for what.
TELL_AFTER_S = 2.0
#: Somebody who interrupts a program does not want to wait.
INTERRUPTED_WITHIN_S = 1.0
_FAILED = (DeliveryState.FAILED, DeliveryState.REJECTED, DeliveryState.EXPIRED)


class StreamConnector:
    """Sends messages of one stream. Use it as a context manager; any thread may send.

    Args:
        stream: Name of the stream, which must be declared at the master.
        master: Address of the master, like ``http://127.0.0.1:8710``; from the settings when left out.
        token: Bearer token with the role ``source``; from the settings when left out.
        byte_budget_bytes: Payload bytes that may be unsafe before :meth:`send` blocks.
        patience_s: Seconds that a message waits for an engine before it goes to the backlog; measured when left out.
        checksum: ``auto`` (across hosts), ``always`` or ``never``.
        arena_max_bytes: Shared memory for engines of this host, at most; 0: TCP.
        spool: Folder where messages are kept until they are safe, so that the next connector of the stream with this
            folder sends what this one could not; none unless the settings name one.
        spool_max_bytes: What it may hold; then :meth:`send` blocks.
        spool_sync: Wait in :meth:`send` until the message is on stable storage: then it survives the end of the
            machine, without it that of the process.
        client: Asks the master, in place of a client made from ``master`` and ``token``.
        keeps_outcomes: Without, what becomes of a message after it is safe is neither remembered nor raised, and
            there is no spool.
        tls: What to show and whom to believe over TLS, in place of what the settings say.
        settings: The settings file, in place of the one that is usually looked for.
        asks_first: Without, the first send does not wait for the master either; whoever waits hears what it refuses.

    Raises:
        InvalidInput: a name or setting cannot be used.
        NotAllowed: there is no token.
    """

    def __init__(
        self,
        stream: str,
        *,
        master: str | None = None,
        token: str | None = None,
        byte_budget_bytes: int | None = None,
        patience_s: float | None = None,
        checksum: str | None = None,
        arena_max_bytes: int | None = None,
        spool: Path | str | None = None,
        spool_max_bytes: int | None = None,
        spool_sync: bool | None = None,
        client: LeaseClient | None = None,
        keeps_outcomes: bool = True,
        asks_first: bool = True,
        tls: Tls | None = None,
        settings: Path | str | None = None,
    ) -> None:
        self.stream = check_name("stream", stream)
        self.source = f"s-{os.urandom(6).hex()}"
        flags = {
            "master.url": master,
            "connector.byte_budget_bytes": byte_budget_bytes,
            "connector.patience_s": patience_s,
            "connector.checksum": checksum,
            "connector.arena_max_bytes": arena_max_bytes,
            "connector.spool_folder": spool,
            "connector.spool_max_bytes": spool_max_bytes,
            "connector.spool_sync": spool_sync,
        }
        values, client, credentials = resolved(settings, flags, token, client, tls)
        self._process = this_process[0]
        self._opening = threading.RLock()
        self._is_open = False
        self._asks_first = asks_first
        self._spool: Spool | None = None
        if values.spool_folder is not None and keeps_outcomes:
            self._spool = Spool(
                values.spool_folder, stream, max_bytes=values.spool_max_bytes, is_synced=values.spool_sync
            )
        self._slots = ArenaSlots(values.arena_max_bytes, values.byte_budget_bytes)
        dispatch = Dispatch(values.byte_budget_bytes, values.patience_s)
        settlement = Settlement(self._spool, keeps_outcomes=keeps_outcomes)
        self._exchange = Exchange(dispatch, self.source, settlement)
        self._outgoing = Outgoing(self, self._exchange, self._spool, knows_ids=keeps_outcomes)
        settlement.on_rejected = self._outgoing.forget
        self._leasing = Leasing(
            self._exchange, client, self._slots, values.checksum, credentials, stream=stream, source=self.source
        )
        self._exchange.on_wanted = self._leasing.kick

    def __repr__(self) -> str:
        state = "closed" if self._exchange.is_closed else "open" if self._is_open else "not open yet"
        return f"<StreamConnector {self.stream!r} {state}: {self._exchange.tally!r}>"

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.close()
            return
        try:
            spooled = self.close(CLOSE_WITHIN_S if isinstance(error, Exception) else INTERRUPTED_WITHIN_S)
            if self._spool is not None and spooled:
                error.add_note(f"{spooled} messages stay in the spool {self._spool.folder} for the next connector.")
        except HarmonicIOError as trouble:
            error.add_note(str(trouble))

    def _open(self) -> None:
        self._check_process()
        with self._opening:
            if self._is_open or self._exchange.is_closed:
                return
            self._outgoing.restore()
            self._leasing.start(asks_first=self._asks_first)
            self._exchange.pump.start()
            self._is_open = True

    def close(self, timeout_s: float = CLOSE_WITHIN_S) -> int:
        """Wait until every message is safe, then end all threads and connections.

        Args:
            timeout_s: Seconds to wait at most.

        Returns:
            How many messages stay in the spool, 0 without one; the log says where. The next connector sends them.
            Whoever closes it while another thread does, or later, waits until that is done, and gets 0.

        Raises:
            UndeliveredError: there is no spool, and some were not safe in time; it names their ids.
            MessageRejected: no receiver can take a message, and nobody has heard of it yet.
        """
        self._check_process()
        is_open = self._is_open and not self._exchange.is_closed
        if not is_open:
            self._leasing.cut()  # Another thread may just be opening it, which waits for the master.
        try:
            if is_open:
                self._exchange.hurry()
                self._wait_to_close(timeout_s)
            reason = self._leasing.trouble
        except HarmonicIOError as error:
            reason = error.text
        finally:
            undelivered, spooled = self._end()
        if self._spool is not None and spooled:
            text = "%d messages of stream %r are not safe; they stay in the spool %s for the next connector. %s"
            _log.warning(text, spooled, self.stream, self._spool.folder, reason)
        elif undelivered:
            ids = [parcel.delivery.message_id for parcel in undelivered]
            raise UndeliveredError(
                f"{len(ids)} messages of stream {self.stream!r} were not safe when the connector closed; "
                f"the first is {ids[0]!r}. {reason}".rstrip(),
                message_ids=ids,
                hint="Send them again, with message_id= so that a second copy is recognised.",
            )
        self._raise_unheard(DeliveryState.REJECTED)
        return spooled

    def _end(self) -> tuple[list[Parcel], int]:
        """End all there is; return what is not safe, and how many messages stay in the spool, if nobody did before."""
        undelivered = self._exchange.end()
        with self._opening:  # Else what another thread is just opening would be left open.
            if undelivered is None:
                return [], 0
            self._leasing.close()
            self._exchange.pump.close()
            for parcel in undelivered:
                parcel.let_go()
            self._slots.close()
            self._exchange.tidy()
            self._outgoing.close()
            return undelivered, 0 if self._spool is None else self._spool.close()

    def _wait_to_close(self, timeout_s: float) -> None:
        if not self._exchange.wait_until_safe(min(timeout_s, TELL_AFTER_S)) and timeout_s > TELL_AFTER_S:
            left_s = timeout_s - TELL_AFTER_S
            text = f"{self._exchange.progress()[0]} messages of stream {self.stream!r} are not safe yet; closing waits"
            _log.warning("%s %.0f s more. %s", text, left_s, self._leasing.trouble)
            self._exchange.wait_until_safe(left_s)

    # ── sending ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def send(
        self,
        payload: Any,
        *,
        metadata: Mapping[str, Any] | None = None,
        priority: int = 0,
        message_id: str | None = None,
        borrow: bool = False,
    ) -> Delivery:
        """Send one message; returns at once unless the byte budget is used up.

        Args:
            payload: Bytes, or any object with a contiguous buffer (a numpy array, for example), or an allocation.
            metadata: None, bool, int, float, str, bytes, lists and dicts with text keys; at most 64 KiB packed.
            priority: Larger goes first where messages wait, -32768 to 32767.
            message_id: The source's own id, unique in the stream, so that a repeated send is recognised.
            borrow: Do not copy a writable buffer; it must not change before ``delivery.released``.

        Raises:
            InvalidInput: something of it cannot be sent.
            NotFound, NotAllowed: the stream does not exist, or this source may not send to it.
            MessageRejected: the id stands for other bytes already.
            StorageError: the spool cannot keep it, so it is not sent.
        """
        self._check_process()
        if type(payload) is not bytes and type(payload) is not Allocation:
            payload = buffer_payload(payload, is_borrowed=borrow)
        if not self._is_open:
            check_arguments(metadata, priority)
            self._open()
        if type(payload) is Allocation:
            return self._outgoing.send_allocated(payload, metadata, priority, message_id)
        return self._outgoing.send(payload, metadata, priority, message_id)

    def allocate(self, size_bytes: int) -> Allocation:
        """Return memory for one message, which engines of this host then find where it was written.

        Write into its ``view``, and :meth:`send` it: nothing is copied on the way. It never waits: where there is no
        room in shared memory, it is ordinary memory, and is sent like that.

        Raises:
            InvalidInput: no message can have that size.
        """
        self._check_process()
        if not 0 <= size_bytes <= MAX_MESSAGE_BYTES:
            raise InvalidInput(
                f"No message has {size_bytes} bytes.", hint=f"Use a number from 0 to {MAX_MESSAGE_BYTES}."
            )
        return Allocation(self._slots, size_bytes)

    def send_file(
        self,
        path: Path | str,
        *,
        metadata: Mapping[str, Any] | None = None,
        priority: int = 0,
        message_id: str | None = None,
    ) -> Delivery:
        """Send the content of a file, of which only a piece at a time is in memory.

        Arguments and errors are those of :meth:`send`. The file may be removed, but must not change, until the delivery
        is safe; with a spool, which has the file's name instead of a copy of it, it must stay, too.
        """
        self._check_process()
        payload = file_payload(path, is_spooled=self._spool is not None)
        if not self._is_open:
            check_arguments(metadata, priority)
            self._open()
        return self._outgoing.send(payload, metadata, priority, message_id)

    def send_many(self, payloads: Iterable[Any], *, progress: bool = False, **options: Any) -> Iterator[Delivery]:
        """Send each payload and yield its delivery; a payload is taken when the one before has been dealt with.

        Args:
            payloads: As for :meth:`send`.
            progress: Show a progress bar on standard error.
            options: As for :meth:`send`, the same for all.
        """
        total = len(payloads) if isinstance(payloads, Sized) else None
        with Progress("sent", total, is_shown=progress) as shown:
            for payload in payloads:
                yield self.send(payload, **options)
                shown.advance()

    # ── waiting ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def flush(self, until: Level = "processed", timeout_s: float | None = None) -> None:
        """Wait until every message is safe, or processed.

        Args:
            until: ``safe``: processed by an engine or stored by the master; ``processed``: its final outcome is known.
            timeout_s: Seconds to wait at most; without it, as long as it takes.

        Raises:
            OutcomeTimeout: it took longer, or the connector was closed before.
            MessageRejected: no receiver can take a message, and nobody has heard of it yet.
            HandlerFailed, OutcomeExpired: likewise, with ``processed``: a handler failed, or nobody knows.
        """
        self._check_process()
        if until not in ("safe", "processed"):
            raise InvalidInput(f"One cannot flush until {until!r:.40}.", hint="Use 'safe' or 'processed'.")
        if not self._is_open:
            return
        if until == "safe":
            is_done = self._exchange.wait_until_safe(timeout_s)
            self._raise_unheard(DeliveryState.REJECTED)
        else:
            is_done = self._exchange.wait_until_processed(timeout_s)
            self._raise_unheard(*_FAILED)
            self._raise_forgotten()
        if not is_done:
            unsafe, unknown = self._exchange.progress()
            text = f"{unsafe} messages are not safe, {unknown} stored ones are not known to be processed"
            if self._exchange.is_closed:
                raise OutcomeTimeout(f"{text}, and the connector is closed.", hint="Flush before it is closed.")
            raise OutcomeTimeout(f"{text} after {timeout_s} s.", hint=self._leasing.trouble)

    def wait_until_safe(self, deliveries: Iterable[Delivery], timeout_s: float | None = None) -> bool:
        """Wait until each of these is safe or rejected for good; return whether that was so in time.

        Raises:
            NotFound, NotAllowed: the master does not let this source send to the stream any more.
        """
        self._check_process()
        return self._exchange.wait_until_safe(timeout_s, deliveries)

    def await_outcome(self, delivery: Delivery, timeout_s: float | None) -> None:
        """Wait for the final outcome of a delivery; :meth:`Delivery.result` does."""
        self._check_process()
        self._exchange.await_outcome(delivery, timeout_s)

    def figures(self) -> Figures:
        """Return what this connector has done so far."""
        return self._exchange.figures(self._leasing.lease_requests)

    @property
    def stranded_s(self) -> float:
        """Seconds for which neither the master nor an engine could be reached; by any thread."""
        return 0.0 if self._exchange.has_connections else self._leasing.away_s

    @property
    def unreadable_s(self) -> float:
        """Seconds for which nothing that is left could be read; by any thread."""
        return self._exchange.unreadable_s

    @property
    def spool_trouble(self) -> str:
        """What somebody before left in the spool and can never be sent, and what to do; empty when there is nothing."""
        return "" if self._spool is None else self._spool.trouble

    def _raise_unheard(self, *states: DeliveryState) -> None:
        """Raise the first failure that nobody has awaited; all of them have been logged."""
        unheard = self._exchange.take_unheard(*states)
        error = unheard[0].error() if unheard else None
        if error is not None:
            if len(unheard) > 1:
                error.hint = f"{len(unheard)} messages failed in all; the log names them. {error.hint}".strip()
            raise error

    def _raise_forgotten(self) -> None:
        if forgotten := self._exchange.take_forgotten():
            raise OutcomeExpired(
                f"What became of {forgotten} stored messages is not known: they were too many to be remembered.",
                hint="Call flush more often, or look at the backlog and the dead letters.",
            )

    def _check_process(self) -> None:
        if self._process is not this_process[0]:
            text = "This connector belongs to another process."
            raise InvalidInput(text, hint="Open a connector after forking, not before.")
