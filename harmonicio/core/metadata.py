"""Metadata as it will travel: checked, counted and copied where packing it would be too early.

The sizes are those of msgpack (https://github.com/msgpack/msgpack/blob/master/spec.md), which carries it on the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harmonicio.core.errors import InvalidInput

MAX_METADATA_BYTES = 64 * 1024
#: Levels of lists and maps; a frame puts some of its own around them.
MAX_METADATA_DEPTH = 60

_USABLE = "Use None, bool, int, float, str, bytes, lists and dicts with text keys."
_TEXT_STEPS = ((32, 1), (2**8, 2), (2**16, 3))
_BYTES_STEPS = ((2**8, 2), (2**16, 3))
_ENTRIES_STEPS = ((16, 1), (2**16, 3))
_INTEGER_STEPS = ((2**7, 1), (2**8, 2), (2**16, 3), (2**32, 5), (2**64, 9))
_NEGATIVE_STEPS = ((2**5, 1), (2**7, 2), (2**15, 3), (2**31, 5), (2**63, 9))


def copy_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy that shares nothing that could change.

    Raises:
        InvalidInput: it holds what cannot be sent, is nested too deeply or is larger than ``MAX_METADATA_BYTES``.
    """
    copied, size_bytes = _copy_map(dict(metadata), 1)
    if size_bytes > MAX_METADATA_BYTES:
        raise InvalidInput(
            f"The metadata has {size_bytes} bytes, more than {MAX_METADATA_BYTES}.", hint="Send it as payload."
        )
    return copied


def _copy(value: Any, depth: int) -> tuple[Any, int]:
    """Return a copy of a value, and how many bytes it takes."""
    if value is None or isinstance(value, bool):
        return value, 1
    if isinstance(value, int):
        return int(value), _integer_bytes(value)
    if isinstance(value, float):
        return float(value), 9
    if isinstance(value, str):
        return str(value), _text_bytes(value)
    if isinstance(value, (bytes, bytearray)):
        return bytes(value), _header_bytes(len(value), _BYTES_STEPS) + len(value)
    if not isinstance(value, (list, tuple, dict)):
        raise InvalidInput(f"Metadata cannot hold a {type(value).__name__}.", hint=_USABLE)
    if depth >= MAX_METADATA_DEPTH:
        raise InvalidInput(f"The metadata is nested more than {MAX_METADATA_DEPTH} deep.", hint="Send it as payload.")
    if isinstance(value, dict):
        return _copy_map(value, depth + 1)
    items = [_copy(item, depth + 1) for item in value]
    return [item for item, _ in items], _header_bytes(len(items), _ENTRIES_STEPS) + sum(size for _, size in items)


def _copy_map(value: dict[Any, Any], depth: int) -> tuple[dict[str, Any], int]:
    copied, size_bytes = {}, _header_bytes(len(value), _ENTRIES_STEPS)
    for key, item in value.items():
        if not isinstance(key, str):
            raise InvalidInput(f"Metadata cannot have a {type(key).__name__} as a key.", hint=_USABLE)
        copied[str(key)], item_bytes = _copy(item, depth)
        size_bytes += item_bytes + _text_bytes(key)
    return copied, size_bytes


def _integer_bytes(value: int) -> int:
    magnitude, steps = (value, _INTEGER_STEPS) if value >= 0 else (-value - 1, _NEGATIVE_STEPS)
    for limit, size in steps:
        if magnitude < limit:
            return size
    raise InvalidInput("Metadata cannot hold an integer of more than 64 bits.", hint="Write it as text.")


def _text_bytes(text: str) -> int:
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidInput("Metadata holds text with half a surrogate pair.", hint=_USABLE) from None
    return _header_bytes(length, _TEXT_STEPS) + length


def _header_bytes(length: int, steps: tuple[tuple[int, int], ...]) -> int:
    return next((size for limit, size in steps if length < limit), 5)
