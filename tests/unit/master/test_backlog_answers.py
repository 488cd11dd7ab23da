"""What an engine may answer: whatever cannot be kept is refused before anything is decided."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benches.backlog import reserve_one
from harmonicio.core.errors import RemoteProtocolError
from harmonicio.core.message import MAX_RESULT_BYTES, Outcome, OutcomeKind, RejectReason
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.backlog.backlog import Backlog
from harmonicio.master.backlog.entry import Reservation
from harmonicio.master.backlog.stores import create_store
from harmonicio.testing.waiting import wait_until
from harmonicio.wire.codec import unpack
from harmonicio.wire.events import IncomingMessage


@pytest.fixture(params=["memory", "sqlite"])
def backlog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backlog]:
    with closing(Backlog(create_store(request.param, tmp_path / "backlog"))) as opened:
        opened.declare(StreamDeclaration("images", handler="/h.py"))
        yield opened


def reserved(backlog: Backlog) -> Reservation:
    message = IncomingMessage(0, "m", 3, memoryview(b"abc"))
    answers: list[Outcome] = []
    backlog.put("images", message, None, answers.append)
    wait_until(lambda: answers)
    reservation = reserve_one(backlog, "images", "e-1", 0.0)
    assert reservation is not None
    return reservation


def nested(levels: int) -> Any:
    value: Any = None
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "result",
    [
        "x" * (MAX_RESULT_BYTES + 1),
        # Few bytes on the wire, as short numbers; too many where they are written again.
        unpack(b"\xdc\xc3\x50" + b"\xca\x00\x00\x00\x00" * 50_000),
        nested(61),
    ],
    ids=["large", "short numbers", "deep"],
)
def test_a_message_whose_result_cannot_be_kept_is_ready_again(backlog: Backlog, result: Any) -> None:
    reservation = reserved(backlog)
    with pytest.raises(RemoteProtocolError, match="An engine sent a result"):
        backlog.settle([reservation], Outcome(OutcomeKind.DONE, result=result))
    backlog.engine_gone("e-1")  # As the end of its connection does.
    assert backlog.figures("images").ready == 1
    again = reserve_one(backlog, "images", "e-2", 0.0)
    assert again is not None
    backlog.settle([again], Outcome(OutcomeKind.DONE, result=nested(60)))
    wait_until(lambda: backlog.figures("images").done_total == 1)


def test_what_an_engine_says_is_one_short_line_of_the_log(backlog: Backlog, caplog: pytest.LogCaptureFixture) -> None:
    text = "no room\n2026-01-01 ERROR something else\x1b[2J" + "x" * 100_000
    with caplog.at_level(logging.WARNING):
        backlog.settle([reserved(backlog)], Outcome.rejected(RejectReason.STORAGE, text))
    (line,) = [record.getMessage() for record in caplog.records if "no room" in record.getMessage()]
    assert len(line) < 600
    assert line.isprintable()
