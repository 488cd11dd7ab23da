"""A source that a test has started, and what became of its messages."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harmonicio.testing.waiting import wait_until

#: What a message is that is not safe.
_UNSAFE = ("waiting", "in_flight", "rejected")


class Sending:
    """A source that sends.

    Args:
        said: The file with its output.
    """

    def __init__(self, process: subprocess.Popen[bytes], said: Path) -> None:
        self._process = process
        self._said = said

    @property
    def last(self) -> Mapping[str, Any]:
        """What it said last: how many messages it has sent, and how many of them are in which state."""
        whole, _, _ = self._said.read_text().rpartition("\n")
        said: Mapping[str, Any] = (
            json.loads(whole.splitlines()[-1]) if whole else {"sent": 0, "states": {}, "routes": {}}
        )
        return said

    @property
    def safe(self) -> int:
        """How many messages are with the master or done."""
        return sum(count for state, count in self.last["states"].items() if state not in _UNSAFE)

    @property
    def done(self) -> int:
        return int(self.last["states"].get("done", 0))

    @property
    def straight(self) -> int:
        """How many messages engines have answered that came straight to them."""
        return int(self.last["routes"].get("engine", 0))

    def wait_for(self, done: int, within_s: float = 60.0) -> None:
        """Wait until so many messages are done."""
        wait_until(lambda: self.done >= done, within_s, what=f"{done} messages to be done")

    def goes_on(self, messages: int, within_s: float = 60.0) -> None:
        """Wait until so many more messages are safe."""
        goal = self.safe + messages
        wait_until(lambda: self.safe >= goal, within_s, what=f"{messages} more messages to be safe")

    def goes_straight(self, messages: int, within_s: float = 90.0) -> None:
        """Wait until engines have answered so many more messages that came straight to them."""
        goal = self.straight + messages
        wait_until(lambda: self.straight >= goal, within_s, what=f"{messages} more messages to go to engines")

    def stop(self) -> None:
        """Let it send no more, and wait for what it has sent."""
        self._process.terminate()

    def finish(self, within_s: float = 300.0) -> Mapping[str, Any]:
        """Return its last words, when all that it has sent is done and every result is right."""
        assert self._process.wait(within_s) == 0, self.last
        said = self.last
        assert said["states"] == {"done": said["sent"]}, {**said, "ids": ...}
        assert said["wrong"] == []
        assert len(set(said["ids"])) == said["sent"]
        return said
