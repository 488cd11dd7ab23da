"""What the Docker engine says, and how far a pull is, in words that fit into a sentence of ours.

Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from harmonicio.core.printable import one_line

#: How a build colours lines, and how those begin that are its own and not of a command that it runs.
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_RED = "\x1b[91m"
OF_THE_BUILD = ("Step ", " ---> ", "Removing intermediate container ")


class PullProgress:
    """Says in words how far a pull is, from the lines that the Docker engine writes."""

    def __init__(self) -> None:
        self._layers: dict[str, tuple[int, int]] = {}

    def hear(self, line: Mapping[str, Any]) -> str:
        """Take in one line and return the state."""
        about, layer = line.get("progressDetail") or {}, line.get("id")
        if layer and about.get("total") and line.get("status") == "Downloading":
            self._layers[str(layer)] = (int(about.get("current") or 0), int(about["total"]))
        elif layer in self._layers and line.get("status") in ("Download complete", "Pull complete", "Already exists"):
            self._layers[str(layer)] = (self._layers[str(layer)][1],) * 2
        total = sum(each for _, each in self._layers.values())
        if not total:
            return "being pulled"
        current = sum(each for each, _ in self._layers.values())
        return f"being pulled: {current / 1e6:.0f} of {total / 1e6:.0f} MB"


def message_in(answer: str) -> str:
    """Return what the Docker engine says in an answer, which is JSON as a rule."""
    with suppress(ValueError, TypeError, KeyError):  # What is no such JSON is said as it is.
        answer = json.loads(answer)["message"]
    return one_line(str(answer))[:500].rstrip(".")


def lines_of(said: object) -> list[str]:
    """Return the lines of something that a build says; what a command writes to its standard error comes in red."""
    return [line.rstrip() for line in _COLOUR.sub("", str(said or "")).splitlines() if line.strip()]


def is_complaint(said: object) -> bool:
    """Whether a command wrote it to its standard error, which may come before what it wrote elsewhere earlier."""
    return _RED in str(said or "")


def last_probe(inspected: Mapping[str, Any]) -> str:
    """Return what a container's health check said last."""
    log = ((inspected.get("State") or {}).get("Health") or {}).get("Log") or []
    return one_line(str(log[-1].get("Output", "")))[:200] if log else ""


def root_of(error: BaseException) -> BaseException:
    """Return what the network said, which libraries wrap in errors of their own."""
    for inner in (*error.args, error.__cause__, error.__context__):
        if isinstance(inner, BaseException):
            return root_of(inner)
    return error
