"""What a handler may emit, without any cluster: ids, bounds, what is copied, and when it is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
import pytest

from harmonicio.core.errors import InvalidInput, NotFound, Unavailable
from harmonicio.core.message import MAX_METADATA_BYTES, OutcomeKind, RejectReason
from harmonicio.engine import message as message_module
from harmonicio.engine.handler import Handler
from harmonicio.engine.message import MAX_EMITTED, Emission, Message
from harmonicio.engine.plugin import Call, NotKept
from harmonicio.engine.slots import Slot
from harmonicio.engine.streaming import Arrival, PayloadReader, StreamingMessage
from harmonicio.engine.work import Work


def message(payload: bytes | memoryview = b"payload", **fields: Any) -> Message:
    return Message("m", "cells", memoryview(payload), **fields)


class Out:
    """Takes what is delivered, or fails with the error given."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.ids: list[str] = []

    def __call__(self, emissions: Sequence[Emission], returned_at: float) -> None:
        if self.error is not None:
            raise self.error
        self.ids += [each.id for each in emissions]


def work(function: Any, out: Out, *plugins: Any, streaming: bool = False) -> Work:
    return Work(Handler(function, None, None, streaming, "test"), {}, plugins, deliver=out)


# ── emit ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_emitted_messages_are_numbered_in_the_order_of_the_calls_and_can_be_read_back() -> None:
    parent = message(priority=7)
    assert parent.emitted == ()
    assert parent.emit(b"one", stream="tiles") == "m/0"
    assert parent.emit(b"two", stream="other", metadata={"x": [1]}, priority=-1) == "m/1"
    assert parent.emitted == (
        Emission("m/0", "tiles", b"one", {}, 7),
        Emission("m/1", "other", b"two", {"x": [1]}, -1),
    )


def test_a_view_of_the_own_payload_is_emitted_without_a_copy_and_what_may_change_is_copied() -> None:
    parent = message(memoryview(bytearray(b"0123456789")).toreadonly())
    buffer, metadata = bytearray(b"abc"), {"list": [1]}
    pixels = numpy.arange(6, dtype="<u2").reshape(2, 3)
    parent.emit(parent.payload[2:5], stream="tiles")
    parent.emit(buffer, stream="tiles", metadata=metadata)
    parent.emit(pixels, stream="tiles")
    buffer[:] = b"xyz"
    metadata["list"].append(2)
    pixels[:] = 0
    own, copied, array = parent.emitted
    assert isinstance(own.payload, memoryview)
    assert own.payload.obj is parent.payload.obj
    assert (bytes(own.payload), copied.payload, copied.metadata) == (b"234", b"abc", {"list": [1]})
    assert bytes(array.payload) == numpy.arange(6, dtype="<u2").tobytes()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"payload": "text", "stream": "tiles"}, "cannot be sent"),
        ({"payload": numpy.zeros((4, 4))[:, ::2], "stream": "tiles"}, "not contiguous"),
        ({"payload": b"", "stream": "../tiles"}, "not a stream name"),
        ({"payload": b"", "stream": "tiles", "priority": 40_000}, "no priority"),
        ({"payload": b"", "stream": "tiles", "metadata": {"when": object()}}, "cannot be sent"),
        ({"payload": b"", "stream": "tiles", "metadata": {1: 2}}, "cannot be sent"),
        ({"payload": b"", "stream": "tiles", "metadata": {"x": 2**64}}, "cannot be sent"),
        ({"payload": b"", "stream": "tiles", "metadata": {"x": "\ud800"}}, "cannot be sent"),
        ({"payload": b"", "stream": "tiles", "metadata": {"x": bytes(MAX_METADATA_BYTES)}}, "more than 65536"),
    ],
)
def test_what_cannot_be_sent_is_refused_in_the_handler_and_not_gathered(arguments: dict[str, Any], text: str) -> None:
    parent = message()
    with pytest.raises(InvalidInput, match=text):
        parent.emit(**arguments)
    assert parent.emitted == ()
    assert parent.emit(b"fine", stream="tiles") == "m/0"


def test_one_message_emits_a_bounded_number_of_messages_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = message()
    for _ in range(MAX_EMITTED):
        parent.emit(b"", stream="tiles")
    with pytest.raises(InvalidInput, match="More than 1000 messages"):
        parent.emit(b"", stream="tiles")
    monkeypatch.setattr(message_module, "MAX_EMITTED_BYTES", 10)
    parent = message(bytes(100))
    parent.emit(parent.payload, stream="tiles")  # It is there anyway.
    parent.emit(bytes(10), stream="tiles")
    with pytest.raises(InvalidInput, match="more than 10 bytes"):
        parent.emit(b"1", stream="tiles")
    assert len(parent.emitted) == 2


