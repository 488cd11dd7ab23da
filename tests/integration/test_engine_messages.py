"""What handlers see of messages that came to their engine together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benches.engine import Bench, Start, engine_benches, reason_of
from harmonicio.core.message import OutcomeKind, RejectReason
from harmonicio.testing.bare_peers import BareConnector
from harmonicio.testing.waiting import wait_until
from harmonicio.wire.checksum import FLAG_OF, SUPPORTED, trailer
from harmonicio.wire.connection import raw_prefix
from harmonicio.wire.frames import MAX_INLINE_BYTES
from harmonicio.wire.metadata import METADATA_ONLY


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start an engine with the given handler code and fields of its stream."""
    with engine_benches(tmp_path) as start_engine:
        yield start_engine


NOTE = """
    import json
    @handler OPTIONS
    def note(message):
        seen = json.dumps(message.metadata)
        message.metadata["seen"] = message.id
        return {"seen": seen, "metadata": message.metadata}
"""


@pytest.mark.parametrize("size_bytes", [3, MAX_INLINE_BYTES + 1])
@pytest.mark.parametrize("options", ["", "(streaming=True)"])
def test_what_one_handler_writes_into_empty_metadata_the_next_one_does_not_see(
    start: Start, options: str, size_bytes: int
) -> None:
    connector = start(NOTE.replace(" OPTIONS", options)).connector()
    ids = [f"{at:032x}" for at in range(3)]  # They travel raw, so that nothing at all is said of these messages.
    numbers = [connector.send(bytes(size_bytes), message_id=each) for each in ids]
    outcomes = [connector.outcome(number) for number in numbers]
    assert [outcome.failure for outcome in outcomes] == [None] * 3
    assert [outcome.result for outcome in outcomes] == [{"seen": "{}", "metadata": {"seen": each}} for each in ids]


@pytest.mark.parametrize("size_bytes", [3, MAX_INLINE_BYTES + 1])
@pytest.mark.parametrize("options", ["", "(streaming=True)"])
def test_metadata_that_cannot_be_read_fails_the_handler_that_looks_at_it_and_nothing_else(
    start: Start, options: str, size_bytes: int
) -> None:
    bench = start(NOTE.replace(" OPTIONS", options))
    connector = bench.connector()
    connector.wait(lambda: connector.credit.messages_total)
    connector.link.send(raw_prefix(bytes(16), size_bytes, METADATA_ONLY + b"\xc1"), bytes(size_bytes))
    number = connector.credit.message_sent(size_bytes)
    good = connector.send(b"good", message_id="good")
    failure = connector.outcome(number).failure
    assert failure is not None
    assert failure.error_type == "RemoteProtocolError"
    assert "not msgpack" in failure.text
    assert connector.outcome(good).result == {"seen": "{}", "metadata": {"seen": "good"}}
    wait_until(lambda: bench.daemon._payloads.budget.held_bytes == 0)


def send_together(connector: BareConnector, messages: list[tuple[bytes, dict[str, object]]]) -> list[int]:
    """Send messages, trailers included, in one piece; return their numbers."""
    first, data = connector.credit.sent, b""
    connector.wait(lambda: connector.credit.can_send(0) and connector.credit.messages_total >= first + len(messages))
    for payload, fields in messages:
        flags = int(fields.get("flags", 0))  # type: ignore[call-overload]
        size_bytes = len(payload) - (8 if flags else 0)
        data += connector.prefix(size_bytes, **fields) + payload
    connector.link.send(data)
    return list(range(first, first + len(messages)))


LOG = """
    log = []
    @handler
    def remember(message):
        log.append((message.id, bytes(message.payload), dict(message.metadata), message.attempt))
        try:
            message.id = "another"
        except AttributeError as error:
            return "cannot be changed"
"""


def started(start: Start) -> tuple[Bench, BareConnector]:
    bench = start(LOG)
    connector = bench.connector()
    connector.send_many(b"", 200)  # So that the window is wide enough.
    connector.wait_for_outcomes(200)
    bench.module.log.clear()
    return bench, connector


def test_a_handler_cannot_change_the_id_of_its_message(start: Start) -> None:
    connector = start(LOG).connector()
    assert connector.outcome(connector.send(b"x", message_id="m")).result == "cannot be changed"


@pytest.mark.parametrize("checksum", SUPPORTED)
def test_messages_that_come_together_are_run_in_order_and_one_that_is_damaged_alone_is_refused(
    start: Start, checksum: str
) -> None:
    bench, connector = started(start)
    flag = FLAG_OF[checksum]
    numbers = send_together(
        connector,
        [
            (b"one", {"message_id": "first"}),
            (b"two" + trailer(flag, b"two"), {"message_id": "checked", "flags": int(flag)}),
            (b"twq" + trailer(flag, b"two"), {"message_id": "damaged", "flags": int(flag)}),
            (b"four", {"message_id": "noted", "metadata": {"well": "B03"}, "attempts": 2}),
            (b"", {"message_id": "last"}),
        ],
    )
    outcomes = [connector.outcome(number) for number in numbers]
    assert reason_of(outcomes.pop(2)) is RejectReason.CHECKSUM
    assert [outcome.kind for outcome in outcomes] == [OutcomeKind.DONE] * 4
    assert bench.module.log == [
        ("first", b"one", {}, 1),
        ("checked", b"two", {}, 1),
        ("noted", b"four", {"well": "B03"}, 3),
        ("last", b"", {}, 1),
    ]


def test_those_before_a_broken_frame_are_run_before_the_connection_ends(start: Start) -> None:
    bench, connector = started(start)
    good = b"".join(connector.prefix(1, message_id=f"good {at}") + b"x" for at in range(5))
    connector.link.send(good + connector.prefix(1, message_id="bad", flags=32) + b"x")
    connector.wait(lambda: connector.goodbye is not None)
    assert connector.goodbye is not None and "flags 0x2" in connector.goodbye.text
    assert [each[0] for each in bench.module.log] == [f"good {at}" for at in range(5)]
