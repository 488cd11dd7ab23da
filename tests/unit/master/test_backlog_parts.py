"""The small parts of the backlog: digests, memories of ids, caches, gates, codecs, names of stores."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path

import pytest

from harmonicio.core.errors import ConfigurationError, StorageError
from harmonicio.core.message import Failure, Outcome, OutcomeKind, RejectReason
from harmonicio.master.backlog import digest as digests
from harmonicio.master.backlog.ballast import Ballast
from harmonicio.master.backlog.base import Callback
from harmonicio.master.backlog.byte_gate import ByteGate
from harmonicio.master.backlog.entry import Death
from harmonicio.master.backlog.hot_cache import HotCache
from harmonicio.master.backlog.memory import MemoryStore
from harmonicio.master.backlog.outcome_codec import (
    KeptOutcome,
    decode_death,
    decode_outcome,
    encode_death,
    encode_outcome,
)
from harmonicio.master.backlog.recent import RecentIds
from harmonicio.master.backlog.sqlite import SqliteStore
from harmonicio.master.backlog.stores import create_store
from harmonicio.master.backlog.subscriptions import Subscriptions
from harmonicio.master.backlog.written import wait_until_written
from harmonicio.testing.waiting import wait_until

# ── digests ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=[True, False], ids=["xxh3", "crc32"])
def algorithm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if not request.param:
        monkeypatch.setattr(digests, "HAS_XXH3", False)
    elif not digests.HAS_XXH3:
        pytest.skip("xxhash is not installed")
    return "x" if request.param else "c"


def test_a_digest_tells_payloads_apart(algorithm: str) -> None:
    one = digests.digest_of(b"cells")
    assert one[:1].decode() == algorithm
    assert digests.is_same(one, digests.digest_of(bytearray(b"cells")))
    assert not digests.is_same(one, digests.digest_of(b"sells"))
    assert not digests.is_same(one, digests.digest_of(b"cell"))


@pytest.mark.parametrize("cuts", [(), (1,), (2, 4), (0, 5)])
def test_a_payload_is_intact_however_it_is_cut(algorithm: str, cuts: tuple[int, ...]) -> None:
    payload = b"cells"
    edges = [0, *cuts, len(payload)]
    chunks = [payload[start:end] for start, end in pairwise(edges)]
    assert digests.is_intact(chunks, digests.digest_of(payload))
    assert not digests.is_intact([*chunks, b"s"], digests.digest_of(payload))
    assert not digests.is_intact([b"sells"], digests.digest_of(payload))


def test_digests_of_different_algorithms_are_compared_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    if not digests.HAS_XXH3:
        pytest.skip("xxhash is not installed")
    one = digests.digest_of(b"cells")
    monkeypatch.setattr(digests, "HAS_XXH3", False)
    assert digests.is_same(one, digests.digest_of(b"sells"))
    assert not digests.is_same(one, digests.digest_of(b"cell"))
    assert digests.is_intact([b"ce", b"lls"], one)
    assert not digests.is_intact([b"cell"], one)


def test_a_digest_that_is_not_known_fits_everything() -> None:
    assert digests.is_same(b"", digests.digest_of(b"cells"))
    assert digests.is_intact([b"cells"], b"")


# ── memories, caches, gates ──────────────────────────────────────────────────────────────────────────────────────────


def test_recent_ids_are_kept_for_the_span_and_at_most_twice_as_long() -> None:
    recent: RecentIds[int] = RecentIds(span_s=100.0, max_facts=1_000)
    recent.put("plates", "a", 1, 0.0)
    assert recent.get("plates", "a", 100.0) == 1
    assert recent.get("wells", "a", 100.0) is None
    recent.put("plates", "b", 2, 150.0)
    assert recent.get("plates", "a", 250.0) is None
    assert recent.get("plates", "b", 250.0) == 2
    assert recent.get("plates", "b", 10_000.0) is None
    assert len(recent) == 0


def test_recent_ids_are_bounded_in_number_and_the_oldest_go() -> None:
    recent: RecentIds[int] = RecentIds(span_s=1e9, max_facts=100)
    for number in range(1_000):
        recent.put("plates", f"m{number}", number, 0.0)
        assert len(recent) <= 100
    assert all(recent.get("plates", f"m{number}", 0.0) == number for number in range(950, 1_000))
    assert recent.get("plates", "m0", 0.0) is None


def test_recent_ids_can_be_taken_and_a_stream_be_forgotten() -> None:
    recent: RecentIds[int] = RecentIds(span_s=100.0, max_facts=10)
    recent.put("plates", "a", 1, 0.0)
    recent.put("wells", "a", 2, 0.0)
    assert (recent.pop("plates", "a", 0.0), recent.pop("plates", "a", 0.0)) == (1, None)
    recent.drop_stream("wells")
    assert len(recent) == 0


def test_the_hot_cache_keeps_what_came_first_within_its_bytes() -> None:
    cache = HotCache(100)
    for sequence in range(5):
        cache.offer(sequence, "plates", memoryview(bytes(40)))
    assert [cache.get(sequence) is not None for sequence in range(5)] == [True, True, False, False, False]
    cache.drop([0])
    cache.drop([0])
    cache.offer(7, "wells", memoryview(b"x" * 60))
    assert cache.get(7) == b"x" * 60
    cache.drop_stream("plates", before_sequence=1)
    assert cache.get(1) is not None
    cache.drop_stream("plates", before_sequence=2)
    assert cache.get(1) is None and cache.get(7) is not None
    view = cache.get(7)
    assert view is not None and view.readonly


def test_the_gate_holds_up_who_brings_too_much_and_lets_the_largest_in_alone() -> None:
    gate = ByteGate(100)
    gate.enter(60)
    inside = threading.Event()

    def enter() -> None:
        gate.enter(1_000)
        inside.set()

    thread = threading.Thread(target=enter)
    thread.start()
    assert not inside.wait(0.05)
    gate.leave(60)
    assert inside.wait(5.0)
    thread.join()
    gate.leave(1_000)


def test_a_closed_gate_sends_everybody_away() -> None:
    gate = ByteGate(10)
    gate.enter(10)
    errors: list[StorageError] = []

    def enter() -> None:
        try:
            gate.enter(1)
        except StorageError as error:
            errors.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    gate.close()
    thread.join(5.0)
    wait_until(lambda: len(errors) == 1)
    with pytest.raises(StorageError):
        gate.enter(0)


def test_subscriptions_are_taken_once_and_only_the_right_ones_are_removed() -> None:
    subscriptions = Subscriptions()
    mine: list[str] = []
    theirs: list[str] = []

    def tell_me(message_id: str, outcome: Outcome | None) -> None:
        mine.append(message_id)

    def tell_them(message_id: str, outcome: Outcome | None) -> None:
        theirs.append(message_id)

    for message_id in "ab":
        subscriptions.add("plates", message_id, tell_me)
        subscriptions.add("plates", message_id, tell_them)
    subscriptions.remove("plates", ["a", "unknown"], tell_me)
    subscriptions.remove("wells", ["a"], tell_me)
    assert subscriptions.take("plates", "a") == [tell_them]
    assert subscriptions.take("plates", "a") == []
    assert subscriptions.take_stream("plates") == [("b", tell_me), ("b", tell_them)]
    assert len(subscriptions) == 0


def test_what_is_refused_while_the_ballast_rests_does_not_prolong_its_rest(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path / "ballast", 4096, rest_s=0.3)
    ballast.rest()  # The disk was full.

    def is_held() -> bool:
        try:
            ballast.hold()
        except BlockingIOError:
            ballast.rest()  # As the writer does after each put that fails: sources ask more often than it rests.
            return False
        return True

    wait_until(is_held, 5)


# ── codecs and names ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(OutcomeKind.DONE),
        Outcome(OutcomeKind.DONE, result={"cells": [1, 2.5, None], "mask": b"\x00"}),
        Outcome(OutcomeKind.FAILED, failure=Failure("ValueError", "no", "Traceback …", False)),
        Outcome(OutcomeKind.REJECTED, reason=RejectReason.TOO_LARGE, text="7 GB"),
    ],
)
def test_an_outcome_is_kept_as_it_was(outcome: Outcome) -> None:
    assert decode_outcome(encode_outcome(KeptOutcome(outcome, 3))) == KeptOutcome(outcome, 3)


def test_a_failure_is_kept_in_bounds_and_with_the_end_of_its_traceback() -> None:
    long = "x" * 1_000_000 + "ValueError: no cell"
    kept = decode_death(encode_death(Death(Failure("E" * 10_000, long, long, retryable=False)))).failure
    assert kept.traceback.endswith("ValueError: no cell") and not kept.retryable
    assert len(kept.error_type) + len(kept.text) + len(kept.traceback) < 20_000


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x93\x01", b"\x01", b"\x93\x63\xc0\x01", b"\x93\x02\xc0\xa1x"])
def test_bytes_that_are_no_outcome_are_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(StorageError):
        decode_outcome(data)
    with pytest.raises(StorageError):
        decode_death(data)


def test_stores_are_found_by_name(tmp_path: Path) -> None:
    assert isinstance(create_store("memory", tmp_path), MemoryStore)
    assert isinstance(create_store("sqlite", tmp_path), SqliteStore)
    with pytest.raises(ConfigurationError, match="memory, sqlite"):
        create_store("carrier pigeon", tmp_path)


def test_a_change_behind_which_something_fails_is_not_said_to_be_done() -> None:
    def fail(error: StorageError | None) -> None:
        raise ValueError("a bug")

    def write(on_done: Callback) -> None:
        with pytest.raises(ValueError, match="a bug"):  # The store hears of it, too.
            on_done(None)

    with pytest.raises(StorageError, match="an error came after that: a bug"):
        wait_until_written(write, fail)
