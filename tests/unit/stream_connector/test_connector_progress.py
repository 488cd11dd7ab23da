"""The progress bar where standard error is no terminal."""

from __future__ import annotations

import pytest

from harmonicio.stream_connector.progress import Progress


def test_the_last_line_says_how_far_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("sent", 3) as progress:
        for _ in range(3):
            progress.advance()
    assert capsys.readouterr().err.splitlines()[-1] == "3 of 3 sent"


def test_without_a_total_only_the_count_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("processed", None) as progress:
        progress.reach(7)
    assert capsys.readouterr().err.splitlines()[-1] == "7 processed"


def test_many_steps_in_a_short_time_print_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("sent", 10_000) as progress:
        for _ in range(10_000):
            progress.advance()
    assert len(capsys.readouterr().err.splitlines()) < 10


def test_nothing_is_printed_when_it_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("sent", 3, is_shown=False) as progress:
        progress.advance()
    assert capsys.readouterr().err == ""
    assert "1 of 3 sent" in repr(progress)


def test_the_last_line_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("sent", 1) as progress:
        progress.advance()
    assert capsys.readouterr().err == "1 of 1 sent\n"
