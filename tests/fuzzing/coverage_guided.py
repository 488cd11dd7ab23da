"""Fuzzes the data protocol where new code is reached: ``make fuzz MINUTES=10``.

The same oracle as that of :mod:`fuzzing.frames`, but what to change next is chosen by atheris (libFuzzer) from the
branches of ``harmonicio.wire`` that an input reached. An input is one byte for the reader, one for the cuts, and what
the reader reads. Half of the changes are libFuzzer's, half those of :mod:`fuzzing.mutation`.

The corpus grows in ``build/fuzz/corpus`` and is used again; crashes are kept beside it, with the command that repeats
one: ``python -m fuzzing.coverage_guided build/fuzz/crash-…``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from random import Random

import atheris

with atheris.instrument_imports(include=["harmonicio.wire", "harmonicio.core"]):
    from fuzzing.conversations import READERS, conversations, frames_of, golden_frames, type_of
    from fuzzing.frames import ADDRESS_SPACE_BYTES, CRASHES
    from fuzzing.mutation import Mutator
    from fuzzing.oracle import judge

CORPUS = CRASHES / "corpus"
CUTS: tuple[Sequence[int], ...] = ((1,), (3, 1000), (40,), (7, 60, 5000))
MAX_INPUT_BYTES = 8_000
_STRANGERS = [frame for frame in golden_frames().values() if len(frame) < 2_000]


def read(data: bytes) -> None:
    """Judge one input. Whatever it raises is a finding."""
    if len(data) > 2:
        judge(READERS[data[0] % len(READERS)], data[2:], _cuts(data))


def _cuts(data: bytes) -> Sequence[int]:
    """Reading byte by byte is for short inputs."""
    return CUTS[data[1] % len(CUTS)] if len(data) < 500 else CUTS[-1]


def change(data: bytes, most: int, seed: int) -> bytes:
    """Change an input as libFuzzer would, or as who knows where the fields are."""
    random = Random(seed)
    if len(data) < 3 or random.random() < 0.5:
        return bytes(atheris.Mutate(data, most))
    try:
        frames = list(frames_of(data[2:]))
    except Exception:  # noqa: BLE001  it is no row of frames any more
        frames = [data[2:]]
    changed, _ = Mutator(random, _STRANGERS).mutate(frames)
    return (data[:2] + b"".join(changed))[:most]


def write_seeds() -> None:
    """Put each frame, and the beginning of each conversation, before every reader that may hear it."""
    CORPUS.mkdir(parents=True, exist_ok=True)
    rows = {name: [frame] for name, frame in golden_frames().items()}
    rows |= {name: talk[1:8] for name, talk in conversations().items()}
    for number, reader in enumerate(READERS):
        for name, row in rows.items():
            data = b"".join(frame for frame in row if type_of(frame) in reader.legal)
            if 0 < len(data) < MAX_INPUT_BYTES:
                (CORPUS / f"seed-{number}-{name}").write_bytes(bytes([number, 1]) + data)


def main() -> None:
    write_seeds()
    known = [
        f"-artifact_prefix={CRASHES}/",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-rss_limit_mb={ADDRESS_SPACE_BYTES // 2**20}",
        "-timeout=5",
        "-print_final_stats=1",
    ]
    given = sys.argv[1:]
    folders = [] if any(not each.startswith("-") for each in given) else [str(CORPUS)]
    atheris.Setup([sys.argv[0], *known, *given, *folders], read, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
