"""What others wrote moves no cursor and ends no line."""

from __future__ import annotations

import pytest

from harmonicio.core.printable import one_line, printable


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
