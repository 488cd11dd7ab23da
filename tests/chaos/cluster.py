"""The cluster of a run: a master, two workers and three sources, each started as a user starts it, each on its host."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil

from benches.roles import COMMAND, Roles
from chaos.ground import ADDRESSES, SmallDisk, on
from chaos.load import FRAMES, NOTES, PLATES, STEPS, STREAMS
from harmonicio.control.client import MasterClient
from harmonicio.control.messages import Status
from harmonicio.core.errors import HarmonicIOError
from harmonicio.core.stream import StreamDeclaration
from harmonicio.testing.waiting import wait_until

#: Production's 600 s divided by 60; the only time setting that is not production's. A reservation takes 30 s more.
TIMEOUT_S = 10.0
ENGINES = {PLATES: 3, NOTES: 2, STEPS: 1, FRAMES: 1}
SOURCES = ("s1", "s2", "s3")
#: Of this one all data connections go through fault proxies; that one, which is killed, has a spool.
PROXIED, SPOOLED = "s2", "s3"
ROLES = ("master", "w1", "w2", *SOURCES)
#: Budgets are small, so that they are used up.
BUDGETS = {
    "MASTER_BACKLOG_MAX_DISK_BYTES": "12 MiB",
    "MASTER_BACKLOG_HOT_CACHE_BYTES": "4 MiB",
    "CONNECTOR_BYTE_BUDGET_BYTES": "32 MiB",
    "WORKER_PAYLOAD_BUDGET_BYTES": "64 MiB",
    "WORKER_MAX_ENGINES": "4",
}
#: Else the allocator learns from large payloads to keep their memory, and shares threads out over up to eight heaps per
#: core, each of which keeps its own peak: both look like a leak until all are saturated, which takes longer than a run.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(256 * 1024), "MALLOC_ARENA_MAX": "2"}
MASTER_DISK_BYTES, TIERS_DISK_BYTES = 2 * 1024**3, 6 * 1024**3
#: How the log of a worker tells which engines it ended by force, and why.
FORCED = re.compile(r": (Engine .+ (?:is killed: .+|has ended\. It ended .+ before it had finished\.))")
_HANDLER = Path(__file__).with_name("handler.py")
_TESTS = Path(__file__).parent.parent

START_WITHIN_S, STOP_WITHIN_S = 180.0, 90.0
ASK_WITHIN_S = 90.0
Answer = TypeVar("Answer")


class Cluster:
    """All processes of a run.

    Attributes:
        processes: Those that run, by name.
        starts: How often each was started.
        forced: Whose drain was ended by force, and what its log says of why.
        crowd: Connections that stay idle and come back when the master does.
    """

    def __init__(self, folder: Path, seed: int, rate: float, crowd: int) -> None:
        self.folder = folder
        self.disks = {
            "master": SmallDisk(folder / "home" / "master", MASTER_DISK_BYTES),
            "tiers": SmallDisk(folder / "tiers", TIERS_DISK_BYTES),
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.starts: Counter[str] = Counter()
        self.forced: list[tuple[str, str]] = []
        self.crowd: subprocess.Popen[bytes] | None = None
        self.locks = {name: threading.RLock() for name in ROLES}
        self._seed, self._rate, self._crowd = seed, rate, crowd
        path = os.pathsep.join((str(_TESTS), os.environ.get("PYTHONPATH", "")))
        os.environ.update({"PYTHONPATH": path, **ALLOCATOR})
        self._roles = Roles(folder / "home", 8710, 8711, ADDRESSES["master"], MASTER_INSECURE="true", **BUDGETS)

    # ── starting and ending ──────────────────────────────────────────────────────────────────────────────────────────

    def begin(self) -> None:
        """Mount the disks, start everything but the sources, and wait until all engines are there."""
        for disk in self.disks.values():
            disk.mount()
        (self.folder / "logs").mkdir()
        self.start("master")
        wait_until(self._roles.is_up, START_WITHIN_S, what="the master")
        for stream in STREAMS:
            self.declare(stream, TIMEOUT_S)
        for worker in ("w1", "w2"):
            self.start(worker)
        with self._roles.client() as client:
            for stream, count in ENGINES.items():
                wait_until(lambda s=stream, n=count: client.stream(s).running == n, START_WITHIN_S, what="all engines")
        with open(self._log("crowd"), "ab") as log:
            journal = str(self.folder / "crowd.jsonl")
            self.crowd = self._roles.start(
                journal, str(self._crowd), through=("-m", "chaos.crowd"), on=on("sources"), log=log
            )

    def start(self, name: str, through: Sequence[str] = COMMAND) -> None:
        """Start one of :data:`ROLES`; its output is added to its log. ``through`` is what runs the master's command."""
        with open(self._log(name), "ab") as log:
            if name == "master":
                process = self._roles.start("master", "run", through=through, on=on("master"), log=log)
            elif name in SOURCES:
                words = [name, str(self._seed), str(self._rate), str(self.folder)]
                options = ["--proxies"] if name == PROXIED else ["--spool"] if name == SPOOLED else []
                process = self._roles.start(
                    *words, *options, through=("-m", "chaos.source"), on=on("sources"), log=log, takes_orders=True
                )
            else:
                process = self._roles.start("worker", "run", on=on(name), log=log, **self._of_worker(name))
        self.processes[name] = process
        self.starts[name] += 1

    def _of_worker(self, name: str) -> dict[str, str]:
        home = self.folder / "home"
        return {
            "WORKER_NAME": name,
            "WORKER_HOST": ADDRESSES[name],
            "WORKER_INSECURE": "true",
            "WORKER_DATA_FOLDER": str(home / name),
            "WORKER_SCRATCH_FOLDER": str(home / f"{name}-scratch"),
        }

    def _log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self._wait_for(name)

    def terminate(self, name: str) -> int:
        """End a process by SIGTERM and return its exit code.

        Raises:
            TimeoutError: it did not end within :data:`STOP_WITHIN_S`; it is killed then.
        """
        process, said_bytes = self.processes[name], self._log(name).stat().st_size
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.kill(name)
            raise TimeoutError(f"{name} did not stop within {STOP_WITHIN_S:g} s of SIGTERM.") from None
        self._wait_for(name)
        # One that is still starting has nothing to drain, and ends by the signal.
        if code not in (0, -signal.SIGTERM):
            said = self._log(name).read_bytes()[said_bytes:].decode()
            self.forced.append((name, "; ".join(FORCED.findall(said)) or said.rpartition("\n")[0].rpartition("\n")[2]))
        return code

    def _wait_for(self, name: str) -> None:
        process = self.processes.pop(name)
        process.wait()
        if process.stdin:
            with suppress(BrokenPipeError):
                process.stdin.close()

    def order(self, name: str, line: str) -> None:
        """Tell a source's proxies what to do."""
        stdin = self.processes[name].stdin
        assert stdin is not None
        stdin.write(f"{line}\n".encode())
        stdin.flush()

    # ── what runs ────────────────────────────────────────────────────────────────────────────────────────────────────

    def engines(self, host: str | None = None) -> list[int]:
        """Return the engines' processes, of all hosts or one."""
        network = host and os.stat(f"/run/netns/{host}").st_ino
        found = []
        for process in psutil.process_iter(["cmdline"]):
            if "harmonicio.engine" not in (process.info["cmdline"] or ()):
                continue
            with suppress(OSError):
                if network is None or os.stat(f"/proc/{process.pid}/ns/net").st_ino == network:
                    found.append(process.pid)
        return sorted(found)

    # ── orders to the master ─────────────────────────────────────────────────────────────────────────────────────────

    def ask(self, question: Callable[[MasterClient], Answer], within_s: float = ASK_WITHIN_S) -> Answer:
        """Ask the master, again and again while it is away.

        Raises:
            HarmonicIOError: it did not answer in time, or refuses.
        """
        deadline = time.monotonic() + within_s
        while True:
            try:
                with self._roles.client() as client:
                    return question(client)
            except HarmonicIOError as error:
                if not error.retryable or time.monotonic() > deadline:
                    raise
            time.sleep(0.2)

    def status(self) -> Status:
        """Ask the master once how the cluster is."""
        with self._roles.client() as client:
            return client.status()

    def declare(self, stream: str, timeout_s: float) -> None:
        """Declare a stream; another time-out makes it a new version, whose engines replace those that run."""
        tiers = {name: {"folder": str(self.folder / "tiers" / name)} for name in ("fast", "archive", "unscored")}
        haste = {
            "function": {"name": "feature", "feature": "focus"},
            "policy": {"intervals": [[0, 0.5, "archive"], [0.5, 1, "fast"]]},
            "tiers": tiers,
        }
        declaration = StreamDeclaration(
            stream,
            handler=str(_HANDLER),
            engines=ENGINES[stream],
            concurrency=1 if stream == STEPS else 2,
            timeout_s=timeout_s,
            max_crashes=2,
            ordered=stream == STEPS,
            when_full="shed" if stream == FRAMES else "refuse",
            parameters={"journal": str(self.folder / "handled.jsonl")},
            plugins={"haste": haste} if stream == PLATES else {},
        )
        self.ask(lambda client: client.declare_stream(declaration))

    def run_command(self, *words: str) -> tuple[int, str]:
        """Run a command of ours as an administrator; return its exit code and what it said."""
        path = self.folder / "logs" / f"{words[0]}.log"
        with path.open("ab") as log:
            process = self._roles.start(*words, log=log)
        return process.wait(), path.read_text()
