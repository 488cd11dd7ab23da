"""Kinds of faults."""

from __future__ import annotations

from typing import Any

KINDS: dict[str, float] = {}


class Faults:
    def __init__(self, world: Any) -> None:
        self._world = world

    def plan(self, faults: Any) -> None:
        pass

    def end_all(self) -> None:
        pass
