"""Data ports and connections to them, closed at the end of each test."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import pytest

from benches.data_port import Ports, Receptionist
from harmonicio.core.lease import Address
from harmonicio.transport import tcp
from harmonicio.transport.data_port import DataPort
from harmonicio.transport.link import Link
from harmonicio.wire.events import (
    Hello,
    Role,
)


@pytest.fixture
def receptionist() -> Receptionist:
    return Receptionist()


@pytest.fixture
def ports(receptionist: Receptionist) -> Iterator[Ports]:
    """Open ports that are closed at the end."""
    with contextlib.ExitStack() as stack:

        def open_port(**settings: object) -> DataPort:
            port = DataPort("127.0.0.1", 0, receptionist, name="test", **settings)  # type: ignore[arg-type]
            port.start()
            stack.callback(port.close)
            return port

        yield open_port


@pytest.fixture
def dialled() -> Iterator[Callable[..., Link]]:
    """Dial ports as a connector that has been greeted; the links are closed at the end."""
    with contextlib.ExitStack() as stack:

        def dial(address: Address, stream: str = "images") -> Link:
            link = Link(tcp.dial(address, timeout_s=5), Role.CONNECTOR)
            stack.callback(link.close)
            link.greet(Hello(Role.CONNECTOR, stream=stream), within_s=5)
            return link

        yield dial


@pytest.fixture
def raw() -> Iterator[Callable[[Address], socket.socket]]:
    """Connect without any protocol."""
    with contextlib.ExitStack() as stack:
        yield lambda address: stack.enter_context(socket.create_connection((address.host, address.port), timeout=10))
