"""The commands that look at a cluster and change it, against a real master with a worker that reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harmonicio.cli.__main__ import main
from harmonicio.control.client import MasterClient
from harmonicio.control.messages import (
    EngineReport,
    EngineView,
    HostLoad,
    StreamTrouble,
    TokenView,
    WorkerRegistration,
    WorkerReport,
)
from harmonicio.core.engine import Availability
from harmonicio.core.lease import Address
from harmonicio.core.roles import Role
from harmonicio.core.stream import StreamDeclaration
from harmonicio.haste.storage_client import StorageClient
from harmonicio.haste.tiers.file import FileTier
from harmonicio.master.service import MasterService

Command = Callable[..., str]


@pytest.fixture
def declared(command: Command, tmp_path: Path) -> str:
    """Two streams from a file."""
    file = tmp_path / "streams.toml"
    file.write_text("[streams.plates]\nhandler = 'plates.py'\nengines = 2\n[streams.spectra]\nimage = 'lab/spectra'\n")
    return command("stream", "apply", str(file))


@pytest.fixture
def worker(service: MasterService, declared: str) -> None:
    """A worker with one busy engine, which cannot start another."""
    engine = EngineReport("plates-1", "plates", 1, Availability.BUSY, 2.0, Address("127.0.0.1", 4000), 77, handled=1234)
    trouble = StreamTrouble("spectra", "There is no image lab/spectra.", 4.0)
    load = HostLoad(0.25, 1_000_000_000, 4_000_000_000, 50_000_000_000)
    with MasterClient(service.url, service.token_file(Role.WORKER).read_text().strip()) as client:
        client.register_worker(WorkerRegistration("w1", "127.0.0.1", 4, "process", "0.1.0"))
        client.report("w1", WorkerReport(1, (engine,), load=load, troubles=(trouble,)))


def row(table: str, name: str) -> list[str]:
    """Return the cells of the row that starts with this name."""
    return next(line.split() for line in table.splitlines() if line.split()[:1] == [name])


def test_streams_are_declared_from_a_file_and_what_is_the_same_stays(
    command: Command, declared: str, tmp_path: Path
) -> None:
    assert "Stream 'plates' is declared: version 1, 2 engines." in declared
    again = command("stream", "apply", str(tmp_path / "streams.toml"))
    assert "Stream 'plates' has not changed: version 1, 2 engines. They keep the code that they have loaded" in again
    assert "harmonicio stream restart plates" in again
    assert row(command("stream", "ls"), "plates")[:3] == ["plates", "1", str(tmp_path / "plates.py")]


def test_a_stream_is_shown_with_its_declaration(command: Command, declared: str) -> None:
    shown = command("stream", "show", "spectra")
    assert row(shown, "image") == ["image", "lab/spectra"]
    assert row(shown, "max_attempts") == ["max_attempts", "3"]
    assert "Running: 0 of 1 engine; the workers have no place for 1 (see worker.max_engines)." in shown


@pytest.mark.usefixtures("worker")
def test_a_stream_is_shown_with_what_keeps_its_engines_from_starting(command: Command) -> None:
    trouble = "w1, stream spectra: There is no image lab/spectra. Next try in 4 s."
    assert trouble in command("stream", "show", "spectra")
    assert trouble not in command("stream", "show", "plates")


def test_a_stream_is_scaled_and_removed(command: Command, declared: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "shall have 5 engines" in command("stream", "scale", "plates", "5")
    assert json.loads(command("stream", "show", "plates", "--json"))["desired"] == 5
    command("stream", "rm", "plates")
    assert main(["stream", "show", "plates"]) == 1
    assert "error: There is no stream 'plates'" in capsys.readouterr().err


@pytest.mark.usefixtures("worker")
def test_status_shows_the_whole_cluster_on_one_page(command: Command) -> None:
    shown = command("status")
    assert "nothing had to be repaired" in shown
    assert "1 worker, 1 engine, 2 streams." in shown
    assert row(shown, "w1")[:7] == ["w1", "127.0.0.1", "present", "1", "of", "4", "1"]
    assert "w1, stream spectra: There is no image lab/spectra. Next try in 4 s." in shown
    assert row(shown, "plates-1")[:5] == ["plates-1", "plates", "w1", "77", "busy"]
    assert json.loads(command("status", "--json"))["engines"][0]["handled"] == 1234


@pytest.mark.usefixtures("worker")
def test_workers_and_engines_are_listed(command: Command) -> None:
    assert "25%" in row(command("worker", "ls"), "w1")
    assert "1,234" in row(command("engine", "ls"), "plates-1")
    assert command("engine", "ls", "--stream", "spectra").strip() == "There are no engines."
    assert [each["engine"] for each in json.loads(command("engine", "ls", "--json"))] == ["plates-1"]


def test_the_backlog_of_each_stream_is_shown(
    command: Command, declared: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert row(command("backlog", "show"), "plates")[:4] == ["plates", "0", "0", "0"]
    assert [each["stream"] for each in json.loads(command("backlog", "show", "--json"))] == ["plates", "spectra"]
    assert json.loads(command("backlog", "show", "spectra", "--json"))["figures"]["stream"] == "spectra"
    assert main(["backlog", "show", "plaets"]) == 1
    assert "error: There is no stream 'plaets'" in capsys.readouterr().err


def test_a_token_works_until_it_is_revoked(
    command: Command, service: MasterService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "looker.token"
    made = command("token", "create", "looker", "--role", "viewer", "--file", str(file))
    assert made == f"The token 'looker' is in {file}.\n"
    assert row(command("token", "ls"), "looker")[1] == "viewer"
    assert "0 workers" in command("--token-file", str(file), "status")
    assert main(["--token-file", str(file), "token", "ls"]) == 1
    assert file.read_text().strip() not in command("token", "ls", "--json")
    command("token", "revoke", "looker")
    capsys.readouterr()
    assert main(["--token-file", str(file), "status"]) == 1
    assert "error: " in capsys.readouterr().err


def test_the_secret_of_a_new_token_is_printed_alone(command: Command, service: MasterService) -> None:
    secret = command("token", "create", "camera").strip()
    with MasterClient(service.url, secret) as client:
        assert client.streams() == ()


@pytest.mark.parametrize("place", ["/proc/secret", "/dev/null", ".", "streams.toml/secret"])
def test_no_token_is_made_whose_secret_cannot_be_written(
    place: str, command: Command, declared: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = command("token", "ls", "--json")
    assert main(["token", "create", "camera", "--file", place]) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith(f"error: The token file {place} cannot be written: ")
    assert written.err.count("\n") == 1
    assert command("token", "ls", "--json") == before


def test_a_token_whose_secret_is_lost_after_it_was_made_is_revoked(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, make, file = command("token", "ls", "--json"), MasterClient.create_token, tmp_path / "camera.token"

    def make_and_take_the_place(client: MasterClient, name: str, role: Role) -> TokenView:
        file.mkdir()
        return make(client, name, role)

    monkeypatch.setattr(MasterClient, "create_token", make_and_take_the_place)
    assert main(["token", "create", "camera", "--file", str(file)]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert command("token", "ls", "--json") == before
    assert list(tmp_path.glob(".camera*")) == []


def test_haste_removes_payloads_without_a_row_and_names_rows_without_a_payload(
    service: MasterService, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    haste = {
        "function": {"name": "feature", "feature": "x"},
        "policy": {"intervals": [[0, 1, "kept"]]},
        "tiers": {name: {"folder": str(tmp_path / name)} for name in ("kept", "unscored")},
    }
    declaration = StreamDeclaration("plates", handler="plates.py", engines=0, plugins={"haste": haste})
    with MasterClient(service.url, service.token_file(Role.ADMIN).read_text().strip()) as client:
        client.declare_stream(declaration)
        with StorageClient.from_options(haste, client=client, default_feature_db="master") as storage:
            row = storage.save(b"pixels", features={"x": 0.5}, stream="plates", message_id="m-1")
    tier = FileTier("kept", tmp_path / "kept")
    orphan = tier.write("plates", "m-2", b"its row never came")
    assert command("haste", "reconcile", "plates") == "Removed 0 payloads without a row.\n"
    assert json.loads(command("haste", "reconcile", "plates", "--older-than-s", "0", "--json")) == {
        "removed": [f"kept:{orphan}"],
        "missing": [],
    }
    tier.remove(row.location)
    assert main(["haste", "reconcile", "plates"]) == 1
    assert f"missing: kept:{row.location}" in capsys.readouterr().out
    assert main(["haste", "reconcile", "elsewhere"]) == 1


def test_a_restart_says_which_engines_may_still_be_of_an_earlier_version(
    command: Command, worker: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = MasterClient.engines

    def engines(master: MasterClient) -> tuple[EngineView, ...]:
        return tuple(replace(each, state=Availability.LOST) for each in asked(master))

    monkeypatch.setattr(MasterClient, "engines", engines)
    said = command("stream", "restart", "plates")
    assert "Stream 'plates' is version 2 now" in said
    assert "1 engine of an earlier one is lost: the master hears nothing of them" in said
