"""Connections as the product uses them: :mod:`harmonicio.transport.tcp` and ``channel`` over the simulated network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from harmonicio.core.errors import ConnectionEnded, Unavailable
from harmonicio.core.lease import Address
from simulation.loop import check_alive, current
from simulation.network import RECEIVE_SLICE_S, Endpoint, Listener, Network


class Channel:
    """:class:`harmonicio.transport.channel.Channel`."""

    has_bytes_kept = False

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.peer = endpoint.peer_name
        self.is_closed = False

    def __repr__(self) -> str:
        return f"<Channel to {self.peer} over {self._endpoint!r}>"

    def fileno(self) -> Endpoint:
        if self.is_closed:
            raise ValueError("closed")
        return self._endpoint

    @property
    def has_bytes_waiting(self) -> bool:
        return self._endpoint.is_readable()

    def receive_into(self, buffer: memoryview) -> int | None:
        check_alive()
        if not self._endpoint.is_readable():
            self._endpoint.wait(RECEIVE_SLICE_S)
        return self.try_receive(buffer)

    def receive_exactly(
        self, buffer: memoryview, *, on_progress: Callable[[int], None] | None = None, polling: object = None
    ) -> int:
        filled, size = 0, len(buffer)
        loop = current().process.loop
        judged_at, judged = loop.now, 0
        while filled < size:
            count = self.receive_into(buffer[filled:])
            if count == 0:
                break
            filled += count or 0
            if on_progress is not None and count:
                on_progress(filled)
            if loop.now - judged_at > 30.0:
                if filled - judged < 64_000 * 30:
                    raise ConnectionEnded(f"The transfer with {self.peer} was too slow and was cut.")
                judged_at, judged = loop.now, filled
        return filled

    def send_all(self, buffers: Sequence[Any]) -> None:
        data = b"".join(buffers)
        loop = current().process.loop
        begun_at, at = loop.now, 0
        while at < len(data):
            sent = self._send(data[at:] if at else data)
            at += sent
            if not sent:
                self._endpoint.wait(5.0)
                if loop.now - begun_at > 30.0:
                    raise ConnectionEnded(f"The transfer with {self.peer} was too slow and was cut.")

    def try_send(self, buffers: Sequence[memoryview]) -> int:
        return self._send(b"".join(buffers))

    def _send(self, data: bytes) -> int:
        check_alive()
        endpoint = self._endpoint
        if endpoint.trouble or endpoint.is_fin_sent or endpoint.is_closed:
            raise ConnectionEnded(f"The connection to {self.peer} broke: {endpoint.trouble or 'Broken pipe'}.")
        count = min(endpoint.room_bytes(), len(data))
        if count > 0:
            endpoint.send(data[:count] if count < len(data) else data)
            return count
        return 0

    def try_receive(self, buffer: memoryview) -> int | None:
        check_alive()
        try:
            return self._endpoint.receive(buffer)
        except OSError as error:
            raise ConnectionEnded(f"The connection to {self.peer} broke: {error}.") from None

    @staticmethod
    def take_descriptor() -> None:
        """Over a network none comes along."""

    def shutdown(self) -> None:
        check_alive()
        if not self.is_closed:
            self._endpoint.shutdown()

    def finish_sending(self) -> None:
        check_alive()
        self._endpoint.finish_sending()

    def discard_briefly(self) -> None:
        scrap = memoryview(bytearray(64 * 1024))
        until = current().process.loop.now + 0.25
        try:
            while current().process.loop.now < until and self.receive_into(scrap) != 0:
                pass
        except ConnectionEnded:
            return

    def discard_what_is_here(self, most_bytes: int) -> None:
        try:
            self.try_receive(memoryview(bytearray(max(0, most_bytes))))
        except ConnectionEnded:
            return

    def close(self) -> None:
        check_alive()
        self.is_closed = True
        self._endpoint.close()


class Tcp:
    """:mod:`harmonicio.transport.tcp`."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def dial(
        self,
        address: Address,
        *,
        timeout_s: float,
        slow_after_s: float = 30.0,
        is_wanted: Callable[[], bool] = bool,
        tls: None = None,
    ) -> Channel:
        try:
            return Channel(self._network.dial(address, timeout_s))
        except OSError as error:
            raise ConnectionEnded(f"No data connection to {address}: {error}.") from None

    def listen(self, host: str, port: int, *, device: str = "") -> Listener:
        return self._network.listen(check_alive(), port)

    @staticmethod
    def accept(listener: Listener, *, slow_after_s: float = 30.0, tls: None = None) -> Channel | None:
        check_alive()
        endpoint = listener.accept()
        return None if endpoint is None else Channel(endpoint)


class Unix:
    """:mod:`harmonicio.transport.unix`: the hosts here have no such sockets, and all goes over the network."""

    @staticmethod
    def listen(path: Path) -> NoReturn:
        raise Unavailable(f"Cannot listen on {path}: simulated hosts have no UNIX sockets.")


# ── selectors, poll and socketpair ───────────────────────────────────────────────────────────────────────────────────
