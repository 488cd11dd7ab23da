"""Payloads that are read from the disk when their turn comes: out of a segment, or out of the file that was sent."""

from __future__ import annotations

import os

from harmonicio.core.errors import InvalidInput
from harmonicio.stream_connector.sources import FileSource, PayloadAway, PiecewisePayload
from harmonicio.stream_connector.spool.disk import SegmentFile


class SegmentPayload(PiecewisePayload):
    """A payload that lies in a segment."""

    __slots__ = ("_file", "_offset", "size_bytes")

    def __init__(self, file: SegmentFile, offset: int, size_bytes: int) -> None:
        self._file = file
        self._offset = offset
        self.size_bytes = size_bytes

    def __repr__(self) -> str:
        return f"<SegmentPayload of {self.size_bytes} bytes in {self._file.name}>"

    def reader(self) -> SegmentPayload:
        return self

    def read_into(self, buffer: memoryview, offset: int) -> int:
        wanted = buffer[: min(len(buffer), self.size_bytes - offset)]
        try:
            count = self._file.read_into(wanted, self._offset + offset)
        except OSError as error:
            raise PayloadAway(f"The spool cannot be read ({self._file.name}): {error.strerror}.") from None
        if not count and len(wanted):
            raise InvalidInput(f"The spool has become shorter ({self._file.name}).")
        return count


class NamedFile(PiecewisePayload):
    """A file that must stay where and as it was when it was sent."""

    __slots__ = ("_changed_ns", "_path", "size_bytes")

    def __init__(self, path: bytes, size_bytes: int, changed_ns: int) -> None:
        self._path = path
        self._changed_ns = changed_ns
        self.size_bytes = size_bytes

    def __repr__(self) -> str:
        return f"<NamedFile {os.fsdecode(self._path)}, {self.size_bytes} bytes>"

    def reader(self) -> FileSource:
        source = FileSource(os.fsdecode(self._path))
        if (source.size_bytes, source.changed_ns) != (self.size_bytes, self._changed_ns):
            raise InvalidInput(
                f"The file {source.path} has changed since it was sent.",
                hint="With a spool, a file must stay as it is until its delivery is safe. Send it again.",
            )
        return source
