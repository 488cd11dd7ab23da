"""How one setting's value is read, whether it comes from TOML (typed) or from the environment and flags (text).

A reader takes what was given and returns the typed value, or raises :class:`InvalidInput` whose hint says what may be
given. Readers with limits are made by the functions that take them.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

from harmonicio.core.errors import InvalidInput
from harmonicio.core.sizes import parse_size

Reader = Callable[[Any], Any]

#: Longer numbers are nobody's, and Python does not read those of thousands of digits.
MAX_DIGITS = 30
_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def text(raw: Any) -> str:
    if not isinstance(raw, str) or not raw.isprintable():
        raise InvalidInput("This is not text.", hint="Use one line of text.")
    return raw


def truth(raw: Any) -> bool:
    given = str(raw).lower()
    if given not in _YES + _NO:
        raise InvalidInput("This is not a truth value.", hint="Use true or false.")
    return given in _YES


def whole(*, at_least: int = 0, at_most: int = 2**62) -> Reader:
    """Return a reader of whole numbers within these limits."""

    def read(raw: Any) -> int:
        value = -1
        if isinstance(raw, str) and raw.isdecimal() and len(raw) <= MAX_DIGITS:
            value = int(raw)
        elif isinstance(raw, int) and not isinstance(raw, bool):
            value = raw
        if value < 0 or not at_least <= value <= at_most:
            raise InvalidInput("This number cannot be used.", hint=f"Use a whole number, {at_least} to {at_most}.")
        return value

    return read


def size(*, at_least: int = 0) -> Reader:
    """Return a reader of bytes, given as a number or as text like ``"256 MiB"``."""

    def read(raw: Any) -> int:
        is_whole = isinstance(raw, int) and not isinstance(raw, bool)
        size_bytes = parse_size(raw) if isinstance(raw, str) else raw if is_whole else -1
        if not at_least <= size_bytes <= 2**62:
            raise InvalidInput(
                "This size cannot be used.", hint=f"Use bytes, at least {at_least}, like 4096 or '256 MiB'."
            )
        return size_bytes

    return read


def texts(raw: Any) -> tuple[str, ...]:
    """Read several texts: a list, or one text with commas between them."""
    given = [each.strip() for each in raw.split(",")] if isinstance(raw, str) else raw
    if not isinstance(given, (list, tuple)):
        raise InvalidInput("This is not a list.", hint="Use a list of texts, or one text with commas between them.")
    return tuple(text(each) for each in given if each != "")


def number(*, at_most: float) -> Reader:
    """Return a reader of numbers from 0."""

    def read(raw: Any) -> float:
        try:
            value = float("nan" if isinstance(raw, bool) else raw)
        except (TypeError, ValueError):
            value = float("nan")
        if not 0 <= value <= at_most:
            raise InvalidInput("This number cannot be used.", hint=f"Use a number, 0 to {at_most:g}.")
        return value

    return read


def seconds(raw: Any) -> float:
    try:
        return float(number(at_most=10**9)(raw))
    except InvalidInput:
        raise InvalidInput("This is not a duration.", hint="Use a number of seconds, 0 or more.") from None


def choice(kind: type[StrEnum]) -> Reader:
    """Return a reader of one of an enum's words."""

    def read(raw: Any) -> StrEnum:
        if raw not in list(kind):
            raise InvalidInput("This word is not known.", hint=f"Use one of {', '.join(kind)}.")
        return kind(raw)

    return read


def url(raw: Any) -> str:
    given = text(raw)
    if not given.startswith(("http://", "https://")):
        raise InvalidInput("This is not a URL.", hint="Use an address like http://127.0.0.1:8710.")
    return given.rstrip("/")


def path(raw: Any) -> Path:
    given = text(str(raw) if isinstance(raw, Path) else raw)
    if not given:
        raise InvalidInput("This is not a path.", hint="Use the path of a file or folder.")
    return Path(given)
