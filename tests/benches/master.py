"""A real master on a free port, and workers that tests play."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import requests

from harmonicio.control.client import MasterClient
from harmonicio.control.log_messages import LogAnswer, LogPart, LogWish
from harmonicio.control.messages import (
    EngineReport,
    LeaseGrant,
    LeaseRequest,
    WorkerRegistration,
    WorkerReport,
)
from harmonicio.core.engine import Availability
from harmonicio.core.lease import Address
from harmonicio.core.roles import Role
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.service import MasterOptions, MasterService

PLATES = StreamDeclaration("plates", handler="/handlers/plates.py", engines=2)
IDLE, BUSY = Availability.IDLE, Availability.BUSY
LOGGED = LogPart("hello\n", "6")
ENGINE_ADDRESS = Address("127.0.0.1", 4000)
ANSWER_WITHIN_S = 10.0


def run_master(folder: Path, **options: float) -> MasterService:
    known = dataclasses.replace(MasterOptions(folder, port=0, data_port=0, settle_s=0.5), **options)  # type: ignore[arg-type]
    return MasterService(known)


def client_of(service: MasterService, role: Role) -> MasterClient:
    return MasterClient(service.url, service.token_file(role).read_text().strip())


class FakeController:
    """Speaks for a worker: registers, and reports the engines that it is told to have."""

    def __init__(self, client: MasterClient, worker: str, max_engines: int = 5, host: str = "127.0.0.1") -> None:
        self.client = client
        self.worker = worker
        self._sequence = 0
        registration = WorkerRegistration(worker, host, max_engines, "memory", "1")
        self.key = client.register_worker(registration).ticket_key

    def report(self, **engines: Availability) -> None:
        self._sequence += 1
        reports = [EngineReport(name, "plates", 1, state, 0.0, ENGINE_ADDRESS) for name, state in engines.items()]
        assert self.client.report(self.worker, WorkerReport(self._sequence, tuple(reports))).is_known


class LogWorker(FakeController):
    """A worker with engine e1, which is told of wishes as a worker is."""

    def __init__(self, client: MasterClient) -> None:
        super().__init__(client, "w1")
        self.report(e1=IDLE)
        self.generation = 0

    def wishes(self) -> tuple[LogWish, ...]:
        """Wait for wishes, as they come with an answer for which the worker has waited."""
        while True:
            desired = self.client.desired("w1", self.generation, wait_s=20.0)
            self.generation = desired.generation
            if desired.logs:
                return desired.logs

    def serve(self, part: LogPart = LOGGED) -> LogWish:
        """Answer the next wish."""
        (wish,) = self.wishes()
        self.client.answer_log("w1", LogAnswer(wish.wish, part))
        return wish


def ask(client: MasterClient, source: str, count: int = 1) -> LeaseGrant:
    return client.request_leases(LeaseRequest("plates", source, count))


def ask_raw(service: MasterService, method: str, path: str, token: str | None, **options: Any) -> requests.Response:
    """Send a request that no client of ours might send; return the answer, whatever it is."""
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    with requests.Session() as session:
        session.trust_env = False
        return session.request(
            method,
            service.url + path,
            headers=headers | options.pop("headers", {}),
            timeout=ANSWER_WITHIN_S,
            allow_redirects=False,
            **options,
        )
