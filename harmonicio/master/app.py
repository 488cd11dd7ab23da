"""The web application of the master: what all routes have in common.

    request ──► token? ──► route? ──► role? ──► JSON? ──► valid? ──► handler ──► answer
                 401      404, 405     403     413, 415    400, 422

Everything but the public routes needs a token, on every method and also where there is nothing: who has none learns
nothing. Records are validated strictly by pydantic over the dataclasses of :mod:`harmonicio.control.messages`, and
documented from the same. Bodies are JSON of at most ``paths.MAX_BODY_BYTES``; payloads never travel here.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import flask
import pydantic
from flask import Flask, Response
from flask_openapi3.models.info import Info
from flask_openapi3.models.schema import Schema
from flask_openapi3.models.tag import Tag
from flask_openapi3.openapi import OpenAPI

import harmonicio
from harmonicio.control import json_codec, paths
from harmonicio.core.errors import NotAllowed
from harmonicio.core.names import check_message_id, check_name
from harmonicio.core.roles import Role
from harmonicio.master import api_document, problems, validation
from harmonicio.master.audit_log import Deed
from harmonicio.master.endpoint import Call, Endpoint, Routes
from harmonicio.master.http_server import REACHED_AT
from harmonicio.master.master import Master
from harmonicio.master.tokens import Identity
from harmonicio.transport.stranger_log import StrangerLog

_log = logging.getLogger(__name__)

_PUBLIC_PATHS = (paths.HEALTH, paths.READY)
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def create_app(master: Master, endpoints: Iterable[Endpoint]) -> Flask:
    """Return the application that serves these endpoints, and their OpenAPI document."""
    app = OpenAPI(
        "harmonicio.master",
        info=Info(title="HarmonicIO master", version=harmonicio.__version__),
        security_schemes=dict(api_document.SECURITY_SCHEMES),
        doc_ui=False,
        static_folder=None,
    )
    app.config["MAX_CONTENT_LENGTH"] = paths.MAX_BODY_BYTES
    app.url_map.merge_slashes = False
    problems.install(app)
    app.before_request(functools.partial(_authenticate, master, StrangerLog(_log)))
    app.after_request(functools.partial(_record, master))
    app.after_request(_add_headers)
    known = [*endpoints, _document_endpoint(app)]
    schemas = api_document.Schemas(known)
    for endpoint in known:
        _add(app, master, endpoint, schemas)
    app.components_schemas.update({name: Schema(**schema) for name, schema in schemas.components.items()})
    app.api_doc["components"]["schemas"].pop("ValidationErrorModel", None)
    return app


def _document_endpoint(app: OpenAPI) -> Endpoint:
    routes = Routes("document")

    @routes.get(paths.OPENAPI, frozenset(Role), answer=Any)
    def show(master: Master, call: Call) -> Any:
        """Show this document."""
        return app.api_doc

    return routes.endpoints[0]


def _add(app: OpenAPI, master: Master, endpoint: Endpoint, schemas: api_document.Schemas) -> None:
    def view(**names: str) -> Response:
        return _serve(master, endpoint, names)

    view.__name__ = endpoint.name.replace(".", "_")
    view.__doc__ = endpoint.text
    view.__annotations__ = {}
    # The names in the path are passed on as they are: records are validated in _serve, by our own rules.
    view.__delay_validate_request__ = True  # type: ignore[attr-defined]
    register = getattr(app, endpoint.method.lower())
    register(
        api_document.flask_rule(endpoint.path),
        tags=[Tag(name=endpoint.tag)],
        operation_id=endpoint.name,
        responses=api_document.responses(endpoint, schemas),
        security=None if endpoint.roles is None else [{api_document.SECURITY: []}],
        openapi_extensions=api_document.operation(endpoint, schemas),
    )(view)


# ── one request ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _authenticate(master: Master, strangers: StrangerLog) -> Response | None:
    if flask.request.path in _PUBLIC_PATHS:
        flask.g.identity = None
        return None
    kind, _, bearer = flask.request.headers.get("Authorization", "").partition(" ")
    try:
        if kind.lower() != "bearer" or not bearer:
            raise NotAllowed("A bearer token is needed here.", hint="Send 'Authorization: Bearer <token>'.")
        flask.g.identity = master.identify(bearer.strip())
    except NotAllowed as error:
        if bearer:
            asked = (flask.request.remote_addr, flask.request.method[:20], flask.request.path[:100], error)
            strangers.say(logging.WARNING, "A request from %s, %r %r, is refused: %s", *asked)
        headers = {"WWW-Authenticate": 'Bearer realm="harmonicio"', "Connection": "close"}
        return problems.respond(problems.of_error(error, 401), headers)
    return None


def _serve(master: Master, endpoint: Endpoint, names: Mapping[str, str]) -> Response:
    identity: Identity | None = flask.g.identity
    _authorize(endpoint, identity, names)
    for kind, name in names.items():
        check_message_id(name) if kind == "message" else check_name(kind, name)
    try:
        reached_at = flask.request.environ.get(REACHED_AT, "")
        call = Call(identity, names, _query(endpoint), _body(master, endpoint), reached_at)
    except pydantic.ValidationError as error:
        return problems.respond(validation.problem_of(error))
    except validation.NotJson as error:
        return problems.respond(problems.of_error(error, 400))
    if identity is not None and endpoint.is_audited:
        came_from = flask.request.remote_addr or ""
        note = dict(endpoint.note(call.body))
        flask.g.deed = Deed(identity.name, identity.role, came_from, endpoint.name, dict(names), note)
    answer = endpoint.handler(master, call)
    if endpoint.answer is None:
        return Response(status=204)
    return Response(json_codec.dumps(answer), content_type="application/json")


def _record(master: Master, response: Response) -> Response:
    """Put what was asked for into the audit log, however it was answered."""
    if (deed := flask.g.pop("deed", None)) is not None:
        master.audit.add(deed, response.status_code)
    return response


def _authorize(endpoint: Endpoint, identity: Identity | None, names: Mapping[str, str]) -> None:
    if not endpoint.allows(identity):
        role = identity.role if identity else "nobody"
        able = ", ".join(sorted({Role.ADMIN, *(endpoint.roles or ())}))
        raise NotAllowed(f"The role {role!s} may not do this.", hint=f"Use a token of one of these roles: {able}.")
    if (
        identity is not None
        and identity.role is Role.ENGINE
        and names.get("stream", identity.stream) != identity.stream
    ):
        raise NotAllowed("An engine acts for its own stream only.")


def _query(endpoint: Endpoint) -> Any:
    if endpoint.query is None:
        return None
    given = flask.request.args.to_dict()
    return given if endpoint.query is Any else validation.read_query(endpoint.query, given)


def _body(master: Master, endpoint: Endpoint) -> Any:
    if endpoint.body is None:
        return None
    if flask.request.mimetype != "application/json":
        flask.abort(415, "The body must be application/json.")
    text = flask.request.get_data(cache=False)
    master.count_request(len(text))
    return validation.read_body(endpoint.body, text)


def _add_headers(response: Response) -> Response:
    response.headers.update(_HEADERS)
    return response
