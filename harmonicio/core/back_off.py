"""How long to wait before the next attempt of what has failed several times in a row."""

from __future__ import annotations

#: 2 to this power is beyond every longest delay in use.
_LARGEST_EXPONENT = 30


def delay_s(failures: int, *, first_s: float, longest_s: float, chance: float) -> float:
    """Return the delay after so many failures in a row: ``first_s`` doubled each time, with jitter.

    Args:
        failures: At least 1.
        first_s, longest_s: The delay after the first failure, and the bound, in seconds.
        chance: A random number in [0, 1): the delay is that far between half and the whole, so that those who failed
            together do not come again together.
    """
    whole_s = min(longest_s, first_s * 2.0 ** min(failures - 1, _LARGEST_EXPONENT))
    return whole_s * (1.0 + chance) / 2


def full_jitter_s(failures: int, *, first_s: float, longest_s: float, chance: float) -> float:
    """Return a delay anywhere below the whole one: best where hundreds lose the same partner at the same moment.

    Args:
        failures, first_s, longest_s, chance: As for :func:`delay_s`.
    """
    return chance * min(longest_s, first_s * 2.0 ** min(failures - 1, _LARGEST_EXPONENT))
