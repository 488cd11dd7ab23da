"""Every tier that keeps payloads keeps the contract."""

from __future__ import annotations

from pathlib import Path

from harmonicio.haste.tiers.base import Tier, create_tiers
from harmonicio.testing.tier_suite import TierSuite


class TestFileTier(TierSuite):
    def open(self, folder: Path) -> Tier:
        return create_tiers({"A": {"driver": "file", "folder": str(folder)}})["A"]


class TestMemoryTier(TierSuite):
    def open(self, folder: Path) -> Tier:
        return create_tiers({"A": {"driver": "memory"}})["A"]
