"""Watches memory and open files of every process of a run from outside, once a second.

How restarts are treated: each life of a process is looked at by itself. Of a life, what counts is the time from
:data:`FROM_S` of the run on and after its own first :data:`WARM_UP_S`; if that is :data:`LONG_ENOUGH_S` or more, a line
is fitted through it by least squares, whose slope is its growth. Shorter lives say nothing about leaks.

Memory and files also go up and down with what a process has to do just then (the payloads that a frozen engine has not
taken yet), so a slope alone is no leak: where they are up at the end, there is one, too. What leaks reaches new heights
and never comes back to what it was: beyond the limit is what exceeds it by its slope, by the rise of its peak and by
that of its floor, from one half to the other. A steady leak has all three alike.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from chaos.cluster import PROXIED

EVERY_S = 1.0
#: A process rises for its first three minutes, and is flat then: each thread of its pools that works for the first time
#: keeps a stack, a buffer and a cache of the allocator, and SQLite fills its cache of pages.
FROM_S, WARM_UP_S, LONG_ENOUGH_S = 120.0, 180.0, 150.0
MAX_MB_PER_MIN, MAX_FILES_PER_MIN = 1.0, 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    at_s: float
    memory_mb: float
    files: float


@dataclass(slots=True)
class Life:
    """One process from its first sample to its last."""

    role: str
    pid: int
    samples: list[Sample] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Trend:
    """One value over time: the slope of its line, how much its peak and its floor have risen from half to half."""

    slope_per_min: float
    peak_rise_per_min: float
    floor_rise_per_min: float
    peak: float

    @classmethod
    def of(cls, minutes: Sequence[float], values: Sequence[float]) -> Trend:
        half = next(place for place, each in enumerate(minutes) if each >= (minutes[0] + minutes[-1]) / 2)
        half_minutes = (minutes[-1] - minutes[0]) / 2
        peak_rise, floor_rise = (of(values[half:]) - of(values[:half]) for of in (max, min))
        return cls(slope(minutes, values), peak_rise / half_minutes, floor_rise / half_minutes, max(values))

    def is_beyond(self, limit_per_min: float) -> bool:
        return min(self.slope_per_min, self.peak_rise_per_min, self.floor_rise_per_min) >= limit_per_min

    def __str__(self) -> str:
        rises = f"peak {self.peak_rise_per_min:+.2f}, floor {self.floor_rise_per_min:+.2f}"
        return f"{self.slope_per_min:+.2f}/min ({rises}, to {self.peak:.0f})"


@dataclass(frozen=True, slots=True)
class Growth:
    """How a long life has grown."""

    role: str
    pid: int
    seconds: float
    memory_mb: Trend
    files: Trend

    def __str__(self) -> str:
        return f"{self.role} ({self.pid}) over {self.seconds:.0f} s: MB {self.memory_mb}, files {self.files}"

    @property
    def is_too_much(self) -> bool:
        # The source behind fault proxies has these in its process, with three files for each connection.
        has_too_many = self.role != PROXIED and self.files.is_beyond(MAX_FILES_PER_MIN)
        return has_too_many or self.memory_mb.is_beyond(MAX_MB_PER_MIN)


def growth_of(life: Life) -> Growth | None:
    """Return the growth of a life that is long enough."""
    begin = max(FROM_S, life.samples[0].at_s + WARM_UP_S)
    counted = [each for each in life.samples if each.at_s >= begin]
    if not counted or counted[-1].at_s - begin < LONG_ENOUGH_S:
        return None
    times = [each.at_s / 60 for each in counted]
    return Growth(
        life.role,
        life.pid,
        counted[-1].at_s - begin,
        Trend.of(times, [each.memory_mb for each in counted]),
        Trend.of(times, [each.files for each in counted]),
    )


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return the slope of the line that fits best by least squares."""
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - x_mean) ** 2 for x in xs)
    return sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / spread if spread else 0.0


class Watch:
    """Samples in a thread of its own.

    Args:
        processes: Asked for each sample: process id to role.
    """

    def __init__(self, processes: Callable[[], Mapping[int, str]]) -> None:
        self._processes = processes
        self._lives: dict[tuple[int, float], Life] = {}
        self._is_over = threading.Event()
        self._begin = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self._begin = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()

    @property
    def lives(self) -> list[Life]:
        return list(self._lives.values())

    def save(self, path: Path) -> None:
        """Write every sample as a line: role, process, seconds, megabytes, files."""
        with path.open("w") as file:
            for life in self._lives.values():
                for each in life.samples:
                    file.write(f"{life.role},{life.pid},{each.at_s:.1f},{each.memory_mb:.1f},{each.files:.0f}\n")

    def growths(self) -> list[Growth]:
        return [growth for each in self._lives.values() if (growth := growth_of(each))]

    def _run(self) -> None:
        while not self._is_over.wait(EVERY_S):
            for pid, role in self._processes().items():
                with suppress(psutil.NoSuchProcess, psutil.ZombieProcess, OSError):
                    self._look(psutil.Process(pid), role)

    def _look(self, process: psutil.Process, role: str) -> None:
        memory_mb = process.memory_info().rss / 1e6
        sample = Sample(time.monotonic() - self._begin, memory_mb, process.num_fds())
        life = self._lives.setdefault((process.pid, process.create_time()), Life(role, process.pid))
        life.samples.append(sample)
