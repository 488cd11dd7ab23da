"""The docker runtime keeps the contract of runtimes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from harmonicio.core.settings import DockerSettings
from harmonicio.core.stream import StreamDeclaration
from harmonicio.testing.runtime_suite import Behaviour, RuntimeSuite
from harmonicio.worker.runtimes.base import Runtime, RuntimeContext
from harmonicio.worker.runtimes.docker import DockerRuntime

STAND_IN = """
import json, signal, sys, time
behaviour = sys.argv[1]

def end(*_):
    if behaviour == "says_goodbye":
        print("".join(f"{number:04} {'é' * 40}\\n" for number in range(900)) + "x" * 40_000, flush=True)
    sys.exit(0)

signal.signal(signal.SIGTERM, signal.SIG_IGN if behaviour == "is_stubborn" else end)
print("ready", json.load(open("/run/harmonicio/configuration.json"))["engine"], flush=True)
if behaviour == "fails":
    print("there is no such module\\n", flush=True)
    sys.exit(3)
while True:
    time.sleep(60)
"""


class TestDockerRuntime(RuntimeSuite):
    @pytest.fixture(autouse=True)
    def machine(self, docker_settings: DockerSettings, build_image: Callable[..., str]) -> None:
        self.settings = docker_settings
        self.build_image = build_image

    def open(self, context: RuntimeContext) -> Runtime:
        return DockerRuntime(replace(context, docker=self.settings))

    def declaration(self, behaviour: Behaviour) -> StreamDeclaration:
        command = f'COPY stand_in.py /\nCMD ["python3", "-I", "-S", "/stand_in.py", "{behaviour}"]'
        image = self.build_image(behaviour.replace("_", "-"), command, {"stand_in.py": STAND_IN})
        return StreamDeclaration("images", image=image, version=1)
