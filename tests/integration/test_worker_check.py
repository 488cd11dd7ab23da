"""``harmonicio worker check``: what a health check hears of a worker, in one line and an exit code."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from benches.master import FakeController, client_of, run_master
from harmonicio.cli import worker
from harmonicio.cli.__main__ import main
from harmonicio.control.client import MasterClient
from harmonicio.core.roles import Role
from harmonicio.master.service import MasterService
from harmonicio.worker.folder import DataFolder
from harmonicio.worker.options import WorkerOptions
from harmonicio.worker.service import WorkerService

Check = Callable[..., tuple[int, str]]
HERE = socket.gethostname()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARMONICIO_HOME", str(tmp_path))
    monkeypatch.setenv("HARMONICIO_WORKER_NAME", "w1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def service(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MasterService]:
    """A master that loses patience at once, with its tokens where the settings say."""
    with run_master(home / "master", lost_after_s=0.5) as running:
        monkeypatch.setenv("HARMONICIO_MASTER_URL", running.url)
        yield running


@pytest.fixture
def running_folder(home: Path) -> Iterator[DataFolder]:
    """The data folder of a worker that runs, whatever the master knows of it."""
    with closing(DataFolder(home / "worker")) as folder:
        yield folder


@pytest.fixture
def check(service: MasterService, capsys: pytest.CaptureFixture[str]) -> Check:
    """Check the worker and return the exit code and the line."""

    def run(*arguments: str) -> tuple[int, str]:
        exit_code = main(["worker", "check", *arguments])
        written = capsys.readouterr()
        assert (written.err, written.out.count("\n")) == ("", 1)
        return exit_code, written.out.strip()

    return run


def test_a_worker_that_the_master_hears_is_well(
    home: Path, service: MasterService, check: Check, wait_until: Callable[..., object]
) -> None:
    options = WorkerOptions("w7", home / "worker", home / "scratch", max_engines=3)
    with client_of(service, Role.ADMIN) as admin:
        running = WorkerService(options, MasterClient(service.url, service.token_file(Role.WORKER).read_text().strip()))
        running.start()
        try:
            wait_until(lambda: [each.state for each in admin.workers()] == ["present"])
            exit_code, line = check("--name", "w7")
        finally:
            running.stop(0.0)
    assert (exit_code, line.partition("heard")[0]) == (0, "Worker 'w7' runs 0 of 3 engines; the master ")


def test_where_no_worker_runs_none_is_well(check: Check, home: Path) -> None:
    assert check() == (1, f"No worker uses the data folder {home / 'worker'}. Start it: harmonicio worker run")


def test_a_worker_whose_docker_engine_does_not_answer_is_unwell(
    running_folder: DataFolder, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARMONICIO_WORKER_RUNTIME", "docker")
    monkeypatch.setenv("HARMONICIO_DOCKER_URL", f"unix://{running_folder.path}/none.sock")
    exit_code, line = check()
    assert exit_code == 1 and "The Docker engine at unix://" in line


def test_a_docker_engine_that_hangs_is_not_waited_for(
    running_folder: DataFolder, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "CHECK_WITHIN_S", 0.5)
    monkeypatch.setenv("HARMONICIO_WORKER_RUNTIME", "docker")
    monkeypatch.setenv("HARMONICIO_DOCKER_URL", f"unix://{running_folder.path}/d.sock")
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(f"{running_folder.path}/d.sock")
        hanging.listen()
        assert check() == (1, "The check has had no answer within 0.5 s.")


def test_a_worker_that_has_fallen_silent_is_unwell(
    running_folder: DataFolder, service: MasterService, check: Check, wait_until: Callable[..., object]
) -> None:
    with client_of(service, Role.ADMIN) as admin:
        FakeController(admin, "w1", host=HERE).report()
        assert check()[0] == 0
        wait_until(lambda: admin.worker("w1").state == "lost", timeout_s=5)
    exit_code, line = check()
    assert exit_code == 1 and line.startswith("The master has not heard worker 'w1' for ")


def test_a_worker_that_the_master_does_not_know_is_unwell(running_folder: DataFolder, check: Check) -> None:
    exit_code, line = check()
    assert exit_code == 1 and "'w1'" in line


def test_another_worker_of_the_same_name_does_not_make_this_one_well(
    running_folder: DataFolder, service: MasterService, check: Check
) -> None:
    with client_of(service, Role.ADMIN) as admin:
        FakeController(admin, "w1", host="elsewhere").report()
    exit_code, line = check()
    assert exit_code == 1 and "another worker 'w1', of host elsewhere" in line


def test_a_worker_whose_master_is_away_is_unwell(
    running_folder: DataFolder, service: MasterService, check: Check
) -> None:
    service.close()
    exit_code, line = check()
    assert exit_code == 1 and service.url in line
