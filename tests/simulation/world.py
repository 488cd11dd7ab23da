"""One run: builds the cluster of a schedule, lets it happen, and has it audited.

master host m, worker hosts w0 …, source hosts s0 …
start ──► faults begin and end ──► all faults end ──► at rest ──► audit
                                                        └── not within REST_WITHIN_S: a violation of its own
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from benches.auditor import DEAD, PROCESSED, SHED, Auditor
from harmonicio.master.backlog import entry
from harmonicio.stream_connector import pump, settlement
from harmonicio.stream_connector.delivery import Delivery, DeliveryState
from simulation import engine, stage, worker
from simulation.audit import audit, is_at_rest, what_is_left
from simulation.connector import Source
from simulation.effects import Effects
from simulation.faults import Faults
from simulation.hits import Hits
from simulation.loop import Host, Loop, Process, current
from simulation.master import PORT, MasterHost
from simulation.network import Network
from simulation.plants import PLANTS
from simulation.rest import Client, Web
from simulation.schedule import Planned, Schedule
from simulation.worker import EngineHandle, WorkerHost

REST_WITHIN_S = 900.0
#: How often a connector's own thread looks whether somebody else still waits; by the product's 5 ms every third call
#: would be one of these.
PARKED_S = 0.05
#: Likewise how often a worker looks at its engines; still shorter than any time-out of a message here.
WORKER_TICK_S = 0.25
#: For releases, reports and outcomes that are under way when all is at rest.
LAST_WORDS_S = 5.0
MASTER = "m"


class World:
    """One simulation.

    Args:
        plan: What happens.
        plant: Name of the bug that is planted; empty for none.
        is_traced: Log lines of the product and what the simulation sees are kept, with their times.
    """

    CLOSE_WITHIN_S = 60.0
    FLUSH_WITHIN_S = 30.0

    def __init__(self, plan: Schedule, *, is_traced: bool = False, plant: str = "") -> None:
        self.plan = plan
        self.loop = loop = Loop(plan.seed)
        loop.preemption = plan.preemption
        self.hits: Counter[str] = Counter()
        self.trace: list[str] = []
        self.violations: list[str] = []
        self.is_traced = is_traced
        self._plant = plant
        self.network = Network(loop)
        self.network.hosts = {}
        self.network.on_hit = self.hit
        self.web = Web(self.network)
        self.auditor = Auditor()
        self.daemons: dict[str, Any] = {}
        self.planned = {each.name: each for each in plan.messages}
        self.effects = Effects(self.auditor, self.planned)
        self._engines = 0
        self.damaged: set[str] = set()
        self._declared = 0
        url = f"http://{MASTER}:{PORT}"
        options = {"lease_term_s": plan.lease_term_s}
        key = loop.random.randbytes(32).hex()
        self.master = MasterHost(self, self._host(MASTER), options, plan.backlog_bytes, key)
        self.master.disk.on_revive, self.master.disk.on_purge = self.auditor.replayed, self.auditor.purged
        self.workers = [
            WorkerHost(
                self,
                self._host(f"w{number}"),
                url,
                max_engines=plan.max_engines,
                payload_budget_bytes=plan.payload_budget_bytes,
                orphan_after_s=plan.orphan_after_s,
            )
            for number in range(plan.workers)
        ]
        self.sources = [
            Source(self, self._host(f"s{number}"), number, plan.of_source(number), url)
            for number in range(plan.sources)
        ]
        self.admin = Process("admin", self._host("admin"))
        self.admin_client = Client(url)
        self.faults = Faults(self)

    def _host(self, name: str) -> Host:
        host = Host(self.loop, name)
        host.monotonic_offset_s = self.loop.random.uniform(10.0, 1e6)
        host.wall_offset_s = self.loop.random.uniform(-300.0, 300.0)
        self.network.hosts[name] = host
        return host

    # ── what others tell ─────────────────────────────────────────────────────────────────────────────────────────────

    def hit(self, what: str) -> None:
        self.hits[what] += 1
        self.note(what)

    def note(self, text: str) -> None:
        if self.is_traced:
            self.trace.append(f"{self.loop.now:10.4f}  {text}")

    def count_engine(self) -> int:
        self._engines += 1
        return self._engines

    def handle(self, message: Any) -> Any:
        return self.effects.handle(message)

    def map_new_file(self, folder: str, size_bytes: int) -> Any:
        from simulation.loop import check_alive

        host = check_alive().host.shared["worker"]
        self.hits["a payload was received into a file"] += 1
        return engine.map_new_file(size_bytes, is_full=host.is_scratch_full)

    def killed(self, handle: EngineHandle, why: str) -> None:
        self.hit(f"engine {why}")

    def offers(self, planned: Planned, digest: str, *, is_other: bool) -> None:
        """A source is about to send a message, or other bytes under its id."""
        self.note(f"{planned.name!r} is offered by s{planned.source}: {planned.deed} {planned.size_bytes} bytes")
        if is_other:
            self.auditor.sent_others(planned.name, digest)
        else:
            self.auditor.sent(planned.name, digest)

    def _settle(self, delivery: Delivery, state: DeliveryState, outcome: Any, route: str = "") -> None:
        before = delivery.state
        delivery.settle(state, outcome, route)
        self.hits[f"delivery {before} -> {state}"] += 1
        name = delivery.message_id
        self.note(f"{name!r} its source is told: {state}{f' ({outcome.reason})' if outcome and outcome.reason else ''}")
        if state is DeliveryState.STORED:
            self.auditor.told_safe(name, "stored")
        elif state is DeliveryState.DONE:
            if before is not DeliveryState.STORED:
                self.auditor.told_safe(name, "done")
            self.auditor.told_end(name, PROCESSED)
        elif state is DeliveryState.FAILED:
            is_shed = outcome is not None and outcome.failure is not None and outcome.failure.error_type == "Shed"
            self.auditor.told_end(name, SHED if is_shed else DEAD)
        host = current().process.host
        next(source for source in self.sources if source.host is host).told(delivery)

    # ── the run ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def run(self) -> list[str]:
        """Let everything happen; return the violations."""
        Client.web = self.web
        substitutes = [
            (entry, "RESERVATION_MARGIN_S", self.plan.reservation_margin_s),
            (pump, "PARKED_S", PARKED_S),
            (stage.worker_service, "TICK_S", WORKER_TICK_S),
            *self.master.substitutes(),
            *worker.substitutes(),
            *engine.substitutes(self),
            (settlement, "_teller", self._settle),
            *(PLANTS[self._plant](self) if self._plant else ()),
            *Hits(self).substitutes(),
        ]
        log = _Log(self)
        logger = logging.getLogger("harmonicio")
        with stage.on_stage(self.loop, self.network, substitutes):
            logger.addHandler(log)
            was_propagated, logger.propagate = logger.propagate, False
            logger.setLevel(logging.DEBUG if self.is_traced else logging.ERROR)
            try:
                return self._happen()
            finally:
                logger.removeHandler(log)
                logger.propagate = was_propagated

    def _happen(self) -> list[str]:
        self.master.start()
        for each in (*self.workers, *self.sources):
            self.loop.at(self.loop.random.uniform(0.0, 0.5), each.start)
        self.admin.spawn("declare", self.declare)
        self.faults.plan(self.plan.faults)
        self.loop.run(lambda: bool(self.loop.bugs), self.plan.faults_until_s)
        if self.loop.bugs:  # What comes after that tells nothing.
            return [f"an error of ours: {each}" for each in self.loop.bugs]
        self.faults.end_all()
        until = self.loop.now + REST_WITHIN_S
        is_over = self.loop.run(self._is_over, until)
        violations = (
            self.violations if is_over else [f"it does not come to rest: {each}" for each in what_is_left(self)]
        )
        if is_over:
            self.loop.run(lambda: False, self.loop.now + LAST_WORDS_S)
            # Leases that nobody could give back end with their term.
            leases = self.master.service.master._state.leases
            self.loop.run(lambda: not len(leases), self.loop.now + self.plan.lease_term_s + 1.0)
            audit(self)
            violations = violations + self.auditor.violations()
        return violations + [f"an error of ours: {each}" for each in self.loop.bugs]

    def _is_over(self) -> bool:
        return bool(self.loop.bugs) or (
            self._declared > 2 and all(each.is_done for each in self.sources) and is_at_rest(self)
        )

    def declare(self) -> None:
        """Have all streams as planned; by an administrator who does not give up."""
        from harmonicio.core.errors import HarmonicIOError
        from simulation.loop import sleep

        for declaration in self.plan.streams:
            while True:
                try:
                    self.admin_client.declare_stream(declaration)
                    break
                except HarmonicIOError:
                    sleep(0.5)
        self._declared += 1


class _Log(logging.Handler):
    """What the product logs: an exception that it catches and logs is a bug of ours."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            formatted = logging.Formatter().formatException(record.exc_info)
            self._world.loop.bugs.append(f"{record.name}: {text}\n{formatted}")
        self._world.note(f"{record.name.removeprefix('harmonicio.')}: {text}")
