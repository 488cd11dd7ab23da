"""Sizes as people write and read them."""

from __future__ import annotations

import pytest

from harmonicio.core.errors import InvalidInput
from harmonicio.core.sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("0", 0), ("4096", 4096), (" 256 MiB ", 268435456), ("1KB", 1000), ("1.5 gb", 1_500_000_000), ("2TiB", 2**41)],
)
def test_a_number_with_a_unit_is_a_size(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1e9", "1 MB MB", "1 parsec", "9" * 30, "1..5 GB", "٣ MB GB"])
def test_anything_else_is_refused_with_the_known_units(text: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        parse_size(text)
    assert "KiB" in raised.value.hint


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 KB"), (1536, "1.54 KB"), (999_600, "1 MB"), (5 * 10**15, "5,000 TB")],
)
def test_a_size_is_shown_with_three_digits(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text
