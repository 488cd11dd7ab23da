"""The echo engine, called as an engine calls it."""

from __future__ import annotations

from pathlib import Path

from harmonicio.engine import Message
from harmonicio.engine.handler import load

ECHO = load(str(Path(__file__).with_name("engine.py")))


def test_it_says_how_much_it_got_and_what_came_along() -> None:
    message = Message("m1", "echo", memoryview(b"hello"), {"well": "B03"})
    assert ECHO.function(message) == {"size_bytes": 5, "metadata": {"well": "B03"}}


def test_an_empty_message_is_a_message() -> None:
    assert ECHO.function(Message("m1", "echo", memoryview(b""))) == {"size_bytes": 0, "metadata": {}}
