"""Fuzzes the data protocol with frames that are nearly right: ``make fuzz FRAMES=1000000``.

A case is one end of a connection, some frames that real peers sent, what is done to them, and how the bytes are cut
into reads. Its number and the seed of the run make it again: ``python -m fuzzing.frames --seed 1 --only 4711``. What
violates a rule of :mod:`fuzzing.oracle` is made as small as possible and kept below ``build/fuzz/``; once it is mended,
the file goes to ``tests/fuzzing/regressions/``, where every run of the tests reads it.
"""

from __future__ import annotations

import argparse
import re
import resource
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from fuzzing.conversations import READERS, Reader, conversations, golden_frames, type_of
from fuzzing.mutation import Mutator
from fuzzing.oracle import ALLOWED_PAYLOAD_BYTES, Heard, Message, Violation, judge
from harmonicio.wire import events
from harmonicio.wire.decoder import LARGEST_KEPT_BYTES
from harmonicio.wire.frames import MAX_HEADER_BYTES, FrameType

CRASHES = Path(__file__).parent.parent.parent / "build" / "fuzz"
REGRESSIONS = Path(__file__).parent / "regressions"

#: A section costs at most a hundred times its size while it is read: that is a list of empty lists.
MAX_CASE_BYTES = 100 * MAX_HEADER_BYTES + 4 * ALLOWED_PAYLOAD_BYTES + 2 * LARGEST_KEPT_BYTES
MAX_CASE_S = 2.0
#: What the process may grow by between the first tenth of a run and its end.
MAX_GROWTH_BYTES = 64 * 1024**2
#: One case of so many is measured by tracemalloc, which makes it slow.
MEASURED_EVERY = 200
#: No case may need more memory than that, measured or not: beyond, MemoryError is the finding.
ADDRESS_SPACE_BYTES = 2 * 1024**3
MAX_FRAMES_PER_CASE = 6

_EVENT_TYPES = {
    events.Hello: FrameType.HELLO,
    events.Credit: FrameType.CREDIT,
    events.Depth: FrameType.DEPTH,
    Message: FrameType.MESSAGE,
    tuple: FrameType.MESSAGE,
    events.OutcomesReceived: FrameType.OUTCOMES,
    events.Held: FrameType.HELD,
    events.Released: FrameType.RELEASED,
    events.Subscribe: FrameType.SUBSCRIBE,
    events.ResultsReceived: FrameType.RESULTS,
    events.Drain: FrameType.DRAIN,
    events.Goodbye: FrameType.GOODBYE,
}


@dataclass
class Case:
    reader: Reader
    frames: list[bytes]
    cuts: list[int]
    done: list[str]

    @property
    def data(self) -> bytes:
        return b"".join(self.frames)


@dataclass
class Tally:
    """What a run has done.

    Attributes:
        given: Frames that were there to be read.
        frames: Those that were read: what was understood, and what ended its connection. What lies behind is not.
    """

    cases: int = 0
    given: int = 0
    frames: int = 0
    sent: Counter[str] = field(default_factory=Counter)
    understood: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    readers: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    slowest_s: float = 0.0
    largest_case_bytes: int = 0
    first_rss_bytes: int = 0
    last_rss_bytes: int = 0
    took_s: float = 0.0

    def count(self, case: Case, heard: Heard) -> None:
        self.cases += 1
        understood = [event for event in heard.events if type(event) is not tuple]
        self.given += len(case.frames)
        self.frames += len(understood) + bool(heard.error)
        self.bytes += sum(map(len, case.frames))
        self.readers[case.reader.name] += 1
        self.changes.update(case.done)
        self.sent.update(_type_name(frame) for frame in case.frames)
        self.understood.update(_EVENT_TYPES[type(event)].name for event in understood)
        self.errors[heard.error_kind or "none"] += 1
        if heard.error:
            self.rules[rule_of(heard.error)] += 1

    def report(self) -> str:
        lines = [
            f"{self.frames} frames read of {self.given} given in {self.cases} cases, {self.bytes / 1e6:.0f} MB, "
            f"{self.took_s:.0f} s ({self.frames / max(self.took_s, 0.001):.0f} frames/s); each case was read twice, "
            "whole and in pieces",
            f"slowest case {self.slowest_s * 1000:.0f} ms of CPU (at most {MAX_CASE_S:g} s); largest measured case "
            f"{self.largest_case_bytes / 1e6:.1f} MB (at most {MAX_CASE_BYTES / 1e6:.1f} MB)",
            f"memory of the process: {self.first_rss_bytes / 1e6:.0f} MB after a tenth, "
            f"{self.last_rss_bytes / 1e6:.0f} MB at the end, "
            f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB",
        ]
        for title, counts in (
            ("frames given, by their type", self.sent),
            ("frames understood, by type", self.understood),
            ("how cases ended, by error code", self.errors),
            ("rules that were broken", self.rules),
            ("changes", self.changes),
            ("readers", self.readers),
        ):
            lines.append(f"{title}:")
            lines += [f"  {count:>9}  {name}" for name, count in counts.most_common()]
        return "\n".join(lines)


