"""Notices that file descriptors were closed under their owner: what runs in the same process can do that."""

from __future__ import annotations

import os


class OpenFiles:
    """Descriptors that their owner has opened and not closed.

    Args:
        descriptors: As they are now.
    """

    def __init__(self, *descriptors: int) -> None:
        self._known = {each: _identity(each) for each in descriptors}

    def __repr__(self) -> str:
        return f"<OpenFiles {sorted(self._known)}>"

    @property
    def are_intact(self) -> bool:
        """Whether each descriptor still stands for its own file: its number may have been given to another since."""
        try:
            return all(_identity(each) == known for each, known in self._known.items())
        except OSError:
            return False


def _identity(descriptor: int) -> tuple[int, int]:
    about = os.fstat(descriptor)
    return about.st_dev, about.st_ino
