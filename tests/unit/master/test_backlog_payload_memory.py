"""Memory for payloads that is used again, and writes past the kernel's own."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from harmonicio.master.backlog import direct_write
from harmonicio.master.backlog.direct_write import write_past_cache
from harmonicio.master.backlog.payload_memory import SLAB_BYTES, SMALLEST_BYTES, PayloadMemory, block_bytes_of

MB = 1_000_000
PAGE_BYTES = 4096

# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_block_is_used_again_once_its_last_view_is_gone() -> None:
    memory = PayloadMemory()
    first = memory.take(MB)
    first[:5] = b"cells"
    kept = first.toreadonly()[:5]
    del first
    others = [memory.take(MB) for _ in range(SLAB_BYTES // block_bytes_of(MB) - 1)]
    assert bytes(kept) == b"cells" and memory.used_bytes == memory.mapped_bytes
    del kept
    again = memory.take(MB)
    assert bytes(again[:5]) == b"cells", "what was used last goes first"
    assert memory.mapped_bytes == SLAB_BYTES // block_bytes_of(MB) * block_bytes_of(MB)
    del others, again
    assert memory.used_bytes == 0


def test_views_are_as_long_as_was_asked_for_writable_and_apart_from_each_other() -> None:
    memory = PayloadMemory()
    views = {size: memory.take(size) for size in (0, 1, SMALLEST_BYTES, SMALLEST_BYTES + 1, MB, MB + 1, 3 * SLAB_BYTES)}
    for number, view in enumerate(views.values()):
        view[:] = bytes([number]) * len(view)
    for number, (size, view) in enumerate(views.items()):
        assert len(view) == size and bytes(view) == bytes([number]) * size


@pytest.mark.parametrize("size", [SMALLEST_BYTES + 1, 100_000, MB, 10 * MB, 64 * 1024**2, 3 * 1024**3])
def test_a_block_is_whole_pages_and_at_most_an_eighth_larger_than_its_payload(size: int) -> None:
    assert size <= block_bytes_of(size) <= size * 9 / 8
    assert block_bytes_of(size) % PAGE_BYTES == 0


def test_memory_that_rests_goes_back_and_what_is_in_use_stays() -> None:
    memory = PayloadMemory()
    used, unused = memory.take(MB), memory.take(10 * MB)
    del unused
    memory.rest()
    assert memory.mapped_bytes > 10 * MB, "it was used a moment ago"
    memory.rest(unused_for_s=0.0)
    assert SLAB_BYTES >= memory.mapped_bytes >= MB
    del used
    memory.rest(unused_for_s=0.0)
    assert memory.mapped_bytes == 0


def test_the_kernel_has_the_free_pages_of_a_slab_that_rests() -> None:
    memory = PayloadMemory()
    views = [memory.take(100_000) for _ in range(10)]
    for view in views:
        view[:] = b"x" * len(view)
    kept, last = views[0], bytes(views[0])
    views.clear()
    del view
    memory.rest(unused_for_s=0.0)
    again = [memory.take(100_000) for _ in range(9)]
    assert all(not any(view) for view in again)
    assert bytes(kept) == last


def test_no_more_is_mapped_than_twice_what_is_in_use_and_what_may_be_spare() -> None:
    memory = PayloadMemory(spare_bytes=SLAB_BYTES)
    pins = []
    for size in range(SMALLEST_BYTES + 1, 2 * MB, 20_000):  # Each size has slabs of its own, nearly empty.
        pins.append(memory.take(size))
        assert memory.mapped_bytes <= 2 * memory.used_bytes + SLAB_BYTES
        assert len(pins[-1]) == size


def test_threads_that_take_and_drop_never_share_a_block() -> None:
    memory, mistakes = PayloadMemory(), []

    def work(mark: int) -> None:
        for _ in range(300):
            view = memory.take(100_000)
            view[:8] = view[-8:] = bytes([mark]) * 8
            if bytes(view[:8]) != bytes(view[-8:]) or view[0] != mark:
                mistakes.append(mark)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mistakes == [] and memory.used_bytes == 0


# ── writes past the kernel's memory ──────────────────────────────────────────────────────────────────────────────────


def written(path: Path, payload: memoryview) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        count = write_past_cache(fd, payload)
        assert os.pwrite(fd, b"ordinary", count) == 8, "what follows may be of any length"
        return count
    finally:
        os.close(fd)


def test_whole_pages_are_written_and_the_file_is_as_ordinary_as_before(tmp_path: Path) -> None:
    payload = PayloadMemory().take(MB)
    payload[:] = os.urandom(MB)
    count = written(tmp_path / "a", payload)
    assert count in (0, MB // PAGE_BYTES * PAGE_BYTES), "all of them, or none where the file system does not want them"
    assert (tmp_path / "a").read_bytes() == bytes(payload[:count]) + b"ordinary"


def test_what_does_not_lie_at_a_page_is_left_to_others(tmp_path: Path) -> None:
    payload = PayloadMemory().take(MB)
    for number, part in enumerate((payload[1:], payload[:100], payload.toreadonly())):
        assert written(tmp_path / str(number), part) == 0


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_disk_that_takes_no_such_write_gets_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(fd: int, pages: memoryview) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(direct_write, "_write_pages", refuse)
    assert written(tmp_path / "a", PayloadMemory().take(MB)) == 0


def test_a_full_disk_is_an_error_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, pages: memoryview) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(direct_write, "_write_pages", refuse)
    with pytest.raises(OSError, match="full"):
        written(tmp_path / "a", PayloadMemory().take(MB))
