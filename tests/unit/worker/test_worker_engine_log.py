"""The log file of an engine: one row of bytes, whatever is set aside, kept or dropped."""

from __future__ import annotations

from pathlib import Path

import pytest

from harmonicio.worker.runtimes import engine_log
from harmonicio.worker.runtimes.engine_log import LOG_NAME, OLDER_NAME, bound_log, log_part, whole_log
from harmonicio.worker.runtimes.log_pieces import LogPiece, part_of


class Log:
    """A log that is written and read on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = ""

    def write(self, written: str | bytes) -> None:
        with open(self.folder / LOG_NAME, "ab") as log:
            log.write(written if isinstance(written, bytes) else written.encode())

    def read(self, max_bytes: int = 1000, *, has_ended: bool = False) -> str:
        part = log_part(self.folder, self.mark, max_bytes, has_ended=has_ended)
        self.mark = part.mark
        return part.text


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Log:
    monkeypatch.setattr(engine_log, "MAX_LOG_BYTES", 10)
    return Log(tmp_path)


def test_a_log_that_is_set_aside_is_read_on_as_if_nothing_had_happened(log: Log) -> None:
    log.write("one two three\n")
    assert log.read() == "one two three\n"
    for number in range(3):
        log.write(f"{number}: unread when set aside\n")
        bound_log(log.folder)
        assert (log.folder / LOG_NAME).stat().st_size == 0
        log.write("after\n")
        assert (log.read(), log.read()) == (f"{number}: unread when set aside\nafter\n", "")


def test_what_was_dropped_is_skipped_and_nothing_comes_twice(log: Log) -> None:
    log.write("read before\n")
    assert log.read() == "read before\n"
    for text in ("dropped and gone\n", "set aside, too\n"):
        log.write(text)
        bound_log(log.folder)
    log.write("new\n")
    assert (log.read(), log.read()) == ("set aside, too\nnew\n", "")


def test_the_end_of_a_log_is_whole_lines_also_of_what_was_set_aside(log: Log) -> None:
    log.write("first line\nsecond line\n")
    bound_log(log.folder)
    log.write("third\n")
    assert log.read(20) == "second line\nthird\n"


def test_a_character_that_is_not_complete_yet_waits_for_the_next_part(log: Log) -> None:
    log.write("é".encode()[:1])
    assert log.read() == ""
    log.write("é".encode()[1:] + b"\xff\n")
    assert (log.read(3), log.read()) == ("é\ufffd", "\n")
    log.write(b"end \xc3")
    assert log.read() == "end "
    assert log.read(has_ended=True) == "\ufffd"


def test_a_kept_log_is_read_on_where_the_engines_was_left(log: Log) -> None:
    log.write("first line\n")
    bound_log(log.folder)
    assert log.read() == "first line\n"
    log.write("second\nthird\n")
    kept = log.folder / "kept.log"
    for max_bytes in (1000, 20, 15):
        kept.write_bytes(whole_log(log.folder, max_bytes))
        with LogPiece(kept) as piece:
            part = part_of([piece], log.mark, 1000, has_ended=True)
        assert (part.text, part.is_over) == ("second\nthird\n", True)
    kept.write_bytes(whole_log(log.folder, 8))
    with LogPiece(kept) as piece:
        assert part_of([piece], log.mark, 1000, has_ended=True).text == "third\n"


def test_something_else_in_place_of_what_was_set_aside_is_not_taken_for_it(log: Log) -> None:
    (log.folder / OLDER_NAME).write_text("no number\nand no log")
    log.write("the log of an engine\n")
    assert log.read() == "the log of an engine\n"
    bound_log(log.folder)
    assert (log.folder / OLDER_NAME).read_text() == "0\nthe log of an engine\n"


def test_a_log_that_cannot_be_read_says_so_once(log: Log) -> None:
    (log.folder / LOG_NAME).mkdir()
    assert (log.read(), log.read()) == ("The log cannot be read: It is not a file.", "")
