"""Whatever is done to a spool, and wherever a kill cuts it off: what is not safe is found, whole, by the next one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import given, settings

from harmonicio.stream_connector.sources import read_whole
from harmonicio.stream_connector.spool import spool as spool_module
from harmonicio.stream_connector.spool.disk import SegmentFile, SpoolDisk
from harmonicio.stream_connector.spool.records import GONE, Draft, Record
from harmonicio.stream_connector.spool.spool import Entry, Spool

#: Small enough that a few messages fill a segment.
MAX_BYTES = 64 * 64 * 1024
SIZES = st.sampled_from([0, 1, 100, 5_000, 30_000, 70_000])


@dataclass
class Call:
    """One thing that was done to the disk."""

    kind: str
    number: int
    offset: int = 0
    content: bytes = b""


@dataclass
class Moment:
    """What is true once so many calls have been made: these messages are in the spool, and these are safe."""

    calls: int
    unsafe: dict[str, bytes]
    safe: set[str] = field(default_factory=set)


class RecordingDisk(SpoolDisk):
    """Does everything on the real disk, and notes it, so that it can be played again up to any point."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.calls: list[Call] = []

    def create(self, number: int) -> SegmentFile:
        self.calls.append(Call("create", number))
        return super().create(number)

    def write(self, file: SegmentFile, offset: int, buffers: Sequence[bytes | memoryview]) -> None:
        self.calls.append(Call("write", int(Path(file.name).stem), offset, b"".join(map(bytes, buffers))))
        super().write(file, offset, buffers)

    def mark_gone(self, file: SegmentFile, offset: int) -> None:
        self.calls.append(Call("write", int(Path(file.name).stem), offset, GONE))
        super().mark_gone(file, offset)

    def remove(self, number: int) -> None:
        self.calls.append(Call("remove", number))
        super().remove(number)


def play(calls: Sequence[Call], cut: int, folder: Path) -> None:
    """Bring a folder to the state that these calls leave, the last of them after ``cut`` of its bytes."""
    folder.mkdir(parents=True)
    for at, call in enumerate(calls):
        path = folder / f"{call.number:010}.segment"
        if call.kind == "create":
            path.touch()
        elif call.kind == "remove":
            path.unlink()
        else:
            with path.open("r+b") as file:
                file.seek(call.offset)
                file.write(call.content[: cut if at == len(calls) - 1 else None])


def put(spool: Spool, name: str, payload: bytes) -> Entry:
    record = Record(name, 0, b"", len(payload))
    draft = Draft(record, payload)
    assert spool.reserve(draft)
    return spool.keep(record, draft)


@settings(max_examples=60)
@given(st.data())
def test_no_unsafe_message_is_missing_after_a_kill_at_any_point(data: st.DataObject) -> None:
    root = Path(tempfile.mkdtemp())
    try:
        spool = Spool(root / "first", "images", max_bytes=MAX_BYTES)
        spool._disk = disk = RecordingDisk(spool.folder)
        spool.open()
        try:
            moments, entries = _history(data, spool, disk)
        finally:
            spool.close()
        calls = data.draw(st.integers(0, len(disk.calls)), label="calls before the kill")
        last = len(disk.calls[calls - 1].content) if calls else 0
        cut = data.draw(st.integers(0, last), label="bytes of the last one")
        play(disk.calls[:calls], cut, root / "second" / "images")
        found = _found(root / "second")
    finally:
        shutil.rmtree(root)
    is_torn = calls and cut < last
    before = [each for each in moments if each.calls <= calls - bool(is_torn)]
    sure = before[-1].unsafe if before else {}
    # What was being done when the kill came may have been done, or not.
    doubtful = moments[len(before)].safe if len(before) < len(moments) else set()
    missing = set(sure) - doubtful - set(found)
    assert not missing
    assert all(found[name] == entries[name] for name in found), "whole, and nothing that was never sent"
    removed_before = set().union(*(each.safe for each in before)) if before else set()
    assert not removed_before & set(found), "what was marked as safe does not come back"


def _history(data: st.DataObject, spool: Spool, disk: RecordingDisk) -> tuple[list[Moment], dict[str, bytes]]:
    kept: dict[str, Entry] = {}
    payloads: dict[str, bytes] = {}
    moments = [Moment(0, {})]
    for step in range(data.draw(st.integers(1, 25), label="steps")):
        unsafe, safe = dict(moments[-1].unsafe), set()
        if kept and data.draw(st.booleans(), label="settle"):
            for name in data.draw(st.sets(st.sampled_from(sorted(kept)), min_size=1), label="which"):
                spool.settle([(kept.pop(name), "")])
                del unsafe[name]
                safe.add(name)
        else:
            name = f"m-{step}"
            payloads[name] = unsafe[name] = bytes([step + 1]) * data.draw(SIZES, label="size")
            kept[name] = put(spool, name, payloads[name])
        moments.append(Moment(len(disk.calls), unsafe, safe))
    return moments, payloads


def _found(folder: Path) -> dict[str, bytes]:
    spool_module._log.disabled = True  # It says what is torn, sixty times.
    spool = Spool(folder, "images", max_bytes=MAX_BYTES)
    try:
        return {each.record.message_id: bytes(read_whole(each.payload.reader())) for each in spool.open()}
    finally:
        spool.close()
        spool_module._log.disabled = False
