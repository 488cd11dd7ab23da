"""Options of a declaration, checked where they are read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harmonicio.core.errors import ConfigurationError


def check_options(what: str, options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Refuse options that nobody would read.

    Raises:
        ConfigurationError: names the first unknown option and what is known.
    """
    for key in options:
        if key not in known:
            raise ConfigurationError(
                f"{what} has no option {key!r:.60}.", hint=f"Known are {', '.join(known) or 'none'}."
            )


def text_option(what: str, options: Mapping[str, Any], key: str, default: str | None = None) -> str:
    """Return an option that is text.

    Raises:
        ConfigurationError: it is missing and has no default, or is something else.
    """
    value = options.get(key, default)
    if not isinstance(value, str) or not value:
        raise _unusable(what, options, key, "a text")
    return value


def number_option(what: str, options: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """Return an option that is a finite number.

    Raises:
        ConfigurationError: it is missing and has no default, or is something else.
    """
    value = options.get(key, default)
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:
        pass  # An integer beyond all floats.
    raise _unusable(what, options, key, "a finite number")


def count_option(what: str, options: Mapping[str, Any], key: str, default: int) -> int:
    """Return an option that is a positive integer.

    Raises:
        ConfigurationError: it is something else.
    """
    value = options.get(key, default)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**63:
        return value
    raise _unusable(what, options, key, "an integer of at least 1")


def path_option(what: str, options: Mapping[str, Any], key: str) -> Path:
    """Return an option that is an absolute path.

    Raises:
        ConfigurationError: it is missing or something else.
    """
    value = options.get(key)
    if isinstance(value, (str, Path)) and Path(value).is_absolute() and "\0" not in str(value):
        return Path(value)
    raise ConfigurationError(f"{what} needs an absolute {key!r}, not {shown(value)}.")


def shown(value: object) -> str:
    """Return a value as errors show it, however long it is and even where its own ``repr`` raises."""
    try:
        return f"{value!r:.60}"
    except Exception:  # noqa: BLE001  an integer of 5,000 digits, or code of the user's
        return f"a value of type {type(value).__name__}"


def _unusable(what: str, options: Mapping[str, Any], key: str, expected: str) -> ConfigurationError:
    if key not in options:
        return ConfigurationError(f"{what} needs the option {key!r}.", hint=f"It is {expected}.")
    return ConfigurationError(f"{what} has {shown(options[key])} as {key!r}.", hint=f"Give {expected}.")
