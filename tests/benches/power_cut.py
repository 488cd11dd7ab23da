"""What a disk may hold after the power went: a twin of a store's files that loses and tears what was not flushed.

- The bytes of a file are certain as far as they were flushed. Later writes are there or not, each for itself, in any
  order; one may be there in part. A payload file that was never flushed holds some of its pages, and zeros.
- A name is certain once its folder was flushed after it was made, and a removed one may come back until then. SQLite
  flushes the folder together with a new log.
"""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from pathlib import Path

from benches.crash_points import die
from benches.disk_calls import Call, Watch

PAGE_BYTES = 4096
_OF_SQLITE = ("index", "wal", "journal")


@dataclass
class _Twin:
    """One file: what is certain of it, and what is not."""

    flushed: bytes = b""
    #: What SQLite did since: (offset, data), or (size, None) for a truncation.
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    is_there: bool = True
    is_name_certain: bool = False
    #: What it held when it was removed.
    remains: bytes = b""


class PowerCut(Watch):
    """Cuts the power right before the n-th change: makes images of the disk, and ends the process.

    Args:
        folder: The store's.
        images: Folders to be made, each with another chance of what was lost.
        number: 0 never cuts it; :attr:`changes` counts.
    """

    def __init__(self, folder: Path, images: list[Path], number: int, seed: int) -> None:
        self._folder = folder.resolve()
        self._images = images
        self._number = number
        self._seed = seed
        self._files: dict[Path, _Twin] = {}
        self._lock = threading.Lock()
        self.changes = 0

    def before(self, call: Call) -> int:
        if call.is_reading or call.name.endswith(".mkdir"):
            return 0
        with self._lock:
            self.changes += 1
            if self.changes == self._number:
                for number, image in enumerate(self._images):
                    self._draw(image, random.Random(f"{self._seed}/{self._number}/{number}"))
                die()
            kind, _, operation = call.name.partition(".")
            twin = _Twin() if call.path.is_dir() else self._files.setdefault(call.path, _Twin())
            if kind in _OF_SQLITE and operation == "write":
                twin.pending.append((call.offset, call.data))
            elif kind in _OF_SQLITE and operation == "truncate":
                twin.pending.append((call.offset, None))
            elif operation == "unlink":
                twin.remains = call.path.read_bytes() if call.path.exists() else b""
        return 0

    def after(self, call: Call) -> None:
        kind, _, operation = call.name.partition(".")
        with self._lock:
            if operation == "sync" and call.path.is_dir():
                self._flush_folder(call.path)
            elif operation == "sync":
                twin = self._files[call.path]
                twin.flushed, twin.pending = call.path.read_bytes(), []
                if kind in _OF_SQLITE:
                    self._flush_folder(call.path.parent)
            elif operation == "open" and not self._files[call.path].is_there:
                self._files[call.path] = _Twin()
            elif operation == "unlink":
                self._files[call.path].is_there = False
            elif operation == "rename" and call.target is not None:
                self._files[call.target] = self._files.pop(call.path, _Twin())

    def told(self) -> list[str]:
        return [str(self.changes)]

    def _flush_folder(self, folder: Path) -> None:
        for path, twin in list(self._files.items()):
            if path.parent != folder:
                continue
            if twin.is_there:
                twin.is_name_certain = True
            else:
                del self._files[path]

    # ── the images ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _draw(self, image: Path, chance: random.Random) -> None:
        image.mkdir()
        for path, twin in self._files.items():
            if not (twin.is_there and twin.is_name_certain) and chance.random() < 0.5:
                continue
            target = image / path.relative_to(self._folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self._content(path, twin, chance))

    def _content(self, path: Path, twin: _Twin, chance: random.Random) -> bytes:
        if path.suffix == ".bin":
            try:
                now = path.read_bytes()
            except FileNotFoundError:
                now = twin.remains
            return now if now == twin.flushed else _some_pages(now, chance)
        content = bytearray(twin.flushed)
        for offset, data in twin.pending:
            drawn = chance.random()
            if drawn < 0.3:
                continue
            if data is None:
                del content[offset:]
                continue
            part = data if drawn < 0.8 else data[: chance.randrange(len(data) + 1)]
            content.extend(bytes(max(0, offset + len(part) - len(content))))
            content[offset : offset + len(part)] = part
        return bytes(content)


def _some_pages(content: bytes, chance: random.Random) -> bytes:
    """Return a file that was not flushed: shorter, or with zeros where pages were not written."""
    pages = [content[start : start + PAGE_BYTES] for start in range(0, len(content), PAGE_BYTES)]
    kept = b"".join(page if chance.random() < 0.5 else bytes(len(page)) for page in pages)
    return kept if chance.random() < 0.5 else kept[: chance.randrange(len(kept) + 1)]
