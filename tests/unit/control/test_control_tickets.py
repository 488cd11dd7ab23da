"""Tickets can be believed, or are refused with a clear sentence."""

from __future__ import annotations

import dataclasses
import hmac
import json
import re
from pathlib import Path

import pytest

from harmonicio.control import json_codec, tickets
from harmonicio.core.errors import NotAllowed
from harmonicio.core.lease import WALL_CLOCK_TOLERANCE_S, Claims, TicketKind

KEY = "ab" * 32
NOW_S = 1_800_000_000.0
CLAIMS = Claims(
    kind=TicketKind.LEASE,
    stream="plates",
    term_s=60.0,
    issued_at=NOW_S,
    epoch=3,
    lease="l1",
    engine="w1-e1",
    source="s1",
)


def test_a_ticket_says_what_was_signed() -> None:
    assert tickets.verify(KEY, tickets.sign(KEY, CLAIMS), TicketKind.LEASE, wall_s=NOW_S) == CLAIMS


def test_a_ticket_signed_with_another_key_is_refused() -> None:
    with pytest.raises(NotAllowed, match="not valid here"):
        tickets.verify("cd" * 32, tickets.sign(KEY, CLAIMS), TicketKind.LEASE, wall_s=NOW_S)


def test_a_ticket_of_another_kind_is_refused() -> None:
    with pytest.raises(NotAllowed, match="intake ticket is not valid here"):
        tickets.verify(KEY, tickets.sign(KEY, CLAIMS), TicketKind.INTAKE, wall_s=NOW_S)


@pytest.mark.parametrize("position", [0, 10, -1])
def test_a_changed_ticket_is_refused(position: int) -> None:
    ticket = tickets.sign(KEY, CLAIMS)
    letters = list(ticket)
    letters[position] = "A" if letters[position] != "A" else "B"
    with pytest.raises(NotAllowed):
        tickets.verify(KEY, "".join(letters), TicketKind.LEASE, wall_s=NOW_S)


@pytest.mark.parametrize("garbage", ["", "x", ".", "a.b", "\0", "ü", "." * 100, "x" * 5000, "e30.e30"])
def test_garbage_is_refused(garbage: str) -> None:
    with pytest.raises(NotAllowed):
        tickets.verify(KEY, garbage, TicketKind.LEASE, wall_s=NOW_S)


def test_clocks_may_differ_by_the_tolerance_and_no_more() -> None:
    ticket = tickets.sign(KEY, CLAIMS)
    latest_s = NOW_S + CLAIMS.term_s + WALL_CLOCK_TOLERANCE_S
    assert tickets.verify(KEY, ticket, TicketKind.LEASE, wall_s=latest_s) == CLAIMS
    assert tickets.verify(KEY, ticket, TicketKind.LEASE, wall_s=NOW_S - WALL_CLOCK_TOLERANCE_S) == CLAIMS
    with pytest.raises(NotAllowed, match="expired"):
        tickets.verify(KEY, ticket, TicketKind.LEASE, wall_s=latest_s + 1)
    with pytest.raises(NotAllowed, match="future"):
        tickets.verify(KEY, ticket, TicketKind.LEASE, wall_s=NOW_S - WALL_CLOCK_TOLERANCE_S - 1)


@pytest.mark.parametrize("jump_s", [-7 * 86_400.0, -3600.0, 3600.0])
def test_an_engine_that_runs_keeps_its_ticket_whatever_its_masters_clock_is_set_to(jump_s: float) -> None:
    claims = dataclasses.replace(CLAIMS, kind=TicketKind.ENGINE, term_s=tickets.ENGINE_TICKET_TERM_S)
    assert tickets.verify(KEY, tickets.sign(KEY, claims), TicketKind.ENGINE, wall_s=NOW_S + jump_s) == claims


@pytest.mark.row("S2")
def test_signatures_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine, compared = hmac.compare_digest, []

    def compare(first: bytes, second: bytes) -> bool:
        compared.append((len(first), len(second), genuine(first, second)))
        return compared[-1][2]

    monkeypatch.setattr(hmac, "compare_digest", compare)
    ticket = tickets.sign(KEY, CLAIMS)
    wrong = [ticket[:-43] + "A" * 43, ticket[:-2] + ("AA" if ticket[-2:] != "AA" else "BA")]
    assert tickets.verify(KEY, ticket, TicketKind.LEASE, wall_s=NOW_S) == CLAIMS
    for forged in wrong:
        with pytest.raises(NotAllowed):
            tickets.verify(KEY, forged, TicketKind.LEASE, wall_s=NOW_S)
    assert compared == [(32, 32, True), (32, 32, False), (32, 32, False)]


def test_a_ticket_of_an_older_epoch_is_revoked() -> None:
    ticket = tickets.sign(KEY, dataclasses.replace(CLAIMS, epoch=2))
    with pytest.raises(NotAllowed, match="revoked"):
        tickets.verify(KEY, ticket, TicketKind.LEASE, wall_s=NOW_S, oldest_epoch=3)


def test_each_engine_has_a_key_of_its_own() -> None:
    names = [("w1", "e1"), ("w1", "e2"), ("w2", "e1"), ("w", "1e1")]
    keys = {tickets.engine_key(KEY, worker, engine) for worker, engine in names}
    assert len(keys) == len(names)
    worker_key = tickets.derive_key(KEY, "worker", "w1")
    assert tickets.derive_key(worker_key, "engine", "e1") == tickets.engine_key(KEY, "w1", "e1")


def test_an_engines_bearer_token_names_worker_engine_and_ticket() -> None:
    ticket = tickets.sign(KEY, CLAIMS)
    assert tickets.split_engine_bearer(tickets.engine_bearer("w1", "e1", ticket)) == ("w1", "e1", ticket)
    assert tickets.split_engine_bearer("hio_admin_abc") is None


def test_the_ticket_that_the_protocol_page_shows_proves_the_claims_below_it(repository: Path) -> None:
    page = (repository / "docs" / "protocol.md").read_text()
    shown = re.search(r"^```\n(?P<ticket>\.\S+)\n(?P<claims>\{.*\})\n```$", page, re.MULTILINE)
    assert shown is not None
    claims = tickets.verify(bytes(range(32)).hex(), shown["ticket"], TicketKind.LEASE, wall_s=1_750_000_030.0)
    assert json_codec.as_plain(claims) == json.loads(shown["claims"])
