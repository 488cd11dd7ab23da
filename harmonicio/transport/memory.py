"""Channels inside one process: the twin of :mod:`harmonicio.transport.tcp` for tests."""

from __future__ import annotations

import socket

from harmonicio.transport.channel import SLOW_AFTER_S, Channel


def pair(*, slow_after_s: float = SLOW_AFTER_S) -> tuple[Channel, Channel]:
    """Return the two ends of one byte stream."""
    ours, theirs = socket.socketpair()
    return (
        Channel(ours, "memory:a", slow_after_s=slow_after_s),
        Channel(theirs, "memory:b", slow_after_s=slow_after_s),
    )
