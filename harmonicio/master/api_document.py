"""The OpenAPI parts of an endpoint, made from the same records that validate it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from pydantic import TypeAdapter

from harmonicio.control.messages import Problem
from harmonicio.core.names import MAX_MESSAGE_ID_BYTES, MAX_NAME_LENGTH
from harmonicio.master.endpoint import Endpoint
from harmonicio.master.problems import CONTENT_TYPE

SECURITY = "bearer"
SECURITY_SCHEMES: dict[str, dict[str, Any]] = {
    SECURITY: {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of this master (`hio_<role>_…`), or an engine's ticket.",
    }
}
_NAME = {"type": "string", "pattern": f"^[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME_LENGTH - 1}}}$"}
_MESSAGE_ID = {"type": "string", "minLength": 1, "maxLength": MAX_MESSAGE_ID_BYTES}
_REFERENCE = "#/components/schemas/{model}"

#: What every route may answer, and what only some may.
_COMMON_PROBLEMS = (400, 404, 405, 413, 422, 500, 503)
_BODY_PROBLEMS = (415,)
_GUARDED_PROBLEMS = (401, 403)
_CHANGING_PROBLEMS = (409,)


class Schemas:
    """JSON schemas of all records of some endpoints, each under its own name."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        kinds = {repr(kind): kind for each in endpoints for kind in (each.body, each.answer) if kind is not None}
        kinds[repr(Problem)] = Problem
        inputs: list[Any] = [(key, "validation", TypeAdapter(kind)) for key, kind in kinds.items()]
        found, definitions = TypeAdapter.json_schemas(inputs, ref_template=_REFERENCE)
        self._by_kind = {key: schema for (key, _), schema in found.items()}
        self.components: Mapping[str, Any] = definitions["$defs"]

    def of(self, kind: Any) -> dict[str, Any]:
        """Return the schema of a type, by reference where it is a record."""
        return dict(self._by_kind[repr(kind)])


def operation(endpoint: Endpoint, schemas: Schemas) -> dict[str, Any]:
    """Return what a request of this endpoint may carry, as fields of an OpenAPI operation."""
    parts: dict[str, Any] = {"parameters": _path_parameters(endpoint) + _query_parameters(endpoint)}
    if endpoint.body is not None:
        content = {"application/json": {"schema": schemas.of(endpoint.body)}}
        parts["requestBody"] = {"required": True, "content": content}
    return parts


def responses(endpoint: Endpoint, schemas: Schemas) -> dict[str, dict[str, Any]]:
    """Return every answer that this endpoint may give."""
    answers: dict[str, dict[str, Any]] = {}
    if endpoint.answer is None:
        answers["204"] = {"description": HTTPStatus(204).phrase}
    else:
        content = {"application/json": {"schema": schemas.of(endpoint.answer)}}
        answers["200"] = {"description": HTTPStatus(200).phrase, "content": content}
    problem = {CONTENT_TYPE: {"schema": schemas.of(Problem)}}
    for status in _problem_statuses(endpoint):
        answers[str(status)] = {"description": HTTPStatus(status).phrase, "content": problem}
    return answers


def flask_rule(path: str) -> str:
    """Return ``/a/{name}`` as ``/a/<name>``; a message id may contain slashes."""
    return re.sub(r"\{(\w+)\}", lambda part: f"<{'path:' if part[1] == 'message' else ''}{part[1]}>", path)


def _problem_statuses(endpoint: Endpoint) -> list[int]:
    statuses = [*_COMMON_PROBLEMS]
    statuses += _GUARDED_PROBLEMS if endpoint.roles is not None else ()
    statuses += _BODY_PROBLEMS if endpoint.body is not None else ()
    statuses += _CHANGING_PROBLEMS if endpoint.method != "GET" else ()
    return sorted(statuses)


def _path_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    names = re.findall(r"\{(\w+)\}", endpoint.path)
    return [
        {"name": name, "in": "path", "required": True, "schema": _MESSAGE_ID if name == "message" else _NAME}
        for name in names
    ]


def _query_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    if endpoint.query is None or endpoint.query is Any:
        return []
    schema = TypeAdapter(endpoint.query).json_schema()
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": each}
        for name, each in schema["properties"].items()
    ]
