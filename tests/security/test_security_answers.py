"""What engines answer for messages that they do not hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from benches.intake import Peer, connector, engine
from harmonicio.core.errors import HarmonicIOError
from harmonicio.core.lease import Claims, TicketKind
from harmonicio.core.message import OutcomeKind
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.backlog.backlog import Backlog
from harmonicio.master.backlog.stores import create_store
from harmonicio.master.intake import Intake
from harmonicio.testing.waiting import wait_until
from harmonicio.wire.connection import message_prefix
from harmonicio.wire.events import Credit, IncomingMessage, ResultsReceived
from harmonicio.wire.sections import credit_frame, outcomes_frame

STREAM = StreamDeclaration("images", handler="/handler.py")

pytestmark = pytest.mark.row("S27")


@pytest.fixture
def backlog(tmp_path: Path) -> Iterator[Backlog]:
    with closing(Backlog(create_store("sqlite", tmp_path / "backlog"))) as opened:
        opened.declare(STREAM)
        yield opened


@pytest.fixture
def intake(backlog: Backlog) -> Iterator[Intake]:
    def verify_engine(worker: str, engine: str, ticket: str) -> Claims:
        return Claims(TicketKind.ENGINE, "images", 60.0, 0.0, 0, engine=engine)

    served = Intake(
        "127.0.0.1",
        0,
        backlog,
        verify_intake=lambda _: Claims(TicketKind.INTAKE, "images", 60.0, 0.0, 1, source="microscope"),
        verify_engine=verify_engine,
        find_stream=lambda _: STREAM,
    )
    served.start()
    with closing(served):
        yield served


def is_cut_off(peer: Peer) -> bool:
    try:
        peer.wait_for(ResultsReceived)  # Nobody sends it such: what comes is the end.
    except HarmonicIOError:
        return True
    return False


@pytest.mark.parametrize(
    ("first", "last"), [(0, 0), (0, 1_000_000), (7, 7)], ids=["what another holds", "all", "a number never given"]
)
@pytest.mark.parametrize("kind", [OutcomeKind.DONE, OutcomeKind.FAILED, OutcomeKind.REJECTED])
def test_an_engine_that_answers_for_a_message_of_another_is_cut_off_and_changes_nothing(
    intake: Intake, backlog: Backlog, first: int, last: int, kind: OutcomeKind
) -> None:
    with closing(connector(intake)) as source, closing(engine(intake, "honest")) as honest:
        source.wait_for(Credit)
        honest.link.send(credit_frame(1, 1000))
        source.link.send(message_of("m"))
        honest.wait_for(IncomingMessage)
        with closing(engine(intake, "liar")) as liar:
            liar.link.send(outcomes_frame([(first, last, kind, b"")]))
            assert is_cut_off(liar)
        figures = backlog.figures("images")
        assert (figures.done_total, figures.reserved, figures.dead) == (0, 1, 0)
        honest.link.send(outcomes_frame([(0, 0, OutcomeKind.DONE, b"")]))
        wait_until(lambda: backlog.figures("images").done_total == 1, 20, what="the answer of who holds it")


def test_an_engine_that_answers_twice_is_cut_off_and_counted_once(intake: Intake, backlog: Backlog) -> None:
    with closing(connector(intake)) as source, closing(engine(intake)) as worker:
        source.wait_for(Credit)
        worker.link.send(credit_frame(1, 1000))
        source.link.send(message_of("m"))
        worker.wait_for(IncomingMessage)
        answer = outcomes_frame([(0, 0, OutcomeKind.DONE, b"")])
        worker.link.send(answer, answer)
        assert is_cut_off(worker)
    assert backlog.figures("images").done_total == 1


def test_an_engine_that_says_that_it_has_stored_a_message_is_cut_off_and_another_gets_it(
    intake: Intake, backlog: Backlog
) -> None:
    with closing(connector(intake)) as source, closing(engine(intake, "liar")) as liar:
        source.wait_for(Credit)
        liar.link.send(credit_frame(1, 1000))
        source.link.send(message_of("m"))
        liar.wait_for(IncomingMessage)
        liar.link.send(outcomes_frame([(0, 0, OutcomeKind.STORED, b"")]))
        assert is_cut_off(liar)
        with closing(engine(intake, "honest")) as honest:
            honest.link.send(credit_frame(1, 1000))
            (message,) = honest.wait_for(IncomingMessage)
            assert isinstance(message, IncomingMessage) and message.id == "m"


def message_of(name: str) -> bytes:
    """Return a message without a payload."""
    return bytes(message_prefix(name, 0))
