"""A master, its tokens and the commands that are given to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benches.master import client_of
from harmonicio.cli.__main__ import main
from harmonicio.control.client import MasterClient
from harmonicio.core.roles import Role
from harmonicio.master.service import MasterOptions, MasterService

Command = Callable[..., str]


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MasterService]:
    """A master whose data folder, and so whose tokens, are where the settings say."""
    monkeypatch.setenv("HARMONICIO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with MasterService(MasterOptions(tmp_path / "home" / "master", port=0, data_port=0)) as running:
        monkeypatch.setenv("HARMONICIO_MASTER_URL", running.url)
        yield running


@pytest.fixture
def command(service: MasterService, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command that must succeed, and return what it printed."""

    def run(*arguments: str) -> str:
        capsys.readouterr()
        exit_code = main(arguments)
        written = capsys.readouterr()
        assert (exit_code, written.err) == (0, "")
        return written.out

    return run


@pytest.fixture
def secrets(service: MasterService) -> dict[str, str]:
    """The tokens of this master's roles, by role."""
    roles = (Role.ADMIN, Role.SOURCE, Role.WORKER, Role.VIEWER)
    return {role: service.token_file(role).read_text().strip() for role in roles}


@pytest.fixture
def admin(service: MasterService) -> Iterator[MasterClient]:
    """A client that may do all with this master, or that of the module's own fixture ``service``."""
    with client_of(service, Role.ADMIN) as client:
        yield client