def _type_name(frame: bytes) -> str:
    try:
        return FrameType(type_of(frame)).name if frame[:3] == b"HI\x01" else "(no opening)"
    except ValueError:
        return "(no such type)"


def rule_of(error: str) -> str:
    """Return what errors of the same rule have in common."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\{.*\}|\[.*\]|(?<=decode ).*|'.* (?=is not)", "…", error)
    text = re.sub(r"-?\d[\d.e+]*|0x[0-9a-f]+", "N", text)
    return re.sub(r"^(None|True|False|nan|inf|N)\b", "…", text)[:110]


# ── cases ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Cases:
    """Makes cases out of what is recorded."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        talks = conversations()
        self._all = [*golden_frames().values(), *(frame for talk in talks.values() for frame in talk)]
        self._small = [frame for frame in self._all if len(frame) < 2_000]
        self._legal = {
            reader.name: [frame for frame in self._all if type_of(frame) in reader.legal] for reader in READERS
        }
        self._one_of_each: dict[str, dict[int, list[bytes]]] = {}
        for reader in READERS:
            kinds = self._one_of_each.setdefault(reader.name, {})
            for frame in self._legal[reader.name]:
                kinds.setdefault(type_of(frame), []).append(frame)

    def __repr__(self) -> str:
        return f"<Cases of seed {self._seed} from {len(self._all)} frames>"

    def case(self, number: int) -> Case:
        random = Random((self._seed << 40) + number)
        reader = random.choice(READERS if random.random() < 0.2 else READERS[4:])
        frames = [self._frame(random, reader) for _ in range(random.randint(1, MAX_FRAMES_PER_CASE))]
        frames, done = Mutator(random, self._small).mutate(frames)
        return Case(reader, frames, _cuts(random, sum(map(len, frames))), done)

    def _frame(self, random: Random, reader: Reader) -> bytes:
        kinds = self._one_of_each[reader.name]
        # The last word is not said before the others have had theirs.
        kind = random.choice([each for each in kinds if each != FrameType.GOODBYE or random.random() < 0.1])
        frames = kinds[kind]
        frame = random.choice(frames)
        return frame if len(frame) < 10_000 or random.random() < 0.05 else random.choice(frames)


