"""What others wrote moves no cursor and ends no line."""

from __future__ import annotations

import pytest

from harmonicio.core.printable import one_line, printable, printable_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Zelle µ", "Zelle µ"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("two\nlines", r"two\nlines"),
        ("\udcff", r"\udcff"),
        ("", ""),
    ],
)
def test_what_a_terminal_could_obey_is_made_visible(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(text).isprintable()


def test_several_lines_become_a_sentence() -> None:
    assert one_line("no GPU\n  at all\x07 \t!\n") == r"no GPU at all\x07 !"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\tand\n", "two\nlines\tand\n"),
        ("50%\r100%\n\x1b[2J\ttitle\x07", "50%\\r100%\n\\x1b[2J\ttitle\\x07"),
        ("", ""),
    ],
)
def test_of_a_text_of_several_lines_a_terminal_obeys_line_ends_and_tabs_only(text: str, shown: str) -> None:
    assert printable_lines(text) == shown
