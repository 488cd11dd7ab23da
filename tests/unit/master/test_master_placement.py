"""Placement fills workers one after the other and leaves in place what runs."""

from __future__ import annotations

import pytest

from harmonicio.core.errors import ConfigurationError
from harmonicio.master.placement import SPREAD, Host, check_policy, place


def test_one_worker_is_filled_before_the_next_is_used() -> None:
    result = place([Host("a", 5), Host("b", 5)], {"plates": 7})
    assert result.placed == {"a": {"plates": 5}, "b": {"plates": 2}} and not result.unplaced


def test_the_fullest_worker_with_room_comes_first() -> None:
    result = place([Host("a", 5), Host("b", 5, placed={"plates": 2})], {"plates": 4})
    assert result.placed == {"a": {}, "b": {"plates": 4}}


def test_what_finds_no_room_is_counted() -> None:
    result = place([Host("a", 2)], {"plates": 5})
    assert result.placed == {"a": {"plates": 2}} and result.unplaced == {"plates": 3}


def test_without_workers_everything_is_unplaced() -> None:
    assert place([], {"plates": 2, "spectra": 0}).unplaced == {"plates": 2}


def test_streams_take_turns_when_room_is_short() -> None:
    assert place([Host("a", 3)], {"plates": 5, "spectra": 5}).placed == {"a": {"plates": 2, "spectra": 1}}


def test_a_new_worker_moves_nothing() -> None:
    before = place([Host("b", 5)], {"plates": 3}).placed
    after = place([Host("a", 5), Host("b", 5, placed=before["b"])], {"plates": 3})
    assert after.placed == {"a": {}, "b": {"plates": 3}}


def test_a_shrinking_stream_leaves_the_emptiest_worker() -> None:
    hosts = [Host("a", 5, placed={"plates": 2}), Host("b", 5, placed={"plates": 5})]
    assert place(hosts, {"plates": 5}).placed == {"a": {}, "b": {"plates": 5}}


def test_engines_of_a_worker_that_came_back_are_kept_when_they_are_missing() -> None:
    hosts = [Host("a", 5, placed={}), Host("b", 5, running={"plates": 2})]
    assert place(hosts, {"plates": 2}).placed == {"a": {}, "b": {"plates": 2}}


def test_engines_of_a_worker_that_came_back_end_when_others_took_over() -> None:
    hosts = [Host("a", 5, placed={"plates": 2}), Host("b", 5, running={"plates": 2})]
    assert place(hosts, {"plates": 2}).placed == {"a": {"plates": 2}, "b": {}}


def test_an_engine_that_crashed_is_wanted_where_it_was() -> None:
    hosts = [Host("a", 5, placed={"plates": 1}, running={}), Host("b", 5, placed={"plates": 4})]
    assert place(hosts, {"plates": 5}).placed["a"] == {"plates": 1}


def test_a_worker_with_less_room_than_before_gives_up_engines() -> None:
    result = place([Host("a", 1, placed={"plates": 3}), Host("b", 5)], {"plates": 3})
    assert result.placed == {"a": {"plates": 1}, "b": {"plates": 2}}


def test_engines_of_a_stream_that_is_gone_are_not_wanted() -> None:
    assert place([Host("a", 5, placed={"old": 3})], {}).placed == {"a": {}}


def test_spread_uses_the_emptiest_worker_first() -> None:
    assert place([Host("a", 5), Host("b", 5)], {"plates": 4}, SPREAD).placed == {
        "a": {"plates": 2},
        "b": {"plates": 2},
    }


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="packed"):
        check_policy("random")
