"""Errors as ``application/problem+json`` (RFC 9457), in one place.

    core error            status         core error            status
    InvalidInput          422            Unavailable           503, with Retry-After
    NotAllowed            403            StorageError          503
    NotFound              404            any other of ours     500
    Conflict              409

A request without a usable token is answered 401, whatever it asks for; a body that is not JSON 400. What was not
foreseen is logged with its traceback and answered 500 without any detail.
"""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import Any

from flask import Flask, Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from harmonicio.control import json_codec
from harmonicio.control.messages import Problem
from harmonicio.core import errors

_log = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
_STATUS = (
    (errors.InvalidInput, 422),
    (errors.NotAllowed, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.Unavailable, 503),
    (errors.StorageError, 503),
)
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "unsupported_media_type"}


def install(app: Flask) -> None:
    """Let the application answer every error as a problem."""
    app.register_error_handler(errors.HarmonicIOError, _of_ours)
    app.register_error_handler(HTTPException, _of_http)
    app.register_error_handler(Exception, _unforeseen)


def respond(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    """Return the answer that carries this problem."""
    response = Response(json_codec.dumps(problem), problem.status, content_type=CONTENT_TYPE, headers=headers)
    if problem.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(problem.retry_after_s)))
    return response


def of_error(error: errors.HarmonicIOError, status: int) -> Problem:
    """Return one of our errors as a problem."""
    return Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        code=error.code,
        detail=error.text,
        hint=error.hint,
        retryable=error.retryable,
        retry_after_s=error.retry_after_s if isinstance(error, errors.Unavailable) else None,
    )


def _of_ours(error: errors.HarmonicIOError) -> Response:
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    if status == 500:
        _log.error("A request failed: %s", error, exc_info=error)
    return respond(of_error(error, status))


def _of_http(error: HTTPException) -> Response:
    status = error.code or 500
    code = _HTTP_CODES.get(status, "bad_request" if status < 500 else "internal")
    headers = {"Connection": "close"} if status == 413 else {}
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        headers["Allow"] = ", ".join(sorted(error.valid_methods))
    return respond(Problem(HTTPStatus(status).phrase, status, code, detail=_description(error)), headers)


def _description(error: Any) -> str:
    return " ".join(str(error.description or "").split())


def _unforeseen(error: Exception) -> Response:
    _log.error("A request failed in a way that was not foreseen.", exc_info=error)
    problem = Problem("Internal Server Error", 500, "internal", hint="The master's log says more.")
    return respond(problem)
