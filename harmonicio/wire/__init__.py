"""The data-plane protocol without I/O: bytes in, events out; ``docs/protocol.md`` is its description.

Nothing here knows a socket, a thread or a clock. :class:`~harmonicio.wire.connection.Connection` joins the parts.
"""
