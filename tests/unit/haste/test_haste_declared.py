"""What a report takes from a declaration, whichever policy it names, and whatever is wrong with it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonicio.core.errors import HarmonicIOError
from harmonicio.core.stream import StreamDeclaration
from harmonicio.haste.feature_db.base import FeatureRow
from harmonicio.haste.policies.base import POLICIES, intervals_of
from harmonicio.haste.policies.interval import IntervalPolicy
from harmonicio.haste.reports.declared import hierarchy_of, payload_reader
from harmonicio.haste.reports.report import ReportOptions, write_report

PAPER = ((0.0, 0.25, "D"), (0.25, 0.5, "C"), (0.5, 0.75, "B"), (0.75, 1.0, "A"))
PAYLOAD = b"pixels"
ROW = FeatureRow("plates", "m1", "0" * 32, 6, "A", "plates/m1", features={"power_log_log_slope": -1.2}, score=0.9)


def declared(folder: Path, **more: Any) -> StreamDeclaration:
    haste = {
        "function": {"name": "logistic", "preset": "haste-case-study-1", "x0": -2.123456},
        "policy": {"intervals": [list(interval) for interval in PAPER]},
        "tiers": {name: {"folder": str(folder / name)} for name in (*"ABCD", "unscored")},
    }
    return StreamDeclaration("plates", handler="engine.py", plugins={"haste": haste | more})


class Middling:
    """A policy of somebody else's: the middle is what matters, and it has no intervals of its own."""

    def tier_for(self, score: float) -> str:
        return "A" if 1 / 3 <= score < 0.7 else "B"


class Refusing:
    def tier_for(self, score: float) -> str:
        raise ZeroDivisionError("no tier today")


def install(monkeypatch: pytest.MonkeyPatch, policy: object) -> None:
    """Offer a policy called ``mine``, as another package would."""
    module = ModuleType("lab_policy")
    module.create = lambda options, tiers: policy  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lab_policy", module)
    monkeypatch.setitem(POLICIES.table, "mine", "lab_policy:create")


def test_a_declaration_tells_feature_intervals_and_function_in_words(tmp_path: Path) -> None:
    found = hierarchy_of(declared(tmp_path))
    assert (found.stream, found.feature, found.intervals) == ("plates", "power_log_log_slope", PAPER)
    assert found.function == "logistic: feature = power_log_log_slope, k = 4.5, x0 = -2.123"


def test_a_policy_of_another_kind_has_the_edges_that_it_answers_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Middling())
    found = hierarchy_of(declared(tmp_path, policy={"name": "mine", "intervals": "15 min"}))
    assert found.intervals == ((0.0, 1 / 3, "B"), (1 / 3, 0.7, "A"), (0.7, 1.0, "B"))


@given(st.lists(st.integers(1, 999), max_size=6, unique=True).map(sorted), st.floats(0, 0.0009))
def test_asking_an_interval_policy_finds_its_intervals(numbers: list[int], shift: float) -> None:
    bounds = [0.0, *(number / 1000 + shift for number in numbers), 1.0]
    intervals = tuple(zip(bounds[:-1], bounds[1:], map(str, range(len(numbers) + 1)), strict=True))
    policy = IntervalPolicy(intervals, [tier for _, _, tier in intervals])
    assert intervals_of(policy) == intervals


BROKEN: dict[str, dict[str, Any]] = {
    "a policy that is not installed here": {"policy": {"name": "elsewhere"}},
    "a policy that raises": {"policy": {"name": "mine"}},
    "no policy": {"policy": None},
    "a function without a name": {"function": {}},
    "a function of the user's own": {"function": {"name": "mine.py:score"}},
    "no table of a function": {"function": "logistic"},
    "a preset that is none": {"function": {"name": "logistic", "preset": ["paper"]}},
    "a tier driver that is not installed here": {"tiers": {"A": {"driver": "elsewhere"}}},
    "no tiers": {"tiers": []},
    "tiers that have gone": {"tiers": {"unscored": {"driver": "memory"}}},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_report_is_written_whatever_is_wrong_with_the_declaration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    install(monkeypatch, Refusing())
    stream = declared(tmp_path, **BROKEN[name])
    options = ReportOptions(0.0, hierarchies={"plates": hierarchy_of(stream)}, read_payload=payload_reader([stream]))
    page = write_report([ROW], tmp_path / "report", options).page.read_text()
    assert "Histogram of power log log slope (no unit): 1 values" in page


def test_payloads_are_read_from_the_tiers_of_their_stream(tmp_path: Path) -> None:
    (tmp_path / "A" / "plates").mkdir(parents=True)
    (tmp_path / "A" / "plates" / "m1").write_bytes(PAYLOAD)
    read = payload_reader([declared(tmp_path)])
    assert read(ROW) == PAYLOAD
    for tier, stream in (("cold", "plates"), ("A", "spectra")):
        with pytest.raises(HarmonicIOError, match="no tier"):
            read(FeatureRow(stream, "m1", "0" * 32, 6, tier, "plates/m1"))
