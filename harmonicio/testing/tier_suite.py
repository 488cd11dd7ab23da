"""What every tier must do: inherit :class:`TierSuite` and say how to open one.

class TestMyTier(TierSuite):
    def open(self, folder: Path) -> Tier: ...      # twice with one folder: the same store, where it outlives a process
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path

import pytest

from harmonicio.core.errors import InvalidInput, StorageError
from harmonicio.haste.tiers.base import Tier
from harmonicio.testing.waiting import wait_until

SIZES_BYTES = (0, 1, 4096, 3 * 1024**2 + 1)
#: Ids that sources could bring, the hostile ones included; all different.
IDS = (
    "plane00",
    "plane00.tif",
    "cryo-em/tile 0/sigma1.00",
    "../../etc/passwd",
    "..",
    ".",
    ".hidden",
    "%2E%2E",
    "~",
    "plåne–00",
    "x" * 200,
    "x" * 199 + "y",
    "é" * 100,
    "é" * 99 + "è",
    "-rf",
    "a\\b",
    "CON",
)


class TierSuite(ABC):
    """The contract of :class:`~harmonicio.haste.tiers.base.Tier`."""

    @abstractmethod
    def open(self, folder: Path) -> Tier:
        """Return an empty tier, which may keep what it has in ``folder``."""

    @pytest.fixture
    def tier(self, tmp_path: Path) -> Tier:
        return self.open(tmp_path / "tier")

    @pytest.mark.parametrize("size_bytes", SIZES_BYTES)
    def test_a_payload_is_read_as_it_was_written(self, tier: Tier, size_bytes: int) -> None:
        payload = bytes(range(256)) * (size_bytes // 256 + 1)
        location = tier.write("plates", "m1", memoryview(payload)[:size_bytes])
        assert tier.read(location) == payload[:size_bytes]

    def test_a_view_of_wider_items_is_written_as_its_bytes(self, tier: Tier) -> None:
        payload = memoryview(bytes(range(16))).cast("I")
        assert tier.read(tier.write("plates", "m1", payload)) == bytes(range(16))

    def test_every_message_id_has_a_location_of_its_own(self, tier: Tier) -> None:
        locations = {message_id: tier.write("plates", message_id, message_id.encode()) for message_id in IDS}
        assert len(set(locations.values())) == len(IDS)
        assert {message_id: tier.read(at).decode() for message_id, at in locations.items()} == {i: i for i in IDS}

    def test_streams_do_not_share_their_ids(self, tier: Tier) -> None:
        one, other = tier.write("plates", "m1", b"one"), tier.write("spectra", "m1", b"other")
        assert (tier.read(one), tier.read(other)) == (b"one", b"other")
        assert [kept.location for kept in tier.contents("plates")] == [one]

    def test_the_same_bytes_written_again_are_there_once(self, tier: Tier) -> None:
        assert tier.write("plates", "m1", b"payload") == tier.write("plates", "m1", b"payload")
        assert len(list(tier.contents("plates"))) == 1

    @pytest.mark.parametrize("payload", [b"first", b"other"])
    def test_what_is_written_again_counts_as_written_just_now(self, tier: Tier, payload: bytes) -> None:
        """So that no search for what a crash has left takes it while its row is about to come."""
        locations = {each: tier.write("plates", "m1", each) for each in (b"first", b"other")}
        before = self._written_at(tier, locations[payload])

        def is_younger_when_written_again() -> bool:
            assert tier.write("plates", "m1", payload) == locations[payload]
            return self._written_at(tier, locations[payload]) > before

        wait_until(is_younger_when_written_again, timeout_s=5)

    def _written_at(self, tier: Tier, location: str) -> float:
        (written_at,) = (kept.written_at for kept in tier.contents("plates") if kept.location == location)
        return written_at

    def test_other_bytes_under_the_same_id_do_not_replace_the_first(self, tier: Tier) -> None:
        first, second = tier.write("plates", "m1", b"first"), tier.write("plates", "m1", b"other")
        assert first != second
        assert (tier.read(first), tier.read(second)) == (b"first", b"other")
        assert tier.write("plates", "m1", b"other") == second

    def test_what_was_removed_is_gone_and_may_be_removed_again(self, tier: Tier) -> None:
        location, kept = tier.write("plates", "m1", b"gone"), tier.write("plates", "m2", b"kept")
        tier.remove(location)
        tier.remove(location)
        with pytest.raises(StorageError):
            tier.read(location)
        assert [each.location for each in tier.contents("plates")] == [kept]

    def test_contents_say_size_and_time(self, tier: Tier) -> None:
        before = time.time()
        location = tier.write("plates", "m1", b"12345")
        (kept,) = tier.contents("plates")
        assert (kept.location, kept.size_bytes) == (location, 5)
        assert before - 2 <= kept.written_at <= time.time() + 2

    def test_a_stream_without_payloads_has_no_contents(self, tier: Tier) -> None:
        assert list(tier.contents("plates")) == []

    @pytest.mark.parametrize("stream", ["../plates", "", "a/b", ".."])
    def test_what_is_no_stream_name_is_refused(self, tier: Tier, stream: str) -> None:
        with pytest.raises(InvalidInput):
            tier.write(stream, "m1", b"payload")

    @pytest.mark.parametrize("location", ["plates/none", "plates/..", "plates/../x", "plates", "", "/etc/passwd"])
    def test_a_location_that_is_not_there_cannot_be_read(self, tier: Tier, location: str) -> None:
        tier.write("plates", "m1", b"payload")
        with pytest.raises((StorageError, InvalidInput)):
            tier.read(location)

    def test_threads_that_write_the_same_message_keep_it_once(self, tier: Tier) -> None:
        payload = bytes(200_000)
        locations: list[str] = []
        start = threading.Barrier(8)

        def write() -> None:
            start.wait()
            locations.append(tier.write("plates", "m1", payload))

        threads = [threading.Thread(target=write) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(locations) == 8
        assert len(set(locations)) == len(list(tier.contents("plates"))) == 1
        assert tier.read(locations[0]) == payload
