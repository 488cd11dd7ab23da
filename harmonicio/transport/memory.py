"""Channels inside one process: the twin of :mod:`harmonicio.transport.tcp` for tests."""

from __future__ import annotations

import socket

from harmonicio.transport.channel import Channel


def pair() -> tuple[Channel, Channel]:
    """Return the two ends of one byte stream."""
    ours, theirs = socket.socketpair()
    return Channel(ours, "memory:a"), Channel(theirs, "memory:b")
