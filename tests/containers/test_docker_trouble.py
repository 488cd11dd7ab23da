"""What the docker runtime makes of a Docker engine that is late, fails or says half: nothing lost, nothing doubled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harmonicio.core.errors import Unavailable
from harmonicio.core.settings import DockerSettings
from harmonicio.core.stream import StreamDeclaration
from harmonicio.testing.runtime_suite import configuration, make_engine_folder
from harmonicio.testing.waiting import wait_until
from harmonicio.worker.containers import docker_host as docker_host_module
from harmonicio.worker.containers.container_plan import LABEL_WORKER, container_name
from harmonicio.worker.containers.docker_host import DockerHost
from harmonicio.worker.instructions import EngineExited, EngineNotStarted, EngineStarted, RuntimeEvent
from harmonicio.worker.runtimes.base import EngineSpec, RuntimeContext
from harmonicio.worker.runtimes.docker import DockerRuntime

WORKER = "fedcba9876543210"
ENGINE = "e-1"


class Bench:
    """A runtime on a folder, and what it tells."""

    def __init__(self, folder: Path, settings: DockerSettings) -> None:
        (folder / "engines").mkdir()
        (folder / "scratch").mkdir()
        self.told: list[RuntimeEvent] = []
        self.folder = folder
        context = RuntimeContext(folder / "engines", self.told.append, folder / "scratch", worker=WORKER)
        self.runtime = DockerRuntime(replace(context, docker=settings))

    def start(self, image: str) -> None:
        folder = self.folder / "engines" / ENGINE
        make_engine_folder(folder, self.runtime.owner)
        declaration = StreamDeclaration("s", image=image, version=1)
        self.runtime.start(EngineSpec(ENGINE, folder, configuration(ENGINE, declaration, self.folder / "scratch")))

    def wait(self, kind: type[RuntimeEvent]) -> RuntimeEvent:
        return wait_until(lambda: next((each for each in self.told if isinstance(each, kind)), None), 30)

    def is_clean(self) -> bool:
        """Whether nothing of the engine is left."""
        return not list((self.folder / "scratch").glob("containers/*"))


@pytest.fixture
def bench(
    tmp_path: Path, docker_settings: DockerSettings, docker_host: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    monkeypatch.setattr(docker_host_module, "EVENTS_QUIET_S", 0.5)
    bench = Bench(tmp_path, docker_settings)
    with bench.runtime:
        yield bench
        bench.runtime.kill(ENGINE)
        wait_until(lambda: bench.told, 30)
        bench.runtime.forget(ENGINE)
    for container in ours(docker_host):
        docker_host.remove(container)


@pytest.fixture
def sleeper(build_image: Callable[..., str]) -> str:
    return build_image("sleeper", 'CMD ["sleep", "600"]')


def ours(host: DockerHost) -> list[str]:
    return [each["Names"][0] for each in host.containers({LABEL_WORKER: WORKER})]


def fail_once(monkeypatch: pytest.MonkeyPatch, *methods: str) -> None:
    """Let the next call of each of these methods of the Docker host be answered too late."""
    for method in methods:
        original, failures = getattr(DockerHost, method), [Unavailable("The Docker engine does not answer.")]

        def call(host: DockerHost, *given: Any, original: Any = original, failures: Any = failures) -> Any:
            if failures:
                raise failures.pop()
            return original(host, *given)

        monkeypatch.setattr(DockerHost, method, call)


def test_a_start_whose_answer_is_lost_leaves_no_engine_running(
    bench: Bench, sleeper: str, docker_host: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_once(monkeypatch, "inspect", "remove")
    bench.start(sleeper)
    bench.wait(EngineNotStarted)
    assert ours(docker_host) == []
    assert bench.is_clean()
    assert [type(each) for each in bench.told] == [EngineNotStarted]


def test_a_container_whose_making_was_answered_too_late_is_removed(
    bench: Bench, sleeper: str, docker_host: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = DockerHost.create

    def create(host: DockerHost, *given: Any) -> str:
        original(host, *given)
        raise Unavailable("The Docker engine does not answer.")

    monkeypatch.setattr(DockerHost, "create", create)
    bench.start(sleeper)
    bench.wait(EngineNotStarted)
    assert ours(docker_host) == []


def test_an_end_that_comes_while_the_start_is_looked_at_is_told(
    bench: Bench, build_image: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = DockerHost.inspect

    def inspect(host: DockerHost, container: str) -> dict[str, Any]:
        """Answer with what was so before the container ended."""
        found = original(host, container)
        wait_until(lambda: not original(host, container)["State"]["Running"], 30)
        return found

    monkeypatch.setattr(DockerHost, "inspect", inspect)
    bench.start(build_image("short", 'CMD ["sleep", "0.3"]'))
    assert bench.wait(EngineExited) == EngineExited(ENGINE, 0, "")
    assert [type(each) for each in bench.told] == [EngineStarted, EngineExited]


def test_a_container_that_somebody_removes_has_ended_and_nothing_of_it_is_left(
    bench: Bench, sleeper: str, docker_host: DockerHost
) -> None:
    bench.start(sleeper)
    bench.wait(EngineStarted)
    docker_host.remove(container_name(ENGINE))
    bench.wait(EngineExited)
    bench.runtime.forget(ENGINE)
    wait_until(bench.is_clean, 30)


def test_what_cannot_be_removed_at_once_is_removed_later(
    bench: Bench, sleeper: str, docker_host: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.start(sleeper)
    bench.wait(EngineStarted)
    bench.runtime.kill(ENGINE)
    bench.wait(EngineExited)
    fail_once(monkeypatch, "remove")
    bench.runtime.forget(ENGINE)
    wait_until(lambda: ours(docker_host) == [] and bench.is_clean(), 30)


def test_a_paused_container_is_alive(bench: Bench, sleeper: str, docker_host: DockerHost) -> None:
    bench.start(sleeper)
    bench.wait(EngineStarted)
    docker_host._api.pause(container_name(ENGINE))
    looks: list[None] = []
    original = bench.runtime._look_at_all
    bench.runtime._watch._on_connected = lambda: looks.append(original())
    wait_until(lambda: len(looks) >= 2, 30)
    assert [type(each) for each in bench.told] == [EngineStarted]
    bench.runtime.kill(ENGINE)
    assert isinstance(bench.wait(EngineExited), EngineExited)
    bench.runtime.forget(ENGINE)
    wait_until(lambda: ours(docker_host) == [], 30)
