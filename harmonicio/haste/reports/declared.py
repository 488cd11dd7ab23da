"""What a stream's declaration tells a report: how its messages are sorted, and where their payloads are.

A declaration may be one that no engine can use, or name members of packages that are not installed here. A report is
about the rows that there are, so it does without what it cannot have, and logs why.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from harmonicio.core.errors import NotFound
from harmonicio.core.stream import StreamDeclaration
from harmonicio.haste.feature_db.base import FeatureRow
from harmonicio.haste.interestingness.logistic import PRESETS
from harmonicio.haste.policies.base import Interval, create_policy, intervals_of
from harmonicio.haste.reports.report import PayloadReader
from harmonicio.haste.reports.summary import Hierarchy
from harmonicio.haste.storage_client import UNSCORED
from harmonicio.haste.tiers.base import Tier, create_tiers

_log = logging.getLogger(__name__)


def hierarchy_of(declaration: StreamDeclaration) -> Hierarchy:
    """Return how a stream is sorted, as far as its declaration says."""
    options = declaration.plugins["haste"]
    function = _table(options, "function")
    values = {**PRESETS.get(str(function.get("preset")), {}), **function}
    shown = ", ".join(f"{key} = {_shown(value)}" for key, value in values.items() if key not in ("name", "preset"))
    name = str(values.get("name", ""))
    return Hierarchy(
        stream=declaration.name,
        feature=str(values.get("feature", "")),
        intervals=_intervals(declaration.name, options),
        function=f"{name}: {shown}" if shown else name,
    )


def payload_reader(declarations: Iterable[StreamDeclaration]) -> PayloadReader:
    """Return what reads a row's payload from the tiers of its stream; it raises an error of ours where it cannot."""
    tiers = {each.name: _tiers(each) for each in declarations}

    def read(row: FeatureRow) -> bytes:
        tier = tiers.get(row.stream, {}).get(row.tier)
        if tier is None:
            raise NotFound(f"Stream {row.stream!r} has no tier {row.tier!r} any more.")
        return tier.read(row.location)

    return read


def _intervals(stream: str, options: Mapping[str, Any]) -> tuple[Interval, ...]:
    """Return the intervals of scores; none under a policy that cannot be asked here."""
    try:
        tiers = [name for name in _table(options, "tiers") if name != UNSCORED]
        return intervals_of(create_policy(_table(options, "policy"), tiers))
    except Exception as error:  # noqa: BLE001  a policy may be anybody's code
        _log.warning("The report shows no edges between the tiers of stream %s: %s", stream, error)
        return ()


def _tiers(declaration: StreamDeclaration) -> Mapping[str, Tier]:
    try:
        return create_tiers(_table(declaration.plugins["haste"], "tiers"))
    except Exception as error:  # noqa: BLE001  a driver may be anybody's code
        _log.warning("The report shows no examples of stream %s: %s", declaration.name, error)
        return {}


def _table(options: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    table = options.get(key)
    return table if isinstance(table, Mapping) else {}


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
