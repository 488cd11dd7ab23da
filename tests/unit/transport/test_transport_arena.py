"""Shared memory: what its seals forbid, and who still looks at a piece of it."""

from __future__ import annotations

import fcntl
import mmap
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from harmonicio.transport.arena import Arena, ArenaView

SIZE_BYTES = 2**20


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = Arena(SIZE_BYTES)
    yield made
    made.close()


@pytest.fixture
def view(arena: Arena) -> Iterator[ArenaView]:
    mapped = ArenaView(os.dup(arena.descriptor), SIZE_BYTES)
    yield mapped
    mapped.let_go()


def test_what_is_written_at_one_end_is_there_at_the_other(arena: Arena, view: ArenaView) -> None:
    arena.piece(8192, 5)[:] = b"bytes"
    assert view.piece(8190, 10) == b"\0\0bytes\0\0\0"


def test_who_receives_it_can_neither_write_nor_change_its_length(arena: Arena, view: ArenaView) -> None:
    with pytest.raises(TypeError):
        view.piece(0, 4)[:] = b"mine"
    with pytest.raises(PermissionError):
        mmap.mmap(arena.descriptor, SIZE_BYTES)
    for size_bytes in (0, 2 * SIZE_BYTES):
        with pytest.raises(PermissionError):
            os.ftruncate(arena.descriptor, size_bytes)
    with pytest.raises(PermissionError):
        os.pwrite(arena.descriptor, b"mine", 0)
    with pytest.raises(PermissionError):
        fcntl.fcntl(arena.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_a_kernel_without_the_seal_hands_out_what_can_only_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.fcntl

    def before_5_1(descriptor: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_ADD_SEALS and argument & 0x10:
            raise OSError(22, "Invalid argument")
        return real(descriptor, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", before_5_1)
    arena = Arena(SIZE_BYTES)
    arena.piece(0, 2)[:] = b"ok"
    with pytest.raises(PermissionError):
        mmap.mmap(arena.descriptor, SIZE_BYTES)
    view = ArenaView(os.dup(arena.descriptor), SIZE_BYTES)
    assert view.piece(0, 2) == b"ok"
    view.let_go()
    arena.close()


def _unsealed() -> int:
    descriptor = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, SIZE_BYTES)
    return descriptor


def _sealed_against_shrinking_alone() -> int:
    descriptor = _unsealed()
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return descriptor


def _sealed(size_bytes: int) -> int:
    arena = Arena(size_bytes)
    descriptor = os.dup(arena.descriptor)
    arena.close()
    return descriptor


@pytest.mark.parametrize(
    "make",
    [
        _unsealed,
        _sealed_against_shrinking_alone,
        lambda: os.open("/dev/null", os.O_RDONLY),
        lambda: os.open(__file__, os.O_RDONLY),
        lambda: os.pipe2(os.O_CLOEXEC)[0],
        lambda: _sealed(4096),
    ],
    ids=["no seals", "one seal", "a device", "a file", "a pipe", "too short"],
)
def test_a_descriptor_of_anything_else_is_refused_and_closed(make: Callable[[], int]) -> None:
    before = set(os.listdir("/proc/self/fd"))
    descriptor = make()
    beside = set(os.listdir("/proc/self/fd")) - before - {str(descriptor)}
    with pytest.raises(OSError):
        ArenaView(descriptor, SIZE_BYTES)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    for each in beside:  # The other end of the pipe, for one; the listing itself has gone.
        try:
            os.close(int(each))
        except OSError:
            continue


class _Attribute:
    def __init__(self, payload: memoryview) -> None:
        self.payload = payload


@pytest.mark.parametrize(
    "keep",
    [
        lambda payload: payload,
        lambda payload: payload[3:],
        lambda payload: payload[3:].cast("c"),
        lambda payload: [payload],
        lambda payload: _Attribute(payload),
        lambda payload: lambda: payload,
        lambda payload: np.asarray(payload),
        lambda payload: np.frombuffer(payload, dtype="u2"),
        lambda payload: np.frombuffer(payload, dtype="u1").reshape(10, 10)[2:4, ::3].T,
        lambda payload: np.ndarray((5, 5), "u4", buffer=payload),
        lambda payload: iter(payload),
        lambda payload: memoryview(np.asarray(payload)),
    ],
)
def test_whoever_keeps_a_view_is_noticed_and_that_it_has_gone(view: ArenaView, keep: Callable[..., Any]) -> None:
    piece = view.piece(4096, 100)
    other = view.piece(8192, 100)
    kept = keep(piece[:])
    assert not view.is_free(piece)
    del kept
    assert view.is_free(piece)
    assert view.is_free(other)


def test_a_view_of_one_piece_does_not_hold_another(view: ArenaView) -> None:
    one, other = view.piece(4096, 100), view.piece(8192, 100)
    kept = np.asarray(one[:])
    assert view.is_free(other)
    assert not view.is_free(one)
    del kept


def test_an_array_that_holds_the_mapping_itself_holds_every_piece(view: ArenaView) -> None:
    one, other = view.piece(4096, 100), view.piece(8192, 100)
    kept = np.ndarray((100,), "u1", buffer=one[:])
    assert not view.is_free(other)
    assert not view.is_free(one)
    del kept
    assert view.is_free(other)
    assert view.is_free(one)


def test_who_has_only_copied_keeps_nothing(view: ArenaView) -> None:
    piece = view.piece(4096, 100)
    payload = piece[:]
    copies = (bytes(payload), bytearray(payload), np.array(payload), payload.tolist(), payload[:4] == b"abcd")
    del payload
    assert view.is_free(piece)
    assert len(copies[0]) == 100


@pytest.mark.parametrize(
    "keep", [np.asarray, lambda payload: np.ndarray((5,), "u1", buffer=payload)], ids=["asarray", "buffer="]
)
def test_a_view_outlives_the_mapping_it_was_taken_from(keep: Callable[..., Any]) -> None:
    arena = Arena(SIZE_BYTES)
    arena.piece(0, 5)[:] = b"bytes"
    view = ArenaView(os.dup(arena.descriptor), SIZE_BYTES)
    kept = keep(view.piece(0, 5))
    view.let_go()
    arena.close()
    assert kept.tobytes() == b"bytes"
    assert "harmonicio-arena" in _mapped()
    del kept
    assert "harmonicio-arena" not in _mapped()


#: Has every frame evaluated by way of another function, as debuggers and compilers do (PEP 523).
FRAMES_OF_OTHERS = """
import ctypes, mmap, os
import numpy as np
from harmonicio.transport.arena import Arena, ArenaView

api = ctypes.pythonapi
usual = ctypes.cast(api._PyEval_EvalFrameDefault, ctypes.c_void_p).value
code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code[:12] = b"\\x48\\xb8" + usual.to_bytes(8, "little") + b"\\xff\\xe0"  # mov rax, usual; jmp rax
api.PyInterpreterState_Get.restype = ctypes.c_void_p
api._PyInterpreterState_SetEvalFrameFunc.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
shim = ctypes.addressof(ctypes.c_char.from_buffer(code))
api._PyInterpreterState_SetEvalFrameFunc(api.PyInterpreterState_Get(), shim)

def noticed():
    try:
        arena = Arena(2**20)
        view = ArenaView(os.dup(arena.descriptor), 2**20)
    except OSError as error:
        return str(error)
    answers = []
    for each in (arena, view):
        piece = each.piece(0, 100)
        kept = np.ndarray((10,), "u1", buffer=piece[:])
        answers.append(each.is_free(piece))
        del kept
        answers.append(each.is_free(piece))
    arena.close()
    return answers

print(noticed(), flush=True)
os._exit(0)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="The code that stands for a debugger's is for x86-64.")
def test_who_holds_the_mapping_is_noticed_where_frames_are_evaluated_by_others() -> None:
    told = subprocess.run([sys.executable, "-c", FRAMES_OF_OTHERS], capture_output=True, text=True, timeout=30)
    assert told.stdout.strip() == "[False, True, False, True]", told.stderr


def test_an_interpreter_that_does_not_tell_who_holds_a_mapping_has_no_arena(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(os.listdir("/proc/self/fd"))
    real = sys.getrefcount
    monkeypatch.setattr(sys, "getrefcount", lambda held: 5 if isinstance(held, mmap.mmap) else real(held))
    with pytest.raises(OSError, match="does not tell who looks"):
        Arena(SIZE_BYTES)
    assert set(os.listdir("/proc/self/fd")) == before


def _mapped() -> str:
    with open("/proc/self/maps") as maps:
        return maps.read()


def test_other_threads_have_their_turn_while_a_large_payload_is_copied() -> None:
    size_bytes = 64 * 2**20
    arena = Arena(size_bytes)
    has_seen, is_over = threading.Event(), threading.Event()
    whole = arena.piece(0, size_bytes)

    def watch(both_ends: memoryview) -> None:
        while not (has_seen.is_set() or is_over.is_set()):
            first, last = bytes(both_ends)  # Both are looked at in one go.
            if first != last:
                has_seen.set()

    watcher = threading.Thread(target=watch, args=(whole[:: size_bytes - 1],))
    watcher.start()
    payloads = [bytes(size_bytes), b"x" * size_bytes]
    for attempt in range(1, 500):
        arena.write(0, payloads[attempt % 2])
        if has_seen.is_set():
            break
    is_over.set()
    watcher.join()
    assert has_seen.is_set()
    assert arena.is_free(whole)
    arena.close()


@pytest.mark.parametrize("length", [0, 1, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20 + 7])
def test_a_payload_of_any_length_is_copied_whole_and_nothing_beside_it(length: int) -> None:
    arena = Arena(4 * 2**20)
    payload = os.urandom(length)
    arena.write(4096, payload)
    assert arena.piece(4096, length) == payload
    assert not any(arena.piece(0, 4096))
    assert not any(arena.piece(4096 + length, 4096))
    arena.close()
