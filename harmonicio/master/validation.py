"""What a request brings, as a record: checked by pydantic over the dataclasses of the REST contract.

A body of a megabyte has room for a million mistakes, and to tell of each would take a gigabyte. So a list is given up
at its first bad item, and of what else is wrong in large numbers only the number is told.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable
from typing import Any

import pydantic
from pydantic_core import SchemaValidator

from harmonicio.control.messages import Problem
from harmonicio.core.errors import InvalidInput

MAX_FIELDS, MAX_TOLD = 20, 1_000
_LISTS = ("list", "tuple")


class NotJson(InvalidInput):
    """The body cannot be read at all."""


def read_body(kind: Any, text: bytes) -> Any:
    """Return the record in a body.

    Raises:
        NotJson: there is none.
        pydantic.ValidationError: it is another one.
    """
    _check_json(text)
    return _validator(kind).validate_json(text, strict=True)


def read_query(kind: Any, given: dict[str, Any]) -> Any:
    """Return the record in a query.

    Raises:
        pydantic.ValidationError: it is another one.
    """
    return _validator(kind).validate_strings(given)


def problem_of(error: pydantic.ValidationError) -> Problem:
    """Return what is wrong with a body or a query: which fields and why, never the values that were sent."""
    if (count := error.error_count()) > MAX_TOLD:
        return _problem(f"{count} values are not what they should be.")
    details = error.errors(include_url=False, include_context=False, include_input=False)[:MAX_FIELDS]
    where = [".".join(str(part) for part in detail["loc"])[:200] for detail in details]
    return _problem(
        "; ".join(f"{at or 'body'}: {detail['msg']}" for at, detail in zip(where, details, strict=True)), where
    )


def _problem(text: str, where: Iterable[str] = ()) -> Problem:
    return Problem("Unprocessable Entity", 422, InvalidInput.code, detail=text, fields=tuple(where))


@functools.cache
def _validator(kind: Any) -> SchemaValidator:
    return SchemaValidator(_failing_fast(pydantic.TypeAdapter(kind).core_schema))


def _failing_fast(schema: Any) -> Any:
    """Return a schema of pydantic with all of its lists ending at their first bad item."""
    if isinstance(schema, list):
        return [_failing_fast(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: _failing_fast(value) for key, value in schema.items()}
    return {**inner, "fail_fast": True} if inner.get("type") in _LISTS else inner


def _check_json(text: bytes) -> None:
    """Refuse what JSON does not know (NaN, Infinity) and what Python's reader gives up on (depth, huge numbers).

    A number like 1e400 would be read as infinite, which could not be shown to anybody afterwards.
    """
    try:
        json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise NotJson(f"The body is not JSON: {str(error)[:200]}.") from None


def _finite(number: str) -> float:
    if math.isinf(value := float(number)):
        raise ValueError(f"{number[:40]} is out of range")
    return value


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")