def test_messages_that_emit_each_other_without_an_end_are_stopped_by_their_ids() -> None:
    parent = Message("m" * 199, "cells", memoryview(b""))
    with pytest.raises(InvalidInput, match="without an end"):
        parent.emit(b"", stream="cells")


def test_the_metadata_of_what_is_emitted_is_that_of_the_moment() -> None:
    parent, metadata = message(), {"tile": [1, 2]}
    parent.emit(b"", stream="tiles", metadata=metadata)
    metadata["tile"].append(3)
    assert parent.emitted[0].metadata == {"tile": [1, 2]}


# ── when it leaves ───────────────────────────────────────────────────────────────────────────────────────────────────


def emit_two(parent: Message) -> None:
    parent.emit(b"", stream="tiles")
    parent.emit(b"", stream="tiles")


def test_what_was_emitted_leaves_when_the_handler_has_returned() -> None:
    out = Out()

    def emit(parent: Message) -> int:
        emit_two(parent)
        assert out.ids == []
        return 3

    assert work(emit, out).run(message(), Slot(0))[0].result == 3
    assert out.ids == ["m/0", "m/1"]


def test_nothing_leaves_when_the_handler_or_a_plugin_fails_or_the_result_cannot_be_sent() -> None:
    def raise_late(parent: Message) -> None:
        emit_two(parent)
        raise ValueError

    def return_nonsense(parent: Message) -> object:
        emit_two(parent)
        return object()

    class Failing:
        def handle(self, parent: Any, call: Call) -> Any:
            call(parent)
            raise ValueError

        def close(self) -> None: ...

    out = Out()
    for failing in (work(raise_late, out), work(return_nonsense, out), work(emit_two, out, Failing())):
        assert failing.run(message(), Slot(0))[0].kind is OutcomeKind.FAILED
    assert out.ids == []


def test_a_plugin_that_forgives_a_handler_lets_nothing_leave_of_what_it_emitted_before_it_raised() -> None:
    calls = []

    def raise_first(parent: Message) -> None:
        calls.append(parent)
        parent.emit(b"", stream="tiles")
        if len(calls) == 1:
            raise ValueError

    class Forgiving:
        def handle(self, parent: Any, call: Call) -> Any:
            try:
                return call(parent)
            except ValueError:
                return "unscored"

        def close(self) -> None: ...

    class Repeating(Forgiving):
        def handle(self, parent: Any, call: Call) -> Any:
            super().handle(parent, call)
            return call(parent)

    out = Out()
    assert work(raise_first, out, Forgiving()).run(message(), Slot(0))[0].result == "unscored"
    assert out.ids == []
    calls.clear()
    assert work(raise_first, out, Repeating()).run(message(), Slot(0))[0].kind is OutcomeKind.DONE
    assert out.ids == ["m/0"]


@pytest.mark.parametrize(("error", "is_retryable"), [(Unavailable("Not in time."), True), (NotFound("None."), False)])
def test_what_cannot_be_made_safe_fails_the_parent(error: Exception, is_retryable: bool) -> None:
    outcome, _ = work(emit_two, Out(error)).run(message(), Slot(0))
    assert outcome.failure is not None
    assert (outcome.failure.text, outcome.failure.retryable) == (str(error), is_retryable)


def test_what_nobody_takes_now_is_no_fault_of_the_parent() -> None:
    outcome, detail = work(emit_two, Out(NotKept("The backlog is full.", hint="Wait."))).run(message(), Slot(0))
    assert (outcome.kind, outcome.reason, detail) == (OutcomeKind.REJECTED, RejectReason.NOT_KEPT, b"")
    assert outcome.text == "The backlog is full. Wait."


def test_a_streaming_handler_that_does_not_read_on_emits_nothing_of_a_damaged_payload() -> None:
    for is_intact, expected in ((True, ["m/0", "m/1"]), (False, [])):
        out, arrival = Out(), Arrival(memoryview(bytearray(10)))
        arrival.complete(is_intact=is_intact)
        work(emit_two, out, streaming=True).run(StreamingMessage("m", "cells", 10, PayloadReader(arrival)), Slot(0))
        assert out.ids == expected
