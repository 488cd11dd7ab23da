"""One run: the plan is carried out on a cluster under load, and what comes of it is judged."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

from chaos import journals
from chaos.cluster import ALLOCATOR, BUDGETS, ENGINES, FORCED, ROLES, SOURCES, TIMEOUT_S, Cluster
from chaos.faults import STRIKES, Missed
from chaos.figures import Figures
from chaos.ground import make_hosts
from chaos.plan import LONG_LIVED, LONG_PLAN_S, WORKERS, Fault, Plan
from chaos.verdict import Books
from chaos.watch import FROM_S, LONG_ENOUGH_S, WARM_UP_S, Watch
from harmonicio.control.messages import Status
from harmonicio.testing.waiting import wait_until

REST_WITHIN_S = 300.0
#: As many as a large site has, which all come back at once.
CROWD, SMALL_CROWD = 1_000, 100
#: From this length on a plan must have shown everything: what did not happen was not proven.
WHOLE_PLAN_S = 600.0
#: Whose growth it must have measured then.
MEASURED = (*LONG_LIVED, "s1")


class Run:
    """Carries out a plan.

    Args:
        folder: Of this run; empty.
        rate: Messages per second and source.
    """

    def __init__(self, folder: Path, plan: Plan, rate: float) -> None:
        self._folder = folder
        self._plan = plan
        self._crowd = CROWD if plan.duration_s >= LONG_PLAN_S else SMALL_CROWD
        self._cluster = Cluster(folder, plan.seed, rate, self._crowd)
        self._watch = Watch(self._all_processes)
        self._figures = Figures(self._cluster.status)
        self._hits: Counter[str] = Counter()
        self._missed: Counter[str] = Counter()
        self._violations: list[str] = []
        self._lock = threading.Lock()

    def run(self) -> int:
        """Return 0 when the ledger is clean and nothing grew, else 1."""
        make_hosts()
        self._cluster.begin()
        print(f"The cluster runs; the load lasts {self._plan.duration_s:g} s. Time-outs of 600 s are {TIMEOUT_S:g} s,")
        print(f"all other times are production's. Budgets: {BUDGETS}; allocator: {ALLOCATOR}", flush=True)
        self._watch.start()
        self._figures.start()
        begin = time.monotonic()
        for name in SOURCES:
            self._cluster.start(name)
        self._strike_all(begin)
        self._wait(begin + self._plan.duration_s)
        print("The plan is over; the sources stop.")
        self._come_to_rest()
        self._watch.stop()
        self._figures.stop()
        self._watch.save(self._folder / "samples.csv")
        self._stop()
        return self._judge()

    # ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _strike_all(self, begin: float) -> None:
        threads = []
        for fault in self._plan.faults:
            self._wait(begin + fault.start_s)
            thread = threading.Thread(target=self._strike, args=(fault, begin), daemon=True)
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()

    def _strike(self, fault: Fault, begin: float) -> None:
        try:
            with STRIKES[fault.kind](self._cluster, fault):
                self._say(begin, f"{fault.kind} ({fault.target}) for {fault.duration_s:g} s")
                time.sleep(fault.duration_s)
        except Missed as miss:
            self._say(begin, f"{fault.kind} ({fault.target}) missed: {miss}")
            self._count(self._missed, fault)
        except Exception as error:  # noqa: BLE001  whatever goes wrong with a fault fails the run, with the rest of it done
            self._blame(f"{fault.kind} ({fault.target}) at {fault.start_s:g} s: {type(error).__name__}: {error}")
        else:
            self._count(self._hits, fault)

    def _count(self, counter: Counter[str], fault: Fault) -> None:
        with self._lock:
            counter[fault.kind] += 1

    def _wait(self, until: float) -> None:
        """Wait, and see that no process ends that nobody has ended."""
        while (left_s := until - time.monotonic()) > 0:
            time.sleep(min(left_s, 0.5))
            self._look_for_ends()

    def _look_for_ends(self) -> None:
        for name in ROLES:
            if not self._cluster.locks[name].acquire(blocking=False):
                continue
            try:
                process = self._cluster.processes.get(name)
                if process is not None and process.poll() is not None:
                    self._blame(f"{name} ended by itself, with code {process.returncode}")
                    self._cluster.kill(name)
                    self._cluster.start(name)
            finally:
                self._cluster.locks[name].release()

    # ── rest ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _come_to_rest(self) -> None:
        """The load ends; every message must come to its end, and the cluster back to what was declared."""
        (self._folder / "stop").touch()
        deadline = time.monotonic() + REST_WITHIN_S
        for name in SOURCES:
            process = self._cluster.processes[name]
            try:
                code = process.wait(max(0.0, deadline - time.monotonic()))
            except Exception as error:  # noqa: BLE001  TimeoutExpired and what else there is
                self._blame(f"{name} did not come to rest: {error}")
            else:
                if code:
                    self._blame(f"{name} ended with code {code}: not every message came to its end")
        try:
            wait_until(lambda: not self._unrest(), max(1.0, deadline - time.monotonic()), what="rest")
        except TimeoutError:
            self._violations += [f"at the end {each}" for each in self._unrest()]

    def _unrest(self) -> list[str]:
        status: Status = self._cluster.ask(lambda client: client.status())
        found = [
            f"{name} of {each.declaration.name} is {value}"
            for each in status.streams
            for name, value in (("ready", each.backlog.ready), ("reserved", each.backlog.reserved))
            if value
        ]
        found += [f"engine {each.engine} handles {len(each.running)}" for each in status.engines if each.running]
        for each in status.streams:
            wanted = ENGINES[each.declaration.name]
            if each.running != wanted:
                found.append(f"{each.running} engines of {each.declaration.name} run, not {wanted}")
        return found

    def _stop(self) -> None:
        code, said = self._cluster.run_command("haste", "reconcile", "plates", "--older-than-s", "0")
        if code:
            self._blame(f"the reconciler ended with {code}: {said[-300:]}")
        assert self._cluster.crowd is not None
        self._cluster.crowd.kill()
        self._cluster.crowd.wait()
        for name in (*WORKERS, "master"):
            if code := self._cluster.terminate(name):
                self._blame(f"{name} ended with code {code} although it had nothing to do")
        if left := self._cluster.engines():
            self._blame(f"engines are left when their workers have ended: {left}")

    # ── verdict ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _judge(self) -> int:
        books = Books(self._folder)
        books.read()
        growths = self._watch.growths()
        violations = self._violations + books.all_violations()
        violations += [f"grows: {each}" for each in growths if each.is_too_much]
        if self._plan.duration_s >= WHOLE_PLAN_S:
            violations += self._unproven({each.role for each in growths})
        violations += [
            f"{name} used force and does not say on which engine: {why}"
            for name, why in self._cluster.forced
            if name in WORKERS and not FORCED.search(f": {why}")
        ]
        self._print_faults()
        self._print_messages(books)
        for each in growths:
            print(f"  {each}")
        for each in violations[:100]:
            print(f"VIOLATION: {each}")
        print(f"{len(violations)} violations; folder {self._folder}, seed {self._plan.seed}")
        return 1 if violations else 0

    def _unproven(self, measured: set[str]) -> list[str]:
        """Return what a whole plan should have shown and has not."""
        planned = {each.kind for each in self._plan.faults}
        unproven = [f"no {kind} has struck, although it was planned" for kind in sorted(planned - self._hits.keys())]
        unproven += [f"no life of {role} was long enough to measure its growth" for role in set(MEASURED) - measured]
        if not self._returns_of_crowd():
            unproven.append("the crowd of connections never came")
        return unproven

    def _returns_of_crowd(self) -> list[float]:
        """Return in how many seconds the crowd was there, each time."""
        return [line["seconds"] for line in journals.read(self._folder / "crowd.jsonl")]

    def _print_faults(self) -> None:
        print("\nfaults that struck (and missed):")
        for kind in sorted(self._hits | self._missed):
            print(f"  {self._hits[kind]:4d} {kind}" + (f" ({self._missed[kind]})" if self._missed[kind] else ""))
        print(f"  {self._hits.total():4d} of {len(self._hits)} kinds")

    def _print_messages(self, books: Books) -> None:
        started = {name: count - 1 for name, count in self._cluster.starts.items() if count > 1}
        started["engines"] = sum(each.role == "engine" for each in self._watch.lives) - sum(ENGINES.values())
        print("messages: " + ", ".join(f"{value} {name}" for name, value in books.figures().items()))
        print(
            f"at least {self._figures.late_outcomes} late outcomes fenced off; {self._figures.deepest} waited at once"
        )
        print("started again: " + ", ".join(f"{name} {count}" for name, count in started.items()))
        came = self._returns_of_crowd()
        print(f"a crowd of {self._crowd} connections came {len(came)} times, within at most {max(came, default=0)} s")
        print("ended by force at the deadline of their drain:" + ("" if self._cluster.forced else " none"))
        for name, why in self._cluster.forced:
            print(f"  {name}: {why}")
        print(f"growth after minute {FROM_S / 60:g} and {WARM_UP_S:g} s of a life, over {LONG_ENOUGH_S:g} s or more:")

    def _all_processes(self) -> dict[int, str]:
        roles = {process.pid: name for name, process in list(self._cluster.processes.items())}
        return dict.fromkeys(self._cluster.engines(), "engine") | roles

    def _say(self, begin: float, text: str) -> None:
        print(f"{time.monotonic() - begin:7.1f} s  {text}", flush=True)

    def _blame(self, text: str) -> None:
        print(f"VIOLATION: {text}", flush=True)
        with self._lock:
            self._violations.append(text)
