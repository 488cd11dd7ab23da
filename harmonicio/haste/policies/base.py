"""What a policy is, how one is found by name, and how to find out what it does."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any, Protocol

from harmonicio.control.members import Family

#: Each makes a policy of its options and the tiers that there are.
POLICIES = Family(
    "policy", "harmonicio.policies", {"interval": "harmonicio.haste.policies.interval:create"}, extra="haste"
)

#: ``(lower, upper, tier)``, in scores.
Interval = tuple[float, float, str]


class Policy(Protocol):
    """Decides where a message goes."""

    def tier_for(self, score: float) -> str:
        """Return the tier for a score in [0, 1]."""
        ...


def create_policy(options: Mapping[str, Any], tiers: Collection[str]) -> Policy:
    """Return the policy that a declaration describes.

    Args:
        options: ``name`` (``interval`` when left out), and what that policy takes.
        tiers: The tiers that there are.

    Raises:
        ConfigurationError: there is no such policy, or it cannot be used with these tiers.
    """
    given = dict(options)
    policy: Policy = POLICIES.load(given.pop("name", "interval"))(given, tiers)
    return policy


def intervals_of(policy: Policy, steps: int = 1000) -> tuple[Interval, ...]:
    """Return which scores go to which tier, rising from 0 to 1, found by asking the policy.

    Args:
        steps: How finely it is asked; of an interval narrower than ``1 / steps`` nothing may be seen.
    """
    asked = [(score, policy.tier_for(score)) for score in (number / steps for number in range(steps + 1))]
    found: list[Interval] = []
    lower = 0.0
    for (below, tier), (above, other) in pairwise(asked):
        if tier != other:
            edge = _edge(policy, below, above)
            found.append((lower, edge, tier))
            lower = edge
    return (*found, (lower, 1.0, asked[-1][1]))


def _edge(policy: Policy, below: float, above: float) -> float:
    """Return the lowest score that does not go where ``below`` goes."""
    tier = policy.tier_for(below)
    while below < (middle := (below + above) / 2) < above:
        below, above = (middle, above) if policy.tier_for(middle) == tier else (below, middle)
    return above
