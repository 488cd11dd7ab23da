"""The log of a container in parts: entries of one moment, out of order, and of lines that are written bit by bit."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from harmonicio.worker.containers import docker_log
from harmonicio.worker.containers.docker_log import LogEntry, entries, last_entries, listed, part_of

OUT, ERR = 1, 2
NOON = 1_795_262_400


def entry(text: str, second: float, output: int = OUT) -> LogEntry:
    """An entry of so many seconds after noon."""
    return LogEntry(f"2026-11-21T12:00:{second:012.9f}Z".encode(), output, text.encode())


def frames(*written: LogEntry) -> bytes:
    """What the Docker engine sends."""
    lines = [(each.output, each.stamp + b" " + each.text) for each in written]
    return b"".join(bytes((output, 0, 0, 0)) + len(line).to_bytes(4, "big") + line for output, line in lines)


class Container:
    """A log that grows, and is listed like the Docker engine does."""

    def __init__(self, *written: LogEntry) -> None:
        self.written = list(written)
        self.mark = ""

    def source(self, since: int, last: int) -> Iterable[LogEntry]:
        yield from [each for each in self.written if each.second >= since][-last:]

    def read(self, max_bytes: int = 1000, *, has_ended: bool = False) -> str:
        part = part_of(self.source, self.mark, max_bytes, has_ended=has_ended)
        self.mark = part.mark
        return part.text


def test_entries_are_found_however_the_answer_is_cut() -> None:
    written = [entry("one\n", 1), entry("", 1, ERR), entry("two", 2)]
    sent = frames(*written)
    assert list(entries([sent])) == written
    assert list(entries(sent[at : at + 1] for at in range(len(sent)))) == written
    assert list(entries([sent[:-1]])) == written[:-1]
    assert written[0].second == NOON + 1


def test_what_the_docker_engine_says_in_between_is_an_error() -> None:
    with pytest.raises(ValueError, match="was removed"):
        list(entries([b"\3\0\0\0\0\0\0\x15error log was removed"]))


def test_an_entry_longer_than_a_docker_engine_sends_is_refused_before_it_is_gathered() -> None:
    read = 0

    def endless() -> Iterable[bytes]:
        nonlocal read
        yield b"\1\0\0\0\xff\xff\xff\xff"
        while True:
            read += 1
            yield bytes(65536)

    with pytest.raises(ValueError, match="4294967303 bytes"):
        list(entries(endless()))
    assert read == 0
    longest = entry("x" * 262_144, 1)
    assert list(entries([frames(longest)])) == [longest]


def test_each_part_begins_where_the_last_one_ended() -> None:
    log = Container(entry("one\n", 1))
    assert (log.read(), log.read()) == ("one\n", "")
    log.written += [entry("two\n", 1), entry("three\n", 5)]
    assert (log.read(), log.read()) == ("two\nthree\n", "")


def test_entries_of_one_moment_are_told_apart() -> None:
    log = Container(*[entry(f"{number}\n", 1) for number in range(3)])
    assert log.read() == "0\n1\n2\n"
    log.written += [entry("3\n", 1), entry("4\n", 1)]
    assert log.read() == "3\n4\n"


def test_an_entry_that_is_older_than_one_that_came_before_it_is_not_missed() -> None:
    log = Container(entry("out\n", 3.5))
    assert log.read() == "out\n"
    log.written.append(entry("err\n", 3.4, ERR))
    assert log.read() == "err\n"
    log.written.append(entry("late\n", 2.9, ERR))
    assert log.read() == "late\n"


def test_a_line_that_is_written_bit_by_bit_has_the_moment_of_its_beginning_and_is_not_missed() -> None:
    log = Container(entry("10%..", 1))
    assert log.read() == "10%.."
    for second in range(10, 20):
        log.written += [entry("more..", 1), entry("meanwhile\n", second, ERR)]
        assert log.read() == "more..meanwhile\n"
    log.written += [entry("100%\n", 1), entry("after\n", 30)]
    assert (log.read(), log.read()) == ("100%\nafter\n", "")


def test_a_part_is_bounded_and_the_next_one_goes_on() -> None:
    log = Container(entry("begin\n", 1))
    log.read()
    log.written += [entry(f"{number:03}\n", 2) for number in range(10)]
    assert [log.read(12) for _ in range(5)] == ["000\n001\n002\n", "003\n004\n005\n", "006\n007\n008\n", "009\n", ""]


def test_the_end_of_a_log_has_as_much_as_a_part_may_have() -> None:
    log = Container(*[entry(f"{number:03}\n", number) for number in range(10)])
    assert (log.read(10), log.read(10)) == ("008\n009\n", "")


def test_a_log_is_over_when_its_engine_has_ended_and_all_was_read() -> None:
    log = Container(entry("one\n", 1))
    log.read()
    log.written += [entry("two\n", 2), entry("six\n", 3)]
    assert not part_of(log.source, log.mark, 4, has_ended=True).is_over
    assert part_of(log.source, log.mark, 8, has_ended=True).is_over
    assert not part_of(log.source, log.mark, 8, has_ended=False).is_over


def test_more_than_is_asked_for_first_may_have_come_within_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_log, "FEW_ENTRIES", 5)
    log = Container(*[entry(f"{number}\n", 1) for number in range(20)])
    assert log.read(8) == "18\n19\n"
    log.written += [entry(f"{number}\n", 1) for number in range(20, 30)]
    assert log.read() == "".join(f"{number}\n" for number in range(20, 30))
    log.written += [entry(f"{number}\n", 9) for number in range(30, 50)]
    assert (log.read(), log.read()) == ("".join(f"{number}\n" for number in range(30, 50)), "")


def test_a_place_in_a_log_that_is_gone_is_answered_with_what_is_there() -> None:
    log = Container(entry("old\n", 30))
    log.read()
    log.written[:] = [entry("new\n", 2)]
    assert (log.read(), log.read()) == ("new\n", "")


def test_a_log_is_kept_as_it_was() -> None:
    written = [entry("one\n", 1), entry(" two  \r", 2, ERR), entry("\n", 2, ERR), entry("no end", 3)]
    kept = [LogEntry.of_line(each.as_line()) for each in written]
    assert kept == written
    log = Container(*written)
    log.read()
    assert part_of(listed(kept), log.mark, 100, has_ended=True).text == ""
    assert part_of(listed(kept), "", 100, has_ended=True).text == "one\n two  \r\nno end"
    assert [each.text for each in last_entries(log.source, 10, 8)] == [b"\n", b"no end"]
