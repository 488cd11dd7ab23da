"""Who wishes for a part of which log."""

from __future__ import annotations

import pytest

from harmonicio.control.log_messages import LOG_PART_BYTES, LogAnswer, LogPart, LogWish
from harmonicio.core.errors import InvalidInput
from harmonicio.master.log_book import LogBook

WISH = LogWish("w-1", "e-1", "7", 10.0)
PART = LogPart("hello\n", "13")


@pytest.fixture
def book() -> LogBook:
    book = LogBook()
    book.add("here", WISH)
    return book


def test_a_wish_is_told_once_and_to_its_worker_only(book: LogBook) -> None:
    assert not book.has_news("elsewhere") and book.take("elsewhere") == ()
    assert book.has_news("here") and book.take("here") == (WISH,)
    assert not book.has_news("here") and book.take("here") == ()


def test_a_part_is_there_until_the_wish_is_dropped(book: LogBook) -> None:
    assert book.answer_to("w-1") is None
    book.answer("here", LogAnswer("w-1", PART))
    assert book.answer_to("w-1") == LogAnswer("w-1", PART)
    book.drop("w-1")
    assert repr(book) == "<LogBook 0 wishes>"


def test_nobody_answers_for_another_worker_or_what_nobody_waits_for(book: LogBook) -> None:
    book.answer("elsewhere", LogAnswer("w-1", PART))
    book.answer("here", LogAnswer("w-2", PART))
    assert book.answer_to("w-1") is None
    assert repr(book) == "<LogBook 1 wishes>"


@pytest.mark.parametrize("part", [LogPart("x" * (LOG_PART_BYTES + 1), "1"), LogPart("", "1" * 101)])
def test_a_part_that_is_too_long_is_refused(book: LogBook, part: LogPart) -> None:
    with pytest.raises(InvalidInput, match="at most 65536"):
        book.answer("here", LogAnswer("w-1", part))
    assert book.answer_to("w-1") is None


def test_what_is_too_long_for_a_mark_is_refused(book: LogBook) -> None:
    with pytest.raises(InvalidInput, match="no mark"):
        book.add("here", LogWish("w-2", "e-1", "1" * 101))
    assert repr(book) == "<LogBook 1 wishes>"
