"""What stands in a log or on a terminal: texts of others, of which nothing is obeyed, and things that are counted."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return the text with everything that a terminal could obey made visible: ``\x1b``, ``\n`` …"""
    return text if text.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def counted(number: int, singular: str, plural: str = "") -> str:
    """Return so many things in words: `1 message`, `2 messages`."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def printable_lines(text: str) -> str:
    """Return the text likewise, but with its line ends and tabs."""
    kept = text.replace("\n", "").replace("\t", "")
    return text if kept.isprintable() else "".join(each if each in "\n\t" else printable(each) for each in text)


def one_line(text: str) -> str:
    """Return the text as part of a sentence: white space of any kind becomes one space, the rest is printable."""
    return printable(" ".join(text.split()))
