"""The handler, called as an engine calls it: no cluster is needed for that."""

from __future__ import annotations

from pathlib import Path

from harmonicio.engine import Message
from harmonicio.engine.handler import load

ENGINE = load(str(Path(__file__).with_name("engine.py")))


def answer(payload: bytes, **parameters: float) -> dict[str, float]:
    found: dict[str, float] = ENGINE.function(Message("m1", "ENGINE_NAME", memoryview(payload)), **parameters)
    return found


def test_bytes_that_are_all_the_same_have_no_content() -> None:
    assert answer(bytes(1_000)) == {"entropy": 0.0, "has_content": 0.0}


def test_bytes_that_are_all_different_have_8_bits_each() -> None:
    assert answer(bytes(range(256))) == {"entropy": 8.0, "has_content": 1.0}


def test_how_much_is_enough_is_a_parameter() -> None:
    assert answer(b"abab", min_entropy=1.0)["has_content"] == 1.0
    assert answer(b"abab", min_entropy=1.1)["has_content"] == 0.0


def test_an_empty_message_has_no_content() -> None:
    assert answer(b"") == {"entropy": 0.0, "has_content": 0.0}
