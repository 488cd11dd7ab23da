"""Channels over TLS 1.3: a channel that seals what its socket sends, and opens what it receives.

      caller's buffers ──seal──► leaving ──send──► socket ──recv──► arrived ──open──► caller's buffer
                     (16 KiB records)                                      (what is too much for it is kept)

The TLS object works in memory and the socket stays an ordinary one, because Python's SSL sockets have neither
``sendmsg`` nor flags, cost two system calls for each record of 16 KiB where this needs one for several, and repeat a
write that must wait only with the same bytes. Here TLS never waits: what is sealed and has not been sent goes first.

- One lock is held around every call of the TLS object and its two memories, and never while waiting: one thread reads
  while another sends.
- Sealed bytes are counted as sent when the socket has taken all of a piece; until then, whoever sends goes on with the
  same bytes, as after any write that was not finished.
- A selector does not see what has been read from the socket and not been asked for: ``has_bytes_kept`` tells.
- The handshake of a listener happens in its receives, as bytes arrive: so it holds no thread up that its peer does not
  feed, and ends with the greeting's deadline. Who dials calls :meth:`TlsChannel.secure`.
- The end of the stream needs no farewell of TLS: the protocol says GOODBYE, and no frame ends early unseen.
"""

from __future__ import annotations

import functools
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from harmonicio.core.certificates import NO_TLS, NOT_SHOWN, SHOW_ONE, WHAT_TO_DO, TlsIdentity
from harmonicio.core.errors import ConfigurationError, ConnectionEnded, HarmonicIOError, RemoteProtocolError
from harmonicio.transport.channel import AT_ONCE, DONTWAIT, NOSIGNAL, SLOW_AFTER_S, Buffer, Channel, without_prefix
from harmonicio.wire.frames import MAGIC

#: Plain bytes of one record of TLS, and what it takes on the wire at most.
RECORD_BYTES, SEALED_RECORD_BYTES = 16 * 1024, 16 * 1024 + 256
#: So much is sealed, and read from the socket, at once: a connection keeps its two memories at about this size.
PIECE_BYTES = 64 * 1024

_USE_PEM = "Use PEM files: tls.certificate with its chain, tls.key without a password, tls.authority."

_own = threading.local()


