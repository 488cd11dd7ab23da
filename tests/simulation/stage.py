"""Puts the product on the stage: while a simulation runs, its modules find our threads, clocks, sockets and chance.

The product's code is not changed: in every module of it that is loaded, the names of what it takes from outside
(``threading``, ``time``, ``socket`` …) stand for ours. Sets of its objects would be walked in the order of their
addresses, which no seed decides; those classes are numbered here as they are made.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import secrets
import select
import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import harmonicio.master.service
import harmonicio.stream_connector
import harmonicio.stream_connector.connector
import harmonicio.worker.service
from harmonicio.engine import daemon, payloads
from harmonicio.master import connector_session
from harmonicio.transport import busy_poll, tcp
from harmonicio.transport.patient_pool import PatientPool
from harmonicio.transport.thread_pool import ThreadPool
from simulation.channel import Tcp
from simulation.clock import TimeModule
from simulation.loop import Loop
from simulation.network import Network
from simulation.readiness import SelectModule, SelectorsModule, SocketModule
from simulation.threads import Executor, PatientExecutor, QueueModule, ThreadingModule

master_service, worker_service = harmonicio.master.service, harmonicio.worker.service
connector = harmonicio.stream_connector.connector
#: What stays as it is: tests' own tools, and what only commands use.
_UNTOUCHED = ("harmonicio.testing", "harmonicio.cli")


class RandomModule:
    """``random``: every generator takes its seed from the simulation's."""

    def __init__(self, loop: Loop) -> None:
        self._random = random.Random(loop.random.random())
        self.random = self._random.random

    def Random(self, seed: object = None) -> random.Random:
        return random.Random(self._random.random() if seed is None else seed)


class SecretsModule:
    """``secrets``."""

    def __init__(self, loop: Loop) -> None:
        self._random = random.Random(loop.random.random())

    def token_hex(self, count: int = 32) -> str:
        return self._random.randbytes(count).hex()


class OnStage:
    """The names that are replaced, and what they were."""

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, Any]] = []

    def put(self, place: Any, name: str, value: Any) -> None:
        self._before.append((place, name, place.__dict__.get(name)))
        setattr(place, name, value)

    def clear(self) -> None:
        for place, name, value in reversed(self._before):
            if value is None:
                delattr(place, name)
            else:
                setattr(place, name, value)
        self._before.clear()


@contextmanager
def on_stage(loop: Loop, network: Network, substitutes: list[tuple[Any, str, Any]]) -> Iterator[None]:
    """Run the product in a simulation.

    Args:
        substitutes: More names: module or class, name, and what it is meanwhile.
    """
    stage = OnStage()
    state = random.getstate()
    random.seed(loop.random.random())  # For what took ``random.random`` when it was defined.
    numbers = random.Random(loop.random.random())
    level = logging.getLogger("harmonicio").level
    try:
        for module, name, ours in _found(loop, network):
            stage.put(module, name, ours)
        stage.put(os, "urandom", numbers.randbytes)
        stage.put(connector_session.ConnectorSession, "__hash__", _Numbered().hash)
        stage.put(busy_poll, "MOMENTS", 2**62)  # Who polls would wait for what only happens while somebody waits.
        for place, name, ours in substitutes:
            stage.put(place, name, ours)
        yield
    finally:
        stage.clear()
        random.setstate(state)
        logging.getLogger("harmonicio").setLevel(level)


class _Numbered:
    def __init__(self) -> None:
        self._last = 0

    @property
    def hash(self) -> Any:
        def number_of(item: Any) -> int:
            number = item.__dict__.get("_number_on_stage")
            if number is None:
                self._last += 1
                number = item._number_on_stage = self._last
            return int(number)

        return number_of


_PLACES: list[tuple[Any, str]] = []


def _found(loop: Loop, network: Network) -> Iterator[tuple[Any, str, Any]]:
    ours = {
        "threading": ThreadingModule,
        "time": TimeModule,
        "selectors": SelectorsModule,
        "select": SelectModule,
        "socket": SocketModule,
        "queue": QueueModule,
        "random": RandomModule(loop),
        "secrets": SecretsModule(loop),
        "tcp": Tcp(network),
        "PatientPool": PatientExecutor,
        "ThreadPool": Executor,
    }
    if not _PLACES:
        reals = {
            "threading": threading,
            "time": time,
            "selectors": selectors,
            "select": select,
            "socket": socket,
            "queue": queue,
            "random": random,
            "secrets": secrets,
            "tcp": tcp,
            "PatientPool": PatientPool,
            "ThreadPool": ThreadPool,
        }
        for full_name, module in sorted(sys.modules.items()):
            if full_name.startswith("harmonicio.") and not full_name.startswith(_UNTOUCHED):
                _PLACES.extend((module, name) for name, real in reals.items() if module.__dict__.get(name) is real)
    for module, name in _PLACES:
        yield module, name, ours[name]


__all__ = ["connector", "daemon", "master_service", "on_stage", "payloads", "worker_service"]
