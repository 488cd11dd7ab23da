"""What SQLite does with its files, shown to a watch before it is done: a virtual file system (VFS) around SQLite's own.

SQLite asks its VFS for every open, write, truncation, flush and removal. :func:`watch_sqlite` puts one in front of the
usual one, for all connections that this process opens from then on. It passes everything on, unless the watch says that
a call fails.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import errno
import os
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_int, c_int64, c_void_p, cast, sizeof
from typing import Any, Protocol

from harmonicio.control.lone_sqlite import VFS

SQLITE_OK, _IOERR, _FULL, _CANTOPEN = 0, 10, 13, 14
#: What SQLite's own VFS would return for a call that fails; only of a write it says why: that there is no space.
_ERRORS = {"open": _CANTOPEN, "write": _IOERR | 3 << 8, "sync": _IOERR | 4 << 8, "truncate": _IOERR | 6 << 8}
_ERRORS |= {"unlink": _IOERR | 10 << 8, "read": _IOERR | 1 << 8}


class SqliteWatch(Protocol):
    """Who is asked. Called on the thread that uses the connection, with the path of the file."""

    def before(self, operation: str, path: str, offset: int = 0, data: bytes = b"") -> int:
        """Return 0 to have it done, or the errno with which it fails; a write that fails is done by half."""

    def after(self, operation: str, path: str) -> None:
        """It was done."""


class _IoMethods(Structure):
    _names = ("xClose", "xRead", "xWrite", "xTruncate", "xSync", "xFileSize", "xLock", "xUnlock", "xCheckReservedLock")
    _more = ("xFileControl", "xSectorSize", "xDeviceCharacteristics", "xShmMap", "xShmLock", "xShmBarrier", "xShmUnmap")
    _fields_ = [("iVersion", c_int), *((name, c_void_p) for name in (*_names, *_more, "xFetch", "xUnfetch"))]


class _File(Structure):
    _fields_ = [("methods", POINTER(_IoMethods))]


class _Vfs(Structure):
    _names = ("xOpen", "xDelete", "xAccess", "xFullPathname", "xDlOpen", "xDlError", "xDlSym", "xDlClose")
    _more = ("xRandomness", "xSleep", "xCurrentTime", "xGetLastError", "xCurrentTimeInt64", "xSetSystemCall")
    _fields_ = [
        ("iVersion", c_int),
        ("szOsFile", c_int),
        ("mxPathname", c_int),
        ("pNext", c_void_p),
        ("zName", c_char_p),
        ("pAppData", c_void_p),
        *((name, c_void_p) for name in (*_names, *_more, "xGetSystemCall", "xNextSystemCall")),
    ]


#: Names are passed on as they came: SQLite's own VFS keeps the pointers.
_Open = CFUNCTYPE(c_int, c_void_p, c_void_p, POINTER(_File), c_int, c_void_p)
_Delete = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
_Close = CFUNCTYPE(c_int, POINTER(_File))
_Read = CFUNCTYPE(c_int, POINTER(_File), c_void_p, c_int, c_int64)
_Write = CFUNCTYPE(c_int, POINTER(_File), c_void_p, c_int, c_int64)
_Truncate = CFUNCTYPE(c_int, POINTER(_File), c_int64)
_Sync = CFUNCTYPE(c_int, POINTER(_File), c_int)

#: SQLite keeps pointers to these for the life of the process.
_kept: list[object] = []


def watch_sqlite(watch: SqliteWatch) -> None:
    """Have every connection that is opened from now on watched, for the life of this process."""
    library = ctypes.CDLL(_sqlite3.__file__)
    library.sqlite3_vfs_find.restype = POINTER(_Vfs)
    usual = library.sqlite3_vfs_find(VFS.encode()).contents
    vfs = _Vfs()
    ctypes.pointer(vfs)[0] = usual
    vfs.zName = VFS.encode()  # By which the product asks for it; the one made last is found.
    shim = _Shim(watch, usual)
    vfs.xOpen, vfs.xDelete = _address(shim.open), _address(shim.delete)
    _kept.extend((vfs, shim))
    if library.sqlite3_vfs_register(byref(vfs), 1) != SQLITE_OK:
        raise RuntimeError("SQLite does not take the watching VFS.")


class _Shim:
    """The functions that SQLite calls in place of the usual ones."""

    def __init__(self, watch: SqliteWatch, usual: _Vfs) -> None:
        self._watch = watch
        self._paths: dict[int, str] = {}
        self._methods: dict[int, _IoMethods] = {}
        self._usual_open, self._usual_delete = _Open(usual.xOpen), _Delete(usual.xDelete)
        self.open, self.delete = _Open(self._open), _Delete(self._delete)

    def _open(self, vfs: Any, name: int | None, file: Any, flags: int, out_flags: Any) -> int:
        path = _text(name)
        if code := self._asked("open", path):
            file.contents.methods = POINTER(_IoMethods)()
            return code
        code = self._usual_open(vfs, name, file, flags, out_flags)
        if code == SQLITE_OK and path:
            self._paths[_address(file)] = path
            file.contents.methods = POINTER(_IoMethods)(self._wrapped(file.contents.methods))
            self._watch.after("open", path)
        return code

    def _delete(self, vfs: Any, name: int, is_folder_flushed: int) -> int:
        return self._done("unlink", _text(name), lambda: self._usual_delete(vfs, name, is_folder_flushed))

    def _wrapped(self, usual: Any) -> _IoMethods:
        """Return the methods of a file with ours in place of those that change it; made once for each kind of file."""
        key = _address(usual)
        if key not in self._methods:
            methods = _IoMethods()
            ctypes.memmove(byref(methods), usual, sizeof(_IoMethods))
            self._methods[key] = methods
            for name, kind, make in (
                ("xClose", _Close, self._close),
                ("xRead", _Read, self._read),
                ("xWrite", _Write, self._write),
                ("xTruncate", _Truncate, self._truncate),
                ("xSync", _Sync, self._sync),
            ):
                ours = kind(make(kind(getattr(methods, name))))
                _kept.append(ours)
                setattr(methods, name, _address(ours))
        return self._methods[key]

    def _close(self, usual: Callable[..., int]) -> Callable[..., int]:
        def close(file: Any) -> int:
            self._paths.pop(_address(file), None)
            return usual(file)

        return close

    def _read(self, usual: Callable[..., int]) -> Callable[..., int]:
        def read(file: Any, buffer: Any, size_bytes: int, offset: int) -> int:
            code = self._asked("read", self._paths[_address(file)], offset)
            return code or usual(file, buffer, size_bytes, offset)

        return read

    def _write(self, usual: Callable[..., int]) -> Callable[..., int]:
        def write(file: Any, buffer: Any, size_bytes: int, offset: int) -> int:
            path = self._paths[_address(file)]
            if code := self._asked("write", path, offset, ctypes.string_at(buffer, size_bytes)):
                usual(file, buffer, size_bytes // 2, offset)
                return code
            return self._told("write", path, usual(file, buffer, size_bytes, offset))

        return write

    def _truncate(self, usual: Callable[..., int]) -> Callable[..., int]:
        def truncate(file: Any, size_bytes: int) -> int:
            path = self._paths[_address(file)]
            return self._done("truncate", path, lambda: usual(file, size_bytes), size_bytes)

        return truncate

    def _sync(self, usual: Callable[..., int]) -> Callable[..., int]:
        def sync(file: Any, flags: int) -> int:
            return self._done("sync", self._paths[_address(file)], lambda: usual(file, flags))

        return sync

    def _done(self, operation: str, path: str, act: Callable[[], int], offset: int = 0) -> int:
        return self._asked(operation, path, offset) or self._told(operation, path, act())

    def _asked(self, operation: str, path: str, offset: int = 0, data: bytes = b"") -> int:
        number = self._watch.before(operation, path, offset, data)
        is_full = operation == "write" and number == errno.ENOSPC
        return 0 if number == 0 else _FULL if is_full else _ERRORS[operation]

    def _told(self, operation: str, path: str, code: int) -> int:
        if code == SQLITE_OK:
            self._watch.after(operation, path)
        return code


def _text(name: int | None) -> str:
    return os.fsdecode(cast(name, c_char_p).value or b"") if name else ""


def _address(pointer: Any) -> int:
    return cast(pointer, c_void_p).value or 0