class TlsChannel(Channel):
    """One end of a byte stream over TLS.

    Args:
        sock: A connected stream socket; the channel owns it from now on.
        peer: What to call the other end in error texts.
        context: Certificates or whom to believe (:func:`listening_context`, :func:`dialling_context`); None: whom
            this host believes.
        host: Whom the other end's certificate must name; None where this end was dialled.

    Raises:
        ValueError: no certificate can name such a host; the socket is still the caller's.
    """

    def __init__(
        self,
        sock: socket.socket,
        peer: str,
        context: ssl.SSLContext | None,
        host: str | None = None,
        *,
        slow_after_s: float = SLOW_AFTER_S,
    ) -> None:
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = (context or _host_context()).wrap_bio(
            self._arrived, self._leaving, server_side=host is None, server_hostname=host
        )
        super().__init__(sock, peer, slow_after_s=slow_after_s)
        self._is_listener = host is None
        self._cipher = threading.Lock()
        self._is_secured = False
        self._is_plain = False
        self._has_kept = False
        self._opening = b""
        self._sealed = memoryview(b"")
        self._sealed_for = 0

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "secured" if self._is_secured else "not secured yet"
        return f"<TlsChannel to {self.peer}, {state}>"

    @property
    def has_bytes_kept(self) -> bool:
        return self._has_kept

    @property
    def has_bytes_waiting(self) -> bool:
        return self._has_kept or super().has_bytes_waiting

    # ── the handshake ────────────────────────────────────────────────────────────────────────────────────────────────

    def secure(self, *, until: float, is_wanted: Callable[[], bool] = lambda: True) -> None:
        self._shake_hands()
        while not self._is_secured:
            if time.monotonic() > until or not is_wanted():
                raise ConnectionEnded(f"{self.peer} did not finish the TLS handshake in time.")
            count = self._read(SEALED_RECORD_BYTES, 0)
            if count == 0:
                raise ConnectionEnded(f"{self.peer} ended the connection during the TLS handshake.")
            if count is not None:
                self._shake_hands()

    def _shake_hands(self) -> None:
        """Go on as far as what has arrived allows."""
        failure: HarmonicIOError | None = None
        with self._cipher:
            try:
                self._tls.do_handshake()
                self._is_secured = True
                self._has_kept = self._arrived.pending > 0
            except ssl.SSLWantReadError:
                pass  # The rest of it comes.
            except ssl.SSLError as error:
                failure = self._failed(error)
            flight = self._leaving.read()
        if failure is not None:
            with suppress(ConnectionEnded):  # The peer has gone, and need not be told.
                self._send_flight(flight)
            raise failure
        self._send_flight(flight)

    def _send_flight(self, flight: bytes) -> None:
        """Send what TLS says before it is secure; the socket has room for it, because nothing was sent before."""
        if flight and super()._send_some([memoryview(flight)]) < len(flight):
            raise ConnectionEnded(f"{self.peer} does not read the TLS handshake.")

    def _failed(self, error: ssl.SSLError) -> HarmonicIOError:
        """Return why there is no handshake. A listener's log has it, too: the peer may not say it to anybody."""
        if self._opening == MAGIC:
            self._is_plain = self._is_listener
            if self._is_listener:
                return RemoteProtocolError("This port speaks TLS only.", hint="Dial it over TLS, as the master says.")
            return ConnectionEnded(f"{self.peer} does not speak TLS.", hint="Set tls.certificate and tls.key there.")
        text = f"There was no TLS handshake with {self.peer}: {_reason(error)}."
        hint = "Both ends must speak TLS 1.3, and the dialler must believe in the authority of the certificate."
        if isinstance(error, ssl.SSLCertVerificationError):
            text = f"The certificate of {self.peer} is not believed: {error.verify_message.rstrip('.')}."
            hint = WHAT_TO_DO.get(error.verify_code, "Use another certificate.")
        return (RemoteProtocolError if self._is_listener else ConnectionEnded)(text, hint=hint)

    # ── reading: one thread ──────────────────────────────────────────────────────────────────────────────────────────

    def receive_into(self, buffer: memoryview) -> int | None:
        return self._receive(buffer, 0)

    def try_receive(self, buffer: memoryview) -> int | None:
        return self._receive(buffer, DONTWAIT)

    def _receive_most(self, buffer: memoryview) -> int | None:
        return self._receive(buffer, 0)

    def _receive(self, buffer: memoryview, flags: int) -> int | None:
        """Open what is here; read from the socket while that does not fill the buffer."""
        filled = self._open(buffer) if self._has_kept else 0
        asked = min(max(len(buffer), SEALED_RECORD_BYTES), PIECE_BYTES)
        while filled < len(buffer):
            count = self._read(asked, DONTWAIT if filled else flags)
            if not count:
                return filled or count
            if self._is_secured or self._is_secured_now():
                filled += self._open(buffer[filled:])
            if count < asked:
                break
        return filled or None

    def _is_secured_now(self) -> bool:
        self._shake_hands()
        return self._is_secured

    def _read(self, size: int, flags: int) -> int | None:
        """Read from the socket into memory; return how many bytes, 0 at the end, None when nothing is there."""
        scrap = _scrap()
        try:
            count = self._socket.recv_into(scrap[:size], 0, flags)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise self._broken(error) from None
        if not self._is_secured and len(self._opening) < len(MAGIC):
            self._opening = (self._opening + bytes(scrap[: min(count, len(MAGIC))]))[: len(MAGIC)]
        with self._cipher:
            self._arrived.write(scrap[:count])
        return count

    def _open(self, buffer: memoryview) -> int:
        """Open into the buffer what has arrived; return how many bytes that was."""
        filled, size = 0, len(buffer)
        self._has_kept = True
        with self._cipher:
            try:
                while filled < size:
                    count = self._tls.read(size - filled, buffer[filled:])
                    filled += count  # type: ignore[operator]
                    if not count:
                        self._has_kept = False
                        break  # The peer has said the farewell of TLS; what the socket says comes next.
            except ssl.SSLWantReadError:
                self._has_kept = False
            except ssl.SSLError as error:
                raise self._broken(error) from None
        return filled

    # ── writing: one thread at a time ────────────────────────────────────────────────────────────────────────────────

    def try_send(self, buffers: Sequence[memoryview]) -> int:
        return self._send(buffers, AT_ONCE)

    def _send_some(self, buffers: Sequence[memoryview]) -> int:
        return self._send(buffers, NOSIGNAL)

    def _send(self, buffers: Sequence[memoryview], flags: int) -> int:
        if self._is_plain:
            return super()._send_some(buffers)  # Why this peer is refused; nothing else was read of it, or is sent.
        if not self._is_secured:
            raise ConnectionEnded(f"Nothing is sent to {self.peer} before the TLS handshake.")
        sent, most = 0, 16 * PIECE_BYTES
        try:
            while buffers and sent < most:
                if not self._sealed:
                    self._seal(buffers)
                self._sealed = self._sealed[self._socket.send(self._sealed, flags) :]
                if self._sealed:
                    break
                sent += self._sealed_for
                buffers = without_prefix(buffers, self._sealed_for)
        except (BlockingIOError, InterruptedError):
            return sent
        except OSError as error:
            raise self._broken(error) from None
        return sent

    def _seal(self, buffers: Sequence[memoryview]) -> None:
        """Seal the first bytes of the buffers: what is small together, what is large from where it lies."""
        self._sealed_for = 0
        with self._cipher:
            while buffers and self._sealed_for < PIECE_BYTES:
                piece = _first_piece(buffers, PIECE_BYTES - self._sealed_for)
                self._sealed_for += self._tls.write(piece)
                buffers = without_prefix(buffers, len(piece))
            self._sealed = memoryview(self._leaving.read())

    def _broken(self, error: OSError) -> ConnectionEnded:
        if isinstance(error, ssl.SSLError):
            hint = SHOW_ONE if error.reason in NOT_SHOWN else ""
            return ConnectionEnded(f"The TLS connection to {self.peer} broke: {_reason(error)}.", hint=hint)
        return super()._broken(error)


