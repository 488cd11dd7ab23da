"""Which image the engines of a stream run: all of them the same, although a tag may come to mean another.

The first engine of a declaration decides; it is told to all workers, and holds for as long as an engine of that
declaration runs it. A stream that was scaled to 0 and back takes up what its tag means by then.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from harmonicio.control.messages import EngineReport
from harmonicio.core.stream import StreamDeclaration


@dataclass(slots=True)
class _Pin:
    version: int
    image: str
    holders: set[str] = field(default_factory=set)


class ImagePins:
    """The images of all streams whose engines run in containers."""

    def __init__(self) -> None:
        self._pins: dict[str, _Pin] = {}

    def __repr__(self) -> str:
        return f"<ImagePins {len(self._pins)} streams>"

    def see(self, engines: Iterable[EngineReport], version_of: Callable[[str], int | None]) -> bool:
        """Take in what a worker reports; return whether a stream has found its image.

        Args:
            version_of: Returns the version of a stream's declaration in force.
        """
        has_news = False
        for each in engines:
            if not each.image or each.stream_version != version_of(each.stream):
                continue
            pin = self._pins.get(each.stream)
            if pin is None or pin.version != each.stream_version:
                pin = self._pins[each.stream] = _Pin(each.stream_version, each.image)
                has_news = True
            if pin.image == each.image:
                pin.holders.add(each.engine)
        return has_news

    def prune(self, is_there: Callable[[str], bool]) -> bool:
        """Let go of images that no engine runs any more; return whether there were some."""
        gone = []
        for stream, pin in self._pins.items():
            pin.holders = {engine for engine in pin.holders if is_there(engine)}
            if not pin.holders:
                gone.append(stream)
        for stream in gone:
            del self._pins[stream]
        return bool(gone)

    def image_of(self, declaration: StreamDeclaration) -> str:
        """Return the digest that engines of this declaration run; empty while none does."""
        pin = self._pins.get(declaration.name)
        return pin.image if pin is not None and pin.version == declaration.version else ""
