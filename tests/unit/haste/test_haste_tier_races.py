"""Attempts at one message meet in one tier: those that are not the first take their copies back while others write."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harmonicio.haste.tiers.file import FileTier

THREADS = 4
ROUNDS = 150


def test_a_copy_that_is_taken_back_hinders_nobody_who_writes_the_same(tmp_path: Path) -> None:
    tier = FileTier("A", tmp_path)

    def write_and_take_back(_: int) -> set[str]:
        locations = set()
        for _round in range(ROUNDS):
            location = tier.write("plates", "m1", b"pixels")
            locations.add(location)
            tier.remove(location)
        return locations

    with ThreadPoolExecutor(THREADS) as threads:
        locations = set().union(*threads.map(write_and_take_back, range(THREADS)))
    assert locations == {"plates/m1"}
    assert list(tier.contents("plates")) == []
