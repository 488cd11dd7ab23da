"""Every runtime keeps the contract."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from harmonicio.core.stream import StreamDeclaration
from harmonicio.testing.runtime_suite import FAREWELL, Behaviour, RuntimeSuite
from harmonicio.worker.runtimes.base import Runtime, RuntimeContext
from harmonicio.worker.runtimes.memory import MemoryEngine, MemoryHost, MemoryRuntime
from harmonicio.worker.runtimes.process import ProcessRuntime

STAND_IN = """
import json, signal, sys, time
behaviour = sys.argv[1]
if behaviour == "is_stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if behaviour == "says_goodbye":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("ready", json.loads(sys.stdin.readline())["engine"], flush=True)
assert sys.stdin.read() == ""
if behaviour == "fails":
    print("there is no such module\\n", flush=True)
    sys.exit(3)
if behaviour == "says_goodbye":
    signal.sigwait([signal.SIGTERM])
    print("".join(f"{number:04} {'é' * 40}\\n" for number in range(900)) + "x" * 40_000, flush=True)
    sys.exit(0)
while True:
    time.sleep(60)
"""


def behave(engine: MemoryEngine) -> int:
    engine.say(f"ready {engine.spec.engine}")
    if engine.spec.declaration.handler == Behaviour.FAILS:
        engine.say("there is no such module")
        return 3
    if engine.spec.declaration.handler == Behaviour.SAYS_GOODBYE:
        engine.is_asked_to_stop.wait()
        for line in FAREWELL.splitlines():
            engine.say(line)
        return 0
    (engine.is_killed if engine.spec.declaration.handler == Behaviour.IS_STUBBORN else engine.is_asked_to_stop).wait()
    return 0


class TestMemoryRuntime(RuntimeSuite):
    @pytest.fixture(autouse=True)
    def machine(self) -> Iterator[None]:
        with MemoryHost(behave) as self.memory_host:
            yield

    def open(self, context: RuntimeContext) -> Runtime:
        return MemoryRuntime(context, host=self.memory_host)

    def declaration(self, behaviour: Behaviour) -> StreamDeclaration:
        return StreamDeclaration("images", handler=behaviour, version=1)


class TestProcessRuntime(RuntimeSuite):
    def open(self, context: RuntimeContext) -> Runtime:
        script = context.folder.parent / "stand_in.py"
        script.write_text(STAND_IN)
        return ProcessRuntime(context, command=(sys.executable, "-I", "-S", str(script)))

    def declaration(self, behaviour: Behaviour) -> StreamDeclaration:
        return StreamDeclaration("images", handler=behaviour, version=1)
