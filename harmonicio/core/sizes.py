"""Sizes in bytes as people write and read them."""

from __future__ import annotations

import re

from harmonicio.core.errors import InvalidInput

_DECIMAL = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BINARY = {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_UNITS = {"": 1, **_DECIMAL, **_BINARY}
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,6})?)\s*([A-Za-z]{0,3})")


def parse_size(text: str) -> int:
    """Return the bytes that ``text`` means: ``"256 MiB"``, ``"1.5GB"`` or plain ``"4096"``.

    Raises:
        InvalidInput: it is no number followed by a known unit.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2].upper() not in _UNITS:
        raise InvalidInput(
            f"{text[:40]!r} is not a size.", hint="Use a number and B, KB, MB, GB, TB, KiB, MiB, GiB or TiB."
        )
    factor = _UNITS[match[2].upper()]
    return int(match[1]) * factor if match[1].isdigit() else round(float(match[1]) * factor)


def format_size(size_bytes: int) -> str:
    """Return the size with three digits and a decimal unit: ``"1.50 MB"``; below 1 KB the plain count."""
    size = float(size_bytes)
    for unit in ("B", "KB", "MB", "GB"):
        if abs(size) < 999.5:
            return f"{size:.0f} B" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB" if size < 999.5 else f"{size:,.0f} TB"
