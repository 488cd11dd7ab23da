"""What a policy is, and how one is found by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from harmonicio.haste.registry import load

ENTRY_POINT_GROUP = "harmonicio.policies"

_TABLE = {"interval": "harmonicio.haste.policies.interval:create"}


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
    policy: Policy = load("policy", ENTRY_POINT_GROUP, _TABLE, given.pop("name", "interval"))(given, tiers)
    return policy
