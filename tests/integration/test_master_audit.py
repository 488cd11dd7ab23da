"""Who changed what, asked of a master that runs."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harmonicio.cli.__main__ import main
from harmonicio.control.client import MasterClient
from harmonicio.core.errors import HarmonicIOError, NotAllowed
from harmonicio.core.roles import Role
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.service import MasterOptions, MasterService

pytestmark = pytest.mark.row("S28")

SECRET = "canary-5f2e"
PLATES = StreamDeclaration("plates", handler="/handlers/plates.py", parameters={"password": SECRET})


@pytest.fixture
def service(tmp_path: Path) -> Iterator[MasterService]:
    with MasterService(MasterOptions(tmp_path / "master", port=0, data_port=0)) as running:
        yield running


def client(service: MasterService, role: Role) -> MasterClient:
    return MasterClient(service.url, service.token_file(role).read_text().strip())


@pytest.fixture
def admin(service: MasterService) -> Iterator[MasterClient]:
    with client(service, Role.ADMIN) as asking:
        yield asking


def refused(call: Callable[[], object]) -> None:
    with pytest.raises(HarmonicIOError):
        call()


def test_each_change_is_recorded_with_who_and_what_and_how_it_was_answered(
    service: MasterService, admin: MasterClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    admin.declare_stream(PLATES)
    admin.scale_stream("plates", 3)
    secret = admin.create_token("microscope", Role.SOURCE).secret
    refused(lambda: admin.create_token("microscope", Role.SOURCE))
    admin.revoke_token("microscope")
    refused(lambda: admin.delete_stream("spectra"))
    admin.delete_stream("plates")
    admin.revoke_all_leases()
    admin.streams()
    view = admin.audit(100)
    assert [(each.did, dict(each.names), each.status) for each in view.records] == [
        ("streams.declare", {"stream": "plates"}, 200),
        ("streams.scale", {"stream": "plates"}, 200),
        ("tokens.create", {}, 200),
        ("tokens.create", {}, 409),
        ("tokens.revoke", {"token": "microscope"}, 204),
        ("streams.delete", {"stream": "spectra"}, 404),
        ("streams.delete", {"stream": "plates"}, 204),
        ("leases.revoke_all", {}, 204),
    ]
    assert {(each.who, each.role, each.came_from) for each in view.records} == {("admin", "admin", "127.0.0.1")}
    declared, scaled, created, *_ = view.records
    assert declared.details["handler"] == "/handlers/plates.py" and scaled.details == {"engines": 3}
    assert created.details == {"name": "microscope", "role": "source"}
    written = "".join(each.read_text() for each in (service.options.data_folder / "audit").iterdir())
    assert view.digest in written and view.digest in caplog.text
    assert SECRET not in written + caplog.text and secret not in written + caplog.text


def test_nobody_but_an_administrator_sees_it_or_fills_it(service: MasterService, admin: MasterClient) -> None:
    for role in (Role.SOURCE, Role.WORKER, Role.VIEWER):
        with client(service, role) as other:
            for call in (lambda: other.audit(1), lambda: other.scale_stream("plates", 1)):
                with pytest.raises(NotAllowed):
                    call()
    assert admin.audit(10).kept == 0


def test_the_command_shows_it_and_fails_when_it_was_changed_afterwards(
    service: MasterService, admin: MasterClient, capsys: pytest.CaptureFixture[str]
) -> None:
    admin.declare_stream(PLATES)
    admin.scale_stream("plates", 3)
    words = ["--master", service.url, "--token-file", str(service.token_file(Role.ADMIN)), "audit", "show"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "streams.scale" in shown and "engines 3" in shown
    assert f"As they were written: all of 2. The digest of the last one: {admin.audit(1).digest}" in shown
    (file,) = (service.options.data_folder / "audit").iterdir()
    file.write_text(file.read_text().replace('"engines":3', '"engines":1'))
    assert main(words) == 1
    assert "Line 2 of 000000000001.jsonl is not what was written." in capsys.readouterr().out
    assert main([*words, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["damage"]
