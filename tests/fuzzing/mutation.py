"""Changes frames as faults and attackers would, knowing where their fields are.

A mutation takes frames and returns others; several are laid over each other. Everything is drawn from the given random
numbers alone, so that a case can be made again from its seed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgpack

from harmonicio.wire.frames import FIXED_LENGTH, MAX_HEADER_BYTES, MAX_INLINE_BYTES

Frames = list[bytes]

#: (offset, format) of the numbers of the fixed header.
FIELDS = {
    "version": (2, "!B"),
    "type": (3, "!B"),
    "flags": (4, "!H"),
    "attempts": (6, "!B"),
    "crashes": (7, "!B"),
    "header length": (8, "!I"),
    "priority": (12, "!H"),
    "zero": (14, "!H"),
    "payload length": (16, "!Q"),
}
LENGTHS = (
    0,
    1,
    MAX_INLINE_BYTES,
    MAX_INLINE_BYTES + 1,
    MAX_HEADER_BYTES,
    MAX_HEADER_BYTES + 1,
    2**31 - 1,
    2**31,
    2**31 + 1,
    2**32 - 1,
    2**32,
    2**62,
    2**62 + 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
GARBAGE = (
    b"\0",
    b"H",
    b"HI",
    b"HI\x01",
    b"\xff" * 64,
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03",
    b"SSH-2.0-x\r\n",
    bytes(FIXED_LENGTH),
)
#: Each says much with little, or says it in a way of its own.
BOMBS: tuple[Callable[[int], bytes], ...] = (
    lambda size: b"\x91" * size,
    lambda size: b"\x90" * size,
    lambda size: b"\xdc" + min(size, 65_535).to_bytes(2, "big") + b"\xc0" * size,
    lambda size: b"\xdd" + size.to_bytes(4, "big") + b"\x90" * size,
    lambda size: b"\xdd\xff\xff\xff\xff" + b"\xc0" * size,
    lambda size: b"\xdf\xff\xff\xff\xff" + b"\xa1x" * size,
    lambda size: b"\xde" + min(size, 65_535).to_bytes(2, "big") + b"\xa1x\xc0" * size,
    lambda size: b"\xdb\xff\xff\xff\xff" + b"x" * size,
    lambda size: b"\xc6\x7f\xff\xff\xff" + b"x" * size,
    lambda size: b"\xc9\xff\xff\xff\xff\x05" + b"x" * size,
    lambda size: b"\xd6\xff" + bytes(4) + b"\xc1" * size,
    lambda size: b"\x81\xa8metadata" + b"\x91" * min(size, 200) + b"\xc0",
    lambda size: b"\xdc\x00\x01" * min(size, 100) + b"\xca\x7f\xc0\x00\x00",
    lambda size: b"\x81\xa8metadata\x81\xa1x\xdc" + min(size, 65_535).to_bytes(2, "big") + b"\xca\0\0\0\0" * size,
    lambda size: b"\x91\x94\x02\x00\x00" + b"\x91" * min(size, 61) + b"\xc0",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    255,
    2**31,
    2**63 - 1,
    2**63,
    2**64 - 1,
    -(2**63),
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x" * 201,
    "line\r\nbreak\x1b[31m\0",
    "µ\u202e",
    b"",
    b"\xff\xfe",
    [],
    {},
    [[]],
    {"": None},
    {"type": 1, "text": [], "retryable": "no"},
    {"type": "E" * 300, "text": "t", "traceback": "b" * 13_000},
    {"reason": "no_credit", "text": "Wait."},
    {"reason": "soon"},
    list(range(300)),
)


class Mutator:
    """Draws changes.

    Args:
        random: Where every choice comes from.
        strangers: Frames of all kinds, to put in where they do not belong.
    """

    def __init__(self, random: Random, strangers: Sequence[bytes]) -> None:
        self._random = random
        self._strangers = strangers

    def __repr__(self) -> str:
        return f"<Mutator with {len(self._strangers)} other frames>"

    def mutate(self, frames: Frames) -> tuple[Frames, list[str]]:
        """Return changed frames, and what was done to them."""
        done = []
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            change = self._random.choice(CHANGES)
            done.append(change.__name__.strip("_"))
            if not frames:
                break
            frames = change(self, list(frames))
        return frames, done

    def _at(self, frames: Frames) -> int:
        return self._random.randrange(len(frames))

    def _change_one(self, frames: Frames, change: Callable[[bytearray], object]) -> Frames:
        at = self._at(frames)
        frame = bytearray(frames[at])
        change(frame)
        frames[at] = bytes(frame)
        return frames

    # ── of bytes ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _flip_bits(self, frames: Frames) -> Frames:
        def flip(frame: bytearray) -> None:
            reach = len(frame) if self._random.random() < 0.5 else min(len(frame), 100)
            for _ in range(self._random.randint(1, 8) if reach else 0):
                frame[self._random.randrange(reach)] ^= 1 << self._random.randrange(8)

        return self._change_one(frames, flip)

    def _truncate(self, frames: Frames) -> Frames:
        """Cut a frame short: the next one follows at once, or nothing does."""

        def cut(frame: bytearray) -> None:
            del frame[self._random.randrange(len(frame) + 1) :]

        at = self._at(frames)
        if self._random.random() < 0.5:
            del frames[at + 1 :]
        return self._change_one(frames, cut)

    def _insert(self, frames: Frames) -> Frames:
        def insert(frame: bytearray) -> None:
            at = self._random.randrange(len(frame) + 1)
            frame[at:at] = self._random.randbytes(self._random.randint(1, 20))

        return self._change_one(frames, insert)

    def _splice(self, frames: Frames) -> Frames:
        """The head of one frame and the tail of another."""
        other = self._random.choice(self._strangers)

        def splice(frame: bytearray) -> None:
            frame[self._random.randrange(len(frame) + 1) :] = other[self._random.randrange(len(other)) :]

        return self._change_one(frames, splice)

    def _put_garbage_before(self, frames: Frames) -> Frames:
        frames.insert(self._at(frames), self._random.choice((*GARBAGE, self._random.randbytes(50))))
        return frames

    def _trail(self, frames: Frames) -> Frames:
        frames.append(self._random.randbytes(self._random.randint(1, 60)))
        return frames

    # ── of fields ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _set_length(self, frames: Frames) -> Frames:
        name = self._random.choice(("header length", "payload length"))

        def set_length(frame: bytearray) -> None:
            value = self._random.choice((*LENGTHS, len(frame), max(0, len(frame) - FIXED_LENGTH - 1)))
            put_field(frame, name, value)

        return self._change_one(frames, set_length)

    def _set_field(self, frames: Frames) -> Frames:
        name = self._random.choice(tuple(FIELDS))
        value = self._random.choice((0, 1, 2, 3, 4, 5, 8, 10, 12, 16, 31, 127, 128, 255, 256, 2**15, 2**16 - 1))
        return self._change_one(frames, lambda frame: put_field(frame, name, value))

    def _spoil_opening(self, frames: Frames) -> Frames:
        opening = self._random.choice((b"IH\x01", b"hi\x01", b"HI\x00", b"HI\x02", b"HI\xff", b"\x01IH", b"HIHI"))
        return self._change_one(frames, lambda frame: frame.__setitem__(slice(0, len(opening)), opening))

    def _set_type(self, frames: Frames) -> Frames:
        """The section of one kind in a frame of another."""
        kind = self._random.randint(0, 11)
        return self._change_one(frames, lambda frame: put_field(frame, "type", kind))

    def _swap_fields(self, frames: Frames) -> Frames:
        one, other = self._random.sample(tuple(FIELDS), 2)

        def swap(frame: bytearray) -> None:
            if len(frame) >= FIXED_LENGTH:
                values = field(frame, one), field(frame, other)
                put_field(frame, one, values[1])
                put_field(frame, other, values[0])

        return self._change_one(frames, swap)

    # ── of sections ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _explode(self, frames: Frames) -> Frames:
        """A bomb in place of the section: mostly a small one, because that costs the fuzzer time, too."""
        size = self._random.choice((1, 3, 17, 60, 64, 65, 100, 300))
        if self._random.random() < 0.01:
            size = self._random.choice((5_000, 65_535, MAX_HEADER_BYTES))
        section = self._random.choice(BOMBS)(size)[:MAX_HEADER_BYTES]
        return self._change_one(frames, lambda frame: put_section(frame, section))

    def _change_value(self, frames: Frames) -> Frames:
        """Another value somewhere in the section, which stays msgpack."""

        def change(frame: bytearray) -> None:
            section = section_of(frame)
            if section is not None:
                put_section(frame, msgpack.packb(self._changed(section, 0)))

        return self._change_one(frames, change)

    def _changed(self, value: Any, depth: int) -> Any:
        if depth < 5 and isinstance(value, list) and value and self._random.random() < 0.8:
            at = self._random.randrange(len(value))
            match self._random.randrange(5):
                case 0:
                    return value[:at] + value[at + 1 :]
                case 1:
                    return [*value, self._random.choice(VALUES)]
                case _:
                    return [*value[:at], self._changed(value[at], depth + 1), *value[at + 1 :]]
        if depth < 5 and isinstance(value, dict) and value and self._random.random() < 0.8:
            key = self._random.choice(tuple(value))
            match self._random.randrange(5):
                case 0:
                    return {other: each for other, each in value.items() if other != key}
                case 1:
                    return {**value, self._random.choice(("x", "id", "failure", "role")): self._random.choice(VALUES)}
                case _:
                    return {**value, key: self._changed(value[key], depth + 1)}
        return self._random.choice(VALUES)

    # ── of the order ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _shuffle(self, frames: Frames) -> Frames:
        self._random.shuffle(frames)
        return frames

    def _duplicate(self, frames: Frames) -> Frames:
        at = self._at(frames)
        frames[at:at] = [frames[at]] * self._random.choice((1, 1, 1, 2, 5))
        return frames

    def _drop(self, frames: Frames) -> Frames:
        del frames[self._at(frames)]
        return frames

    def _put_stranger_in(self, frames: Frames) -> Frames:
        frames.insert(self._random.randrange(len(frames) + 1), self._random.choice(self._strangers))
        return frames


CHANGES = (
    Mutator._flip_bits,
    Mutator._flip_bits,
    Mutator._truncate,
    Mutator._insert,
    Mutator._splice,
    Mutator._put_garbage_before,
    Mutator._trail,
    Mutator._set_length,
    Mutator._set_length,
    Mutator._set_field,
    Mutator._spoil_opening,
    Mutator._set_type,
    Mutator._swap_fields,
    Mutator._explode,
    Mutator._change_value,
    Mutator._change_value,
    Mutator._change_value,
    Mutator._shuffle,
    Mutator._duplicate,
    Mutator._drop,
    Mutator._put_stranger_in,
)


def field(frame: bytes | bytearray, name: str) -> int:
    offset, form = FIELDS[name]
    (value,) = struct.unpack_from(form, frame, offset)
    return int(value)


def put_field(frame: bytearray, name: str, value: int) -> None:
    """Write a number into the fixed header, as much of it as has room there."""
    offset, form = FIELDS[name]
    if len(frame) >= FIXED_LENGTH:
        struct.pack_into(form, frame, offset, value & (2 ** (8 * struct.calcsize(form)) - 1))


def section_of(frame: bytes | bytearray) -> Any:
    """Return what the section of a frame says; None when there is none to be read."""
    if len(frame) < FIXED_LENGTH or not field(frame, "header length"):
        return None
    try:
        return msgpack.unpackb(bytes(frame[FIXED_LENGTH : FIXED_LENGTH + field(frame, "header length")]))
    except (ValueError, msgpack.UnpackException):
        return None


def put_section(frame: bytearray, section: bytes) -> None:
    """Put another section into a frame, whose length then fits."""
    if len(frame) >= FIXED_LENGTH:
        frame[FIXED_LENGTH : FIXED_LENGTH + field(frame, "header length")] = section
        put_field(frame, "header length", len(section))
