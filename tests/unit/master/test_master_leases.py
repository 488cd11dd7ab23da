"""A lease is held until it is released, runs out, or its engine goes away."""

from __future__ import annotations

import pytest

from harmonicio.control.messages import LeaseRenewal
from harmonicio.core.errors import Conflict
from harmonicio.master.leases import LeaseTable


@pytest.fixture
def table() -> LeaseTable:
    return LeaseTable(id_prefix="t", term_s=60.0)


def test_a_lease_runs_out_after_its_term(table: LeaseTable) -> None:
    held = table.grant("s1", "plates", "e1", now=0.0)
    assert table.expire(now=59.9) == () and table.is_held("s1", "e1")
    assert table.expire(now=60.0) == (held,) and not table.is_held("s1", "e1")
    assert len(table) == 0 and table.count_on("e1") == 0


def test_a_renewed_lease_goes_on_for_another_term(table: LeaseTable) -> None:
    lease = table.grant("s1", "plates", "e1", now=0.0).lease
    later = table.grant("s1", "plates", "e2", now=10.0).lease
    assert table.renew("s1", [lease], now=20.0) == LeaseRenewal((lease,), ())
    assert [held.lease for held in table.expire(now=70.0)] == [later]
    assert [held.lease for held in table.expire(now=80.0)] == [lease]


def test_a_renewal_names_the_leases_that_have_ended(table: LeaseTable) -> None:
    mine, theirs = table.grant("s1", "plates", "e1", now=0.0).lease, table.grant("s2", "plates", "e1", now=0.0).lease
    assert table.renew("s1", [mine, theirs, "never-granted"], now=1.0) == LeaseRenewal(
        (mine,), (theirs, "never-granted")
    )
    assert table.renew("s1", [mine], now=100.0) == LeaseRenewal((), (mine,))


def test_several_sources_share_an_engine_but_none_holds_two_leases_on_it(table: LeaseTable) -> None:
    table.grant("s1", "plates", "e1", now=0.0)
    table.grant("s2", "plates", "e1", now=0.0)
    assert table.count_on("e1") == 2
    with pytest.raises(Conflict):
        table.grant("s1", "plates", "e1", now=1.0)


def test_only_its_own_source_can_release_a_lease(table: LeaseTable) -> None:
    held = table.grant("s1", "plates", "e1", now=0.0)
    assert table.release("s2", [held.lease]) == ()
    assert table.release("s1", [held.lease, held.lease, "x"]) == (held,)


def test_when_an_engine_goes_away_all_its_leases_end(table: LeaseTable) -> None:
    for source in ("s1", "s2"):
        table.grant(source, "plates", "e1", now=0.0)
    kept = table.grant("s1", "plates", "e2", now=0.0)
    assert len(table.revoke_engine("e1")) == 2 and len(table) == 1
    assert table.revoke_engine("e1") == () and table.is_held("s1", kept.engine)


def test_a_renewal_says_which_engines_are_gone_to_those_that_held_leases_on_them_for_a_term(table: LeaseTable) -> None:
    mine, theirs = (table.grant(source, "plates", "e1", now=0.0).lease for source in ("s1", "s2"))
    table.revoke_engine("e1")
    assert table.renew("s1", [mine, theirs], 1.0, lambda engine: engine == "e1") == LeaseRenewal(
        (), (mine, theirs), (mine,)
    )
    assert table.renew("s1", [mine], 1.0, lambda _: False).gone == ()  # It drains, and answers what it holds.
    table.expire(now=119.0)
    assert table.renew("s1", [mine], 119.0, lambda _: True).gone == (mine,)
    table.expire(now=120.0)
    assert table.renew("s1", [mine], 120.0, lambda _: True) == LeaseRenewal((), (mine,))


def test_deleting_a_stream_ends_its_leases_only(table: LeaseTable) -> None:
    table.grant("s1", "plates", "e1", now=0.0)
    table.grant("s1", "spectra", "e2", now=0.0)
    assert [held.stream for held in table.revoke_stream("plates")] == ["plates"]
    assert table.is_held("s1", "e2")


def test_raising_the_epoch_ends_every_lease(table: LeaseTable) -> None:
    table.grant("s1", "plates", "e1", now=0.0)
    assert len(table.raise_epoch(2)) == 1 and table.epoch == 2 and len(table) == 0


def test_no_lease_id_is_used_twice(table: LeaseTable) -> None:
    first = table.grant("s1", "plates", "e1", now=0.0)
    table.release("s1", [first.lease])
    assert table.grant("s1", "plates", "e1", now=0.0).lease != first.lease
    assert LeaseTable(id_prefix="u").grant("s1", "plates", "e1", now=0.0).lease != first.lease
