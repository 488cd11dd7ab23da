"""Generated requests: nothing breaks the master, and it answers as its own OpenAPI document says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from harmonicio.control.client import MasterClient
from harmonicio.core.roles import Role
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.service import MasterOptions, MasterService

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
    ignored_auth,
]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[MasterService]:
    with MasterService(MasterOptions(tmp_path / "master", port=0, data_port=0)) as running:
        yield running


def test_the_master_answers_any_request_as_its_document_says(service: MasterService) -> None:
    token = service.token_file(Role.ADMIN).read_text().strip()
    with MasterClient(service.url, token) as admin:
        admin.declare_stream(StreamDeclaration("plates", handler="/handlers/plates.py"))
        schema = schemathesis.openapi.from_dict(dict(admin.openapi()))
    schema.config.update(base_url=service.url)
    headers = {"Authorization": f"Bearer {token}"}
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:

        @settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def answers_as_documented(case: Any) -> None:
            case.call_and_validate(headers=headers, checks=CHECKS, timeout=40)

        answers_as_documented()
