"""Every two parts are cut off from each other, wholly or in part, one way at a time, and nothing is lost."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest

from benches.hosts import Hosts
from benches.roles import Roles
from harmonicio.testing.waiting import wait_until

REST, DATA = 8610, 8611
#: Each cut lasts so long at least, and until something was lost by it; production's times are left as they are.
LASTS_S = 1.0

_A_THIRD = ("-m", "statistic", "--mode", "random", "--probability", "0.3")
#: What a link does whose limit nobody hears of: connections are made, and stall with the first message.
_LARGE = ("-m", "length", "--length", "600:65535")

CUTS = {
    "engines do not hear the connector": ("worker", "source"),
    "the connector does not hear engines": ("source", "worker"),
    "the master does not hear engines": ("master", "worker", "-p", "tcp", "--dport", str(DATA)),
    "engines do not hear the master": ("worker", "master", "-p", "tcp", "--sport", str(DATA)),
    "the master does not hear the controller": ("master", "worker", "-p", "tcp", "--dport", str(REST)),
    "the controller does not hear the master": ("worker", "master", "-p", "tcp", "--sport", str(REST)),
    "the master does not hear the connector's messages": ("master", "source", "-p", "tcp", "--dport", str(DATA)),
    "the connector does not hear outcomes of the master": ("source", "master", "-p", "tcp", "--sport", str(DATA)),
    "the master does not hear the connector's requests": ("master", "source", "-p", "tcp", "--dport", str(REST)),
    "the connector does not hear answers to its requests": ("source", "master", "-p", "tcp", "--sport", str(REST)),
    "engines lose a third of what the connector sends": ("worker", "source", *_A_THIRD),
    "the connector loses a third of what engines send": ("source", "worker", *_A_THIRD),
    "the master loses a third of what the connector sends": ("master", "source", *_A_THIRD),
    "no large packet of the connector reaches engines": ("worker", "source", *_LARGE),
}

HANDLER = """
    from pathlib import Path
    from harmonicio.engine import handler

    @handler
    def note(message):
        with open(Path(__file__).with_name("handled.txt"), "a") as file:
            file.write(f"{message.id}\\n")
"""
#: Says how many of the next ten messages engines have taken as soon as five are safe; at the end of its input what
#: became of all.
SOURCE = """
import sys
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.waiting import wait_until

sent = []
# These hosts share a disk, where a source would find the sockets of engines that its network does not reach.
with StreamConnector("s", arena_max_bytes=0) as connector:
    for line in sys.stdin:
        ten = [connector.send(bytes(1000), message_id=f"m{len(sent) + n}") for n in range(10)]
        sent += ten
        wait_until(lambda: sum(each.is_safe for each in ten) >= 5, 30, what=f"messages to go on while {line.strip()}")
        print(sum(each.is_safe and each.route == "engine" for each in ten), flush=True)
    connector.flush("processed", timeout_s=120)
print("processed", len(sent), flush=True)
"""


class Source:
    """A source application on its host; a context manager."""

    def __init__(self, hosts: Hosts, roles: Roles) -> None:
        self._process = subprocess.Popen(
            [*hosts.on("source"), sys.executable, "-c", SOURCE],
            env=roles.environ(CLIENT_TOKEN=roles.token("source")),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def goes_on(self, trouble: str) -> int:
        """Send ten messages, see that half of them become safe in spite of a trouble; return how many at engines."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{trouble}\n")
        self._process.stdin.flush()
        assert self._process.stdout is not None
        said = self._process.stdout.readline().strip()
        assert said, trouble
        return int(said)

    def is_well(self) -> bool:
        """Whether messages go to engines: what went to the master meanwhile must be answered there."""
        return self.goes_on("all is well") >= 5

    def end(self) -> int:
        """Wait until all is processed; return how many messages that were."""
        said, _ = self._process.communicate(timeout=150)
        assert said.startswith("processed"), said
        return int(said.split()[1])


@pytest.mark.timeout(300)
def test_whoever_hears_nothing_or_little_of_whom_messages_go_on_and_none_is_lost(
    write_handler: Callable[[str, str], Path], tmp_path: Path
) -> None:
    handler = write_handler("note", HANDLER)
    (tmp_path / "streams.toml").write_text(f"[streams.s]\nhandler = '{handler}'\nengines = 2\n")
    with Hosts("master", "worker", "source") as hosts:
        at = hosts.addresses
        settings = {"MASTER_INSECURE": "true", "WORKER_HOST": at["worker"], "WORKER_INSECURE": "true"}
        roles = Roles(tmp_path / "home", REST, DATA, at["master"], **settings)

        def asked(*words: str) -> str:
            with roles.start(*words, on=hosts.on("master"), log=subprocess.PIPE) as command:
                return command.communicate()[0].decode()

        with ExitStack() as running:
            running.enter_context(roles.running("master", on=hosts.on("master")))
            wait_until(lambda: "is declared" in asked("stream", "apply", str(tmp_path / "streams.toml")), 60)
            running.enter_context(roles.running("worker", on=hosts.on("worker")))
            wait_until(lambda: json.loads(asked("stream", "show", "s", "--json"))["running"] == 2, 60)
            with Source(hosts, roles) as source:
                for trouble, (who, whom, *matches) in CUTS.items():
                    wait_until(source.is_well, 60, what="messages that go to engines")
                    with hosts.deaf(who, whom, *matches) as lost:
                        over_at = time.monotonic() + LASTS_S
                        while time.monotonic() < over_at or not lost():
                            source.goes_on(trouble)
                sent = source.end()
            assert json.loads(asked("stream", "show", "s", "--json"))["backlog"]["dead"] == 0
    assert set((tmp_path / "handled.txt").read_text().split()) == {f"m{number}" for number in range(sent)}
