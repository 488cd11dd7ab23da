"""An engine in a process of its own, between a bare connector, a bare master and a bare controller."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harmonicio.control import json_codec
from harmonicio.control.engine_messages import EngineConfiguration
from harmonicio.core.lease import Address
from harmonicio.core.stream import StreamDeclaration
from harmonicio.testing.bare_peers import BareConnector, BareController, BareMaster, configuration_of, lease_ticket
from harmonicio.testing.waiting import wait_until

MIB = 1024**2


@dataclass
class Running:
    """One engine process and its peers."""

    process: subprocess.Popen[bytes]
    configuration: EngineConfiguration
    master: BareMaster
    controller: BareController
    exits: ExitStack

    @property
    def address(self) -> Address:
        wait_until(lambda: self.controller.last and self.controller.last.address, 20, what="the engine's address")
        assert self.controller.last is not None
        assert self.controller.last.address is not None
        return self.controller.last.address

    def connector(self, ticket: str | None = None, source: str = "source") -> BareConnector:
        shown = lease_ticket(self.configuration) if ticket is None else ticket
        return self.exits.enter_context(BareConnector(self.address, shown, "cells", source))


Start = Callable[..., Running]


def our_command(handler: Path) -> Sequence[str]:
    """Return what runs our engine with this handler."""
    return [sys.executable, "-m", "harmonicio.engine", str(handler)]


@contextmanager
def engine_processes(folder: Path, command: Sequence[str]) -> Iterator[Start]:
    """Give a function that starts an engine with this command, for a stream with the given fields."""
    with ExitStack() as exits:

        def start_process(
            *, orphan_after_s: float = 60.0, budget_bytes: int = 64 * MIB, can_start: bool = True, **fields: Any
        ) -> Running:
            master, controller = BareMaster(), BareController(folder / "control.sock")
            exits.callback(master.close)
            exits.callback(controller.close)
            configuration = configuration_of(
                folder,
                StreamDeclaration("cells", handler="mine", **fields),
                master_data=master.address,
                payload_budget_bytes=budget_bytes,
                orphan_after_s=orphan_after_s,
            )
            process = subprocess.Popen(command, stdin=subprocess.PIPE)
            exits.callback(process.wait)
            exits.callback(process.kill)
            assert process.stdin is not None
            process.stdin.write(json_codec.dumps(configuration) + b"\n")
            process.stdin.close()
            wait_until(lambda: master.is_connected or not can_start, 20, what="the backlog connection")
            return Running(process, configuration, master, controller, exits)

        yield start_process
