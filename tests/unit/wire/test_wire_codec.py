"""msgpack with limits: what is accepted for sending is accepted on arrival, and nothing else."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmonicio.core.errors import InvalidInput, RemoteProtocolError
from harmonicio.wire.codec import FRAME_DEPTH, MAX_DEPTH, MAX_ENTRIES, pack, pack_lists, pack_value, unpack
from harmonicio.wire.frames import MAX_HEADER_BYTES


def nested(depth: int) -> Any:
    value: Any = None
    for _ in range(depth):
        value = {"in": value} if depth % 2 else [value]
    return value


endless: list[Any] = []
endless.append(endless)


@pytest.mark.parametrize(
    "value",
    [
        {1: 2},
        {"a": [{b"bytes": 1}]},
        {None: 1},
        object(),
        {1, 2},
        2**64,
        -(2**63) - 1,
        "\ud800",
        msgpack.Timestamp(1),
        msgpack.ExtType(5, b""),
        memoryview(bytes(10))[::2],
        [0] * (MAX_ENTRIES + 1),
        "x" * MAX_HEADER_BYTES,
        nested(MAX_DEPTH + 1),
        nested(MAX_DEPTH + 2),
        nested(400),
        nested(5000),
        endless,
    ],
    ids=range(18),
)
def test_what_the_peer_would_refuse_is_refused_before_it_is_sent(value: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        pack(value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -(2**63), 2**64 - 1, 1.5, "é", b"", [], {}, {"a": {"b": [1, {"c": None}]}}, [0] * MAX_ENTRIES],
    ids=range(12),
)
def test_a_plain_value_reads_as_it_was_written(value: Any) -> None:
    assert unpack(pack(value)) == value


def test_the_deepest_value_reads_as_it_was_written() -> None:
    assert unpack(pack(nested(MAX_DEPTH))) == nested(MAX_DEPTH)


def test_tuples_arrive_as_lists_and_buffers_as_bytes() -> None:
    assert unpack(pack({"at": (1, 2), "raw": bytearray(b"x")})) == {"at": [1, 2], "raw": b"x"}


def test_what_a_user_gives_may_be_less_deep_than_a_section() -> None:
    assert pack_value({"a": 1}) == pack({"a": 1})
    pack_value(nested(MAX_DEPTH - FRAME_DEPTH))
    with pytest.raises(InvalidInput, match="nested"):
        pack_value(nested(MAX_DEPTH - FRAME_DEPTH + 1))


@given(st.binary(max_size=100))
def test_any_section_is_a_value_or_refused(section: bytes) -> None:
    try:
        value = unpack(section)
    except RemoteProtocolError as error:
        assert len(str(error)) < 500
    else:
        assert unpack(pack(value)) == value or value != value or "nan" in repr(value)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 1000, MAX_ENTRIES, MAX_ENTRIES + 1, 150_000])
def test_a_long_list_becomes_as_many_as_are_needed(count: int) -> None:
    sections = list(pack_lists(range(count)))
    assert [item for section in sections for item in unpack(section)] == list(range(count))
    assert all(len(section) <= MAX_HEADER_BYTES for section in sections)
    assert len(sections) == max(1, -(-count // MAX_ENTRIES))


def test_large_rows_are_spread_over_lists() -> None:
    rows = [bytes([at]) * 100_000 for at in range(7)]
    assert [len(unpack(section)) for section in pack_lists(rows)] == [2, 2, 2, 1]


def test_a_row_that_fits_no_list_is_refused() -> None:
    with pytest.raises(InvalidInput):
        list(pack_lists([bytes(MAX_HEADER_BYTES)]))
