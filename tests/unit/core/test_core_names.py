"""Names and message ids: what may become a file name, a URL part or a label."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonicio.core.errors import InvalidInput
from harmonicio.core.names import check_message_id, check_name

#: What somebody would read as other letters, or as a way to another folder.
LOOK_ALIKES = [
    "\N{CYRILLIC SMALL LETTER A}",
    "\N{FULLWIDTH LATIN SMALL LETTER A}",
    "\N{FULLWIDTH DIGIT ONE}",
    "a\N{FULLWIDTH FULL STOP}\N{FULLWIDTH FULL STOP}",
    "a\N{DIVISION SLASH}b",
    "a\N{FRACTION SLASH}b",
    "a\N{TWO DOT LEADER}",
    "a\N{COMBINING ACUTE ACCENT}",
]
#: What turns the direction of a line, ends it, or is not seen in it.
UNSEEN = [
    "a\N{RIGHT-TO-LEFT OVERRIDE}b",
    "a\N{LEFT-TO-RIGHT ISOLATE}b",
    "a\N{ZERO WIDTH SPACE}b",
    "a\N{ZERO WIDTH JOINER}b",
    "a\N{SOFT HYPHEN}b",
    "a\N{LINE SEPARATOR}b",
    "a\N{NO-BREAK SPACE}b",
    "\N{ZERO WIDTH NO-BREAK SPACE}a",
]


@pytest.mark.parametrize("name", ["a", "A1", "images", "gfp-2.0_b", "9", "x" * 100])
def test_a_plain_name_is_taken(name: str) -> None:
    assert check_name("stream", name) == name


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(2000):
        value = [value]
    return value


@pytest.mark.row("S7")
@pytest.mark.parametrize(
    "name",
    [
        *LOOK_ALIKES,
        "",
        ".",
        "..",
        "../up",
        "a/b",
        "a\\b",
        "-x",
        ".x",
        "a b",
        "é",
        "a\0",
        "a\n",
        "x" * 101,
        "x" * 4096,
        None,
        7,
        b"a",
    ],
    ids=lambda name: repr(name)[:20],
)
def test_a_name_that_could_be_a_path_or_break_a_line_is_refused(name: object) -> None:
    with pytest.raises(InvalidInput, match="is not a stream name") as caught:
        check_name("stream", name)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("message_id", ["a", "image 7 of plate µ", "00ff" * 8, "x" * 200, "é" * 100])
def test_one_printable_line_is_a_message_id(message_id: str) -> None:
    assert check_message_id(message_id) == message_id


@pytest.mark.row("S7")
@pytest.mark.parametrize(
    "message_id",
    [
        *UNSEEN,
        "x" * 4096,
        "",
        " ",
        "a\nb",
        "a\0b",
        "\x1b[31m",
        "\ud800",
        "x" * 201,
        "é" * 101,
        None,
        7,
        b"a",
        ["a"],
        deep(),
    ],
    ids=lambda value: ascii(value)[:20] if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_printable_line_is_no_message_id(message_id: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_message_id(message_id)
    assert len(str(caught.value)) < 300


@given(st.text() | st.none() | st.integers() | st.binary())
def test_any_value_is_a_name_or_refused_with_our_error(value: object) -> None:
    for check in (check_message_id, lambda name: check_name("tier", name)):
        try:
            assert check(value) == value
        except InvalidInput:
            continue