def _cuts(random: Random, size: int) -> list[int]:
    if size < 400 and random.random() < 0.3:
        return [1]
    least = max(1, size // 300)
    return [random.randint(least, random.choice((least + 7, least + 60, least + 5_000))) for _ in range(5)]


# ── a run ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def run(
    seed: int,
    *,
    frames: int | None = None,
    within_s: float | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> Tally:
    """Feed so many frames, or as many as the time allows.

    Raises:
        Violation: with the command that repeats the case.
    """
    cases, tally, begun = Cases(seed), Tally(), time.monotonic()
    said = begun
    while (frames is None or tally.frames < frames) and (within_s is None or time.monotonic() - begun < within_s):
        number = tally.cases
        case = cases.case(number)
        try:
            tally.count(case, _measured(case, tally, is_traced=number % MEASURED_EVERY == 0))
        except Exception as error:
            kept = keep(case)
            text = f"{error!r:.2000}; again: python -m fuzzing.frames --seed {seed} --only {number}; kept in {kept}"
            raise Violation(text) from error
        if not tally.first_rss_bytes and frames is not None and tally.frames > frames // 10:
            tally.first_rss_bytes = rss_bytes()
        if time.monotonic() - said > 30:
            said = time.monotonic()
            say(f"… {tally.frames} frames, {rss_bytes() / 1e6:.0f} MB")
    tally.took_s, tally.last_rss_bytes = time.monotonic() - begun, rss_bytes()
    if tally.first_rss_bytes and tally.last_rss_bytes - tally.first_rss_bytes > MAX_GROWTH_BYTES:
        raise Violation(f"The process grew from {tally.first_rss_bytes} to {tally.last_rss_bytes} bytes.")
    return tally


def _measured(case: Case, tally: Tally, *, is_traced: bool) -> Heard:
    data = case.data
    if is_traced:
        tracemalloc.start()
    begun = time.thread_time()
    try:
        heard = judge(case.reader, data, case.cuts)
        took_s = time.thread_time() - begun
        peak_bytes = tracemalloc.get_traced_memory()[1] if is_traced else 0
    finally:
        if is_traced:
            tracemalloc.stop()
    if not is_traced:
        tally.slowest_s = max(tally.slowest_s, took_s)
        if took_s > MAX_CASE_S:
            raise Violation(f"{len(data)} bytes took {took_s:.1f} s.")
    tally.largest_case_bytes = max(tally.largest_case_bytes, peak_bytes)
    if peak_bytes > MAX_CASE_BYTES:
        raise Violation(f"{len(data)} bytes took {peak_bytes} bytes of memory.")
    return heard


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


# ── what was found ───────────────────────────────────────────────────────────────────────────────────────────────────


def keep(case: Case) -> Path:
    """Write the smallest bytes that still violate a rule; the first byte names the reader."""
    data = case.data
    if breaks_a_rule(case.reader, data, case.cuts):  # What took too long or too much is kept as it is.
        data = b"".join(smallest(case.frames, lambda left: breaks_a_rule(case.reader, b"".join(left), case.cuts)))
        data = smallest(data, lambda left: breaks_a_rule(case.reader, left, case.cuts))
    CRASHES.mkdir(parents=True, exist_ok=True)
    path = CRASHES / f"crash-{hash(data) & 0xFFFFFFFF:08x}.bin"
    path.write_bytes(bytes([READERS.index(case.reader)]) + data)
    return path


def smallest(data: Any, is_wrong: Callable[[Any], bool], attempts: int = 2_000) -> Any:
    """Leave pieces out as long as what is left is still wrong."""
    size = max(1, len(data) // 2)
    while size and attempts > 0:
        at = 0
        while at < len(data) and attempts > 0:
            attempts -= 1
            shorter = data[:at] + data[at + size :]
            if is_wrong(shorter):
                data = shorter
            else:
                at += size
        size //= 2
    return data


def breaks_a_rule(reader: Reader, data: bytes, cuts: Sequence[int]) -> bool:
    try:
        judge(reader, data, cuts)
    except Exception:  # noqa: BLE001  whatever it is, it must not have been raised
        return True
    return False


def replay(path: Path) -> Heard:
    """Read what once broke a rule, in several ways of cutting it.

    Raises:
        Violation: it still does.
    """
    number, *_ = data = path.read_bytes()
    reader = READERS[number % len(READERS)]
    for cuts in ([1], [3, 1000], [40]):
        heard = judge(reader, bytes(data[1:]), cuts)
    return heard


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--frames", type=int)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="the one case of this number")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    if options.only is not None:
        case = Cases(options.seed).case(options.only)
        print(case.reader.name, case.done, case.cuts, *case.frames, sep="\n")  # noqa: T201
        print(judge(case.reader, case.data, case.cuts))  # noqa: T201
        return 0
    within_s = None if options.minutes is None else options.minutes * 60
    frames = 100_000 if options.frames is None and within_s is None else options.frames
    try:
        tally = run(options.seed, frames=frames, within_s=within_s, say=lambda text: print(text, flush=True))  # noqa: T201
    except Violation as violation:
        print(f"VIOLATION: {violation}")  # noqa: T201
        return 1
    print(f"seed {options.seed}: no violation\n{tally.report()}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
