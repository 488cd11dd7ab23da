"""Properties of the JSON of the control plane: every record reads as it was written, garbage is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import inspect
import json
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmonicio.control import json_codec, messages
from harmonicio.core.errors import InvalidInput
from harmonicio.core.lease import Address, Claims

RECORDS = sorted(
    {
        *(kind for _, kind in inspect.getmembers(messages, dataclasses.is_dataclass) if isinstance(kind, type)),
        Address,
        Claims,
    },
    key=lambda kind: kind.__name__,
)

texts = st.text(max_size=10)
scalars: dict[Any, st.SearchStrategy[Any]] = {
    str: texts,
    int: st.integers(-(2**70), 2**70),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    Any: st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=5,
    ),
}


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Every value that an annotation allows."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in scalars:
        return scalars[hint]
    if origin in (Union, types.UnionType):
        return st.one_of(*(st.none() if member is type(None) else values_of(member) for member in arguments))
    if origin is tuple:
        return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
    if origin is not None and issubclass(origin, Mapping):
        return st.dictionaries(texts, values_of(arguments[1]), max_size=3)
    if issubclass(hint, enum.Enum):
        return st.sampled_from(hint)
    return records_of(hint)


def records_of(kind: Any) -> st.SearchStrategy[Any]:
    return st.builds(kind, **{name: values_of(hint) for name, hint in get_type_hints(kind).items()})


@pytest.mark.parametrize("kind", RECORDS)
@settings(max_examples=15)
@given(data=st.data())
def test_every_record_reads_as_it_was_written(kind: type, data: st.DataObject) -> None:
    record = data.draw(records_of(kind))
    text = json_codec.dumps(record)
    assert json_codec.loads(kind, text) == record
    assert json_codec.from_plain(kind, json.loads(text)) == record


@pytest.mark.parametrize("kind", RECORDS)
@settings(max_examples=15)
@given(data=st.data())
def test_fields_that_are_not_known_are_ignored(kind: type, data: st.DataObject) -> None:
    record = data.draw(records_of(kind))
    assert json_codec.from_plain(kind, {**json_codec.as_plain(record), "a later field": [1]}) == record


kinds = st.sampled_from(RECORDS)


@given(kinds, st.binary(max_size=100) | texts)
def test_any_text_is_a_record_or_refused(kind: type, text: bytes | str) -> None:
    with contextlib.suppress(InvalidInput):
        json_codec.loads(kind, text)


@given(kinds, st.data())
def test_a_record_with_one_wrong_value_is_refused_or_still_a_record(kind: type, data: st.DataObject) -> None:
    plain = json_codec.as_plain(data.draw(records_of(kind)))
    name = data.draw(st.sampled_from(sorted(plain)))
    plain[name] = data.draw(scalars[Any])
    try:
        record = json_codec.from_plain(kind, plain)
    except InvalidInput as error:
        assert f"{kind.__name__}.{name}" in str(error)
    else:
        json_codec.dumps(record)


@given(kinds, st.data())
def test_a_record_that_lacks_a_field_is_refused_or_takes_the_default(kind: type, data: st.DataObject) -> None:
    record = data.draw(records_of(kind))
    plain = json_codec.as_plain(record)
    missing = data.draw(st.sampled_from(dataclasses.fields(kind)))
    del plain[missing.name]
    try:
        found = json_codec.from_plain(kind, plain)
    except InvalidInput as error:
        assert f"{kind.__name__}.{missing.name} is missing" in str(error)
    else:
        assert dataclasses.replace(record, **{missing.name: getattr(found, missing.name)}) == found


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"cpu_fraction": NaN}',
        b'{"cpu_fraction": 1e999}',
        b'{"cpu_fraction": Infinity}',
        b'{"cpu_fraction": true}',
        b'{"cpu_fraction": 1' + b"0" * 400 + b"}",
        b'{"cpu_fraction": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"cpu_fraction": 0.5, "memory_used_bytes": 1.5, "memory_total_bytes": 1, "disk_free_bytes": 1}',
        b'{"cpu_fraction": 0.5, "memory_used_bytes": true, "memory_total_bytes": 1, "disk_free_bytes": 1}',
    ],
    ids=range(14),
)
def test_what_is_no_host_load_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidInput):
        json_codec.loads(messages.HostLoad, text)


@pytest.mark.parametrize(
    "value", [b"bytes", float("nan"), float("inf"), {1, 2}, object()], ids=["bytes", "nan", "infinity", "set", "object"]
)
def test_what_json_cannot_express_is_refused_when_it_is_written(value: Any) -> None:
    with pytest.raises(InvalidInput, match="cannot be written as JSON"):
        json_codec.dumps(messages.TokenRequest(name=value, role=""))


def test_a_structure_that_never_ends_is_refused_when_it_is_written() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidInput, match="cannot be written as JSON"):
        json_codec.dumps(messages.TokenRequest(name=endless, role=""))  # type: ignore[arg-type]
