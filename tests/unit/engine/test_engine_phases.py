"""An engine says whether a handler runs, or has returned and its message is being kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from harmonicio.core.message import OutcomeKind
from harmonicio.engine.handler import Handler
from harmonicio.engine.message import Emission, Message
from harmonicio.engine.plugin import Call
from harmonicio.engine.slots import Slot, Slots
from harmonicio.engine.streaming import Arrival, PayloadReader, StreamingMessage
from harmonicio.engine.work import Work


class Board:
    """Keeps what is written, in order."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.since = 0.0

    def begin(self, row: int, message_id: str, since: float) -> None:
        self.log.append(f"{message_id} runs")

    def returned(self, row: int, message_id: str, since: float) -> None:
        self.log.append(f"{message_id} is kept")
        self.since = since

    def end(self, row: int) -> None:
        self.log.append("nothing")


class Plugin:
    """Does with the call what it is told."""

    def __init__(self, handle: Callable[[Any, Call], Any]) -> None:
        self.handle = handle

    def close(self) -> None: ...


class Bench:
    """One slot with its board, and the work that is done in it."""

    def __init__(
        self, function: Callable[[Any], Any], *plugins: Callable[[Any, Call], Any], streams: bool = False
    ) -> None:
        self.board = Board()
        self.slot = Slot(0)
        self.slot.write_to(self.board)  # type: ignore[arg-type]
        self.delivered_from = 0.0
        handler = Handler(function, None, None, streams, "test")
        self.work = Work(handler, {}, [Plugin(each) for each in plugins], deliver=self._deliver)

    def _deliver(self, emissions: Sequence[Emission], returned_at: float) -> None:
        self.board.log.append("delivering")
        self.delivered_from = returned_at

    def run(self, message_id: str = "m") -> OutcomeKind:
        self.slot.begin(message_id, time.monotonic())
        return self.work.run(Message(message_id, "cells", memoryview(b"")), self.slot)[0].kind


def through(message: Any, call: Call) -> Any:
    return call(message)


def test_with_plugins_the_handlers_return_is_said_once_however_many_there_are() -> None:
    bench = Bench(lambda message: bench.board.log.append("handler"), through, through)
    assert bench.run() is OutcomeKind.DONE
    assert bench.board.log == ["m runs", "handler", "m is kept"]


def test_without_plugins_nothing_is_written_but_that_the_handler_begins() -> None:
    bench = Bench(lambda message: None)
    assert bench.run() is OutcomeKind.DONE
    assert bench.board.log == ["m runs"]


def test_a_plugin_sees_the_slot_in_both_phases_and_so_does_a_second_call() -> None:
    seen: list[bool] = []

    def twice(message: Any, call: Call) -> Any:
        for _ in range(2):
            call(message)
            seen.append(bench.slot.has_returned)

    bench = Bench(lambda message: seen.append(bench.slot.has_returned), twice)
    bench.run()
    assert seen == [False, True, False, True]
    assert bench.board.log == ["m runs", "m is kept", "m runs", "m is kept"]


def test_a_handler_that_raises_has_returned_for_the_plugin_that_records_it() -> None:
    def fail(message: Any) -> None:
        raise ValueError

    def forgive(message: Any, call: Call) -> Any:
        try:
            call(message)
        except ValueError:
            bench.board.log.append("recorded")

    bench = Bench(fail, forgive)
    assert bench.run() is OutcomeKind.DONE
    assert bench.board.log == ["m runs", "m is kept", "recorded"]


@pytest.mark.parametrize("is_next_kept", [False, True])
def test_a_call_that_a_plugin_has_given_up_says_nothing_of_the_next_message(is_next_kept: bool) -> None:
    called: list[tuple[Call, Any]] = []

    def give_up_the_first(message: Any, call: Call) -> Any:
        called.append((call, message))
        if message.id == "next":
            if is_next_kept:
                call(message)
            late_call, late_message = called[0]
            late_call(late_message)  # As the thread does in which it runs.

    bench = Bench(lambda message: None, give_up_the_first)
    bench.run("late")
    bench.run("next")
    assert bench.board.log == ["late runs", "next runs", *(["next is kept"] if is_next_kept else [])]
    assert bench.slot.has_returned is is_next_kept


def test_a_call_that_is_late_when_its_slot_is_free_is_not_on_the_board() -> None:
    called: list[tuple[Call, Any]] = []
    bench = Bench(lambda message: None, lambda message, call: called.append((call, message)) or call(message))
    bench.run()
    bench.slot.end()
    call, message = called[0]
    call(message)
    assert bench.board.log == ["m runs", "m is kept", "nothing"]


def test_what_is_emitted_has_its_time_from_when_the_handler_returned() -> None:
    bench = Bench(lambda message: message.emit(b"", stream="tiles"))
    before = time.monotonic()
    bench.run()
    assert bench.board.log == ["m runs", "m is kept", "delivering"]
    assert before <= bench.delivered_from == bench.board.since


@pytest.mark.parametrize("plugins", [(), (through,)])
def test_what_a_streaming_handler_that_emits_has_not_waited_for_arrives_in_the_handlers_time(
    plugins: tuple[Callable[[Any, Call], Any], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(lambda message: message.emit(b"", stream="tiles"), *plugins, streams=True)
    arrival = Arrival(memoryview(bytearray(10)))

    def arrive(reader: PayloadReader) -> bool:
        bench.board.log.append("arriving")
        return True

    monkeypatch.setattr(PayloadReader, "wait_until_arrived", arrive)
    arrival.complete(is_intact=True)
    bench.slot.begin("m", time.monotonic())
    bench.work.run(StreamingMessage("m", "cells", 10, PayloadReader(arrival)), bench.slot)
    assert bench.board.log[:3] == ["m runs", "arriving", "m is kept"]
    assert bench.board.log[-1] == "delivering"


def test_what_is_emitted_behind_a_plugin_has_its_time_from_the_return_not_from_the_plugins_end() -> None:
    bench = Bench(lambda message: message.emit(b"", stream="tiles"), through)
    bench.run()
    assert bench.board.log == ["m runs", "m is kept", "delivering"]
    assert bench.delivered_from == bench.board.since


def test_an_engines_own_report_says_what_is_being_kept_and_for_how_long() -> None:
    slots = Slots(1, prefetch_s=0.1, budget_bytes=10**6)
    slot = slots.acquire(0.0, is_backlog=False)
    assert slot is not None
    begun_at = time.monotonic()
    slot.begin("m", begun_at)
    (running,) = slots.running(begun_at + 5.0)
    assert (running.message, running.running_s, running.has_returned) == ("m", 5.0, False)
    returned_at = slot.handler_returned(slot.turn)
    (kept,) = slots.running(returned_at + 3.0)
    assert (kept.message, kept.has_returned) == ("m", True)
    assert abs(kept.running_s - 3.0) < 1e-6
    slots.release(slot, 1, 0.0)
    assert slots.running(returned_at) == ()
    slot.begin("next", returned_at)
    assert [each.has_returned for each in slots.running(returned_at)] == [False]
    slots.close()
