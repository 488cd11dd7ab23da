"""Sizes of messages, and what follows from them: how many are under way at once, and how many a run takes."""

from __future__ import annotations

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
LARGE_BYTES = 10 * 10**6
WINDOW, WINDOW_OF_LARGE = 64, 6
#: What raw TCP moves in a second on a small machine, in round numbers.
_MESSAGES_PER_S, _BYTES_PER_S = 100_000.0, 4e9


def parse_size(text: str) -> int:
    """Return the bytes of ``100B``, ``1KB``, ``10MB`` … (powers of ten).

    Raises:
        ValueError: it is no such size.
    """
    number = text.strip().rstrip("kKmMgGbB ")
    unit = text.strip()[len(number) :].strip().upper() or "B"
    try:
        size_bytes = int(float(number) * _UNITS[unit])
    except (KeyError, ValueError):
        raise ValueError(f"{text!r} is no size; write it like 100B, 1KB or 10MB.") from None
    if size_bytes < 1:
        raise ValueError(f"{text!r} is no size of a message: it has at least one byte.")
    return size_bytes


def parse_sizes(text: str) -> tuple[int, ...]:
    """Return the bytes of several sizes, separated by commas. Raises ValueError."""
    return tuple(parse_size(each) for each in text.split(","))


def size_text(size_bytes: int) -> str:
    """Return ``1 KB`` for 1,000 and so on."""
    for unit, factor in reversed(_UNITS.items()):
        if size_bytes >= factor:
            return f"{size_bytes / factor:g} {unit}"
    return f"{size_bytes} B"


def payload_of(size_bytes: int) -> bytes:
    """Return a payload in memory of its own: what nobody has written yet is one page of zeros to the kernel."""
    return b"\x5a" * size_bytes


def window_of(size_bytes: int) -> int:
    """Return how many messages are under way at once, on both sides of a comparison."""
    return WINDOW_OF_LARGE if size_bytes >= LARGE_BYTES else WINDOW


def messages_of(size_bytes: int, seconds: float) -> int:
    """Return about how many messages raw TCP moves in that time on a small machine: enough to be past the start."""
    per_second = min(_MESSAGES_PER_S, _BYTES_PER_S / size_bytes)
    return max(2 * window_of(size_bytes), int(per_second * seconds))
