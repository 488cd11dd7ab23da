"""Writes past the kernel's memory of files, for payloads that stay in memory of our own.

Written as usual, a payload is copied into pages that the kernel takes for it, and keeps until the file is removed: on
small machines both cost more than the disk does. What is written here goes to the disk from where it lies.

    | whole pages: here | rest of the payload, label: as usual |

That is an offer, not a promise: whatever a disk or a file system does not like is left to an ordinary write.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os

#: Where there is no such flag, everything is written as usual.
_DIRECT: int = getattr(os, "O_DIRECT", 0)
_REFUSALS = (errno.EINVAL, errno.EOPNOTSUPP)


def write_past_cache(fd: int, payload: memoryview) -> int:
    """Write the first pages of a payload to the begin of a file; return how many bytes that were, perhaps none.

    They are on stable storage after a flush of the file, as any others.

    Raises:
        OSError: the disk does not take them.
    """
    size_bytes = len(payload) // mmap.PAGESIZE * mmap.PAGESIZE
    if not _DIRECT or not size_bytes or payload.readonly or _address(payload) % mmap.PAGESIZE:
        return 0
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | _DIRECT)
        return _write_pages(fd, payload[:size_bytes])
    except OSError as error:
        if error.errno in _REFUSALS:
            return 0
        raise
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)


def _write_pages(fd: int, pages: memoryview) -> int:
    done = 0
    while done < len(pages) and done % mmap.PAGESIZE == 0:
        done += os.pwrite(fd, pages[done:], done)
    return done


def _address(payload: memoryview) -> int:
    return ctypes.addressof(ctypes.c_ubyte.from_buffer(payload))
