"""Engines as containers of a Docker engine, which they need to live and which outlives the controller.

                  image here? ──no──► pull                       docker start               die
    start ──► waiting ──────────► create, write configuration ──► running ──────────────► ended ──► forget: remove
                 │ stop, kill                                        ▲  unhealthy: told         ▲
                 └──► not started                                    │                          │
                                     the next runtime: by its labels ┴── the Docker engine was away: looked again

Rules:

- Only containers that carry the label of this worker are looked at, and nothing else is touched. One of ours that has
  no mark in its engine's folder is what a start or an end that was cut off left behind: it is removed.
- A start has a thread of a bounded pool, so has every order: a Docker engine that hangs holds up nobody else.
- Who watches reads the Docker engine's events; after each connection everything is looked at once, so nothing that
  happened in between is missed.
- Containers are made by the image's id, found once: what was looked at is what runs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from typing import Any

from harmonicio.control.log_messages import LOG_PART_BYTES, LogPart
from harmonicio.core.errors import HarmonicIOError, NotFound, Unavailable
from harmonicio.core.sizes import format_size
from harmonicio.transport.thread_pool import ThreadPool
from harmonicio.worker.containers.container_maker import ContainerMaker, ContainerMark, ContainerOrder
from harmonicio.worker.containers.container_plan import LABEL_ENGINE, LABEL_WORKER, container_name
from harmonicio.worker.containers.docker_host import DockerHost
from harmonicio.worker.containers.docker_log import LogEntry, last_entries, listed, part_of
from harmonicio.worker.containers.docker_records import DockerEvent
from harmonicio.worker.containers.docker_watch import DockerWatch
from harmonicio.worker.containers.docker_words import last_probe
from harmonicio.worker.containers.engine_container import OVER, EngineContainer, facts_of, is_running, signed
from harmonicio.worker.instructions import (
    EngineExited,
    EngineFound,
    EngineNotStarted,
    EngineStarted,
    EngineStarting,
    EngineUnwell,
)
from harmonicio.worker.runtimes.base import EngineSpec, Runtime, RuntimeContext, no_log_of
from harmonicio.worker.runtimes.engine_log import last_words
from harmonicio.worker.runtimes.log_archive import MAX_KEPT_LOG_BYTES, LogArchive
from harmonicio.worker.runtimes.mark import MARK_NAME, read_mark
from harmonicio.worker.small_volume import shares_mounts

_log = logging.getLogger(__name__)

MAX_STARTS, MAX_ORDERS = 64, 16
#: How long the end of the worker waits for what it has ordered.
ORDERS_WITHIN_S = 15.0
#: Of the log of an engine that has ended no more entries than this are kept.
KEPT_ENTRIES = 10_000
LOGS_WITHIN_S = 30.0


class DockerRuntime(Runtime):
    """Starts engines as containers.

    Args:
        context: Where it works.

    Raises:
        Unavailable, NotAllowed: the Docker engine cannot be used.
        ConfigurationError: ``docker.user`` is none.
    """

    starts = ("image",)

    def __init__(self, context: RuntimeContext) -> None:
        self._context = context
        self._archive = LogArchive(context.folder.parent / "engine-logs")
        self._labels = {LABEL_WORKER: context.worker}
        self._lock = threading.Lock()
        self._containers: dict[str, EngineContainer] = {}
        self._removals: dict[str, Future[None]] = {}
        self._left: list[EngineContainer] = []
        self._pending: set[Future[None]] = set()
        self._has_listed = False
        self._is_closed = False
        self._host = DockerHost(context.docker.url)
        try:
            self._maker = ContainerMaker(self._host, context)
            self._host.check()
            self.sees_mounts = shares_mounts(self._host.socket_path)
        except HarmonicIOError:
            self._host.close()
            raise
        self._starts = ThreadPool(min(max(1, context.max_engines), MAX_STARTS), "worker-docker-start")
        self._orders = ThreadPool(MAX_ORDERS, "worker-docker")
        self._watch = DockerWatch(self._host, self._labels, on_connected=self._look_at_all, on_event=self._hear)
        self._watch.start()

    def __repr__(self) -> str:
        return f"<DockerRuntime {self._host.url} {'closed' if self._is_closed else f'{len(self._containers)} engines'}>"

    @property
    def is_intact(self) -> bool:
        return self._watch.is_intact

    @property
    def owner(self) -> tuple[int, int] | None:
        return self._maker.owner

    # ── starting ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, spec: EngineSpec) -> None:
        order = self._maker.check(spec)
        container = EngineContainer(order.mark, spec.folder)
        with self._lock:
            self._containers[spec.engine] = container
        self._starts.submit(self._bring_up, container, order)

    def _bring_up(self, container: EngineContainer, order: ContainerOrder) -> None:
        try:
            self._check_wanted(container)
            container.id, container.mark = self._maker.make(order, lambda text: self._tell_progress(container, text))
            self._check_wanted(container)
            self._host.start(container.id)
            inspected = self._host.inspect(container.id)
            started = EngineStarted(container.engine, *facts_of(container.mark, inspected), container.mark.image)
        except Exception as error:  # noqa: BLE001  whatever it is, the worker must know that no engine starts
            if not isinstance(error, HarmonicIOError):
                _log.exception("Engine %s cannot be started", container.engine)
            container.why_not_started = str(error)
            self._remove_or_leave(container)
        else:
            self._tell_start(container, started, is_running=is_running(inspected))

    def _check_wanted(self, container: EngineContainer) -> None:
        if container.is_unwanted or self._is_closed:
            raise Unavailable("It was ended before it had started.")

    def _tell_progress(self, container: EngineContainer, text: str) -> None:
        self._check_wanted(container)
        self._context.tell(EngineStarting(container.engine, text))

    def _tell_start(self, container: EngineContainer, started: EngineStarted, *, is_running: bool) -> None:
        with self._lock:  # So that an end that is heard of now is told after it.
            container.is_started = True
            self._context.tell(started)
            is_over = container.has_ended or not is_running
        if is_over:
            self._end(container)
        elif container.is_unwanted:
            self._order(self._send, container, "KILL")

    # ── finding ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def list(self) -> tuple[EngineFound, ...]:
        with self._lock:
            here = {each["Labels"].get(LABEL_ENGINE, ""): each for each in self._host.containers(self._labels)}
            marks = {
                folder.name: mark
                for folder in sorted(self._context.folder.glob("*"))
                if (mark := read_mark(folder, ContainerMark)) is not None and mark.engine == folder.name
            }
            found = tuple(self._find(marks[engine], here.get(engine)) for engine in marks.keys() - self._known())
            known = self._known()
            self._has_listed = True
        self._remove_strays(here, known)
        self._maker.volumes.remove_strangers(known)
        return found

    def _known(self) -> set[str]:
        return {*self._containers, *self._removals}

    def _remove_strays(self, here: Mapping[str, Mapping[str, Any]], known: set[str]) -> None:
        for engine in here.keys() - known:
            container = here[engine]["Id"]
            _log.info("Container %s is left of a start or an end that was cut off; it is removed.", container[:12])
            try:
                self._host.remove(container)
            except HarmonicIOError as error:  # It is tried again when all are looked at.
                _log.warning("Container %s cannot be removed yet: %s", container[:12], error)

    def _find(self, mark: ContainerMark, listed: Mapping[str, Any] | None) -> EngineFound:
        """Take in an engine of an earlier runtime; called under the lock, so that no end of it is missed."""
        container = EngineContainer(mark, self._context.folder / mark.engine, is_started=True)
        self._containers[mark.engine] = container
        container.id = listed["Id"] if listed is not None else ""
        if listed is not None and listed["State"] not in OVER:
            with suppress(NotFound):  # It has gone since.
                inspected = self._host.inspect(container.id)
                with suppress(Unavailable):  # Nobody can reach it.
                    pid, address = facts_of(mark, inspected)
                    return EngineFound(mark.engine, mark.declaration, pid, True, address=address, image=mark.image)
        container.has_ended = container.is_end_told = True
        text = self._last_words(container) if listed is not None else "Its container is gone."
        return EngineFound(mark.engine, mark.declaration, 0, False, text, image=mark.image)

    # ── ending ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def stop(self, engine: str) -> None:
        self._signal(engine, "TERM")

    def kill(self, engine: str) -> None:
        self._signal(engine, "KILL")

    def _signal(self, engine: str, signal: str) -> None:
        with self._lock:
            container = self._containers.get(engine)
            if container is None or container.has_ended:
                return
            if not container.is_started:
                container.is_unwanted = True
            elif signal not in container.signals:  # A Docker engine that hangs is not asked again and again.
                container.signals.add(signal)
                self._order(self._send, container, signal)

    def _send(self, container: EngineContainer, signal: str) -> None:
        try:
            if not self._host.signal(container.id, signal):
                self._end(container)  # Of which nothing was heard.
        finally:
            with self._lock:
                container.signals.discard(signal)

    def forget(self, engine: str) -> None:
        with self._lock:
            container = self._containers.get(engine)
            if container is None or not container.is_end_told:
                return
            del self._containers[engine]
            self._removals[engine] = self._order(self._archive_and_remove, container)

    def _archive_and_remove(self, container: EngineContainer) -> None:
        try:
            log = last_entries(partial(self._log_of, container), KEPT_ENTRIES, MAX_KEPT_LOG_BYTES)
            self._archive.keep(container.engine, b"".join(each.as_line() for each in log))
        except (HarmonicIOError, OSError) as error:
            if not isinstance(error, Unavailable):  # Then it is tried again with the rest.
                _log.warning("The log of engine %s cannot be kept: %s", container.engine, error)
        self._remove_or_leave(container)

    def _remove_or_leave(self, container: EngineContainer) -> None:
        """Remove what is left of an engine, or try it again later; until then one that did not start holds its place.

        A container is removed by its name: that it was made may have been said too late.
        """
        try:
            self._host.remove(container_name(container.engine))
            self._maker.volumes.remove(container.engine)
            (container.folder / MARK_NAME).unlink(missing_ok=True)
        except (HarmonicIOError, OSError) as error:
            _log.debug("What is left of engine %s stays for the moment: %s", container.engine, error)
            with self._lock:
                self._left.append(container)
            return
        with self._lock:
            self._removals.pop(container.engine, None)
            if container.why_not_started is not None:
                self._containers.pop(container.engine, None)
                self._context.tell(EngineNotStarted(container.engine, container.why_not_started))

    # ── watching ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _hear(self, event: DockerEvent) -> None:
        with self._lock:
            container = self._containers.get(event.labels.get(LABEL_ENGINE, ""))
        if container is None:
            return
        if event.action == "die":
            self._end(container, event.exit_code)
        elif event.action == "health_status: unhealthy":
            self._order(self._tell_unwell, container)

    def _look_at_all(self) -> None:
        """Catch up with what happened while the Docker engine was away, or nobody listened."""
        with self._lock:
            lived = [each for each in self._containers.values() if each.is_started and not each.has_ended]
        here = {each["Labels"].get(LABEL_ENGINE, ""): each for each in self._host.containers(self._labels)}
        living = {each["Id"] for each in here.values() if each["State"] not in OVER}
        unwell = {each["Id"] for each in here.values() if "(unhealthy)" in str(each.get("Status"))}
        for container in lived:
            if container.id not in living:
                self._end(container)
            elif container.id in unwell:
                self._order(self._tell_unwell, container)
        with self._lock:
            left, self._left = self._left, []
            known = self._known() | {each.engine for each in left}
        for container in left:
            act = self._archive_and_remove if container.why_not_started is None else self._remove_or_leave
            self._order(act, container)
        if self._has_listed:  # Before, nobody knows which engines an earlier runtime has left.
            self._remove_strays(here, known)

    def _end(self, container: EngineContainer, exit_code: int | None = None) -> None:
        """Its process is gone: say so once, and not before it was said to have started."""
        with self._lock:
            container.has_ended = True
            if not container.is_started or container.is_end_told:
                return
            container.is_end_told = True
        self._order(self._tell_end, container, exit_code)

    def _tell_end(self, container: EngineContainer, exit_code: int | None) -> None:
        """Tell an end, also when the Docker engine is away and cannot be asked for more."""
        try:
            state = self._host.inspect(container.id)["State"]
            exit_code, text = int(state["ExitCode"]), self._last_words(container)
            if state.get("OOMKilled"):
                limit = format_size(self._maker.limits(container.mark.declaration).memory_bytes)
                text = f"It needed more than its {limit} of memory. {text}".rstrip()
        except NotFound:
            text = "Its container is gone."
        except HarmonicIOError as error:
            text = error.text
        self._context.tell(EngineExited(container.engine, signed(exit_code), text))

    def _tell_unwell(self, container: EngineContainer) -> None:
        probe = last_probe(self._host.inspect(container.id))
        self._context.tell(
            EngineUnwell(container.engine, f"The health check of its image failed: {probe}".rstrip(": "))
        )

    # ── logs ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def log_part(self, engine: str, after: str = "", max_bytes: int = LOG_PART_BYTES) -> LogPart:
        with self._lock:
            container = self._containers.get(engine)
        if container is not None:
            with suppress(NotFound):  # It may be forgotten at this moment.
                has_ended = container.has_ended
                return part_of(partial(self._log_of, container), after, max_bytes, has_ended=has_ended)
        with self._lock:
            removal = self._removals.get(engine)
        if removal is not None:
            wait([removal], LOGS_WITHIN_S)
        try:
            with open(self._archive.path(engine), "rb") as kept:
                log = listed([LogEntry.of_line(line) for line in kept])
        except OSError as error:
            raise no_log_of(engine) from error
        return part_of(log, after, max_bytes, has_ended=True)

    def _log_of(self, container: EngineContainer, since: int, last: int) -> Iterable[LogEntry]:
        return self._host.log(container.id, since, last) if container.id else ()

    def _last_words(self, container: EngineContainer) -> str:
        return last_words(part_of(partial(self._log_of, container), "", 8192, has_ended=True).text)

    # ── its own life ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _order(self, act: Callable[..., None], *arguments: Any) -> Future[None]:
        """Have something done by the pool, and log what goes wrong."""
        done = self._orders.submit(act, *arguments)
        self._pending.add(done)
        done.add_done_callback(self._pending.discard)
        done.add_done_callback(_log_failure)
        return done

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._watch.close()
        self._starts.shutdown(cancel_futures=True)
        wait(tuple(self._pending), ORDERS_WITHIN_S)
        self._orders.shutdown(cancel_futures=True)
        self._host.close()


def _log_failure(done: Future[None]) -> None:
    error = None if done.cancelled() else done.exception()
    if isinstance(error, HarmonicIOError):
        _log.warning("%s", error)
    elif error is not None:
        _log.error("An order to the Docker engine failed", exc_info=error)
