"""Tickets, bearer tokens and lines from elsewhere: whatever they hold, they are good or refused with our errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonicio.control import json_codec, tickets
from harmonicio.core.errors import HarmonicIOError, NotAllowed, StorageError
from harmonicio.core.lease import Claims, TicketKind
from harmonicio.core.message import Failure, Outcome, OutcomeKind
from harmonicio.master.backlog.entry import Death
from harmonicio.master.backlog.outcome_codec import (
    KeptOutcome,
    decode_death,
    decode_outcome,
    encode_death,
    encode_outcome,
)
from harmonicio.wire.codec import pack

KEY = tickets.new_key()
LEASE = Claims(TicketKind.LEASE, "images", 60.0, 1_000.0, 1, lease="l1", engine="e1", source="camera")
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.text(max_size=8) | st.sampled_from(["type", "died_at", "engine", "image", "version", "reason"]), inner
        )
    ),
    max_leaves=10,
)
claims = st.builds(
    Claims,
    st.sampled_from(TicketKind),
    st.text(max_size=40),
    st.floats(0, 1e6),
    st.floats(0, 2e9),
    st.integers(0, 2**31),
    st.text(max_size=40),
    st.text(max_size=40),
    st.text(max_size=40),
)


@given(claims)
def test_a_ticket_reads_as_it_was_signed(signed: Claims) -> None:
    ticket = tickets.sign(KEY, signed)
    assert tickets.verify(KEY, ticket, signed.kind, wall_s=signed.issued_at) == signed


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda data: data.decode("latin-1")))
def test_any_text_as_a_ticket_is_refused_as_one_that_is_not_allowed(text: str) -> None:
    with pytest.raises(NotAllowed):
        tickets.verify(KEY, text, TicketKind.LEASE, wall_s=1_000.0)


@given(st.integers(0, 400), st.integers(0, 127), st.sampled_from(["change", "leave out", "put in", "cut"]))
def test_a_ticket_that_was_changed_anywhere_is_refused(at: int, code: int, how: str) -> None:
    ticket = tickets.sign(KEY, LEASE)
    at %= len(ticket)
    middle = {"change": chr(code), "leave out": "", "put in": chr(code) + ticket[at], "cut": ""}[how]
    changed = ticket[:at] + middle + ("" if how == "cut" else ticket[at + 1 :])
    if changed != ticket:
        with pytest.raises(NotAllowed):
            tickets.verify(KEY, changed, TicketKind.LEASE, wall_s=1_000.0)


@given(st.sampled_from([*json_codec.as_plain(LEASE), "unknown"]), plain, st.booleans())
def test_what_another_signs_with_the_right_key_is_claims_or_refused(field: str, value: object, is_alone: bool) -> None:
    """An engine's key is known where its handler's code is."""
    stated = value if is_alone else {**json_codec.as_plain(LEASE), field: value}
    try:
        ticket = tickets._serializer(KEY, TicketKind.LEASE).dumps(stated)
    except TypeError:
        return  # JSON has no bytes.
    try:
        read = tickets.verify(KEY, str(ticket), TicketKind.LEASE, wall_s=1_000.0)
    except NotAllowed as error:
        assert len(str(error)) < 500
    else:
        assert read.issued_at - 900.0 <= 1_000.0 <= read.issued_at + read.term_s + 900.0


@given(
    st.text(max_size=200) | st.lists(st.text(max_size=20), max_size=6).map(lambda parts: "engine:" + ":".join(parts))
)
def test_any_bearer_is_an_engines_or_none(text: str) -> None:
    parts = tickets.split_engine_bearer(text)
    assert parts is None or len(parts) == 3


# ── what a store has kept ────────────────────────────────────────────────────────────────────────────────────────────


@given(st.binary(max_size=100) | plain.map(pack) | st.tuples(st.integers(0, 5), plain, plain).map(list).map(pack))
def test_damaged_outcomes_are_a_storage_error(data: bytes) -> None:
    for decode in (decode_outcome, decode_death):
        try:
            decode(data)
        except StorageError as error:
            assert len(str(error)) < 1000


@given(st.integers(0, 200), st.integers(0, 255))
def test_an_outcome_with_one_other_byte_is_an_outcome_or_a_storage_error(at: int, value: int) -> None:
    failed = Outcome(OutcomeKind.FAILED, failure=Failure("ValueError", "bad pixel", "Traceback", retryable=False))
    kept = encode_outcome(KeptOutcome(failed, 3)), encode_death(Death(failed.failure, 1.5, "e-1", "sha256:0", 2))
    for encoded, decode in zip(kept, (decode_outcome, decode_death), strict=True):
        data = bytearray(encoded)
        data[at % len(data)] = value
        try:
            decode(bytes(data))
        except HarmonicIOError as error:
            assert isinstance(error, StorageError)
