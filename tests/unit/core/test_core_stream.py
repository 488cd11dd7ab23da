"""A stream's declaration is checked before anything runs by it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from harmonicio.core.errors import InvalidInput
from harmonicio.core.stream import StreamDeclaration

GOOD = StreamDeclaration(name="images", handler="/srv/engine.py")


def test_a_declaration_with_a_handler_or_an_image_is_taken() -> None:
    assert GOOD.checked() is GOOD
    assert StreamDeclaration(name="images", image="registry/echo:1").checked().image == "registry/echo:1"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "../up"}, "stream name"),
        ({"plugins": {"a/b": {}}}, "plugin name"),
        ({"handler": ""}, "either a handler or an image"),
        ({"image": "x"}, "either a handler or an image"),
        ({"handler": "a\0b.py"}, r"handler = 'a\\x00b.py'"),
        ({"handler": "", "image": "a\nb"}, r"image = 'a\\nb'"),
        ({"engines": -1}, "engines = -1"),
        ({"engines": 10_001}, "engines"),
        ({"concurrency": 0}, "concurrency"),
        ({"timeout_s": 0.0}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s = nan"),
        ({"timeout_s": float("inf")}, "timeout_s"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_crashes": 0}, "max_crashes"),
        ({"max_message_bytes": 2**62 + 1}, "max_message_bytes"),
        ({"memory_payload_max_bytes": -1}, "memory_payload_max_bytes"),
        ({"prefetch_s": -0.1}, "prefetch_s"),
        ({"max_attempts": 1 << 20_000}, "max_attempts = a number of 20001 bits"),
        ({"handler": "/srv/" + "x" * 4_096}, "at most 4096"),
        ({"handler": "", "image": "lab/" + "x" * 4_096}, "at most 4096"),
        ({"ordered": True, "engines": 2}, "ordered"),
        ({"ordered": True, "concurrency": 2}, "ordered"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        dataclasses.replace(GOOD, **changes).checked()
