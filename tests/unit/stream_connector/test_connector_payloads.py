"""What a source application may send, and what it is told of the rest."""

from __future__ import annotations

import array
import os
from pathlib import Path

import numpy as np
import pytest

from harmonicio.core.buffers import buffer_payload
from harmonicio.core.errors import InvalidInput
from harmonicio.stream_connector.sources import (
    MAX_OPEN_FILES,
    SMALL_FILE_BYTES,
    SMALLEST_FILE_BYTES,
    FileSource,
    PayloadAway,
    file_payload,
)
from harmonicio.stream_connector.spool.payloads import NamedFile


def test_bytes_are_sent_as_they_are() -> None:
    payload = b"image"
    assert buffer_payload(payload) is payload


def test_a_writable_buffer_is_copied_and_a_borrowed_one_is_not() -> None:
    buffer = bytearray(b"image")
    copied, borrowed = buffer_payload(buffer), buffer_payload(buffer, is_borrowed=True)
    buffer[:] = b"IMAGE"
    assert bytes(copied) == b"image"
    assert bytes(borrowed) == b"IMAGE"
    assert isinstance(borrowed, memoryview)
    assert borrowed.readonly


@pytest.mark.parametrize("is_writable", [True, False])
@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "f2", "f8", "c8", "i4,f8", [("Offset", "i4")]])
def test_arrays_of_every_number_arrive_as_they_lie_in_memory(dtype: object, is_writable: bool) -> None:
    values = np.zeros((2, 3), dtype=dtype)
    values.view("u1").reshape(-1)[:] = np.arange(values.nbytes) % 251
    values.setflags(write=is_writable)
    payload = buffer_payload(values)
    assert bytes(payload) == values.tobytes()
    assert len(payload) == values.nbytes


@pytest.mark.parametrize(
    "payload",
    [
        "text",
        None,
        7,
        np.arange(6).reshape(2, 3).T,
        np.array(["2020"], dtype="M8[s]"),
        np.array([object()]),
        np.zeros(1, dtype=[("a", "i4"), ("b", "O")]),
    ],
    ids=["text", "none", "number", "not contiguous", "dates", "objects", "a field of objects"],
)
def test_what_has_no_bytes_of_its_own_is_refused_with_a_hint(payload: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        buffer_payload(payload)
    assert caught.value.hint


def test_nothing_is_a_payload_too() -> None:
    for empty in (b"", bytearray(), np.zeros((0, 4)), array.array("d")):
        assert bytes(buffer_payload(empty)) == b""


def test_a_small_file_is_read_at_once_and_a_large_one_piece_by_piece(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(bytes(SMALLEST_FILE_BYTES))
    content = bytes(range(256)) * (SMALLEST_FILE_BYTES // 256) + b"last"
    large.write_bytes(content)
    assert not isinstance(file_payload(small), FileSource)
    source = file_payload(large)
    assert isinstance(source, FileSource)
    buffer, arrived = memoryview(bytearray(300_000)), b""
    while len(arrived) < source.size_bytes:
        arrived += bytes(buffer[: source.read_into(buffer, len(arrived))])
    assert arrived == content


def test_small_files_beyond_a_few_hundred_are_read_at_once_and_leave_no_descriptor_open(tmp_path: Path) -> None:
    path = tmp_path / "small"
    path.write_bytes(b"small" * (SMALL_FILE_BYTES // 5))
    before = len(os.listdir("/proc/self/fd"))
    payloads = [file_payload(path) for _ in range(MAX_OPEN_FILES + 50)]
    assert len(os.listdir("/proc/self/fd")) - before <= MAX_OPEN_FILES
    assert isinstance(payloads[0], FileSource)
    assert bytes(payloads[-1]) == path.read_bytes()
    del payloads
    assert len(os.listdir("/proc/self/fd")) == before
    assert isinstance(file_payload(path), FileSource)


def test_a_small_file_that_goes_into_a_spool_is_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "small"
    path.write_bytes(b"small" * (SMALL_FILE_BYTES // 5))
    assert bytes(file_payload(path, is_spooled=True)) == path.read_bytes()


def test_a_file_that_became_shorter_is_said_by_name(tmp_path: Path) -> None:
    path = tmp_path / "volume.raw"
    path.write_bytes(bytes(2 * SMALL_FILE_BYTES))
    source = FileSource(path)
    path.write_bytes(b"short")
    with pytest.raises(InvalidInput, match=r"volume\.raw became shorter"):
        source.read_into(memoryview(bytearray(100)), SMALL_FILE_BYTES)


@pytest.mark.parametrize("size", [100, 3 * SMALL_FILE_BYTES])
@pytest.mark.parametrize("is_longer", [True, False])
def test_a_file_that_somebody_writes_is_never_read_to_its_end(tmp_path: Path, size: int, is_longer: bool) -> None:
    path = tmp_path / "volume.raw"
    path.write_bytes(bytes(size))
    os.utime(path, ns=(0, 0))
    source = FileSource(path)
    with path.open("r+b") as file:
        file.seek(0, os.SEEK_END if is_longer else os.SEEK_SET)
        file.write(b"more")
    with pytest.raises(InvalidInput, match=r"volume\.raw changed while it was sent"):
        source.read_into(memoryview(bytearray(100)), size - 100)


def test_what_has_no_length_of_its_own_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/null", "/dev/zero", tmp_path / "pipe"):
        with pytest.raises(InvalidInput, match="not a regular file"):
            file_payload(path)
    with pytest.raises(InvalidInput, match="more than its size says"):
        file_payload("/proc/self/status")


def test_a_file_that_is_not_there_or_is_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(InvalidInput, match="cannot be sent"):
            file_payload(path)


def test_what_somebody_puts_in_the_place_of_a_spooled_file_is_no_file_that_is_away(tmp_path: Path) -> None:
    path = tmp_path / "plate"
    path.write_bytes(b"plate")
    status = path.stat()
    spooled = NamedFile(os.fsencode(path), status.st_size, status.st_mtime_ns)
    path.unlink()
    with pytest.raises(PayloadAway):
        spooled.reader()
    for put in (path.mkdir, lambda: (path.rmdir(), os.mkfifo(path)), lambda: (path.unlink(), path.touch())):
        put()
        with pytest.raises(InvalidInput) as refused:
            spooled.reader()
        assert not isinstance(refused.value, PayloadAway)
