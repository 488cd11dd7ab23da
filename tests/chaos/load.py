"""What the sources send. Pure: a message follows from seed, source and number, so that it can be sent again alike.

Most messages are small and a few are large. Some fail once, some always; a few kill their engine, and very few never
end: these must become dead letters, and nobody else may suffer for it. They are small, because dead letters stay, and
the backlog is.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

#: Sorted by HASTE: a tier copy and a feature row are the effect.
PLATES = "plates"
#: A plain handler, which may raise.
NOTES = "notes"
#: In order: by the backlog only, one at a time.
STEPS = "steps"
#: Sheds when the backlog is full. Its messages are large and it has one engine, so that they wait in numbers.
FRAMES = "frames"
STREAMS = (PLATES, NOTES, STEPS, FRAMES)

KB, MB = 1000, 1000**2
#: Sizes in bytes, from and to, and how many of a hundred messages have them.
_SIZES = ((KB, 20 * KB, 60), (20 * KB, 200 * KB, 30), (200 * KB, MB, 8), (MB, 4 * MB, 2))
_SMALL, _FRAME_SIZES = ((KB, 20 * KB, 1),), ((300 * KB, 600 * KB, 1),)
#: To which stream a source's messages go, over and over again.
_TURNS = (PLATES, NOTES, PLATES, FRAMES, PLATES, NOTES, STEPS, NOTES)
#: Every so many messages of a stream one is of this kind; the numbers are such that short runs have some of each.
_KILLS_EVERY, _ENDLESS_EVERY, _UNSCORED_EVERY, _EMITS_EVERY = 401, 1201, 31, 7
_FAILS_ALWAYS_EVERY, _FAILS_ONCE_EVERY = 67, 13


@dataclass(frozen=True, slots=True)
class Offer:
    """One message of the load, without its bytes."""

    message_id: str
    stream: str
    size_bytes: int
    metadata: Mapping[str, float | str]
    priority: int

    def payload(self) -> bytes:
        return random.Random(self.message_id).randbytes(self.size_bytes)

    @property
    def emits(self) -> bool:
        """Whether its handler emits one message into :data:`PLATES`."""
        return self.metadata.get("behaviour") == "emit"


def emitted(parent: str) -> tuple[str, bytes]:
    """Return id and payload of what the handler emits for a message."""
    return f"{parent}/0", f"emitted for {parent}".encode()


def offer(seed: int, source: str, number: int) -> Offer:
    """Return a source's message of this number."""
    chance = random.Random(f"{seed}/{source}/{number}")
    rounds, turn = divmod(number, len(_TURNS))
    stream = _TURNS[turn]
    behaviour = _behaviour(stream, rounds * _TURNS.count(stream) + _TURNS[:turn].count(stream))
    sizes = _FRAME_SIZES if stream == FRAMES else _SMALL if behaviour else _SIZES
    ((smallest, largest, _),) = chance.choices(sizes, [share for _, _, share in sizes])
    metadata = {"seconds": round(chance.expovariate(1 / 0.02), 4), **behaviour}
    priority = 0 if stream == STEPS else chance.choice((0, 0, 0, 1))
    return Offer(f"{source}-{seed}-{number}", stream, chance.randint(smallest, largest), metadata, priority)


def digest_of(payload: bytes) -> str:
    return blake2b(payload, digest_size=16).hexdigest()


def _behaviour(stream: str, number: int) -> dict[str, str]:
    """Return how the handler treats the stream's message of this number; the first of each kind come early."""
    rows = {
        PLATES: (
            ("kill", _KILLS_EVERY, 20),
            ("endless", _ENDLESS_EVERY, 40),
            ("raise", _UNSCORED_EVERY, 5),
        ),
        NOTES: (
            ("raise", _FAILS_ALWAYS_EVERY, 10),
            ("raise once", _FAILS_ONCE_EVERY, 3),
            ("kill", _KILLS_EVERY, 30),
            ("emit", _EMITS_EVERY, 1),
        ),
        STEPS: (("raise once", _FAILS_ONCE_EVERY, 3),),
        FRAMES: (),
    }
    return next(({"behaviour": name} for name, every, first in rows[stream] if number % every == first), {})
