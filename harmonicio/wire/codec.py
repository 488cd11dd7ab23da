"""msgpack for header sections, with explicit limits and one kind of error in each direction.

Whatever :func:`pack` accepts, :func:`unpack` accepts too: a value that the peer would refuse is refused before it is
sent, because there it would end the connection.

A list takes its memory when its length is read, before its items are: three bytes claim half a megabyte, and lists in
lists do so a thousand times over. So nothing is made of a section that may hold long lists before all of it was found
to be there: what is made then is bounded by the section's own bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import msgpack

from harmonicio.core.errors import InvalidInput, RemoteProtocolError
from harmonicio.wire.frames import MAX_HEADER_BYTES

MAX_ENTRIES = 65_535
#: Levels of lists and maps in one section, its own included.
MAX_DEPTH = 64
#: What a frame may put around a value that a user gave.
FRAME_DEPTH = 4

_LIST_HEADER_BYTES = 3
_USABLE = "Use None, bool, int, float, str, bytes, lists and dicts with text keys."
#: No other byte opens a list or a map: counting them bounds the depth without a look at the structure.
_NOT_OPENING = bytes(byte for byte in range(256) if not (0x80 <= byte <= 0x9F or 0xDC <= byte <= 0xDF))
#: No other byte claims more than 15 items.
_NOT_CLAIMING = bytes(byte for byte in range(256) if not 0xDC <= byte <= 0xDF)
#: Nothing of these types can be wrong inside; what holds only such need not be looked at twice.
_SINGLE = frozenset({type(None), bool, int, float, str, bytes})
# One that is kept saves half of the time. The compiled one does its work in one step; the other one would mix what
# several threads pack.
_pack_single = msgpack.packb if msgpack.Packer.__module__ == "msgpack.fallback" else msgpack.Packer().pack
#: The first byte of a map says how many entries follow, if they are no more than 15.
_SHORT_MAP, _SHORT_MAP_MOST = 0x80, 15


def pack(value: Any) -> bytes:
    """Return ``value`` as msgpack.

    Raises:
        InvalidInput: it holds something that is not None, bool, int, float, str, bytes, list or dict with text keys,
            it is nested too deeply, or it is larger than a header section may be.
    """
    try:
        packed: bytes = msgpack.packb(value)
    except (TypeError, ValueError, OverflowError, RecursionError, BufferError) as error:
        raise InvalidInput(f"A value cannot be sent: {_said(error)}.", hint=_USABLE) from None
    if len(packed) > MAX_HEADER_BYTES:
        raise InvalidInput(
            f"A value of {len(packed)} bytes cannot be sent beside a payload.",
            hint=f"Put what is larger than {MAX_HEADER_BYTES} bytes into the payload.",
        )
    try:
        _read(packed)
    except (ValueError, msgpack.UnpackException) as error:
        raise InvalidInput(f"A value cannot be sent: {_said(error)}.", hint=_USABLE) from None
    return packed


def pack_flat(fields: Mapping[str, Any]) -> bytes | None:
    """Return a dict of names and single values as msgpack; None where it is anything else: that is for :func:`pack`."""
    if type(fields) is not dict:
        return None
    for key, value in fields.items():
        if type(key) is not str or type(value) not in _SINGLE:
            return None
    try:
        packed: bytes = _pack_single(fields)
    except (ValueError, OverflowError):
        return None  # It is refused there, with the reason.
    return packed


def unpack_flat(packed: bytes) -> dict[str, Any] | None:
    """Do the reverse, for at most 15 names; None where it is anything else: that is for :func:`unpack`."""
    try:
        fields = msgpack.unpackb(packed, max_array_len=0, max_map_len=_SHORT_MAP_MOST)
    except (ValueError, msgpack.UnpackException):
        return None  # It is refused there, with the reason.
    if type(fields) is not dict or len(fields) > _SHORT_MAP_MOST or packed[0] != _SHORT_MAP + len(fields):
        return None  # Or the same name is there twice.
    for key, value in fields.items():
        if type(key) is not str or type(value) not in _SINGLE:
            return None
    return fields


def pack_numbers(rows: Sequence[Any]) -> bytes:
    """Return lists of whole numbers of our own as msgpack: nothing in them could be refused, so nothing is looked at.

    Args:
        rows: Numbers below 2**64, or lists of them, together well below the size of a header section.
    """
    packed: bytes = _pack_single(rows)
    return packed


def unpack_numbers(packed: bytes) -> list[list[int]] | None:
    """Do the reverse for lists of whole numbers; None where it is anything else: that is for :func:`unpack`."""
    try:
        _check_claims(packed)
        rows = msgpack.unpackb(packed, max_map_len=0)
    except (ValueError, msgpack.UnpackException):
        return None  # It is refused there, with the reason.
    if type(rows) is not list:
        return None
    for row in rows:
        if type(row) is not list or any(type(number) is not int for number in row):
            return None
    return rows


def pack_lists(rows: Iterable[Any]) -> Iterator[bytes]:
    """Return ``rows`` as one list in msgpack, or as several where one would be larger than a header section may be.

    Raises:
        InvalidInput: one row alone cannot be sent.
    """
    return join_lists(pack([row])[1:] for row in rows)


def join_lists(packed_rows: Iterable[bytes]) -> Iterator[bytes]:
    """Do the same with rows that are msgpack already, each well below the size of a header section."""
    here: list[bytes] = []
    size = _LIST_HEADER_BYTES
    for packed in packed_rows:
        if here and (size + len(packed) > MAX_HEADER_BYTES or len(here) == MAX_ENTRIES):
            yield _list_header(len(here)) + b"".join(here)
            here, size = [], _LIST_HEADER_BYTES
        here.append(packed)
        size += len(packed)
    yield _list_header(len(here)) + b"".join(here)


def pack_value(value: Any) -> bytes:
    """Return a value that a user gave as msgpack that may stand anywhere in a frame.

    Raises:
        InvalidInput: it cannot be sent, as for :func:`pack`.
    """
    for _ in range(FRAME_DEPTH):
        value = [value]
    return pack(value)[FRAME_DEPTH:]


def unpack(section: bytes | bytearray | memoryview) -> Any:
    """Return the value of one header section.

    Raises:
        RemoteProtocolError: it is not exactly one msgpack value within the limits.
    """
    try:
        return _read(section)
    except (ValueError, msgpack.UnpackException) as error:
        raise RemoteProtocolError(f"A header section is not msgpack within the limits: {_said(error)}.") from None


def _list_header(length: int) -> bytes:
    return bytes([0x90 | length]) if length < 16 else b"\xdc" + length.to_bytes(2, "big")


def _read(section: bytes | bytearray | memoryview) -> Any:
    _check_claims(section)
    value = msgpack.unpackb(
        section,
        raw=False,
        strict_map_key=True,
        object_pairs_hook=_map,
        ext_hook=_refuse_extension,
        max_str_len=MAX_HEADER_BYTES,
        max_bin_len=MAX_HEADER_BYTES,
        max_array_len=MAX_ENTRIES,
        max_map_len=MAX_ENTRIES,
        max_ext_len=0,
    )
    if len(section) > MAX_DEPTH and len(bytes(section).translate(None, _NOT_OPENING)) > MAX_DEPTH:
        _check_depth(value)
    return value


def _check_claims(section: bytes | bytearray | memoryview) -> None:
    """Go through a section without making anything of it: there are as many items in it as its lists claim.

    Raises:
        ValueError: there are not.
    """
    if not bytes(section).translate(None, _NOT_CLAIMING):
        return
    reader = msgpack.Unpacker(read_size=len(section))
    reader.feed(section)
    try:
        reader.skip()
    except msgpack.OutOfData:
        raise ValueError("a list or map claims more items than follow") from None


def _map(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a map has the same key twice")
    for key in fields:
        if type(key) is not str:
            raise ValueError("a map has a key that is not text")
    return fields


def _check_depth(value: Any) -> None:
    """Go down level by level, because a walk that calls itself would be limited by the interpreter's stack."""
    level, depth = [value], 0
    while level := [item for item in level if isinstance(item, (list, dict))]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"lists and maps are nested more than {MAX_DEPTH} deep")
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]


def _refuse_extension(code: int, data: bytes) -> NoReturn:
    raise ValueError(f"extension type {code} has no meaning here")


def _said(error: Exception) -> str:
    """What a foreign error says; never its ``repr``, which may hold all of a peer's bytes."""
    return (str(error) or type(error).__name__)[:200].rstrip(".")
