"""The delay doubles with each failure, within its bound, by half at most shorter than that."""

from __future__ import annotations

import pytest

from harmonicio.core.back_off import delay_s, full_jitter_s


def test_the_delay_doubles_up_to_its_bound() -> None:
    delays = [delay_s(failures, first_s=0.5, longest_s=3.0, chance=1.0) for failures in (1, 2, 3, 4, 10_000)]
    assert delays == [0.5, 1.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize(("chance", "expected_s"), [(0.0, 1.0), (0.5, 1.5), (0.999, 1.999)])
def test_chance_takes_up_to_half_of_it(chance: float, expected_s: float) -> None:
    assert delay_s(1, first_s=2.0, longest_s=30.0, chance=chance) == pytest.approx(expected_s)


@pytest.mark.parametrize(("chance", "expected_s"), [(0.0, 0.0), (0.5, 2.0), (1.0, 4.0)])
def test_full_jitter_takes_up_to_all_of_it(chance: float, expected_s: float) -> None:
    assert full_jitter_s(2, first_s=2.0, longest_s=30.0, chance=chance) == expected_s
