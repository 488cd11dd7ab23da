"""What a handler gets cannot be changed, and nothing of it is another message's."""

from __future__ import annotations

import pytest

from harmonicio.core.errors import RemoteProtocolError
from harmonicio.engine.message import Message
from harmonicio.wire.sections import source_section

FIELDS = {
    "id": "m",
    "stream": "cells",
    "payload": memoryview(b"pixels"),
    "metadata": {"well": "B03"},
    "priority": 3,
    "attempt": 2,
    "route": "backlog",
}


def message(**fields: object) -> Message:
    return Message("m", "cells", memoryview(b"pixels"), **fields)  # type: ignore[arg-type]


def test_a_message_says_what_it_was_made_with() -> None:
    made = Message(*FIELDS.values())  # type: ignore[arg-type]
    assert {name: getattr(made, name) for name in FIELDS} == FIELDS
    assert {name: getattr(Message(**FIELDS), name) for name in FIELDS} == FIELDS  # type: ignore[arg-type]
    assert repr(made) == "<Message 'm' of 'cells', 6 bytes, attempt 2>"


def test_what_is_not_said_of_a_message_is_what_is_so_of_most() -> None:
    made = message()
    assert (made.metadata, made.priority, made.attempt, made.route) == ({}, 0, 1, "engine")
    assert (made.emitted, made.has_emitted) == ((), False)


@pytest.mark.parametrize("name", FIELDS)
def test_a_handler_can_neither_change_nor_remove_what_a_message_says(name: str) -> None:
    made = Message(**FIELDS)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        setattr(made, name, "another")
    with pytest.raises(AttributeError):
        delattr(made, name)
    assert getattr(made, name) == FIELDS[name]


def test_a_message_takes_no_notes() -> None:
    with pytest.raises(AttributeError):
        message().note = "mine"  # type: ignore[attr-defined]


def test_what_is_written_into_empty_metadata_is_in_no_other_messages() -> None:
    first, second = message(), message()
    first.metadata["seen"] = True  # type: ignore[index]
    assert first.metadata == {"seen": True}, "and it is still there for whoever looks at the same message"
    assert second.metadata == message().metadata == {}


def test_metadata_is_read_from_the_section_when_somebody_looks_at_it() -> None:
    made = message(section=source_section({"well": "B03"}, ""))
    made.metadata["seen"] = True  # type: ignore[index]
    assert made.metadata == {"well": "B03", "seen": True}
    broken = message(section=b"\x81\xa8metadata\xc1")
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="not msgpack"):
            _ = broken.metadata
