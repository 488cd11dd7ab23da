"""Frames that are nearly right: a short form of ``make fuzz``, and what the long one once found."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzzing import frames, oracle
from fuzzing.conversations import READERS, TO_RECEIVER, TO_SENDER, Reader, conversations, golden_frames, type_of
from harmonicio.core.errors import RemoteProtocolError
from harmonicio.wire import sections
from harmonicio.wire.connection import Connection
from harmonicio.wire.decoder import Decoder
from harmonicio.wire.events import Drain

FRAMES = 40_000
SEED = 5


def test_frames_that_are_nearly_right_give_events_or_our_errors_in_bounded_memory_and_time() -> None:
    tally = frames.run(SEED, frames=FRAMES)
    # Every kind is understood often enough to be sure that the changes do not hide what lies behind them …
    assert set(tally.understood) == {frame_type.name for frame_type in frames.FrameType}
    assert min(tally.understood.values()) > FRAMES / 500
    # … and there are many ways to be wrong.
    assert tally.errors["remote_protocol"] > FRAMES / 10
    assert tally.errors["connection_ended"] > FRAMES / 200
    assert len(tally.rules) > 50


def test_what_was_once_found_stays_mended() -> None:
    paths = sorted(frames.REGRESSIONS.glob("*.bin"))
    assert paths
    for path in paths:
        frames.replay(path)


def test_a_case_can_be_made_again() -> None:
    for number in range(50):
        one, other = (frames.Cases(SEED).case(number) for _ in range(2))
        assert one == other


def test_the_seeds_hold_every_kind_of_frame_for_every_reader() -> None:
    seeds = [*golden_frames().values(), *(frame for talk in conversations().values() for frame in talk)]
    assert {type_of(frame) for frame in seeds} >= TO_RECEIVER | TO_SENDER
    for reader in READERS:
        assert frames.Cases(SEED)._legal[reader.name], reader


def test_every_recorded_conversation_is_understood_however_it_is_cut() -> None:
    talks = conversations()
    assert len(talks) == 6
    for name, talk in talks.items():
        teller, _, reader_role = name.partition("_to_")
        reader = next(each for each in READERS[4:] if is_between(each, teller, reader_role))
        heard = oracle.judge(reader, b"".join(talk[1:]), [1, 2, 3, 5, 8, 13])
        assert not heard.error, (name, heard.error)


def is_between(reader: Reader, teller: str, role: str) -> bool:
    """Who dials is the role; who listens is told apart by who dials it."""
    return reader.dialler == role if role == "connector" or teller == "master" else reader.peer == teller


# ── that the fuzzer finds what there is to be found ──────────────────────────────────────────────────────────────────


def test_another_exception_than_ours_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from harmonicio.wire import connection

    def careless(section: bytes) -> Drain:
        items = sections.unpack(section)
        return Drain(float(items[0]))

    monkeypatch.setitem(connection._READERS, frames.FrameType.DRAIN, careless)
    monkeypatch.setattr(frames, "CRASHES", tmp_path)
    with pytest.raises(oracle.Violation, match=r"again: python -m fuzzing\.frames --seed 5 --only \d+"):
        frames.run(SEED, frames=FRAMES)
    (kept,) = tmp_path.iterdir()
    assert len(kept.read_bytes()) < 80, "it was to be made small"
    with pytest.raises((TypeError, ValueError, IndexError, KeyError)):
        frames.replay(kept)


@pytest.mark.interpreted
def test_a_meaning_that_depends_on_the_cuts_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    next_frame = Decoder.next_frame

    def hasty(decoder: Decoder) -> object:
        if 0 < decoder._end - decoder._start < 10 and decoder._begun is None:
            raise RemoteProtocolError("A frame is not whole.")
        return next_frame(decoder)

    monkeypatch.setattr(Decoder, "next_frame", hasty)
    monkeypatch.setattr(frames, "CRASHES", tmp_path)
    with pytest.raises(oracle.Violation, match="Cut differently"):
        frames.run(SEED, frames=FRAMES)


@pytest.mark.interpreted
def test_memory_for_what_is_only_announced_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    discard = Connection.discard_payload

    def greedy(connection: Connection) -> None:
        announced = connection._decoder._begun
        assert announced is not None
        assert bytes(min(announced.size_bytes, 2 * frames.MAX_CASE_BYTES)) is not None
        discard(connection)

    monkeypatch.setattr(Connection, "discard_payload", greedy)
    monkeypatch.setattr(frames, "CRASHES", tmp_path)
    monkeypatch.setattr(frames, "MEASURED_EVERY", 1)
    with pytest.raises(oracle.Violation, match="bytes of memory"):
        frames.run(SEED, frames=FRAMES)
