"""msgpack for header sections, with explicit limits and one kind of error in each direction."""

from __future__ import annotations

from typing import Any

import msgpack

from harmonicio.core.errors import InvalidInput, RemoteProtocolError
from harmonicio.wire.frames import MAX_HEADER_BYTES

MAX_ENTRIES = 65_536


def pack(value: Any) -> bytes:
    """Return ``value`` as msgpack.

    Raises:
        InvalidInput: it holds something that is not None, bool, int, float, str, bytes, list or dict with text keys,
            or it is larger than a header section may be.
    """
    try:
        packed: bytes = msgpack.packb(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInput(
            f"A value cannot be sent: {error}.",
            hint="Use None, bool, int, float, str, bytes, lists and dicts with text keys.",
        ) from None
    if len(packed) > MAX_HEADER_BYTES:
        raise InvalidInput(
            f"A value of {len(packed)} bytes cannot be sent beside a payload.",
            hint=f"Put what is larger than {MAX_HEADER_BYTES} bytes into the payload.",
        )
    return packed


def unpack(section: bytes | bytearray | memoryview) -> Any:
    """Return the value of one header section.

    Raises:
        RemoteProtocolError: it is not exactly one msgpack value within the limits.
    """
    try:
        return msgpack.unpackb(
            section,
            raw=False,
            strict_map_key=True,
            max_str_len=MAX_HEADER_BYTES,
            max_bin_len=MAX_HEADER_BYTES,
            max_array_len=MAX_ENTRIES,
            max_map_len=MAX_ENTRIES,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException, RecursionError, TypeError) as error:
        raise RemoteProtocolError(f"A header section is not msgpack within the limits: {error!r}.") from None
