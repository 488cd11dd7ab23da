"""Routes that an extension brings are routes like all others: guarded, documented, and mapped to problems."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harmonicio.control import paths, tickets
from harmonicio.control.client import MasterClient
from harmonicio.control.extension import ExtensionCall, ExtensionRoute
from harmonicio.control.members import Family
from harmonicio.control.messages import WorkerRegistration
from harmonicio.core.errors import ConfigurationError, InvalidInput, NotAllowed
from harmonicio.core.lease import Claims, TicketKind
from harmonicio.core.roles import Role
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master import extensions
from harmonicio.master.service import MasterOptions, MasterService


class Notebook:
    """An extension that writes down what it is given."""

    def __init__(self, data_folder: Path) -> None:
        self.data_folder = data_folder
        self.is_closed = False
        self.written: list[tuple[str, Any]] = []
        self.routes = (
            ExtensionRoute(paths.STREAM_FEATURE_ROWS, "POST", frozenset({Role.ENGINE}), self._write),
            ExtensionRoute(paths.STREAM_FEATURE_ROWS, "GET", frozenset({Role.VIEWER}), self._read),
        )

    def check(self, options: Mapping[str, Any]) -> None:
        if options.get("paper") == "none":
            raise ConfigurationError("A notebook needs paper.", hint="Buy some.")

    def _write(self, call: ExtensionCall) -> Any:
        """Write rows."""
        if not isinstance(call.body, list):
            raise InvalidInput("Rows come in a list.")
        self.written.append((call.names["stream"], call.body))
        return {"accepted": len(call.body), "engine": call.engine}

    def _read(self, call: ExtensionCall) -> Any:
        """Read rows."""
        rows = [rows for stream, rows in self.written if stream == call.names["stream"]]
        return {"query": call.query, "rows": rows, "engine": call.engine}

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Notebook]:
    made: list[Notebook] = []

    def create(data_folder: Path) -> Notebook:
        made.append(Notebook(data_folder))
        return made[-1]

    module = ModuleType("lab_notebook")
    module.create = create  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lab_notebook", module)
    table = {"notebook": "lab_notebook:create", "absent": "no_such_package:create"}
    monkeypatch.setattr(extensions, "EXTENSIONS", Family("master extension", "harmonicio.none", table))
    return made


@pytest.fixture
def service(tmp_path: Path, opened: list[Notebook]) -> Iterator[MasterService]:
    with MasterService(MasterOptions(tmp_path / "master", port=0, data_port=0)) as running:
        yield running


def client_of(service: MasterService, role: Role) -> MasterClient:
    return MasterClient(service.url, service.token_file(role).read_text().strip())


def engine_client(service: MasterService) -> MasterClient:
    with client_of(service, Role.WORKER) as worker:
        key = worker.register_worker(WorkerRegistration("w1", "127.0.0.1", 1, "memory", "1")).ticket_key
    claims = Claims(TicketKind.ENGINE, "plates", tickets.ENGINE_TICKET_TERM_S, time.time(), 0, engine="e1")
    ticket = tickets.sign(tickets.derive_key(key, "engine", "e1"), claims)
    return MasterClient(service.url, tickets.engine_bearer("w1", "e1", ticket))


def test_an_engine_writes_rows_of_its_own_stream_and_of_no_other(service: MasterService) -> None:
    with engine_client(service) as engine, client_of(service, Role.VIEWER) as viewer:
        assert engine.post_feature_rows("plates", [{"message": "m1", "score": 0.5}]) == {
            "accepted": 1,
            "engine": "e1",
        }
        with pytest.raises(NotAllowed, match="own stream"):
            engine.post_feature_rows("spectra", [])
        answer = viewer.feature_rows("plates", tier="a")
        assert answer == {"query": {"tier": "a"}, "rows": [[{"message": "m1", "score": 0.5}]], "engine": ""}


def test_the_routes_of_an_extension_are_guarded_by_role_and_documented(service: MasterService) -> None:
    with client_of(service, Role.VIEWER) as viewer, MasterClient(service.url) as stranger:
        with pytest.raises(NotAllowed):
            viewer.post_feature_rows("plates", [])
        with pytest.raises(NotAllowed):
            stranger.feature_rows("plates")
        operations = viewer.openapi()["paths"][paths.STREAM_FEATURE_ROWS]
        assert {method: each["security"] for method, each in operations.items()} == {
            "get": [{"bearer": []}],
            "post": [{"bearer": []}],
        }


def test_errors_of_an_extension_are_problems(service: MasterService) -> None:
    with engine_client(service) as engine, pytest.raises(InvalidInput, match="in a list"):
        engine._ask_plain("POST", paths.fill(paths.STREAM_FEATURE_ROWS, stream="plates"), {"no": "list"})


def test_an_extension_is_given_the_data_folder_and_closed_with_the_master(
    tmp_path: Path, opened: list[Notebook]
) -> None:
    with MasterService(MasterOptions(tmp_path / "master", port=0, data_port=0)):
        (notebook,) = opened
        assert notebook.data_folder == tmp_path / "master" and not notebook.is_closed
    assert notebook.is_closed


def test_a_declaration_that_no_engine_could_use_is_refused_and_the_old_one_stays(service: MasterService) -> None:
    def declaration(**options: str) -> StreamDeclaration:
        return StreamDeclaration("plates", handler="/handler.py", engines=0, plugins={"notebook": options, "other": {}})

    with client_of(service, Role.ADMIN) as admin:
        before = admin.declare_stream(declaration(paper="A4"))
        with pytest.raises(ConfigurationError, match=r"needs paper\. Buy some"):
            admin.declare_stream(declaration(paper="none"))
        assert admin.stream("plates").declaration == before


def test_haste_refuses_a_declaration_in_the_words_of_the_engine(tmp_path: Path) -> None:
    good: dict[str, Any] = {
        "function": {"name": "precomputed"},
        "policy": {"intervals": [[0, 0.5, "b"], [0.5, 1, "a"]]},
        "tiers": {name: {"driver": "memory"} for name in ("a", "b", "unscored")},
    }
    broken: tuple[tuple[dict[str, Any], str], ...] = (
        ({"policy": {"intervals": [[0, 0.5, "b"], [0.6, 1, "a"]]}}, "No interval holds the scores from 0.5 to 0.6"),
        ({"policy": {"intervals": [[0, 1, "z"]]}}, "names the tier 'z', which is not declared"),
        ({"polcy": {}}, "no option 'polcy'"),
        ({"function": {"name": "nothing"}}, "There is no interestingness function 'nothing'"),
        ({"tiers": {**good["tiers"], "a": {"driver": "tape"}}}, "There is no tier driver 'tape'"),
        ({"feature_db": {"driver": "master", "file": "/x"}}, "no option 'file'"),
    )
    with (
        MasterService(MasterOptions(tmp_path / "master", port=0, data_port=0)) as service,
        client_of(service, Role.ADMIN) as admin,
    ):
        for change, complaint in broken:
            declaration = StreamDeclaration("plates", handler="/h.py", engines=0, plugins={"haste": {**good, **change}})
            with pytest.raises(ConfigurationError, match=complaint):
                admin.declare_stream(declaration)
        assert admin.streams() == ()
        admin.declare_stream(StreamDeclaration("plates", handler="/h.py", engines=0, plugins={"haste": good}))
