"""What a role logs stays one readable line per event."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from harmonicio.cli import logs


@pytest.fixture(autouse=True)
def restored_root() -> Iterator[None]:
    """Give the root logger its handlers back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_name_from_elsewhere_cannot_forge_a_line_or_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    logs.start()
    logging.getLogger("harmonicio.master").warning("stream %s", "a\n2026-01-01 INFO forged\x1b[2J")
    written = capsys.readouterr().err
    assert written.count("\n") == 1
    assert r"WARNING harmonicio.master: stream a\n2026-01-01 INFO forged\x1b[2J" in written


def test_a_traceback_is_indented_below_its_event(capsys: pytest.CaptureFixture[str]) -> None:
    logs.start()
    try:
        raise ValueError("bad\x1b[2J")
    except ValueError:
        logging.getLogger("harmonicio.master").exception("Failed.")
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.endswith("ERROR   harmonicio.master: Failed.")
    assert rest[0] == "    Traceback (most recent call last):"
    assert rest[-1] == r"    ValueError: bad\x1b[2J"


def test_what_is_below_the_level_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    logs.start("WARNING")
    logging.getLogger("harmonicio.master").info("quiet")
    assert capsys.readouterr().err == ""