def _first_piece(buffers: Sequence[memoryview], most: int) -> Buffer:
    """Return the first bytes: of a large buffer as they lie there, else of several, joined, at most one record."""
    first = buffers[0]
    if len(first) >= RECORD_BYTES:
        return first[:most]
    room, joined = min(RECORD_BYTES, most), []
    for view in buffers:
        joined.append(view[:room])
        room -= len(joined[-1])
        if not room:
            break
    return b"".join(joined)


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


def _scrap() -> memoryview:
    """Return this thread's memory for what has been read and not been given to a TLS object, an instant later."""
    view: memoryview | None = getattr(_own, "view", None)
    if view is None:
        view = _own.view = memoryview(bytearray(PIECE_BYTES))
    return view


# ── certificates, and whom to believe ────────────────────────────────────────────────────────────────────────────────


def listening_context(identity: TlsIdentity) -> ssl.SSLContext:
    """Return how a listener shakes hands.

    Raises:
        ConfigurationError: certificate, key or authority cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # Nobody resumes a session, and unread tickets would make a close a reset.
    _show(context, identity)
    if identity.is_mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        with _believing():
            context.load_verify_locations(cadata=identity.authority)
    return context


def dialling_context(identity: TlsIdentity = NO_TLS) -> ssl.SSLContext:
    """Return how a dialler shakes hands: it believes the authority, and shows the certificate to who asks for one.

    Raises:
        ConfigurationError: certificate, key or authority cannot be used.
    """
    with _believing():
        context = ssl.create_default_context(cadata=identity.authority or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if identity.certificate:
        _show(context, identity)
    return context


def _show(context: ssl.SSLContext, identity: TlsIdentity) -> None:
    try:
        with _file_of(identity.certificate) as certificate, _file_of(identity.key) as key:
            context.load_cert_chain(certificate, key, password=_refuse_password)
    except ConfigurationError:
        raise
    except (ssl.SSLError, ValueError) as error:
        reason = _reason(error) if isinstance(error, ssl.SSLError) and error.reason else "it is not in PEM"
        text = f"The TLS certificate and its key cannot be used: {reason}."
        raise ConfigurationError(text, hint=_USE_PEM) from None


@contextmanager
def _believing() -> Iterator[None]:
    try:
        yield
    except (ssl.SSLError, ValueError, TypeError):
        raise ConfigurationError("The TLS authority cannot be used: it is not in PEM.", hint=_USE_PEM) from None


@functools.cache
def _host_context() -> ssl.SSLContext:
    """Read the host's authorities once: they are many."""
    return dialling_context()


@contextmanager
def _file_of(pem: str) -> Iterator[str]:
    """OpenSSL reads certificates and keys from files: this one is in memory, and nobody else's."""
    descriptor = os.memfd_create("pem")
    try:
        with os.fdopen(descriptor, "w", closefd=False) as file:
            file.write(pem)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _refuse_password() -> str:
    raise ConfigurationError("The TLS key has a password.", hint=_USE_PEM)
