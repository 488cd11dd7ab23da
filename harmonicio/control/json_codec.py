"""Records to JSON and back, driven by the dataclasses' own annotations.

Only what :mod:`harmonicio.control.messages` uses is known: dataclasses, enums, tuples, mappings, unions with ``None``
and the plain JSON types.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import math
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from harmonicio.core.errors import InvalidInput

Record = TypeVar("Record")


def dumps(record: Any) -> bytes:
    """Return the record as compact JSON.

    Raises:
        InvalidInput: it holds something that JSON cannot express, such as bytes or an infinite number.
    """
    try:
        return json.dumps(as_plain(record), separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"A {type(record).__name__} cannot be written as JSON: {error}.") from None


def as_plain(record: Any) -> Any:
    """Return the record as dicts, lists and plain values."""
    kind: Any = type(record)
    if (fields := _fields(kind)) is not None:
        return {each.name: as_plain(getattr(record, each.name)) for each in fields}
    if isinstance(record, enum.Enum):
        return record.value
    if isinstance(record, (list, tuple)):
        return [as_plain(item) for item in record]
    if isinstance(record, Mapping):
        return {str(key): as_plain(value) for key, value in record.items()}
    return record


def loads(kind: type[Record], text: bytes | str) -> Record:
    """Return the record that ``text`` describes.

    Raises:
        InvalidInput: the text is not JSON, or a field is missing or of another type.
    """
    try:
        plain = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"A {kind.__name__} was expected, but the text is not JSON: {error}.") from None
    return from_plain(kind, plain)


def from_plain(kind: type[Record], plain: Any) -> Record:
    """Return the record that dicts, lists and plain values describe.

    Raises:
        InvalidInput: names the field that is missing or of another type.
    """
    value: Record = _convert(kind, plain, kind.__name__)
    return value


def _finite(text: str) -> float:
    """JSON has no infinite numbers, although Python reads and writes them."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a finite number")
    return number


@dataclasses.dataclass(frozen=True, slots=True)
class _Field:
    """One field of a record, and what it holds."""

    name: str
    kind: Any
    is_required: bool


@functools.cache
def _fields(kind: Any) -> tuple[_Field, ...] | None:
    """Return the fields of a record; None where it is none."""
    if not dataclasses.is_dataclass(kind):
        return None
    hints = get_type_hints(kind)
    return tuple(
        _Field(
            item.name,
            hints[item.name],
            item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING,
        )
        for item in dataclasses.fields(kind)
    )


def _convert(kind: Any, plain: Any, where: str) -> Any:
    origin = get_origin(kind)
    if kind is Any:
        return plain
    if origin in (Union, types.UnionType):
        members = [member for member in get_args(kind) if member is not type(None)]
        return None if plain is None else _convert(members[0], plain, where)
    if origin is tuple:
        _expect(isinstance(plain, list), "a list", where)
        return tuple(_convert(get_args(kind)[0], item, f"{where}[{at}]") for at, item in enumerate(plain))
    if origin is not None and issubclass(origin, Mapping):
        _expect(isinstance(plain, dict), "an object", where)
        return {key: _convert(get_args(kind)[1], item, f"{where}.{key}") for key, item in plain.items()}
    if (fields := _fields(kind)) is not None:
        return _convert_record(kind, fields, plain, where)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        _expect(plain in [member.value for member in kind], f"one of {[member.value for member in kind]}", where)
        return kind(plain)
    return _convert_scalar(kind, plain, where)


def _convert_record(kind: Any, fields: tuple[_Field, ...], plain: Any, where: str) -> Any:
    _expect(isinstance(plain, dict), "an object", where)
    given = {}
    for each in fields:
        if each.name in plain:
            given[each.name] = _convert(each.kind, plain[each.name], f"{where}.{each.name}")
        elif each.is_required:
            raise InvalidInput(f"{where}.{each.name} is missing.")
    return kind(**given)


def _convert_scalar(kind: Any, plain: Any, where: str) -> Any:
    if kind is float and isinstance(plain, int) and not isinstance(plain, bool):
        _expect(abs(plain) < 2**1023, "a finite number", where)
        return float(plain)
    _expect(
        isinstance(plain, kind) and not (kind is int and isinstance(plain, bool)), f"of type {kind.__name__}", where
    )
    return plain


def _expect(is_right: bool, wanted: str, where: str) -> None:
    if not is_right:
        raise InvalidInput(f"{where} must be {wanted}.")
