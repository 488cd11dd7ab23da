"""The thread that answers wishes for logs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from harmonicio.control.log_messages import LogAnswer, LogPart, LogWish
from harmonicio.core.errors import MasterUnavailable, NotFound
from harmonicio.testing.waiting import wait_until
from harmonicio.worker import log_reader
from harmonicio.worker.log_reader import LogReader


class Logs:
    """Logs of which every character is a mark, and the answers."""

    def __init__(self) -> None:
        self.texts = {"e-1": ""}
        self.ended: set[str] = set()
        self.answers: list[LogAnswer] = []
        self.is_master_away = False
        self.reader = LogReader(self._read, self._answer)
        self.reader.start()

    def _read(self, engine: str, after: str) -> LogPart:
        if engine == "e-bug":
            raise MemoryError("once")
        if engine not in self.texts:
            raise NotFound(f"There is no log of engine {engine!r} here.", hint="Really.")
        text = self.texts[engine]
        return LogPart(text[int(after or 0) :], str(len(text)), engine in self.ended)

    def _answer(self, answer: LogAnswer) -> None:
        if self.is_master_away:
            self.is_master_away = False
            raise MasterUnavailable("The master is away.")
        self.answers.append(answer)

    def want(self, wish: LogWish) -> LogAnswer:
        self.reader.want([wish])
        return self.wait_for(wish.wish)

    def wait_for(self, wish: str) -> LogAnswer:
        wait_until(lambda: [each for each in self.answers if each.wish == wish], what=f"an answer to {wish}")
        return next(each for each in self.answers if each.wish == wish)


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Logs]:
    monkeypatch.setattr(log_reader, "LOOK_EVERY_S", 0.02)
    logs = Logs()
    yield logs
    logs.reader.close()


def test_the_end_of_a_log_is_answered_at_once_even_if_it_is_empty(logs: Logs) -> None:
    assert logs.want(LogWish("w-1", "e-1", wait_s=10.0)).part == LogPart("", "0")


def test_what_comes_after_a_mark_is_waited_for(logs: Logs) -> None:
    logs.reader.want([LogWish("w-1", "e-1", after="0", wait_s=10.0)])
    assert logs.want(LogWish("w-2", "e-1")).part == LogPart("", "0")
    assert [each.wish for each in logs.answers] == ["w-2"]
    logs.texts["e-1"] = "hello\n"
    assert logs.wait_for("w-1").part == LogPart("hello\n", "6")


def test_the_end_of_an_engine_is_an_answer_and_so_is_the_end_of_the_time(logs: Logs) -> None:
    assert logs.want(LogWish("w-1", "e-1", after="0", wait_s=0.1)).part == LogPart("", "0")
    logs.reader.want([LogWish("w-2", "e-1", after="0", wait_s=10.0)])
    logs.ended.add("e-1")
    assert logs.wait_for("w-2").part == LogPart("", "0", is_over=True)


@pytest.mark.parametrize(
    ("engine", "code", "text"),
    [
        ("e-unknown", "not_found", "There is no log of engine 'e-unknown' here."),
        ("../e-1", "invalid_input", "'../e-1' is not a engine name."),
        ("e-bug", "", "The log cannot be read (MemoryError)."),
    ],
)
def test_what_is_in_the_way_is_an_answer_and_ends_nothing(logs: Logs, engine: str, code: str, text: str) -> None:
    answer = logs.want(LogWish("w-1", engine, after="0", wait_s=10.0))
    assert (answer.part, answer.code, answer.text) == (None, code, text)
    assert logs.want(LogWish("w-2", "e-1")).part is not None


def test_a_master_that_is_away_is_not_told_again(logs: Logs) -> None:
    logs.is_master_away = True
    logs.reader.want([LogWish("w-1", "e-1")])
    wait_until(lambda: not logs.is_master_away)
    logs.want(LogWish("w-2", "e-1"))
    assert [each.wish for each in logs.answers] == ["w-2"]


def test_at_the_end_all_are_answered_with_what_is_there(logs: Logs) -> None:
    logs.reader.want(LogWish(f"w-{number}", "e-1", after="0", wait_s=10.0) for number in range(3))
    logs.ended.add("e-1")
    logs.reader.close()
    assert [each.part for each in logs.answers] == [LogPart("", "0", is_over=True)] * 3


def test_more_wishes_than_anybody_may_have_are_not_noted(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_reader, "MAX_WISHES", 2)
    logs.reader.want(LogWish(f"w-{number}", "e-1", after="0", wait_s=10.0) for number in range(5))
    assert "2 wishes" in repr(logs.reader)


def test_a_log_that_takes_long_to_read_holds_nobody_up_who_wishes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_reader, "JOIN_S", 0.1)
    is_read = threading.Event()

    def read(engine: str, after: str) -> LogPart:
        assert is_read.wait(20)
        return LogPart("", "")

    answers: list[LogAnswer] = []
    reader = LogReader(read, answers.append)
    reader.start()
    began = time.monotonic()
    reader.want([LogWish("w-1", "e-1")])
    reader.close()
    assert time.monotonic() - began < 5
    is_read.set()
    wait_until(lambda: answers)
