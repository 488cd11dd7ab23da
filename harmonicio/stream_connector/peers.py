"""One open connection of the connector: writes what its lane was given, without ever waiting for the other side.

Any thread may :meth:`Peer.flush`; one writes at a time. What the kernel does not take stays here, and the I/O thread
goes on when there is room again. Small messages leave many in one call, large ones as they lie in the caller's memory,
files piece by piece:

      lane.outbox ──► gathered: [prefix, payload, prefix, payload …] ──► kernel
                  ├─► shared memory: the payload is copied or read there, or lies there; written is only where
                  ├─► file: prefix and pieces, through one kept buffer ──► kernel
                  └─► cannot be read: stuck, until the owner has taken it, and what is behind it, back

It becomes stuck only under the lock of who writes, and nobody who has that lock writes while it is: so taking back has
the outbox alone. Only who has found it out is told to do it.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from harmonicio.core.buffers import Payload
from harmonicio.core.errors import ConnectionEnded, InvalidInput
from harmonicio.stream_connector.allocation import is_plain_memory
from harmonicio.stream_connector.arena_slots import ArenaSlot, Transmissions
from harmonicio.stream_connector.lanes import Lane, Parcel
from harmonicio.stream_connector.pieces import Pieces
from harmonicio.stream_connector.sources import PayloadAway, PiecewisePayload, read_whole
from harmonicio.transport.channel import SLOW_AFTER_S, SLOW_BYTES_PER_S, without_prefix
from harmonicio.transport.link import Link
from harmonicio.wire.checksum import trailer
from harmonicio.wire.connection import message_prefix, raw_prefix
from harmonicio.wire.frames import Flag
from harmonicio.wire.metadata import read_metadata
from harmonicio.wire.sections import raw_message_id

_log = logging.getLogger(__name__)

#: What is written together is gathered up to about this size.
BATCH_BYTES = 640 * 1024
#: … and what is named together in shared memory is copied there up to about this size.
COPIED_BATCH_BYTES = 2 * 1024**2
#: Of a file as much is in memory at a time.
PIECE_BYTES = 1024**2
#: So much is written in one go, or copied into shared memory; then others have their turn.
FLUSH_BYTES = 16 * 1024**2
_DISCARD_READS = 16
_ARENA = int(Flag.ARENA)


class Written(Enum):
    """How far a flush has come."""

    ALL = "all"
    #: The kernel takes no more now.
    FULL = "full"
    #: There is more to write, and the kernel would take it.
    SOME = "some"
    #: What is to be written next cannot be read.
    STUCK = "stuck"


class Peer:
    """A link to an engine or to the master's data port, with what is still to be written.

    Args:
        checksum_flag: Flag of the checksum that both ends agreed on, 0 for none.
        transmissions: For payloads in shared memory, where both ends have mapped it.
    """

    def __init__(
        self, link: Link, lane: Lane, *, checksum_flag: int = 0, transmissions: Transmissions | None = None
    ) -> None:
        self.link = link
        self.lane = lane
        self.transmissions = transmissions
        lane.has_arena = transmissions is not None
        self.is_blocked = False
        self.is_ended = False
        self.is_stuck = False
        #: Whether the I/O thread has been told to flush.
        self.is_flush_due = False
        self._checksum_flag = checksum_flag
        self._writing = threading.Lock()
        self._controls: deque[bytes] = deque()
        self._pending: list[memoryview] = []
        self._pending_bytes = 0
        #: Into shared memory, for what is pending.
        self._copied_bytes = 0
        self._large: Parcel | None = None
        self._file: Pieces | None = None
        self._piece: memoryview | None = None
        self._written_bytes = 0
        self._judged_at = 0.0
        self._judged_bytes = 0

    def __repr__(self) -> str:
        state = "ended" if self.is_ended else "blocked" if self.is_blocked else "open"
        return f"<Peer {self.lane.name} {state}: {len(self.lane.outbox)} to write, {self.lane.credit!r}>"

    @property
    def has_unwritten(self) -> bool:
        return bool(self._pending or self._file or self.lane.outbox or self._controls)

    def was_idle_since(self, time_s: float) -> bool:
        """Whether it was, and the engine has no view any more of what it has answered."""
        return self.lane.was_idle_since(time_s) and not (self.transmissions and self.transmissions.is_held)

    def send_control(self, frame: bytes) -> None:
        """Have a frame written before the next message."""
        self._controls.append(frame)

    def flush(self) -> Written:
        """Write as much as the kernel takes, and not too much at a time.

        Returns:
            FULL or SOME to the one caller who must see to it that the rest is flushed, when the kernel takes more or at
            once, STUCK to the one who must see to it that the outbox is taken back; ALL to everybody else.

        Raises:
            ConnectionEnded: the connection broke, or what is being written cannot be read.
        """
        while self.has_unwritten and not (self.is_blocked or self.is_ended or self.is_stuck):
            if not self._writing.acquire(blocking=False):
                return Written.ALL  # Whoever writes sees what was added, because they look again after letting go.
            written: Written | None = None
            try:
                # Somebody may just have found out that it is stuck, or that the kernel takes no more.
                written = Written.ALL if self.is_stuck or self.is_blocked else self._write()
                if written is Written.FULL:
                    self.is_blocked = True  # Now: whoever comes next must not hear it, too.
            finally:
                self._writing.release()
                if written is None:
                    self.link.channel.shutdown()  # Whatever were written next would be taken for the rest of it.
            if written is not Written.ALL:
                return written
        return Written.ALL

    def unblock(self) -> None:
        """The kernel takes more."""
        self.is_blocked = False

    def check_speed(self, now: float) -> None:
        """Judge a blocked connection from time to time.

        Raises:
            ConnectionEnded: it moved less than 64 KB/s for 30 s.
        """
        if not self.is_blocked:
            self._judged_at = 0.0
        elif not self._judged_at:
            self._judged_at, self._judged_bytes = now, self._written_bytes
        elif now - self._judged_at >= SLOW_AFTER_S:
            moved = self._written_bytes - self._judged_bytes
            self._judged_at, self._judged_bytes = now, self._written_bytes
            if moved < SLOW_BYTES_PER_S * SLOW_AFTER_S:
                raise ConnectionEnded(f"{self.lane.name} took {moved} bytes in {SLOW_AFTER_S:.0f} s and was cut.")

    # ── writing: one thread at a time ────────────────────────────────────────────────────────────────────────────────

    def _write(self) -> Written:
        left = FLUSH_BYTES
        try:
            while not self.is_ended and (self._pending or self._gather()):
                count = self.link.channel.try_send(self._pending)
                self._written_bytes += count
                self._pending_bytes -= count
                left -= count + self._copied_bytes
                self._copied_bytes = 0
                if not self._pending_bytes:
                    self._pending = []
                    self._note_sent()
                    if not self.has_unwritten:
                        break
                elif not count:
                    return Written.FULL
                else:
                    self._pending = without_prefix(self._pending, count)
                if left <= 0:
                    return Written.SOME if self.has_unwritten else Written.ALL
        except ConnectionEnded as error:
            self._note_unreadable(error)
            raise
        return Written.ALL if not self.is_stuck else Written.STUCK

    def _gather(self) -> bool:
        """Make ready what is written next; return whether there is something."""
        if self._file is not None:
            self._gather_piece(self._file)
            return True
        lane, outbox, size, most = self.lane, self.lane.outbox, 0, BATCH_BYTES
        gathered: list[memoryview] = []
        joined: list[Payload] = self._take_controls()
        while outbox and size < most and self._copied_bytes < COPIED_BATCH_BYTES:
            try:
                parcel = outbox[0]
                payload = parcel.payload
                if type(payload) is not bytes:
                    payload = self._payload(parcel)
                outbox.popleft()
            except IndexError:
                break  # The connector closes, and has just withdrawn what was left.
            except InvalidInput as error:
                self._note_stuck(parcel, error, is_first=not (joined or gathered))
                break
            if self.transmissions is not None and (placed := self._placed(self.transmissions, parcel, payload)):
                joined.append(placed)
                size += len(placed)
                continue
            prefix = self._prefix(parcel, self._checksum_flag)
            joined.append(prefix)
            lane.begun, size = lane.begun + 1, size + len(prefix) + parcel.size_bytes
            if parcel.is_large:
                self._large = parcel
            if parcel.is_small:
                joined.append(payload)
            elif isinstance(payload, Pieces):
                gathered += [_together(joined), *self._taken_piece(payload)]
                break  # There is memory for one piece at a time.
            else:
                gathered += [_together(joined), memoryview(payload)]
            if self._checksum_flag:
                joined.append(trailer(self._checksum_flag, payload))
        if joined:
            gathered.append(_together(joined))
        self._make_ready(gathered)
        return bool(gathered)

    def _take_controls(self) -> list[Payload]:
        taken: list[Payload] = []
        while self._controls:
            taken.append(self._controls.popleft())
        return taken

    def _note_stuck(self, parcel: Parcel, error: InvalidInput, *, is_first: bool) -> None:
        if is_first:  # Else it is tried once more when it is the first to be written.
            _note_trouble(parcel, error)
            self.is_stuck = True

    def _make_ready(self, pending: list[memoryview]) -> None:
        self._pending = pending
        self._pending_bytes = sum(map(len, pending))

    def _placed(
        self, transmissions: Transmissions, parcel: Parcel, payload: Payload | Pieces | ArenaSlot
    ) -> bytes | None:
        """Return all that is written of a message whose payload is in shared memory; None where it cannot be there."""
        slot = parcel.slot
        if slot is None:
            slot = payload if isinstance(payload, ArenaSlot) else self._copied(transmissions, parcel, payload)
            if slot is None:
                return None
            self._copied_bytes += parcel.size_bytes
        if parcel.is_large:
            parcel.sent_at = time.monotonic()
        place = transmissions.place(self.lane.begun, slot)
        self.lane.begun += 1
        return self._prefix(parcel, _ARENA) + place

    def _copied(self, transmissions: Transmissions, parcel: Parcel, payload: Payload | Pieces) -> ArenaSlot | None:
        if parcel.is_small or isinstance(payload, Pieces):
            return None
        is_memory = type(payload) is bytes or is_plain_memory(payload)
        return transmissions.copy(payload, parcel.size_bytes) if is_memory else None

    def _payload(self, parcel: Parcel) -> Payload | Pieces | ArenaSlot:
        """Return what is written in one piece, or piece by piece, or where in shared memory it was read to."""
        payload: Payload | PiecewisePayload = parcel.payload
        if isinstance(payload, (bytes, memoryview)):
            return payload
        reader = payload.reader()
        if not parcel.is_small:
            if self.transmissions is not None and parcel.size_bytes <= FLUSH_BYTES:
                slot = self.transmissions.read(reader)
                if slot is not None:
                    parcel.is_readable, parcel.absences = True, 0
                    return slot
            pieces = Pieces(parcel, reader, self._checksum_flag)
            pieces.read_next(self._piece_memory())  # As long as nothing of it is written, others need not suffer.
            return pieces
        content = read_whole(reader)
        parcel.is_readable, parcel.absences = True, 0
        return content

    def _gather_piece(self, file: Pieces) -> None:
        with _giving_up(file.parcel):
            file.read_next(self._piece_memory())
        self._make_ready(self._taken_piece(file))

    def _taken_piece(self, file: Pieces) -> list[memoryview]:
        self._file = None if file.is_finished else file
        return file.take()

    def _piece_memory(self) -> memoryview:
        if self._piece is None:
            self._piece = memoryview(bytearray(PIECE_BYTES))
        return self._piece

    def _prefix(self, parcel: Parcel, how: int) -> bytes:
        flags, section = parcel.flags | how, parcel.section
        if parcel.failure is None:
            raw_id = parcel.raw_id or raw_message_id(parcel.delivery.message_id)
            return raw_prefix(raw_id, parcel.size_bytes, section, parcel.priority, flags)
        metadata = read_metadata(section)
        return message_prefix(
            parcel.delivery.message_id,
            parcel.size_bytes,
            metadata=metadata,
            priority=parcel.priority,
            flags=flags,
            attempts=parcel.attempts,
            failure=parcel.failure,
        )

    def _note_sent(self) -> None:
        """The time that an engine may take starts when it has the whole message."""
        if self._large is not None and self._file is None:
            self._large.sent_at = time.monotonic()
            self._large = None

    def _note_unreadable(self, error: ConnectionEnded) -> None:
        """A borrowed buffer can be a mapped file that has become shorter: sending it again would fail again."""
        cause = error.__context__
        if not isinstance(cause, OSError) or cause.errno != errno.EFAULT or not self._pending:
            return
        for parcel in list(self.lane.in_flight.values()):
            if isinstance(parcel.payload, memoryview) and parcel.payload.obj is self._pending[0].obj:
                parcel.trouble = "Its memory cannot be read: perhaps it is a mapped file that became shorter."

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def say_goodbye(self) -> None:
        """Tell the other side that nothing follows, if nothing is half written."""
        with self._writing:
            if self._pending or self._file or self.is_ended:
                return
            try:
                self.link.channel.try_send([memoryview(self.link.connection.goodbye())])
            except ConnectionEnded:
                return  # It has gone already.
            self.link.channel.finish_sending()
            self._discard()

    def _discard(self) -> None:
        """Take what is there: closing a socket with unread bytes would take the GOODBYE back."""
        scrap = memoryview(bytearray(64 * 1024))
        try:
            for _ in range(_DISCARD_READS):
                if not self.link.channel.try_receive(scrap):
                    return
        except ConnectionEnded:
            return  # It is reset already.

    def end(self) -> None:
        """Close the connection; whoever writes at that time finds it broken."""
        self.is_ended = True
        self.link.channel.shutdown()
        with self._writing:
            self._pending, self._file, self._piece, self._large = [], None, None, None
            self.link.close()
            if self.transmissions is not None:
                self.transmissions.end()


def _together(joined: list[Payload]) -> memoryview:
    """Return these as one buffer for the kernel, and begin the next."""
    buffer = memoryview(b"".join(joined))
    joined.clear()
    return buffer


@contextmanager
def _giving_up(parcel: Parcel) -> Iterator[None]:
    """What cannot be read any further ends the connection, which waits for the rest of it."""
    try:
        yield
    except InvalidInput as error:
        _note_trouble(parcel, error)
        raise ConnectionEnded(f"The connection was given up with half a message: {error.text}") from None


def _note_trouble(parcel: Parcel, error: InvalidInput) -> None:
    """What is only away is tried again where it has a name to be found by, in the spool; all else never."""
    if isinstance(error, PayloadAway) and parcel.entry is not None:
        if not parcel.absences:
            _log.warning("%s Message %r waits until it can be.", error.text, parcel.delivery.message_id)
        parcel.is_away = True
    else:
        parcel.trouble = error.text
