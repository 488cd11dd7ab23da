"""One measured figure beside its limit: what every bench yields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from micro.pairs import Spread, ratios

TCP = "tcp"


@dataclass(frozen=True, slots=True)
class Effort:
    """How much a bench is to do.

    Attributes:
        pairs: Pairs for each figure.
        seconds: About how long one run of a pair takes.
        is_smoke: Only to see that it runs: the least of everything.
        sizes: Sizes in bytes in place of the bench's own; empty for these.
        engines: Numbers of engines in place of the bench's own; empty for these.
        peers: Which other systems: ``usual`` or ``all``.
    """

    pairs: int = 11
    seconds: float = 1.0
    is_smoke: bool = False
    sizes: tuple[int, ...] = ()
    engines: tuple[int, ...] = ()
    peers: str = "usual"

    def sizes_or(self, *usual: int) -> tuple[int, ...]:
        """Return the sizes to measure; the first of the usual ones alone for a smoke run."""
        return self.sizes or (usual[:1] if self.is_smoke else usual)

    def engines_or(self, *usual: int) -> tuple[int, ...]:
        """Return the numbers of engines to measure; the first of the usual ones alone for a smoke run."""
        return self.engines or (usual[:1] if self.is_smoke else usual)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        what: What was measured, in a few words.
        unit: Of ``ours`` and ``limit``.
        limit_name: What it is measured beside.
        ratio: Ours divided by the limit, pair by pair.
        at_least, at_most: Where the median of the ratio should be; None where nothing is asked.
        more: Further figures, by names that end in their units.
        missing: Why there is nothing to tell; empty when there is.
    """

    what: str
    size_bytes: int
    engines: int
    transport: str
    unit: str
    ours: Spread
    limit: Spread
    limit_name: str
    ratio: Spread
    pairs: int
    at_least: float | None = None
    at_most: float | None = None
    more: Mapping[str, float] = field(default_factory=dict)
    missing: str = ""

    @property
    def is_reached(self) -> bool | None:
        """Whether the ratio is where it should be; None when nothing is asked."""
        if self.missing or (self.at_least is None and self.at_most is None):
            return None
        return (self.at_least is None or self.ratio.median >= self.at_least) and (
            self.at_most is None or self.ratio.median <= self.at_most
        )


def row_of(
    what: str,
    size_bytes: int,
    engines: int,
    pairs: Sequence[tuple[float, float]],
    *,
    unit: str = "messages/s",
    limit_name: str = "raw TCP",
    transport: str = TCP,
    at_least: float | None = None,
    at_most: float | None = None,
    more: Mapping[str, float] | None = None,
) -> Row:
    """Return the row of some pairs of (ours, limit)."""
    return Row(
        what=what,
        size_bytes=size_bytes,
        engines=engines,
        transport=transport,
        unit=unit,
        ours=Spread.of(ours for ours, _ in pairs),
        limit=Spread.of(limit for _, limit in pairs),
        limit_name=limit_name,
        ratio=ratios(pairs),
        pairs=len(pairs),
        at_least=at_least,
        at_most=at_most,
        more=more or {},
    )


def missing_row(what: str, reason: str, *, limit_name: str = "raw TCP", transport: str = TCP) -> Row:
    """Return the row of something that could not be measured here, so that nobody takes it for left out."""
    nothing = Spread(0.0, 0.0, 0.0)
    return Row(what, 0, 0, transport, "", nothing, nothing, limit_name, nothing, 0, missing=reason)
