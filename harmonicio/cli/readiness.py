"""How the engines of streams come up: told line by line to who runs them in the foreground.

:class:`Readiness` is pure: it is shown the streams and workers, and returns the lines that are new. :func:`follow` asks
the master and prints them until it is interrupted. Engines that are late end nothing.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from harmonicio.cli import console
from harmonicio.control.client import MasterClient
from harmonicio.control.messages import StreamView, WorkerView
from harmonicio.core.engine import Availability
from harmonicio.core.errors import Unavailable

#: Engines need a moment to find their place, and longer to start; before that their absence is no news.
PLACED_WITHIN_S, READY_WITHIN_S = 3.0, 60.0
POLL_S, POLL_SETTLED_S = 0.1, 1.0
_RUNTIME_LACKS = {
    "image": 'no worker starts containers. One does with worker.runtime = "docker".',
    "handler": 'no worker starts processes. One does with worker.runtime = "process".',
}
#: Each attempt is another engine; the same trouble is no news.
_ENGINE = re.compile(r"^Engine \S+: ")


class Readiness:
    """What has been said about some streams.

    Args:
        streams: Their names.
    """

    def __init__(self, streams: Iterable[str]) -> None:
        self._said: dict[str, str] = dict.fromkeys(streams, "")
        self._missing_since_s: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Readiness {self._said}>"

    @property
    def is_settled(self) -> bool:
        """Whether each stream is ready, or it has been said why it is not."""
        return all(self._said.values())

    def news(self, views: Sequence[StreamView], workers: Sequence[WorkerView], waited_s: float) -> list[str]:
        """Return the lines that are new, ``waited_s`` seconds after the streams were declared."""
        kinds = {kind for worker in workers for kind in worker.starts}
        troubles = {
            each.stream: _ENGINE.sub("", each.text) for worker in workers for each in worker.troubles if each.retry_in_s
        }
        by_name = {view.declaration.name: view for view in views}
        lines = []
        for name, said in self._said.items():
            line = _line(name, by_name, troubles.get(name, ""), kinds, self._missing_for_s(by_name.get(name), waited_s))
            if line not in ("", said):
                self._said[name] = line
                lines.append(line)
        return lines

    def _missing_for_s(self, view: StreamView | None, now_s: float) -> float:
        """Return how long engines of a stream have been missing."""
        if view is None:
            return 0.0
        name = view.declaration.name
        if view.running >= view.desired:
            self._missing_since_s[name] = now_s
        return now_s - self._missing_since_s.get(name, 0.0)


def _line(name: str, views: dict[str, StreamView], trouble: str, kinds: set[str], missing_s: float) -> str:
    """Return what there is to say about a stream now; nothing while its engines may still be starting."""
    view = views.get(name)
    if view is None:
        return f"Stream {name!r} has been removed."
    if view.running >= view.desired:
        return f"Stream {name!r} is ready with {console.count(view.running, 'engine')}."
    missing = f"Stream {name!r} has {view.running} of {console.count(view.desired, 'engine')}"
    if trouble:
        return f"{missing}: {trouble}"
    if view.unplaced and missing_s >= PLACED_WITHIN_S:
        is_startable = not kinds or view.declaration.kind in kinds
        return f"{missing}: {_who_holds_places(name, views) if is_startable else _RUNTIME_LACKS[view.declaration.kind]}"
    return f"{missing} after {READY_WITHIN_S:.0f} s. See: harmonicio status" if missing_s >= READY_WITHIN_S else ""


def _who_holds_places(name: str, views: dict[str, StreamView]) -> str:
    holders = [f"{each!r} holds {view.desired}" for each, view in views.items() if view.desired and each != name]
    taken = f" ({', '.join(holders)}; free them with: harmonicio stream rm NAME)" if holders else ""
    return f"the workers have no place for more{taken}. Or set worker.max_engines."


def show_troubles(workers: Sequence[WorkerView], stream: str | None = None) -> None:
    """Print why engines are missing, of all streams or of one."""
    for worker in workers:
        for each in worker.troubles:
            if stream in (None, each.stream):
                console.say(f"{worker.worker}, stream {each.stream}: {each.text} Next try in {each.retry_in_s:.0f} s.")


class EarlierEngines(NamedTuple):
    """How many engines of a stream's earlier versions take messages.

    Attributes:
        taking: As the master knows.
        lost: Of those the master hears nothing: they are gone, or sources that reach them use them.
    """

    taking: int
    lost: int


def earlier_engines(master: MasterClient, stream: str, version: int) -> EarlierEngines:
    """Return how many engines of a stream's earlier versions still take messages, or may."""
    states = [each.state for each in master.engines() if each.stream == stream and each.stream_version != version]
    lost = states.count(Availability.LOST)
    return EarlierEngines(len(states) - states.count(Availability.DRAINING) - lost, lost)


def follow(master: MasterClient, streams: Iterable[str], interrupted: threading.Event) -> None:
    """Say how these streams' engines come up, and what troubles them later, until it is interrupted."""
    readiness, begun, is_settled = Readiness(streams), time.monotonic(), False
    silence = ""
    while not interrupted.is_set():
        try:
            for line in readiness.news(master.streams(), master.workers(), time.monotonic() - begun):
                console.say(line)
            silence = ""
        except Unavailable as error:
            if not silence:
                console.say(f"{error.text} It is asked again.")
            silence = error.text
        if readiness.is_settled and not is_settled:
            is_settled = True
            console.say("Stop with Ctrl-C.")
        interrupted.wait(POLL_SETTLED_S if is_settled else POLL_S)
