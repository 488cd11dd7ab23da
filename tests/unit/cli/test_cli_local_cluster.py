"""The settings that ``harmonicio config`` shows are those that master and worker run with."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from harmonicio.cli.__main__ import main
from harmonicio.cli.local_cluster import LocalCluster, runtime_for
from harmonicio.cli.master import backlog_options, master_options
from harmonicio.cli.worker import worker_options
from harmonicio.control.messages import WorkerView
from harmonicio.control.settings_files import load_settings
from harmonicio.core.errors import InvalidInput
from harmonicio.core.stream import StreamDeclaration
from harmonicio.testing.waiting import wait_until


def only_worker(cluster: LocalCluster) -> WorkerView:
    wait_until(lambda: bool(cluster.client.workers()), 20, what="a worker that has registered")
    (worker,) = cluster.client.workers()
    return worker


def test_a_local_cluster_runs_its_worker_as_the_settings_say(tmp_path: Path) -> None:
    flags = {
        "master.port": 0,
        "master.data_port": 0,
        "worker.name": "bench-3",
        "worker.data_folder": str(tmp_path / "state"),
        "worker.scratch_folder": str(tmp_path / "fast"),
        "worker.max_engines": 3,
    }
    settings = load_settings(environ={"HARMONICIO_HOME": str(tmp_path / "home")}, flags=flags)
    with LocalCluster.of(settings) as cluster:
        worker = only_worker(cluster)
        assert (worker.worker, worker.max_engines) == ("bench-3", 3)
        assert (tmp_path / "state" / "worker.lock").exists()
    assert not (tmp_path / "home" / "worker").exists()
    assert not (tmp_path / "home" / "scratch").exists()


def test_streams_of_an_earlier_run_have_places_beside_those_of_this_one(tmp_path: Path) -> None:
    with LocalCluster(tmp_path) as cluster:
        assert cluster.earlier_streams == ()
        cluster.declare(StreamDeclaration("echo", handler="harmonicio.engine.echo", engines=0))
        cluster.client.scale_stream("echo", 70)
        cluster.client.scale_stream("echo", 0)
    wanted = [StreamDeclaration("plates", handler="plates.py", engines=80)]
    with LocalCluster(tmp_path, streams=wanted) as cluster:
        assert [view.declaration.name for view in cluster.earlier_streams] == ["echo"]
        assert only_worker(cluster).max_engines == 80


def test_the_options_of_master_and_worker_come_from_the_settings(tmp_path: Path) -> None:
    flags = {"master.backlog_max_disk_bytes": "4 GiB", "master.insecure": True, "worker.payload_budget_bytes": "1 MiB"}
    flags["worker.host"] = "127.0.0.2"
    settings = load_settings(environ={"HARMONICIO_HOME": str(tmp_path)}, flags=flags)
    assert backlog_options(settings).max_disk_bytes == 4 * 1024**3
    assert master_options(settings).is_insecure
    assert master_options(settings).data_folder == tmp_path / "master"
    assert worker_options(settings).payload_budget_bytes == 1024**2
    assert worker_options(settings).host == "127.0.0.2"


HANDLER = StreamDeclaration("plates", handler="plates.py")
IMAGE = StreamDeclaration("cells", image="lab/cells")


def runtime(*streams: StreamDeclaration, **environ: str) -> str:
    """Return the runtime of a cluster of these streams, with the settings that the environment gives."""
    return runtime_for(streams, load_settings(environ={"HARMONICIO_HOME": "/nowhere", **environ}))


def test_a_local_cluster_takes_the_runtime_that_its_streams_need() -> None:
    assert runtime() == runtime(HANDLER) == "process"
    assert runtime(IMAGE) == "docker"


def test_the_runtime_that_is_set_is_taken_where_it_starts_the_streams() -> None:
    assert runtime(IMAGE, HARMONICIO_WORKER_RUNTIME="docker") == "docker"
    assert runtime(HARMONICIO_WORKER_RUNTIME="docker") == "docker"
    assert runtime(HANDLER, HARMONICIO_WORKER_RUNTIME="somebody_s") == "somebody_s"


@pytest.mark.parametrize(
    ("streams", "given", "text"),
    [
        ([IMAGE, HANDLER], {}, "Stream 'cells' has an image, and stream 'plates' a handler"),
        ([IMAGE], {"HARMONICIO_WORKER_RUNTIME": "process"}, "is 'process' (HARMONICIO_WORKER_RUNTIME). Leave it out"),
        ([HANDLER], {"HARMONICIO_WORKER_RUNTIME": "docker"}, "'plates' needs the runtime 'process'"),
    ],
)
def test_streams_that_no_runtime_starts_together_are_refused_with_what_to_do(
    streams: list[StreamDeclaration], given: dict[str, str], text: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        runtime(*streams, **given)
    assert text in str(caught.value)


def test_a_cluster_says_which_streams_it_starts(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path)
    assert (cluster.starts(HANDLER), cluster.starts(IMAGE)) == (True, False)


@pytest.mark.parametrize("taken", ["--port", "--data-port"])
def test_a_port_that_is_taken_names_the_flags_for_another(
    taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HARMONICIO_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        ports = {"--port": "0", "--data-port": "0", taken: str(server.getsockname()[1])}
        assert main(["up", *(word for pair in ports.items() for word in pair)]) == 3
    assert "choose other ports with --port and --data-port" in capsys.readouterr().err


def test_a_data_folder_that_is_taken_names_the_variable_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HARMONICIO_HOME", str(tmp_path))
    with LocalCluster(tmp_path):
        assert main(["up", "--port", "0", "--data-port", "0"]) == 1
    assert "HARMONICIO_HOME" in capsys.readouterr().err
